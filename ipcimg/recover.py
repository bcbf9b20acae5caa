"""Recover: undo what a restore that was killed has left in its target, and thaw what a dump has left frozen."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from . import freeze, interrupts, journal, namespace, owners
from .errors import KernelError, explain
from .listing import objects


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was left, and is gone."""

    restore: str | None  # whose it was, for people; None where there was none
    removed: int  # how many objects
    thawed: tuple[str, ...]  # the cgroups that a dump had left frozen, since it was killed with all its processes


def recover(target: namespace.IpcNamespace | None = None) -> Recovered | None:
    """Undo a restore into the namespace, by default the caller's own, that was killed; None where nothing is left.

    Its objects are removed, and limits, kernel.shm_rmid_forced and pending presets become what they were
    before it. Cgroups that a killed dump has left frozen are thawed. Should this be killed as well, it can
    be called again. Raises an IpcimgError.
    """
    with contextlib.ExitStack() as stack:
        target = target or stack.enter_context(namespace.own())
        seen_as = owners.of(target.fd)
        stack.enter_context(interrupts.handled())
        stack.enter_context(target.locked())
        stack.enter_context(target.entered())
        try:
            with interrupts.deferred():
                thawed = tuple(freeze.thaw_left(target.inode))
                found = journal.find(objects("shm"), seen_as)
                if found is None:
                    return Recovered(None, 0, thawed) if thawed else None
                with found:
                    return Recovered(found.described, found.roll_back(), thawed)
        except OSError as error:
            raise KernelError(f"recovering {target.described}: {explain(error)}") from error
