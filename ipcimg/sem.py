"""Semaphore sets: kernel ⇄ model.SemaphoreSet. See semctl(2)."""

from __future__ import annotations

import errno
import functools
from collections.abc import Generator
from dataclasses import dataclass

from . import libc, quiet
from .create import Creator, owned
from .errors import ChangedError, ObjectError, explain
from .model import Permissions, SemaphoreFacts, SemaphoreSet


def collect(frozen: bool) -> Generator[SemaphoreSet, None, None]:
    """The semaphore sets of the namespace the caller is in.

    frozen says that nobody can use the sets; otherwise it is checked that nobody did. Raises
    ObjectError, ChangedError.
    """
    for index in range(libc.semctl(0, libc.SEM_INFO) + 1):
        before = _stat(index) if frozen else quiet.settled(functools.partial(_stat, index))
        if before is None:
            continue  # no set has this index
        semid = before.permissions.id
        try:
            values = libc.semctl_getall(semid, before.nsems)
            sempid = tuple([libc.semctl_getpid(semid, n) for n in range(before.nsems)])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EIDRM):
                raise ChangedError(f"{before.named} vanished while it was read") from error
            raise ObjectError(f"{before.named}: reading its values: {explain(error)}") from error
        if _stat(index) != before:
            raise ChangedError(f"{before.named} changed while it was read")
        yield SemaphoreSet(before.permissions, values, SemaphoreFacts(before.otime, before.ctime, sempid))


@dataclass(frozen=True, slots=True)
class _Stat:
    permissions: Permissions
    nsems: int
    otime: int
    ctime: int

    @property
    def named(self) -> str:
        return f"semaphore set {self.permissions.id}"

    @property
    def last_change(self) -> int:
        return max(self.otime, self.ctime)


def _stat(index: int) -> _Stat | None:
    """The set at an index; None where there is none."""
    ds = libc.semid_ds()
    try:
        semid = libc.semctl(index, libc.SEM_STAT_ANY, ds)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EIDRM):
            return None
        raise
    return _Stat(owned(ds.sem_perm, semid), ds.sem_nsems, ds.sem_otime, ds.sem_ctime)


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
