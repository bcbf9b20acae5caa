"""Detaching a container's dump from the IPC objects of its pod, which are dumped and restored once, by themselves.

CRIU dumps a copy of all objects of a shared namespace with each container, and fails to make them a second time. When a
container is detached, its image directory has

    ipcns-var-N.img     the settings of the pod, but for those that would destroy segments or renumber objects
    ipcimg-segments     the segments of the pod, for criu's plugin: a line "ID SIZE" each, in decimal, by their ids
    ipcimg-detached/    what CRIU has dumped, ipcns-{var,shm,msg,sem}-N.img; and `pod`, of which set the objects are,
                        with the digests of what is in the image directory then

and all else as it was, the pages of segments too. CRIU takes a missing image for "no objects", but restores nothing
without settings. So these go before anything else does, and come when all else is done, either way: who is killed in
between leaves what criu refuses, and whoever comes next begins by undoing it. criu asks nobody before it dumps into the
directory again: so what is there is compared with the digests, and what is not ours is neither taken for detached nor
removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from . import codec, criudump, diff
from .directory import ImageDirectory, being_written
from .errors import DirectoryError, ObjectError, and_more, listed
from .images import DETACHED, INVENTORY, KINDS, SEGMENTS, is_set_name, kind_name, manifest_name, number_of_variables
from .imageset import ImageSet
from .interrupts import deferred
from .model import Variables
from .newfile import open_new

_POD = "pod"  # in DETACHED: lines "DIGEST NAME", of the manifest of the pod's set under this name, then of _told()
_LINE = re.compile(r"([0-9a-f]{64}) (\S+)\n")
_LARGEST = 1 << 20  # bytes of that file
_NEW = ".new"  # what is to be put into the image directory, as long as it is in DETACHED
_GRANULE = 4096  # bytes: how exactly segments are compared
_DIGEST = "sha256"
# What a runtime's checkpoint may find otherwise than the dump of the pod, and what a detached container leaves out.
_LEFT_OUT = ("shm_rmid_forced", "shm_next_id", "msg_next_id", "sem_next_id")


@dataclass(frozen=True, slots=True)
class Pod:
    """What was dumped of the namespace that the containers share."""

    path: str  # of its image directory
    digest: str  # hexadecimal: which set it is
    summary: diff.Summary  # what is in it

    @property
    def variables(self) -> Variables:
        """The settings that a detached container has."""
        return dataclasses.replace(
            self.summary.variables, shm_rmid_forced=0, shm_next_id=None, msg_next_id=None, sem_next_id=None
        )

    @property
    def segments(self) -> dict[int, int]:
        """Id and size in bytes of each segment."""
        return {one.fields["id"]: one.fields["size"] for one in self.summary.objects["shm"].values()}


def pod(directory: str | os.PathLike[str], ns_id: int | None = None) -> Pod:
    """Read the set that was dumped of a pod. Raises DirectoryError, ImageError; also for a part of a namespace."""
    opened = ImageDirectory(os.fspath(directory), wary=True)
    n = _set_of_pod(opened, ns_id)
    images = ImageSet(opened, n)
    if images.manifest is None:
        raise _no_manifest(opened, n)
    if images.manifest.selection is not None or images.moved:
        what = f"a part, {images.manifest.selection}" if images.manifest.selection else "not of one moment"
        raise DirectoryError(f"image directory {opened.path}: set {n} is {what}: it cannot be that of a pod")
    images.verify(images.names(pages=False))
    summary = diff.summarize(images.contents, _GRANULE)  # which compares the digests of pages
    return Pod(opened.path, _digest_of(opened, n), summary)


def pod_digest(directory: str | os.PathLike[str], ns_id: int | None = None) -> str:
    """Pod.digest of a set, without reading it. Raises DirectoryError, ImageError."""
    opened = ImageDirectory(os.fspath(directory), wary=True)
    return _digest_of(opened, _set_of_pod(opened, ns_id))


def _set_of_pod(directory: ImageDirectory, ns_id: int | None) -> int:
    sets = directory.sets()
    if ns_id is None and len(sets) > 1:
        raise DirectoryError(f"image directory {directory.path}: sets {listed(sets)} in it; that of a pod is one alone")
    return directory.the_set(ns_id)


def _digest_of(directory: ImageDirectory, n: int) -> str:
    if not directory.has(manifest_name(n)):
        raise _no_manifest(directory, n)
    return _digest(directory, manifest_name(n))


def _no_manifest(directory: ImageDirectory, n: int) -> DirectoryError:
    return DirectoryError(f"image directory {directory.path}: set {n} has no manifest: ipcimg has not dumped it")


def detach(directory: str | os.PathLike[str], from_pod: Pod, ns_id: int | None = None) -> bool:
    """Detach the dump of a container; False where it is detached from this pod already.

    directory is one that criu has dumped into; a set of ipcimg's may have taken the place of CRIU's.
    ns_id chooses the namespace, should it have several. Whatever a killed process left is undone first.
    Raises DirectoryError, also where something was dumped into it since it was detached, ImageError, and
    ObjectError where the container has dumped anything but what the pod has: then the directory stays as it is.
    """
    with _opened(directory) as opened:
        if (other := _detached_from(opened)) is not None:
            if other != from_pod.digest:
                raise DirectoryError(
                    f"image directory {opened.path}: is detached from another set than that of {from_pod.path} "
                    f"({other[:16]}…, not {from_pod.digest[:16]}…)"
                )
            return False
        _undo(opened)
        if opened.has(SEGMENTS):
            raise DirectoryError(f"{os.path.join(opened.path, SEGMENTS)} is there, and of no detached dump; remove it")
        n = criudump.namespace_to_replace(opened, ns_id, hint="; a container of a pod is in one alone")
        _compare(opened, n, from_pod)
        with deferred():
            try:
                _detach(opened, n, from_pod)
            except BaseException:
                _undo(opened)
                raise
        return True


def undo(directory: str | os.PathLike[str]) -> bool:
    """Have a detached directory as CRIU has left it; False where nothing was detached. Raises DirectoryError."""
    with _opened(directory) as opened, deferred():
        return _undo(opened)


def detached_from(directory: str | os.PathLike[str]) -> str | None:
    """The digest of the pod that a container is detached from; None where it is not, or not wholly.

    Raises DirectoryError, also where something was dumped into it since, ImageError.
    """
    opened = ImageDirectory(os.fspath(directory), wary=True)
    with opened.being_read():
        return _detached_from(opened)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[ImageDirectory]:
    """The directory, in which nobody else writes inside the with block."""
    directory = ImageDirectory(os.fspath(path), wary=True)
    with being_written(directory):
        try:
            yield directory
        finally:
            directory.unlock()


def _compare(directory: ImageDirectory, n: int, from_pod: Pod) -> None:
    """Raise ObjectError where a container has dumped something else than the pod. Raises ImageError."""
    images = ImageSet(directory, n)
    images.verify(images.names(pages=False))
    summary = diff.summarize(images.contents, _GRANULE)
    differences = [
        one.words("the pod", "the container")
        for one in diff.compare(from_pod.summary, summary)
        if not (one.kind == "var" and one.what in _LEFT_OUT)
    ]
    if differences:
        raise ObjectError(
            f"image directory {directory.path}: is not of the moment of the pod, {from_pod.path}: "
            f"{and_more(differences)}"
        )


# ---- what is where -------------------------------------------------------------------------


def _originals(directory: ImageDirectory) -> ImageDirectory | None:
    """The directory with what CRIU has dumped, if it is there."""
    if not directory.has(DETACHED):
        return None
    path = os.path.join(directory.path, DETACHED)
    if not directory.is_directory(DETACHED):  # nor a link to one
        raise DirectoryError(f"{path} is not a directory: ipcimg has not made it")
    return ImageDirectory(path, wary=True, dir_fd=directory.fd)


def _variables(directory: ImageDirectory) -> str | None:
    """The name of the settings in a directory of originals, if they are there."""
    return next((name for name in directory.names() if number_of_variables(name) is not None), None)


def _told(directory: ImageDirectory) -> list[str]:
    """The files that tell which objects a dump has, and whether it is another dump: criu writes inventory.img anew."""
    return [name for name in directory.names() if is_set_name(name) or name in (SEGMENTS, INVENTORY)]


def _digest(directory: ImageDirectory, name: str) -> str:
    return directory.image(name).digest(_DIGEST).hex()


def _record(originals: ImageDirectory) -> dict[str, str]:
    """What is in _POD: digests by name. Raises DirectoryError, ImageError."""
    text = originals.image(_POD).file().read(_LARGEST).decode("ascii", "replace")
    record = {name: digest for digest, name in _LINE.findall(text)}
    if "".join(f"{digest} {name}\n" for name, digest in record.items()) != text or _POD not in record:
        raise DirectoryError(f"{os.path.join(originals.path, _POD)}: ipcimg has not written it")
    return record


def _detached_from(directory: ImageDirectory) -> str | None:
    """See detached_from()."""
    originals = _originals(directory)
    variables = None if originals is None else _variables(originals)
    if originals is None or variables is None or not directory.has(variables):
        return None
    record = _record(originals)
    from_pod = record.pop(_POD)
    _refuse_foreign(directory, originals, record)
    if missing := sorted(record.keys() - _told(directory)):
        raise DirectoryError(
            f"image directory {directory.path}: {listed(missing)}, which it had when it was detached, is gone; "
            f"`ipcimg pod detach --undo {directory.path}` brings back what CRIU has dumped"
        )
    return from_pod


def _refuse_foreign(directory: ImageDirectory, originals: ImageDirectory, record: dict[str, str]) -> None:
    """Raise DirectoryError where something has come into the directory that is not ours to remove; ImageError."""
    moved, variables = originals.names(), _variables(originals)
    halfway = variables is None or not directory.has(variables)  # images that are to be moved, or are back, are there

    def is_known(name: str) -> bool:
        return _digest(directory, name) == record[name] if name in record else halfway and name not in moved

    for name in _told(directory):
        if not is_known(name):
            raise DirectoryError(
                f"image directory {directory.path}: was dumped into since it was detached: {name} is another one; "
                f"remove {DETACHED} and {SEGMENTS}, if what was dumped last is meant"
            )


# ---- the steps -----------------------------------------------------------------------------


def _detach(directory: ImageDirectory, n: int, from_pod: Pod) -> None:
    """Raises OSError."""
    os.mkdir(DETACHED, 0o700, dir_fd=directory.fd)
    originals = ImageDirectory(os.path.join(directory.path, DETACHED), wary=True, dir_fd=directory.fd)
    variables = kind_name("var", n)
    to_move = [name for name in (manifest_name(n), *(kind_name(kind, n) for kind in KINDS)) if directory.has(name)]
    with _new_file(originals, SEGMENTS + _NEW) as file:
        file.writelines(f"{shmid} {size}\n".encode() for shmid, size in sorted(from_pod.segments.items()))
    with _new_file(originals, variables + _NEW) as file:
        codec.encode_variables(file, from_pod.variables)
    record = {_POD: from_pod.digest}
    record |= {name: _digest(directory, name) for name in _told(directory) if name not in to_move}
    record |= {name: _digest(originals, name + _NEW) for name in (SEGMENTS, variables)}
    with _new_file(originals, _POD) as file:
        file.writelines(f"{digest} {name}\n".encode() for name, digest in record.items())
    _sync(originals, directory)

    def move(name: str, source: ImageDirectory, target: ImageDirectory, new_name: str) -> None:
        os.rename(name, new_name, src_dir_fd=source.fd, dst_dir_fd=target.fd)

    move(variables, directory, originals, variables)
    _sync(originals, directory)
    for name in to_move:
        if name != variables:
            move(name, directory, originals, name)
    move(SEGMENTS + _NEW, originals, directory, SEGMENTS)
    _sync(originals, directory)
    move(variables + _NEW, originals, directory, variables)
    _sync(originals, directory)


def _undo(directory: ImageDirectory) -> bool:
    """See undo(); of what a killed process left as well. Raises OSError, DirectoryError, ImageError."""
    originals = _originals(directory)
    if originals is None:
        return False
    names, variables = originals.names(), _variables(originals)
    ours = {_POD, SEGMENTS + _NEW} | {name for name in names if is_set_name(name.removesuffix(_NEW))}
    moved = [name for name in names if is_set_name(name)]
    for name in names:
        if name not in ours:
            raise DirectoryError(f"{os.path.join(originals.path, name)}: ipcimg has not put it there")
    if moved:  # else nothing of ours is in the directory
        _refuse_foreign(directory, originals, _record(originals))
    if variables is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(variables, dir_fd=directory.fd)
        _sync(directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SEGMENTS, dir_fd=directory.fd)
    for name in sorted(moved, key=lambda name: name == variables):  # which come last
        _sync(originals, directory)
        os.rename(name, name, src_dir_fd=originals.fd, dst_dir_fd=directory.fd)
    _sync(originals, directory)
    for name in originals.names():
        os.unlink(name, dir_fd=originals.fd)
    os.rmdir(DETACHED, dir_fd=directory.fd)
    _sync(directory)
    return True


@contextlib.contextmanager
def _new_file(directory: ImageDirectory, name: str) -> Iterator[BinaryIO]:
    """A new file, mode 0600, on the disk at the end of the with block. Raises OSError."""
    with open(open_new(name, directory.fd), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(*directories: ImageDirectory) -> None:
    for directory in directories:
        os.fsync(directory.fd)
