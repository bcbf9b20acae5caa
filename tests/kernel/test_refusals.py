"""What cannot be done is refused in one clear line, and nothing is left behind."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .. import wire
from ..commands import IPCIMG, ipcimg, refused, report, run
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.slow

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def dumped(source: Namespace, tmp_path: Path) -> Path:
    source.do(lambda: oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two")]))
    source.do(lambda: oracle.semaphores(0x77, [3]))
    source.do(lambda: oracle.segment(0x99, 3 << 20, [(0, b"a"), (2 << 20, b"b" * (1 << 20))]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    return tmp_path / "d"


def tables() -> list[dict[int, dict[str, int]]]:
    return [oracle.table(kind) for kind in ("msg", "sem", "shm")]


def test_id_taken(dumped: Path, target: Namespace) -> None:
    target.do(lambda: oracle.semaphores(0x78, [9], wanted=0))
    before = target.do(tables)
    line = refused("restore", "-t", target.pid, "-D", dumped)
    assert line == "semaphore set 0 (key 0x00000077): that id is taken in the namespace (by semaphore set 0)"
    assert target.do(tables) == before
    assert target.do(oracle.variables)["kernel/sem_next_id"] == "-1"


def test_key_taken(dumped: Path, target: Namespace) -> None:
    target.do(lambda: oracle.segment(0x99, 1, wanted=5 * 32768 + 1))
    before = target.do(tables)
    line = refused("restore", "-t", target.pid, "-D", dumped)
    assert "shared memory segment 0 (key 0x00000099): there is another object with that key" in line
    assert target.do(tables) == before
    assert target.do(oracle.variables)["kernel/shm_next_id"] == "-1"  # a failed *get() leaves it armed


def test_many_conflicts(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """The first of them are said, and all are reported."""
    for namespace in (source, target):
        namespace.do(lambda: [oracle.queue(0x100 + n, wanted=n) for n in range(30)])
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    arguments = ("-t", target.pid, "-D", tmp_path / "d", "--report", "-")
    done = run(IPCIMG, "restore", *arguments, status=1)
    lines = done.stderr.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "ipcimg: Error: and 40 more; --report and -o have all"
    assert len(report(done.stdout)["error"]) == 60


def test_all_conflicts_at_once(dumped: Path, target: Namespace) -> None:
    """Whoever has to clear the way learns of everything that is in it."""
    target.do(lambda: oracle.queue(0x1234))
    target.do(lambda: oracle.semaphores(0x78, [9], wanted=32768 * 3))
    target.do(lambda: oracle.segment(0x99, 1, wanted=5 * 32768 + 1))
    before = target.do(lambda: (tables(), oracle.variables()))
    done = run(IPCIMG, "restore", "-t", target.pid, "-D", dumped, status=1)
    key_taken = "there is another object with that key in the namespace"
    assert sorted(line.removeprefix("ipcimg: Error: ") for line in done.stderr.splitlines()) == [
        "message queue 0 (key 0x00001234): that id is taken in the namespace (by message queue 0)",
        f"message queue 0 (key 0x00001234): {key_taken}",
        "semaphore set 0 (key 0x00000077): that id is taken in the namespace (by semaphore set 98304)",
        f"shared memory segment 0 (key 0x00000099): {key_taken}",
    ]
    assert target.do(lambda: (tables(), oracle.variables())) == before


def test_bad_image_is_seen_before_the_namespace_is_touched(dumped: Path, target: Namespace) -> None:
    image = dumped / "ipcns-sem-1.img"
    image.write_bytes(image.read_bytes()[:-1])
    target.do(lambda: oracle.set_variable("kernel/msg_next_id", 12345))
    assert "ipcns-sem-1.img" in refused("restore", "-t", target.pid, "-D", dumped)
    assert target.do(tables) == [{}, {}, {}]
    assert target.do(oracle.variables)["kernel/msg_next_id"] == "12345"


def no_capabilities() -> None:
    """Stay uid 0, so that files can be read, without the capability that namespaces want."""
    for capability in range(64):
        _libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    header, data = struct.pack("II", 0x20080522, 0), bytes(24)
    assert _libc.capset(header, data) == 0


def test_without_rights(dumped: Path, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    why = "Operation not permitted (is this root, with CAP_SYS_ADMIN over the namespace?)"
    line = refused("dump", "-t", source.pid, "-D", tmp_path / "e", preexec_fn=no_capabilities)
    assert line.startswith((f"entering the IPC namespace of process {source.pid}: {why}", "opening the IPC namespace"))
    assert not (tmp_path / "e").exists()
    line = refused("restore", "--new-ns", "-D", dumped, "--", "true", preexec_fn=no_capabilities)
    assert line == f"making an IPC namespace: {why}"


def filter_msg_copy() -> None:
    """Answer msgrcv with MSG_COPY as a kernel without CONFIG_CHECKPOINT_RESTORE does: ENOSYS."""
    number = {"x86_64": 70, "aarch64": 188}[platform.machine()]
    program = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 3, number),  # if it is not msgrcv, allow it
        (0x20, 0, 0, 16 + 8 * 4),  # load its flags
        (0x45, 0, 1, 0o40000),  # if MSG_COPY is not among them, allow it
        (0x06, 0, 0, 0x00050000 | 38),  # ENOSYS
        (0x06, 0, 0, 0x7FFF0000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    assert _libc.prctl(22, 2, fprog) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


HIDDEN = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc/sys/kernel && exec "$@"', "sh")


def test_kernel_without_checkpoint_restore(dumped: Path, source: Namespace, tmp_path: Path) -> None:
    line = refused("dump", "-t", source.pid, "-D", tmp_path / "e", preexec_fn=filter_msg_copy)
    assert line == (
        "message queue 0: reading message 0: Function not implemented (this kernel lacks "
        "CONFIG_CHECKPOINT_RESTORE, or a filter blocks the call)"
    )
    assert not (tmp_path / "e").exists()
    done = run(
        IPCIMG, "check", "--feature", "msg_copy", "--feature", "sem_next_id", status=1, preexec_fn=filter_msg_copy
    )
    first, second = done.stdout.splitlines()
    assert first.split(None, 1) == [
        "msg_copy",
        "not supported: the kernel was built without CONFIG_CHECKPOINT_RESTORE, "
        "or a filter blocks msgrcv with MSG_COPY",
    ]
    assert second.split(None, 1) == ["sem_next_id", "supported"]
    done = run([*HIDDEN, *IPCIMG], "check", "--feature", "shm_next_id", status=1)
    assert "shm_next_id: there is no such variable: the kernel lacks CONFIG_CHECKPOINT_RESTORE" in done.stdout
    done = run([*HIDDEN, *IPCIMG], "restore", "--new-ns", "-D", dumped, "--", "true", status=1)
    assert done.stderr.count("\n") == 1
    assert "/proc/sys/kernel/" in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(dumped: Path, source: Namespace, small_disk: Path) -> None:
    line = refused("dump", "-t", source.pid, "-D", small_disk / "d")
    assert line == f"writing {small_disk}/d/pages-1.img: No space left on device"
    assert list(small_disk.iterdir()) == []


@pytest.mark.exhaustive
def test_disk_full_at_any_place(source: Namespace, small_disk: Path) -> None:
    """However little is missing: no set, and a clear line."""
    source.do(lambda: oracle.queue(0x1234, messages=[(1, b"x" * 1000)] * 16))
    source.do(lambda: oracle.semaphores(0x77, [3] * 5000))
    source.do(lambda: oracle.segment(0x99, 8192, [(0, b"a"), (4096, b"b")]))
    ballast = small_disk / "ballast"
    failed = 0
    for pages in range(63, 0, -1):
        ballast.write_bytes(bytes(4096 * pages))
        done = subprocess.run(
            [*IPCIMG, "dump", "-t", str(source.pid), "-D", small_disk / "d"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        failed += 1
        assert "No space left on device" in done.stderr
        assert done.stderr.count("\n") == 1
        assert [p.name for p in small_disk.iterdir()] == ["ballast"]
    assert failed > 5
    assert (small_disk / "d" / "ipcimg-manifest-1.img").exists()


def test_read_only_disk(dumped: Path, source: Namespace, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    line = refused("dump", "-t", source.pid, "-D", small_disk / "d")
    assert line == f"image directory {small_disk}/d: Read-only file system"
    line = refused("dump", "-t", source.pid, "-D", small_disk)
    assert line == f"image directory {small_disk}: .ipcimg-1.tmp: Read-only file system"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.exhaustive
def test_signals_undo(source: Namespace, target: Namespace, tmp_path: Path, signum: int) -> None:
    """A signal in the middle: the dump leaves no directory, the restore an empty namespace with its settings."""
    source.do(lambda: [oracle.queue(messages=[(1, b"m" * 100)] * 100) for _ in range(4000)])
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    before = target.do(oracle.variables)

    def interrupt(*arguments: object, once: Callable[[], bool]) -> None:
        child = subprocess.Popen([*IPCIMG, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while not once():
            assert child.poll() is None, "it was over before it could be interrupted"
            assert time.monotonic() < until
            time.sleep(0.002)
        child.send_signal(signum)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 128 + signum
        assert errors == f"ipcimg: Error: ended by {signal.Signals(signum).name}\n"

    started = tmp_path / "e" / ".ipcimg-1.tmp"
    interrupt("dump", "-t", source.pid, "-D", tmp_path / "e", once=started.exists)
    assert not (tmp_path / "e").exists()
    interrupt("restore", "-t", target.pid, "-D", tmp_path / "d", once=lambda: len(target.do(tables)[0]) > 10)
    assert target.do(tables) == [{}, {}, {}]
    assert target.do(oracle.variables) == before


@pytest.mark.usefixtures("both_loops")
def test_changing_queue(source: Namespace, tmp_path: Path) -> None:
    """A queue that another process turns over while it is read: no dump claims to be of one moment."""
    source.do(lambda: oracle.queue(0x1234, messages=[(1, b"%04d" % n) for n in range(3000)]))
    turn = (
        "import ctypes; l = ctypes.CDLL(None); b = ctypes.create_string_buffer(16)\n"
        "while True: n = l.msgrcv(0, b, 8, ctypes.c_long(0), 0); l.msgsnd(0, b, n, 0)"
    )
    turner = subprocess.Popen(["nsenter", f"--ipc={source.path}", "python3", "-c", turn])
    try:
        until = time.monotonic() + 30
        while source.do(lambda: oracle.table("msg"))[0]["lrpid"] == 0:
            assert time.monotonic() < until
            time.sleep(0.01)
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d")
        assert re.match(r"message queue 0( \(key 0x00001234\))? (is in use all the time|changed while)", line)
        assert not (tmp_path / "d").exists()
    finally:
        turner.kill()
        turner.wait()


def test_other_segments_survive_a_restored_rmid_forced(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """The images have no segment and shm_rmid_forced=1; a segment in the target has no attachment."""
    source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.segment(0x99, 4096, [(0, b"mine")]))
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert "Warning: kernel.shm_rmid_forced is left at 0" in done.stderr
    assert target.do(lambda: oracle.content(0, 4)) == b"mine"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", ">/dev/full"])
def test_nobody_reads_the_success(source: Namespace, target: Namespace, tmp_path: Path, redirection: str) -> None:
    """What is done stays done and is called so."""
    source.do(lambda: oracle.queue(0x1234, messages=[(1, b"one")]))
    for command in (("dump", "-t", source.pid), ("restore", "-t", target.pid)):
        call = [*IPCIMG, *map(str, command), "-D", str(tmp_path / "d")]
        done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *call], capture_output=True, text=True)
        assert done.returncode == 0
        assert "Traceback" not in done.stdout + done.stderr
    assert target.do(lambda: oracle.receive_all(0)) == [(1, b"one")]


def test_more_than_the_machine_has(target: Namespace, tmp_path: Path) -> None:
    """A pages file that takes no room on the disk may hold more than there is of memory."""
    pages = 1 << 28
    files = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(0), pages * wire.PAGE)),
        "pagemap-shmem-0.img": wire.pagemap(1, wire.pages(0, pages)),
        "pages-1.img": b"",
    }
    wire.write(tmp_path, files)
    os.truncate(tmp_path / "pages-1.img", pages * wire.PAGE)
    line = refused("restore", "-t", target.pid, "-D", tmp_path)
    assert re.fullmatch(
        "the images hold 1099511627776 bytes of messages, semaphores and pages; the machine has [0-9]+ available", line
    )
    assert target.do(tables) == [{}, {}, {}]


def test_force_does_not_replace_a_directory(dumped: Path, source: Namespace) -> None:
    source.do(lambda: oracle.remove("sem", 0))
    (dumped / "ipcns-sem-1.img").unlink()
    (dumped / "ipcns-sem-1.img").mkdir()
    manifest = (dumped / "ipcimg-manifest-1.img").read_bytes()
    line = refused("dump", "-t", source.pid, "-D", dumped, "--force")
    assert line == f"{dumped}/ipcns-sem-1.img is a directory, which --force does not replace"
    assert (dumped / "ipcimg-manifest-1.img").read_bytes() == manifest


CAPABILITIES = "+sys_admin,+checkpoint_restore,+ipc_owner,+dac_override,+sys_ptrace"
NOT_ROOT = (
    *("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"),
    *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"),
)


def test_limits_that_may_not_be_raised(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Somebody who has the capabilities that presets take, and is not the root to whom the limits belong."""
    source.do(lambda: oracle.queue(1, messages=[(1, b"x" * 8192)]))
    source.do(lambda: oracle.semaphores(1, [1]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    restore = [*NOT_ROOT, *IPCIMG, "restore", "-t", str(target.pid), "-D", str(tmp_path / "d")]
    assert "Warning: message queue 0 (key 0x00000001) (and 1 more): made by whoever" in run(restore).stderr
    assert target.do(lambda: oracle.receive_all(0)) == [(1, b"x" * 8192)]
    target.do(lambda: oracle.remove("msg", 0))
    target.do(lambda: oracle.remove("sem", 0))
    target.do(lambda: oracle.set_variable("kernel/msgmax", 8191))
    settings = target.do(oracle.variables)
    done = run(restore, status=1)
    assert done.stderr.startswith("ipcimg: Error: message queue 0 (key 0x00000001): Invalid argument: ")
    assert "; kernel.msgmax, kernel.msgmnb, " in done.stderr
    assert done.stderr.endswith("could not be raised: no permission\n")
    assert target.do(tables) == [{}, {}, {}]
    assert target.do(oracle.variables) == settings


def test_no_preset_stays_where_there_is_no_room(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """A preset goes with an object alone, so none is armed that no object could take."""
    source.do(lambda: [oracle.semaphores(n + 1, [n]) for n in range(2)])
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.semaphores(0x77, [1], wanted=32768 * 5))
    target.do(lambda: oracle.set_variable("kernel/sem", "250 32000 500 1"))
    before = target.do(lambda: (oracle.variables(), tables()))
    restore = (*NOT_ROOT, *IPCIMG, "restore", "-t", target.pid, "-D", tmp_path / "d", "--id", "sem:1")
    done = run(tuple(map(str, restore)), status=1)
    assert "semaphore set 1 (key 0x00000002): the namespace has no room for one more; kernel.msgmax, " in done.stderr
    assert target.do(lambda: (oracle.variables(), tables())) == before


def test_presets_that_somebody_else_takes(
    source: Namespace, target: Namespace, tmp_path: Path, both_loops: bool
) -> None:
    """A process that makes and removes queues all the time gets ids that were meant for ours: we ask again."""
    wanted = [32768 * (n % 7) + n for n in range(300)]
    source.do(lambda: [oracle.queue(n + 1, messages=[(1, b"%d" % n)], wanted=n) for n in wanted])
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    loop = (
        "my %got; $SIG{TERM} = sub { print scalar(keys %got), qq(\\n); exit }; $| = 1; print qq(on\\n);"
        "until (defined msgget(1, 0)) {}"
        "while (1) { $id = msgget(0, 01600); next unless defined $id; $got{$id}++ if $id > 400; msgctl($id, 0, 0) }"
    )
    enter = ("nsenter", f"--ipc={target.path}", "perl", "-e", loop)
    taker = subprocess.Popen(enter, stdout=subprocess.PIPE, text=True)
    try:
        assert taker.stdout is not None
        assert taker.stdout.readline() == "on\n"
        ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--no-vars")
    finally:
        taker.terminate()
        taker.wait()
    # Between the calls of the loop in C there may be no time for it.
    assert int(taker.stdout.read()) > 0 or both_loops, "nothing was taken: NOT TESTED"
    assert len(set(target.do(lambda: oracle.table("msg"))) - set(wanted)) <= 1  # the one that it had made last
    assert target.do(lambda: [oracle.receive_all(n) for n in wanted]) == [[(1, b"%d" % n)] for n in wanted]
