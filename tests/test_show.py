"""ipcimg-show: what people and programs read, and what never reaches their terminals."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tracemalloc
from typing import Any

import pytest

import ipcimg
from ipcimg.show import View
from ipcimg.show import show as pieces
from tests import wire
from tests.commands import SHOW, run

FIXTURES = pathlib.Path(__file__).parent / "data" / "criu-4.2"
SETS = sorted(path.name for path in FIXTURES.iterdir())


def show(*arguments: object) -> str:
    """What ipcimg-show prints."""
    return run(SHOW, *arguments).stdout


def expected_of(name: str) -> dict[str, list[dict[str, Any]]]:
    expected: dict[str, list[dict[str, Any]]] = json.loads((FIXTURES / name / "expected.json").read_text())
    return expected


def rows(text: str, title: str) -> list[list[str]]:
    """The words of the rows below a title, without the heads of the columns."""
    _, _, rest = text.partition(f"\n{title}\n")
    table = rest.partition("\n\n")[0].splitlines()
    return [line.split() for line in table[1:]]


# ---- text ----------------------------------------------------------------------------------


def letters(mode: int) -> str:
    return "".join(letter if mode & 1 << 8 - n else "-" for n, letter in enumerate("rwxrwxrwx"))


def common(one: dict[str, Any]) -> list[str]:
    return [
        f"0x{one['key']:08x}",
        str(one["id"]),
        letters(one["mode"]),
        str(one.get("uid", 0)),
        str(one.get("gid", 0)),
    ]


SIZES = {1: "1B", 8192: "8K", 10000: "9.8K", 12288: "12K", 65536: "64K"}
STORED = {("basic", 0): "8K", ("basic", 1): "8K", ("identity", 404525055): "4K", ("attached", 0): "8K"}
USED = {("basic", 0): "8.1K", ("identity", 163847): "5B"}


@pytest.mark.parametrize("name", SETS)
def test_text(name: str) -> None:
    text, expected = show(FIXTURES / name), expected_of(name)
    assert text.startswith(f"IPC namespace 9, {FIXTURES / name}\nno ipcimg-manifest-9.img: the set is not ipcimg's")
    assert ["msg_ctlmax", "8192"] in rows(text, "Variables")
    assert ["sem_ctls", "32000", "1024000000", "500", "32000"] in rows(text, "Variables")
    assert rows(text, "Shared memory segments") == [
        [*common(one), SIZES[one["size"]], STORED.get((name, one["id"]), "0B"), "-", "-", "-"]
        for one in expected["shm"]
    ]
    assert rows(text, "Message queues") == [
        [*common(one), USED.get((name, one["id"]), "0B"), "16K", str(len(one["messages"])), "-", "-"]
        for one in expected["queues"]
    ]
    assert rows(text, "Semaphore sets") == [
        [*common(one), str(len(one["values"])), *map(str, one["values"])] for one in expected["sems"]
    ]


def test_text_of_messages() -> None:
    assert show(FIXTURES / "basic" / "ipcns-msg-9.img") == (
        "KEY        ID PERMS     UID GID USED-BYTES QBYTES MESSAGES LSPID LRPID\n"
        "0x00001234  0 rw-r-----   0   0       8.1K    16K        5     -     -\n"
        "0x00000000  1 rw-------   0   0         0B    16K        0     -     -\n"
        "\n"
        "Messages of queue 0\n"
        "    N                TYPE SIZE PREVIEW\n"
        "    0                   1   5B hello\n"
        "    1               26538  27B Yet another test sysv5 msg.\n"
        "    2                   1   0B\n"
        f"    3 4611686018427387904  80B {'.' * 48}…\n"
        f"    4                   7   8K {'x' * 48}…\n"
    )


def test_text_of_a_page_map() -> None:
    assert show(FIXTURES / "basic" / "pagemap-shmem-1.img") == (
        "pages-3.img\nOFFSET PAGES STATUS\n0x3000     1\n0xf000     1\n"
    )


def test_text_of_facts_and_status(tmp_path: pathlib.Path) -> None:
    """What CRIU's images do not tell, and ipcimg's do."""
    facts = wire.message({1: 4096, 2: 1, 3: 2, 4: 3, 5: 4711, 6: 4712})
    queue = wire.image(wire.MSG, wire.queue(wire.desc(), facts=facts))
    facts = wire.message({1: 1, 2: 2, 3: 3, 4: 4713, 5: 4714, 6: 99})
    segment = wire.image(wire.SHM, wire.segment(wire.desc(mode=0o3600), 2 << 20, 0o4000 | 21 << 26, facts))
    wire.write(tmp_path, {"msg.img": queue, "shm.img": segment})
    assert show(tmp_path / "msg.img").splitlines()[1].split()[5:] == ["4K", "16K", "0", "4711", "4712"]
    assert show(tmp_path / "shm.img").splitlines()[1].split()[5:] == ["2M", "99", "dest,locked,hugetlb", "4713", "4714"]


def test_text_of_a_manifest(tmp_path: pathlib.Path) -> None:
    files = {"ipcns-var-1.img": len(wire.variables())}
    manifest = wire.manifest(1, files, {3: 1700000000})
    wire.write(tmp_path, {"ipcns-var-1.img": wire.variables(), "ipcimg-manifest-1.img": manifest})
    line = "dumped 2023-11-14 22:13:20 UTC by by hand on Linux 6.1 x86_64: 1 files, 82B\n"
    assert show(tmp_path / "ipcimg-manifest-1.img") == line
    assert show(tmp_path).splitlines(keepends=True)[1] == line


@pytest.mark.parametrize("created", [1 << 40, 1 << 62, (1 << 63) - 1, -1, -(1 << 63)])
def test_any_time_of_a_manifest(created: int, tmp_path: pathlib.Path) -> None:
    """A number of 64 bits can be in no calendar: that is refused in a line, or shown otherwise."""
    wire.write(tmp_path, {"x.img": wire.manifest(1, {}, {3: created})})
    done = subprocess.run([*SHOW, tmp_path / "x.img"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr


def test_several_paths_and_a_bad_one_among_them(tmp_path: pathlib.Path) -> None:
    sem = FIXTURES / "basic" / "ipcns-sem-9.img"
    done = run(SHOW, sem, tmp_path / "no", sem, status=1)
    assert done.stdout == show(sem) * 2
    assert done.stderr == f"ipcimg-show: Error: {tmp_path}/no: No such file or directory\n"


# ---- how much ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shown", "rest"),
    [
        ([], 10, "    … and 15 more (--all)"),
        (["--messages", "1"], 1, "    … and 24 more (--all)"),
        (["--messages", "24"], 24, "    … and 1 more (--all)"),
        (["--messages", "25"], 25, None),
        (["--messages", "4294967295"], 25, None),
        (["--all"], 25, None),
        (["--all", "--messages", "3"], 25, None),
        (["--messages", "0"], 0, None),
    ],
)
@pytest.mark.parametrize("hex_dump", [False, True])
def test_messages(tmp_path: pathlib.Path, arguments: list[str], shown: int, rest: str | None, hex_dump: bool) -> None:
    queue = wire.queue(wire.desc(), [(n + 1, f"body {n}".encode()) for n in range(25)])
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    lines = show(*arguments, *(["--hex"] if hex_dump else []), tmp_path / "x.img").splitlines()
    assert [line for line in lines if "body" in line] == [line for line in lines if re.search(r"body \d+\|?$", line)]
    assert sum("body" in line for line in lines) == shown
    assert [line for line in lines if "more" in line] == ([] if rest is None else [rest])


def test_hex() -> None:
    lines = show("--hex", FIXTURES / "basic" / "ipcns-msg-9.img").splitlines()
    first = lines.index("0: type 1, 5 bytes")
    assert lines[first + 1 : first + 4] == [
        "    00000000  68 65 6c 6c 6f                                    |hello|",
        "1: type 26538, 27 bytes",
        "    00000000  59 65 74 20 61 6e 6f 74  68 65 72 20 74 65 73 74  |Yet another test|",
    ]
    last = lines.index("4: type 7, 8192 bytes")
    assert lines[last + 1 :] == [
        f"    {offset:08x}  {'78 ' * 8} {'78 ' * 8} |{'x' * 16}|" for offset in range(0, 8192, 16)
    ]


# ---- creators, times and process ids -------------------------------------------------------

NOON, NIGHT = 1699963200, 1700000000  # 2023-11-14, 12:00:00 and 22:13:20 UTC


@pytest.fixture
def images(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """Two objects of each kind: one with facts, one without, as CRIU's are."""
    described, plain = wire.desc(5, 0x1234, 1000, 100, 2000000, 33, 0o640), wire.desc(70)
    facts = wire.message({1: 0, 2: NOON, 3: 0, 4: NIGHT, 5: 4711, 6: 0})
    queues = wire.image(wire.MSG, wire.queue(described, facts=facts), wire.queue(plain))
    facts = wire.message({1: NOON, 2: NIGHT, 3: [4711, 0, 42]})
    sets = wire.image(wire.SEM, wire.semaphores(described, [1, 32767, 0], facts), wire.semaphores(plain, [7]))
    facts = wire.message({1: NOON, 2: 0, 3: NIGHT, 4: 4711, 5: 42, 6: 1})
    segments = wire.image(wire.SHM, wire.segment(described, 8192, facts=facts), wire.segment(plain, 1))
    files = {"msg.img": queues, "sem.img": sets, "shm.img": segments}
    wire.write(tmp_path, files)
    return [tmp_path / name for name in files]


TABLES = {
    "": """
KEY        ID PERMS      UID GID USED-BYTES QBYTES MESSAGES LSPID LRPID
0x00001234  5 rw-r----- 1000 100         0B    16K        0  4711     0
0x00000000 70 rw-------    0   0         0B    16K        0     -     -
KEY        ID PERMS      UID GID NSEMS VALUES
0x00001234  5 rw-r----- 1000 100     3 1 32767 0
0x00000000 70 rw-------    0   0     1 7
KEY        ID PERMS      UID GID SIZE NATTCH STATUS CPID LPID
0x00001234  5 rw-r----- 1000 100   8K      1        4711   42
0x00000000 70 rw-------    0   0   1B      -           -    -
""",
    "-c": """
KEY        ID PERMS      UID GID    CUID CGID USED-BYTES QBYTES MESSAGES LSPID LRPID
0x00001234  5 rw-r----- 1000 100 2000000   33         0B    16K        0  4711     0
0x00000000 70 rw-------    0   0       0    0         0B    16K        0     -     -
KEY        ID PERMS      UID GID    CUID CGID NSEMS VALUES
0x00001234  5 rw-r----- 1000 100 2000000   33     3 1 32767 0
0x00000000 70 rw-------    0   0       0    0     1 7
KEY        ID PERMS      UID GID    CUID CGID SIZE NATTCH STATUS CPID LPID
0x00001234  5 rw-r----- 1000 100 2000000   33   8K      1        4711   42
0x00000000 70 rw-------    0   0       0    0   1B      -           -    -
""",
    "-t": """
KEY        ID PERMS      UID GID USED-BYTES QBYTES MESSAGES LSPID LRPID SEND                RECV CTIME
0x00001234  5 rw-r----- 1000 100         0B    16K        0  4711     0 2023-11-14 12:00:00 -    2023-11-14 22:13:20
0x00000000 70 rw-------    0   0         0B    16K        0     -     - -                   -    -
KEY        ID PERMS      UID GID NSEMS OTIME               CTIME               VALUES
0x00001234  5 rw-r----- 1000 100     3 2023-11-14 12:00:00 2023-11-14 22:13:20 1 32767 0
0x00000000 70 rw-------    0   0     1 -                   -                   7
KEY        ID PERMS      UID GID SIZE NATTCH STATUS CPID LPID ATTACH              DETACH CTIME
0x00001234  5 rw-r----- 1000 100   8K      1        4711   42 2023-11-14 12:00:00 -      2023-11-14 22:13:20
0x00000000 70 rw-------    0   0   1B      -           -    - -                   -      -
""",
    "-p": """
KEY        ID PERMS      UID GID USED-BYTES QBYTES MESSAGES LSPID LRPID
0x00001234  5 rw-r----- 1000 100         0B    16K        0  4711     0
0x00000000 70 rw-------    0   0         0B    16K        0     -     -
KEY        ID PERMS      UID GID NSEMS VALUES    SEMPID
0x00001234  5 rw-r----- 1000 100     3 1 32767 0 4711 0 42
0x00000000 70 rw-------    0   0     1 7         -
KEY        ID PERMS      UID GID SIZE NATTCH STATUS CPID LPID
0x00001234  5 rw-r----- 1000 100   8K      1        4711   42
0x00000000 70 rw-------    0   0   1B      -           -    -
""",
    "-c -t -p": """
KEY        ID PERMS      UID GID    CUID CGID USED-BYTES QBYTES MESSAGES LSPID LRPID SEND                RECV CTIME
0x00001234  5 rw-r----- 1000 100 2000000   33         0B    16K        0  4711     0 2023-11-14 12:00:00 -    2023-11-14 22:13:20
0x00000000 70 rw-------    0   0       0    0         0B    16K        0     -     - -                   -    -
KEY        ID PERMS      UID GID    CUID CGID NSEMS OTIME               CTIME               VALUES    SEMPID
0x00001234  5 rw-r----- 1000 100 2000000   33     3 2023-11-14 12:00:00 2023-11-14 22:13:20 1 32767 0 4711 0 42
0x00000000 70 rw-------    0   0       0    0     1 -                   -                   7         -
KEY        ID PERMS      UID GID    CUID CGID SIZE NATTCH STATUS CPID LPID ATTACH              DETACH CTIME
0x00001234  5 rw-r----- 1000 100 2000000   33   8K      1        4711   42 2023-11-14 12:00:00 -      2023-11-14 22:13:20
0x00000000 70 rw-------    0   0       0    0   1B      -           -    - -                   -      -
""",  # noqa: E501  (a row is as long as it is)
}

CRIU_TABLES = {
    "-c": """
KEY        ID PERMS     UID GID CUID CGID USED-BYTES QBYTES MESSAGES LSPID LRPID
0x00001234  0 rw-r-----   0   0    0    0       8.1K    16K        5     -     -
0x00000000  1 rw-------   0   0    0    0         0B    16K        0     -     -
KEY        ID PERMS     UID GID CUID CGID NSEMS VALUES
0x00000077  0 rw-------   0   0    0    0     3 0 5 32767
0x00000078  1 rw-rw-rw-   0   0    0    0     5 1 2 3 4 5
KEY        ID PERMS     UID GID CUID CGID SIZE NATTCH STATUS CPID LPID
0x00000099  0 rw-------   0   0    0    0 9.8K      -           -    -
0x0000009a  1 rw-r--r--   0   0    0    0  64K      -           -    -
""",
    "-t": """
KEY        ID PERMS     UID GID USED-BYTES QBYTES MESSAGES LSPID LRPID SEND RECV CTIME
0x00001234  0 rw-r-----   0   0       8.1K    16K        5     -     - -    -    -
0x00000000  1 rw-------   0   0         0B    16K        0     -     - -    -    -
KEY        ID PERMS     UID GID NSEMS OTIME CTIME VALUES
0x00000077  0 rw-------   0   0     3 -     -     0 5 32767
0x00000078  1 rw-rw-rw-   0   0     5 -     -     1 2 3 4 5
KEY        ID PERMS     UID GID SIZE NATTCH STATUS CPID LPID ATTACH DETACH CTIME
0x00000099  0 rw-------   0   0 9.8K      -           -    - -      -      -
0x0000009a  1 rw-r--r--   0   0  64K      -           -    - -      -      -
""",
    "-p": """
KEY        ID PERMS     UID GID USED-BYTES QBYTES MESSAGES LSPID LRPID
0x00001234  0 rw-r-----   0   0       8.1K    16K        5     -     -
0x00000000  1 rw-------   0   0         0B    16K        0     -     -
KEY        ID PERMS     UID GID NSEMS VALUES    SEMPID
0x00000077  0 rw-------   0   0     3 0 5 32767 -
0x00000078  1 rw-rw-rw-   0   0     5 1 2 3 4 5 -
KEY        ID PERMS     UID GID SIZE NATTCH STATUS CPID LPID
0x00000099  0 rw-------   0   0 9.8K      -           -    -
0x0000009a  1 rw-r--r--   0   0  64K      -           -    -
""",
    "-c -t -p": """
KEY        ID PERMS     UID GID CUID CGID USED-BYTES QBYTES MESSAGES LSPID LRPID SEND RECV CTIME
0x00001234  0 rw-r-----   0   0    0    0       8.1K    16K        5     -     - -    -    -
0x00000000  1 rw-------   0   0    0    0         0B    16K        0     -     - -    -    -
KEY        ID PERMS     UID GID CUID CGID NSEMS OTIME CTIME VALUES    SEMPID
0x00000077  0 rw-------   0   0    0    0     3 -     -     0 5 32767 -
0x00000078  1 rw-rw-rw-   0   0    0    0     5 -     -     1 2 3 4 5 -
KEY        ID PERMS     UID GID CUID CGID SIZE NATTCH STATUS CPID LPID ATTACH DETACH CTIME
0x00000099  0 rw-------   0   0    0    0 9.8K      -           -    - -      -      -
0x0000009a  1 rw-r--r--   0   0    0    0  64K      -           -    - -      -      -
""",
}


@pytest.mark.parametrize("options", TABLES)
def test_text_on_demand(images: list[pathlib.Path], options: str) -> None:
    assert show(*options.split(), *images) == TABLES[options].lstrip()


@pytest.mark.parametrize("options", CRIU_TABLES)
def test_text_on_demand_of_criu(options: str) -> None:
    names = ("ipcns-msg-9.img", "ipcns-sem-9.img", "ipcns-shm-9.img")
    arguments = ["--messages", 0, *options.split(), *(FIXTURES / "basic" / name for name in names)]
    assert show(*arguments) == CRIU_TABLES[options].lstrip()


@pytest.mark.parametrize(
    ("short", "long"), [("-c", "--creator"), ("-t", "--time"), ("-p", "--pid"), ("-ctp", "--pid --time --creator")]
)
def test_names_of_options(images: list[pathlib.Path], short: str, long: str) -> None:
    for path in (*images, FIXTURES / "identity"):
        assert show(short, path) == show(*long.split(), path)


def test_text_on_demand_of_a_directory() -> None:
    _, title, tables = show("-ctp", "--messages", 0, FIXTURES / "identity").partition("Shared memory segments\n")
    assert (
        title + tables
        == """\
Shared memory segments
KEY               ID PERMS      UID  GID CUID CGID SIZE DATA NATTCH STATUS CPID LPID ATTACH DETACH CTIME
0xcafef00d 404525055 rwxrwxrwx 1000 1000 1000 1000   1B   4K      -           -    - -      -      -

Message queues
KEY                ID PERMS       UID   GID  CUID  CGID USED-BYTES QBYTES MESSAGES LSPID LRPID SEND RECV CTIME
0xdeadbeef     163847 rwxrwxrwx  1000  1234  1000  1234         5B    16K        1     -     - -    -    -
0x80000000 2147482879 r-------- 65534 65534 65534 65534         0B    16K        0     -     - -    -    -

Semaphore sets
KEY           ID PERMS      UID GID CUID CGID NSEMS OTIME CTIME VALUES SEMPID
0xffffffff 98305 --------- 1001 100 1001  100     1 -     -     9      -
"""
    )


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "XYZ+11"])
def test_times_are_in_utc(images: list[pathlib.Path], zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    assert show("-t", *images) == TABLES["-t"].lstrip()


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (0, "-"),
        (1, "1970-01-01 00:00:01"),
        (253402300799, "9999-12-31 23:59:59"),
        (1 << 40, "36812-02-20 00:36:16"),
        ((1 << 40) + 1, "@1099511627777"),
        ((1 << 63) - 1, "@9223372036854775807"),
        (-1, "@-1"),
        (-(1 << 63), "@-9223372036854775808"),
    ],
)
def test_any_time_of_an_object(time: int, shown: str, tmp_path: pathlib.Path) -> None:
    """It has 64 bits, which is more than a calendar has."""
    queue = wire.queue(wire.desc(), facts=wire.message({2: NOON, 3: NOON, 4: time}))
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    head, row = show("-t", tmp_path / "x.img").splitlines()
    assert row[head.index("CTIME") :] == shown


@pytest.mark.parametrize(("count", "rest"), [(16, ""), (17, " …"), (32000, " …")])
def test_the_first_semaphores(count: int, rest: str, tmp_path: pathlib.Path) -> None:
    facts = wire.message({3: [4711 + n for n in range(count)]})
    wire.write(tmp_path, {"x.img": wire.image(wire.SEM, wire.semaphores(wire.desc(), [*range(count)], facts))})
    head, row = show("-p", tmp_path / "x.img").splitlines()
    values, pids = head.index("VALUES"), head.index("SEMPID")
    assert row[values:pids].rstrip() == " ".join(map(str, range(16))) + rest
    assert row[pids:] == " ".join(map(str, range(4711, 4727))) + rest


def test_json_has_it_anyway(images: list[pathlib.Path]) -> None:
    text = show("--json", *images)
    assert show("--json", "-ctp", *images) == text
    [queue, _] = json.loads(text.splitlines()[0])["entries"]
    assert (queue["desc"]["cuid"], queue["desc"]["cgid"]) == (2000000, 33)
    assert queue["ipcimg"] == {"cbytes": 0, "stime": NOON, "rtime": 0, "ctime": NIGHT, "lspid": 4711, "lrpid": 0}


# ---- JSON ----------------------------------------------------------------------------------


def desc(one: dict[str, Any]) -> dict[str, int]:
    uid, gid = one.get("uid", 0), one.get("gid", 0)
    return {
        "key": one["key"],
        "uid": uid,
        "gid": gid,
        "cuid": uid,
        "cgid": gid,
        "mode": one["mode"],
        "id": one["id"],
    }


def messages(one: dict[str, Any]) -> list[Any]:
    """A queue's "extra" as crit has it: heads and payloads by turns."""
    extra: list[Any] = []
    for mtype, body in one["messages"]:
        data = bytes.fromhex(body)
        extra += [{"mtype": mtype, "msize": len(data)}, base64.encodebytes(data).decode()]
    return extra


def as_json(path: pathlib.Path) -> list[Any]:
    return [json.loads(line) for line in show("--json", path).splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_json(name: str) -> None:
    expected = expected_of(name)
    names = ["sem_ctls", "msg_ctlmax", "msg_ctlmnb", "msg_ctlmni", "auto_msgmni", "shm_ctlmax", "shm_ctlall"]
    names += ["shm_ctlmni", "shm_rmid_forced", "mq_queues_max", "mq_msg_max", "mq_msgsize_max"]
    names += ["mq_msg_default", "mq_msgsize_default"]
    entries = {
        "IPC_VAR": [dict(zip(names, wire.VARIABLES.values(), strict=True))],
        "IPCNS_SHM": [{"desc": desc(one), "size": one["size"], "in_pagemaps": True} for one in expected["shm"]],
        "IPCNS_MSG": [
            {"desc": desc(one), "qbytes": 16384, "qnum": len(one["messages"]), "extra": messages(one)}
            for one in expected["queues"]
        ],
        "IPCNS_SEM": [
            {"desc": desc(one), "nsems": len(one["values"]), "extra": one["values"]} for one in expected["sems"]
        ],
    }
    found = as_json(FIXTURES / name)
    for image in found:
        if image["magic"] != "PAGEMAP":
            assert image["entries"] == entries.pop(image["magic"])
    assert not any(entries.values())
    assert sum(image["magic"] == "PAGEMAP" for image in found) == len(expected["shm"])


@pytest.mark.parametrize("name", SETS)
def test_json_of_an_image_is_that_of_its_directory(name: str) -> None:
    together = as_json(FIXTURES / name)
    alone = [as_json(path) for pattern in ("ipcns-*", "pagemap-*") for path in (FIXTURES / name).glob(pattern)]
    assert sorted(map(json.dumps, together)) == sorted(json.dumps(one) for [one] in alone)


def test_json_of_a_page_map() -> None:
    [image] = as_json(FIXTURES / "basic" / "pagemap-shmem-1.img")
    assert image["magic"] == "PAGEMAP"
    assert image["entries"] == [
        {"pages_id": 3},
        {"vaddr": 0x3000, "compat_nr_pages": 0, "flags": 4, "nr_pages": 1},
        {"vaddr": 0xF000, "compat_nr_pages": 0, "flags": 4, "nr_pages": 1},
    ]


def test_json_of_a_page_map_has_the_fields_that_are_set(tmp_path: pathlib.Path) -> None:
    """As crit of CRIU 4.2 has it. What older CRIU did not write is not there."""
    entries = ({1: 0, 2: 1}, {1: 4096, 2: 2, 3: 1}, {1: 1 << 20, 2: 3, 3: 0, 4: 5}, {1: 1 << 30, 2: 0, 5: 1 << 33})
    runs = [wire.entry(wire.message(dict(entry))) for entry in entries]
    wire.write(tmp_path, {"x.img": wire.pagemap(7, *runs)})
    text = show("--json", tmp_path / "x.img")
    assert json.loads(text)["entries"][1:] == [
        {"vaddr": 0, "compat_nr_pages": 1},
        {"vaddr": 4096, "compat_nr_pages": 2, "in_parent": True},
        {"vaddr": 1 << 20, "compat_nr_pages": 3, "in_parent": False, "flags": 5},
        {"vaddr": 1 << 30, "compat_nr_pages": 0, "nr_pages": 1 << 33},
    ]
    assert '"in_parent": true' in text


def test_json_of_variables_of_a_set_with_a_manifest(tmp_path: pathlib.Path) -> None:
    ipcimg.save(ipcimg.load(FIXTURES / "basic"), tmp_path / "set")
    [entry] = as_json(tmp_path / "set" / "ipcns-var-1.img")[0]["entries"]
    assert entry.pop("ipcimg") == {"has_manifest": True}
    assert as_json(FIXTURES / "basic" / "ipcns-var-9.img")[0]["entries"] == [entry]


def test_json_of_an_inline_segment(tmp_path: pathlib.Path) -> None:
    entry = wire.entry(wire.message({1: wire.desc(5), 2: 7}))
    wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry, b"content\0")})
    [image] = as_json(tmp_path / "x.img")
    [segment] = image["entries"]
    assert base64.decodebytes(segment["extra"].encode()) == b"content"
    assert "in_pagemaps" not in segment


@pytest.mark.parametrize("size", [57 << 10, (57 << 10) + 1, 200_001])
def test_json_of_an_inline_segment_of_several_pieces(tmp_path: pathlib.Path, size: int) -> None:
    content = (b"0123456789" * 20_001)[:size]
    entry = wire.entry(wire.message({1: wire.desc(5), 2: size}))
    wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry, wire.padded(content, 4))})
    [image] = as_json(tmp_path / "x.img")
    assert image["entries"][0]["extra"] == base64.encodebytes(content).decode()


def test_an_inline_segment_of_holes_streams(tmp_path: pathlib.Path) -> None:
    entry = wire.entry(wire.message({1: wire.desc(5), 2: 1 << 40}))
    image = wire.write(tmp_path, {"x.img": wire.image(wire.SHM, entry)}) / "x.img"
    os.truncate(image, image.stat().st_size + (1 << 40))
    tracemalloc.start()
    try:
        shown = list(itertools.islice(pieces(str(image), None, View(json=True)), 9))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert set("".join(shown[3:])) == set("A\\n")
    assert "1T" in show(image)


def test_json_of_page_maps_that_count_in_other_pages(tmp_path: pathlib.Path) -> None:
    """They are read as the rest of their set is: by what its manifest says."""
    large = 16 * wire.PAGE
    files = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(), 4 * large)),
        "pagemap-shmem-0.img": wire.pagemap(7, wire.pages(0, 1), wire.pages(large, 2)),
        "pages-7.img": bytes(3 * large),
    }
    wire.write(tmp_path, files | {"ipcimg-manifest-1.img": wire.manifest(1, files, {6: large})})
    *_, pagemap = as_json(tmp_path)
    assert [(run["vaddr"], run["nr_pages"]) for run in pagemap["entries"][1:]] == [(0, 1), (large, 2)]
    files["pagemap-shmem-0.img"] = wire.pagemap(7, wire.pages(0, 1), wire.pages(large // 2, 2))
    wire.write(tmp_path, files | {"ipcimg-manifest-1.img": wire.manifest(1, files, {6: large})})
    assert f"not a multiple of the page size {large}" in run(SHOW, "--json", tmp_path, status=1).stderr


def test_json_of_facts(tmp_path: pathlib.Path) -> None:
    """What ipcimg adds stands apart from what crit shows."""
    facts = wire.message({1: 1, 2: 2, 3: wire.varint(300)})
    wire.write(tmp_path, {"x.img": wire.image(wire.SEM, wire.semaphores(wire.desc(), [7], facts))})
    [image] = as_json(tmp_path / "x.img")
    assert image["entries"][0]["ipcimg"] == {"otime": 1, "ctime": 2, "sempid": [300]}


def test_json_of_no_objects(tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, {"x.img": wire.image(wire.SEM)})
    assert as_json(tmp_path / "x.img") == [{"magic": "IPCNS_SEM", "entries": []}]


# ---- what is hostile -----------------------------------------------------------------------

HOSTILE = bytes(range(256)) + "\x1b]0;title\x07 \x9b31m \u202e \u2028 \ud7ff".encode()


def harmless(text: str) -> bool:
    """Nothing in it but printable characters and the ends of lines."""
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("arguments", [[], ["--hex"], ["--json"], ["--all"]])
def test_messages_cannot_speak_to_the_terminal(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    bodies = [HOSTILE, *(HOSTILE[n : n + 40] for n in range(0, len(HOSTILE), 40))]
    queue = wire.queue(wire.desc(), [(1, body) for body in bodies])
    wire.write(tmp_path, {"ipcns-msg-1.img": wire.image(wire.MSG, queue), "ipcns-var-1.img": wire.variables()})
    for path in (tmp_path, tmp_path / "ipcns-msg-1.img"):
        assert harmless(show(*arguments, path))


@pytest.mark.parametrize("arguments", [[], ["--json"]])
@pytest.mark.parametrize("field", [2, 4, 5])
def test_manifests_cannot_speak_to_the_terminal(tmp_path: pathlib.Path, field: int, arguments: list[str]) -> None:
    hostile = "a\x1b[31m\x9b\u202e\nb".encode()
    manifest = wire.manifest(1, {"ipcns-var-1.img": len(wire.variables())}, {field: hostile})
    wire.write(tmp_path, {"ipcns-var-1.img": wire.variables(), "ipcimg-manifest-1.img": manifest})
    for path in (tmp_path, tmp_path / "ipcimg-manifest-1.img"):
        text = show(*arguments, path)
        assert harmless(text)
        assert "\nb" not in text


def test_names_cannot_speak_to_the_terminal(tmp_path: pathlib.Path) -> None:
    where = wire.write(tmp_path / "a\x1b[31m\nb", {"ipcns-var-1.img": wire.variables()})
    text = show(where)
    assert harmless(text)
    assert "\nb" not in text
    (where / "ipcns-var-1.img").write_bytes(b"")
    error = run(SHOW, where, status=1).stderr
    assert harmless(error)
    assert len(error.splitlines()) == 1
    # A hostile name in the manifest becomes part of an error, too.
    manifest = wire.manifest(1, {"\x1b[31m\nx": 0})
    wire.write(where, {"ipcns-var-1.img": wire.variables(), "ipcimg-manifest-1.img": manifest})
    error = run(SHOW, where, status=1).stderr
    assert harmless(error)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("magic", [0, 0x12345678, 0xFFFFFFFF, wire.COMMON])
def test_unknown_kind(tmp_path: pathlib.Path, magic: int) -> None:
    wire.write(tmp_path, {"x.img": wire.u32(wire.COMMON, magic)})
    for arguments in ([], ["--json"]):
        done = run(SHOW, *arguments, tmp_path / "x.img", status=1)
        assert done.stdout == ""
        assert f"x.img, byte 4: unknown magic {magic:#010x}; known are " in done.stderr


# ---- being a good program ------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--all"], ["--all", "--hex"], ["--json"]])
def test_nobody_reads_on(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    """`ipcimg-show … | head -1`: the rest is far more than a pipe holds."""
    queue = wire.queue(wire.desc(), [(1, bytes(100))] * 5000)
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    command = [*SHOW, *arguments, str(tmp_path / "x.img")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_output_that_was_closed_before() -> None:
    """A short output is only written when all is done: there, too, a closed pipe is no error."""
    program = 'exec "$@" | true; echo ${PIPESTATUS[0]}'
    command = ["bash", "-c", program, "bash", *SHOW, str(FIXTURES / "basic")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_no_kernel_anywhere() -> None:
    """The inspector runs where there is no such kernel, or no libc that ctypes can load."""
    program = (
        "import sys; from ipcimg.cli import show_main; status = show_main(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = run((sys.executable, "-c", program), "--all", FIXTURES / "basic")
    modules = done.stderr.split()
    assert "ipcimg.show" in modules
    kernel = {"ctypes", *(f"ipcimg.{name}" for name in ("libc", "namespace", "sysctl", "msg", "sem", "shm", "var"))}
    assert kernel & set(modules) == set()


def test_text_streams(tmp_path: pathlib.Path) -> None:
    """Memory does not grow with the image: 200 MB of messages, none of which is kept."""
    body = bytes(1 << 20)
    queue = wire.queue(wire.desc(), [(1, body)] * 200)
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    program = (
        "import sys; from ipcimg.cli import show_main; status = show_main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(status)"
    )
    for arguments in (["--all"], ["--json"]):
        with subprocess.Popen(
            [sys.executable, "-c", program, *arguments, str(tmp_path / "x.img")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert int(process.stderr.read()) < 100 << 10  # KiB
        assert process.returncode == 0


def test_show_of_what_ipcimg_saved(tmp_path: pathlib.Path) -> None:
    ipcimg.save(ipcimg.load(FIXTURES / "basic"), tmp_path / "set", ns_id=9)
    text = show(tmp_path / "set")
    assert f"by ipcimg {ipcimg.__version__} on Linux " in text.splitlines()[1]
    assert text.splitlines()[2:] == show(FIXTURES / "basic").splitlines()[2:]
