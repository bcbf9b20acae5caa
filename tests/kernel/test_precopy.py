"""dump --parent: only what has changed since an earlier dump, of which a restore makes all that was there."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ipcimg as library
from ipcimg import imageset, loops, pieces, shm

from ..commands import IPCIMG, SHOW, ipcimg, refused, run, same
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.slow  # tests/vm/test_precopy.py is for the other kernel

PAGE = 4096
PAGES = 700  # of the segment that changes: more than one piece
SIZE = PAGES * PAGE - 1000  # bytes: it ends within a page


def fill() -> int:
    """Some objects of each kind; gives the segment that changes."""
    dice = random.Random(1)
    oracle.queue(0x10, messages=[(1, b"first")])
    oracle.semaphores(0x20, [1, 2])
    oracle.segment(0x30, 3 * PAGE, [(0, b"x"), (2 * PAGE, b"y")])
    return oracle.segment(0x31, SIZE, [(n * PAGE, dice.randbytes(3000)) for n in range(PAGES) if n % 5 or n > 500])


def write(shmid: int, *pieces: tuple[int, bytes]) -> None:
    address = oracle.attach(shmid)
    for offset, data in pieces:
        ctypes.memmove(address + offset, data, len(data))
    oracle.detach(address)


def change(shmid: int, seed: int) -> None:
    """Some pages get other bytes, some become zeros, and some that were holes get data."""
    dice = random.Random(seed)
    write(
        shmid,
        *((dice.randrange(PAGES - 1) * PAGE + dice.randrange(PAGE - 1), bytes([seed])) for _ in range(60)),
        *((dice.randrange(PAGES - 1) * PAGE, bytes(PAGE)) for _ in range(20)),
        *((5 * dice.randrange(100) * PAGE, b"no hole") for _ in range(10)),
        (SIZE - 3, bytes([seed])),
    )


def contents() -> dict[int, bytes]:
    return {shmid: oracle.content(shmid, row["size"]) for shmid, row in oracle.table("shm").items()}


def stored(directory: Path) -> int:
    """Pages that are in a directory itself."""
    return sum(path.stat().st_size for path in directory.glob("pages-*.img")) // PAGE


def inherited(directory: Path) -> int:
    """Pages that its set has in the parent."""
    manifest = imageset.open_set(str(directory)).manifest
    assert manifest is not None
    return 0 if manifest.parent is None else manifest.parent.pages


def dump(source: Namespace, directory: Path, *options: object) -> str:
    return ipcimg("dump", "-t", source.pid, "-D", directory, "--frozen-by-caller", *options).stdout


# ---- there and back ------------------------------------------------------------------------


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that is run from now on do without the loops in C."""
    for module in (loops, pieces, shm):
        monkeypatch.setattr(module, "c", None)


@pytest.fixture
def loops_or_not(both_loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not both_loops:
        in_python(monkeypatch)


@pytest.mark.usefixtures("loops_or_not")
def test_a_chain_of_three(source: Namespace, make_namespace: Callable[[], Namespace], tmp_path: Path) -> None:
    """What is restored of each set is what was there when it was dumped."""
    shmid = source.do(fill)
    was: list[dict[int, bytes]] = []
    for n in range(3):
        if n:
            source.do(lambda n=n: change(shmid, n))  # type: ignore[misc]
        was.append(source.do(contents))
        dump(source, tmp_path / str(n), *(("--parent", tmp_path / str(n - 1)) if n else ()))
    for n in range(3):
        ipcimg("verify", tmp_path / str(n))
        target = make_namespace()
        ipcimg("restore", "-t", target.pid, "-D", tmp_path / str(n))
        assert target.do(contents) == was[n]
        assert target.do(lambda: oracle.receive_all(0)) == [(1, b"first")]
    same(tmp_path / "2", f"ns:{source.pid}")
    for n in (1, 2):
        assert os.readlink(tmp_path / str(n) / "parent") == f"../{n - 1}"
        assert 0 < stored(tmp_path / str(n)) < 80
        assert inherited(tmp_path / str(n)) > 400


def test_the_same_by_both_loops(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shmid = source.do(fill)
    dump(source, tmp_path / "1")
    source.do(lambda: change(shmid, 3))
    dump(source, tmp_path / "c", "--parent", tmp_path / "1")
    in_python(monkeypatch)
    dump(source, tmp_path / "python", "--parent", tmp_path / "1")
    for name in (f"pagemap-shmem-{shmid}.img", "pages-2.img"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "python" / name).read_bytes()


def test_what_is_told(source: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.segment(0x1, 4 * PAGE, [(0, b"a"), (PAGE, b"b")]))
    dump(source, tmp_path / "1")
    source.do(lambda: write(0, (0, b"c"), (2 * PAGE, b"d")))
    said = dump(source, tmp_path / "2", "--parent", tmp_path / "1")
    assert said.endswith(f"1 shared memory segment (3 pages) into {tmp_path}/2; 1 of the pages is in {tmp_path}/1\n")
    assert "(3 pages): whole, and as it was written" in ipcimg("verify", tmp_path / "2").stdout
    shown = run(SHOW, tmp_path / "2").stdout
    assert "parent       1 of the 3 pages of segments are in the parent's set 1\n" in shown
    assert run(SHOW, "--verify", "--id", "shm:0", tmp_path / "2").stdout
    listed = run(SHOW, tmp_path / "2" / "pagemap-shmem-0.img").stdout
    assert [line.split()[-1] == "parent" for line in listed.splitlines()[-3:]] == [False, True, False]


def test_all_is_the_same(source: Namespace, tmp_path: Path) -> None:
    shmid = source.do(fill)
    dump(source, tmp_path / "1")
    dump(source, tmp_path / "2", "--parent", tmp_path / "1")
    assert stored(tmp_path / "2") == 0
    assert inherited(tmp_path / "2") == stored(tmp_path / "1")
    source.do(lambda: oracle.remove("shm", shmid))
    dump(source, tmp_path / "3", "--parent", tmp_path / "2")
    assert inherited(tmp_path / "3") == 2


def test_nothing_is_the_same(source: Namespace, tmp_path: Path) -> None:
    """A set that needs no parent has none."""
    shmid = source.do(lambda: oracle.segment(0x1, 2 * PAGE, [(0, b"a")]))
    dump(source, tmp_path / "1")
    source.do(lambda: write(shmid, (0, b"b")))
    dump(source, tmp_path / "2", "--parent", tmp_path / "1")
    assert not (tmp_path / "2" / "parent").exists()
    shutil.rmtree(tmp_path / "1")
    ipcimg("verify", tmp_path / "2")


@pytest.mark.parametrize("size, key", [(2 * PAGE, 0x1), (4 * PAGE, 0x1), (3 * PAGE, 0x2)])
def test_another_segment_under_the_same_id(source: Namespace, tmp_path: Path, size: int, key: int) -> None:
    """Its pages may be the same: it is written in full."""
    shmid = source.do(lambda: oracle.segment(0x1, 3 * PAGE, [(0, b"a"), (PAGE, b"b")]))
    dump(source, tmp_path / "1")

    def again() -> None:
        oracle.remove("shm", shmid)
        assert oracle.segment(key, size, [(0, b"a"), (PAGE, b"b")], wanted=shmid) == shmid

    source.do(again)
    dump(source, tmp_path / "2", "--parent", tmp_path / "1")
    assert (stored(tmp_path / "2"), inherited(tmp_path / "2")) == (2, 0)


def test_made_anew_and_alike(source: Namespace, tmp_path: Path) -> None:
    """Data is what counts, not whether it is the same segment."""
    shmid = source.do(lambda: oracle.segment(0x1, 3 * PAGE, [(0, b"a"), (PAGE, b"b")]))
    dump(source, tmp_path / "1")

    def again() -> None:
        oracle.remove("shm", shmid)
        assert oracle.segment(0x1, 3 * PAGE, [(PAGE, b"b"), (2 * PAGE, b"c")], wanted=shmid) == shmid

    source.do(again)
    dump(source, tmp_path / "2", "--parent", tmp_path / "1")
    assert (stored(tmp_path / "2"), inherited(tmp_path / "2")) == (1, 1)
    same(tmp_path / "2", f"ns:{source.pid}")


def test_a_part(source: Namespace, tmp_path: Path) -> None:
    """What the parent does not have is written in full."""
    shmid = source.do(fill)
    dump(source, tmp_path / "1", "--id", f"shm:{shmid}")
    dump(source, tmp_path / "2", "--parent", tmp_path / "1")
    assert stored(tmp_path / "2") == 2
    same(tmp_path / "2", f"ns:{source.pid}")


def test_written_all_the_time(source: Namespace, tmp_path: Path) -> None:
    """A writer is noticed as without a parent; the first dump may go on all the same."""
    shmid = source.do(fill)
    dump(source, tmp_path / "1")
    stop = threading.Event()

    def writer() -> None:
        address, n = oracle.attach(shmid), 0
        while not stop.is_set():
            n += 1
            ctypes.memmove(address + 5 * PAGE, n.to_bytes(8, "little"), 8)
        oracle.detach(address)

    thread = threading.Thread(target=lambda: source.do(writer))
    thread.start()
    try:
        dumping = ("dump", "-t", source.pid, "-D", tmp_path / "2", "--parent", tmp_path / "1")
        # Where the writer has to wait for a processor meanwhile, all is of one moment.
        while not (done := subprocess.run([*IPCIMG, *map(str, dumping)], capture_output=True, check=False)).returncode:
            shutil.rmtree(tmp_path / "2")
        assert b"was written while the namespace was read" in done.stderr
        assert not (tmp_path / "2").exists()
        while "not of one moment" not in run(IPCIMG, *dumping, "--allow-inconsistent").stderr:
            shutil.rmtree(tmp_path / "2")
        assert inherited(tmp_path / "2") > 400
    finally:
        stop.set()
        thread.join()
    dump(source, tmp_path / "3", "--parent", tmp_path / "2")
    same(tmp_path / "3", f"ns:{source.pid}")
    assert stored(tmp_path / "3") <= 1


# ---- what is refused -----------------------------------------------------------------------


@pytest.fixture
def two(source: Namespace, tmp_path: Path) -> tuple[Path, Path]:
    """Two sets, of which the second has pages in the first."""
    source.do(lambda: oracle.segment(0x1, 3 * PAGE, [(0, b"a"), (PAGE, b"b")]))
    first, second = tmp_path / "1", tmp_path / "2"
    dump(source, first)
    source.do(lambda: write(0, (0, b"c")))
    dump(source, second, "--parent", first)
    assert (stored(second), inherited(second)) == (1, 1)
    return first, second


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def replaced(first: Path) -> None:
    """As a dump of something else would."""
    ipcimg("dump", "--ipc-ns", "/proc/self/ns/ipc", "-D", first, "--force", "--only", "sem")


UNREAD = "has pages in its parent, which cannot be read: "
BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "gone": (
        lambda first, second: first.rename(first.with_name("x")),
        UNREAD,
    ),
    "link gone": (
        lambda first, second: (second / "parent").unlink(),
        UNREAD,
    ),
    "manifest gone": (
        lambda first, second: (first / "ipcimg-manifest-1.img").unlink(),
        UNREAD,
    ),
    "another": (lambda first, second: _link(second, "../2/../other"), "is not that of the set that has pages of"),
    "pages altered": (lambda first, second: flip(first / "pages-1.img"), "pages-1.img: is not as it was written"),
    "pages cut": (lambda first, second: os.truncate(first / "pages-1.img", PAGE), "pages-1.img should have 8192 bytes"),
    "page map altered": (
        lambda first, second: flip(first / "pagemap-shmem-0.img"),
        "pagemap-shmem-0.img: is not as it was written",
    ),
    "manifest altered": (lambda first, second: flip(first / "ipcimg-manifest-1.img", 30), "is not that of the set"),
}


def _link(second: Path, target: str) -> None:
    (second / "parent").unlink()
    (second / "parent").symlink_to(target)


@pytest.mark.parametrize("name", BROKEN)
def test_the_parent_is_another(two: tuple[Path, Path], source: Namespace, target: Namespace, name: str) -> None:
    first, second = two
    dump(source, first.with_name("other"))
    breaks, why = BROKEN[name]
    breaks(first, second)
    before = target.do(oracle.everything)
    assert why in refused("verify", second)
    assert why in refused("restore", "-t", target.pid, "-D", second)
    assert target.do(oracle.everything) == before
    shown = run(SHOW, "--verify", second, status=2)
    assert why in shown.stderr
    third = second.with_name("3")
    assert why in refused("dump", "-t", source.pid, "-D", third, "--frozen-by-caller", "--parent", second)
    assert not third.exists()


def test_altered_while_it_is_compared(two: tuple[Path, Path], source: Namespace, tmp_path: Path) -> None:
    """A page that is not looked at is enough: it is the file that must be what it was."""
    first, _ = two
    flip(first / "pages-1.img", 5)
    line = refused("dump", "-t", source.pid, "-D", tmp_path / "3", "--frozen-by-caller", "--parent", first)
    assert line == f"{first}/pages-1.img: is not as it was written: its digest is another one"
    assert not (tmp_path / "3").exists()


def test_what_is_no_parent(source: Namespace, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two

    def why(parent: Path, *options: object, into: Path = tmp_path / "new") -> str:
        before = sorted(path.name for path in into.iterdir()) if into.exists() else None
        line = refused("dump", "-t", source.pid, "-D", into, "--frozen-by-caller", "--parent", parent, *options)
        assert (sorted(path.name for path in into.iterdir()) if into.exists() else None) == before
        return line

    assert why(tmp_path / "x") == f"image directory {tmp_path}/x: No such file or directory"
    (tmp_path / "empty").mkdir()
    assert "no images of an IPC namespace" in why(tmp_path / "empty")
    assert why(first, "--force", into=first).endswith("it is the parent of 2, whose pages it holds")
    assert why(second, "--force", into=second) == f"image directory {second}: it would be its own parent"
    away = tmp_path / "away" / "1"  # from where nobody sees whose parent it is
    away.parent.mkdir()
    first.rename(away)
    _link(second, "../away/1")
    assert why(second, "--force", into=away) == f"image directory {away}: it would be a parent of its parent"
    shutil.copytree(away, first)
    (first / "ipcimg-manifest-1.img").unlink()
    assert "ipcimg-manifest-1.img is gone" in why(first)
    first.rename(tmp_path / "old")
    first.mkdir(mode=0o777)
    first.chmod(0o777)
    assert "others can write it (mode 0777)" in why(first)
    for n in (2, 3):
        dump(source, tmp_path / "several", "--ns-id", n, "--only", "msg")
    assert "2 sets in it; choose one by --ns-id: 2, 3" in why(tmp_path / "several")


def test_no_manifest(source: Namespace, tmp_path: Path) -> None:
    from ..test_criu_images import dump_of

    first = dump_of("basic", tmp_path / "criu")
    line = refused("dump", "-t", source.pid, "-D", tmp_path / "2", "--parent", first, "--frozen-by-caller")
    assert line.startswith(f"image directory {first}: set 9 has no manifest: nothing could tell later ")


def test_more_parents_than_can_be_read(source: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.segment(0x1, PAGE, [(0, b"a")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imageset, "PARENTS_AT_MOST", 2)
        for n in range(3):
            dump(source, tmp_path / str(n), *(("--parent", tmp_path / str(n - 1)) if n else ()))
        dumping = ("dump", "-t", source.pid, "-D", tmp_path / "3", "--frozen-by-caller", "--parent", tmp_path / "2")
        assert refused(*dumping).endswith("/2: it has 2 parents, and no more can be read")
        ipcimg("verify", tmp_path / "2")
    ipcimg(*dumping)


# ---- the link ------------------------------------------------------------------------------


def test_replaced_with_another_parent_and_with_none(two: tuple[Path, Path], source: Namespace, tmp_path: Path) -> None:
    first, second = two
    dump(source, tmp_path / "other")
    dump(source, second, "--parent", tmp_path / "other", "--force")
    assert os.readlink(second / "parent") == "../other"
    ipcimg("verify", second)
    dump(source, second, "--parent", first, "--force")
    assert os.readlink(second / "parent") == "../1"
    ipcimg("verify", second)
    dump(source, second, "--force")
    assert not os.path.lexists(second / "parent")
    ipcimg("verify", second)


def test_a_link_that_is_there(two: tuple[Path, Path], source: Namespace, tmp_path: Path) -> None:
    first, _ = two
    third = tmp_path / "3"
    third.mkdir()
    dumping = ("dump", "-t", source.pid, "-D", third, "--frozen-by-caller", "--parent", first)
    for target in ("../2", "../nowhere"):
        (third / "parent").symlink_to(target)
        line = refused(*dumping)
        assert line == f"image directory {third}: it has a parent, '{target}', and it is not {first}"
        assert sorted(os.listdir(third)) == ["parent"]
        (third / "parent").unlink()
    (third / "parent").mkdir()
    assert refused(*dumping).endswith(f"it has a parent, which is no symbolic link, and it is not {first}")
    (third / "parent").rmdir()
    (third / "parent").symlink_to(first)  # another way to the same
    ipcimg(*dumping)
    assert os.readlink(third / "parent") == str(first)
    ipcimg("verify", third)


def test_a_link_that_page_maps_of_others_may_need(two: tuple[Path, Path], source: Namespace, tmp_path: Path) -> None:
    first, second = two
    shutil.copy(first / "pagemap-shmem-0.img", second / "pagemap-99.img")  # as of a process of CRIU's
    (second / "pages-1.img").rename(second / "pages-7.img")
    (second / "pages-1.img").write_bytes((first / "pages-1.img").read_bytes())
    dump(source, tmp_path / "other")
    shutil.rmtree(second)
    second.mkdir()
    (second / "parent").symlink_to("../1")
    shutil.copy(first / "pagemap-shmem-0.img", second / "pagemap-99.img")
    shutil.copy(first / "pages-1.img", second)
    dump(source, second, "--parent", first)
    line = refused(
        *("dump", "-t", source.pid, "-D", second, "--frozen-by-caller", "--parent", tmp_path / "other", "--force")
    )
    assert line == f"image directory {second}: it has a parent, '../1', and it is not {tmp_path}/other"
    dump(source, second, "--force")
    assert os.readlink(second / "parent") == "../1"
    # And none is made where CRIU could take what is there for its own.
    (second / "parent").unlink()
    shutil.copy(second / "pagemap-99.img", tmp_path / "other")
    line = refused(
        *("dump", "-t", source.pid, "-D", second, "--frozen-by-caller", "--parent", tmp_path / "other", "--force")
    )
    assert line.endswith("CRIU would look there for more pages of pagemap-99.img")


def test_criu_exact(source: Namespace, tmp_path: Path) -> None:
    done = run(IPCIMG, "dump", "-t", source.pid, "-D", tmp_path, "--parent", tmp_path, "--criu-exact", status=2)
    assert "does not go with --parent" in done.stderr
    with pytest.raises(ValueError, match="all pages of segments"):
        library.dump(tmp_path, criu_exact=True, parent=tmp_path)
