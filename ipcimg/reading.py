"""Which objects of a namespace are read, how their owners are called, and whether they were left alone meanwhile.

That an object was left alone, its times tell, to the second.

The kernel stamps each change with the current second. So once the second of an object's last change
is over, it is enough that its times are still the same after the reading: whatever happened meanwhile
would have moved them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from . import libc
from .errors import ChangedError
from .model import NAMES
from .owners import Owners
from .selection import Name

_CLOCK_REALTIME_COARSE = 5  # linux/time.h; the module time has no name for it
_TRIES = 3


class Stat(Protocol):
    """What the kernel tells of an object, contents aside."""

    @property
    def last_change(self) -> int:
        """The latest of its times, seconds since the epoch."""

    @property
    def named(self) -> str:
        """The object, for people."""


_S = TypeVar("_S", bound=Stat)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the objects of one namespace are read."""

    objects: Sequence[Name]  # that are wanted
    owners: Owners
    frozen: bool = False  # has the caller stopped all users of the namespace?

    def ids(self, kind: str) -> Iterator[int]:
        """Those of the wanted objects of a kind."""
        return (object_id for of_kind, object_id, _ in self.objects if of_kind == kind)

    def look(self, stat: Callable[[], _S]) -> _S:
        """What stat() tells of an object.

        If the object was used in the present second, that second is waited for. Raises ChangedError
        for an object that is in use all the time, and what stat() raises.
        """
        return stat() if self.frozen else _settled(stat)


def stat_any(kind: str, object_id: int, stat: Callable[[], int]) -> None:
    """Call stat, MSG_STAT_ANY or the like, for an object. Raises ChangedError where it is not at its index any more."""
    try:
        at_index = stat()
    except OSError as error:
        if error.errno in libc.GONE:
            raise vanished(kind, object_id) from error
        raise
    if at_index != object_id:
        raise vanished(kind, object_id)


def vanished(kind: str, object_id: int) -> ChangedError:
    """The error for an object that was there and is not any more."""
    return ChangedError(f"{NAMES[kind]} {object_id} vanished while the namespace was read")


def _settled(stat: Callable[[], _S]) -> _S:
    tries = 0
    while True:
        found = stat()
        if found.last_change < _now():
            return found
        tries += 1
        if tries > _TRIES:
            raise ChangedError(f"{found.named} is in use all the time; stop its users")
        if found.last_change > _now() + 1:
            raise ChangedError(
                f"{found.named} was changed at a time that is yet to come, so nobody can tell whether it changes now; "
                "stop its users and say --frozen-by-caller"
            )
        while _now() <= found.last_change:
            time.sleep(0.005)


def _now() -> int:
    # IPC times come from ktime_get_real_seconds(), which moves with the clock tick, as this clock does.
    return int(time.clock_gettime(_CLOCK_REALTIME_COARSE))
