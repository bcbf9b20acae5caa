"""Semaphore sets: kernel ⇄ model.SemaphoreSet. See semctl(2)."""

from __future__ import annotations

import functools
from collections.abc import Generator

from . import libc
from .create import Creator
from .errors import ChangedError, ObjectError, explain
from .model import SemaphoreFacts, SemaphoreSet
from .reading import Reading, stat_any, vanished


def collect(reading: Reading) -> Generator[SemaphoreSet, None, None]:
    """The semaphore sets of the namespace the caller is in, as far as they are wanted.

    Raises ObjectError, ChangedError.
    """
    for semid in reading.ids("sem"):
        try:
            found = _read(semid, reading)
        except ChangedError as error:
            reading.changed(error)
            continue
        yield found


def _read(semid: int, reading: Reading) -> SemaphoreSet:
    ds = libc.semid_ds()
    stat_any("sem", semid, functools.partial(libc.semctl, semid, libc.SEM_STAT_ANY, ds))
    permissions = reading.owners.inside("sem", ds.sem_perm, semid)
    try:
        values = libc.semctl_getall(semid, ds.sem_nsems)
        sempid = tuple([libc.semctl_getpid(semid, n) for n in range(ds.sem_nsems)])
    except OSError as error:
        if error.errno in libc.GONE:
            raise vanished("sem", semid) from error
        raise ObjectError(f"{permissions.named('sem')}: reading its values: {explain(error)}") from error
    return SemaphoreSet(permissions, values, SemaphoreFacts(ds.sem_otime, ds.sem_ctime, sempid))


def restore(semaphores: SemaphoreSet, creator: Creator) -> None:
    """Make a set as it was. The namespace's limits are wide open. Raises ObjectError."""
    with creator.making(semaphores.permissions, lambda key, flags: libc.semget(key, semaphores.nsems, flags)) as (
        semid,
        final,
    ):
        libc.semctl_setall(semid, semaphores.values)
        if semaphores.facts is not None and semaphores.facts.otime:
            # Programs tell by a sem_otime other than 0 that a set has been initialised (semop(2)); only an operation
            # sets it. This one leaves the value as it was, and keeps within 0 to SEMVMX.
            step = 1 if semaphores.values[0] == 0 else -1
            libc.semop(semid, (0, step), (0, -step))
        libc.semctl(semid, libc.IPC_SET, libc.semid_ds(final))
