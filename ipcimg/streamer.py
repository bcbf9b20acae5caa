"""The socket of criu-image-streamer: images that go by a pipe each, as those of `criu --stream`.

    to it       request, then the end of a pipe that the file is read from
    from it     request, answer whether it has the file; if so, the end of a pipe that the file is written into

A message is its length, 32 bits, little-endian, and protobuf; the end of a pipe comes by SCM_RIGHTS, with one byte. A
streamer takes one connection in all, and the end of that is the end of the stream. So nobody connects who was not told
to: a streamer that is meant for CRIU would be lost to it. It serves each file once, and has no list of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator, Sequence

from . import codec
from .errors import DirectoryError, ImageError, explain
from .image import ImageFile
from .images import KINDS, Images, kind_name, manifest_name
from .places import STREAMER
from .progress import NOBODY, Progress
from .spool import Spool

_CAPTURE, _SERVE = "streamer-capture.sock", "streamer-serve.sock"
_BLOCK = 1 << 20  # bytes
_ANSWER = 64  # bytes at most
_FIRST = 1  # the N of a set where nobody says which


class _Connection:
    """The one connection that a streamer takes."""

    def __init__(self, place: str, name: str) -> None:
        """name is that of the socket. Raises DirectoryError."""
        self.path = place
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The name of a socket is short: 107 bytes. That of a directory need not be.
            fd = os.open(place.removeprefix(STREAMER) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.connect(f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
        except OSError as error:
            self._socket.close()
            path = os.path.join(place, name)
            raise DirectoryError(f"{path}: {error.strerror}: is a criu-image-streamer at work there?") from error

    def path_of(self, name: str) -> str:
        """The name of an image for people."""
        return os.path.join(self.path, name)

    def request(self, name: str) -> None:
        """Name the file that is to go or to come. Raises OSError."""
        self._socket.sendall(codec.encode_streamer_request(name))

    def answer(self, name: str) -> bool:
        """Is there a file of that name? Raises ImageError, OSError."""
        length = int.from_bytes(self._exactly(4, name), "little")
        if length > _ANSWER:
            raise ImageError(self.path_of(name), None, f"the streamer answers with {length} bytes")
        return codec.decode_streamer_reply(self._exactly(length, name), self.path_of(name))

    def send_end(self, fd: int) -> None:
        """Give the streamer its end of a pipe. Raises OSError."""
        socket.send_fds(self._socket, [b"\0"], [fd])

    def has_ended(self) -> bool:
        """Has the streamer gone?"""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def end(self) -> None:
        """No more requests come; wait until the streamer has taken all that did. Raises OSError."""
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(_ANSWER):
            pass
        self._socket.close()

    def close(self) -> None:
        """Leave at once."""
        self._socket.close()

    def _exactly(self, size: int, name: str) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            if not part:
                raise ImageError(self.path_of(name), None, "the streamer has gone, and has not answered")
            found += part
        return found


class StreamerDestination:
    """A set on its way through a streamer; see delivery.Destination.

    A streamer does not say what became of what it took: its own exit status does.
    """

    makes_directory = False  # the streamer has criu's inventory and statistics

    def __init__(self, place: str, progress: Progress = NOBODY) -> None:
        """Raises DirectoryError where there is no streamer."""
        self._connection, self._progress = _Connection(place, _CAPTURE), progress

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        """See delivery.Destination."""

    def put(self, name: str, image: ImageFile) -> None:
        """See delivery.Destination."""
        with self._asked(name):
            self._connection.request(name)
            its, ours = os.pipe()
            with os.fdopen(ours, "wb", 0) as out:
                try:
                    self._connection.send_end(its)
                finally:
                    os.close(its)
                block = memoryview(bytearray(min(_BLOCK, image.size)))
                for start in range(0, image.size, _BLOCK):
                    view = block[: min(_BLOCK, image.size - start)]
                    image.read_into(view, start)
                    done = 0
                    while done < len(view):
                        done += out.write(view[done:]) or 0
                    self._progress.done(len(view))

    def finish(self) -> None:
        """See delivery.Destination."""
        with self._asked(""):
            self._connection.end()

    @contextlib.contextmanager
    def _asked(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._connection.close()
            raise DirectoryError(
                f"{self._connection.path_of(name)}: the streamer does not take it: {explain(error)}"
            ) from error
        except BaseException:
            self._connection.close()
            raise


class StreamedImages(Images):
    """The images that a streamer serves. What has come is kept: it comes but once."""

    def __init__(self, place: str) -> None:
        """Raises DirectoryError where there is no streamer."""
        self.path = place
        self._connection = _Connection(place, _SERVE)
        self._spool = Spool()
        self._images: dict[str, ImageFile | None] = {}

    def names(self) -> list[str]:
        """See Images. Only what has been asked for: the streamer has no list."""
        return sorted(name for name, image in self._images.items() if image is not None)

    def the_set(self, ns_id: int | None) -> int:
        """See Images. Without ns_id it is set 1."""
        n = _FIRST if ns_id is None else ns_id
        if not self._has_set(n):
            hint = "; choose another one by --ns-id" if ns_id is None else ""
            raise DirectoryError(f"image directory {self.path}: the streamer has no set {n}{hint}")
        return n

    def sets(self) -> list[int]:
        """See Images. The one that has been asked for, or else set 1, if it is there."""
        return super().sets() or [n for n in (_FIRST,) if self._has_set(n)]

    def has(self, name: str) -> bool:
        """See Images. What is there has come then."""
        return self._fetched(name) is not None

    def image(self, name: str) -> ImageFile:
        """See Images."""
        image = self._fetched(name)
        if image is None:
            raise ImageError(self._connection.path_of(name), None, "the streamer has no such file")
        return image

    def is_directory(self, name: str) -> bool:
        """See Images."""
        if not self.has(name):
            raise DirectoryError(f"image directory {self.path}: {name}: the streamer has no such file")
        return False

    def parent(self) -> Images:
        """See Images."""
        raise DirectoryError(f"image directory {self.path}: no parent comes through a streamer")

    def refuse_unfinished(self, ns_id: int) -> None:
        """See Images. What a streamer serves was captured to its end."""

    def _has_set(self, n: int) -> bool:
        return any(map(self.has, (manifest_name(n), *(kind_name(kind, n) for kind in KINDS))))

    def _fetched(self, name: str) -> ImageFile | None:
        if name not in self._images:
            path = self._connection.path_of(name)
            try:
                self._connection.request(name)
                self._images[name] = self._copied(name, path) if self._connection.answer(name) else None
            except OSError as error:
                raise ImageError(path, None, f"asking the streamer for it: {explain(error)}") from error
        return self._images[name]

    def _copied(self, name: str, path: str) -> ImageFile:
        ours, its = os.pipe()
        with os.fdopen(ours, "rb", 0) as file:
            try:
                self._connection.send_end(its)
            finally:
                os.close(its)
            image = self._spool.add(iter(lambda: file.read(_BLOCK), b""), path)
        if self._connection.has_ended():
            raise ImageError(path, None, "the streamer has gone meanwhile: it may not be all of it")
        return image
