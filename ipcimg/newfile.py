"""A file that is there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from .errors import DirectoryError, explain
from .interrupts import deferred


def open_new(name: str, dir_fd: int | None = None) -> int:
    """The descriptor of a file that was not there, mode 0600, to be written. Raises OSError."""
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)


@contextlib.contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """A new file, which is gone after the with block on any error."""
    made = whole = False
    try:
        with deferred():
            fd = open_new(path)
            made = True
        with open(fd, "wb") as file:
            yield file
        whole = True
    except FileExistsError:
        raise DirectoryError(f"{path} is there already") from None
    except OSError as error:
        raise DirectoryError(f"writing {path}: {explain(error).removeprefix(f'{path}: ')}") from error
    finally:
        if made and not whole:
            with deferred(), contextlib.suppress(FileNotFoundError):  # somebody has removed it
                os.unlink(path)


def put(path: str, data: bytes, *, ours: Callable[[int], bool]) -> None:
    """Have a file with this data at path. Nobody finds a part of it there, even if we are killed.

    A file that is there is replaced if refuse_other() lets it. Raises DirectoryError.
    """
    new = f"{path}.{os.getpid()}.new"
    try:
        with new_file(new) as file:
            file.write(data)
        refuse_other(path, ours)
        try:
            os.link(new, path, follow_symlinks=False)
        except OSError:  # there is one of ours, or the file system has no links
            refuse_other(path, ours)
            os.rename(new, path)
    except OSError as error:
        raise DirectoryError(f"writing {path}: {error.strerror}") from error
    finally:
        with deferred(), contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def refuse_other(path: str, ours: Callable[[int], bool]) -> None:
    """Raise DirectoryError where there is anything but a regular file that is ours: it is asked with its descriptor."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        why = "it is a symbolic link" if os.path.islink(path) else error.strerror
        raise DirectoryError(f"{path} is there already, and is not to be replaced: {why}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not ours(fd):
            raise DirectoryError(f"{path} is there already, and is nothing that ipcimg may replace")
    finally:
        os.close(fd)
