"""How long each stage of a command takes, and how long it kept tasks stopped."""

from __future__ import annotations

import time

from .progress import FREEZING, LETTING_GO, NOBODY, Progress


class Stopwatch:
    """A Progress that takes the time and hands on to another one. All times are seconds."""

    @staticmethod
    def of(progress: Progress) -> Stopwatch:
        """The stopwatch that somebody has started already, or a new one."""
        return progress if isinstance(progress, Stopwatch) else Stopwatch(progress)

    def __init__(self, progress: Progress = NOBODY) -> None:
        """progress is told of everything as well."""
        self._hand_on, self.counts = progress.stage, progress.counts
        self.expect, self.done = progress.expect, progress.done  # bytes are not our business: no call in between
        self.began = self._since = time.monotonic()
        self._stage: str | None = None
        self._stopped_since = self.began
        self._stages: dict[str, float] = {}
        self._frozen = 0.0

    def stage(self, name: str) -> None:
        """See Progress."""
        self._stages, now = self.stages, time.monotonic()
        if self._stage == FREEZING:  # which may have failed: then nobody is let go
            self._stopped_since = now
        elif self._stage == LETTING_GO:
            self._frozen += now - self._stopped_since
        self._stage, self._since = name, now
        self._hand_on(name)

    @property
    def stages(self) -> dict[str, float]:
        """Of each stage so far, in the order in which they began. One that came again counts in all."""
        found = dict(self._stages)
        if self._stage is not None:
            found[self._stage] = found.get(self._stage, 0.0) + time.monotonic() - self._since
        return found

    @property
    def freezing(self) -> float:
        """To stop the tasks."""
        return self.stages.get(FREEZING, 0.0)

    @property
    def frozen(self) -> float:
        """While all tasks were stopped, until they were let go."""
        return self._frozen

    @property
    def total(self) -> float:
        """Since it was made."""
        return time.monotonic() - self.began
