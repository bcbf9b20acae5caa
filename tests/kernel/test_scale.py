"""Many objects and big ones go through, in little memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from ..commands import peak_memory
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.exhaustive

MEMORY = 96 << 10  # KiB

OBJECTS, SEGMENTS = 20_000, 4_000
GIB = 1 << 30


def many_objects() -> None:
    for n in range(OBJECTS):
        oracle.queue(n + 1)
        oracle.semaphores(n + 1, [n % 100])
    oracle.set_variable("kernel/shmmni", SEGMENTS)
    for n in range(SEGMENTS):
        oracle.segment(n + 1, 8192, [(n, b"%d" % n)])


def many_messages() -> None:
    for n in range(2000):
        oracle.queue(n + 1, messages=[(m + 1, b"%050d" % (n * m)) for m in range(100)])


def big_segment() -> None:
    address = oracle.attach(oracle.segment(1, GIB))
    for start in range(0, GIB, 1 << 20):
        ctypes.memmove(address + start, b"%016d" % start * (1 << 16), 1 << 20)
    oracle.detach(address)


def same_big_segment() -> bool:
    """Compared piece by piece: the test is to stay small too."""
    address = oracle.attach(0)
    same = all(
        ctypes.string_at(address + start, 1 << 20) == b"%016d" % start * (1 << 16) for start in range(0, GIB, 1 << 20)
    )
    oracle.detach(address)
    return same


@pytest.mark.parametrize("fill", [many_objects, many_messages])
def test_many(source: Namespace, target: Namespace, tmp_path: Path, fill: Callable[[], None]) -> None:
    source.do(fill)
    assert peak_memory("dump", "-t", source.pid, "-D", tmp_path / "d") < MEMORY
    assert peak_memory("restore", "-t", target.pid, "-D", tmp_path / "d") < MEMORY
    assert peak_memory("diff", tmp_path / "d", f"ns:{target.pid}") < MEMORY
    original, restored = source.do(oracle.everything), target.do(oracle.everything)
    assert original.keys() == restored.keys()
    for what in original:  # one by one: the difference of two such dictionaries is unreadable
        assert (original[what] == restored[what]) is True, what


def test_big_segment(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(big_segment)
    assert peak_memory("dump", "-t", source.pid, "-D", tmp_path / "d") < MEMORY
    assert peak_memory("restore", "-t", target.pid, "-D", tmp_path / "d") < MEMORY
    assert target.do(same_big_segment)
    assert peak_memory("diff", tmp_path / "d", f"ns:{target.pid}") < MEMORY


def test_sparse_segment(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """16 GiB with three pages in it: holes are neither read nor stored, and stay holes on both sides."""
    data = [(0, b"first"), (8 * GIB + 12345, b"middle"), (16 * GIB - 5, b"last!")]
    source.do(lambda: oracle.segment(1, 16 * GIB, data))
    assert peak_memory("dump", "-t", source.pid, "-D", tmp_path / "d") < MEMORY
    assert (tmp_path / "d" / "pages-1.img").stat().st_size == 3 * 4096
    peak_memory("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert peak_memory("diff", f"ns:{source.pid}", f"ns:{target.pid}") < MEMORY
    assert source.do(lambda: oracle.table("shm"))[0]["rss"] == 3 * 4096
    assert target.do(lambda: oracle.table("shm"))[0]["rss"] == 3 * 4096
