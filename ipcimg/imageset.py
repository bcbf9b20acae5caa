"""A set of images: which files make it up, loading them into the model, and saving the model as such."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import mmap
import os
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from . import codec, criudump, digest, link, manifest, model, places
from .directory import ImageDirectory, NewSet, new_set, recover
from .errors import DirectoryError, ImageError, quoted
from .image import ImageFile
from .images import (
    KINDS,
    Images,
    is_data_name,
    is_pagemap_name,
    is_pages_name,
    kind_name,
    manifest_name,
    pagemap_name,
    pages_name,
)
from .interrupts import deferred
from .pieces import Earlier, Piece, Prepare, Runs, ahead, one_by_one, prepared, rooms
from .pieces import of as pieces_of
from .progress import NOBODY, Progress
from .selection import EVERYTHING, Selection

if TYPE_CHECKING:
    from .parent import Parent

PAGE_SIZE = mmap.PAGESIZE  # bytes, of this machine: what images without a manifest are read with

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Runs)
_RUNS = 4096  # of a page map, that are counted at a time
PARENTS_AT_MOST = 64  # a chain of `parent` links longer than this is taken for a circle


# ---- loading -------------------------------------------------------------------------------


class ImageSet:
    """One set of images, opened. Only the manifest and the variables are read at once."""

    def __init__(self, directory: Images, ns_id: int, generation: int = 0) -> None:
        """generation is how many sets have it as parent, grandparent and so on.

        Raises DirectoryError or ImageError where the set is unfinished or not whole, or its parent another one.
        """
        directory.refuse_unfinished(ns_id)
        self.directory, self.ns_id = directory, ns_id
        self.manifest = written = self._read_manifest()
        self.parent = self._open_parent(generation)
        self.page_size = page_size = PAGE_SIZE if self.manifest is None else self.manifest.page_size

        # Nothing of contents refers to the set, so the files are closed as soon as nobody has it.
        self.contents = model.Contents(
            codec.decode_variables(directory.image(kind_name("var", ns_id))),
            segments(directory, ns_id, page_size, written),
            queues(directory, ns_id),
            semaphores(directory, ns_id),
        )

    def _read_manifest(self) -> manifest.Manifest | None:
        found = read_manifest(self.directory, self.ns_id)
        if found is None:
            image = self.directory.image(kind_name("var", self.ns_id))
            if codec.has_manifest(image):
                raise ImageError(
                    image.path, None, f"is of a set with a manifest, and {manifest_name(self.ns_id)} is gone"
                )
            return None  # the set is CRIU's
        path = os.path.join(self.directory.path, manifest_name(self.ns_id))
        for name, file in found.files.items():
            there = self.directory.image(name).size
            if there != file.size:
                raise ImageError(path, None, f"{name} should have {file.size} bytes and has {there}")
        for name in (kind_name(kind, self.ns_id) for kind in KINDS):
            if name not in found.files and self.directory.has(name):
                raise ImageError(path, None, f"{name} is in the directory, but not of this set")
        return found

    def _open_parent(self, generation: int) -> ImageSet | None:
        """The set that has pages of this one, if the manifest knows of any; it has to be the one that it was then."""
        known = None if self.manifest is None else self.manifest.parent
        if self.manifest is None or known is None:
            return None
        this, name = os.path.join(self.directory.path, manifest_name(self.ns_id)), manifest_name(known.ipc_ns_id)
        if generation == PARENTS_AT_MOST:
            raise ImageError(this, None, f"is of a set with more than {PARENTS_AT_MOST} parents")
        try:
            directory = self.directory.parent()
            if not directory.has(name):
                raise DirectoryError(f"image directory {directory.path}: there is no {name} in it")
        except DirectoryError as error:
            raise ImageError(this, None, f"has pages in its parent, which cannot be read: {error}") from error
        image = directory.image(name)
        if image.digest(self.manifest.digest_algorithm) != known.digest:
            raise ImageError(image.path, None, f"is not that of the set that has pages of {self.directory.path}")
        return ImageSet(directory, known.ipc_ns_id, generation + 1)

    def ancestors(self) -> Iterator[ImageSet]:
        """The parent, its parent, and so on, as far as manifests know of them."""
        one = self.parent
        while one is not None:
            yield one
            one = one.parent

    @property
    def variables_meant(self) -> bool:
        """Are the settings part of what was dumped? They are there in any case."""
        return self.manifest is None or self.manifest.variables_meant

    @property
    def moved(self) -> int:
        """How many things moved while it was dumped: then it is not of one moment."""
        if self.manifest is None or self.manifest.consistency is None:
            return 0
        return len(self.manifest.consistency.moved)

    def verify(self, names: Container[str] | None = None, progress: Progress = NOBODY) -> None:
        """Compare each file, or those of these names, with its digest, which CRIU's sets lack. Raises ImageError."""
        if self.manifest is None:
            return
        for name, file in self.manifest.files.items():
            if names is None or name in names:
                image = self.directory.image(name)
                _expect_digest(image, file, image.digest(self.manifest.digest_algorithm, progress=progress))

    def verify_inherited(self, shmids: Iterable[int] | None = None, progress: Progress = NOBODY) -> None:
        """As verify(), the files of parents that have pages of these segments, or of all. Raises ImageError."""
        one: ImageSet | None = self
        while one is not None and one.manifest is not None:
            if one.parent is None and shmids is None:
                return  # walk() sees whether that is so
            shmids = one._inheriting(shmids)
            if one.parent is None and shmids:
                path = os.path.join(one.directory.path, manifest_name(one.ns_id))
                raise ImageError(path, None, f"knows of no parent, and segment {min(shmids)} has pages in one")
            one = one.parent
            if one is None or not shmids:
                return
            # First the page maps, which tell the names of the others.
            maps = {pagemap_name(shmid) for shmid in shmids}
            one.expect_listed(maps)
            one.verify(maps, progress)
            pages = one.files_of(shmids) - maps
            one.expect_listed(pages)
            one.verify(pages, progress)

    def _inheriting(self, shmids: Iterable[int] | None) -> set[int]:
        """Those of these segments, or of all, that have pages in the parent. Raises ImageError."""
        if shmids is None:
            shmids = [one.permissions.id for one in self.contents.segments if pages_are_elsewhere(one)]
        return {n for n in shmids if _Stored(self.directory, n, codec.LONG_MAX, self.page_size, None).inherits}

    def files_of(self, shmids: Iterable[int]) -> set[str]:
        """The names of the page maps and pages of these segments. Raises ImageError."""
        maps = {pagemap_name(shmid) for shmid in shmids}
        return maps | {pages_name(codec.decode_pagemap(self.directory.image(name), self.page_size)[0]) for name in maps}

    def expect_listed(self, names: Iterable[str]) -> None:
        """Raise ImageError where the manifest does not list these files, so that nothing tells what they should be."""
        if self.manifest is not None:
            for name in names:
                if name not in self.manifest.files:
                    path = os.path.join(self.directory.path, manifest_name(self.ns_id))
                    raise ImageError(path, None, f"does not list {name}, which has pages of a segment")

    def names(self, *, pages: bool) -> set[str]:
        """Those of the files that have digests: with the pages of segments, or the others.

        Whoever goes through all pieces of a segment has its pages compared with their digest at the end.
        """
        return {name for name in self.manifest.files if is_pages_name(name) == pages} if self.manifest else set()

    def walk(self) -> Iterator[tuple[str, model.Object, model.Counts]]:
        """Go through everything that the set promises: each object with its kind and what it holds.

        Every entry is decoded, every message, value and page seen to be there, and no two objects of a kind have the
        same id, key or pages. Raises ImageError.
        """
        total, inherited = model.Counts(), 0
        seen: dict[str, set[int]] = collections.defaultdict(set)
        for kind, one in self.contents.objects():
            self._refuse_second(kind, one, seen)
            if isinstance(one, model.MessageQueue):
                counts = model.Counts(queues=1, messages=one.qnum)
            elif isinstance(one, model.SemaphoreSet):
                counts = model.Counts(semaphore_sets=1)
            else:
                counts = model.Counts(segments=1, pages=-(-stored_bytes(one.extents) // self.page_size))
                inherited += inherited_bytes(one.extents) // self.page_size
            total += counts
            yield kind, one, counts
        if self.manifest is not None and total != self.manifest.counts:
            path = os.path.join(self.directory.path, manifest_name(self.ns_id))
            raise ImageError(path, None, f"promises {self.manifest.counts}, the images hold {total}")
        promised = 0 if self.manifest is None or self.manifest.parent is None else self.manifest.parent.pages
        if self.manifest is not None and inherited != promised:
            path = os.path.join(self.directory.path, manifest_name(self.ns_id))
            raise ImageError(path, None, f"knows of {promised} pages in a parent, and the page maps of {inherited}")

    def _refuse_second(self, kind: str, one: model.Object, seen: dict[str, set[int]]) -> None:
        """Raise ImageError where the object has what must be its own from one that was seen before."""
        p = one.permissions
        self._refuse_seen(seen[f"id of {kind}"], p.id, kind, p, "is in the image twice")
        if p.key:
            self._refuse_seen(seen[f"key of {kind}"], p.key, kind, p, "has the key of another one in the image")
        if isinstance(one, model.SharedMemory) and isinstance(one.extents, _Stored):
            name = pages_name(one.extents.pages_id)
            self._refuse_seen(
                seen["pages"], one.extents.pages_id, kind, p, f"has its pages in {name}, which another one has"
            )

    def _refuse_seen(self, seen: set[int], number: int, kind: str, permissions: model.Permissions, why: str) -> None:
        if number in seen:
            path = os.path.join(self.directory.path, kind_name(kind, self.ns_id))
            raise ImageError(path, None, f"{permissions.named(kind)} {why}")
        seen.add(number)

    @property
    def size(self) -> int:
        """Bytes of all files that have digests."""
        return sum(file.size for file in self.manifest.files.values()) if self.manifest else 0

    def check(self, progress: Progress = NOBODY) -> model.Counts:
        """Compare digests, go through everything, and count it. Raises ImageError."""
        progress.expect(self.size)
        self.verify(progress=progress)
        self.verify_inherited()
        return sum((counts for _, _, counts in self.walk()), model.Counts())


def segments(
    directory: Images, ns_id: int, page_size: int, written: manifest.Manifest | None
) -> Iterable[model.SharedMemory]:
    """The segments of a set of images, read whenever they are iterated. Raises ImageError.

    page_size is that of its page maps, written its manifest, if it has one.
    """

    def data(shmid: int, end: int) -> _Stored:
        return _Stored(directory, shmid, end, page_size, written)

    return _objects(
        directory, "shm", ns_id, lambda image: model.Again(lambda: codec.decode_segments(image, data, page_size))
    )


def queues(directory: Images, ns_id: int) -> Iterable[model.MessageQueue]:
    """The queues of a set of images, read whenever they are iterated. Raises ImageError."""
    return _objects(directory, "msg", ns_id, codec.decode_queues)


def semaphores(directory: Images, ns_id: int) -> Iterable[model.SemaphoreSet]:
    """The semaphore sets of a set of images, read whenever they are iterated. Raises ImageError."""
    return _objects(directory, "sem", ns_id, codec.decode_semaphores)


def _objects(directory: Images, kind: str, ns_id: int, decode: Callable[[ImageFile], Iterable[_T]]) -> Iterable[_T]:
    name = kind_name(kind, ns_id)
    if not directory.has(name):
        return ()  # CRIU writes no image where there are no objects
    return decode(directory.image(name))


def data_beside(directory: Images, shmid: int, end: int, page_size: int) -> Iterable[model.Extent] | None:
    """The data of a segment that reaches up to end, if its page map is in the directory. Raises DirectoryError."""
    return _Stored(directory, shmid, end, page_size, None) if directory.has(pagemap_name(shmid)) else None


def pages_are_elsewhere(segment: model.SharedMemory) -> bool:
    """Has a segment of a set a page map, and pages in a file of their own?"""
    return isinstance(segment.extents, _Stored)


def stored_bytes(extents: Iterable[model.Extent]) -> int:
    """Bytes of the extents of a segment, which are seen to be there. Raises ImageError."""
    return extents.length if isinstance(extents, _Stored) else sum(one.length for one in extents)


def inherited_bytes(extents: Iterable[model.Extent]) -> int:
    """Those of stored_bytes() that are in the parent. Raises ImageError."""
    return extents.inherited if isinstance(extents, _Stored) else 0


def pages_file(segment: model.SharedMemory) -> str | None:
    """The name of the file with the pages of a segment of a set; None where they are inline. Raises ImageError."""
    return pages_name(segment.extents.pages_id) if isinstance(segment.extents, _Stored) else None


def _expect_digest(image: ImageFile, file: manifest.File, found: bytes) -> None:
    if found != file.digest:
        raise ImageError(image.path, None, "is not as it was written: its digest is another one")


def read_manifest(directory: Images, ns_id: int) -> manifest.Manifest | None:
    """The manifest of a set; None where it has none. Raises ImageError, DirectoryError."""
    name = manifest_name(ns_id)
    if not directory.has(name):
        return None
    image = directory.image(name)
    found = codec.decode_manifest(image)
    for file in found.files:
        if not is_data_name(file, ns_id):
            raise ImageError(image.path, None, f"lists {quoted(file)}, which cannot be of set {ns_id}")
    if found.ipc_ns_id != ns_id:
        raise ImageError(image.path, None, f"is the manifest of set {found.ipc_ns_id}")
    return found


def open_set(path: str, ns_id: int | None = None) -> ImageSet:
    """The set ns_id, or the only one, of the place path; see places.opened(). Raises DirectoryError, ImageError."""
    directory = places.opened(path)
    return ImageSet(directory, directory.the_set(ns_id))


def load(path: str | os.PathLike[str], ns_id: int | None = None) -> model.Contents:
    """What a set of images holds: CRIU's or ipcimg's, of an image directory, an archive, or "-", standard input.

    ns_id is the N in the file names; it may be left out where there is only one set. The variables
    are read now; segments, queues and semaphores are read each time they are iterated, and raise
    ImageError then. Raises DirectoryError, ImageError.
    """
    return open_set(os.fspath(path), ns_id).contents


class _Stored:
    """The data of a segment whose pages are in files of their own, each time found anew."""

    def __init__(
        self, directory: Images, shmid: int, end: int, page_size: int, written: manifest.Manifest | None
    ) -> None:
        self._directory, self._shmid, self._end, self._page_size = directory, shmid, end, page_size
        self._written = written

    def __iter__(self) -> Iterator[codec.ImageExtent]:
        return _extents(self._directory, self._shmid, self._end, self._page_size)

    @functools.cached_property
    def pages_id(self) -> int:
        """The number of the pages file. Raises ImageError."""
        return codec.decode_pagemap(self._directory.image(pagemap_name(self._shmid)), self._page_size)[0]

    @property
    def length(self) -> int:
        """Bytes of all extents, which are seen to be there. Raises ImageError."""
        return sum(self._lengths)

    @property
    def inherited(self) -> int:
        """Those of length that are in the parent. Raises ImageError."""
        return self._lengths[1]

    @functools.cached_property
    def _lengths(self) -> tuple[int, int]:
        """Bytes in the set itself, and in the parent."""
        runs, pages = self._opened()
        counted = Runs(1 << 62, _RUNS)
        here = inherited = 0
        for part in self._parts(runs, pages, itertools.repeat(counted)):
            if isinstance(part, codec.ImageExtent):
                inherited += part.length
            else:
                here += part.size
        return here, inherited

    @property
    def inherits(self) -> bool:
        """Are there pages in the parent? Raises ImageError."""
        runs, _ = self._opened()
        some = Runs(1 << 62, _RUNS)
        while True:
            some.clear()
            if runs.into(some) is not None:
                return True
            if not some.size:
                return False

    def pieces(self, prepare: Prepare) -> Generator[Piece, None, None]:
        """See pieces.InPieces. At the end the pages file has to be as it was written, if that is known."""
        runs, pages = self._opened()
        return ahead(prepared(self._pieces(runs, pages), prepare), pages.size, may_be_left=not pages.is_here)

    def _opened(self) -> tuple[codec.StoredRuns, ImageFile]:
        """The page map and the pages file."""
        image = self._directory.image(pagemap_name(self._shmid))
        runs = codec.StoredRuns(image, self._page_size, self._end)
        return runs, self._directory.image(pages_name(runs.pages_id))

    def _pieces(self, runs: codec.StoredRuns, pages: ImageFile) -> Generator[Piece, None, None]:
        file = None if self._written is None else self._written.files.get(pages_name(runs.pages_id))
        found = None if self._written is None else digest.ALGORITHMS[self._written.digest_algorithm]()
        position = 0
        for part in self._parts(runs, pages, rooms(self._end)):
            if isinstance(part, codec.ImageExtent):
                yield from one_by_one([part], part.length)
                continue
            pages.read_into(part.view, position)
            position += part.size
            if found is not None:
                found.update(part.view)
            yield part
        if file is not None and found is not None:
            _expect_digest(pages, file, found.digest())

    def _parts(self, runs: codec.StoredRuns, pages: ImageFile, empty: Iterator[_R]) -> Iterator[_R | codec.ImageExtent]:
        """The runs, into empty ones; what comes next in the pages file is theirs. Extents of a parent between them."""
        position = 0
        inherited: _Inherited | None = None
        while True:
            some = next(empty)
            some.clear()
            run = runs.into(some)
            if position + some.size > pages.size:
                raise _too_short(pages, runs.image, position + some.size)
            position += some.size
            if some.size:
                yield some
            if run is not None:
                inherited = inherited or _Inherited(
                    _extents(self._directory.parent(), self._shmid, self._end, self._page_size, 1)
                )
                yield from inherited.within(runs.image, run, run.pages * self._page_size)
            elif not some.size:
                break
        _expect_end(pages, runs.image, position)


def _extents(
    directory: Images,
    shmid: int,
    end: int,
    page_size: int,
    generation: int = 0,
) -> Iterator[codec.ImageExtent]:
    """The data of a segment, found through its page map, in this directory or its parents."""
    image = directory.image(pagemap_name(shmid))
    pages_id, runs = codec.decode_pagemap(image, page_size)
    pages = directory.image(pages_name(pages_id))
    position = 0
    inherited: _Inherited | None = None
    for run in runs:
        length = run.pages * page_size
        if run.offset + length > end:
            raise codec.beyond_the_end(image, run, length, end)
        if run.in_parent:
            if generation == PARENTS_AT_MOST:
                raise ImageError(
                    image.path, run.place, f"more than {PARENTS_AT_MOST} parents; do the links go in a circle?"
                )
            if inherited is None:
                inherited = _Inherited(_extents(directory.parent(), shmid, end, page_size, generation + 1))
            yield from inherited.within(image, run, length)
            continue
        if position + length > pages.size:
            raise _too_short(pages, image, position + length)
        yield codec.ImageExtent(pages, position, run.offset, length)
        position += length
    _expect_end(pages, image, position)


def _too_short(pages: ImageFile, pagemap: ImageFile, end: int) -> ImageError:
    promised = f"{os.path.basename(pagemap.path)} promises pages up to byte {end}"
    return ImageError(pages.path, pages.size, f"ends too early: {promised}")


def _expect_end(pages: ImageFile, pagemap: ImageFile, position: int) -> None:
    if position != pages.size:
        more = f"{pages.size - position} bytes that {os.path.basename(pagemap.path)} does not mention"
        raise ImageError(pages.path, position, more)


class _Inherited:
    """The parent's extents, walked along with the child's runs, which ascend as they do."""

    def __init__(self, extents: Iterator[codec.ImageExtent]) -> None:
        self._extents = extents
        self._current = next(extents, None)

    def within(self, image: ImageFile, run: codec.PageRun, length: int) -> Iterator[codec.ImageExtent]:
        """The parts of the parent's extents that make up the run."""
        at, end = run.offset, run.offset + length
        while at < end:
            while self._current is not None and self._current.offset + self._current.length <= at:
                self._current = next(self._extents, None)
            current = self._current
            if current is None or current.offset > at:
                raise ImageError(image.path, run.place, f"the parent set does not have the page at {at:#x}")
            skipped = at - current.offset
            taken = min(end, current.offset + current.length) - at
            yield codec.ImageExtent(current.image, current.position + skipped, at, taken)
            at += taken


# ---- saving --------------------------------------------------------------------------------


def save(
    contents: model.Contents,
    path: str | os.PathLike[str],
    *,
    ns_id: int | None = None,
    force: bool = False,
    criu_exact: bool = False,
    digest_algorithm: str = digest.DEFAULT,
    criu_set: bool = False,
) -> model.Counts:
    """Write contents as a set of images into the image directory path, which is made if missing.

    ns_id is the N of the file names: by default that of the CRIU dump in the directory, else 1. A
    set N that is there already is replaced with force alone. criu_exact writes what CRIU 4.2 would.
    digest_algorithm, "xxh3-128" or "sha256", is that of the manifest. criu_set puts it in the place of
    the set that CRIU has dumped into the directory: see criudump.namespace_to_replace().
    On any error the directory is left as it was. Raises DirectoryError, ChangedError, and whatever
    iterating contents raises.
    """
    if criu_set and criu_exact:  # the numbers of pages would be where only some of CRIU's versions look
        raise ValueError("what is put into a dump of CRIU's is to be read by any version of it")
    with saving(os.fspath(path), ns_id=ns_id, force=force, digest_algorithm=digest_algorithm, criu_set=criu_set) as out:
        counts = write(contents, out, criu_exact=criu_exact)
        finish(out, counts)
        return counts


@contextlib.contextmanager
def saving(
    path: str,
    *,
    ns_id: int | None,
    force: bool,
    digest_algorithm: str = digest.DEFAULT,
    criu_set: bool = False,
    parent: ImageDirectory | None = None,
    progress: Progress = NOBODY,
    durable: bool = True,
) -> Iterator[NewSet]:
    """A new set in the image directory path; see save(), and for progress and durable new_set().

    parent is the directory that it may be linked to: see parent.py.
    """
    directory: ImageDirectory | None = None
    try:
        with deferred():
            directory = ImageDirectory(path, create=not criu_set)
        if criu_set:
            recover(directory)  # what is half in its place is to be whole before it is looked at
            n = criudump.namespace_to_replace(directory, ns_id)
        else:
            n = criudump.namespace(directory) or 1 if ns_id is None else ns_id
        with new_set(
            directory,
            n,
            lambda: _to_replace(directory, n, force, criu_set, parent),
            digest_algorithm,
            progress,
            durable,
        ) as out:
            yield out
    except BaseException:
        if directory is not None:
            with deferred():
                directory.remove_if_created()
        raise


def write(
    contents: model.Contents,
    out: NewSet,
    *,
    criu_exact: bool,
    parent: Parent | None = None,
    first_pages_id: int = 1,
) -> model.Counts:
    """Write contents, each object as it comes. To make it a set, finish() it.

    Pages that are the same in the parent are left to it. Without criu_exact alone: CRIU writes all of them again. For
    first_pages_id see dump.dump().
    """
    with out.file(kind_name("var", out.ns_id)) as file:
        codec.encode_variables(file, contents.variables, has_manifest=not criu_exact)
    pages_id = max(out.directory.next_pages_id(), first_pages_id)
    out.progress.stage("segments")
    segments, pages = _write_segments(contents.segments, out, criu_exact, parent, pages_id)
    out.progress.stage("queues")
    queues, messages = _write_queues(contents.queues, out, criu_exact)
    out.progress.stage("semaphores")
    sets = _write_semaphores(contents.semaphores, out, criu_exact)
    return model.Counts(queues, messages, sets, segments, pages)


def finish(
    out: NewSet,
    counts: model.Counts,
    *,
    selection: Selection = EVERYTHING,
    consistency: manifest.Consistency | None = None,
    parent: manifest.Parent | None = None,
) -> None:
    """Write the manifest of a set that has all its other files."""
    out.progress.stage("to the disk")
    made = manifest.of_this_machine(
        out.ns_id, dict(out.files), counts, selection, out.digest_algorithm, consistency, parent
    )
    with out.file(manifest_name(out.ns_id)) as file:
        codec.encode_manifest(file, made)


def _write_segments(
    segments: Iterable[model.SharedMemory], out: NewSet, criu_exact: bool, parent: Parent | None, pages_id: int
) -> tuple[int, int]:
    """Gives how many there are, and how many pages they have, here or in the parent. pages_id is the first to use."""
    count = pages = 0
    with contextlib.ExitStack() as open_images:
        encoder = None
        for segment in segments:
            encoder = encoder or codec.SegmentEncoder(
                open_images.enter_context(out.file(kind_name("shm", out.ns_id))), criu_exact
            )
            encoder.add(segment)
            with (
                out.file(pagemap_name(segment.permissions.id)) as pagemap_file,
                out.unbuffered(pages_name(pages_id)) as pages_file,
                contextlib.nullcontext() if parent is None else parent.earlier(segment) as earlier,
            ):
                pagemap = codec.PagemapEncoder(pagemap_file, pages_id, criu_exact)
                pages += _write_pages(segment, pagemap, pages_file, criu_exact, out.progress, earlier)
            count, pages_id = count + 1, pages_id + 1
    return count, pages


def _write_queues(queues: Iterable[model.MessageQueue], out: NewSet, criu_exact: bool) -> tuple[int, int]:
    return _write_objects("msg", queues, codec.QueueEncoder, out, criu_exact)


def _write_semaphores(sets: Iterable[model.SemaphoreSet], out: NewSet, criu_exact: bool) -> int:
    return _write_objects("sem", sets, codec.SemaphoreEncoder, out, criu_exact)[0]


def _write_objects(
    kind: str,
    objects: Iterable[_T],
    encoder_of: Callable[[BinaryIO, bool], codec.ObjectEncoder[_T]],
    out: NewSet,
    criu_exact: bool,
) -> tuple[int, int]:
    """Gives how many objects there are, and how many messages."""
    count = messages = 0
    framed = objects.framed(criu_exact) if isinstance(objects, model.FramedObjects) else objects
    with contextlib.ExitStack() as open_images:
        encoder = None
        for one in framed:
            # CRIU writes no image of a kind of which there is nothing.
            encoder = encoder or encoder_of(open_images.enter_context(out.file(kind_name(kind, out.ns_id))), criu_exact)
            if isinstance(one, model.Frames):
                encoder.add_framed(one)
                count, messages = count + one.objects, messages + one.messages
            else:
                encoder.add(one)
                count, messages = count + 1, messages + (one.qnum if isinstance(one, model.MessageQueue) else 0)
    return count, messages


def _write_pages(
    segment: model.SharedMemory,
    pagemap: codec.PagemapEncoder,
    file: digest.DigestingFile,
    criu_exact: bool,
    progress: Progress,
    earlier: Earlier | None,
) -> int:
    """The data of a segment, but for what it had earlier, and where it belongs. Gives the number of pages of both."""

    def prepare(piece: Piece) -> None:
        piece.pad(PAGE_SIZE)  # only an inline segment of CRIU's older images ends within a page
        if not criu_exact:
            piece.drop_zeros(PAGE_SIZE)
        if earlier is not None:
            earlier.drop_same(piece)
        file.digest_ahead(piece.view)

    size = 0
    with contextlib.closing(pieces_of(segment, prepare)) as found:
        for piece in found:
            progress.done(piece.dropped)
            file.append(piece.view)
            size += piece.size
            pagemap.add_piece(piece, PAGE_SIZE)
    pagemap.finish(PAGE_SIZE)
    return (size + (0 if earlier is None else earlier.same)) // PAGE_SIZE


def _to_replace(
    directory: ImageDirectory, ns_id: int, force: bool, criu_set: bool, parent: ImageDirectory | None
) -> set[str]:
    files = files_to_replace(directory, ns_id, force=force, criu_set=criu_set)
    if files:
        criudump.refuse_children(directory)
    return files | link.to_replace(directory, files, parent, stays=criu_set)


def files_to_replace(directory: Images, ns_id: int, *, force: bool, criu_set: bool = False) -> set[str]:
    """The files of set ns_id, which a new one is to replace; see save(). Raises DirectoryError, ImageError."""
    files = files_of(directory, ns_id, whole=criu_set)
    if files and not (force or criu_set):
        raise DirectoryError(f"image directory {directory.path}: set {ns_id} is there already; --force replaces it")
    for name in sorted(filter(directory.has, files)):
        if directory.is_directory(name):
            raise DirectoryError(f"{os.path.join(directory.path, name)} is a directory, which --force does not replace")
    if files:
        _refuse_to_share(directory, files)
    return files


def _refuse_to_share(directory: Images, files: set[str]) -> None:
    """Raise DirectoryError where a page map that stays has its pages in one of the files, which are to go."""
    for name in directory.names():
        if name not in files and is_pagemap_name(name):
            pages_id, _ = codec.decode_pagemap(directory.image(name), PAGE_SIZE)
            if pages_name(pages_id) in files:
                path = os.path.join(directory.path, name)
                raise ImageError(path, None, f"has its pages in {pages_name(pages_id)}, which is to be replaced")


def files_of(directory: Images, ns_id: int, *, whole: bool = False) -> set[str]:
    """The names of the files of set ns_id, ours or CRIU's, as far as they are there.

    Which segments and pages belong to it is told by its images alone: a manifest may list anything. whole demands the
    pages of every segment: CRIU may have sent them to a page server, under numbers that cannot be known here.
    """
    own = (manifest_name(ns_id), *(kind_name(kind, ns_id) for kind in KINDS))
    files = {name for name in own if directory.has(name)}
    if kind_name("shm", ns_id) in files:
        image = directory.image(kind_name("shm", ns_id))
        for segment in codec.decode_segment_entries(image, PAGE_SIZE):
            name = pagemap_name(segment.permissions.id)
            inline = any(True for _ in segment.extents)  # then a page map of that id is somebody else's
            if whole and not inline and not directory.has(name):
                raise ImageError(image.path, None, f"has {segment.permissions.named('shm')}, and {name} is not there")
            if directory.has(name) and not inline:
                pages_id, _ = codec.decode_pagemap(directory.image(name), PAGE_SIZE)
                if whole and not directory.has(pages_name(pages_id)):
                    path = os.path.join(directory.path, name)
                    raise ImageError(path, None, f"has its pages in {pages_name(pages_id)}, which is not there")
                files |= {name, pages_name(pages_id)}
    return files
