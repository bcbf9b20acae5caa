"""The images in a directory at a URL.

What is read is of one listing. All images of a set but the pages are fetched once, whole, and read from a copy then, as
often as somebody goes through them. After each fetch the store is asked whether the image is still the one of the
listing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from .errors import DirectoryError, ImageError
from .image import ImageFile, ImagePart
from .images import Images, is_pagemap_name, is_set_name, manifest_name, number_of_temporary, temporary_name
from .remote import Entry, Store
from .spool import Spool

_BLOCK = 8 << 20  # bytes fetched at a time
_BLOCKS = 4  # of pages that are kept: of a segment and of the one that comes next


def opened(url: str) -> StoredImages:
    """The images of the directory at a URL. Raises DirectoryError where there is none, or nobody can get at it."""
    return images_of(Store(url))


def images_of(store: Store) -> StoredImages:
    """As opened()."""
    entries = store.listed()
    if entries is None:
        raise DirectoryError(f"image directory {store.path}: No such directory, or nothing in it")
    return StoredImages(store, entries)


class StoredImages(Images):
    """The images in a directory of a store, as they were when it was opened."""

    def __init__(self, store: Store, entries: Mapping[str, Entry]) -> None:
        """entries are what the store has listed."""
        self.path, self._store, self._entries = store.path, store, entries
        self._spool = Spool()
        self._copies: dict[str, ImageFile] = {}
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()  # the last that was used comes last
        self._lock = threading.Lock()

    @property
    def remedy(self) -> str:
        """See Images."""
        return f"; `ipcimg recover -D {self.path}` removes it"

    def names(self) -> list[str]:
        """See Images."""
        return sorted(self._entries)

    def has(self, name: str) -> bool:
        """See Images. Nothing that is in a directory below this one is there."""
        return name in self._entries

    def image(self, name: str) -> ImageFile:
        """See Images."""
        path, entry = self._store.path_of(name), self._entries.get(name)
        if entry is None:
            raise ImageError(path, None, "No such file or directory")
        if entry.kind != "file":
            raise ImageError(path, None, "is a symbolic link" if entry.kind == "link" else "not a regular file")
        if entry.size is None:
            raise ImageError(path, None, "the store does not tell its size")
        is_copied = is_set_name(name) or is_pagemap_name(name) or number_of_temporary(name) is not None
        return ImagePart(_Copied(self, name) if is_copied else _Blocks(self, name), 0, entry.size, path)

    def is_directory(self, name: str) -> bool:
        """See Images."""
        if name not in self._entries:
            raise DirectoryError(f"{self._store.path_of(name)}: No such file or directory")
        return self._entries[name].kind == "directory"

    def parent(self) -> Images:
        """See Images. There are no links in a store, and those of another host are not followed."""
        raise DirectoryError(
            f"image directory {self.path}: some of its pages are in those of its parent, which is not looked for at a "
            "URL; copy both to this machine"
        )

    def refuse_unfinished(self, ns_id: int) -> None:
        """See Images."""
        name = temporary_name(ns_id)
        if not self.has(name) or self.is_directory(name):
            super().refuse_unfinished(ns_id)
        elif not self.has(manifest_name(ns_id)):
            raise DirectoryError(
                f"image directory {self.path}: set {ns_id} is unfinished: {name} is there, so its dump is still "
                f"running or was killed{self.remedy}"
            )

    def is_as(self, name: str, before: StoredImages | None) -> bool:
        """Is there what was there before, as far as the store tells, or neither?"""
        entry, old = self._entries.get(name), None if before is None else before._entries.get(name)
        return entry is old if entry is None or old is None else entry.is_as(old)

    def copied(self, name: str) -> ImageFile:
        """The whole image, from the store the first time. Raises ImageError."""
        with self._lock:
            if name not in self._copies:
                size = self._entries[name].size or 0
                parts = (self._fetched(name, start) for start in range(0, size, _BLOCK))
                self._copies[name] = self._spool.add(parts, self._store.path_of(name))
            return self._copies[name]

    def block(self, name: str, number: int) -> bytes:
        """Bytes number × _BLOCK and on of an image, or as many as there are. Raises ImageError."""
        with self._lock:
            found = self._blocks.pop((name, number), None)
            if found is None:
                found = self._fetched(name, number * _BLOCK)
                if len(self._blocks) == _BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks[name, number] = found
            return found

    def _fetched(self, name: str, start: int) -> bytes:
        entry = self._entries[name]
        return self._store.read(name, start, min(start + _BLOCK, entry.size or 0), entry)


class _Copied:
    """An image that is read from its copy."""

    def __init__(self, images: StoredImages, name: str) -> None:
        self._images, self._name = images, name

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        return self._images.copied(self._name).read_some(view, offset) if len(view) else 0


class _Blocks:
    """An image that is too large for that, or of which only the head matters: read from front to back, in blocks."""

    def __init__(self, images: StoredImages, name: str) -> None:
        self._images, self._name = images, name

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        if not len(view):
            return 0
        number, at = divmod(offset, _BLOCK)
        part = memoryview(self._images.block(self._name, number))[at : at + len(view)]
        view[: len(part)] = part
        return len(part)
