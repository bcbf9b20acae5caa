"""One image, damaged: its bytes, its numbers, its messages, its parts."""

from __future__ import annotations

import contextlib
import random

from ipcimg.image import MAX_ENTRY, MAX_PLAIN
from tests import wire

from .corpus import PAGE, Corpus, Member
from .protobuf import RAW, encode, number_of, parse, sealed

EDGES = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 127, 128, 255, 256, 511, 512, 1023, 1024, PAGE - 1, PAGE, PAGE + 1, 32767, 32768),
    *(65535, MAX_PLAIN, MAX_PLAIN + 1, MAX_ENTRY - 1, MAX_ENTRY, MAX_ENTRY + 1, (1 << 25) - 1, 1 << 25),
    *((1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 63) - PAGE, (1 << 63) - 1, 1 << 63),
    *((1 << 63) + 1, (1 << 64) - PAGE, (1 << 64) - 1),
)


def _edge(rng: random.Random, old: int = 0) -> int:
    how = rng.random()
    if how < 0.6:
        return rng.choice(EDGES)
    if how < 0.85:
        return (old + rng.choice((-2, -1, 1, 2, PAGE, -PAGE))) % (1 << 64)
    return rng.getrandbits(rng.randint(1, 64))


def damage_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """data after one change that knows nothing of its structure; other is what may be spliced in."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, rng.randint(1, 64))))
    how = rng.randrange(9)
    if how == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if how == 1 and at < len(data):
        return data[:at] + rng.randbytes(1) + data[at + 1 :]
    if how == 2:
        return data[:at] + rng.choice((rng.randbytes(end - at), bytes(end - at), b"\xff" * (end - at))) + data[at:]
    if how == 3:
        return data[:at] + data[end:]
    if how == 4:
        return data[:at]
    if how == 5:
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    if how == 6:
        return data[:at] + wire.u32(_edge(rng) & 0xFFFFFFFF) + data[at + 4 :]
    if how == 7:
        return data[:at] + wire.varint(_edge(rng)) + data[end:]
    return data[:at] + data[at:end] * rng.randint(2, 9) + data[end:]


def damage_message(rng: random.Random, data: bytes, other: bytes, depth: int = 0) -> bytes:
    """A protobuf message after one change of a field of it."""
    try:
        fields = parse(data)
    except (ValueError, IndexError):
        return damage_bytes(rng, data, other)
    at = rng.randrange(len(fields)) if fields else 0
    number, kind, content = fields[at] if fields else (1, 0, b"\0")
    how = rng.random()
    if how < 0.5:
        if kind == 0:
            value = wire.varint(_edge(rng, number_of(content)))
            content = value if rng.random() < 0.95 else value[:-1] + bytes([value[-1] | 0x80]) + b"\x80" * 9 + b"\0"
        elif kind == 2 and depth < 3 and number in (1, 13, 1000) and rng.random() < 0.9:
            content = damage_message(rng, content, other, depth + 1)
        else:
            content = rng.choice((b"", damage_bytes(rng, content, other), content * 2, rng.randbytes(16)))
        fields[at : at + 1] = [(number, kind, content)]
    elif how < 0.58:
        del fields[at : at + 1]
    elif how < 0.66:
        fields.insert(rng.randint(0, len(fields)), (number, kind, content))
    elif how < 0.70:
        rng.shuffle(fields)
    elif how < 0.76:
        fields[at : at + 1] = [
            (rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 9, 13, 15, 16, 999, 1000, (1 << 29) - 1)), kind, content)
        ]
    elif how < 0.82:
        fields[at : at + 1] = [(number, rng.choice((0, 1, 2, 3, 4, 5, 6, 7)), content)]
    elif how < 0.90:
        unknown = rng.choice((6, 30, 999, 1000, 1001, 1999, 18999, (1 << 29) - 1, rng.randint(1, 20)))
        group = wire.varint(unknown << 3 | 3) + content + wire.varint(unknown << 3 | 4)
        more = rng.choice(((unknown, 0, wire.varint(_edge(rng))), (unknown, 2, rng.randbytes(5)), (0, RAW, group)))
        fields.insert(rng.randint(0, len(fields)), more)
    elif how < 0.96:
        with contextlib.suppress(ValueError, IndexError):
            spliced = parse(other)
            fields.insert(rng.randint(0, len(fields)), rng.choice(spliced or fields))
    else:
        lie = wire.varint(number << 3 | 2) + wire.varint(_edge(rng, len(content))) + content
        fields[at : at + 1] = [(0, RAW, lie)]
    return encode(fields)


def damage_parts(rng: random.Random, parts: list[bytes], other: list[bytes]) -> None:
    """Leave out, repeat, move or exchange a few parts, give one a twin that differs, or make one's length a lie."""
    at, how = rng.randrange(len(parts) + 1), rng.randrange(6)
    some = parts[at : at + rng.choice((1, 1, 2, 3, 4))]
    if how == 0:
        del parts[at : at + len(some)]
    elif how == 1:
        parts[at:at] = some * rng.choice((1, 1, 2, 9))
    elif how == 2:
        del parts[at : at + len(some)]
        to = rng.randint(0, len(parts))
        parts[to:to] = some
    elif how == 3:
        parts[at : at + rng.randint(0, len(some))] = other[rng.randrange(len(other)) :][:4] if other else []
    elif how == 4 and some:
        parts[at:at] = [wire.entry(damage_message(rng, some[0][4:], some[0][4:])), *some[1:]]
    elif some:
        parts[at] = wire.u32(_edge(rng, len(some[0]) - 4) & 0xFFFFFFFF) + some[0][4:]


def damaged(rng: random.Random, corpus: Corpus, member: Member) -> bytes:
    """An image made of a sound one."""
    header, parts = member.header, list(member.parts)
    related = rng.choice(corpus.by_kind[member.kind] if rng.random() < 0.7 else corpus.members)
    if rng.random() < 0.03:
        header = rng.choice(
            (header[4:], header[:4] + related.header[-4:], wire.u32(wire.COMMON) + header, related.header)
        )
    for _ in range(min(rng.choice((1, 1, 1, 2, 2, 3, 4, 6)), 6)):
        entries = [n for n in member.entries if n < len(parts)]
        how = rng.random()
        if how < 0.6 and entries:
            n = rng.choice(entries)
            other = related.parts[rng.choice(related.entries)][4:] if related.entries else b""
            parts[n] = wire.entry(damage_message(rng, parts[n][4:], other))
        elif how < 0.75:
            damage_parts(rng, parts, list(related.parts))
        elif how < 0.85 and parts:
            n = rng.randrange(len(parts))
            parts[n] = damage_bytes(rng, parts[n], rng.choice(related.parts or (b"",)))
        elif how >= 0.85:
            whole = damage_bytes(rng, b"".join(parts), b"".join(related.parts))
            return _resealed(rng, member.kind, header + whole)
    return _resealed(rng, member.kind, header + b"".join(parts))


def _resealed(rng: random.Random, kind: str, data: bytes) -> bytes:
    """A manifest gets its own digest again, mostly: behind a wrong one nobody looks."""
    if kind != "manifest" or rng.random() < 0.15 or len(data) < 12:
        return data
    return sealed(wire.unsealed(data))
