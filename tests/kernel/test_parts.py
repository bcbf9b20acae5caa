"""A part of a namespace, other ids than the dumped ones, and the comparison of living namespaces."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ipcimg as library

from ..commands import IPCIMG, SHOW, ipcimg, refused, run, same
from . import oracle
from .oracle import Namespace

PAGE = os.sysconf("SC_PAGE_SIZE")
Ids = dict[str, list[int]]


def fill() -> None:
    """Ids 0 and 1 of each kind, with the keys 0x10 and 0x11."""
    for n in range(2):
        oracle.queue(0x10 + n, messages=[(n + 1, b"%d" % n), (9, b"last")])
        oracle.semaphores(0x10 + n, [n, 5])
        oracle.segment(0x10 + n, PAGE, [(0, b"%d" % n)])
    oracle.set_variable("kernel/msgmni", 77)


def ids() -> Ids:
    return {kind: sorted(oracle.table(kind)) for kind in ("msg", "sem", "shm")}


PARTS: list[tuple[list[str], Ids]] = [
    (["--only", "msg"], {"msg": [0, 1], "sem": [], "shm": []}),
    (["--only", "sem,shm"], {"msg": [], "sem": [0, 1], "shm": [0, 1]}),
    (["--only", "var"], {"msg": [], "sem": [], "shm": []}),
    (["--id", "msg:1"], {"msg": [1], "sem": [], "shm": []}),
    (["--id", "msg:1", "--id", "sem:0"], {"msg": [1], "sem": [0], "shm": []}),
    (["--key", "0x11"], {"msg": [1], "sem": [1], "shm": [1]}),
    (["--key", "17", "--only", "shm"], {"msg": [], "sem": [], "shm": [1]}),
    (["--key", "0x11", "--id", "shm:0"], {"msg": [1], "sem": [1], "shm": [0, 1]}),
]


@pytest.mark.parametrize(("options", "wanted"), PARTS, ids=[" ".join(options) for options, _ in PARTS])
@pytest.mark.slow
def test_part(
    source: Namespace, make_namespace: Callable[[], Namespace], tmp_path: Path, options: list[str], wanted: Ids
) -> None:
    """A part of what was dumped, and a dump of a part."""
    source.do(fill)
    first, second = make_namespace(), make_namespace()
    settings = first.do(oracle.variables)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "all")
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "part", *options)
    ipcimg("restore", "-t", first.pid, "-D", tmp_path / "all", *options)
    ipcimg("restore", "-t", second.pid, "-D", tmp_path / "part")
    assert first.do(ids) == second.do(ids) == wanted
    same(tmp_path / "all", f"ns:{first.pid}", *options)
    same(tmp_path / "part", f"ns:{second.pid}", *options)
    same(f"ns:{source.pid}", f"ns:{second.pid}", *options)
    wanted_settings = source.do(oracle.variables) if "var" in options else settings
    assert first.do(oracle.variables) == second.do(oracle.variables) == wanted_settings
    ipcimg("restore", "-t", second.pid, "-D", tmp_path / "part", "--only", "var", "--vars")
    assert second.do(oracle.variables) == source.do(oracle.variables)
    shown = run(SHOW, tmp_path / "part").stdout
    assert "a part of its namespace: --" in shown
    assert "a part of its namespace" not in run(SHOW, tmp_path / "all").stdout


def test_part_of_a_namespace_in_use(source: Namespace, tmp_path: Path) -> None:
    """What is not meant is neither waited for nor refused."""
    source.do(fill)
    loop = "while (1) { msgsnd(1, pack('l! a', 1, 'x'), 0); msgrcv(1, $b, 9, 1, 0) }"

    user = subprocess.Popen(["nsenter", f"--ipc={source.path}", "perl", "-e", loop])
    try:
        for n in range(3):
            ipcimg("dump", "-t", source.pid, "-D", tmp_path / str(n), "--id", "msg:0")
    finally:
        user.kill()
        user.wait()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--id", "msg:7"], "there is no message queue 7"),
        (["--id", "msg:0", "--only", "sem"], "there is no message queue 0"),
        (["--key", "0x99"], "there is no object with the key 0x00000099"),
    ],
)
def test_part_that_is_not_there(
    source: Namespace, target: Namespace, tmp_path: Path, options: list[str], why: str
) -> None:
    source.do(fill)
    assert refused("dump", "-t", source.pid, "-D", tmp_path / "part", *options).startswith(why)
    assert not (tmp_path / "part").exists()
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "all")
    assert refused("restore", "-t", target.pid, "-D", tmp_path / "all", *options).startswith(why)
    assert target.do(ids) == {"msg": [], "sem": [], "shm": []}
    done = run(IPCIMG, "diff", tmp_path / "all", tmp_path / "all", *options, status=2)
    assert done.stderr.startswith(f"ipcimg: Error: {why}")


@pytest.mark.parametrize(
    "options", [["--only", "msq"], ["--id", "7"], ["--id", "var:1"], ["--key", "0"], ["--key", "x"]]
)
def test_part_that_is_no_part(tmp_path: Path, options: list[str]) -> None:
    done = run(IPCIMG, "dump", "-D", tmp_path, *options, status=2)
    assert "usage:" in done.stderr


# ---- other ids -------------------------------------------------------------------------------


def test_into_free_ids(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Who finds the own id free gets it, whatever the others get."""
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.queue(0x77, messages=[(1, b"mine")]))  # takes id 0; the kernel's next is 1
    other = (1 << 24) + 1  # has the index of 1, also with ipcmni_extend
    target.do(lambda: oracle.segment(0x77, PAGE, wanted=other))
    before = target.do(oracle.variables)
    done = run(IPCIMG, "restore", "-t", target.pid, "-D", tmp_path / "d", status=1)
    assert done.stderr.count("that id is taken") == done.stderr.count("\n") == 2
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--into-free-ids", "--no-vars", "--report", "-")
    new = json.loads(done.stdout)["new_ids"]
    assert {kind: list(map(int, of)) for kind, of in new.items()} == {"msg": [0], "sem": [], "shm": [1]}
    msqid, shmid = new["msg"]["0"], new["shm"]["1"]
    assert target.do(ids) == {"msg": sorted([0, 1, msqid]), "sem": [0, 1], "shm": sorted([0, other, shmid])}
    assert target.do(oracle.variables) == before
    assert target.do(lambda: oracle.receive_all(msqid)) == [(1, b"0"), (9, b"last")]
    assert target.do(lambda: oracle.receive_all(0)) == [(1, b"mine")]
    assert target.do(lambda: oracle.content(shmid, 1)) == b"1"


def test_into_free_ids_in_words(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.semaphores(1, [3], wanted=32767))  # the last index there is
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.semaphores(2, [4], wanted=32767))
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--into-free-ids")
    [new] = set(target.do(ids)["sem"]) - {32767}
    assert done.stdout.splitlines()[1:] == [f"semaphore set 32767 is now {new}"]
    assert target.do(oracle.variables)["kernel/sem_next_id"] == "-1"


def test_into_free_ids_still_refuses_keys(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.queue(0x11))
    before = target.do(ids)
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", "--into-free-ids")
    assert line == "message queue 1 (key 0x00000011): there is another object with that key in the namespace"
    assert target.do(ids) == before


def test_object_twice_in_the_images(target: Namespace, tmp_path: Path) -> None:
    p = library.Permissions(0, 0, 0, 0, 0, 0o600, 5)
    queues = [library.MessageQueue(p, 100, 0, ())] * 2
    contents = library.load(Path(__file__).parent.parent / "data" / "criu-4.2" / "basic")
    library.save(library.Contents(contents.variables, queues=queues), tmp_path / "d")
    for options in ([], ["--into-free-ids"]):
        line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", *options)
        assert line == f"{tmp_path}/d/ipcns-msg-1.img: message queue 5 is in the image twice"


# ---- comparing living namespaces ---------------------------------------------------------------


def test_diff_of_a_living_namespace(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")

    def change() -> None:
        oracle.check(oracle._libc.msgsnd(1, b"\1" + bytes(7) + b"new", 3, 0))
        oracle.remove("sem", 0)
        oracle.own("shm", 1, 7, 0)
        oracle.segment(0x55, 1)
        oracle.set_variable("kernel/msgmax", 4711)

    target.do(change)
    before = target.do(lambda: [oracle.table(kind) for kind in ("msg", "sem")])
    done = run(IPCIMG, "diff", tmp_path / "d", f"ns:{target.pid}", status=1)
    there = f"ns:{target.pid}"
    assert done.stdout.splitlines() == [
        f"variable msg_ctlmax is 8192 in {tmp_path}/d and 4711 in {there}",
        f"shared memory segment 1: uid is 0 in {tmp_path}/d and 7 in {there}",
        f"shared memory segment 2 (key 0x00000055) is only in {there}",
        f"message queue 1: the number of messages is 2 in {tmp_path}/d and 3 in {there}",
        f"message queue 1: message 2 is only in {there}",
        f"semaphore set 0 (key 0x00000010) is only in {tmp_path}/d",
    ]
    assert target.do(lambda: [oracle.table(kind) for kind in ("msg", "sem")]) == before
    found = json.loads(run(IPCIMG, "diff", f"ns:{source.path}", there, "--json", status=1).stdout)
    assert (found["same"], found["a"], found["b"]) == (False, f"ns:{source.path}", there)
    assert [(one["kind"], one["id"]) for one in found["differences"]] == [
        ("var", None), ("shm", 1), ("shm", 2), ("msg", 1), ("msg", 1), ("sem", 0)
    ]  # fmt: skip
    assert json.loads(run(IPCIMG, "diff", there, there, "--json").stdout)["same"]


@pytest.mark.parametrize("name", ["/no/such/directory", "ns:0", "ns:/dev/null"])
def test_diff_with_nothing(tmp_path: Path, source: Namespace, name: str) -> None:
    done = run(IPCIMG, "diff", f"ns:{source.pid}", name, status=2)
    assert done.stderr.startswith("ipcimg: Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_status_of_diff(source: Namespace, tmp_path: Path) -> None:
    """1 is for differences alone, and they are told by the status even if nobody reads them."""
    source.do(lambda: oracle.queue(1))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    source.do(lambda: oracle.queue(2))
    diff = [*IPCIMG, "diff", str(tmp_path / "d"), f"ns:{source.pid}"]
    full = subprocess.run(["sh", "-c", '"$@" >/dev/full', "sh", *diff], capture_output=True, text=True, check=False)
    assert (full.returncode, full.stderr) == (2, "ipcimg: Error: No space left on device\n")
    unread = subprocess.run(
        ["bash", "-c", '"$@" | true; echo ${PIPESTATUS[0]}', "sh", *diff], capture_output=True, text=True, check=False
    )
    assert (unread.stdout, unread.stderr) == ("1\n", "")


def test_pidfile_goes_with_hold(tmp_path: Path) -> None:
    done = run(IPCIMG, "restore", "-D", tmp_path, "--pidfile", tmp_path / "pid", status=2)
    assert "--pidfile goes with --hold" in done.stderr
    assert not (tmp_path / "pid").exists()
