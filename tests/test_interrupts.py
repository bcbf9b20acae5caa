"""When a signal, or the end of a time limit, raises an exception, and when it comes too late."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ipcimg.interrupts import SIGNALS, Interrupted, TimedOut, deferred, finished, handled, part

TERM, ALRM = signal.SIGTERM, signal.SIGALRM
arrives = signal.raise_signal


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """All handlers, and the timer, are as they were."""
    numbers = (*SIGNALS, ALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert after == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("number", SIGNALS)
def test_raised(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=f"ended by {number.name}"), handled():
        arrives(number)


@pytest.mark.parametrize("seconds", [1e-9, 1e-6, 0.01])
def test_the_end_of_a_limit(seconds: float) -> None:
    with pytest.raises(TimedOut, match=f"timed out after {seconds:g} s"), handled(seconds):
        while True:
            pass


def test_one_is_enough() -> None:
    came = []
    with pytest.raises(Interrupted), handled():
        try:
            arrives(TERM)
        finally:
            arrives(TERM)
            came.append("to its end")
    assert came


def test_deferred() -> None:
    came = []
    with pytest.raises(Interrupted), handled(), deferred():
        arrives(TERM)
        came.append("to its end")
    assert came


def test_too_late() -> None:
    with handled(1000):
        finished()
        arrives(TERM)
        arrives(ALRM)
        finished()
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_one_that_has_come_is_not_too_late() -> None:
    with pytest.raises(Interrupted), handled(), deferred():
        arrives(TERM)
        finished()
        pytest.fail("it goes on")


@pytest.mark.parametrize("number", [TERM, ALRM])
def test_who_has_finished_inside_has_finished(number: signal.Signals) -> None:
    """The end of an inner block does not forget that the work is done."""
    with handled(1000):
        with handled():
            finished()
        arrives(number)


def test_what_comes_inside_is_raised_inside() -> None:
    with pytest.raises(Interrupted), handled():
        with pytest.raises(Interrupted), handled():
            arrives(TERM)
        arrives(TERM)  # one is enough, for both
        raise Interrupted(TERM)


@pytest.mark.parametrize(("number", "kind"), [(TERM, Interrupted), (ALRM, TimedOut)])
def test_too_late_for_a_part(number: signal.Signals, kind: type[Interrupted]) -> None:
    came = []
    with pytest.raises(kind), handled(1000):
        with part():
            finished()
            arrives(number)
            with deferred():
                arrives(number)
            came.append("to its end")
        pytest.fail("it goes on")
    assert came


def test_in_time_for_a_part() -> None:
    with pytest.raises(Interrupted), handled(), part(), deferred():
        arrives(TERM)
        finished()
        pytest.fail("it goes on")


def test_parts_of_parts() -> None:
    came = []
    with pytest.raises(Interrupted), handled():
        with part():
            with part():
                finished()
            with deferred():
                finished()
                arrives(TERM)
            came.append("too late for the outer one")
        pytest.fail("it goes on")
    assert came


def test_the_limit_goes_on_after_a_part() -> None:
    with handled(1000):
        with part():
            finished()
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        finished()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_outside() -> None:
    finished()
    with pytest.raises(Interrupted), handled():
        arrives(TERM)


def test_ignored_stay_ignored() -> None:
    before = signal.signal(TERM, signal.SIG_IGN)
    with handled():
        arrives(TERM)
    assert signal.signal(TERM, before) is signal.SIG_IGN


@pytest.mark.parametrize("how", ["done", "failed"])
def test_for_good(how: str) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        with handled(for_good=True):
            if how == "failed":
                raise KeyError
    except KeyError:
        pass
    after = [signal.signal(number, handler) for number, handler in zip(SIGNALS, before, strict=True)]
    assert after == [signal.SIG_IGN] * len(SIGNALS)
