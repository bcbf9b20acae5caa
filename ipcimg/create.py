"""Making an object with a wanted id, and unmaking what was made: common to the three kinds of object.

The kernel gives a wanted id only if its index is free: otherwise the object gets the next free one, without an error
(ipc/util.c: ipc_idr_alloc). So the id is compared, always. Who is at the index is asked before, too: many kernels go on
beyond the last index, to where an object has the id of another one and cannot be removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from . import kinds, libc, loops
from .credentials import acting_as
from .errors import ObjectError, explain
from .interrupts import deferred
from .journal import Journal
from .model import NAMES, Object, Permissions, StoredObjects
from .owners import Owners
from .preset import Preset

KEY_TAKEN = "there is another object with that key in the namespace"
_WHY = {
    errno.EEXIST: KEY_TAKEN,
    errno.EAGAIN: "it does not take all its messages",
    errno.ENOSPC: "the namespace has no room for one more",
    errno.EINVAL: "Invalid argument: its size, or an owner that is not mapped in the user namespace",
}
_PATIENCE = 2.0  # seconds, for each object


def taken(named: str, kind: str, other: int) -> str:
    """The sentence for an object whose id is taken by another one."""
    return f"{named}: that id is taken in the namespace (by {NAMES[kind]} {other})"


@dataclass(slots=True)
class Making:
    """How objects are made in one namespace, and which got other ids."""

    owners: Owners
    journal: Journal  # in which every object is noted
    creators: bool  # do they get their creators? Otherwise whoever makes them is the creator
    tight: bool = False  # are there limits that could not be raised?
    free_ids: bool = False  # may an object get another id where its own is taken?
    new_ids: dict[tuple[str, int], int] = field(default_factory=dict)  # of those that did: kind and id → id


_O = TypeVar("_O", bound=Object)


class _Taken(ObjectError):
    """The id that an object should get is taken."""


class Creator:
    """Makes objects of one kind (msg, sem or shm) under wanted ids."""

    def __init__(self, kind: str, making: Making, preset: Preset) -> None:
        self._kind, self._making, self._preset = kind, making, preset
        self._any_id = False
        self.buffer = libc.MessageBuffer(8192)

    def make(
        self, objects: Iterable[_O], restore: Callable[[_O, Creator], None], loop: loops.Make | None = None
    ) -> None:
        """Make all objects, each by restore, or by a loop in C that does the same.

        Those whose ids are taken come last, if they may get others. Raises ObjectError.
        """
        ordinary = self._making.owners.have_their_names and not (self._making.tight or self._making.free_ids)
        if loop is not None and ordinary and isinstance(objects, StoredObjects):
            self._make_stored(objects, restore, loop)
            return
        waiting: set[int] = set()
        for n, one in enumerate(objects):
            try:
                restore(one, self)
            except _Taken:
                if not self._making.free_ids:
                    raise
                waiting.add(n)
        if waiting:
            self._preset.disarm()
            self._any_id = True
            for n, one in enumerate(objects):
                if n in waiting:
                    restore(one, self)

    def _make_stored(
        self, objects: StoredObjects[_O], restore: Callable[[_O, Creator], None], loop: loops.Make
    ) -> None:
        """Make all objects: by the loop as far as it can do them, the others by restore."""
        block, journal, creator = objects.block(), self._making.journal, (os.geteuid(), os.getegid())
        number = journal.kind_number(self._kind)
        while block.left:
            with deferred():
                self._preset.may_be_armed()
                _, block.at, noted, given, why = loop(
                    block.data, block.at, block.end, self._preset.fd, *journal.room, *creator, kinds.NEWBORN, number
                )
                journal.noted(noted)
            if not why:
                self._preset.taken()
            if not why or (why == loops.FULL and not block.is_full):
                if block.left:
                    block.more()
                continue
            one = objects.one_at(block)
            if why > 0:
                with self._explained(one.permissions):
                    raise OSError(why, os.strerror(why))
            if why == loops.OTHER_ID and not isinstance(error := self._not_wanted(one.permissions, given), _Taken):
                raise error
            restore(one, self)

    @contextlib.contextmanager
    def making(self, wanted: Permissions, get: Callable[[int, int], int]) -> Iterator[tuple[int, libc.ipc_perm]]:
        """Create an object for the with block to fill, and last of all to IPC_SET to what is given with it.

        get is called with key and flags. Raises ObjectError, naming the object, for whatever the
        kernel refuses here or in the block.
        """
        here = self._making.owners.here(wanted)
        with self._explained(wanted):
            given = self._make(wanted, get, self._creator(here))
            if given != wanted.id:
                self._making.new_ids[self._kind, wanted.id] = given
            yield given, libc.ipc_perm(uid=here["uid"], gid=here["gid"], mode=wanted.mode)

    @contextlib.contextmanager
    def _explained(self, wanted: Permissions) -> Iterator[None]:
        """What the kernel refuses in the with block is an ObjectError that names the object."""
        try:
            yield
        except OSError as error:
            named = wanted.named(self._kind)
            raise ObjectError(f"{named}: {_WHY.get(error.errno or 0) or explain(error)}") from error

    def _make(self, wanted: Permissions, get: Callable[[int, int], int], creator: tuple[int, int]) -> int:
        """Make an object under the wanted id, also where somebody else makes objects and takes ids and presets.

        Where any id will do it is one that the kernel would give.
        """
        until, other_id = time.monotonic() + _PATIENCE, self._making.free_ids and not self._any_id
        while True:
            try:
                if self._any_id:
                    wanted = dataclasses.replace(wanted, id=kinds.try_room(self._kind))
                self._expect_free(wanted)
                with deferred():
                    if self._making.tight:
                        kinds.try_room(self._kind)
                    self._preset.arm(wanted.id)
                    return self._get(wanted, get, creator)
            except _Taken:
                if other_id or time.monotonic() > until:
                    raise

    def _expect_free(self, wanted: Permissions) -> None:
        other = kinds.at_index(self._kind, wanted.id)
        if other is not None:
            raise _Taken(taken(wanted.named(self._kind), self._kind, other.id))

    def _get(self, wanted: Permissions, get: Callable[[int, int], int], creator: tuple[int, int]) -> int:
        journal = self._making.journal
        journal.intend(self._kind, wanted.id, wanted.key, creator)
        with acting_as(*creator):
            try:
                given = get(wanted.key, libc.IPC_CREAT | libc.IPC_EXCL | kinds.NEWBORN)
            except BaseException:
                journal.withdraw()
                raise
            journal.made(given)
            self._preset.taken()
            if given != wanted.id:
                raise self._not_wanted(wanted, given)
        return given

    def _not_wanted(self, wanted: Permissions, given: int) -> ObjectError:
        """Remove an object that got another id than the wanted one, if it can be told from everybody else's."""
        meanwhile = f"{wanted.named(self._kind)}: that id was taken meanwhile, and the kernel gave {given}"
        bits = kinds.INDEX_BITS[0]
        beyond_the_last_index = given >> bits == (wanted.id >> bits) + 1
        if beyond_the_last_index and kinds.at_index(self._kind, (1 << bits) - 1) is not None:
            self._making.journal.withdraw()
            return ObjectError(f"{meanwhile}, which may be the id of another object as well: it is left there")
        kinds.remove(self._kind, given)
        self._making.journal.withdraw()
        return _Taken(meanwhile)

    def _creator(self, here: Mapping[str, int | None]) -> tuple[int, int]:
        """As whom an object is made whose owners and creators are called so here."""
        uid, gid = here["cuid"], here["cgid"]
        if not self._making.creators or uid is None or gid is None:
            return os.geteuid(), os.getegid()
        return uid, gid
