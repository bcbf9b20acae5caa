"""The sound images that all inputs are made from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ipcimg
from tests import wire

from .protobuf import encode, number_of, parse, sealed

DATA = Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "criu-4.2"
PAGE = wire.PAGE


@dataclass(frozen=True)
class Sparse:
    """A file of that many bytes, which are a hole after data."""

    data: bytes
    size: int


# What stands under a name in a directory: bytes or Sparse for a file, text for anything else, None for nothing.
# Texts: "directory", "directory with commit", "fifo", and "link TARGET".
Node = bytes | Sparse | str | None
Files = Mapping[str, Node]


@dataclass(frozen=True)
class Member:
    """A sound image: its header, and its entries with their lengths and its payloads, each a part."""

    kind: str
    header: bytes
    parts: tuple[bytes, ...]
    entries: tuple[int, ...]  # the places of entries among the parts


class _Page:
    """An extent of one page."""

    length = PAGE

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self._data = bytes([offset >> 12 & 0xFF]) * PAGE

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = self._data[start : start + len(view)]


def kind_of(name: str) -> str:
    """Of the image of this name; "" where it is none whose inside is known."""
    found = re.match(r"ipcns-(var|shm|msg|sem)|(pagemap|ids)-|ipcimg-(manifest)", name)
    return next(filter(None, found.groups())) if found else ""


def taken_apart(kind: str, data: bytes) -> Member:
    at = 8 if data.startswith(wire.u32(wire.COMMON)) else 4
    header, messages = data[:at], 0
    parts: list[bytes] = []
    entries: list[int] = []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        values = {
            number: number_of(content) for number, kind, content in parse(data[at + 4 : at + 4 + length]) if not kind
        }
        entries.append(len(parts))
        parts.append(data[at : at + 4 + length])
        at += 4 + length
        payload = 0
        if kind == "msg":
            payload = -(-values[2] // 8) * 8 if messages else 0
            messages = messages - 1 if messages else values[3]
        elif kind == "sem":
            payload = -(-2 * values[2] // 8) * 8
        elif kind == "shm" and not values.get(3):
            payload = -(-values[2] // 4) * 4
        if payload:
            parts.append(data[at : at + payload])
            at += payload
    return Member(kind, header, tuple(parts), tuple(entries))


def _made_by_hand() -> Iterator[tuple[str, dict[str, Node]]]:
    """What neither writes here: first images, inline segments, huge pages, parents, a machine with large pages."""
    first = {
        "ipcns-var-1.img": wire.variables({13: None, 14: None}),
        "ipcns-msg-1.img": wire.image(
            wire.MSG, wire.queue(wire.desc(3, 77), [(1, b"one"), (2, b""), *[(3, b"three" * 9)] * 10])
        ),
        "ipcns-sem-1.img": wire.image(wire.SEM, wire.semaphores(wire.desc(4), [1, 2, 3, 4, 32767])),
    }
    inline = b"".join(
        wire.entry(wire.message({1: wire.desc(n), 2: size})) + wire.padded(b"#" * size, 4)
        for n, size in ((1, 5), (2, 70))
    )
    old: dict[str, Node] = {name: data[4:] for name, data in first.items()}
    yield "old", {**old, "ipcns-shm-1.img": wire.image(wire.SHM, inline)[4:]}
    yield "inline", {**first, "ipcns-shm-1.img": wire.image(wire.SHM, inline)}
    huge = wire.segment(wire.desc(0, mode=0o3600), 1, 0o4000 | 21 << 26, wire.message(dict.fromkeys(range(1, 7), 1)))
    yield (
        "huge",
        {
            "ipcns-var-1.img": wire.variables({15: 0, 16: 1, 17: (1 << 31) - 1}),
            "ipcns-shm-1.img": wire.image(wire.SHM, huge),
            "pagemap-shmem-0.img": wire.pagemap(1, wire.pages(0, 1), wire.pages(511 * PAGE, 1)),
            "pages-1.img": b"h" * 2 * PAGE,
        },
    )
    segment = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(0), 8 * PAGE)),
    }
    runs = wire.pages(0, 1, wire.PARENT), wire.pages(PAGE, 1), wire.pages(2 * PAGE, 3, wire.PARENT)
    child, whole = wire.pagemap(1, *runs), wire.pagemap(1, wire.pages(0, 8))
    middle = wire.pagemap(1, wire.pages(0, 3), wire.pages(3 * PAGE, 2, wire.PARENT))
    yield "child", {**segment, "pagemap-shmem-0.img": child, "pages-1.img": b"c" * PAGE, "parent": "link ../middle"}
    yield (
        "middle",
        {**segment, "pagemap-shmem-0.img": middle, "pages-1.img": b"m" * 3 * PAGE, "parent": "link ../whole"},
    )
    yield "whole", {**segment, "pagemap-shmem-0.img": whole, "pages-1.img": b"w" * 8 * PAGE}
    large = 16 * PAGE
    files = {
        **first,
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(0, 7), 4 * large)),
        "pagemap-shmem-0.img": wire.pagemap(1, wire.pages(0, 1), wire.pages(2 * large, 1)),
        "pages-1.img": b"l" * 2 * large,
    }
    counts = {8: 1, 9: 12, 10: 1, 11: 1, 12: 2}
    yield "large", {**files, "ipcimg-manifest-1.img": wire.manifest(1, files, {6: large, **counts})}


def _saved(scratch: Path) -> Iterator[tuple[str, dict[str, Node]]]:
    """Sets that ipcimg writes, with the same manifest on every machine and every day."""
    basic = ipcimg.load(DATA / "basic")
    facts = ipcimg.SegmentFacts(1, 2, 3, 4, 5, 6)
    segments = [
        ipcimg.SharedMemory(ipcimg.Permissions(n, 1, 2, 3, 4, 0o640, n), 4 * PAGE - 9, [_Page(n * PAGE)], facts=facts)
        for n in range(2)
    ]
    queues = [
        ipcimg.MessageQueue(
            queue.permissions, queue.qbytes, queue.qnum, queue.messages, ipcimg.QueueFacts(9, 8, 7, 6, 5, 4)
        )
        for queue in list(basic.queues)[:2]
    ]
    sets = [
        ipcimg.SemaphoreSet(one.permissions, one.values, ipcimg.SemaphoreFacts(1, 2, (3,) * one.nsems))
        for one in list(basic.semaphores)[:2]
    ]
    contents = ipcimg.Contents(basic.variables, segments, queues, sets)
    for name, exact, algorithm in (
        ("xxh3", False, "xxh3-128"),
        ("sha256", False, "sha256"),
        ("exact", True, "xxh3-128"),
    ):
        ipcimg.save(contents, scratch / name, criu_exact=exact, digest_algorithm=algorithm)
        files: dict[str, Node] = {path.name: path.read_bytes() for path in sorted((scratch / name).iterdir())}
        shutil.rmtree(scratch / name)
        made = files["ipcimg-manifest-1.img"]
        assert isinstance(made, bytes)  # noqa: S101
        of_today = {2: b"ipcimg", 3: wire.varint(1_700_000_000), 4: b"6.1", 5: b"x86_64", 6: wire.varint(PAGE)}
        of_part = [(14, 2, b"--only msg")] if algorithm == "sha256" else []
        fixed = [(n, kind, of_today.get(n, content)) for n, kind, content in parse(wire.unsealed(made)[12:])]
        files["ipcimg-manifest-1.img"] = sealed(made[:8] + wire.entry(encode(fixed + of_part)))
        yield name, files


class Corpus:
    """Sound sets by name, and the images in them by kind."""

    def __init__(self, scratch: Path) -> None:
        self.sets: dict[str, dict[str, Node]] = {}
        for directory in sorted(DATA.iterdir()):
            self.sets[directory.name] = {path.name: path.read_bytes() for path in sorted(directory.glob("*.img"))}
        self.sets |= _saved(scratch)
        self.sets |= _made_by_hand()
        self.by_kind: dict[str, list[Member]] = {}
        for files in self.sets.values():
            for name, data in files.items():
                if (kind := kind_of(name)) and isinstance(data, bytes):
                    self.by_kind.setdefault(kind, []).append(taken_apart(kind, data))
        self.members = [member for members in self.by_kind.values() for member in members]
        self.with_manifest = [name for name, files in self.sets.items() if any(map(is_manifest, files))]
        self.with_pages = [
            name for name in self.sets if name not in self.with_manifest and "pagemap" in map(kind_of, self.sets[name])
        ]


def is_manifest(name: str) -> bool:
    return name.startswith("ipcimg-manifest-")
