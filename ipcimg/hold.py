"""A process that keeps segments attached, and so alive, until somebody else has attached them.

The kernel destroys a segment with its last attachment if it was removed before (SHM_DEST), or if shm_rmid_forced is 1.
Right after a restore nobody has attached anything yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Sequence

from . import libc
from .companion import Companion

_PAUSE = 0.05  # seconds between two looks, at least


def hold(segments: Sequence[int]) -> Companion:
    """Attach the segments, of the namespace the caller is in, in a companion. It holds them from its release() on.

    Without a release it lets them go. Raises OSError.
    """

    def prepare() -> dict[int, int]:
        with open("/proc/self/comm", "w") as name:
            name.write("ipcimg-hold")
        return {shmid: libc.shmat(shmid, libc.SHM_RDONLY) for shmid in segments}

    return Companion(prepare, lambda attached, word: _until_attached(attached) if word else None)


def _until_attached(attached: dict[int, int]) -> None:
    with open("/proc/self/ns/ipc") as namespace:
        while attached:
            before = time.monotonic()
            # Those who read or compare segments attach them too, and have the namespace locked meanwhile; and of two
            # holders only one at a time may find that there is somebody else.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(namespace, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for shmid in list(filter(_by_others, attached)):
                    libc.shmdt(attached.pop(shmid))
                fcntl.flock(namespace, fcntl.LOCK_UN)
            # Of many segments the looking takes long: a twentieth of the time is enough.
            time.sleep(max(_PAUSE, 20 * (time.monotonic() - before)))


def _by_others(shmid: int) -> bool:
    """Has somebody else attached the segment, or is it gone?"""
    ds = libc.shmid_ds()
    try:
        libc.shmctl(shmid, libc.IPC_STAT, ds)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EIDRM):
            return True
        raise
    return ds.shm_nattch > 1
