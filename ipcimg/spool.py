"""What comes but once, by a pipe or from afar: a copy that has no name, in $TMPDIR, which can be read at any place."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable

from .errors import ImageError, explain
from .image import ImageFile, ImagePart

_PATH = "standard input"
_FD = 0
_BLOCK = 1 << 20  # bytes copied at a time


def room() -> str:
    """The directory in which there is room for what is needed but for a time."""
    # Left to itself, tempfile tries several directories, with files that it could leave there.
    return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108


def standard_input() -> ImageFile:
    """All of standard input, a file from its beginning on. Raises ImageError.

    What is no file is copied into one that has no name, and is gone with the process.
    """
    # What is opened when it is closed may have its number by now.
    if sys.__stdin__ is None:
        raise ImageError(_PATH, None, "is closed")
    try:
        if stat.S_ISREG(os.fstat(_FD).st_mode):
            return ImageFile(os.dup(_FD), _PATH)
    except OSError as error:
        raise ImageError(_PATH, None, explain(error)) from error
    return copied(iter(_block, b""), _PATH)


def copied(parts: Iterable[bytes], path: str) -> ImageFile:
    """A file of these parts; path is its name for people. Raises ImageError, and what the parts raise."""
    fd = _unnamed(path)
    try:
        _append(fd, 0, parts, path)
        return ImageFile(os.dup(fd), path)
    finally:
        os.close(fd)


class Spool:
    """Any number of copies, back to back in one file."""

    def __init__(self) -> None:
        self._file: ImageFile | None = None
        self._end = 0  # bytes

    def add(self, parts: Iterable[bytes], path: str) -> ImageFile:
        """As copied()."""
        if self._file is None:
            self._file = ImageFile(_unnamed(path), path)
        start = self._end
        self._end = _append(self._file.fd, start, parts, path)
        return ImagePart(self._file, start, self._end - start, path)


def _unnamed(path: str) -> int:
    """A descriptor of an empty file that goes with it."""
    import tempfile  # takes long to import, and most have files

    try:
        with tempfile.TemporaryFile(buffering=0, dir=room()) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise _failed(path, error) from error


def _append(fd: int, end: int, parts: Iterable[bytes], path: str) -> int:
    """Put the parts behind the end of a file. Gives its new end."""
    for part in parts:
        done = 0
        try:
            while done < len(part):
                done += os.pwrite(fd, memoryview(part)[done:], end + done)
        except OSError as error:
            raise _failed(path, error) from error
        end += done
    return end


def _failed(path: str, error: OSError) -> ImageError:
    return ImageError(path, None, f"copying it into $TMPDIR: {explain(error)}")


def _block() -> bytes:
    try:
        return os.read(_FD, _BLOCK)
    except OSError as error:
        raise ImageError(_PATH, None, explain(error)) from error
