"""Restore: check the images, enter the namespace, open its limits, make each kind, set its variables."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import imageset, interrupts, journal, libc, loops, msg, namespace, owners, places, sem, shm, var
from .companion import Companion
from .create import Creator, Making
from .credentials import may_be_any_creator
from .errors import KernelError, LossError, ObjectError, doing, explain
from .hold import hold as hold_attached
from .listing import objects
from .manifest import Consistency
from .model import NAMES, Contents, Counts, SharedMemory, Variables
from .preflight import Preflight
from .preset import Preset
from .progress import NOBODY, Progress
from .recover import refuse_unfinished
from .selection import EVERYTHING, Name, Selection


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    counts: Counts  # how much of everything
    warnings: tuple[str, ...]  # a sentence for each thing that is not as it was, and that programs may notice
    facts_lost: tuple[str, ...]  # what is in the images and nobody can restore, a line for each kind
    new_ids: Mapping[tuple[str, int], int]  # kind and id → the id it has got, where that is another
    holder: int | None  # the process that keeps segments attached
    held: tuple[int, ...]  # their ids
    ns_id: int  # of the set
    files: Mapping[str, int] | None  # of the set by their names, bytes; None where it is CRIU's
    consistency: Consistency | None  # how the dump was made sure to be of one moment; None where it is CRIU's


def restore(
    directory: str | os.PathLike[str],
    target: namespace.IpcNamespace | None = None,
    *,
    ns_id: int | None = None,
    only: Selection = EVERYTHING,
    variables: bool | None = None,
    into_free_ids: bool = False,
    hold: bool = False,
    strict: bool = False,
    creator_stays: bool = False,
    reachable: bool = True,
    report_holder: Callable[[int], None] | None = None,
    progress: Progress = NOBODY,
) -> Restored:
    """Make everything that a set of images holds in an IPC namespace, under the same ids.

    directory is an image directory, an archive with one, or "-" for an archive from standard input. target
    is the namespace, by default the caller's own; only the part of the images that is meant.
    variables tells whether the namespace's settings are restored as well; by default they are,
    unless a part without them is meant or was dumped, or target is the namespace the machine booted
    with, whose limits are not raised for the time then either.
    into_free_ids gives objects whose ids are taken other ones. hold keeps segments that were removed
    while attached, and with shm_rmid_forced all segments, alive in a process of their own until
    somebody attaches them. strict refuses what would end with a warning. creator_stays says that the
    calling process goes on living in the namespace, which keeps segments under
    kernel.shm_rmid_forced alive. reachable says that processes can come into the namespace when none
    is there; otherwise the holder ends after the last one. report_holder is called with the process
    id of the holder, if there is one; what it raises makes the restore fail. progress is told of what
    is read. On any error, what was
    made is removed and the settings are put back; should the process be killed, recover() does that.
    Raises an IpcimgError.
    """
    with contextlib.ExitStack() as stack:
        progress.stage("checking the images")
        opened = places.opened(os.fspath(directory), wary=True)
        # The images are gone through twice, and are to be the same both times.
        stack.enter_context(opened.being_read())
        opened.refuse_detached()
        images = imageset.ImageSet(opened, opened.the_set(ns_id))
        progress.expect(images.size)
        images.verify(images.names(pages=False), progress)
        for parent in opened.generations(1 + sum(1 for _ in images.ancestors())):
            if parent is not opened:
                stack.enter_context(parent.being_read())
        images.verify_inherited()
        here = stack.enter_context(namespace.own())
        entered = target or here
        preflight = Preflight(owners.of(entered.fd), only, (os.geteuid(), os.getegid()), images.page_size)
        unread = images.names(pages=True)
        for kind, one, counts in images.walk():
            preflight.add(kind, one, counts)
            if isinstance(one, SharedMemory) and only.wants(kind, one.permissions.id, one.permissions.key):
                unread.discard(imageset.pages_file(one) or "")
        # The pages of what is restored are compared with their digests while they are read; nobody sees them before.
        images.verify(unread, progress)
        only.expect(preflight.wanted)
        contents = only.of(images.contents)
        if variables is None:
            variables = only.variables and images.variables_meant and not entered.is_initial
        stack.enter_context(interrupts.handled())
        progress.stage("looking at the target")
        stack.enter_context(entered.locked())
        stack.enter_context(entered.entered())
        with doing("looking at the objects of the target"):
            present = objects(*NAMES)
            refuse_unfinished(present, entered, preflight.owners)
            preflight.look_at_target(present, free_ids=into_free_ids)
            preflight.look_at_memory()
        before = var.collect()
        raised = variables or not entered.is_initial
        if not raised:
            preflight.look_at_limits(before, present)
        preflight.refuse()
        final = contents.variables if variables else before
        # Writing 1 destroys every segment that nobody has attached and whose creator is gone.
        harmless = hold or (
            (creator_stays or not preflight.counts.segments) and (bool(before.shm_rmid_forced) or not shm.count())
        )
        creators, forced = may_be_any_creator(), bool(final.shm_rmid_forced)
        warnings = preflight.losses(creators=creators, hold=hold, forced=forced and not harmless)
        if images.moved:
            warnings.append(
                f"the images are not of one moment: {images.moved} things moved while they were dumped, which "
                "ipcimg-show lists"
            )
        if warnings and strict:
            raise LossError(f"refused by --strict: {warnings[0]}")
        if not raised and before.shm_rmid_forced:  # each segment would go as soon as it is filled
            raise KernelError(
                "kernel.shm_rmid_forced is 1 in the machine's own namespace, and is changed with --vars alone"
            )
        holder: _Holder | None = None
        with _undone_on_error(entered, opened.path, before, preflight.wanted, present, raised, progress) as noted:
            making = Making(preflight.owners, noted, creators, free_ids=into_free_ids)
            _make(contents, making, before, raised=raised, progress=progress)
            with interrupts.deferred(), contextlib.ExitStack() as on_error:
                progress.stage("settings")
                if hold:
                    holder = _hold(making, preflight.removed, every=forced, alone=reachable)
                    if holder is not None:
                        on_error.callback(holder.process.end)
                var.apply(final, rmid_forced=False)
                if holder is not None and report_holder is not None:
                    report_holder(holder.process.pid)
                interrupts.finished()
                if holder is not None:
                    holder.process.release(b"done")
                if harmless:
                    # Where we are killed then, the journal goes with us, and all else is done.
                    var.set_rmid_forced(final)
                noted.remove()
                on_error.pop_all()
    written = images.manifest
    return Restored(
        preflight.counts,
        tuple(warnings),
        tuple(preflight.facts_lost()),
        making.new_ids,
        holder.process.pid if holder is not None else None,
        holder.segments if holder is not None else (),
        images.ns_id,
        None if written is None else {name: file.size for name, file in written.files.items()},
        None if written is None else written.consistency,
    )


@contextlib.contextmanager
def _undone_on_error(
    target: namespace.IpcNamespace,
    directory: str,
    before: Variables,
    wanted: Sequence[Name],
    present: Sequence[Name],
    raised: bool,
    progress: Progress,
) -> Iterator[journal.Journal]:
    """A journal for the with block: what is noted in it is undone on any error."""
    noted: journal.Journal | None = None
    with contextlib.ExitStack() as stack:
        try:
            with interrupts.deferred():
                noted = stack.enter_context(journal.new(wanted, present, before, settings=raised, directory=directory))
            yield noted
        except BaseException as error:
            with interrupts.deferred():
                try:
                    progress.stage("undoing")
                    if noted is not None:
                        noted.roll_back()
                except KernelError as left:
                    raise KernelError(f"{error}; and this could not be undone: {left}") from error
            if isinstance(error, OSError):
                raise KernelError(f"restoring into {target.described}: {explain(error)}") from error
            raise


@dataclass(frozen=True, slots=True)
class _Holder:
    process: Companion
    segments: tuple[int, ...]


def _hold(making: Making, removed: list[int], *, every: bool, alone: bool) -> _Holder | None:
    """Keep the segments with SHM_DEST, or every one of the namespace, attached, and remove the former."""
    removed = [making.new_ids.get(("shm", shmid), shmid) for shmid in removed]
    segments = tuple([shmid for _, shmid, _ in objects("shm") if shmid != making.journal.shmid] if every else removed)
    if not segments:
        return None
    process = hold_attached(segments, alone=alone)
    try:
        for shmid in removed:
            libc.shmctl(shmid, libc.IPC_RMID)
    except BaseException:
        process.close()
        raise
    return _Holder(process, segments)


def _make(contents: Contents, making: Making, before: Variables, *, raised: bool, progress: Progress) -> None:
    """Make all objects. raised says that limits may be raised for that."""
    closed = var.open_limits(before) if raised else ()
    making.tight = bool(closed) or not raised
    try:
        progress.stage("segments")
        with Preset("shm") as preset:
            Creator("shm", making, preset).make(contents.segments, functools.partial(shm.restore, progress=progress))
        progress.stage("queues")
        with Preset("msg") as preset:
            Creator("msg", making, preset).make(
                contents.queues, msg.restore, loops.c.make_queues if loops.c is not None else None
            )
        progress.stage("semaphores")
        with Preset("sem") as preset:
            Creator("sem", making, preset).make(
                contents.semaphores, sem.restore, loops.c.make_sets if loops.c is not None else None
            )
    except ObjectError as error:
        if not raised:
            raise ObjectError(
                f"{error}; the limits of the machine's own namespace are raised with --vars alone"
            ) from error
        if closed:
            raise ObjectError(f"{error}; {', '.join(closed)} could not be raised: no permission") from error
        raise
