"""Dumps to standard output, restores from standard input and from archives; and whoever ends in the midst of one."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from ipcimg.delivery import PREFIX

from ..commands import IPCIMG, ipcimg, refused, run, same
from . import oracle
from .oracle import Namespace
from .test_round_trip import fill

# Nothing here is another on another kernel. $TMPDIR is that of all commands.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("temporary")]

MIB = 1 << 20
PACK = {"tar": "cf", "tar.gz": "czf"}


@pytest.fixture
def archive(source: Namespace, tmp_path: Path) -> Path:
    """One of a namespace with a segment that no pipe holds."""
    source.do(lambda: oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two")]))
    source.do(lambda: oracle.segment(0x99, 4 * MIB, [(0, os.urandom(4 * MIB))]))
    with open(tmp_path / "x.tar", "wb") as file:
        start("dump", "-t", source.pid, "-D", "-", stdout=file.fileno()).wait()
    return tmp_path / "x.tar"


def start(
    *arguments: object, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*IPCIMG, *map(str, arguments)], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)


def fed(data: bytes | bytearray, *arguments: object, status: int = 0) -> tuple[str, str]:
    """Run ipcimg with this from a pipe; gives what it printed."""
    process = start(*arguments, stdin=subprocess.PIPE)
    out, errors = process.communicate(bytes(data))
    assert process.returncode == status, errors
    return out.decode(), errors.decode()


def state() -> object:
    return oracle.table("msg"), oracle.table("sem"), oracle.rows("shm"), oracle.variables()


# ---- what is carried -----------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [(), ("--zstd",)])
def test_through_a_pipe(source: Namespace, target: Namespace, temporary: Path, compressed: tuple[str, ...]) -> None:
    source.do(fill)
    dump = start("dump", "-t", source.pid, "-D", "-", *compressed)
    assert dump.stdout is not None
    restore = start("restore", "-t", target.pid, "-D", "-", stdin=dump.stdout.fileno())
    dump.stdout.close()
    out, errors = restore.communicate()
    assert (restore.returncode, errors) == (0, b"")
    counts = b"4 message queues (261 messages), 3 semaphore sets, 6 shared memory segments (12 pages)"
    assert out == b"restored " + counts + b" from standard input\n"
    assert dump.stderr is not None
    assert dump.stderr.read() == b"ipcimg: dumped " + counts + b" into standard output\n"
    assert dump.wait() == 0
    dump.stderr.close()
    assert list(temporary.iterdir()) == []
    assert target.do(oracle.everything) == source.do(oracle.everything)


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.zst"])
def test_from_an_archive(source: Namespace, target: Namespace, tmp_path: Path, form: str) -> None:
    """That tar(1) has made of an image directory."""
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    pack = ["--zstd", "-cf"] if form == "tar.zst" else [f"-{PACK[form]}"]
    subprocess.run(["tar", *pack, tmp_path / f"x.{form}", "-C", tmp_path, "d"], check=True)
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / f"x.{form}")
    same(tmp_path / f"x.{form}", f"ns:{target.pid}")
    assert target.do(oracle.everything) == source.do(oracle.everything)


def test_verify_and_diff(source: Namespace, archive: Path) -> None:
    data = archive.read_bytes()
    for printed in (ipcimg("verify", archive).stdout, fed(data, "verify", "-")[0]):
        assert printed.endswith("whole, and as it was written (xxh3-128)\n")
    assert fed(data, "diff", "-", f"ns:{source.pid}") == ("", "")
    source.do(lambda: oracle.send(0, 3, b"three"))
    out, _ = fed(data, "diff", f"ns:{source.pid}", "-", status=1)
    assert f"message queue 0: message 2 is only in ns:{source.pid}\n" in out
    assert "message queue 0: the number of messages is 3 in ns:" in out
    assert out.count("in standard input\n") == 1


def test_altered(target: Namespace, archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[-6 * 1024 - MIB] ^= 1  # in the pages, which come before the settings and the manifest
    before = target.do(state)
    for command in (("verify", "-"), ("restore", "-t", target.pid, "-D", "-")):
        _, errors = fed(data, *command, status=1)
        assert errors.endswith("is not as it was written: its digest is another one\n")
    assert target.do(state) == before


@pytest.mark.parametrize("given", ["pipe", "file"])
def test_standard_input_of_a_command(archive: Path, given: str) -> None:
    command = (
        "restore",
        "--new-ns",
        "-D",
        "-",
        "--",
        "sh",
        "-c",
        "readlink /proc/self/fd/0; cat; cat /proc/sysvipc/msg",
    )
    if given == "pipe":
        out, _ = fed(archive.read_bytes(), *command)
    else:
        with open(archive, "rb") as file:
            out = start(*command, stdin=file.fileno()).communicate()[0].decode()
    first, second, *rows = out.splitlines()
    assert first.startswith("restored 1 message queue (2 messages)")
    assert second == "/dev/null"
    assert len(rows) == 2


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("dump", "-D", "-", "--force"),
        ("dump", "-D", "-", "--criu-set", "d"),
        ("dump", "-D", "d", "--zstd"),
        ("dump", "--criu-set", "d", "-t", "1", "--zstd"),
        ("diff", "-", "-"),
    ],
)
def test_arguments_that_make_no_sense(arguments: tuple[str, ...]) -> None:
    done = run(IPCIMG, *arguments, status=2)
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ")


def test_nothing_to_recover_in_a_stream() -> None:
    assert refused("recover", "-D", "-") == "there is nothing to recover in a stream: it is whole, or it is refused"


def test_an_archive_that_others_can_write(target: Namespace, archive: Path) -> None:
    archive.chmod(0o666)
    why = "others can write it (mode 0666); chmod it, if you trust it"
    assert refused("restore", "-t", target.pid, "-D", archive) == f"{archive}: {why}"
    with open(archive, "rb") as file:
        errors = start("restore", "-t", target.pid, "-D", "-", stdin=file.fileno()).communicate()[1]
    assert errors.decode() == f"ipcimg: Error: standard input: {why}\n"
    fed(archive.read_bytes(), "restore", "-t", target.pid, "-D", "-")  # a pipe is copied


@pytest.mark.parametrize("cut", ["nothing came", "in the pages", "in the manifest", "before the end blocks"])
def test_a_stream_that_ends_early(target: Namespace, archive: Path, tmp_path: Path, cut: str) -> None:
    """Into a namespace, and into a new one: nothing is made, and nothing is pinned."""
    data = archive.read_bytes()
    size = {"nothing came": 0, "in the pages": 2 * MIB, "in the manifest": len(data) - 1100}.get(cut, len(data) - 1024)
    before = target.do(state)
    for into in (("-t", target.pid), ("--new-ns", "--pin", tmp_path / "pin")):
        out, errors = fed(data[:size], "restore", *into, "-D", "-", status=1)
        assert out == ""
        [line] = errors.splitlines()
        assert line.startswith("ipcimg: Error: standard input")
    assert target.do(state) == before
    assert not (tmp_path / "pin").exists()


def test_a_dump_that_fails_sends_nothing(source: Namespace, temporary: Path) -> None:
    process = start("dump", "-t", source.pid, "-D", "-", "--id", "msg:4711")
    out, errors = process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert errors == b"ipcimg: Error: there is no message queue 4711\n"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("-o", "log")])
def test_closed_standard_input(options: tuple[str, ...], target: Namespace, tmp_path: Path) -> None:
    """It is not the log, which has its number then."""
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *IPCIMG, "restore", "-t", str(target.pid), "-D", "-", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "ipcimg: Error: standard input: is closed\n")


# ---- whoever ends ---------------------------------------------------------------------------


def sending(source: Namespace, *options: object) -> tuple[subprocess.Popen[bytes], bytes]:
    """A dump that has begun to send, and finds nobody who reads on; and its first bytes."""
    process = start("dump", "-t", source.pid, "-D", "-", *options)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 100)
    assert first
    return process, first


def test_the_reader_ends(source: Namespace, archive: Path, temporary: Path) -> None:
    before = source.do(state)
    process, _ = sending(source)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        errors = process.stderr.read()
    assert process.wait() == 1
    early = b"Broken pipe, since its reader ended before the archive did"
    assert errors == b"ipcimg: Error: writing standard output: " + early + b"\n"
    assert list(temporary.iterdir()) == []
    assert source.do(state) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_the_writer_ends(
    source: Namespace, target: Namespace, archive: Path, temporary: Path, signum: signal.Signals
) -> None:
    """Its directory goes, except by SIGKILL; what it has sent is refused."""
    before = source.do(state), target.do(state)
    process, first = sending(source)
    process.send_signal(signum)
    sent, errors = process.communicate()
    left = [path.name for path in temporary.iterdir()]
    if signum == signal.SIGKILL:
        assert process.returncode == -signum
        [name] = left
        assert name.startswith(PREFIX)
    else:
        assert (process.returncode, left) == (128 + signum, [])
        assert errors.decode() == f"ipcimg: Error: ended by {signum.name}\n"
    assert len(sent) < 4 * MIB
    fed(first + sent, "restore", "-t", target.pid, "-D", "-", status=1)
    assert (source.do(state), target.do(state)) == before


def test_frozen_tasks_do_not_wait_for_the_reader(source: Namespace, archive: Path) -> None:
    """They go on when the dump is whole, whatever becomes of the stream."""
    process, _ = sending(source, "--freeze")
    assert oracle.state(source.pid) in "RS"
    process.kill()
    process.communicate()
