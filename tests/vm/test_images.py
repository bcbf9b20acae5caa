"""The images of a real CRIU and ours, file by file, and the ways in which a CRIU comes to dump."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import IPCIMG, SHOW, ipcimg, refused, run, same

from .criu import Program, copy, criu

COMMON_MAGIC = bytes.fromhex("19435654")


@contextlib.contextmanager
def stopped(name: str, scratch: Path) -> Iterator[tuple[Program, Path]]:
    """A program that CRIU has dumped and left stopped, and the image directory."""
    program = Program(name, scratch)
    try:
        directory = scratch / "criu"
        directory.mkdir()
        criu("dump", directory, "-t", program.pid, "--leave-stopped")
        yield program, directory
    finally:
        program.kill()


def passes(program: Program, directory: Path) -> None:
    restored = program.restore(directory)
    try:
        assert restored.finish() == "PASS\n"
    finally:
        restored.close()


def of_set(directory: Path) -> dict[str, Path]:
    """The ipcns images by their kinds."""
    return {path.name.split("-")[1]: path for path in directory.glob("ipcns-*.img")}


def entries(image: Path) -> list[dict[str, int]]:
    found: list[dict[str, int]] = json.loads(run(SHOW, "--json", image).stdout)["entries"]
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in (Path(__file__).parent / "programs").glob("*.c")))
def test_same_bytes(name: str, tmp_path: Path) -> None:
    """With --criu-exact ours are CRIU's; page maps alone are those of CRIU 4.2, with the count in field 5."""
    if name == "shm-hugetlb":
        Path("/proc/sys/vm/nr_hugepages").write_text("12")
    with stopped(name, tmp_path) as (program, theirs):
        ours = tmp_path / "ours"
        ipcimg("dump", "-t", program.pid, "-D", ours, "--criu-exact", "--frozen-by-caller")
    images = of_set(theirs)
    assert images.keys() == of_set(ours).keys()  # neither writes an image of a kind of which there is nothing
    for kind, path in of_set(ours).items():
        assert path.read_bytes() == images[kind].read_bytes(), kind
    pagemaps = {path.name for path in theirs.glob("pagemap-shmem-*.img")}
    assert pagemaps == {path.name for path in ours.glob("pagemap-shmem-*.img")}
    for file in pagemaps:
        (their_head, *their_runs), (our_head, *our_runs) = entries(theirs / file), entries(ours / file)
        assert all(set(one) == {"vaddr", "compat_nr_pages", "flags"} for one in their_runs)
        assert all(set(one) == {"vaddr", "compat_nr_pages", "flags", "nr_pages"} for one in our_runs)
        their_pages, our_pages = (
            {run["vaddr"] + 4096 * n: run["flags"] for run in runs for n in range(run[count])}
            for runs, count in ((their_runs, "compat_nr_pages"), (our_runs, "nr_pages"))
        )
        assert our_pages == their_pages
        data = [
            (directory / f"pages-{head['pages_id']}.img").read_bytes()
            for directory, head in ((theirs, their_head), (ours, our_head))
        ]
        assert data[0] == data[1]


def test_hugetlb_flag(tmp_path: Path) -> None:
    Path("/proc/sys/vm/nr_hugepages").write_text("12")
    with stopped("shm-hugetlb", tmp_path) as (_, directory):
        pass
    assert {one["hugetlb_flag"] for one in entries(of_set(directory)["shm"])} == {21 << 26 | 0o4000}


def first_format(directory: Path) -> None:
    """Make a dump one of CRIU's first format: without the common magic, which the inventory says."""
    for path in directory.glob("*.img"):
        data = path.read_bytes()
        if path.name == "inventory.img":
            at = data.index(b"\x08\x02")  # img_version: 2
            path.write_bytes(data[:at] + b"\x08\x01" + data[at + 2 :])
        elif data.startswith(COMMON_MAGIC):
            path.write_bytes(data[4:])


def test_first_format(tmp_path: Path) -> None:
    """What ipcimg takes for it is what CRIU takes for it."""
    with stopped("queues", tmp_path) as (program, directory):
        old = copy(directory, tmp_path / "old")
        first_format(old)
        same(old, directory)
        assert "of CRIU's first format (img_version 1)" in refused("dump", "-t", program.pid, "--criu-set", old)
    passes(program, old)


def test_chain(tmp_path: Path) -> None:
    """A dump after a pre-dump: pages that have not changed since are in the parent."""
    program = Program("shm", tmp_path)
    try:
        first, second = tmp_path / "1", tmp_path / "2"
        first.mkdir()
        second.mkdir()
        criu("pre-dump", first, "-t", program.pid, "--track-mem")
        criu("dump", second, "-t", program.pid, "--track-mem", "--prev-images-dir", "../1", "--leave-stopped")
        assert os.readlink(second / "parent") == "../1"
        assert "no ids-*.img tells" in refused("dump", "-t", program.pid, "--criu-set", first)
        again = tmp_path / "3"
        copy(second, again)
        ipcimg("dump", "-t", program.pid, "--criu-set", again, "--frozen-by-caller")
        assert os.readlink(again / "parent") == "../1"
        same(second, again, "--only", "shm,msg,sem")
    finally:
        program.kill()
    passes(program, second)
    passes(program, again)


def test_post_dump(tmp_path: Path) -> None:
    """criu itself calls ipcimg, when its own images are there and the processes are still stopped."""
    program = Program("shm", tmp_path)
    try:
        directory, script = tmp_path / "criu", tmp_path / "script"
        directory.mkdir()
        command = shlex.join([*IPCIMG, "dump", "--frozen-by-caller", "-t"])
        script.write_text(
            f"#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = post-dump ] || exit 0\ncd {shlex.quote(os.getcwd())}\n"
            f'{command} "$CRTOOLS_INIT_PID" --criu-set "$CRTOOLS_IMAGE_DIR" >{tmp_path}/said 2>&1\n'
        )
        script.chmod(0o755)
        criu("dump", directory, "-t", program.pid, "--action-script", script)
    finally:
        program.kill()
    assert list(directory.glob("ipcimg-manifest-*.img")), (tmp_path / "said").read_text()
    assert {"inventory.img", "stats-dump"} <= {path.name for path in directory.iterdir()}
    passes(program, directory)


def test_namespace_of_criu_itself(tmp_path: Path) -> None:
    """CRIU says nothing and dumps no IPC namespace; so there is no place for ours."""
    program = Program("queues", tmp_path)
    try:
        directory = tmp_path / "criu"
        directory.mkdir()
        criu("dump", directory, "-t", program.pid, "--leave-stopped", namespace=program.namespace.path)
        assert list(directory.glob("ipcns-*")) == []
        line = refused("dump", "-t", program.pid, "--criu-set", directory)
        assert "were in criu's own IPC namespace, which it neither dumps nor restores" in line
    finally:
        program.kill()


def test_compressed(tmp_path: Path) -> None:
    """A page map with the sizes of compressed pages, as later versions of CRIU write it, is refused by name."""
    with stopped("shm-unaligned", tmp_path) as (_, directory):
        pagemap = min(directory.glob("pagemap-shmem-*.img"))
    data = bytearray(pagemap.read_bytes())
    first = 12 + data[8]  # where the first entry begins, behind the head
    length = data[first]
    data[first] += 2
    data[first + 4 + length : first + 4 + length] = b"\x30\x09"  # field 6: 9 bytes
    pagemap.write_bytes(data)
    line = refused("verify", directory)
    assert line.startswith(f"{pagemap}: byte {first}: ")
    assert "fields [6], as CRIU after 4.2 writes for compressed pages" in line


def change_pagemaps(directory: Path, scratch: Path, change: Callable[[dict[str, int]], None]) -> None:
    """Change each entry of the page maps of segments, by way of JSON."""
    for pagemap in directory.glob("pagemap-shmem-*.img"):
        document = json.loads(run(SHOW, "--json", pagemap).stdout)
        for one in document["entries"][1:]:
            change(one)
        scratch.write_text(json.dumps(document))
        ipcimg("encode", "--force", scratch, pagemap)


def test_counts_in_field_2_alone(tmp_path: Path) -> None:
    """As CRIU up to 4.1 writes them, and crit of 3.17.1 shows them."""

    def older(one: dict[str, int]) -> None:
        one["nr_pages"] = one.pop("compat_nr_pages")

    with stopped("shm-unaligned", tmp_path) as (program, directory):
        ipcimg("dump", "-t", program.pid, "--criu-set", directory, "--frozen-by-caller")
    change_pagemaps(directory, tmp_path / "json", older)
    passes(program, directory)


def test_counts_in_field_5_alone(tmp_path: Path) -> None:
    """Why --criu-set goes without --criu-exact: this CRIU does not restore what CRIU 4.2 writes."""

    def newer(one: dict[str, int]) -> None:
        one["compat_nr_pages"] = 0

    with stopped("shm-unaligned", tmp_path) as (program, directory):
        ipcimg("dump", "-t", program.pid, "--criu-set", directory, "--frozen-by-caller")
    change_pagemaps(directory, tmp_path / "json", newer)
    with pytest.raises(AssertionError):
        passes(program, directory)


def test_where_it_runs() -> None:
    """On the kernel of the virtual machine, with every capability."""
    assert os.uname().release.startswith("6.1.")
    with open("/proc/self/status") as status:
        [effective] = [int(line.split()[1], 16) for line in status if line.startswith("CapEff:")]
    with open("/proc/sys/kernel/cap_last_cap") as last:
        assert effective == (2 << int(last.read())) - 1
