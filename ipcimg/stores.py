"""A set that is put into a store, whole or not at all, and what is left of one whose writer was killed.

A store has no lock, no rename of several files at once, and nothing that outlives its writer. So a set that is being
put, or has lost its writer, is told by a mark, an object .ipcimg-N.tmp, which lists the files that come and go; and by
what is not there yet, its manifest. Whoever is killed leaves no set that anybody takes for whole. Two writers of one
set at once leave a mixture, which the digests in the manifest give away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import criudump, imageset
from .errors import DirectoryError, ImageError, quoted
from .image import ImageFile
from .images import is_data_name, kind_name, manifest_name, number_of_pages, number_of_temporary, temporary_name
from .progress import NOBODY, Progress
from .remote import Store, undone
from .spool import copied
from .stored import StoredImages, images_of

_END = "end"  # the last line of a whole mark
_LONGEST_MARK = 64 << 20  # bytes


class StoreDestination:
    """A set on its way into a store; see delivery.Destination.

    Its mark comes first. Then the old set goes, its manifest before all else, if there is one. Then the new files come,
    and the manifest when all others are seen to be there; then the mark goes. On an error all that was put is removed.
    """

    makes_directory = False  # nothing but sets: others' dumps have their own inventories there

    def __init__(self, url: str, *, ns_id: int | None = None, force: bool = False, progress: Progress = NOBODY) -> None:
        """ns_id and force are those of a dump. Raises DirectoryError or ImageError where the set cannot go there."""
        self._store, self._force, self._progress = Store(url), force, progress
        self.path = self._store.path
        there = self._images()
        self.ns_id = ns_id if ns_id is not None else (criudump.namespace(there) if there else None) or 1
        self.first_pages_id = _next_pages_id(there) if there else 1
        self._replaced(there)  # a dump that nobody may put is not made
        self._sizes: dict[str, int] = {}  # bytes of what has been put

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        """See delivery.Destination."""
        if ns_id != self.ns_id:
            raise AssertionError(f"set {ns_id} comes, and {self.ns_id} was asked for")
        there = self._images()
        old = self._replaced(there)
        for name in names:
            if there and there.has(name) and name not in old:
                raise DirectoryError(f"{self._store.path_of(name)} exists, and is not of set {ns_id}")
        with undone(self._remove_all):
            if there is None:
                self._store.make()
            self._mark(sorted({*old, *names}))
            stay = set(names) - set(_makes_a_set(ns_id))  # until they are overwritten
            for name in _first_to_go(old - stay, ns_id):
                self._store.remove(name)

    def put(self, name: str, image: ImageFile) -> None:
        """See delivery.Destination."""
        with undone(self._remove_all):
            if name == manifest_name(self.ns_id):
                self._expect_all()
            self._sizes[name] = image.size
            self._store.put(name, image, self._progress)

    def finish(self) -> None:
        """See delivery.Destination."""
        with undone(self._remove_all):
            self._expect_all()
        self._store.remove(temporary_name(self.ns_id))

    def _images(self) -> StoredImages | None:
        """What is there now; None where there is nothing."""
        return None if self._store.listed() is None else images_of(self._store)

    def _replaced(self, there: StoredImages | None) -> set[str]:
        """The files that make room for the new set. Raises DirectoryError where they may not."""
        if there is None:
            return set()
        mark = temporary_name(self.ns_id)
        if there.has(mark) and not there.has(manifest_name(self.ns_id)):
            if not self._force:
                raise DirectoryError(
                    f"image directory {self.path}: another dump of set {self.ns_id} into it is running, or was killed; "
                    "--force takes its place"
                )
            return set(_marked(there, self.ns_id))
        return imageset.files_to_replace(there, self.ns_id, force=self._force)

    def _mark(self, names: Iterable[str]) -> None:
        text = "".join(f"{name}\n" for name in (*names, _END)).encode()
        self._store.put(temporary_name(self.ns_id), copied([text], "the mark of a set"))

    def _expect_all(self) -> None:
        """Raise DirectoryError where the store does not have what was put."""
        found = self._store.listed() or {}
        for name, size in self._sizes.items():
            there = found.get(name)
            if there is None or there.size != size:
                how = "is not there" if there is None else f"has {there.size} bytes"
                raise DirectoryError(
                    f"{self._store.path_of(name)}: {how}, and {size} were put; is another dump into it running?"
                )

    def _remove_all(self) -> None:
        for name in _first_to_go(self._sizes, self.ns_id):
            self._store.remove(name)
        self._store.remove(temporary_name(self.ns_id))
        self._store.remove_made()


def recover(url: str) -> dict[int, bool]:
    """Remove what killed dumps have left at a URL: the N of each set, and whether a whole set is there.

    Nobody can tell a dump that was killed from one that is running: it would fail. Raises DirectoryError, ImageError.
    """
    store = Store(url)
    there, found = images_of(store), {}
    for name in there.names():
        ns_id = number_of_temporary(name)
        if ns_id is not None:
            found[ns_id] = there.has(manifest_name(ns_id))  # of the old set, or of the new one
            if not found[ns_id]:
                for old in _first_to_go(_marked(there, ns_id), ns_id):
                    store.remove(old)
            store.remove(name)
    return found


def _next_pages_id(there: StoredImages) -> int:
    """The first number that no pages-P.img has that is there."""
    return max((number for name in there.names() if (number := number_of_pages(name)) is not None), default=0) + 1


def _marked(images: StoredImages, ns_id: int) -> list[str]:
    """The files that the mark of a set lists. Raises ImageError."""
    image = images.image(temporary_name(ns_id))
    if image.size > _LONGEST_MARK:
        raise ImageError(image.path, None, f"has {image.size} bytes; none has more than {_LONGEST_MARK}")
    text = bytearray(image.size)
    image.read_into(memoryview(text), 0)
    names = text.decode(errors="surrogateescape").split("\n")
    if names[-2:] != [_END, ""]:
        return []  # its writer was killed while it wrote it, and had done nothing else
    for name in names[:-2]:
        if not is_data_name(name, ns_id) and name != manifest_name(ns_id):
            raise ImageError(image.path, None, f"lists {quoted(name)}, which cannot be of set {ns_id}")
    return names[:-2]


def _makes_a_set(ns_id: int) -> tuple[str, str]:
    """Without these nobody takes anything for a set: ipcimg without the one, CRIU without the other."""
    return manifest_name(ns_id), kind_name("var", ns_id)


def _first_to_go(names: Iterable[str], ns_id: int) -> list[str]:
    """The names in the order in which the files go."""
    left = set(names)
    first = [name for name in _makes_a_set(ns_id) if name in left]
    return first + sorted(left - set(first))
