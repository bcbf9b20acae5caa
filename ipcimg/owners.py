"""Users and groups, as they are called here and inside the user namespace that owns an IPC namespace.

Images have the ids of inside, as CRIU's do: what an object's owner is called there stays the same wherever the
namespace is carried to. The kernel's calls speak of ids as the caller's user namespace has them, and give the overflow
id, 65534, for those that it has not. See user_namespaces(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

from . import libc
from .companion import Companion
from .errors import NamespaceError, ObjectError, explain
from .interrupts import deferred
from .model import NAMES, Permissions

_ALL = (1 << 32) - 1  # ids there are: -1 is none
_OWN = "/proc/thread-self/ns/user"
_NAMES = ("uid", "gid", "cuid", "cgid")  # in struct ipc_perm and in model.Permissions


@dataclass(frozen=True, slots=True)
class IdMap:
    """Which id inside is which id here: ranges of (first inside, first here, length)."""

    ranges: tuple[tuple[int, int, int], ...]
    overflow: int | None  # the id that stands for those without a name here; None where all have one

    def inside(self, here: int) -> int | None:
        """What an id is called inside; None where it has no name there, or its name here may be the overflow id."""
        if here == self.overflow:
            return None
        return next((a + here - b for a, b, length in self.ranges if b <= here < b + length), None)

    def here(self, inside: int) -> int | None:
        """What an id of inside is called here; None where it has no name."""
        for a, b, length in self.ranges:
            if a <= inside < a + length:
                return b + inside - a
        return None


@dataclass(frozen=True, slots=True)
class Owners:
    """The owners and creators that the objects of one IPC namespace can have."""

    uids: IdMap
    gids: IdMap

    @property
    def have_their_names(self) -> bool:
        """Is everybody called the same inside and here?"""
        return all(ids == IdMap(((0, 0, _ALL),), None) for ids in (self.uids, self.gids))

    def inside(self, kind: str, perm: libc.ipc_perm, object_id: int) -> Permissions:
        """struct ipc_perm as the model has it. Raises ObjectError for an owner without a name inside."""
        ids = {name: self._map(name).inside(getattr(perm, name)) for name in _NAMES}
        for name, inside in ids.items():
            if inside is None:
                raise ObjectError(
                    f"{NAMES[kind]} {object_id}: its {name}, {getattr(perm, name)} as seen from here, has no certain "
                    "mapping in the user namespace that owns the IPC namespace"
                )
        return Permissions(perm.key, mode=perm.mode, id=object_id, **ids)  # type: ignore[arg-type]

    def here(self, permissions: Permissions) -> dict[str, int | None]:
        """What uid, gid, cuid and cgid of the model are called here; None for those without a name."""
        p, uids, gids = permissions, self.uids, self.gids
        return {
            "uid": uids.here(p.uid),
            "gid": gids.here(p.gid),
            "cuid": uids.here(p.cuid),
            "cgid": gids.here(p.cgid),
        }

    def _map(self, name: str) -> IdMap:
        return self.gids if name.endswith("gid") else self.uids


def of(fd: int) -> Owners:
    """Those of the IPC namespace that fd is a descriptor of. Raises NamespaceError."""
    try:
        user = fcntl.ioctl(fd, libc.NS_GET_USERNS)
    except OSError as error:
        raise NamespaceError(
            f"the IPC namespace belongs to a user namespace that cannot be seen from here: {explain(error)}"
        ) from error
    try:
        with deferred():
            uids, gids = _own_maps() if os.fstat(user).st_ino == os.stat(_OWN).st_ino else _maps_of(user)
    except OSError as error:
        raise NamespaceError(f"entering the user namespace that owns the IPC namespace: {explain(error)}") from error
    finally:
        os.close(user)
    return Owners(IdMap(uids, _overflow("uid")), IdMap(gids, _overflow("gid")))


def _own_maps() -> list[tuple[tuple[int, int, int], ...]]:
    return [tuple((a, a, n) for a, _, n in _map(f"/proc/thread-self/{kind}_map")) for kind in ("uid", "gid")]


def _maps_of(user: int) -> list[tuple[tuple[int, int, int], ...]]:
    """The maps of another user namespace, as seen from here: those of a process that goes there."""
    visitor = Companion(lambda: libc.setns(user, libc.CLONE_NEWUSER), lambda prepared, word: None)
    try:
        if os.stat(f"{visitor.proc}/ns/user").st_ino != os.fstat(user).st_ino:
            raise OSError(errno.ESRCH, f"{visitor.proc} is not the process that was sent there")
        return [tuple(_map(f"{visitor.proc}/{kind}_map")) for kind in ("uid", "gid")]
    finally:
        visitor.close()


def _map(path: str) -> Iterator[tuple[int, int, int]]:
    with open(path) as file:
        for line in file:
            inside, here, length = map(int, line.split())
            yield inside, here, length


def _overflow(kind: str) -> int | None:
    """The id that the kernel shows for one that the caller's user namespace lacks; None where it has them all."""
    if sum(length for _, _, length in _map(f"/proc/thread-self/{kind}_map")) == _ALL:
        return None
    with open(f"/proc/sys/kernel/overflow{kind}") as file:
        return int(file.read())
