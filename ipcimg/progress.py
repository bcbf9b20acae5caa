"""How far a command is: who does something says what, who moves data how much, and who watches may show it.

A Bar is shown on a terminal once a command has taken a second, and leaves nothing on it. It must not hold anything up:
the terminal may be that of a process which is stopped while its namespace is dumped, so nothing is written to one that
would not take it at once, and nothing that goes wrong with it ends the command.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from tqdm import tqdm

AFTER = 1.0  # seconds
# The stages between which tasks are stopped.
FREEZING, LETTING_GO = "freezing", "letting go"


class Progress(Protocol):
    """Is told of stages and bytes."""

    @property
    def counts(self) -> bool:
        """Does it count bytes? Where it does not, nobody has to find out what to expect."""

    def stage(self, name: str) -> None:
        """This is being done from now on."""

    def expect(self, size: int) -> None:
        """So many more are to be moved, as far as is known."""

    def done(self, size: int) -> None:
        """So many more have been moved."""


class _Nobody:
    """Nobody watches."""

    counts = False

    def stage(self, name: str) -> None:
        """See Progress."""

    def expect(self, size: int) -> None:
        """See Progress."""

    def done(self, size: int) -> None:
        """See Progress."""


NOBODY: Progress = _Nobody()


class Bar:
    """A bar on standard error, which is a terminal. What it says is that bytes are being moved, at whatever stage."""

    counts = True

    def __init__(self, what: str) -> None:
        """what is a word for what is being done."""
        self._what, self._expected, self._done = what, 0, 0
        self._begins = time.monotonic() + AFTER
        self._shown: tqdm[NoReturn] | None = None
        self._writable = select.poll()
        self._writable.register(sys.stderr.fileno(), select.POLLOUT)

    def stage(self, name: str) -> None:
        """See Progress."""

    def expect(self, size: int) -> None:
        """See Progress."""
        self._expected += size
        if self._shown is not None:
            self._shown.total = self._expected

    def done(self, size: int) -> None:
        """See Progress."""
        self._done += size
        if self._shown is None and time.monotonic() < self._begins:
            return
        if self._takes_more():
            with contextlib.suppress(OSError):
                self._shown = self._shown or self._show()
                self._shown.update(self._done - self._shown.n)

    def close(self) -> None:
        """Leave the line empty."""
        if self._shown is not None:
            with contextlib.suppress(OSError):
                self._shown.close()

    def _takes_more(self) -> bool:
        return [event for _, event in self._writable.poll(0)] == [select.POLLOUT]

    def _show(self) -> tqdm[NoReturn]:
        from tqdm import tqdm  # whoever is done within a second does not wait for it

        tqdm.monitor_interval = 0  # no thread to look after the bar, and no lock that other processes know
        tqdm.set_lock(threading.RLock())
        return tqdm(
            desc=self._what,
            total=self._expected or None,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )


@contextlib.contextmanager
def shown(what: str, *, wanted: bool = True) -> Iterator[Progress]:
    """A bar inside the with block, if that is wanted and standard error is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield NOBODY
        return
    bar = Bar(what)
    try:
        yield bar
    finally:
        bar.close()
