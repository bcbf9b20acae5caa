"""The objects of the namespace the caller is in, as /proc/sysvipc lists them.

Asking for one index after the other instead takes 2^24 calls where ipcmni_extend is on and the last index is in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .selection import Name

Row = Mapping[str, int]  # by the kernel's names of the columns; perms is octal there, and a number here


class Table:
    """/proc/sysvipc/KIND as it is now: a line for each object, with all that *_STAT tells but a queue's msg_qbytes."""

    def __init__(self, kind: str) -> None:
        """kind is one of model.NAMES. Raises OSError."""
        self.kind = kind
        with open(f"/proc/sysvipc/{kind}", "rb") as file:
            self._columns, *self.lines = file.readlines()

    def names(self) -> Iterator[Name]:
        """Kind, id and key of each, in the kernel's order: by index."""
        for line in self.lines:
            key, object_id, _ = line.split(None, 2)
            yield self.kind, int(object_id), int(key) % (1 << 32)

    def rows(self) -> Iterator[Row]:
        """Each object's line, in the order of names()."""
        columns = [column.decode() for column in self._columns.split()]
        for line in self.lines:
            yield {
                name: int(text, 8 if name == "perms" else 10) for name, text in zip(columns, line.split(), strict=True)
            }


def objects(*kinds: str) -> list[Name]:
    """Kind, id and key of each object of these kinds, by index. Raises OSError."""
    return [name for kind in kinds for name in Table(kind).names()]
