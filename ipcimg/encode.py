"""JSON → an image: read, encoded, decoded again, and only then put in its place."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from . import codec, critjson
from .critjson import Document
from .errors import ImageError, IpcimgError, JsonError
from .image import ImageFile
from .interrupts import deferred
from .model import PIECE

_PAGE = 4096  # bytes. JSON does not say what a page map counts in; no machine has smaller pages


def read(path: str) -> Document:
    """The JSON of an image: the file path, or standard input for "-". It is held in memory whole. Raises JsonError."""
    name = "<standard input>" if path == "-" else path
    try:
        with open(0, "rb", closefd=False) if path == "-" else open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise IpcimgError(f"reading {name}: {error.strerror or error}") from error
    return critjson.parse(data, name)


def write(path: str, document: Document, *, force: bool) -> None:
    """Write the image path, mode 0600: whole, or not at all. What is there already is replaced with force alone.

    Raises JsonError where the document describes no image, IpcimgError where the file cannot be written.
    """
    _refuse_to_replace(path, force)
    with _appearing(path, force) as file:
        encode(document, file)


def write_to(fd: int, document: Document) -> None:
    """Write the image to a pipe, a terminal or an open file: nothing of it, where the document describes no image.

    Raises as write() does.
    """
    # Reading it again, which is the check, takes a file; one in memory cannot run out of disk.
    with open(os.memfd_create("image", os.MFD_CLOEXEC), "w+b") as file:
        encode(document, file)
        file.seek(0)
        try:
            while block := memoryview(file.read(PIECE)):
                while block:
                    block = block[os.write(fd, block) :]
        except OSError as error:
            raise IpcimgError(f"writing <standard output>: {error.strerror or error}") from error


# ---- encoding ------------------------------------------------------------------------------


def _variables(document: Document, file: BinaryIO) -> None:
    variables, has_manifest = critjson.variables(document)
    codec.encode_variables(file, variables, has_manifest=has_manifest)


def _segments(document: Document, file: BinaryIO) -> None:
    encoder = codec.SegmentEncoder(file, exact=False)
    for segment, inline in critjson.segments(document):
        encoder.add(segment, inline)


def _queues(document: Document, file: BinaryIO) -> None:
    encoder = codec.QueueEncoder(file, exact=False)
    for queue in critjson.queues(document):
        encoder.add(queue)


def _semaphores(document: Document, file: BinaryIO) -> None:
    encoder = codec.SemaphoreEncoder(file, exact=False)
    for semaphores in critjson.semaphores(document):
        encoder.add(semaphores)


def _pagemap(document: Document, file: BinaryIO) -> None:
    pages_id, entries = critjson.pagemap(document)
    encoder = codec.PagemapEncoder(file, pages_id, exact=False)
    for entry in entries:
        encoder.add_fields(entry)


# For each kind its encoder, and a decoder that yields something for each entry.
_KINDS: dict[str, tuple[Callable[[Document, BinaryIO], None], Callable[[ImageFile], Iterable[object]]]] = {
    "IPC_VAR": (_variables, lambda image: [codec.decode_variables(image)]),
    "IPCNS_SHM": (_segments, lambda image: codec.decode_segment_entries(image, _PAGE)),
    "IPCNS_MSG": (_queues, codec.decode_queues),
    "IPCNS_SEM": (_semaphores, codec.decode_semaphores),
    "PAGEMAP": (_pagemap, lambda image: codec.decode_pagemap_entries(image, _PAGE)),
}


def encode(document: Document, file: BinaryIO) -> None:
    """Append the image to an empty file that can be read, too. Raises JsonError, also where nobody could decode it."""
    write_entries, decode = _KINDS[document.kind]
    try:
        write_entries(document, file)
    except JsonError:
        raise
    except IpcimgError as error:  # an entry is too long
        raise document.place.fail(str(error)) from None
    file.flush()
    decoded = 0
    try:
        for _ in decode(ImageFile(os.dup(file.fileno()), "")):
            decoded += 1
    except ImageError as error:
        raise document.place.at(decoded).fail(error.why) from None


# ---- the file ------------------------------------------------------------------------------


def _refuse_to_replace(path: str, force: bool) -> None:
    try:
        there = os.lstat(path)
    except OSError:
        return  # it is not there, or cannot be: then writing tells why
    if not force:
        raise IpcimgError(f"{path} is there already; --force replaces it")
    if not stat.S_ISREG(there.st_mode):
        raise IpcimgError(f"{path} is not a regular file, and --force replaces no other")


@contextlib.contextmanager
def _appearing(path: str, force: bool) -> Iterator[BinaryIO]:
    """A new file, which gets its name at the end of the with block, when it is on the disk; on any error it is gone."""
    directory = os.path.dirname(path) or os.curdir
    temporary: str | None = None
    try:
        with deferred():
            fd, temporary = tempfile.mkstemp(prefix=".ipcimg-encode-", dir=directory)
        with open(fd, "w+b") as file:
            yield file
            file.flush()
            os.fsync(fd)
        with deferred():
            _into_place(temporary, path, force)
        _sync(directory)
    except OSError as error:
        raise IpcimgError(f"writing {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with deferred(), contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _into_place(temporary: str, path: str, force: bool) -> None:
    if not force:
        with contextlib.suppress(OSError):  # it is there by now, or the file system has no hard links
            os.link(temporary, path)  # a rename would replace what has come meanwhile
            return
    _refuse_to_replace(path, force)
    os.rename(temporary, path)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
