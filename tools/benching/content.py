"""What a namespace is made to hold for a measurement: as arguments of the yardsticks, in words, and counted."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from ipcimg.model import Counts

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def in_bytes(number: float) -> str:
    """A number of bytes, for people."""
    size, unit = next((one for one in _UNITS if number >= one[0]), _UNITS[-1])
    return f"{number / size:.3g} {unit}"


@dataclass(frozen=True, slots=True)
class Nothing:
    """An empty namespace."""

    arguments = ("nothing",)
    counts = Counts()

    def __str__(self) -> str:
        return "nothing"


@dataclass(frozen=True, slots=True)
class Queues:
    """Message queues, all alike."""

    queues: int
    each: int  # messages
    size: int  # bytes of a message

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("queues", *self.numbers)

    @property
    def numbers(self) -> tuple[str, ...]:
        return (str(self.queues), str(self.each), str(self.size))

    @property
    def counts(self) -> Counts:
        return Counts(queues=self.queues, messages=self.queues * self.each)

    def __str__(self) -> str:
        queues = "one queue" if self.queues == 1 else f"{self.queues:,} queues"
        return f"{queues} × {self.each:,} × {self.size} B"


@dataclass(frozen=True, slots=True)
class Sets:
    """Semaphore sets with one value each."""

    sets: int

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("sets", *self.numbers)

    @property
    def numbers(self) -> tuple[str, ...]:
        return (str(self.sets),)

    @property
    def counts(self) -> Counts:
        return Counts(semaphore_sets=self.sets)

    def __str__(self) -> str:
        return f"{self.sets:,} sets × one value"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of which the first run bytes of every step are written."""

    size: int  # bytes, a multiple of step
    run: int
    step: int
    zeros: bool = False  # are zeros written? Otherwise what cannot be compressed

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("segment", *self.numbers, "zeros" if self.zeros else "random")

    @property
    def numbers(self) -> tuple[str, ...]:
        return (str(self.size), str(self.run), str(self.step))

    @property
    def written(self) -> int:
        """Bytes."""
        return self.size // self.step * self.run

    @property
    def counts(self) -> Counts:
        """Pages of zeros need not be in the images."""
        return Counts(segments=1, pages=0 if self.zeros else self.written // mmap.PAGESIZE)

    def __str__(self) -> str:
        if self.zeros:
            return f"{in_bytes(self.size)} of written zeros"
        if self.run == self.step:
            return f"{in_bytes(self.size)} segment, dense"
        return f"{in_bytes(self.size)} segment, {in_bytes(self.run)} in every {in_bytes(self.step)} written"


Content = Nothing | Queues | Sets | Segment
