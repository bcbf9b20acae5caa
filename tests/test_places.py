"""Where images are: directories, archives and standard input; and a dump that is delivered elsewhere."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest

from ipcimg import delivery, imageset, places
from ipcimg.errors import DirectoryError, ImageError, IpcimgError
from ipcimg.image import ImageFile
from tests import rich

from .test_archive import PACKED, as_podman_has_it, files_of, tar


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    imageset.save(rich.contents(), tmp_path / "images")
    return tmp_path / "images"


def written(path: pathlib.Path, data: bytes, mode: int = 0o600) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def counted(place: str) -> object:
    return imageset.open_set(place).check()


# ---- opening -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", PACKED)
def test_archive(images: pathlib.Path, tmp_path: pathlib.Path, form: str) -> None:
    place = written(tmp_path / "x", PACKED[form](as_podman_has_it(images)))
    assert counted(place) == counted(str(images))
    with places.opened(place, wary=True).being_read() as nothing:
        assert nothing is None


@pytest.mark.parametrize("form", PACKED)
def test_archive_that_ends_early(images: pathlib.Path, tmp_path: pathlib.Path, form: str) -> None:
    """Wherever it ends: in a header, in data, between members, before the zeros at the end."""
    plain = tar(files_of(images, "")).rstrip(b"\0")
    whole = PACKED[form](plain + bytes(-len(plain) % 512) + bytes(512))  # tar's own end is longer
    places.opened(written(tmp_path / "x", whole))
    for end in [*range(0, len(whole), len(whole) // 61), *range(len(whole) - 600, len(whole), 7), len(whole) - 1]:
        with pytest.raises(IpcimgError):
            places.opened(written(tmp_path / "x", whole[:end]))


@pytest.mark.parametrize(("mode", "why"), [(0o620, "others can write it"), (0o602, "others can write it")])
def test_wary_of_an_archive_that_others_can_write(
    images: pathlib.Path, tmp_path: pathlib.Path, mode: int, why: str
) -> None:
    place = written(tmp_path / "x", tar(files_of(images)), mode)
    places.opened(place)
    with pytest.raises(ImageError, match=why):
        places.opened(place, wary=True)


def test_wary_of_an_archive_of_somebody_else(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    if os.geteuid():
        pytest.skip("giving a file to somebody else needs root: NOT TESTED")
    place = written(tmp_path / "x", tar(files_of(images)))
    os.chown(place, 1000, 1000)
    with pytest.raises(ImageError, match="belongs to user 1000"):
        places.opened(place, wary=True)


def test_several_directories(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = written(tmp_path / "x", tar([*files_of(images, "a/"), *files_of(images, "b/")]))
    with pytest.raises(DirectoryError, match="2 image directories in this archive") as error:
        places.opened(place)
    assert str(error.value).endswith(f"{place}:a, {place}:b")


@pytest.mark.parametrize("data", [b"", b"x" * 2000, b"\x54\x56\x43\x19"])
def test_no_archive(tmp_path: pathlib.Path, data: bytes) -> None:
    with pytest.raises(ImageError, match="is empty" if not data else "is no image directory, and no tar"):
        places.opened(written(tmp_path / "x", data))


@pytest.mark.parametrize("kind", ["fifo", "missing", "url"])
def test_what_cannot_be_opened(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(IpcimgError) as error:
        places.opened("none+of-these://host/x" if kind == "url" else str(path))
    assert len(str(error.value).splitlines()) == 1


COUNT = """
import sys
from ipcimg import imageset, places
from ipcimg.errors import IpcimgError
try:
    directory = places.opened("-", wary=True)
    print(imageset.ImageSet(directory, directory.the_set(None)).check())
except IpcimgError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["pipe", "file", "file that others can write"])
def test_standard_input(images: pathlib.Path, tmp_path: pathlib.Path, how: str) -> None:
    data = tar(files_of(images, ""))
    place = written(tmp_path / "x", data, 0o622 if "others" in how else 0o644)
    with open(place, "rb") as file:
        stdin, sent = (subprocess.PIPE, data) if how == "pipe" else (file.fileno(), None)
        process = subprocess.Popen([sys.executable, "-c", COUNT], stdin=stdin, stdout=subprocess.PIPE)
        out, _ = process.communicate(sent)
    expected = "standard input: others can write it (mode 0622)" if "others" in how else str(counted(str(images)))
    assert out.decode().startswith(expected)


# ---- delivering ----------------------------------------------------------------------------


class Kept:
    """A destination in memory; after so many calls something goes wrong."""

    makes_directory = False

    def __init__(self, calls: int = 1 << 30) -> None:
        self.files: dict[str, bytes] = {}
        self.begun: int | None = None
        self.names: list[str] = []
        self.finished = False
        self._left = calls

    def _call(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise IpcimgError("the line is dead")

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        self._call()
        self.begun, self.names = ns_id, list(names)

    def put(self, name: str, image: ImageFile) -> None:
        self._call()
        self.files[name] = image.file().read()

    def finish(self) -> None:
        self._call()
        self.finished = True


def make(path: str) -> object:
    assert os.path.basename(path).startswith(delivery.PREFIX)
    assert os.stat(path).st_mode & 0o777 == 0o700
    return imageset.save(rich.contents(), path, ns_id=7)


def test_delivered(temporary: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The variables last but one, the manifest last; what make() gives is given, and nothing is left."""
    kept = Kept()
    counts = delivery.delivered(make, kept)
    assert (kept.begun, kept.finished) == (7, True)
    assert kept.names == list(kept.files)
    assert list(kept.files)[-2:] == ["ipcns-var-7.img", "ipcimg-manifest-7.img"]
    assert list(temporary.iterdir()) == []
    for name, data in kept.files.items():
        (tmp_path / name).write_bytes(data)
    assert imageset.open_set(str(tmp_path)).check() == counts


def test_delivered_or_not_at_all(temporary: pathlib.Path) -> None:
    """Whatever goes wrong with it: the directory is gone, and nobody says that it has arrived."""
    whole = Kept()
    delivery.delivered(make, whole)
    for n in range(len(whole.files) + 2):
        kept = Kept(n)
        with pytest.raises(IpcimgError, match="the line is dead"):
            delivery.delivered(make, kept)
        assert not kept.finished
        assert list(temporary.iterdir()) == []


def test_nothing_is_delivered_of_a_dump_that_fails(temporary: pathlib.Path) -> None:
    def fails(path: str) -> None:
        make(path)
        raise IpcimgError("it moved")

    kept = Kept()
    with pytest.raises(IpcimgError, match="it moved"):
        delivery.delivered(fails, kept)
    assert kept.begun is None
    assert list(temporary.iterdir()) == []


def test_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with pytest.raises(DirectoryError, match=r"making a directory in \$TMPDIR: "):
        delivery.delivered(make, Kept())
