"""The namespace's settings: carried over, out of the way while objects are made, and put back after a failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..commands import ipcimg, refused, run, same
from ..fidelity import row
from . import oracle
from .oracle import Namespace

SETTINGS = {
    "kernel/msgmax": "4096",
    "kernel/msgmnb": "65536",
    "kernel/msgmni": "77",
    "kernel/shmmax": "123456789",
    "kernel/shmall": "54321",
    "kernel/shmmni": "88",
    "kernel/sem": "250\t32000\t99\t128",
    "kernel/shm_rmid_forced": "0",
    "kernel/msg_next_id": "32769",
    "kernel/sem_next_id": "0",
    "kernel/shm_next_id": "2147483647",
    "fs/mqueue/queues_max": "99",
    "fs/mqueue/msg_max": "20",
    "fs/mqueue/msgsize_max": "9000",
    "fs/mqueue/msg_default": "5",
    "fs/mqueue/msgsize_default": "1000",
}


def set_all() -> None:
    for name, value in SETTINGS.items():
        oracle.set_variable(name, value)


@row("presets")
def test_every_setting(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(set_all)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert source.do(oracle.variables) == SETTINGS
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert target.do(oracle.variables) == SETTINGS
    same(tmp_path / "d", f"ns:{target.pid}")


def test_no_settings_if_not_wanted(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(set_all)
    source.do(lambda: oracle.queue(messages=[(1, b"x" * 4096)] * 16))
    before = target.do(oracle.variables)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--no-vars")
    assert target.do(oracle.variables) == before
    assert len(target.do(lambda: oracle.receive_all(32769))) == 16


@row("limits")
@row("long messages")
@row("qbytes")
def test_limits_lowered_after_the_objects(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Objects that the final limits would not admit; messages longer than msgmax is at the dump."""

    def fill_and_lower() -> None:
        for name, value in (("msgmax", 100000), ("msgmnb", 1 << 20)):
            oracle.set_variable(f"kernel/{name}", value)
        for n in range(3):
            oracle.queue(n + 1, messages=[(1, b"short"), (2, bytes([n]) * 70000), (3, b"")])
            oracle.semaphores(n + 1, [n] * 50)
            oracle.segment(n + 1, 100000, [(9, b"%d" % n)])
        lowered = {"msgmax": 10, "msgmnb": 20, "msgmni": 1, "shmmax": 1, "shmall": 1, "shmmni": 1, "sem": "1 1 1 1"}
        for name, limit in lowered.items():
            oracle.set_variable(f"kernel/{name}", limit)

    source.do(fill_and_lower)
    before = source.do(oracle.variables)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert source.do(oracle.variables) == before
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    same(tmp_path / "d", f"ns:{target.pid}")
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    assert restored == original
    assert original["qbytes"] == {0: 1 << 20, 1: 1 << 20, 2: 1 << 20}


@row("shm_rmid_forced")
def test_segments_survive_rmid_forced(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """With shm_rmid_forced=1 the kernel destroys a segment with its last attachment: not with the dump's."""
    created = source.do(lambda: oracle.segment(0x99, 4096, [(0, b"before")]))
    # Its creator, this thread, is gone by now. An attachment keeps it.
    address = source.do(lambda: oracle.attach(created))
    source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert source.do(oracle.variables)["kernel/shm_rmid_forced"] == "1"
    assert source.do(lambda: oracle.table("shm"))[created]["nattch"] == 1
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert "Warning: kernel.shm_rmid_forced is left at 0" in done.stderr
    assert target.do(lambda: oracle.content(created, 6)) == b"before"
    # A command that the restoring process becomes is their creator, so there it can be 1.
    show = "cat /proc/sys/kernel/shm_rmid_forced /proc/sysvipc/shm"
    done = ipcimg("restore", "--new-ns", "-D", tmp_path / "d", "--", "sh", "-c", show)
    forced, _, row = done.stdout.splitlines()[1:]
    assert (forced, row.split()[:2]) == ("1", ["153", str(created)])
    source.do(lambda: oracle.detach(address))
    assert source.do(lambda: oracle.table("shm")) == {}


def test_failed_restore_leaves_the_settings(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """What fails is the last kind of object."""
    source.do(lambda: [oracle.queue(n + 1) for n in range(3)])
    source.do(lambda: oracle.segment(5, 4096, [(0, b"x")]))
    source.do(lambda: oracle.use(oracle.semaphores(6, [7])))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.semaphores(8, [1, 2], wanted=32768 * 9 + 5))
    target.do(lambda: oracle.queue(9, messages=[(1, b"mine")], wanted=32768 * 9 + 5))
    target.do(set_all)
    before = target.do(lambda: (oracle.variables(), [oracle.table(kind) for kind in ("msg", "sem", "shm")]))
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", preexec_fn=oracle.no_semop)
    assert line.startswith("semaphore set 0 (key 0x00000006): Function not implemented")
    after = target.do(lambda: (oracle.variables(), [oracle.table(kind) for kind in ("msg", "sem", "shm")]))
    assert after == before


MACHINE_S_OWN = """
import os, sys
from ipcimg import cli, namespace, sysctl
namespace.INITIAL_INODE = os.stat(sys.argv[1]).st_ino
written, write = [], sysctl.write
def recorded(name, value):
    written.append(name)
    write(name, value)
sysctl.write = recorded
status = cli.main(sys.argv[2:])
print(written)
sys.exit(status)
"""


@pytest.mark.slow
def test_the_machine_s_own_settings(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """They are not written, not even for the time, unless --vars asks for it. Another namespace plays its part."""
    source.do(lambda: oracle.queue(1, messages=[(1, b"fits")]))
    source.do(lambda: oracle.set_variable("kernel/msgmax", 9000))
    source.do(lambda: oracle.queue(2, messages=[(2, b"x" * 9000)]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.set_variable("kernel/msg_next_id", 4711))
    before = target.do(oracle.variables)
    command = (sys.executable, "-c", MACHINE_S_OWN, target.path, "restore", "-t", str(target.pid), "-D", tmp_path / "d")
    restore = tuple(map(str, command))
    done = run(restore, status=1)
    named = "message queue 1 (key 0x00000002)"
    assert done.stderr == (
        f"ipcimg: Error: {named} has a message of 9000 bytes; kernel.msgmax is 8192, and raised with --vars alone\n"
    )
    assert done.stdout == "[]\n"
    assert target.do(oracle.variables) == before
    only_the_preset = "['kernel/msg_next_id']\n"  # which is put back
    assert run(restore, "--id", "msg:0").stdout.endswith(only_the_preset)
    assert target.do(oracle.variables) == before
    assert "kernel/msgmax" in run(restore, "--id", "msg:1", "--vars").stdout
    assert target.do(oracle.variables) == source.do(oracle.variables)
    target.do(lambda: oracle.remove("msg", 0))
    target.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    restore = (*restore, "--id", "msg:0")
    assert "kernel.shm_rmid_forced is 1 in the machine's own namespace" in run(restore, status=1).stderr


def test_limits_that_are_not_to_be_raised(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """All of them are told at once."""
    source.do(lambda: [oracle.queue(n + 1, messages=[(1, b"x" * 5000)] * 3) for n in range(3)])
    source.do(lambda: oracle.semaphores(1, [1] * 40))
    source.do(lambda: oracle.segment(1, 3 << 20))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    for name, value in (("msgmax", 4000), ("msgmnb", 9000), ("msgmni", 2), ("shmmax", 1 << 20), ("shmmni", 0)):
        target.do(lambda name=name, value=value: oracle.set_variable(f"kernel/{name}", value))  # type: ignore[misc]
    target.do(lambda: oracle.set_variable("kernel/sem", "39 1000 10 0"))
    before = target.do(oracle.variables)
    command = (sys.executable, "-c", MACHINE_S_OWN, target.path, "restore", "-t", str(target.pid), "-D", tmp_path / "d")
    done = run(tuple(map(str, command)), status=1)
    lines = [line.removeprefix("ipcimg: Error: ") for line in done.stderr.splitlines()]
    assert sorted(lines) == sorted(
        f"{one} raised with --vars alone"
        for one in (
            "message queue 0 (key 0x00000001) has a message of 5000 bytes; kernel.msgmax is 4000, and",
            "message queue 0 (key 0x00000001) holds 15000 bytes; kernel.msgmnb is 9000, and",
            "semaphore set 0 (key 0x00000001) has 40 semaphores; the first number of kernel.sem is 39, and",
            "shared memory segment 0 (key 0x00000001) has 3145728 bytes; kernel.shmmax is 1048576, and",
            "1 shared memory segments, beside 0 that are there; kernel.shmmni allows 0, and is",
            "3 message queues, beside 0 that are there; kernel.msgmni allows 2, and is",
            "1 semaphore sets, beside 0 that are there; kernel.sem allows 0, and is",
        )
    )
    assert target.do(oracle.variables) == before
