"""How values look: what the options of ipcimg-show say about that, and nothing of what is shown."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .. import describe

TIME_FORMATS = ("iso", "full", "short")


@dataclass(frozen=True, slots=True)
class View:
    """How values are to be written."""

    in_bytes: bool = False  # sizes as numbers, not with a unit
    numeric_perms: bool = False  # permissions as an octal number, not as letters
    time_format: str = "iso"  # one of TIME_FORMATS; all are in UTC, as the image may be from anywhere
    truncate: bool = True  # shorten long cells
    color: bool = False  # for a terminal
    unicode: bool = True  # can what is written to show block elements?
    width: int = 80  # of pictures: columns

    def size(self, value: int) -> str:
        """A number of bytes."""
        return str(value) if self.in_bytes else describe.size(value)

    def perms(self, mode: int) -> str:
        """Permission bits."""
        return f"{mode & 0o777:o}" if self.numeric_perms else describe.perms(mode)

    def moment(self, seconds: int) -> str:
        """Seconds since the epoch, 0 for never."""
        if not seconds:
            return ""
        if not describe.is_date(seconds):
            return describe.moment(seconds)
        then = time.gmtime(seconds)
        if self.time_format == "full":
            return time.strftime("%a %b %e %H:%M:%S %Y", then)
        if self.time_format == "short":
            now = time.gmtime()
            if then[:3] == now[:3]:
                return time.strftime("%H:%M", then)
            return time.strftime("%b%d" if then.tm_year == now.tm_year else "%Y-%b%d", then)
        return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", then)
