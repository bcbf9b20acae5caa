"""JSON in the shape of CRIU's crit: an image as JSON, and JSON as what is in an image.

An object with "magic", the kind, and "entries", each with the fields of its protobuf message; payloads stand in
"extra", and what ipcimg adds to an entry under "ipcimg". An image is turned into JSON in pieces, so that memory does
not grow with it; JSON is there whole before it is looked at.
"""

from __future__ import annotations

import array
import base64
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import codec, model
from . import jsonfields as fields
from .errors import ImageError
from .image import ImageFile
from .jsonfields import Place
from .manifest import Manifest

# ---- an image as JSON ----------------------------------------------------------------------

_Entry = Iterator[str]  # the pieces of one entry


def pieces(image: ImageFile, kind: str, page_size: int) -> Iterator[str]:
    """The JSON of an image of this kind, on one line. Raises ImageError.

    page_size is what page maps count in, bytes.
    """
    if kind not in _ENTRIES:
        raise ImageError(image.path, None, f"is of kind {kind}, which has nothing of an IPC namespace in it")
    yield f'{{"magic": "{kind}", "entries": ['
    separator = ""
    for entry in _ENTRIES[kind](image, page_size):
        yield separator
        yield from entry
        separator = ", "
    yield "]}\n"


def _whole(entry: dict[str, Any]) -> _Entry:
    yield json.dumps(entry)


def _desc(p: model.Permissions) -> dict[str, int]:
    return dataclasses.asdict(p)


def _with_facts(facts: Any | None) -> dict[str, Any]:
    return {} if facts is None else {"ipcimg": dataclasses.asdict(facts)}


_PIECE = 57 << 10  # bytes; base64 has 57 in each of its lines, so pieces can be put together


def _base64(data: bytes | memoryview) -> str:
    return base64.encodebytes(data).decode()


def _queue_entry(queue: model.MessageQueue) -> _Entry:
    entry = {"desc": _desc(queue.permissions), "qbytes": queue.qbytes, "qnum": queue.qnum}
    entry |= _with_facts(queue.facts)
    yield json.dumps(entry)[:-1] + ', "extra": ['
    separator = ""
    for message in queue.messages:
        head = json.dumps({"mtype": message.type, "msize": len(message.body)})
        yield f"{separator}{head}, {json.dumps(_base64(message.body))}"
        separator = ", "
    yield "]}"


def _semaphore_entry(one: model.SemaphoreSet) -> _Entry:
    return _whole(
        {"desc": _desc(one.permissions), "nsems": one.nsems, **_with_facts(one.facts), "extra": one.values.tolist()}
    )


def _segment_entry(one: model.SharedMemory) -> _Entry:
    huge = {} if one.hugetlb_flag is None else {"hugetlb_flag": one.hugetlb_flag}
    entry = {"desc": _desc(one.permissions), "size": one.size, **huge, **_with_facts(one.facts)}
    # Those that find their pages elsewhere have no extents here: see _ENTRIES.
    inline = next(iter(one.extents), None)
    if inline is None:
        yield json.dumps(entry | {"in_pagemaps": True})
        return
    yield json.dumps(entry)[:-1] + ', "extra": "'
    block = memoryview(bytearray(min(_PIECE, inline.length)))
    for start in range(0, inline.length, _PIECE):
        view = block[: inline.length - start]
        inline.read_into(view, start)
        yield json.dumps(_base64(view))[1:-1]
    yield '"}'


def _pagemap_entries(image: ImageFile, page_size: int) -> Iterator[_Entry]:
    pages_id, entries = codec.decode_pagemap_fields(image, page_size)
    yield _whole({"pages_id": pages_id})
    yield from map(_whole, entries)


def _variables_entries(image: ImageFile, _: int) -> Iterator[_Entry]:
    values = dataclasses.asdict(codec.decode_variables(image))
    entry = {name: value for name, value in values.items() if value is not None}
    yield _whole(entry | ({"ipcimg": {"has_manifest": True}} if codec.has_manifest(image) else {}))


def _manifest_entries(image: ImageFile, _: int) -> Iterator[_Entry]:
    one: Manifest = codec.decode_manifest(image)
    files = {name: {"size": file.size, "digest": file.digest.hex()} for name, file in one.files.items()}
    yield _whole(dataclasses.asdict(dataclasses.replace(one, files={})) | {"files": files})


_ENTRIES: dict[str, Callable[[ImageFile, int], Iterator[_Entry]]] = {
    "IPC_VAR": _variables_entries,
    "IPCNS_SHM": lambda image, page_size: map(_segment_entry, codec.decode_segment_entries(image, page_size)),
    "IPCNS_MSG": lambda image, _: map(_queue_entry, codec.decode_queues(image)),
    "IPCNS_SEM": lambda image, _: map(_semaphore_entry, codec.decode_semaphores(image)),
    "PAGEMAP": _pagemap_entries,
    "IPCIMG_MANIFEST": _manifest_entries,
}

# ---- JSON as what is in an image -----------------------------------------------------------

_U32, _U64 = fields.number(0, codec.U32_MAX), fields.number(0, codec.U64_MAX)
_I32 = fields.number(-codec.INT_MAX - 1, codec.INT_MAX)
_I64 = fields.number(-codec.LONG_MAX - 1, codec.LONG_MAX)
_ID = fields.number(0, codec.INT_MAX)

# Kinds that are not written from JSON, and why.
_REFUSED = {"IPCIMG_MANIFEST": "a manifest is made by a dump; its seal cannot be typed"}
KINDS = tuple(kind for kind in _ENTRIES if kind not in _REFUSED)


@dataclass(frozen=True, slots=True)
class Document:
    """The JSON of an image: its kind, one of KINDS, and its entries, which nobody has looked at yet."""

    kind: str
    entries: list[Any]
    place: Place  # of the entries

    def numbered(self) -> Iterator[tuple[Any, Place]]:
        """Each entry and its place."""
        return ((entry, self.place.at(n)) for n, entry in enumerate(self.entries))


_DOCUMENT = fields.members({"magic": fields.text, "entries": fields.array})


def parse(data: bytes, file: str) -> Document:
    """The JSON of one image; file is its name, for errors. Raises JsonError."""
    root = Place(file)
    document = _DOCUMENT(fields.parse(data, file), root)
    kind = document["magic"]
    if kind not in KINDS:
        magic = root.at("magic")
        raise magic.fail(_REFUSED[kind]) if kind in _REFUSED else magic.refuse(kind, f"one of {', '.join(KINDS)}")
    return Document(kind, document["entries"], root.at("entries"))


def _permissions(mode: int) -> fields.Check[model.Permissions]:
    numbers = dict.fromkeys(model.Permissions.__dataclass_fields__, _U32)
    return fields.made(model.Permissions, {**numbers, "mode": fields.number(0, mode), "id": _ID})


_VARIABLES = {
    **dict.fromkeys(model.Variables.__dataclass_fields__, _U32),
    "sem_ctls": fields.each(_U32),
    **dict.fromkeys(("shm_ctlmax", "shm_ctlall"), _U64),
    "shm_rmid_forced": fields.number(0, 1),
    **dict.fromkeys(("msg_next_id", "sem_next_id", "shm_next_id"), _ID),
}
_VARIABLES_ENTRY = fields.members(
    {**_VARIABLES, "ipcimg": fields.members({"has_manifest": fields.boolean})}, (*codec.OPTIONAL_VARIABLES, "ipcimg")
)


def variables(document: Document) -> tuple[model.Variables, bool]:
    """The settings, and whether they are those of a set with a manifest. Raises JsonError."""
    if len(document.entries) != 1:
        raise document.place.fail(f"has {len(document.entries)} elements; an image of this kind has one entry")
    [(entry, place)] = document.numbered()
    found = _VARIABLES_ENTRY(entry, place)
    has_manifest = found.pop("ipcimg", {}).get("has_manifest", False)
    if len(found["sem_ctls"]) != 4:
        raise place.at("sem_ctls").fail(f"has {len(found['sem_ctls'])} numbers; kernel.sem has 4")
    return model.Variables(**found), has_manifest


_TIME_AND_PID = {"stime": _I64, "rtime": _I64, "ctime": _I64, "lspid": _I32, "lrpid": _I32}
_QUEUE = fields.members(
    {
        "desc": _permissions(codec.MODE),
        "qbytes": _U32,
        "qnum": _U32,
        "extra": fields.array,
        "ipcimg": fields.made(model.QueueFacts, {"cbytes": _U64, **_TIME_AND_PID}),
    },
    ["ipcimg"],
)
_MESSAGE = fields.members({"mtype": fields.number(1, codec.LONG_MAX), "msize": fields.number(0, codec.INT_MAX)})


def queues(document: Document) -> Iterator[model.MessageQueue]:
    """The queues, whose messages are looked at when they are iterated. Raises JsonError, also then."""
    for entry, place in document.numbered():
        found = _QUEUE(entry, place)
        extra, qnum = found["extra"], found["qnum"]
        if len(extra) % 2:
            raise place.at("extra").fail(f"has {len(extra)} elements; each message has two, its head and its body")
        if len(extra) != 2 * qnum:
            raise place.at("qnum").fail(f"is {qnum}, and the number of messages in extra is {len(extra) // 2}")
        messages = _messages(extra, place.at("extra"))
        yield model.MessageQueue(found["desc"], found["qbytes"], qnum, messages, found.get("ipcimg"))


def _messages(extra: list[Any], place: Place) -> Iterator[model.Message]:
    for n in range(0, len(extra), 2):
        head, body = _MESSAGE(extra[n], place.at(n)), fields.binary(extra[n + 1], place.at(n + 1))
        if head["msize"] != len(body):
            raise place.at(n).at("msize").fail(f"is {head['msize']}, and the body behind it has {len(body)} bytes")
        yield model.Message(head["mtype"], body)


_SEMAPHORES = fields.members(
    {
        "desc": _permissions(codec.MODE),
        "nsems": fields.number(1, codec.NSEMS),
        "extra": fields.each(fields.number(0, codec.SEMVMX)),
        "ipcimg": fields.made(model.SemaphoreFacts, {"otime": _I64, "ctime": _I64, "sempid": fields.each(_I32)}),
    },
    ["ipcimg"],
)


def semaphores(document: Document) -> Iterator[model.SemaphoreSet]:
    """The semaphore sets. Raises JsonError."""
    for entry, place in document.numbered():
        found = _SEMAPHORES(entry, place)
        values, nsems, facts = found["extra"], found["nsems"], found.get("ipcimg")
        if len(values) != nsems:
            raise place.at("nsems").fail(f"is {nsems}, and the number of values in extra is {len(values)}")
        if facts is not None and len(facts.sempid) != nsems:
            raise place.at("nsems").fail(f"is {nsems}, and the number of process ids is {len(facts.sempid)}")
        yield model.SemaphoreSet(found["desc"], array.array("H", values), facts)


_SEGMENT = fields.members(
    {
        "desc": _permissions(codec.SEGMENT_MODE),
        "size": fields.number(1, codec.LONG_MAX),
        "in_pagemaps": fields.boolean,
        "hugetlb_flag": _U32,
        "extra": fields.binary,
        "ipcimg": fields.made(
            model.SegmentFacts,
            {"atime": _I64, "dtime": _I64, "ctime": _I64, "cpid": _I32, "lpid": _I32, "nattch": _U64},
        ),
    },
    ["in_pagemaps", "hugetlb_flag", "extra", "ipcimg"],
)


def segments(document: Document) -> Iterator[tuple[model.SharedMemory, bytes | None]]:
    """The segments, each with its content where that is in the image itself. Raises JsonError."""
    for entry, place in document.numbered():
        found = _SEGMENT(entry, place)
        size, inline = found["size"], found.get("extra")
        if found.get("in_pagemaps", False):
            # crit knows nothing of in_pagemaps. Behind the last segment it finds no content, which is right; behind
            # another one it finds the entries that follow, and has no segments of them.
            if inline:
                raise place.at("extra").fail(
                    "has content, but in_pagemaps says that it is in a page map "
                    "(crit takes the segments that follow for it)"
                )
            inline = None
        elif inline is None:
            raise place.fail("lacks in_pagemaps, or else extra, its content")
        elif len(inline) != size:
            raise place.at("size").fail(f"is {size}, and the content in extra has {len(inline)} bytes")
        yield model.SharedMemory(found["desc"], size, (), found.get("hugetlb_flag"), found.get("ipcimg")), inline


_FLAGS = {"PE_PARENT": codec.PE_PARENT, "PE_LAZY": codec.PE_LAZY, "PE_PRESENT": codec.PE_PRESENT}


def _flags(value: Any, place: Place) -> int:
    """A number, or as `crit decode --pretty` has it: "PE_PARENT | PE_LAZY | 0x8"."""
    if type(value) is not str:
        return _U32(value, place)
    flags = 0
    for name in value.split("|", 32) if value else ():
        flags |= _FLAGS.get(name.strip()) or _U32(name.strip(), place)
    return flags


_PAGEMAP_HEAD = fields.members({"pages_id": _U32})
_PAGES = {"vaddr": _U64, "compat_nr_pages": _U32, "in_parent": fields.boolean, "flags": _flags, "nr_pages": _U64}
_PAGEMAP_ENTRY = fields.members(_PAGES, ["compat_nr_pages", "in_parent", "flags", "nr_pages"])
# Until CRIU 4.2 field 2 had the name nr_pages, and there was no field 5.
_OLD_PAGEMAP_ENTRY = fields.members({**_PAGES, "nr_pages": _U32}, ["compat_nr_pages", "in_parent", "flags"])


def pagemap(document: Document) -> tuple[int, Iterator[dict[str, int]]]:
    """The number of the pages file, and of each run its fields by CRIU's names. Raises JsonError, also later."""
    numbered = document.numbered()
    first = next(numbered, None)
    if first is None:
        raise document.place.fail("is empty; the first entry of a page map has its pages_id")
    head: int = _PAGEMAP_HEAD(*first)["pages_id"]
    return head, (_pagemap_entry(entry, place) for entry, place in numbered)


def _pagemap_entry(entry: Any, place: Place) -> dict[str, int]:
    if type(entry) is dict and "compat_nr_pages" not in entry:
        found = _OLD_PAGEMAP_ENTRY(entry, place)
        found["compat_nr_pages"] = found.pop("nr_pages")
        if not found["compat_nr_pages"]:
            raise place.at("nr_pages").fail("is 0: crit older than CRIU 4.2 loses the counts of CRIU 4.2's page maps")
        return found
    return _PAGEMAP_ENTRY(entry, place)
