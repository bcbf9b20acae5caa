"""Dumps of ipcimg's that have only the pages that have changed, and what a real CRIU makes of them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from tests.commands import SHOW, ipcimg, refused, run, same
from tests.kernel import oracle

from .criu import Program, copy, criu
from .test_images import entries, passes

PARENT, PRESENT = 1, 4  # pagemap_entry.flags
SHARED = 1  # of the ids of the program: the segment that parent and child share


def flags(directory: Path) -> set[int]:
    """Of all runs of the page maps of segments."""
    return {one["flags"] for pagemap in directory.glob("pagemap-shmem-*.img") for one in entries(pagemap)[1:]}


def stored(directory: Path) -> int:
    """Bytes of pages of segments that are in a directory itself."""
    pagemaps = [entries(pagemap)[0]["pages_id"] for pagemap in directory.glob("pagemap-shmem-*.img")]
    return sum((directory / f"pages-{pages_id}.img").stat().st_size for pages_id in pagemaps)


def write(program: Program, offset: int, data: bytes) -> bytes:
    """Write into the segment that is shared; gives what was there."""
    import ctypes

    def change() -> bytes:
        address = oracle.attach(int(program.ids[SHARED]))
        before = ctypes.string_at(address + offset, len(data))
        ctypes.memmove(address + offset, data, len(data))
        oracle.detach(address)
        return before

    return program.namespace.do(change)


def test_while_it_runs(tmp_path: Path) -> None:
    """ipcimg dumps while the program runs; what has changed by the time that CRIU has stopped it is dumped then."""
    first, second = tmp_path / "1", tmp_path / "2"
    second.mkdir()
    with contextlib.closing(Program("shm", tmp_path)) as program:
        # Other than what the program looks for in the end: a page that differs, one that is there and will be a hole or
        # zeros, and one that will be there.
        meant = write(program, 4096, b"not yet")
        write(program, 2 * 4096, b"x" * 4096)
        last = write(program, 4 * 4096, bytes(4096))
        ipcimg("dump", "-t", program.pid, "-D", first, "--allow-inconsistent")
        write(program, 4096, meant)
        write(program, 2 * 4096, bytes(4096))
        write(program, 4 * 4096, last)
        criu("dump", second, "-t", program.pid, "--leave-stopped")
        assert not (second / "parent").exists()
        whole = copy(second, tmp_path / "whole")
        ipcimg("dump", "-t", program.pid, "--criu-set", second, "--parent", first, "--frozen-by-caller")
    assert os.readlink(second / "parent") == "../1"
    assert flags(second) == {PARENT, PRESENT}
    assert stored(second) == 2 * 4096
    same(whole, second, "--only", "shm,msg,sem")
    ipcimg("verify", second)
    passes(program, second)


def test_a_chain_of_three(tmp_path: Path) -> None:
    """The page that CRIU looks for is in the parent of the parent."""
    directories = [tmp_path / name for name in "123"]
    directories[2].mkdir()
    with contextlib.closing(Program("shm", tmp_path)) as program:
        meant = write(program, 4096, b"not yet")
        ipcimg("dump", "-t", program.pid, "-D", directories[0], "--allow-inconsistent")
        write(program, 4096, meant)
        ipcimg("dump", "-t", program.pid, "-D", directories[1], "--parent", directories[0], "--allow-inconsistent")
        criu("dump", directories[2], "-t", program.pid, "--leave-stopped")
        last = ("dump", "-t", program.pid, "--criu-set", directories[2], "--frozen-by-caller")
        ipcimg(*last, "--parent", directories[1])
    assert [stored(one) // 4096 for one in directories][1:] == [1, 0]
    assert flags(directories[2]) == {PARENT}
    passes(program, directories[2])


def test_beside_a_pre_dump(tmp_path: Path) -> None:
    """The page maps of CRIU's processes and ours have one link for both."""
    first, second = tmp_path / "1", tmp_path / "2"
    with contextlib.closing(Program("shm", tmp_path)) as program:
        first.mkdir()
        second.mkdir()
        criu("pre-dump", first, "-t", program.pid, "--track-mem")
        ipcimg("dump", "-t", program.pid, "-D", first, "--allow-inconsistent")
        write(program, 3 * 4096, b"x")  # a page that was not there, and that the program wants to be zeros
        write(program, 3 * 4096, b"\0")
        criu("dump", second, "-t", program.pid, "--track-mem", "--prev-images-dir", "../1", "--leave-stopped")
        assert os.readlink(second / "parent") == "../1"
        of_processes = [path for path in second.glob("pagemap-*.img") if "shmem" not in path.name]
        last = ("dump", "-t", program.pid, "--criu-set", second, "--frozen-by-caller")
        (tmp_path / "3").mkdir()
        criu("dump", copy(second, tmp_path / "0"), "-t", program.pid, "--leave-stopped")
        line = refused(*last, "--parent", tmp_path / "0")
        assert line.startswith(f"image directory {second}: it has a parent, '../1', and it is not {tmp_path}/0")
        ipcimg(*last, "--parent", first)
    assert of_processes
    inherited = [json.loads(run(SHOW, "--json", path).stdout)["entries"][1:] for path in of_processes]
    assert any(one.get("in_parent") or one["flags"] & PARENT for runs in inherited for one in runs)
    assert flags(second) == {PARENT}
    assert stored(second) == 0
    passes(program, second)


def test_a_link_that_criu_could_take_for_its_own(tmp_path: Path) -> None:
    """Without a link of its own, a dump of CRIU's gets none to a directory with page maps of the same processes."""
    first, second = tmp_path / "1", tmp_path / "2"
    with contextlib.closing(Program("shm", tmp_path)) as program:
        first.mkdir()
        second.mkdir()
        criu("dump", first, "-t", program.pid, "--leave-running")
        ipcimg("dump", "-t", program.pid, "--criu-set", first, "--force")
        criu("dump", second, "-t", program.pid, "--leave-stopped")
        last = ("dump", "-t", program.pid, "--criu-set", second, "--frozen-by-caller")
        line = refused(*last, "--parent", first)
        assert line.startswith(f"image directory {second}: with a link to {first} CRIU would look there for more ")
        assert not (second / "parent").exists()
        ipcimg(*last)
    passes(program, second)


def test_huge_pages(tmp_path: Path) -> None:
    """Page maps count in ordinary pages."""
    Path("/proc/sys/vm/nr_hugepages").write_text("12")
    first, second = tmp_path / "1", tmp_path / "2"
    second.mkdir()
    with contextlib.closing(Program("shm-hugetlb", tmp_path)) as program:
        ipcimg("dump", "-t", program.pid, "-D", first, "--allow-inconsistent")
        criu("dump", second, "-t", program.pid, "--leave-stopped")
        ipcimg("dump", "-t", program.pid, "--criu-set", second, "--parent", first, "--frozen-by-caller")
    assert flags(second) == {PARENT}
    passes(program, second)


@pytest.mark.parametrize("how", ["gone", "another"])
def test_without_its_parent(how: str, tmp_path: Path) -> None:
    """CRIU would not notice another parent; ipcimg does."""
    first, second = tmp_path / "1", tmp_path / "2"
    with contextlib.closing(Program("shm", tmp_path)) as program:
        ipcimg("dump", "-t", program.pid, "-D", first, "--allow-inconsistent")
        ipcimg("dump", "-t", program.pid, "-D", second, "--parent", first, "--allow-inconsistent")
        if how == "gone":
            first.rename(tmp_path / "elsewhere")
        else:
            (second / "parent").unlink()
            ipcimg("dump", "-t", program.pid, "-D", tmp_path / "3", "--allow-inconsistent")
            (second / "parent").symlink_to("../3")
    assert ("which cannot be read" if how == "gone" else "is not that of the set") in refused("verify", second)
