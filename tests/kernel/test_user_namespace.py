"""IPC namespaces of user namespaces: from inside, where /proc/self/map_files is out of reach, and from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipcimg as library

from ..commands import IPCIMG, ipcimg, refused, run, same
from ..fidelity import row
from . import oracle
from .oracle import Namespace

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


@row("user namespaces")
def test_dump_and_restore(tmp_path: Path) -> None:
    run([*USER, DUMP], tmp_path / "d")
    [segment] = library.load(tmp_path / "d").segments
    assert [(extent.offset, extent.length) for extent in segment.extents] == [
        (0, 4096), (512 << 20, 8192), ((1 << 30) - 4096, 4096)
    ]  # fmt: skip
    inside = ("unshare", "--user", "--map-root-user", *IPCIMG)
    done = run(inside, "restore", "--new-ns", "-D", tmp_path / "d", "--", sys.executable, "-c", COMPARE)
    assert done.stdout.splitlines()[-1] == "same"


# ---- as root, from outside -------------------------------------------------------------------


class Mapped(Namespace):
    """An IPC namespace of a user namespace, in which 0 to 65535 are what is base and up outside."""

    def __init__(self, base: int) -> None:
        super().__init__("--user")
        self.base = base
        for kind in ("uid", "gid"):
            Path(f"/proc/{self.pid}/{kind}_map").write_text(f"0 {base} 65536")

    def as_own_root(self, act: Callable[[], None]) -> None:
        def become() -> None:
            with oracle.creating_as(self.base, self.base):
                act()

        self.do(become)

    def seen_inside(self, kind: str) -> list[list[str]]:
        """The owners and creators in /proc/sysvipc, as root inside reads it."""
        inside = ("nsenter", "-t", str(self.pid), "--user", "--ipc", "cat", f"/proc/sysvipc/{kind}")
        names, *rows = [line.split() for line in run(inside).stdout.splitlines()]
        return [[row[names.index(name)] for name in ("key", "uid", "gid", "cuid", "cgid")] for row in rows]


@pytest.fixture
def mapped() -> Iterator[Callable[[int], Mapped]]:
    made: list[Mapped] = []

    def make(base: int) -> Mapped:
        made.append(Mapped(base))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fill(base: int) -> None:
    """Objects of root inside, of user 1000 inside, and of that user given to group 7 inside."""
    for n, (uid, gid) in enumerate(((0, 0), (1000, 100), (1000, 65535))):
        with oracle.creating_as(base + uid, base + gid):
            made = [
                ("msg", oracle.queue(n + 1, messages=[(5, b"x" * n)])),
                ("sem", oracle.semaphores(n + 1, [n])),
                ("shm", oracle.segment(n + 1, 4096, [(0, b"content")])),
            ]
        if n == 2:
            for kind, object_id in made:
                oracle.own(kind, object_id, base, base + 7)


INSIDE = [["1", "0", "0", "0", "0"], ["2", "1000", "100", "1000", "100"], ["3", "0", "7", "1000", "65535"]]


@row("user namespaces")
def test_from_outside(mapped: Callable[[int], Mapped], target: Namespace, tmp_path: Path) -> None:
    """Owners and creators are what they are inside, whatever they are called outside."""
    source, other = mapped(100000), mapped(300000)
    source.do(lambda: fill(100000))
    source.as_own_root(lambda: oracle.set_variable("kernel/msgmax", 12345))
    source.as_own_root(lambda: oracle.set_variable("fs/mqueue/msg_max", 20))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert [queue.permissions.uid for queue in library.load(tmp_path / "d").queues] == [0, 1000, 0]
    ipcimg("restore", "-t", other.pid, "-D", tmp_path / "d", "--strict")  # and its limits are not those of root outside
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--strict")
    for kind in ("msg", "sem", "shm"):
        assert source.seen_inside(kind) == INSIDE
        assert other.seen_inside(kind) == INSIDE
    assert [row["uid"] for row in other.do(lambda: oracle.table("msg")).values()] == [300000, 301000, 300000]
    assert [row["cgid"] for row in target.do(lambda: oracle.table("msg")).values()] == [0, 100, 65535]
    same(tmp_path / "d", f"ns:{other.pid}")
    same(f"ns:{source.pid}", f"ns:{target.pid}")
    assert other.do(oracle.variables) == source.do(oracle.variables)
    assert other.do(oracle.variables)["kernel/msgmax"] == "12345"


@row("no mapping")
@pytest.mark.parametrize("kind", ["msg", "sem", "shm"])
@pytest.mark.parametrize("whose", ["owner", "creator"])
@pytest.mark.slow
def test_no_mapping_in_the_target(
    mapped: Callable[[int], Mapped], source: Namespace, tmp_path: Path, kind: str, whose: str
) -> None:
    def fill_unmapped() -> None:
        fill(0)
        with oracle.creating_as(70000 if whose == "creator" else 0, 0):
            make: dict[str, Callable[[int], int]] = {
                "msg": oracle.queue, "sem": oracle.semaphores, "shm": oracle.segment
            }  # fmt: skip
            oracle.own(kind, make[kind](0x99), 70000 if whose == "owner" else 0, 0)

    source.do(fill_unmapped)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target = mapped(100000)
    name = {"msg": "message queue", "sem": "semaphore set", "shm": "shared memory segment"}[kind]
    number = "uid" if whose == "owner" else "cuid"
    why = f"{name} 3 (key 0x00000099): {number} 70000 has no mapping in the user namespace that owns the target"
    assert refused("restore", "-t", target.pid, "-D", tmp_path / "d") == why
    assert target.do(lambda: [oracle.table(kind) for kind in ("msg", "sem", "shm")]) == [{}, {}, {}]
    # The others can be carried.
    others = [f"--id={kind}:{n}" for kind in ("msg", "sem", "shm") for n in range(3)]
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", *others)
    assert target.seen_inside(kind) == INSIDE


@row("no mapping")
def test_no_mapping_in_the_source(mapped: Callable[[int], Mapped], tmp_path: Path) -> None:
    """Root of outside has made an object in the namespace: inside, its owner has no name."""
    source = mapped(100000)
    source.do(lambda: oracle.queue(1))
    why = "message queue 0: its uid, 0 as seen from here, has no certain mapping in the user namespace that owns the "
    assert refused("dump", "-t", source.pid, "-D", tmp_path / "d").startswith(why)
    assert not (tmp_path / "d").exists()


OVERFLOW = f"""
import os, subprocess, sys; sys.path.insert(0, {str(ROOT)!r})
from tests.kernel import oracle
from ipcimg.cli import main
oracle.queue(1)
print("made", flush=True)
sys.stdin.readline()
sys.exit(main(["dump", "-D", sys.argv[1]]))
"""


@row("no mapping")
@row("user namespaces")
def test_no_mapping_in_the_source_seen_from_inside(tmp_path: Path) -> None:
    """The kernel shows 65534 for it, which is not to be taken for that user."""
    inside = subprocess.Popen(
        [*USER, OVERFLOW, tmp_path / "d"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert inside.stdout is not None
    assert inside.stdout.readline() == "made\n"
    make = "use POSIX; POSIX::setuid(1001); msgget(2, 01600) // die"
    run(("nsenter", f"--ipc=/proc/{inside.pid}/ns/ipc", "perl", "-e", make))
    _, errors = inside.communicate("go\n", timeout=60)
    assert inside.returncode == 1
    why = "message queue 1: its uid, 65534 as seen from here, has no certain mapping in the user namespace that owns"
    assert errors.startswith(f"ipcimg: Error: {why}")
    assert errors.count("\n") == 1


@row("user namespaces")
def test_settings_from_inside(tmp_path: Path) -> None:
    """The user who made the namespaces carries the settings as well, and compares."""
    inside = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.kernel import oracle
from ipcimg.cli import main
for name, value in (("kernel/msgmax", 1000), ("kernel/sem", "25 32 9 12"), ("fs/mqueue/msg_max", 5)):
    oracle.set_variable(name, value)
assert main(["dump", "-D", sys.argv[1]]) == 0
"""
    run([*USER, inside], tmp_path / "d")
    compare = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.kernel import oracle
from ipcimg.cli import main
assert oracle.variables()["kernel/msgmax"] == "1000"
assert main(["diff", sys.argv[1], "ns:/proc/self/ns/ipc"]) == 0
print("same")
"""
    restore = ("unshare", "--user", "--map-root-user", *IPCIMG, "restore", "--new-ns", "-D", tmp_path / "d", "--")
    done = run(list(map(str, restore)), sys.executable, "-c", compare, tmp_path / "d")
    assert done.stdout.splitlines()[-1] == "same"


@row("user namespaces")
def test_proc_of_another_process_id_namespace(mapped: Callable[[int], Mapped], tmp_path: Path) -> None:
    """There a process has another number in /proc than it has for itself."""
    source = mapped(100000)
    source.do(lambda: fill(100000))
    path = f"/proc/{source.pid}/ns/ipc"
    run(("unshare", "--pid", "--fork", *IPCIMG), "dump", "--ipc-ns", path, "-D", tmp_path / "d")
    assert [queue.permissions.uid for queue in library.load(tmp_path / "d").queues] == [0, 1000, 0]
