"""Recover: what was killed, undone or completed.

A restore that has left objects in its target is undone. Of a dump the turn of a queue is completed, and what it has
left frozen is thawed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from . import interrupts, journal, namespace, owners, turn
from .errors import KernelError, NamespaceError, explain
from .listing import objects
from .selection import Name


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was left, and is gone."""

    restore: str | None  # whose it was, for people; None where there was none
    removed: int  # how many objects
    thawed: tuple[str, ...]  # the cgroups that a dump had left frozen, since it was killed with all its processes
    turned: str | None = None  # the queue that a dump was turning, and what became of it, for people


def recover(target: namespace.IpcNamespace | None = None) -> Recovered | None:
    """Undo what a restore into the namespace that was killed has left, complete what a dump has; None for nothing.

    The namespace is by default the caller's own. The objects of a restore are removed. A queue that a
    dump was turning gets its messages back in their order; it may not have been used since. Limits,
    kernel.shm_rmid_forced and pending presets become what they were. Cgroups that a dump has left frozen
    are thawed. Should this be killed as well, it can be called again. Raises an IpcimgError.
    """
    with contextlib.ExitStack() as stack:
        target = target or stack.enter_context(namespace.own())
        seen_as = owners.of(target.fd)
        stack.enter_context(interrupts.handled())
        stack.enter_context(target.locked())
        stack.enter_context(target.entered())
        try:
            with interrupts.deferred():
                # A turn is completed before anybody goes on who could use the queue.
                turned, left = None, turn.Turn.find(objects("shm"), seen_as)
                if left is not None:
                    with left:
                        turned = left.recover(seen_as)
                from . import freeze, podnote  # a dump only asks whether there is something to recover

                podnote.forget(target.inode)
                thawed = tuple(freeze.thaw_left(target.inode))
                found = journal.Journal.find(objects("shm"), seen_as)
                if found is None:
                    return Recovered(None, 0, thawed, turned) if thawed or turned else None
                with found:
                    return Recovered(found.described, found.roll_back(), thawed, turned)
        except OSError as error:
            raise KernelError(f"recovering {target.described}: {explain(error)}") from error


def refuse_unfinished(present: Iterable[Name], target: namespace.IpcNamespace, seen_as: owners.Owners) -> None:
    """Raise NamespaceError where something in the namespace, which the caller is in, is to be recovered first; OSError.

    present are its objects.
    """
    present = list(present)
    for find, does in ((journal.Journal.find, "undoes"), (turn.Turn.find, "completes")):
        left = find(present, seen_as)
        if left is not None:
            with left:
                raise NamespaceError(
                    f"{target.described} holds {left.described}; `ipcimg recover{target.option}` {does} it"
                )
