"""The loops in C do what the reference in Python does, and leave to it what they cannot do."""

from __future__ import annotations

import array
import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import ipcimg as library
from ipcimg import codec, libc, loops, model
from ipcimg.image import ImageFile

from ..commands import ipcimg, refused
from . import oracle
from .oracle import Namespace

TYPES = (1, 127, 128, 1 << 31, 1 << 62, (1 << 63) - 1)
SIZES = (0, 1, 7, 8, 9, 55, 127, 128, 255, 256, 257, 1000, 4047, 4048, 4049, 8191, 8192)


@pytest.fixture(autouse=True)
def built() -> None:
    if loops.c is None:
        reason = "the loops in C were not built: NOT TESTED (gcc and Python's headers are needed: python3-dev)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def fill() -> None:
    """Queues of all sizes and types of messages, short ones and long ones in turn; sets of all sizes."""
    oracle.set_variable("kernel/msgmnb", 1 << 30)
    oracle.set_variable("kernel/msgmax", 1 << 24)
    dice = random.Random(6)
    for key, size in enumerate(SIZES, 1):
        oracle.queue(key, messages=[(mtype, dice.randbytes(size)) for mtype in TYPES])
    oracle.queue(0x100, messages=[(dice.choice(TYPES), dice.randbytes(dice.choice(SIZES))) for _ in range(2000)])
    oracle.queue(
        0x101, messages=[(1, dice.randbytes(1 << 20)), *((n, b"short") for n in range(1, 99)), (1, bytes(1 << 20))]
    )
    oracle.queue(0x102, messages=[(1, bytes([n % 256])) for n in range(3000)])
    oracle.own("msg", oracle.queue(0x103, messages=[(1, b"of somebody")]), 1000, 1001)
    for nsems in (1, 2, 3, 4, 5, 255, 4000, 20000):
        oracle.semaphores(nsems, [n % 32768 for n in range(nsems)])
    oracle.semaphores(0, [0])


def by_both(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], tmp_path: Path) -> list[Path]:
    """The directories that act has filled with the loops in C and without."""
    made = [tmp_path / "c", tmp_path / "python"]
    act(made[0])
    monkeypatch.setattr(loops, "c", None)
    act(made[1])
    return made


@pytest.mark.parametrize("options", [(), ("--criu-exact",)], ids=["own", "criu-exact"])
def test_the_same_images(
    source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    source.do(fill)

    def dump(path: Path) -> None:
        ipcimg("dump", "-t", source.pid, "-D", path, *options)

    made = by_both(monkeypatch, dump, tmp_path)
    for name in ("ipcns-msg-1.img", "ipcns-sem-1.img"):
        first, second = ((path / name).read_bytes() for path in made)
        assert first == second, name


def test_the_same_objects(
    source: Namespace, make_namespace: Callable[[], Namespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What either restores is the same, in the eyes of the oracle."""
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    targets: list[Namespace] = []

    def restore(path: Path) -> None:
        targets.append(make_namespace())
        ipcimg("restore", "-t", targets[-1].pid, "-D", tmp_path / "d")

    by_both(monkeypatch, restore, tmp_path)
    first, second = (target.do(oracle.everything) for target in targets)
    assert first == second == source.do(oracle.everything)


def test_a_failure_in_the_loop_undoes_everything(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """The kernel refuses a message of the last queue, when others are made."""

    def full() -> None:
        oracle.queue(1, messages=[(1, b"before")])
        oracle.queue(2, messages=[(1, b"x")] * 100)

    source.do(full)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    before = target.do(oracle.everything)
    make: Callable[..., tuple[int, int, int, int, int]] = loops.c.make_queues

    def refusing(block: bytearray, at: int, *others: int) -> tuple[int, int, int, int, int]:
        made, _, noted, given, why = make(block, at, *others)
        return (0, at, noted, given, errno.EAGAIN) if made else (made, at, noted, given, why)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops.c, "make_queues", refusing)
        why = refused("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert "it does not take all its messages" in why
    assert target.do(oracle.everything) == before


# ---- bytes that are not what they should be --------------------------------------------------


def image_of(source: Namespace, directory: Path) -> Path:
    def few() -> None:
        for key in range(1, 40):
            oracle.queue(key, messages=[(n + 1, bytes(n)) for n in range(70)])

    source.do(few)
    ipcimg("dump", "-t", source.pid, "-D", directory)
    return directory / "ipcns-msg-1.img"


@pytest.mark.slow
def test_scanned_as_read(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image with some bytes changed or cut off both tell the same: what it holds, or where it makes no sense."""
    data = image_of(source, tmp_path / "d").read_bytes()
    dice, broken = random.Random(1), tmp_path / "broken.img"

    def told() -> object:
        image = ImageFile(os.open(broken, os.O_RDONLY), "broken.img")
        try:
            return [(q.permissions, q.qnum, q.size, q.longest, q.facts) for q in codec.decode_queues(image)]
        except library.ImageError as error:
            return str(error)

    loops_in_c, outcomes = loops.c, set()
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(dice.randrange(3)):
            changed[dice.randrange(8, len(changed))] = dice.choice((0, 1, 8, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        broken.write_bytes(changed[: dice.choice((len(changed), dice.randrange(8, len(changed))))])
        monkeypatch.setattr(loops, "c", loops_in_c)
        by_c = told()
        monkeypatch.setattr(loops, "c", None)
        by_python = told()
        assert by_c == by_python
        outcomes.add(type(by_c))
    assert outcomes == {list, str}


def test_hostile_blocks() -> None:
    """Whatever is in a block, the loops stay within it and end."""
    dice = random.Random(2)
    for _ in range(20000):
        size = dice.randrange(80)
        block = bytearray(dice.choice((dice.randbytes(size), bytes(size), b"\xff" * size)))
        if size >= 4:
            block[:4] = dice.randrange(size + 2).to_bytes(4, "little")
        end = dice.randrange(size + 1)
        at = dice.randrange(end + 1)
        seen, to, *_ = loops.c.scan(bytearray(block), at, end, dice.randrange(200), dice.randrange(5))
        assert 0 <= seen <= 4 and at <= to <= at + 200
        sent, to, why = loops.c.send(-1, bytearray(block), at, end, 3)
        assert (sent, to) == (0, at) and why


@pytest.mark.parametrize("where", [(-1, 4), (0, 11), (5, 4)])
def test_outside_the_block(where: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        loops.c.send(0, bytearray(10), *where, 1)
    with pytest.raises(ValueError):
        loops.c.scan(bytearray(10), *where, 10, 1)


def test_objects_that_the_loop_leaves(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Ids that are not there any more, and too many messages, are for the reference."""
    source.do(fill)

    def left() -> list[int]:
        ids = array.array("i", [32767, oracle.queue(0x999, messages=[(1, b"x")] * 5)])
        out = bytearray(4096)
        first = loops.c.dump_queues(ids.tobytes(), 0, False, 100, out)
        second = loops.c.dump_queues(ids.tobytes(), 1, False, 4, out)
        third = loops.c.dump_queues(ids.tobytes(), 1, False, 5, out)
        fourth = loops.c.dump_queues(ids.tobytes(), 1, False, 5, bytearray(300))
        return [first[3], *second[:1], second[3], third[0], third[2], third[3], fourth[1], fourth[3]]

    gone = libc.GONE[0]
    assert source.do(left) == [gone, 1, loops.ODD, 2, 5, 0, 0, loops.FULL]


def test_stored_and_framed(source: Namespace, tmp_path: Path) -> None:
    """Images give their messages also as they stand there, to whoever asks for it."""
    path = image_of(source, tmp_path / "d")
    [first, *_] = codec.decode_queues(ImageFile(os.open(path, os.O_RDONLY), "x.img"))
    assert isinstance(first.messages, model.StoredMessages)
    block = first.messages.block()
    block.more()
    assert block.data[block.at : block.at + 4] == b"\x04\0\0\0"
