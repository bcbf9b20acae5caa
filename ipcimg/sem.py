"""Semaphore sets: kernel ⇄ model.SemaphoreSet. See semctl(2)."""

from __future__ import annotations

import array
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import libc, loops
from .errors import ChangedError, ObjectError, explain
from .model import Frames, Permissions, SemaphoreFacts, SemaphoreSet
from .reading import Reading, stat_any, vanished

if TYPE_CHECKING:
    from .create import Creator

_NSEMS_MOST = 1 << 14  # semaphores of a set that is dumped in one go with others


class Semaphores:
    """The sets of the namespace the caller is in, as far as they are wanted; see model.FramedObjects."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __iter__(self) -> Iterator[SemaphoreSet]:
        """Raises ObjectError, ChangedError."""
        for semid in self._reading.ids("sem"):
            yield from self._one(semid)

    def framed(self, exact: bool) -> Iterator[SemaphoreSet | Frames]:
        """See model.FramedObjects."""
        if loops.c is None or self._reading.tolerant or not self._reading.owners.have_their_names:
            return iter(self)
        return loops.framed(loops.c.dump_sets, self._reading.ids("sem"), self._one, exact=exact, most=_NSEMS_MOST)

    def _one(self, semid: int) -> Iterator[SemaphoreSet]:
        """The set; nothing where it has gone, and that may be."""
        reading, ds = self._reading, libc.semid_ds()
        try:
            stat_any("sem", semid, functools.partial(libc.semctl, semid, libc.SEM_STAT_ANY, ds))
            permissions = reading.owners.inside("sem", ds.sem_perm, semid)
            values, sempid = self._read(semid, ds.sem_nsems, permissions)
        except ChangedError as error:
            reading.changed(error)
            return
        yield SemaphoreSet(permissions, values, SemaphoreFacts(ds.sem_otime, ds.sem_ctime, sempid))

    @staticmethod
    def _read(semid: int, nsems: int, permissions: Permissions) -> tuple[array.array[int], tuple[int, ...]]:
        try:
            return libc.semctl_getall(semid, nsems), tuple([libc.semctl_getpid(semid, n) for n in range(nsems)])
        except OSError as error:
            if error.errno in libc.GONE:
                raise vanished("sem", semid) from error
            raise ObjectError(f"{permissions.named('sem')}: reading its values: {explain(error)}") from error


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
