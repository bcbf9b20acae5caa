"""A log as CRIU's: lines with the seconds since the start, and errors with the place in the code they come from."""

from __future__ import annotations

import os
import stat
import sys
import time

from .describe import printable
from .errors import DirectoryError, explain

ERRORS, WARNINGS, INFO, DEBUG = 1, 2, 3, 4  # what is logged at this level and above; at 0 nothing is
_PACKAGE = os.path.dirname(__file__)
_RAISING_FOR_OTHERS = ("errors.py", "libc.py")


class LogFile:
    """A log, open for writing. Nothing that goes wrong with it ends the command: see failed."""

    def __init__(self, path: str, level: int) -> None:
        """Make it, mode 0600, or empty the one that is there. Raises DirectoryError, also where that is no log."""
        self._path, self._level, self._began = path, level, time.monotonic()
        self.failed: str | None = None  # why it is not complete
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            why = "is a symbolic link" if os.path.islink(path) else explain(error).removeprefix(f"{path}: ")
            raise DirectoryError(f"log {path}: {why}") from error
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise DirectoryError(f"log {path}: is not a regular file")
            if status.st_uid != os.geteuid():
                raise DirectoryError(f"log {path}: belongs to user {status.st_uid}")
            if os.read(self._fd, 1) not in (b"", b"("):
                raise DirectoryError(f"log {path}: is there already, and is no log")
            os.fchmod(self._fd, 0o600)
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as error:
            os.close(self._fd)
            raise DirectoryError(f"log {path}: {explain(error)}") from error
        except BaseException:
            os.close(self._fd)
            raise

    def error(self, text: str, error: BaseException) -> None:
        """A line that says where the error comes from."""
        self._write(ERRORS, f"Error ({origin(error)}): {text}")

    def warning(self, text: str) -> None:
        """A line that says where somebody has called the module that calls this."""
        frame = sys._getframe(1)
        teller = frame.f_code.co_filename
        while frame.f_code.co_filename == teller and frame.f_back is not None:
            frame = frame.f_back
        self._write(WARNINGS, f"Warn  ({_place(frame.f_code.co_filename, frame.f_lineno)}): {text}")

    def info(self, text: str) -> None:
        """What is being done, and what was."""
        self._write(INFO, text)

    def debug(self, text: str) -> None:
        """Details of that."""
        self._write(DEBUG, text)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def _write(self, level: int, text: str) -> None:
        if level > self._level or self.failed is not None:
            return
        line = stamped(time.monotonic() - self._began, text).encode(errors="backslashreplace")
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            self.failed = f"log {self._path}: {explain(error)}"


def stamped(seconds: float, text: str) -> str:
    """A line of a log."""
    return f"({seconds:09.6f}) {printable(text)}\n"


def origin(error: BaseException) -> str:
    """Where in ipcimg it was raised first: file and line."""
    while error.__cause__ is not None:
        error = error.__cause__
    place, trace = "?", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(_PACKAGE) and os.path.basename(file) not in _RAISING_FOR_OTHERS:
            place = _place(file, trace.tb_lineno)
        trace = trace.tb_next
    return place


def _place(file: str, line: int) -> str:
    return f"{os.path.relpath(file, _PACKAGE)}:{line}"
