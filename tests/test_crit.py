"""Debian's crit as a second reader and writer of CRIU's images: it and ipcimg understand each other's JSON.

It is that of CRIU 3.17.1. Where it is wrong about what CRIU 4.2 writes, that is pinned down here.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ipcimg

from . import wire
from .commands import IPCIMG, SHOW, refused, run

DATA = Path(__file__).parent / "data" / "criu-4.2"
SETS = sorted(path.name for path in DATA.iterdir())
# Of segments and page maps crit is no judge; see below.
IMAGES = sorted(path for kind in ("var", "msg", "sem") for path in DATA.glob(f"*/ipcns-{kind}-*.img"))


@functools.cache
def missing() -> bool:
    return shutil.which("crit") is None


@pytest.fixture(autouse=True)
def there_is_crit() -> None:
    if missing():
        if os.environ.get("CI"):
            pytest.fail("crit is missing: NOT COMPARED (apt-get install criu)")
        pytest.skip("crit is missing: NOT COMPARED (apt-get install criu)")


def crit(*arguments: object, given: bytes | None = None, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    # Debian's crit wants Debian's python3-protobuf, whatever Python is first on PATH.
    command = ["/usr/bin/python3", "/usr/bin/crit", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def by_crit(image: Path, *options: str) -> bytes:
    return crit("decode", *options, "-i", image).stdout


def shown(image: Path) -> Any:
    return json.loads(run(SHOW, "--json", image).stdout)


def encoded(text: bytes | str, where: Path) -> bytes:
    """The image that ipcimg makes of JSON."""
    (where / "json").write_bytes(text if isinstance(text, bytes) else text.encode())
    run(IPCIMG, "encode", where / "json", where / "encoded.img", "--force")
    return (where / "encoded.img").read_bytes()


def encoded_by_crit(image: object) -> bytes:
    return crit("encode", given=json.dumps(image).encode()).stdout


def without_extensions(image: Any) -> Any:
    for entry in image["entries"]:
        entry.pop("ipcimg", None)
    return image


# ---- settings, queues, semaphore sets ------------------------------------------------------


def bodies(*sizes: int) -> list[tuple[int, bytes]]:
    return [(n + 1, (bytes(range(256)) * 33)[:size]) for n, size in enumerate(sizes)]


U32_MAX, U64_MAX = (1 << 32) - 1, (1 << 64) - 1
HIGH = wire.desc((1 << 31) - 1, U32_MAX, U32_MAX, U32_MAX, U32_MAX, U32_MAX, 0o777)
TOP_BIT = wire.desc(7, 1 << 31, 65534, 65533, 1, 2, 0)
EDGES = {
    "variables, no optional one": wire.variables({13: None, 14: None}),
    "variables, all": wire.variables({15: 0, 16: 1, 17: (1 << 31) - 1}),
    "variables, the highest": wire.variables(
        dict.fromkeys(range(2, 15), U32_MAX) | {1: [U32_MAX] * 4, 6: U64_MAX, 7: U64_MAX, 9: 1}
    ),
    "no queue": wire.image(wire.MSG),
    "queues": wire.image(
        wire.MSG,
        wire.queue(TOP_BIT, bodies(0, 1, 7, 8, 9)),
        wire.queue(HIGH, [], U32_MAX),
        wire.queue(wire.desc(3), bodies(0)),
        wire.queue(wire.desc(4), bodies(56, 57, 58, 8191, 8192, 8193), 0),
    ),
    "types of messages": wire.image(
        wire.MSG, wire.queue(wire.desc(), [((1 << 63) - 1, b"\0"), (1 << 32, b"\xff" * 64), (1, b"")])
    ),
    "sets": wire.image(
        wire.SEM,
        wire.semaphores(HIGH, [32767]),
        wire.semaphores(TOP_BIT, [0, 1, 2]),
        wire.semaphores(wire.desc(1), [5, 0, 0, 0, 32767]),
        wire.semaphores(wire.desc(2), [1] * 4),
        wire.semaphores(wire.desc(4), [n % 32768 for n in range(32001)]),
    ),
}


@pytest.fixture(params=[*IMAGES, *EDGES], ids=lambda one: f"{one.parent.name}/{one.name}" if one in IMAGES else one)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image as CRIU writes it."""
    if isinstance(request.param, Path):
        return request.param
    return wire.write(tmp_path, {"edge.img": EDGES[request.param]}) / "edge.img"


def test_there_are_images() -> None:
    assert len(IMAGES) == 7


def test_same_values(image: Path) -> None:
    assert shown(image) == json.loads(by_crit(image))


@pytest.mark.parametrize("options", [[], ["--pretty"]], ids=["plain", "pretty"])
def test_json_of_crit_is_encoded(image: Path, options: list[str], tmp_path: Path) -> None:
    assert encoded(by_crit(image, *options), tmp_path) == image.read_bytes()


def test_crit_encodes_json(image: Path) -> None:
    assert encoded_by_crit(shown(image)) == image.read_bytes()


def saved(where: Path) -> Path:
    """A set of ipcimg's, with all its extensions."""
    facts = wire.message({1: 5, 2: 1, 3: 2, 4: 3, 5: 4711, 6: 4712})
    queues = wire.queue(wire.desc(1), bodies(5, 0), facts=facts) + wire.queue(HIGH)
    facts = wire.message({1: 0, 2: 1700000000, 3: b"".join(map(wire.varint, (4711, 0, -1)))})
    sets = wire.semaphores(wire.desc(1), [1, 2, 3], facts) + wire.semaphores(HIGH, [4])
    facts = wire.message({1: 1, 2: 2, 3: 3, 4: 4713, 5: 4714, 6: 99})
    files = {
        "ipcns-var-1.img": wire.variables({15: 7}),
        "ipcns-msg-1.img": wire.image(wire.MSG, queues),
        "ipcns-sem-1.img": wire.image(wire.SEM, sets),
        "ipcns-shm-1.img": wire.image(
            wire.SHM, wire.segment(wire.desc(0), 9000, facts=facts), wire.segment(wire.desc(1), 1, 0o4000 | 21 << 26)
        ),
        "pagemap-shmem-0.img": wire.pagemap(1, wire.pages(0, 1), wire.pages(8192, 1)),
        "pagemap-shmem-1.img": wire.pagemap(2),
        "pages-1.img": b"1" * 2 * wire.PAGE,
        "pages-2.img": b"",
    }
    ipcimg.save(ipcimg.load(wire.write(where / "source", files)), where / "set")
    return where / "set"


@pytest.mark.parametrize("kind", ["var", "msg", "sem"])
def test_images_with_extensions(kind: str, tmp_path: Path) -> None:
    """crit drops what it does not know; what is left is the same, and as good an image to it as the whole one."""
    image = saved(tmp_path) / f"ipcns-{kind}-1.img"
    ours, theirs = shown(image), json.loads(by_crit(image))
    assert "ipcimg" in ours["entries"][0]
    assert encoded(json.dumps(ours), tmp_path) == image.read_bytes()
    assert without_extensions(ours) == theirs
    assert encoded(json.dumps(theirs), tmp_path) == encoded_by_crit(theirs)
    assert encoded_by_crit(ours) == encoded_by_crit(theirs)


def test_crit_decodes_what_was_typed(tmp_path: Path) -> None:
    desc = {"key": "0x80000001", "uid": 1, "gid": 2, "cuid": 3, "cgid": 4, "mode": "0o640", "id": 7}
    entry = {"desc": desc, "qbytes": "16384", "qnum": 1, "extra": [{"mtype": 9, "msize": 3}, "AAEC"]}
    encoded(json.dumps({"magic": "IPCNS_MSG", "entries": [entry]}), tmp_path)
    assert json.loads(by_crit(tmp_path / "encoded.img")) == {
        "magic": "IPCNS_MSG",
        "entries": [
            {
                "desc": {"key": 0x80000001, "uid": 1, "gid": 2, "cuid": 3, "cgid": 4, "mode": 0o640, "id": 7},
                "qbytes": 16384,
                "qnum": 1,
                "extra": [{"mtype": 9, "msize": 3}, "AAEC\n"],
            }
        ],
    }


# ---- segments ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_segments_of_criu(name: str, tmp_path: Path) -> None:
    """crit takes whatever follows an entry for the content of the segment, up to its size.

    It knows nothing of in_pagemaps, with which CRIU puts the content elsewhere. So it reads the entries that follow, up
    to the size of the first segment, as its content, and the end of the image does not keep it from doing so. Of two
    segments its JSON has one; of one segment it has an empty content too much. That is refused, or ignored.
    """
    image = DATA / name / "ipcns-shm-9.img"
    data, ours, theirs = image.read_bytes(), shown(image), json.loads(by_crit(image))
    expected = json.loads((DATA / name / "expected.json").read_text())["shm"]
    assert [(one["desc"]["id"], one["size"]) for one in ours["entries"]] == [
        (one["id"], one["size"]) for one in expected
    ]
    assert all(one["in_pagemaps"] is True and "extra" not in one for one in ours["entries"])
    (length,) = struct.unpack_from("<I", data, 8)
    rest = data[12 + length :]
    assert theirs["entries"] == [{**ours["entries"][0], "extra": base64.encodebytes(rest).decode()}]
    assert len(theirs["entries"]) + (rest != b"") == len(ours["entries"])
    # What crit has understood, it can write: an entry without content.
    assert encoded_by_crit(ours) == data
    for options in ([], ["--pretty"]):
        text = by_crit(image, *options)
        if not rest:
            assert encoded(text, tmp_path) == data
            continue
        (tmp_path / "json").write_bytes(text)
        assert refused("encode", tmp_path / "json", tmp_path / "encoded.img") == (
            f"{tmp_path}/json: entries[0].extra: has content, but in_pagemaps says that it is in a page map "
            "(crit takes the segments that follow for it)"
        )


@pytest.mark.parametrize("size", [1, 4, 5, 200_001])
def test_inline_segments(size: int, tmp_path: Path) -> None:
    """The form that crit knows. It reads it rightly, and cannot write it: it takes base64 for bytes."""
    content = (bytes(range(256)) * 800)[:size]
    part = wire.entry(wire.message({1: HIGH, 2: size})) + wire.padded(content, 4)
    image = wire.write(tmp_path, {"x.img": wire.image(wire.SHM, part, part)}) / "x.img"
    ours = shown(image)
    assert ours == json.loads(by_crit(image))
    for options in ([], ["--pretty"]):
        assert encoded(by_crit(image, *options), tmp_path) == image.read_bytes()
    assert b"TypeError" in crit("encode", given=json.dumps(ours).encode(), status=1).stderr


def test_segments_with_extensions(tmp_path: Path) -> None:
    image = saved(tmp_path) / "ipcns-shm-1.img"
    ours, theirs = shown(image), json.loads(by_crit(image))
    assert encoded(json.dumps(ours), tmp_path) == image.read_bytes()
    first = without_extensions(ours)["entries"][0]
    assert [{**one, "extra": ""} for one in theirs["entries"]] == [{**first, "extra": ""}]


# ---- page maps -----------------------------------------------------------------------------

PAGE_MAPS = sorted(DATA.glob("*/pagemap-shmem-*.img"))
COUNTS = {"compat_nr_pages": 2, "nr_pages": 5}  # fields


def as_crit_sees(entry: dict[str, Any]) -> dict[str, Any]:
    """A run in the eyes of a crit to which field 2 is nr_pages, and field 5 unknown."""
    seen = {name: value for name, value in entry.items() if name not in COUNTS}
    return {**seen, "nr_pages": entry["compat_nr_pages"]} if "compat_nr_pages" in entry else seen


@pytest.mark.parametrize("image", PAGE_MAPS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_page_maps_of_criu(image: Path, tmp_path: Path) -> None:
    """crit loses all counts: CRIU 4.2 writes 0 into the only field for it that crit 3.17.1 knows.

    That is refused; there is no page map without counts. The other way crit takes the counts of CRIU 4.2 for those of
    its own time, by their name, and so writes a page map that says the same.
    """
    ours, theirs = shown(image), json.loads(by_crit(image))
    head, *runs = ours["entries"]
    assert all(run.keys() == {"vaddr", "compat_nr_pages", "flags", "nr_pages"} for run in runs)
    assert all(run["compat_nr_pages"] == 0 and run["nr_pages"] > 0 for run in runs)
    assert theirs["entries"] == [head, *map(as_crit_sees, runs)]
    for options in ([], ["--pretty"]):
        text = by_crit(image, *options)
        if not runs:
            assert encoded(text, tmp_path) == image.read_bytes()
            continue
        (tmp_path / "json").write_bytes(text)
        assert refused("encode", tmp_path / "json", tmp_path / "encoded.img") == (
            f"{tmp_path}/json: entries[1].nr_pages: "
            "is 0: crit older than CRIU 4.2 loses the counts of CRIU 4.2's page maps"
        )
    (tmp_path / "by-crit.img").write_bytes(encoded_by_crit(ours))
    assert run(SHOW, tmp_path / "by-crit.img").stdout == run(SHOW, image).stdout


OLDER = {
    "CRIU 4.1": [{1: 0x3000, 2: 1, 4: 4}, {1: 0xF000, 2: U32_MAX, 4: 1}, {1: 1 << 60, 2: 3, 4: 12}],
    "CRIU 1.x": [{1: 0, 2: 1}, {1: 4096, 2: 7, 3: 1}, {1: 1 << 30, 2: 1, 3: 0}],
    "empty": [],
}


@pytest.mark.parametrize("runs", OLDER.values(), ids=OLDER)
def test_page_maps_of_older_criu(runs: list[dict[int, int]], tmp_path: Path) -> None:
    parts = [wire.entry(wire.message(dict(run))) for run in runs]
    image = wire.write(tmp_path, {"map.img": wire.pagemap(7, *parts)}) / "map.img"
    assert [as_crit_sees(one) for one in shown(image)["entries"]] == json.loads(by_crit(image))["entries"]
    for options in ([], ["--pretty"]):
        assert encoded(by_crit(image, *options), tmp_path) == image.read_bytes()
    assert encoded_by_crit({"magic": "PAGEMAP", "entries": [*map(as_crit_sees, shown(image)["entries"])]}) == (
        image.read_bytes()
    )


def test_page_maps_of_ipcimg(tmp_path: Path) -> None:
    """They have the counts in both fields, so crit sees them, and what it writes still says the same."""
    image = saved(tmp_path) / "pagemap-shmem-0.img"
    ours, theirs = shown(image), json.loads(by_crit(image))
    assert [run["compat_nr_pages"] for run in ours["entries"][1:]] == [1, 1]
    assert theirs["entries"] == [as_crit_sees(one) for one in ours["entries"]]
    encoded(json.dumps(theirs), tmp_path)
    assert run(SHOW, tmp_path / "encoded.img").stdout == run(SHOW, image).stdout
    assert encoded(json.dumps(ours), tmp_path) == image.read_bytes()
