"""Acting under other effective ids for the length of a system call, with all capabilities kept.

An IPC object gets its creator from the effective ids of who makes it (ipc/util.c: ipc_addid), and the variables of a
namespace may be written by the effective user who is root in the user namespace that owns it, and by no other root
(ipc/ipc_sysctl.c: ipc_permissions, since Linux 6.9).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

from . import libc
from .interrupts import deferred

_lock = threading.Lock()  # two threads at once would take the dumpable flag of each other for their own


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


def may_be_any_creator() -> bool:
    """May the calling thread make objects as anybody, use them and remove them again?"""
    capabilities = libc.Capabilities()
    needed = (libc.CAP_SETUID, libc.CAP_SETGID, libc.CAP_IPC_OWNER, libc.CAP_SYS_ADMIN)
    return all(map(capabilities.effective, needed))


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Have these effective ids inside the with block, in the calling thread; Interrupted waits for its end.

    Raises PermissionError without CAP_SETUID and CAP_SETGID, and for ids that are not mapped in the caller's user
    namespace.
    """
    own = os.geteuid(), os.getegid()
    if (uid, gid) == own:
        yield
        return
    with deferred(), _lock:
        # Going from root to another effective user drops the effective capabilities and makes /proc/self/* root's; if
        # neither the real nor the saved user is root, the permitted and the ambient ones go as well: setresuid(2),
        # capabilities(7), PR_SET_DUMPABLE in prctl(2).
        capabilities, dumpable = libc.Capabilities(), libc.prctl(libc.PR_GET_DUMPABLE)
        root = 0 in os.getresuid()
        ambient = [] if root else libc.ambient_capabilities()
        keep = libc.prctl(libc.PR_GET_KEEPCAPS)
        if not root:
            libc.prctl(libc.PR_SET_KEEPCAPS, 1)
        try:
            try:
                libc.set_effective_ids(uid, gid)
            except OSError as error:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error
            capabilities.take_on()
            yield
        finally:
            # Whatever fails, the rest is done all the same.
            with contextlib.ExitStack() as back:
                if dumpable == 1:  # the only other value that may be set is 0
                    back.callback(libc.prctl, libc.PR_SET_DUMPABLE, 1)
                if not root:
                    back.callback(libc.prctl, libc.PR_SET_KEEPCAPS, keep)
                for number in ambient:
                    back.callback(libc.raise_ambient_capability, number)
                back.callback(capabilities.take_on)
                back.callback(libc.set_effective_ids, *own)
