"""Commands of ipcimg of which one system call fails, or is never made because the process is killed at it.

A process that has imported all of ipcimg forks a child for each command: that takes milliseconds, where a new Python
takes hundreds. The child puts itself under a seccomp filter, whose notifications (seccomp_unotify(2)) hold a call until
the parent has said what becomes of it. Whatever the child forks is under the filter as well.
"""

from __future__ import annotations

import array
import collections
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import os
import pathlib
import pickle
import pkgutil
import queue
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, NoReturn, TextIO, TypeVar

import ipcimg
from ipcimg.cli import main

WORKERS = os.cpu_count() or 1  # how many injectors have something to do at once
KILLED, ALL_KILLED = 0, -1  # what happens at a point, other than an errno; all: first what it has forked

# Memory, threads and signals of the interpreter, and its end: no work of ipcimg's.
NOT_OURS = {"brk", "mmap", "munmap", "mprotect", "mremap", "futex", "rt_sigaction", "rt_sigprocmask", "exit_group"}
NOT_OURS |= {"rseq"}  # of each new thread; glibc ends the process where it fails
_OURS_ALONE = {"sendmsg"}  # it hands over the notifications
_MARK = "getppid"  # the child makes this call when the work begins
_PATIENCE = 20.0  # seconds, for a command and all that it leaves running

_NEW_LISTENER = 1 << 3  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000  # SECCOMP_RET_USER_NOTIF, SECCOMP_RET_ALLOW
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*
_NOTIFICATION = struct.Struct("QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("QqiI")  # struct seccomp_notif_resp
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER

_libc = ctypes.CDLL(None, use_errno=True)
_W = TypeVar("_W")


class Point(NamedTuple):
    """A system call of a command."""

    forked: bool  # is it made by the command's process, or by one that it has forked?
    name: str
    number: int  # which of all calls of this name by the one or the others

    def __str__(self) -> str:
        return f"{self.name} number {self.number}{' of what it forked' if self.forked else ''}"


class Call(NamedTuple):
    point: Point
    arguments: tuple[int, ...]


class Outcome(NamedTuple):
    status: int | None  # None: it, or something that it has forked, did not end
    output: str
    errors: str
    calls: list[Call]  # those that were held, in their order


# ---- for tests -----------------------------------------------------------------------------


def at_every(
    points: list[Point],
    workers: list[_W],
    act: Callable[[_W, Point], str],
    what: str,
    record: Callable[[str, object], None],
) -> None:
    """Act at each point, on all processors; it gives what is wrong, or nothing."""
    free: queue.SimpleQueue[_W] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def with_worker(point: Point) -> str:
        worker = free.get()
        try:
            return act(worker, point)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        wrong = [f"{at}: {why}" for at, why in zip(points, pool.map(with_worker, points), strict=True) if why]
    record("nothing lost", f"{what}: {len(points)} tried, {len(wrong)} failures")
    assert not wrong, "\n".join(wrong)


class Injector:
    """Runs commands, one at a time."""

    def __init__(self, setting: str = "") -> None:
        """setting is Python that is executed before everything else."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{setting}\nfrom {__name__} import serve; serve()"],
            cwd=pathlib.Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": ""},
        )

    def run(self, *arguments: object) -> Outcome:
        """A command with nothing in its way."""
        return self._ask(arguments, None, None)

    def record(self, *arguments: object) -> list[Call]:
        """All calls of a command that is to succeed: the points there are."""
        outcome = self._ask(arguments, frozenset(), None)
        assert outcome.status == 0, outcome
        return outcome.calls

    def inject(self, point: Point, what: int, *arguments: object) -> Outcome:
        """A command whose call at a point gives an errno, or that is KILLED there."""
        return self._ask(arguments, frozenset({point.name}), (point, what))

    def _ask(self, arguments: tuple[object, ...], held: frozenset[str] | None, at: tuple[Point, int] | None) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((list(map(str, arguments)), held, at), self._process.stdin)
        self._process.stdin.flush()
        outcome: Outcome = pickle.load(self._process.stdout)
        return outcome

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


# ---- the process that forks, and decides on calls ------------------------------------------


def serve() -> None:
    """Run the commands that are asked for on standard input; outcomes go to standard output."""
    for module in pkgutil.walk_packages(ipcimg.__path__, "ipcimg."):
        importlib.import_module(module.name)
    for name in ("json", "xxhash"):
        importlib.import_module(name)
    _check(_libc.prctl(_SUBREAPER, 1, 0, 0, 0))  # processes that the commands leave behind become our children
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    names()
    gc.collect()
    gc.freeze()  # else each child would copy what it only looks at
    requests, answers = (os.fdopen(os.dup(fd), mode) for fd, mode in ((0, "rb"), (1, "wb")))
    with contextlib.suppress(EOFError):
        while True:
            arguments, held, at = pickle.load(requests)
            with contextlib.ExitStack() as stack:
                # As text that any bytes can be made of again.
                streams = [
                    stack.enter_context(
                        open(os.memfd_create("output"), encoding="utf-8", errors="surrogateescape", newline="")
                    )
                    for _ in range(2)
                ]
                ours, its = socket.socketpair()
                child = os.fork()
                if child == 0:
                    _be_the_command(arguments, held, [file.fileno() for file in streams], its)
                its.close()
                with ours:
                    listener = None if held is None else stack.enter_context(os.fdopen(_received(ours), "rb"))
                supervision = _Supervision(child, ended, None if listener is None else listener.fileno(), at)
                status = supervision.status()
                output, errors = map(_all_of, streams)
                pickle.dump(Outcome(status, output, errors, supervision.calls), answers)
            answers.flush()


class _Supervision:
    """One command, until it and everything it has forked have ended."""

    def __init__(self, child: int, ended: int, listener: int | None, at: tuple[Point, int] | None) -> None:
        self._child, self._ended, self._listener, self._at = child, ended, listener, at
        self._begun = False
        self._forked: dict[int, bool] = {}  # by the number of a thread
        self._counts: collections.Counter[tuple[bool, str]] = collections.Counter()
        self.calls: list[Call] = []

    def status(self) -> int | None:
        poll = select.poll()
        for fd in (self._ended, self._listener):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        until, found = time.monotonic() + _PATIENCE, None
        with contextlib.suppress(ChildProcessError):  # nothing is left
            while True:
                while (waited := os.waitpid(-1, os.WNOHANG))[0]:
                    if waited[0] == self._child:
                        found = os.waitstatus_to_exitcode(waited[1])
                if time.monotonic() > until:
                    found = None
                    _kill_children()
                for fd, event in poll.poll(1000):
                    if fd == self._ended:
                        os.read(fd, 4096)
                    elif event & select.POLLIN:
                        self._decide(fd)
                    else:
                        poll.unregister(fd)
        return found

    def _decide(self, listener: int) -> None:
        notification = bytearray(_NOTIFICATION.size)
        with contextlib.suppress(FileNotFoundError):  # whoever made the call is gone
            fcntl.ioctl(listener, _RECEIVE, notification)
            number, thread, _, nr, _, _, *arguments = _NOTIFICATION.unpack(notification)
            what = self._what(thread, nr, tuple(arguments))
            if what == ALL_KILLED:
                _kill_children(but=self._child)
            if what in (KILLED, ALL_KILLED):
                os.kill(thread, signal.SIGKILL)  # which means its whole process
            else:
                answer = (-what, 0) if what else (0, _CONTINUE)
                fcntl.ioctl(listener, _SEND, _ANSWER.pack(number, 0, *answer))

    def _what(self, thread: int, nr: int, arguments: tuple[int, ...]) -> int | None:
        """What is to happen to a call; None: it goes on."""
        name = names().get(nr, f"call {nr}")
        if not self._begun:
            self._begun = name == _MARK
            return None
        if thread not in self._forked:
            self._forked[thread] = not os.path.exists(f"/proc/{self._child}/task/{thread}")
        forked = self._forked[thread]
        self._counts[forked, name] += 1
        call = Call(Point(forked, name, self._counts[forked, name]), arguments)
        self.calls.append(call)
        return self._at[1] if self._at is not None and call.point == self._at[0] else None


def _kill_children(but: int | None = None) -> None:
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid() and pid != but:
                os.kill(pid, signal.SIGKILL)


def _received(channel: socket.socket) -> int:
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
    assert ancillary, "the child has ended before the work began"
    return array.array("i", ancillary[0][2])[0]


def _all_of(file: TextIO) -> str:
    file.seek(0)
    return file.read()


# ---- the process that becomes the command --------------------------------------------------


def _be_the_command(
    arguments: list[str], held: frozenset[str] | None, streams: list[int], channel: socket.socket
) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
            os.dup2(stream, fd)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115 (they live as long as we do)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in (0, 1, 2, channel.fileno()):
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(fd)
        if held is not None:
            _hold(held, channel)
        channel.close()
        os.getppid()
        status = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _hold(held: frozenset[str], channel: socket.socket) -> None:
    """Hold calls from now on: those with these names, or, if there are none, all that are ours."""
    nr = {name: number for number, name in names().items()}
    if held:
        program = _filter([nr[name] for name in held | {_MARK}], _NOTIFY, _ALLOW)
    else:
        program = _filter([nr[name] for name in NOT_OURS | _OURS_ALONE], _ALLOW, _NOTIFY)
    code = ctypes.create_string_buffer(program)
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    # Between the next two calls nobody would say what becomes of others.
    listener = _check(_libc.syscall(nr["seccomp"], 1, _NEW_LISTENER, fprog))  # SECCOMP_SET_MODE_FILTER
    channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)


def _filter(numbers: Collection[int], verdict: int, otherwise: int) -> bytes:
    load = (0x20, 0, 0, 0)
    compare = [(0x15, len(numbers) - n, 0, number) for n, number in enumerate(numbers)]
    return b"".join(struct.pack("HBBI", *line) for line in (load, *compare, (6, 0, 0, otherwise), (6, 0, 0, verdict)))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@functools.cache
def names() -> dict[int, str]:
    """The system calls of this machine, by their numbers."""
    done = subprocess.run(
        ["gcc", "-dM", "-E", "-"], input="#include <sys/syscall.h>", capture_output=True, text=True, check=True
    )
    return {int(number): name for name, number in re.findall(r"^#define __NR_(\w+) ([0-9]+)$", done.stdout, re.M)}
