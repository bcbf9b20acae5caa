"""Notes of what is being done to a namespace, in a segment of the namespace itself.

So they are there exactly as long as what they tell of, whoever dies meanwhile, and whoever comes next finds them. This
is what the journals of a restore and of a turn have alike.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from . import kinds, libc, sysctl
from .owners import Owners
from .selection import Name

_T = TypeVar("_T")
_N = TypeVar("_N", bound="Notes")
_LIMITS = {"kernel/shmmni": 1 << 15, "kernel/shmmax": (1 << 63) - 1, "kernel/shmall": (1 << 63) - 1}


class Notes:
    """An attached segment with notes. Leaving its context lets it go, and does not remove it."""

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


def ours(present: Iterable[Name], keys: Collection[int], owners: Owners) -> Iterator[int]:
    """The segments with one of these keys, among the objects of the namespace that the caller is in.

    They are the caller's, or root's here or in the user namespace that owns the IPC namespace. Raises OSError.
    """
    roots = {0, os.geteuid(), owners.uids.here(0)}
    return (shmid for kind, shmid, key in present if kind == "shm" and key in keys and kinds.is_of("shm", shmid, roots))
