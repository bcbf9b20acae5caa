"""What an IPC namespace holds, seen without any code of ipcimg's.

Everything comes from /proc/sysvipc, /proc/sys, and plain system calls made here: messages are
received (which takes them off the queue), segments attached, semaphores read.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import platform
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.msgrcv.restype = ctypes.c_ssize_t
_libc.msgrcv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long, ctypes.c_int)
_libc.msgsnd.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.shmdt.argtypes = (ctypes.c_void_p,)
_libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)

CREATE = 0o3000  # IPC_CREAT | IPC_EXCL
_NOWAIT = 0o4000
_CLONE_NEWIPC = 0x08000000
_LIMITS = ("msgmax", "msgmnb", "msgmni", "shmmax", "shmall", "shmmni", "sem", "shm_rmid_forced")
_PRESETS = ("msg_next_id", "sem_next_id", "shm_next_id")
_MQUEUE = ("queues_max", "msg_max", "msgsize_max", "msg_default", "msgsize_default")


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def signed(key: int) -> int:
    return key - (1 << 32) if key >= 1 << 31 else key


def aside(act: Callable[[], T]) -> T:
    """Call act in a thread of its own: setns(2) and unshare(2) move the thread alone."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Enterable:
    """An IPC namespace that can be entered by a path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def do(self, act: Callable[[], T]) -> T:
        """Call act in the namespace."""

        def enter() -> T:
            fd = os.open(self.path, os.O_RDONLY)
            try:
                check(_libc.setns(fd, _CLONE_NEWIPC))
            finally:
                os.close(fd)
            return act()

        return aside(enter)


class Processless(Enterable):
    """An IPC namespace that an open file of ours keeps alive: made in no time."""

    def __init__(self) -> None:
        def make() -> int:
            check(_libc.unshare(_CLONE_NEWIPC))
            return os.open("/proc/thread-self/ns/ipc", os.O_RDONLY)

        self._fd = aside(make)
        super().__init__(f"/proc/{os.getpid()}/fd/{self._fd}")

    def close(self) -> None:
        os.close(self._fd)


class Namespace(Enterable):
    """An IPC namespace that a process of its own keeps alive."""

    def __init__(self, *unshare: str) -> None:
        """unshare are further arguments of unshare(1)."""
        self.holder = subprocess.Popen(
            ["unshare", "-i", *unshare, "sh", "-c", "echo; exec sleep 3600"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"\n"
        self.pid = self.holder.pid
        super().__init__(f"/proc/{self.pid}/ns/ipc")

    def users(self) -> list[int]:
        """The processes in the namespace, other than the one that keeps it for the test."""
        inode, found = os.stat(self.path).st_ino, []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}/ns/ipc").st_ino == inode and pid != self.pid:
                    found.append(pid)
        return found

    def stop(self) -> None:
        """Have its process stopped, which takes until it gets a processor."""
        os.kill(self.pid, signal.SIGSTOP)
        while state(self.pid) != "T":
            time.sleep(0.001)

    def close(self) -> None:
        until = time.monotonic() + 2  # who was let go ends a moment later
        while (left := self.users()) and time.monotonic() < until:
            time.sleep(0.01)
        for pid in left:
            os.kill(pid, 9)
        self.holder.kill()
        self.holder.wait()
        assert self.holder.stdout is not None
        self.holder.stdout.close()
        assert not left, f"processes {left} were left in the namespace, and have been ended"


# ---- processes -----------------------------------------------------------------------------


def state(pid: int) -> str:
    """As ps(1) has it: R, S, D, T (stopped), t (traced and stopped), Z."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0].decode()


_cgroups = itertools.count()


@contextlib.contextmanager
def cgroup(*pids: int) -> Iterator[str]:
    """The directory of a cgroup with these processes. They are back in the root when it goes."""
    with open("/proc/self/mountinfo") as mounts:
        [mount] = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    path = f"{mount}/ipcimg-test-{os.getpid()}-{next(_cgroups)}"

    def move(pid: int, to: str) -> None:
        with open(f"{to}/cgroup.procs", "w") as file:
            file.write(str(pid))

    os.mkdir(path)
    try:
        for pid in pids:
            move(pid, path)
        yield path
    finally:
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended
                move(pid, mount)
        until = time.monotonic() + 10
        while True:
            try:
                os.rmdir(path)
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.01)


def is_frozen(path: str) -> bool:
    """Is everything in a cgroup stopped?"""
    with open(f"{path}/cgroup.events") as file:
        return "frozen 1\n" in file.readlines()


# ---- making objects ------------------------------------------------------------------------


def preset(kind: str, wanted: int) -> None:
    set_variable(f"kernel/{kind}_next_id", wanted)


def set_variable(name: str, value: object) -> None:
    with open(f"/proc/sys/{name}", "w") as file:
        file.write(str(value))


def queue(
    key: int = 0, mode: int = 0o600, messages: Sequence[tuple[int, bytes]] = (), wanted: int | None = None
) -> int:
    if wanted is not None:
        preset("msg", wanted)
    msqid = check(_libc.msgget(signed(key), CREATE | mode))
    assert wanted in (None, msqid)
    for mtype, body in messages:
        send(msqid, mtype, body)
    return msqid


def semaphores(key: int = 0, values: Sequence[int] = (0,), mode: int = 0o600, wanted: int | None = None) -> int:
    if wanted is not None:
        preset("sem", wanted)
    semid = check(_libc.semget(signed(key), len(values), CREATE | mode))
    assert wanted in (None, semid)
    check(_libc.semctl(semid, 0, 17, struct.pack(f"{len(values)}H", *values)))  # SETALL
    return semid


def segment(
    key: int = 0,
    size: int = 1,
    data: Sequence[tuple[int, bytes]] = (),
    mode: int = 0o600,
    flags: int = 0,
    wanted: int | None = None,
) -> int:
    if wanted is not None:
        preset("shm", wanted)
    shmid = check(_libc.shmget(signed(key), size, CREATE | mode | flags))
    assert wanted in (None, shmid)
    if data:
        address = attach(shmid)
        for offset, content in data:
            ctypes.memmove(address + offset, content, len(content))
        detach(address)
    return shmid


def attach(shmid: int) -> int:
    address: int = _libc.shmat(shmid, None, 0)
    check(-1 if address in (None, (1 << 64) - 1) else 0)
    return address


def detach(address: int) -> None:
    check(_libc.shmdt(address))


_CTL = {"msg": (_libc.msgctl, 20, 48), "shm": (_libc.shmctl, 20, 48)}


def remove(kind: str, object_id: int) -> None:
    check(_libc.semctl(object_id, 0, 0) if kind == "sem" else _CTL[kind][0](object_id, 0, None))


def own(kind: str, object_id: int, uid: int, gid: int) -> None:
    """IPC_SET of the owner alone."""
    ds = ctypes.create_string_buffer(256)

    def ctl(command: int) -> None:
        check(_libc.semctl(object_id, 0, command, ds) if kind == "sem" else _CTL[kind][0](object_id, command, ds))

    ctl(2)
    struct.pack_into("II", ds, 4, uid, gid)
    ctl(1)


def use(semid: int) -> None:
    """One operation that changes no value: it sets sem_otime."""
    check(_libc.semop(semid, struct.pack("HhhHhh", 0, 1, 0, 0, -1, 0), 2))


def lock(shmid: int) -> None:
    check(_libc.shmctl(shmid, 11, None))  # SHM_LOCK


@contextlib.contextmanager
def creating_as(uid: int, gid: int) -> Iterator[None]:
    """Have these effective ids, of this thread alone: system calls, not libc's functions, which mean all threads."""
    setresuid, setresgid = {"x86_64": (117, 119)}.get(platform.machine(), (147, 149))
    check(_libc.syscall(setresgid, -1, gid, -1))
    check(_libc.syscall(setresuid, -1, uid, -1))
    try:
        yield
    finally:
        check(_libc.syscall(setresuid, -1, 0, -1))
        check(_libc.syscall(setresgid, -1, 0, -1))


def no_semop() -> None:
    """Have semop(2) fail from now on, in this process and its children: ENOSYS."""
    one, other = {"x86_64": (65, 220)}.get(platform.machine(), (193, 192))  # semop, semtimedop
    program = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 1, 0, one),
        (0x15, 0, 1, other),
        (0x06, 0, 0, 0x00050000 | 38),  # ENOSYS
        (0x06, 0, 0, 0x7FFF0000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    check(_libc.prctl(22, 2, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))))  # PR_SET_SECCOMP


# ---- looking at them -----------------------------------------------------------------------


def table(kind: str) -> dict[int, dict[str, int]]:
    """/proc/sysvipc/{msg,sem,shm} by id; perms is octal there."""
    with open(f"/proc/sysvipc/{kind}") as file:
        names = file.readline().split()
        rows = [dict(zip(names, line.split(), strict=True)) for line in file]
    parsed = [{name: int(text, 8 if name == "perms" else 10) for name, text in row.items()} for row in rows]
    return {row[names[1]]: row for row in parsed}


def receive_all(msqid: int) -> list[tuple[int, bytes]]:
    """Take all messages off a queue."""
    buffer = ctypes.create_string_buffer(8 + (1 << 20))
    found: list[tuple[int, bytes]] = []
    while True:
        size = _libc.msgrcv(msqid, buffer, 1 << 20, 0, _NOWAIT)
        if size < 0:
            if ctypes.get_errno() == 42:  # ENOMSG
                return found
            check(-1)
        found.append((struct.unpack_from("q", buffer)[0], buffer.raw[8 : 8 + size]))


def peek_all(msqid: int) -> list[tuple[int, bytes]]:
    """What receive_all() would take; longer messages than kernel.msgmax cannot be seen."""
    buffer = ctypes.create_string_buffer(8 + (1 << 16))
    found: list[tuple[int, bytes]] = []
    while True:
        size = _libc.msgrcv(msqid, buffer, 1 << 16, len(found), _NOWAIT | 0o40000)  # MSG_COPY
        if size < 0:
            if ctypes.get_errno() == 42:  # ENOMSG
                return found
            check(-1)
        found.append((struct.unpack_from("q", buffer)[0], buffer.raw[8 : 8 + size]))


def receive(msqid: int) -> tuple[int, bytes]:
    """Take the first message off a queue."""
    buffer = ctypes.create_string_buffer(8 + (1 << 16))
    size = check(_libc.msgrcv(msqid, buffer, 1 << 16, 0, _NOWAIT))
    return struct.unpack_from("q", buffer)[0], buffer.raw[8 : 8 + size]


def send(msqid: int, mtype: int, body: bytes) -> None:
    check(_libc.msgsnd(msqid, struct.pack("q", mtype) + body, len(body), _NOWAIT))


def set_qbytes(msqid: int, value: int) -> None:
    """IPC_SET of the qbytes alone."""
    ds = ctypes.create_string_buffer(256)
    check(_libc.msgctl(msqid, 2, ds))
    struct.pack_into("Q", ds, 88, value)
    check(_libc.msgctl(msqid, 1, ds))


def qbytes(msqid: int) -> int:
    ds = ctypes.create_string_buffer(256)
    check(_libc.msgctl(msqid, 2, ds))
    return int(struct.unpack_from("Q", ds, 88)[0])  # msqid64_ds.msg_qbytes


def values(semid: int, nsems: int) -> tuple[int, ...]:
    array = ctypes.create_string_buffer(2 * nsems)
    check(_libc.semctl(semid, 0, 13, array))  # GETALL
    return struct.unpack(f"{nsems}H", array.raw)


def content(shmid: int, size: int) -> bytes:
    address = attach(shmid)
    found = ctypes.string_at(address, size)
    detach(address)
    return found


def variables() -> dict[str, str]:
    names = [f"kernel/{name}" for name in (*_LIMITS, *_PRESETS)] + [f"fs/mqueue/{name}" for name in _MQUEUE]
    found = {}
    for name in names:
        with open(f"/proc/sys/{name}") as file:
            found[name] = file.read().strip()
    return found


# What of a row is to be the same in a restored namespace: the rest are times, pids and attachments.
_SAME = {
    "msg": ("key", "perms", "cbytes", "qnum", "uid", "gid", "cuid", "cgid"),
    "sem": ("key", "perms", "nsems", "uid", "gid", "cuid", "cgid", "used"),
    "shm": ("key", "perms", "size", "uid", "gid", "cuid", "cgid", "rss"),
}


def rows(kind: str) -> dict[int, dict[str, int]]:
    found = table(kind)
    for row in found.values():
        row["used"] = kind == "sem" and row["otime"] != 0
    return {number: {name: row[name] for name in _SAME[kind]} for number, row in found.items()}


def everything() -> dict[str, object]:
    """All that a restore is to bring back. Empties the queues; for segments last, as it makes pages of holes."""
    return {
        **{kind: rows(kind) for kind in _SAME},
        "variables": variables(),
        "qbytes": {msqid: qbytes(msqid) for msqid in table("msg")},
        "messages": {msqid: receive_all(msqid) for msqid in table("msg")},
        "values": {semid: values(semid, row["nsems"]) for semid, row in table("sem").items()},
        "contents": {shmid: content(shmid, row["size"]) for shmid, row in table("shm").items()},
    }
