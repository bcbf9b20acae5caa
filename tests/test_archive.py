"""Checkpoint archives: the same is in them as in a directory, whatever they are packed with; and those that lie."""

from __future__ import annotations

import array
import concurrent.futures
import gzip
import io
import os
import pathlib
import random
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable, Mapping

import pytest

import ipcimg
from ipcimg import archive
from ipcimg.archive import ArchiveDirectory, Unpacked
from ipcimg.directory import ImageDirectory
from ipcimg.errors import DirectoryError, ImageError, IpcimgError
from ipcimg.image import ImageFile
from ipcimg.imageset import ImageSet
from tests import wire

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CRIU = pathlib.Path(__file__).parent / "data" / "criu-4.2"
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, 1),
    "tar.zst": zstd.compress,
}
VAR = wire.variables()

# A member by its name and its bytes, or as tarfile has it.
Members = Iterable[tuple[str | tarfile.TarInfo, bytes]]


def tar(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def files_of(directory: pathlib.Path, inside: str = "checkpoint/") -> list[tuple[str | tarfile.TarInfo, bytes]]:
    return [(inside + path.name, path.read_bytes()) for path in sorted(directory.iterdir())]


def as_podman_has_it(directory: pathlib.Path) -> bytes:
    """An archive of a container's checkpoint, its images among what else is kept of a container."""
    return tar(
        [
            ("config.dump", b'{"id": "1"}'),
            ("spec.dump", b"{}"),
            special("artifacts", tarfile.DIRTYPE),
            ("bind.mounts", b"[]"),
            special("checkpoint", tarfile.DIRTYPE),
            *files_of(directory),
            ("dump.log", b"(00.000000) Version: 4.2\n" * 100),
            ("rootfs-diff.tar", tar([("etc/passwd", b"root"), ("ipcns-var-7.img", b"none of ours")])),
            ("stats-dump", wire.u32(0x55105940, 0x57093306)),
        ]
    )


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Callable[[bytes], ImageFile]:
    def write(data: bytes) -> ImageFile:
        path = tmp_path / "x.tar"
        path.write_bytes(data)
        return ImageFile(os.open(path, os.O_RDONLY), "x.tar")

    return write


Open = Callable[[bytes], ImageFile]


def only(image: ImageFile) -> ArchiveDirectory:
    [directory] = archive.directories(image)
    return directory


def the_set(directory: ArchiveDirectory) -> ImageSet:
    return ImageSet(directory, directory.the_set(None))


def saved(contents: ipcimg.Contents, where: pathlib.Path) -> Mapping[str, bytes]:
    """Everything that is in them, as the files of a set; without the manifest, which has the time in it."""
    ipcimg.save(contents, where, ns_id=1)
    return {path.name: path.read_bytes() for path in where.iterdir() if "manifest" not in path.name}


class Pages:
    """Data of a segment that look as if they were random."""

    def __init__(self, offset: int, length: int) -> None:
        self.offset, self.length = offset, length

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = random.Random(self.offset + start).randbytes(len(view))


def permissions(number: int) -> ipcimg.Permissions:
    return ipcimg.Permissions(number, 0, 0, 0, 0, 0o600, number)


def contents(
    queues: Iterable[ipcimg.MessageQueue] = (), segments: Iterable[ipcimg.SharedMemory] = ()
) -> ipcimg.Contents:
    variables = ipcimg.Variables((1, 2, 3, 4), 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 12)
    sets = [ipcimg.SemaphoreSet(permissions(3), array.array("H", [1, 2, 3, 4]))]
    return ipcimg.Contents(variables, list(segments), list(queues), sets)


def queue(number: int, messages: int, size: int) -> ipcimg.MessageQueue:
    body = random.Random(number).randbytes(size)
    return ipcimg.MessageQueue(
        permissions(number), 1 << 30, messages, [ipcimg.Message(n + 1, body[: size - n % 9]) for n in range(messages)]
    )


def some_contents() -> ipcimg.Contents:
    extents = [Pages(n * 2 * wire.PAGE, wire.PAGE) for n in range(300)]
    segments = [ipcimg.SharedMemory(permissions(n), 8 << 20, extents) for n in range(4)]
    return contents([queue(1, 500, 4000), queue(2, 0, 0), queue(3, 1000, 77)], segments)


# ---- the same as in a directory ------------------------------------------------------------


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", sorted(path.name for path in CRIU.iterdir()))
def test_criu_s_sets(name: str, packed: str, opened: Open, tmp_path: pathlib.Path) -> None:
    image = opened(PACKED[packed](as_podman_has_it(CRIU / name)))
    assert archive.is_archive(image)
    directory = only(image)
    assert (directory.path, directory.sets()) == ("x.tar:checkpoint", [9])
    found = the_set(directory)
    assert found.check() == ImageSet(ImageDirectory(str(CRIU / name)), 9).check()
    assert saved(found.contents, tmp_path / "a") == saved(ipcimg.load(CRIU / name), tmp_path / "b")
    assert [found.path for found in directory.ids_images()] == [
        f"x.tar:checkpoint/{path.name}" for path in (CRIU / name).glob("ids-*")
    ]


@pytest.mark.parametrize("packed", PACKED)
def test_a_set_of_ours(packed: str, opened: Open, tmp_path: pathlib.Path, both_loops: bool) -> None:
    ipcimg.save(some_contents(), tmp_path / "set")
    found = the_set(only(opened(PACKED[packed](as_podman_has_it(tmp_path / "set")))))
    assert found.check() == ipcimg.Counts(3, 1500, 1, 4, 1200)
    assert saved(found.contents, tmp_path / "a") == saved(ipcimg.load(tmp_path / "set"), tmp_path / "b")


@pytest.mark.parametrize("packed", PACKED)
def test_images_that_are_broken_inside(packed: str, opened: Open, tmp_path: pathlib.Path) -> None:
    """An error names the image in the archive, and the byte in the image."""
    ipcimg.save(some_contents(), tmp_path / "set")
    files = dict(files_of(tmp_path / "set"))
    files["checkpoint/pages-2.img"] = bytes(len(files["checkpoint/pages-2.img"]))
    found = the_set(only(opened(PACKED[packed](tar(files.items())))))
    with pytest.raises(ImageError, match=r"^x\.tar:checkpoint/pages-2\.img: is not as it was written"):
        found.check()
    files["checkpoint/ipcns-var-1.img"] = VAR[:9]
    del files["checkpoint/ipcimg-manifest-1.img"]
    with pytest.raises(ImageError, match=r"^x\.tar:checkpoint/ipcns-var-1\.img, byte 8: "):
        the_set(only(opened(PACKED[packed](tar(files.items())))))


@pytest.mark.parametrize("sort", [[], ["--sort=name"]])
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
@pytest.mark.parametrize(
    ("what", "path"), [(["-C", "set", "."], "x.tar:/"), (["set"], "x.tar:set"), (["./a/../set"], None)]
)
def test_what_tar_writes(
    what: list[str], path: str | None, form: str, sort: list[str], opened: Open, tmp_path: pathlib.Path
) -> None:
    ipcimg.save(some_contents(), tmp_path / "set")
    (tmp_path / "a").mkdir()
    command = ["tar", "-c", f"--format={form}", *sort, "-f", "y.tar", *what]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    image = opened((tmp_path / "y.tar").read_bytes())
    directory = only(image)  # tar has taken the dots out of the names
    assert directory.path == path or path is None
    assert the_set(directory).check() == ipcimg.Counts(3, 1500, 1, 4, 1200)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(form: int, opened: Open) -> None:
    directory = only(opened(tar([("a" * 150 + "/" + "ä" * 200 + "/ipcns-var-1.img", VAR)], form)))
    assert directory.path == "x.tar:" + "a" * 150 + "/" + "ä" * 200
    assert the_set(directory).contents.variables.msg_ctlmax == 8192


def test_a_name_that_is_no_text(opened: Open) -> None:
    directory = only(opened(tar([("a\n\x1b\udcff/ipcns-var-1.img", VAR)])))
    assert directory.path == r"x.tar:a\n\x1b\udcff"
    assert the_set(directory).check() == ipcimg.Counts()


def test_what_is_compressed_in_parts(opened: Open) -> None:
    data = tar([("ipcns-var-1.img", VAR), ("x.img", random.Random(0).randbytes(100000))])
    halves = data[:60000], data[60000:]
    skippable = b"\x50\x2a\x4d\x18" + wire.u32(4) + b"size"
    for parts in (
        [gzip.compress(half) for half in halves],
        [zstd.compress(half) for half in halves],
        [skippable, zstd.compress(halves[0]), skippable, zstd.compress(halves[1]), skippable],
    ):
        image = opened(b"".join(parts))
        assert archive.is_archive(image)
        assert the_set(only(image)).check() == ipcimg.Counts()


# ---- directories ---------------------------------------------------------------------------


def test_several_directories(opened: Open) -> None:
    data = tar([("b/ipcns-var-1.img", VAR), ("a/ipcns-var-2.img", VAR), ("c/core-1.img", b""), ("c/d/x", b"")])
    assert [directory.path for directory in archive.directories(opened(data))] == ["x.tar:a", "x.tar:b"]


def test_a_dump_without_a_set(opened: Open) -> None:
    inventory = wire.u32(wire.INVENTORY)
    directory = only(opened(tar([("spec.dump", b"{}"), ("checkpoint/inventory.img", inventory)])))
    assert (directory.path, directory.sets(), directory.names()) == ("x.tar:checkpoint", [], ["inventory.img"])
    with pytest.raises(DirectoryError, match="no images of an IPC namespace"):
        directory.the_set(None)


@pytest.mark.parametrize("members", [[], [("a", b"x")], [special("parent", tarfile.SYMTYPE, "x")]])
def test_no_images(members: Members, opened: Open) -> None:
    with pytest.raises((DirectoryError, ImageError), match=r"^x\.tar: no images|no tar archive|^x\.tar: "):
        archive.directories(opened(tar(members)))


def test_what_is_asked_of_a_directory(opened: Open) -> None:
    links = [special("c/link.img", tarfile.SYMTYPE, "a.img"), special("c/hard.img", tarfile.LNKTYPE, "c/a.img")]
    others = [special("c/fifo.img", tarfile.FIFOTYPE), special("c/dir.img", tarfile.DIRTYPE)]
    directory = (
        only(opened(tar([("c/a.img", b"abc"), ("c/b.img/x.img", b""), *links, *others, ("c/ids-4.img", b"")])[:]))
        if False
        else archive.directories(opened(tar([("c/a.img", b"abc"), ("c/d.img/x.img", b""), *links, *others])))[0]
    )
    assert directory.names() == ["a.img", "dir.img", "fifo.img", "hard.img", "link.img"]
    assert [directory.has(name) for name in ("a.img", "link.img", "d.img", "no.img", "d.img/x.img")] == [
        *(True, True, True, False, True)
    ]
    assert [directory.is_directory(name) for name in ("a.img", "dir.img", "d.img", "link.img")] == [
        *(False, True, True, False)
    ]
    assert directory.image("a.img").size == 3
    with pytest.raises(DirectoryError, match=r"^image directory x\.tar:c: no\.img: No such file"):
        directory.is_directory("no.img")
    for name, why in {
        "no.img": "No such file or directory",
        "link.img": "is a symbolic link",
        "hard.img": "not a regular file",
        "fifo.img": "not a regular file",
        "dir.img": "not a regular file",
    }.items():
        with pytest.raises(ImageError, match=rf"^x\.tar:c/{name}: {why}$"):
            directory.image(name)


def test_the_unfinished(opened: Open) -> None:
    left = [("c/.ipcimg-1.tmp/ipcns-var-1.img", VAR), ("c/.ipcimg-1.tmp/commit", b"")]
    for members in (left, [("c/ipcns-var-1.img", VAR), *left], [("c/ipcns-var-1.img", VAR), left[0]]):
        directory = only(opened(tar(members)))
        with pytest.raises(DirectoryError, match=r"^image directory x\.tar:c: set 1 is unfinished: .* was killed$"):
            the_set(directory)
    whole = [("c/ipcns-var-1.img", VAR), ("c/ipcimg-manifest-1.img", wire.manifest(1, {"ipcns-var-1.img": VAR}))]
    the_set(only(opened(tar([*whole, left[0]]))))  # what is there is as whole as it was


# ---- parents -------------------------------------------------------------------------------


def with_parent(link: str, where: str = "checkpoint") -> bytes:
    """A set whose one page is in its parent, which is in the directory pre."""
    shm = wire.image(wire.SHM, wire.segment(wire.desc(), wire.PAGE))
    return tar(
        [
            (f"{where}/ipcns-var-1.img", VAR),
            (f"{where}/ipcns-shm-1.img", shm),
            (f"{where}/pagemap-shmem-0.img", wire.pagemap(1, wire.pages(0, 1, wire.PARENT))),
            (f"{where}/pages-1.img", b""),
            special(f"{where}/parent", tarfile.SYMTYPE, link),
            ("pre/pagemap-shmem-0.img", wire.pagemap(1, wire.pages(0, 1))),
            ("pre/pages-1.img", b"p" * wire.PAGE),
        ]
    )


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    ("link", "where"), [("../pre", "checkpoint"), ("../a/../pre/.", "checkpoint"), ("../../pre", "a/b"), ("pre", ".")]
)
def test_parent(link: str, where: str, packed: str, opened: Open) -> None:
    found = the_set(only(opened(PACKED[packed](with_parent(link, where)))))
    [segment] = found.contents.segments
    [extent] = segment.extents
    data = bytearray(extent.length)
    extent.read_into(memoryview(data), 0)
    assert data == b"p" * wire.PAGE
    assert found.check().pages == 1


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("/pre", "is not in the archive"),
        ("../../pre", "is not in the archive"),
        ("../../../../../etc", "is not in the archive"),
        ("..", "has no images in the archive"),
        ("../elsewhere", "has no images in the archive"),
        ("", "the parent set does not have|more than 64 parents"),  # it is its own
    ],
)
def test_parents_that_lead_elsewhere(link: str, why: str, opened: Open) -> None:
    found = the_set(only(opened(with_parent(link))))
    with pytest.raises(IpcimgError, match=why):
        found.check()


def test_no_parent(opened: Open) -> None:
    with pytest.raises(DirectoryError, match="has no parent"):
        only(opened(tar([("c/ipcns-var-1.img", VAR)]))).parent()


# ---- archives that lie ---------------------------------------------------------------------


def refused(image: ImageFile, why: str) -> None:
    with pytest.raises(ImageError, match=why) as caught:
        archive.directories(image)
    assert str(caught.value).startswith("x.tar")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["/checkpoint/ipcns-var-1.img", "../ipcns-var-1.img", "a/../b", "a/.."])
def test_names_that_lead_out(name: str, opened: Open) -> None:
    refused(opened(tar([("ipcns-var-1.img", VAR), (name, b"")])), r"byte 1024: member '.*' leads out of its directory$")


@pytest.mark.parametrize("second", ["c/ipcns-var-1.img", "./c/ipcns-var-1.img", "c//./ipcns-var-1.img"])
def test_two_of_one_name(second: str, opened: Open) -> None:
    refused(opened(tar([("c/ipcns-var-1.img", VAR), (second, VAR)])), "byte 1024: a second member ")


def test_two_of_one_name_that_mean_nothing(opened: Open) -> None:
    """Such as the directory itself, which some archivers have twice."""
    twice: list[tuple[str | tarfile.TarInfo, bytes]] = [("x", b"1")] * 2
    twice += [special("c", tarfile.DIRTYPE), special("c/a.img", tarfile.DIRTYPE)] * 2
    only(opened(tar([*twice, ("c/ipcns-var-1.img", VAR)])))


def test_sparse_members(opened: Open, tmp_path: pathlib.Path) -> None:
    (tmp_path / "ipcns-var-1.img").write_bytes(VAR)
    with open(tmp_path / "pages-1.img", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    for form in ("gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"):
        made = f"tar -c --sparse --format={form} -f y.tar pages-1.img ipcns-var-1.img"
        subprocess.run(made.split(), cwd=tmp_path, check=True)
        directory = only(opened((tmp_path / "y.tar").read_bytes()))
        assert the_set(directory).check() == ipcimg.Counts()  # what comes behind is found
        with pytest.raises(ImageError, match="without its holes"):
            directory.image("pages-1.img")


def test_truncated(opened: Open) -> None:
    """Wherever an archive is cut, it is refused; of the end, half is enough."""
    data = tar([("c/ipcns-var-1.img", VAR), ("c/pages-1.img", bytes(1000))])
    end = 512 + 512 + 512 + 1024
    for length in range(512, end + 512, 256):
        refused(opened(data[:length]), r"byte \d+: ")
    only(opened(data[: end + 512]))


@pytest.mark.parametrize("packed", ["tar.gz", "tar.zst"])
def test_truncated_and_changed_where_it_is_compressed(packed: str, opened: Open) -> None:
    whole = PACKED[packed](tar([("c/ipcns-var-1.img", VAR), ("c/pages-1.img", random.Random(1).randbytes(3000))]))
    for length in [*range(4, len(whole), 97), *range(len(whole) - 12, len(whole))]:
        refused(opened(whole[:length]), "compressed data are broken, 0 bytes into what is in them: ")
    refused(opened(whole + b"garbage"), "compressed data are broken")
    only(opened(whole))


@pytest.mark.parametrize("junk", [b"x", bytes(5000) + b"x", b"x" * 512])
@pytest.mark.parametrize("packed", PACKED)
def test_garbage_behind_the_end(junk: bytes, packed: str, opened: Open) -> None:
    data = tar([("c/ipcns-var-1.img", VAR)])
    refused(opened(PACKED[packed](data + junk)), rf"byte {len(data) + junk.index(b'x')}: neither another member")


def test_no_archive_inside(opened: Open) -> None:
    for pack in (gzip.compress, zstd.compress):
        for data in (b"", b"x", VAR, b"x" * 512, b"x" * 5000):
            refused(opened(pack(data)), "no tar archive|neither|cut short")


@pytest.mark.parametrize("data", [b"", b"\x1f", VAR, b"x" * 1000, bytes(1000), b"ustar"])
def test_what_is_no_archive(data: bytes, opened: Open) -> None:
    assert not archive.is_archive(opened(data))


def header(**changes: bytes) -> bytes:
    """The header of an empty member, with fields of it changed, by their places."""
    block = bytearray(tar([("c/ipcns-var-1.img", b"")])[:512])
    for place, data in changes.items():
        block[int(place[1:]) : int(place[1:]) + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(_124=b"\xff" * 12), "ends before it begins"),
        (header(_124=b"\xff" * 8 + bytes(4)), "ends before it begins"),
        (header(_124=b"\x80" + b"\xff" * 11), "claims .* bytes, and the archive ends"),
        (header(_124=b"77777777777\0"), "claims 8589934591 bytes, and the archive ends"),
        (header(_124=b"99999999999\0"), "no tar archive, or a damaged one"),
        (header(_156=b"x", _124=b"77777777777\0"), "the header of a member is longer than 65536 bytes"),
        (header(_156=b"L", _124=b"77777777777\0"), "the header of a member is longer than 65536 bytes"),
        (header(_156=b"L", _124=b"\xff" * 12), "the header of a member is longer than|damaged"),
        (header(_156=b"L") * 3000, "damaged|longer than"),
        (header(_156=b"x") * 3000, "damaged|longer than"),
        (
            header(_156=b"S", _482=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 3000,
            "the header of a member is longer than 65536 bytes",
        ),
    ],
)
def test_headers_that_lie(data: bytes, why: str, opened: Open) -> None:
    tracemalloc.start()
    try:
        refused(opened(data + bytes(1024)), why)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(_156=kind, _124=b"%011o\0" % len(records)) + wire.padded(records, 512)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (b"13 size=-512\n", "damaged|ends before it begins|two sizes"),
        (b"13 size=1024\n", "the end of the archive is missing"),
        (b"13 size=1025\n", "claims 1025 bytes"),
        (b"20 size=1" + b"0" * 10 + b"\n", "claims 10000000000 bytes"),
        (b"13 size=some\n", "two sizes"),
        (b"200 size=" + b"9" * 190 + b"\n", "two sizes|claims"),
        (b"5000 size=" + b"9" * 4989 + b"\n", "a number of 256 digits"),
        (b"20 GNU.sparse.size=x", "damaged"),
        (b"22 GNU.sparse.map=x,y\n", "damaged"),
        (b"0 a=b\n", "damaged"),
        (b"25 hdrcharset=\xff\xff\xff\xff\xff\xff\xff\xff\xff\n", "damaged"),
        (b"13 path=../..\n", "leads out"),
    ],
)
def test_records_that_lie(records: bytes, why: str, opened: Open) -> None:
    refused(opened(pax(records) + header() + bytes(1024)), why)


def test_a_size_for_all_members(opened: Open) -> None:
    """Then the size of a member is one thing, and where the next begins another."""
    refused(opened(pax(b"13 size=1024\n", b"g") + header() + bytes(4096)), "two sizes")


def test_too_many_records_for_all_members(opened: Open) -> None:
    records = [pax(b"9 a%03d=1\n" % n, b"g") + header(_0=b"x\0") for n in range(100)]
    refused(opened(b"".join(records) + bytes(1024)), "more than 64 records")


def test_too_many_images(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_NOTED", 10000)
    refused(opened(tar([(f"{n}.img", b"") for n in range(100)])), "more images and links in the archive")


def test_flipped_bits(opened: Open, tmp_path: pathlib.Path, record_property: Callable[[str, object], None]) -> None:
    """Whatever is in an archive, it is refused in one line, or gives images that are."""
    files = files_of(CRIU / "basic")
    base = [tar(files, form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    base.append(tar([("c/" + "n" * 200 + ".img", b""), *files, special("c/parent", tarfile.SYMTYPE, "../checkpoint")]))
    rnd, tried = random.Random(4), 0
    for data in [*base, *(gzip.compress(one) for one in base), *(zstd.compress(one) for one in base)]:
        for _ in range(150):
            changed = bytearray(data)
            for _ in range(rnd.choice((1, 1, 3))):
                at = rnd.randrange(len(changed)) if rnd.random() < 0.5 else rnd.randrange(len(changed)) & ~511
                at = min(at + rnd.randrange(345), len(changed) - 1)
                changed[at] = rnd.choice((0, 0x80, 0xFF, changed[at] ^ 1 << rnd.randrange(8), rnd.choice(b"xgLKS0157")))
                block = at & ~511  # most often the checksum fits
                if data in base and rnd.random() < 0.9 and changed[block + 257 : block + 262] == b"ustar":
                    changed[block + 148 : block + 156] = b" " * 8
                    changed[block + 148 : block + 156] = b"%06o\0 " % sum(changed[block : block + 512])
            tried += 1
            try:
                for directory in archive.directories(opened(bytes(changed))):
                    the_set(directory).check()
            except IpcimgError as error:
                assert str(error).isprintable()
    record_property("nothing lost", f"changed archives: {tried} tried, 0 with anything but one line")


# ---- going back ----------------------------------------------------------------------------


def unpacked_of(directory: ArchiveDirectory) -> Unpacked:
    whole = directory._archive._whole
    assert isinstance(whole, Unpacked)
    return whole


@pytest.mark.parametrize("packed", ["tar.gz", "tar.zst"])
def test_reading_at_any_place(packed: str, opened: Open) -> None:
    data = random.Random(5).randbytes(3 * Unpacked.BLOCK + 5)
    image = opened(PACKED[packed](data))
    compression = archive._compression(archive._head(image))
    assert compression is not None
    whole, rnd = Unpacked(image, compression), random.Random(6)
    for _ in range(300):
        offset, size = rnd.randrange(len(data) + 1000), rnd.choice((0, 1, 1000, 1 << 20))
        room = bytearray(size)
        n = whole.read_some(memoryview(room), offset)
        assert (n > 0) == (size > 0 and offset < len(data))
        assert room[:n] == data[offset : offset + n]
    assert whole.read_some(memoryview(bytearray(1)), 1 << 62) == 0


def test_several_threads(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of segments are read by threads, of two sets of one archive at once."""
    monkeypatch.setattr(Unpacked, "BLOCKS", 2)
    data = random.Random(8).randbytes(4 * Unpacked.BLOCK)
    whole = Unpacked(opened(zstd.compress(data)), archive._zstd())

    def read(seed: int) -> bool:
        rnd, room = random.Random(seed), bytearray(100)
        for _ in range(200):
            offset = rnd.randrange(len(data))
            if room[: (n := whole.read_some(memoryview(room), offset))] != data[offset : offset + n]:
                return False
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(8)))


@pytest.mark.parametrize("packed", ["tar.gz", "tar.zst"])
def test_large_images_are_read_forward(
    packed: str, opened: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads ahead of messages, page maps by turns with pages: for that it is begun anew a few times, and no more."""
    monkeypatch.setattr(Unpacked, "BLOCKS", 4)
    monkeypatch.setattr(archive, "_SMALL", 0)
    segments = [
        ipcimg.SharedMemory(permissions(n), 8 << 20, [Pages(k * 8192, 4096) for k in range(500)]) for n in range(20)
    ]
    ipcimg.save(contents([queue(n, 2000, 2000) for n in range(10)], segments), tmp_path / "set")
    directory = only(opened(PACKED[packed](as_podman_has_it(tmp_path / "set"))))
    whole, found = unpacked_of(directory), the_set(directory)
    before = whole.begun
    for one in found.contents.queues:
        assert sum(len(message.body) for message in one.messages) > 0
    assert whole.begun - before <= 3
    queues, before = list(found.contents.queues), whole.begun
    for one in queues:
        assert sum(1 for _ in one.messages) == 2000
    assert whole.begun - before <= 2
    before = whole.begun
    for segment in found.contents.segments:
        assert sum(extent.length for extent in segment.extents) == 500 * 4096
    assert whole.begun - before <= 3
    before = whole.begun
    found.check()
    assert whole.begun - before <= 16


class _Large:
    """A tar of one large image, from which a compressor reads."""

    SIZE = 200 << 20

    def __init__(self) -> None:
        whole = tar([("checkpoint/ipcns-var-1.img", VAR)])
        info = tarfile.TarInfo("checkpoint/ipcns-msg-1.img")
        body = random.Random(7).randbytes(4000)
        self._message = wire.one_message(1, body)
        self.messages = self.SIZE // len(self._message)
        head = wire.image(wire.MSG, wire.entry(wire.message({1: wire.desc(), 2: 1 << 30, 3: self.messages})))
        info.size = len(head) + self.messages * len(self._message)
        self._head = whole[:1024] + info.tobuf() + head
        self._tail = bytes(-info.size % 512 + 1024)

    def write(self, write: Callable[[bytes], object]) -> None:
        write(self._head)
        for start in range(0, self.messages, 1000):
            write(self._message * min(1000, self.messages - start))
        write(self._tail)


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["tar.gz", "tar.zst"])
def test_memory_and_time(packed: str, tmp_path: pathlib.Path) -> None:
    """200 MiB of messages in one archive: what is in memory at a time are some blocks."""
    path, large = tmp_path / f"x.{packed}", _Large()
    if packed == "tar.gz":
        with gzip.open(path, "wb", compresslevel=1) as gz:
            large.write(gz.write)
    else:
        with zstd.open(path, "wb") as zst:
            large.write(zst.write)
    tracemalloc.start()
    try:
        directory = only(ImageFile(os.open(path, os.O_RDONLY), path.name))
        found, whole = the_set(directory), unpacked_of(directory)
        for one in found.contents.queues:
            assert sum(1 for _ in zip(one.messages, range(20000), strict=False)) == 20000
        assert found.check().messages == large.messages
        assert tracemalloc.get_traced_memory()[1] < Unpacked.BLOCK * Unpacked.BLOCKS + (8 << 20)
    finally:
        tracemalloc.stop()
    assert whole.begun <= 5
    # What zlib and zstd take is not Python's, and seen from outside alone.
    done = subprocess.run([sys.executable, "-c", CHECK, path], capture_output=True, text=True, check=True)
    messages, peak = map(int, done.stdout.split())
    assert (messages, peak < 128 << 10) == (large.messages, True), f"{peak} KiB"


CHECK = """
import os, re, sys
from ipcimg import archive, image, imageset
[directory] = archive.directories(image.ImageFile(os.open(sys.argv[1], os.O_RDONLY), "x.tar"))
found = imageset.ImageSet(directory, 1)
for queue in found.contents.queues:
    for message in queue.messages:
        pass
print(found.check().messages, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def test_a_bomb(opened: Open) -> None:
    """Zeros without end, in a few bytes."""
    data = tar([("c/ipcns-var-1.img", VAR)]) + bytes(64 << 20)
    packed = zstd.compress(data)
    assert len(packed) < 10000
    del data
    tracemalloc.start()
    try:
        the_set(only(opened(packed))).check()
        assert tracemalloc.get_traced_memory()[1] < Unpacked.BLOCK * Unpacked.BLOCKS + (8 << 20)
    finally:
        tracemalloc.stop()
