"""The data of a segment by pieces: some of its runs, back to back in memory.

Everything that dumps, restores or compares segments goes through them by pieces. A piece is a copy: what is digested is
the very data that is written, also where the segment changes meanwhile. It is small enough to be in the processor's
cache still when it is written, and large enough that many small runs cost one step.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Generator, Iterable, Iterator
from typing import Protocol, runtime_checkable

from .loops import c
from .model import Extent, SharedMemory

ROOM = 512 << 10  # bytes of a piece at most
_SMALLEST_PAGE, _LARGEST_PAGE = 4096, 64 << 10  # bytes of a page, whatever the machine
_AHEAD_FROM = 16 * ROOM  # bytes from which on a thread is worth starting
RUN = struct.Struct("=QQ")  # offset and length in the segment, bytes


class Runs:
    """Some runs of a segment's data, ascending: count of RUN in runs, size bytes in all."""

    def __init__(self, room: int, most: int) -> None:
        """room is how many bytes they may have, most how many there may be."""
        self.runs, self._room = bytearray(RUN.size * most), room
        self.size = self.count = 0

    def clear(self) -> None:
        """Have none."""
        self.size = self.count = 0

    @property
    def left(self) -> int:
        """How many bytes they may still have; 0 also where there may be no other run."""
        return self._room - self.size if (self.count + 1) * RUN.size <= len(self.runs) else 0

    @property
    def packed(self) -> memoryview:
        """Those that there are."""
        return memoryview(self.runs)[: self.count * RUN.size]

    @property
    def end(self) -> int:
        """Where the last one ends in the segment, bytes; 0 where there is none."""
        return sum(RUN.unpack_from(self.runs, (self.count - 1) * RUN.size)) if self.count else 0

    def add(self, offset: int, length: int) -> None:
        """Add a run, or make the last one longer."""
        self.size += length
        if offset == self.end and self.count:
            before, so_far = RUN.unpack_from(self.runs, (self.count - 1) * RUN.size)
            RUN.pack_into(self.runs, (self.count - 1) * RUN.size, before, so_far + length)
        else:
            RUN.pack_into(self.runs, self.count * RUN.size, offset, length)
            self.count += 1


class Piece(Runs):
    """Some runs of a segment's data, and in data that of all of them, back to back."""

    def __init__(self, room: int) -> None:
        """room is how many bytes it can hold, a multiple of the page size."""
        # There may be a run that is no whole page: the end of a segment.
        super().__init__(room, room // _SMALLEST_PAGE + 1)
        self.data = bytearray(room)

    @property
    def view(self) -> memoryview:
        """The data."""
        return memoryview(self.data)[: self.size]

    def room(self, length: int) -> memoryview:
        """Where to put the data of a run before it is added."""
        return memoryview(self.data)[self.size : self.size + length]

    def parts(self, first: int = 0, at: int = 0) -> Iterator[tuple[int, memoryview]]:
        """The runs from the first-th on, whose data begins at `at`: offset in the segment, and data."""
        view = self.view
        for offset, length in RUN.iter_unpack(self.packed[first * RUN.size :]):
            yield offset, view[at : at + length]
            at += length

    def pad(self, page: int) -> None:
        """Fill the last page by zeros."""
        missing = -self.size % page
        if missing:
            self.room(missing)[:] = bytes(missing)
            self.add(self.end, missing)

    def drop_zeros(self, page: int) -> None:
        """Leave out the pages that hold nothing but zeros. Runs are of whole pages."""
        if c is not None:
            kept = bytearray(len(self.runs))
            self.size, self.count = c.drop_zeros(self.data, self.runs, self.count, kept, page)
            self.runs = kept
            return
        zeros, at, runs = bytes(page), 0, bytes(self.packed)
        self.clear()
        for offset, length in RUN.iter_unpack(runs):
            for start in range(0, length, page):
                if not self.data.startswith(zeros, at):
                    self.room(page)[:] = memoryview(self.data)[at : at + page]
                    self.add(offset + start, page)
                at += page


@runtime_checkable
class InPieces(Protocol):
    """Extents of a segment that know how to be read by pieces."""

    def pieces(self) -> Generator[Piece, None, None]:
        """All data of the extents. A piece is good until the next but one is asked for. Raises as reading them does."""


def of(segment: SharedMemory) -> Generator[Piece, None, None]:
    """The data of a segment by pieces; see InPieces. To be closed by whoever may not go through all of it."""
    extents = segment.extents
    return extents.pieces() if isinstance(extents, InPieces) else one_by_one(extents, segment.size)


def rooms(size: int) -> Iterator[Piece]:
    """Empty pieces, in turn one of two, for a segment of so many bytes."""
    room = min(size + -size % _LARGEST_PAGE, ROOM)
    one = Piece(room)
    yield one
    two = Piece(room)  # most segments take one piece
    while True:
        for piece in (two, one):
            piece.clear()
            yield piece


def one_by_one(extents: Iterable[Extent], size: int) -> Generator[Piece, None, None]:
    """As of(), from extents that know of nothing but themselves, of a segment of so many bytes."""
    empty = rooms(size)
    piece = next(empty)
    for extent in extents:
        start = 0
        while start < extent.length:
            if not piece.left:
                yield piece
                piece = next(empty)
            length = min(extent.length - start, piece.left)
            extent.read_into(piece.room(length), start)
            piece.add(extent.offset + start, length)
            start += length
    if piece.size:
        yield piece


def ahead(pieces: Generator[Piece, None, None], size: int) -> Generator[Piece, None, None]:
    """The same pieces; of so many bytes that it pays, each is made in a thread while the caller uses the one before."""
    with contextlib.closing(pieces):
        if size < _AHEAD_FROM or len(os.sched_getaffinity(0)) < 2:
            yield from pieces
            return
        from concurrent.futures import ThreadPoolExecutor  # not before there is something to do

        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(next, pieces, None)
            while (piece := coming.result()) is not None:
                coming = thread.submit(next, pieces, None)
                yield piece
