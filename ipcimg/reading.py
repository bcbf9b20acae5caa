"""Which objects of a namespace are read, how their owners are called, and whether they were left alone meanwhile.

That an object was left alone, its times tell, to the second.

The kernel stamps each change with the current second. So once the second of an object's last change
is over, it is enough that its times are still the same after the reading: whatever happened meanwhile
would have moved them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from . import libc
from .errors import ChangedError
from .model import Permissions
from .owners import Owners
from .selection import EVERYTHING, Selection

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

    owners: Owners
    selection: Selection = EVERYTHING
    frozen: bool = False  # has the caller stopped all users of the namespace?

    def permissions(self, kind: str, perm: libc.ipc_perm, object_id: int) -> Permissions | None:
        """struct ipc_perm as the model has it; None where the object is not wanted. Raises ObjectError."""
        if not self.selection.wants(kind, object_id, perm.key):
            return None
        return self.owners.inside(kind, perm, object_id)

    def look(self, stat: Callable[[], _S | None]) -> _S | None:
        """What stat() tells of an object, which may be None.

        If the object was used in the present second, that second is waited for. Raises ChangedError
        for an object that is in use all the time.
        """
        return stat() if self.frozen else _settled(stat)


def _settled(stat: Callable[[], _S | None]) -> _S | None:
    tries = 0
    while True:
        found = stat()
        if found is None or found.last_change < _now():
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
