"""What can be known of a restore before anything is made: what is refused, and what will not be as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import kinds, libc, model, turn
from .create import KEY_TAKEN, taken
from .errors import ConflictError, and_more
from .journal import KEYS
from .owners import Owners
from .selection import Name, Selection

# In the kernel's names: what the images keep and nobody can set again.
_FACTS = {
    "shm": ("shm_atime", "shm_dtime", "shm_ctime", "shm_cpid", "shm_lpid", "shm_nattch"),
    "msg": ("msg_stime", "msg_rtime", "msg_ctime", "msg_lspid", "msg_lrpid"),
    "sem": ("sem_ctime", "sempid", "the second of sem_otime"),
}
_OUR_KEYS = {*KEYS, *turn.KEYS, kinds.THROWAWAY}  # an image that has them could pass for a journal
_PER_MESSAGE, _PER_SEMAPHORE = 64, 64  # bytes: struct msg_msg in its slab, struct sem on its cache line
_LIMITS = {
    "msg_ctlmax": "kernel.msgmax",
    "msg_ctlmnb": "kernel.msgmnb",
    "shm_ctlmax": "kernel.shmmax",
    "semmsl": "the first number of kernel.sem",
}
# What the kernel does not even show.
_HIDDEN = {"msg": "the order of waiting processes", "sem": "SEM_UNDO and the order of waiting processes"}


@dataclass(slots=True)
class Preflight:
    """The objects of a set of images that are to be restored, looked at one by one."""

    owners: Owners
    selection: Selection
    creator: tuple[int, int]  # who makes the objects: effective user and group
    page_size: int  # bytes, of the images
    counts: model.Counts = field(default_factory=model.Counts)
    removed: list[int] = field(default_factory=list)  # segments with SHM_DEST
    foreign: list[str] = field(default_factory=list)  # objects that somebody else had created
    unknown_otime: list[str] = field(default_factory=list)  # sets of which the images do not tell sem_otime
    wanted: list[Name] = field(default_factory=list)
    _conflicts: list[str] = field(default_factory=list)
    _memory: int = 0  # bytes, that the kernel will need at least
    _most: dict[str, tuple[int, str]] = field(default_factory=dict)  # by limit: the most that is wanted, and by what

    def add(self, kind: str, one: model.Object, counts: model.Counts) -> None:
        """Look at an object that holds counts."""
        p = one.permissions
        if not self.selection.wants(kind, p.id, p.key):
            return
        self.counts += counts
        self.wanted.append((kind, p.id, p.key))
        if p.key in _OUR_KEYS:
            self._conflicts.append(f"{p.named(kind)}: that key is for what ipcimg makes meanwhile")
        self._measure(one, counts)
        here = self.owners.here(p)
        if None in here.values():
            unmapped = [f"{name} {getattr(p, name)}" for name, number in here.items() if number is None]
            self._conflicts.append(
                f"{p.named(kind)}: {', '.join(unmapped)} has no mapping in the user namespace that owns the target"
            )
        if (here["cuid"], here["cgid"]) != self.creator:
            self.foreign.append(p.named(kind))
        if isinstance(one, model.SemaphoreSet) and one.facts is None:
            self.unknown_otime.append(p.named(kind))
        if isinstance(one, model.SharedMemory) and p.mode & libc.SHM_DEST:
            self.removed.append(p.id)

    def _measure(self, one: model.Object, counts: model.Counts) -> None:
        if isinstance(one, model.MessageQueue):
            self._memory += (one.size or 0) + one.qnum * _PER_MESSAGE
            self._want("msg_ctlmax", one.longest or 0, "msg", one, "has a message of {} bytes")
            self._want("msg_ctlmnb", one.size or 0, "msg", one, "holds {} bytes")
        elif isinstance(one, model.SemaphoreSet):
            self._memory += one.nsems * _PER_SEMAPHORE
            self._want("semmsl", one.nsems, "sem", one, "has {} semaphores")
        else:
            if one.hugetlb_flag is None:  # huge pages come from a pool of their own, and are reserved when it is made
                self._memory += counts.pages * self.page_size
            self._want("shm_ctlmax", one.size, "shm", one, "has {} bytes")

    def _want(self, limit: str, value: int, kind: str, one: model.Object, words: str) -> None:
        if value > self._most.get(limit, (0, ""))[0]:
            self._most[limit] = value, f"{one.permissions.named(kind)} {words.format(value)}"

    def look_at_memory(self) -> None:
        """Compare what the objects hold with the memory that the machine has available. Raises OSError."""
        with open("/proc/meminfo") as file:
            kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in file)}
        available = (kib["MemAvailable"] + kib["SwapFree"]) << 10
        if self._memory > available:
            self._conflicts.append(
                f"the images hold {self._memory} bytes of messages, semaphores and pages; the machine has {available} "
                "available"
            )

    def look_at_limits(self, limits: model.Variables, present: Sequence[Name]) -> None:
        """Compare what is wanted with the limits of a target whose limits are not raised."""
        semmsl, _, _, semmni = limits.sem_ctls
        values = dataclasses.asdict(limits) | {"semmsl": semmsl}
        for limit, (most, words) in self._most.items():
            if most > values[limit]:
                self._conflicts.append(f"{words}; {_LIMITS[limit]} is {values[limit]}, and raised with --vars alone")
        numbers = {"shm": ("shmmni", limits.shm_ctlmni), "msg": ("msgmni", limits.msg_ctlmni), "sem": ("sem", semmni)}
        for kind, (name, most) in numbers.items():
            wanted, there = (sum(one[0] == kind for one in names) for names in (self.wanted, present))
            if wanted and wanted + there > most:
                self._conflicts.append(
                    f"{wanted} {model.NAMES[kind]}s, beside {there} that are there; kernel.{name} allows {most}, and "
                    "is raised with --vars alone"
                )

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
                self._conflicts.append(taken(named, kind, other.id))
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
