"""A set that is put into a store, whole or not at all, and what is left of one whose writer was killed.

A store has no lock, no rename of several files at once, and nothing that outlives its writer. So a set that is being
put, or has lost its writer, is told by a mark, an object .ipcimg-N.tmp, which lists the files that come and go; and by
what is not there yet, its manifest. Whoever is killed leaves no set that anybody takes for whole.

Who puts sets of other N keeps away from what a mark lists. Of two that come at the same time the later one to look sees
the mark of the other: each looks when its own is there, and has touched nothing before. Two writers of one set at once
know by the last line of the mark whose it is; what they leave for a moment is a mixture, which the digests give away.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import criudump, imageset
from .errors import DirectoryError, ImageError, quoted
from .image import ImageFile
from .images import is_data_name, kind_name, manifest_name, number_of_pages, number_of_temporary, temporary_name
from .interrupts import deferred, finished
from .progress import NOBODY, Progress
from .remote import Store, undone
from .spool import copied
from .stored import StoredImages, images_of

_END = "end"  # begins the last line of a whole mark; behind it stands whose it is
_LONGEST_MARK = 64 << 20  # bytes


class StoreDestination:
    """A set on its way into a store; see delivery.Destination.

    Its mark comes first. Then the old set goes, its manifest before all else, if there is one. Then the new files come,
    and the manifest when all others are seen to be there; then the mark goes. On an error all goes that the mark lists,
    but an old set that is still whole.
    """

    makes_directory = False  # nothing but sets: others' dumps have their own inventories there

    def __init__(self, url: str, *, ns_id: int | None = None, force: bool = False, progress: Progress = NOBODY) -> None:
        """ns_id and force are those of a dump. Raises DirectoryError or ImageError where the set cannot go there."""
        self._store, self._force, self._progress = Store(url), force, progress
        self.path = self._store.path
        there = self._images()
        self.ns_id = ns_id if ns_id is not None else (criudump.namespace(there) if there else None) or 1
        self.first_pages_id = _next_pages_id(there, self.ns_id)
        self._replaced(there)  # a dump that nobody may put is not made
        self._writer = secrets.token_hex(8)
        self._sizes: dict[str, int] = {}  # bytes of what has been put
        self._ours: set[str] = set()  # what is ours to remove: all that the mark lists, once we are alone
        self._before: StoredImages | None = None  # when we came
        self._manifest = b""  # once it is put
        self._first: str | None = None  # of a whole old set, what goes before all else and has not yet gone

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        """See delivery.Destination."""
        if ns_id != self.ns_id:
            raise AssertionError(f"set {ns_id} comes, and {self.ns_id} was asked for")
        self._before = there = self._images()
        old, is_whole = self._replaced(there)
        for name in names:
            if there and there.has(name) and name not in old:
                raise DirectoryError(f"{self._store.path_of(name)} exists, and is not of set {ns_id}")
        for name in sorted(old):
            if there and there.has(name):
                there.image(name)  # to write through a link is to write elsewhere
        listed = {*old, *names}
        self._keep_away(there, listed)
        stay = set(names) - set(_makes_a_set(ns_id))  # until they are overwritten
        going = _first_to_go(old - stay, ns_id)
        self._first = next(iter(going), None) if is_whole else None
        self._ours = set() if is_whole else old
        with undone(self._undo):
            with deferred():
                if there is None:
                    self._store.make()
                self._put_mark(listed)
                self._expect_alone(listed)
            self._ours = listed
            for name in going:
                self._store.remove(name)
                self._first = None

    def put(self, name: str, image: ImageFile) -> None:
        """See delivery.Destination."""
        with undone(self._undo):
            if name == manifest_name(self.ns_id):
                self._expect_all()
                self._manifest = _bytes_of(image)
            self._sizes[name] = image.size
            self._store.put(name, image, self._progress)

    def finish(self) -> None:
        """See delivery.Destination."""
        with undone(self._undo):
            self._expect_all()
            finished()  # from here on it goes forward
        self._store.remove(temporary_name(self.ns_id))

    def _images(self) -> StoredImages | None:
        """What is there now; None where there is nothing."""
        entries = self._store.listed()
        return None if entries is None else StoredImages(self._store, entries)

    def _replaced(self, there: StoredImages | None) -> tuple[set[str], bool]:
        """The files that make room for the new set, and whether they are a whole one.

        Raises DirectoryError, ImageError where they may not.
        """
        if there is None:
            return set(), False
        mark = _mark(there, self.ns_id)
        if mark is not None and not _has_manifest(there, self.ns_id):
            if not self._force:
                raise DirectoryError(
                    f"image directory {self.path}: another dump of set {self.ns_id} into it is running, or was killed; "
                    "--force takes its place"
                )
            return set(mark.names) - _of_whole_others(there, self.ns_id), False
        old = imageset.files_to_replace(there, self.ns_id, force=self._force)
        return old, bool(old)

    def _keep_away(self, there: StoredImages | None, names: set[str]) -> None:
        """Raise DirectoryError where the mark of another set lists one of these, ImageError for an unreadable one."""
        for ns_id, mark in _other_marks(there, self.ns_id).items():
            both = names & mark.names
            if both:
                raise DirectoryError(
                    f"image directory {self.path}: another dump, of set {ns_id}, into it is running, or was killed, "
                    f"and has {min(both)} too; `ipcimg recover -D {self.path}` removes what was killed"
                )

    def _put_mark(self, names: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in (*sorted(names), f"{_END} {self._writer}")).encode()
        self._store.put(temporary_name(self.ns_id), copied([text], "the mark of a set"))

    def _expect_alone(self, names: set[str]) -> None:
        """Raise DirectoryError where somebody has come since we looked, ImageError for an unreadable mark."""
        there = self._images()
        self._expect_mark(there)
        self._keep_away(there, names)
        for name in sorted(names):
            if there and not there.is_as(name, self._before):
                raise DirectoryError(
                    f"{self._store.path_of(name)}: has been changed meanwhile; is another dump into it running?"
                )

    def _expect_all(self) -> None:
        """Raise DirectoryError where the store does not have what was put, ImageError where it cannot be read."""
        with deferred():
            there = self._images()
            self._expect_mark(there)
            for name, size in self._sizes.items():
                found = there.image(name).size if there and there.has(name) else None
                if found != size:
                    how = "is not there" if found is None else f"has {found} bytes"
                    raise DirectoryError(
                        f"{self._store.path_of(name)}: {how}, and {size} were put; is another dump into it running?"
                    )

    def _expect_mark(self, there: StoredImages | None) -> None:
        mark = _mark(there, self.ns_id)
        if mark is None or mark.writer != self._writer:
            raise DirectoryError(
                f"{self._store.path_of(temporary_name(self.ns_id))}: is no longer that of this dump: another one has "
                "taken its place, or `ipcimg recover` has removed it"
            )

    def _undo(self) -> None:
        """Have nothing there of what was put; but where somebody has taken our place, what is his stays."""
        there = self._images()
        if there is not None:
            mark, names = _mark(there, self.ns_id), set(self._ours)
            is_ours = mark is not None and mark.writer in ("", self._writer)
            if self._first is not None and there.is_as(self._first, self._before):
                names = set()  # nothing has gone yet
            if not is_ours and _has_manifest(there, self.ns_id) and not self._is_our_manifest(there):
                names = set()  # of another dump, which has taken our place and is done
            if names:
                theirs = _of_whole_others(there, self.ns_id)
                others = [*_other_marks(there, self.ns_id).values(), *([mark] if mark and not is_ours else [])]
                names -= theirs.union(*(one.names for one in others))
            for name in _first_to_go(names, self.ns_id):
                self._store.remove(name)
            if is_ours:
                self._store.remove(temporary_name(self.ns_id))
        self._store.remove_made()

    def _is_our_manifest(self, there: StoredImages) -> bool:
        return _bytes_of(there.image(manifest_name(self.ns_id))) == self._manifest


def recover(url: str) -> dict[int, bool]:
    """Remove what killed dumps have left at a URL: the N of each set, and whether a whole set is there.

    Nobody can tell a dump that was killed from one that is running: it would fail. Raises DirectoryError, ImageError.
    """
    store, found = Store(url), {}
    there = images_of(store)
    for name in there.names():
        ns_id = number_of_temporary(name)
        mark = None if ns_id is None else _mark(there, ns_id)
        if ns_id is not None and mark is not None:
            found[ns_id] = _has_manifest(there, ns_id)  # of the old set, or of the new one
            if not found[ns_id]:
                for old in _first_to_go(mark.names - _of_whole_others(there, ns_id), ns_id):
                    store.remove(old)
            store.remove(name)
    return found


class _Mark(NamedTuple):
    """What the mark of a set says."""

    names: frozenset[str]  # of the files that come and go
    writer: str  # whose it is; empty where it is cut


def _mark(there: StoredImages | None, ns_id: int) -> _Mark | None:
    """The mark of a set, if there is one. Raises ImageError."""
    if there is None or not there.has(temporary_name(ns_id)):
        return None
    image = there.image(temporary_name(ns_id))
    if image.size > _LONGEST_MARK:
        raise ImageError(image.path, None, f"has {image.size} bytes; none has more than {_LONGEST_MARK}")
    *names, last, nothing = ["", *_bytes_of(image).decode(errors="surrogateescape").split("\n")]
    end, _, writer = last.partition(" ")
    if end != _END or nothing:
        return _Mark(frozenset(), "")  # its writer was killed while it wrote it, and had done nothing else
    for name in names[1:]:
        if not is_data_name(name, ns_id) and name != manifest_name(ns_id):
            raise ImageError(image.path, None, f"lists {quoted(name)}, which cannot be of set {ns_id}")
    return _Mark(frozenset(names[1:]), writer)


def _other_marks(there: StoredImages | None, ns_id: int) -> dict[int, _Mark]:
    """The marks of all other sets by their N. Raises ImageError.

    A directory of that name is none: somebody has copied it from elsewhere.
    """
    found = {}
    for name in there.names() if there else ():
        other = number_of_temporary(name)
        if there and other not in (None, ns_id) and not there.is_directory(name):
            mark = _mark(there, other)
            if mark is not None:
                found[other] = mark
    return found


def _of_whole_others(there: StoredImages, ns_id: int) -> set[str]:
    """The files of all other sets but those that only have a mark. Raises ImageError, DirectoryError."""
    found: set[str] = set()
    for other in there.sets():
        if other != ns_id:
            manifest = imageset.read_manifest(there, other) if _has_manifest(there, other) else None
            if manifest is not None:
                found |= manifest.files.keys() | {manifest_name(other)}
            elif not there.has(temporary_name(other)):  # CRIU's, or damaged
                found |= imageset.files_of(there, other)
    return found


def _has_manifest(there: StoredImages, ns_id: int) -> bool:
    """Is the manifest of a set there, and whole? Of one that was being put there may be a part. Raises ImageError."""
    name = manifest_name(ns_id)
    if not there.has(name):
        return False
    _bytes_of(there.image(name))  # a store that fails says nothing of the manifest
    try:
        return imageset.read_manifest(there, ns_id) is not None
    except ImageError:
        return False


def _bytes_of(image: ImageFile) -> bytes:
    text = bytearray(image.size)
    image.read_into(memoryview(text), 0)
    return bytes(text)


def _next_pages_id(there: StoredImages | None, ns_id: int) -> int:
    """The first number that no pages-P.img has that is there, or in the mark of another set. Raises ImageError."""
    names = set(there.names() if there else ()).union(*(mark.names for mark in _other_marks(there, ns_id).values()))
    return max((number for name in names if (number := number_of_pages(name)) is not None), default=0) + 1


def _makes_a_set(ns_id: int) -> tuple[str, str]:
    """Without these nobody takes anything for a set: ipcimg without the one, CRIU without the other."""
    return manifest_name(ns_id), kind_name("var", ns_id)


def _first_to_go(names: Iterable[str], ns_id: int) -> list[str]:
    """The names in the order in which the files go."""
    left = set(names)
    first = [name for name in _makes_a_set(ns_id) if name in left]
    return first + sorted(left - set(first))
