"""That a pod is being dumped, or restored: a note for the hooks of the criu processes that its runtimes start.

Most runtimes pack what criu has dumped into an archive of their own, and detaching comes too late then. But criu calls
`ipcimg hook` before that. By the IPC namespace of its tasks the hook finds the note, detaches, and adds to it where and
of which task: so the one who dumps the pod knows that it was done. When a container is restored, the note tells the
hook of which set the objects are that are there.

A note is a file: its purpose, then the path of the pod's set, then what hooks have added. Its writer has it locked
(flock(2)), so one that is not locked has lost its writer, and means nothing.
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
DUMP, RESTORE = "dump", "restore"  # purposes
_LARGEST = 1 << 20  # bytes of a note


@dataclass(frozen=True, slots=True)
class Note:
    """The note of a pod that is being dumped or restored."""

    fd: int  # of its file
    path: str  # where that is, or was

    @property
    def images(self) -> str:
        """The image directory of the pod's set. Raises DirectoryError."""
        return self._lines()[1]

    @property
    def detached(self) -> list[tuple[int, str]]:
        """The task and the image directory of each dump that a hook has detached, in order. Raises DirectoryError."""
        return [(int(task), where) for task, _, where in (line.partition(" ") for line in self._lines()[2:])]

    def add(self, task: int, directory: str) -> None:
        """What was dumped of the task and those below it was detached in an image directory. Raises DirectoryError."""
        self.append(f"{task} {directory}")

    def is_for(self, purpose: str) -> bool:
        """Is that its purpose? Raises DirectoryError."""
        return self._lines()[0] == purpose

    def withdraw(self) -> None:
        """Nobody is to find it any more; who has found it and adds to it later can see that by is_withdrawn."""
        with _noting(), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path, follow_symlinks=False), os.fstat(self.fd)):
                os.unlink(self.path)

    @property
    def is_withdrawn(self) -> bool:
        """Has its writer ended meanwhile, and may not have seen what was added?"""
        return os.fstat(self.fd).st_nlink == 0

    def append(self, line: str) -> None:
        """Add a line. Raises DirectoryError."""
        with _noting():
            os.write(self.fd, os.fsencode(line) + b"\0\n")  # at once, at the end: there may be several hooks

    def _lines(self) -> list[str]:
        with _noting():
            text = os.pread(self.fd, _LARGEST, 0)
        return [os.fsdecode(line) for line in text.split(b"\0\n")[:-1]]


@contextlib.contextmanager
def written(inode: int, images: str, purpose: str) -> Iterator[Note]:
    """A note that the IPC namespace with this inode is dumped in images, or restored, there inside the with block.

    It takes the place of one whose writer was killed. Raises DirectoryError, also where there is one of somebody else.
    """
    path, new = _path(inode), f"{_path(inode)}.{os.getpid()}.new"
    with contextlib.ExitStack() as stack:
        with _noting():
            with contextlib.suppress(FileExistsError):
                os.mkdir(DIRECTORY, 0o700)
            _refuse_others()
            os.chmod(DIRECTORY, 0o711)  # noqa: S103  # anybody may look whether there is a note
            forget(inode)
            _unlink(new)  # what a killed one has left
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            note = Note(fd, path)
            note.append(purpose)
            note.append(images)
            os.rename(new, path)
            stack.callback(note.withdraw)
        yield note


def forget(inode: int) -> None:
    """Remove the note of a writer that was killed. Raises DirectoryError where there is one of somebody else."""
    with _noting(), contextlib.suppress(FileNotFoundError):
        fd = os.open(_path(inode), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(_path(inode))
        except BlockingIOError:
            raise DirectoryError("the pod in this namespace is being dumped or restored by another ipcimg") from None
        finally:
            os.close(fd)


@contextlib.contextmanager
def found(inode: int, purpose: str) -> Iterator[Note | None]:
    """The note of the IPC namespace with this inode, if its pod is being dumped, or restored. Raises DirectoryError."""
    with contextlib.ExitStack() as stack:
        note = None
        with _noting(), contextlib.suppress(FileNotFoundError):
            fd = os.open(_path(inode), os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            _refuse_others()
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                note = Note(fd, _path(inode))
        yield note if note is not None and note.is_for(purpose) else None


def _path(inode: int) -> str:
    return os.path.join(DIRECTORY, f"pod-{inode}")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _refuse_others() -> None:
    if why := who_could_change(os.stat(DIRECTORY, follow_symlinks=False)):
        raise DirectoryError(f"{DIRECTORY}: {why}")


@contextlib.contextmanager
def _noting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DirectoryError(f"the note of a pod: {explain(error)}") from error
