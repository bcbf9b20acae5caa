"""A set as a tar archive on standard output: what is in it, whatever it goes into; and where it cannot go."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import pty
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator

import pytest

from ipcimg import imageset
from tests import rich

from .test_archive import Pages

DELIVER = """
import os, shutil, sys
from ipcimg.delivery import delivered
from ipcimg.errors import IpcimgError
from ipcimg.progress import NOBODY
from ipcimg.tarstream import TarDestination
progress = NOBODY
exec(sys.argv[3])
try:
    destination = TarDestination(zstd=sys.argv[2] == "zstd", progress=progress)
    make = lambda path: shutil.copytree(sys.argv[1], path, dirs_exist_ok=True, copy_function=os.link)
    delivered(make, destination, progress)
except IpcimgError as error:
    sys.exit(str(error))
"""


AT_BEGIN = """
begin = TarDestination.begin
def begin_and_more(self, ns_id, names):
    begin(self, ns_id, names)
    {}
TarDestination.begin = begin_and_more
"""


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    contents = rich.contents()
    first = next(iter(contents.segments))
    big = dataclasses.replace(
        first,
        permissions=dataclasses.replace(first.permissions, id=9, key=0),
        size=8 << 20,
        extents=[Pages(0, 3 << 20), Pages(4 << 20, 4 << 20)],
    )
    imageset.save(dataclasses.replace(contents, segments=[*contents.segments, big]), tmp_path / "images", ns_id=3)
    return tmp_path / "images"


def deliver(images: pathlib.Path, stdout: int, form: str = "tar", setting: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DELIVER, str(images), form, setting]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)


def unpacked(archive: pathlib.Path, where: pathlib.Path) -> dict[str, bytes]:
    """What tar(1) makes of it."""
    where.mkdir()
    done = subprocess.run(
        ["tar", "-xf", archive, "-C", where, "--no-same-owner"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert {path.stat().st_mode & 0o7777 for path in where.iterdir()} == {0o600}
    return {path.name: path.read_bytes() for path in where.iterdir()}


@contextlib.contextmanager
def opened(how: str, path: pathlib.Path) -> Iterator[int]:
    with open(path, "ab" if how == "appended" else "wb") as file:
        if how in ("file", "appended"):
            yield file.fileno()
            return
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as cat:
            assert cat.stdin is not None
            os.set_blocking(cat.stdin.fileno(), how != "pipe that does not block")
            yield cat.stdin.fileno()
        assert cat.returncode == 0


@pytest.mark.parametrize("form", ["tar", "zstd"])
@pytest.mark.parametrize("how", ["file", "appended", "pipe", "pipe that does not block"])
def test_the_same_files(images: pathlib.Path, tmp_path: pathlib.Path, how: str, form: str) -> None:
    archive = tmp_path / ("x.tar" if form == "tar" else "x.tar.zst")
    with opened(how, archive) as stdout:
        process = deliver(images, stdout, form)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert unpacked(archive, tmp_path / "out") == {path.name: path.read_bytes() for path in images.iterdir()}
    assert imageset.open_set(str(tmp_path / "out")).check() == imageset.open_set(str(archive)).check()


def test_what_stands_beside_a_set_comes_first(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("inventory.img", "stats-dump", "notes"):
        (images / name).write_bytes(name.encode())
    with opened("file", tmp_path / "x") as stdout:
        assert deliver(images, stdout).wait() == 0
    with tarfile.open(tmp_path / "x") as archive:
        names = archive.getnames()
    assert names[:2] == ["inventory.img", "stats-dump"]
    assert "notes" not in names


def test_plain_headers(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Of POSIX's format, with nothing beside the files; the variables last but one, the manifest last."""
    begun = int(time.time())
    with opened("file", tmp_path / "x") as stdout:
        assert deliver(images, stdout).wait() == 0
    data = (tmp_path / "x").read_bytes()
    assert data[257:265] == b"ustar\x0000"
    assert data.endswith(bytes(1024))
    with tarfile.open(tmp_path / "x") as archive:
        members = archive.getmembers()
        assert archive.pax_headers == {}
    assert [one.name for one in members[-2:]] == ["ipcns-var-3.img", "ipcimg-manifest-3.img"]
    assert len(data) == sum(512 + one.size + -one.size % 512 for one in members) + 1024  # no member beside them
    for one in members:
        assert (one.mode, one.uid, one.gid, one.uname, one.gname, one.isreg()) == (0o600, 0, 0, "", "", True)
        assert begun <= one.mtime <= time.time()
    assert len({one.mtime for one in members}) == 1


def test_one_zstd_frame_with_a_checksum(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with opened("file", tmp_path / "x.zst") as stdout:
        assert deliver(images, stdout, "zstd").wait() == 0
    listed = subprocess.run(["zstd", "-lv", tmp_path / "x.zst"], capture_output=True, text=True, check=True).stdout
    assert "Check: XXH64" in listed
    assert subprocess.run(["zstd", "-dc", tmp_path / "x.zst"], capture_output=True, check=True).stdout.endswith(
        bytes(1024)
    )


def test_a_file_longer_than_a_header_can_tell(images: pathlib.Path) -> None:
    """From 8 GiB on its size is in a pax header."""
    size = (8 << 30) + 5
    big = f"from ipcimg.image import ImageFile; fd = os.memfd_create('big'); os.truncate(fd, {size}); "
    process = deliver(
        images, subprocess.PIPE, setting=AT_BEGIN.format(big + "self.put('pages-1.img', ImageFile(fd, 'big'))")
    )
    assert process.stdout is not None
    with process.stdout, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        found = archive.next()
    assert found is not None
    assert (found.name, found.size, found.pax_headers) == ("pages-1.img", size, {"size": str(size)})
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == b"writing standard output: Broken pipe, since its reader ended before the archive did\n"


@pytest.mark.parametrize("form", ["tar", "zstd"])
def test_progress(images: pathlib.Path, form: str) -> None:
    """It is told of all bytes of all files, first how many there are, and of a large file more than once."""
    told = """
class Told:
    def expect(self, size):
        print("expect", size, file=sys.stderr)
    def done(self, size):
        print("done", size, file=sys.stderr)
progress = Told()
"""
    _, errors = deliver(images, subprocess.PIPE, form, told).communicate()
    words = [line.split() for line in errors.decode().splitlines()]
    size = sum(path.stat().st_size for path in images.iterdir())
    assert words[0] == ["expect", str(size)]
    assert {word for word, _ in words[1:]} == {"done"}
    assert sum(int(bytes_) for _, bytes_ in words[1:]) == size
    assert len(words) > len(list(images.iterdir())) + 4


# ---- where it cannot go --------------------------------------------------------------------


def failed(images: pathlib.Path, stdout: int, setting: str = "", form: str = "tar") -> str:
    process = deliver(images, stdout, form, setting)
    _, errors = process.communicate()
    assert process.returncode == 1
    [line] = errors.decode().splitlines()
    return line


@pytest.mark.parametrize("form", ["tar", "zstd"])
def test_a_full_disk(images: pathlib.Path, form: str) -> None:
    with open("/dev/full", "wb") as full:
        line = failed(images, full.fileno(), form=form)
    assert line == "writing standard output: No space left on device"


@pytest.mark.parametrize("form", ["tar", "zstd"])
def test_a_disk_that_becomes_full(images: pathlib.Path, tmp_path: pathlib.Path, form: str) -> None:
    """In the midst of a large file. A limit stands for it: it ends a write in the same way."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))"
    with opened("file", tmp_path / "x") as stdout:
        line = failed(images, stdout, AT_BEGIN.format(limit), form)
    assert line == "writing standard output: File too large"


def test_a_terminal(images: pathlib.Path) -> None:
    ours, its = pty.openpty()
    try:
        line = failed(images, its)
    finally:
        os.close(ours)
        os.close(its)
    assert line == "standard output is a terminal, and no place for an archive: redirect it"


def test_closed(images: pathlib.Path) -> None:
    """Nothing else that has its number by then is written to."""
    command = 'exec "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", DELIVER, images, "tar", ""],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "standard output is closed: there is nowhere to write an archive to\n",
    )


@pytest.mark.parametrize("form", ["tar", "zstd"])
def test_a_file_that_becomes_shorter(images: pathlib.Path, form: str) -> None:
    """Nothing stands for what is gone: the archive has no end."""
    cut = """
put = TarDestination.put
def put_cut(self, name, image):
    if name == "pages-4.img":
        os.truncate(f"/proc/self/fd/{image.fd}", image.size - 100)
    put(self, name, image)
TarDestination.put = put_cut
"""
    process = deliver(images, subprocess.PIPE, form, cut)
    out, errors = process.communicate()
    assert process.returncode == 1
    assert b"bytes too early" in errors
    assert not out.endswith(bytes(1024))
