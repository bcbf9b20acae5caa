"""What can be known of a restore before anything is made: what is refused, and what will not be as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from . import kinds, libc, model
from .create import KEY_TAKEN, taken
from .errors import ConflictError, and_more
from .owners import Owners
from .selection import Name, Selection

# In the kernel's names: what the images keep and nobody can set again.
_FACTS = {
    "shm": ("shm_atime", "shm_dtime", "shm_ctime", "shm_cpid", "shm_lpid", "shm_nattch"),
    "msg": ("msg_stime", "msg_rtime", "msg_ctime", "msg_lspid", "msg_lrpid"),
    "sem": ("sem_ctime", "sempid", "the second of sem_otime"),
}
# What the kernel does not even show.
_HIDDEN = {"msg": "the order of waiting processes", "sem": "SEM_UNDO and the order of waiting processes"}


@dataclass(slots=True)
class Preflight:
    """The objects of a set of images that are to be restored, looked at one by one."""

    owners: Owners
    selection: Selection
    creator: tuple[int, int]  # who makes the objects: effective user and group
    counts: model.Counts = field(default_factory=model.Counts)
    removed: list[int] = field(default_factory=list)  # segments with SHM_DEST
    foreign: list[str] = field(default_factory=list)  # objects that somebody else had created
    unknown_otime: list[str] = field(default_factory=list)  # sets of which the images do not tell sem_otime
    wanted: list[Name] = field(default_factory=list)
    _conflicts: list[str] = field(default_factory=list)
    _ids: set[tuple[str, int]] = field(default_factory=set)
    _keys: set[tuple[str, int]] = field(default_factory=set)

    def add(self, kind: str, one: model.Object, counts: model.Counts) -> None:
        """Look at an object that holds counts."""
        p = one.permissions
        if not self.selection.wants(kind, p.id, p.key):
            return
        self.counts += counts
        named = p.named(kind)
        self.wanted.append((kind, p.id, p.key))
        if (kind, p.id) in self._ids:
            self._conflicts.append(f"{named} is in the images twice")
        if p.key and (kind, p.key) in self._keys:
            self._conflicts.append(f"{named}: another object in the images has that key")
        self._ids.add((kind, p.id))
        self._keys.add((kind, p.key))
        here = self.owners.here(p)
        unmapped = [f"{name} {getattr(p, name)}" for name, number in here.items() if number is None]
        if unmapped:
            self._conflicts.append(
                f"{named}: {', '.join(unmapped)} has no mapping in the user namespace that owns the target"
            )
        if (here["cuid"], here["cgid"]) != self.creator:
            self.foreign.append(named)
        if isinstance(one, model.SemaphoreSet) and one.facts is None:
            self.unknown_otime.append(named)
        if isinstance(one, model.SharedMemory) and p.mode & libc.SHM_DEST:
            self.removed.append(p.id)

    def look_at_target(self, present: Sequence[Name], *, free_ids: bool) -> None:
        """Compare ids and keys with those of the objects in the namespace that the caller is in.

        free_ids says that another id will do. Raises OSError.
        """
        there = {kind for kind, _, _ in present}
        keys = {(kind, key) for kind, _, key in present if key}
        for kind, object_id, key in self.wanted:
            if kind not in there:
                continue
            named = model.object_name(kind, object_id, key)
            other = None if free_ids else kinds.at_index(kind, object_id)
            if other is not None:
                self._conflicts.append(taken(named, kind, other[0]))
            if (kind, key) in keys:
                self._conflicts.append(f"{named}: {KEY_TAKEN}")

    def refuse(self) -> None:
        """Raise ConflictError if there are objects that cannot be made in the target."""
        if self._conflicts:
            raise ConflictError(self._conflicts)

    def losses(self, *, creators: bool, hold: bool, forced: bool) -> list[str]:
        """A sentence for each thing whose loss programs may notice.

        creators tells whether objects can be given their creators, hold whether a process keeps
        segments alive, forced whether shm_rmid_forced should be 1 and cannot.
        """
        found = []
        if not hold:
            found += [
                f"shared memory segment {shmid} was removed while still attached, and is restored as an ordinary one "
                "(--hold keeps it as it was)"
                for shmid in self.removed
            ]
        if forced:
            found.append(
                "kernel.shm_rmid_forced is left at 0: setting it to 1 would destroy segments that nobody has attached "
                "yet"
            )
        if self.foreign and not creators:
            found.append(
                f"{and_more(self.foreign)}: made by whoever restores it, since other creators need CAP_SETUID, "
                "CAP_SETGID, CAP_IPC_OWNER and CAP_SYS_ADMIN"
            )
        if self.unknown_otime:
            found.append(
                f"{and_more(self.unknown_otime)}: restored as never used, since the images do not tell its sem_otime"
            )
        return found

    def facts_lost(self) -> list[str]:
        """What nobody can restore, a line for each kind of object that there is."""
        return [
            f"{model.NAMES[kind]}s: {', '.join((*names, *([_HIDDEN[kind]] if kind in _HIDDEN else [])))}"
            for kind, names in _FACTS.items()
            if any(seen == kind for seen, _, _ in self.wanted)
        ]
