"""ipcimg beside CRIU: what programs that call it are told, and when."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ipcimg as library
from ipcimg.stopwatch import Stopwatch

from .. import wire
from ..commands import IPCIMG, REPORT, SHOW, ipcimg, refused, report, run
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.slow  # nothing here is another on another kernel

OF_A_SET = ("ipcns-", "pagemap-", "pages-", "ipcimg-manifest-")


def fill() -> None:
    oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two")])
    oracle.semaphores(0x77, [3, 4])
    oracle.segment(0x99, 3 * 4096, [(0, b"a"), (2 * 4096, b"b")])


# ---- stages --------------------------------------------------------------------------------


def test_stages_of_a_dump(source: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    watch = Stopwatch()
    with library.of_process(source.pid) as one:
        library.dump(tmp_path / "d", one, freeze=True, progress=watch)
    assert list(watch.stages) == [
        *("looking at the image directory", "waiting for the namespace", "freezing", "settings", "segments", "queues"),
        *("semaphores", "looking again", "letting go", "leaving the namespace", "to the disk"),
    ]
    assert 0 < watch.freezing < watch.total
    assert 0 < watch.frozen < watch.total


def test_stages_of_a_restore(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    watch = Stopwatch()
    with library.of_process(source.pid) as one:
        library.dump(tmp_path / "d", one)
    with library.of_process(target.pid) as other:
        library.restore(tmp_path / "d", other, progress=watch)
    made = ["segments", "queues", "semaphores"]
    assert list(watch.stages) == ["checking the images", "looking at the target", *made, "settings"]
    assert watch.frozen == 0


# ---- the report ----------------------------------------------------------------------------


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(REPORT)


def test_report_of_a_dump(source: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    where, file = tmp_path / "d", tmp_path / "r.json"
    done = ipcimg("dump", "-t", source.pid, "-D", where, "--ns-id", 7, "--freeze", "--report", file)
    assert done.stdout.startswith("dumped 1 message queue (2 messages), ")
    found = report(file.read_text())
    assert (found["command"], found["status"], found["error"], found["warnings"]) == ("dump", "done", [], [])
    assert (found["images_dir"], found["ns_id"]) == (str(where), 7)
    inode = os.stat(source.path).st_ino
    assert found["namespace"] == {"described": f"the IPC namespace of process {source.pid}", "inode": inode}
    assert found["counts"] == {"queues": 1, "messages": 2, "semaphore_sets": 1, "segments": 1, "pages": 2}
    sizes = {path.name: path.stat().st_size for path in where.iterdir() if path.name.startswith(OF_A_SET)}
    assert found["files"] == sizes
    assert found["bytes"]["pages"] == 2 * 4096
    assert sum(found["bytes"].values()) == sum(sizes.values())
    assert found["consistency"] == {"how": "frozen", "compared": 0, "moved": []}
    seconds = found["seconds"]
    assert 0 < seconds["freezing"] == seconds["stages"]["freezing"]
    assert 0 < seconds["frozen"] < seconds["total"]
    assert sum(seconds["stages"].values()) <= seconds["total"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["d", "r.json"]


def test_report_of_a_restore(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.queue(5))
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--into-free-ids", "--report", "-")
    assert done.stdout.count("\n") == 1
    found = report(done.stdout)
    new = target.do(lambda: max(oracle.table("msg")))
    assert found["new_ids"] == {"shm": {}, "msg": {"0": new}, "sem": {}}
    assert (found["holder"], found["held"], len(found["facts_lost"])) == (None, [], 3)
    assert found["bytes"]["pages"] == 2 * 4096
    assert found["consistency"]["how"] == "checked"


def test_report_of_names_that_are_no_text(source: Namespace, tmp_path: Path) -> None:
    """It is JSON that any program reads: there is no half of a character in it."""
    where = os.fsencode(tmp_path) + b"/d\xff"
    for _ in range(2):  # done, and failed
        command = [*map(os.fsencode, (*IPCIMG, "dump", "-t", str(source.pid), "-D")), where, b"--report", b"-"]
        done = subprocess.run(command, capture_output=True, check=False)
        found = report(done.stdout.decode())
        assert found["images_dir"] == f"{tmp_path}/d\\udcff"
        json.dumps(found, ensure_ascii=False).encode()
    assert found["error"] == [rf"image directory {tmp_path}/d\udcff: set 1 is there already; --force replaces it"]


def test_report_of_what_failed(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """All that is said, and a report that was there before is replaced."""
    source.do(fill)
    file = tmp_path / "r.json"
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--report", file)
    target.do(fill)
    done = run(IPCIMG, "restore", "-t", target.pid, "-D", tmp_path / "d", "--report", file, status=1)
    found = report(file.read_text())
    assert [f"ipcimg: Error: {line}" for line in found["error"]] == done.stderr.splitlines()
    assert len(found["error"]) == 6
    assert (found["status"], found["counts"], found["new_ids"]) == ("failed", None, None)
    assert list(found["seconds"]["stages"]) == ["checking the images", "looking at the target"]
    done = run(IPCIMG, "dump", "-t", source.pid, "-D", tmp_path / "d", "--report", "-", status=1)
    assert report(done.stdout)["error"] == [
        f"image directory {tmp_path}/d: set 1 is there already; --force replaces it"
    ]


def test_report_of_a_set_of_criu(target: Namespace) -> None:
    directory = Path(__file__).parent.parent / "data" / "criu-4.2" / "basic"
    found = report(ipcimg("restore", "-t", target.pid, "-D", directory, "-W", "/proc", "--report", "-").stdout)
    assert (found["files"], found["bytes"], found["consistency"]) == (None, None, None)


@pytest.mark.parametrize("kind", ["text", "link", "directory", "fifo"])
def test_report_replaces_nothing_else(kind: str, source: Namespace, tmp_path: Path) -> None:
    """It is seen before anything is done."""
    file = tmp_path / "r"
    if kind == "text":
        file.write_text("{}\n")
    elif kind == "link":
        file.symlink_to("elsewhere")
    elif kind == "directory":
        file.mkdir()
    else:
        os.mkfifo(file)
    assert refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--report", file).startswith(
        f"{file} is there already, "
    )
    assert os.listdir(tmp_path) == ["r"]


def test_report_that_cannot_be_written(source: Namespace, tmp_path: Path) -> None:
    why = refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--report", tmp_path / "no" / "r")
    assert why == f"writing {tmp_path}/no/r: {tmp_path}/no cannot be written, or is not there"
    with open("/dev/full", "w") as full:
        command = [*IPCIMG, "dump", "-t", str(source.pid), "-D", str(tmp_path / "d"), "--report", "-"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "ipcimg: Error: writing the report to standard output: No space left on device\n"
    ipcimg("verify", tmp_path / "d")


def test_report_of_a_command_that_cannot_be_run(source: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    (tmp_path / "no").write_bytes(b"\x7fELF")
    (tmp_path / "no").chmod(0o755)
    for command, why in (("no", "Exec format error"), ("nothing", "there is no such command")):
        arguments = ("restore", "--new-ns", "-D", tmp_path / "d", "--report", tmp_path / "r", "--", tmp_path / command)
        done = run(IPCIMG, *arguments, status=1)
        error = report((tmp_path / "r").read_text())["error"]
        assert error == [f"running {tmp_path}/{command}: {why}"], done.stderr


# ---- the log -------------------------------------------------------------------------------


LINE = re.compile(r"\(\d\d\.\d{6}\) .+")


def log_of(file: Path) -> list[str]:
    """The lines of a log without their times."""
    lines = file.read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    times = [float(line[1:10]) for line in lines]
    assert times == sorted(times)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return [line[12:] for line in lines]


def test_levels_of_the_log(source: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    log = tmp_path / "d" / "dump.log"

    def dumped(*options: str) -> list[str]:
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--force", "-o", "dump.log", *options)
        return log_of(log)

    assert dumped() == dumped("-v0") == dumped("-v2") == []
    info = dumped("-v3")
    assert info[0].startswith("ipcimg ")
    assert {"settings", "segments", "to the disk"} <= set(info)
    assert info[-1] == "Dumping finished successfully"
    assert [line.split(" ")[0] for line in dumped("-v")] == [line.split(" ")[0] for line in info]
    details = dumped("-vv")
    assert any(re.fullmatch(r"pages-\d\.img: 8192 bytes", line) for line in details)
    assert len(details) == len(dumped("-v4")) > len(info)


def test_errors_in_the_log(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(fill)
    (tmp_path / "w").mkdir()
    arguments = ("-t", target.pid, "-D", tmp_path / "d", "-W", tmp_path / "w", "-o", "restore.log")
    done = run(IPCIMG, "restore", *arguments, "-v1", status=1)
    lines = log_of(tmp_path / "w" / "restore.log")
    assert [line.partition(": ")[2] for line in lines] == [
        *(line.removeprefix("ipcimg: Error: ") for line in done.stderr.splitlines()),
        "Restoring FAILED.",
    ]
    assert all(re.match(r"Error \(preflight\.py:\d+\): ", line) for line in lines)
    assert os.listdir(tmp_path / "w") == ["restore.log"]


def test_place_of_an_error_that_the_kernel_has_raised(tmp_path: Path) -> None:
    refused("dump", "--ipc-ns", tmp_path / "no", "-D", tmp_path / "d", "-o", "x.log")
    assert re.match(r"Error \(namespace\.py:\d+\): opening the IPC namespace ", log_of(tmp_path / "d" / "x.log")[0])
    assert os.listdir(tmp_path / "d") == ["x.log"]


def test_warnings_in_the_log_and_the_report(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.semaphores(1))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--criu-exact")
    arguments = ("-t", target.pid, "-D", tmp_path / "d", "-o", tmp_path / "log", "--report", "-")
    done = ipcimg("restore", *arguments)
    [warning] = report(done.stdout)["warnings"]
    assert done.stderr == f"ipcimg: Warning: {warning}\n"
    [line] = log_of(tmp_path / "log")
    assert re.fullmatch(rf"Warn  \(commands/restore\.py:\d+\): {re.escape(warning)}", line)


def test_log_of_what_nobody_can_restore(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.queue(1))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "-v3", "-o", tmp_path / "log")
    assert done.stderr.startswith("ipcimg: Not restored, since nobody can: message queues: ")
    assert done.stderr.strip().removeprefix("ipcimg: ") in log_of(tmp_path / "log")


@pytest.mark.parametrize("command", ["recover", "verify"])
def test_log_of_other_commands(command: str, source: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    where = ("-D", tmp_path / "d") if command == "recover" else (tmp_path / "d",)
    said = ipcimg(command, *where, "-o", "a.log", "-v").stdout
    lines = log_of(tmp_path / "d" / "a.log")
    assert said.strip() in lines
    assert (
        lines[-1]
        == f"{command.title().removesuffix('y')}{'ing' if command == 'recover' else 'ying'} finished successfully"
    )


def test_log_of_a_set_that_is_not_whole(source: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    (tmp_path / "d" / "ipcns-var-1.img").write_bytes(b"")
    why = refused("verify", tmp_path / "d", "-o", "a.log")
    line, last = log_of(tmp_path / "d" / "a.log")
    assert line.startswith("Error (imageset.py:")
    assert line.endswith(why)
    assert last.endswith(": Verifying FAILED.")


@pytest.mark.parametrize("kind", ["text", "link", "directory", "fifo", "another user's"])
def test_what_is_no_log_is_left_alone(kind: str, source: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "log"
    if kind == "text":
        file.write_text("precious")
    elif kind == "link":
        (tmp_path / "victim").write_text("")
        file.symlink_to("victim")
    elif kind == "directory":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.write_text("")
        os.chown(file, 1001, 1001)
    assert refused("dump", "-t", source.pid, "-D", tmp_path / "d", "-o", file).startswith(f"log {file}: ")
    if kind == "text":
        assert file.read_text() == "precious"
    assert not (tmp_path / "d").exists()


def test_log_that_cannot_be_made(source: Namespace, tmp_path: Path) -> None:
    """Nothing is left of the directory in which it was to be, unless that was there before."""
    arguments = ("dump", "-t", source.pid, "-D", tmp_path / "d", "-o", "no/log")
    for left in ([], ["d"]):
        assert refused(*arguments) == f"log {tmp_path}/d/no/log: No such file or directory"
        assert os.listdir(tmp_path) == left
        (tmp_path / "d").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-o", ""), "argument -o/--log-file: the name of a file is missing"),
        (("-o", "-"), "argument -o/--log-file: a log goes to a file; ./- is one of that name"),
        (("--report", ""), "argument --report: the name of a file is missing"),
    ],
)
def test_files_that_are_none(options: tuple[str, ...], why: str, source: Namespace, tmp_path: Path) -> None:
    done = run(IPCIMG, "dump", "-t", source.pid, "-D", tmp_path / "d", *options, status=2)
    assert done.stderr.endswith(f"ipcimg dump: error: {why}\n")
    assert os.listdir(tmp_path) == []


def test_log_that_becomes_incomplete(source: Namespace, tmp_path: Path) -> None:
    """It is said, and the dump is made all the same."""
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
    command = ("dump", "-t", source.pid, "-D", tmp_path / "d", "-o", tmp_path / "log", "-v4")
    done = run(IPCIMG, *command, "--only", "sem", preexec_fn=small, status=1)
    assert f"ipcimg: Warning: log {tmp_path}/log: File too large\n" in done.stderr


# ---- the byte ------------------------------------------------------------------------------


def started(*arguments: object, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    command = [*IPCIMG, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds)


def test_a_byte_when_all_is_done(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    for command, pid in (("dump", source.pid), ("restore", target.pid), ("restore", target.pid)):
        read, write = os.pipe()
        process = started(command, "-t", pid, "-D", tmp_path / "d", "--status-fd", write, pass_fds=(write,))
        os.close(write)
        _, said = process.communicate(timeout=60)
        assert os.read(read, 9) == (b"\0" if process.returncode == 0 else b""), said
        assert os.read(read, 9) == b""
        os.close(read)
        if command == "dump":
            ipcimg("verify", tmp_path / "d")
    assert process.returncode == 1  # the second restore


def test_a_byte_before_the_command_runs_which_has_no_descriptor(source: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    read, write = os.pipe()
    wait, go = os.pipe()
    look = f"import os; print(*os.listdir('/proc/self/fd')); os.read({wait}, 1)"
    arguments = ("--new-ns", "-D", tmp_path / "d", "--status-fd", write, "-o", "log", "--", sys.executable, "-c", look)
    process = started("restore", *arguments, pass_fds=(write, wait))
    os.close(write)
    os.close(wait)
    assert os.read(read, 9) == b"\0"
    assert os.read(read, 9) == b""  # while the command runs
    os.close(go)
    out, said = process.communicate(timeout=60)
    os.close(read)
    assert process.returncode == 0, said
    descriptors = out.splitlines()[-1].split()
    assert set(descriptors) - {"3"} == {"0", "1", "2", str(wait)}  # 3 is that of the listing


def test_the_holder_has_no_descriptor(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.segment(7, 4096))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    read, write = os.pipe()
    arguments = ("-t", target.pid, "--hold", "--no-vars", "-D", tmp_path / "d", "--report", "-", "--status-fd", write)
    process = started("restore", *arguments, pass_fds=(write,))
    os.close(write)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert (os.read(read, 9), os.read(read, 9)) == (b"\0", b"")
    os.close(read)
    holder = report(out)["holder"]
    assert oracle.state(holder) in "SRD"
    os.kill(holder, signal.SIGTERM)


@pytest.mark.parametrize(
    ("fd", "why"),
    [(99, "descriptor 99 is not open"), (4294967295, "is not open"), (1, "descriptor 1 is a standard stream")],
)
def test_descriptor_that_is_none(fd: int, why: str, tmp_path: Path) -> None:
    done = run(IPCIMG, "dump", "-D", tmp_path / "d", "--status-fd", fd, status=2)
    assert why in done.stderr
    assert os.listdir(tmp_path) == []


def test_descriptor_that_cannot_be_written(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = started("dump", "-D", tmp_path / "d", "--status-fd", read, pass_fds=(read,))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"descriptor {read} is not open for writing" in said
    os.close(read)
    os.close(write)


def test_nobody_reads_the_byte(source: Namespace, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = started("dump", "-t", source.pid, "-D", tmp_path / "d", "--status-fd", write, pass_fds=(write,))
    os.close(write)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "ipcimg: Warning: --status-fd: Broken pipe\n")


# ---- the target ----------------------------------------------------------------------------


def test_join_ns(source: Namespace, make_namespace: Callable[[], Namespace], tmp_path: Path) -> None:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "-R", "-j")
    expected = source.do(lambda: oracle.rows("msg"))
    for which in ("pid", "path"):
        target = make_namespace()
        ipcimg("restore", "-J", f"ipc:{getattr(target, which)}", "-D", tmp_path / "d", "-j")
        assert target.do(lambda: oracle.rows("msg")) == expected


@pytest.mark.parametrize("which", ["net:5", "pid:/proc/1/ns/pid", "5", "ipc", "ipc:", "ipc:4294967296"])
def test_what_is_not_joined(which: str) -> None:
    done = run(IPCIMG, "restore", "-J", which, "-D", "x", status=2)
    assert "argument -J/--join-ns: " in done.stderr
    assert which.partition(":")[2] in done.stderr
    done = run(IPCIMG, "restore", "-J", "ipc:5", "-t", 5, "-D", "x", status=2)
    assert "not allowed with argument" in done.stderr


# ---- the limit -----------------------------------------------------------------------------


def state() -> object:
    return oracle.table("msg"), oracle.table("sem"), oracle.rows("shm"), oracle.variables()


def test_a_dump_that_takes_too_long(source: Namespace, tmp_path: Path) -> None:
    """Somebody else has the lock of the namespace: it would wait for two seconds."""
    source.do(fill)
    before = source.do(state)
    with open(source.path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = ("-t", source.pid, "-D", tmp_path / "d", "--timeout", "0.2", "--report", "-")
        done = run(IPCIMG, "dump", *arguments, status=1)
    assert done.stderr == "ipcimg: Error: timed out after 0.2 s\n"
    found = report(done.stdout)
    assert found["error"] == ["timed out after 0.2 s"]
    assert list(found["seconds"]["stages"]) == ["looking at the image directory", "waiting for the namespace"]
    assert os.listdir(tmp_path) == []
    assert source.do(state) == before


# A signal comes at the beginning of a stage, from the timer or from somebody else.
AT_A_STAGE = """
import signal, sys
from ipcimg import cli, stopwatch

def stage(self, name, real=stopwatch.Stopwatch.stage):
    real(self, name)
    if name == {stage!r}:
        signal.raise_signal({number})

stopwatch.Stopwatch.stage = stage
sys.exit(cli.main())
"""


def interrupted(how: str, stage: str, *arguments: object) -> None:
    """Run ipcimg, which is ended by a limit or by SIGTERM at a stage."""
    number, said = (14, "timed out after 1000 s") if how == "limit" else (15, "ended by SIGTERM")
    program = AT_A_STAGE.format(stage=stage, number=number)
    command = [sys.executable, "-c", program, *map(str, arguments), "--timeout", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1 if how == "limit" else 143, f"ipcimg: Error: {said}\n")


@pytest.mark.parametrize("stage", ["looking at the target", "segments", "queues", "semaphores"])
@pytest.mark.parametrize("how", ["limit", "SIGTERM"])
def test_all_is_undone(how: str, stage: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.queue(0x5678, messages=[(7, b"stays")], wanted=32768 * 5 + 30000))
    before = target.do(state)
    interrupted(how, stage, "restore", "-t", target.pid, "-D", tmp_path / "d")
    assert target.do(state) == before
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")


@pytest.mark.parametrize("stage", ["freezing", "segments", "queues", "semaphores", "looking again", "to the disk"])
@pytest.mark.parametrize("how", ["limit", "SIGTERM"])
def test_nothing_is_left_of_a_dump(how: str, stage: str, source: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    before = source.do(state)
    interrupted(how, stage, "dump", "-t", source.pid, "-D", tmp_path / "d", "--freeze")
    assert os.listdir(tmp_path) == []
    assert oracle.state(source.pid) in "RS"
    assert source.do(state) == before


def test_the_command_has_all_the_time_it_wants(source: Namespace, tmp_path: Path) -> None:
    """Neither the timer is left to it, nor a handler; and what was ignored still is."""
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    look = (
        "import signal; print(signal.getitimer(signal.ITIMER_REAL)[0], signal.getsignal(signal.SIGALRM), "
        "signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    )

    def ignoring() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})

    arguments = ("--new-ns", "-D", tmp_path / "d", "--timeout", 30, "--", sys.executable, "-c", look)
    done = run(IPCIMG, "restore", *arguments, preexec_fn=ignoring)
    assert done.stdout.splitlines()[-1].startswith("0.0 1 {")
    assert "SIGALRM" in done.stdout


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", "", "1e10"])
def test_limits_that_are_none(text: str) -> None:
    assert "is not a number of seconds" in run(IPCIMG, "dump", "-D", "x", f"--timeout={text}", status=2).stderr


def test_a_limit_and_a_signal_that_come_too_late(source: Namespace, tmp_path: Path) -> None:
    """A set that is on its way to its place gets there, and the status says so."""
    program = """
import signal, sys
from ipcimg import cli, directory

def write(*arguments, real=directory._write_commit):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGALRM)
    real(*arguments)

directory._write_commit = write
sys.exit(cli.main())
"""
    command = [sys.executable, "-c", program, "dump", "-t", source.pid, "-D", tmp_path / "d", "--timeout", 60]
    subprocess.run([*map(str, command)], check=True, timeout=60)
    ipcimg("verify", tmp_path / "d")


# ---- what stands beside the images ---------------------------------------------------------

BESIDE = {"inventory.img", "stats-dump"}


def theirs(where: Path) -> dict[str, bytes]:
    """The inventory and the statistics of a dump of CRIU's, in a directory."""
    where.mkdir(exist_ok=True)
    inventory = wire.u32(wire.INVENTORY) + wire.entry(wire.message({1: 2, 2: 1, 4: 1}))
    stats = wire.u32(0x55105940, 0x57093306) + wire.entry(wire.message({1: wire.message({n: n for n in range(1, 10)})}))
    wire.write(where, {"inventory.img": inventory, "stats-dump": stats, "stats-restore": stats})
    return {name: (where / name).read_bytes() for name in os.listdir(where)}


def decoded(path: Path) -> Any:
    """As Debian's crit has it."""
    if shutil.which("crit") is None:
        if os.environ.get("CI"):
            pytest.fail("crit is missing: NOT COMPARED (apt-get install criu)")
        pytest.skip("crit is missing: NOT COMPARED (apt-get install criu)")
    command = ["/usr/bin/python3", "/usr/bin/crit", "decode", "-i", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_what_crit_finds_beside_the_images(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    done = ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--freeze", "--report", "-")
    seconds = report(done.stdout)["seconds"]
    [entry] = decoded(tmp_path / "d" / "inventory.img")["entries"]
    assert entry == {"img_version": 2, "fdinfo_per_id": True, "ns_per_id": True}
    [entry] = decoded(tmp_path / "d" / "stats-dump")["entries"]
    times = {name: entry["dump"].pop(name) for name in ("freezing_time", "frozen_time", "memdump_time")}
    assert times["freezing_time"] == int(seconds["freezing"] * 1e6)
    assert times["frozen_time"] == int(seconds["frozen"] * 1e6)
    assert 0 < times["memdump_time"] < times["frozen_time"]
    zeros = dict.fromkeys(("memwrite_time", "pages_scanned", "pages_skipped_parent", "pages_written", "pages_lazy"), 0)
    assert entry["dump"] == {**zeros, "shpages_skipped_parent": 0, "shpages_written": 2}
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "e", "--parent", tmp_path / "d")
    [entry] = decoded(tmp_path / "e" / "stats-dump")["entries"]
    assert (entry["dump"]["shpages_skipped_parent"], entry["dump"]["shpages_written"]) == (2, 0)
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--report", "-")
    [entry] = decoded(tmp_path / "d" / "stats-restore")["entries"]
    assert 0 < entry["restore"].pop("restore_time") <= report(done.stdout)["seconds"]["total"] * 1e6
    zeros = dict.fromkeys(("pages_compared", "pages_skipped_cow", "forking_time"), 0)
    assert entry["restore"] == {**zeros, "pages_restored": 2}


def test_ours_are_replaced(source: Namespace, tmp_path: Path) -> None:
    where = tmp_path / "d"
    ipcimg("dump", "-t", source.pid, "-D", where)
    inventory, stats = (where / "inventory.img").stat().st_ino, (where / "stats-dump").read_bytes()
    ipcimg("dump", "-t", source.pid, "-D", where, "--ns-id", 2, "--freeze")
    assert (where / "stats-dump").read_bytes() != stats
    assert (where / "inventory.img").stat().st_ino == inventory
    assert {path.name for path in where.iterdir() if not path.name.startswith(OF_A_SET)} == BESIDE
    assert {stat.S_IMODE(path.stat().st_mode) for path in where.iterdir()} == {0o600}
    assert "inventory" not in run(SHOW, where).stdout


def test_those_of_criu_stay(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    where = tmp_path / "d"
    before = theirs(where)
    ipcimg("dump", "-t", source.pid, "-D", where)
    ipcimg("restore", "-t", target.pid, "-D", where, "-v3", "-o", "log")
    assert {name: (where / name).read_bytes() for name in before} == before
    [line] = [line for line in log_of(where / "log") if "stats-restore" in line]
    assert line == f"no stats-restore: {where}/stats-restore is there already, and is nothing that ipcimg may replace"


@pytest.mark.parametrize("name", sorted(BESIDE))
@pytest.mark.parametrize("kind", ["empty", "damaged", "text", "link", "directory"])
def test_what_does_not_say_that_it_is_ours_stays(kind: str, name: str, source: Namespace, tmp_path: Path) -> None:
    where, victim = tmp_path / "d", tmp_path / "victim"
    victim.write_text("precious")
    ipcimg("dump", "-t", source.pid, "-D", where)
    path = where / name
    whole = path.read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "damaged": whole[:-1], "text": b"precious, and long enough"}[kind])
    before = None if path.is_dir() else path.read_bytes()
    ipcimg("dump", "-t", source.pid, "-D", where, "--force")
    assert (None if path.is_dir() else path.read_bytes()) == before
    assert victim.read_text() == "precious"


def test_criu_comes_first_while_a_dump_is_made(source: Namespace, tmp_path: Path) -> None:
    """What CRIU writes between the decision and the commit stays."""
    program = """
import sys
from ipcimg import cli, directory

def write(*arguments, real=directory._write_commit):
    real(*arguments)
    for name in ("inventory.img", "stats-dump"):
        with open(f"{sys.argv[4]}/{name}", "w") as file:
            file.write("CRIU's")

directory._write_commit = write
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "dump", f"-t{source.pid}", "-D", tmp_path / "d"]
    subprocess.run([*map(str, command)], check=True)
    assert {(tmp_path / "d" / name).read_text() for name in BESIDE} == {"CRIU's"}
    ipcimg("verify", tmp_path / "d")


def test_ours_are_no_dump_of_criu(source: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert refused("dump", "-t", source.pid, "--criu-set", tmp_path / "d", "--force") == (
        f"image directory {tmp_path}/d: its inventory.img is ipcimg's: it is no dump of CRIU's"
    )


@pytest.mark.parametrize("until", ["os.mkdir", "os.link", "os.rename", "os.unlink"])
def test_killed_dumps_are_completed_or_leave_nothing(until: str, source: Namespace, tmp_path: Path) -> None:
    """Killed at each such call in turn."""
    program = """
import os, signal, sys
from ipcimg import cli

def call(*arguments, real={until}, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

left = int(sys.argv.pop(1))
{until} = call
sys.exit(cli.main())
"""
    ends = []
    for n in range(50):
        where = tmp_path / str(n)
        command = [sys.executable, "-c", program.format(until=until), n, "dump", "-t", source.pid, "-D", where]
        ends.append(subprocess.run([*map(str, command)], capture_output=True, check=False).returncode)
        if ends[-1] == 0:
            break
        if where.exists():
            ipcimg("recover", "-D", where)
            names = set(os.listdir(where))
            assert not names or BESIDE | {"ipcns-var-1.img", "ipcimg-manifest-1.img"} == names, (until, n)
    assert ends[0] == -signal.SIGKILL
    assert ends[-1] == 0


def test_a_file_system_without_links(source: Namespace, tmp_path: Path) -> None:
    program = """
import errno, os, sys
from ipcimg import cli

def link(*arguments, **options):
    raise PermissionError(errno.EPERM, "Operation not permitted")

os.link = link
sys.exit(cli.main())
"""
    for options in ((), ("--force",)):
        command = [sys.executable, "-c", program, "dump", "-t", source.pid, "-D", tmp_path / "d", *options]
        subprocess.run([*map(str, command)], check=True)
        assert set(os.listdir(tmp_path / "d")) == BESIDE | {"ipcns-var-1.img", "ipcimg-manifest-1.img"}


def test_statistics_of_a_restore_where_they_can_be(
    source: Namespace, make_namespace: Callable[[], Namespace], tmp_path: Path
) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    (tmp_path / "w").mkdir()
    ipcimg("restore", "-t", make_namespace().pid, "-D", tmp_path / "d", "-W", tmp_path / "w")
    assert os.listdir(tmp_path / "w") == ["stats-restore"]
    assert not (tmp_path / "d" / "stats-restore").exists()
    first = (tmp_path / "w" / "stats-restore").read_bytes()
    ipcimg("restore", "-t", make_namespace().pid, "-D", tmp_path / "d", "-W", tmp_path / "w")
    assert (tmp_path / "w" / "stats-restore").read_bytes() != first
    done = ipcimg("restore", "-t", make_namespace().pid, "-D", tmp_path / "d", "-W", "/proc")
    assert done.stderr == ""


# ---- exit statuses -------------------------------------------------------------------------


def test_exit_statuses(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """The table of the manual."""
    source.do(fill)
    d, gone = tmp_path / "d", tmp_path / "gone"
    (tmp_path / "json").write_text("[]")
    new = ("restore", "--new-ns", "-D", d)
    for status, arguments in (
        (0, ("--version",)),
        (0, ("dump", "-t", source.pid, "-D", d)),
        (1, ("dump", "-t", source.pid, "-D", d)),
        (1, ("dump", "-t", source.pid, "-D", d, "--force", "--timeout", "1e-6")),
        (2, ("dump", "-t", "x", "-D", d)),
        (2, ("dump", "-t", source.pid, "-D", d, "--status-fd", 99)),
        (2, ("dump",)),
        (2, ()),
        (0, ("verify", d)),
        (1, ("verify", gone)),
        (2, ("verify",)),
        (0, ("restore", "-t", target.pid, "-D", d)),
        (1, ("restore", "-t", target.pid, "-D", d)),
        (2, ("restore", "-t", target.pid, "-D", d, "-J", "ipc:1")),
        (0, (*new, "--", "true")),
        (7, (*new, "--", "sh", "-c", "exit 7")),
        (2, (*new, "--", "sh", "-c", "exit 2")),
        (1, (*new, "--", gone)),
        (2, new),
        (0, ("diff", d, f"ns:{target.pid}")),
        (1, ("diff", d, "ns:/proc/self/ns/ipc")),
        (2, ("diff", d, gone)),
        (2, ("diff", d)),
        (0, ("recover", "-t", target.pid)),
        (1, ("recover", "-D", gone)),
        (2, ("recover", d)),
        (1, ("encode", tmp_path / "json", tmp_path / "image")),
        (2, ("encode", tmp_path / "json")),
        (0, ("check", "--feature", "msg_copy")),
        (2, ("check", "--feature", "nothing")),
    ):
        run(IPCIMG, *arguments, status=status)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_exit_status_of_a_signal(number: signal.Signals, source: Namespace, tmp_path: Path) -> None:
    program = AT_A_STAGE.format(stage="segments", number=int(number))
    command = [sys.executable, "-c", program, "dump", "-t", str(source.pid), "-D", str(tmp_path / "d")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 128 + number
