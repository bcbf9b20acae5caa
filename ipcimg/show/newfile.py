"""A file that is there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import DirectoryError, explain
from ..interrupts import deferred


@contextlib.contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """A new file, which is gone after the with block on any error."""
    made = whole = False
    try:
        with deferred():
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            made = True
        with open(fd, "wb") as file:
            yield file
        whole = True
    except FileExistsError:
        raise DirectoryError(f"{path} is there already") from None
    except OSError as error:
        raise DirectoryError(f"writing {path}: {explain(error).removeprefix(f'{path}: ')}") from error
    finally:
        if made and not whole:
            with deferred(), contextlib.suppress(FileNotFoundError):  # somebody has removed it
                os.unlink(path)
