"""ipcimg encode: what ipcimg-show and crit print becomes the same bytes again, and nothing else becomes an image."""

from __future__ import annotations

import base64
import copy
import json
import os
import pathlib
import random
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import ipcimg
from ipcimg import critjson
from ipcimg import encode as encoder
from ipcimg.errors import IpcimgError, JsonError
from ipcimg.show.answer import pieces
from ipcimg.show.problems import Problems
from ipcimg.show.request import Request
from tests import wire
from tests.commands import IPCIMG, SHOW, refused, run
from tools.fuzzing.corpus import Corpus

FIXTURES = pathlib.Path(__file__).parent / "data" / "criu-4.2"
LONG_MAX, U64_MAX = (1 << 63) - 1, (1 << 64) - 1

DESC = {"key": 4660, "uid": 1, "gid": 2, "cuid": 3, "cgid": 4, "mode": 0o640, "id": 5}
VARIABLES = {
    "sem_ctls": [32000, 1024000000, 500, 32000],
    "msg_ctlmax": 8192,
    "msg_ctlmnb": 16384,
    "msg_ctlmni": 32000,
    "auto_msgmni": 0,
    "shm_ctlmax": 18446744073692774399,
    "shm_ctlall": 18446744073692774399,
    "shm_ctlmni": 4096,
    "shm_rmid_forced": 0,
    "mq_queues_max": 256,
    "mq_msg_max": 10,
    "mq_msgsize_max": 8192,
}
QUEUE_FACTS = {"cbytes": 5, "stime": 1, "rtime": 0, "ctime": -2, "lspid": 3, "lrpid": 4}
SEGMENT_FACTS = {"atime": 1, "dtime": 2, "ctime": 3, "cpid": 4, "lpid": 5, "nattch": 6}

# One image of each kind, as somebody might type it.
IMAGES: dict[str, list[Any]] = {
    "IPC_VAR": [{**VARIABLES, "msg_next_id": 7, "ipcimg": {"has_manifest": True}}],
    "IPCNS_MSG": [
        {
            "desc": DESC,
            "qbytes": 16384,
            "qnum": 2,
            "ipcimg": QUEUE_FACTS,
            "extra": [{"mtype": 1, "msize": 5}, "aGVsbG8=\n", {"mtype": LONG_MAX, "msize": 0}, ""],
        },
        {"desc": DESC, "qbytes": 16384, "qnum": 0, "extra": []},
    ],
    "IPCNS_SEM": [
        {"desc": DESC, "nsems": 3, "ipcimg": {"otime": 0, "ctime": 1, "sempid": [7, 8, 9]}, "extra": [1, 2, 32767]},
        {"desc": DESC, "nsems": 1, "extra": [0]},
    ],
    "IPCNS_SHM": [
        {"desc": DESC, "size": 8192, "in_pagemaps": True, "ipcimg": SEGMENT_FACTS},
        {"desc": DESC, "size": 1 << 21, "in_pagemaps": True, "hugetlb_flag": 0o4000 | 21 << 26},
        {"desc": DESC, "size": 5, "extra": "aGVsbG8=\n"},
    ],
    "PAGEMAP": [
        {"pages_id": 2},
        {"vaddr": 0, "compat_nr_pages": 1, "flags": 4, "nr_pages": 1},
        {"vaddr": 4096, "compat_nr_pages": 0, "in_parent": True, "nr_pages": 3},
    ],
}


def document(kind: str) -> dict[str, Any]:
    image: dict[str, Any] = json.loads(json.dumps({"magic": kind, "entries": IMAGES[kind]}))
    return image


def changed(kind: str, where: str, value: object) -> dict[str, Any]:
    """A document with another value in one place, such as "entries.0.desc.mode"; Ellipsis takes it out."""
    image = document(kind)
    *path, last = (int(step) if step.isdigit() else step for step in where.split("."))
    inner: Any = image
    for step in path:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return image


def encoded(image: object, where: pathlib.Path) -> bytes:
    """The image that ipcimg makes of a document, or of text."""
    source = where / "j"
    source.write_text(image if isinstance(image, str) else json.dumps(image))
    run(IPCIMG, "encode", source, where / "x.img", "--force")
    return (where / "x.img").read_bytes()


def shown(path: pathlib.Path) -> str:
    return run(SHOW, "--json", path).stdout


def refusal(image: object, where: pathlib.Path) -> str:
    """The line that says why a document is no image, without the name of the file; nothing is left behind."""
    source = where / "j"
    if isinstance(image, bytes):
        source.write_bytes(image)
    else:
        source.write_text(image if isinstance(image, str) else json.dumps(image))
    line = refused("encode", source, where / "x.img")
    assert line.startswith(f"{source}: ")
    assert os.listdir(where) == ["j"]
    return line.removeprefix(f"{source}: ")


# ---- there and back ------------------------------------------------------------------------


def test_every_image(tmp_path: pathlib.Path) -> None:
    """CRIU's, ipcimg's with extensions and without, and what older CRIU wrote, which lacks the common magic."""
    kinds, inline, first = set(), 0, 0
    for name, files in Corpus(tmp_path).sets.items():
        for file, data in files.items():
            if not isinstance(data, bytes) or not file.startswith(("ipcns-", "pagemap-")):
                continue
            (tmp_path / file).write_bytes(data)
            text = shown(tmp_path / file)
            whole = data if data.startswith(wire.u32(wire.COMMON)) else wire.u32(wire.COMMON) + data
            assert encoded(text, tmp_path) == whole, (name, file)
            kinds.add(json.loads(text)["magic"])
            inline += '"size"' in text and '"extra"' in text
            first += whole != data
    assert kinds == IMAGES.keys()
    assert inline > 1
    assert first > 2


@pytest.mark.parametrize("kind", IMAGES)
def test_typed(kind: str, tmp_path: pathlib.Path) -> None:
    """What was typed is what is shown, also if nothing but the image tells."""
    encoded(document(kind), tmp_path)
    assert json.loads(shown(tmp_path / "x.img")) == document(kind)


@pytest.mark.parametrize("kind", ["IPCNS_MSG", "IPCNS_SEM", "IPCNS_SHM"])
def test_no_objects(kind: str, tmp_path: pathlib.Path) -> None:
    assert len(encoded({"magic": kind, "entries": []}, tmp_path)) == 8


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 57 << 10, (57 << 10) + 1, 200_001])
def test_inline_segments(size: int, tmp_path: pathlib.Path) -> None:
    content = random.Random(size).randbytes(size)
    parts = (wire.entry(wire.message({1: wire.desc(n), 2: size})) + wire.padded(content, 4) for n in range(2))
    image = wire.image(wire.SHM, *parts)
    wire.write(tmp_path, {"old.img": image})
    assert encoded(shown(tmp_path / "old.img"), tmp_path) == image


def test_a_count_of_pages_that_needs_64_bits(tmp_path: pathlib.Path) -> None:
    image = wire.pagemap(1, wire.pages(0, 1 << 32), wire.pages(1 << 44, 1, wire.PRESENT | wire.LAZY | 64))
    wire.write(tmp_path, {"map.img": image})
    assert encoded(shown(tmp_path / "map.img"), tmp_path) == image


NUMBERS = [4, "4", "0x4", "0X4", "0o4"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("IPC_VAR", "entries.0.sem_ctls.2"),
        ("IPCNS_MSG", "entries.0.desc.mode"),
        ("IPCNS_MSG", "entries.0.extra.0.mtype"),
        ("IPCNS_SEM", "entries.0.extra.0"),
        ("IPCNS_SHM", "entries.0.ipcimg.nattch"),
        ("PAGEMAP", "entries.1.flags"),
    ],
)
def test_numbers_as_text(kind: str, where: str, number: object, tmp_path: pathlib.Path) -> None:
    assert encoded(changed(kind, where, number), tmp_path) == encoded(changed(kind, where, 4), tmp_path)


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ("PE_PRESENT", 4),
        ("PE_PARENT | PE_LAZY", 3),
        ("PE_PARENT|PE_PRESENT | 0x8", 13),
        ("PE_PRESENT | 8", 12),
        ("0xc", 12),
    ],
)
def test_flags_by_name(flags: str, value: int, tmp_path: pathlib.Path) -> None:
    found, expected = (encoded(changed("PAGEMAP", "entries.1.flags", one), tmp_path) for one in (flags, value))
    assert found == expected


@pytest.mark.parametrize("breaks", ["", "\n", "\r\n"])
def test_line_breaks_of_base64(breaks: str, tmp_path: pathlib.Path) -> None:
    body = bytes(range(256)) * 32
    text = breaks.join(base64.encodebytes(body).decode().split("\n"))
    image = {"magic": "IPCNS_MSG", "entries": [{"desc": DESC, "qbytes": 1, "qnum": 1}]}
    image["entries"][0]["extra"] = [{"mtype": 1, "msize": len(body)}, text]  # type: ignore[index]
    described = wire.desc(5, 4660, 1, 2, 3, 4, 0o640)
    assert encoded(image, tmp_path) == wire.image(wire.MSG, wire.queue(described, [(1, body)], 1))


def test_page_map_of_older_crit(tmp_path: pathlib.Path) -> None:
    """To crit until CRIU 4.1, field 2 is nr_pages, and there is no field 5."""
    old = {"magic": "PAGEMAP", "entries": [{"pages_id": 3}, {"vaddr": "0x1000", "nr_pages": 2, "flags": "PE_PRESENT"}]}
    assert encoded(old, tmp_path) == wire.pagemap(3, wire.entry(wire.message({1: 0x1000, 2: 2, 4: 4})))


def test_segment_by_crit(tmp_path: pathlib.Path) -> None:
    """crit finds no content behind the last segment of an image, which is right where it is in a page map."""
    encode_it = changed("IPCNS_SHM", "entries", [{"desc": DESC, "size": 1, "in_pagemaps": True, "extra": ""}])
    assert encoded(encode_it, tmp_path) == wire.image(wire.SHM, wire.segment(wire.desc(5, 4660, 1, 2, 3, 4, 0o640), 1))


def test_in_pagemaps_may_be_false(tmp_path: pathlib.Path) -> None:
    assert encoded(changed("IPCNS_SHM", "entries.2.in_pagemaps", False), tmp_path) == encoded(
        document("IPCNS_SHM"), tmp_path
    )


def test_a_set_that_was_edited(tmp_path: pathlib.Path) -> None:
    """A manifest notices. Without it, and without the word of the settings that there is one, a set is like CRIU's."""
    ipcimg.save(ipcimg.load(FIXTURES / "basic"), tmp_path / "set")
    image = tmp_path / "set" / "ipcns-sem-1.img"
    edited = json.loads(shown(image))
    edited["entries"][0]["extra"][0] = 4711
    source = tmp_path / "j"
    source.write_text(json.dumps(edited))
    run(IPCIMG, "encode", source, image, "--force")
    assert next(iter(ipcimg.load(tmp_path / "set").semaphores)).values.tolist() == [4711, 5, 32767]
    done = run(IPCIMG, "verify", tmp_path / "set", status=1)
    assert done.stderr == f"ipcimg: Error: {image}: is not as it was written: its digest is another one\n"
    (tmp_path / "set" / "ipcimg-manifest-1.img").unlink()
    assert "is gone" in run(IPCIMG, "verify", tmp_path / "set", status=1).stderr
    settings = tmp_path / "set" / "ipcns-var-1.img"
    edited = json.loads(shown(settings))
    del edited["entries"][0]["ipcimg"]
    source.write_text(json.dumps(edited))
    run(IPCIMG, "encode", source, settings, "--force")
    run(IPCIMG, "verify", tmp_path / "set")


# ---- what is no image ----------------------------------------------------------------------

_KINDS = "IPC_VAR, IPCNS_SHM, IPCNS_MSG, IPCNS_SEM, PAGEMAP"
_DESC_FIELDS = "key, uid, gid, cuid, cgid, mode, id"
REFUSED: list[tuple[str, str, object, str]] = [
    # The document.
    ("IPC_VAR", "magic", ..., "lacks magic"),
    ("IPC_VAR", "entries", ..., "lacks entries"),
    ("IPC_VAR", "magic", 5, "magic: is 5, not a string"),
    ("IPC_VAR", "magic", "CORE", f"magic: is 'CORE', not one of {_KINDS}"),
    ("IPC_VAR", "magic", "IDS", f"magic: is 'IDS', not one of {_KINDS}"),
    ("IPC_VAR", "magic", "IPCIMG_MANIFEST", "magic: a manifest is made by a dump; its seal cannot be typed"),
    ("IPC_VAR", "more", 1, "has the unknown field 'more'; known are magic, entries"),
    ("IPC_VAR", "entries", {}, "entries: is an object, not an array"),
    ("IPC_VAR", "entries.0", [], "entries[0]: is an array, not an object"),
    ("IPC_VAR", "entries", [], "entries: has 0 elements; an image of this kind has one entry"),
    ("IPC_VAR", "entries", [{}, {}], "entries: has 2 elements; an image of this kind has one entry"),
    # Numbers.
    ("IPC_VAR", "entries.0.msg_ctlmax", True, "entries[0].msg_ctlmax: is true, not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", None, "entries[0].msg_ctlmax: is null, not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", [1], "entries[0].msg_ctlmax: is an array, not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", 1.0, "entries[0].msg_ctlmax: is 1.0, not a whole number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", float("nan"), "entries[0].msg_ctlmax: is NaN, not a whole number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", -float("inf"), "entries[0].msg_ctlmax: is -Infinity, not a whole number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", "", "entries[0].msg_ctlmax: is '', not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", "012", "entries[0].msg_ctlmax: is '012', not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", "1_0", "entries[0].msg_ctlmax: is '1_0', not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", "²", "entries[0].msg_ctlmax: is '²', not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", "\x1b[2J", "entries[0].msg_ctlmax: is '\\x1b[2J', not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", "\ud800", "entries[0].msg_ctlmax: is '\\ud800', not a number"),
    ("IPC_VAR", "entries.0.msg_ctlmax", -1, "entries[0].msg_ctlmax: is -1; it can be 0 to 4294967295"),
    ("IPC_VAR", "entries.0.msg_ctlmax", 1 << 32, "entries[0].msg_ctlmax: is 4294967296; it can be 0 to 4294967295"),
    (
        "IPC_VAR",
        "entries.0.shm_ctlmax",
        1 << 64,
        f"entries[0].shm_ctlmax: is 18446744073709551616; it can be 0 to {U64_MAX}",
    ),
    (
        "IPC_VAR",
        "entries.0.shm_ctlmax",
        10**20,
        "entries[0].shm_ctlmax: is a number of 21 digits; none has more than 20",
    ),
    # Variables.
    ("IPC_VAR", "entries.0.sem_ctls", [1, 2, 3], "entries[0].sem_ctls: has 3 numbers; kernel.sem has 4"),
    ("IPC_VAR", "entries.0.sem_ctls.1", "x", "entries[0].sem_ctls[1]: is 'x', not a number"),
    ("IPC_VAR", "entries.0.auto_msgmni", ..., "entries[0]: lacks auto_msgmni"),
    ("IPC_VAR", "entries.0.shm_rmid_forced", 2, "entries[0].shm_rmid_forced: is 2; it can be 0 to 1"),
    ("IPC_VAR", "entries.0.msg_next_id", 1 << 31, "entries[0].msg_next_id: is 2147483648; it can be 0 to 2147483647"),
    ("IPC_VAR", "entries.0.ipcimg", {}, "entries[0].ipcimg: lacks has_manifest"),
    ("IPC_VAR", "entries.0.ipcimg.has_manifest", 1, "entries[0].ipcimg.has_manifest: is 1, not true or false"),
    # What all objects have.
    ("IPCNS_MSG", "entries.1.desc", ..., "entries[1]: lacks desc"),
    ("IPCNS_MSG", "entries.1.desc", 7, "entries[1].desc: is 7, not an object"),
    ("IPCNS_MSG", "entries.1.desc", {}, f"entries[1].desc: lacks {_DESC_FIELDS}"),
    ("IPCNS_MSG", "entries.1.desc.seq", 0, f"entries[1].desc: has the unknown field 'seq'; known are {_DESC_FIELDS}"),
    ("IPCNS_MSG", "entries.1.desc.mode", 0o1000, "entries[1].desc.mode: is 512; it can be 0 to 511"),
    ("IPCNS_SEM", "entries.1.desc.mode", 0o1000, "entries[1].desc.mode: is 512; it can be 0 to 511"),
    ("IPCNS_SHM", "entries.1.desc.mode", 0o4000, "entries[1].desc.mode: is 2048; it can be 0 to 2047"),
    ("IPCNS_MSG", "entries.1.desc.id", 1 << 31, "entries[1].desc.id: is 2147483648; it can be 0 to 2147483647"),
    # Queues.
    ("IPCNS_MSG", "entries.1.qnum", 1, "entries[1].qnum: is 1, and the number of messages in extra is 0"),
    ("IPCNS_MSG", "entries.0.qnum", 1, "entries[0].qnum: is 1, and the number of messages in extra is 2"),
    (
        "IPCNS_MSG",
        "entries.0.extra.3",
        ...,
        "entries[0].extra: has 3 elements; each message has two, its head and its body",
    ),
    ("IPCNS_MSG", "entries.0.extra", "... <5B>", "entries[0].extra: is '... <5B>', not an array"),
    ("IPCNS_MSG", "entries.0.extra.0", "aGk=", "entries[0].extra[0]: is 'aGk=', not an object"),
    ("IPCNS_MSG", "entries.0.extra.1", 5, "entries[0].extra[1]: is 5, not a string"),
    ("IPCNS_MSG", "entries.0.extra.1", "aGVsbG8", "entries[0].extra[1]: is no base64"),
    ("IPCNS_MSG", "entries.0.extra.1", "aGVs*bG8=", "entries[0].extra[1]: is no base64"),
    ("IPCNS_MSG", "entries.0.extra.1", "aGVsbG9=", "entries[0].extra[1]: is no base64"),
    ("IPCNS_MSG", "entries.0.extra.1", "aGVsbG8=aGk=", "entries[0].extra[1]: is no base64"),
    ("IPCNS_MSG", "entries.0.extra.1", "äGVsbG8=", "entries[0].extra[1]: is no base64"),
    ("IPCNS_MSG", "entries.0.extra.0.msize", 6, "entries[0].extra[0].msize: is 6, and the body behind it has 5 bytes"),
    ("IPCNS_MSG", "entries.0.extra.0.mtype", 0, f"entries[0].extra[0].mtype: is 0; it can be 1 to {LONG_MAX}"),
    (
        "IPCNS_MSG",
        "entries.0.extra.2.mtype",
        1 << 63,
        f"entries[0].extra[2].mtype: is {1 << 63}; it can be 1 to {LONG_MAX}",
    ),
    ("IPCNS_MSG", "entries.0.ipcimg.cbytes", ..., "entries[0].ipcimg: lacks cbytes"),
    (
        "IPCNS_MSG",
        "entries.0.ipcimg.ctime",
        1 << 63,
        f"entries[0].ipcimg.ctime: is {1 << 63}; it can be {-1 << 63} to {LONG_MAX}",
    ),
    # Semaphore sets.
    ("IPCNS_SEM", "entries.0.nsems", 2, "entries[0].nsems: is 2, and the number of values in extra is 3"),
    ("IPCNS_SEM", "entries.1.nsems", 0, "entries[1].nsems: is 0; it can be 1 to 33554431"),
    ("IPCNS_SEM", "entries.0.extra.2", 32768, "entries[0].extra[2]: is 32768; it can be 0 to 32767"),
    (
        "IPCNS_SEM",
        "entries.0.ipcimg.sempid",
        [],
        "entries[0].nsems: is 3, and the number of process ids is 0",
    ),
    ("IPCNS_SEM", "entries.0.extra", ..., "entries[0]: lacks extra"),
    # Segments.
    ("IPCNS_SHM", "entries.0.in_pagemaps", ..., "entries[0]: lacks in_pagemaps, or else extra, its content"),
    ("IPCNS_SHM", "entries.2.size", 6, "entries[2].size: is 6, and the content in extra has 5 bytes"),
    ("IPCNS_SHM", "entries.0.size", 0, f"entries[0].size: is 0; it can be 1 to {LONG_MAX}"),
    (
        "IPCNS_SHM",
        "entries.0.extra",
        "aGk=",
        "entries[0].extra: has content, but in_pagemaps says that it is in a page map "
        "(crit takes the segments that follow for it)",
    ),
    (
        "IPCNS_SHM",
        "entries.1.hugetlb_flag",
        7,
        "entries[1]: shared memory segment 5: hugetlb_flag 0o7 is not SHM_HUGETLB and a size of pages",
    ),
    # Page maps.
    ("PAGEMAP", "entries", [], "entries: is empty; the first entry of a page map has its pages_id"),
    ("PAGEMAP", "entries.0", {"vaddr": 0}, "entries[0]: has the unknown field 'vaddr'; known are pages_id"),
    ("PAGEMAP", "entries.1.flags", 2, "entries[1]: pages at 0x0: flags 2: the pages are neither here nor in a parent"),
    ("PAGEMAP", "entries.1.flags", "PE_NONE", "entries[1].flags: is 'PE_NONE', not a number"),
    ("PAGEMAP", "entries.1.nr_pages", 0, "entries[1]: pages at 0x0: nr_pages is 0; it can be 1 to 2251799813685247"),
    ("PAGEMAP", "entries.2.vaddr", 4095, "entries[2]: pages at 0xfff: not a multiple of the page size 4096"),
    (
        "PAGEMAP",
        "entries.2.vaddr",
        0,
        "entries[2]: pages at 0x0: overlap what comes before, which ends at 0x1000",
    ),
    ("PAGEMAP", "entries.2.in_parent", 1, "entries[2].in_parent: is 1, not true or false"),
    ("PAGEMAP", "entries.2", {"vaddr": 8192}, "entries[2]: lacks nr_pages"),
    (
        "PAGEMAP",
        "entries.2",
        {"vaddr": 8192, "nr_pages": 0, "flags": "PE_PRESENT"},
        "entries[2].nr_pages: is 0: crit older than CRIU 4.2 loses the counts of CRIU 4.2's page maps",
    ),
]


@pytest.mark.parametrize(("kind", "where", "value", "line"), REFUSED)
def test_refused(kind: str, where: str, value: object, line: str, tmp_path: pathlib.Path) -> None:
    assert refusal(changed(kind, where, value), tmp_path) == line


_TWICE = '{"magic": "IPCNS_MSG", "entries": [{"desc": {"id": 1, "mode": 1, "mode": 2}}]}'
NO_JSON = {
    "empty": (b"", "is empty"),
    "blank": (b" \n", "line 2, column 1: is no JSON: Expecting value"),
    "not UTF-8": (b'{"magic": "\xff"}', "byte 11: is not UTF-8, so this is no JSON"),
    "UTF-16": (json.dumps(document("IPC_VAR")).encode("utf-16"), "byte 0: is not UTF-8, so this is no JSON"),
    "cut": (b'{"magic"', "line 1, column 9: is no JSON: Expecting ':' delimiter"),
    "an image": ((FIXTURES / "basic" / "ipcns-msg-9.img").read_bytes(), "byte 15: is not UTF-8, so this is no JSON"),
    "two images": (
        f"{json.dumps(document('IPC_VAR'))}\n{json.dumps(document('IPC_VAR'))}\n".encode(),
        "line 2, column 1: more follows the JSON of one image",
    ),
    "an array": (b"[]", "is an array, not an object"),
    "text": (b'"x"', "is 'x', not an object"),
    "names twice": (_TWICE.encode(), "entries[0].desc: has 'mode' more than once"),
    "magic twice": (b'{"magic": "IPC_VAR", "magic": "IPC_VAR", "entries": []}', "has 'magic' more than once"),
    "digits": (b'{"magic": ' + b"1" * 5000 + b"}", "magic: is a number of 5000 digits; none has more than 20"),
    "more digits": (
        b'{"magic": -' + b"1" * 1_000_000 + b"}",
        "magic: is a number of 1000000 digits; none has more than 20",
    ),
    "a long fraction": (
        b'{"magic": 0.' + b"1" * 1_000_000 + b"}",
        "magic: is 0.111111111111111111, not a whole number",
    ),
    "arrays in arrays": (b"[" * 1_000_000, "is nested too deeply"),
    "objects in objects": (b'{"magic":' * 1_000_000, "is nested too deeply"),
}


@pytest.mark.parametrize(("data", "line"), NO_JSON.values(), ids=NO_JSON)
def test_no_json(data: bytes, line: str, tmp_path: pathlib.Path) -> None:
    assert refusal(data, tmp_path) == line


def test_a_line_is_short(tmp_path: pathlib.Path) -> None:
    for where in ("magic", "entries.0.msg_ctlmax", "a" * 100_000):
        assert len(refusal(changed("IPC_VAR", where, "x" * 1_000_000), tmp_path)) < 300


def random_value(chance: random.Random, old: Any) -> Any:
    if type(old) is int and chance.random() < 0.7:
        return chance.choice([old + 1, old - 1, str(old), hex(old), 1 << chance.randrange(65)])
    return chance.choice(
        [
            *(0, 1, -1, 5, 511, 4096, 32767, 32768, 1 << 31, 1 << 32, LONG_MAX, 1 << 63, U64_MAX, 1 << 64, 10**30),
            *(True, False, None, 0.5, 1e400, "", "x", "0x10", "-1", "aGVsbG8=", "PE_PRESENT", "PE_LAZY|1", "\ud800"),
            *([], {}, [[]], [0], [1, 2, 3], [{}], {"x": 1}, copy.deepcopy(DESC), {"mtype": 1, "msize": 5}),
        ]
    )


def mutate(chance: random.Random, image: Any) -> bytes:
    """The JSON with some values exchanged, taken out, repeated or renamed, or with some bytes changed."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        inner = image if chance.random() < 0.1 else image.get("entries")
        while isinstance(inner, (dict, list)):
            steps: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not steps:
                break
            step = chance.choice(steps)
            if isinstance(inner[step], (dict, list)) and inner[step] and chance.random() < 0.9:
                inner = inner[step]
                continue
            how = chance.randrange(5)
            if how < 2:
                inner[step] = random_value(chance, inner[step])
            elif how == 2:
                del inner[step]
            elif isinstance(inner, list):
                inner.insert(chance.randrange(len(inner) + 1), copy.deepcopy(inner[step]))
            else:
                inner[chance.choice(["extra", "ipcimg", "in_pagemaps", "nr_pages", "flags", "x"])] = inner[step]
            break
    data = bytearray(json.dumps(image).encode())
    if chance.random() < 0.2:
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice([0, 1, 1, 9])] = chance.choice(
                [b"", b"0", b'"', b"{", b"\xff", b"\x00", b",1"]
            )
    return bytes(data)


def test_mutations(tmp_path: pathlib.Path, record_property: Callable[[str, object], None]) -> None:
    """Each is refused in one line, or becomes an image that can be read, and is made again of what is shown of it."""
    chance = random.Random("encode")
    refusals, images = set(), 0
    count = 4000
    path = tmp_path / "x.img"
    for _ in range(count):
        data = mutate(chance, document(chance.choice(list(IMAGES))))
        path.unlink(missing_ok=True)
        try:
            with path.open("w+b") as file:
                encoder.encode(critjson.parse(data, "j.json"), file)
        except JsonError as error:
            line = str(error)
            assert line.startswith("j.json: ")
            assert line.isprintable(), line
            assert len(line) < 400, line
            refusals.add(error.why)
            continue
        images += 1
        text = "".join(pieces(str(path), None, Request(json="crit"), Problems()))
        with (tmp_path / "again.img").open("w+b") as file:
            encoder.encode(critjson.parse(text.encode(), "again"), file)
        assert (tmp_path / "again.img").read_bytes() == path.read_bytes()
    record_property("nothing lost", f"JSON changed at random: {count} tried, 0 taken wrongly")
    assert images > 300
    assert len(refusals) > 100


# ---- files ---------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "j").write_text(json.dumps(document("IPCNS_MSG")))
    return tmp_path / "j"


@pytest.fixture
def image(source: pathlib.Path) -> bytes:
    return encoded(document("IPCNS_MSG"), source.parent)


def piped(*arguments: object, given: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([*IPCIMG, "encode", *map(str, arguments)], input=given, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_said(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = run(IPCIMG, "encode", source, tmp_path / "y.img")
    assert (done.stdout, done.stderr) == (f"encoded 2 entries of IPCNS_MSG into {tmp_path / 'y.img'}\n", "")
    source.write_text(json.dumps(document("IPC_VAR")))
    done = run(IPCIMG, "encode", source, tmp_path / "z.img")
    assert done.stdout == f"encoded 1 entry of IPC_VAR into {tmp_path / 'z.img'}\n"


def test_standard_input_and_output(source: pathlib.Path, image: bytes, tmp_path: pathlib.Path) -> None:
    done = piped("-", "-", given=source.read_bytes())
    assert (done.stdout, done.stderr) == (image, b"")
    assert piped(source, "-").stdout == image
    piped("-", tmp_path / "y.img", given=source.read_bytes())
    assert (tmp_path / "y.img").read_bytes() == image


def test_nothing_is_written_to_standard_output_of_what_is_no_image() -> None:
    done = piped("-", "-", given=json.dumps(changed("IPCNS_MSG", "entries.1.qnum", 3)).encode(), status=1)
    assert done.stdout == b""
    line = b"entries[1].qnum: is 3, and the number of messages in extra is 0\n"
    assert done.stderr == b"ipcimg: Error: <standard input>: " + line


def test_an_image_of_many_pieces_through_a_pipe(tmp_path: pathlib.Path) -> None:
    queue = wire.queue(wire.desc(), [(n + 1, bytes(1000)) for n in range(2000)])
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    assert piped("-", "-", given=shown(tmp_path / "x.img").encode()).stdout == wire.image(wire.MSG, queue)


@pytest.mark.parametrize("redirection", ["<&-", "< /"])
def test_standard_input_that_cannot_be_read(redirection: str, tmp_path: pathlib.Path) -> None:
    if redirection == "< /":  # Python itself does not start with that
        line = refused("encode", "/", tmp_path / "x.img")
        assert line == "reading /: Is a directory"
        return
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *IPCIMG, "encode", "-", str(tmp_path / "x.img")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "ipcimg: Error: reading <standard input>: Bad file descriptor\n"


def test_standard_output_that_is_full_or_closed(source: pathlib.Path) -> None:
    for redirection, why in (("> /dev/full", "No space left on device"), ("| :", "Broken pipe")):
        program = f'(sleep 0.2; exec "$@") {redirection}; exit ${{PIPESTATUS[0]}}'
        command = ["bash", "-c", program, "bash", *IPCIMG, "encode", str(source), "-"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"ipcimg: Error: writing <standard output>: {why}\n")


def test_no_such_file(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert refused("encode", tmp_path / "no", tmp_path / "y.img") == f"reading {tmp_path}/no: No such file or directory"
    line = refused("encode", source, tmp_path / "no" / "y.img")
    assert line == f"writing {tmp_path}/no/y.img: No such file or directory"


def test_mode(source: pathlib.Path, image: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.img").chmod(0o666)
    run(IPCIMG, "encode", source, tmp_path / "x.img", "--force")
    assert stat.S_IMODE((tmp_path / "x.img").stat().st_mode) == 0o600


def test_what_is_there_is_replaced_on_demand(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    there = tmp_path / "x.img"
    there.write_bytes(b"as it was")
    assert refused("encode", source, there) == f"{there} is there already; --force replaces it"
    assert there.read_bytes() == b"as it was"
    run(IPCIMG, "encode", source, there, "--force")
    assert there.read_bytes().startswith(wire.u32(wire.COMMON, wire.MSG))
    assert sorted(os.listdir(tmp_path)) == ["j", "x.img"]


def test_what_comes_meanwhile_is_not_replaced(
    source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "x.img"
    sync = os.fsync

    def comes(fd: int) -> None:
        there.write_bytes(b"another's")
        sync(fd)

    monkeypatch.setattr(os, "fsync", comes)
    with pytest.raises(IpcimgError, match=r"x\.img is there already; --force replaces it"):
        encoder.write(str(there), encoder.read(str(source)), force=False)
    assert there.read_bytes() == b"another's"
    assert sorted(os.listdir(tmp_path)) == ["j", "x.img"]


def test_a_file_system_without_hard_links(
    source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    encoder.write(str(tmp_path / "x.img"), encoder.read(str(source)), force=False)
    assert sorted(os.listdir(tmp_path)) == ["j", "x.img"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("j", path)], ids=["dir", "fifo", "link"])
def test_only_files_are_replaced(make: Callable[[pathlib.Path], None], source: pathlib.Path) -> None:
    """Not /dev/null, nor the link /dev/stdout."""
    there = source.parent / "x.img"
    make(there)
    line = refused("encode", source, there, "--force")
    assert line == f"{there} is not a regular file, and --force replaces no other"
    assert not there.is_file() or there.is_symlink()


def test_a_write_that_fails_leaves_what_was_there(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    there = tmp_path / "x.img"
    there.write_bytes(b"as it was")
    line = refused(
        "encode", source, there, "--force", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
    )
    assert line == f"writing {there}: File too large"
    assert there.read_bytes() == b"as it was"
    assert sorted(os.listdir(tmp_path)) == ["j", "x.img"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")], ids=["signal", "error"])
def test_an_end_before_it_is_on_the_disk(
    error: BaseException, source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises((KeyboardInterrupt, IpcimgError)):
        encoder.write(str(tmp_path / "x.img"), encoder.read(str(source)), force=False)
    assert os.listdir(tmp_path) == ["j"]


def test_no_kernel_anywhere(source: pathlib.Path) -> None:
    """It is for machines without the kernel's side, as the inspector is."""
    program = (
        "import sys; from ipcimg.cli import main; status = main(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    modules = run((sys.executable, "-c", program), "encode", source, source.parent / "x.img").stderr.split()
    assert "ipcimg.encode" in modules
    kernel = {"ctypes", *(f"ipcimg.{name}" for name in ("libc", "namespace", "sysctl", "msg", "sem", "shm", "var"))}
    assert kernel & set(modules) == set()
