"""SIGINT, SIGTERM and SIGHUP as an exception that comes when it may.

Inside handled() each of them raises Interrupted in the main thread, so that every with block on the
way out does its work. Inside deferred() the exception waits for the end of the block: that is for
the few steps that must not come apart, such as making an object and noting that it was made.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """One of SIGNALS arrived. Not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}")
        self.signum = signum


class _State:
    depth = 0
    pending: int | None = None
    over = False  # one signal is enough: what it set off is not to be interrupted by another


def _arrived(signum: int, frame: FrameType | None) -> None:
    if _State.over:
        return
    if _State.depth:
        _State.pending = signum
    else:
        _State.over = True
        raise Interrupted(signum)


def _deliver() -> None:
    if _State.pending is not None and not _State.depth:
        signum, _State.pending, _State.over = _State.pending, None, True
        raise Interrupted(signum)


def _in_main_thread() -> bool:
    # Signals arrive in the main thread; what other threads do is never interrupted.
    return threading.get_ident() == threading.main_thread().ident


def finished() -> None:
    """To be called when the work is done: a signal that has come is raised now, one that comes later comes too late."""
    if not _in_main_thread():
        return
    signum, _State.pending, _State.over = _State.pending, None, True
    if signum is not None:
        raise Interrupted(signum)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Let the signals raise Interrupted; those that are ignored (nohup) stay ignored."""
    if not _in_main_thread():
        yield  # signals go to the main thread, which is not ours to direct
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _arrived)
        yield
        _deliver()
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        _State.pending, _State.over = None, False


@contextlib.contextmanager
def kept_running() -> Iterator[None]:
    """Ignore Ctrl-Z, SIGTSTP, inside the with block: somebody waits for us to go on."""
    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


class held:
    """A context in which Interrupted waits, and is not raised at its end: for __del__, where it would be lost."""

    __slots__ = ()

    def __enter__(self) -> None:
        if _in_main_thread():
            _State.depth += 1

    def __exit__(self, *error: object) -> None:
        if _in_main_thread():
            _State.depth -= 1


class deferred(held):
    """A context in which Interrupted waits for the end."""

    __slots__ = ()

    def __exit__(self, *error: object) -> None:
        super().__exit__()
        if _in_main_thread():
            _deliver()
