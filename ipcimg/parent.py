"""The earlier set whose pages a new one refers to, so that it has only those that have changed since."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from . import imageset, link, manifest, model
from .directory import ImageDirectory, NewSet
from .errors import DirectoryError, ImageError
from .images import Images, kind_name, manifest_name, pagemap_name
from .pieces import Earlier, InPieces, as_it_is


class Parent:
    """An earlier set, opened while a new one is written. Made by opened()."""

    def __init__(self, directory: ImageDirectory, images: imageset.ImageSet, digest: bytes) -> None:
        """digest is that of its manifest."""
        self._directory, self._images, self._digest = directory, images, digest
        self.pages = 0  # of the new set, that are in this one
        images.verify({kind_name("shm", images.ns_id)})
        # Of each segment whose pages are in files of their own: what has to be the same, and its data.
        self._segments = {
            one.permissions.id: (_identity(one), one.extents)
            for one in images.contents.segments
            if imageset.pages_are_elsewhere(one)
        }

    @contextlib.contextmanager
    def earlier(self, segment: model.SharedMemory) -> Iterator[Earlier | None]:
        """The data that a segment had, to be walked along with its pieces; None where this set does not have it.

        At the end of the with block, files that the new set needs have been seen to be as they were written. Raises
        ImageError.
        """
        shmid = segment.permissions.id
        identity, extents = self._segments.get(shmid, (None, ()))
        if identity != _identity(segment) or not isinstance(extents, InPieces):
            yield None
            return
        self._images.expect_listed(self._images.files_of({shmid}))
        self._images.verify({pagemap_name(shmid)})
        self._images.verify_inherited({shmid})
        with contextlib.closing(Earlier(extents.pieces(as_it_is), imageset.PAGE_SIZE)) as earlier:
            yield earlier
            if earlier.same:
                earlier.finish()  # with the digest of its pages
                self.pages += earlier.same // imageset.PAGE_SIZE

    def link_from(self, out: NewSet) -> manifest.Parent | None:
        """Have the new set linked to this one, and give what its manifest says of that; None where it has no need."""
        if not self.pages:
            return None
        if not out.keeps_link:
            out.link(link.target(out.directory, self._directory))
        elif not link.leads_to(out.directory, self._directory):
            raise DirectoryError(f"image directory {out.directory.path}: its link to the parent was changed meanwhile")
        return manifest.Parent(self._images.ns_id, self._digest, self.pages)


def _identity(segment: model.SharedMemory) -> tuple[int, int, int | None]:
    return segment.size, segment.permissions.key, segment.hugetlb_flag


@contextlib.contextmanager
def opened(directory: ImageDirectory | None, out: NewSet) -> Iterator[Parent | None]:
    """The set of an image directory, of the same N or the only one, as the parent of a new set; nobody writes into it.

    Raises DirectoryError or ImageError where that cannot be: as a restore does, it refuses files that others could
    change, since what was compared must be what is restored some day.
    """
    if directory is None:
        yield None
        return
    _refuse_same(directory, out.directory, "its own parent")
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.being_read())
        images = imageset.ImageSet(directory, directory.the_set(out.ns_id if out.ns_id in directory.sets() else None))
        generations = 1 + sum(1 for _ in images.ancestors())
        if generations > imageset.PARENTS_AT_MOST:
            raise DirectoryError(
                f"image directory {directory.path}: it has {generations - 1} parents, and no more can be read"
            )
        for one in directory.generations(generations):
            _refuse_same(one, out.directory, "a parent of its parent")
            if one is not directory:
                stack.enter_context(one.being_read())
        name = manifest_name(images.ns_id)
        if images.manifest is None:
            raise DirectoryError(
                f"image directory {directory.path}: set {images.ns_id} has no manifest: nothing could tell later "
                "whether its pages are still those that were compared"
            )
        if images.page_size != imageset.PAGE_SIZE:
            why = f"is of pages of {images.page_size} bytes; here they have {imageset.PAGE_SIZE}"
            raise ImageError(os.path.join(directory.path, name), None, why)
        yield Parent(directory, images, directory.image(name).digest(out.digest_algorithm))


def _refuse_same(one: Images, other: ImageDirectory, what: str) -> None:
    with other.asked():
        if isinstance(one, ImageDirectory) and os.path.samestat(os.fstat(one.fd), os.fstat(other.fd)):
            raise DirectoryError(f"image directory {other.path}: it would be {what}")
