"""A process that keeps segments attached, and so alive, until somebody else has attached them.

The kernel destroys a segment with its last attachment if it was removed before (SHM_DEST), or if shm_rmid_forced is 1.
Right after a restore nobody has attached anything yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Iterator, Sequence

from . import libc
from .companion import Companion

_OWN = "/proc/self/ns/ipc"
_PAUSE = 0.05  # seconds between two looks, at least
_PATIENCE = 1.0  # seconds


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
    with open(_OWN) as namespace:
        while attached:
            before = time.monotonic()
            for shmid in [shmid for shmid in attached if _by_others(shmid, namespace.fileno())]:
                libc.shmdt(attached.pop(shmid))
            # Of many segments the looking takes long: a twentieth of the time is enough.
            time.sleep(max(_PAUSE, 20 * (time.monotonic() - before)))


def _by_others(shmid: int, namespace: int) -> bool:
    """Has somebody else attached the segment, or is it gone? While a reader is at work nobody can tell."""
    ds = libc.shmid_ds()
    try:
        libc.shmctl(shmid, libc.IPC_STAT, ds)
        if ds.shm_nattch == 1:
            return False
        fcntl.flock(namespace, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            libc.shmctl(shmid, libc.IPC_STAT, ds)
            return ds.shm_nattch > 1
        finally:
            fcntl.flock(namespace, fcntl.LOCK_UN)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EIDRM):
            return True
        raise


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Inside the with block, tell holders that who attaches a segment of the caller's namespace only reads it.

    The sign is a shared lock of the namespace's file. A holder has it for the blink of an eye; whoever
    keeps it from us for longer is no holder.
    """
    with open("/proc/thread-self/ns/ipc") as namespace:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(namespace, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    break
                time.sleep(0.001)
        yield
