"""SIGINT, SIGTERM, SIGHUP and the end of a time limit as an exception, which comes when it may, or comes too late.

    handled()    inside it the first of them raises Interrupted in the main thread, so that every with block on the way
                 out does its work; those that come after it change nothing
    deferred()   inside it the exception waits for the end of the block: that is for the few steps that must not come
                 apart, such as making an object and noting that it was made
    finished()   from then on nothing is raised any more: the work is done
    part()       what is finished() inside it is but a part of the work: what comes too late for that is raised at its
                 end

There is one state for the process, that of the outermost handled(): a function of ours that is called inside another
one's handled() neither forgets what has come nor that the work is done.
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
    """The time of handled() is over."""

    def __init__(self, seconds: float) -> None:
        super().__init__(signal.SIGALRM)
        self.args = (f"timed out after {seconds:g} s",)


class _State:
    handled = False  # are we in handled()?
    depth = 0  # of held and deferred
    parts = 0  # of part() that we are in
    part_is_over = False
    is_over = False  # of all of it: one was raised, or the work is finished
    pending: int | None = None  # what has come, and was not raised yet
    limit: _Limit | None = None


def _arrived(signum: int, frame: FrameType | None) -> None:
    if _State.handled and not _State.is_over:
        _State.pending = signum
        _deliver()


def _deliver() -> None:
    if not _State.depth and not _State.part_is_over:
        _raise_pending()


def _raise_pending() -> None:
    signum, _State.pending = _State.pending, None
    if signum is None or _State.is_over:
        return
    _State.is_over = True  # one is enough: what it sets off is not to be interrupted by another
    if signum == signal.SIGALRM and _State.limit is not None:
        raise TimedOut(_State.limit.seconds)
    raise Interrupted(signum)


def _in_main_thread() -> bool:
    # Signals arrive in the main thread; what other threads do is never interrupted.
    return threading.get_ident() == threading.main_thread().ident


@contextlib.contextmanager
def handled(limit: float | None = None, *, for_good: bool = False) -> Iterator[None]:
    """Let the signals raise Interrupted, and the end of the limit, in seconds, TimedOut, until the work is finished().

    Those that are ignored (nohup) stay ignored. for_good has all of them ignored from the end of the block on, however
    it ends: for a process that then tells what became of its work, and ends. Inside another such block, which has all
    that in its hands, and in other threads than the main one this does nothing.
    """
    if not _in_main_thread() or _State.handled:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _State.handled, _State.is_over, _State.pending = True, False, None
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _arrived)
        if limit is not None:
            _State.limit = _Limit(limit)
            _State.limit.start()
        yield
        _deliver()
    finally:
        _State.is_over = True  # so that nothing is raised in here
        if _State.limit is not None:
            _State.limit.end()
        for number, handler in before.items():
            if for_good or handler is not None:
                signal.signal(number, signal.SIG_IGN if for_good else handler)
        _State.handled, _State.limit = False, None


def finished() -> None:
    """To be called when the work is done: a signal that has come is raised now, one that comes later comes too late.

    The time limit is over as well, unless this is but a part(). Outside handled() there is none that it could concern.
    """
    if not _in_main_thread() or not _State.handled or _State.part_is_over:
        return
    _raise_pending()
    if _State.parts:
        _State.part_is_over = True
    else:
        _State.is_over = True
        if _State.limit is not None:
            _State.limit.stop()


@contextlib.contextmanager
def part() -> Iterator[None]:
    """What is finished() inside the with block is not all of the work: who comes too late for it is raised at the end.

    For a block inside handled().
    """
    if not _in_main_thread():
        yield
        return
    before = _State.part_is_over
    _State.parts += 1
    try:
        yield
    finally:
        _State.parts -= 1
        _State.part_is_over = before
        _deliver()


class _Limit:
    """A timer, and what there was before it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        self._handler = signal.signal(signal.SIGALRM, _arrived)

    def start(self) -> None:
        """Have it run."""
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds, 1e-6))  # 0 would be no limit

    def stop(self) -> None:
        """Have it run no more; a command that takes our place finds all as it was."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._handler is signal.SIG_IGN:  # execve(2) puts the default in the place of ours
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def end(self) -> None:
        """Have all as it was."""
        self.stop()
        if self._handler is not None:
            signal.signal(signal.SIGALRM, self._handler)


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
