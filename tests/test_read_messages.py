"""Messages of an image are read by a loop in C and by Python alone: both find the same, and the same fault."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from ipcimg import codec, loops
from ipcimg.errors import ImageError
from ipcimg.image import Block, ImageFile
from tests import wire

Messages = list[tuple[int, bytes]]
BLOCK = Block.SIZE
TYPES = (1, 127, 128, (1 << 63) - 1)
SIZES = (0, 1, 7, 8, 9, 127, 128, 4000)


@pytest.fixture(autouse=True)
def built() -> None:
    if loops.c is None:
        reason = "the loops in C were not built: NOT TESTED (gcc and Python's headers are needed: python3-dev)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def opened(path: pathlib.Path, data: bytes | bytearray) -> ImageFile:
    path.write_bytes(data)
    return ImageFile(os.open(path, os.O_RDONLY), path.name)


def read(image: ImageFile, offset: int, count: int) -> Iterator[tuple[int, bytes]]:
    """The messages from an offset of an image on, as those of a queue that was not gone through before."""
    for message in codec._Messages(image, offset, count, offset, 5):
        yield message.type, message.body


def told(image: ImageFile, offset: int, count: int) -> tuple[Messages, str]:
    """All that can be read, and what is wrong behind it."""
    found: Messages = []
    try:
        found.extend(read(image, offset, count))  # what comes before an error stays
    except ImageError as error:
        return found, str(error)
    return found, ""


def by_both(image: ImageFile, offset: int, count: int) -> tuple[Messages, str]:
    by_c = told(image, offset, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "c", None)
        assert told(image, offset, count) == by_c
    return by_c


def random_messages(dice: random.Random, count: int, sizes: tuple[int, ...] = SIZES) -> Messages:
    return [(dice.choice(TYPES), dice.randbytes(dice.choice(sizes))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_random_queues(seed: int, tmp_path: pathlib.Path, both_loops: bool) -> None:
    dice = random.Random(seed)
    messages = random_messages(dice, dice.randrange(codec._MANY, 3000))
    image = opened(
        tmp_path / "x.img", wire.image(wire.MSG, wire.queue(wire.desc(5), messages), wire.queue(wire.desc(6)))
    )
    [queue, _] = codec.decode_queues(image)
    for _ in range(2):
        assert [(one.type, one.body) for one in queue.messages] == messages


@pytest.mark.parametrize("size", [BLOCK - 40, *range(BLOCK - 20, BLOCK + 9), 2 * BLOCK, 3 << 20])
def test_long_ones_among_short_ones(size: int, tmp_path: pathlib.Path, both_loops: bool) -> None:
    """Also such as just fill a block with what stands before them, and such as do not fit into one."""
    dice = random.Random(size)
    messages = random_messages(dice, 70)
    for at in (0, 1, 35, 70):
        messages.insert(at, (7, dice.randbytes(size)))
    data = b"".join(itertools.starmap(wire.one_message, messages))
    assert list(read(opened(tmp_path / "x.img", data), 0, len(messages))) == messages


def long_varint(value: int) -> bytes:
    """A varint with zeros on top that nobody has to write."""
    return b"".join(bytes([value >> 7 * n & 0x7F | 0x80]) for n in range(9)) + bytes([value >> 63])


STRANGE = {
    "an unknown field": wire.message({1: 3, 2: 5, 30: b"unknown"}),
    "an unknown field first": wire.message({9: 1, 1: 3, 2: 5}),
    "a long value": wire.varint(1 << 3) + long_varint(3) + wire.field(2, 5),
    "a long size": wire.field(1, 3) + wire.varint(2 << 3) + long_varint(5),
    "a long tag": b"\x88\0" + wire.varint(3) + wire.field(2, 5),
    "fields in the other order": wire.message({2: 5, 1: 3}),
    "a field twice": wire.message({1: 8, 2: 5}) + wire.field(1, 3),
    "much that is unknown": wire.message({1: 3, 2: 5, 30: bytes(60 << 10)}),
}


@pytest.mark.parametrize("head", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("at", [0, 1, 50, 99])
def test_other_encodings(head: bytes, at: int, tmp_path: pathlib.Path) -> None:
    messages = random_messages(random.Random(at), 100)
    messages[at] = (3, b"12345")
    parts = list(itertools.starmap(wire.one_message, messages))
    parts[at] = wire.entry(head) + wire.padded(b"12345", 8)
    assert by_both(opened(tmp_path / "x.img", b"".join(parts)), 0, len(messages)) == (messages, "")


# ---- what is damaged -------------------------------------------------------------------------


def test_cut_off_anywhere(tmp_path: pathlib.Path) -> None:
    messages = random_messages(random.Random(3), codec._MANY, (0, 1, 9, 20))
    data = b"".join(itertools.starmap(wire.one_message, messages))
    for end in range(0, len(data)):
        found, why = by_both(opened(tmp_path / "x.img", data[:end]), 0, len(messages))
        assert found == messages[: len(found)]
        assert why.startswith("x.img"), end


def test_damaged_anywhere(tmp_path: pathlib.Path) -> None:
    """One byte after the other becomes another one."""
    dice, refused = random.Random(4), 0
    messages = random_messages(dice, codec._MANY, (0, 1, 9, 20))
    data = bytearray(b"".join(itertools.starmap(wire.one_message, messages)))
    for at, was in enumerate(bytes(data)):
        data[at] = dice.choice([value for value in (0, 1, 0x80, 0xFF, was ^ 1) if value != was])
        refused += by_both(opened(tmp_path / "x.img", data), 0, len(messages))[1] != ""
        data[at] = was
    assert refused > len(data) // 4


def test_long_ones_cut_off(tmp_path: pathlib.Path) -> None:
    """Where a block ends, and at the end of what is longer than one."""
    messages = [(1, b"short")] * codec._MANY + [(2, bytes(2 * BLOCK)), (3, b"last")]
    data = b"".join(itertools.starmap(wire.one_message, messages))
    last = len(wire.one_message(3, b"last"))
    for end in (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(data) - last - 1, len(data) - last, len(data) - 1):
        found, why = by_both(opened(tmp_path / "x.img", data[:end]), 0, len(messages))
        assert len(found) == codec._MANY + (end >= len(data) - last)
        assert why.startswith("x.img"), end


# ---- the loop itself -------------------------------------------------------------------------

ONE = wire.one_message(3, b"12345")
NUMBERS = struct.Struct("=3Q")


@pytest.mark.parametrize("where", [(-1, 4), (0, 11), (5, 4), (11, 11), (1 << 62, 1 << 62), (0, -1)])
def test_outside_the_block(where: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside the buffer"):
        loops.c.read_messages(bytearray(10), *where, 1, bytearray(24))


@pytest.mark.parametrize("arguments", [(bytes(10), 0, 10, 1, bytearray(24)), (bytearray(10), 0, 10, 1, bytes(24)), ()])
def test_wrong_types(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        loops.c.read_messages(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [*range(0, 50), 71, 72, 1000])
def test_room_for_numbers(room: int) -> None:
    """It writes whole triples, and nothing behind the last that there is room for."""
    out = bytearray(b"\xee" * room)
    seen, at, why = loops.c.read_messages(bytearray(3 * ONE), 0, 3 * len(ONE), 3, out)
    assert (seen, at) == (min(3, room // 24), seen * len(ONE))
    assert why == (0 if seen == 3 else loops.FULL)
    expected = [(3, n * len(ONE) + len(ONE) - 8, 5) for n in range(seen)]
    assert list(NUMBERS.iter_unpack(out[: 24 * seen])) == expected
    assert out[24 * seen :] == b"\xee" * (room - 24 * seen)


@pytest.mark.parametrize("count", [0, -1, -(1 << 63)])
def test_none_are_wanted(count: int) -> None:
    assert loops.c.read_messages(bytearray(ONE), 0, len(ONE), count, bytearray(24)) == (0, 0, 0)


def test_hostile_blocks() -> None:
    """Whatever is in a block, the loop stays within it and ends."""
    dice = random.Random(7)
    for _ in range(20000):
        size = dice.randrange(80)
        block = bytearray(dice.choice((dice.randbytes(size), bytes(size), b"\xff" * size, (5 * ONE)[:size])))
        for _ in range(dice.randrange(3) if size else 0):
            block[dice.randrange(size)] = dice.choice((0, 1, 4, 0x7F, 0x80, 0xFF))
        end = dice.randrange(size + 1)
        at = dice.randrange(end + 1)
        out = bytearray(dice.randrange(100))
        seen, to, why = loops.c.read_messages(block, at, end, dice.randrange(5), out)
        assert 0 <= seen <= min(4, len(out) // 24)
        assert at <= to <= end
        assert why in (0, loops.FULL, loops.ODD)
        for type_, place, length in NUMBERS.iter_unpack(out[: 24 * seen]):
            assert 1 <= type_ < 1 << 63
            assert at + 8 <= place <= place + length <= to


def test_memory_does_not_grow_with_the_image(tmp_path: pathlib.Path, both_loops: bool) -> None:
    """Some times the longest message at most, beside the blocks."""
    messages = [(1, bytes(1 << 20)), (2, b"short")] * 40
    image = opened(tmp_path / "x.img", b"".join(itertools.starmap(wire.one_message, messages)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read(image, 0, len(messages))) == len(messages)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
