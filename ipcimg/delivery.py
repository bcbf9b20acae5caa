"""A dump that goes elsewhere than into a directory: it is made whole in one of our own first, and then delivered.

So nobody who was stopped for the dump waits for a network, and nothing is sent of a dump that fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from .errors import DirectoryError, explain
from .image import ImageFile
from .images import INVENTORY, STATS_DUMP, kind_name, manifest_name
from .imageset import ImageSet, open_set
from .interrupts import deferred, finished, handled, part
from .progress import NOBODY, Progress
from .spool import room

BESIDE = (INVENTORY, STATS_DUMP)
PREFIX = "ipcimg-dump-"  # of the directory's name, in $TMPDIR

_T = TypeVar("_T")


class Destination(Protocol):
    """Where a set goes to. Whoever it belongs to undoes what has been put, should it never be finished.

    Each of its functions raises an IpcimgError where something does not get there.
    """

    makes_directory: bool  # does an image directory come of it, where programs look for what stands beside a set?

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        """Set ns_id is going to come, with the files of these names, and maybe some of BESIDE; it is whole here."""

    def put(self, name: str, image: ImageFile) -> None:
        """Take a file of the set; the variables are the last but one, the manifest is the last."""

    def finish(self) -> None:
        """All has been put: see that it is there. A signal may end it until it has returned, or called finished()."""


def delivered(make: Callable[[str], _T], destination: Destination, progress: Progress = NOBODY) -> _T:
    """Have make() dump into a directory of our own, deliver the set that is there then, and give what it gave.

    progress is told how much there is to deliver; the destination tells it what has been. The directory, in $TMPDIR and
    mode 0700, is gone in any case, except when the process is killed. Raises DirectoryError, and what the others raise.
    """
    with handled(), _directory_of_our_own() as path:
        with part():  # that the set is whole here is not the end
            made = make(path)
        _deliver(open_set(path), destination, progress)
        finished()
        return made


def _deliver(images: ImageSet, destination: Destination, progress: Progress) -> None:
    if images.manifest is None:
        raise DirectoryError(f"image directory {images.directory.path}: set {images.ns_id} has no manifest")
    last = [kind_name("var", images.ns_id), manifest_name(images.ns_id)]  # without them nobody takes it for a set
    # What is promised is sent, not what happens to be found.
    names = [name for name in sorted(images.manifest.files) if name not in last] + last
    if destination.makes_directory:
        names = [name for name in BESIDE if images.directory.has(name)] + names
    progress.expect(sum(images.directory.image(name).size for name in names))
    destination.begin(images.ns_id, names)
    for name in names:
        destination.put(name, images.directory.image(name))
    destination.finish()


@contextlib.contextmanager
def _directory_of_our_own() -> Iterator[str]:
    import shutil
    import tempfile  # both take long to import, and most dump into directories

    path: str | None = None
    try:
        with deferred():
            try:
                path = tempfile.mkdtemp(prefix=PREFIX, dir=room())
            except OSError as error:
                raise DirectoryError(f"making a directory in $TMPDIR: {explain(error)}") from error
        yield path
    finally:
        if path is not None:
            with deferred():
                try:
                    shutil.rmtree(path)
                except OSError as error:
                    raise DirectoryError(f"removing {path}: {explain(error)}") from error
