"""Signals and time limits, at whatever moment of a dump or a restore: what is said of it is what is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..commands import ipcimg, report
from . import oracle
from .oracle import Namespace

# Nothing here is another on another kernel. $TMPDIR is that of all commands.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("temporary")]

# A signal comes right before or after a function is called, or when Python ends.
AT = """
import atexit, importlib, signal, sys
from ipcimg import cli

def comes():
    signal.raise_signal({number})

def called(*arguments, **options):
    if {when!r} == "before":
        comes()
    try:
        return real(*arguments, **options)
    finally:
        if {when!r} == "after":
            comes()

if {when!r} == "exit":
    atexit.register(comes)
else:
    module, _, name = {place!r}.partition(":")
    *owner, name = name.split(".")
    its = importlib.import_module("ipcimg." + module)
    its = getattr(its, owner[0]) if owner else its
    real = getattr(its, name)
    setattr(its, name, called)
sys.exit(cli.main())
"""


def with_signal(
    when: str, place: str, *arguments: object, number: int = signal.SIGTERM, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run ipcimg with a signal at a place, module:function."""
    program = AT.format(when=when, place=place, number=int(number))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60)


@pytest.fixture
def source(source: Namespace) -> Iterator[Namespace]:
    """With something of each kind, and a segment that has to be held."""

    def fill() -> int:
        oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two")])
        oracle.semaphores(0x77, [3, 4])
        shmid = oracle.segment(0x99, 3 * 4096, [(0, b"a"), (2 * 4096, b"b")])
        address = oracle.attach(shmid)
        oracle.remove("shm", shmid)
        return address

    address = source.do(fill)
    yield source
    source.do(lambda: oracle.detach(address))


@pytest.fixture
def dumped(source: Namespace, tmp_path: Path) -> Path:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "dumped")
    return tmp_path / "dumped"


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Path]:
    """A place for a pin, which goes with the test."""
    yield tmp_path / "pin"
    subprocess.run(["umount", "-l", tmp_path / "pin"], check=False, stderr=subprocess.DEVNULL)


def state() -> object:
    return oracle.table("msg"), oracle.table("sem"), oracle.rows("shm"), oracle.variables()


def expect_ended(pid: int) -> None:
    """Until it has ended, be it a zombie that its new parent does not look after."""
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}/ns/ipc"):
        assert time.monotonic() < until, f"{pid} goes on"
        time.sleep(0.01)


def names(where: Path) -> set[str]:
    return set(os.listdir(where)) - {"tmp", "dumped"}


# ---- too early: nothing is done yet -----------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_anything_is_open(number: signal.Signals, source: Namespace, tmp_path: Path) -> None:
    arguments = ("dump", "-t", source.pid, "-D", tmp_path / "d", "--report", tmp_path / "r")
    done = with_signal("before", "namespace:of_process", *arguments, number=number)
    assert (done.returncode, done.stderr) == (128 + number, f"ipcimg: Error: ended by {number.name}\n")
    assert report((tmp_path / "r").read_text())["error"] == [f"ended by {number.name}"]
    assert names(tmp_path) == {"r"}


@pytest.mark.parametrize("place", ["commands.outcome:Outcome.failed", "newfile:refuse_other", "newfile:os.link"])
def test_while_a_failure_is_told(place: str, source: Namespace, tmp_path: Path) -> None:
    arguments = ("dump", "-t", source.pid, "-D", tmp_path / "d", "--id", "msg:4711", "--report", tmp_path / "r")
    done = with_signal("after" if "refuse" not in place else "before", place, *arguments)
    if place == "newfile:refuse_other":  # it is asked before anything is done as well
        assert done.returncode == 128 + signal.SIGTERM
    else:
        assert (done.returncode, done.stderr) == (1, "ipcimg: Error: there is no message queue 4711\n")
    assert report((tmp_path / "r").read_text())["status"] == "failed"
    assert names(tmp_path) == {"r"}


# ---- too late: all is done -----------------------------------------------------------------------

WHILE_IT_IS_TOLD = [
    ("before", "commands.outcome:Outcome.done"),
    ("before", "newfile:os.link"),
    ("after", "newfile:put"),
    ("after", "commands.outcome:report"),
    ("after", "commands.outcome:Outcome.close"),
    ("exit", ""),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("when", "place"),
    [
        ("before", "directory:_write_commit"),
        ("after", "directory:ImageDirectory.unlock"),
        ("after", "commands.outcome:Outcome.of_dump"),
        *WHILE_IT_IS_TOLD[1:],
    ],
)
def test_after_a_dump(when: str, place: str, number: signal.Signals, source: Namespace, tmp_path: Path) -> None:
    arguments = ("dump", "-t", source.pid, "-D", tmp_path / "d", "--report", tmp_path / "r")
    done = with_signal(when, place, *arguments, number=number)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dumped ")
    assert report((tmp_path / "r").read_text())["status"] == "done"
    assert names(tmp_path) == {"d", "r"}
    ipcimg("verify", tmp_path / "d")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("when", "place"),
    [
        ("after", "journal:Journal.remove"),
        ("after", "directory:ImageDirectory.unlock"),
        ("before", "commands.outcome:Outcome.of_restore"),
        ("before", "commands.restore:_leave_stats"),
        *WHILE_IT_IS_TOLD,
    ],
)
def test_after_a_restore(
    when: str, place: str, number: signal.Signals, dumped: Path, target: Namespace, tmp_path: Path
) -> None:
    arguments = ("restore", "-t", target.pid, "-D", dumped, "--only", "msg", "--report", tmp_path / "r")
    done = with_signal(when, place, *arguments, number=number)
    assert (done.returncode, done.stderr) == (0, "")
    assert report((tmp_path / "r").read_text())["status"] == "done"
    assert len(target.do(lambda: oracle.table("msg"))) == 1
    assert names(tmp_path) == {"r"}


def test_a_command_finds_all_as_it_was(dumped: Path) -> None:
    look = "import signal; print(*(getattr(signal.getsignal(n), '__name__', signal.getsignal(n)) for n in (1, 2, 15)))"
    done = ipcimg("restore", "--new-ns", "-D", dumped, "--", sys.executable, "-c", look)
    assert done.stdout.splitlines()[-1] == "0 default_int_handler 0"


# ---- a new namespace: all of it, or nothing ----------------------------------------------------


def test_before_the_pin(dumped: Path, pinned: Path, tmp_path: Path) -> None:
    """When all objects are there, and held."""
    arguments = ("restore", "--new-ns", "--pin", pinned, "--hold", "--pidfile", tmp_path / "pid", "-D", dumped)
    before = holders()
    done = with_signal("after", "directory:ImageDirectory.unlock", *arguments, "--report", tmp_path / "r")
    assert (done.returncode, done.stderr) == (143, "ipcimg: Error: ended by SIGTERM\n")
    assert report((tmp_path / "r").read_text())["status"] == "failed"
    assert (tmp_path / "pid").read_text() == ""
    assert not pinned.exists()
    for pid in holders() - before:
        expect_ended(pid)


def holders() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text() == "ipcimg-hold\n" and (entry / "ns" / "ipc").exists():
                found.add(int(entry.name))
        except OSError:  # it has ended
            pass
    return found


@pytest.mark.parametrize(
    ("when", "place"), [("before", "namespace:IpcNamespace.pin"), ("after", "libc:mount_bind"), *WHILE_IT_IS_TOLD]
)
def test_after_the_pin(when: str, place: str, dumped: Path, pinned: Path, tmp_path: Path) -> None:
    arguments = ("restore", "--new-ns", "--pin", pinned, "--hold", "--pidfile", tmp_path / "pid", "-D", dumped)
    done = with_signal(when, place, *arguments, "--report", tmp_path / "r")
    assert (done.returncode, done.stderr) == (0, "")
    found = report((tmp_path / "r").read_text())
    assert (found["status"], found["held"]) == ("done", [0])
    assert int((tmp_path / "pid").read_text()) == found["holder"]
    ipcimg("diff", dumped, f"ns:{pinned}")
    os.kill(found["holder"], signal.SIGTERM)
    expect_ended(found["holder"])


def test_pinned_and_no_report(dumped: Path, pinned: Path, tmp_path: Path) -> None:
    """That it cannot be told is an error, and all is there."""
    arguments = ("restore", "--new-ns", "--pin", pinned, "--hold", "--pidfile", tmp_path / "pid", "-D", dumped)
    with open("/dev/full", "w") as full:
        done = with_signal("exit", "", *arguments, "--report", "-", stdout=full.fileno())
    assert (done.returncode, done.stderr) == (
        1,
        "ipcimg: Error: writing the report to standard output: No space left on device\n",
    )
    holder = int((tmp_path / "pid").read_text())
    ipcimg("diff", dumped, f"ns:{pinned}")
    os.kill(holder, signal.SIGTERM)
    expect_ended(holder)


@pytest.mark.parametrize("pin", [True, False])
def test_a_command_that_cannot_be_run(pin: bool, dumped: Path, pinned: Path, tmp_path: Path) -> None:
    """Nothing is left of it."""
    (tmp_path / "no").write_bytes(b"\x7fELF")
    (tmp_path / "no").chmod(0o755)
    before = holders()
    options = ("--pin", pinned) if pin else ()
    arguments = ("restore", "--new-ns", *options, "--hold", "--pidfile", tmp_path / "pid", "-D", dumped)
    done = with_signal("exit", "", *arguments, "--", tmp_path / "no")
    assert (done.returncode, done.stderr) == (1, f"ipcimg: Error: running {tmp_path}/no: Exec format error\n")
    assert (tmp_path / "pid").read_text() == ""
    assert not pinned.exists()
    for pid in holders() - before:
        expect_ended(pid)


def test_pidfile_of_a_restore_that_fails_in_the_end(dumped: Path, target: Namespace, tmp_path: Path) -> None:
    """It has no number of a process that is gone, and may be another one's soon."""
    before = target.do(state)
    arguments = ("restore", "-t", target.pid, "--hold", "--pidfile", tmp_path / "pid", "-D", dumped)
    done = with_signal("after", "commands.restore:_write_pid", *arguments)
    assert (done.returncode, done.stderr) == (143, "ipcimg: Error: ended by SIGTERM\n")
    assert (tmp_path / "pid").read_text() == ""
    assert target.do(state) == before


# ---- a dump that is delivered ------------------------------------------------------------------


@pytest.mark.parametrize(("number", "why"), [(15, "ended by SIGTERM"), (14, "timed out after 1000 s")])
@pytest.mark.parametrize("place", ["directory:_write_commit", "tarstream:TarDestination.put", "tarstream:_Plain.write"])
def test_before_all_is_delivered(
    place: str, number: int, why: str, source: Namespace, tmp_path: Path, temporary: Path
) -> None:
    """Its being whole in a directory of our own is not the end."""
    arguments = ("dump", "-t", source.pid, "-D", "-", "--timeout", 1000, "--report", tmp_path / "r")
    done = with_signal("before", place, *arguments, number=number)
    assert (done.returncode, done.stderr) == (1 if number == 14 else 143, f"ipcimg: Error: {why}\n")
    assert done.stdout == ""
    found = report((tmp_path / "r").read_text())
    assert (found["status"], found["images_dir"]) == ("failed", "standard output")
    assert os.listdir(temporary) == []


def test_after_all_is_delivered(source: Namespace, tmp_path: Path, temporary: Path) -> None:
    with open(tmp_path / "x.tar", "wb") as file:
        arguments = ("dump", "-t", source.pid, "-D", "-", "--timeout", 1000, "--report", tmp_path / "r")
        done = with_signal("after", "delivery:finished", *arguments, stdout=file.fileno())
    assert done.returncode == 0, done.stderr
    assert report((tmp_path / "r").read_text())["status"] == "done"
    assert os.listdir(temporary) == []
    ipcimg("verify", tmp_path / "x.tar")


def test_a_limit_on_a_reader_that_reads_nothing(source: Namespace, tmp_path: Path, temporary: Path) -> None:
    """More than a pipe holds, and that soon."""
    source.do(lambda: oracle.segment(0x55, 4 << 20, [(0, os.urandom(4 << 20))]))
    read, write = os.pipe()
    try:
        done = with_signal(
            "exit", "", "dump", "-t", source.pid, "-D", "-", "--timeout", 3, "--report", tmp_path / "r", stdout=write
        )
    finally:
        os.close(read)
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "ipcimg: Error: timed out after 3 s\n")
    assert report((tmp_path / "r").read_text())["error"] == ["timed out after 3 s"]
    assert os.listdir(temporary) == []


# ---- a store that does not answer --------------------------------------------------------------

HANGS = """
import os, signal, sys, time
import fsspec
from fsspec.implementations.local import LocalFileSystem
from ipcimg import cli

class Hangs(LocalFileSystem):
    protocol = "hangs"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("hangs://"))

    def cat_file(self, path, start=None, end=None, **options):
        if start and "pages-" in path:  # not the first block: by then what comes is read ahead
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                time.sleep(1)
        return super().cat_file(path, start, end, **options)

fsspec.register_implementation("hangs", Hangs)
os.sched_getaffinity = lambda pid: {0, 1}
sys.exit(cli.main())
"""


def test_a_store_that_does_not_answer(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    source.do(lambda: oracle.segment(0x55, 20 << 20, [(0, os.urandom(20 << 20))]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    before = target.do(state)
    command = [sys.executable, "-c", HANGS, "restore", "-t", str(target.pid), "-D", f"hangs://{tmp_path}/d"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (143, "ipcimg: Error: ended by SIGTERM\n")
    assert target.do(state) == before
