"""A process beside ours, in the namespaces our thread is in, which goes on when we are killed.

It is no child of ours, has a session of its own and nothing of ours open, standard error excepted while it prepares:
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

_T = TypeVar("_T")


class Companion:
    """A companion that has prepared, and waits for our word or our end."""

    def __init__(self, prepare: Callable[[], _T], act: Callable[[_T, bytes], None]) -> None:
        """Start it: it calls prepare, and, when release() or our end comes, act with the result and our word.

        The word is empty where we ended without one. Raises OSError where prepare does, or no process can be made.
        """
        ours_to_hear, its_to_report = os.pipe()
        its_to_hear, ours_to_tell = os.pipe()
        with deferred():
            child = os.fork()
            if child == 0:
                try:
                    if os.fork() == 0:
                        _live(prepare, act, its_to_hear, its_to_report)
                finally:
                    os._exit(0)
            os.close(its_to_hear)
            os.close(its_to_report)
            os.waitpid(child, 0)
        self._hear, self._tell = ours_to_hear, ours_to_tell
        pid, _, failure = self._line().partition(" ")
        self.pid = int(pid or 0)  # as seen from our process id namespace
        number, _, text = (failure or f"{errno.ECHILD} it ended at once").partition(" ")
        if int(number):
            self.close()
            raise OSError(int(number), text)

    def _line(self) -> str:
        text = b""
        while not text.endswith(b"\n") and (more := os.read(self._hear, 4096)):
            text += more
        return text.decode().rstrip("\n")

    def release(self, word: bytes) -> None:
        """Tell it our word, not empty, and let it go."""
        os.write(self._tell, word)
        os.close(self._tell)
        os.close(self._hear)

    def close(self) -> None:
        """End without a word, and wait until it has ended."""
        os.close(self._tell)
        while os.read(self._hear, 4096):
            pass
        os.close(self._hear)


def _live(prepare: Callable[[], _T], act: Callable[[_T, bytes], None], hear: int, report: int) -> None:
    os.setsid()
    # A caller may have closed the standard streams, and then the pipes have their numbers.
    hear, report = fcntl.fcntl(hear, fcntl.F_DUPFD, 3), fcntl.fcntl(report, fcntl.F_DUPFD, 3)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        prepared = prepare()
    except OSError as error:
        os.write(report, f"{os.getpid()} {error.errno or errno.EIO} {error.strerror or error}\n".encode())
        return
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in (hear, report, 2):
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    os.write(report, f"{os.getpid()} 0 \n".encode())
    word = os.read(hear, 64)
    if word:  # what it does from now on is its own affair
        os.dup2(null, 2)
        for fd in (hear, report, null):
            os.close(fd)
    try:
        act(prepared, word)
    except BaseException as error:
        print(f"{os.path.basename(sys.argv[0])}: Error: {error}", file=sys.stderr, flush=True)
