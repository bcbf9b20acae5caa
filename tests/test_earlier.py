"""Leaving out of pieces what a segment had earlier: by the loop in C, and by what it is held against."""

from __future__ import annotations

import random
from collections.abc import Generator

import pytest

from ipcimg import loops, pieces
from ipcimg.errors import ImageError

from . import wire

PAGE = wire.PAGE
ROOM = 16  # pages of a piece


@pytest.fixture(params=["c", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the loops in C, and without."""
    if request.param == "python":
        monkeypatch.setattr(loops, "c", None)
        monkeypatch.setattr(pieces, "c", None)
    elif loops.c is None:
        pytest.skip("the loops in C were not built: NOT TESTED")
    return str(request.param)


def in_pieces(held: dict[int, bytes], chance: random.Random) -> Generator[pieces.Piece, None, None]:
    """Pages by their numbers, in pieces of any size."""
    todo = sorted(held)
    while todo:
        piece, count = pieces.Piece(ROOM * PAGE), chance.randrange(1, ROOM + 1)
        for n in todo[:count]:
            piece.room(PAGE)[:] = held[n]
            piece.add(n * PAGE, PAGE)
        todo = todo[count:]
        yield piece


def compared(now: dict[int, bytes], before: dict[int, bytes], seed: int) -> tuple[dict[int, bytes], set[int], int]:
    """What is kept of now, which pages are INHERITED, and how many bytes are the same."""
    kept: dict[int, bytes] = {}
    inherited: set[int] = set()
    earlier = pieces.Earlier(in_pieces(before, random.Random(seed)), PAGE)
    last = 0
    for piece in in_pieces(now, random.Random(seed + 1)):
        size = piece.size
        earlier.drop_same(piece)
        assert piece.dropped == size - piece.size
        at = 0
        for offset, length in pieces.RUN.iter_unpack(piece.packed):
            start = offset & ~pieces.INHERITED
            assert start >= last
            last = start + length
            for n in range(start // PAGE, last // PAGE):
                if offset & pieces.INHERITED:
                    inherited.add(n)
                else:
                    kept[n] = bytes(piece.view[at : at + PAGE])
                    at += PAGE
        assert at == piece.size
    earlier.finish()
    earlier.close()
    return kept, inherited, earlier.same


@pytest.mark.parametrize("seed", range(30))
def test_any(way: str, seed: int) -> None:
    chance = random.Random(seed)
    many = chance.choice([1, 5, 40, 200])

    def some() -> dict[int, bytes]:
        return {
            n: bytes([chance.randrange(3)]) * PAGE for n in range(many) if chance.random() < chance.choice([0.5, 1])
        }

    now, before = some(), some()
    same = {n for n, page in now.items() if before.get(n) == page}
    assert compared(now, before, seed) == ({n: now[n] for n in now.keys() - same}, same, len(same) * PAGE)


def test_one_byte(way: str) -> None:
    """The first and the last of a page count, and those of the pages beside it do not."""
    now = {n: bytes(PAGE) for n in range(9)}
    for at in (0, 1, PAGE // 2, PAGE - 1):
        page = bytearray(PAGE)
        page[at] = 1
        kept, inherited, _ = compared(now, now | {4: bytes(page)}, at)
        assert (set(kept), inherited) == ({4}, set(now) - {4})


def test_what_ends_it(way: str) -> None:
    """Damage is told where the earlier data ends, also of those who never got that far."""

    def damaged() -> Generator[pieces.Piece, None, None]:
        yield from in_pieces({0: bytes(PAGE), 1: bytes(PAGE)}, random.Random(1))
        raise ImageError("pages-1.img", None, "is not as it was written")

    earlier = pieces.Earlier(damaged(), PAGE)
    [piece] = in_pieces({0: bytes(PAGE)}, random.Random(1))
    earlier.drop_same(piece)
    assert earlier.same == PAGE
    with pytest.raises(ImageError, match="not as it was written"):
        earlier.finish()


# ---- the loop in C -------------------------------------------------------------------------


def test_hostile_runs() -> None:
    """Whatever the runs are, it stays within the buffers and ends."""
    if loops.c is None:
        pytest.skip("the loops in C were not built: NOT TESTED")
    chance, refused = random.Random(4), 0
    numbers = [0, 1, PAGE - 1, PAGE, 2 * PAGE, 3 * PAGE, 1 << 40, (1 << 63), (1 << 64) - PAGE, (1 << 64) - 1]

    def runs() -> bytearray:
        packed = bytearray()
        for _ in range(chance.randrange(4)):
            packed += pieces.RUN.pack(chance.choice(numbers), chance.choice(numbers))
        return packed

    for _ in range(20000):
        data, ours, theirs = bytearray(chance.randrange(4) * PAGE), runs(), runs()
        kept = bytearray(chance.randrange(5) * pieces.RUN.size)
        counts = [chance.randrange(-1, 5) for _ in range(2)]
        at, to = (chance.choice([0, 0, 0, -1, 1, PAGE, 1 << 40]) for _ in range(2))
        other = bytearray(chance.randrange(4) * PAGE)
        try:
            at_end, to_end, count = loops.c.drop_same(
                *(data, ours, counts[0], at, to, kept, 0, PAGE, other, theirs, counts[1], chance.random() < 0.5)
            )
        except ValueError:
            refused += 1
            continue
        assert to <= to_end <= at_end <= len(data)
        assert count * pieces.RUN.size <= len(kept)
    assert 0 < refused < 20000
