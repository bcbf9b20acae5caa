"""A process beside ours, in the namespaces our thread is in, which goes on when we are killed.

It is no child of ours, has a session of its own and nothing of ours open, standard error excepted until our word comes:
no signal meant for us reaches it, and nobody who waits for our output waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from .interrupts import SIGNALS, deferred

FAILED = b"failed"  # in the place of our word, where it could not even start: what it has prepared is not to stay
_T = TypeVar("_T")
_companions: set[int] = set()


def ours() -> frozenset[int]:
    """The process ids of this process and of its companions that wait for their word."""
    return frozenset(_companions | {os.getpid()})


class Companion:
    """A companion that has prepared, and waits for our word or our end."""

    def __init__(self, prepare: Callable[[], _T], act: Callable[[_T, bytes], None]) -> None:
        """Start it: it calls prepare, and, when release() or our end comes, act with the result and our word.

        The word is empty where we ended without one, and FAILED where the companion did not come so far. Raises OSError
        where prepare does, or no process can be made.
        """
        with deferred(), contextlib.ExitStack() as on_failure:
            self._hear, its_to_report = _pipe(on_failure)
            its_to_hear, self._tell = _pipe(on_failure)
            child = os.fork()
            if child == 0:
                try:
                    _be_grandparent(prepare, act, its_to_hear, its_to_report)
                finally:
                    os._exit(0)
            os.close(its_to_report)
            os.close(its_to_hear)
            with contextlib.suppress(ChildProcessError):  # who ignores SIGCHLD has no children to wait for
                os.waitpid(child, 0)
            pid, in_proc, number, text = (
                self._line() or f"0 0 {errno.ECHILD} its process ended before it was ready"
            ).split(" ", 3)
            self.pid = int(pid)  # as it is called in our process id namespace
            self.proc = f"/proc/{in_proc}"  # which /proc may not show
            if int(number):
                raise OSError(int(number), text)
            on_failure.pop_all()
            _companions.add(self.pid)

    def _line(self) -> str:
        text = b""
        while not text.endswith(b"\n") and (more := os.read(self._hear, 4096)):
            text += more
        return text.decode().rstrip("\n")

    def release(self, word: bytes) -> None:
        """Tell it our word, not empty, and let it go. Raises OSError, BrokenPipeError if it is gone."""
        os.write(self._tell, word)
        self._forget()

    def _forget(self) -> None:
        _companions.discard(self.pid)
        os.close(self._tell)
        os.close(self._hear)

    def dismiss(self) -> None:
        """End one that has nothing to do any more. Where it cannot be told, it acts when it can, as on our end."""
        try:
            os.write(self._tell, b"done")
        except OSError:  # somebody may have killed it
            self._forget()
        else:
            self.close()

    def end(self) -> None:
        """End it, whether it has had our word or not."""
        if self.pid in _companions:
            self.close()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def close(self, word: bytes = b"") -> None:
        """Tell it our word, or that there is none, and wait until it has ended."""
        if word:
            with contextlib.suppress(OSError):  # it has been killed, or has to do without
                os.write(self._tell, word)
        os.close(self._tell)
        while os.read(self._hear, 4096):
            pass
        os.close(self._hear)
        _companions.discard(self.pid)


def _pipe(on_failure: contextlib.ExitStack) -> tuple[int, int]:
    def close(fd: int) -> None:
        with contextlib.suppress(OSError):  # the ends that are not ours are closed by then, in most cases
            os.close(fd)

    ends = os.pipe()
    for fd in ends:
        on_failure.callback(close, fd)
    return ends


def _be_grandparent(prepare: Callable[[], _T], act: Callable[[_T, bytes], None], hear: int, report: int) -> None:
    try:
        os.setsid()
        # A caller may have closed the standard streams, and then the pipes have their numbers.
        hear, report = fcntl.fcntl(hear, fcntl.F_DUPFD, 3), fcntl.fcntl(report, fcntl.F_DUPFD, 3)
        if os.fork() == 0:
            _live(prepare, act, hear, report)
    except OSError as error:
        _report(report, error)
    except Exception as error:
        _report(report, OSError(errno.EIO, f"{type(error).__name__}: {error}".replace("\n", " ")))


def _report(report: int, error: OSError | None) -> None:
    number, text = (0, "") if error is None else (error.errno or errno.EIO, error.strerror or str(error))
    os.write(report, f"{os.getpid()} {os.readlink('/proc/self')} {number} {text}\n".encode())


def _live(prepare: Callable[[], _T], act: Callable[[_T, bytes], None], hear: int, report: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    prepared = prepare()
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in (hear, report, 2):
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(fd)
        os.chdir("/")
        null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, 3)
        for stream in (0, 1):
            os.dup2(null, stream)
        _report(report, None)
    except OSError:
        act(prepared, FAILED)
        raise
    word = os.read(hear, 64)
    if word:  # what it does from now on is its own affair; somebody may wait for its end, by the other end of report
        os.dup2(null, 2)
        for fd in (hear, null):
            os.close(fd)
    try:
        act(prepared, word)
    except BaseException as error:
        print(f"{os.path.basename(sys.argv[0])}: Error: {error}", file=sys.stderr, flush=True)
