"""Dump: enter the namespace, collect each kind, write."""

from __future__ import annotations

import contextlib
import os

from . import imageset, interrupts, msg, namespace, sem, shm, sysctl, var
from .errors import ChangedError, KernelError, doing, explain
from .model import Contents, Counts


def dump(
    directory: str | os.PathLike[str],
    source: namespace.IpcNamespace | None = None,
    *,
    ns_id: int | None = None,
    force: bool = False,
    criu_exact: bool = False,
    frozen: bool = False,
) -> Counts:
    """Write everything in an IPC namespace into the image directory, which is made if it is missing.

    source is the namespace, by default the caller's own; its objects are not changed. For ns_id,
    force and criu_exact see save(). frozen says that the caller has stopped all users of the
    namespace; otherwise a queue or semaphore set that was used in the present second is waited for,
    a second at most each, to see that it is not used while it is read. On any error the directory is
    left as it was. Raises an IpcimgError: ChangedError where the namespace changed meanwhile.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.handled())
        out = stack.enter_context(imageset.saving(os.fspath(directory), ns_id=ns_id, force=force))
        source = source or stack.enter_context(namespace.own())
        stack.enter_context(source.entered())
        try:
            # Leaving is the reverse of this order: detach, put the variables back, leave the namespace.
            undo = stack.enter_context(contextlib.ExitStack())
            variables = var.collect()
            present = _objects()
            with doing("protecting the segments from kernel.shm_rmid_forced"):
                undo.enter_context(sysctl.temporarily(var.RMID_FORCED, 0))
            contents = Contents(
                variables,
                segments=undo.enter_context(contextlib.closing(shm.collect())),
                queues=undo.enter_context(contextlib.closing(msg.collect(undo, frozen))),
                semaphores=undo.enter_context(contextlib.closing(sem.collect(frozen))),
            )
            counts = imageset.write(contents, out, criu_exact=criu_exact)
            undo.close()
            moved = _objects() ^ present
            if moved and not frozen:
                raise ChangedError(f"{min(moved)} came or went while the namespace was read")
            return counts
        except OSError as error:
            raise KernelError(f"dumping {source.described}: {explain(error)}") from error


_NAMES = {"shm": "shared memory segment", "msg": "message queue", "sem": "semaphore set"}


def _objects() -> set[str]:
    """The objects of the namespace the caller is in, by name: the second column of /proc/sysvipc/*."""
    found: set[str] = set()
    for kind, name in _NAMES.items():
        with open(f"/proc/sysvipc/{kind}") as table:
            next(table)
            found.update(f"{name} {line.split(None, 2)[1]}" for line in table)
    return found
