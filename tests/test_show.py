"""ipcimg-show: what people and programs read, and what never reaches their terminals.

What it prints is in tests/golden, and compared by test_golden.py; here is what it does.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

import ipcimg
from tests import wire
from tests.commands import SHOW, run

FIXTURES = pathlib.Path(__file__).parent / "data" / "criu-4.2"
EVERY_VIEW = [
    [],
    ["-q"],
    ["--messages"],
    ["--messages", "--notruncate"],
    ["-i", "msg:0"],
    ["--hex"],
    ["--text"],
    ["--strings"],
    ["--grep", "."],
    ["-e", "--messages"],
    ["-r", "--messages"],
    ["-n", "--messages"],
    ["-J", "--messages"],
    ["--json"],
    ["--json=lines"],
]


def show(*arguments: object, status: int = 0) -> str:
    """What ipcimg-show prints."""
    return run(SHOW, *arguments, status=status).stdout


def table(*arguments: object) -> list[dict[str, Any]]:
    """The rows of the only table that is shown."""
    [rows] = json.loads(show("-J", *arguments)).values()
    assert isinstance(rows, list)
    return rows


def places(*arguments: object) -> list[tuple[int, int]]:
    """The messages that are listed: queue and place."""
    return [(row["queue"], row["n"]) for row in table("--messages", *arguments)]


# ---- what is asked for ---------------------------------------------------------------------


@pytest.fixture
def messages(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two queues."""
    first = wire.queue(wire.desc(3, key=0x33), [(1, b"one"), (7, b"seven\n"), (9, bytes(range(256)))])
    second = wire.queue(wire.desc(4, key=0x44), [(7, b"another seven"), (1 << 40, b"")])
    return wire.write(tmp_path, {"x.img": wire.image(wire.MSG, first, second)}) / "x.img"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1)]),
        (["-i", "3"], [(3, 0), (3, 1), (3, 2)]),
        (["-i", "0x44"], [(4, 0), (4, 1)]),
        (["-i", "msg:4", "-i", "msg:3"], [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1)]),
        (["--type", "7"], [(3, 1), (4, 0)]),
        (["--type", "-7"], [(3, 0), (3, 1), (4, 0)]),
        (["--type", "8-"], [(3, 2), (4, 1)]),
        (["--type", "1,9-9"], [(3, 0), (3, 2)]),
        (["--size", "0"], [(4, 1)]),
        (["--size", "4-13"], [(3, 1), (4, 0)]),
        (["--message", "0"], [(3, 0), (4, 0)]),
        (["--message", "1-2", "-i", "3"], [(3, 1), (3, 2)]),
        (["--grep", "s[e]ven$"], [(3, 1), (4, 0)]),
        (["--grep", "^one$"], [(3, 0)]),
        (["--grep-hex", "fe:ff"], [(3, 2)]),
        (["--grep-hex", "6f6e65"], [(3, 0)]),
        (["--type", "7", "--grep", "another"], [(4, 0)]),
        (["--sort", "SIZE"], [(3, 2), (4, 0), (3, 1), (3, 0), (4, 1)]),
        (["--sort", "SIZE:asc"], [(4, 1), (3, 0), (3, 1), (4, 0), (3, 2)]),
        (["--sort", "TYPE:asc", "--limit", "2"], [(3, 0), (3, 1)]),
        (["--limit", "1"], [(3, 0)]),
    ],
)
def test_messages(messages: pathlib.Path, arguments: list[str], expected: list[tuple[int, int]]) -> None:
    assert places(*arguments, messages) == expected


@pytest.mark.parametrize(
    "arguments",
    [["-i", "msg:5"], ["-i", "0x99"], ["-i", "sem:3"], ["--type", "8"], ["--grep", "nowhere"], ["-i", "9", "--hex"]],
)
def test_what_is_not_there(messages: pathlib.Path, arguments: list[str]) -> None:
    done = run(SHOW, *arguments, messages, status=1)
    [line] = done.stderr.splitlines()
    assert line.startswith("ipcimg-show: Error: ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-i", "queue:1"], "is no object"),
        (["-i", "0x123456789"], "is no object"),
        (["--type", "x"], "is no number and no range"),
        (["--size", "5-1"], "ends before it begins"),
        (["--grep", "("], "missing ), unterminated subpattern at position 0"),
        (["--grep-hex", "xy"], "non-hexadecimal"),
        (["-o", "NOTHING"], "there is no column NOTHING"),
        (["--sort", "NOTHING"], "is no column"),
        (["--range", "5"], "is no range"),
        (["--json=line"], "ignored explicit argument"),
        (["-i", "3", "--save", "x", "--hex"], "exclude each other"),
        (["--time-format", "none"], "invalid choice"),
        (["--grep", "a{99999999999}"], "too large"),
        (["--sort", "MSGS", "-m"], "no column MSGS in this table"),
        (["-J", "--hex"], "no other format"),
        (["--json", "-i", "0"], "--json gives each image whole"),
        (["--html", "x", "--grep", "x"], "--html takes no messages"),
        (["--limit", "0"], "at least 1"),
        (["-o", "KEY\33[31m"], "there is no column KEY\\x1b[31M"),
    ],
)
def test_wrong_arguments(arguments: list[str], why: str) -> None:
    done = run(SHOW, *arguments, FIXTURES / "basic", status=1)
    assert done.stdout == ""
    assert why in done.stderr.splitlines()[-1]


# ---- contents ------------------------------------------------------------------------------


def test_a_payload_as_it_is(messages: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = subprocess.run([*SHOW, "-i", "msg:3", "--type", "9", "--raw", messages], stdout=subprocess.PIPE, check=True)
    assert done.stdout == bytes(range(256))
    show("-i", "msg:4", "--message", "0", "--save", tmp_path / "saved", messages)
    assert (tmp_path / "saved").read_bytes() == b"another seven"
    assert os.stat(tmp_path / "saved").st_mode & 0o777 == 0o600
    error = run(SHOW, "-i", "msg:4", "--message", "0", "--save", tmp_path / "saved", messages, status=2).stderr
    assert error == f"ipcimg-show: Error: {tmp_path}/saved is there already\n"
    error = run(SHOW, "-i", "msg:4", "--raw", messages, status=2).stderr
    assert "msg:4[0] and msg:4[1] are both meant" in error


def test_a_range_of_a_payload(messages: pathlib.Path) -> None:
    arguments = ["-i", "msg:3", "--message", "2", "--range", "0x10+4"]
    assert show(*arguments, messages).splitlines()[1].startswith("00000010  10 11 12 13   ")
    done = subprocess.run([*SHOW, *arguments, "--raw", messages], stdout=subprocess.PIPE, check=True)
    assert done.stdout == bytes(range(0x10, 0x14))
    assert "nothing fits" in run(SHOW, *arguments[:-1], "0x100-", messages, status=1).stderr
    assert "msg:3[2]" in show("--range", "0x40-", messages)  # the others are shorter


def test_text(messages: pathlib.Path) -> None:
    assert show("-i", "4", "--text", messages) == (
        "msg:4[0]: type 7, 13 bytes\nanother seven\nmsg:4[1]: type 1099511627776, 0 bytes\n\n"
    )


def test_a_segment(tmp_path: pathlib.Path) -> None:
    where = FIXTURES / "basic"
    assert show("-i", "shm:0", "--strings", where) != ""
    show("-i", "shm:0", "--save", tmp_path / "saved", where)
    [one] = [s for s in ipcimg.load(where).segments if s.permissions.id == 0]
    content = bytearray(one.size + 4096)
    for extent in one.extents:
        extent.read_into(memoryview(content)[extent.offset : extent.offset + extent.length])
    assert (tmp_path / "saved").read_bytes() == content[: one.size]
    done = subprocess.run([*SHOW, "-i", "shm:0", "--raw", where], stdout=subprocess.PIPE, check=True)
    assert done.stdout == content[: one.size]
    assert "--strings" in run(SHOW, "-i", "shm:0", "--text", where, status=2).stderr


def test_what_is_of_another_kind() -> None:
    """It is not said that there is no such object."""
    for arguments in (["-i", "shm:0", "--messages"], ["-i", "sem:0", "--grep", "x"]):
        error = run(SHOW, *arguments, FIXTURES / "basic", status=1).stderr
        assert "0: of a kind that has nothing of what is asked for" in error


def test_what_an_image_has_none_of(messages: pathlib.Path) -> None:
    done = run(SHOW, "-m", "-g", messages, status=1)
    assert done.stderr == "ipcimg-show: Error: no image with shared memory segments and settings\n"
    assert run(SHOW, "-m", messages, FIXTURES / "basic").stderr == ""


def test_several_sources_have_names(messages: pathlib.Path) -> None:
    text = show("-q", messages, FIXTURES / "basic")
    assert text.startswith(f"{messages}:\nKEY ")
    assert f"\n\nIPC namespace 9, {FIXTURES / 'basic'}:\nKEY " in text
    assert "namespace" not in show("-q", "-r", messages, FIXTURES / "basic")


def test_what_is_no_image(tmp_path: pathlib.Path) -> None:
    for content in (b"hi", b"#!/bin/sh\n"):
        (tmp_path / "x").write_bytes(content)
        error = run(SHOW, tmp_path / "x", status=2).stderr
        assert "x: is no image of CRIU's or ipcimg's, and no tar, tar.gz or tar.zst" in error


def test_a_set_has_no_contents() -> None:
    assert "has values, and no contents" in run(SHOW, "-i", "sem:0", "--hex", FIXTURES / "basic", status=2).stderr


# ---- what goes wrong -----------------------------------------------------------------------


def test_what_cannot_be_shown_ends_nothing_else(tmp_path: pathlib.Path) -> None:
    """One line for each part that cannot be read or shown; all that comes after it is there."""
    where, sem = FIXTURES / "basic", FIXTURES / "basic" / "ipcns-sem-9.img"
    done = run(SHOW, "-i", "shm:0", "-i", "msg:0", "--text", where, sem, status=2)
    assert "shm:0 is a segment" in done.stderr
    assert "msg:0[0]" in done.stdout
    shutil.copytree(where, tmp_path / "d")
    os.truncate(tmp_path / "d" / "ipcns-msg-9.img", 60)
    done = run(SHOW, tmp_path / "d", sem, status=2)
    [line] = done.stderr.splitlines()
    assert f"{tmp_path}/d/ipcns-msg-9.img" in line
    assert done.stdout.count("Semaphore sets") == 1
    assert f"\n{'':12} and what could not be read\n" in done.stdout
    assert done.stdout.count(" 0 5 32767") == 2
    (tmp_path / "d" / "pagemap-shmem-0.img").unlink()
    done = run(SHOW, "--json", tmp_path / "d", status=2)
    assert "pagemap-shmem-0.img: No such file" in done.stderr


def test_verify(tmp_path: pathlib.Path) -> None:
    """Nothing is said to be as it was written that was not seen to be."""
    where = tmp_path / "set"
    ipcimg.save(ipcimg.load(FIXTURES / "basic"), where)
    assert "verified     not now" in show(where)
    assert "verified     every file is as it was written" in show("--verify", where)
    assert run(SHOW, "--verify", "-q", where).stderr.endswith(": every file is as it was written\n")
    assert "it has no manifest" in run(SHOW, "--verify", "-q", FIXTURES / "basic", status=2).stderr
    assert "it is no whole set" in run(SHOW, "--verify", where / "ipcns-msg-1.img", status=2).stderr
    with open(where / "pages-1.img", "r+b") as file:
        file.write(b"!")
    for arguments in ([], ["-q"], ["--html", tmp_path / "page"]):
        done = run(SHOW, "--verify", *arguments, where, status=2)
        assert "pages-1.img: is not as it was written" in done.stderr
    run(SHOW, "--verify", "-i", "shm:0", "--save", tmp_path / "saved", where, status=2)
    assert not (tmp_path / "saved").exists()
    assert "NOT as it was written" in run(SHOW, "--verify", where, status=2).stdout
    assert "NOT as it was written" in (tmp_path / "page").read_text()


def test_a_file_that_cannot_be_saved_is_not_there(tmp_path: pathlib.Path) -> None:
    shutil.copytree(FIXTURES / "basic", tmp_path / "d")
    for pages in (tmp_path / "d").glob("pages-*.img"):
        os.truncate(pages, 4096)
    run(SHOW, "-i", "shm:0", "--save", tmp_path / "saved", tmp_path / "d", status=2)
    assert not (tmp_path / "saved").exists()


def test_standard_input_has_no_neighbours(tmp_path: pathlib.Path) -> None:
    """Pages that lie where the command is run belong to somebody else."""
    with open(FIXTURES / "basic" / "ipcns-shm-9.img", "rb") as image:
        command = [*SHOW, "-m", "-J", "-"]
        done = subprocess.run(command, stdin=image, cwd=FIXTURES / "basic", capture_output=True, text=True, check=True)
    assert [row["data"] for row in json.loads(done.stdout)["sharedmemory"]] == [None, None]
    assert [row["data"] for row in table("-m", FIXTURES / "basic" / "ipcns-shm-9.img")] == [8192, 8192]


def test_a_limit_and_names(messages: pathlib.Path) -> None:
    assert len(table("-q", "--limit", 1, "-i", "3", "-i", "4", messages)) == 1
    assert "there is no 9" in run(SHOW, "-q", "-l", "--limit", 1, "-i", "9", messages, status=1).stderr
    run(SHOW, "-i", "3", "-i", "9", messages, status=1)


def test_a_page_about_what_is_not_there(tmp_path: pathlib.Path) -> None:
    done = run(SHOW, "--html", tmp_path / "page", "-i", "msg:99", FIXTURES / "basic", status=1)
    assert "there is no msg:99" in done.stderr


# ---- formats of programs -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", "-q", "-m", "-s", "-g", "--messages"])
def test_export_is_for_a_shell(tmp_path: pathlib.Path, kind: str) -> None:
    """Nothing in an image, and no name, becomes a command."""
    hostile = b'"; touch pwned; $(touch pwned) `touch pwned` \\" \n touch pwned'
    where = wire.write(
        tmp_path / "a; touch pwned; $(touch pwned)",
        {
            "ipcns-var-1.img": wire.variables(),
            "ipcns-msg-1.img": wire.image(wire.MSG, wire.queue(wire.desc(), [(1, hostile)])),
        },
    )
    text = show("-e", *kind.split(), where)
    for line in text.splitlines():
        done = subprocess.run(
            ["bash", "-euc", 'eval "$0"; set', line], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        if kind == "-q":
            assert {"ID=0", f"USEDBYTES={len(hostile)}B", f"USE_PCT={len(hostile) / 163.84:.2f}%"} <= set(
                done.stdout.splitlines()
            )
    assert not (tmp_path / "pwned").exists()


def test_json_of_all_kinds() -> None:
    assert set(json.loads(show("-J", FIXTURES / "basic"))) == {"sharedmemory", "messages", "semaphores"}


# ---- columns -------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("-c", "--creator"),
        ("-t", "--time"),
        ("-p", "--pid"),
        ("-qctp", "--queues --pid --time --creator"),
        ("-b", "--bytes"),
        ("-P", "--numeric-perms"),
    ],
)
def test_names_of_options(images: list[pathlib.Path], short: str, long: str) -> None:
    for path in (images[0], FIXTURES / "identity"):
        assert show(short, path) == show(*long.split(), path)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "XYZ+11"])
def test_times_are_in_utc(images: list[pathlib.Path], zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    assert "2023-11-14T12:00:00+00:00" in show("-t", *images)
    assert "Tue Nov 14 12:00:00 2023" in show("-t", "--time-format", "full", *images)
    assert "2023-Nov14" in show("-t", "--time-format", "short", *images)


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (0, None),
        (1, "1970-01-01T00:00:01+00:00"),
        (253402300799, "9999-12-31T23:59:59+00:00"),
        (1 << 40, "36812-02-20T00:36:16+00:00"),
        ((1 << 40) + 1, "@1099511627777"),
        ((1 << 63) - 1, "@9223372036854775807"),
        (-1, "@-1"),
        (-(1 << 63), "@-9223372036854775808"),
    ],
)
def test_any_time_of_an_object(time: int, shown: str | None, tmp_path: pathlib.Path) -> None:
    """It has 64 bits, which is more than a calendar has."""
    queue = wire.queue(wire.desc(), facts=wire.message({2: NOON, 3: NOON, 4: time}))
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    [row] = table("-qt", tmp_path / "x.img")
    assert row["ctime"] == shown


@pytest.mark.parametrize(("count", "rest"), [(16, ""), (17, " …"), (32000, " …")])
def test_the_first_semaphores(count: int, rest: str, tmp_path: pathlib.Path) -> None:
    facts = wire.message({3: [4711 + n for n in range(count)]})
    wire.write(tmp_path, {"x.img": wire.image(wire.SEM, wire.semaphores(wire.desc(), [*range(count)], facts))})
    head, row = show("-p", tmp_path / "x.img").splitlines()
    values, pids = head.index("VALUES"), head.index("SEMPID")
    assert row[values:pids].rstrip() == " ".join(map(str, range(16))) + rest
    assert row[pids:] == " ".join(map(str, range(4711, 4727))) + rest
    [whole] = table("-s", "-p", tmp_path / "x.img")
    assert whole["values"] == [*range(count)]
    assert show("-p", "--notruncate", tmp_path / "x.img").split()[-1] == str(4711 + count - 1)


def test_any_columns(images: list[pathlib.Path]) -> None:
    msg = images[0]
    assert show("-q", "-o", "id,qbytes", msg) == "ID QBYTES\n 5    16K\n70    16K\n"
    assert show("-q", "-b", "--noheadings", "-o", "id,qbytes", msg) == " 5 16384\n70 16384\n"
    assert show("-q", "-o", "+largest", msg).splitlines()[0].endswith(" LARGEST")
    assert "there is no column NSEMS" in run(SHOW, "-q", "-o", "NSEMS", msg, status=1).stderr


def test_json_has_it_anyway(images: list[pathlib.Path]) -> None:
    text = show("--json", *images)
    assert show("--json", "-ctp", *images) == text
    [queue, _] = json.loads(text.splitlines()[0])["entries"]
    assert (queue["desc"]["cuid"], queue["desc"]["cgid"]) == (2000000, 33)
    assert queue["ipcimg"] == {"cbytes": 0, "stime": NOON, "rtime": 0, "ctime": NIGHT, "lspid": 4711, "lrpid": 0}


# ---- what is hostile -----------------------------------------------------------------------

HOSTILE = bytes(range(256)) + "\x1b]0;title\x07 \x9b31m \u202e \u2028 \ud7ff".encode()


def harmless(text: str) -> bool:
    """Nothing in it but printable characters and the ends of lines."""
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("arguments", EVERY_VIEW)
def test_messages_cannot_speak_to_the_terminal(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    bodies = [HOSTILE, *(HOSTILE[n : n + 40] for n in range(0, len(HOSTILE), 40))]
    queue = wire.queue(wire.desc(), [(1, body) for body in bodies])
    wire.write(tmp_path, {"ipcns-msg-1.img": wire.image(wire.MSG, queue), "ipcns-var-1.img": wire.variables()})
    for path in (tmp_path, tmp_path / "ipcns-msg-1.img"):
        assert harmless(show(*arguments, path))


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--json=lines"], ["-g"]])
@pytest.mark.parametrize("field", [2, 4, 5])
def test_manifests_cannot_speak_to_the_terminal(tmp_path: pathlib.Path, field: int, arguments: list[str]) -> None:
    hostile = "a\x1b[31m\x9b\u202e\nb".encode()
    manifest = wire.manifest(1, {"ipcns-var-1.img": len(wire.variables())}, {field: hostile})
    wire.write(tmp_path, {"ipcns-var-1.img": wire.variables(), "ipcimg-manifest-1.img": manifest})
    for path in (tmp_path, tmp_path / "ipcimg-manifest-1.img"):
        text = show(*arguments, path, status=1 if "-g" in arguments and path != tmp_path else 0)
        assert harmless(text)
        assert "\nb" not in text


def test_names_cannot_speak_to_the_terminal(tmp_path: pathlib.Path) -> None:
    where = wire.write(tmp_path / "a\x1b[31m\nb", {"ipcns-var-1.img": wire.variables()})
    text = show(where)
    assert harmless(text)
    assert "\nb" not in text
    (where / "ipcns-var-1.img").write_bytes(b"")
    error = run(SHOW, where, status=2).stderr
    assert harmless(error)
    assert len(error.splitlines()) == 1
    # A hostile name in the manifest becomes part of an error, too.
    manifest = wire.manifest(1, {"\x1b[31m\nx": 0})
    wire.write(where, {"ipcns-var-1.img": wire.variables(), "ipcimg-manifest-1.img": manifest})
    error = run(SHOW, where, status=2).stderr
    assert harmless(error)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("magic", [0, 0x12345678, 0xFFFFFFFF, wire.COMMON])
def test_unknown_kind(tmp_path: pathlib.Path, magic: int) -> None:
    wire.write(tmp_path, {"x.img": wire.u32(wire.COMMON, magic)})
    for arguments in ([], ["--json"]):
        done = run(SHOW, *arguments, tmp_path / "x.img", status=2)
        assert done.stdout == ""
        assert f"x.img, byte 4: unknown magic {magic:#010x}; known are " in done.stderr


# ---- being a good program ------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--messages"], ["--hex"], ["--json"], ["--json=lines"], ["-J", "--messages"]])
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
        "import sys; from ipcimg.show.command import main; status = main(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(status)"
    )
    done = run((sys.executable, "-c", program), "--messages", FIXTURES / "basic")
    modules = done.stderr.split()
    assert "ipcimg.show.summary" in modules
    kernel = {"ctypes", *(f"ipcimg.{name}" for name in ("libc", "namespace", "sysctl", "msg", "sem", "shm", "var"))}
    assert kernel & set(modules) == set()


def test_text_streams(tmp_path: pathlib.Path) -> None:
    """Memory does not grow with the image: 200 MB of messages, none of which is kept."""
    body = bytes(1 << 20)
    queue = wire.queue(wire.desc(), [(1, body)] * 200)
    wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)})
    program = (
        "import sys; from ipcimg.show.command import main; status = main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(status)"
    )
    for arguments in (["--messages"], ["--json"], ["--json=lines"], ["-i", "0"], ["--grep-hex", "00"]):
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
    text, of_criu = show(tmp_path / "set"), show(FIXTURES / "basic")
    assert f"by ipcimg {ipcimg.__version__} on Linux " in text.splitlines()[1]
    after = text.partition("\nholds ")[2].splitlines()
    assert after == [line for line in of_criu.partition("\nholds ")[2].splitlines() if not line.startswith("beside it")]
