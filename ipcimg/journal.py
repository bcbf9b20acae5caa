"""The journal of a restore: what there is to undo, should it not come to its end.

It is a segment in the target namespace itself: so it is there exactly as long as what it tells of, whoever dies
meanwhile, and whoever comes next finds it. What an object will be is noted before it is made. The segment is removed
when the restore is complete, which is the moment that makes it so.

    magic[8] count:u32 capacity:u32 length:u32 facts[length] …  record[capacity] from byte 4096 on
    record = kind:u8 state:u8 zero:u16 id:u32 key:u32 cuid:u32 cgid:u32, 4 bytes of zeros

The magic is written last. Facts are JSON: the settings that were there before, whether they are to be put back, and who
restores what.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import kinds, libc, var
from .companion import Companion
from .errors import KernelError, doing, explain
from .listing import objects
from .model import NAMES, Variables
from .notes import Notes, with_room
from .preset import Preset
from .selection import Name

# Somebody else's segment may have one of them: then the next one is taken.
KEYS = tuple(0x69706369 + n for n in range(8))

_MAGIC = b"ipcimgJ1"
_HEAD = struct.Struct("<8sIII")
_COUNT_AT = 8
_RECORD = struct.Struct("<BBHIIII4x")
_RECORDS_AT = 4096
_PATH_AT_MOST = 1024  # characters of a directory's name
_KINDS = tuple(NAMES)
_INTENDED, _MADE = 1, 2
_FOR_EVER = 1 << 63  # seconds since the epoch
_TRIES = 10


class Journal(Notes):
    """An attached journal. Leaving its context lets it go, and does not remove it."""

    KEYS = KEYS
    WHAT = "a restore"

    def __init__(self, shmid: int) -> None:
        """Attach the segment. Raises OSError."""
        super().__init__(shmid)
        # When its process let go of it, by its end; what came to be later is not of its making.
        self._written_until = self.let_go_at or _FOR_EVER
        self.facts: dict[str, Any] = {}
        self._count = 0

    # ---- to be written ---------------------------------------------------------------------

    def begin(
        self, before: Variables, capacity: int, *, settings: bool, directory: str, strangers: list[list[object]]
    ) -> None:
        """Make it a journal: from now on there is something to undo. For the rest see new().

        strangers are the kind and id of objects that were there before and have the key of throwaways.
        """
        self.facts = {
            "variables": dataclasses.asdict(before),
            "settings": settings,
            "directory": directory[:_PATH_AT_MOST],
            "pid": os.getpid(),
            "throwaways": strangers,
        }
        import json  # a dump sees whether there is a journal, and reads none

        text = json.dumps(self.facts).encode()
        self.memory[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self.memory, 0, bytes(8), 0, capacity, len(text))
        self.memory[:8] = _MAGIC

    def intend(self, kind: str, object_id: int, key: int, creator: tuple[int, int]) -> None:
        """Note that an object is about to be made."""
        self._put(self._count, kind, _INTENDED, object_id, key, creator)
        self._set_count(self._count + 1)

    @property
    def room(self) -> tuple[int, int, int]:
        """For a loop that notes objects as intend() and made() do: address, how many are noted, and how many may be."""
        return self.address, self._count, (self.size - _RECORDS_AT) // _RECORD.size

    def noted(self, count: int) -> None:
        """To be told how many are noted now."""
        self._count = count

    def made(self, object_id: int) -> None:
        """Note that the object that was noted last is there, and its id."""
        kind, _, _, key, *creator = self._record(self._count - 1)
        self._put(self._count - 1, kind, _MADE, object_id, key, (creator[0], creator[1]))

    def withdraw(self) -> None:
        """Note that the object that was noted last is not there."""
        self._set_count(self._count - 1)

    def remove(self) -> None:
        """Remove the segment: there is nothing to undo any more. What was noted can still be read. Raises OSError."""
        libc.shmctl(self.shmid, libc.IPC_RMID)

    # ---- to be undone ----------------------------------------------------------------------

    def roll_back(self) -> int:
        """Undo everything that is noted, and remove the journal; gives how many objects were removed.

        Raises KernelError; then the journal stays, if it was not removed before.
        """
        removed = 0
        if self.has_begun:
            removed = self._unmake()
            put_back = var.apply if self.facts["settings"] else var.apply_presets
            put_back(self.before)
        with doing("removing the journal of the restore"):
            kinds.discard("shm", self.shmid)
        return removed

    def _unmake(self) -> int:
        left: list[OSError] = []
        removed = 0
        for n in reversed(range(self._count)):
            kind, state, object_id, *noted = self._record(n)
            try:
                if self._is_there(kind, object_id, noted, newborn=state == _INTENDED):
                    removed += kinds.discard(kind, object_id)
            except OSError as error:
                left.append(error)
        for kind, object_id, key in objects(*NAMES):
            if (
                key == kinds.THROWAWAY
                and [kind, object_id] not in self.facts["throwaways"]
                and kinds.is_of(kind, object_id, {0, os.geteuid()})
            ):
                kinds.remove(kind, object_id)
        if left:
            raise KernelError(f"{len(left)} objects that were made could not be removed again: {explain(left[0])}")
        self._set_count(0)
        return removed

    @property
    def before(self) -> Variables:
        """The settings that were there before."""
        return var.of(self.facts["variables"])

    def read(self) -> None:
        """Take up what another process has written. Raises ValueError and the like where it makes no sense."""
        if not self.has_begun:
            return
        _, count, capacity, length = _HEAD.unpack_from(self.memory)
        if not count <= capacity <= (self.size - _RECORDS_AT) // _RECORD.size or length > _RECORDS_AT - _HEAD.size:
            raise ValueError("its numbers do not fit together")
        self._count = count
        import json

        self.facts = json.loads(bytes(self.memory[_HEAD.size : _HEAD.size + length]))
        if missing := {"variables", "settings", "directory", "pid", "throwaways"} - self.facts.keys():
            raise ValueError(f"it lacks {min(missing)}")
        var.of(self.facts["variables"])

    @property
    def described(self) -> str:
        """Whose journal it is, for people."""
        if not self.has_begun:
            return "a restore that was killed before it began"
        return f"an unfinished restore from {self.facts['directory']}, whose process {self.facts['pid']} was killed"

    @property
    def is_one(self) -> bool:
        """Is the segment a journal, be it that its process was killed before it had begun?"""
        records, rest = divmod(self.size - _RECORDS_AT, _RECORD.size)
        return records > 0 and not rest and (self.has_begun or not any(self.memory[:8]))

    @property
    def has_begun(self) -> bool:
        """Is it one that begin() has finished?"""
        return bytes(self.memory[:8]) == _MAGIC

    # ---- records ---------------------------------------------------------------------------

    def _record(self, n: int) -> tuple[str, int, int, int, int, int]:
        number, state, _, object_id, key, cuid, cgid = _RECORD.unpack_from(self.memory, _RECORDS_AT + n * _RECORD.size)
        return _KINDS[number % len(_KINDS)], state, object_id, key, cuid, cgid

    @staticmethod
    def kind_number(kind: str) -> int:
        """What a kind is called in a record."""
        return _KINDS.index(kind)

    def _put(self, n: int, kind: str, state: int, object_id: int, key: int, creator: tuple[int, int]) -> None:
        at = _RECORDS_AT + n * _RECORD.size
        _RECORD.pack_into(self.memory, at, self.kind_number(kind), state, 0, object_id, key, *creator)

    def _set_count(self, count: int) -> None:
        self._count = count
        struct.pack_into("<I", self.memory, _COUNT_AT, count)

    def _is_there(self, kind: str, object_id: int, noted: Sequence[int], *, newborn: bool) -> bool:
        """Is there the object that was made, or about to be, as far as can be told from one that came in its place?"""
        found = kinds.at_index(kind, object_id)
        if found is None or found.id != object_id or found.ctime > self._written_until:
            return False
        perm = found.perm
        return [perm.key, perm.cuid, perm.cgid] == list(noted) and (perm.mode & 0o777 == kinds.NEWBORN or not newborn)


def new(
    wanted: Sequence[Name], present: Iterable[Name], before: Variables, *, settings: bool, directory: str
) -> Journal:
    """A journal that has begun, for so many objects, in the namespace that the caller is in, out of their way.

    settings says that limits will be raised, and may be for the journal's sake. Raises KernelError, when
    everything is as it was.
    """
    keys = {key for kind, _, key in (*wanted, *present) if kind == "shm"}
    key = next((key for key in KEYS if key not in keys), None)
    if key is None:
        raise KernelError("noting what is restored: all keys of journals are taken")
    indexes = {object_id % (1 << bits) for kind, object_id, _ in wanted if kind == "shm" for bits in kinds.INDEX_BITS}
    size = _RECORDS_AT + (len(wanted) + 1) * _RECORD.size
    with doing("noting what is restored, in a segment of the namespace"), _presets_put_back(before) as on_error:
        make = functools.partial(_made, key, size, indexes, on_error)
        journal = with_room(make) if settings else make()
        strangers: list[list[object]] = [[kind, number] for kind, number, key in present if key == kinds.THROWAWAY]
        journal.begin(before, len(wanted), settings=settings, directory=directory, strangers=strangers)
        return journal


@contextlib.contextmanager
def _presets_put_back(before: Variables) -> Iterator[contextlib.ExitStack]:
    """The journal takes a pending preset, and arms one: have all as it was on any error, and if we are killed."""
    with contextlib.ExitStack() as on_error:
        guardian = Companion(lambda: None, lambda prepared, word: None if word else var.apply_presets(before))
        on_error.callback(guardian.end)
        on_error.callback(var.apply_presets, before)
        yield on_error
        guardian.dismiss()
        on_error.pop_all()


def _made(key: int, size: int, not_at: set[int], on_error: contextlib.ExitStack) -> Journal:
    """A segment at an index that is free and not in not_at: what is restored needs those."""
    create = functools.partial(libc.shmget, key, size, libc.IPC_CREAT | libc.IPC_EXCL | 0o600)
    # Without a preset first: where there is no room, that would stay.
    shmid = create()
    on_error.callback(kinds.discard, "shm", shmid)
    index = 0
    with Preset("shm") as preset:
        for _ in range(_TRIES):
            if not {shmid % (1 << bits) for bits in kinds.INDEX_BITS} & not_at:
                journal = Journal(shmid)
                on_error.callback(journal.close)
                return journal
            kinds.discard("shm", shmid)
            while index in not_at or kinds.at_index("shm", index) is not None:
                index += 1
            preset.arm(index)
            shmid = create()
            on_error.callback(kinds.discard, "shm", shmid)
            preset.taken()
    raise OSError(errno.EAGAIN, "somebody takes every id")
