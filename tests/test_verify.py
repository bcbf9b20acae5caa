"""Whatever happens to a file of a set: it is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipcimg
from ipcimg import imageset
from ipcimg.errors import IpcimgError

from .commands import IPCIMG, run
from .test_criu_images import whole_objects

Record = Callable[[str, object], None]
DATA = Path(__file__).parent / "data" / "criu-4.2"
SETS = sorted(path.name for path in DATA.iterdir())


class Page:
    """An extent of one page."""

    offset, length = 0, 4096
    _data = bytes(range(256)) * 16

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = self._data[start : start + len(view)]


@pytest.fixture(params=["xxh3-128", "sha256"])
def dumped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small set with everything in it."""
    contents = ipcimg.load(DATA / "basic")
    permissions = ipcimg.Permissions(0x99, 0, 0, 0, 0, 0o600, 7)
    facts = ipcimg.SegmentFacts(1, 2, 3, 4, 5, 6)
    segments = [ipcimg.SharedMemory(permissions, 4000, [Page()], facts=facts)]
    messages = [ipcimg.Message(1, b"one"), ipcimg.Message(1 << 62, b""), ipcimg.Message(3, bytes(range(40)))]
    queues = [ipcimg.MessageQueue(ipcimg.Permissions(n, 0, 0, 0, 0, 0o600, n), 99, 3, messages) for n in range(2)]
    semaphores = list(contents.semaphores)[:2]
    small = ipcimg.Contents(contents.variables, segments, queues, semaphores)
    ipcimg.save(small, tmp_path / "d", digest_algorithm=request.param)
    return tmp_path / "d"


def noticed(directory: Path) -> bool:
    try:
        imageset.open_set(str(directory)).check()
    except IpcimgError as error:
        assert "\n" not in str(error)
        return True
    return False


def files(directory: Path) -> Iterator[Path]:
    found = sorted(directory.iterdir())
    assert len(found) == 7
    yield from found


def test_every_bit(dumped: Path, record_property: Record) -> None:
    assert not noticed(dumped)
    tried = missed = 0
    for path in files(dumped):
        data = path.read_bytes()
        fd = os.open(path, os.O_WRONLY)
        for at, byte in enumerate(data):
            for bit in range(8):
                os.pwrite(fd, bytes([byte ^ 1 << bit]), at)
                tried += 1
                missed += not noticed(dumped)
            os.pwrite(fd, bytes([byte]), at)
        os.close(fd)
    assert not noticed(dumped)
    record_property("nothing lost", f"flipped bits of a set: {tried} tried, {missed} missed")
    assert (missed, tried) == (0, 8 * sum(path.stat().st_size for path in files(dumped)))
    assert tried > 30_000


def test_every_truncation(dumped: Path) -> None:
    for path in files(dumped):
        data = path.read_bytes()
        for size in range(len(data)):
            path.write_bytes(data[:size])
            assert noticed(dumped), (path.name, size)
        path.write_bytes(data + b"\0")
        assert noticed(dumped), path.name
        path.write_bytes(data)
    assert not noticed(dumped)


def test_every_deletion(dumped: Path) -> None:
    for path in files(dumped):
        data = path.read_bytes()
        path.unlink()
        assert noticed(dumped), path.name
        path.write_bytes(data)
    assert not noticed(dumped)


def test_lost_manifest(dumped: Path) -> None:
    """The set would pass for one of CRIU's, and is told from them by a mark."""
    (dumped / "ipcimg-manifest-1.img").unlink()
    line = run(IPCIMG, "verify", dumped, status=1).stderr
    why = "is of a set with a manifest, and ipcimg-manifest-1.img is gone"
    assert line == f"ipcimg: Error: {dumped}/ipcns-var-1.img: {why}\n"


def test_command(dumped: Path) -> None:
    algorithm = imageset.open_set(str(dumped)).manifest
    assert algorithm is not None
    done = run(IPCIMG, "verify", dumped)
    assert done.stdout.startswith("set 1: 2 message queues (")
    assert done.stdout.endswith(f"whole, and as it was written ({algorithm.digest_algorithm})\n")
    pages = dumped / "pages-1.img"
    pages.write_bytes(b"\1" + pages.read_bytes()[1:])
    done = run(IPCIMG, "verify", dumped, status=1)
    assert done.stderr == f"ipcimg: Error: {pages}: is not as it was written: its digest is another one\n"
    assert done.stdout == ""
    assert "no set 2" in run(IPCIMG, "verify", dumped, "--ns-id", 2, status=1).stderr


def test_several_sets(dumped: Path) -> None:
    """One that is not whole does not hide the other."""
    contents = ipcimg.load(dumped)
    ipcimg.save(ipcimg.Contents(contents.variables, (), contents.queues), dumped, ns_id=2)
    (dumped / "ipcns-msg-1.img").unlink()
    done = run(IPCIMG, "verify", dumped, status=1)
    assert done.stderr.count("\n") == 1
    assert "ipcns-msg-1.img" in done.stderr
    assert done.stdout.startswith("set 2: 2 message queues (")


@pytest.mark.parametrize("name", SETS)
def test_criu_s_sets(name: str) -> None:
    assert run(IPCIMG, "verify", DATA / name).stdout.endswith(
        ": no manifest: nothing is missing that its images promise\n"
    )


# ---- CRIU's sets, which have no list of what must be there -----------------------------------

OBJECTS = {"ipcns-shm-9.img", "ipcns-msg-9.img", "ipcns-sem-9.img"}


def of_criu(name: str, tmp_path: Path) -> dict[Path, bytes]:
    """The files of a copy of CRIU's set that are read; all but those of the tasks."""
    copy = shutil.copytree(DATA / name, tmp_path / "copy")
    return {path: path.read_bytes() for path in sorted(copy.glob("*-*.img")) if not path.name.startswith("ids-")}


@pytest.mark.parametrize("name", SETS)
def test_every_truncation_of_criu_s_sets(name: str, tmp_path: Path) -> None:
    """What passes is an image of fewer objects; CRIU itself could not tell."""
    shorter = whole_objects(name)
    assert shorter.keys() <= OBJECTS
    unnoticed: dict[str, set[int]] = {}
    for path, data in of_criu(name, tmp_path).items():
        sizes = set(range(len(data)))
        if path.name.startswith("pages-"):
            odd = {size for size in (1, 4095, 4097, len(data) - 4097, len(data) - 1) if 0 < size < len(data)}
            sizes = {*range(0, len(data), 4096), *odd}
        for size in sorted(sizes, reverse=True):
            os.truncate(path, size)
            if not noticed(path.parent):
                unnoticed.setdefault(path.name, set()).add(size)
        path.write_bytes(data)
    assert not noticed(tmp_path / "copy")
    assert unnoticed == shorter
    assert all(8 in sizes for sizes in unnoticed.values())


@pytest.mark.parametrize("name", SETS)
def test_every_deletion_of_criu_s_sets(name: str, tmp_path: Path) -> None:
    """An image of objects that is not there says that there are none."""
    unnoticed = set()
    files = of_criu(name, tmp_path)
    for path, data in files.items():
        path.unlink()
        if not noticed(path.parent):
            unnoticed.add(path.name)
        path.write_bytes(data)
    assert not noticed(tmp_path / "copy")
    assert unnoticed == OBJECTS & {path.name for path in files}


@pytest.mark.parametrize("name", SETS)
def test_more_at_the_end_of_criu_s_sets(name: str, tmp_path: Path) -> None:
    for path, data in of_criu(name, tmp_path).items():
        for more in (b"\0", bytes(3), bytes(4096)):
            path.write_bytes(data + more)
            assert noticed(path.parent), path.name
        path.write_bytes(data)
