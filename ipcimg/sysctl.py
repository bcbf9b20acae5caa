"""The IPC namespace's variables under /proc/sys, and the presets that give an object its id.

/proc/sys shows the IPC namespace of the task that opens the file (on kernels before 5.19: of the
task that reads or writes it), so everything here means the namespace the caller is in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import TracebackType

ROOT = "/proc/sys"
UNSET = -1  # a preset that nobody has armed


def _open(name: str, flags: int) -> int:
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
    with open(_open(name, os.O_RDONLY)) as file:
        return file.read().strip()


def read_int(name: str) -> int:
    """The value of a variable that is one number. Raises OSError."""
    return int(read(name))


def write(name: str, value: int | str) -> None:
    """Set a variable. Raises OSError, with EINVAL for a value outside the kernel's range."""
    fd = _open(name, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        error.filename = f"{ROOT}/{name}"
        error.strerror = f"writing {value}: {error.strerror}"
        raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def temporarily(name: str, value: int) -> Iterator[None]:
    """Have a variable at value inside the with block, and as it was after it."""
    before = read_int(name)
    if before == value:
        yield
        return
    write(name, value)
    try:
        yield
    finally:
        write(name, before)


class Preset:
    """kernel.{msg,sem,shm}_next_id, held open: what the next object to be created is to be called.

    A preset outlives a *get() that fails, and then the next creation by anybody takes it: leaving
    the context disarms it. Writing needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the user
    namespace that owns the IPC namespace (linux/ipc/ipc_sysctl.c).
    """

    def __init__(self, kind: str) -> None:
        self.name = f"kernel/{kind}_next_id"
        self._fd = _open(self.name, os.O_WRONLY)
        self._armed = False

    def arm(self, wanted: int) -> None:
        """The next *get() that creates an object of this kind takes the id wanted, 0 to 2^31-1."""
        self._armed = True
        os.pwrite(self._fd, b"%d" % wanted, 0)

    def taken(self) -> None:
        """To be called when the creation has happened: the kernel has disarmed the preset."""
        self._armed = False

    def __enter__(self) -> Preset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._armed:
                os.pwrite(self._fd, b"%d" % UNSET, 0)
        finally:
            os.close(self._fd)
