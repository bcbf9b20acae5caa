"""The objects of the namespace the caller is in, as /proc/sysvipc lists them.

Asking for one index after the other instead takes 2^24 calls where ipcmni_extend is on and the last index is in use.
"""

from __future__ import annotations

import array
import io
from collections.abc import Iterator, Mapping, Sequence

from . import loops
from .selection import Name

Row = Mapping[str, int]  # by the kernel's names of the columns; perms is octal there, and a number here


class Table:
    """/proc/sysvipc/KIND as it is now: a line for each object, with all that *_STAT tells but a queue's msg_qbytes."""

    def __init__(self, kind: str) -> None:
        """kind is one of model.NAMES. Raises OSError."""
        self.kind = kind
        with open(f"/proc/sysvipc/{kind}", "rb") as file:
            self._columns = file.readline().decode().split()
            self.text = file.read()

    def lines(self) -> Iterator[bytes]:
        """In the kernel's order: by index."""
        return iter(io.BytesIO(self.text))

    def ids(self) -> array.array[int]:
        """Those of all objects, in the same order."""
        if loops.c is not None:
            return array.array("i", loops.c.ids(self.text))
        return array.array("i", [int(line.split(None, 2)[1]) for line in self.lines()])

    def name(self, line: bytes) -> Name:
        """Kind, id and key of the object of a line."""
        key, object_id, _ = line.split(None, 2)
        return self.kind, int(object_id), int(key) % (1 << 32)

    def latest(self, line: bytes, times: Sequence[str]) -> int:
        """The latest of the times of a line, columns by their names."""
        fields = line.split()
        return max([int(fields[self._columns.index(name)]) for name in times])

    def row(self, line: bytes) -> Row:
        """All of a line."""
        columns = zip(self._columns, line.split(), strict=True)
        return {name: int(text, 8 if name == "perms" else 10) for name, text in columns}


def objects(*kinds: str) -> list[Name]:
    """Kind, id and key of each object of these kinds, by index. Raises OSError."""
    return [table.name(line) for table in map(Table, kinds) for line in table.lines()]
