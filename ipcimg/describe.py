"""Numbers in words: keys, modes, sizes, times and bytes as people read them. Knows no image and no kernel."""

from __future__ import annotations

import time

SHM_DEST, SHM_LOCKED = 0o1000, 0o2000  # linux/shm.h
_UNITS = "BKMGTPE"
_AS_ASCII = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))
_LAST = 1 << 40  # seconds since the epoch, in the year 36812; C's calendar ends somewhere beyond


def key(value: int) -> str:
    """A key_t as lsipc(1) prints it."""
    return f"{value:#010x}"


def perms(mode: int) -> str:
    """The nine permission bits, as ls(1) has them."""
    return "".join(letter if mode >> (8 - n) & 1 else "-" for n, letter in enumerate("rwxrwxrwx"))


def size(value: int) -> str:
    """Bytes with a unit, as lsipc(1) prints them: 1.5K, 64M."""
    if value < 1024:
        return f"{value}B"
    exponent = min((value.bit_length() - 1) // 10, len(_UNITS) - 1)
    tenths = (value * 10 + (1 << (10 * exponent - 1))) >> (10 * exponent)
    return f"{tenths // 10}{_UNITS[exponent]}" if tenths % 10 == 0 else f"{tenths / 10:.1f}{_UNITS[exponent]}"


def is_date(seconds: int) -> bool:
    """Does the calendar go so far?"""
    return 0 <= seconds <= _LAST


def moment(seconds: int) -> str:
    """A time in seconds since the epoch as date and time in UTC; @ and the number where that is out of range."""
    if not is_date(seconds):
        return f"@{seconds}"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def segment_status(mode: int, hugetlb_flag: int | None) -> str:
    """What is special about a segment."""
    words = [word for bit, word in ((SHM_DEST, "dest"), (SHM_LOCKED, "locked")) if mode & bit]
    if hugetlb_flag is not None:
        words.append("hugetlb")
    return ",".join(words)


def printable(text: str) -> str:
    """The text on one line, with nothing in it that a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def preview(body: bytes, width: int = 48) -> str:
    """The beginning of a message in printable ASCII; a terminal obeys none of it."""
    text = body[:width].translate(_AS_ASCII).decode("ascii")
    return text + ("…" if len(body) > width else "")
