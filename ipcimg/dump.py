"""Dump: enter the namespace, collect each kind, write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from . import digest, imageset, interrupts, msg, namespace, owners, sem, shm, sysctl, var
from .errors import ChangedError, KernelError, doing, explain
from .listing import objects
from .model import NAMES, Contents, Counts
from .reading import Reading
from .selection import EVERYTHING, Selection


def dump(
    directory: str | os.PathLike[str],
    source: namespace.IpcNamespace | None = None,
    *,
    ns_id: int | None = None,
    only: Selection = EVERYTHING,
    force: bool = False,
    criu_exact: bool = False,
    digest_algorithm: str = digest.DEFAULT,
    frozen: bool = False,
) -> Counts:
    """Write everything in an IPC namespace into the image directory, which is made if it is missing.

    source is the namespace, by default the caller's own; its objects are not changed. only says which
    part of it is meant; the settings are written in any case. For ns_id, force, criu_exact and
    digest_algorithm see save(). frozen says that the caller has stopped all users of the namespace;
    otherwise a queue or semaphore set that was used in the present second is waited for, a second at
    most each, to see that it is not used while it is read. On any error the directory is left as it
    was. Raises an IpcimgError: ChangedError where the namespace changed meanwhile.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.handled())
        out = stack.enter_context(
            imageset.saving(os.fspath(directory), ns_id=ns_id, force=force, digest_algorithm=digest_algorithm)
        )
        with living(source, only=only, frozen=frozen) as contents:
            how = "frozen-by-caller" if frozen else "checked"
            return imageset.write(contents, out, criu_exact=criu_exact, selection=only, consistency=how)


@contextlib.contextmanager
def living(
    source: namespace.IpcNamespace | None = None, *, only: Selection = EVERYTHING, frozen: bool = False
) -> Iterator[Contents]:
    """What an IPC namespace holds, to be iterated once, inside the with block, by the calling thread.

    The thread is in the namespace meanwhile. For the rest, and what is raised, see dump().
    """
    with contextlib.ExitStack() as stack:
        source = source or stack.enter_context(namespace.own())
        seen_as = owners.of(source.fd)
        stack.enter_context(source.locked())
        stack.enter_context(source.entered())
        try:
            # Leaving is the reverse of this order: detach, put the variables back, leave the namespace.
            undo = stack.enter_context(contextlib.ExitStack())
            variables = var.collect()
            present = objects(*NAMES)
            only.expect(present)
            reading = Reading([one for one in present if only.wants(*one)], seen_as, frozen)
            with doing("protecting the segments from kernel.shm_rmid_forced"):
                undo.enter_context(sysctl.temporarily(var.RMID_FORCED, 0))
            yield Contents(
                variables,
                segments=undo.enter_context(contextlib.closing(shm.collect(reading))),
                queues=undo.enter_context(contextlib.closing(msg.collect(undo, reading))),
                semaphores=undo.enter_context(contextlib.closing(sem.collect(reading))),
            )
            undo.close()
            moved = [] if frozen else sorted(one for one in {*objects(*NAMES)} ^ {*present} if only.wants(*one))
            if moved:
                kind, object_id, _ = moved[0]
                raise ChangedError(f"{NAMES[kind]} {object_id} came or went while the namespace was read")
        except OSError as error:
            raise KernelError(f"reading {source.described}: {explain(error)}") from error
