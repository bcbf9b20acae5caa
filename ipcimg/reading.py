"""Whether what is read of a namespace is what it held at one moment.

That moment is the end of the reading. Queues and semaphore sets that were not used meanwhile hold what was read of
them; that they were not used, their times tell, to the second. The kernel stamps each change with the current second.
So once the second of the last change is over, it is enough that the times are still the same afterwards: whatever
happened meanwhile would have moved them.

Nothing tells of what is written into a segment. One that nobody has attached cannot be written, and who attaches or
detaches it leaves its process id: so we stay attached until the end, to see that the last one was us. Those that are
attached by somebody who was not stopped are read twice, the second time after everything was read once: what is the
same both times was there at the moment in between (the double collect of the literature on atomic snapshots), unless it
was changed and changed back.
"""

from __future__ import annotations

import array
import os
import time
from collections.abc import Callable, Iterator

from . import libc
from .errors import ChangedError, InUseError
from .listing import Row, Table
from .model import NAMES, object_name
from .owners import Owners
from .selection import Name, Selection

_CLOCK_REALTIME_COARSE = 5  # linux/time.h; the module time has no name for it
_WAITS = 3
_TIMES = {"shm": (), "msg": ("stime", "rtime", "ctime"), "sem": ("otime", "ctime")}
# What readers of a segment change, ourselves among them, and what the kernel does by itself.
_TRACES = ("nattch", "lpid", "atime", "dtime", "rss", "swap")


class Reading:
    """One reading of the namespace that the caller is in, from its first look at the objects to the last."""

    def __init__(
        self,
        owners: Owners,
        only: Selection,
        *,
        at_rest: bool = False,
        stopped: Callable[[os.stat_result | None], int] | None = None,
        tolerant: bool = False,
    ) -> None:
        """Take the first look.

        at_rest says that nobody who could use queues and sets is running. stopped tells how many
        attachments of a segment, by the file behind it, are those of processes that do not run; None
        that all are. tolerant says to note what moves, in place of raising. Otherwise, and unless
        at_rest, an object that was used in the present second is waited for until that second is over.
        Raises InUseError, ObjectError, and OSError.
        """
        self.owners, self.tolerant, self.stopped, self.at_rest = owners, tolerant, stopped, at_rest
        self.moved: dict[str, None] = {}  # what moved, in sentences, each once
        self.compared: set[int] = set()  # the segments that are read twice
        self._only = only
        self._again: list[Callable[[], None]] = []
        self._held: dict[int, int] = {}  # segment → where it stays attached
        self._turned: dict[int, Row] = {}  # queue → what the turning of it has left in some columns
        self._before = self._look() if at_rest else self._settled()
        only.expect(self.objects())

    def objects(self) -> Iterator[Name]:
        """What there was at the first look, wanted or not."""
        return (table.name(line) for table in self._before.values() for line in table.lines())

    def ids(self, kind: str) -> array.array[int]:
        """The wanted objects of a kind."""
        table = self._before[kind]
        if self._only.everything:
            return table.ids()
        return array.array("i", [object_id for _, object_id, _ in map(table.name, self._wanted(table))])

    def changed(self, error: ChangedError) -> None:
        """To be told of what moved. Raises the error, or notes it."""
        if not self.tolerant:
            raise error
        self.moved[str(error)] = None

    def compare_later(self, shmid: int, compare: Callable[[], None]) -> None:
        """Have compare called when everything has been read; it reports by changed()."""
        self.compared.add(shmid)
        self._again.append(compare)

    def hold(self, shmid: int, address: int) -> None:
        """Take over the attachment of a segment until close(): while the last to attach is us, nobody else did."""
        self._held[shmid] = address

    def turned(self, msqid: int, left: Row) -> None:
        """To be told of what the turning of a queue has left in some columns, which are to stay so from now on."""
        self._turned[msqid] = left

    def close(self) -> None:
        """Let go of what is held. Raises OSError."""
        while self._held:
            libc.shmdt(self._held.popitem()[1])

    def finish(self) -> None:
        """Take the last look: is everything as it was? Raises ChangedError, or notes what is not, and OSError."""
        for compare in self._again:
            compare()
        for kind, before in self._before.items():
            after = Table(kind)
            if before.text != after.text:
                self._compare(before, after)

    def _look(self) -> dict[str, Table]:
        return {kind: Table(kind) for kind in NAMES}

    def _settled(self) -> dict[str, Table]:
        """A look at everything, in a second that began after the last change."""
        waits = 0
        while True:
            began, found = _now(), self._look()
            latest, named = max((self._last_change(table) for table in found.values()), default=(0, ""))
            if latest < began:
                return found
            if self.tolerant:
                self.changed(ChangedError(f"{named} was in use when the namespace was looked at first"))
                return found
            if latest > _now() + 1:
                raise InUseError(
                    f"{named} was changed at a time that is yet to come, so nobody can tell whether it changes now; "
                    "stop its users and say --frozen-by-caller"
                )
            waits += 1
            if waits > _WAITS:
                raise InUseError(f"{named} is in use all the time; stop its users, or say --freeze")
            while _now() <= latest:
                time.sleep(0.005)

    def _last_change(self, table: Table) -> tuple[int, str]:
        """The latest time of all wanted objects, and whose it is."""
        times, latest, whose = _TIMES[table.kind], 0, b"0 0 0"
        for line in self._wanted(table) if times else ():
            last = table.latest(line, times)
            if last > latest:
                latest, whose = last, line
        return latest, object_name(*table.name(whose))

    def _wanted(self, table: Table) -> Iterator[bytes]:
        if self._only.everything:
            return table.lines()
        return (line for line in table.lines() if self._only.wants(*table.name(line)))

    def _compare(self, before: Table, after: Table) -> None:
        was = {before.name(line): line for line in self._wanted(before)}
        for line in self._wanted(after):
            name = after.name(line)
            old = was.pop(name, None)
            if old is None:
                self.changed(ChangedError(f"{object_name(*name)} came while the namespace was read"))
            elif old != line:
                ours = self._turned.get(name[1], {}) if name[0] == "msg" else {}
                self._compare_rows(name, {**before.row(old), **ours}, after.row(line))
        for name in was:
            self.changed(ChangedError(f"{object_name(*name)} went while the namespace was read"))

    def _compare_rows(self, name: Name, was: Row, now: Row) -> None:
        moved = [column for column in was if was[column] != now[column]]
        if name[0] == "shm":
            moved = self._moved_of_segment(name[1], moved, was, now)
        if moved:
            words = ", ".join(f"{column} was {was[column]} and is {now[column]}" for column in moved)
            self.changed(ChangedError(f"{object_name(*name)} changed while the namespace was read: {words}"))

    def _moved_of_segment(self, shmid: int, moved: list[str], was: Row, now: Row) -> list[str]:
        """Those of its columns that show that somebody else was there."""
        told = [column for column in moved if column not in _TRACES]
        if shmid not in self._held:
            return told
        # We are attached to it, and whoever attaches or detaches it meanwhile leaves its process id.
        if now["nattch"] != was["nattch"] + 1:
            told.append("nattch")
        if now["lpid"] != os.getpid():
            told.append("lpid")
        return told


def stat_any(kind: str, object_id: int, stat: Callable[[], int]) -> None:
    """Call stat, MSG_STAT_ANY or the like, for an object. Raises ChangedError where it is not at its index any more."""
    try:
        at_index = stat()
    except OSError as error:
        if error.errno in libc.GONE:
            raise vanished(kind, object_id) from error
        raise
    if at_index != object_id:
        raise vanished(kind, object_id)


def vanished(kind: str, object_id: int) -> ChangedError:
    """The error for an object that was there and is not any more."""
    return ChangedError(f"{NAMES[kind]} {object_id} went while the namespace was read")


def _now() -> int:
    # IPC times come from ktime_get_real_seconds(), which moves with the clock tick, as this clock does.
    return int(time.clock_gettime(_CLOCK_REALTIME_COARSE))
