"""The image directory: finding sets of images in it, and adding one so that it is whole or not there.

A new set is written into the directory .ipcimg-N.tmp inside the image directory, its manifest last.
Once all of it is on the disk, the file `commit` is added, which lists the files of the old set that
are to go. From then on the set is moved to its place, the manifest last again, and the temporary
directory is removed; meanwhile set N is unfinished and nobody loads it. Without `commit` a temporary
directory is worthless, and an older set N is as whole as it was; with it, whoever comes next moves on
where a killed process stopped, and so completes the set.

A writer holds the lock of the image directory (flock(2)), so a temporary directory that is there
when the lock is taken has lost its writer. Everything is done by names relative to open directories,
and no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from . import digest
from .digest import DigestingFile
from .errors import DirectoryError, ImageError, explain, listed
from .image import ImageFile
from .interrupts import deferred, held
from .manifest import File
from .model import PIECE
from .progress import NOBODY, Progress

KINDS = ("var", "shm", "msg", "sem")
_NUMBER = "(0|[1-9][0-9]{0,9})"
_SET_NAME = re.compile(rf"(?:ipcns-(?:{'|'.join(KINDS)})|ipcimg-manifest)-{_NUMBER}\.img\Z")
_SEGMENT_NAME = re.compile(rf"(?:pagemap-shmem|pages)-{_NUMBER}\.img\Z")
_PAGEMAP_NAME = re.compile(r"pagemap-(?:shmem-)?[0-9]+\.img\Z")
_PAGES_NAME = re.compile(rf"pages-{_NUMBER}\.img\Z")
_TEMPORARY_NAME = re.compile(rf"\.ipcimg-{_NUMBER}\.tmp\Z")
_IDS_NAME = re.compile(rf"ids-{_NUMBER}\.img\Z")

# fsync(2) of a small file is a transaction of the file system's journal. Beyond this many files one
# syncfs(2) is cheaper, although it takes everybody's dirty pages along.
_FSYNC_AT_MOST = 64
_BUFFER = 2 * PIECE


def kind_name(kind: str, ns_id: int) -> str:
    """The image of one kind, var, shm, msg or sem, of set ns_id."""
    return f"ipcns-{kind}-{ns_id}.img"


def manifest_name(ns_id: int) -> str:
    """The manifest of set ns_id."""
    return f"ipcimg-manifest-{ns_id}.img"


def pagemap_name(shmid: int) -> str:
    """The page map of a segment. CRIU does not put the N of the set into it."""
    return f"pagemap-shmem-{shmid}.img"


def pages_name(pages_id: int) -> str:
    """The pages that a page map with this pages_id describes."""
    return f"pages-{pages_id}.img"


def is_pagemap_name(name: str) -> bool:
    """Is it the page map of a segment, of other shared memory, or of a process of CRIU's?"""
    return _PAGEMAP_NAME.match(name) is not None


def is_pages_name(name: str) -> bool:
    """Does a file of this name hold pages?"""
    return _PAGES_NAME.match(name) is not None


def is_data_name(name: str, ns_id: int) -> bool:
    """Can a file of this name belong to set ns_id, beside its manifest?"""
    return name in {kind_name(kind, ns_id) for kind in KINDS} or _SEGMENT_NAME.match(name) is not None


def _who_could_change(status: os.stat_result) -> str | None:
    """Who, beside root and ourselves, could change a file between its check and its use; None for nobody."""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, who could change it meanwhile; chown it, if you trust it"
    if status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):  # with an access control list the group's bits are its mask
        return f"others can write it (mode {stat.S_IMODE(status.st_mode):04o}); chmod it, if you trust it"
    return None


_COMMIT, _NEW_COMMIT = "commit", "commit.new"  # inside the temporary directory


def _temporary_name(ns_id: int) -> str:
    return f".ipcimg-{ns_id}.tmp"


class ImageDirectory:
    """An open image directory; path is its name for people."""

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
        if wary and (why := _who_could_change(os.fstat(self.fd))):
            raise DirectoryError(f"image directory {path}: {why}")

    def __del__(self) -> None:
        with held():
            if getattr(self, "fd", -1) >= 0:
                os.close(self.fd)

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
        """The names in the directory, sorted. Raises DirectoryError."""
        with self.asked():
            return sorted(os.listdir(self.fd))

    def has(self, name: str) -> bool:
        """Is there anything of that name, be it a dangling symbolic link? Raises DirectoryError."""
        with self.asked():
            return _has(self.fd, name)

    def image(self, name: str) -> ImageFile:
        """Open an image for reading. Raises ImageError, also for a symbolic link."""
        path = os.path.join(self.path, name)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            why = "is a symbolic link" if os.path.islink(path) else explain(error).removeprefix(f"{name}: ")
            raise ImageError(path, None, why) from error
        image = ImageFile(fd, path)
        if self._wary and (why_not := _who_could_change(os.fstat(fd))):
            raise ImageError(path, None, why_not)
        return image

    @contextlib.contextmanager
    def being_read(self) -> Iterator[None]:
        """Keep writers out of the directory inside the with block. Raises DirectoryError while one is in it."""
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
        """Is there a directory of that name? Raises DirectoryError where there is nothing."""
        with self.asked():
            return stat.S_ISDIR(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode)

    def parent(self) -> ImageDirectory:
        """The image directory that the symbolic link `parent` leads to. Raises DirectoryError."""
        return ImageDirectory(os.path.join(self.path, "parent"), wary=self._wary, dir_fd=self.fd)

    def sets(self) -> list[int]:
        """The N of each set of images in the directory, finished or not."""
        return sorted({int(match[1]) for name in self.names() if (match := _SET_NAME.match(name))})

    def the_set(self, ns_id: int | None) -> int:
        """The set to read: ns_id, or the only one there is. Raises DirectoryError."""
        sets = self.sets()
        if not sets:
            for name in self.names():
                if match := _TEMPORARY_NAME.match(name):
                    self.refuse_unfinished(int(match[1]))
            raise DirectoryError(f"image directory {self.path}: no images of an IPC namespace (ipcns-*-N.img) in it")
        if ns_id is None:
            if len(sets) > 1:
                raise DirectoryError(
                    f"image directory {self.path}: {len(sets)} sets in it; choose one by --ns-id: {listed(sets)}"
                )
            return sets[0]
        if ns_id not in sets:
            raise DirectoryError(f"image directory {self.path}: no set {ns_id} in it, only {listed(sets)}")
        return ns_id

    def chosen_sets(self, ns_id: int | None) -> list[int]:
        """Set ns_id alone, or all that there are. Raises DirectoryError where there is none."""
        sets = self.sets()
        return sets if ns_id is None and sets else [self.the_set(ns_id)]

    def refuse_unfinished(self, ns_id: int) -> None:
        """Raise DirectoryError where set ns_id is still being written, or its writer has died."""
        name = _temporary_name(ns_id)
        if self.has(name) and not self.is_directory(name):
            raise DirectoryError(f"image directory {self.path}: {name} is not a directory: no dump has left it")
        # While it is only being written, a set that was there before is as whole as it was.
        if self.has(name) and (self.has(f"{name}/{_COMMIT}") or not self.has(manifest_name(ns_id))):
            raise DirectoryError(
                f"image directory {self.path}: set {ns_id} is unfinished: {name} is there, so its dump is still "
                f"running or was killed; `ipcimg recover -D {self.path}` completes or removes it"
            )

    def ids_images(self) -> Iterator[ImageFile]:
        """The ids-PID.img of a CRIU dump, if there is one here."""
        for name in self.names():
            if _IDS_NAME.match(name):
                yield self.image(name)

    def next_pages_id(self) -> int:
        """The first number that no pages-P.img in the directory reaches."""
        used = [int(match[1]) for name in self.names() if (match := _PAGES_NAME.match(name))]
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
    ) -> None:
        self.directory, self.ns_id, self.digest_algorithm, self.progress = directory, ns_id, digest_algorithm, progress
        self.files: dict[str, File] = {}  # those that are closed
        self._replaces: frozenset[str] = frozenset()
        self._moving = False
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
        path = os.path.join(self.directory.path, name)
        self._refuse_others(name)
        try:
            fd = os.open(
                name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._temporary
            )
            with DigestingFile(fd, self.digest_algorithm, self.progress) as raw:
                file = io.BufferedWriter(raw, _BUFFER)  # type: ignore[type-var]
                yield file
                file.flush()
                self.files[name] = File(raw.size, raw.digest)
        except OSError as error:
            raise DirectoryError(f"writing {path}: {explain(error).removeprefix(f'{name}: ')}") from error

    def commit(self) -> None:
        """Everything to the disk, then to its place. The manifest must be the last file written."""
        try:
            self._to_disk()
            for name in self.files:  # again: CRIU takes no lock
                self._refuse_others(name)
            with deferred():
                _write_commit(self._temporary, self._replaces - self.files.keys())
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
        for name in self.files:
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
) -> Iterator[NewSet]:
    """Add set ns_id to the directory: committed at the end of the with block, abandoned on any error.

    to_replace is asked, once no other writer can interfere, which files of the set that is there
    already are to go; it may raise. progress is told of what is written. Raises DirectoryError.
    """
    made: NewSet | None = None
    try:
        with deferred():
            made = NewSet(directory, ns_id, to_replace, digest_algorithm, progress)
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
    with _writing(directory):
        settle(directory)
        os.mkdir(_temporary_name(ns_id), 0o700, dir_fd=directory.fd)
        return _open_temporary(directory, ns_id)


@contextlib.contextmanager
def _writing(directory: ImageDirectory) -> Iterator[None]:
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
    return os.open(_temporary_name(ns_id), flags, dir_fd=directory.fd)


def recover(directory: ImageDirectory) -> dict[int, bool]:
    """As settle(), for whoever does not want to write. Raises DirectoryError, also where a writer is at work."""
    with _writing(directory):
        try:
            return settle(directory)
        finally:
            directory.unlock()


def settle(directory: ImageDirectory) -> dict[int, bool]:
    """Complete or remove what dead writers left: the N of each set, and whether it is complete now. Raises OSError."""
    found = {}
    for name in directory.names():
        if match := _TEMPORARY_NAME.match(name):
            ns_id = int(match[1])
            temporary = _open_temporary(directory, ns_id)
            try:
                if why := _who_could_change(os.fstat(temporary)):
                    raise DirectoryError(f"image directory {directory.path}: {name} {why}")
                found[ns_id] = _has(temporary, _COMMIT)
                if found[ns_id]:
                    _into_place(directory, ns_id, temporary)
                else:
                    _remove_temporary(directory, ns_id, temporary)
            finally:
                os.close(temporary)
    return found


def _write_commit(temporary: int, old: Iterable[str]) -> None:
    """Declare the set complete: from now on it is moved forward, never back."""
    fd = os.open(_NEW_COMMIT, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=temporary)
    with open(fd, "w") as file:
        file.writelines(f"{name}\n" for name in sorted(old))
        file.flush()
        os.fsync(fd)
    os.rename(_NEW_COMMIT, _COMMIT, src_dir_fd=temporary, dst_dir_fd=temporary)
    os.fsync(temporary)


def _into_place(directory: ImageDirectory, ns_id: int, temporary: int) -> None:
    """Move a complete set from its temporary directory to where it belongs, its manifest last.

    CRIU knows neither manifest nor temporary directory, but restores nothing where there are no variables. So these go
    before anything else does, and come when all else is there: who is killed in between leaves no mixture of two sets
    that anybody takes for one.
    """
    manifest, variables = manifest_name(ns_id), kind_name("var", ns_id)
    with open(os.open(_COMMIT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=temporary)) as file:
        old = [name for name in file.read().splitlines() if is_data_name(name, ns_id)]

    def gone(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory.fd)

    def come(name: str) -> None:
        os.rename(name, name, src_dir_fd=temporary, dst_dir_fd=directory.fd)

    if _has(temporary, manifest):
        gone(manifest)
        if _has(temporary, variables):  # else what is in the directory are the new ones already
            gone(variables)
            os.fsync(directory.fd)
            for name in old:
                gone(name)
            for name in sorted(os.listdir(temporary)):
                if is_data_name(name, ns_id) and name != variables:
                    come(name)
            os.fsync(directory.fd)
            come(variables)
        os.fsync(directory.fd)
        come(manifest)
        os.fsync(directory.fd)
    _remove_temporary(directory, ns_id, temporary)
    os.fsync(directory.fd)


def _has(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_temporary(directory: ImageDirectory, ns_id: int, temporary: int) -> None:
    _clear(temporary)
    os.rmdir(_temporary_name(ns_id), dir_fd=directory.fd)


def _clear(temporary: int) -> None:
    for name in os.listdir(temporary):
        os.unlink(name, dir_fd=temporary)
