"""What the three kinds of object have alike in the kernel, by the names msg, sem and shm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Set
from typing import NamedTuple

from . import libc

INDEX_BITS = (15, 24)  # of an id: the index, without ipcmni_extend and with it; the sequence number is above it
# The mode of an object that is being made. It lets in nobody but its creator, and hardly anybody asks for it: so an
# object of ours that the journal could not yet call made is told from a stranger's that came to be in its place.
NEWBORN = 0o711
THROWAWAY = 0x69706374  # the key of what try_room() makes, by which it is found if we are killed there
_CREATE = libc.IPC_CREAT | libc.IPC_EXCL | 0o600
_MAKE: dict[str, Callable[[int], int]] = {
    "msg": lambda key: libc.msgget(key, _CREATE),
    "sem": lambda key: libc.semget(key, 1, _CREATE),
    "shm": lambda key: libc.shmget(key, 1, _CREATE),
}
_REMOVE: dict[str, Callable[[int], int]] = {
    "msg": lambda msqid: libc.msgctl(msqid, libc.IPC_RMID),
    "sem": lambda semid: libc.semctl(semid, libc.IPC_RMID),
    "shm": lambda shmid: libc.shmctl(shmid, libc.IPC_RMID),
}


def remove(kind: str, object_id: int) -> None:
    """IPC_RMID. Raises OSError, one of libc.GONE where the object is not there."""
    _REMOVE[kind](object_id)


def discard(kind: str, object_id: int) -> bool:
    """Remove an object; False where somebody else has done that. Raises OSError."""
    try:
        remove(kind, object_id)
    except OSError as error:
        if error.errno in libc.GONE:
            return False
        raise
    return True


def try_room(kind: str) -> int:
    """Make an object and remove it, and give the id that it had. Raises OSError where there is no room for one."""
    try:
        object_id = _MAKE[kind](THROWAWAY)
    except FileExistsError:
        object_id = _MAKE[kind](libc.IPC_PRIVATE)
    with contextlib.ExitStack() as once_more:
        once_more.callback(remove, kind, object_id)
        remove(kind, object_id)
        once_more.pop_all()
    return object_id


class Found(NamedTuple):
    """What is at an index."""

    id: int
    perm: libc.ipc_perm
    ctime: int  # seconds since the epoch


def at_index(kind: str, object_id: int) -> Found | None:
    """The object that is at the index of an id; None where none is. Raises OSError."""
    try:
        if kind == "msg":
            queue = libc.msqid_ds()
            return Found(libc.msgctl(object_id, libc.MSG_STAT_ANY, queue), queue.msg_perm, queue.msg_ctime)
        if kind == "sem":
            one = libc.semid_ds()
            return Found(libc.semctl(object_id, libc.SEM_STAT_ANY, one), one.sem_perm, one.sem_ctime)
        segment = libc.shmid_ds()
        return Found(libc.shmctl(object_id, libc.SHM_STAT_ANY, segment), segment.shm_perm, segment.shm_ctime)
    except OSError as error:
        if error.errno in libc.GONE:
            return None
        raise


def is_of(kind: str, object_id: int, users: Set[int | None]) -> bool:
    """Has it been made by one of these users, whose word we take, for nobody else to use? Raises OSError."""
    found = at_index(kind, object_id)
    if found is None or found.id != object_id:
        return False
    return {found.perm.uid, found.perm.cuid} <= users and not found.perm.mode & 0o077
