"""A restore that is killed: it is recognised, and undone by `ipcimg recover`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ipcimg as library
from ipcimg import journal, kinds

from ..commands import IPCIMG, ipcimg, refused, run
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.slow


def fill() -> None:
    for n in range(500):
        oracle.queue(n + 1, messages=[(1, b"m" * 100)] * 10)
        oracle.semaphores(n + 1, [n % 7])
    oracle.segment(1, 8192, [(0, b"first")])
    with oracle.creating_as(1001, 1001):
        oracle.queue(0x5000, messages=[(1, b"somebody else's")])


def strangers() -> None:
    """What is in the target before; none of it in the way."""
    oracle.queue(0x4711, messages=[(7, b"stays")], wanted=32768 * 5 + 30000)
    oracle.semaphores(0x4711, [5], wanted=32768 * 5 + 30000)
    oracle.segment(0x4711, 4096, [(0, b"stays")], wanted=32768 * 5 + 30000)
    oracle.set_variable("kernel/msgmni", 3000)
    oracle.set_variable("kernel/sem_next_id", 77)


def state() -> object:
    return oracle.table("msg"), oracle.table("sem"), oracle.rows("shm"), oracle.variables()


@pytest.fixture
def dumped(source: Namespace, tmp_path: Path) -> Path:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    return tmp_path / "d"


def killed_at(call: str, when: int, *arguments: object) -> int:
    """ipcimg, which is ended by SIGKILL at the end of its system call of that number; its process id."""
    at = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}")
    # With -D strace is a descendant, and we have the process itself as our child.
    with subprocess.Popen(["strace", "-D", "-qq", "-o", "/dev/null", *at, *IPCIMG, *map(str, arguments)]) as child:
        assert child.wait(60) == -signal.SIGKILL
    return child.pid


def killed(target: Namespace, directory: Path, *options: object, call: str = "msgget", when: int) -> int:
    """A restore into the target that is ended by SIGKILL; its process id."""
    return killed_at(call, when, "restore", "-t", target.pid, "-D", directory, *options)


@pytest.mark.parametrize("kind", ["msg", "sem", "shm"])
def test_undone(target: Namespace, dumped: Path, tmp_path: Path, kind: str) -> None:
    """Whatever it was at: segments, queues or semaphore sets. One of each is a stranger, and the journal a segment."""
    target.do(strangers)
    before = target.do(state)
    # The segment is there when the first queue comes.
    pid = killed(target, dumped, call="semget" if kind == "sem" else "msgget", when=1 if kind == "shm" else 3)
    assert len(target.do(lambda: oracle.table(kind))) > 1 + (kind == "shm")
    whose = f"an unfinished restore from {dumped}, whose process {pid} was killed"
    unfinished = f"the IPC namespace of process {target.pid} holds {whose}"
    for command in (("restore", "-t", target.pid, "-D", dumped), ("dump", "-t", target.pid, "-D", tmp_path / "e")):
        assert refused(*command) == f"{unfinished}; `ipcimg recover -t {target.pid}` undoes it"
    done = ipcimg("recover", "-t", target.pid)
    assert done.stdout.startswith(f"the IPC namespace of process {target.pid}: undone, ")
    assert target.do(state) == before
    assert (
        ipcimg("recover", "-t", target.pid).stdout == f"the IPC namespace of process {target.pid}: nothing to recover\n"
    )
    assert target.do(lambda: oracle.receive_all(32768 * 5 + 30000)) == [(7, b"stays")]
    ipcimg("restore", "-t", target.pid, "-D", dumped)


def test_other_ids_are_undone_too(source: Namespace, target: Namespace, dumped: Path) -> None:
    target.do(lambda: [oracle.queue(0x10000 + n, messages=[(1, b"stays")]) for n in range(501)])
    before = target.do(state)
    killed(target, dumped, "--into-free-ids", when=30)
    assert len(target.do(lambda: oracle.table("msg"))) > 510
    ipcimg("recover", "-t", target.pid)
    assert target.do(state) == before


def test_recovery_that_is_killed_goes_on(target: Namespace, dumped: Path) -> None:
    before = target.do(state)
    killed(target, dumped, call="semget", when=450)
    assert len(target.do(lambda: oracle.table("sem"))) > 400
    killed_at("semctl", 200, "recover", "-t", target.pid)
    assert 0 < len(target.do(lambda: oracle.table("sem"))) < 400
    assert target.do(lambda: oracle.table("msg"))
    ipcimg("recover", "-t", target.pid)
    assert target.do(state) == before


def test_where_the_journal_finds_no_room(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Limits are raised for its sake, and are as before afterwards."""
    source.do(lambda: oracle.queue(1, messages=[(1, b"one")]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.segment(7, 4096))
    for name, value in (("shmmni", 1), ("shmmax", 1), ("shmall", 1)):
        target.do(lambda name=name, value=value: oracle.set_variable(f"kernel/{name}", value))  # type: ignore[misc]
    before = target.do(oracle.variables)
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--no-vars")
    assert target.do(oracle.variables) == before
    assert list(target.do(lambda: oracle.table("shm"))) == [0]


def test_keys_and_indexes_that_are_needed(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """The journal takes no index that images need, and no key that the target has."""
    source.do(lambda: [oracle.segment(n + 1, 4096, wanted=n) for n in range(4)])
    target.do(lambda: oracle.segment(journal.KEYS[0], 4096, wanted=32768 + 4))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert sorted(target.do(lambda: oracle.table("shm"))) == [0, 1, 2, 3, 32768 + 4]


def test_images_that_would_pass_for_a_journal(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.segment(journal.KEYS[1], 4096 + 24, [(0, b"ipcimgJ1")], mode=0o644))
    source.do(lambda: oracle.queue(kinds.THROWAWAY))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    done = run(IPCIMG, "restore", "-t", target.pid, "-D", tmp_path / "d", status=1)
    assert done.stderr.count("that key is for what ipcimg makes meanwhile\n") == 2
    assert target.do(lambda: (oracle.table("shm"), oracle.table("msg"))) == ({}, {})


def test_what_came_in_the_place_of_ours_stays(target: Namespace, dumped: Path) -> None:
    """After the kill somebody removes a restored queue, and makes one that gets the same id."""
    target.do(lambda: oracle.queue(kinds.THROWAWAY, wanted=32768 * 9 + 30000))
    killed(target, dumped, when=120)
    time.sleep(1.1)
    target.do(lambda: oracle.remove("msg", 50))
    target.do(lambda: oracle.queue(0, messages=[(1, b"mine")], wanted=50))
    ipcimg("recover", "-t", target.pid)
    assert target.do(lambda: oracle.receive_all(50)) == [(1, b"mine")]
    assert {row["key"] for row in target.do(lambda: oracle.table("msg")).values()} == {0, kinds.THROWAWAY}


def forge(content: bytes, mode: int = 0o600, size: int = 4096 + 24 * 9) -> Callable[[], int]:
    return lambda: oracle.segment(journal.KEYS[0], size, [(0, content)] if content else [], mode=mode)


@pytest.mark.parametrize(
    "content",
    [
        b"ipcimgJ1" + b"\xff" * 12,
        b"ipcimgJ1" + bytes(4) + b"\1\0\0\0" + b"\xff\xff\0\0",
        b"ipcimgJ1" + bytes(8) + b"\2\0\0\0[]",
        b"ipcimgJ1" + bytes(8) + b"\2\0\0\0{}",
        b"ipcimgJ1" + bytes(8) + b"\xa0\x0f\0\0" + b"[" * 4000,
    ],
)
def test_damaged_journal(source: Namespace, tmp_path: Path, content: bytes) -> None:
    source.do(forge(content))
    line = refused("recover", "-t", source.pid)
    assert line.startswith("shared memory segment 0 is the journal of a restore, but damaged: ")
    assert refused("dump", "-t", source.pid, "-D", tmp_path / "d") == line


def test_what_is_no_journal_is_left_alone(source: Namespace, tmp_path: Path) -> None:
    """Somebody's segment with that key: with other content, of another size, or for others to write."""
    for segment in (
        forge(b"something"),
        forge(b"ipcimgJ1", mode=0o666),
        forge(b"ipcimgJ1", size=8192),
        forge(b"", size=8192),
    ):
        shmid = source.do(segment)
        assert "nothing to recover" in ipcimg("recover", "-t", source.pid).stdout
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--force")
        source.do(lambda: oracle.remove("shm", shmid))  # noqa: B023


def test_one_that_had_not_begun(source: Namespace, tmp_path: Path) -> None:
    source.do(forge(b""))
    assert "holds a restore that was killed before it began" in refused("dump", "-t", source.pid, "-D", tmp_path / "d")
    ipcimg("recover", "-t", source.pid)
    assert source.do(lambda: oracle.table("shm")) == {}


def test_library(target: Namespace, dumped: Path) -> None:
    before = target.do(state)
    killed(target, dumped, when=120)
    with library.of_process(target.pid) as namespace:
        found = library.recover(namespace)
        assert found is not None
        assert found.removed > 100
        assert library.recover(namespace) is None
    assert target.do(state) == before


def test_directory(source: Namespace, tmp_path: Path) -> None:
    """What a killed dump has left is completed or removed."""
    directory = tmp_path / "d"
    source.do(lambda: oracle.queue(1))
    ipcimg("dump", "-t", source.pid, "-D", directory)
    assert ipcimg("recover", "-D", directory).stdout == f"image directory {directory}: nothing to recover\n"
    leftover = directory / ".ipcimg-2.tmp"
    leftover.mkdir()
    (leftover / "ipcns-var-2.img").write_bytes(b"x")
    assert ipcimg("recover", "-D", directory).stdout == (
        f"image directory {directory}: set 2: an unfinished dump was removed; a set from before stays as it was\n"
    )
    assert not leftover.exists()
    unfinished = directory / ".ipcimg-1.tmp"
    unfinished.mkdir()
    for name in ("ipcns-var-1.img", "ipcns-msg-1.img", "ipcimg-manifest-1.img"):
        (directory / name).rename(unfinished / name)
    (unfinished / "commit").touch()
    assert (
        f"`ipcimg recover -D {directory}` completes or removes it" in run(IPCIMG, "verify", directory, status=1).stderr
    )
    assert ipcimg("recover", "-D", directory).stdout == f"image directory {directory}: set 1: is complete now\n"
    ipcimg("verify", directory)


def test_leftovers_of_somebody_else(source: Namespace, tmp_path: Path) -> None:
    """In a directory that others can write, they could have files moved over ours."""
    tmp_path.chmod(0o1777)
    leftover = tmp_path / ".ipcimg-1.tmp"
    leftover.mkdir()
    for name in ("commit", "ipcimg-manifest-1.img", "important"):
        (leftover / name).write_bytes(b"")
    (tmp_path / "important").write_bytes(b"ours")
    os.chown(leftover, 1001, 0)
    why = f"image directory {tmp_path}: .ipcimg-1.tmp belongs to user 1001, who could change it meanwhile"
    assert refused("recover", "-D", tmp_path).startswith(why)
    assert refused("dump", "-t", source.pid, "-D", tmp_path).startswith(why)
    os.chown(leftover, 0, 0)
    ipcimg("recover", "-D", tmp_path)
    assert (tmp_path / "important").read_bytes() == b"ours"


# ---- whose images are restored -------------------------------------------------------------


def test_images_that_others_can_change(target: Namespace, dumped: Path) -> None:
    image, before = dumped / "ipcns-sem-1.img", target.do(state)
    restore = ("restore", "-t", target.pid, "-D", dumped)
    for path in (image, dumped):
        mode = path.stat().st_mode & 0o777
        named = str(path) if path == image else f"image directory {path}"
        os.chown(path, 1001, 0)
        assert (
            refused(*restore)
            == f"{named}: belongs to user 1001, who could change it meanwhile; chown it, if you trust it"
        )
        os.chown(path, 0, 1001)
        path.chmod(mode | 0o020)
        assert refused(*restore) == f"{named}: others can write it (mode {mode | 0o020:04o}); chmod it, if you trust it"
        path.chmod(mode | 0o002)
        assert refused(*restore) == f"{named}: others can write it (mode {mode | 0o002:04o}); chmod it, if you trust it"
        path.chmod(mode | 0o044)
        os.chown(path, 0, 0)
    assert target.do(state) == before
    ipcimg(*restore)
