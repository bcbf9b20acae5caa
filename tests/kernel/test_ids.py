"""Every id an object can have comes back: edges, random ones, and those that only some kernels can hold at once."""

from __future__ import annotations

import array
import dataclasses
import errno
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import ipcimg as library

from ..commands import ipcimg, refused, same
from ..fidelity import row
from . import oracle
from .oracle import Namespace

INDEXES = 1 << 15  # an id is the index + INDEXES * the sequence number, unless the kernel has ipcmni_extend
EXTENDED = 1 << 24
KINDS = {"msg": "message queue", "sem": "semaphore set", "shm": "shared memory segment"}


def of_all_indexes(number: int) -> list[int]:
    chosen = random.Random(4711)
    return [index + INDEXES * chosen.randrange(1 << 16) for index in chosen.sample(range(INDEXES), number)]


# Objects of one namespace have distinct indexes.
IDS = {
    "first": [0, 1, 32767],
    "second": [32768, 32769, 2**31 - 1],
    "last-sequence": [65535 * 32768, 65535 * 32768 + 1, 65535 * 32768 + 32766],
    "2^24": [2**24, 2**24 - 1],
    "random": of_all_indexes(300),
}


def fill(ids: Sequence[int]) -> None:
    """Of every kind an object for each id, every other with a key; what is in it tells it from the others."""
    for n, wanted in enumerate(ids):
        key = (n + 1) * (n % 2)
        oracle.queue(key, messages=[(wanted + 1, b"%d" % wanted)], wanted=wanted)
        oracle.semaphores(key, [n, wanted % INDEXES], wanted=wanted)
        oracle.segment(key, 100 + n, [(n, b"%d" % wanted)], wanted=wanted)


@row("ids")
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids(make_namespace: Callable[[], Namespace], tmp_path: Path, ids: list[int]) -> None:
    source, target, reverse = (make_namespace() for _ in range(3))
    source.do(lambda: fill(ids))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    # The kernel gives free indexes in ascending order by itself, and so are the images: not here.
    loaded = library.load(tmp_path / "d")
    backwards = dataclasses.replace(
        loaded,
        queues=list(loaded.queues)[::-1],
        semaphores=list(loaded.semaphores)[::-1],
        segments=list(loaded.segments)[::-1],
    )
    library.save(backwards, tmp_path / "e")
    ipcimg("restore", "-t", reverse.pid, "-D", tmp_path / "e")
    same(tmp_path / "e", f"ns:{reverse.pid}")
    original = source.do(oracle.everything)
    for kind in KINDS:
        assert original[kind].keys() == set(ids)  # type: ignore[attr-defined]
    assert target.do(oracle.everything) == original
    assert reverse.do(oracle.everything) == original


@pytest.fixture
def extended(make_namespace: Callable[[], Namespace]) -> bool:
    """Whether the kernel was booted with ipcmni_extend."""

    def accepted() -> bool:
        try:
            oracle.set_variable("kernel/msgmni", EXTENDED)
        except OSError as error:
            assert error.errno == errno.EINVAL
            return False
        return True

    return make_namespace().do(accepted)


def save(empty: Namespace, directory: Path, kind: str, ids: Sequence[int]) -> None:
    """Images with an object of a kind for each of the ids."""
    ipcimg("dump", "-t", empty.pid, "-D", f"{directory}-empty")
    contents = library.load(f"{directory}-empty")
    permissions = [library.Permissions(n + 1, 0, 0, 0, 0, 0o600, wanted) for n, wanted in enumerate(ids)]
    if kind == "msg":
        queues = [library.MessageQueue(p, 16384, 1, [library.Message(p.key, b"%d" % p.id)]) for p in permissions]
        contents = dataclasses.replace(contents, queues=queues)
    elif kind == "sem":
        sets = [library.SemaphoreSet(p, array.array("H", [p.key, 32767])) for p in permissions]
        contents = dataclasses.replace(contents, semaphores=sets)
    else:
        segments = [library.SharedMemory(p, p.key * 1000, ()) for p in permissions]
        contents = dataclasses.replace(contents, segments=segments)
    library.save(contents, directory)


# Alike in their low 15 bits.
same_index = pytest.mark.parametrize("ids", [(1, 32769), (32769, 1), (32767, 65535)], ids=str)


@row("ipcmni_extend")
@same_index
@pytest.mark.parametrize("kind", KINDS)
def test_extended_ids(
    source: Namespace, target: Namespace, tmp_path: Path, extended: bool, kind: str, ids: tuple[int, int]
) -> None:
    if not extended:
        pytest.skip("NOT TESTED: this kernel was booted without ipcmni_extend")
    save(source, tmp_path / "d", kind, ids)
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    after = target.do(oracle.everything)
    assert after[kind].keys() == set(ids)  # type: ignore[attr-defined]
    if kind == "msg":
        assert after["messages"] == {wanted: [(n + 1, b"%d" % wanted)] for n, wanted in enumerate(ids)}
    elif kind == "sem":
        assert after["values"] == {wanted: (n + 1, 32767) for n, wanted in enumerate(ids)}
    else:
        assert after["contents"] == {wanted: bytes((n + 1) * 1000) for n, wanted in enumerate(ids)}


@same_index
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_extended_ids_are_refused(
    source: Namespace, target: Namespace, tmp_path: Path, extended: bool, kind: str, ids: tuple[int, int]
) -> None:
    """Both cannot be there at once on other kernels."""
    if extended:
        pytest.skip("NOT TESTED: this kernel was booted with ipcmni_extend")
    save(source, tmp_path / "d", kind, ids)
    before = target.do(oracle.everything)
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert line.startswith(f"{KINDS[kind]} {ids[1]} (key 0x00000002): ")
    assert "taken" in line
    assert target.do(oracle.everything) == before


@pytest.mark.parametrize("kind", KINDS)
def test_last_index_taken(source: Namespace, target: Namespace, tmp_path: Path, extended: bool, kind: str) -> None:
    """Many kernels then give an index beyond the last, so that the id is another object's: which is to stay."""
    indexes = EXTENDED if extended else INDEXES
    makers: dict[str, Callable[..., int]] = {"msg": oracle.queue, "sem": oracle.semaphores, "shm": oracle.segment}

    def tables() -> list[dict[int, dict[str, int]]]:
        return [oracle.table(kind) for kind in KINDS]

    target.do(lambda: makers[kind](0x77, wanted=indexes - 1))
    target.do(lambda: makers[kind](0x78, wanted=2 * indexes))
    before = target.do(tables)
    save(source, tmp_path / "d", kind, [2 * indexes - 1])
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert line.startswith(f"{KINDS[kind]} {2 * indexes - 1} (key 0x00000001): ")
    assert "taken" in line
    assert target.do(tables) == before
    assert target.do(oracle.variables)[f"kernel/{kind}_next_id"] == "-1"
