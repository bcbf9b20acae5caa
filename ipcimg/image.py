"""The framing of an image, and nothing of what is in it.

    image   = [common magic] magic { entry | payload }
    entry   = length:u32 bytes[length]                  a protobuf message
    payload = bytes[size] zero[-size mod alignment]     its size is told by the entry before it

Integers are little-endian. Images of CRIU's first format (v1) have no common magic. A reader trusts
no length: nothing is allocated before the file is seen to be long enough.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Mapping
from typing import BinaryIO, Protocol

from . import digest
from .errors import ImageError, IpcimgError, explain
from .interrupts import held
from .progress import NOBODY, Progress

COMMON_MAGIC = 0x54564319  # of every v1.1 image of an object; inventory.img has none
SERVICE_MAGIC = 0x55105940  # what stands in its place in an image about the dump itself: stats, irmap-cache
# Bytes of an entry. What is decoded takes more memory than it has bytes, so only what has to be large may be.
MAX_ENTRY = 16 << 20  # that holds a list; the largest we write is a set of 3 million semaphores with their pids
MAX_PLAIN = 64 << 10  # of all others; none has 200 bytes

_U32 = struct.Struct("<I")
_BLOCK = 1 << 20  # bytes digested at a time


class Bytes(Protocol):
    """Bytes that can be read at any place."""

    def read_some(self, view: memoryview, offset: int, /) -> int:
        """See ImageFile."""


class ImageFile:
    """An image opened for reading, from which any number of readers read at their own places."""

    fd = -1  # where it is no file of its own

    def __init__(self, fd: int, path: str) -> None:
        """Takes over fd. Raises ImageError where it is not a regular file."""
        self.fd, self.path = fd, path
        status = os.fstat(fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            self.fd = -1
            raise ImageError(path, None, "not a regular file")

    def __del__(self) -> None:
        # Readers of an image are handed out freely; the last one to go closes the file.
        with held():
            if self.fd >= 0:
                os.close(self.fd)

    @property
    def is_here(self) -> bool:
        """Is it a file of this machine, or a part of one, so that nobody waits for a network?"""
        return True

    def reader(self, offset: int = 0) -> Reader:
        """A reader that begins offset bytes into the file."""
        return Reader(self, offset)

    def file(self, offset: int = 0) -> io.BufferedReader:
        """The image as one of Python's files, at offset, with a position of its own. Reading raises ImageError."""
        return io.BufferedReader(_At(self, offset), Reader.BUFFER)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill view from offset on. Raises ImageError where the file ends before, or cannot be read."""
        done = 0
        while done < len(view):
            n = self.read_some(view[done:], offset + done)
            if n == 0:
                raise ImageError(self.path, offset + done, f"ends {len(view) - done} bytes too early")
            done += n

    def digest(self, algorithm: str, end: int | None = None, progress: Progress = NOBODY) -> bytes:
        """The digest of the first end bytes, or of all. Raises ImageError where the file is shorter by now."""
        found, end = digest.ALGORITHMS[algorithm](), self.size if end is None else end
        block = memoryview(bytearray(min(_BLOCK, end)))
        for start in range(0, end, _BLOCK):
            view = block[: min(_BLOCK, end - start)]
            self.read_into(view, start)
            found.update(view)
            progress.done(len(view))
        return found.digest()

    def read_some(self, view: memoryview, offset: int) -> int:
        """Read from offset on what comes at once, and give its length: 0 at the end. Raises ImageError."""
        try:
            return os.preadv(self.fd, [view], offset)
        except OSError as error:
            raise ImageError(self.path, offset, explain(error)) from error


class ImagePart(ImageFile):
    """An image that is a part of something else, such as a member of an archive."""

    def __init__(self, whole: Bytes, start: int, size: int, path: str) -> None:
        """size bytes of the whole from start on."""
        self._whole, self._start, self.size, self.path = whole, start, size, path

    @property
    def is_here(self) -> bool:
        """See ImageFile."""
        return isinstance(self._whole, ImageFile) and self._whole.is_here

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        return self._whole.read_some(view[: max(self.size - offset, 0)], self._start + offset)


class _At(io.RawIOBase):
    """The file from an offset on, with a position of its own."""

    def __init__(self, image: ImageFile, offset: int) -> None:
        self._image, self._offset = image, offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._image.size}[whence]
        self._offset = base + offset
        return self._offset

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        n = self._image.read_some(memoryview(buffer), self._offset)
        self._offset += n
        return n


class Reader:
    """Reads an image from front to back. offset is where the next thing begins."""

    BUFFER = 64 << 10

    def __init__(self, image: ImageFile, offset: int) -> None:
        self.image, self.offset = image, offset
        self._file = image.file(offset)

    def magic(self, kinds: Mapping[int, str]) -> str:
        """Read the header and give the kind it stands for. Raises ImageError for one not in kinds."""
        at = self.offset
        if self.image.size == 0:
            raise ImageError(self.image.path, None, "is empty")
        (magic,) = _U32.unpack(self._exactly(4, "the magic"))
        if magic == COMMON_MAGIC:
            at = self.offset
            (magic,) = _U32.unpack(self._exactly(4, "the magic of its kind"))
        if magic not in kinds:
            raise ImageError(self.image.path, at, f"unknown magic {magic:#010x}; {_among(kinds)}")
        return kinds[magic]

    def entry(self, what: str, most: int = MAX_PLAIN) -> bytes | None:
        """The bytes of the next entry, at most so many, or None at the end of the image. Raises ImageError."""
        if self.offset == self.image.size:
            return None
        start = self.offset
        (length,) = _U32.unpack(self._exactly(4, f"the length of {what}"))
        if length > most:
            raise ImageError(self.image.path, start, f"{what} claims {length} bytes; none has more than {most}")
        return self._exactly(length, what)

    def expect_end(self) -> None:
        """Raise ImageError where there is more in the image."""
        if self.offset != self.image.size:
            more = self.image.size - self.offset
            raise ImageError(self.image.path, self.offset, f"{more} bytes follow the only entry")

    def payload(self, size: int, alignment: int, what: str) -> bytes:
        """size bytes, and the zeros that pad them to a multiple of alignment."""
        self._room(size + -size % alignment, what)
        data = self._exactly(size, what)
        self._exactly(-size % alignment, f"the padding of {what}")
        return data

    def skip(self, size: int, alignment: int, what: str) -> None:
        """Pass over a payload, as payload() does, without reading it."""
        padded = size + -size % alignment
        self._room(padded, what)
        self.move_to(self.offset + padded)

    def move_to(self, offset: int) -> None:
        """Go on at another offset."""
        self.offset = offset
        self._file.seek(offset)

    def _room(self, size: int, what: str) -> None:
        left = self.image.size - self.offset
        if size > left:
            raise ImageError(self.image.path, self.offset, f"{what} needs {size} bytes, the file has {left} more")

    def _exactly(self, size: int, what: str) -> bytes:
        self._room(size, what)
        data = self._file.read(size)
        if len(data) != size:  # it was cut while it was being read
            raise ImageError(self.image.path, self.offset + len(data), f"ends within {what}")
        self.offset += size
        return data


class Block:
    """A part of an image in memory, from an offset on; see model.Block."""

    SIZE = 256 << 10

    def __init__(self, image: ImageFile, offset: int) -> None:
        self.data = bytearray(min(self.SIZE, max(image.size - offset, 0)))
        self.at = self.end = 0
        self._image, self._behind = image, offset  # the offset of what comes behind end

    @property
    def offset(self) -> int:
        """Of what is at `at`, in the image."""
        return self._behind - self.end + self.at

    @property
    def left(self) -> int:
        """Bytes of the image from `at` on."""
        return self._image.size - self.offset

    @property
    def is_full(self) -> bool:
        """See model.Block."""
        return self._fills or (self.end > 0 and self.left == self.end - self.at)

    @property
    def _fills(self) -> bool:
        return self.at == 0 and self.end == len(self.data)

    def move_to(self, offset: int) -> None:
        """Stand at another offset of the image, ahead."""
        at = self.at + offset - self.offset
        if at <= self.end:
            self.at = at
        else:
            self.at, self.end, self._behind = 0, 0, offset

    def more(self) -> None:
        """See model.Block."""
        rest = self.data[self.at : self.end]
        if self._fills:
            self.data += bytes(max(len(rest), 1))
        self.data[: len(rest)] = rest
        self.at, self.end = 0, len(rest)
        n = self._image.read_some(memoryview(self.data)[self.end :], self._behind)
        if n == 0:
            raise ImageError(self._image.path, self._behind, "ends too early")
        self.end += n
        self._behind += n


def _among(kinds: Mapping[int, str]) -> str:
    names = sorted(set(kinds.values()))
    return f"this should be {names[0]}" if len(names) == 1 else f"known are {', '.join(names)}"


class Writer:
    """Writes an image from front to back."""

    def __init__(self, file: BinaryIO, magic: int, first: int | None = COMMON_MAGIC) -> None:
        """magic is that of its kind, first what stands before it."""
        self._write = file.write
        self._write((b"" if first is None else _U32.pack(first)) + _U32.pack(magic))

    def entry(self, data: bytes) -> None:
        """Append an entry of at most MAX_ENTRY bytes."""
        if len(data) > MAX_ENTRY:
            raise IpcimgError(f"an entry of {len(data)} bytes would be too long: readers take {MAX_ENTRY} at most")
        self._write(_U32.pack(len(data)) + data)

    def framed(self, data: bytes | bytearray | memoryview) -> None:
        """Append entries and payloads as they are."""
        self._write(data)

    def payload(self, data: bytes | memoryview, alignment: int) -> None:
        """Append a payload and its padding."""
        self._write(data)
        self._write(bytes(-len(data) % alignment))
