"""Semaphore sets: kernel ⇄ model.SemaphoreSet. See semctl(2)."""

from __future__ import annotations

import errno
from collections.abc import Generator

from . import libc
from .create import Creator, owned
from .errors import ChangedError, ObjectError, explain
from .model import SemaphoreFacts, SemaphoreSet


def collect() -> Generator[SemaphoreSet, None, None]:
    """The semaphore sets of the namespace the caller is in. Raises ObjectError, ChangedError."""
    ds = libc.semid_ds()
    for index in range(libc.semctl(0, libc.SEM_INFO) + 1):
        try:
            semid = libc.semctl(index, libc.SEM_STAT_ANY, ds)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EIDRM):
                continue  # no set has this index
            raise
        nsems = ds.sem_nsems
        try:
            values = libc.semctl_getall(semid, nsems)
            sempid = tuple([libc.semctl_getpid(semid, n) for n in range(nsems)])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EIDRM):
                raise ChangedError(f"semaphore set {semid} vanished while it was read") from error
            raise ObjectError(f"semaphore set {semid}: reading its values: {explain(error)}") from error
        yield SemaphoreSet(owned(ds.sem_perm, semid), values, SemaphoreFacts(ds.sem_otime, ds.sem_ctime, sempid))


def restore(semaphores: SemaphoreSet, creator: Creator) -> None:
    """Make a set as it was. The namespace's limits are wide open. Raises ObjectError."""
    p = semaphores.permissions
    with creator.making(
        "semaphore set",
        p,
        lambda key, flags: libc.semget(key, semaphores.nsems, flags),
        lambda semid: libc.semctl(semid, libc.IPC_RMID),
    ) as semid:
        libc.semctl_setall(semid, semaphores.values)
        ds = libc.semid_ds()
        ds.sem_perm.uid, ds.sem_perm.gid, ds.sem_perm.mode = p.uid, p.gid, p.mode
        libc.semctl(semid, libc.IPC_SET, ds)
