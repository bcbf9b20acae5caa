"""Restore: check the images, enter the namespace, open its limits, make each kind, set its variables."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from . import imageset, interrupts, libc, msg, namespace, sem, shm, var
from .create import Creator, unmake
from .directory import ImageDirectory
from .errors import KernelError, explain
from .model import Contents, Counts, Variables
from .preset import Preset

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did: how much of everything, and a sentence for each thing that is not as it was."""

    counts: Counts
    warnings: tuple[str, ...]


def restore(
    directory: str | os.PathLike[str],
    target: namespace.IpcNamespace | None = None,
    *,
    ns_id: int | None = None,
    variables: bool | None = None,
    creator_stays: bool = False,
) -> Restored:
    """Make everything that a set of images holds in an IPC namespace, under the same ids.

    target is the namespace, by default the caller's own. variables tells whether the namespace's
    settings are restored as well; by default they are, except in the namespace the machine booted
    with. creator_stays says that the calling process goes on living in the namespace, which keeps
    segments under kernel.shm_rmid_forced alive. On any error, what was made is removed and the
    settings are put back. Raises an IpcimgError.
    """
    with contextlib.ExitStack() as stack:
        opened = ImageDirectory(os.fspath(directory))
        # The images are gone through twice, and are to be the same both times.
        stack.enter_context(opened.being_read())
        images = imageset.ImageSet(opened, opened.the_set(ns_id))
        counts = images.check()
        here = stack.enter_context(namespace.own())
        stack.enter_context(interrupts.handled())
        stack.enter_context((target or here).entered())
        entered = target or here
        before = var.collect()
        final = images.contents.variables if (not entered.is_initial if variables is None else variables) else before
        # Writing 1 destroys every segment that nobody has attached and whose creator is gone.
        harmless = (creator_stays or not counts.segments) and (bool(before.shm_rmid_forced) or not shm.count())
        warnings = _warnings(images.contents, final, harmless)
        with var.wide_open(before):
            made: list[Callable[[], object]] = []
            try:
                _make("shm", shm.restore, images.contents.segments, made)
                _make("msg", msg.restore, images.contents.queues, made)
                _make("sem", sem.restore, images.contents.semaphores, made)
                with interrupts.deferred():
                    var.apply(final, rmid_forced=harmless)
                    interrupts.finished()
            except BaseException as error:
                with interrupts.deferred():
                    unmake(made)
                if isinstance(error, OSError):
                    raise KernelError(f"restoring into {entered.described}: {explain(error)}") from error
                raise
    return Restored(counts, tuple(warnings))


def _make(
    kind: str, restore_one: Callable[[_T, Creator], None], objects: Iterable[_T], made: list[Callable[[], object]]
) -> None:
    with Preset(kind) as preset:
        creator = Creator(preset, made)
        for one in objects:
            restore_one(one, creator)


def _warnings(contents: Contents, final: Variables, harmless: bool) -> list[str]:
    warnings = [
        f"shared memory segment {segment.permissions.id} was removed while still attached; it is now an ordinary one"
        for segment in contents.segments
        if segment.permissions.mode & libc.SHM_DEST
    ]
    if final.shm_rmid_forced and not harmless:
        warnings.append(
            "kernel.shm_rmid_forced is left at 0: setting it to 1 would destroy segments that nobody has attached yet"
        )
    return warnings
