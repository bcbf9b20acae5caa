"""What of a segment is really used: a map of its pages, and their totals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import model
from . import contents, pictures
from .view import View

_ROW = 64  # cells of a row of the picture at most
_LABEL = 12  # hexadecimal digits of a row's offset: enough for what a processor with 48 bits of addresses can map
_MARKS, _ASCII_MARKS = "·0░▒▓█", ".0-+*#"  # hole, stored zeros, data: the more of it is not zero, the darker


@dataclass(frozen=True, slots=True)
class Cell:
    """Some pages of a segment that follow each other. All are numbers of bytes; those beyond its size do not count."""

    offset: int
    length: int
    data: int = 0  # of pages that hold something other than zero
    zeros: int = 0  # of pages that are stored, and are all zeros
    busy: int = 0  # that are not zero

    @property
    def hole(self) -> int:
        """Bytes of pages that are not stored."""
        return self.length - self.data - self.zeros


@dataclass(frozen=True, slots=True)
class Usage:
    """What the pages of a segment are used for; one that the segment ends in is counted as a whole one."""

    size: int  # bytes of the segment
    data_pages: int  # that hold something other than zero
    zero_pages: int  # that are stored, and are all zeros
    hole_pages: int  # that are not stored
    busy: int  # bytes that are not zero

    @property
    def share(self) -> float:
        """Of all bytes those that are not zero: 0 to 1."""
        return self.busy / self.size if self.size else 0.0

    def words(self) -> str:
        """The pages in one line for people."""
        return f"{self.data_pages} of data, {self.zero_pages} of stored zeros, {self.hole_pages} in holes"


def usage(cells: Iterable[Cell], page_size: int) -> Usage:
    """The sum of the cells of a map."""
    size = data = zeros = holes = busy = 0
    for cell in cells:
        size, busy = size + cell.length, busy + cell.busy
        data, zeros, holes = data + cell.data, zeros + cell.zeros, holes + cell.hole
    return Usage(size, -(-data // page_size), -(-zeros // page_size), -(-holes // page_size), busy)


def page_map(segment: model.SharedMemory, page_size: int, at_most: int) -> Iterator[Cell]:
    """The segment in at most so many (1 or more) cells, each of equally many pages but for the last.

    page_size is a power of two, up to contents.PIECE bytes. Everything that is stored is read once, holes take no time.
    Raises as iterating the extents does, and reading them.
    """
    length = -(-segment.size // (page_size * at_most)) * page_size  # of a cell
    cells = -(-segment.size // length)

    def holes(start: int, end: int) -> Iterator[Cell]:
        for n in range(start, end):
            yield Cell(n * length, min(length, segment.size - n * length))

    done = 0
    for n, pages in itertools.groupby(_stored(contents.of(segment), page_size), lambda page: page[0] // length):
        yield from holes(done, n)
        data = zeros = busy = 0
        for _, size, used in pages:
            if used:
                data, busy = data + size, busy + used
            else:
                zeros += size
        yield Cell(n * length, min(length, segment.size - n * length), data, zeros, busy)
        done = n + 1
    yield from holes(done, cells)


def _stored(content: contents.Content, page_size: int) -> Iterator[tuple[int, int, int]]:
    """Offset and length of each page that is stored, and how many of its bytes are not zero."""
    nothing = bytes(page_size)
    for offset, data in content.pieces():
        for at in range(0, len(data), page_size):
            if data.startswith(nothing, at):  # many times faster than counting
                yield offset + at, page_size, 0
            else:
                size = min(page_size, len(data) - at)
                yield offset + at, size, size - data.count(0, at, at + size)


def picture(cells: Iterable[Cell], view: View) -> Iterator[str]:
    """A character for each cell of a map, rows with their offsets in hexadecimal, and what the characters mean."""
    marks = _MARKS if view.unicode else _ASCII_MARKS
    wide, cells, each = max(1, min(_ROW, view.width - _LABEL - 1)), iter(cells), 0
    while row := list(itertools.islice(cells, wide)):
        each = each or row[0].length
        drawn = (_drawn(mark, len(list(same)), marks, view) for mark, same in itertools.groupby(map(_mark, row)))
        yield f"{row[0].offset:0{_LABEL}x} {''.join(drawn)}\n"
    if each:
        hole, data = pictures.faint(marks[0], view), pictures.strong(marks[2:], view)
        yield f"each {view.size(each)}: {hole} hole, {marks[1]} stored zeros, {data} data: how much of it is not zero\n"


def _mark(cell: Cell) -> int:
    """Which of the marks stands for a cell."""
    if cell.data:
        return 2 + min(4 * cell.busy // cell.length, 3)
    return 1 if cell.zeros else 0


def _drawn(mark: int, count: int, marks: str, view: View) -> str:
    text = marks[mark] * count
    if mark == 0:
        return pictures.faint(text, view)
    return text if mark == 1 else pictures.strong(text, view)
