"""Notes of what is being done to a namespace, in a segment of the namespace itself.

So they are there exactly as long as what they tell of, whoever dies meanwhile, and whoever comes next finds them. This
is what the journals of a restore and of a turn have alike.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import ClassVar, TypeVar

from . import kinds, libc, sysctl
from .errors import ObjectError
from .model import NAMES
from .owners import Owners
from .selection import Name

_T = TypeVar("_T")
_N = TypeVar("_N", bound="Notes")
_LIMITS = {"kernel/shmmni": 1 << 15, "kernel/shmmax": (1 << 63) - 1, "kernel/shmall": (1 << 63) - 1}


class Notes:
    """An attached segment with notes. Leaving its context lets it go, and does not remove it."""

    KEYS: ClassVar[Collection[int]]  # one of which the segment has
    WHAT: ClassVar[str]  # it is, for people

    def __init__(self, shmid: int) -> None:
        """Attach the segment. Raises OSError."""
        ds = libc.shmid_ds()
        libc.shmctl(shmid, libc.IPC_STAT, ds)
        self.shmid, self.size = shmid, ds.shm_segsz
        self.let_go_at = ds.shm_dtime  # when the last process let go of it, seconds since the epoch; 0 for never
        self.address = libc.shmat(shmid, 0)
        try:
            # Companions are forked from us, and a holder of segments would keep this one as well.
            libc.madvise(self.address, self.size, libc.MADV_DONTFORK)
        except OSError:
            libc.shmdt(self.address)
            raise
        self.memory = libc.memory(self.address, self.size)

    @property
    def is_one(self) -> bool:
        """Is the segment one with such notes?"""
        raise NotImplementedError

    def read(self) -> None:
        """Take up what another process has written. Raises ValueError and the like where it makes no sense."""
        raise NotImplementedError

    @classmethod
    def find(cls: type[_N], present: Iterable[Name], owners: Owners) -> _N | None:
        """The notes that are among the objects of the namespace that the caller is in, attached.

        The segment is the caller's, or root's here or in the user namespace that owns the IPC namespace. Raises
        OSError, and ObjectError where they make no sense.
        """
        roots = {0, os.geteuid(), owners.uids.here(0)}
        for kind, shmid, key in present:
            if kind == "shm" and key in cls.KEYS and kinds.is_of(kind, shmid, roots):
                found = cls(shmid)
                try:
                    if found.is_one:
                        found.read()
                        return found
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    found.close()
                    raise ObjectError(
                        f"{NAMES[kind]} {shmid} is the journal of {cls.WHAT}, but damaged: {error}"
                    ) from error
                found.close()
        return None

    def __enter__(self: _N) -> _N:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it go. Raises OSError."""
        self.memory.release()
        libc.shmdt(self.address)


def with_room(make: Callable[[], _T], *, guarded: bool = True) -> _T:
    """Call make, which makes a segment; where limits are in its way, once more while they are raised.

    guarded says that a process is needed that puts them back if we are killed. Raises OSError.
    """
    try:
        return make()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EINVAL, errno.ENOMEM):
            raise
    with contextlib.ExitStack() as raised:
        for limit, wide in _LIMITS.items():
            wide = max(wide, sysctl.read_int(limit))
            raised.enter_context(sysctl.temporarily(limit, wide, guarded=guarded))
        return make()
