"""The bytes of a segment or of a message: as a hex dump, searched, as strings, and as they are.

A hole costs nothing, however large it is, and memory does not grow with what there is to read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .. import model
from ..errors import IpcimgError, quoted

PIECE = 1 << 20  # bytes that are read at a time, a multiple of every page size
LONGEST = 64 << 10  # bytes of a match or a string that are given at most
RIM = 4096  # bytes of a hole that a match may have on either side of what is stored
_BEHIND = 4096  # bytes before a match that the pattern may look back on
_ROW = 16  # bytes of a line of a hex dump
_IS_TEXT = bytes(byte == 0x09 or 0x20 <= byte < 0x7F for byte in range(256))  # 1 for what strings are of
_AS_TEXT = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))
_RANGE = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})(?:([-+])(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})?)?")


@dataclass(frozen=True, slots=True)
class Content:
    """length bytes. Extents hold some of them, as those of a segment do; all others are zeros."""

    length: int
    extents: Iterable[model.Extent]  # iterated anew whenever something is read

    def runs(self) -> Iterator[tuple[int, int]]:
        """Offset and length of what is not a hole, ascending; no two touch. Raises as iterating extents does."""
        start = end = 0
        for offset, stop, _ in self._stored(0, self.length):
            if offset != end:
                if start != end:
                    yield start, end - start
                start = offset
            end = stop
        if start != end:
            yield start, end - start

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytearray]]:
        """What is stored from start to before end (None: to the last byte), ascending: offset and up to PIECE bytes.

        The bytes are good until the next ones are asked for. Raises as iterating extents does, and reading them.
        """
        buffer = bytearray()
        for offset, stop, extent in self._stored(start, self.length if end is None else min(end, self.length)):
            for at in range(offset, stop, PIECE):
                size = min(PIECE, stop - at)
                if len(buffer) != size:
                    buffer = bytearray(size)
                extent.read_into(memoryview(buffer), at - extent.offset)
                yield at, buffer

    def read(self, offset: int, length: int) -> bytes:
        """length bytes from offset on, fewer at the end: all in memory. Raises as pieces() does.

        Every call looks for its extents from the first one on. To read one part after the other, there is pieces().
        """
        found = bytearray(max(min(length, self.length - offset), 0))
        for at, data in self.pieces(offset, offset + len(found)):
            found[at - offset : at - offset + len(data)] = data
        return bytes(found)

    def clip(self, start: int, end: int | None) -> tuple[int, int]:
        """The range as far as there is any of it. Raises IpcimgError where it begins beyond the last byte."""
        if start >= max(self.length, 1):
            raise IpcimgError(f"nothing is at {start:#x}: there are {self.length:#x} bytes")
        return start, self.length if end is None else min(end, self.length)

    def _stored(self, start: int, end: int) -> Iterator[tuple[int, int, model.Extent]]:
        """Where the extents begin and end within the range."""
        for extent in self.extents:
            if extent.offset >= end:
                break
            first, stop = max(extent.offset, start), min(extent.offset + extent.length, end)
            if first < stop:
                yield first, stop, extent


@dataclass(frozen=True, slots=True)
class _Body:
    """The body of a message as an extent."""

    body: bytes
    offset: int = 0

    @property
    def length(self) -> int:
        return len(self.body)

    def read_into(self, view: memoryview, start: int = 0) -> None:
        """See model.Extent."""
        view[:] = self.body[start : start + len(view)]


def of(thing: model.SharedMemory | model.Message) -> Content:
    """The bytes of a segment up to its size, which its last page may go beyond; or those of a message's body."""
    if isinstance(thing, model.Message):
        return Content(len(thing.body), (_Body(thing.body),))
    return Content(thing.size, thing.extents)


def parse_range(text: str) -> tuple[int, int | None]:
    """A range of bytes: its start, and the end before which it stops, None for the last byte.

    START-END, START+LENGTH or START-, numbers decimal or with 0x. Raises ValueError, in one sentence.
    """
    found = _RANGE.fullmatch(text)
    if found is None or found[2] is None or (found[2] == "+" and found[3] is None):
        raise ValueError(f"{quoted(text)} is no range: it should be START-END, START+LENGTH or START-, in bytes")
    start = _number(found[1])
    if found[3] is None:
        return start, None
    end = _number(found[3]) + (start if found[2] == "+" else 0)
    if end <= start:
        raise ValueError(f"the range {quoted(text)} has no byte in it: its end is not behind its start")
    return start, end


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


# ---- hex dump ------------------------------------------------------------------------------


def hex_lines(content: Content, start: int = 0, end: int | None = None) -> Iterator[str]:
    """The range as `hexdump -C` prints it: sixteen bytes a line, * for more of the same, at last the end.

    Offsets are those in the content; nothing is printed of no bytes. Raises as Content.clip() and pieces() do.
    """
    start, end = content.clip(start, end)
    width = max(8, len(f"{end:x}"))
    before, starred = b"", False
    for offset, row, count in _rows(content, start, end):
        if row != before:
            codes = f"{row[:8].hex(' ')}  {row[8:].hex(' ')}"
            yield f"{offset:0{width}x}  {codes:<48}  |{row.translate(_AS_TEXT).decode('ascii')}|\n"
            before, starred, count = row, False, count - 1
        if count and not starred:
            yield "*\n"
            starred = True
    if start < end:
        yield f"{end:0{width}x}\n"


def _rows(content: Content, start: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Offset, row, and how often it is there in turn: which may be told by several of them."""
    at = start
    for offset, data in itertools.chain(_whole_rows(content, start, end), ((end, b""),)):
        zeros, rest = divmod(offset - at, _ROW)
        if zeros:
            yield at, bytes(_ROW), zeros
        if rest:  # at the end alone
            yield offset - rest, bytes(rest), 1
        n = 0
        while n < len(data):
            row = data[n : n + _ROW]
            count = _repeated(data, n, row)
            yield offset + n, row, count
            n += count * _ROW
        at = offset + len(data)


def _whole_rows(content: Content, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """As Content.pieces(), but of whole rows, counted from start, as far as the range has them."""
    at, rest = start, b""  # what is still to be given, and where it begins
    for offset, data in content.pieces(start, end):
        hole = offset - at - len(rest)
        padding = min(hole, -len(rest) % _ROW)
        rest += bytes(padding)
        if hole > padding:  # rest is a whole row by now, or empty
            if rest:
                yield at, rest
            lead = (offset - start) % _ROW
            at, rest = offset - lead, bytes(lead)
        rest += data
        whole = len(rest) - len(rest) % _ROW
        if whole:
            yield at, rest[:whole]
        at, rest = at + whole, rest[whole:]
    if rest:
        yield at, rest + bytes(min(end - at - len(rest), -len(rest) % _ROW))


def _repeated(data: bytes, at: int, row: bytes) -> int:
    """How many rows like this one there are in turn, the first at `at`."""
    stop = at + _ROW
    if data.startswith(row, stop):
        many = row * 256
        while data.startswith(many, stop):
            stop += len(many)
        while data.startswith(row, stop):
            stop += _ROW
    return (stop - at) // _ROW


# ---- searching -----------------------------------------------------------------------------


def search(content: Content, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    """Where a pattern matches, ascending, and what: each match once, as finditer() finds them in all of the bytes.

    That holds for matches of up to LONGEST bytes, and for what the pattern looks ahead no farther than that, and back
    no farther than 4096 bytes. Longer ones may come in several parts, each cut to LONGEST, or not at all. A match may
    reach into a hole by RIM bytes, and across one of up to twice as many. What is empty, or nothing but zeros, is not
    given: every hole would be full of it. Raises as Content.pieces() does.
    """
    kept, at = b"", 0  # what is to be looked at once more, and where in it matches may begin
    for offset, data, is_last in _stretches(content):
        window, begin = kept + data, offset - len(kept)
        # A match that begins before this cannot be longer in a larger window.
        sure = len(window) if is_last else max(len(window) - LONGEST, at)
        for match in pattern.finditer(window, at):
            if match.start() >= sure:
                break
            at = match.end()
            found = match[0]
            if found.strip(b"\0"):
                yield begin + match.start(), found[:LONGEST]
        at = max(at, sure)
        dropped = len(window) if is_last else max(at - _BEHIND, 0)
        # What follows a hole does not begin with a byte that ^ and \A could take for the first of all.
        kept, at = window[dropped:], 1 if is_last else at - dropped


def _stretches(content: Content) -> Iterator[tuple[int, bytes, bool]]:
    """As _rimmed(), in larger pieces, and whether anything follows at once: offset, bytes, no.

    Where anything does, there are at least PIECE bytes.
    """
    begin, held = 0, bytearray()
    for offset, data in _rimmed(content):
        if offset != begin + len(held):
            yield begin, bytes(held), True
            begin = offset
            held.clear()
        held += data
        if len(held) >= PIECE:
            yield begin, bytes(held), False
            begin += len(held)
            held.clear()
    yield begin, bytes(held), True


def _rimmed(content: Content) -> Iterator[tuple[int, bytes | bytearray]]:
    """As Content.pieces(), with the rims of holes between them, and small holes as a whole."""
    end = 0
    for offset, data in content.pieces():
        if offset - end > 2 * RIM:
            yield end, bytes(RIM)
            yield offset - RIM, bytes(RIM)
        elif offset > end:
            yield end, bytes(offset - end)
        yield offset, data
        end = offset + len(data)
    yield end, bytes(min(content.length - end, RIM))


def strings(content: Content, least: int) -> Iterator[tuple[int, str]]:
    """Runs of at least so many (1 or more) printable ASCII characters and tabs, as strings(1) finds them: offset, text.

    Of more than LONGEST characters only so many are given, and an ellipsis. Raises as Content.pieces() does.
    """
    needle = b"\1" * min(least, LONGEST)
    begin, end, text = 0, 0, bytearray()  # the run that the last piece ended in: text is as much of it as is given

    def given(offset: int, length: int, text: bytearray) -> Iterator[tuple[int, str]]:
        if length >= least:
            yield offset, text[:LONGEST].decode("ascii") + ("…" if length > LONGEST else "")

    for offset, data in content.pieces():
        flags = data.translate(_IS_TEXT)  # in which to find runs is many times faster than by a pattern
        joined = offset == end
        first = (flags + b"\0").find(0) if joined else 0  # where the run ends
        text += data[: min(first, LONGEST - len(text))]
        end += first
        if joined and first == len(data):
            continue
        yield from given(begin, end - begin, text)
        last = flags.rfind(0) + 1
        at = flags.find(needle, first, last)
        while at >= 0:
            stop = flags.find(0, at)
            yield from given(offset + at, stop - at, data[at:stop])
            at = flags.find(needle, stop, last)
        begin, end, text = offset + last, offset + len(data), data[last : last + LONGEST]
    yield from given(begin, end - begin, text)


# ---- as they are ---------------------------------------------------------------------------


def raw(content: Content, file: BinaryIO, start: int = 0, end: int | None = None) -> None:
    """Write the range to a pipe or whatever else cannot seek: holes as zeros. Nothing is asked of file but write().

    Raises as Content.clip() and pieces() do, and OSError.
    """
    start, end = content.clip(start, end)
    at = start
    for offset, data in content.pieces(start, end):
        _write_zeros(file, offset - at)
        _write(file, data)
        at = offset + len(data)
    _write_zeros(file, end - at)


def extract(content: Content, file: BinaryIO, start: int = 0, end: int | None = None) -> None:
    """Write the range to an empty regular file, which has a hole wherever the content has one.

    The file gets its length first: what is too long for the file system is refused before anything is written. Raises
    as Content.clip() and pieces() do, and OSError.
    """
    start, end = content.clip(start, end)
    file.truncate(end - start)
    for offset, data in content.pieces(start, end):
        file.seek(offset - start)
        _write(file, data)


def _write(file: BinaryIO, data: bytearray | memoryview) -> None:
    """Write all of it, also where file is not buffered."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _write_zeros(file: BinaryIO, count: int) -> None:
    zeros = memoryview(bytes(min(count, PIECE)))
    while count:
        part = zeros[:count]
        _write(file, part)
        count -= len(part)
