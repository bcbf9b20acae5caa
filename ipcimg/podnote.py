"""That a pod is being dumped: a note for the hooks of the criu processes that its containers' runtimes start.

Most runtimes pack what criu has dumped into an archive of their own, and detaching comes too late then. But criu calls
`ipcimg hook` before that. By the IPC namespace of its tasks the hook finds the note, detaches, and adds a line to it,
by which the one who dumps the pod knows that it was done.

A note is a file with the path of the pod's set in its first line. Its writer has it locked (flock(2)), so one that is
not locked has lost its writer, and means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import DirectoryError, explain
from .trust import who_could_change

DIRECTORY = "/run/ipcimg"
_LARGEST = 1 << 20  # bytes of a note


@dataclass(frozen=True, slots=True)
class Note:
    """The note of a pod that is being dumped."""

    fd: int  # of its file

    @property
    def images(self) -> str:
        """The image directory of the pod's set. Raises DirectoryError."""
        return self._lines()[0]

    @property
    def detached(self) -> list[str]:
        """The image directories that hooks have detached, in order. Raises DirectoryError."""
        return self._lines()[1:]

    def add(self, directory: str) -> None:
        """An image directory was detached. Raises DirectoryError."""
        self._append(directory)

    def _append(self, line: str) -> None:
        with _noting():
            os.write(self.fd, os.fsencode(line) + b"\0\n")  # at once, at the end: there may be several hooks

    def _lines(self) -> list[str]:
        with _noting():
            text = os.pread(self.fd, _LARGEST, 0)
        return [os.fsdecode(line) for line in text.split(b"\0\n")[:-1]]


@contextlib.contextmanager
def written(inode: int, images: str) -> Iterator[Note]:
    """A note that the IPC namespace with this inode is dumped in images, there inside the with block.

    Raises DirectoryError, also where somebody else is dumping it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        with _noting():
            with contextlib.suppress(FileExistsError):
                os.mkdir(DIRECTORY, 0o700)
            _refuse_others()
            fd = os.open(_path(inode), flags, 0o600)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(os.unlink, _path(inode))
            os.ftruncate(fd, 0)  # what a killed one has left
        note = Note(fd)
        note._append(images)
        yield note


@contextlib.contextmanager
def found(inode: int) -> Iterator[Note | None]:
    """The note of the IPC namespace with this inode, if its pod is being dumped. Raises DirectoryError."""
    with contextlib.ExitStack() as stack:
        note = None
        with _noting(), contextlib.suppress(FileNotFoundError):
            fd = os.open(_path(inode), os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            _refuse_others()
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                note = Note(fd)
        yield note


def _path(inode: int) -> str:
    return os.path.join(DIRECTORY, f"pod-{inode}")


def _refuse_others() -> None:
    if why := who_could_change(os.stat(DIRECTORY, follow_symlinks=False)):
        raise DirectoryError(f"{DIRECTORY}: {why}")


@contextlib.contextmanager
def _noting() -> Iterator[None]:
    try:
        yield
    except BlockingIOError as error:
        raise DirectoryError("another dump of this pod is running") from error
    except OSError as error:
        raise DirectoryError(f"the note of a pod's dump: {explain(error)}") from error
