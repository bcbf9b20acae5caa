"""What stands beside the images for those who look for it in any dump of CRIU's: inventory.img and stats-*.

Those of CRIU's own stay as they are; ours bear a mark.
"""

from __future__ import annotations

import io

from . import codec
from .directory import NewSet, is_ours
from .images import INVENTORY, STATS_DUMP
from .model import Counts
from .stopwatch import Stopwatch

_COLLECTING = ("segments", "queues", "semaphores")  # stages of a dump


def accompany(out: NewSet, watch: Stopwatch, counts: Counts, inherited: int) -> None:
    """Have them come along with a new set, unless the dump in its directory is CRIU's. Raises DirectoryError.

    inherited is how many of the pages are in its parent.
    """
    if not out.directory.has(INVENTORY):
        with out.beside(INVENTORY) as file:
            codec.encode_inventory(file)
    elif not is_ours(out.directory, INVENTORY):
        return
    with out.beside(STATS_DUMP) as file:
        codec.encode_dump_stats(
            file,
            freezing=watch.freezing,
            frozen=watch.frozen,
            collecting=sum(watch.stages.get(stage, 0.0) for stage in _COLLECTING),
            pages_written=counts.pages - inherited,
            pages_inherited=inherited,
        )


def stats_restore(watch: Stopwatch, counts: Counts) -> bytes:
    """The content of STATS_RESTORE after a restore."""
    made = io.BytesIO()
    codec.encode_restore_stats(made, restoring=watch.total, pages_restored=counts.pages)
    return made.getvalue()
