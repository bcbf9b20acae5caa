"""The cgroup of a container, of either version: its freezer stops all that is in it and below.

Version 1 where the freezer's hierarchy is mounted, as runtimes choose; else version 2. A cgroup that we have frozen
bears a mark, an extended attribute, by which it is thawed if we are killed: by a guardian, or by `ipcimg recover`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
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
        """Has somebody asked for it to be frozen?"""
        return self._read(_CONTROLS[self.version]) not in ("", _WORDS[self.version][0])

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


def _hierarchies() -> dict[int, str]:
    """Where the freezers of both versions are mounted, as far as the whole hierarchy can be seen."""
    found: dict[int, str] = {}
    with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
        for line in mounts:
            mount, _, filesystem = line.partition(" - ")
            kind, _, options = filesystem.split(maxsplit=2)
            root, place = mount.split()[3:5]
            version = 2 if kind == "cgroup2" else 1
            if root == "/" and (kind == "cgroup2" or (kind == "cgroup" and "freezer" in options.strip().split(","))):
                found.setdefault(version, place)
    return found


def of_process(pid: int) -> Cgroup | None:
    """The cgroup of a process that can be frozen; None for a root, and where it cannot be seen. Raises OSError."""
    hierarchies = _hierarchies()
    with open(f"/proc/{pid}/cgroup", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    for number, controllers, path in lines:  # version 2 is the last line
        version = 1 if "freezer" in controllers.split(",") else 2 if number == "0" else 0
        if version in hierarchies and path != "/" and not path.startswith("/.."):
            return Cgroup(hierarchies[version] + path, version)
    return None


@contextlib.contextmanager
def frozen(cgroups: Sequence[Cgroup]) -> Iterator[list[Cgroup]]:
    """Have everything in these cgroups stopped inside the with block; those that are frozen already stay so after it.

    Gives those that are thawed at its end, or if we are killed; whoever empties the list leaves them frozen. Raises
    KernelError where one does not stop, when all are thawed.
    """
    ours = [one for one in cgroups if not one.is_asked() or one.is_marked()]
    let_go = contextlib.ExitStack()
    try:
        with deferred(), doing("freezing the containers"):
            guardian = Companion(lambda: None, lambda prepared, word: None if word == b"done" else _thaw(ours))
            let_go.callback(guardian.dismiss)
            let_go.callback(_thaw, ours)
            for one in ours:
                one.mark()
                one.set_frozen(True)
        until = time.monotonic() + _PATIENCE
        for one in cgroups:
            while not one.is_frozen():
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


def _thaw(cgroups: Iterable[Cgroup]) -> None:
    """Thaw those of the cgroups that bear the mark. Raises OSError for one, when all others are thawed."""
    with contextlib.ExitStack() as all_of_them:
        for one in cgroups:
            if one.is_marked():
                all_of_them.callback(one.unmark)
                all_of_them.callback(one.set_frozen, False)


def thaw_left(pids: Iterable[int]) -> list[str]:
    """Thaw the cgroups of version 1 of these processes that bear the mark: which these are. Raises OSError."""
    found: set[Cgroup] = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            one = of_process(pid)
            if one is not None and one.version == 1 and one.is_marked():
                found.add(one)
    _thaw(found)
    return [one.path for one in sorted(found)]
