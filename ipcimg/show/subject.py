"""What is to be shown: a set of images, or one image, as far as it can be read.

All that is in it can be iterated again and again. What cannot be read is reported once, and ends what it is part of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .. import codec, describe, imageset, model
from ..errors import DirectoryError
from ..image import ImageFile
from ..manifest import Manifest
from .problems import Problems


class Data:
    """The data of a segment: extents, the iterating of which raises ImageError where they cannot be read."""

    def __init__(self, extents: Iterable[model.Extent], problems: Problems) -> None:
        self._extents, self._problems = extents, problems

    def __iter__(self) -> Iterator[model.Extent]:
        return iter(self._extents)

    def stored(self) -> int | None:
        """How many bytes there are; None where that cannot be told, which is reported."""
        return self._problems.asked(lambda: imageset.stored_bytes(self._extents))


class Unknown:
    """The data of a segment whose pages are not there to be read: an image that came alone."""

    def __iter__(self) -> Iterator[model.Extent]:
        return iter(())


def stored(segment: model.SharedMemory) -> int | None:
    """How many bytes of a segment the images hold; None where that is not known."""
    return segment.extents.stored() if isinstance(segment.extents, Data) else None


@dataclass(frozen=True, slots=True)
class Other:
    """An image that has nothing to do with IPC."""

    name: str
    kind: str  # crit's name of it
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """What one source holds. None stands for a kind that it has no image of."""

    name: str  # for people
    problems: Problems
    page_size: int
    ns_id: int | None = None  # of a set
    manifest: Manifest | None = None
    variables: model.Variables | None = None
    segments: Iterable[model.SharedMemory] | None = None
    queues: Iterable[model.MessageQueue] | None = None
    semaphores: Iterable[model.SemaphoreSet] | None = None
    pagemap: tuple[int, Iterable[codec.PageRun]] | None = None  # an image of a page map that came alone
    images: Iterable[ImageFile] = ()  # each opened when it is its turn
    others: tuple[Other, ...] = ()
    verify: Callable[[], object] | None = None  # raises ImageError where something is not as it was written

    def is_as_written(self) -> bool:
        """See whether every file is as it was written; whatever speaks against it is reported."""
        why = "it is no whole set" if self.verify is None else "it has no manifest, so no digests"
        if self.verify is not None and not self.problems.succeeds(self.verify):
            return False
        if self.verify is None or self.manifest is None:
            self.problems.report(DirectoryError(f"{self.name}: cannot be verified: {why}"))
            return False
        return True

    @property
    def title(self) -> str:
        """What it is called in text, on one line."""
        name = describe.printable(self.name)
        return name if self.ns_id is None else f"IPC namespace {self.ns_id}, {name}"

    @property
    def is_set(self) -> bool:
        """Is it a set of images, not a single one?"""
        return self.ns_id is not None

    def objects(self) -> Iterator[tuple[str, model.Object]]:
        """All objects, each with its kind."""
        for kind in model.NAMES:
            for one in self.of_kind(kind) or ():
                yield kind, one

    def has(self, kind: str) -> bool:
        """Is there an image of this kind, of model.NAMES or var, or a set in which there could be one?"""
        return self.is_set or (self.variables if kind == "var" else self.of_kind(kind)) is not None

    def of_kind(self, kind: str) -> Iterable[model.Object] | None:
        """The objects of a kind; None where there is no image of it."""
        found: dict[str, Iterable[model.Object] | None] = {
            "shm": self.segments,
            "msg": self.queues,
            "sem": self.semaphores,
        }
        return found[kind]
