"""A dump is of one moment, or it says that it is not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ipcimg as library
from ipcimg import freeze, imageset, loops
from ipcimg.dump import living

from ..commands import IPCIMG, SHOW, ipcimg, refused, run
from . import oracle
from .oracle import Namespace, cgroup, is_frozen, state

DUMPS = 200


@pytest.fixture(scope="session")
def racer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/kernel/racer.c, compiled."""
    program = tmp_path_factory.mktemp("racer") / "racer"
    subprocess.run(["gcc", "-O2", "-Wall", "-pthread", "-o", program, Path(__file__).parent / "racer.c"], check=True)
    return program


@contextlib.contextmanager
def racing(program: Path, namespace: Namespace, *arguments: object) -> Iterator[int]:
    """A racer in the namespace, as a process of its own."""
    command = ["nsenter", f"--ipc={namespace.path}", str(program), *map(str, arguments)]
    user = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert user.stdout is not None
    try:
        assert user.stdout.readline() == b"on\n"
        yield user.pid
        assert user.poll() is None, "the racer has ended by itself"
    finally:
        user.kill()
        user.wait()
        user.stdout.close()


def word(segment: library.SharedMemory, offset: int) -> int:
    view = bytearray(8)
    for extent in segment.extents:
        if extent.offset <= offset < extent.offset + extent.length:
            extent.read_into(memoryview(view), offset - extent.offset)
    return int.from_bytes(view, "little")


def numbers(directory: Path) -> list[int]:
    """What the racer's places hold in a dump; the queue's is left out where it is empty."""
    contents = library.load(directory)
    [first, second] = sorted(contents.segments, key=lambda one: one.permissions.key)
    [queue], [semaphores] = contents.queues, contents.semaphores

    segments = [word(first, 0), word(first, first.size - 4096), word(second, 0)]
    return [
        *segments,
        *(int.from_bytes(message.body, "little") for message in queue.messages),
        # The last is at most one less than the first, and known modulo 32768.
        segments[0] - (segments[0] - semaphores.values[0]) % 32768,
    ]


def of_one_moment(found: list[int]) -> bool:
    return (
        found == sorted(found, reverse=True)
        and found[0] - found[-1] <= 1
        and (len(found) == 5 or len(set(found[:3])) == 1)
    )


def consistency(directory: Path) -> library.Consistency:
    made = imageset.open_set(str(directory)).manifest
    assert made is not None
    assert made.consistency is not None
    return made.consistency


def many_dumps(
    make_namespace: Callable[[], Namespace],
    racer: Path,
    tmp_path: Path,
    spaces: int,
    pace: tuple[int, ...],
    *options: str,
) -> Counter[str]:
    """Dump so many namespaces in use, again and again; how often with what result."""

    def dump(space: int) -> Counter[str]:
        results: Counter[str] = Counter()
        namespace = make_namespace()
        with racing(racer, namespace, *pace):
            for n in range(DUMPS // spaces):
                directory = tmp_path / f"{space}-{n}"
                call = [*IPCIMG, "dump", "-t", str(namespace.pid), "-D", str(directory), *options]
                done = subprocess.run(call, capture_output=True, text=True, check=False)
                if done.returncode:
                    results["refused"] += 1
                    assert re.fullmatch(
                        "ipcimg: Error: .*(in use all the time|changed|was written|went).*\n", done.stderr
                    )
                    assert not directory.exists()
                    continue
                how = consistency(directory).how
                results[how if of_one_moment(numbers(directory)) else f"{how}, and is not"] += 1
        return results

    with ThreadPoolExecutor(spaces) as pool:
        return sum(pool.map(dump, range(spaces)), Counter())


@pytest.mark.exhaustive
def test_racing_writers(
    make_namespace: Callable[[], Namespace], racer: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Users that rest now and then: what claims to be of one moment is."""
    results = many_dumps(make_namespace, racer, tmp_path, 4, (1500, 1500))
    record_property("nothing lost", f"{DUMPS} dumps beside racing writers: {dict(results)}")
    assert sum(results.values()) == DUMPS
    assert results["checked"] > 0, results
    assert set(results) <= {"checked", "refused"}, results  # how many are refused depends on the ends of seconds


@pytest.mark.exhaustive
def test_racing_writers_are_frozen(
    make_namespace: Callable[[], Namespace], racer: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Users that never rest: all dumps succeed, and are of one moment."""
    results = many_dumps(make_namespace, racer, tmp_path, 8, (), "--freeze")
    record_property("nothing lost", f"{DUMPS} dumps of frozen racing writers: {dict(results)}")
    assert results == {"frozen": DUMPS}


def test_the_judge_of_races_can_say_no() -> None:
    assert of_one_moment([7, 7, 7, 6, 6])
    assert of_one_moment([7, 7, 7, 6])
    for wrong in ([7, 7, 7, 6, 5], [7, 8, 7, 7, 7], [7, 7, 6, 6], [9, 7, 7, 7, 7]):
        assert not of_one_moment(wrong)


# ---- without stopping anybody --------------------------------------------------------------


def test_how_is_recorded(source: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "checked")
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "frozen", "--freeze")
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "told", "--frozen-by-caller")
    library.save(library.load(tmp_path / "told"), tmp_path / "copied")
    lines = {
        "checked": "consistency  of one moment: nothing was used while it was read",
        "frozen": "consistency  of one moment: all users were stopped",
        "told": "consistency  of one moment by the caller's word, who had stopped all users",
    }
    for name, line in lines.items():
        assert line in run(SHOW, tmp_path / name).stdout.splitlines()
    assert "\nconsistency " not in run(SHOW, tmp_path / "copied").stdout


def test_attached_segments_are_read_twice(source: Namespace, tmp_path: Path) -> None:
    attach = "from tests.kernel import oracle; oracle.attach(0); print(flush=True); input()"
    source.do(lambda: oracle.segment(1, 3 << 20, [(0, b"one"), (2 << 20, b"x" * 5000)]))
    source.do(lambda: oracle.segment(2, 4096, [(0, b"two")]))
    command = ["nsenter", f"--ipc={source.path}", sys.executable, "-c", attach]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "\n"
        for option, how, compared in (
            ((), "checked", 1),
            (("--freeze",), "frozen", 0),
            (("--frozen-by-caller",), "frozen-by-caller", 0),
        ):
            ipcimg("dump", "-t", source.pid, "-D", tmp_path / how, *option)
            assert consistency(tmp_path / how) == library.Consistency(how, compared)
        user.communicate("\n")


@pytest.mark.slow
def test_objects_in_use(source: Namespace, racer: Path, tmp_path: Path) -> None:
    """Their user may be off the processor for as long as one dump takes, but not for five."""
    in_use = (
        r"ipcimg: Error: (message queue|semaphore set) 0 .* is in use all the time; stop its users, or say --freeze\n"
    )
    lines = []
    with racing(racer, source):
        for n in range(5):
            call = [*IPCIMG, "dump", "-t", str(source.pid), "-D", str(tmp_path / str(n))]
            lines.append(subprocess.run(call, capture_output=True, text=True, check=False).stderr)
            assert (tmp_path / str(n)).exists() == (not lines[-1])
            assert lines[-1] or of_one_moment(numbers(tmp_path / str(n)))
    assert any(re.fullmatch(in_use, line) for line in lines), lines


@pytest.mark.slow
def test_allow_inconsistent(source: Namespace, racer: Path, tmp_path: Path) -> None:
    """The dump is made, says what moved, and can be restored."""
    source.do(something_to_read)
    with racing(racer, source):
        done = ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--allow-inconsistent")
    assert (
        "ipcimg: Warning: not of one moment: shared memory segment 0 was written while the namespace was read\n"
        in done.stderr
    )
    found = consistency(tmp_path / "d")
    assert found.how == "inconsistent"
    assert {f"ipcimg: Warning: not of one moment: {moved}" for moved in found.moved} == set(done.stderr.splitlines())
    shown = run(SHOW, tmp_path / "d").stdout
    assert "\nconsistency  NOT of one moment" in shown
    assert all(f"\n{'':12} {moved}\n" in shown for moved in found.moved)
    assert "; NOT of one moment: " in ipcimg("verify", tmp_path / "d").stdout
    restore = ("restore", "--new-ns", "-D", tmp_path / "d", "--", "true")
    warning = f"the images are not of one moment: {len(found.moved)} things moved while they were dumped"
    assert f"ipcimg: Warning: {warning}" in ipcimg(*restore).stderr
    assert f"refused by --strict: {warning}" in refused("restore", "--strict", *restore[1:])


def something_to_read() -> None:
    """Reading takes so long that others come to run meanwhile."""
    for _ in range(200):
        oracle.queue(messages=[(1, b"m" * 100)] * 100)


CAME_OR_WENT = r"shared memory segment \d+ (came|went) while the namespace was read \(tried 3 times\); stop its users.*"
# There is always one segment, and soon it is another.
CHURN = (
    "import ctypes; l = ctypes.CDLL(None); i = -1; print(flush=True)\n"
    "while True: j, i = i, l.shmget(0, 4096, 0o1600); l.shmctl(j, 0, None)"
)


@contextlib.contextmanager
def churning(namespace: Namespace) -> Iterator[None]:
    """A process that makes and removes segments all the time."""
    command = ["nsenter", f"--ipc={namespace.path}", sys.executable, "-c", CHURN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as user:
        try:
            assert user.stdout is not None
            assert user.stdout.readline() == b"\n"
            yield
        finally:
            user.kill()


@pytest.mark.slow
def test_visitors_of_a_segment(source: Namespace, racer: Path, tmp_path: Path) -> None:
    """Whoever attaches it for a moment only, while it is read or between, is noticed."""
    with racing(racer, source, "visits"):
        source.do(something_to_read)
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d")
        # The one if it has a visitor when it is looked at, the other if it had one in between.
        assert re.match(r"shared memory segment 0 (\(key 0x00000001\) changed|was written while)", line)
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--freeze")
        contents = library.load(tmp_path / "d")
        [segment] = [one for one in contents.segments if one.permissions.key == 1]
        assert word(segment, 0) - word(segment, segment.size - 4096) in (0, 1)


def test_settings_that_change(source: Namespace) -> None:
    why = r"^kernel\.msgmnb was changed while"
    with library.of_process(source.pid) as one, pytest.raises(library.ChangedError, match=why), living(one):
        source.do(lambda: oracle.set_variable("kernel/msgmnb", 12345))


@pytest.mark.slow
def test_objects_that_come_and_go(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are noticed; the dump is tried again, and told as inconsistent where that is allowed."""
    monkeypatch.setattr(loops, "c", None)  # with the loops in C there is hardly time for anything to come or go
    source.do(lambda: [oracle.queue(messages=[(1, b"m" * 100)] * 100) for _ in range(20)])
    with churning(source):
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d")
        assert re.fullmatch(CAME_OR_WENT, line)
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--allow-inconsistent")
        assert consistency(tmp_path / "d").how == "inconsistent"
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "e", "--freeze")
        ipcimg("verify", tmp_path / "e")


def test_the_caller_s_word_is_not_taken_against_what_shows(source: Namespace, racer: Path, tmp_path: Path) -> None:
    source.do(something_to_read)
    with churning(source):
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
        assert re.fullmatch(CAME_OR_WENT, line)


# ---- freezing ------------------------------------------------------------------------------


def cpu(pid: int) -> int:
    """The time a process has had, in ticks."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


def rests(pid: int) -> bool:
    before = cpu(pid)
    time.sleep(0.1)
    return cpu(pid) == before


def test_everybody_is_stopped_and_goes_on(source: Namespace, racer: Path) -> None:
    with racing(racer, source) as pid, library.of_process(source.pid) as namespace:
        assert not rests(pid)
        with freeze.frozen(namespace) as frozen:
            assert [state(one) for one in (pid, source.pid)] == ["t", "t"]
            assert rests(pid)
            assert frozen.moved() is None
            with open(f"/proc/{pid}/maps") as maps:
                [mapping] = [line.split()[0] for line in maps if "/SYSV00000001" in line]
            assert frozen.attachments(os.stat(f"/proc/{pid}/map_files/{mapping}")) == 1
            assert frozen.attachments(None) == 0
        assert not rests(pid)
        assert state(source.pid) == "S"


def test_a_thread_is_enough(source: Namespace, tmp_path: Path) -> None:
    """All threads are stopped where one of them is in the namespace, whichever namespace the others are in."""
    program = (
        "import ctypes, os, sys, threading, time\n"
        "def work():\n"
        "    ctypes.CDLL(None).setns(os.open(sys.argv[1], os.O_RDONLY), 0)\n"
        "    print(flush=True); time.sleep(1000)\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "while True: pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, source.path], stdout=subprocess.PIPE) as user:
        try:
            assert user.stdout is not None
            assert user.stdout.readline() == b"\n"
            with library.of_process(source.pid) as namespace, freeze.frozen(namespace):
                assert rests(user.pid)
            assert not rests(user.pid)
        finally:
            user.kill()


def test_processes_that_are_born_all_the_time(source: Namespace) -> None:
    program = "import os\nwhile True:\n    if os.fork() == 0: os._exit(0)\n    os.wait()"
    user = subprocess.Popen(["nsenter", f"--ipc={source.path}", sys.executable, "-c", program])
    try:
        time.sleep(0.3)
        for _ in range(5):
            with library.of_process(source.pid) as namespace, freeze.frozen(namespace) as frozen:
                assert rests(user.pid)
                assert frozen.moved() is None
    finally:
        user.kill()
        user.wait()


@pytest.mark.slow
def test_execve_beside_threads(source: Namespace, racer: Path) -> None:
    """The thread that calls it waits for all others to be gone, and whoever seizes one waits for that thread."""
    stopped = 0
    with racing(racer, source, "exec") as pid, library.of_process(source.pid) as namespace:
        for _ in range(20):
            with contextlib.suppress(library.ChangedError), freeze.frozen(namespace):
                stopped += rests(pid)
        assert not rests(pid)
    assert stopped > 0


def test_parent_in_vfork(source: Namespace, racer: Path) -> None:
    """It cannot stop while its child is stopped: then everybody is let go, and it is tried again."""
    with racing(racer, source, "vfork") as pid, library.of_process(source.pid) as namespace:
        for _ in range(5):
            with freeze.frozen(namespace) as frozen:
                assert frozen.moved() is None
            assert state(pid) in "RSD"


def test_those_who_come_later_are_noticed(source: Namespace, racer: Path) -> None:
    with library.of_process(source.pid) as namespace, freeze.frozen(namespace) as frozen, racing(racer, source) as pid:
        found = frozen.moved()
        assert str(found) == f"process {pid} is in the namespace and was not stopped"


def test_a_stopped_process_stays_stopped(source: Namespace) -> None:
    os.kill(source.pid, signal.SIGSTOP)
    with library.of_process(source.pid) as namespace, freeze.frozen(namespace):
        assert state(source.pid) == "t"
    until = time.monotonic() + 5
    while state(source.pid) != "T":
        assert time.monotonic() < until
    os.kill(source.pid, signal.SIGCONT)


def test_names_that_are_no_text(source: Namespace) -> None:
    """The kernel cuts the name of a process where it cuts it."""
    name = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'caf\\xc3'); print(flush=True); time.sleep(1000)"
    command = ["nsenter", f"--ipc={source.path}", sys.executable, "-c", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as user, library.of_process(source.pid) as namespace:
        assert user.stdout is not None
        user.stdout.readline()
        try:
            with freeze.frozen(namespace):
                assert state(user.pid) == "t"
        finally:
            user.kill()


@pytest.mark.slow
def test_a_signal_is_not_lost(source: Namespace, tmp_path: Path) -> None:
    """Those that come before, while and after a process is stopped all arrive."""
    program = (
        "import signal, sys, time\nn = 0\n"
        "def count(*_):\n    global n\n    n += 1; print(n, flush=True)\n"
        # One that comes just before pause(2) would be told of by the next one alone.
        "signal.signal(signal.SIGUSR1, count)\nprint(0, flush=True)\nwhile True: time.sleep(0.02)"
    )
    command = ["nsenter", f"--ipc={source.path}", sys.executable, "-c", program]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user,
        library.of_process(source.pid) as namespace,
    ):
        assert user.stdout is not None
        assert user.stdout.readline() == "0\n"
        for n in range(1, 30):
            if n % 2:
                user.send_signal(signal.SIGUSR1)
            with freeze.frozen(namespace):
                if not n % 2:
                    user.send_signal(signal.SIGUSR1)
            assert user.stdout.readline() == f"{n}\n"
        user.kill()


HOLD = (
    "import sys, time; from ipcimg import freeze, interrupts, namespace\n"
    "with interrupts.handled(), namespace.of_process(int(sys.argv[1])) as one, freeze.frozen(one) as frozen:\n"
    "    print(frozen.freezer, flush=True); time.sleep(1000)"
)


@pytest.mark.parametrize("how", ["ptrace", "cgroup"])
@pytest.mark.parametrize("whom", ["ipcimg", "freezer"])
def test_sigkill_lets_everybody_go(source: Namespace, racer: Path, how: str, whom: str) -> None:
    with racing(racer, source) as pid, contextlib.ExitStack() as stack:
        path = stack.enter_context(cgroup(pid, source.pid)) if how == "cgroup" else None
        command = [sys.executable, "-c", HOLD, str(source.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            freezer = int(holder.stdout.readline())
            assert rests(pid)
            assert path is None or is_frozen(path)
            assert path is not None or state(pid) == "t"
            if whom == "freezer":
                os.kill(freezer, signal.SIGKILL)
                holder.terminate()
            else:
                holder.kill()
            holder.wait()
        until = time.monotonic() + 10
        while rests(pid):
            assert time.monotonic() < until


@pytest.mark.slow
def test_what_is_left_frozen_is_thawed(source: Namespace, racer: Path, tmp_path: Path) -> None:
    """Killed together with the freezer, as by cgroup.kill, a dump leaves a cgroup frozen, and a mark on it."""
    for how in ("recover", "dump"):
        with racing(racer, source) as pid, cgroup(pid, source.pid) as path:
            with subprocess.Popen([sys.executable, "-c", HOLD, str(source.pid)], stdout=subprocess.PIPE) as holder:
                assert holder.stdout is not None
                freezer = int(holder.stdout.readline())
                os.kill(freezer, signal.SIGSTOP)  # so that it cannot do anything about our end
                holder.kill()
                holder.wait()
                os.kill(freezer, signal.SIGKILL)
            assert is_frozen(path)
            if how == "recover":
                thawed = f"thawed the cgroup {path}, which a killed dump had left frozen\n"
                done = ipcimg("recover", "-t", source.pid)
                assert done.stdout == f"the IPC namespace of process {source.pid}: {thawed}"
                assert "nothing to recover" in ipcimg("recover", "-t", source.pid).stdout
            else:
                ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--freeze")
            assert not is_frozen(path)
            assert os.listxattr(path) == []


def test_freezer_that_dies_is_noticed(source: Namespace, racer: Path) -> None:
    with racing(racer, source) as pid, library.of_process(source.pid) as one, freeze.frozen(one) as frozen:
        os.kill(frozen.freezer, signal.SIGKILL)
        until = time.monotonic() + 10
        while state(pid) == "t":
            assert time.monotonic() < until
        assert "was not stopped" in str(frozen.moved())


def test_cgroups(source: Namespace, racer: Path) -> None:
    """One that holds users alone is frozen; one with somebody else in it is not, and its users are traced."""
    with racing(racer, source) as pid, library.of_process(source.pid) as namespace:
        with cgroup(pid) as path:
            assert path is not None
            with freeze.frozen(namespace) as frozen:
                assert is_frozen(path)
                assert state(source.pid) == "t"
                assert frozen.moved() is None
            assert not is_frozen(path)
            Path(path, "cgroup.freeze").write_text("1")  # somebody else's doing
            with freeze.frozen(namespace) as frozen:
                assert frozen.moved() is None
            assert is_frozen(path)
            Path(path, "cgroup.freeze").write_text("0")
        with subprocess.Popen(["sleep", "1000"]) as other, cgroup(pid, other.pid) as path:
            assert path is not None
            with freeze.frozen(namespace):
                assert not is_frozen(path)
                assert state(pid) == "t"
                assert state(other.pid) == "S"
            other.kill()


@pytest.mark.slow
def test_attached_from_outside(source: Namespace, racer: Path, tmp_path: Path) -> None:
    """Who has left the namespace and kept a segment is not stopped; the segment is read twice."""
    source.do(something_to_read)
    with racing(racer, source, "outside"):
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--freeze")
        assert line.startswith("shared memory segment 0 was written while the namespace was read (tried 3 times)")


def test_traced_by_somebody_else(source: Namespace, tmp_path: Path) -> None:
    tracer = subprocess.Popen(["strace", "-o", tmp_path / "log", "-p", str(source.pid)], stderr=subprocess.PIPE)
    try:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--freeze")
        assert line.endswith(f"of process {source.pid}: process {source.pid} is traced by process {tracer.pid}")
    finally:
        tracer.terminate()
        tracer.communicate()


def test_the_machine_s_own_namespace(tmp_path: Path) -> None:
    if os.stat("/proc/self/ns/ipc").st_ino != 0xEFFFFFFF:
        pytest.fail("the tests do not run in the machine's own IPC namespace: NOT TESTED")
    line = refused("dump", "-D", tmp_path / "d", "--freeze")
    assert line == "to freeze the machine's own IPC namespace would stop the machine"
