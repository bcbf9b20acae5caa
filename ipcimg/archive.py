"""Checkpoint archives, as podman, CRI-O and containerd write them: tar, tar.gz and tar.zst, read where they are.

An archive is scanned once, and where the images in it lie is noted; then each is read as a part of the whole. Nothing
is unpacked to the disk, and memory does not grow with the archive. What is compressed can only be read forward, so who
goes back begins anew, and readers of a set go back all the time: for them there are blocks in memory, several places at
which reading can go on, and the small images altogether.

What an archive says is trusted as little as what an image says. Where two programs could see different things in it, as
with two members of one name, it is refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import sys
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from .describe import printable
from .errors import DirectoryError, ImageError, quoted
from .image import Bytes, ImageFile, ImagePart
from .images import COMMIT, Images, is_set_name, number_of_temporary

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # of a zstd frame without data, behind a byte 0x50 to 0x5f: pzstd begins with one
_USTAR, _USTAR_AT = b"ustar", 257  # pax and GNU tar; what is older than both has no magic

_LONGEST_HEADER = 64 << 10  # bytes of all headers of one member, which tarfile takes into memory
_LONGEST_NUMBER = re.compile(rb"[0-9]{256}")  # not even in a name; tarfile takes quadratic time for it
_FARTHEST = 1 << 62  # bytes; there is no larger file
_GLOBAL = 64  # records in force for all members
_NOTED, _NOTED_OF_EACH = 64 << 20, 300  # bytes of memory, about, for what is noted of the images; and beside the names
_SMALL, _SMALL_IN_ALL = 16 << 10, 8 << 20  # bytes of images that are kept, of one and of all

# What tarfile raises for headers that make no sense, beside its own exceptions.
_SENSELESS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)


def is_archive(image: ImageFile) -> bool:
    """Does it begin as an archive that can be read here, compressed or not? Raises ImageError."""
    head = _head(image)
    return _compression(head) is not None or head.startswith(_USTAR, _USTAR_AT)


def directories(image: ImageFile) -> list[ArchiveDirectory]:
    """The image directories in an archive: those with sets of ours or CRIU's, or else those with any images.

    Raises DirectoryError where there is none, ImageError where it is no archive, damaged or ambiguous.
    """
    archive = _Archive(image)
    known = {
        path: names
        for path, names in archive.directories.items()
        if number_of_temporary(posixpath.basename(path)) is None  # what is in there belongs into the directory above
    }
    found = [path for path, names in known.items() if any(map(_is_of_a_set, names))]
    found = found or [path for path, names in known.items() if any(map(_is_image, names))]
    if not found:
        raise DirectoryError(f"{image.path}: no images in this archive")
    return [ArchiveDirectory(archive, path) for path in sorted(found)]


class ArchiveDirectory(Images):
    """A directory with images in an archive."""

    def __init__(self, archive: _Archive, inside: str) -> None:
        """inside is the directory's path in the archive, "" for the top."""
        self._archive, self._inside, self.path = archive, inside, f"{archive.path}:{printable(inside) or '/'}"

    def names(self) -> list[str]:
        """See Images; only names of images, and what tells of a set that is unfinished."""
        return sorted(self._archive.directories[self._inside])

    def has(self, name: str) -> bool:
        """See Images."""
        return self._member(name) is not None

    def image(self, name: str) -> ImageFile:
        """See Images."""
        path, member = os.path.join(self.path, printable(name)), self._member(name)
        if member is None:
            raise ImageError(path, None, "No such file or directory")
        if member.why_not is not None:
            raise ImageError(path, None, member.why_not)
        return ImagePart(member.whole, member.start, member.size, path)

    def is_directory(self, name: str) -> bool:
        """See Images."""
        member = self._member(name)
        if member is None:
            raise DirectoryError(f"image directory {self.path}: {name}: No such file or directory")
        return member.is_directory

    def parent(self) -> ArchiveDirectory:
        """See Images. The link is followed within the archive."""
        member = self._member("parent")
        if member is None:
            raise DirectoryError(f"image directory {self.path}: it has no parent")
        link = "parent" if member.link is None else member.link
        inside = posixpath.normpath(posixpath.join(self._inside, link))
        if inside.split("/")[0] in ("", ".."):
            raise DirectoryError(f"image directory {self.path}: its parent, {quoted(link)}, is not in the archive")
        inside = "" if inside == "." else inside
        if inside not in self._archive.directories:
            raise DirectoryError(
                f"image directory {self.path}: its parent, {quoted(link)}, has no images in the archive"
            )
        return ArchiveDirectory(self._archive, inside)

    def _member(self, name: str) -> _Member | None:
        directory, name = posixpath.split(posixpath.join(self._inside, name))
        found = self._archive.directories.get(directory, {}).get(name)
        if found is None and posixpath.join(directory, name) in self._archive.directories:
            return _DIRECTORY  # its images are there; it may have no member of its own
        return found


def _is_of_a_set(name: str) -> bool:
    return is_set_name(name) or number_of_temporary(name) is not None


def _is_image(name: str) -> bool:
    return name.endswith(".img")


# ---- what is in an archive -----------------------------------------------------------------


class _Kept:
    """A small image in memory."""

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self._data = data

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        part = self._data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)


class _Member(NamedTuple):
    """What is noted of a member: the image is size bytes of the whole from start on."""

    whole: Bytes = _Kept()
    start: int = 0
    size: int = 0
    why_not: str | None = None  # it cannot be read as an image
    link: str | None = None  # where it leads to
    is_directory: bool = False


_DIRECTORY = _Member(why_not="not a regular file", is_directory=True)


class _Archive:
    """An archive that has been scanned: the members that matter, by their directories and names."""

    def __init__(self, image: ImageFile) -> None:
        self.path = self._scanned_path = image.path
        self.directories: dict[str, dict[str, _Member]] = {}
        self._whole: Bytes = image
        self._to_keep, self._to_note = 0, _NOTED  # bytes
        compression = _compression(_head(image))
        if compression is not None:
            self._whole, self._to_keep = Unpacked(image, compression), _SMALL_IN_ALL
            self._scanned_path = f"{image.path}, unpacked"  # which the offsets are of
        self._no_directories: set[str] = set()  # paths of members that are something else
        for info in self._scanned():
            directory, name = posixpath.split(self._path_of(info))
            if not info.isdir():
                self._expect_no_directory(info, posixpath.join(directory, name))
            if _matters(directory, name):
                self._note(info, directory, name)

    def _note(self, info: tarfile.TarInfo, directory: str, name: str) -> None:
        if number_of_temporary(posixpath.basename(directory)) is not None:
            # It may have no member of its own, and has to be seen.
            above, temporary = posixpath.split(directory)
            self.directories.setdefault(above, {}).setdefault(temporary, _DIRECTORY)
        self._take_note(info, info.name, info.linkname)
        above = directory
        while above:
            if above in self._no_directories:
                raise self._error(info.offset, f"member {quoted(info.name)} lies in {quoted(above)}, no directory")
            above = posixpath.dirname(above)
        others, member = self.directories.setdefault(directory, {}), self._member(info)
        if name in others and not (member.is_directory and others[name].is_directory):
            raise self._error(info.offset, f"a second member {quoted(info.name)}: which one counts is not certain")
        others[name] = member

    def _expect_no_directory(self, info: tarfile.TarInfo, path: str) -> None:
        """Raise ImageError where a member that is no directory has images in it: who unpacks it sees others, or none.

        One that comes before them is remembered, if it can lead elsewhere or is an image: plain files are too many, and
        nobody unpacks anything into those.
        """
        if info.name.endswith("/"):
            raise self._error(info.offset, f"member {quoted(info.name)} is no directory, and is named as one")
        if any(known == path or known.startswith(f"{path}/") for known in self.directories):
            raise self._error(info.offset, f"member {quoted(info.name)} is no directory, and has images in it")
        if not info.isreg() or _is_image(path):
            self._take_note(info, path)
            self._no_directories.add(path)

    def _take_note(self, info: tarfile.TarInfo, *texts: str) -> None:
        self._to_note -= _NOTED_OF_EACH + sum(map(len, texts))
        if self._to_note < 0:
            raise self._error(info.offset, "more images and links in the archive than there may be")

    def _error(self, offset: int, why: str) -> ImageError:
        return ImageError(self._scanned_path, offset, why)

    def _path_of(self, info: tarfile.TarInfo) -> str:
        """The path of a member in the archive; "" for the top. Raises ImageError where it leads out of it."""
        parts = info.name.split("/")
        if info.name.startswith("/") or ".." in parts:
            raise self._error(info.offset, f"member {quoted(info.name)} leads out of its directory")
        return "/".join(part for part in parts if part not in ("", "."))

    def _member(self, info: tarfile.TarInfo) -> _Member:
        if info.isdir():
            return _DIRECTORY
        if info.issym():
            return _Member(why_not="is a symbolic link", link=info.linkname)
        if info.sparse is not None:
            return _Member(why_not="is stored without its holes, which cannot be read; archive it without --sparse")
        if not info.isreg():
            return _Member(why_not="not a regular file")
        if info.size > _SMALL or info.size > self._to_keep:
            return _Member(self._whole, info.offset_data, info.size)
        self._to_keep -= info.size
        kept = bytearray(info.size)
        ImagePart(self._whole, info.offset_data, info.size, self.path).read_into(memoryview(kept), 0)
        return _Member(_Kept(kept), 0, info.size)

    def _scanned(self) -> Iterator[tarfile.TarInfo]:
        """All members, seen to be there. Raises ImageError."""
        headers = _Headers(self._whole, self._scanned_path)
        with self._making_sense(0):
            tar = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
        end = 0
        while True:
            headers.left = _LONGEST_HEADER
            with self._making_sense(tar.offset):
                info = tar.next()
            tar.members = []  # type: ignore[attr-defined]  # it keeps all for who asks by name
            if info is None:
                break
            self._check(info, tar, end)
            end = tar.offset
            yield info
        self._expect_end(tar.offset)

    @contextlib.contextmanager
    def _making_sense(self, offset: int) -> Iterator[None]:
        try:
            yield
        except _SENSELESS as error:
            raise self._error(offset, f"no tar archive, or a damaged one: {_line(error)}") from error

    def _check(self, info: tarfile.TarInfo, tar: tarfile.TarFile, before: int) -> None:
        """Raise ImageError where the member is not what it seems to be, or not all there."""
        name = f"member {quoted(info.name)}"
        if tar.offset <= before or info.size < 0:
            raise self._error(info.offset, f"{name} ends before it begins")
        padded = info.size + -info.size % tarfile.BLOCKSIZE
        declared = info.pax_headers.get("size", str(info.size))  # which tarfile takes for 0 if it is no number
        ambiguous = info.offset_data + padded != tar.offset or declared != str(info.size)
        if info.isreg() and info.sparse is None and ambiguous:
            raise self._error(info.offset, f"{name} has two sizes")
        if len(tar.pax_headers) > _GLOBAL:
            raise self._error(info.offset, f"more than {_GLOBAL} records for all members")
        if tar.offset > _FARTHEST or not self._whole.read_some(memoryview(bytearray(1)), tar.offset - 1):
            raise self._error(info.offset, f"{name} claims {info.size} bytes, and the archive ends before them")

    def _expect_end(self, at: int) -> None:
        """Raise ImageError where there is anything but the zeros that end an archive."""
        start, view = at, memoryview(bytearray(Unpacked.BLOCK))
        zeros = bytes(view)
        while n := self._whole.read_some(view, at):
            if view[:n] != zeros[:n]:
                at += n - len(bytes(view[:n]).lstrip(b"\0"))
                raise self._error(at, "neither another member of the archive nor its end")
            at += n
        if at - start < tarfile.BLOCKSIZE:
            raise self._error(at, "the end of the archive is missing: it has been cut short")


def _matters(directory: str, name: str) -> bool:
    """Is it an image, or does it say something about one?"""
    if name == COMMIT:
        return number_of_temporary(posixpath.basename(directory)) is not None
    return _is_image(name) or name == "parent" or number_of_temporary(name) is not None


class _Headers(io.RawIOBase):
    """The file that tarfile reads headers from, and nothing else: left bytes of them at most."""

    def __init__(self, whole: Bytes, path: str) -> None:
        self._whole, self._path, self._at, self.left = whole, path, 0, _LONGEST_HEADER

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset < 0 or whence != os.SEEK_SET:
            raise ValueError("a place before the beginning")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self.left:
            raise ImageError(self._path, self._at, f"the header of a member is longer than {_LONGEST_HEADER} bytes")
        self.left -= size
        data, done = bytearray(size), 0
        while done < size and (n := self._whole.read_some(memoryview(data)[done:], self._at)):
            self._at, done = self._at + n, done + n
        if _LONGEST_NUMBER.search(data):
            raise ImageError(self._path, self._at - done, "the header of a member has a number of 256 digits in it")
        return bytes(data[:done])


# ---- what is compressed --------------------------------------------------------------------


class _Unpacker(Protocol):
    def read(self, size: int, /) -> bytes:
        """The next bytes, fewer than size at the end alone."""


class Compression(NamedTuple):
    """A way to compress: what reads it, and what that raises where the data are broken."""

    unpacker: Callable[[io.BufferedReader], _Unpacker]
    errors: tuple[type[Exception], ...]


def _gzip() -> Compression:
    import gzip
    import zlib

    return Compression(lambda file: gzip.GzipFile(fileobj=file), (EOFError, OSError, zlib.error))


def _zstd() -> Compression:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    return Compression(zstd.ZstdFile, (EOFError, OSError, zstd.ZstdError))


def _head(image: ImageFile) -> bytes:
    head = bytearray(min(image.size, tarfile.BLOCKSIZE))
    image.read_into(memoryview(head), 0)
    return bytes(head)


def _compression(head: bytes) -> Compression | None:
    """That of a file which begins so; None where it is not compressed."""
    if head.startswith(_GZIP):
        return _gzip()
    if head.startswith(_ZSTD) or (head.startswith(_SKIPPABLE, 1) and head[0] & 0xF0 == 0x50):
        return _zstd()
    return None


class _Place:
    """Where reading can go on: behind a block, which is the last that was read there."""

    def __init__(self, unpacker: _Unpacker) -> None:
        self.unpacker, self.number, self.block = unpacker, -1, b""


class Unpacked:
    """What is in a compressed file, readable at any place by any number of threads. Raises ImageError."""

    BLOCK = 256 << 10  # bytes
    BLOCKS = 64  # that are kept
    # Page map and pages of a set and of its parent: who reads them all at once goes forward at each of these places.
    PLACES = 4

    def __init__(self, packed: ImageFile, compression: Compression) -> None:
        self._packed, self._compression = packed, compression
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # the last that was used comes last
        self._places: list[_Place] = []  # likewise
        self._lock = threading.Lock()
        self._end: int | None = None  # the first block that is not whole, once it is known
        self.begun = 0  # how often it was read from the beginning

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        number, at = divmod(offset, self.BLOCK)
        with self._lock:
            block = self._block(number)
        part = memoryview(block)[at : at + len(view)]
        view[: len(part)] = part
        return len(part)

    def _block(self, number: int) -> bytes:
        if self._end is not None and number > self._end:
            return b""
        block = self._blocks.pop(number, None)
        if block is None:
            block = self._read(number)
            if len(self._blocks) == self.BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks[number] = block
        return block

    def _read(self, number: int) -> bytes:
        """Go to a block from the nearest place before it, or from the beginning; b"" where there is no such block."""
        before = [place for place in self._places if place.number <= number]
        if before:
            place = max(before, key=lambda place: place.number)
            self._places.remove(place)  # who is interrupted leaves it nowhere
        else:
            if len(self._places) == self.PLACES:
                del self._places[0]
            place = _Place(self._compression.unpacker(self._packed.file()))
            self.begun += 1
        while place.number < number and place.number != self._end:
            self._go_on(place)
        self._places.append(place)
        return place.block if place.number == number else b""

    def _go_on(self, place: _Place) -> None:
        try:
            place.block = place.unpacker.read(self.BLOCK)
        except self._compression.errors as error:
            done = (place.number + 1) * self.BLOCK
            why = f"compressed data are broken, {done} bytes into what is in them: {_line(error)}"
            raise ImageError(self._packed.path, None, why) from error
        place.number += 1
        if len(place.block) < self.BLOCK:
            self._end = place.number


def _line(error: Exception) -> str:
    return printable(str(error)) or type(error).__name__
