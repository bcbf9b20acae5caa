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
from tests.kernel import oracle

from .criu import NAMES, Program, copy, criu

COMMON_MAGIC = bytes.fromhex("19435654")


@contextlib.contextmanager
def stopped(name: str, scratch: Path) -> Iterator[tuple[Program, Path]]:
    """A program that CRIU has dumped and left stopped, and the image directory."""
    with started(name, scratch) as (program, directory):
        criu("dump", directory, "-t", program.pid, "--leave-stopped")
        yield program, directory


@contextlib.contextmanager
def started(name: str, scratch: Path) -> Iterator[tuple[Program, Path]]:
    """A program that runs, and an empty image directory for it."""
    directory = scratch / "criu"
    directory.mkdir()
    with contextlib.closing(Program(name, scratch)) as program:
        yield program, directory


def verdict(program: Program, directory: Path) -> str:
    """What the program says when criu has restored it."""
    with contextlib.closing(program.restore(directory)) as restored:
        return restored.finish()


def passes(program: Program, directory: Path) -> None:
    assert verdict(program, directory) == "PASS\n"


def of_set(directory: Path) -> dict[str, Path]:
    """The ipcns images by their kinds."""
    return {path.name.split("-")[1]: path for path in directory.glob("ipcns-*.img")}


def entries(image: Path) -> list[dict[str, int]]:
    found: list[dict[str, int]] = json.loads(run(SHOW, "--json", image).stdout)["entries"]
    return found


@pytest.mark.parametrize("name", NAMES)
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
    assert bool(pagemaps) == name.startswith("shm")
    for file in pagemaps:
        (their_head, *their_runs), (our_head, *our_runs) = entries(theirs / file), entries(ours / file)
        assert all(set(one) == {"vaddr", "compat_nr_pages", "flags"} for one in their_runs)
        assert all(set(one) == {"vaddr", "compat_nr_pages", "flags", "nr_pages"} for one in our_runs)
        their_pages = pages_of(theirs / f"pages-{their_head['pages_id']}.img", their_runs, "compat_nr_pages")
        our_pages = pages_of(ours / f"pages-{our_head['pages_id']}.img", our_runs, "nr_pages")
        if name == "shm-hugetlb":  # CRIU stores huge pages that nobody has used; ours are holes
            for offset in their_pages.keys() - our_pages.keys():
                assert not any(their_pages.pop(offset)[1])
        assert our_pages == their_pages


def pages_of(file: Path, runs: list[dict[str, int]], count: str) -> dict[int, tuple[int, bytes]]:
    """Each page of a segment by its offset: the flags of its run, and its content."""
    found = {}
    with file.open("rb") as pages:
        for one in runs:
            for n in range(one[count]):
                found[one["vaddr"] + 4096 * n] = (one["flags"], pages.read(4096))
        assert pages.read() == b""
    return found


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
        assert not of_set(old)["msg"].read_bytes().startswith(COMMON_MAGIC)
    passes(program, old)


def test_chain(tmp_path: Path) -> None:
    """Two dumps, of which the second has only those pages of the processes that have changed."""
    with contextlib.closing(Program("shm", tmp_path)) as program:
        first, second, again = tmp_path / "1", tmp_path / "2", tmp_path / "3"
        first.mkdir()
        second.mkdir()
        criu("dump", first, "-t", program.pid, "--track-mem", "--leave-running")
        criu("dump", second, "-t", program.pid, "--track-mem", "--prev-images-dir", "../1", "--leave-stopped")
        assert os.readlink(second / "parent") == "../1"
        line = refused("dump", "-t", program.pid, "--criu-set", first)
        assert line == f"image directory {first}: it is the parent of 2, whose pages it holds"
        copy(second, again)
        ipcimg("dump", "-t", program.pid, "--criu-set", again, "--frozen-by-caller")
        assert os.readlink(again / "parent") == "../1"
        same(second, again, "--only", "shm,msg,sem")
    runs = [run for pagemap in second.glob("pagemap-shmem-*.img") for run in entries(pagemap)[1:]]
    assert {run["flags"] for run in runs} == {4}  # of segments this CRIU writes all pages again
    passes(program, second)
    passes(program, again)


def change_pagemaps(directory: Path, into: Path, scratch: Path, change: Callable[[dict[str, int]], None]) -> None:
    """Write the page maps of segments into a directory, each entry changed, by way of JSON."""
    for pagemap in directory.glob("pagemap-shmem-*.img"):
        document = json.loads(run(SHOW, "--json", pagemap).stdout)
        for one in document["entries"][1:]:
            change(one)
        scratch.write_text(json.dumps(document))
        ipcimg("encode", "--force", scratch, into / pagemap.name)


@pytest.mark.parametrize("fields", [{"flags": 1}, {"in_parent": True}, {"in_parent": True, "flags": 4}], ids=str)
def test_in_parent(fields: dict[str, int], tmp_path: Path) -> None:
    """What ipcimg takes for a page in the parent is what CRIU takes for one."""
    with stopped("shm", tmp_path) as (program, directory):
        child = copy(directory, tmp_path / "child")
    parent = tmp_path / "parent"
    parent.mkdir()
    (child / "parent").symlink_to("../parent")
    for pagemap in child.glob("pagemap-shmem-*.img"):
        pages = child / f"pages-{entries(pagemap)[0]['pages_id']}.img"
        pages.rename(parent / pages.name)
        pages.touch()
        pagemap.rename(parent / pagemap.name)

    def elsewhere(one: dict[str, int]) -> None:
        del one["flags"]
        one |= fields

    change_pagemaps(parent, child, tmp_path / "json", elsewhere)
    same(directory, child)
    passes(program, child)


def test_pre_dump(tmp_path: Path) -> None:
    """It has pages alone, and of no segment of an IPC namespace."""
    with started("shm", tmp_path) as (program, directory):
        criu("pre-dump", directory, "-t", program.pid, "--track-mem")
        assert list(directory.glob("ipcns-*")) == []
        line = refused("dump", "-t", program.pid, "--criu-set", directory, "--force")
        assert line.startswith(f"image directory {directory}: ")


def test_post_dump(tmp_path: Path) -> None:
    """criu itself calls ipcimg, when its own images are there and the processes are still stopped."""
    with started("shm", tmp_path) as (program, directory):
        script = tmp_path / "script"
        command = shlex.join([*IPCIMG, "dump", "--frozen-by-caller", "-t"])
        script.write_text(
            f"#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = post-dump ] || exit 0\ncd {shlex.quote(os.getcwd())}\n"
            f'{command} "$CRTOOLS_INIT_PID" --criu-set "$CRTOOLS_IMAGE_DIR" >{tmp_path}/said 2>&1\n'
        )
        script.chmod(0o755)
        criu("dump", directory, "-t", program.pid, "--action-script", script)
    assert list(directory.glob("ipcimg-manifest-*.img")), (tmp_path / "said").read_text()
    assert {"inventory.img", "stats-dump"} <= {path.name for path in directory.iterdir()}
    passes(program, directory)


def test_namespace_of_criu_itself(tmp_path: Path) -> None:
    """CRIU says nothing and dumps no IPC namespace; so there is no place for ours."""
    with started("queues", tmp_path) as (program, directory):
        criu("dump", directory, "-t", program.pid, "--leave-stopped", namespace=program.namespace.path)
        assert list(directory.glob("ipcns-*")) == []
        line = refused("dump", "-t", program.pid, "--criu-set", directory)
        assert "were in criu's own IPC namespace, of which it dumps and restores nothing" in line


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
    assert line.startswith(f"{pagemap}, byte {first}: ")
    assert "fields [6], as CRIU after 4.2 writes for compressed pages" in line


def test_counts_in_field_2_alone(tmp_path: Path) -> None:
    """As CRIU up to 4.1 writes them, and crit of 3.17.1 shows them."""

    def older(one: dict[str, int]) -> None:
        one["nr_pages"] = one.pop("compat_nr_pages")

    with stopped("shm-unaligned", tmp_path) as (program, directory):
        ipcimg("dump", "-t", program.pid, "--criu-set", directory, "--frozen-by-caller")
    change_pagemaps(directory, directory, tmp_path / "json", older)
    passes(program, directory)


def test_counts_in_field_5_alone(tmp_path: Path) -> None:
    """Why --criu-set goes without --criu-exact: this CRIU restores zeros of what CRIU 4.2 writes, and says nothing."""

    def newer(one: dict[str, int]) -> None:
        one["compat_nr_pages"] = 0

    with stopped("shm-unaligned", tmp_path) as (program, directory):
        ipcimg("dump", "-t", program.pid, "--criu-set", directory, "--frozen-by-caller")
    change_pagemaps(directory, directory, tmp_path / "json", newer)
    assert verdict(program, directory).startswith("FAIL: ")


def long_message() -> None:
    oracle.set_variable("kernel/msgmax", 10000)
    oracle.queue(0x78, messages=[(1, bytes(8193))])


def full_queue() -> None:
    oracle.queue(0x78, messages=[(1, bytes(8000))] * 2)
    oracle.set_variable("kernel/msgmnb", 9000)


@pytest.mark.parametrize("change", [long_message, full_queue])
def test_what_criu_does_not_restore(change: Callable[[], None], tmp_path: Path) -> None:
    """It is refused as long as the processes are there; ipcimg itself restores it."""
    with stopped("semaphores", tmp_path) as (program, directory):
        program.namespace.do(change)
        dump = ("dump", "-t", program.pid, "--criu-set", directory, "--frozen-by-caller")
        assert "criu restore would fail: message queue" in refused(*dump)
        ipcimg(*dump, "--force")
    with pytest.raises(AssertionError, match=r"criu restore: status 1(.|\n)*Error \(criu/ipc_ns.c"):
        program.restore(directory)
    ipcimg("restore", "--new-ns", "-D", directory, "--", "true")


def test_where_it_runs() -> None:
    """On the kernel of the virtual machine, with every capability."""
    assert os.uname().release.startswith("6.1.")
    with open("/proc/self/status") as status:
        [effective] = [int(line.split()[1], 16) for line in status if line.startswith("CapEff:")]
    with open("/proc/sys/kernel/cap_last_cap") as last:
        assert effective == (2 << int(last.read())) - 1
