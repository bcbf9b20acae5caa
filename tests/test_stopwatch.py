"""The stopwatch: how long each stage takes, and how long tasks are stopped."""

from __future__ import annotations

import time

import pytest

from ipcimg.progress import FREEZING, LETTING_GO
from ipcimg.stopwatch import Stopwatch


class Clock:
    """time.monotonic(), which goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def pass_through(watch: Stopwatch, clock: Clock, *stages: tuple[str, float]) -> None:
    for name, seconds in stages:
        watch.stage(name)
        clock.now += seconds


def test_stages(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now += 8
    pass_through(watch, clock, ("segments", 1), ("queues", 2), ("segments", 4))
    assert watch.stages == {"segments": 5, "queues": 2}
    assert watch.stages == {"segments": 5, "queues": 2}
    assert (watch.total, watch.freezing, watch.frozen) == (15, 0, 0)


def test_tasks_are_stopped_until_they_are_let_go(clock: Clock) -> None:
    watch = Stopwatch()
    pass_through(watch, clock, ("before", 1), (FREEZING, 2), ("segments", 4), (LETTING_GO, 8), ("leaving", 16))
    assert (watch.freezing, watch.frozen) == (2, 12)


def test_a_freezing_that_failed_and_one_that_did_not(clock: Clock) -> None:
    watch = Stopwatch()
    pass_through(
        watch, clock, (FREEZING, 1), ("leaving", 2), (FREEZING, 4), ("segments", 8), (LETTING_GO, 16), ("x", 0)
    )
    assert (watch.freezing, watch.frozen) == (5, 24)


class Heard:
    """A Progress that remembers."""

    counts = True

    def __init__(self) -> None:
        self.all: list[object] = []

    def stage(self, name: str) -> None:
        self.all.append(name)

    def expect(self, size: int) -> None:
        self.all.append(("expect", size))

    def done(self, size: int) -> None:
        self.all.append(("done", size))


def test_everything_is_handed_on() -> None:
    heard = Heard()
    watch = Stopwatch(heard)
    watch.stage("queues")
    watch.expect(2)
    watch.done(1)
    assert heard.all == ["queues", ("expect", 2), ("done", 1)]
    assert watch.counts
    assert not Stopwatch().counts
