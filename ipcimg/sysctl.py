"""The IPC namespace's variables under /proc/sys.

/proc/sys shows the IPC namespace of the task that opens the file (on kernels before 5.19: of the
task that reads or writes it), so everything here means the namespace the caller is in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .companion import Companion
from .credentials import acting_as
from .interrupts import deferred

ROOT = "/proc/sys"


def open_variable(name: str, flags: int) -> int:
    """A descriptor of a variable, which stays that of the caller's present namespace. Raises OSError."""
    try:
        return os.open(f"{ROOT}/{name}", flags | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if name.endswith("_next_id"):
            error.strerror = (
                "there is no such variable: the kernel lacks CONFIG_CHECKPOINT_RESTORE, or /proc/sys is hidden"
            )
        raise


def read(name: str) -> str:
    """The value of a variable, name being its path below /proc/sys. Raises OSError."""
    with open(open_variable(name, os.O_RDONLY)) as file:
        return file.read().strip()


def read_int(name: str) -> int:
    """The value of a variable that is one number. Raises OSError."""
    return int(read(name))


def write(name: str, value: int | str) -> None:
    """Set a variable. Raises OSError, with EINVAL for a value outside the kernel's range."""
    try:
        _write(name, value)
    except PermissionError:
        # The variables of an IPC namespace are for the root of the user namespace that owns it, not for root outside.
        owner = os.stat(f"{ROOT}/{name}")
        try:
            with acting_as(owner.st_uid, owner.st_gid):
                _write(name, value)
                return
        except PermissionError:
            pass
        raise


def _write(name: str, value: int | str) -> None:
    fd = open_variable(name, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        error.filename = f"{ROOT}/{name}"
        error.strerror = f"writing {value}: {error.strerror}"
        raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def temporarily(name: str, value: int, *, guarded: bool = True) -> Iterator[None]:
    """Have a variable at value inside the with block, and as it was after it.

    guarded says that this is so even if we are killed meanwhile; otherwise somebody else sees to that. Raises OSError.
    """
    before = read_int(name)
    if before == value:
        yield
        return
    guardian: Companion | None = None
    if guarded:
        with deferred():
            guardian = Companion(lambda: None, lambda prepared, word: None if word else write(name, before))
    try:
        write(name, value)
        yield
    finally:
        with deferred():
            write(name, before)
            if guardian is not None:
                guardian.dismiss()
