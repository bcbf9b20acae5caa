"""Can this kernel, with these rights, do it: each feature is tried out on a throwaway namespace.

The three *_next_id checks repeat what tools/testing/selftests/ipc/msgque.c of the kernel does, for
every kind: make an object and fill it, read it without changing it, destroy it, make it again under
the same id, and compare.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import cgroups, freeze, libc, namespace
from .errors import IpcimgError, explain
from .preset import Preset

_KEY = 0x1C9E7001  # nothing else is in the namespace


@dataclass(frozen=True, slots=True)
class Result:
    """Of one check: why is None where the feature works, else the reason in an operator's words."""

    feature: str
    why: str | None

    @property
    def supported(self) -> bool:
        """Does the feature work here?"""
        return self.why is None

    @property
    def verdict(self) -> str:
        """One line."""
        return "supported" if self.why is None else f"not supported: {self.why}"


class _Unsupported(Exception):
    """The reason why a feature does not work, in words."""


def check(feature: str) -> Result:
    """Try a feature, one of FEATURES. Leaves nothing behind."""
    try:
        FEATURES[feature]()
    except _Unsupported as reason:
        return Result(feature, str(reason))
    except OSError as error:
        return Result(feature, explain(error))
    except IpcimgError as error:
        return Result(feature, str(error))
    return Result(feature, None)


def _throwaway(act: Callable[[], None]) -> Callable[[], None]:
    """act, in a new IPC namespace that goes with the thread that act is called in."""

    def call() -> None:
        with namespace.new() as made:
            made.enter()
        act()

    return lambda: namespace.aside(call)


def _ipc_namespace() -> None:
    libc.msgget(_KEY, libc.IPC_CREAT | libc.IPC_EXCL | 0o600)


_MESSAGES = ((1, b"first of two"), (1 << 62, b""))


def _send(msqid: int) -> None:
    buffer = libc.MessageBuffer(64)
    for mtype, body in _MESSAGES:
        buffer.send(msqid, mtype, body, libc.IPC_NOWAIT)


def _peek(msqid: int) -> list[tuple[int, bytes]]:
    buffer, found = libc.MessageBuffer(64), []
    for n in range(len(_MESSAGES)):
        try:
            size = buffer.receive(msqid, 64, n, libc.IPC_NOWAIT | libc.MSG_COPY)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise _Unsupported(
                    "the kernel was built without CONFIG_CHECKPOINT_RESTORE, or a filter blocks msgrcv with MSG_COPY"
                ) from error
            raise
        found.append((buffer.mtype.value, bytes(buffer.view[8 : 8 + size])))
    return found


def _qnum(msqid: int) -> int:
    ds = libc.msqid_ds()
    libc.msgctl(msqid, libc.IPC_STAT, ds)
    return ds.msg_qnum


def _msg_copy() -> None:
    msqid = libc.msgget(_KEY, libc.IPC_CREAT | libc.IPC_EXCL | 0o600)
    _send(msqid)
    _expect("the messages", _peek(msqid), list(_MESSAGES))
    _expect("the number of messages after reading them", _qnum(msqid), len(_MESSAGES))


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise _Unsupported(f"the kernel does not keep its word: {what} should be {wanted}, and is {found}")


def _next_id(
    kind: str,
    get: Callable[[int], int],
    remove: Callable[[int], object],
    fill: Callable[[int], object],
    read: Callable[[int], object],
) -> None:
    create = libc.IPC_CREAT | libc.IPC_EXCL | 0o600
    first = get(create)
    fill(first)
    before = read(first)
    remove(first)
    try:
        made = Preset(kind)
    except PermissionError:
        raise _Unsupported(
            f"writing /proc/sys/kernel/{kind}_next_id needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN "
            "over the namespace, and /proc/sys mounted writable"
        ) from None
    except OSError as error:
        if error.errno == errno.EROFS:
            raise _Unsupported("/proc/sys is mounted read-only") from error
        raise
    with made as preset:
        preset.arm(first)
        second = get(create)
        preset.taken()
    _expect("the id of the second object", second, first)
    fill(second)
    _expect("the content of the second object", read(second), before)
    remove(second)


def _msg_next_id() -> None:
    _next_id(
        "msg",
        lambda flags: libc.msgget(_KEY, flags),
        lambda msqid: libc.msgctl(msqid, libc.IPC_RMID),
        _send,
        lambda msqid: (_peek(msqid), _qnum(msqid)),
    )


def _sem_next_id() -> None:
    values = array.array("H", (0, 1, 32767))
    _next_id(
        "sem",
        lambda flags: libc.semget(_KEY, len(values), flags),
        lambda semid: libc.semctl(semid, libc.IPC_RMID),
        lambda semid: libc.semctl_setall(semid, values),
        lambda semid: libc.semctl_getall(semid, len(values)),
    )


def _write_segment(shmid: int) -> None:
    address = libc.shmat(shmid, 0)
    libc.memory(address, mmap.PAGESIZE)[:5] = b"shmem"
    libc.shmdt(address)


def _read_segment(shmid: int) -> bytes:
    address = libc.shmat(shmid, libc.SHM_RDONLY)
    content = bytes(libc.memory(address, mmap.PAGESIZE))
    libc.shmdt(address)
    return content


def _shm_next_id() -> None:
    _next_id(
        "shm",
        lambda flags: libc.shmget(_KEY, mmap.PAGESIZE, flags),
        lambda shmid: libc.shmctl(shmid, libc.IPC_RMID),
        _write_segment,
        _read_segment,
    )


def _map_files() -> None:
    shmid = libc.shmget(_KEY, mmap.PAGESIZE, libc.IPC_CREAT | libc.IPC_EXCL | 0o600)
    address = libc.shmat(shmid, libc.SHM_RDONLY)
    try:
        os.close(os.open(f"/proc/self/map_files/{address:x}-{address + mmap.PAGESIZE:x}", os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        raise _Unsupported("there is no /proc/self/map_files") from None
    except PermissionError:
        raise _Unsupported(
            "opening /proc/self/map_files needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN on the "
            "machine itself; without it holes are found by mincore"
        ) from None
    finally:
        libc.shmdt(address)


def _in_child(act: Callable[[], object]) -> None:
    """Run act in a child process; an OSError there is raised here."""
    child = os.fork()
    if child == 0:
        number = 0
        try:
            act()
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os._exit(number)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        raise OSError(number, os.strerror(number))


def _user_namespace() -> None:
    try:
        _in_child(lambda: libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWIPC))
    except OSError as error:
        raise _Unsupported(
            "making a user namespace is not allowed: see the sysctls user.max_user_namespaces and "
            f"kernel.unprivileged_userns_clone ({error.strerror})"
        ) from error


def _freeze() -> None:
    """A process in a throwaway namespace, and stopping it the way a dump does."""
    with namespace.new() as made:

        def start() -> int:
            made.enter()
            return _pausing()

        child = namespace.aside(start)
        try:
            with freeze.frozen(made) as frozen:
                moved = frozen.moved()
                if moved is not None:
                    raise _Unsupported(str(moved))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _pausing() -> int:
    """A child process that does nothing: its process id."""
    child = os.fork()
    if child == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    return child


def _cgroup2_mount() -> str:
    for version, _, place in cgroups.mounts():
        if version == 2:
            return place
    raise _Unsupported("no cgroup v2 hierarchy is mounted")


def _cgroup_freeze() -> None:
    try:
        group = tempfile.mkdtemp(prefix="ipcimg-check-", dir=_cgroup2_mount())
    except OSError as error:
        raise _Unsupported(f"making a cgroup: {explain(error)}") from error
    child = _pausing()
    try:
        _write(f"{group}/cgroup.procs", str(child))
        if not os.path.exists(f"{group}/cgroup.freeze"):
            raise _Unsupported("cgroup.freeze is missing: the kernel is older than 5.2")
        _write(f"{group}/cgroup.freeze", "1")
        _await_line(f"{group}/cgroup.events", "frozen 1")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _await_line(f"{group}/cgroup.events", "populated 0")
        os.rmdir(group)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _await_line(path: str, wanted: str) -> None:
    until = time.monotonic() + 2
    while True:
        with open(path) as file:
            if wanted in file.read().splitlines():
                return
        if time.monotonic() > until:
            raise _Unsupported(f"{path} does not come to say {wanted!r}")
        time.sleep(0.005)


FEATURES: dict[str, Callable[[], None]] = {
    "ipc_namespace": _throwaway(_ipc_namespace),
    "user_namespace": _user_namespace,
    "msg_copy": _throwaway(_msg_copy),
    "msg_next_id": _throwaway(_msg_next_id),
    "sem_next_id": _throwaway(_sem_next_id),
    "shm_next_id": _throwaway(_shm_next_id),
    "map_files": _throwaway(_map_files),
    "freeze": _freeze,
    "cgroup_freeze": _cgroup_freeze,
}
