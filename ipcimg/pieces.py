"""The data of a segment by pieces: some of its runs, back to back in memory.

Everything that dumps, restores or compares segments goes through them by pieces. A piece is a copy: what is digested is
the very data that is written, also where the segment changes meanwhile. It is small enough to be in the processor's
cache still when it is written, and large enough that many small runs cost one step.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Protocol, runtime_checkable

from .loops import c
from .model import Extent, SharedMemory

ROOM = 1 << 20  # bytes of a piece at most
_SMALLEST_PAGE, _LARGEST_PAGE = 4096, 64 << 10  # bytes of a page, whatever the machine
_AHEAD_FROM = 8 * ROOM  # bytes from which on a thread is worth starting
RUN = struct.Struct("=QQ")  # offset and length in the segment, bytes
# Added to the offset of a run whose pages an earlier set of images has: a piece has no data of it. Such runs are of
# whole pages, so the bit is free, and one follows another of its kind if the offsets, bit and all, do.
INHERITED = 1


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
        self.dropped = 0  # bytes of pages that were left out

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

    def places(self, page: int) -> dict[int, int]:
        """The offset in the segment of each page, and where its data is."""
        offsets = (
            start for offset, length in RUN.iter_unpack(self.packed) for start in range(offset, offset + length, page)
        )
        return {offset: page * n for n, offset in enumerate(offsets)}

    def pad(self, page: int) -> None:
        """Fill the last page by zeros."""
        missing = -self.size % page
        if missing:
            self.room(missing)[:] = bytes(missing)
            self.add(self.end, missing)

    def drop_zeros(self, page: int) -> None:
        """Leave out the pages that hold nothing but zeros. Runs are of whole pages."""
        whole = self.size
        if c is not None:
            kept = bytearray(len(self.runs))
            self.size, self.count = c.drop_zeros(self.data, self.runs, self.count, kept, page)
            self.runs = kept
        else:
            self._drop_zeros(page)
        self.dropped = whole - self.size

    def _drop_zeros(self, page: int) -> None:
        zeros, at, runs = bytes(page), 0, bytes(self.packed)
        self.clear()
        for offset, length in RUN.iter_unpack(runs):
            for start in range(0, length, page):
                if not self.data.startswith(zeros, at):
                    self.room(page)[:] = memoryview(self.data)[at : at + page]
                    self.add(offset + start, page)
                at += page


class Earlier:
    """The data that a segment had earlier, walked along with its pieces, to leave out what is the same."""

    def __init__(self, pieces: Generator[Piece, None, None], page: int) -> None:
        """The pieces of that data, all of whole pages of so many bytes. To be closed."""
        self._pieces, self._page = pieces, page
        self._piece: Piece | None = None
        self._ended = False
        self.same = 0  # bytes that were left out

    def drop_same(self, piece: Piece) -> None:
        """Leave out the data of pages that are the same: their runs are INHERITED then. Runs are of whole pages.

        Raises as reading the earlier data does.
        """
        kept, at, to = Runs(0, len(piece.runs) // RUN.size), 0, 0
        while at < piece.size:
            at, to = self._drop_same(piece, at, to, kept)
            if at < piece.size:
                self._piece = next(self._pieces, None)
                self._ended = self._piece is None
        piece.dropped += piece.size - to
        self.same += piece.size - to
        piece.runs, piece.count, piece.size = kept.runs, kept.count, to

    def _drop_same(self, piece: Piece, at: int, to: int, kept: Runs) -> tuple[int, int]:
        """From `at` in the data of the piece on, as far as the earlier piece goes; what differs is moved to `to`."""
        theirs = self._piece
        if c is not None:
            other = (theirs.data, theirs.runs, theirs.count) if theirs is not None else (bytearray(), bytearray(), 0)
            at, to, kept.count = c.drop_same(
                piece.data, piece.runs, piece.count, at, to, kept.runs, kept.count, self._page, *other, self._ended
            )
            return at, to
        end, places = 0 if theirs is None else theirs.end, {} if theirs is None else theirs.places(self._page)
        for offset, place in piece.places(self._page).items():
            if place < at:
                continue
            if offset >= end and not self._ended:
                break
            page, where = bytes(piece.data[place : place + self._page]), places.get(offset)
            if theirs is not None and where is not None and theirs.data.startswith(page, where):
                kept.add(offset | INHERITED, self._page)
            else:
                piece.data[to : to + self._page] = page
                kept.add(offset, self._page)
                to += self._page
            at += self._page
        return at, to

    def finish(self) -> None:
        """Go through the rest, at the end of which it may turn out not to be what it should be. Raises as above."""
        for _ in self._pieces:
            pass

    def close(self) -> None:
        """To be called when all who may call drop_same() have ended."""
        self._pieces.close()


# What is to be done with each piece before it is used, by whoever makes it: that may be another thread.
Prepare = Callable[[Piece], None]


@runtime_checkable
class InPieces(Protocol):
    """Extents of a segment that know how to be read by pieces."""

    def pieces(self, prepare: Prepare) -> Generator[Piece, None, None]:
        """All data of the extents. A piece is good until the next but one is asked for. Raises as reading them does."""


def as_it_is(piece: Piece) -> None:
    """Prepare a piece by doing nothing to it."""


def of(segment: SharedMemory, prepare: Prepare = as_it_is) -> Generator[Piece, None, None]:
    """The data of a segment by pieces; see InPieces. To be closed by whoever may not go through all of it."""
    extents = segment.extents
    if isinstance(extents, InPieces):
        return extents.pieces(prepare)
    return prepared(one_by_one(extents, segment.size), prepare)


def prepared(pieces: Generator[Piece, None, None], prepare: Prepare) -> Generator[Piece, None, None]:
    """The same pieces."""
    with contextlib.closing(pieces):
        for piece in pieces:
            prepare(piece)
            yield piece


def ahead(
    pieces: Generator[Piece, None, None], size: int, *, may_be_left: bool = False
) -> Generator[Piece, None, None]:
    """The same pieces; of so many bytes that it pays, each is made in a thread while the caller uses the one before.

    may_be_left says that they need nothing that the caller closes or lets go: then nobody waits for the end of the
    thread, which may be in a network that does not answer.
    """
    if size < _AHEAD_FROM or len(os.sched_getaffinity(0)) < 2:
        yield from pieces
        return
    from queue import SimpleQueue  # not before there is something to do

    go_on: SimpleQueue[bool] = SimpleQueue()
    made: SimpleQueue[Piece | BaseException | None] = SimpleQueue()

    def make() -> None:
        while go_on.get():
            try:
                made.put(next(pieces, None))
            except BaseException as error:
                made.put(error)

    thread = threading.Thread(target=make, daemon=may_be_left)
    thread.start()
    try:
        go_on.put(True)
        while (piece := made.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            go_on.put(True)
            yield piece
    finally:
        go_on.put(False)
        if not may_be_left:
            thread.join()
            pieces.close()


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
