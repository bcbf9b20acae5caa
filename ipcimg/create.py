"""Making an object with a wanted id, and unmaking what was made: common to the three kinds of object.

The kernel gives a wanted id only if it is free: otherwise the object gets the next free one, without an error
(ipc/util.c: ipc_idr_alloc). So the id is compared, always.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from . import libc
from .errors import KernelError, ObjectError, explain
from .interrupts import deferred
from .model import Permissions
from .preset import Preset

_WHY = {
    errno.EEXIST: "there is another object with that key in the namespace",
    errno.EAGAIN: "it does not take all its messages",
    errno.ENOSPC: "the namespace has no room for one more, or the id is the last there can be and taken",
    errno.EINVAL: "Invalid argument: its size, or an owner that is not mapped in the user namespace",
}


def owned(perm: libc.ipc_perm, object_id: int) -> Permissions:
    """struct ipc_perm as the model has it."""
    return Permissions(perm.key, perm.uid, perm.gid, perm.cuid, perm.cgid, perm.mode, object_id)


class Creator:
    """Makes objects of one kind (msg, sem or shm) under wanted ids, and remembers them."""

    def __init__(self, preset: Preset, made: list[Callable[[], object]]) -> None:
        """made collects, for each object that came to be, the call that removes it."""
        self._preset, self._made = preset, made
        self.buffer = libc.MessageBuffer(8192)

    @contextlib.contextmanager
    def making(
        self,
        what: str,
        wanted: Permissions,
        get: Callable[[int, int], int],
        remove: Callable[[int], object],
    ) -> Iterator[int]:
        """Create an object, mode 0600, for the with block to fill. get is called with key and flags.

        Raises ObjectError, naming the object, for whatever the kernel refuses here or in the block.
        """
        named = f"{what} {wanted.id}" + (f" (key {wanted.key:#010x})" if wanted.key else "")
        try:
            with deferred():
                self._preset.arm(wanted.id)
                given = get(wanted.key, libc.IPC_CREAT | libc.IPC_EXCL | 0o600)
                self._preset.taken()
                self._made.append(lambda: remove(given))
            if given != wanted.id:
                raise ObjectError(f"{named}: that id is taken in the namespace (the kernel gave {given})")
            yield given
        except OSError as error:
            raise ObjectError(f"{named}: {_WHY.get(error.errno or 0) or explain(error)}") from error


def unmake(made: list[Callable[[], object]]) -> None:
    """Remove the objects that were made, the last first. Raises KernelError where one stays."""
    left: list[OSError] = []
    while made:
        try:
            made.pop()()
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EIDRM):  # somebody else has removed it
                left.append(error)
    if left:
        raise KernelError(f"{len(left)} objects that were made could not be removed again: {explain(left[0])}")
