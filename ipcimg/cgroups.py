"""Cgroups, of either version: the freezer stops all that is in one and below.

A container's is of version 1 where the freezer's hierarchy is mounted, as runtimes choose; else of version 2. A cgroup
that we have frozen bears a mark, an extended attribute, by which it is thawed if we are killed: by a companion, or by
`ipcimg recover`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .companion import Companion
from .errors import KernelError, doing
from .interrupts import deferred

_PATIENCE = 10.0  # seconds to stop a cgroup
_PAUSE = 0.002  # seconds between two looks
_GONE = (errno.ENOENT, errno.ENODEV)
# Version 2 takes attributes of users since Linux 5.7; version 1 has those of root alone.
_MARKS = {1: "trusted.ipcimg-frozen", 2: "user.ipcimg-frozen"}
_CONTROLS = {1: "freezer.state", 2: "cgroup.freeze"}
_WORDS = {1: ("THAWED", "FROZEN"), 2: ("0", "1")}

Hierarchies = Mapping[int, str]  # by version: where it is mounted


@dataclass(frozen=True, slots=True, order=True)
class Cgroup:
    """A cgroup other than the root. Its methods raise OSError, and take one that is gone for thawed and empty."""

    path: str  # its directory
    version: int  # 1 or 2

    def members(self) -> set[int]:
        """The processes in it and below."""
        found: set[int] = set()
        for path, _, _ in os.walk(self.path):
            with _may_be_gone(), open(f"{path}/cgroup.procs") as file:
                found |= set(map(int, file))
        return found

    def contains(self, other: Cgroup) -> bool:
        """Is it the other one, or above it?"""
        return f"{other.path}/".startswith(f"{self.path}/")

    def is_asked(self) -> bool:
        """Has somebody asked for it to be frozen, or can it not be?"""
        return self._read(_CONTROLS[self.version]) != _WORDS[self.version][0]

    def is_ours_to_freeze(self) -> bool:
        """Can it be frozen, and has nobody else asked for that?"""
        return not self.is_asked() or self.is_marked()

    def is_frozen(self) -> bool:
        """Is everything in it and below stopped?"""
        if self.version == 1:
            return self._read(_CONTROLS[1]) == _WORDS[1][1]
        return "frozen 1" in self._read("cgroup.events").splitlines()

    def set_frozen(self, frozen: bool) -> None:
        """Ask for it to be frozen, which takes some time, or thaw it."""
        with _may_be_gone(), open(f"{self.path}/{_CONTROLS[self.version]}", "w") as file:
            file.write(_WORDS[self.version][frozen])

    def is_marked(self) -> bool:
        """Was it frozen by an ipcimg that has not thawed it?"""
        with _may_be_gone(errno.EOPNOTSUPP):
            return _MARKS[self.version] in os.listxattr(self.path)
        return False

    def mark(self) -> None:
        """Say that we freeze it."""
        os.setxattr(self.path, _MARKS[self.version], b"")

    def unmark(self) -> None:
        """Say no more that we froze it."""
        with _may_be_gone(errno.ENODATA):
            os.removexattr(self.path, _MARKS[self.version])

    def _read(self, name: str) -> str:
        with _may_be_gone(), open(f"{self.path}/{name}") as file:
            return file.read().strip()
        return ""


@contextlib.contextmanager
def _may_be_gone(*more: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (*_GONE, *more):
            raise


def mounts() -> Iterator[tuple[int, str, str]]:
    """Where freezers are mounted: the version, the cgroup that is shown there, "/" for all of them, and the place."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            mount, _, filesystem = line.partition(" - ")
            kind, _, options = filesystem.split(maxsplit=2)
            root, place = map(_unescaped, mount.split()[3:5])
            if kind == "cgroup2" or (kind == "cgroup" and "freezer" in options.strip().split(",")):
                yield 2 if kind == "cgroup2" else 1, root, place


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)  # proc(5)


def hierarchies() -> Hierarchies:
    """Where the freezers of both versions are mounted, as far as the whole hierarchy can be seen. Raises OSError."""
    found: dict[int, str] = {}
    for version, root, place in mounts():
        if root == "/":
            found.setdefault(version, place)
    return found


def of_thread(pid: int, tid: int, where: Hierarchies) -> Iterator[Cgroup]:
    """The cgroups of a thread that can be frozen, of version 1 first; not roots, nor what cannot be seen.

    Raises OSError.
    """
    with open(f"/proc/{pid}/task/{tid}/cgroup", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    for number, controllers, path in lines:  # version 2 is the last line
        version = 1 if "freezer" in controllers.split(",") else 2 if number == "0" else 0
        if version in where and path != "/" and not path.startswith("/.."):
            yield Cgroup(where[version] + path, version)


def of_threads(threads: Mapping[int, Iterable[int]], where: Hierarchies) -> list[Cgroup]:
    """Those of all threads of processes, each once, sorted. Raises OSError."""
    found: set[Cgroup] = set()
    for pid, tids in threads.items():
        for tid in tids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.update(of_thread(pid, tid, where))
    return sorted(found)


def of_process(pid: int) -> Cgroup | None:
    """The cgroup by which a process can be frozen; None where there is none. Raises OSError."""
    return next(of_thread(pid, pid, hierarchies()), None)


@contextlib.contextmanager
def frozen(cgroups: Sequence[Cgroup]) -> Iterator[list[Cgroup]]:
    """Have everything in these cgroups stopped inside the with block; those that are frozen already stay so after it.

    Whoever calls it has the namespace locked: so a mark on one of them is of an ipcimg that was killed. Gives those
    that are thawed at the end, or if we are killed; whoever empties the list leaves them frozen. Raises KernelError
    where one does not stop, when all are thawed, and where one was left frozen by who was killed.
    """
    with doing("looking at the cgroups of the containers"):
        for one in cgroups:
            if one.is_marked():
                if one.is_asked():
                    raise KernelError(
                        f"the cgroup {one.path} was left frozen by an ipcimg that was killed; `ipcimg recover` thaws it"
                    )
                one.unmark()  # somebody has thawed it since
        ours = [one for one in cgroups if not one.is_asked()]
    let_go = contextlib.ExitStack()
    try:
        with deferred(), doing("freezing the containers"):
            guardian = Companion(lambda: None, lambda prepared, word: None if word == b"done" else thaw(ours))
            let_go.callback(guardian.dismiss)
            let_go.callback(thaw, ours)
            for one in ours:
                one.mark()
                one.set_frozen(True)
        until = time.monotonic() + _PATIENCE
        for one in cgroups:
            while not one.is_frozen():
                if not os.path.isdir(one.path):
                    raise KernelError(f"the cgroup {one.path} has gone meanwhile")
                if time.monotonic() > until:
                    raise KernelError(f"the cgroup {one.path} has not come to a stop within {_PATIENCE:.0f} s")
                time.sleep(_PAUSE)
        kept = list(ours)
        yield kept
        for one in ours:
            if one not in kept:  # it is the caller's from now on
                one.unmark()
    finally:
        with deferred(), doing("thawing the containers"):
            let_go.close()


def thaw(cgroups: Iterable[Cgroup]) -> None:
    """Thaw those of the cgroups that bear the mark, and take it off. Raises OSError for one, when all others are."""
    with contextlib.ExitStack() as all_of_them:
        for one in cgroups:
            if one.is_marked():
                all_of_them.callback(one.unmark)
                all_of_them.callback(one.set_frozen, False)
