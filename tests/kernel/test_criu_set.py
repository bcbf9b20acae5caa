"""dump --criu-set: what has to hold of the namespace for CRIU to restore what is dumped of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ..commands import ipcimg, refused, same
from ..test_criu_images import dump_of
from . import oracle
from .oracle import Namespace, cgroup


@pytest.fixture
def dumped(source: Namespace, tmp_path: Path) -> Path:
    """What CRIU has dumped of source, whose process is stopped."""
    directory = dump_of("basic", tmp_path / "criu")
    ipcimg("restore", "-t", source.pid, "-D", directory)
    source.stop()
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_stopped(source: Namespace, dumped: Path) -> None:
    before = files(dumped)
    source.do(lambda: oracle.queue(0x77, messages=[(1, b"since")]))
    ipcimg("dump", "-t", source.pid, "--criu-set", dumped)
    same(dumped, f"ns:{source.pid}")
    after = files(dumped)
    others = [name for name in before if not name.startswith(("ipcns-", "pagemap-shmem-")) and name in after]
    assert {"inventory.img", "ids-1130.img", "pages-1.img"} <= set(others)
    assert all(after[name] == before[name] for name in others)


def test_frozen_cgroup(source: Namespace, dumped: Path) -> None:
    os.kill(source.pid, signal.SIGCONT)
    with cgroup(source.pid) as path:
        Path(path, "cgroup.freeze").write_text("1")
        while not oracle.is_frozen(path):
            pass
        ipcimg("dump", "-t", source.pid, "--criu-set", dumped)
        Path(path, "cgroup.freeze").write_text("0")


def test_nobody(dumped: Path, tmp_path: Path) -> None:
    """As what was restored into a namespace of its own."""
    ipcimg("restore", "--new-ns", "--pin", tmp_path / "pin", "-D", dumped)
    try:
        ipcimg("dump", "--ipc-ns", tmp_path / "pin", "--criu-set", dumped)
    finally:
        assert os.system(f"umount {tmp_path}/pin") == 0


def test_running(source: Namespace, dumped: Path) -> None:
    os.kill(source.pid, signal.SIGCONT)
    before = files(dumped)
    dump = ("dump", "-t", source.pid, "--criu-set", dumped)
    assert refused(*dump).startswith(f"process {source.pid} of the IPC namespace of process {source.pid} is running, ")
    assert files(dumped) == before
    ipcimg(*dump, "--force")


def _remove() -> None:
    oracle.remove("shm", 1)


def _long_message() -> None:
    oracle.set_variable("kernel/msgmax", 10000)
    oracle.queue(0x78, messages=[(1, bytes(8192))])
    oracle.queue(0x79, messages=[(1, b"short"), (2, bytes(8193))])


def _low_msgmax() -> None:
    oracle.set_variable("kernel/msgmax", 100)


def _low_msgmnb() -> None:
    oracle.set_variable("kernel/msgmnb", 8000)


def _low_msgmni() -> None:
    oracle.set_variable("kernel/msgmni", 1)


def _low_semmsl() -> None:
    oracle.set_variable("kernel/sem", "4 32000 500 32000")


def _low_shmmax() -> None:
    oracle.set_variable("kernel/shmmax", 60000)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_remove, "shared memory segment 1 (key 0x0000009a), which CRIU has dumped, is not in the namespace"),
        (_long_message, "message queue 3 (key 0x00000079): a message of 8193 bytes, and the most is 8192"),
        (_low_msgmax, "bytes, and the most is 100"),
        (_low_msgmnb, "and its qbytes will be msgmnb, 8000"),
        (_low_msgmni, "2 message queues, and the limit of the namespace is 1"),
        (_low_semmsl, "5 semaphores, and semmsl is 4"),
        (_low_shmmax, "bytes, and shmmax is 60000"),
    ],
)
def test_what_criu_would_not_restore(source: Namespace, dumped: Path, change: Callable[[], None], why: str) -> None:
    before = files(dumped)
    source.do(change)
    dump = ("dump", "-t", source.pid, "--criu-set", dumped)
    assert why in refused(*dump)
    assert files(dumped) == before
    ipcimg(*dump, "--force")
    same(dumped, f"ns:{source.pid}")


def test_rmid_forced(source: Namespace, dumped: Path) -> None:
    """Attached segments survive it; those that criu makes do not, for it sets the variable first."""
    addresses = source.do(lambda: [oracle.attach(shmid) for shmid in oracle.table("shm")])
    try:
        source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
        line = refused("dump", "-t", source.pid, "--criu-set", dumped)
        assert "kernel.shm_rmid_forced is 1, and destroys it at once" in line
    finally:
        for address in addresses:
            oracle.detach(address)
