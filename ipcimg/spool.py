"""Standard input as an image: what comes by a pipe is put where it can be read at any place."""

from __future__ import annotations

import os
import stat

from .errors import ImageError, explain
from .image import ImageFile

_PATH = "standard input"
_FD = 0
_BLOCK = 1 << 20  # bytes copied at a time


def standard_input() -> ImageFile:
    """All of standard input, a file from its beginning on. Raises ImageError.

    What is no file is copied into one that has no name, in $TMPDIR, and is gone with the process.
    """
    try:
        if stat.S_ISREG(os.fstat(_FD).st_mode):
            return ImageFile(os.dup(_FD), _PATH)
    except OSError as error:
        raise ImageError(_PATH, None, explain(error)) from error
    return ImageFile(_copied(), _PATH)


def _copied() -> int:
    """A descriptor of the copy."""
    import tempfile  # takes long to import, and most have files

    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            while block := _block():
                done = 0
                while done < len(block):
                    done += os.write(file.fileno(), memoryview(block)[done:])
            return os.dup(file.fileno())
    except OSError as error:
        raise ImageError(_PATH, None, f"copying it into $TMPDIR: {explain(error)}") from error


def _block() -> bytes:
    try:
        return os.read(_FD, _BLOCK)
    except OSError as error:
        raise ImageError(_PATH, None, explain(error)) from error
