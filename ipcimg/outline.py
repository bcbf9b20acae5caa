"""What tells whether an object can be the one that was dumped, without a look at what it holds."""

from __future__ import annotations

from typing import NamedTuple

from . import model
from .errors import listed
from .listing import Table

_EXTENTS = {"shm": ("size", "bytes"), "sem": ("nsems", "semaphores")}  # columns of /proc/sysvipc, and what they count


class Outline(NamedTuple):
    """An object of a namespace, or of images."""

    kind: str
    id: int
    key: int
    extent: int  # bytes of a segment, semaphores of a set; 0 for a queue

    def __str__(self) -> str:
        of = f" and {self.extent} {_EXTENTS[self.kind][1]}" if self.kind in _EXTENTS else ""
        return f"{model.NAMES[self.kind]} {self.id} with key {self.key:#010x}{of}"


def outline(kind: str, one: model.Object) -> Outline:
    """That of an object of images. Raises ImageError."""
    extent = 0
    if isinstance(one, model.SharedMemory):
        extent = one.size
    elif isinstance(one, model.SemaphoreSet):
        extent = len(one.values)
    return Outline(kind, one.permissions.id, one.permissions.key, extent)


def outlines() -> set[Outline]:
    """Those of all objects of the namespace that the caller is in. Raises OSError."""
    found = set()
    for table in map(Table, model.NAMES):
        for line in table.lines():
            extent = table.row(line)[_EXTENTS[table.kind][0]] if table.kind in _EXTENTS else 0
            found.add(Outline(*table.name(line), extent))
    return found


def absent(wanted: set[Outline], there: set[Outline]) -> str:
    """Those that are not there, for people; empty where all are."""
    return listed(list(map(str, sorted(wanted - there))))
