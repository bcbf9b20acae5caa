"""The socket of criu-image-streamer, with a peer of our own that is written from what the program does."""

from __future__ import annotations

import array
import contextlib
import os
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from ipcimg import delivery, imageset, places
from ipcimg.errors import DirectoryError, ImageError, IpcimgError
from ipcimg.streamer import StreamerDestination
from tests import rich, wire

COUNTS = (4, 31, 2, 3, 6)
_SECONDS = 30


class Streamer:
    """Listens as criu-image-streamer does: for one connection, which it takes to its end.

    Capturing, it keeps the files that come; serving, it gives each of its files once, and goes where one is asked for
    again.
    """

    def __init__(self, directory: pathlib.Path, serves: dict[str, bytes] | None = None) -> None:
        self.serves = serves is not None
        self.files: dict[str, bytes] = dict(serves or {})
        self.order: list[str] = []
        self.served: set[str] = set()
        self.leaves_at: str | None = None  # the file in the midst of which it goes
        self.answers: Callable[[bool], bytes] = lambda exists: wire.entry(wire.message({1: int(exists)}))
        self.error: BaseException | None = None
        self._listening = socket.socket(socket.AF_UNIX)
        self._connection = self._listening  # until there is one
        self.path = directory / ("streamer-serve.sock" if self.serves else "streamer-capture.sock")
        self._listening.bind(str(self.path))
        self._listening.listen(1)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def give_up(self) -> None:
        """End it, wherever it waits."""
        for one in (self._listening, self._connection):
            with contextlib.suppress(OSError):  # it is closed
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with self._listening:
            self._connection, _ = self._listening.accept()
        with self._connection as connection:
            try:
                while length := connection.recv(4, socket.MSG_WAITALL):
                    name = wire_name(connection.recv(struct.unpack("<I", length)[0], socket.MSG_WAITALL))
                    self.order.append(name)
                    if not (self._serve if self.serves else self._capture)(connection, name):
                        return
            except BaseException as error:
                self.error = error

    def _capture(self, connection: socket.socket, name: str) -> bool:
        with os.fdopen(pipe_end(connection), "rb", 0) as pipe:
            if name == self.leaves_at:
                pipe.read(1)
                return False
            self.files[name] = pipe.readall()
        return True

    def _serve(self, connection: socket.socket, name: str) -> bool:
        assert name not in self.served, f"{name} is asked for again"
        connection.sendall(self.answers(name in self.files))
        if name in self.files:
            self.served.add(name)
            with os.fdopen(pipe_end(connection), "wb", 0) as pipe:
                data = self.files[name]
                for at in range(0, len(data), 1000):
                    pipe.write(data[at : at + 1000])
                    if name == self.leaves_at:
                        connection.shutdown(socket.SHUT_RDWR)
                        return False
        return True


def pipe_end(connection: socket.socket) -> int:
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
    [(level, kind, data)] = ancillary
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    [fd] = array.array("i", data)
    return fd


def wire_name(message: bytes) -> str:
    """Of a message whose field 1 is a string, and which has no other."""
    assert message[0] == 1 << 3 | 2
    assert message[1] == len(message) - 2
    return message[2:].decode()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Streamer]]:
    made: list[Streamer] = []

    def begin(serves: dict[str, bytes] | None = None) -> Streamer:
        made.append(Streamer(tmp_path, serves))
        return made[-1]

    yield begin
    for one in made:
        one.give_up()


@pytest.fixture
def place(tmp_path: pathlib.Path) -> str:
    return f"streamer://{tmp_path}"


@pytest.fixture
def images(tmp_path: pathlib.Path) -> dict[str, bytes]:
    """The files of a set."""
    imageset.save(rich.contents(), tmp_path / "images")
    return {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}


def deliver(place: str) -> None:
    delivery.delivered(lambda path: imageset.save(rich.contents(), path), StreamerDestination(place))


# ---- capturing -----------------------------------------------------------------------------


def test_captured(start: Callable[..., Streamer], place: str, images: dict[str, bytes]) -> None:
    """Every file, and what belongs last comes last."""
    streamer = start()
    deliver(place)
    streamer.join()
    assert streamer.order[-2:] == ["ipcns-var-1.img", "ipcimg-manifest-1.img"]
    assert streamer.files.keys() == images.keys()
    assert all(streamer.files[name] == data for name, data in images.items() if "manifest" not in name)


def test_a_streamer_that_goes(start: Callable[..., Streamer], place: str, images: dict[str, bytes]) -> None:
    streamer = start()
    streamer.leaves_at = "ipcns-msg-1.img"
    with pytest.raises(
        DirectoryError, match=r"^streamer://.*: the streamer does not take it: (Broken pipe|Connection)"
    ):
        deliver(place)
    streamer.join()


@pytest.mark.parametrize("stale", [False, True])
def test_nobody_there(stale: bool, place: str, tmp_path: pathlib.Path) -> None:
    if stale:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "streamer-capture.sock"))
    why = "Connection refused" if stale else "No such file or directory"
    with pytest.raises(DirectoryError) as raised:
        StreamerDestination(place)
    assert str(raised.value) == f"{place}/streamer-capture.sock: {why}: is a criu-image-streamer at work there?"


def test_a_long_path(tmp_path: pathlib.Path, images: dict[str, bytes]) -> None:
    """The name of a socket has 107 bytes at most; that of its directory may have more."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    fd = os.open(deep, os.O_PATH)
    try:
        streamer = Streamer(pathlib.Path(f"/proc/self/fd/{fd}"))
        deliver(f"streamer://{deep}")
        streamer.join()
    finally:
        os.close(fd)
    assert streamer.files.keys() == images.keys()


# ---- serving -------------------------------------------------------------------------------


def test_served(start: Callable[..., Streamer], place: str, images: dict[str, bytes]) -> None:
    """All is gone through twice, and asked for once."""
    streamer = start(images)
    found = imageset.open_set(place)
    counts = found.check()
    assert (counts.queues, counts.messages, counts.semaphore_sets, counts.segments, counts.pages) == COUNTS
    assert found.check() == counts
    assert found.directory.names() == sorted(images)
    del found
    streamer.join()
    assert streamer.served == images.keys()


def test_served_is_a_set_of_criu_s(start: Callable[..., Streamer], place: str, tmp_path: pathlib.Path) -> None:
    """Without a manifest, and with another number; kinds of which there is nothing are not there."""
    imageset.save(rich.contents(), tmp_path / "criu", ns_id=7, criu_exact=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "criu").iterdir()}
    files = {name: data for name, data in files.items() if "manifest" not in name and "sem" not in name}
    start(files)
    images = places.opened(place)
    with pytest.raises(DirectoryError, match="the streamer has no set 1; choose another one by --ns-id"):
        images.the_set(None)
    assert images.chosen_sets(7) == [7]
    found = imageset.ImageSet(images, 7)
    counts = found.check()
    assert (counts.queues, counts.messages, counts.semaphore_sets, counts.segments, counts.pages) == (4, 31, 0, 3, 6)


def test_served_is_not_as_it_was_written(start: Callable[..., Streamer], place: str, images: dict[str, bytes]) -> None:
    data = images["pages-1.img"]
    start({**images, "pages-1.img": data[:-1] + bytes([data[-1] ^ 1])})
    with pytest.raises(ImageError, match=r"^streamer://.*/pages-1.img: is not as it was written"):
        imageset.open_set(place).check()


def test_a_file_that_is_not_served(start: Callable[..., Streamer], place: str, images: dict[str, bytes]) -> None:
    del images["pages-1.img"]
    start(images)
    with pytest.raises(ImageError, match=r"^streamer://.*/pages-1.img: the streamer has no such file"):
        imageset.open_set(place)


def test_a_streamer_that_goes_while_it_serves(
    start: Callable[..., Streamer], place: str, images: dict[str, bytes]
) -> None:
    """The end of a pipe could be taken for that of the file."""
    streamer = start(images)
    streamer.leaves_at = "ipcns-shm-1.img"
    with pytest.raises(ImageError, match=r"ipcns-shm-1.img: the streamer has gone meanwhile"):
        imageset.open_set(place)
    streamer.join()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the streamer has gone, and has not answered"),
        (b"\x02\0", "the streamer has gone, and has not answered"),
        (struct.pack("<I", 0), "the answer of the streamer is no img_streamer_reply_entry"),
        (struct.pack("<I", 2) + b"\xff\xff", "the answer of the streamer is no img_streamer_reply_entry"),
        (struct.pack("<I", 1 << 31), "the streamer answers with 2147483648 bytes"),
    ],
)
def test_answers_that_make_no_sense(start: Callable[..., Streamer], place: str, answer: bytes, why: str) -> None:
    streamer = start({})

    def answers(exists: bool) -> bytes:
        streamer.serves = False  # and goes
        return answer

    streamer.answers = answers

    def serve_once(connection: socket.socket, name: str) -> bool:
        connection.sendall(answer)
        return False

    streamer._serve = serve_once  # type: ignore[method-assign]
    with pytest.raises(IpcimgError, match=why):
        imageset.open_set(place)
    streamer.join()


def test_parents_do_not_come(start: Callable[..., Streamer], place: str) -> None:
    start({})
    images = places.opened(place)
    with pytest.raises(DirectoryError, match="no parent comes through a streamer"):
        images.parent()
    with pytest.raises(DirectoryError, match="the streamer has no such file"):
        images.is_directory("x.img")
