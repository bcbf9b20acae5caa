"""Which files make up a set: pages and their parents, the manifest, the number of the set."""

from __future__ import annotations

import gc
import os
import pathlib
import tracemalloc
from collections.abc import Mapping

import pytest

import ipcimg
from ipcimg import imageset
from ipcimg.errors import DirectoryError, ImageError, IpcimgError
from tests import wire

PAGE = wire.PAGE
VAR = {"ipcns-var-1.img": wire.variables()}
EMPTY = ipcimg.Contents(ipcimg.Variables((1, 2, 3, 4), 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 12))


def filled(*letters: str) -> bytes:
    """A page of each letter."""
    return b"".join(letter.encode() * PAGE for letter in letters)


def set_with_segment(pagemap: bytes, pages: Mapping[str, bytes], size: int = 4 * PAGE) -> dict[str, bytes]:
    """A set whose only object is segment 0."""
    shm = wire.image(wire.SHM, wire.segment(wire.desc(), size))
    return {**VAR, "ipcns-shm-1.img": shm, "pagemap-shmem-0.img": pagemap, **pages}


def content(directory: pathlib.Path) -> bytes:
    """What its pages hold, a letter a page, "-" where there are none."""
    [segment] = ipcimg.load(directory).segments
    letters = bytearray(b"-" * -(-segment.size // PAGE))
    for extent in segment.extents:
        data = bytearray(extent.length)
        extent.read_into(memoryview(data))
        letters[extent.offset // PAGE : (extent.offset + extent.length) // PAGE] = data[::PAGE]
        assert data == b"".join(bytes([letter]) * PAGE for letter in data[::PAGE])
    return bytes(letters)


# ---- pages ---------------------------------------------------------------------------------


def test_pages(tmp_path: pathlib.Path) -> None:
    pagemap = wire.pagemap(7, wire.pages(0, 1), wire.pages(2 * PAGE, 2))
    wire.write(tmp_path, set_with_segment(pagemap, {"pages-7.img": filled("a", "b", "c")}))
    assert content(tmp_path) == b"a-bc"


@pytest.mark.parametrize("size", [3 * PAGE + 1, 4 * PAGE - 1, 4 * PAGE])
def test_the_last_page_may_reach_beyond_the_segment(tmp_path: pathlib.Path, size: int) -> None:
    pagemap = wire.pagemap(7, wire.pages(3 * PAGE, 1))
    wire.write(tmp_path, set_with_segment(pagemap, {"pages-7.img": filled("a")}, size))
    assert content(tmp_path) == b"---a"


@pytest.mark.parametrize("size", [1, 3 * PAGE, (2 << 20) - PAGE, 8 << 20])
def test_pages_beyond_the_segment(tmp_path: pathlib.Path, size: int) -> None:
    """Only a segment of huge pages has more than its size rounded up to ordinary ones."""
    beyond = -(-size // PAGE) * PAGE
    files = set_with_segment(wire.pagemap(7, wire.pages(beyond, 1)), {"pages-7.img": filled("a")}, size)
    wire.write(tmp_path, files)
    with pytest.raises(ImageError, match=r"pagemap-shmem-0\.img, byte \d+: .*the segment ends at"):
        content(tmp_path)


def test_a_huge_segment_fills_its_last_huge_page(tmp_path: pathlib.Path) -> None:
    pagemap = wire.pagemap(7, wire.pages(511 * PAGE, 1))
    files = set_with_segment(pagemap, {"pages-7.img": filled("a")})
    files["ipcns-shm-1.img"] = wire.image(wire.SHM, wire.segment(wire.desc(), 1, hugetlb_flag=0o4000 | 21 << 26))
    wire.write(tmp_path, files)
    [segment] = ipcimg.load(tmp_path).segments
    assert [(extent.offset, extent.length) for extent in segment.extents] == [(511 * PAGE, PAGE)]


@pytest.mark.parametrize("length", [0, 1, PAGE, 2 * PAGE - 1])
def test_pages_file_too_short(tmp_path: pathlib.Path, length: int) -> None:
    pagemap = wire.pagemap(7, wire.pages(0, 1), wire.pages(PAGE, 1))
    wire.write(tmp_path, set_with_segment(pagemap, {"pages-7.img": filled("a", "b")[:length]}))
    with pytest.raises(ImageError, match=rf"pages-7\.img, byte {length}: ends too early: pagemap-shmem-0\.img"):
        content(tmp_path)


@pytest.mark.parametrize("extra", [1, PAGE])
def test_pages_file_too_long(tmp_path: pathlib.Path, extra: int) -> None:
    pagemap = wire.pagemap(7, wire.pages(0, 1))
    wire.write(tmp_path, set_with_segment(pagemap, {"pages-7.img": filled("a") + bytes(extra)}))
    with pytest.raises(ImageError, match=rf"pages-7\.img, byte {PAGE}: {extra} bytes that pagemap-shmem-0\.img"):
        content(tmp_path)


@pytest.mark.parametrize("missing", ["pagemap-shmem-0.img", "pages-7.img", "ipcns-var-1.img"])
def test_missing_file(tmp_path: pathlib.Path, missing: str) -> None:
    files = set_with_segment(wire.pagemap(7, wire.pages(0, 1)), {"pages-7.img": filled("a")})
    del files[missing]
    wire.write(tmp_path, files)
    with pytest.raises(ImageError, match=f"{missing}: No such file"):
        content(tmp_path)


def test_a_kind_without_objects_may_lack_its_image(tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, VAR)
    contents = ipcimg.load(tmp_path)
    assert (list(contents.segments), list(contents.queues), list(contents.semaphores)) == ([], [], [])


@pytest.mark.parametrize("name", ["ipcns-var-1.img", "ipcns-shm-1.img", "pagemap-shmem-0.img", "pages-7.img"])
def test_symbolic_links_are_not_followed(tmp_path: pathlib.Path, name: str) -> None:
    """An image directory from elsewhere must not make its reader read other files."""
    directory = tmp_path / "set"
    files = set_with_segment(wire.pagemap(7, wire.pages(0, 1)), {"pages-7.img": filled("a")})
    wire.write(directory, files)
    assert content(directory) == b"a---"
    (directory / name).rename(tmp_path / "elsewhere")
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageError, match=f"{name}: is a symbolic link"):
        content(directory)


# ---- pages in a parent set -----------------------------------------------------------------


def child(directory: pathlib.Path, parent: str | None) -> pathlib.Path:
    """A set of which page 1 is its own, and 0, 2 and 3 are its parent's."""
    pagemap = wire.pagemap(7, wire.pages(0, 1, wire.PARENT), wire.pages(PAGE, 1), wire.pages(2 * PAGE, 2, wire.PARENT))
    wire.write(directory, set_with_segment(pagemap, {"pages-7.img": filled("C")}))
    if parent is not None:
        (directory / "parent").symlink_to(parent)
    return directory


def test_parent(tmp_path: pathlib.Path) -> None:
    """Its runs are cut otherwise than the child's, and one of its pages is overridden."""
    pagemap = wire.pagemap(3, wire.pages(0, 3), wire.pages(3 * PAGE, 1))
    wire.write(tmp_path / "first", set_with_segment(pagemap, {"pages-3.img": filled("a", "b", "c", "d")}))
    assert content(child(tmp_path / "second", "../first")) == b"aCcd"


def test_parent_of_a_parent(tmp_path: pathlib.Path) -> None:
    pagemap = wire.pagemap(3, wire.pages(0, 4))
    wire.write(tmp_path / "first", set_with_segment(pagemap, {"pages-3.img": filled("a", "b", "c", "d")}))
    pagemap = wire.pagemap(5, wire.pages(0, 2), wire.pages(2 * PAGE, 2, wire.PARENT))
    second = wire.write(tmp_path / "second", set_with_segment(pagemap, {"pages-5.img": filled("x", "y")}))
    (second / "parent").symlink_to("../first")
    assert content(child(tmp_path / "third", "../second")) == b"xCcd"


def test_set_with_a_parent_is_saved_without_one(tmp_path: pathlib.Path) -> None:
    pagemap = wire.pagemap(3, wire.pages(0, 4))
    wire.write(tmp_path / "first", set_with_segment(pagemap, {"pages-3.img": filled("a", "b", "c", "d")}))
    loaded = ipcimg.load(child(tmp_path / "second", "../first"))
    assert ipcimg.save(loaded, tmp_path / "third").pages == 4
    assert content(tmp_path / "third") == b"aCcd"


@pytest.mark.parametrize("end", [0, 2, 3])
def test_parent_lacks_a_page(tmp_path: pathlib.Path, end: int) -> None:
    runs = [wire.pages(0, end)] if end else []
    pages = filled(*"abcd"[:end])
    wire.write(tmp_path / "first", set_with_segment(wire.pagemap(3, *runs), {"pages-3.img": pages}))
    child(tmp_path / "second", "../first")
    with pytest.raises(ImageError, match=rf"second/pagemap-shmem-0\.img, byte .*at {end * PAGE:#x}"):
        content(tmp_path / "second")


def test_parent_lacks_the_segment(tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path / "first", VAR)
    child(tmp_path / "second", "../first")
    with pytest.raises(ImageError, match=r"parent/pagemap-shmem-0\.img: No such file"):
        content(tmp_path / "second")


@pytest.mark.parametrize("parent", [None, "../nowhere"])
def test_parent_is_missing(tmp_path: pathlib.Path, parent: str | None) -> None:
    child(tmp_path / "second", parent)
    with pytest.raises(DirectoryError, match=r"second/parent: .*No such file"):
        content(tmp_path / "second")


def test_parent_is_itself(tmp_path: pathlib.Path) -> None:
    child(tmp_path / "one", ".")
    with pytest.raises(IpcimgError, match="circle"):
        content(tmp_path / "one")


def test_two_are_each_other_s_parents(tmp_path: pathlib.Path) -> None:
    child(tmp_path / "one", "../two")
    child(tmp_path / "two", "../one")
    with pytest.raises(IpcimgError, match="circle"):
        content(tmp_path / "one")


# ---- the manifest --------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: pathlib.Path) -> pathlib.Path:
    """A set with its manifest."""
    files = set_with_segment(wire.pagemap(7, wire.pages(0, 1)), {"pages-7.img": filled("a")})
    return wire.write(tmp_path, files | {"ipcimg-manifest-1.img": wire.manifest(1, files, {11: 1, 12: 1})})


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
    """The files of the set whole, as they are now."""
    names = ("ipcns-var-1.img", "ipcns-shm-1.img", "pagemap-shmem-0.img", "pages-7.img")
    return {name: (directory / name).read_bytes() for name in names}


def rewrite(directory: pathlib.Path, **changes: int | None) -> None:
    """Write the manifest anew, with other sizes, or without some of the files."""
    files: dict[str, bytes | int | None] = {**files_of(directory), **changes}
    listed = {name: file for name, file in files.items() if file is not None}
    (directory / "ipcimg-manifest-1.img").write_bytes(wire.manifest(1, listed, {11: 1, 12: 1}))


def test_manifest_that_is_right(whole: pathlib.Path) -> None:
    assert content(whole) == b"a---"
    assert imageset.open_set(str(whole)).check() == ipcimg.Counts(segments=1, pages=1)


@pytest.mark.parametrize("name", ["ipcns-var-1.img", "ipcns-shm-1.img", "pagemap-shmem-0.img", "pages-7.img"])
def test_manifest_and_other_sizes(whole: pathlib.Path, name: str) -> None:
    size = (whole / name).stat().st_size
    for wrong in (size - 1, size + 1, 0, 1 << 63):
        rewrite(whole, **{name: wrong})
        with pytest.raises(ImageError, match=rf"ipcimg-manifest-1\.img: {name} should have {wrong} bytes and has"):
            ipcimg.load(whole)


@pytest.mark.parametrize("name", ["ipcns-var-1.img", "ipcns-shm-1.img", "pagemap-shmem-0.img", "pages-7.img"])
def test_manifest_and_missing_file(whole: pathlib.Path, name: str) -> None:
    (whole / name).unlink()
    with pytest.raises(ImageError, match=name):
        ipcimg.load(whole)


@pytest.mark.parametrize("kind", ["var", "shm", "msg", "sem"])
def test_manifest_and_a_kind_it_does_not_list(whole: pathlib.Path, kind: str) -> None:
    """Left by another dump: objects that were not in the namespace must not come in with it."""
    name = f"ipcns-{kind}-1.img"
    (whole / name).touch()
    rewrite(whole, **{name: None})
    with pytest.raises(ImageError, match=f"{name} is in the directory, but not of this set"):
        ipcimg.load(whole)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "../ipcns-var-1.img",
        "/etc/passwd",
        "",
        ".",
        "inventory.img",
        "core-1.img",
        "parent",
        "ipcimg-manifest-2.img",
        "ipcns-var-1.img\n",
        "ipcns-var-1.img/../x",
        "ipcns-msg-2.img",  # of another set
        "ipcns-net-1.img",
    ],
)
def test_manifest_with_hostile_names(whole: pathlib.Path, name: str) -> None:
    """--force removes the files of the old set: a manifest must not be able to make just any file one of them."""
    victims = {
        whole / "inventory.img": b"victim",
        whole / "ipcns-msg-2.img": b"victim",
        whole / "ipcimg-manifest-2.img": b"victim",
        whole.parent / "x": b"victim",
    }
    for path, data in victims.items():
        path.write_bytes(data)
    rewrite(whole, **{name: len(b"victim")})
    with pytest.raises(ImageError, match=r"ipcimg-manifest-1\.img: "):
        ipcimg.load(whole, ns_id=1)
    ipcimg.save(EMPTY, whole, ns_id=1, force=True)
    assert {path: path.read_bytes() for path in victims} == victims


def test_manifest_of_another_set(whole: pathlib.Path) -> None:
    (whole / "ipcimg-manifest-1.img").write_bytes(wire.manifest(2, {}))
    with pytest.raises(ImageError, match=r"ipcimg-manifest-1\.img: is the manifest of set 2"):
        ipcimg.load(whole)


@pytest.mark.parametrize("changes", [{11: 2}, {12: 0}, {8: 1}, {9: 1}, {10: 1}])
def test_manifest_with_other_counts(whole: pathlib.Path, changes: dict[int, int]) -> None:
    (whole / "ipcimg-manifest-1.img").write_bytes(wire.manifest(1, files_of(whole), {11: 1, 12: 1, **changes}))
    with pytest.raises(ImageError, match=r"ipcimg-manifest-1\.img: promises"):
        imageset.open_set(str(whole)).check()


def test_the_manifest_s_page_size_counts(tmp_path: pathlib.Path) -> None:
    """A set from a machine with larger pages."""
    large = 16 * PAGE
    files = set_with_segment(
        wire.pagemap(7, wire.entry(wire.message({1: large, 2: 1}))), {"pages-7.img": b"l" * large}, 2 * large
    )
    wire.write(tmp_path, files | {"ipcimg-manifest-1.img": wire.manifest(1, files, {6: large, 11: 1, 12: 1})})
    [segment] = ipcimg.load(tmp_path).segments
    assert [(extent.offset, extent.length) for extent in segment.extents] == [(large, large)]
    assert imageset.open_set(str(tmp_path)).check().pages == 1
    # Here such a run is 16 pages; what is saved says so.
    assert ipcimg.save(ipcimg.load(tmp_path), tmp_path / "copy").pages == large // imageset.PAGE_SIZE


# ---- what every object has of its own --------------------------------------------------------

STORED = {"pagemap-shmem-5.img": wire.pagemap(1), "pages-1.img": b"", "pagemap-shmem-6.img": wire.pagemap(2)}
STORED["pages-2.img"] = b""


def objects(kind: str, *described: bytes) -> bytes:
    """An image of objects with these ipc_desc_entries."""
    if kind == "shm":
        return wire.image(wire.SHM, *(wire.segment(one, 1) for one in described))
    if kind == "msg":
        return wire.image(wire.MSG, *(wire.queue(one) for one in described))
    return wire.image(wire.SEM, *(wire.semaphores(one, [1]) for one in described))


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("kind", ["shm", "msg", "sem"])
def test_ids_and_keys_that_come_twice(tmp_path: pathlib.Path, kind: str, manifest: bool) -> None:
    named = {"shm": "shared memory segment", "msg": "message queue", "sem": "semaphore set"}[kind]
    counts = {{"shm": 11, "msg": 8, "sem": 10}[kind]: 2}
    name = f"ipcns-{kind}-1.img"
    cases = {
        f"{named} 5 (key 0x00000002) is in the image twice": [wire.desc(5, 1), wire.desc(5, 2)],
        f"{named} 6 (key 0xffffffff) has the key of another one in the image": [
            wire.desc(n, 2**32 - 1) for n in (5, 6)
        ],
        "": [wire.desc(5, 0), wire.desc(6, 0)],
    }
    for why, described in cases.items():
        files = {**VAR, name: objects(kind, *described), **(STORED if kind == "shm" else {})}
        if manifest:
            files["ipcimg-manifest-1.img"] = wire.manifest(1, files, counts)
        wire.write(tmp_path, files)
        images = imageset.open_set(str(tmp_path))
        if not why:
            images.check()
            continue
        with pytest.raises(ImageError) as raised:
            images.check()
        assert str(raised.value) == f"{tmp_path}/{name}: {why}"


def test_ids_and_keys_of_other_kinds_do_not_matter(tmp_path: pathlib.Path) -> None:
    files = {f"ipcns-{kind}-1.img": objects(kind, wire.desc(5, 6)) for kind in ("shm", "msg", "sem")}
    wire.write(tmp_path, {**VAR, **STORED, **files})
    assert imageset.open_set(str(tmp_path)).check() == ipcimg.Counts(1, 0, 1, 1, 0)


@pytest.mark.parametrize("runs", [[], [wire.pages(0, 1)]])
def test_pages_that_two_segments_claim(tmp_path: pathlib.Path, runs: list[bytes]) -> None:
    pagemap = wire.pagemap(7, *runs)
    wire.write(tmp_path, {**VAR, "ipcns-shm-1.img": objects("shm", wire.desc(5), wire.desc(6))})
    wire.write(tmp_path, {f"pagemap-shmem-{n}.img": pagemap for n in (5, 6)} | {"pages-7.img": bytes(PAGE * len(runs))})
    with pytest.raises(ImageError) as raised:
        imageset.open_set(str(tmp_path)).check()
    why = "shared memory segment 6 has its pages in pages-7.img, which another one has"
    assert str(raised.value) == f"{tmp_path}/ipcns-shm-1.img: {why}"


def test_what_was_seen_takes_little(tmp_path: pathlib.Path) -> None:
    count = 20_000
    queues = wire.image(wire.MSG, *(wire.queue(wire.desc(n, n + 1)) for n in range(count)))
    wire.write(tmp_path, {**VAR, "ipcns-msg-1.img": queues})
    images = imageset.open_set(str(tmp_path))
    tracemalloc.start()
    try:
        assert images.check().queues == count
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


# ---- resources -------------------------------------------------------------------------------


def test_files_are_closed_when_nobody_has_the_set(tmp_path: pathlib.Path) -> None:
    """At once: a collection of garbage may be long in coming."""
    pagemap = wire.pagemap(7, wire.pages(0, 1), wire.pages(PAGE, 1))
    files = {**set_with_segment(pagemap, {"pages-7.img": filled("a", "b")}), "ipcns-msg-1.img": objects("msg", b"")}
    wire.write(tmp_path, files)

    def use(check: bool) -> None:
        images = imageset.open_set(str(tmp_path))
        assert sum(extent.length for segment in images.contents.segments for extent in segment.extents) == 2 * PAGE
        if check:
            with pytest.raises(ImageError, match="lacks"):
                images.check()

    use(True)
    before = os.listdir("/proc/self/fd")
    gc.disable()
    try:
        for n in range(20):
            use(bool(n % 2))
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


def test_an_inline_segment_of_holes(tmp_path: pathlib.Path) -> None:
    """1 TiB that costs its sender nothing is gone through, and nothing is read of it."""
    size = 1 << 40
    entry = wire.entry(wire.message({1: wire.desc(5), 2: size}))
    image = wire.write(tmp_path, {**VAR, "ipcns-shm-1.img": wire.image(wire.SHM, entry)}) / "ipcns-shm-1.img"
    os.truncate(image, image.stat().st_size + size)
    tracemalloc.start()
    try:
        assert imageset.open_set(str(tmp_path)).check() == ipcimg.Counts(segments=1, pages=size // imageset.PAGE_SIZE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# ---- the number of the set -----------------------------------------------------------------


def two_sets(directory: pathlib.Path) -> pathlib.Path:
    """Set 3 with msgmax 33, set 20 with msgmax 200."""
    return wire.write(
        directory, {"ipcns-var-3.img": wire.variables({2: 33}), "ipcns-var-20.img": wire.variables({2: 200})}
    )


def test_two_sets_in_one_directory(tmp_path: pathlib.Path) -> None:
    two_sets(tmp_path)
    with pytest.raises(DirectoryError, match="2 sets in it; choose one by --ns-id: 3, 20"):
        ipcimg.load(tmp_path)
    assert ipcimg.load(tmp_path, ns_id=3).variables.msg_ctlmax == 33
    assert ipcimg.load(tmp_path, 20).variables.msg_ctlmax == 200
    with pytest.raises(DirectoryError, match="no set 2 in it, only 3, 20"):
        ipcimg.load(tmp_path, ns_id=2)


@pytest.mark.parametrize(
    "name",
    [
        "inventory.img",
        "pages-1.img",
        "pagemap-shmem-0.img",
        "ipcns-var-.img",
        "ipcns-var-x.img",
        "ipcns-var-1.img.bak",
        "ipcns-var-01.img",  # it is not kind_name() of any number
        "ipcns-var-\N{ARABIC-INDIC DIGIT ONE}.img",
        "xipcns-var-1.img",
    ],
)
def test_no_set(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DirectoryError, match="no images of an IPC namespace"):
        ipcimg.load(tmp_path)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [({}, 1), ({"ids-5.img": 9}, 9), ({"ids-5.img": 9, "ids-6.img": 9}, 9), ({"ids-5.img": None}, 1)],
)
def test_number_of_a_new_set(tmp_path: pathlib.Path, found: dict[str, int | None], chosen: int) -> None:
    wire.write(tmp_path, {name: wire.ids(ns_id) for name, ns_id in found.items()})
    ipcimg.save(EMPTY, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - found.keys() == {
        f"ipcns-var-{chosen}.img",
        f"ipcimg-manifest-{chosen}.img",
    }


def test_conflicting_ids(tmp_path: pathlib.Path) -> None:
    """Two tasks of the dump are in different IPC namespaces."""
    before = {"ids-5.img": wire.ids(9), "ids-6.img": wire.ids(12)}
    wire.write(tmp_path, before)
    with pytest.raises(DirectoryError, match=r"ids-\*\.img name the IPC namespaces 9, 12; choose one by --ns-id"):
        ipcimg.save(EMPTY, tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(before)
    ipcimg.save(EMPTY, tmp_path, ns_id=12)
    assert (tmp_path / "ipcns-var-12.img").exists()


def test_very_many_sets(tmp_path: pathlib.Path) -> None:
    """An error names some of them."""
    wire.write(tmp_path, {f"ipcns-var-{n}.img": b"" for n in range(3000)})
    wire.write(tmp_path, {f"ids-{n}.img": wire.ids(n) for n in range(3000)})
    some = f"{', '.join(map(str, range(16)))}, …"
    with pytest.raises(DirectoryError, match=f"3000 sets in it; choose one by --ns-id: {some}$"):
        ipcimg.load(tmp_path)
    with pytest.raises(DirectoryError, match=f"no set 3000 in it, only {some}$"):
        ipcimg.load(tmp_path, ns_id=3000)
    with pytest.raises(DirectoryError, match=f"the IPC namespaces {some}; choose one"):
        ipcimg.save(EMPTY, tmp_path)


def test_what_saving_an_empty_namespace_writes(tmp_path: pathlib.Path) -> None:
    assert ipcimg.save(EMPTY, tmp_path) == ipcimg.Counts()
    expected = wire.variables({1: [1, 2, 3, 4], **{n: n for n in range(2, 13)}, 9: 1, 13: None, 14: None, 1000: 1})
    assert (tmp_path / "ipcns-var-1.img").read_bytes() == expected
    assert ipcimg.load(tmp_path) == EMPTY
