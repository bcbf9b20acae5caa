"""What can go wrong, one class for each place it goes wrong in. Every message is one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence


class IpcimgError(Exception):
    """Anything ipcimg refuses or fails at; str() is one line for the operator."""


class ImageError(IpcimgError):
    """An image does not hold what its format promises.

    path is the image's file name, offset the byte at which it stops making sense (None where the
    whole file is meant), why the reason in words.
    """

    def __init__(self, path: str, offset: int | None, why: str) -> None:
        self.path, self.offset, self.why = path, offset, why
        at = "" if offset is None else f", byte {offset}"
        super().__init__(f"{path}{at}: {why}")


class JsonError(IpcimgError):
    """JSON that is to become an image does not describe one.

    file is its name, where the value that is meant ("entries[3].desc.mode"; empty for all of it, or "line 1, column 2"
    where it is not even JSON), why the reason in words.
    """

    def __init__(self, file: str, where: str, why: str) -> None:
        self.file, self.where, self.why = file, where, why
        super().__init__(": ".join(filter(None, (file, where, why))))


class ConfigurationError(IpcimgError):
    """A configuration file cannot be taken.

    key is what in it is meant, as "dump.stage" (None: all of it), why the reason in words.
    """

    def __init__(self, file: str, key: str | None, why: str) -> None:
        self.file, self.key, self.why = file, key, why
        super().__init__(": ".join(filter(None, (file, key, why))))


class DirectoryError(IpcimgError):
    """An image directory cannot be used the way it was asked for."""


class NamespaceError(IpcimgError):
    """An IPC namespace cannot be found, entered or made."""


class ObjectError(IpcimgError):
    """One IPC object cannot be carried; the message names the object."""


class ConflictError(ObjectError):
    """Objects cannot be made in the target; conflicts has a line for each reason, str() the first."""

    def __init__(self, conflicts: Sequence[str]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__(and_more(conflicts))


class LossError(IpcimgError):
    """Something would not be as it was, and the caller does not allow that."""


class ChangedError(IpcimgError):
    """The namespace changed while it was being dumped: the images would not be of one moment."""


class InUseError(ChangedError):
    """Something in the namespace is used all the time: to try again would be of no use."""


class CommandError(IpcimgError):
    """A command that was to checkpoint or to restore a container has not done so."""


class KernelError(IpcimgError):
    """The kernel refused a call; __cause__ is the OSError."""


_QUOTED, _LISTED = 80, 16  # characters, numbers

# What usually stands behind an errno, for the operator who reads it.
_HINTS = {
    "EPERM": "is this root, with CAP_SYS_ADMIN over the namespace?",
    "ENOSYS": "this kernel lacks CONFIG_CHECKPOINT_RESTORE, or a filter blocks the call",
}


def quoted(text: str | bytes) -> str:
    """Text from elsewhere as part of a line: what is not printable escaped, and no more than its beginning."""
    return repr(text[:_QUOTED]) + ("…" if len(text) > _QUOTED else "")


def listed(numbers: Sequence[int] | Sequence[str]) -> str:
    """Numbers as part of a line, no more than the first."""
    return ", ".join(map(str, numbers[:_LISTED])) + (", …" if len(numbers) > _LISTED else "")


def and_more(found: Sequence[str]) -> str:
    """The first, and how many there are beside it."""
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn an OSError raised inside into a KernelError that begins with what was being done."""
    try:
        yield
    except OSError as error:
        raise KernelError(f"{what}: {explain(error)}") from error


def explain(error: OSError) -> str:
    """The error in words, with its file, if it has one, and what is usually behind it."""
    words = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    if error.filename is not None and not isinstance(error.filename, int):  # a descriptor means nothing to anybody
        words = f"{os.fsdecode(error.filename)}: {words}"
    import errno

    hint = _HINTS.get(errno.errorcode.get(error.errno or 0, ""))
    return f"{words} ({hint})" if hint else words
