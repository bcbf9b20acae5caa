"""Processes of the namespace of a pod that are in none of its containers: at most its keeper, which sleeps."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from . import freeze, namespace
from .cgroups import Cgroup
from .errors import NamespaceError, doing, listed

_PATIENCE = 2.0  # seconds for such a process to fall asleep
_PAUSE = 0.01  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Bystanders:
    """Processes of the namespace that are in no container: at most one, which sleeps."""

    switches: Mapping[int, tuple[int, ...]]  # by process: how often its threads gave up their processor

    @staticmethod
    def of(
        source: namespace.IpcNamespace, containers: Mapping[str, Cgroup], sandbox: int | None
    ) -> tuple[Bystanders, bool]:
        """Look for them; and tell whether no other process can be hidden. Raises NamespaceError, OSError."""
        users, sees_all = freeze.processes(source)
        stopped: set[int] = set()
        for cgroup in containers.values():
            stopped |= cgroup.members()
        others = users - stopped
        beside = others - {sandbox} if sandbox is not None else others if len(others) > 1 else set()
        if beside:
            raise NamespaceError(
                f"process {min(beside)} of {source.described} is in none of the containers {listed(list(containers))}, "
                "and would go on"
            )
        return Bystanders({pid: _asleep(pid) for pid in others}), sees_all

    def expect_idle(self) -> None:
        """Raise NamespaceError where one of them has run since. Who sleeps and was never switched has not run."""
        for pid, before in self.switches.items():
            with doing(f"looking at process {pid}"):
                if _switches(pid) != before:
                    raise NamespaceError(f"process {pid} is in no container, and ran while the namespace was read")


def _asleep(pid: int) -> tuple[int, ...]:
    until = time.monotonic() + _PATIENCE
    while (found := _switches(pid)) is None:
        if time.monotonic() > until:
            raise NamespaceError(f"process {pid} is in no container, and does not sleep: who keeps a namespace has to")
        time.sleep(_PAUSE)
    return found


def _switches(pid: int) -> tuple[int, ...] | None:
    """For each thread its number and its switches of both kinds; None where one does not sleep. Raises OSError."""
    found: list[int] = []
    for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        with open(f"/proc/{pid}/task/{tid}/status", errors="surrogateescape") as file:
            lines = dict(line.split(":", 1) for line in file)
        if lines["State"].split()[0] not in ("S", "T", "t"):
            return None
        found += tid, int(lines["voluntary_ctxt_switches"]), int(lines["nonvoluntary_ctxt_switches"])
    return tuple(found)
