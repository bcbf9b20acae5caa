"""Putting a set of images in the place of CRIU's: where that is right, and where CRIU would not read it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipcimg
from ipcimg.directory import ImageDirectory, recover
from ipcimg.errors import IpcimgError

from . import wire
from .commands import IPCIMG, SHOW, run
from .test_criu_images import FIXTURES, content_of, dump_of

INVENTORY = 0x58313116


def inventory(version: int = 2, own: int | None = 3) -> bytes:
    """inventory.img, which has no common magic; own is the number of criu's own IPC namespace."""
    ids = wire.message({1: 1, 2: 1, 3: 1, 4: 1, **({} if own is None else {7: own})})
    return INVENTORY.to_bytes(4, "little") + wire.entry(wire.message({1: version, 2: 1, 3: ids, 4: 1}))


def ids(ns_id: int | None) -> bytes:
    return wire.image(wire.IDS, wire.entry(wire.message({1: 2, 2: 2, 3: 2, 4: 2, **({7: ns_id} if ns_id else {})})))


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """What CRIU has dumped: two queues, two sets and two segments."""
    return dump_of("basic", tmp_path / "chain" / "2")


def put(
    directory: Path, name: str = "identity", *, ns_id: int | None = None, criu_exact: bool = False
) -> ipcimg.Counts:
    return ipcimg.save(ipcimg.load(FIXTURES / name), directory, criu_set=True, ns_id=ns_id, criu_exact=criu_exact)


def refused(directory: Path, *, ns_id: int | None = None) -> str:
    """Put a set there, which is to fail and change nothing; gives why."""
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    with pytest.raises(IpcimgError) as caught:
        put(directory, ns_id=ns_id)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
    return str(caught.value)


def test_takes_the_place(dump: Path) -> None:
    (dump / "stats-dump").write_bytes(b"CRIU's")
    (dump / "pages-1.img").write_bytes(b"pages of a process")
    kept = {name: (dump / name).read_bytes() for name in ("inventory.img", "ids-1130.img", "stats-dump", "pages-1.img")}
    put(dump)
    found, meant = ipcimg.load(dump), ipcimg.load(FIXTURES / "identity")
    assert [(q.permissions, list(q.messages)) for q in found.queues] == [
        (q.permissions, list(q.messages)) for q in meant.queues
    ]
    assert list(found.semaphores) == list(meant.semaphores)
    assert [(s.permissions, content_of(s)) for s in found.segments] == [
        (s.permissions, content_of(s)) for s in meant.segments
    ]
    assert {name: (dump / name).read_bytes() for name in kept} == kept
    # Nothing of CRIU's set is left, and no number of pages is used twice.
    assert not (dump / "pagemap-shmem-0.img").exists()
    assert sorted(path.name for path in dump.glob("pages-*.img")) == ["pages-1.img", "pages-4.img"]


def test_again(dump: Path) -> None:
    put(dump)
    put(dump, "basic")
    assert len(list(ipcimg.load(dump).segments)) == 2


def test_a_kind_that_is_gone(dump: Path) -> None:
    """CRIU restores what it finds: an image of CRIU's that stays would come back."""
    put(dump, "attached")
    assert not (dump / "ipcns-msg-9.img").exists()
    assert not (dump / "ipcns-sem-9.img").exists()


def test_counts_are_where_any_version_looks(dump: Path) -> None:
    put(dump)
    [pagemap] = dump.glob("pagemap-shmem-*.img")
    _, *runs = json.loads(run(SHOW, "--json", pagemap).stdout)["entries"]
    assert runs
    assert all(one["compat_nr_pages"] == one["nr_pages"] > 0 and one["flags"] == wire.PRESENT for one in runs)


def test_the_link_to_a_parent_stays(dump: Path) -> None:
    (dump.parent / "1").mkdir()
    os.symlink("../1", dump / "parent")
    put(dump)
    assert os.readlink(dump / "parent") == "../1"
    assert list((dump.parent / "1").iterdir()) == []


def test_others_may_have_other_parents(dump: Path) -> None:
    for name, target in (("1", "../0"), ("3", "nowhere"), ("4", "parent")):
        (dump.parent / name).mkdir()
        os.symlink(target, dump.parent / name / "parent")
    (dump.parent / "file").touch()
    put(dump)


def test_parent_of_another(dump: Path) -> None:
    (dump.parent / "3").mkdir()
    os.symlink("../2", dump.parent / "3" / "parent")
    assert refused(dump) == f"image directory {dump}: it is the parent of 3, whose pages it holds"


def test_parent_of_one_inside(dump: Path) -> None:
    (dump / "3").mkdir()
    os.symlink("..", dump / "3" / "parent")
    assert refused(dump) == f"image directory {dump}: it is the parent of 3, whose pages it holds"


def test_parent_of_another_and_force(dump: Path) -> None:
    """It is the same without --criu-set."""
    (dump.parent / "3").mkdir()
    os.symlink("../2", dump.parent / "3" / "parent")
    with pytest.raises(IpcimgError, match="it is the parent of 3, whose pages it holds"):
        ipcimg.save(ipcimg.load(FIXTURES / "identity"), dump, force=True)
    assert (dump / "pages-2.img").exists()


@pytest.mark.parametrize("other", ["pagemap-1130.img", "pagemap-shmem-77777.img"])
def test_pages_that_another_page_map_has(dump: Path, other: str) -> None:
    shutil.copy(dump / "pagemap-shmem-0.img", dump / other)
    assert refused(dump) == f"{dump / other}: has its pages in pages-2.img, which is to be replaced"


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        (
            "pagemap-shmem-0.img",
            "ipcns-shm-9.img: has shared memory segment 0 (key 0x11), and pagemap-shmem-0.img is not there",
        ),
        ("pages-2.img", "pagemap-shmem-0.img: has its pages in pages-2.img, which is not there"),
    ],
)
def test_pages_that_are_elsewhere(dump: Path, gone: str, why: str) -> None:
    """A page server has them, and their numbers."""
    (dump / gone).unlink()
    assert why.split(" (key")[0] in refused(dump)


def test_no_number_for_pages(dump: Path) -> None:
    (dump / f"pages-{(1 << 32) - 1}.img").touch()
    assert refused(dump) == f"pages-{(1 << 32) - 1}.img leaves no number for the pages of another segment"


def images(directory: Path) -> dict[str, bytes]:
    """What CRIU would restore of the IPC namespace: nothing where the variables are missing."""
    found = {path.name: path.read_bytes() for path in directory.glob("*.img") if "ipcimg" not in path.name}
    return found if "ipcns-var-9.img" in found else {}


def test_killed_anywhere(dump: Path, tmp_path: Path) -> None:
    """CRIU, which knows no manifest, finds the old set, the new one, or none that it would restore."""
    old, new = images(dump), images(Path(shutil.copytree(dump, tmp_path / "new")))
    put(tmp_path / "new")
    new = images(tmp_path / "new")
    seen = set()
    for step in range(1000):
        copy = Path(shutil.copytree(dump, tmp_path / str(step)))
        pid = os.fork()
        if pid == 0:
            steps = iter(range(step))
            for name in ("rename", "unlink", "fsync", "mkdir", "rmdir"):
                setattr(os, name, _until(steps, getattr(os, name)))
            put(copy)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found = images(copy)
        assert found in ({}, old, new), step
        seen.add("none" if not found else "old" if found == old else "new")
        if status == 0:
            break
        recover(ImageDirectory(str(copy)))
        assert images(copy) in (old, new)
        put(copy)  # and whoever comes next is not held up by it
    assert step > 20
    assert seen == {"none", "old", "new"}


def _until(steps: Iterator[int], act: Callable[..., object]) -> Callable[..., object]:
    """As act, but the process is gone when the steps are used up."""

    def call(*arguments: object, **options: object) -> object:
        if next(steps, None) is None:
            os._exit(9)
        return act(*arguments, **options)

    return call


def test_no_dump_of_criu_s(dump: Path) -> None:
    (dump / "inventory.img").unlink()
    assert refused(dump) == f"image directory {dump}: there is no inventory.img in it: it is no dump of CRIU's"


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(IpcimgError, match="No such file or directory"):
        put(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_first_format(dump: Path) -> None:
    (dump / "inventory.img").write_bytes(inventory(version=1))
    assert refused(dump) == f"image directory {dump}: its images are of CRIU's first format (img_version 1)"


def test_later_format(dump: Path) -> None:
    (dump / "inventory.img").write_bytes(inventory(version=3))
    assert "its images are of a format that ipcimg does not know (img_version 3)" in refused(dump)


def test_criu_s_own_namespace(dump: Path) -> None:
    (dump / "inventory.img").write_bytes(inventory(own=9))
    assert "were in criu's own IPC namespace, of which it dumps and restores nothing" in refused(dump)


@pytest.mark.parametrize("own", [None, 3])
def test_inventory_by_hand(dump: Path, own: int | None) -> None:
    (dump / "inventory.img").write_bytes(inventory(own=own))
    put(dump)


@pytest.mark.parametrize("there", [False, True])
def test_no_namespace_is_told(dump: Path, there: bool) -> None:
    if there:
        (dump / "ids-1130.img").write_bytes(ids(None))
    else:
        (dump / "ids-1130.img").unlink()
    assert "no ids-*.img tells which IPC namespace was dumped" in refused(dump)


def test_not_whole(dump: Path) -> None:
    (dump / "ipcns-var-9.img").unlink()
    assert "CRIU has left no ipcns-var-9.img in it: its dump is not whole" in refused(dump)


def test_several(dump: Path) -> None:
    (dump / "ids-7.img").write_bytes(ids(11))
    assert "its ids-*.img name the IPC namespaces 9, 11; choose one by --ns-id" in refused(dump)
    put(dump, ns_id=9)


def test_another(dump: Path) -> None:
    assert "its ids-*.img name the IPC namespaces 9, not 4" in refused(dump, ns_id=4)


@pytest.mark.parametrize("name", ["inventory.img", "ids-1130.img"])
def test_cut(dump: Path, name: str, tmp_path: Path) -> None:
    """What says where to write."""
    whole = (dump / name).read_bytes()
    for n in range(len(whole)):
        copy = Path(shutil.copytree(dump, tmp_path / "copies" / f"{name}-{n}"))
        (copy / name).write_bytes(whole[:n])
        assert name in refused(copy)


def test_page_map_of_somebody_else(dump: Path) -> None:
    """CRIU names that of a shared mapping by its inode number, which can be the id of a segment."""
    segment = next(iter(ipcimg.load(FIXTURES / "identity").segments)).permissions.id
    (dump / f"pagemap-shmem-{segment}.img").write_bytes(wire.pagemap(1))
    assert f"pagemap-shmem-{segment}.img exists, and is not of set 9" in refused(dump)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "needs -t PID or --ipc-ns PATH"),
        (["--allow-inconsistent"], "CRIU would not see --allow-inconsistent"),
        (["--only", "msg"], "it takes no part of a namespace"),
        (["--id", "msg:1"], "it takes no part of a namespace"),
        (["--criu-exact"], "what --criu-exact writes is for 4.2 and later"),
        (["-D", "there"], "not allowed with argument"),
    ],
)
def test_wrong_arguments(dump: Path, options: list[str], why: str) -> None:
    assert why in run(IPCIMG, "dump", "--criu-set", dump, *options, status=2).stderr


def test_wrong_calls(dump: Path) -> None:
    with pytest.raises(ValueError, match="any version"):
        put(dump, criu_exact=True)
    with pytest.raises(ValueError, match="any version"):
        ipcimg.dump(dump, criu_set=True, only=ipcimg.Selection(frozenset({"msg"})))
    with pytest.raises(ValueError, match="of one moment"):
        ipcimg.dump(dump, criu_set=True, allow_inconsistent=True)
