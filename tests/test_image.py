"""Framing: magics, entries, payloads, and lengths that no file can keep."""

from __future__ import annotations

import errno
import os
import pathlib
import tracemalloc
from collections.abc import Callable

import pytest

from ipcimg.errors import ImageError, IpcimgError
from ipcimg.image import MAX_ENTRY, MAX_PLAIN, ImageFile, ImagePart, Reader, Writer
from tests import wire

KINDS = {wire.MSG: "IPCNS_MSG", wire.SEM: "IPCNS_SEM"}
Open = Callable[[bytes], Reader]


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Open:
    """Open bytes as the image x.img."""

    def open_bytes(data: bytes) -> Reader:
        path = tmp_path / "x.img"
        path.write_bytes(data)
        return ImageFile(os.open(path, os.O_RDONLY), "x.img").reader()

    return open_bytes


# ---- the magic -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "kind", "offset"),
    [
        (wire.u32(wire.COMMON, wire.MSG), "IPCNS_MSG", 8),
        (wire.u32(wire.COMMON, wire.SEM), "IPCNS_SEM", 8),
        (wire.u32(wire.MSG), "IPCNS_MSG", 4),  # v1: no common magic
    ],
)
def test_magic(opened: Open, header: bytes, kind: str, offset: int) -> None:
    reader = opened(header)
    assert reader.magic(KINDS) == kind
    assert reader.offset == offset
    assert reader.entry("anything") is None


@pytest.mark.parametrize(
    ("header", "offset", "why"),
    [
        (b"", None, "is empty"),
        (wire.u32(wire.MSG)[:3], 0, "the magic"),
        (wire.u32(wire.COMMON), 4, "the magic of its kind"),
        (wire.u32(wire.COMMON, wire.MSG)[:7], 4, "the magic of its kind"),
        (wire.u32(wire.VAR), 0, f"unknown magic {wire.VAR:#010x}"),
        (wire.u32(wire.COMMON, wire.VAR), 4, f"unknown magic {wire.VAR:#010x}"),
        (wire.u32(wire.COMMON, wire.COMMON), 4, "unknown magic"),
        (wire.u32(wire.MSG)[::-1], 0, "unknown magic"),  # big-endian
    ],
)
def test_no_such_magic(opened: Open, header: bytes, offset: int | None, why: str) -> None:
    with pytest.raises(ImageError, match=r"x\.img") as raised:
        opened(header).magic(KINDS)
    assert raised.value.offset == offset
    assert why in str(raised.value)


# ---- entries -------------------------------------------------------------------------------

# Bytes of the entry → the image that holds them.
ENTRIES = {
    b"": "00000000",
    b"a": "01000000 61",
    b"abcde": "05000000 6162636465",
    bytes(256): "00010000" + "00" * 256,
}


@pytest.mark.parametrize(("data", "image"), ENTRIES.items())
def test_entry_is_read(opened: Open, data: bytes, image: str) -> None:
    reader = opened(bytes.fromhex(image))
    assert reader.entry("it") == data
    assert reader.offset == 4 + len(data)
    assert reader.entry("another") is None


@pytest.mark.parametrize(("data", "image"), ENTRIES.items())
def test_entry_is_written(tmp_path: pathlib.Path, data: bytes, image: str) -> None:
    with open(tmp_path / "x.img", "wb") as file:
        Writer(file, wire.MSG).entry(data)
    assert (tmp_path / "x.img").read_bytes() == wire.u32(wire.COMMON, wire.MSG) + bytes.fromhex(image)


@pytest.mark.parametrize("length", [1, 5, 4096, MAX_ENTRY, MAX_ENTRY + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_entry_longer_than_the_file(opened: Open, length: int) -> None:
    reader = opened(wire.u32(length))
    with pytest.raises(ImageError) as raised:
        reader.entry("ipc_msg", MAX_ENTRY)
    assert raised.value.path == "x.img"
    assert raised.value.offset == (4 if length <= MAX_ENTRY else 0)
    assert "ipc_msg" in raised.value.why
    assert str(length) in raised.value.why


@pytest.mark.parametrize("most", [MAX_PLAIN, MAX_ENTRY])
def test_entry_of_the_greatest_length(opened: Open, most: int) -> None:
    assert opened(wire.entry(bytes(most))).entry("it", most) == bytes(most)
    with pytest.raises(ImageError, match=f"byte 0: it claims {most + 1} bytes; none has more than {most}$"):
        opened(wire.entry(bytes(most + 1))).entry("it", most)


def test_an_entry_is_short_unless_it_is_told(opened: Open, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ImageError, match=f"none has more than {MAX_PLAIN}$"):
        opened(wire.entry(bytes(MAX_PLAIN + 1))).entry("it")
    with open(tmp_path / "y.img", "wb") as file:
        writer = Writer(file, wire.MSG)
        with pytest.raises(IpcimgError, match=str(MAX_ENTRY)):
            writer.entry(bytes(MAX_ENTRY + 1))


# ---- payloads ------------------------------------------------------------------------------

PAYLOADS = [(0, 8, 0), (1, 8, 8), (7, 8, 8), (8, 8, 8), (9, 8, 16), (1, 4, 4), (4, 4, 4), (6, 4, 8)]


@pytest.mark.parametrize(("size", "alignment", "padded"), PAYLOADS)
def test_payload_is_read(opened: Open, size: int, alignment: int, padded: int) -> None:
    data = bytes(range(1, 1 + size))
    image = data.ljust(padded, b"\0") + b"next"
    reader = opened(image)
    assert reader.payload(size, alignment, "it") == data
    assert reader.offset == padded
    assert reader.payload(4, 4, "what follows") == b"next"
    skipping = opened(image)
    skipping.skip(size, alignment, "it")
    assert skipping.offset == padded
    assert skipping.payload(4, 4, "what follows") == b"next"


@pytest.mark.parametrize(("size", "alignment", "padded"), PAYLOADS)
def test_payload_is_written(tmp_path: pathlib.Path, size: int, alignment: int, padded: int) -> None:
    data = bytes(range(1, 1 + size))
    with open(tmp_path / "x.img", "wb") as file:
        Writer(file, wire.MSG).payload(data, alignment)
    assert (tmp_path / "x.img").read_bytes()[8:] == data.ljust(padded, b"\0")


@pytest.mark.parametrize("cut", range(8))
def test_payload_cut_short(opened: Open, cut: int) -> None:
    image = b"12345\0\0\0"[:cut]
    for read in (Reader.payload, Reader.skip):
        with pytest.raises(ImageError, match=r"x\.img, byte 0: the message needs 8 bytes, the file has"):
            read(opened(image), 5, 8, "the message")


def test_two_readers_of_an_image_do_not_disturb_each_other(opened: Open) -> None:
    one = opened(wire.entry(b"a") + wire.entry(b"b"))
    assert one.entry("it") == b"a"
    other = one.image.reader(one.offset)
    assert other.entry("it") == b"b"
    assert one.entry("it") == b"b"


# ---- files that are not what they say -------------------------------------------------------


@pytest.mark.parametrize("length", [0xFFFFFFFF, MAX_ENTRY + 1])
def test_a_sparse_file_makes_nobody_allocate_what_it_claims(tmp_path: pathlib.Path, length: int) -> None:
    """A file may well be as long as it says, and hold nothing: 1 TiB of hole costs its sender nothing."""
    path = tmp_path / "x.img"
    path.write_bytes(wire.u32(length))
    os.truncate(path, 1 << 40)
    reader = ImageFile(os.open(path, os.O_RDONLY), "x.img").reader()
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="byte 0"):
            reader.entry("it")
        reader.skip((1 << 40) - 4, 4, "a payload")
        assert reader.offset == 1 << 40
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.img"
    path.write_bytes(wire.entry(bytes(100)))
    image = ImageFile(os.open(path, os.O_RDONLY), "x.img")
    os.truncate(path, 50)
    with pytest.raises(ImageError, match=r"x\.img, byte 50: ends within it"):
        image.reader().entry("it")
    with pytest.raises(ImageError, match=r"x\.img, byte 50: ends 50 bytes too early"):
        image.read_into(memoryview(bytearray(100)), 0)


def test_a_file_that_cannot_be_read(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    image = opened(b"four").image

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(ImageError, match=r"x\.img, byte 0: Input/output error$"):
        image.reader().magic({})
    with pytest.raises(ImageError, match=r"x\.img, byte 1: Input/output error$"):
        image.read_into(memoryview(bytearray(2)), 1)


@pytest.mark.parametrize("size", [0, 1, 12, 13])
def test_a_part_of_an_image(size: int, opened: Open) -> None:
    """What is before it and behind it is not of it."""
    data = wire.entry(b"12345678")
    part = ImagePart(opened(b"before" + data + b"behind").image, 6, size, "part.img")
    room = bytearray(100)
    assert part.read_some(memoryview(room), 0) == size
    assert part.read_some(memoryview(room), size + 1) == 0
    assert part.file().read() == (data + b"b")[:size]
    with pytest.raises(ImageError, match=rf"^part\.img, byte {size}: ends 1 bytes too early$"):
        part.read_into(memoryview(bytearray(size + 1)), 0)
    if size == 12:
        reader = part.reader()
        assert reader.entry("it") == b"12345678"
        assert reader.entry("it") is None


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_what_is_no_regular_file(tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    path = tmp_path / "x.img"
    make(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ImageError, match=r"x\.img: not a regular file"):
        ImageFile(fd, "x.img")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)  # it was closed: what is refused must not leak
