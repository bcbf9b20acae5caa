"""SIGINT, SIGTERM and SIGHUP as an exception that comes when it may; and the end of a time limit as well.

Inside handled() each of them raises Interrupted in the main thread, so that every with block on the
way out does its work; inside limited() SIGALRM raises TimedOut. Inside deferred() the exception
waits for the end of the block: that is for the few steps that must not come apart, such as making
an object and noting that it was made.
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


class TimedOut(Interrupted):
    """The time of limited() is over."""

    def __init__(self, seconds: float) -> None:
        super().__init__(signal.SIGALRM)
        self.args = (f"timed out after {seconds:g} s",)


class _State:
    depth = 0
    blocks = 0  # of handled() and limited() that we are in
    limit = 0.0  # seconds
    pending: int | None = None
    over = False  # one signal is enough: what it set off is not to be interrupted by another
    parts = 0  # of part() that we are in
    part_over = False  # of the outermost one: what comes now is for the work that is left
    late: int | None = None  # what has come since


def _arrived(signum: int, frame: FrameType | None) -> None:
    if _State.over:
        return
    if _State.part_over:
        _State.late = signum
    elif _State.depth:
        _State.pending = signum
    else:
        _State.over = True
        raise _interruption(signum)


def _interruption(signum: int) -> Interrupted:
    return TimedOut(_State.limit) if signum == signal.SIGALRM else Interrupted(signum)


def _deliver() -> None:
    if _State.pending is not None and not _State.depth:
        signum, _State.pending, _State.over = _State.pending, None, True
        raise _interruption(signum)


def _in_main_thread() -> bool:
    # Signals arrive in the main thread; what other threads do is never interrupted.
    return threading.get_ident() == threading.main_thread().ident


def finished() -> None:
    """To be called when the work is done: a signal that has come is raised now, one that comes later comes too late.

    Outside handled() and limited() there is none that it could concern. The limit of the latter is over, unless this is
    but a part().
    """
    if not _in_main_thread() or not _State.blocks:
        return
    if _State.limit and not _State.parts:
        signal.setitimer(signal.ITIMER_REAL, 0)
    signum, _State.pending = _State.pending, None
    if signum is not None:
        _State.over = True
        raise _interruption(signum)
    if _State.parts:
        _State.part_over = True
    else:
        _State.over = True


@contextlib.contextmanager
def part() -> Iterator[None]:
    """What is finished() inside the with block is not all of the work: who comes too late for it is raised at the end.

    For a block inside handled() or limited().
    """
    if not _in_main_thread():
        yield
        return
    _State.parts += 1
    try:
        yield
    finally:
        _State.parts -= 1
        if not _State.parts:
            late, _State.late, _State.part_over = _State.late, None, False
            if late is not None:
                _arrived(late, None)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Let the signals raise Interrupted; those that are ignored (nohup) stay ignored."""
    if not _in_main_thread():
        yield  # signals go to the main thread, which is not ours to direct
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _State.blocks += 1
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
        _left()


def _left() -> None:
    _State.pending, _State.over = None, False
    _State.blocks -= 1


@contextlib.contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise TimedOut after so many seconds inside the with block, as handled() does Interrupted; None: never.

    For the main thread, and for one such block at a time.
    """
    if seconds is None:
        yield
        return
    before = signal.getsignal(signal.SIGALRM)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _State.limit = seconds
    _State.blocks += 1
    try:
        signal.signal(signal.SIGALRM, _arrived)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))  # 0 would be no limit
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if before is not None:
            signal.signal(signal.SIGALRM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        _State.limit = 0.0
        _left()


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
