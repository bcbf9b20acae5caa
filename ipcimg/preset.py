"""kernel.{msg,sem,shm}_next_id: what id the next object to be created gets.

Writing needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the user namespace that owns the IPC
namespace. The kernel shows -1 while a preset is not armed, but takes no negative number
(ipc/ipc_sysctl.c), so a preset is only disarmed by creating an object.
"""

from __future__ import annotations

import os
from types import TracebackType

from . import kinds, sysctl

UNSET = -1
KINDS = ("msg", "sem", "shm")


def name(kind: str) -> str:
    """The variable's path below /proc/sys; kind is one of KINDS."""
    return f"kernel/{kind}_next_id"


def disarm(kind: str) -> None:
    """Have the preset taken by an object that is removed at once. Raises OSError."""
    if sysctl.read_int(name(kind)) != UNSET:
        kinds.try_room(kind)


class Preset:
    """A preset, held open to be armed again and again.

    It outlives a *get() that fails, and then the next creation by anybody in the namespace takes
    it: leaving the context disarms it.
    """

    def __init__(self, kind: str) -> None:
        """Raises OSError: FileNotFoundError where the kernel has none, PermissionError without the right."""
        self._kind = kind
        self.fd = sysctl.open_variable(name(kind), os.O_WRONLY)
        self._armed = False

    def arm(self, wanted: int) -> None:
        """The next *get() that creates an object of this kind takes the id wanted, 0 to 2^31-1."""
        self._armed = True
        os.pwrite(self.fd, b"%d" % wanted, 0)

    def may_be_armed(self) -> None:
        """To be called before somebody else writes to fd."""
        self._armed = True

    def taken(self) -> None:
        """To be called when the creation has happened: the kernel has disarmed the preset."""
        self._armed = False

    def disarm(self) -> None:
        """Give up an id that was asked for and not taken. Raises OSError."""
        if self._armed:
            disarm(self._kind)
            self._armed = False

    def __enter__(self) -> Preset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.disarm()
        finally:
            os.close(self.fd)
