"""Digests of files: what tells that an image is the one that was written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Protocol

from .progress import NOBODY, Progress

DEFAULT = "xxh3-128"  # against mishap; sha256 also against malice, where the manifest's own digest is kept elsewhere


class Digest(Protocol):
    """What hashlib's and xxhash's objects have in common."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Add data."""

    def digest(self) -> bytes:
        """The digest of all that was added."""


def _xxh3() -> Digest:
    import xxhash  # only those who write or check images need it

    return xxhash.xxh3_128()


def _sha256() -> Digest:
    import hashlib  # likewise: it takes OpenSSL along

    return hashlib.sha256()


ALGORITHMS: dict[str, Callable[[], Digest]] = {DEFAULT: _xxh3, "sha256": _sha256}


class DigestingFile(io.RawIOBase):
    """A file open for writing, to be closed with it, that digests what it writes.

    It is read twice for that, so what it is given is to be a copy that nobody changes meanwhile, such as a piece of
    pieces.py: then what is digested is what is written.
    """

    def __init__(self, fd: int, algorithm: str, progress: Progress = NOBODY) -> None:
        """progress is told of what is written."""
        self._fd, self._digest, self.size, self._progress = fd, ALGORITHMS[algorithm](), 0, progress

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        written = os.write(self._fd, data)
        self._digest.update(memoryview(data)[:written])
        self.size += written
        self._progress.done(written)
        return written

    def close(self) -> None:
        """Close the file. A BufferedWriter above it then drops what it still holds."""
        if not self.closed:
            super().close()
            os.close(self._fd)

    @property
    def digest(self) -> bytes:
        """Of what has been written so far."""
        return self._digest.digest()
