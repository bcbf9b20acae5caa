"""The objects of the namespace the caller is in, as /proc/sysvipc lists them.

Asking for one index after the other instead takes 2^24 calls where ipcmni_extend is on and the last index is in use.
"""

from __future__ import annotations

from .selection import Name


def objects(*kinds: str) -> list[Name]:
    """Kind, id and key of each, in the kernel's order: by index. kinds are some of model.NAMES. Raises OSError."""
    found: list[Name] = []
    for kind in kinds:
        with open(f"/proc/sysvipc/{kind}") as table:
            next(table)
            for line in table:
                key, object_id, _ = line.split(None, 2)
                found.append((kind, int(object_id), int(key) % (1 << 32)))
    return found
