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


def _arrived(signum: int, frame: FrameType | None) -> None:
    if _State.depth:
        _State.pending = signum
    else:
        raise Interrupted(signum)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Let the signals raise Interrupted; those that are ignored (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread, which is not ours to direct
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _arrived)
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


class deferred:
    """A context in which Interrupted waits."""

    __slots__ = ()

    def __enter__(self) -> None:
        _State.depth += 1

    def __exit__(self, *error: object) -> None:
        _State.depth -= 1
        if not _State.depth and _State.pending is not None:
            signum, _State.pending = _State.pending, None
            raise Interrupted(signum)
