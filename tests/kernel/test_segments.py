"""Large segments, sparse ones, and the page that a segment ends in."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import ipcimg as library
from ipcimg import loops, pieces, shm

from ..commands import IPCIMG, ipcimg, peak_memory, refused, same
from . import oracle
from .oracle import Namespace

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def written_all_over(shmid: int, size: int, step: int = PAGE) -> None:
    """Something else in each page, or in every so manieth."""
    address = oracle.attach(shmid)
    for at in range(0, size, step):
        ctypes.memmove(address + at, b"%d" % (at + 1), len(b"%d" % (at + 1)))
    oracle.detach(address)


@pytest.fixture(params=["c", "python", "c, no map_files", "python, no map_files"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the loops in C and without; with the right to open the file behind a segment and without."""
    how = str(request.param)
    if how.startswith("python"):
        for module in (loops, pieces, shm):
            monkeypatch.setattr(module, "c", None)
    if how.endswith("no map_files"):
        real = os.open

        def refuse(path: str, *arguments: object, **options: object) -> int:
            if str(path).startswith("/proc/self/map_files/"):
                raise PermissionError(1, "Operation not permitted", path)
            return real(path, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refuse)
    return how


def test_every_way(way: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Pages of many sizes and places, and what was written behind the end, where the last page goes on."""

    def fill() -> None:
        written_all_over(oracle.segment(1, 20 * MIB), 20 * MIB)
        written_all_over(oracle.segment(2, 200 * MIB), 200 * MIB, 100 * PAGE)
        oracle.segment(3, 3 * MIB, [(0, bytes(MIB + MIB // 2)), (MIB + 5, b"middle"), (2 * MIB, os.urandom(MIB))])
        for n, size in enumerate((1, PAGE - 1, PAGE, PAGE + 1, 10 * MIB + 9), 4):
            shmid = oracle.segment(n, size)
            address = oracle.attach(shmid)
            last = size - size % PAGE if size % PAGE else size - PAGE
            ctypes.memmove(address + last, b"e" * PAGE, PAGE)
            oracle.detach(address)

    source.do(fill)
    before = source.do(lambda: oracle.rows("shm"))
    with library.of_process(source.pid) as ns:
        library.dump(tmp_path / "d", ns)
    assert source.do(lambda: oracle.rows("shm")) == before
    with library.of_process(target.pid) as ns:
        library.restore(tmp_path / "d", ns)
    same(tmp_path / "d", f"ns:{target.pid}")
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    of_zeros = [found["shm"][2].pop("rss") for found in (original, restored)]  # type: ignore[index]
    assert of_zeros[0] - of_zeros[1] == MIB + MIB // 2 - PAGE
    assert restored == original

    def last_pages() -> list[bytes]:
        found = []
        for shmid, one in oracle.table("shm").items():
            address = oracle.attach(shmid)
            found.append(ctypes.string_at(address + (one["size"] - 1) // PAGE * PAGE, PAGE))
            oracle.detach(address)
        return found

    assert target.do(last_pages) == source.do(last_pages)


def test_zeros_cost_nothing(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """They are left out, unless the bytes are to be those that CRIU writes."""
    size = 64 * MIB
    source.do(lambda: oracle.segment(1, size, [(0, bytes(size))]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert sum(path.stat().st_size for path in (tmp_path / "d").iterdir()) < 4096
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    same(tmp_path / "d", f"ns:{source.pid}")
    assert target.do(lambda: oracle.table("shm"))[0]["rss"] == 0
    assert target.do(lambda: oracle.content(0, size)) == bytes(size)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "exact", "--criu-exact")
    assert (tmp_path / "exact" / "pages-1.img").stat().st_size == size
    same(tmp_path / "d", tmp_path / "exact")


def test_memory_does_not_grow_with_the_segment(source: Namespace, tmp_path: Path) -> None:
    size = 192 * MIB
    source.do(lambda: written_all_over(oracle.segment(1, size), size))
    assert peak_memory("dump", "-t", source.pid, "-D", tmp_path / "d") < 96 << 10
    assert peak_memory("restore", "--new-ns", "-D", tmp_path / "d", "--", "true") < 96 << 10


@pytest.mark.parametrize("size", [3 * PAGE, 24 * MIB])
@pytest.mark.parametrize(
    "options", [(), ("--into-free-ids",), ("--id", "shm:1")], ids=lambda options: " ".join(options)
)
def test_pages_that_are_not_as_they_were_written(
    source: Namespace, target: Namespace, tmp_path: Path, size: int, options: tuple[str, ...]
) -> None:
    """Those of what is restored are found while it is filled, those of what is not before; nothing is left."""

    def fill() -> None:
        for n in range(3):
            written_all_over(oracle.segment(n + 1, size), size)

    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    before = target.do(oracle.everything)
    for n in range(3):
        directory = shutil.copytree(tmp_path / "d", tmp_path / f"d{n}")
        pages = directory / f"pages-{n + 1}.img"
        with open(pages, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\1")
        line = refused("restore", "-t", target.pid, "-D", directory, *options)
        assert line == f"{pages}: is not as it was written: its digest is another one"
        assert target.do(oracle.everything) == before
        shutil.rmtree(directory)
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", *options)


@pytest.mark.parametrize("command", ["dump", "restore"])
@pytest.mark.slow
def test_a_signal_in_the_middle(source: Namespace, target: Namespace, tmp_path: Path, command: str) -> None:
    """While a thread reads ahead: nothing is left, and the process ends with its thread."""
    size = 400 * MIB
    source.do(lambda: written_all_over(oracle.segment(1, size), size))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    before = target.do(oracle.everything)
    pages = tmp_path / "new" / ".ipcimg-1.tmp" / "pages-1.img"
    call = {
        "dump": ["dump", "-t", source.pid, "-D", tmp_path / "new"],
        "restore": ["restore", "-t", target.pid, "-D", tmp_path / "d"],
    }

    def at_work() -> bool:
        if command == "dump":
            return pages.exists() and pages.stat().st_size > 20 * MIB
        return any(row["rss"] > 20 * MIB for row in target.do(lambda: oracle.table("shm")).values())

    with subprocess.Popen(
        [*IPCIMG, *map(str, call[command])], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until = time.monotonic() + 60
        while not at_work():
            assert process.poll() is None, "it was over before it could be interrupted"
            assert time.monotonic() < until
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert error == b"ipcimg: Error: ended by SIGTERM\n"
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "new").exists()
    assert target.do(oracle.everything) == before
