"""Image sets that CRIU 4.2 itself dumped: read as what the namespace held, and written byte for byte."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

import pytest

import ipcimg
from ipcimg.errors import ImageError, IpcimgError
from tests import wire

FIXTURES = pathlib.Path(__file__).parent / "data" / "criu-4.2"
SETS = sorted(path.name for path in FIXTURES.iterdir())
NS_ID = 9  # of all three

Expected = dict[str, list[dict[str, Any]]]


def expected_of(name: str) -> Expected:
    """What the namespace held when CRIU dumped it."""
    expected: Expected = json.loads((FIXTURES / name / "expected.json").read_text())
    return expected


def dump_of(name: str, where: pathlib.Path) -> pathlib.Path:
    """A copy of the set, as CRIU left it: beside the pages of the dumped task itself, which the fixtures lack."""
    shutil.copytree(FIXTURES / name, where)
    (where / "pages-1.img").touch()
    return where


def images_of(directory: pathlib.Path) -> dict[str, bytes]:
    """The files of the set, and not those of the rest of the dump."""
    patterns = ("ipcns-*.img", "pagemap-shmem-*.img", "pages-*.img", "ipcimg-manifest-*.img")
    paths = [path for pattern in patterns for path in directory.glob(pattern) if path.name != "pages-1.img"]
    return {path.name: path.read_bytes() for path in sorted(paths)}


def content_of(segment: ipcimg.SharedMemory) -> bytes:
    """All of a segment up to its last page, holes and all."""
    whole = bytearray(-(-segment.size // wire.PAGE) * wire.PAGE)
    for extent in segment.extents:
        extent.read_into(memoryview(whole)[extent.offset : extent.offset + extent.length])
    return bytes(whole)


def walk(contents: ipcimg.Contents) -> None:
    """Read everything there is."""
    for queue in contents.queues:
        assert len(list(queue.messages)) == queue.qnum
    for semaphores in contents.semaphores:
        assert semaphores.nsems == len(semaphores.values)
    for segment in contents.segments:
        content_of(segment)


def test_the_three_sets_are_there() -> None:
    assert SETS == ["attached", "basic", "identity"]


# ---- reading -------------------------------------------------------------------------------


def _permissions(one: dict[str, Any]) -> ipcimg.Permissions:
    uid, gid = one.get("uid", 0), one.get("gid", 0)
    return ipcimg.Permissions(one["key"], uid, gid, uid, gid, one["mode"], one["id"])


@pytest.mark.parametrize("name", SETS)
def test_variables(name: str) -> None:
    v = wire.VARIABLES
    found = ipcimg.load(FIXTURES / name).variables
    assert found == ipcimg.Variables(tuple(v[1]), *(v[number] for number in range(2, 15)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SETS)
def test_queues(name: str) -> None:
    expected = [
        ipcimg.MessageQueue(
            _permissions(one),
            16384,
            len(one["messages"]),
            tuple(ipcimg.Message(mtype, bytes.fromhex(body)) for mtype, body in one["messages"]),
        )
        for one in expected_of(name)["queues"]
    ]
    found = [
        ipcimg.MessageQueue(queue.permissions, queue.qbytes, queue.qnum, tuple(queue.messages), queue.facts)
        for queue in ipcimg.load(FIXTURES / name).queues
    ]
    assert found == expected


@pytest.mark.parametrize("name", SETS)
def test_semaphores(name: str) -> None:
    found = [(one.permissions, one.values.tolist(), one.facts) for one in ipcimg.load(FIXTURES / name).semaphores]
    assert found == [(_permissions(one), one["values"], None) for one in expected_of(name)["sems"]]


@pytest.mark.parametrize("name", SETS)
def test_segments(name: str) -> None:
    expected = expected_of(name)["shm"]
    found = list(ipcimg.load(FIXTURES / name).segments)
    assert [(one.permissions, one.size, one.hugetlb_flag, one.facts) for one in found] == [
        (_permissions(one), one["size"], None, None) for one in expected
    ]
    for segment, one in zip(found, expected, strict=True):
        content = bytearray(len(content_of(segment)))
        for offset, data in one["extents"]:
            content[offset : offset + len(data) // 2] = bytes.fromhex(data)
        assert content_of(segment) == content  # and zeros everywhere else, beyond the segment's size too


def test_holes_stay_holes() -> None:
    """64 KiB of which the dumped task had touched two pages."""
    extents = [(e.offset, e.length) for s in ipcimg.load(FIXTURES / "basic").segments for e in s.extents]
    assert extents == [(4096, 8192), (12288, 4096), (61440, 4096)]


# ---- the encoder by hand against CRIU ------------------------------------------------------


def _desc(one: dict[str, Any]) -> bytes:
    return wire.desc(one["id"], one["key"], one.get("uid", 0), one.get("gid", 0), mode=one["mode"])


def parts_of(name: str) -> dict[str, list[bytes]]:
    """Each image of objects as the header and one part for each object, from what the namespace held."""
    expected = expected_of(name)
    messages = [[(mtype, bytes.fromhex(body)) for mtype, body in one["messages"]] for one in expected["queues"]]
    parts = {
        f"ipcns-msg-{NS_ID}.img": [
            wire.queue(_desc(one), its) for one, its in zip(expected["queues"], messages, strict=True)
        ],
        f"ipcns-sem-{NS_ID}.img": [wire.semaphores(_desc(one), one["values"]) for one in expected["sems"]],
        f"ipcns-shm-{NS_ID}.img": [wire.segment(_desc(one), one["size"]) for one in expected["shm"]],
    }
    magics = (wire.MSG, wire.SEM, wire.SHM)
    return {file: [wire.image(magic), *its] for (file, its), magic in zip(parts.items(), magics, strict=True) if its}


@pytest.mark.parametrize("name", SETS)
def test_images_by_hand_are_criu_s(name: str) -> None:
    """What the other tests take for right is right."""
    made = {file: b"".join(parts) for file, parts in parts_of(name).items()} | {
        f"ipcns-var-{NS_ID}.img": wire.variables()
    }
    assert made == {path.name: path.read_bytes() for path in (FIXTURES / name).glob("ipcns-*.img")}


def test_page_maps_by_hand_are_criu_s() -> None:
    made = {
        "pagemap-shmem-0.img": wire.pagemap(2, wire.pages(0x1000, 2)),
        "pagemap-shmem-1.img": wire.pagemap(3, wire.pages(0x3000, 1), wire.pages(0xF000, 1)),
    }
    assert made == {name: (FIXTURES / "basic" / name).read_bytes() for name in made}


# ---- writing -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_saved_byte_for_byte(name: str, tmp_path: pathlib.Path) -> None:
    """criu_exact, into a dump that has everything but its IPC namespace."""
    dump = dump_of(name, tmp_path / "dump")
    expected = images_of(dump)
    for file in expected:
        (dump / file).unlink()
    ipcimg.save(ipcimg.load(FIXTURES / name), dump, criu_exact=True)
    saved = images_of(dump)
    del saved[f"ipcimg-manifest-{NS_ID}.img"]
    assert saved == expected


@pytest.mark.parametrize("criu_exact", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_saved_and_loaded_is_the_same(name: str, criu_exact: bool, tmp_path: pathlib.Path) -> None:
    original = ipcimg.load(FIXTURES / name)
    counts = ipcimg.save(original, tmp_path / "set", ns_id=4, criu_exact=criu_exact)
    copy = ipcimg.load(tmp_path / "set")
    assert copy.variables == original.variables
    assert [(q.permissions, q.qbytes, list(q.messages)) for q in copy.queues] == [
        (q.permissions, q.qbytes, list(q.messages)) for q in original.queues
    ]
    assert list(copy.semaphores) == list(original.semaphores)
    assert [(s.permissions, s.size, content_of(s)) for s in copy.segments] == [
        (s.permissions, s.size, content_of(s)) for s in original.segments
    ]
    expected = expected_of(name)
    assert counts == ipcimg.Counts(
        queues=len(expected["queues"]),
        messages=sum(len(one["messages"]) for one in expected["queues"]),
        semaphore_sets=len(expected["sems"]),
        segments=len(expected["shm"]),
        pages=sum(path.stat().st_size for path in (tmp_path / "set").glob("pages-*.img")) // wire.PAGE,
    )


# ---- cut anywhere --------------------------------------------------------------------------


def whole_objects(name: str) -> dict[str, set[int]]:
    """For each image of objects, the lengths at which a prefix is an image of fewer objects."""
    lengths = {}
    for file, parts in parts_of(name).items():
        ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
        lengths[file] = set(ends[:-1])
    return lengths


def prefixes_that_load(directory: pathlib.Path, file: str) -> set[int]:
    """Cut the file at every byte, from its end to 0; every refusal must name it."""
    path = directory / file
    loaded = set()
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        try:
            walk(ipcimg.load(directory))
        except ImageError as error:
            assert file in str(error), f"{file} cut to {length} bytes: {error}"
        else:
            loaded.add(length)
    return loaded


FILES = [(name, file) for name in SETS for file in images_of(FIXTURES / name)]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_every_prefix_of_criu_s_images(name: str, file: str, tmp_path: pathlib.Path) -> None:
    """A set of CRIU's has no list of its objects: a prefix that ends after one of them is as good as a whole image."""
    dump = dump_of(name, tmp_path / "dump")
    walk(ipcimg.load(dump))
    assert prefixes_that_load(dump, file) == whole_objects(name).get(file, set())


@pytest.mark.parametrize("name", SETS)
def test_every_prefix_of_ipcimg_s_images(name: str, tmp_path: pathlib.Path) -> None:
    """The manifest knows how long the images are: no prefix of any of them passes, nor one of its own."""
    whole = tmp_path / "whole"
    ipcimg.save(ipcimg.load(FIXTURES / name), whole)
    files = [path.name for path in whole.iterdir()]
    assert "ipcimg-manifest-1.img" in files
    for file in files:
        directory = shutil.copytree(whole, tmp_path / file)
        walk(ipcimg.load(directory))
        assert prefixes_that_load(directory, file) == set(), file


def test_every_prefix_of_ids(tmp_path: pathlib.Path) -> None:
    """They say into which set to save: a guess would put the images where CRIU does not look."""
    dump = dump_of("basic", tmp_path / "dump")
    for file in images_of(dump):
        (dump / file).unlink()
    [ids] = dump.glob("ids-*.img")
    before = sorted(path.name for path in dump.iterdir())
    for length in reversed(range(ids.stat().st_size)):
        os.truncate(ids, length)
        with pytest.raises(IpcimgError, match=ids.name):
            ipcimg.save(ipcimg.load(FIXTURES / "basic"), dump)
    assert sorted(path.name for path in dump.iterdir()) == before
