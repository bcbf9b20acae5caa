"""Recover: undo what a restore that was killed has left in its target."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from . import interrupts, journal, namespace
from .errors import KernelError, explain
from .listing import objects


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a restore had left, and is gone."""

    described: str  # whose it was
    removed: int  # how many objects


def recover(target: namespace.IpcNamespace | None = None) -> Recovered | None:
    """Undo a restore into the namespace, by default the caller's own, that was killed; None where there is none.

    Its objects are removed, and limits, kernel.shm_rmid_forced and pending presets become what they were
    before it. Should it be killed as well, it can be called again. Raises an IpcimgError.
    """
    with contextlib.ExitStack() as stack:
        target = target or stack.enter_context(namespace.own())
        stack.enter_context(interrupts.handled())
        stack.enter_context(target.locked())
        stack.enter_context(target.entered())
        try:
            found = journal.find(objects("shm"))
            if found is None:
                return None
            with interrupts.deferred(), found:
                return Recovered(found.described, found.roll_back())
        except OSError as error:
            raise KernelError(f"recovering {target.described}: {explain(error)}") from error
