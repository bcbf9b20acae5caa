"""Bytes ⇄ model: one table of cases, run in both directions, and everything a decoder must refuse."""

from __future__ import annotations

import array
import dataclasses
import io
import os
import pathlib
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import pytest

from ipcimg import codec, model, pieces
from ipcimg.errors import ChangedError, ImageError
from ipcimg.image import MAX_ENTRY, MAX_PLAIN, ImageFile
from ipcimg.manifest import File, Manifest
from tests import wire

INT_MAX, U32_MAX, LONG_MAX, U64_MAX = (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1

OpenImage = Callable[[bytes], ImageFile]
Fields = Mapping[int, int | bytes | list[int] | None]


@pytest.fixture
def image(tmp_path: pathlib.Path) -> OpenImage:
    """Open bytes as the image x.img."""

    def open_bytes(data: bytes) -> ImageFile:
        path = tmp_path / "x.img"
        path.write_bytes(data)
        return ImageFile(os.open(path, os.O_RDONLY), "x.img")

    return open_bytes


# ---- each kind: how its objects are read and written, as plain values that compare -----------


def _queue(queue: model.MessageQueue) -> model.MessageQueue:
    return dataclasses.replace(queue, messages=tuple(queue.messages))


def _segment(segment: model.SharedMemory) -> model.SharedMemory:
    return dataclasses.replace(segment, extents=tuple(segment.extents))


def read_variables(image: ImageFile) -> list[Any]:
    return [codec.decode_variables(image)]


def read_queues(image: ImageFile) -> list[Any]:
    return [_queue(queue) for queue in codec.decode_queues(image)]


def read_semaphores(image: ImageFile) -> list[Any]:
    return list(codec.decode_semaphores(image))


def read_segments(image: ImageFile) -> list[Any]:
    return [_segment(segment) for segment in codec.decode_segments(image, lambda shmid, size: (), wire.PAGE)]


def read_pagemap(image: ImageFile) -> list[Any]:
    pages_id, runs = codec.decode_pagemap(image, wire.PAGE)
    return [pages_id, *((run.offset, run.pages, run.in_parent) for run in runs)]


def read_manifest(image: ImageFile) -> list[Any]:
    return [codec.decode_manifest(image)]


def write_variables(file: BinaryIO, objects: Iterable[Any], exact: bool) -> None:
    for one in objects:
        codec.encode_variables(file, one)


def write_queues(file: BinaryIO, objects: Iterable[Any], exact: bool) -> None:
    encoder = codec.QueueEncoder(file, exact)
    for one in objects:
        encoder.add(one)


def write_semaphores(file: BinaryIO, objects: Iterable[Any], exact: bool) -> None:
    encoder = codec.SemaphoreEncoder(file, exact)
    for one in objects:
        encoder.add(one)


def write_segments(file: BinaryIO, objects: Iterable[Any], exact: bool) -> None:
    encoder = codec.SegmentEncoder(file, exact)
    for one in objects:
        encoder.add(one)


def write_pagemap(file: BinaryIO, objects: Iterable[Any], exact: bool) -> None:
    pages_id, *runs = objects
    encoder = codec.PagemapEncoder(file, pages_id, exact)
    for offset, pages, _ in runs:
        encoder.add(offset, pages)


def write_manifest(file: BinaryIO, objects: Iterable[Any], exact: bool) -> None:
    for one in objects:
        codec.encode_manifest(file, one)


Read = Callable[[ImageFile], list[Any]]
Write = Callable[[BinaryIO, Iterable[Any], bool], None]

VARIABLES: tuple[Read, Write] = read_variables, write_variables
QUEUES: tuple[Read, Write] = read_queues, write_queues
SEMAPHORES: tuple[Read, Write] = read_semaphores, write_semaphores
SEGMENTS: tuple[Read, Write] = read_segments, write_segments
PAGEMAP: tuple[Read, Write] = read_pagemap, write_pagemap
MANIFEST: tuple[Read, Write] = read_manifest, write_manifest


# ---- the table: bytes ⇄ objects ------------------------------------------------------------

PLAIN = model.Permissions(key=0, uid=0, gid=0, cuid=0, cgid=0, mode=0, id=0)
HIGHEST = model.Permissions(U32_MAX, U32_MAX, U32_MAX, U32_MAX, U32_MAX, 0o777, INT_MAX)
HIGHEST_DESC = wire.desc(INT_MAX, U32_MAX, U32_MAX, U32_MAX, mode=0o777)
DIFFERENT = model.Permissions(key=0xDEADBEEF, uid=1, gid=2, cuid=3, cgid=4, mode=0o640, id=32768)
DIFFERENT_DESC = wire.desc(32768, 0xDEADBEEF, 1, 2, 3, 4, 0o640)

DEFAULTS = model.Variables(
    sem_ctls=(32000, 1024000000, 500, 32000),
    msg_ctlmax=8192,
    msg_ctlmnb=16384,
    msg_ctlmni=32000,
    auto_msgmni=0,
    shm_ctlmax=18446744073692774399,
    shm_ctlall=18446744073692774399,
    shm_ctlmni=4096,
    shm_rmid_forced=0,
    mq_queues_max=256,
    mq_msg_max=10,
    mq_msgsize_max=8192,
    mq_msg_default=10,
    mq_msgsize_default=8192,
)


def half(text: str) -> array.array[int]:
    return array.array("H", map(int, text.split()))


# How it is read and written, the image, what is in it.
CASES: dict[str, tuple[tuple[Read, Write], bytes, list[Any]]] = {
    "variables": (VARIABLES, wire.variables(), [DEFAULTS]),
    "variables of a kernel without mq defaults": (
        VARIABLES,
        wire.variables({13: None, 14: None}),
        [dataclasses.replace(DEFAULTS, mq_msg_default=None, mq_msgsize_default=None)],
    ),
    "variables with armed presets": (
        VARIABLES,
        wire.variables({15: 0, 16: 1, 17: INT_MAX}),
        [dataclasses.replace(DEFAULTS, msg_next_id=0, sem_next_id=1, shm_next_id=INT_MAX)],
    ),
    "no queues": (QUEUES, wire.image(wire.MSG), []),
    "queue of zeros": (
        QUEUES,
        wire.image(wire.MSG, wire.queue(wire.desc(mode=0), qbytes=0)),
        [model.MessageQueue(PLAIN, 0, 0, ())],
    ),
    "queue of the highest numbers": (
        QUEUES,
        wire.image(wire.MSG, wire.queue(HIGHEST_DESC, [(LONG_MAX, b"")], U32_MAX)),
        [model.MessageQueue(HIGHEST, U32_MAX, 1, (model.Message(LONG_MAX, b""),))],
    ),
    "queues with messages around the alignment": (
        QUEUES,
        wire.image(
            wire.MSG,
            wire.queue(DIFFERENT_DESC, [(1, b""), (2, b"1234567"), (3, b"12345678"), (4, b"123456789")]),
            wire.queue(wire.desc(mode=0), [(1, b"\0")]),
        ),
        [
            model.MessageQueue(
                DIFFERENT,
                16384,
                4,
                (
                    model.Message(1, b""),
                    model.Message(2, b"1234567"),
                    model.Message(3, b"12345678"),
                    model.Message(4, b"123456789"),
                ),
            ),
            model.MessageQueue(PLAIN, 16384, 1, (model.Message(1, b"\0"),)),
        ],
    ),
    "queue with facts": (
        QUEUES,
        wire.image(
            wire.MSG,
            wire.queue(wire.desc(mode=0), facts=wire.message({1: U64_MAX, 2: 2, 3: LONG_MAX, 4: 4, 5: 5, 6: INT_MAX})),
        ),
        [model.MessageQueue(PLAIN, 16384, 0, (), model.QueueFacts(U64_MAX, 2, LONG_MAX, 4, 5, INT_MAX))],
    ),
    "no semaphore sets": (SEMAPHORES, wire.image(wire.SEM), []),
    "semaphore sets around the alignment": (
        SEMAPHORES,
        wire.image(
            wire.SEM,
            wire.semaphores(DIFFERENT_DESC, [0, 1, 32767]),
            wire.semaphores(HIGHEST_DESC, [1, 2, 3, 256]),
            wire.semaphores(wire.desc(mode=0), [5, 4, 3, 2, 1]),
        ),
        [
            model.SemaphoreSet(DIFFERENT, half("0 1 32767")),
            model.SemaphoreSet(HIGHEST, half("1 2 3 256")),
            model.SemaphoreSet(PLAIN, half("5 4 3 2 1")),
        ],
    ),
    "semaphore set with facts": (
        SEMAPHORES,
        wire.image(
            wire.SEM,
            wire.semaphores(wire.desc(mode=0), [7, 8], wire.message({1: 1, 2: 2, 3: wire.varint(300) + b"\0"})),
        ),
        [model.SemaphoreSet(PLAIN, half("7 8"), model.SemaphoreFacts(1, 2, (300, 0)))],
    ),
    "no segments": (SEGMENTS, wire.image(wire.SHM), []),
    "segments": (
        SEGMENTS,
        wire.image(
            wire.SHM,
            wire.segment(wire.desc(mode=0), 1),
            wire.segment(DIFFERENT_DESC, 1 << 40),
            wire.segment(HIGHEST_DESC, LONG_MAX),
        ),
        [
            model.SharedMemory(PLAIN, 1, ()),
            model.SharedMemory(DIFFERENT, 1 << 40, ()),
            model.SharedMemory(HIGHEST, LONG_MAX, ()),
        ],
    ),
    "segment that is locked, to be destroyed, and of huge pages": (
        SEGMENTS,
        wire.image(wire.SHM, wire.segment(wire.desc(mode=0o3600), 2 << 20, hugetlb_flag=0o4000 | 21 << 26)),
        [model.SharedMemory(dataclasses.replace(PLAIN, mode=0o3600), 2 << 20, (), 0o4000 | 21 << 26)],
    ),
    "segment with facts": (
        SEGMENTS,
        wire.image(
            wire.SHM, wire.segment(wire.desc(mode=0), 1, facts=wire.message({1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}))
        ),
        [model.SharedMemory(PLAIN, 1, (), None, model.SegmentFacts(1, 2, 3, 4, 5, 6))],
    ),
    "page map of nothing": (PAGEMAP, wire.pagemap(3), [3]),
    "page map": (
        PAGEMAP,
        wire.pagemap(U32_MAX, wire.pages(0, 1), wire.pages(0x1000, 2), wire.pages(1 << 40, 1 << 33)),
        [U32_MAX, (0, 1, False), (0x1000, 2, False), (1 << 40, 1 << 33, False)],
    ),
    "manifest": (
        MANIFEST,
        wire.manifest(7, {"ipcns-var-7.img": 82, "pages-1.img": 1 << 40}, {3: 1700000000, 8: 2, 12: U32_MAX}),
        [
            Manifest(
                ipc_ns_id=7,
                files={"ipcns-var-7.img": File(82, b""), "pages-1.img": File(1 << 40, b"")},
                digest_algorithm="sha256",
                counts=model.Counts(queues=2, pages=U32_MAX),
                page_size=4096,
                kernel="6.1",
                machine="x86_64",
                created=1700000000,
                tool="by hand",
            )
        ],
    ),
    "manifest of a part": (
        MANIFEST,
        wire.manifest(7, {}, {14: b"--only msg", 15: 0}),
        [
            Manifest(
                ipc_ns_id=7,
                files={},
                digest_algorithm="sha256",
                counts=model.Counts(),
                page_size=4096,
                kernel="6.1",
                machine="x86_64",
                created=0,
                tool="by hand",
                selection="--only msg",
                variables_meant=False,
            )
        ],
    ),
}
# The page map is the one kind that ipcimg writes differently from CRIU, unless it is asked not to.
EXACT = ("page map",)


@pytest.mark.parametrize(("kind", "data", "objects"), CASES.values(), ids=CASES)
def test_decode(image: OpenImage, kind: tuple[Read, Write], data: bytes, objects: list[Any]) -> None:
    assert kind[0](image(data)) == objects


@pytest.mark.parametrize(("kind", "data", "objects"), CASES.values(), ids=CASES)
def test_encode(request: pytest.FixtureRequest, kind: tuple[Read, Write], data: bytes, objects: list[Any]) -> None:
    file = io.BytesIO()
    kind[1](file, objects, request.node.callspec.id in EXACT)
    assert file.getvalue() == data


OF_CRIU = {name: case for name, case in CASES.items() if case[0] is not MANIFEST}


@pytest.mark.parametrize(("kind", "data", "objects"), OF_CRIU.values(), ids=OF_CRIU)
def test_decode_v1(image: OpenImage, kind: tuple[Read, Write], data: bytes, objects: list[Any]) -> None:
    """CRIU's first images have no common magic, and are otherwise the same."""
    assert data[:4] == wire.u32(wire.COMMON)
    assert kind[0](image(data[4:])) == objects


@pytest.mark.parametrize(("kind", "data", "objects"), CASES.values(), ids=CASES)
def test_exact_leaves_nothing_of_ipcimg_in(kind: tuple[Read, Write], data: bytes, objects: list[Any]) -> None:
    plain = [dataclasses.replace(one, facts=None) if hasattr(one, "facts") else one for one in objects]
    exact, without_facts = io.BytesIO(), io.BytesIO()
    kind[1](exact, objects, True)
    kind[1](without_facts, plain, True)
    assert exact.getvalue() == without_facts.getvalue()


@pytest.mark.parametrize(("kind", "data", "objects"), CASES.values(), ids=CASES)
def test_any_other_kind_is_refused(image: OpenImage, kind: tuple[Read, Write], data: bytes, objects: list[Any]) -> None:
    for other, _, _ in CASES.values():
        if other is not kind:
            with pytest.raises(ImageError, match=r"x\.img, byte 4: unknown magic .* this should be "):
                other[0](image(data))


@pytest.mark.parametrize(("kind", "data", "objects"), CASES.values(), ids=CASES)
def test_one_byte_too_many(image: OpenImage, kind: tuple[Read, Write], data: bytes, objects: list[Any]) -> None:
    with pytest.raises(ImageError, match=r"x\.img, byte"):
        kind[0](image(data + b"\0"))


EXTENSIBLE = {name: case for name, case in CASES.items() if case[0] is not PAGEMAP and case[2]}


@pytest.mark.parametrize(("kind", "data", "objects"), EXTENSIBLE.values(), ids=EXTENSIBLE)
def test_fields_from_the_future_are_ignored(
    image: OpenImage, kind: tuple[Read, Write], data: bytes, objects: list[Any]
) -> None:
    """Except in a page map, where a field that is not understood can change what the pages mean."""
    length = int.from_bytes(data[8:12], "little")
    first = data[12 : 12 + length] + wire.field(1999, 1) + wire.field(30, b"what?")
    changed = data[:8] + wire.entry(first)
    changed = wire.seal(changed) if kind is MANIFEST else changed + data[12 + length :]
    assert kind[0](image(changed)) == objects


# ---- queues --------------------------------------------------------------------------------


def test_messages_can_be_iterated_again_and_at_once(image: OpenImage) -> None:
    data = wire.image(wire.MSG, wire.queue(wire.desc(1), [(1, b"a"), (2, b"b")]), wire.queue(wire.desc(2), [(3, b"c")]))
    one, other = codec.decode_queues(image(data))
    pairs = zip(one.messages, one.messages, strict=True)
    assert [(a.body, b.body) for a, b in pairs] == [(b"a", b"a"), (b"b", b"b")]
    assert [message.body for message in other.messages] == [b"c"]


@pytest.mark.parametrize("qnum", [1, 3])
def test_queue_that_changes_while_it_is_written(qnum: int) -> None:
    messages = (model.Message(1, b"") for _ in range(2))
    with pytest.raises(ChangedError, match=f"message queue 0 had {qnum} messages, then 2"):
        codec.QueueEncoder(io.BytesIO(), False).add(model.MessageQueue(PLAIN, 0, qnum, messages))


# ---- segments whose content is in the image of their entries ---------------------------------


@pytest.mark.parametrize("in_pagemaps", [None, 0])
@pytest.mark.parametrize("size", [1, 3, 4, 5, 4096, 10001])
def test_inline_segment(image: OpenImage, in_pagemaps: int | None, size: int) -> None:
    """CRIU's older images: size bytes behind the entry, padded to a multiple of 4."""
    content = (b"0123456789" * 1001)[:size]
    entry = wire.entry(wire.message({1: wire.desc(5), 2: size, 3: in_pagemaps}))
    data = wire.image(wire.SHM, entry, wire.padded(content, 4), wire.segment(wire.desc(6), 7))
    found = image(data)
    inline, other = codec.decode_segments(found, lambda shmid, size: (), wire.PAGE)
    assert (inline.permissions.id, inline.size) == (5, size)
    [extent] = inline.extents
    assert (extent.offset, extent.length) == (0, size)
    read = bytearray(size)
    extent.read_into(memoryview(read))
    assert read == content
    read_end = bytearray(1)
    extent.read_into(memoryview(read_end), size - 1)
    assert read_end == content[-1:]
    assert (other.permissions.id, other.size) == (6, 7)
    for cut in (1, 2, 3, size):
        short = wire.image(wire.SHM, entry, wire.padded(content, 4)[:-cut])
        with pytest.raises(ImageError, match=r"x\.img, byte \d+: shared memory segment 5: its content needs"):
            list(codec.decode_segments(image(short), lambda shmid, size: (), wire.PAGE))


def test_inline_segment_by_pieces(image: OpenImage) -> None:
    """Longer than a piece, and not a multiple of one."""
    content = os.urandom(pieces.ROOM * 2 + 5)
    entry = wire.entry(wire.message({1: wire.desc(5), 2: len(content)}))
    [inline] = codec.decode_segments(
        image(wire.image(wire.SHM, entry, wire.padded(content, 4))), lambda shmid, size: (), wire.PAGE
    )
    assert b"".join(bytes(piece.view) for piece in pieces.of(inline)) == content


def test_segment_in_page_maps_is_looked_up_by_id_and_end(image: OpenImage) -> None:
    """Its pages are whole ones: ordinary or huge."""
    asked = []

    def extents_of(shmid: int, end: int) -> Iterator[model.Extent]:
        asked.append((shmid, end))
        return iter(())

    huge = wire.segment(wire.desc(4), 1, hugetlb_flag=0o4000 | 21 << 26)
    data = wire.image(wire.SHM, wire.segment(wire.desc(9), 77), wire.segment(wire.desc(3), 8192), huge)
    list(codec.decode_segments(image(data), extents_of, wire.PAGE))
    assert asked == [(9, 4096), (3, 8192), (4, 2 << 20)]


# ---- page maps -----------------------------------------------------------------------------

_RUN = {1: 0x2000, 2: 0}  # vaddr, compat_nr_pages

PAGEMAP_ENTRIES: dict[str, tuple[Fields, tuple[int, int, bool]]] = {
    "field 2 alone, as CRIU up to 4.1": ({1: 0x2000, 2: 3}, (0x2000, 3, False)),
    "field 5 alone counts": ({**_RUN, 4: wire.PRESENT, 5: 3}, (0x2000, 3, False)),
    "both fields": ({1: 0x2000, 2: 3, 4: wire.PRESENT, 5: 3}, (0x2000, 3, False)),
    "both the same": ({1: 0x2000, 2: 3, 4: wire.PRESENT, 5: 3}, (0x2000, 3, False)),
    "no flags, in_parent": ({1: 0x2000, 2: 3, 3: 1}, (0x2000, 3, True)),
    "no flags, in_parent false": ({1: 0x2000, 2: 3, 3: 0}, (0x2000, 3, False)),
    "flag parent": ({**_RUN, 4: wire.PARENT, 5: 3}, (0x2000, 3, True)),
    "flags present and lazy": ({**_RUN, 4: wire.PRESENT | wire.LAZY, 5: 3}, (0x2000, 3, False)),
    "in_parent beside flags": ({**_RUN, 3: 1, 4: wire.PRESENT, 5: 3}, (0x2000, 3, True)),
}


@pytest.mark.parametrize(("entry", "run"), PAGEMAP_ENTRIES.values(), ids=PAGEMAP_ENTRIES)
def test_pagemap_entry(image: OpenImage, entry: Fields, run: tuple[int, int, bool]) -> None:
    assert read_pagemap(image(wire.pagemap(1, wire.entry(wire.message(entry))))) == [1, run]


def test_ipcimg_writes_both_counts_of_pages() -> None:
    """So that CRIU up to 4.1, which knows field 2 alone, reads the set too."""
    file = io.BytesIO()
    write_pagemap(file, [1, (0, 3, False), (1 << 20, 1 << 32, False)], False)
    both = wire.entry(wire.message({1: 0, 2: 3, 4: wire.PRESENT, 5: 3}))
    too_many_for_field_2 = wire.entry(wire.message({1: 1 << 20, 2: 0, 4: wire.PRESENT, 5: 1 << 32}))
    assert file.getvalue() == wire.pagemap(1, both, too_many_for_field_2)


# ---- what is refused -----------------------------------------------------------------------


def _desc_with(number: int, value: int | bytes | None) -> bytes:
    fields: Fields = {1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 5, number: value}
    return wire.message(fields)


def _head(kind: int, *parts: bytes) -> bytes:
    """An image whose only bad entry is its second: the error must not name the first."""
    first = {
        wire.MSG: wire.queue(wire.desc(), [(1, b"good")]),
        wire.SEM: wire.semaphores(wire.desc(), [1]),
        wire.SHM: wire.segment(wire.desc(), 1),
        wire.PAGEMAP: wire.entry(wire.message({1: 1})) + wire.pages(0, 2),
    }[kind]
    return wire.image(kind, first, *parts)


_SECOND = {kind: len(_head(kind)) for kind in (wire.MSG, wire.SEM, wire.SHM, wire.PAGEMAP)}


def _raw(fields: Fields) -> bytes:
    return wire.entry(wire.message(fields))


def _bad_objects() -> Iterator[tuple[str, tuple[Read, Write], bytes, int, str]]:
    """(name, kind, image, offset of the bad entry, a part of the reason)"""
    kinds: list[tuple[str, tuple[Read, Write], int, dict[int, int], bytes]] = [
        ("queue", QUEUES, wire.MSG, {2: 0, 3: 0}, b""),
        ("semaphore set", SEMAPHORES, wire.SEM, {2: 1}, bytes(8)),
        ("segment", SEGMENTS, wire.SHM, {2: 1, 3: 1}, b""),
    ]
    for name, kind, magic, rest, values in kinds:

        def case(
            desc: bytes | None,
            magic: int = magic,
            rest: dict[int, int] = rest,
            values: bytes = values,
        ) -> bytes:
            return _head(magic, _raw({1: desc, **rest}), values)

        at = _SECOND[magic]
        yield f"{name}: id too high", kind, case(_desc_with(7, INT_MAX + 1)), at, f"id is {INT_MAX + 1}"
        yield f"{name}: id -1", kind, case(_desc_with(7, U32_MAX)), at, "id is"
        yield f"{name}: mode with a file's type", kind, case(_desc_with(6, 0o100600)), at, "mode 0o100600"
        yield f"{name}: mode with sticky bits", kind, case(_desc_with(6, 0o4600)), at, "mode 0o4600"
        yield f"{name}: no desc", kind, case(None), at, "desc"
        yield f"{name}: desc that is none", kind, case(b"\xff"), at, "no ipc_"
        for number in range(1, 8):
            yield f"{name}: desc without {number}", kind, case(_desc_with(number, None)), at, "lacks desc."
        for number in rest:
            if kind is not SEGMENTS or number != 3:  # in_pagemaps is optional
                data = _head(magic, _raw({1: wire.desc(5), **{k: v for k, v in rest.items() if k != number}}), values)
                yield f"{name}: without {number}", kind, data, at, "lacks"
        yield f"{name}: not protobuf", kind, _head(magic, wire.entry(b"\xff\xff")), at, "2 bytes that are no ipc_"
        if kind is not SEGMENTS:
            for bit in (0o1000, 0o2000):
                data = case(_desc_with(6, 0o600 | bit))
                yield f"{name}: a segment's mode bit {bit:#o}", kind, data, at, f"mode {0o600 | bit:#o}"

    at = _SECOND[wire.SEM]
    yield "no semaphores", SEMAPHORES, _head(wire.SEM, _raw({1: wire.desc(5), 2: 0})), at, "nsems is 0"
    data = _head(wire.SEM, _raw({1: wire.desc(5), 2: 1 << 25}), bytes(8))
    yield "absurd semaphores", SEMAPHORES, data, at, f"nsems is {1 << 25}"
    data = _head(wire.SEM, wire.semaphores(wire.desc(5), [1, 32768]))
    yield "value beyond SEMVMX", SEMAPHORES, data, at, "a value is 32768"

    at = _SECOND[wire.SHM]
    yield "segment of 0 bytes", SEGMENTS, _head(wire.SHM, wire.segment(wire.desc(5), 0)), at, "size is 0"
    data = _head(wire.SHM, wire.segment(wire.desc(5), LONG_MAX + 1))
    yield "segment beyond off_t", SEGMENTS, data, at, f"size is {LONG_MAX + 1}"
    for flag in (0, 0o4000, 21 << 26, 0o4000 | 21 << 26 | 1, 0o4000 | 63 << 26, U32_MAX):
        data = _head(wire.SHM, wire.segment(wire.desc(5), 1, hugetlb_flag=flag))
        yield f"segment of huge pages {flag:#o}", SEGMENTS, data, at, f"hugetlb_flag {flag:#o}"

    at = _SECOND[wire.PAGEMAP]
    entries: list[tuple[str, Fields, str]] = [
        ("no vaddr", {2: 1}, "lacks vaddr"),
        ("not aligned", {1: 0x2001, 2: 1}, "not a multiple of the page size 4096"),
        ("overlap", {1: 0x1000, 2: 1}, "overlap what comes before, which ends at 0x2000"),
        ("no pages", {1: 0x2000, 2: 0}, "nr_pages is 0"),
        ("no pages in field 5", {1: 0x2000, 2: 1, 5: 0}, "nr_pages is 0"),
        ("two counts", {1: 0x2000, 2: 4, 5: 2}, "nr_pages is 2, and compat_nr_pages, which CRIU up to 4.1 reads, is 4"),
        ("too many pages", {1: 0x2000, 2: 1, 5: LONG_MAX // 4096}, "nr_pages is"),
        ("absurdly many pages", {1: 0x2000, 2: 1, 5: U64_MAX}, "nr_pages is"),
        ("vaddr beyond off_t", {1: (1 << 64) - 4096, 2: 1}, "vaddr is"),
        ("neither here nor in a parent", {1: 0x2000, 2: 1, 4: wire.LAZY}, "flags 2"),
        ("no flag at all", {1: 0x2000, 2: 1, 4: 0}, "flags 0"),
        (
            "unknown field",
            {1: 0x2000, 2: 1, 6: 1},
            "fields [6], as CRIU after 4.2 writes for compressed pages (criu dump --compress): ipcimg cannot read them",
        ),
        ("sizes of compressed pages", {1: 0x2000, 2: 1, 6: [9, 9], 7: 8}, "fields [6, 7], as CRIU after 4.2 writes"),
        ("unknown bytes", {1: 0x2000, 2: 1, 6: b"\x09"}, "fields [6], as CRIU after 4.2 writes"),
    ]
    for name, fields, why in entries:
        yield f"pages: {name}", PAGEMAP, _head(wire.PAGEMAP, _raw(fields)), at, why
    yield "pages: no compat_nr_pages", PAGEMAP, _head(wire.PAGEMAP, _raw({1: 0x2000, 5: 1})), at, "lacks"
    yield "pages: no head", PAGEMAP, wire.image(wire.PAGEMAP), 8, "ends where pagemap_head should begin"
    yield "pages: empty head", PAGEMAP, wire.image(wire.PAGEMAP, wire.entry(b"")), 8, "lacks pages_id"


def _bad_messages() -> Iterator[tuple[str, tuple[Read, Write], bytes, int, str]]:
    queue = _raw({1: wire.desc(5), 2: 0, 3: 2}) + wire.one_message(1, b"first")
    at = _SECOND[wire.MSG] + len(queue)
    for name, fields, why in (
        ("type 0", {1: 0, 2: 0}, "message type 0"),
        ("type -1", {1: U64_MAX, 2: 0}, f"message type {U64_MAX}"),
        ("type beyond long", {1: LONG_MAX + 1, 2: 0}, "message type"),
        ("size beyond int", {1: 1, 2: INT_MAX + 1}, f"message of {INT_MAX + 1} bytes"),
        ("size of 32 bits", {1: 1, 2: U32_MAX}, f"message of {U32_MAX} bytes"),
        ("no type", {2: 0}, "lacks mtype"),
        ("no size", {1: 1}, "lacks msize"),
    ):
        yield f"message: {name}", QUEUES, _head(wire.MSG, queue, _raw({**fields})), at, why
    head = _raw({1: 1, 2: INT_MAX})
    yield "message: beyond the file", QUEUES, _head(wire.MSG, queue, head), at + len(head), "the message needs"
    data, at = _head(wire.MSG, queue), _SECOND[wire.MSG]
    yield "message: missing", QUEUES, data, at, "message queue 5: the image ends after 1 of its 2 messages"
    data = _head(wire.MSG, _raw({1: wire.desc(5), 2: 0, 3: U32_MAX}))
    yield "messages: absurdly many", QUEUES, data, at, f"ends after 0 of its {U32_MAX} messages"


def _bad_variables() -> Iterator[tuple[str, tuple[Read, Write], bytes, int, str]]:
    for count in (0, 3, 5):
        changed = wire.variables({1: [1] * count})
        yield f"sem_ctls: {count}", VARIABLES, changed, 8, f"sem_ctls has {count} numbers"
    for number in range(2, 13):
        yield f"variables: without {number}", VARIABLES, wire.variables({number: None}), 8, "ipc_var_entry lacks"
    for number, name in ((15, "msg_next_id"), (16, "sem_next_id"), (17, "shm_next_id")):
        for value in (INT_MAX + 1, U32_MAX):
            yield f"{name} {value}", VARIABLES, wire.variables({number: value}), 8, f"{name} is {value}"
    yield "variables: none", VARIABLES, wire.image(wire.VAR), 8, "ends where ipc_var_entry should begin"
    twice = wire.variables()
    data = twice + twice[8:]
    yield "variables: twice", VARIABLES, data, len(twice), f"{len(twice) - 8} bytes follow the only entry"


def _bad_manifests() -> Iterator[tuple[str, tuple[Read, Write], bytes, int, str]]:
    for version in (0, 2, U32_MAX):
        data = wire.manifest(1, {}, {1: version})
        yield f"manifest: version {version}", MANIFEST, data, 8, f"version is {version}"
    for size in (0, 1, 2048, 4097, 6144, 1 << 21, U32_MAX):
        data = wire.manifest(1, {}, {6: size})
        yield f"manifest: pages of {size}", MANIFEST, data, 8, f"page_size is {size}"
    for number, what in ((2, "tool"), (14, "selection")):
        data = wire.manifest(1, {}, {number: b"\xff\xfe"})
        yield f"manifest: a {what} that is no text", MANIFEST, data, 8, "manifest"
    for digest, why in ((b"sha257", "digest_algorithm is 'sha257'; known are xxh3-128, sha256"), (b"\xff", "manifest")):
        yield f"manifest: digests by {digest!r}", MANIFEST, wire.manifest(1, {}, {16: digest}), 8, why
    data = wire.seal(wire.unsealed(wire.manifest(1, {"pages-1.img": 0})).replace(b"pages-1", b"page\xff-1"))
    yield "manifest: a name that is no text", MANIFEST, data, 8, "manifest"
    unsealed = wire.unsealed(wire.manifest(1, {}))
    end = len(unsealed)
    yield "manifest: not sealed", MANIFEST, unsealed, end, "ends where manifest_seal should begin"
    yield (
        "manifest: more behind the seal",
        MANIFEST,
        wire.seal(unsealed) + b"x",
        len(wire.seal(unsealed)),
        "1 bytes follow",
    )
    yield "manifest: none", MANIFEST, wire.image(wire.MANIFEST), 8, "ends where manifest_entry should begin"
    yield "manifest: empty", MANIFEST, wire.image(wire.MANIFEST, wire.entry(b"")), 8, "manifest_entry lacks"


def _hostile() -> Iterator[tuple[str, tuple[Read, Write], bytes, int, str]]:
    """What would take much memory to decode, or many words to tell."""
    long, many = b"a" * (1 << 20), wire.field(6, 1) * (1 << 14)
    plain: list[tuple[str, tuple[Read, Write], bytes]] = [
        ("variables", VARIABLES, wire.image(wire.VAR)),
        ("queue", QUEUES, _head(wire.MSG)),
        ("message", QUEUES, _head(wire.MSG, _raw({1: wire.desc(5), 2: 0, 3: 1}))),
        ("segment", SEGMENTS, _head(wire.SHM)),
        ("page map", PAGEMAP, wire.image(wire.PAGEMAP)),
        ("pages", PAGEMAP, _head(wire.PAGEMAP)),
        ("seal", MANIFEST, wire.unsealed(wire.manifest(1, {}))),
    ]
    for name, kind, before in plain:
        why = f"claims {MAX_PLAIN + 1} bytes; none has more than {MAX_PLAIN}"
        yield f"{name}: too long", kind, before + wire.entry(bytes(MAX_PLAIN + 1)), len(before), why
    sets = _head(wire.SEM) + wire.u32(MAX_ENTRY + 1)
    yield "semaphore set: too long", SEMAPHORES, sets, _SECOND[wire.SEM], f"none has more than {MAX_ENTRY}"

    entry = wire.unsealed(wire.manifest(1, {}))[12:]
    for unit in (
        b"\x6a\0",
        b"\xea\0\0",
        wire.field(30, b""),
        b"\xf3\1\xf4\1",
        wire.field(13, wire.message({1: b"ab"})),
    ):
        data = wire.seal(wire.image(wire.MANIFEST, wire.entry(entry + unit * (1 << 20))))
        yield f"manifest: many of {unit!r}", MANIFEST, data, 8, "bytes and fields of less than 32 on average"
    few = wire.seal(wire.image(wire.MANIFEST, wire.entry(entry + b"\x6a\0" * 9999)))
    names = ", ".join(["files.name, files.size, files.digest"] * 3)[: -len(", files.digest")]
    yield "manifest: many files without names", MANIFEST, few, 8, f"x.img, byte 8: manifest_entry lacks {names}"
    for number in (2, 4, 5, 14, 17):
        data = wire.manifest(1, {}, {number: long})
        why = f"{'a' * 80!r}… has {1 << 20} characters; no text has more than 4096"
        yield f"manifest: long text {number}", MANIFEST, data, 8, why
    data = wire.manifest(1, {long.decode(): 1})
    yield "manifest: long name", MANIFEST, data, 8, f"has {1 << 20} characters"
    for text in (b"\xff" * (1 << 20), b"\x1b" * (1 << 20)):
        yield f"manifest: tool {text[:1]!r}", MANIFEST, wire.manifest(1, {}, {2: text}), 8, "manifest: "
        data = wire.manifest(1, {}, {16: text})
        yield f"manifest: digests by {text[:1]!r}", MANIFEST, data, 8, "manifest: digest_algorithm is "
    fields = b"".join(wire.field(number, 1) for number in range(6, 9999))
    data = _head(wire.PAGEMAP, wire.entry(wire.message({1: 0x2000, 2: 1}) + fields))
    yield "pages: many unknown fields", PAGEMAP, data, _SECOND[wire.PAGEMAP], "fields [6, 7, 8, 9, 10, 11, 12, 13], as"
    data = _head(wire.PAGEMAP, wire.entry(wire.message({1: 0x2000, 2: 1}) + many))
    yield "pages: an unknown field often", PAGEMAP, data, _SECOND[wire.PAGEMAP], "fields [6], as"


REFUSED = {
    name: case
    for cases in (_bad_objects(), _bad_messages(), _bad_variables(), _bad_manifests(), _hostile())
    for name, *case in cases
}


@pytest.mark.parametrize(("kind", "data", "offset", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(image: OpenImage, kind: tuple[Read, Write], data: bytes, offset: int, why: str) -> None:
    opened = image(data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as raised:
            kind[0](opened)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + (4 << 20)
    finally:
        tracemalloc.stop()
    assert raised.value.path == "x.img"
    assert raised.value.offset == offset
    assert why in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()


def test_long_lists_that_are_meant(image: OpenImage) -> None:
    """Of the objects of a full namespace."""
    count = 1 << 20
    pids = wire.message({1: 1, 2: 2, 3: wire.varint(32768) * count})
    [one] = read_semaphores(image(wire.image(wire.SEM, wire.semaphores(wire.desc(5), [7] * count, pids))))
    assert (one.nsems, one.facts.sempid) == (count, (32768,) * count)
    files = {f"pages-{n}.img": b"" for n in range(80_000)}
    [manifest] = read_manifest(image(wire.manifest(1, files)))
    assert manifest.files.keys() == files.keys()


def test_the_shortest_files_of_a_manifest_are_not_too_short(image: OpenImage) -> None:
    """However many there are: see codec._FIELD."""
    listed = wire.field(13, wire.message({1: b"pages-1.img", 2: 0, 3: b"x" * 16}))
    entry = wire.unsealed(wire.manifest(1, {}))[12:] + listed * ((MAX_ENTRY - 200) // len(listed))
    [manifest] = read_manifest(image(wire.seal(wire.image(wire.MANIFEST, wire.entry(entry)))))
    assert manifest.files == {"pages-1.img": File(0, b"x" * 16)}


def test_a_selection_that_is_too_long_is_cut(image: OpenImage) -> None:
    """Nobody acts on it, and the set must stay readable."""
    selection = "--id msg:1 " * 1000
    file = io.BytesIO()
    codec.encode_manifest(file, dataclasses.replace(CASES["manifest"][2][0], selection=selection))
    assert read_manifest(image(file.getvalue()))[0].selection == selection[:4096]


PAGES_AT_MOST = (LONG_MAX - 0x2000) // wire.PAGE
LINES: dict[str, tuple[tuple[Read, Write], bytes]] = {
    f"byte 26: pages at 0x2000: nr_pages is {U64_MAX}; it can be 1 to {PAGES_AT_MOST}": (
        PAGEMAP,
        _head(wire.PAGEMAP, _raw({1: 0x2000, 2: 1, 5: U64_MAX})),
    ),
    f"byte 26: pages at 0x2000: nr_pages is {PAGES_AT_MOST + 1}; it can be 1 to {PAGES_AT_MOST}": (
        PAGEMAP,
        _head(wire.PAGEMAP, wire.pages(0x2000, PAGES_AT_MOST + 1)),
    ),
    f"byte 26: pages at 0x8000000000000000: vaddr is {LONG_MAX + 1}; it can be 0 to {LONG_MAX - wire.PAGE}": (
        PAGEMAP,
        _head(wire.PAGEMAP, wire.pages(LONG_MAX + 1, 1)),
    ),
    "byte 26: pages at 0x1000: overlap what comes before, which ends at 0x2000": (
        PAGEMAP,
        _head(wire.PAGEMAP, wire.pages(0x1000, 4)),
    ),
    "byte 40: pages at 0x4000: overlap what comes before, which ends at 0x9000": (
        PAGEMAP,
        _head(wire.PAGEMAP, wire.pages(0x8000, 1), wire.pages(0x4000, 1)),
    ),
    f"byte 35: message type 0; it can be 1 to {LONG_MAX}": (
        QUEUES,
        wire.image(wire.MSG, wire.queue(wire.desc(5), [(0, b"")])),
    ),
    f"byte 8: semaphore set 5: nsems is 0; it can be 1 to {(1 << 25) - 1}": (
        SEMAPHORES,
        wire.image(wire.SEM, wire.semaphores(wire.desc(5), [])),
    ),
    "byte 8: message queue 5: mode 0o1600 has bits that no such object has": (
        QUEUES,
        wire.image(wire.MSG, wire.queue(wire.desc(5, mode=0o1600))),
    ),
    "byte 8: semaphore set 5: mode 0o2600 has bits that no such object has": (
        SEMAPHORES,
        wire.image(wire.SEM, wire.semaphores(wire.desc(5, mode=0o2600), [1])),
    ),
    "byte 8: shared memory segment 5: mode 0o4600 has bits that no such object has": (
        SEGMENTS,
        wire.image(wire.SHM, wire.segment(wire.desc(5, mode=0o4600), 1)),
    ),
}


@pytest.mark.parametrize(("line", "case"), LINES.items(), ids=LINES)
def test_whole_lines(image: OpenImage, line: str, case: tuple[tuple[Read, Write], bytes]) -> None:
    with pytest.raises(ImageError) as raised:
        case[0][0](image(case[1]))
    assert str(raised.value) == f"x.img, {line}"


# ---- ids and kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("ns_id", [None, 0, 9, U32_MAX])
def test_ids(image: OpenImage, ns_id: int | None) -> None:
    assert codec.decode_ipc_ns_id(image(wire.ids(ns_id))) == ns_id
    assert codec.decode_ipc_ns_id(image(wire.ids(ns_id)[4:])) == ns_id


@pytest.mark.parametrize(
    "data",
    [b"", wire.image(wire.IDS), wire.image(wire.IDS, wire.entry(b"")), wire.ids(9)[:-1], wire.variables()],
    ids=["empty", "no entry", "empty entry", "cut", "another kind"],
)
def test_ids_refused(image: OpenImage, data: bytes) -> None:
    with pytest.raises(ImageError, match=r"x\.img"):
        codec.decode_ipc_ns_id(image(data))


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (wire.u32(wire.COMMON, wire.VAR), "IPC_VAR"),
        (wire.u32(wire.COMMON, wire.SHM), "IPCNS_SHM"),
        (wire.u32(wire.COMMON, wire.MSG), "IPCNS_MSG"),
        (wire.u32(wire.COMMON, wire.SEM), "IPCNS_SEM"),
        (wire.u32(wire.COMMON, wire.PAGEMAP), "PAGEMAP"),
        (wire.u32(wire.COMMON, wire.IDS), "IDS"),
        (wire.u32(wire.COMMON, wire.MANIFEST), "IPCIMG_MANIFEST"),
        (wire.u32(wire.INVENTORY), "INVENTORY"),
        (wire.u32(wire.VAR), "IPC_VAR"),
    ],
)
def test_kind(image: OpenImage, header: bytes, kind: str) -> None:
    assert codec.kind_of(image(header)) == kind
    assert codec.kind_of_any(image(header)) == kind


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (wire.u32(wire.COMMON, 0x55053847) + b"entries", "CORE"),
        (wire.u32(0x50273030), "PSTREE"),  # of CRIU's first format, without entries
        (wire.u32(0x55105940, 0x57093306), "STATS"),
        (wire.u32(0x55105940, 0x57004059), "IRMAP_CACHE"),
        (b"", None),
        (wire.u32(wire.COMMON), None),
        (wire.u32(wire.COMMON, wire.VAR)[:7], None),
        (wire.u32(wire.VAR)[:3], None),
        (wire.u32(wire.COMMON, wire.COMMON, wire.VAR), None),
        (bytes(4096), None),
        (b"#!/bin/sh\n", None),
    ],
)
def test_kind_of_any(image: OpenImage, data: bytes, kind: str | None) -> None:
    assert codec.kind_of_any(image(data)) == kind
