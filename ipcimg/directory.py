"""The image directory: finding sets of images in it, and adding one so that it is whole or not there.

A new set is written into the directory .ipcimg-N.tmp inside the image directory, its manifest last.
Once all of it is on the disk, the file `commit` is added, which lists the files of the old set that
are to go. From then on the set is moved to its place, the manifest last again, and the temporary
directory is removed; meanwhile set N is unfinished and nobody loads it. What stands beside a set,
inventory.img and stats-dump, comes along, unless it is there and not ours. Without `commit` a temporary
directory is worthless, and an older set N is as whole as it was; with it, whoever comes next moves on
where a killed process stopped, and so completes the set.

A writer holds the lock of the image directory (flock(2)), so a temporary directory that is there
when the lock is taken has lost its writer. Everything is done by names relative to open directories,
and no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from . import codec, digest
from .describe import printable
from .digest import DigestingFile
from .errors import DirectoryError, ImageError, explain
from .image import ImageFile
from .images import (
    COMMIT,
    INVENTORY,
    PARENT,
    STATS_DUMP,
    Images,
    is_data_name,
    kind_name,
    manifest_name,
    number_of_pages,
    number_of_temporary,
    temporary_name,
)
from .interrupts import deferred, finished, held
from .manifest import File
from .model import PIECE
from .newfile import open_new
from .progress import NOBODY, Progress
from .trust import who_could_change

_NEW_COMMIT = "commit.new"  # what COMMIT is before it is whole

# fsync(2) of a small file is a transaction of the file system's journal. Beyond this many files one
# syncfs(2) is cheaper, although it takes everybody's dirty pages along.
_FSYNC_AT_MOST = 64
_BUFFER = 2 * PIECE
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)  # what a file system without them says


class ImageDirectory(Images):
    """An open image directory."""

    def __init__(self, path: str, *, create: bool = False, wary: bool = False, dir_fd: int | None = None) -> None:
        """Open it; with create make it, mode 0700, where it is missing. Raises DirectoryError.

        wary refuses a directory, and images in it, that anybody but root and ourselves could change
        after they have been checked.
        """
        self.path, self._created, self._wary = path, False, wary
        name = os.path.basename(path) if dir_fd is not None else path
        try:
            if create and dir_fd is None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
                    self._created = True
            self.fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        except OSError as error:
            raise DirectoryError(f"image directory {path}: {explain(error).removeprefix(f'{name}: ')}") from error
        if wary and (why := who_could_change(os.fstat(self.fd))):
            raise DirectoryError(f"image directory {path}: {why}")

    def __del__(self) -> None:
        with held():
            if getattr(self, "fd", -1) >= 0:
                os.close(self.fd)

    @property
    def remedy(self) -> str:
        """See Images."""
        return f"; `ipcimg recover -D {self.path}` completes or removes it"

    def remove_if_created(self) -> None:
        """Undo what create did, if it did anything and nothing has come into the directory since."""
        if self._created:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Turn an OSError raised inside into a DirectoryError."""
        try:
            yield
        except OSError as error:
            raise DirectoryError(f"image directory {self.path}: {explain(error)}") from error

    def names(self) -> list[str]:
        """See Images."""
        with self.asked():
            return sorted(os.listdir(self.fd))

    def has(self, name: str) -> bool:
        """See Images."""
        with self.asked():
            return _has(self.fd, name)

    def image(self, name: str) -> ImageFile:
        """See Images."""
        path = os.path.join(self.path, printable(name))
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            is_link = os.path.islink(os.path.join(self.path, name))
            why = "is a symbolic link" if is_link else explain(error).removeprefix(f"{name}: ")
            raise ImageError(path, None, why) from error
        image = ImageFile(fd, path)
        if self._wary and (why_not := who_could_change(os.fstat(fd))):
            raise ImageError(path, None, why_not)
        return image

    @contextlib.contextmanager
    def being_read(self) -> Iterator[None]:
        """See Images."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryError(f"image directory {self.path}: a dump into it is running") from None
        try:
            yield
        finally:
            self.unlock()

    def unlock(self) -> None:
        """Give up the lock. Should that fail, the work is done all the same, and the lock goes with the process."""
        with contextlib.suppress(OSError):
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def is_directory(self, name: str) -> bool:
        """See Images."""
        with self.asked():
            return stat.S_ISDIR(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode)

    def parent(self) -> ImageDirectory:
        """See Images."""
        path = os.path.join(self.path, PARENT)
        try:
            return ImageDirectory(path, wary=self._wary, dir_fd=self.fd)
        except DirectoryError as error:
            with contextlib.suppress(OSError):
                raise DirectoryError(f"{error}; it is a link to {os.readlink(path)}") from error
            raise

    def next_pages_id(self) -> int:
        """The first number that no pages-P.img in the directory reaches."""
        used = [number for name in self.names() if (number := number_of_pages(name)) is not None]
        return max(used, default=0) + 1


class NewSet:
    """A set of images being written. Made by new_set()."""

    def __init__(
        self,
        directory: ImageDirectory,
        ns_id: int,
        to_replace: Callable[[], Iterable[str]],
        digest_algorithm: str,
        progress: Progress,
        durable: bool,
    ) -> None:
        self.directory, self.ns_id, self.digest_algorithm, self.progress = directory, ns_id, digest_algorithm, progress
        self._durable = durable
        self.files: dict[str, File] = {}  # those that are closed
        self._beside: list[str] = []
        self._replaces: frozenset[str] = frozenset()
        self._moving = self._linked = False
        self._temporary = _take_temporary(directory, ns_id)
        try:
            self._replaces = frozenset(to_replace())
        except BaseException:
            self.abandon()
            self.close()
            raise

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A new file of the set, mode 0600, open for writing inside the with block."""
        with self.unbuffered(name) as raw:
            file = io.BufferedWriter(raw, _BUFFER)  # type: ignore[type-var]
            yield file
            file.flush()

    @contextlib.contextmanager
    def unbuffered(self, name: str) -> Iterator[DigestingFile]:
        """As file(), for who writes large pieces."""
        path = os.path.join(self.directory.path, name)
        self._refuse_others(name)
        try:
            with DigestingFile(open_new(name, self._temporary), self.digest_algorithm, self.progress) as raw:
                yield raw
                self.files[name] = File(raw.size, raw.digest)
        except OSError as error:
            raise DirectoryError(f"writing {path}: {explain(error).removeprefix(f'{name}: ')}") from error

    @property
    def keeps_link(self) -> bool:
        """Has the directory a link `parent` that stays as it is?"""
        return PARENT not in self._replaces and self.directory.has(PARENT)

    def link(self, target: str) -> None:
        """Have the symbolic link `parent` made with the set, or replaced if it is to go."""
        try:
            os.symlink(target, PARENT, dir_fd=self._temporary)
        except OSError as error:
            raise DirectoryError(
                f"image directory {self.directory.path}: linking its parent: {explain(error)}"
            ) from error
        self._linked = True

    @contextlib.contextmanager
    def beside(self, name: str) -> Iterator[BinaryIO]:
        """INVENTORY or STATS_DUMP, which come along with the set and are no part of it, open as in file()."""
        path = os.path.join(self.directory.path, name)
        try:
            with open(open_new(name, self._temporary), "wb") as file:
                self._beside.append(name)
                yield file
        except OSError as error:
            raise DirectoryError(f"writing {path}: {explain(error).removeprefix(f'{name}: ')}") from error

    def commit(self) -> None:
        """Everything to the disk, then to its place. The manifest must be the last file written."""
        try:
            if self._durable:
                self._to_disk()
            new = {*self.files, PARENT} if self._linked else self.files.keys()
            for name in new:  # again: CRIU takes no lock
                self._refuse_others(name)
            with deferred():
                finished()  # from here on it goes forward
                _write_commit(self._temporary, self._replaces - new)
                self._moving = True
                _into_place(self.directory, self.ns_id, self._temporary)
        except OSError as error:
            unfinished = "; the next dump of this set completes it" if self._moving else ""
            raise DirectoryError(f"image directory {self.directory.path}: {explain(error)}{unfinished}") from error

    def _refuse_others(self, name: str) -> None:
        if name not in self._replaces and self.directory.has(name):
            path = os.path.join(self.directory.path, name)
            raise DirectoryError(f"{path} exists, and is not of set {self.ns_id}")

    def abandon(self) -> None:
        """Leave the directory as it was; or unfinished but complete, where moving had begun."""
        if not self._moving:
            _remove_temporary(self.directory, self.ns_id, self._temporary)

    def close(self) -> None:
        """Give up the lock."""
        with contextlib.suppress(OSError):  # the descriptor is gone in any case
            os.close(self._temporary)
        self.directory.unlock()

    def _to_disk(self) -> None:
        if len(self.files) > _FSYNC_AT_MOST:
            from . import libc  # the inspector does without the kernel's side

            libc.syncfs(self._temporary)
            return
        for name in (*self.files, *self._beside):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._temporary)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        os.fsync(self._temporary)


@contextlib.contextmanager
def new_set(
    directory: ImageDirectory,
    ns_id: int,
    to_replace: Callable[[], Iterable[str]] = tuple,
    digest_algorithm: str = digest.DEFAULT,
    progress: Progress = NOBODY,
    durable: bool = True,
) -> Iterator[NewSet]:
    """Add set ns_id to the directory: committed at the end of the with block, abandoned on any error.

    to_replace is asked, once no other writer can interfere, which files of the set that is there
    already are to go; it may raise. progress is told of what is written. durable says that the set is
    to outlive a crash of the machine: its data are on the disk first. Raises DirectoryError.
    """
    made: NewSet | None = None
    try:
        with deferred():
            made = NewSet(directory, ns_id, to_replace, digest_algorithm, progress, durable)
        yield made
        made.commit()
    except BaseException:
        if made is not None:
            with deferred():
                made.abandon()
        raise
    finally:
        if made is not None:
            made.close()


def _take_temporary(directory: ImageDirectory, ns_id: int) -> int:
    """Lock the image directory and make the temporary one; what dead writers left is completed or removed first."""
    with being_written(directory):
        settle(directory)
        os.mkdir(temporary_name(ns_id), 0o700, dir_fd=directory.fd)
        return _open_temporary(directory, ns_id)


@contextlib.contextmanager
def being_written(directory: ImageDirectory) -> Iterator[None]:
    """Take the lock, which stays; what goes wrong inside the with block is a DirectoryError."""
    with directory.asked():
        try:
            # One writer at a time, also of different sets: they share the numbers of pages files.
            fcntl.flock(directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryError(
                f"image directory {directory.path}: another dump into it, or a restore from it, is running"
            ) from None
        yield


def _open_temporary(directory: ImageDirectory, ns_id: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(temporary_name(ns_id), flags, dir_fd=directory.fd)


def recover(directory: ImageDirectory) -> dict[int, bool]:
    """As settle(), for whoever does not want to write. Raises DirectoryError, also where a writer is at work."""
    with being_written(directory):
        try:
            return settle(directory)
        finally:
            directory.unlock()


def settle(directory: ImageDirectory) -> dict[int, bool]:
    """Complete or remove what dead writers left: the N of each set, and whether it is complete now. Raises OSError."""
    found = {}
    for name in directory.names():
        if (ns_id := number_of_temporary(name)) is not None:
            temporary = _open_temporary(directory, ns_id)
            try:
                if why := who_could_change(os.fstat(temporary)):
                    raise DirectoryError(f"image directory {directory.path}: {name} {why}")
                found[ns_id] = _has(temporary, COMMIT)
                if found[ns_id]:
                    _into_place(directory, ns_id, temporary)
                else:
                    _remove_temporary(directory, ns_id, temporary)
            finally:
                os.close(temporary)
    return found


def _write_commit(temporary: int, old: Iterable[str]) -> None:
    """Declare the set complete: from now on it is moved forward, never back."""
    with open(open_new(_NEW_COMMIT, temporary), "w") as file:
        file.writelines(f"{name}\n" for name in sorted(old))
        file.flush()
        os.fsync(file.fileno())
    os.rename(_NEW_COMMIT, COMMIT, src_dir_fd=temporary, dst_dir_fd=temporary)
    os.fsync(temporary)


def _into_place(directory: ImageDirectory, ns_id: int, temporary: int) -> None:
    """Move a complete set from its temporary directory to where it belongs, its manifest last.

    CRIU knows neither manifest nor temporary directory, but restores nothing where there are no variables. So these go
    before anything else does, and come when all else is there: who is killed in between leaves no mixture of two sets
    that anybody takes for one.
    """
    manifest, variables = manifest_name(ns_id), kind_name("var", ns_id)

    def of_set(name: str) -> bool:
        return name == PARENT or is_data_name(name, ns_id)

    with open(os.open(COMMIT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=temporary)) as file:
        old = [name for name in file.read().splitlines() if of_set(name)]

    def gone(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory.fd)

    def come(name: str) -> None:
        os.rename(name, name, src_dir_fd=temporary, dst_dir_fd=directory.fd)

    def come_beside(name: str) -> None:
        try:
            os.link(name, name, src_dir_fd=temporary, dst_dir_fd=directory.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EEXIST, *_NO_LINKS):
                raise
            if not _has(directory.fd, name) or is_ours(directory, name):
                come(name)

    if _has(temporary, manifest):
        gone(manifest)
        if _has(temporary, variables):  # else what is in the directory are the new ones already
            gone(variables)
            os.fsync(directory.fd)
            for name in old:
                gone(name)
            for name in sorted(os.listdir(temporary)):
                if of_set(name) and name != variables:
                    come(name)
            os.fsync(directory.fd)
            come(variables)
        for name in (INVENTORY, STATS_DUMP):
            if _has(temporary, name):
                come_beside(name)
        os.fsync(directory.fd)
        come(manifest)
        os.fsync(directory.fd)
    _remove_temporary(directory, ns_id, temporary)
    os.fsync(directory.fd)


def is_ours(directory: ImageDirectory, name: str) -> bool:
    """Is INVENTORY or one of the STATS in the directory ours? What does not say so is CRIU's. Raises DirectoryError."""
    try:
        return directory.has(name) and codec.is_ours(directory.image(name))
    except ImageError:
        return False


def _has(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_temporary(directory: ImageDirectory, ns_id: int, temporary: int) -> None:
    _clear(temporary)
    os.rmdir(temporary_name(ns_id), dir_fd=directory.fd)


def _clear(temporary: int) -> None:
    for name in os.listdir(temporary):
        os.unlink(name, dir_fd=temporary)
