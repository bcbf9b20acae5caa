"""Images made by hand: struct, varints and zero padding, and nothing of ipcimg.

The second opinion on the format. It is written from CRIU's image documentation, and test_criu_images.py holds it
against images that CRIU itself wrote.
"""

from __future__ import annotations

import hashlib
import pathlib
import struct
from collections.abc import Iterable, Mapping

COMMON = 0x54564319
VAR, SHM, MSG, SEM = 0x53115007, 0x46283044, 0x55453737, 0x59573019
PAGEMAP, IDS, INVENTORY, MANIFEST = 0x56084025, 0x54432030, 0x58313116, 0x49504D31

PARENT, LAZY, PRESENT = 1, 2, 4  # pagemap_entry.flags
PAGE = 4096

# What the machine that made the fixtures had set.
VARIABLES: dict[int, int | list[int]] = {
    1: [32000, 1024000000, 500, 32000],
    2: 8192,
    3: 16384,
    4: 32000,
    5: 0,
    6: 18446744073692774399,
    7: 18446744073692774399,
    8: 4096,
    9: 0,
    10: 256,
    11: 10,
    12: 8192,
    13: 10,
    14: 8192,
}


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits of two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message: a varint, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(fields: Mapping[int, int | bytes | list[int] | None]) -> bytes:
    """A protobuf message: its fields in the order given, repeated ones unpacked, None left out."""
    out = b""
    for number, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                out += field(number, one)
    return out


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def entry(data: bytes) -> bytes:
    return u32(len(data)) + data


def padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def image(magic: int, *parts: bytes) -> bytes:
    """A v1.1 image of entries and payloads."""
    return u32(COMMON, magic) + b"".join(parts)


def desc(
    id: int = 0,  # noqa: A002  (the field's name)
    key: int = 0,
    uid: int = 0,
    gid: int = 0,
    cuid: int | None = None,
    cgid: int | None = None,
    mode: int = 0o600,
) -> bytes:
    """An ipc_desc_entry; the creator is the owner unless told otherwise."""
    cuid, cgid = uid if cuid is None else cuid, gid if cgid is None else cgid
    return message({1: key, 2: uid, 3: gid, 4: cuid, 5: cgid, 6: mode, 7: id})


def variables(changes: Mapping[int, int | list[int] | None] | None = None) -> bytes:
    """ipcns-var-N.img of the machine that made the fixtures, with some fields changed or left out."""
    return image(VAR, entry(message({**VARIABLES, **(changes or {})})))


def one_message(type: int, body: bytes) -> bytes:  # noqa: A002
    return entry(message({1: type, 2: len(body)})) + padded(body, 8)


def queue(
    described: bytes, messages: Iterable[tuple[int, bytes]] = (), qbytes: int = 16384, facts: bytes | None = None
) -> bytes:
    messages = list(messages)
    head = message({1: described, 2: qbytes, 3: len(messages), 1000: facts})
    return entry(head) + b"".join(one_message(*one) for one in messages)


def semaphores(described: bytes, values: list[int], facts: bytes | None = None) -> bytes:
    head = message({1: described, 2: len(values), 1000: facts})
    return entry(head) + padded(struct.pack(f"<{len(values)}H", *values), 8)


def segment(described: bytes, size: int, hugetlb_flag: int | None = None, facts: bytes | None = None) -> bytes:
    """An ipc_shm_entry whose pages are in files of their own."""
    return entry(message({1: described, 2: size, 3: 1, 4: hugetlb_flag, 1000: facts}))


def pagemap(pages_id: int, *entries: bytes) -> bytes:
    return image(PAGEMAP, entry(message({1: pages_id})), *entries)


def pages(offset: int, count: int, flags: int = PRESENT) -> bytes:
    """A pagemap_entry as CRIU 4.2 writes it."""
    return entry(message({1: offset, 2: 0, 4: flags, 5: count}))


def ids(ipc_ns_id: int | None) -> bytes:
    return image(IDS, entry(message({1: 2, 2: 2, 3: 2, 4: 2, 5: 1, 6: 2, 7: ipc_ns_id, 8: 4})))


def manifest(ns_id: int, files: Mapping[str, bytes | int], changes: Mapping[int, int | bytes] | None = None) -> bytes:
    """ipcimg-manifest-N.img of a set that holds no objects, with some fields changed.

    files gives each file's content, whose SHA-256 is its digest, or only a size, to go with no digest.
    """
    fields: dict[int, int | bytes] = {1: 1, 2: b"by hand", 3: 0, 4: b"6.1", 5: b"x86_64", 6: PAGE, 7: ns_id}
    fields |= dict.fromkeys(range(8, 13), 0)
    listed = b"".join(
        field(13, message({1: name.encode(), 2: size, 3: digest}))
        for name, size, digest in (
            (name, data, b"") if isinstance(data, int) else (name, len(data), hashlib.sha256(data).digest())
            for name, data in files.items()
        )
    )
    changed = {**fields, **(changes or {})}
    last = {16: b"sha256"} | {number: changed.pop(number) for number in sorted(changed) if number > 13}
    return seal(image(MANIFEST, entry(message(changed) + listed + message(dict(sorted(last.items()))))))


def unsealed(manifest: bytes) -> bytes:
    """The image of a manifest without its last entry."""
    (length,) = struct.unpack_from("<I", manifest, 8)
    return manifest[: 12 + length]


def seal(data: bytes) -> bytes:
    """The image of a manifest without its last entry, and that entry."""
    return data + entry(message({1: hashlib.sha256(data).digest()}))


def write(directory: pathlib.Path, files: Mapping[str, bytes]) -> pathlib.Path:
    """Put the files into the directory, which is made if it is missing."""
    directory.mkdir(exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory
