"""What can be known of a restore before anything is made: what is refused, and what will not be as it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import libc, model
from .errors import ObjectError
from .owners import Owners
from .selection import Selection

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
    _refused: list[str] = field(default_factory=list)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def add(self, kind: str, one: model.Object, counts: model.Counts) -> None:
        """Look at an object that holds counts."""
        p = one.permissions
        if not self.selection.wants(kind, p.id, p.key):
            return
        self.counts += counts
        named = p.named(kind)
        if (kind, p.id) in self._seen:
            self._refused.append(f"{named} is in the images twice")
        self._seen.add((kind, p.id))
        here = {
            name: (self.owners.gids if name.endswith("gid") else self.owners.uids).here(getattr(p, name))
            for name in ("uid", "gid", "cuid", "cgid")
        }
        unmapped = [f"{name} {getattr(p, name)}" for name, number in here.items() if number is None]
        if unmapped:
            self._refused.append(
                f"{named}: {', '.join(unmapped)} has no mapping in the user namespace that owns the target"
            )
        if (here["cuid"], here["cgid"]) != self.creator:
            self.foreign.append(named)
        if isinstance(one, model.SemaphoreSet) and one.facts is None:
            self.unknown_otime.append(named)
        if isinstance(one, model.SharedMemory) and p.mode & libc.SHM_DEST:
            self.removed.append(p.id)

    def refuse(self) -> None:
        """Raise ObjectError if an object cannot be made as it was in the target."""
        if self._refused:
            raise ObjectError(_first(self._refused))

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
                f"{_first(self.foreign)}: made by whoever restores it, since other creators need CAP_SETUID, "
                "CAP_SETGID, CAP_IPC_OWNER and CAP_SYS_ADMIN"
            )
        if self.unknown_otime:
            found.append(
                f"{_first(self.unknown_otime)}: restored as never used, since the images do not tell its sem_otime"
            )
        return found

    def facts_lost(self) -> list[str]:
        """What nobody can restore, a line for each kind of object that there is."""
        return [
            f"{model.NAMES[kind]}s: {', '.join((*names, *([_HIDDEN[kind]] if kind in _HIDDEN else [])))}"
            for kind, names in _FACTS.items()
            if any(seen == kind for seen, _ in self._seen)
        ]


def _first(found: list[str]) -> str:
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
