"""Messages: which are meant, what there is of them all together, and how their contents are shown."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .. import describe, model
from . import pictures
from .columns import Numbered
from .view import View

Ranges = tuple[tuple[int, int | None], ...]  # first and last of each, None for no last
_TYPES = 1 << 16  # different types that are counted one by one
_ROWS = 10  # of a histogram
_LINE = 1 << 16  # bytes of a line of text


def ranges(text: str) -> Ranges:
    """What "7", "1-5", "100-", "-5" and lists of these with commas stand for. Raises ValueError."""
    found: list[tuple[int, int | None]] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,20})|([0-9]{1,20})?-([0-9]{1,20})?", part)
        if match is None or part == "-":
            raise ValueError(f"{part!r} is no number and no range such as 1-5, 100- or -5")
        if match[1]:
            found.append((int(match[1]), int(match[1])))
            continue
        first, last = int(match[2] or 0), int(match[3]) if match[3] else None
        if last is not None and last < first:
            raise ValueError(f"{part!r} ends before it begins")
        found.append((first, last))
    return tuple(found)


def _within(number: int, wanted: Ranges) -> bool:
    return any(first <= number and (last is None or number <= last) for first, last in wanted)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages are meant: those that fit all that is given."""

    places: Ranges | None = None  # in the queue, 0 for the first
    types: Ranges | None = None
    sizes: Ranges | None = None  # bytes
    pattern: re.Pattern[bytes] | None = None  # somewhere in the body

    @property
    def is_of_messages(self) -> bool:
        """Is there anything in it that segments do not have?"""
        return self.places is not None or self.types is not None or self.sizes is not None

    def fits(self, n: int, message: model.Message) -> bool:
        """Is this message, the n-th of its queue, meant?"""
        return (
            (self.places is None or _within(n, self.places))
            and (self.types is None or _within(message.type, self.types))
            and (self.sizes is None or _within(len(message.body), self.sizes))
            and (self.pattern is None or self.pattern.search(message.body) is not None)
        )

    def of(self, queue: model.MessageQueue) -> Iterator[Numbered]:
        """The messages of a queue that are meant. Raises ImageError."""
        msqid, all_fit = queue.permissions.id, self == Filter()
        for n, message in enumerate(queue.messages):
            if all_fit or self.fits(n, message):
                yield Numbered(msqid, n, message)


@dataclass(slots=True)
class Survey:
    """What messages are like, all together."""

    count: int = 0
    types: collections.Counter[int] = field(default_factory=collections.Counter)
    of_other_types: int = 0  # messages, when there were too many types to count each
    sizes: collections.Counter[int] = field(default_factory=collections.Counter)  # by the number of bits of the size

    def add(self, message: model.Message) -> None:
        """Count one more."""
        self.count += 1
        self.sizes[len(message.body).bit_length()] += 1
        if message.type in self.types or len(self.types) < _TYPES:
            self.types[message.type] += 1
        else:
            self.of_other_types += 1

    def by_type(self) -> list[tuple[str, int]]:
        """The most frequent types, and all others: label and count."""
        rows = [(f"type {type_}", count) for type_, count in self.types.most_common(_ROWS)]
        others = self.count - sum(count for _, count in rows)
        return rows + ([("other types", others)] if others else [])

    def by_size(self) -> list[tuple[str, int]]:
        """Powers of two, from the smallest size that there is to the largest: label and count."""
        if not self.sizes:
            return []
        return [(_bits(bits), self.sizes[bits]) for bits in range(min(self.sizes), max(self.sizes) + 1)]


def _bits(bits: int) -> str:
    """The sizes that have so many bits."""
    if bits < 2:
        return f"{bits}B"
    return f"{describe.size(1 << (bits - 1))} to {describe.size((1 << bits) - 1)}"


def survey(messages: Iterable[model.Message]) -> Survey:
    """Count the messages."""
    found = Survey()
    for message in messages:
        found.add(message)
    return found


def histograms(found: Survey, view: View) -> Iterator[str]:
    """Types and sizes of messages as bars."""
    for title, rows in (("Types", found.by_type()), ("Sizes", found.by_size())):
        yield f"\n{pictures.title(title, view)}\n"
        yield from pictures.histogram(rows, view)


def text_lines(body: bytes) -> Iterator[str]:
    """A body as UTF-8, line by line; what a terminal would obey, and bytes that are no text, as escapes.

    A line of more than 65536 bytes is broken.
    """
    start = 0
    while True:
        end = body.find(b"\n", start, start + _LINE)
        stop = end if end >= 0 else min(start + _LINE, len(body))
        yield describe.printable(body[start:stop].decode(errors="backslashreplace")) + "\n"
        if end < 0 and stop == len(body):
            break
        start = stop + (end >= 0)
