"""Protobuf, as far as damage needs it: messages as lists of fields, and the seals of manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import xxhash

from tests import wire

Field = tuple[int, int, bytes]  # number, wire type, content; wire type RAW: the content alone is the field
RAW = -1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    end = at
    while data[end] & 0x80:
        end += 1
    return number_of(data[at : end + 1]), end + 1


def number_of(varint: bytes) -> int:
    return sum((byte & 0x7F) << 7 * n for n, byte in enumerate(varint))


def parse(data: bytes) -> list[Field]:
    """The fields of a message. Raises ValueError or IndexError where it is none."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            end = _varint(data, at)[1]
        elif kind == 2:
            length, at = _varint(data, at)
            end = at + length
        else:
            end = at + {1: 8, 5: 4}.get(kind, len(data) + 1)
        if end > len(data):
            raise ValueError("cut")
        fields.append((tag >> 3, kind, data[at:end]))
        at = end
    return fields


def encode(fields: list[Field]) -> bytes:
    """The message of these fields."""
    out = b""
    for number, kind, content in fields:
        tag = b"" if kind == RAW else wire.varint(number << 3 | kind)
        out += tag + (wire.varint(len(content)) if kind == 2 else b"") + content
    return out


ALGORITHMS: dict[bytes, Callable[[bytes], bytes]] = {
    b"sha256": lambda data: hashlib.sha256(data).digest(),
    b"xxh3-128": lambda data: xxhash.xxh3_128(data).digest(),
}


def algorithm(entry: bytes) -> Callable[[bytes], bytes]:
    try:
        name = [content for number, _, content in parse(entry) if number == 16][-1]
    except (ValueError, IndexError):
        name = b""
    return ALGORITHMS.get(name, ALGORITHMS[b"sha256"])


def sealed(unsealed: bytes) -> bytes:
    """The image of a manifest without its last entry, and that entry."""
    return unsealed + wire.entry(wire.message({1: algorithm(unsealed[12:])(unsealed)}))
