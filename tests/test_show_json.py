"""ipcimg-show --json: images as crit has them."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pathlib
import tracemalloc
from typing import Any

import pytest

import ipcimg
from ipcimg.show.answer import pieces
from ipcimg.show.problems import Problems
from ipcimg.show.request import Request
from tests import wire
from tests.commands import SHOW, run

FIXTURES = pathlib.Path(__file__).parent / "data" / "criu-4.2"
SETS = sorted(path.name for path in FIXTURES.iterdir())


def show(*arguments: object) -> str:
    """What ipcimg-show prints."""
    return run(SHOW, *arguments).stdout


def expected_of(name: str) -> dict[str, list[dict[str, Any]]]:
    expected: dict[str, list[dict[str, Any]]] = json.loads((FIXTURES / name / "expected.json").read_text())
    return expected


def desc(one: dict[str, Any]) -> dict[str, int]:
    uid, gid = one.get("uid", 0), one.get("gid", 0)
    return {
        "key": one["key"],
        "uid": uid,
        "gid": gid,
        "cuid": uid,
        "cgid": gid,
        "mode": one["mode"],
        "id": one["id"],
    }


def messages(one: dict[str, Any]) -> list[Any]:
    """A queue's "extra" as crit has it: heads and payloads by turns."""
    extra: list[Any] = []
    for mtype, body in one["messages"]:
        data = bytes.fromhex(body)
        extra += [{"mtype": mtype, "msize": len(data)}, base64.encodebytes(data).decode()]
    return extra


def as_json(path: pathlib.Path) -> list[Any]:
    return [json.loads(line) for line in show("--json", path).splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_json(name: str) -> None:
    expected = expected_of(name)
    names = ["sem_ctls", "msg_ctlmax", "msg_ctlmnb", "msg_ctlmni", "auto_msgmni", "shm_ctlmax", "shm_ctlall"]
    names += ["shm_ctlmni", "shm_rmid_forced", "mq_queues_max", "mq_msg_max", "mq_msgsize_max"]
    names += ["mq_msg_default", "mq_msgsize_default"]
    entries = {
        "IPC_VAR": [dict(zip(names, wire.VARIABLES.values(), strict=True))],
        "IPCNS_SHM": [{"desc": desc(one), "size": one["size"], "in_pagemaps": True} for one in expected["shm"]],
        "IPCNS_MSG": [
            {"desc": desc(one), "qbytes": 16384, "qnum": len(one["messages"]), "extra": messages(one)}
            for one in expected["queues"]
        ],
        "IPCNS_SEM": [
            {"desc": desc(one), "nsems": len(one["values"]), "extra": one["values"]} for one in expected["sems"]
        ],
    }
    found = as_json(FIXTURES / name)
    for image in found:
        if image["magic"] != "PAGEMAP":
            assert image["entries"] == entries.pop(image["magic"])
    assert not any(entries.values())
    assert sum(image["magic"] == "PAGEMAP" for image in found) == len(expected["shm"])


@pytest.mark.parametrize("name", SETS)
def test_json_of_an_image_is_that_of_its_directory(name: str) -> None:
    together = as_json(FIXTURES / name)
    alone = [as_json(path) for pattern in ("ipcns-*", "pagemap-*") for path in (FIXTURES / name).glob(pattern)]
    assert sorted(map(json.dumps, together)) == sorted(json.dumps(one) for [one] in alone)


def test_json_of_a_page_map() -> None:
    [image] = as_json(FIXTURES / "basic" / "pagemap-shmem-1.img")
    assert image["magic"] == "PAGEMAP"
    assert image["entries"] == [
        {"pages_id": 3},
        {"vaddr": 0x3000, "compat_nr_pages": 0, "flags": 4, "nr_pages": 1},
        {"vaddr": 0xF000, "compat_nr_pages": 0, "flags": 4, "nr_pages": 1},
    ]


def test_json_of_a_page_map_has_the_fields_that_are_set(tmp_path: pathlib.Path) -> None:
    """As crit of CRIU 4.2 has it. What older CRIU did not write is not there."""
    entries = ({1: 0, 2: 1}, {1: 4096, 2: 2, 3: 1}, {1: 1 << 20, 2: 3, 3: 0, 4: 5}, {1: 1 << 30, 2: 0, 5: 1 << 33})
    runs = [wire.entry(wire.message(dict(entry))) for entry in entries]
    wire.write(tmp_path, {"x.img": wire.pagemap(7, *runs)})
    text = show("--json", tmp_path / "x.img")
    assert json.loads(text)["entries"][1:] == [
        {"vaddr": 0, "compat_nr_pages": 1},
        {"vaddr": 4096, "compat_nr_pages": 2, "in_parent": True},
        {"vaddr": 1 << 20, "compat_nr_pages": 3, "in_parent": False, "flags": 5},
        {"vaddr": 1 << 30, "compat_nr_pages": 0, "nr_pages": 1 << 33},
    ]
    assert '"in_parent": true' in text


def test_json_of_variables_of_a_set_with_a_manifest(tmp_path: pathlib.Path) -> None:
    ipcimg.save(ipcimg.load(FIXTURES / "basic"), tmp_path / "set")
    [entry] = as_json(tmp_path / "set" / "ipcns-var-1.img")[0]["entries"]
    assert entry.pop("ipcimg") == {"has_manifest": True}
    assert as_json(FIXTURES / "basic" / "ipcns-var-9.img")[0]["entries"] == [entry]


def test_json_of_an_inline_segment(tmp_path: pathlib.Path) -> None:
    entry = wire.entry(wire.message({1: wire.desc(5), 2: 7}))
    wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry, b"content\0")})
    [image] = as_json(tmp_path / "x.img")
    [segment] = image["entries"]
    assert base64.decodebytes(segment["extra"].encode()) == b"content"
    assert "in_pagemaps" not in segment


@pytest.mark.parametrize("size", [57 << 10, (57 << 10) + 1, 200_001])
def test_json_of_an_inline_segment_of_several_pieces(tmp_path: pathlib.Path, size: int) -> None:
    content = (b"0123456789" * 20_001)[:size]
    entry = wire.entry(wire.message({1: wire.desc(5), 2: size}))
    wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry, wire.padded(content, 4))})
    [image] = as_json(tmp_path / "x.img")
    assert image["entries"][0]["extra"] == base64.encodebytes(content).decode()


def test_an_inline_segment_of_holes_streams(tmp_path: pathlib.Path) -> None:
    entry = wire.entry(wire.message({1: wire.desc(5), 2: 1 << 40}))
    image = wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry)}) / "x.img"
    os.truncate(image, image.stat().st_size + (1 << 40))
    tracemalloc.start()
    try:
        shown = list(itertools.islice(pieces(str(image), None, Request(json="crit"), Problems()), 9))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert set("".join(shown[3:])) == set("A\\n")
    assert "1T" in show(image)


def test_json_of_page_maps_that_count_in_other_pages(tmp_path: pathlib.Path) -> None:
    """They are read as the rest of their set is: by what its manifest says."""
    large = 16 * wire.PAGE
    files = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(), 4 * large)),
        "pagemap-shmem-0.img": wire.pagemap(7, wire.pages(0, 1), wire.pages(large, 2)),
        "pages-7.img": bytes(3 * large),
    }
    wire.write(tmp_path, files | {"ipcimg-manifest-1.img": wire.manifest(1, files, {6: large})})
    *_, pagemap = as_json(tmp_path)
    assert [(run["vaddr"], run["nr_pages"]) for run in pagemap["entries"][1:]] == [(0, 1), (large, 2)]
    files["pagemap-shmem-0.img"] = wire.pagemap(7, wire.pages(0, 1), wire.pages(large // 2, 2))
    wire.write(tmp_path, files | {"ipcimg-manifest-1.img": wire.manifest(1, files, {6: large})})
    assert f"not a multiple of the page size {large}" in run(SHOW, "--json", tmp_path, status=2).stderr


def test_json_of_facts(tmp_path: pathlib.Path) -> None:
    """What ipcimg adds stands apart from what crit shows."""
    facts = wire.message({1: 1, 2: 2, 3: wire.varint(300)})
    wire.write(tmp_path, {"x.img": wire.image(wire.SEM, wire.semaphores(wire.desc(), [7], facts))})
    [image] = as_json(tmp_path / "x.img")
    assert image["entries"][0]["ipcimg"] == {"otime": 1, "ctime": 2, "sempid": [300]}


def test_json_of_no_objects(tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, {"x.img": wire.image(wire.SEM)})
    assert as_json(tmp_path / "x.img") == [{"magic": "IPCNS_SEM", "entries": []}]
