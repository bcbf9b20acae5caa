"""A place with named images, wherever it is: which sets of images are in it, and which files make one up."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator

from .errors import DirectoryError, listed
from .image import ImageFile

KINDS = ("var", "shm", "msg", "sem")
_NUMBER = "(0|[1-9][0-9]{0,9})"
_SET_NAME = re.compile(rf"(?:ipcns-(?:{'|'.join(KINDS)})|ipcimg-manifest)-{_NUMBER}\.img\Z")
_SEGMENT_NAME = re.compile(rf"(?:pagemap-shmem|pages)-{_NUMBER}\.img\Z")
_PAGEMAP_NAME = re.compile(r"pagemap-(?:shmem-)?[0-9]+\.img\Z")
_PAGES_NAME = re.compile(rf"pages-{_NUMBER}\.img\Z")
_TEMPORARY_NAME = re.compile(rf"\.ipcimg-{_NUMBER}\.tmp\Z")
_IDS_NAME = re.compile(rf"ids-{_NUMBER}\.img\Z")

PARENT = "parent"  # the symbolic link to the directory with pages of an earlier set; see link.py
# Of a dump as a whole; see inventory.py.
INVENTORY, STATS_DUMP, STATS_RESTORE = "inventory.img", "stats-dump", "stats-restore"
DETACHED = "ipcimg-detached"  # where what was dumped is put aside when a container is detached; see detach.py
SEGMENTS = "ipcimg-segments"  # the list for criu's plugin, which is then in its place
COMMIT = "commit"  # inside the temporary directory of a set; see directory.py


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


def kind_of_name(name: str) -> str:
    """Of a file of a set: one of KINDS, or pagemap, pages, manifest."""
    if is_pages_name(name):
        return "pages"
    if is_pagemap_name(name):
        return "pagemap"
    return name.split("-")[1]


def is_set_name(name: str) -> bool:
    """Does an image of this name tell that there is a set? The files of segments do not."""
    return _SET_NAME.match(name) is not None


def is_segment_name(name: str) -> bool:
    """Can a file of this name be the page map or the pages of a segment?"""
    return _SEGMENT_NAME.match(name) is not None


def is_pagemap_name(name: str) -> bool:
    """Is it the page map of a segment, of other shared memory, or of a process of CRIU's?"""
    return _PAGEMAP_NAME.match(name) is not None


def is_pages_name(name: str) -> bool:
    """Does a file of this name hold pages?"""
    return number_of_pages(name) is not None


def is_data_name(name: str, ns_id: int) -> bool:
    """Can a file of this name belong to set ns_id, beside its manifest?"""
    return name in {kind_name(kind, ns_id) for kind in KINDS} or is_segment_name(name)


def temporary_name(ns_id: int) -> str:
    """The directory in which set ns_id is written."""
    return f".ipcimg-{ns_id}.tmp"


def number_of_temporary(name: str) -> int | None:
    """The N of the set that is written in a directory of this name; None where it is none of these."""
    match = _TEMPORARY_NAME.match(name)
    return int(match[1]) if match else None


def number_of_segments(name: str) -> int | None:
    """The N of the set whose segments are in an image of this name; None where it is none of these."""
    match = _SET_NAME.match(name)
    return int(match[1]) if match and name == kind_name("shm", int(match[1])) else None


def number_of_variables(name: str) -> int | None:
    """The N of the set whose settings are in an image of this name; None where it is none of these."""
    match = _SET_NAME.match(name)
    return int(match[1]) if match and name == kind_name("var", int(match[1])) else None


def number_of_pages(name: str) -> int | None:
    """The pages_id of a file with pages; None where it is none."""
    match = _PAGES_NAME.match(name)
    return int(match[1]) if match else None


class Images(ABC):
    """Images by their names; path is the name of the place for people."""

    path: str

    @property
    def remedy(self) -> str:
        """What there is to be done about an unfinished set: the end of a line."""
        return ""

    @contextlib.contextmanager
    def being_read(self) -> Iterator[None]:
        """Keep writers out inside the with block, where there can be any. Raises DirectoryError while one is in."""
        yield

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all that there is, sorted. Raises DirectoryError."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Is there anything of that name, be it a dangling symbolic link? Raises DirectoryError."""

    @abstractmethod
    def image(self, name: str) -> ImageFile:
        """Open an image for reading. Raises ImageError, also for a symbolic link."""

    @abstractmethod
    def is_directory(self, name: str) -> bool:
        """Is there a directory of that name? Raises DirectoryError where there is nothing."""

    @abstractmethod
    def parent(self) -> Images:
        """The images that the symbolic link `parent` leads to. Raises DirectoryError."""

    def generations(self, count: int) -> Iterator[Images]:
        """So many directories: this one, its parent, the parent of that. Raises DirectoryError."""
        one: Images = self
        for n in range(count):
            one = one.parent() if n else one
            yield one

    def sets(self) -> list[int]:
        """The N of each set of images in the directory, finished or not."""
        return sorted({int(match[1]) for name in self.names() if (match := _SET_NAME.match(name))})

    def the_set(self, ns_id: int | None) -> int:
        """The set to read: ns_id, or the only one there is. Raises DirectoryError."""
        sets = self.sets()
        if not sets:
            for name in self.names():
                if (unfinished := number_of_temporary(name)) is not None:
                    self.refuse_unfinished(unfinished)
            pod = "; those of a pod are in ipc, below it" if self.has("ipc") else ""
            raise DirectoryError(
                f"image directory {self.path}: no images of an IPC namespace (ipcns-*-N.img) in it{pod}"
            )
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

    def refuse_detached(self) -> None:
        """Raise DirectoryError where the objects of a dump were put aside: the set of its pod has them."""
        if self.has(DETACHED):
            raise DirectoryError(
                f"image directory {self.path}: is detached from a pod, which has its objects; "
                f"`ipcimg pod detach --undo {self.path}` brings back what CRIU has dumped"
            )

    def refuse_unfinished(self, ns_id: int) -> None:
        """Raise DirectoryError where set ns_id is still being written, or its writer has died."""
        name = temporary_name(ns_id)
        if self.has(name) and not self.is_directory(name):
            raise DirectoryError(f"image directory {self.path}: {name} is not a directory: no dump has left it")
        # While it is only being written, a set that was there before is as whole as it was.
        if self.has(name) and (self.has(f"{name}/{COMMIT}") or not self.has(manifest_name(ns_id))):
            raise DirectoryError(
                f"image directory {self.path}: set {ns_id} is unfinished: {name} is there, so its dump is still "
                f"running or was killed{self.remedy}"
            )

    def ids_images(self) -> Iterator[ImageFile]:
        """The ids-PID.img of a CRIU dump, if there is one here."""
        for name in self.names():
            if _IDS_NAME.match(name):
                yield self.image(name)
