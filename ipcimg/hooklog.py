"""What `ipcimg hook` did, in lines as CRIU's: `(SECONDS) text`, `(SECONDS) Error (FILE:LINE): text`.

The seconds are those since criu was started, so that the lines can be laid beside its own log. They go to standard
error, which is criu's, and to a file in the image directory. Whoever can write there could have put a link in its
place; so the file is opened as none is followed, and has to be ours alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import time

from .errors import explain
from .logfile import origin, stamped
from .trust import who_could_change

_OF_CRIU = re.compile(r"/proc/([1-9][0-9]{0,9})/fd/[0-9]{1,10}\Z")


class Log:
    """Lines, as long as they can be written anywhere. Nothing here raises: what was done stays done."""

    def __init__(self, stage: str, criu: int | None) -> None:
        """stage is what every line begins with, criu its process id, if that is known."""
        self._stage, self._began = stage, _started(criu)
        self._fd = -1

    def open(self, name: str, images: str | None) -> None:
        """Write to this file too, at its end; it is made if it is missing, mode 0600. That it cannot be is said.

        A name that does not begin with / is one in the image directory, and means nothing where there is none.
        """
        path = os.path.join(images or "", name)
        if not os.path.isabs(path):
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            self.say(f"no log file: {explain(error)}")
            return
        status = os.fstat(fd)
        why: str | None
        if not stat.S_ISREG(status.st_mode):
            why = "it is not a regular file"
        elif status.st_nlink > 1:
            why = "it has other names"
        else:
            why = who_could_change(status)
        if why:
            os.close(fd)
            self.say(f"no log file: {path}: {why}")
        else:
            self._fd = fd

    def say(self, text: str) -> None:
        """One line."""
        self._write(f"{self._stage}: {text}")

    def warn(self, text: str) -> None:
        """A line about what is not as somebody may expect it."""
        self._write(f"Warn: {self._stage}: {text}")

    def error(self, error: BaseException, text: str) -> None:
        """A line about what the stage fails at, with the place in the source where that was found."""
        self._write(f"Error ({origin(error)}): {self._stage}: {text}")

    def close(self) -> None:
        """Nothing is written any more."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _write(self, text: str) -> None:
        elapsed = max(time.clock_gettime(time.CLOCK_BOOTTIME) - self._began, 0)
        line = stamped(elapsed, text)
        with contextlib.suppress(OSError):
            sys.stderr.write(line)
            sys.stderr.flush()
        if self._fd >= 0:
            try:
                os.write(self._fd, line.encode("utf-8", "backslashreplace"))
            except OSError as error:
                self.close()
                self.say(f"the log file ends here: {explain(error)}")


def process_of(directory: str | None) -> int | None:
    """The process id of criu, by what it calls the image directory: /proc/PID/fd/N; None for any other name."""
    match = _OF_CRIU.match(directory or "")
    return int(match[1]) if match else None


def _started(pid: int | None) -> float:
    """When a process was started, in seconds since the machine was; without one, now."""
    if pid is not None:
        with contextlib.suppress(OSError):  # it is not to be seen from here
            with open(f"/proc/{pid}/stat", "rb") as file:
                ticks = int(file.read().rpartition(b")")[2].split()[19])  # field 22, starttime
            return ticks / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME)
