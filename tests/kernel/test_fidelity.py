"""What CRIU changes or cannot carry comes back as it was. The oracle compares, and `ipcimg diff` beside it."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..commands import IPCIMG, ipcimg, refused, run, same
from ..fidelity import row
from . import oracle
from .oracle import Namespace

PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)


def carry(source: Namespace, target: Namespace, directory: Path, *options: str) -> str:
    """Dump, restore, compare; gives what the restore printed on standard error."""
    ipcimg("dump", "-t", source.pid, "-D", directory)
    done = ipcimg("restore", "-t", target.pid, "-D", directory, *options)
    same(directory, f"ns:{target.pid}")
    return done.stderr


def without_sys_resource() -> None:
    assert _libc.prctl(24, 24, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE


def lower_qbytes(msqid: int, qbytes: int) -> None:
    ds = ctypes.create_string_buffer(256)
    oracle.check(_libc.msgctl(msqid, 2, ds))
    ctypes.c_ulong.from_buffer(ds, 88).value = qbytes
    oracle.check(_libc.msgctl(msqid, 1, ds))


@row("big messages")
@row("long messages")
@pytest.mark.usefixtures("both_loops")
def test_messages_of_any_size(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Up to a mebibyte; at the dump msgmax is 10."""

    def fill() -> None:
        oracle.set_variable("kernel/msgmax", 1 << 20)
        oracle.set_variable("kernel/msgmnb", 8 << 20)
        sizes = (0, 1, 8191, 8192, 8193, 65535, 65536, 1 << 20, 3)
        oracle.queue(1, messages=[(size + 1, os.urandom(size)) for size in sizes])
        oracle.set_variable("kernel/msgmax", 10)

    source.do(fill)
    carry(source, target, tmp_path / "d")
    assert source.do(oracle.variables)["kernel/msgmax"] == "10"
    assert target.do(oracle.everything) == source.do(oracle.everything)


@row("long messages")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.slow
@pytest.mark.usefixtures("both_loops")
def test_msgmax_comes_back_after_a_signal(source: Namespace, tmp_path: Path, signum: int) -> None:
    def fill() -> None:
        oracle.set_variable("kernel/msgmnb", 64 << 20)
        oracle.queue(1, messages=[(1, b"m" * 100)] * 20000)
        oracle.set_variable("kernel/msgmax", 10)

    source.do(fill)
    dump = subprocess.Popen([*IPCIMG, "dump", "-t", str(source.pid), "-D", tmp_path / "d"], stderr=subprocess.PIPE)

    def msgmax() -> int:
        return int(source.do(oracle.variables)["kernel/msgmax"])

    _until(lambda: msgmax() > 10)
    dump.send_signal(signum)
    dump.communicate(timeout=60)
    assert dump.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
    _until(lambda: msgmax() == 10)
    assert len(source.do(lambda: oracle.receive_all(0))) == 20000


def _until(condition: object) -> None:
    assert callable(condition)
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@row("qbytes")
@row("full queue")
@pytest.mark.usefixtures("both_loops")
def test_qbytes(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    def fill() -> None:
        oracle.set_variable("kernel/msgmnb", 1 << 20)
        oracle.queue(1, messages=[(1, b"x" * 8000)] * 100)
        oracle.set_variable("kernel/msgmnb", 30000)
        oracle.queue(2, messages=[(2, b"y" * 1000)] * 10)
        lower_qbytes(oracle.queue(3, messages=[(3, b"z" * 1000)] * 10), 99)  # fuller than that
        lower_qbytes(oracle.queue(4), 0)

    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", preexec_fn=without_sys_resource)
    same(tmp_path / "d", f"ns:{target.pid}")
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    assert restored == original
    assert original["qbytes"] == {0: 1 << 20, 1: 30000, 2: 99, 3: 0}


def fill_created() -> None:
    """Objects of four creators, some given to others."""
    for n, (uid, gid) in enumerate(((0, 0), (1001, 1234), (0, 5), (65534, 65534))):
        with oracle.creating_as(uid, gid):
            queue = oracle.queue(n + 1, messages=[(n + 1, b"of %d" % uid)])
            semaphores = oracle.semaphores(n + 1, [n])
            segment = oracle.segment(n + 1, PAGE, [(0, b"of %d" % uid)])
        if n % 2:
            oracle.own("msg", queue, 7, 8)
            oracle.own("sem", semaphores, 0, 0)
            oracle.own("shm", segment, uid, 9)


@row("creator")
@pytest.mark.usefixtures("both_loops")
def test_creators(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill_created)
    assert carry(source, target, tmp_path / "d", "--strict") == ""
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    assert restored == original
    assert original["msg"][1]["cuid"] == 1001  # type: ignore[index]


@row("creator")
@pytest.mark.parametrize("capability", [6, 7, 15], ids=["CAP_SETGID", "CAP_SETUID", "CAP_IPC_OWNER"])
@pytest.mark.slow
def test_creators_without_the_right(source: Namespace, target: Namespace, tmp_path: Path, capability: int) -> None:
    """Restored all the same, with a warning; --strict refuses, and leaves nothing behind."""
    source.do(fill_created)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")

    def drop() -> None:
        assert _libc.prctl(24, capability, 0, 0, 0) == 0

    why = (
        "made by whoever restores it, since other creators need CAP_SETUID, CAP_SETGID, CAP_IPC_OWNER and CAP_SYS_ADMIN"
    )
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", "--strict", preexec_fn=drop)
    assert line == f"refused by --strict: shared memory segment 1 (key 0x00000002) (and 8 more): {why}"
    assert target.do(lambda: oracle.table("shm")) == {}
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", preexec_fn=drop)
    assert done.stderr == f"ipcimg: Warning: shared memory segment 1 (key 0x00000002) (and 8 more): {why}\n"
    differences = run(IPCIMG, "diff", tmp_path / "d", f"ns:{target.pid}", status=1).stdout.splitlines()
    assert len(differences) == 3 * (2 + 1 + 2)  # cuid and cgid, of the third creator cgid alone
    assert all("cuid" in line or "cgid" in line for line in differences)


@row("sem_otime")
@pytest.mark.usefixtures("both_loops")
def test_otime(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    def fill() -> None:
        oracle.semaphores(1, [5, 6])
        for n, value in enumerate((0, 1, 32767)):
            semid = oracle.semaphores(n + 2, [0, value])
            oracle.use(semid)
        semid = oracle.semaphores(9, [32766])
        oracle.use(semid)
        oracle.check(_libc.semctl(semid, 0, 16, 32767))  # SETVAL
        oracle.set_variable("kernel/sem", "250 32000 1 128")  # not two operations at once

    source.do(fill)
    carry(source, target, tmp_path / "d", "--strict")
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    assert restored == original
    assert [row["used"] for row in original["sem"].values()] == [False, True, True, True, True]  # type: ignore[attr-defined]


def test_criu_s_images_do_not_tell_otime(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: [oracle.semaphores(n + 1, [n]) for n in range(3)])
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--criu-exact")
    why = "semaphore set 0 (key 0x00000001) (and 2 more): restored as never used, since the images do not tell its "
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", "--strict")
    assert line.startswith(f"refused by --strict: {why}")
    assert why in ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d").stderr


@row("SHM_LOCKED")
def test_locked(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.lock(oracle.segment(1, 3 * PAGE, [(PAGE, b"locked")])))
    carry(source, target, tmp_path / "d")
    restored = target.do(oracle.everything)
    assert restored == source.do(oracle.everything)
    assert restored["shm"][0]["perms"] == 0o2600  # type: ignore[index]


# ---- segments that only attachments keep alive -----------------------------------------------


@pytest.fixture
def removed(source: Namespace) -> Iterator[Namespace]:
    """A namespace with a segment that was removed and is still attached, and an ordinary one."""

    def fill() -> int:
        shmid = oracle.segment(0x99, 2 * PAGE, [(0, b"still here")], mode=0o640)
        address = oracle.attach(shmid)
        oracle.segment(0x9A, PAGE, [(0, b"ordinary")])
        oracle.remove("shm", shmid)
        return address

    address = source.do(fill)
    yield source
    source.do(lambda: oracle.detach(address))


def wait_for_end(pid: int) -> None:
    """Until it has ended, be it a zombie that its new parent does not look after."""
    _until(lambda: not os.path.exists(f"/proc/{pid}/ns/ipc"))


@row("SHM_DEST")
def test_held_until_attached(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    pidfile = tmp_path / "pid"
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", "--strict", "--pidfile", pidfile)
    holder = int(pidfile.read_text())
    assert done.stdout.splitlines()[1:] == [f"process {holder} keeps segments attached: 0"]
    # Readers attach it too; that must not make the holder let it go.
    for _ in range(3):
        same(tmp_path / "d", f"ns:{target.pid}")
    time.sleep(0.2)
    assert target.do(lambda: oracle.rows("shm")) == removed.do(lambda: oracle.rows("shm"))
    assert target.do(lambda: oracle.table("shm"))[0]["nattch"] == 1
    address = target.do(lambda: oracle.attach(0))
    wait_for_end(holder)
    assert target.do(lambda: oracle.table("shm"))[0]["nattch"] == 1
    assert ctypes.string_at(address, 10) == b"still here"
    target.do(lambda: oracle.detach(address))
    assert list(target.do(lambda: oracle.table("shm"))) == [1]  # as the source would have it


@row("SHM_DEST")
def test_holder_ends_on_demand(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    done = json.loads(ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", "--report", "-").stdout)
    assert done["held"] == [0]
    os.kill(done["holder"], signal.SIGTERM)
    wait_for_end(done["holder"])
    assert list(target.do(lambda: oracle.table("shm"))) == [1]


@row("SHM_DEST")
def test_removed_without_a_holder(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    loss = "shared memory segment 0 was removed while still attached, and is restored as an ordinary one"
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", "--strict")
    assert line == f"refused by --strict: {loss} (--hold keeps it as it was)"
    assert target.do(lambda: oracle.table("shm")) == {}
    done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert done.stderr.startswith(f"ipcimg: Warning: {loss}")
    assert target.do(lambda: oracle.content(0, 10)) == removed.do(lambda: oracle.content(0, 10)) == b"still here"


@row("SHM_DEST")
def test_pidfile_that_cannot_be_written(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", "--pidfile", "/dev/full")
    assert line == "writing /dev/full: No space left on device"
    assert target.do(lambda: oracle.table("shm")) == {}
    assert target.users() == []


@row("SHM_DEST")
def test_failed_restore_leaves_no_holder(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    """What fails is the last step, the settings: by then the holder is at work."""
    read_only = "mount --bind /proc/sys/fs /proc/sys/fs && mount -o remount,bind,ro /proc/sys/fs"
    removed.do(lambda: oracle.set_variable("fs/mqueue/msg_max", 77))
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    command = ["unshare", "-m", "sh", "-c", f'{read_only} && exec "$@"', "sh", *IPCIMG]
    done = run(command, "restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", status=1)
    assert "Read-only file system" in done.stderr
    assert target.do(lambda: oracle.table("shm")) == {}
    assert target.users() == []


@row("shm_rmid_forced")
@pytest.mark.parametrize("hold", [True, False])
def test_rmid_forced(source: Namespace, target: Namespace, tmp_path: Path, hold: bool) -> None:
    """Two segments: one attached; one not, but its creator lives."""
    creator = subprocess.Popen(
        [
            "nsenter",
            f"--ipc={source.path}",
            "perl",
            "-e",
            "shmget(0x9A, 4096, 01600) // die; print qq(made\\n); sleep 3600",
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "PERL_UNBUFFERED": "1"},
    )
    try:
        _until(lambda: list(source.do(lambda: oracle.table("shm"))) == [0])
        attached = source.do(lambda: oracle.segment(0x99, PAGE, [(0, b"attached")]))
        address = source.do(lambda: oracle.attach(attached))
        source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
        assert source.do(oracle.variables)["kernel/shm_rmid_forced"] == "1"
        assert list(source.do(lambda: oracle.table("shm"))) == [0, attached]
        loss = (
            "kernel.shm_rmid_forced is left at 0: setting it to 1 would destroy segments that nobody has attached yet"
        )
        if not hold:
            line = refused("restore", "-t", target.pid, "-D", tmp_path / "d", "--strict")
            assert line == f"refused by --strict: {loss}"
            assert ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d").stderr == f"ipcimg: Warning: {loss}\n"
            assert target.do(oracle.variables)["kernel/shm_rmid_forced"] == "0"
            return
        target.do(lambda: oracle.segment(0x77, PAGE, [(0, b"was there")], wanted=32768 * 3 + 9))
        done = ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", "--strict", "--report", "-")
        result = json.loads(done.stdout)
        assert result["held"] == [0, 1, 32768 * 3 + 9]
        same(tmp_path / "d", f"ns:{target.pid}", "--only", "var")
        assert target.do(oracle.variables)["kernel/shm_rmid_forced"] == "1"
        assert list(target.do(lambda: oracle.table("shm"))) == [0, 1, 32768 * 3 + 9]
        addresses = [target.do(lambda n=n: oracle.attach(n)) for n in result["held"]]  # type: ignore[misc]
        wait_for_end(result["holder"])
        assert [row["nattch"] for row in target.do(lambda: oracle.table("shm")).values()] == [1, 1, 1]
        for one in addresses:
            target.do(lambda one=one: oracle.detach(one))  # type: ignore[misc]
        assert target.do(lambda: oracle.table("shm")) == {}
    finally:
        creator.kill()
        creator.wait()
        source.do(lambda: oracle.detach(address))


# ---- larger than memory ----------------------------------------------------------------------


def test_segment_larger_than_memory(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """It can be made with SHM_NORESERVE alone, which nobody can see later."""
    size = 1 << 44
    source.do(lambda: oracle.segment(1, size, [(size // 2, b"middle")], flags=0o10000))
    carry(source, target, tmp_path / "d")
    address = target.do(lambda: oracle.attach(0))
    assert ctypes.string_at(address + size // 2, 6) == b"middle"
    target.do(lambda: oracle.detach(address))


# ---- two at once -----------------------------------------------------------------------------


@pytest.mark.slow
def test_one_ipcimg_at_a_time(source: Namespace, tmp_path: Path) -> None:
    """Each would take the settings that the other has changed for a time for the real ones."""
    source.do(lambda: oracle.queue(1))
    with open(source.path) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        why = f"is locked by process {os.getpid()}: is another ipcimg at work?"
        target = ("-t", source.pid, "-D", tmp_path / "d")
        assert refused("dump", *target) == f"the IPC namespace of process {source.pid} {why}"
        assert not (tmp_path / "d").exists()
        fcntl.flock(other, fcntl.LOCK_UN)
        ipcimg("dump", *target)
        fcntl.flock(other, fcntl.LOCK_SH)
        assert refused("restore", *target, "--into-free-ids").endswith(why)


@row("shm_rmid_forced")
@row("SHM_DEST")
@pytest.mark.slow
def test_two_holders(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Neither takes the other for a user; when one has let go the other stays."""
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--hold")
    target.do(lambda: [oracle.segment(0x1000 + n, PAGE) for n in range(300)])
    removed.do(lambda: oracle.remove("shm", 1))
    removed.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "e")
    arguments = ("-D", tmp_path / "e", "--into-free-ids", "--hold", "--strict")
    second = json.loads(ipcimg("restore", "-t", target.pid, *arguments, "--report", "-").stdout)
    assert len(second["held"]) == 303
    time.sleep(1)
    assert len(target.do(lambda: oracle.table("shm"))) == 303
    assert {row["nattch"] for row in target.do(lambda: oracle.table("shm")).values()} == {1}
    for pid in target.users():
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)


# ---- whoever runs it, and however it ends --------------------------------------------------------


def python(program: str, *arguments: object, status: int) -> subprocess.CompletedProcess[str]:
    """A Python program that does something around a command of ipcimg."""
    head = "import os, signal, sys\nfrom ipcimg import cli, var\n"
    return run((sys.executable, "-c", head + program), *arguments, status=status)


def test_signal_in_the_last_step(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    """With the settings being made and a holder at work: all or nothing."""
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    program = (
        "apply = var.apply\n"
        "def interrupted(*arguments, **options):\n"
        "    var.apply = apply; os.kill(os.getpid(), signal.SIGTERM); apply(*arguments, **options)\n"
        "var.apply = interrupted\n"
        "sys.exit(cli.main())"
    )
    before = target.do(oracle.variables)
    done = python(program, "restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", status=128 + 15)
    assert done.stderr.endswith("Error: ended by SIGTERM\n")
    assert target.do(lambda: oracle.table("shm")) == {}
    assert target.do(oracle.variables) == before
    assert target.users() == []


@pytest.mark.slow
def test_warnings_that_nobody_reads(source: Namespace, tmp_path: Path) -> None:
    """They change nothing else: neither whether COMMAND is run nor the status."""
    source.do(lambda: oracle.semaphores(1, [1]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--criu-exact")
    ran = tmp_path / "ran"
    for n, redirection in enumerate(("2>/dev/full", "2> >(true)")):
        command = f'"$@" {redirection}'
        restore = (*IPCIMG, "restore", "--new-ns", "-D", tmp_path / "d", "--", "touch", f"{ran}{n}")
        run(("bash", "-c", command, "sh", *map(str, restore)))
        assert Path(f"{ran}{n}").exists()
        diff = (*IPCIMG, "diff", tmp_path / "d", tmp_path / "nothing")
        run(("bash", "-c", command, "sh", *map(str, diff)), status=2)


def test_diff_opens_both_before_it_enters_one(source: Namespace, target: Namespace) -> None:
    source.do(lambda: oracle.queue(1))
    inside = ("nsenter", f"--ipc={target.path}", *IPCIMG, "diff", f"ns:{source.pid}", "ns:/proc/self/ns/ipc")
    assert "message queue 0 (key 0x00000001) is only in" in run(inside, status=1).stdout


@row("creator")
def test_creators_without_cap_sys_admin(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """What belongs to another creator could not be removed again."""
    source.do(fill_created)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    inside = ("nsenter", f"--ipc={target.path}", "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    done = run((*inside, *IPCIMG), "restore", "-D", tmp_path / "d")
    assert "made by whoever restores it" in done.stderr
    assert len(target.do(lambda: oracle.table("msg"))) == 4


AMBIENT = "+sys_admin,+checkpoint_restore,+ipc_owner,+dac_override,+sys_ptrace,+setuid,+setgid"


@row("creator")
@pytest.mark.slow
def test_somebody_with_ambient_capabilities(source: Namespace, tmp_path: Path) -> None:
    """Who is not root loses them with the effective ids; the command is to have them."""
    source.do(fill_created)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    some = AMBIENT.removesuffix(",+sys_resource")
    user = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", f"--inh-caps={some}", f"--ambient-caps={some}")
    command = ("--", "sh", "-c", "grep CapAmb /proc/self/status; cat /proc/sysvipc/msg")
    lines = run(
        (*user, *IPCIMG), "restore", "--new-ns", "-D", tmp_path / "d", "--no-vars", *command
    ).stdout.splitlines()
    assert int(lines[1].split()[1], 16).bit_count() == some.count("+")
    assert [line.split()[9:11] for line in lines[3:]] == [["0", "0"], ["1001", "1234"], ["0", "5"], ["65534", "65534"]]


@row("SHM_DEST")
@pytest.mark.slow
def test_who_ignores_sigchld(removed: Namespace, target: Namespace, tmp_path: Path) -> None:
    removed.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    ignoring = ("perl", "-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV", *IPCIMG)
    run(ignoring, "dump", "-t", removed.pid, "-D", tmp_path / "d", "--only", "shm")
    removed.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 0))
    run(ignoring, "restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", "--strict")
    [holder] = target.users()
    os.kill(holder, signal.SIGTERM)
    wait_for_end(holder)


@row("SHM_DEST")
@pytest.mark.slow
def test_holder_of_a_command_ends_after_it(removed: Namespace, tmp_path: Path) -> None:
    """Nobody else can ever get into its namespace; but children of the command are in it as well."""
    ipcimg("dump", "-t", removed.pid, "-D", tmp_path / "d")
    pidfile = tmp_path / "pid"
    command = ("--", "sh", "-c", "sleep 2.5 >/dev/null & exit 0")
    ipcimg("restore", "--new-ns", "-D", tmp_path / "d", "--hold", "--pidfile", pidfile, *command)
    holder = int(pidfile.read_text())
    time.sleep(1.5)
    assert Path(f"/proc/{holder}/comm").read_text() == "ipcimg-hold\n"
    wait_for_end(holder)


@row("shm_rmid_forced")
def test_removed_while_it_is_held(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.segment(1, PAGE, [(0, b"x")]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    target.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    done = json.loads(
        ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d", "--hold", "--no-vars", "--report", "-").stdout
    )
    target.do(lambda: oracle.remove("shm", 0))
    wait_for_end(done["holder"])
    assert target.do(lambda: oracle.table("shm")) == {}
