"""Dump: enter the namespace, see that nothing moves, collect each kind, write."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import criudump, digest, imageset, interrupts, inventory, msg, namespace, owners, places, sem, shm, turn, var
from . import parent as parents
from .directory import ImageDirectory
from .errors import ChangedError, InUseError, KernelError, NamespaceError, doing, explain
from .manifest import Consistency
from .model import Contents, Counts
from .progress import FREEZING, LETTING_GO, NOBODY, Progress
from .reading import Reading
from .recover import refuse_unfinished
from .selection import EVERYTHING, Selection
from .stopwatch import Stopwatch
from .turning import Turner, segments_kept

if TYPE_CHECKING:
    from .freeze import Frozen

_TRIES = 3
_MOVED_AT_MOST = 1000  # sentences of a manifest


@dataclass(frozen=True, slots=True)
class Dumped:
    """What a dump did."""

    counts: Counts  # how much of everything
    consistency: Consistency
    ns_id: int  # of the set
    files: Mapping[str, int]  # of the set by their names, bytes
    inherited: int = 0  # pages of segments, among the counts, that are in the parent alone


@dataclass(slots=True)
class Living:
    """What a namespace holds; when it has been read, also whether that is of one moment."""

    contents: Contents
    consistency: Consistency | None = None


def dump(
    directory: str | os.PathLike[str],
    source: namespace.IpcNamespace | None = None,
    *,
    ns_id: int | None = None,
    only: Selection = EVERYTHING,
    force: bool = False,
    criu_exact: bool = False,
    digest_algorithm: str = digest.DEFAULT,
    freeze: bool = False,
    frozen: bool = False,
    allow_inconsistent: bool = False,
    peek_only: bool = False,
    criu_set: bool = False,
    parent: str | os.PathLike[str] | None = None,
    first_pages_id: int = 1,
    when_read: Callable[[], None] | None = None,
    progress: Progress = NOBODY,
    durable: bool = True,
) -> Dumped:
    """Write everything in an IPC namespace into the image directory, which is made if it is missing.

    directory may be the URL of one in a store, or "streamer://" and the directory with the socket of a
    criu-image-streamer: the dump goes there when it is whole. The pages files get numbers from
    first_pages_id on, or from the first that is free in the directory.
    source is the namespace, by default the caller's own; its objects are not changed. only says which
    part of it is meant; the settings are written in any case. For ns_id, force, criu_exact, criu_set
    and digest_algorithm see save(). freeze stops all processes of the namespace meanwhile; frozen says
    that the caller has done that: then deep queues are turned, which takes less time and leaves times and
    process ids of a queue others, unless peek_only. Otherwise a queue or semaphore set that was used in the present
    second is waited for, a second at most each time, to see that it is not used while it is read.
    If something moves all the same, the dump is made again, three times in all, and then fails; or,
    with allow_inconsistent, tells what moved. parent is the directory of an earlier set, of the same N or
    the only one, with a manifest: of segments that it has as well, only the pages that are not the same
    there are written. when_read is called when all has been read, and what it raises makes the dump fail. progress is
    told of what is read. Without durable the images are not waited for until they are on
    the disk: for a directory that a crash of the machine makes useless. On any error the directory is left as it was.
    An inventory.img and a stats-dump as CRIU's come along with the set, unless those in the directory are CRIU's, or
    criu_set. Raises an IpcimgError: ChangedError where the namespace changed meanwhile.
    """

    def attempt(tolerant: bool, turns: bool) -> Dumped:
        watch.stage("looking at the image directory")
        earlier = None if parent is None else ImageDirectory(os.fspath(parent), wary=True)
        with (
            imageset.saving(
                os.fspath(directory),
                ns_id=ns_id,
                force=force,
                digest_algorithm=digest_algorithm,
                criu_set=criu_set,
                parent=earlier,
                progress=watch,
                durable=durable,
            ) as out,
            parents.opened(earlier, out) as compared,
        ):
            with living(
                source,
                only=only,
                freeze=freeze,
                frozen=frozen,
                tolerant=tolerant,
                turns=turns and not peek_only,
                progress=watch,
            ) as found:
                if progress.counts and only.everything:
                    progress.expect(shm.stored() + msg.stored())
                replacement = criudump.Replacement(found.contents) if criu_set and not force else None
                contents = found.contents if replacement is None else replacement.noted()
                counts = imageset.write(
                    contents, out, criu_exact=criu_exact, parent=compared, first_pages_id=first_pages_id
                )
            if when_read is not None:
                when_read()
            if replacement is not None:
                replacement.refuse_unfit(out.directory, out.ns_id)
            # Whoever was stopped goes on by now; what takes longest, to have everything on the disk, comes after this.
            linked = None if compared is None else compared.link_from(out)
            inherited = 0 if linked is None else linked.pages
            imageset.finish(out, counts, selection=only, consistency=found.consistency, parent=linked)
            if not criu_set:
                inventory.accompany(out, watch, counts, inherited)
        if found.consistency is None:
            raise AssertionError("living() has ended without a verdict")
        files = {name: file.size for name, file in out.files.items()}
        return Dumped(counts, found.consistency, out.ns_id, files, inherited)

    if parent is not None and criu_exact:
        raise ValueError("CRIU writes all pages of segments again, whatever its parent has")
    watch = Stopwatch.of(progress)
    if criu_set and (criu_exact or allow_inconsistent or only != EVERYTHING):
        raise ValueError("a dump of CRIU's takes a whole set of one moment, which any version of it can read")
    if places.is_url(url := os.fspath(directory)):
        if criu_set or parent is not None:
            raise ValueError("a dump of CRIU's, and one with a parent, is in a directory of this machine")
        from . import delivery

        destination: delivery.Destination
        if url.startswith(places.STREAMER):
            from .streamer import StreamerDestination

            destination = StreamerDestination(url, progress)
        else:
            from .stores import StoreDestination

            destination = stored = StoreDestination(url, ns_id=ns_id, force=force, progress=progress)
            ns_id, first_pages_id = stored.ns_id, max(first_pages_id, stored.first_pages_id)

        def make(path: str) -> Dumped:
            return dump(
                path,
                source,
                ns_id=ns_id,
                only=only,
                criu_exact=criu_exact,
                digest_algorithm=digest_algorithm,
                freeze=freeze,
                frozen=frozen,
                allow_inconsistent=allow_inconsistent,
                peek_only=peek_only,
                first_pages_id=first_pages_id,
                when_read=when_read,
                progress=progress,
                durable=False,
            )

        return delivery.delivered(make, destination, progress)
    if criu_set and not force:
        _refuse_running(source)
    with interrupts.handled():
        for n in range(_TRIES - 1):
            try:
                return attempt(tolerant=False, turns=not n)  # where something moved, nobody knows what is at rest
            except InUseError:
                if not allow_inconsistent:
                    raise
                break
            except ChangedError:
                pass
        try:
            return attempt(tolerant=allow_inconsistent, turns=False)
        except ChangedError as error:
            hint = "" if freeze else "; stop its users, or say --freeze"
            raise ChangedError(f"{error} (tried {_TRIES} times){hint}") from error


def _refuse_running(source: namespace.IpcNamespace | None) -> None:
    """Raise NamespaceError where a process that CRIU has dumped goes on: it would not fit to what we dump."""
    from .freeze import running

    with contextlib.ExitStack() as stack:
        source = source or stack.enter_context(namespace.own())
        with doing(f"looking for the processes of {source.described}"):
            pid = running(source)
        if pid is not None:
            raise NamespaceError(
                f"process {pid} of {source.described} is running, and CRIU has dumped the processes as they were "
                "before; see criu dump --leave-stopped. --force dumps it all the same"
            )


@contextlib.contextmanager
def living(
    source: namespace.IpcNamespace | None = None,
    *,
    only: Selection = EVERYTHING,
    freeze: bool = False,
    frozen: bool = False,
    tolerant: bool = False,
    turns: bool = False,
    progress: Progress = NOBODY,
) -> Iterator[Living]:
    """What an IPC namespace holds, to be iterated once, inside the with block, by the calling thread.

    The thread is in the namespace meanwhile. tolerant has what moves told, not raised. turns says that
    deep queues may be turned, where nobody else can use them. progress is told of the stages. For the
    rest, and what is raised, see dump().
    """
    with contextlib.ExitStack() as stack:
        source = source or stack.enter_context(namespace.own())
        progress.stage("waiting for the namespace")
        seen_as = owners.of(source.fd)
        stack.enter_context(source.locked())
        stack.enter_context(source.entered())
        # The freezer is in the namespace then, and can complete a turn.
        stopped = None
        if freeze:
            from .freeze import frozen as frozen_by_us  # takes as long to import as a small dump to make

            complete = functools.partial(turn.complete_before_thaw, seen_as) if turns else None
            stack.callback(progress.stage, "leaving the namespace")
            progress.stage(FREEZING)
            stopped = stack.enter_context(frozen_by_us(source, complete))
            stack.callback(progress.stage, LETTING_GO)
        try:
            # Leaving is the reverse of this order: detach, put the variables back, leave the namespace.
            undo = stack.enter_context(contextlib.ExitStack())
            progress.stage("settings")
            variables = var.collect()
            with doing("protecting the segments from kernel.shm_rmid_forced"):
                undo.enter_context(segments_kept(seen_as))
            reading = _reading(seen_as, only, stopped, frozen, tolerant)
            undo.callback(reading.close)
            refuse_unfinished(reading.objects(), source, seen_as)
            turner = Turner(source, variables, reading) if turns and reading.at_rest else None
            if turner is not None:
                undo.callback(turner.close)
            found = Living(
                Contents(
                    variables,
                    segments=undo.enter_context(contextlib.closing(shm.collect(reading))),
                    queues=msg.Queues(undo, reading, turner),
                    semaphores=sem.Semaphores(reading),
                )
            )
            yield found
            progress.stage("looking again")
            reading.finish()
            for name in var.moved(variables):
                reading.changed(ChangedError(f"{name} was changed while the namespace was read"))
            if stopped is not None and (error := stopped.moved()) is not None:
                reading.changed(error)
            found.consistency = _consistency(reading, stopped, frozen)
            undo.close()
        except OSError as error:
            raise KernelError(f"reading {source.described}: {explain(error)}") from error


def _reading(seen_as: owners.Owners, only: Selection, stopped: Frozen | None, frozen: bool, tolerant: bool) -> Reading:
    if frozen:
        return Reading(seen_as, only, at_rest=True, stopped=None, tolerant=tolerant)
    if stopped is not None:
        return Reading(seen_as, only, at_rest=stopped.sees_all, stopped=stopped.attachments, tolerant=tolerant)
    return Reading(seen_as, only, stopped=lambda file: 0, tolerant=tolerant)


def _consistency(reading: Reading, stopped: Frozen | None, frozen: bool) -> Consistency:
    how = "frozen-by-caller" if frozen else "checked" if stopped is None or reading.compared else "frozen"
    moved = list(reading.moved)
    if moved[_MOVED_AT_MOST:]:
        moved[_MOVED_AT_MOST:] = [f"and {len(moved) - _MOVED_AT_MOST} more"]
    return Consistency("inconsistent" if moved else how, len(reading.compared), tuple(moved))
