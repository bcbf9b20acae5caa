"""CRIU dumps and ipcimg restores; ipcimg dumps and CRIU restores; and once around.

Each program of programs/ is dumped once by CRIU, stays stopped, and is dumped then by ipcimg into a copy of CRIU's
directory. It has verified its objects when it says PASS.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.commands import SHOW, ipcimg, run
from tests.kernel import oracle

from .criu import NAMES, Program, copy, criu

WITNESS = 0x7E57  # key of a semaphore set that only ipcimg has dumped: so it was not CRIU's images that were restored
VALUES = (4711, 0, 32767)


class Dumped:
    """A program that was dumped by both."""

    def __init__(self, name: str, scratch: pathlib.Path) -> None:
        self.scratch, self.criu, self.ours = scratch, scratch / "criu", scratch / "ours"
        self.criu.mkdir()
        self.program = Program(name, scratch)
        with contextlib.closing(self.program):
            criu("dump", self.criu, "-t", self.program.pid, "--leave-stopped")
            copy(self.criu, self.ours)
            self.program.namespace.do(lambda: oracle.semaphores(WITNESS, VALUES))
            ipcimg("dump", "-t", self.program.pid, "--criu-set", self.ours, "--frozen-by-caller")
            self.program.namespace.do(self._forget_witness)
            self.held = self.program.namespace.do(contents)

    @staticmethod
    def _forget_witness() -> None:
        [witness] = [semid for semid, row in oracle.table("sem").items() if row["key"] == WITNESS]
        assert oracle.values(witness, len(VALUES)) == VALUES
        oracle.remove("sem", witness)


def contents() -> dict[str, object]:
    """All that a namespace holds, but for the pages of the huge segment, which are more than memory."""
    if any(row["size"] > 1 << 30 for row in oracle.table("shm").values()):
        return {"shm": oracle.rows("shm"), "msg": {}, "sem": {}, "variables": oracle.variables()}
    return oracle.everything()


@pytest.fixture(scope="module", params=NAMES)
def dumped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dumped]:
    name: str = request.param
    # More than there is memory, and pages of 2 MiB: as many as are used and restored at the same time.
    for path, value in (("overcommit_memory", 1), ("nr_hugepages", 12 if name == "shm-hugetlb" else 0)):
        pathlib.Path("/proc/sys/vm", path).write_text(str(value))
    yield Dumped(name, tmp_path_factory.mktemp(name))


@pytest.fixture(autouse=True)
def direction(request: pytest.FixtureRequest, record_property: Any) -> None:
    record_property("direction", (request.node.callspec.params["dumped"], request.function.__doc__))


@contextlib.contextmanager
def restored_into_a_new_one(directory: pathlib.Path, pin: pathlib.Path) -> Iterator[oracle.Enterable]:
    """What ipcimg makes of the images: a namespace that a file stands for."""
    ipcimg("restore", "--new-ns", "--pin", pin, "-D", directory)
    try:
        yield oracle.Enterable(str(pin))
    finally:
        subprocess.run(["umount", pin], check=True)
        pin.unlink()


def passes(program: Program, directory: pathlib.Path) -> None:
    """Have criu restore the program, which then says that all is as it was."""
    with contextlib.closing(program.restore(directory)) as restored:
        assert restored.namespace.do(witnesses) == [VALUES]
        assert restored.finish() == "PASS\n"


def pages_of(pagemap: pathlib.Path) -> str:
    """The name of its pages file, by the bytes of its head: magic, magic, length, tag of field 1, a small number."""
    head = pagemap.read_bytes()[8:14]
    assert head[:5] == b"\x02\0\0\0\x08"
    assert head[5] < 128
    return f"pages-{head[5]}.img"


def witnesses() -> list[tuple[int, ...]]:
    return [oracle.values(semid, row["nsems"]) for semid, row in oracle.table("sem").items() if row["key"] == WITNESS]


def test_criu_ipcimg(dumped: Dumped, tmp_path: pathlib.Path) -> None:
    """CRIU → ipcimg"""
    shown = run(SHOW, dumped.criu).stdout
    for what, kind in (("Shared memory segments", "shm"), ("Message queues", "msg"), ("Semaphore sets", "sem")):
        rows = dumped.held[kind]
        _, _, table = shown.partition(f"\n{what}\n")
        ids = [line.split()[1] for line in table.partition("\n\n")[0].splitlines()[1:]]
        assert ids == [str(number) for number in rows], kind  # type: ignore[attr-defined]
    with restored_into_a_new_one(dumped.criu, tmp_path / "pin") as restored:
        dumped.program.check_in(restored.path)
    with restored_into_a_new_one(dumped.criu, tmp_path / "pin") as restored:
        assert restored.do(contents) == dumped.held


def test_ipcimg_criu(dumped: Dumped) -> None:
    """ipcimg → CRIU"""
    of_set = {path.name for path in dumped.criu.iterdir() if path.name.startswith(("ipcns-", "pagemap-shmem-"))}
    of_set |= {pages_of(dumped.criu / name) for name in of_set if name.startswith("pagemap-")}
    of_a_restore = {"stats-restore"}  # which was made of these images before
    kept = [path for path in dumped.criu.iterdir() if path.name not in of_set | of_a_restore]
    assert {"inventory.img", "stats-dump", "pages-1.img"} <= {path.name for path in kept}
    for path in kept:
        assert path.read_bytes() == (dumped.ours / path.name).read_bytes(), path.name
    passes(dumped.program, dumped.ours)


def test_around(dumped: Dumped, tmp_path: pathlib.Path) -> None:
    """CRIU → ipcimg → CRIU"""
    again = copy(dumped.criu, tmp_path / "again")
    with restored_into_a_new_one(dumped.criu, tmp_path / "pin") as between:
        between.do(lambda: oracle.semaphores(WITNESS, VALUES))
        ipcimg("dump", "--ipc-ns", between.path, "--criu-set", again)
    passes(dumped.program, again)
