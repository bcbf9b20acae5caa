"""Without root: inside a user namespace of one's own, where /proc/self/map_files is out of reach."""

from __future__ import annotations

import sys
from pathlib import Path

import ipcimg as library

from ..commands import IPCIMG, run

ROOT = Path(__file__).parent.parent.parent
USER = ("unshare", "--user", "--map-root-user", "--ipc", sys.executable, "-c")

FILL = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.kernel import oracle
oracle.queue(0x1234, messages=[(7, b"seven")])
oracle.semaphores(0x77, [1, 2, 3])
oracle.segment(0x99, 1 << 30, [(0, b"head"), (512 << 20, b"middle" * 1000), ((1 << 30) - 4, b"tail")])
"""
DUMP = (
    FILL
    + """
from ipcimg.cli import main
before = oracle.table("shm")
assert main(["dump", "-D", sys.argv[1]]) == 0
assert oracle.table("shm")[0]["rss"] == before[0]["rss"], "a hole became pages"
"""
)
COMPARE = (
    FILL.split("oracle.queue", 1)[0]
    + """
assert oracle.receive_all(0) == [(7, b"seven")]
assert oracle.values(0, 3) == (1, 2, 3)
assert oracle.table("shm")[0]["rss"] == 4 * 4096
address = oracle.attach(0)
import ctypes
assert ctypes.string_at(address + (512 << 20), 6000) == b"middle" * 1000
assert ctypes.string_at(address + (1 << 30) - 8, 8) == bytes(4) + b"tail"
print("same")
"""
)


def test_dump_and_restore(tmp_path: Path) -> None:
    run([*USER, DUMP], tmp_path / "d")
    [segment] = library.load(tmp_path / "d").segments
    assert [(extent.offset, extent.length) for extent in segment.extents] == [
        (0, 4096), (512 << 20, 8192), ((1 << 30) - 4096, 4096)
    ]  # fmt: skip
    inside = ("unshare", "--user", "--map-root-user", *IPCIMG)
    done = run(inside, "restore", "--new-ns", "-D", tmp_path / "d", "--", sys.executable, "-c", COMPARE)
    assert done.stdout.splitlines()[-1] == "same"
