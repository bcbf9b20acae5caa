"""The data of a segment by pieces: by the loops in C, and by what they are held against."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

import ipcimg
from ipcimg import codec, imageset, loops, model, pieces
from ipcimg.errors import ImageError
from ipcimg.image import ImageFile, Reader

from . import wire

PAGE = wire.PAGE
END = 1 << 50
Run = tuple[int, int]


@pytest.fixture(params=["c", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the loops in C, and without."""
    if request.param == "python":
        monkeypatch.setattr(loops, "c", None)
        monkeypatch.setattr(pieces, "c", None)
    elif loops.c is None:
        pytest.skip("the loops in C were not built: NOT TESTED")
    return str(request.param)


class Held:
    """An extent whose data is in memory."""

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset, self.length, self._data = offset, len(data), data

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = self._data[start : start + len(view)]


def segment(size: int, *extents: Held) -> model.SharedMemory:
    return model.SharedMemory(model.Permissions(0, 0, 0, 0, 0, 0o600, 5), size, extents)


def runs_of(some: pieces.Runs) -> list[Run]:
    return [(offset, length) for offset, length in pieces.RUN.iter_unpack(some.packed)]


def pages(letters: str) -> bytes:
    """A page of each letter; of zeros for "0"."""
    return b"".join(bytes(PAGE) if letter == "0" else letter.encode() * PAGE for letter in letters)


# ---- zeros ---------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["", "0", "a", "00", "0a", "a0", "ab", "a0b", "0ab00c0", "000abc", "abc000"])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_zeros_are_dropped(way: str, letters: str, cut: int) -> None:
    """cut pages stand by themselves, elsewhere in the segment."""
    piece = pieces.Piece(16 * PAGE)
    for offset, part in ((0, letters[:cut]), (100 * PAGE, letters[cut:])):
        if part:
            piece.room(len(part) * PAGE)[:] = pages(part)
            piece.add(offset, len(part) * PAGE)
    piece.drop_zeros(PAGE)
    assert piece.view == pages(letters.replace("0", ""))
    wanted = [(n if n < cut else 100 + n - cut) * PAGE for n, letter in enumerate(letters) if letter != "0"]
    assert [offset + at for offset, length in runs_of(piece) for at in range(0, length, PAGE)] == wanted
    assert all(end != start for (end, start) in zip([sum(run) for run in runs_of(piece)], wanted[1:], strict=False))


def test_a_page_is_zero_to_its_last_byte(way: str) -> None:
    for at in (0, 1, 7, 8, 31, 32, 33, 2048, PAGE - 9, PAGE - 8, PAGE - 1):
        piece = pieces.Piece(2 * PAGE)
        piece.data[at] = 1
        piece.add(0, 2 * PAGE)
        piece.drop_zeros(PAGE)
        assert runs_of(piece) == [(0, PAGE)], at


def test_zeros_are_not_saved(way: str, tmp_path: Path) -> None:
    """But where the bytes are to be CRIU's, which stores every page that was touched."""
    whole = segment(9 * PAGE, Held(0, pages("a00b")), Held(5 * PAGE, pages("00c0")))
    contents = ipcimg.Contents(ipcimg.Variables((1, 2, 3, 4), 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 12), [whole])
    for exact, kept in ((False, {0: "a", 3: "b", 7: "c"}), (True, dict(enumerate("a00b")) | {5: "0", 6: "0", 7: "c"})):
        directory = tmp_path / str(exact)
        counts = ipcimg.save(contents, directory, criu_exact=exact)
        [loaded] = ipcimg.load(directory).segments
        assert counts.pages == sum(extent.length for extent in loaded.extents) // PAGE == len(kept) + exact
        found = {extent.offset // PAGE for extent in loaded.extents}
        assert found == ({0, 3, 7} if not exact else {0, 5})
        assert imageset.open_set(str(directory)).check() == counts


# ---- page maps -----------------------------------------------------------------------------


def many_runs(seed: int) -> list[Run]:
    """Runs of some pages, ascending, with holes between them."""
    chance, at, found = random.Random(seed), 0, []
    for _ in range(chance.choice([0, 1, 2, 300, 9000])):
        at += chance.choice([1, 1, 2, 100, 1 << 20]) * PAGE
        length = chance.choice([1, 1, 1, 2, 17, 300]) * PAGE
        found.append((at, length))
        at += length
    return found


def in_pieces(found: list[Run], room: int) -> Iterator[pieces.Piece]:
    """Runs, with no matter what data."""
    piece = pieces.Piece(room)
    for offset, length in found:
        while length:
            if not piece.left:
                yield piece
                piece.clear()
            part = min(length, piece.left)
            piece.add(offset, part)
            offset, length = offset + part, length - part
    yield piece


@pytest.fixture
def image(tmp_path: Path) -> Callable[[bytes], ImageFile]:
    def opened(data: bytes) -> ImageFile:
        (tmp_path / "x.img").write_bytes(data)
        return ImageFile(os.open(tmp_path / "x.img", os.O_RDONLY), "x.img")

    return opened


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_page_maps_there_and_back(
    way: str, image: Callable[[bytes], ImageFile], exact: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is one entry, wherever the pieces are cut; the second opinion writes the same bytes."""
    found = many_runs(seed)
    file = io.BytesIO()
    encoder = codec.PagemapEncoder(file, 7, exact)
    for piece in in_pieces(found, 16 * PAGE):
        encoder.add_piece(piece, PAGE)
    encoder.finish(PAGE)
    entries = [
        wire.entry(wire.message({1: at, 2: 0 if exact else n // PAGE, 4: wire.PRESENT, 5: n // PAGE}))
        for at, n in found
    ]
    assert file.getvalue() == wire.pagemap(7, *entries)
    monkeypatch.setattr(Reader, "BUFFER", 100)
    read: list[Run] = []
    stored = codec.StoredRuns(image(file.getvalue()), PAGE, END)
    some = pieces.Runs(40 * PAGE, 5)
    while stored.into(some) is None and some.size:
        for offset, length in runs_of(some):
            if read and sum(read[-1]) == offset:
                read[-1] = (read[-1][0], read[-1][1] + length)
            else:
                read.append((offset, length))
        some.clear()
    assert stored.pages_id == 7
    assert read == found


FORMS = {
    "4.2": {1: PAGE, 2: 0, 4: 4, 5: 2},
    "4.1": {1: PAGE, 2: 2, 4: 4},
    "without flags": {1: PAGE, 2: 2},
    "not in the parent": {1: PAGE, 2: 2, 3: 0, 4: 4},
    "lazy": {1: PAGE, 2: 2, 4: 6},
    "other order": {2: 2, 4: 4, 1: PAGE},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_an_entry(way: str, image: Callable[[bytes], ImageFile], form: str) -> None:
    """Those that the loop in C knows, and those that it leaves to the reference."""
    entries = [wire.pages(0, 1), wire.entry(wire.message(FORMS[form])), wire.pages(5 * PAGE, 1)]
    stored = codec.StoredRuns(image(wire.pagemap(7, *entries)), PAGE, END)
    some = pieces.Runs(END, 100)
    assert stored.into(some) is None
    assert runs_of(some) == [(0, 3 * PAGE), (5 * PAGE, PAGE)]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (wire.entry(wire.message({1: 100, 2: 1, 4: 4, 5: 1})), "not a multiple"),
        (wire.pages(PAGE, 1), "overlap"),
        (wire.entry(wire.message({1: 8 * PAGE, 2: 0, 4: 4, 5: 0})), "nr_pages is 0"),
        (wire.entry(wire.message({1: 8 * PAGE, 2: 2, 4: 4, 5: 1})), "compat_nr_pages"),
        (wire.entry(wire.message({1: 8 * PAGE, 2: 1, 4: 0, 5: 1})), "neither here"),
        (wire.entry(wire.message({1: 8 * PAGE, 2: 1, 4: 4, 5: 1, 9: 1})), "compress"),
        (wire.entry(wire.message({1: END - PAGE, 2: 2, 4: 4, 5: 2})), "the segment ends at"),
        (wire.entry(wire.message({1: 8 * PAGE, 2: 0, 4: 4, 5: 1 << 60})), "nr_pages is"),
        (wire.entry(wire.message({1: 1 << 63, 2: 1, 4: 4, 5: 1})), "vaddr is"),
        (wire.pages(8 * PAGE, 1)[:-1], "an|pagemap_entry"),
        (b"\xff\xff\xff\x7f", "claims"),
    ],
)
def test_entries_that_are_wrong(way: str, image: Callable[[bytes], ImageFile], entry: bytes, why: str) -> None:
    stored = codec.StoredRuns(image(wire.pagemap(7, wire.pages(0, 5), entry)), PAGE, END)
    with pytest.raises(ImageError, match=rf"x\.img, byte \d+: .*({why})"):
        stored.into(pieces.Runs(END, 100))


def test_stops_before_what_is_in_the_parent(way: str, image: Callable[[bytes], ImageFile]) -> None:
    entries = [wire.pages(0, 1), wire.pages(PAGE, 2, wire.PARENT), wire.pages(5 * PAGE, 1)]
    stored = codec.StoredRuns(image(wire.pagemap(7, *entries)), PAGE, END)
    some = pieces.Runs(END, 100)
    run = stored.into(some)
    assert run is not None
    assert (run.offset, run.pages, runs_of(some)) == (PAGE, 2, [(0, PAGE)])
    assert stored.into(some) is None
    assert runs_of(some) == [(0, PAGE), (5 * PAGE, PAGE)]


# ---- pages that are not as they were written -----------------------------------------------


def test_pages_are_compared_when_they_are_read(way: str, tmp_path: Path) -> None:
    """After the last piece: until then nobody knows."""
    contents = ipcimg.Contents(
        ipcimg.Variables((1, 2, 3, 4), 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 12),
        [segment(2 * pieces.ROOM, Held(0, b"d" * 2 * pieces.ROOM))],
    )
    ipcimg.save(contents, tmp_path)
    [loaded] = ipcimg.load(tmp_path).segments
    assert sum(piece.size for piece in pieces.of(loaded)) == 2 * pieces.ROOM
    with open(tmp_path / "pages-1.img", "r+b") as file:
        file.write(b"D")
    found = pieces.of(loaded)
    assert [next(found).size, next(found).size] == [pieces.ROOM] * 2
    with pytest.raises(ImageError, match=r"pages-1\.img: is not as it was written"):
        next(found)


# ---- one ahead -----------------------------------------------------------------------------


def numbered(count: int, error: Exception | None = None) -> Generator[pieces.Piece, None, None]:
    empty = pieces.rooms(1)
    for n in range(count):
        piece = next(empty)
        piece.room(1)[0] = n
        piece.add(n, 1)
        yield piece
    if error is not None:
        raise error


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


BIG = 1 << 30


def test_ahead_is_the_same(two_processors: None) -> None:
    for size in (1, BIG):
        assert [(piece.view[0], runs_of(piece)) for piece in pieces.ahead(numbered(9), size)] == [
            (n, [(n, 1)]) for n in range(9)
        ]
    assert threading.active_count() == 1


def test_an_error_ahead_comes_in_its_place(two_processors: None) -> None:
    found = pieces.ahead(numbered(2, KeyError("x")), BIG)
    assert [next(found).view[0], next(found).view[0]] == [0, 1]
    with pytest.raises(KeyError):
        next(found)
    assert threading.active_count() == 1


def test_who_stops_leaves_no_thread(two_processors: None) -> None:
    ended = []

    def slow() -> Generator[pieces.Piece, None, None]:
        try:
            for piece in numbered(9):
                time.sleep(0.05)
                yield piece
        finally:
            ended.append(threading.active_count())

    found = pieces.ahead(slow(), BIG)
    next(found)
    found.close()
    assert ended == [1]


@pytest.mark.parametrize("how", ["stops", "goes on"])
def test_who_may_leave_the_thread_does_not_wait_for_it(how: str, two_processors: None) -> None:
    may_go_on, ended = threading.Event(), threading.Event()

    def hanging() -> Generator[pieces.Piece, None, None]:
        try:
            for n, piece in enumerate(numbered(3)):
                if n == 1:
                    may_go_on.wait()
                yield piece
        finally:
            ended.set()

    found = pieces.ahead(hanging(), BIG, may_be_left=True)
    assert next(found).view[0] == 0
    if how == "stops":
        found.close()
        assert not ended.is_set()
        may_go_on.set()
    else:
        may_go_on.set()
        assert [piece.view[0] for piece in found] == [1, 2]
    assert ended.wait(60)
