"""A set of images as a tar archive on standard output, compressed or not: what `tar x` makes an image directory of."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
import tarfile
import time
from collections.abc import Sequence
from typing import Protocol

from .errors import ImageError, IpcimgError, explain
from .image import ImageFile
from .progress import NOBODY, Progress

_FD, _PATH = 1, "standard output"
_BLOCK = 1 << 20  # bytes moved at a time
_SEND = 8 << 20  # likewise, by the kernel
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS)  # such as into a file that is appended to
_END = bytes(2 * tarfile.BLOCKSIZE)  # of an archive


class TarDestination:
    """A delivery.Destination: one archive, with the plain names of the files."""

    makes_directory = True

    def __init__(self, *, zstd: bool = False, progress: Progress = NOBODY) -> None:
        """progress is told of the bytes of files that have been delivered. Raises IpcimgError for a terminal."""
        # What is opened when it is closed may have its number by now.
        if sys.__stdout__ is None:
            raise IpcimgError(f"{_PATH} is closed: there is nowhere to write an archive to")
        if os.isatty(_FD):
            raise IpcimgError(f"{_PATH} is a terminal, and no place for an archive: redirect it")
        self._out: _Out = _Compressed(_Plain()) if zstd else _Plain()
        self._progress, self._time = progress, 0

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        """See Destination."""
        self._time = int(time.time())

    def put(self, name: str, image: ImageFile) -> None:
        """See Destination."""
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = image.size, 0o600, self._time
        self._out.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8"))
        done = 0
        while done < image.size:
            n = self._out.copy(image, done)
            done += n
            self._progress.done(n)
        self._out.write(bytes(-image.size % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        """See Destination. What is a file is on the disk then."""
        self._out.write(_END)
        self._out.finish()


class _Out(Protocol):
    def write(self, data: bytes | memoryview, /) -> None:
        """All of it."""

    def copy(self, image: ImageFile, offset: int, /) -> int:
        """Some bytes of a file from offset on, which is before its end; tells how many."""

    def finish(self) -> None:
        """That was all."""


class _Plain:
    """Standard output, which may be anything."""

    def __init__(self) -> None:
        self._sends = True  # does the kernel move data into it by itself?
        with contextlib.suppress(OSError):  # no pipe; or the limit of our user is reached
            fcntl.fcntl(_FD, fcntl.F_SETPIPE_SZ, _BLOCK)

    def write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(_FD, left) :]
            except OSError as error:
                _wait_or_raise(error)

    def copy(self, image: ImageFile, offset: int) -> int:
        while self._sends:
            try:
                n = os.sendfile(_FD, image.fd, offset, min(_SEND, image.size - offset))
                if not n:
                    raise ImageError(image.path, offset, f"ends {image.size - offset} bytes too early")
                return n
            except OSError as error:
                if error.errno in _NO_SENDFILE:
                    self._sends = False
                else:
                    _wait_or_raise(error)
        block = _block(image, offset)
        self.write(block)
        return len(block)

    def finish(self) -> None:
        try:
            if stat.S_ISREG(os.fstat(_FD).st_mode):
                os.fsync(_FD)
        except OSError as error:
            raise _failed(error) from error


class _Compressed:
    """What is written to another one as one zstd frame, with a checksum."""

    def __init__(self, out: _Plain) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd

        # It may have been built without threads.
        threads = min(len(os.sched_getaffinity(0)), zstd.CompressionParameter.nb_workers.bounds()[1])
        self._packer = zstd.ZstdCompressor(
            options={zstd.CompressionParameter.checksum_flag: 1, zstd.CompressionParameter.nb_workers: threads}
        )
        self._out = out

    def write(self, data: bytes | memoryview) -> None:
        self._out.write(self._packer.compress(data))

    def copy(self, image: ImageFile, offset: int) -> int:
        block = _block(image, offset)
        self.write(block)
        return len(block)

    def finish(self) -> None:
        self._out.write(self._packer.flush())
        self._out.finish()


def _block(image: ImageFile, offset: int) -> memoryview:
    view = memoryview(bytearray(min(_BLOCK, image.size - offset)))
    image.read_into(view, offset)
    return view


def _wait_or_raise(error: OSError) -> None:
    """Wait until standard output takes something again, if that was all; somebody may have made it not block."""
    if error.errno != errno.EAGAIN:
        raise _failed(error) from error
    poll = select.poll()
    poll.register(_FD, select.POLLOUT)
    poll.poll()


def _failed(error: OSError) -> IpcimgError:
    early = ", since its reader ended before the archive did" if error.errno == errno.EPIPE else ""
    return IpcimgError(f"writing {_PATH}: {explain(error)}{early}")
