"""A process that keeps segments attached, and so alive, until somebody else has attached them.

The kernel destroys a segment with its last attachment if it was removed before (SHM_DEST), or if shm_rmid_forced is 1.
Right after a restore nobody has attached anything yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence

from . import libc
from .companion import FAILED, Companion

_PAUSE = 0.05  # seconds between two looks, at least
_ALONE_AFTER = 1.0  # seconds between two looks whether anybody else is there


def hold(segments: Sequence[int], *, alone: bool) -> Companion:
    """Attach the segments, of the namespace the caller is in, in a companion. It holds them from its release() on.

    alone says whether it does so when no other process is in the namespace. Without a release it
    lets them go. Raises OSError.
    """

    def prepare() -> dict[int, int]:
        with open("/proc/self/comm", "w") as name:
            name.write("ipcimg-hold")
        return {shmid: libc.shmat(shmid, libc.SHM_RDONLY) for shmid in segments}

    return Companion(
        prepare, lambda attached, word: None if word in (b"", FAILED) else _until_attached(attached, alone)
    )


def _until_attached(attached: dict[int, int], alone: bool) -> None:
    removed = set(filter(_is_removed, attached))
    looked = time.monotonic()
    with open("/proc/self/ns/ipc") as namespace:
        while attached:
            before = time.monotonic()
            if not alone and before > looked + _ALONE_AFTER:
                looked = before
                if not _others_in(os.fstat(namespace.fileno()).st_ino):
                    return
            # Those who read or compare segments attach them too, and have the namespace locked meanwhile; and of two
            # holders only one at a time may find that there is somebody else.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(namespace, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for shmid in [shmid for shmid in attached if _not_ours(shmid, shmid in removed)]:
                    libc.shmdt(attached.pop(shmid))
                fcntl.flock(namespace, fcntl.LOCK_UN)
            # Of many segments the looking takes long: a twentieth of the time is enough.
            time.sleep(max(_PAUSE, 20 * (time.monotonic() - before)))


def _stat(shmid: int) -> libc.shmid_ds | None:
    ds = libc.shmid_ds()
    try:
        libc.shmctl(shmid, libc.IPC_STAT, ds)
    except OSError as error:
        if error.errno in libc.GONE:
            return None
        raise
    return ds


def _is_removed(shmid: int) -> bool:
    ds = _stat(shmid)
    return ds is None or bool(ds.shm_perm.mode & libc.SHM_DEST)


def _not_ours(shmid: int, removed: bool) -> bool:
    """Has somebody else attached the segment, or removed it? removed says that it was removed when it was restored."""
    ds = _stat(shmid)
    return ds is None or ds.shm_nattch > 1 or (not removed and bool(ds.shm_perm.mode & libc.SHM_DEST))


def _others_in(inode: int) -> bool:
    """Is another process in the IPC namespace?"""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            if os.stat(f"/proc/{pid}/ns/ipc").st_ino == inode and int(pid) != os.getpid():
                return True
    return False
