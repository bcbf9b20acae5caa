"""What of a segment is used, and the bytes of segments and messages: held against the same on all of the bytes."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import os
import pathlib
import random
import re
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import ipcimg
from ipcimg import model
from ipcimg.errors import ImageError, IpcimgError
from ipcimg.show import contents, pages
from ipcimg.show.contents import Content
from ipcimg.show.pages import Cell, page_map, picture, usage
from ipcimg.show.view import View

from . import wire

PAGE = wire.PAGE
MIB = 1 << 20
HUGE = 1 << 62
PLAIN = View(unicode=False)


@dataclasses.dataclass(frozen=True)
class Held:
    """An extent in memory, which remembers what was read of it: start and length."""

    offset: int
    data: bytes
    asked: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.data)

    def read_into(self, view: memoryview, start: int = 0) -> None:
        assert start + len(view) <= len(self.data)
        self.asked.append((start, len(view)))
        view[:] = self.data[start : start + len(view)]


@dataclasses.dataclass(frozen=True)
class Broken(Held):
    """An extent that cannot be read from its second page on."""

    def read_into(self, view: memoryview, start: int = 0) -> None:
        raise ImageError("pages-1.img", PAGE, "ends too early")


@dataclasses.dataclass(frozen=True)
class Made:
    """An extent of so many bytes, of which only one piece is in memory: all are the same."""

    offset: int
    length: int
    piece: bytes

    def read_into(self, view: memoryview, start: int = 0) -> None:
        assert start % len(self.piece) == 0
        view[:] = self.piece[: len(view)]


def segment(size: int, *extents: model.Extent) -> model.SharedMemory:
    return model.SharedMemory(model.Permissions(0, 0, 0, 0, 0, 0o600, 5), size, extents)


def filled(letters: str, offset: int = 0) -> Held:
    """A page of each letter, of zeros for a dot."""
    return Held(offset, b"".join((b"\0" if letter == "." else letter.encode()) * PAGE for letter in letters))


def holding(data: bytes) -> Content:
    return contents.of(model.Message(1, data))


def whole(content: Content) -> bytes:
    """All of the bytes, put together in the simplest way."""
    found = bytearray(content.length)
    for extent in content.extents:
        view = bytearray(extent.length)
        extent.read_into(memoryview(view))
        found[extent.offset : extent.offset + extent.length] = view[: max(content.length - extent.offset, 0)]
    return bytes(found)


def some_content(chance: random.Random, alphabet: bytes, size: int = 600) -> Content:
    """Extents of any length anywhere; what they hold beyond the end does not count."""
    at, extents = 0, []
    while at < size:
        at += chance.choice([0, 0, 1, 7, 16, 40, 90])
        data = bytes(chance.choices(alphabet, k=chance.choice([1, 5, 16, 48, 64, 100, 150])))
        extents.append(Held(at, data))
        at += len(data)
    return Content(at - chance.choice([0, 0, 3, 20]), extents)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders everywhere: everything that is done piece by piece is done in very small ones."""
    for name, value in (("PIECE", 64), ("LONGEST", 32), ("RIM", 16), ("_BEHIND", 8)):
        monkeypatch.setattr(contents, name, value)


# ---- content -------------------------------------------------------------------------------


def test_pieces_runs_and_reads(tiny: None) -> None:
    chance = random.Random(1)
    for _ in range(300):
        content = some_content(chance, b"abc\0")
        data = whole(content)
        start = chance.randrange(content.length)
        end = chance.randrange(start, content.length + 10)
        found, stored = bytearray(content.length), bytearray(content.length)
        for offset, piece in content.pieces(start, end):
            assert start <= offset < offset + len(piece) <= end
            assert len(piece) <= contents.PIECE
            found[offset : offset + len(piece)] = piece
        assert found[start:end] == data[start:end]
        assert not any(found[:start]) and not any(found[end:])
        assert content.read(start, end - start) == data[start:end]
        behind = -1
        for offset, length in content.runs():
            assert offset > behind and length > 0  # no two touch
            behind = offset + length
            stored[offset:behind] = b"\1" * length
        assert behind <= content.length
        for extent in content.extents:
            part = stored[extent.offset : extent.offset + extent.length]
            assert part == b"\1" * len(part)
            stored[extent.offset : extent.offset + extent.length] = bytes(len(part))
        assert not any(stored)


def test_read_beyond_the_end() -> None:
    content = contents.of(segment(PAGE + 5, filled("ab")))
    assert content.length == PAGE + 5
    assert content.read(PAGE - 1, 100) == b"a" + b"b" * 5
    assert content.read(PAGE + 5, 1) == content.read(HUGE, 1) == content.read(0, 0) == b""


def test_only_what_is_asked_for_is_read() -> None:
    first, second, third = filled("a" * 300), filled("b", HUGE), Broken(HUGE + PAGE, bytes(PAGE))
    content = contents.of(segment(2 * HUGE, first, second, third))
    assert content.read(10 * PAGE, 5) == b"aaaaa"
    assert first.asked == [(10 * PAGE, 5)] and second.asked == []
    assert list(contents.hex_lines(content, HUGE, HUGE + 16))[1] == f"{HUGE + 16:x}\n"
    assert second.asked == [(0, 16)]


def test_what_comes_behind_a_range_need_not_be_readable() -> None:
    def extents() -> Iterator[model.Extent]:
        yield from (filled("a"), filled("b", 2 * PAGE))
        raise ImageError("pagemap-shmem-0.img", 12, "ends within an entry")

    content = Content(4 * PAGE, model.Again(extents))
    assert content.read(PAGE - 1, PAGE) == b"a" + bytes(PAGE - 1)
    assert len(list(contents.hex_lines(content, 0, PAGE))) == 3
    with pytest.raises(ImageError, match="ends within an entry"):
        content.read(PAGE, 3 * PAGE)


def test_each_piece_is_read_once() -> None:
    for go in (
        lambda content: list(contents.hex_lines(content)),
        lambda content: list(contents.search(content, re.compile(b"abc"))),
        lambda content: list(contents.strings(content, 4)),
        lambda content: contents.raw(content, io.BytesIO()),
        lambda content: contents.extract(content, io.BytesIO()),
    ):
        one, two = Held(0, b"x" * 3 * MIB), Held(4 * MIB, bytes(MIB + PAGE))
        go(contents.of(segment(6 * MIB, one, two)))
        assert one.asked == [(0, MIB), (MIB, MIB), (2 * MIB, MIB)]
        assert two.asked == [(0, MIB), (MIB, PAGE)]


def test_what_cannot_be_read_is_raised() -> None:
    content = contents.of(segment(3 * PAGE, filled("a"), Broken(PAGE, bytes(PAGE))))
    for found in (
        contents.hex_lines(content),
        contents.search(content, re.compile(b"x")),
        contents.strings(content, 4),
        page_map(segment(3 * PAGE, filled("a"), Broken(PAGE, bytes(PAGE))), PAGE, 8),
    ):
        with pytest.raises(ImageError, match="ends too early"):
            list(found)
    rows = contents.hex_lines(content)
    assert next(rows).startswith("00000000  61 61")  # what comes before it is shown
    cells = page_map(segment(3 * PAGE, filled("a"), filled("b", PAGE), Broken(2 * PAGE, bytes(PAGE))), PAGE, 8)
    assert next(cells) == Cell(0, PAGE, PAGE, 0, PAGE)


# ---- ranges --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0x1000-0x2000", (0x1000, 0x2000)),
        ("0X1f-0X2F", (0x1F, 0x2F)),
        ("4096+512", (4096, 4608)),
        ("0x10+16", (16, 32)),
        ("0x1000-", (0x1000, None)),
        ("0-1", (0, 1)),
        ("0010-11", (10, 11)),
        ("0-0xffffffffffffffff", (0, 2**64 - 1)),
    ],
)
def test_range(text: str, found: tuple[int, int | None]) -> None:
    assert contents.parse_range(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "+", "1", "0x", "-5", "+5", "5+", "1-2-3", "a-b", "1_0-20", " 1-2", "1-2\n", "0b1-5", "1--2", "²-3"),
        *("1" * 5000 + "-", "0x" + "f" * 5000 + "-", "\33[31m1-2", "1 - 2", "0x-5", "1.5-2"),
    ],
)
def test_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="is no range: it should be START-END, START") as raised:
        contents.parse_range(text)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 200


@pytest.mark.parametrize("text", ["5-5", "5-4", "5+0", "0x20-20"])
def test_empty_range(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the range {text!r} has no byte in it")):
        contents.parse_range(text)


def test_clip() -> None:
    content = holding(bytes(100))
    assert content.clip(0, None) == (0, 100)
    assert content.clip(99, 1000) == (99, 100)
    assert content.clip(5, 7) == (5, 7)
    assert holding(b"").clip(0, None) == (0, 0)
    for start in (100, HUGE):
        with pytest.raises(IpcimgError, match=rf"^nothing is at {start:#x}: there are 0x64 bytes$"):
            content.clip(start, None)
        with pytest.raises(IpcimgError):
            list(contents.hex_lines(content, start, None))
        with pytest.raises(IpcimgError):
            contents.raw(content, io.BytesIO(), start)
        with pytest.raises(IpcimgError):
            contents.extract(content, io.BytesIO(), start)


# ---- hex dump ------------------------------------------------------------------------------


def dumped(data: bytes, start: int, end: int) -> Iterator[str]:
    """What hexdump -C prints of the range."""
    before, starred = b"", False
    for at in range(start, end, 16):
        row = data[at : min(at + 16, end)]
        if row == before:
            if not starred:
                yield "*\n"
            starred = True
            continue
        before, starred = row, False
        codes = [f"{byte:02x}" for byte in row] + ["  "] * (16 - len(row))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{at:08x}  {' '.join(codes[:8])}  {' '.join(codes[8:])}  |{text}|\n"
    if end > start:
        yield f"{end:08x}\n"


@pytest.mark.parametrize("alphabet", [b"a", b"\0", b"a\0", bytes(range(256))])
def test_hex_dump(tiny: None, alphabet: bytes) -> None:
    chance = random.Random(2)
    for _ in range(400):
        content = some_content(chance, alphabet)
        data = whole(content)
        start = chance.choice([0, 0, 16, chance.randrange(content.length)])
        end = chance.choice([None, chance.randrange(start, content.length + 1), content.length + 50])
        found = list(contents.hex_lines(content, start, end))
        assert found == list(dumped(data, start, content.length if end is None else min(end, content.length)))
        assert all(line[:-1].isprintable() and line.endswith("\n") for line in found)


def test_hex_dump_of_what_is_known() -> None:
    assert list(contents.hex_lines(holding(b""))) == []
    assert list(contents.hex_lines(holding(b"\33[31mred\n"))) == [
        "00000000  1b 5b 33 31 6d 72 65 64  0a                       |.[31mred.|\n",
        "00000009\n",
    ]
    assert list(contents.hex_lines(holding(b"a" * 36))) == [
        "00000000  61 61 61 61 61 61 61 61  61 61 61 61 61 61 61 61  |aaaaaaaaaaaaaaaa|\n",
        "*\n",
        "00000020  61 61 61 61                                       |aaaa|\n",
        "00000024\n",
    ]


def test_hex_dump_of_a_hole_of_exabytes() -> None:
    content = contents.of(segment(HUGE + 5, filled("a"), filled("b", HUGE // 2)))
    digits = len(f"{HUGE:x}")
    lines = list(contents.hex_lines(content))
    assert [line.split()[0] for line in lines] == [
        f"{0:0{digits}x}",
        "*",
        f"{PAGE:0{digits}x}",
        "*",
        f"{HUGE // 2:0{digits}x}",
        "*",
        f"{HUGE // 2 + PAGE:0{digits}x}",
        "*",
        f"{HUGE:x}",
        f"{HUGE + 5:x}",
    ]
    assert len({len(line) for line in lines if "|" in line and not line.startswith(f"{HUGE:x}")}) == 1


# ---- searching -----------------------------------------------------------------------------


def found_in(data: bytes, pattern: re.Pattern[bytes]) -> list[tuple[int, bytes]]:
    return [(match.start(), match[0]) for match in pattern.finditer(data) if match[0].strip(b"\0")]


@pytest.mark.parametrize(
    "pattern",
    [
        *(b"ab", b"a", b"aba", b"a+b", b"[ab]{1,9}", b"[ab]{3}?", b"ab|ba", b"a*", b"|a", b"b?", b"(?i)AB", b"a{32}"),
        *(b"(?<=ab)a", b"(?<!a)b", b"a(?=b)", b"a(?!b)", b"(?<=c)", rb"\bab\b"),
        *(b"^a", rb"\Aa", b"a$", rb"b\Z", b"(?m)^a", b"(?m)a$", b"(?s)^.{12}"),
        *(b"a\0", b"\0a", b"b\0{1,5}a", b"a\0\0\0b", b"[^a]c", b"\0{9}[ab]", b"(?s)c.{10}"),
    ],
)
@pytest.mark.parametrize("alphabet", [b"ab", b"aabc\n", b"ab\0\0\0"])
def test_search(tiny: None, pattern: bytes, alphabet: bytes) -> None:
    chance = random.Random(3)
    compiled = re.compile(pattern)
    for _ in range(60):
        content = some_content(chance, alphabet)
        data = whole(content)
        if max((len(match) for _, match in found_in(data, compiled)), default=0) <= contents.LONGEST:
            assert list(contents.search(content, compiled)) == found_in(data, compiled)


def test_search_across_every_border() -> None:
    """With the sizes that are really used."""
    needle = bytes(range(1, 256))
    for at in itertools.chain(range(MIB - 300, MIB + 50, 7), range(2 * MIB - 65536 - 300, 2 * MIB - 65536 + 50, 7)):
        data = bytearray(b"." * (3 * MIB))
        data[at : at + 255] = needle
        extents = (Held(0, bytes(data[:MIB])), Held(MIB, bytes(data[MIB:])))
        assert list(contents.search(Content(3 * MIB, extents), re.compile(re.escape(needle)))) == [(at, needle)]
    longest = contents.LONGEST
    for length, at in itertools.product((longest - 1, longest), (-5, -longest - 2, 1 - longest, 9 - longest)):
        begin = MIB + at
        text = b"x" * begin + b"<" + b"y" * (length - 2) + b">" + b"x" * MIB
        for pattern in (b"<y*>", b"<.*>", b"<[^x]+", b"<y*"):
            [(found, match)] = contents.search(holding(text), re.compile(pattern))
            assert (found, match) == (begin, text[begin : begin + len(match)])
            assert len(match) == length - (pattern == b"<y*")


def test_search_for_more_than_can_be_found() -> None:
    found = list(contents.search(holding(b"a" * 5 * MIB + b"b"), re.compile(b"a+")))
    assert found[0][0] == 0 and all(match == b"a" * contents.LONGEST for _, match in found)
    assert list(contents.search(holding(b"a" * 5 * MIB + b"b"), re.compile(b"b"))) == [(5 * MIB, b"b")]


def test_search_at_holes() -> None:
    content = contents.of(segment(HUGE, filled("a", PAGE), filled("b", HUGE // 2)))
    for pattern, found in (
        (b"a\0", [(2 * PAGE - 1, b"a\0")]),
        (b"\0a", [(PAGE - 1, b"\0a")]),
        (b"\0{5}b", [(HUGE // 2 - 5, b"\0\0\0\0\0b")]),
        (b"b\0{4096}", [(HUGE // 2 + PAGE - 1, b"b" + bytes(contents.RIM))]),
        (b"\0", []),
        (b"\0+", []),
        (b"x|", []),
        (b"^b", []),
        (rb"\A\0*b", []),
        (b"b$", []),
    ):
        assert list(contents.search(content, re.compile(pattern))) == found
    small = contents.of(segment(4 * PAGE, filled("a"), filled("b", 2 * PAGE)))
    assert list(contents.search(small, re.compile(b"a\0*b"))) == [(PAGE - 1, b"a" + bytes(PAGE) + b"b")]
    stored = contents.of(segment(4 * PAGE, filled("a.b.")))
    for pattern in (b"a\0*b", b"\0+", b"b\0+", b"[^a]{5}"):
        assert list(contents.search(small, re.compile(pattern))) == list(contents.search(stored, re.compile(pattern)))


# ---- strings -------------------------------------------------------------------------------


@pytest.mark.parametrize("alphabet", [b"a", b"ab\t\n", b"abcdefghijk\0", b"a\x7f\x80\xff~ \t", bytes(range(256))])
def test_strings(tiny: None, alphabet: bytes) -> None:
    chance = random.Random(4)
    for _ in range(300):
        content = some_content(chance, alphabet)
        least = chance.choice([1, 2, 4, 10, 40, 100])
        wanted = []
        for match in re.finditer(rb"[\t\x20-\x7e]+", whole(content)):
            text = match[0].decode()
            if len(text) >= least:
                wanted.append((match.start(), text[: contents.LONGEST] + "…" * (len(text) > contents.LONGEST)))
        assert list(contents.strings(content, least)) == wanted


def test_strings_that_are_long() -> None:
    content = contents.of(segment(HUGE, Held(PAGE, b"\0" + b"x" * (3 * MIB - 2) + b"\n"), filled("y", HUGE // 2)))
    assert list(contents.strings(content, 4)) == [
        (PAGE + 1, "x" * contents.LONGEST + "…"),
        (HUGE // 2, "y" * PAGE),
    ]
    assert list(contents.strings(content, 100_000)) == [(PAGE + 1, "x" * contents.LONGEST + "…")]
    assert list(contents.strings(content, 1 << 70)) == []


# ---- as they are ---------------------------------------------------------------------------


class Slow(io.BytesIO):
    """Takes a few bytes at a time, as what is not buffered may."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[:50])


def test_raw_and_extract(tiny: None, tmp_path: pathlib.Path) -> None:
    chance = random.Random(5)
    for _ in range(200):
        content = some_content(chance, b"ab\0")
        start = chance.randrange(content.length)
        end = chance.choice([None, chance.randrange(start, content.length + 20)])
        pipe, slow = io.BytesIO(), Slow()
        contents.raw(content, pipe, start, end)
        contents.raw(content, slow, start, end)
        with open(tmp_path / "out", "w+b") as file:
            contents.extract(content, file, start, end)
        assert pipe.getvalue() == slow.getvalue() == (tmp_path / "out").read_bytes() == whole(content)[start:end]


def test_extract_is_sparse(tmp_path: pathlib.Path) -> None:
    size = 1 << 40
    content = contents.of(segment(size + 5, filled("ab", PAGE), filled("c", size // 2), filled("d", size)))
    with open(tmp_path / "out", "w+b") as file:
        contents.extract(content, file)
    assert os.stat(tmp_path / "out").st_size == size + 5
    assert os.stat(tmp_path / "out").st_blocks * 512 <= 64 << 10
    with open(tmp_path / "out", "rb") as file:
        for offset, data in ((0, bytes(PAGE)), (PAGE, b"a" * PAGE), (2 * PAGE, b"b" * PAGE), (3 * PAGE, bytes(PAGE))):
            file.seek(offset)
            assert file.read(PAGE) == data
        file.seek(size // 2 - 1)
        assert file.read(PAGE + 2) == b"\0" + b"c" * PAGE + b"\0"
        file.seek(size - 1)
        assert file.read() == b"\0ddddd"


class Limited(io.BytesIO):
    """On a file system that knows no files of exabytes."""

    def truncate(self, size: int | None = None) -> int:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), size)


def test_extract_of_what_no_file_can_hold() -> None:
    one, file = filled("a"), Limited()
    with pytest.raises(OSError, match="too large"):
        contents.extract(contents.of(segment(HUGE, one)), file)
    assert one.asked == [] and file.getvalue() == b""


# ---- the map of pages ----------------------------------------------------------------------


def mapped(data: bytes, stored: Sequence[bool], at_most: int) -> list[Cell]:
    """The map of a segment, page by page; stored tells of each page whether it is."""
    count = -(-len(data) // PAGE)
    each = -(-count // at_most)
    cells = []
    for first in range(0, count, each):
        length = dense = zeros = busy = 0
        for n in range(first, min(first + each, count)):
            page = data[n * PAGE : (n + 1) * PAGE]
            length += len(page)
            if any(page):
                dense, busy = dense + len(page), busy + sum(map(bool, page))
            elif stored[n]:
                zeros += len(page)
        cells.append(Cell(first * PAGE, length, dense, zeros, busy))
    return cells


def test_page_map() -> None:
    chance = random.Random(6)
    for _ in range(60):
        size = chance.choice([1, PAGE - 1, PAGE, 13 * PAGE, 12 * PAGE + 5, 300 * PAGE, 257 * PAGE + 1])
        count = -(-size // PAGE)
        stored = [chance.random() < 0.6 for _ in range(count + 1)]
        held = []
        for kept, run in itertools.groupby(range(count + 1), stored.__getitem__):
            numbers = list(run)
            if kept:
                data = b"".join(
                    chance.choice([bytes(PAGE), chance.randbytes(PAGE), b"a".ljust(PAGE, b"\0")]) for _ in numbers
                )
                held.append(Held(numbers[0] * PAGE, data))  # the last one may be beyond the segment, as huge pages are
        one = segment(size, *held)
        for at_most in (1, 2, 7, 64, 1000):
            cells = list(page_map(one, PAGE, at_most))
            assert cells == mapped(whole(contents.of(one)), stored, at_most)
            assert len(cells) <= at_most
            assert sum(cell.length for cell in cells) == size
            assert [cell.offset for cell in cells[1:]] == [cell.offset + cell.length for cell in cells[:-1]]
            assert all(cell.hole >= 0 for cell in cells)


def test_page_map_of_what_is_inline() -> None:
    """Of CRIU's older images: one extent, as long as the segment, which ends within a page."""
    data = b"a" * PAGE + bytes(PAGE) + b"b" * 7
    cells = list(page_map(segment(len(data), Held(0, data)), PAGE, 64))
    assert cells == [Cell(0, PAGE, PAGE, 0, PAGE), Cell(PAGE, PAGE, 0, PAGE, 0), Cell(2 * PAGE, 7, 7, 0, 7)]
    found = usage(cells, PAGE)
    assert (found.data_pages, found.zero_pages, found.hole_pages, found.busy) == (2, 1, 0, PAGE + 7)
    assert found.words() == "2 of data, 1 of stored zeros, 0 in holes"
    assert round(found.share, 4) == 0.5004
    zeros = list(page_map(segment(PAGE + 9, Held(0, bytes(PAGE + 9))), PAGE, 64))
    assert usage(zeros, PAGE) == pages.Usage(PAGE + 9, 0, 2, 0, 0)
    assert usage(page_map(segment(PAGE + 9), PAGE, 64), PAGE) == pages.Usage(PAGE + 9, 0, 0, 2, 0)


def test_page_map_reads_everything_once() -> None:
    one, two = Held(0, b"a" * 3 * MIB), filled("b", HUGE)
    list(page_map(segment(2 * HUGE, one, two), PAGE, 64))
    assert one.asked == [(0, MIB), (MIB, MIB), (2 * MIB, MIB)] and two.asked == [(0, PAGE)]


def test_page_map_of_exabytes() -> None:
    started = time.monotonic()
    cells = list(page_map(segment(HUGE, filled("a.", PAGE), filled("b", HUGE - PAGE)), PAGE, 512))
    assert len(cells) == 512 and {cell.length for cell in cells} == {HUGE // 512}
    assert (cells[0].data, cells[0].zeros, cells[-1].data) == (PAGE, PAGE, PAGE)
    assert not any(cell.data or cell.zeros for cell in cells[1:-1])
    assert usage(cells, PAGE) == pages.Usage(HUGE, 2, 1, HUGE // PAGE - 3, 2 * PAGE)
    for found in (
        contents.hex_lines(contents.of(segment(HUGE, filled("a")))),
        contents.search(contents.of(segment(HUGE, filled("a"))), re.compile(b"b")),
        contents.strings(contents.of(segment(HUGE, filled("."))), 4),
    ):
        list(found)
    assert time.monotonic() - started < 5


def test_a_segment_without_anything() -> None:
    nothing = segment(HUGE)
    assert len(list(page_map(nothing, PAGE, 64))) == 64
    assert usage(page_map(nothing, PAGE, 64), PAGE).share == 0
    assert list(contents.of(nothing).runs()) == []
    assert list(contents.strings(contents.of(nothing), 1)) == []
    assert [line[:1] for line in contents.hex_lines(contents.of(nothing))] == ["0", "*", "4"]


# ---- pictures ------------------------------------------------------------------------------


CELLS = [
    Cell(0, 100),
    Cell(100, 100, 0, 100),
    *(Cell(200 + 100 * n, 100, 100, 0, busy) for n, busy in enumerate([1, 24, 25, 50, 75, 99, 100])),
    Cell(900, 50, 25, 25, 10),
]


def test_picture() -> None:
    assert "".join(picture(CELLS, View(in_bytes=True))) == (
        "000000000000 ·0░░▒▓███░\neach 100: · hole, 0 stored zeros, ░▒▓█ data: how much of it is not zero\n"
    )
    assert "".join(picture(CELLS, PLAIN)) == (
        "000000000000 .0--+*###-\neach 100B: . hole, 0 stored zeros, -+*# data: how much of it is not zero\n"
    )
    assert "".join(picture(CELLS, PLAIN)).isascii()
    assert list(picture([], PLAIN)) == []


def test_picture_in_rows() -> None:
    lines = list(picture(page_map(segment(150 * PAGE, filled("a", 64 * PAGE)), PAGE, 512), PLAIN))
    assert lines[:3] == [
        "000000000000 " + "." * 64 + "\n",
        "000000040000 #" + "." * 63 + "\n",
        "000000080000 " + "." * 22 + "\n",
    ]
    assert lines[3].startswith("each 4K: ") and len(lines) == 4
    narrow = list(picture(CELLS, View(unicode=False, width=17)))
    assert [len(line) for line in narrow[:-1]] == [18, 18, 16]
    assert len(list(picture(CELLS, View(width=1)))) == len(CELLS) + 1
    assert all(len(line) <= 81 and line.endswith("\n") for line in lines)


def test_picture_in_colour() -> None:
    coloured = "".join(picture(CELLS, View(color=True)))
    assert coloured.startswith("000000000000 \33[2m·\33[m0\33[32m░░\33[m\33[32m▒\33[m")
    assert re.sub("\33\\[[0-9]*m", "", coloured) == "".join(picture(CELLS, View()))


# ---- images --------------------------------------------------------------------------------


def test_pages_of_a_parent(tmp_path: pathlib.Path) -> None:
    described = wire.image(wire.SHM, wire.segment(wire.desc(0), 3 * PAGE + 100))
    files = {"ipcns-var-1.img": wire.variables(), "ipcns-shm-1.img": described}
    first = wire.pagemap(3, wire.pages(0, 4))
    wire.write(tmp_path / "first", {**files, "pagemap-shmem-0.img": first, "pages-3.img": filled("ab.d").data})
    second = wire.pagemap(5, wire.pages(0, 1, wire.PARENT), wire.pages(PAGE, 1), wire.pages(3 * PAGE, 1, wire.PARENT))
    wire.write(tmp_path / "second", {**files, "pagemap-shmem-0.img": second, "pages-5.img": filled("x").data})
    (tmp_path / "second" / "parent").symlink_to("../first")
    [one] = ipcimg.load(tmp_path / "second").segments
    content = contents.of(one)
    assert whole(content) == content.read(0, HUGE) == filled("ax.").data + b"d" * 100
    assert list(content.runs()) == [(0, 2 * PAGE), (3 * PAGE, 100)]
    assert list(contents.search(content, re.compile(b"axx"))) == [(PAGE - 1, b"axx")]
    assert list(contents.strings(content, 4)) == [(0, "a" * PAGE + "x" * PAGE), (3 * PAGE, "d" * 100)]
    assert [cell.data for cell in page_map(one, PAGE, 64)] == [PAGE, PAGE, 0, 100]
    (tmp_path / "second" / "parent").unlink()
    for found in (contents.hex_lines(content), page_map(one, PAGE, 64)):
        with pytest.raises(IpcimgError, match="parent"):
            list(found)


def test_a_pages_file_that_is_cut(tmp_path: pathlib.Path) -> None:
    described = wire.image(wire.SHM, wire.segment(wire.desc(0), 4 * PAGE))
    files = {"ipcns-var-1.img": wire.variables(), "ipcns-shm-1.img": described}
    pagemap = wire.pagemap(3, wire.pages(0, 1), wire.pages(2 * PAGE, 2))
    wire.write(tmp_path, {**files, "pagemap-shmem-0.img": pagemap, "pages-3.img": filled("ab").data})
    [one] = ipcimg.load(tmp_path).segments
    rows = contents.hex_lines(contents.of(one))
    assert next(rows).startswith("00000000  61")
    with pytest.raises(ImageError, match=r"pages-3\.img, byte 8192: ends too early"):
        list(rows)


# ---- memory and time -----------------------------------------------------------------------


@pytest.mark.parametrize("text", [True, False])
def test_memory_is_bounded(text: bool) -> None:
    """Of a segment with a line in each piece, and of one that is a single string."""
    size = 256 * MIB
    piece = b"some text\n".ljust(MIB, b"\0") if text else b"x" * MIB
    one = segment(size, Made(0, size, piece))
    content = contents.of(one)
    tracemalloc.start()
    try:
        assert usage(page_map(one, PAGE, 512), PAGE).busy == (10 * size // MIB if text else size)
        assert sum(1 for _ in contents.strings(content, 4)) == (size // MIB if text else 1)
        assert sum(1 for _ in contents.search(content, re.compile(b"text"))) == (size // MIB if text else 0)
        assert sum(1 for _ in contents.hex_lines(content)) == (3 * size // MIB + 1 if text else 3)
        with open(os.devnull, "wb") as file:
            contents.raw(content, file)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * MIB
