"""A pod on the real kernel, with cgroups of both versions, and a runtime that only copies. tests/vm has a real one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipcimg as package
from ipcimg import bystanders, interrupts
from ipcimg.pod import dump, restore
from ipcimg.restore import Restored
from tests.commands import IPCIMG, ipcimg, refused, report, run, same
from tests.test_criudump import ids, inventory

from . import oracle
from .oracle import Namespace

# A process that sleeps for 0.2 ms is never seen asleep on an emulated processor; tests/vm has a real runtime there.
pytestmark = pytest.mark.slow

NAMES = ("first", "second")
N = 11  # the number of CRIU's set
_TIMEOUT = 30  # seconds
MARKS = {1: "trusted.ipcimg-frozen", 2: "user.ipcimg-frozen"}


@pytest.fixture(params=[1, 2], ids=["cgroup v1", "cgroup v2"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def hierarchy(version: int, tmp_path: Path) -> Iterator[Path]:
    """Where the freezer of a version is mounted; where it is not, it is for the test. Any kernel since 4.5 has both."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            mount, _, kind = line.partition(" - ")
            v1, v2 = (
                kind.startswith("cgroup ") and "freezer" in kind.split()[-1].split(","),
                kind.startswith("cgroup2 "),
            )
            if mount.split()[3] == "/" and (v1 if version == 1 else v2):
                yield Path(mount.split()[4])
                return
    place = tmp_path / "cgroups"
    place.mkdir()
    how = ("-t", "cgroup", "-o", "freezer") if version == 1 else ("-t", "cgroup2")
    subprocess.run(["mount", *how, "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


class Containers:
    """Processes in a namespace, each in a cgroup of its own; and a runtime that dumps them by copying what there is."""

    def __init__(self, namespace: Namespace, hierarchy: Path, version: int, scratch: Path) -> None:
        self.namespace, self.version, self.scratch = namespace, version, scratch
        self.directory, self.prepared, self.log = scratch / "pod", scratch / "prepared", scratch / "log"
        self.parent = hierarchy / f"ipcimg-pod-{os.getpid()}"
        self.parent.mkdir()
        self.processes = {name: self._start(name) for name in NAMES}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["nsenter", f"--ipc={self.namespace.path}", "sleep", "3600"])
        self.cgroup(name).mkdir()
        self.put(process.pid, self.cgroup(name))
        inode = os.stat(self.namespace.path).st_ino
        until(lambda: os.stat(f"/proc/{process.pid}/ns/ipc").st_ino == inode)
        return process

    def cgroup(self, name: str) -> Path:
        return self.parent / name

    @staticmethod
    def put(pid: int, cgroup: Path) -> None:
        (cgroup / "cgroup.procs").write_text(str(pid))

    def freeze(self, name: str, frozen: bool) -> None:
        control, words = [("freezer.state", ("THAWED", "FROZEN")), ("cgroup.freeze", ("0", "1"))][self.version - 1]
        (self.cgroup(name) / control).write_text(words[frozen])

    def frozen(self) -> list[str]:
        """The containers that are stopped, or about to be."""
        control, running = [("freezer.state", "THAWED\n"), ("cgroup.freeze", "0\n")][self.version - 1]
        return [name for name in NAMES if (self.cgroup(name) / control).read_text() != running]

    def marked(self) -> list[str]:
        return [name for name in NAMES if MARKS[self.version] in os.listxattr(self.cgroup(name))]

    def prepare(self) -> None:
        """What CRIU would dump of the namespace with each container."""
        shutil.rmtree(self.prepared, ignore_errors=True)
        ipcimg(
            "dump", "-t", self.namespace.pid, "-D", self.prepared, "--ns-id", N, "--criu-exact", "--frozen-by-caller"
        )
        (self.prepared / f"ipcimg-manifest-{N}.img").unlink()
        (self.prepared / "inventory.img").write_bytes(inventory())
        (self.prepared / "ids-1.img").write_bytes(ids(N))

    def runtime(self, more: str = "") -> list[str]:
        """The command that copies; before that it notes what is frozen, and the value of a setting."""
        control = ("freezer.state", "cgroup.events")[self.version - 1]
        script = (
            f'set -e; echo "$1" $(grep -hc -e "frozen 1" -e FROZEN {self.parent}/*/{control}) '
            f"$(nsenter --ipc={self.namespace.path} cat /proc/sys/kernel/shm_rmid_forced) "
            f'$(stat -Lc %i /proc/self/ns/ipc) >>{self.log}; cp {self.prepared}/* "$2"; {more}'
        )
        return ["--", "sh", "-c", script, "sh", "{}", "{dir}"]

    def dump_arguments(self, *options: object) -> list[object]:
        containers = [f"--container={name}:{process.pid}" for name, process in self.processes.items()]
        return ["pod", "dump", "-t", self.namespace.pid, "-D", self.directory, *containers, *options]

    def close(self) -> None:
        for name in NAMES:
            self.freeze(name, False)
        for process in self.processes.values():
            process.kill()
            process.wait()
        for cgroup in (*map(self.cgroup, NAMES), self.parent):
            until(lambda cgroup=cgroup: removed(cgroup))  # type: ignore[misc]


def removed(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except OSError:
        return False
    return True


def until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + _TIMEOUT
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.fixture
def pod(source: Namespace, hierarchy: Path, version: int, tmp_path: Path) -> Iterator[Containers]:
    source.do(some_objects)
    with contextlib.closing(Containers(source, hierarchy, version, tmp_path)) as containers:
        containers.prepare()
        yield containers
        assert containers.marked() == []


def some_objects() -> None:
    oracle.queue(0x1, messages=[(3, b"one"), (4, b"another")], wanted=99)
    oracle.semaphores(0x2, (5, 6), wanted=98)
    oracle.segment(0x3, 9000, [(5000, b"content")], wanted=97)


def rmid_forced(value: int) -> Callable[[], None]:
    return lambda: oracle.set_variable("kernel/shm_rmid_forced", value)


def test_dump_and_restore(pod: Containers, target: Namespace) -> None:
    said = ipcimg(*pod.dump_arguments(*pod.runtime())).stdout.splitlines()
    home = os.stat("/proc/self/ns/ipc").st_ino
    # The count of each file: both are frozen all the time, and the runtime is where its caller is.
    assert pod.log.read_text() == "".join(f"{name} 1 1 0 {home}\n" for name in NAMES)
    assert said == [
        *(f"checkpointed container {name} into {pod.directory / name}" for name in NAMES),
        "dumped 1 message queue (2 messages), 1 semaphore set, 1 shared memory segment (1 page) into "
        f"{pod.directory}/ipc",
    ]
    assert pod.frozen() == []
    for name in NAMES:
        assert (pod.directory / name / "ipcimg-segments").read_text() == "97 9000\n"
        assert not (pod.directory / name / f"ipcns-shm-{N}.img").exists()

    command = ("--", "sh", "-c", 'echo "$1" "$2" $(stat -Lc %i /proc/self/ns/ipc)', "sh", "{}", "{dir}")
    file = pod.scratch / "restored"
    with file.open("w") as output:
        subprocess.run(
            [*IPCIMG, "pod", "restore", "-t", str(target.pid), "-D", pod.directory, *command], stdout=output, check=True
        )
    lines = file.read_text().splitlines()
    assert lines[1:] == [
        line
        for name in NAMES
        for line in (
            f"{name} {pod.directory / name} {home}",
            f"restored container {name} from {pod.directory / name}",
        )
    ]
    same(pod.directory / "ipc", f"ns:{target.pid}")


def test_undone_by_hand(pod: Containers) -> None:
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    places = [pod.directory / name for name in NAMES]
    said = ipcimg("pod", "detach", "--pod", pod.directory, *places).stdout
    assert said == "".join(f"{place} is detached from {pod.directory}/ipc already\n" for place in places)
    assert ipcimg("pod", "detach", "--undo", *places).stdout == "".join(f"{p} is as CRIU left it\n" for p in places)
    assert (places[0] / f"ipcns-shm-{N}.img").read_bytes() == (pod.prepared / f"ipcns-shm-{N}.img").read_bytes()
    line = refused("pod", "restore", "-t", pod.namespace.pid, "-D", pod.directory)
    assert line.startswith(
        f"container first: {places[0]} is not detached from {pod.directory}/ipc; see `ipcimg pod detach"
    )
    said = ipcimg("pod", "detach", "--pod", pod.directory / "ipc", *places).stdout
    assert said == "".join(f"{place} is detached from {pod.directory}/ipc\n" for place in places)
    assert "nothing to undo" in ipcimg("pod", "detach", "--undo", pod.prepared).stdout


def test_what_programs_are_told(pod: Containers, target: Namespace) -> None:
    log, said = pod.scratch / "pod.log", pod.scratch / "report"
    ipcimg(*pod.dump_arguments("-v4", "--report", said, "-o", log, *pod.runtime()))
    found = report(said.read_text())
    assert (found["command"], found["status"], found["counts"]["queues"]) == ("pod dump", "done", 1)
    assert found["images_dir"] == str(pod.directory)
    containers = [{"name": name, "images_dir": f"{pod.directory}/{name}", "elsewhere": False} for name in NAMES]
    assert found["containers"] == containers
    assert list(found["seconds"]["stages"])[-3] == "containers"
    assert 0 < found["seconds"]["freezing"] < found["seconds"]["total"]
    assert found["seconds"]["stages"]["containers"] < found["seconds"]["frozen"] < found["seconds"]["total"]
    assert f"checkpointed container second into {pod.directory}/second" in log.read_text()
    assert "Dumping finished successfully" in log.read_text()

    read, write = os.pipe()
    arguments = ("-t", target.pid, "-D", pod.directory, "--report", said, "-o", "restore.log", "-v3")
    with subprocess.Popen(
        [*IPCIMG, "pod", "restore", *map(str, arguments), "--status-fd", str(write), "--", "test", "-d", "{dir}"],
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
    ) as process:
        os.close(write)
        assert os.read(read, 2) == b"\0"
        assert process.wait(_TIMEOUT) == 0
    os.close(read)
    found = report(said.read_text())
    assert (found["command"], found["containers"], found["new_ids"]["msg"]) == ("pod restore", containers, {})
    assert "Restoring finished successfully" in (pod.directory / "restore.log").read_text()


def test_the_set_of_a_pod_is_found(pod: Containers) -> None:
    ipcimg(*pod.dump_arguments())
    assert refused("verify", pod.directory).endswith("in it; those of a pod are in ipc, below it")


def test_left_frozen(pod: Containers) -> None:
    ipcimg(*pod.dump_arguments("--leave-frozen"))
    assert pod.frozen() == list(NAMES)
    assert pod.marked() == []
    assert [path.name for path in pod.directory.iterdir()] == ["ipc"]


def test_frozen_before(pod: Containers) -> None:
    """What somebody else has paused stays as it is."""
    pod.freeze("first", True)
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    assert pod.frozen() == ["first"]


def test_gone_by_the_checkpoint(pod: Containers) -> None:
    """The containers end, and their cgroups go, as by a checkpoint that leaves nothing running."""
    for name, process in pod.processes.items():
        (pod.scratch / name).write_text(str(process.pid))
    thaw = "" if pod.version == 2 else f"echo THAWED >{pod.parent}/$1/freezer.state;"
    end = f"{thaw} kill -9 $(cat {pod.scratch}/$1); until rmdir {pod.parent}/$1 2>/dev/null; do sleep 0.01; done"
    ipcimg(*pod.dump_arguments(*pod.runtime(end)))
    assert [pod.cgroup(name).exists() for name in NAMES] == [False, False]
    for name in NAMES:
        pod.cgroup(name).mkdir()


def test_rmid_forced(pod: Containers, target: Namespace) -> None:
    """It is 0 while the runtime attaches segments, and as it was after that; and the last thing that is restored."""
    pod.prepare()  # with 0, as the runtime finds it
    pod.namespace.do(rmid_forced(1))  # which destroys the segment, whose creator has ended
    pod.namespace.do(some_segment)
    keeper = subprocess.Popen(
        ["nsenter", f"--ipc={pod.namespace.path}", sys.executable, "-c", KEEPER, "97"], stdout=subprocess.PIPE
    )
    assert keeper.stdout is not None
    with keeper.stdout:
        assert keeper.stdout.readline() == b"attached\n"
    pod.put(keeper.pid, pod.cgroup("first"))
    try:
        ipcimg(*pod.dump_arguments(*pod.runtime()))
        assert [line.split()[3] for line in pod.log.read_text().splitlines()] == ["0", "0"]
        assert pod.namespace.do(lambda: oracle.variables()["kernel/shm_rmid_forced"]) == "1"
    finally:
        keeper.kill()
        keeper.wait()
    assert package.load(pod.directory / "ipc").variables.shm_rmid_forced == 1
    assert package.load(pod.directory / "first").variables.shm_rmid_forced == 0

    forget = ("--", "nsenter", f"--ipc={target.path}", "sh", "-c", "echo 0 >/proc/sys/kernel/shm_rmid_forced", "{}")
    holder = ipcimg("pod", "restore", "-t", target.pid, "-D", pod.directory, *forget).stdout.splitlines()[1]
    assert holder.endswith(" keeps shared memory segments 97 until somebody attaches them")
    assert target.do(lambda: (oracle.variables()["kernel/shm_rmid_forced"], list(oracle.table("shm")))) == ("1", [97])
    os.kill(int(holder.split()[1]), signal.SIGTERM)


@pytest.fixture
def keeper(pod: Containers) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the first container that has a segment attached, which was removed since."""
    pod.namespace.do(lambda: oracle.segment(0x4, 4096, [(0, b"removed")], wanted=1 << 20))
    with subprocess.Popen(
        ["nsenter", f"--ipc={pod.namespace.path}", sys.executable, "-c", KEEPER, str(1 << 20)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"attached\n"
        pod.put(process.pid, pod.cgroup("first"))
        pod.namespace.do(lambda: oracle.remove("shm", 1 << 20))
        pod.prepare()
        yield process
        process.kill()


def test_removed_segment(pod: Containers, keeper: subprocess.Popen[bytes], target: Namespace) -> None:
    """It is there for the second checkpoint, though the first one has ended all who had it attached."""
    thaw = "" if pod.version == 2 else f"echo THAWED >{pod.cgroup('first')}/freezer.state;"
    maps = f"/proc/{keeper.pid}/maps"  # empty when its memory is gone
    end = f'{thaw} kill -9 {keeper.pid}; while [ -n "$(cat {maps} 2>/dev/null)" ]; do :; done'
    seen = f"nsenter --ipc={pod.namespace.path} cut -c 1-40 /proc/sysvipc/shm | grep -w {1 << 20} >{pod.scratch}/seen"
    ipcimg(*pod.dump_arguments(*pod.runtime(f'if [ "$1" = first ]; then {end}; else {seen}; fi')))
    assert str(1 << 20) in (pod.scratch / "seen").read_text()
    assert list(pod.namespace.do(lambda: oracle.table("shm"))) == [97]  # it has gone with us

    [*_, holder] = ipcimg("pod", "restore", "-t", target.pid, "-D", pod.directory).stdout.splitlines()
    assert holder.endswith(f" keeps shared memory segments {1 << 20} until somebody attaches them")
    assert target.do(lambda: oracle.table("shm")[1 << 20]["perms"]) == 0o1600
    os.kill(int(holder.split()[1]), signal.SIGTERM)


KEEPER = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
assert libc.shmat(int(sys.argv[1]), None, 0) not in (None, (1 << 64) - 1)
print("attached", flush=True)
time.sleep(3600)
"""


def some_segment() -> None:
    # Whoever makes it has to live until it is attached: this process does.
    oracle.segment(0x3, 9000, wanted=97)
    address = oracle.attach(97)
    ctypes.memmove(address + 5000, b"content", 7)
    _attached.append(address)


_attached: list[int] = []


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    while _attached:
        oracle.detach(_attached.pop())


# ---- failures ------------------------------------------------------------------------------


def fails(pod: Containers, *options: object) -> str:
    """A dump that fails, after which everybody goes on; gives why."""
    done = run(IPCIMG, *pod.dump_arguments(*options), status=1)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("ipcimg: Error: ")]
    assert pod.frozen() == []
    assert pod.marked() == []
    return line.removeprefix("ipcimg: Error: ")


def test_second_command_fails(pod: Containers) -> None:
    line = fails(pod, *pod.runtime('[ "$1" = first ] || exit 3'))
    assert line.startswith("container second: `sh -c ")
    assert line.endswith(
        f"ended with status 3; first had been checkpointed before; the set in {pod.directory}/ipc stays, since "
        "containers may have ended"
    )


def test_command_that_is_not_there(pod: Containers, target: Namespace) -> None:
    assert fails(pod, "--", "/nowhere/runtime", "{}") == "/nowhere/runtime: there is no such command"
    assert not pod.directory.exists()
    assert fails(pod, "--", "true") == "`true` is for no container: neither {} nor {dir} is in it"

    ipcimg(*pod.dump_arguments(*pod.runtime()))
    line = refused("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "/nowhere/runtime", "{}")
    assert line == "/nowhere/runtime: there is no such command"
    assert target.do(lambda: oracle.table("msg")) == {}


def test_command_that_is_killed(pod: Containers) -> None:
    assert fails(pod, "--", "sh", "-c", "kill -9 $$", "{}").endswith("was ended by signal 9")


def end(pod: Containers, name: str) -> str:
    """What a runtime has happen to a container that it has checkpointed."""
    thaw = "" if pod.version == 2 else f"echo THAWED >{pod.cgroup(name)}/freezer.state; "
    return f"{thaw}kill -9 {pod.processes[name].pid}"


def is_whole(pod: Containers) -> None:
    ipcimg("verify", pod.directory / "ipc")


def test_container_ends_and_cannot_be_detached(pod: Containers) -> None:
    """What only the set has is lost with it."""
    pod.namespace.do(lambda: oracle.send(99, 5, b"only in the set"))
    line = fails(pod, *pod.runtime(end(pod, "first")))
    assert line.endswith(f"; the set in {pod.directory}/ipc stays, since containers may have ended")
    is_whole(pod)


def test_container_ends_and_the_command_fails(pod: Containers) -> None:
    assert "ended with status 1; the set in " in fails(pod, "--", "sh", "-c", f"{end(pod, 'first')}; false", "{}")
    is_whole(pod)


@pytest.mark.parametrize("how", ["exit 1", "kill -9 $$"])
def test_container_ends_after_the_command(pod: Containers, how: str) -> None:
    line = fails(pod, "--", "sh", "-c", f"(sleep 1; {end(pod, 'first')}) & {how}", "{}")
    assert line.endswith("stays, since containers may have ended")
    is_whole(pod)
    assert pod.processes["first"].wait(_TIMEOUT) == -signal.SIGKILL


def test_signal_after_the_command_has_failed(pod: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(pid: int) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr("ipcimg.pod._is_about_to_be_killed", killed)
    containers = {name: process.pid for name, process in pod.processes.items()}
    with package.of_process(pod.namespace.pid) as one, pytest.raises(interrupts.Interrupted) as ended:
        dump(pod.directory, one, containers, sandbox=pod.namespace.pid, command=["false", "{}"])
    assert str(ended.value) == (
        f"ended by SIGTERM, at container first; the set in {pod.directory}/ipc stays, since containers may have ended"
    )
    is_whole(pod)
    assert pod.frozen() == []


def ignoring_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def test_nobody_tells_of_children(pod: Containers, target: Namespace) -> None:
    """Where SIGCHLD is ignored, a command that fails has failed all the same."""
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    arguments = ("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "false", "{}")
    done = run(IPCIMG, *arguments, status=1, preexec_fn=ignoring_children)
    assert "container first: `false first` ended with status 1" in done.stderr


def test_two_dumps_into_one_directory(pod: Containers, target: Namespace) -> None:
    """The second one leaves alone what the first one has dumped."""
    begun, go_on = pod.scratch / "begun", pod.scratch / "go on"
    command = pod.runtime(f"touch {begun}; until [ -e '{go_on}' ]; do sleep 0.01; done")
    with subprocess.Popen([*IPCIMG, *map(str, pod.dump_arguments(*command))]) as dumping:
        until(begun.exists)
        arguments = pod.dump_arguments()
        arguments[3] = target.pid
        assert refused(*arguments) == f"{pod.directory}: another dump into it is running"
        later = subprocess.Popen([*IPCIMG, *map(str, pod.dump_arguments())], stderr=subprocess.PIPE, text=True)
        go_on.touch()
    _, said = later.communicate()
    assert (dumping.returncode, later.returncode) == (0, 1)
    assert " is not empty: is it of another dump?" in said
    is_whole(pod)


def test_directories_that_others_can_write(pod: Containers, target: Namespace) -> None:
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    pod.directory.chmod(0o777)
    arguments = ("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "echo", "{}")
    assert refused(*arguments) == f"{pod.directory} others can write it (mode 0777); chmod it, if you trust it"
    pod.directory.chmod(0o700)
    names = pod.directory / "ipcimg-containers"
    names.chmod(0o666)
    assert refused(*arguments) == f"{names} others can write it (mode 0666); chmod it, if you trust it"
    shutil.rmtree(pod.directory)
    pod.directory.mkdir()
    pod.directory.chmod(0o777)
    assert fails(pod) == f"{pod.directory} others can write it (mode 0777); chmod it, if you trust it"


def test_signal_when_the_objects_are_made(pod: Containers, target: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is told of."""
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    finished = interrupts.finished
    told: list[Restored] = []

    def with_signal() -> None:
        finished()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(interrupts, "finished", with_signal)
    with package.of_process(target.pid) as one, pytest.raises(interrupts.Interrupted):
        restore(pod.directory, one, command=["false", "{}"], made=told.append)
    assert told[0].counts.queues == 1
    same(pod.directory / "ipc", f"ns:{target.pid}")


def test_what_is_in_the_way(pod: Containers) -> None:
    for name in ("first", "ipc"):
        (pod.directory / name).mkdir(parents=True)
        (pod.directory / name).chmod(0o775)
        line = fails(pod, *pod.runtime(end(pod, "first")))
        assert line == f"{pod.directory}/{name} others can write it (mode 0775); chmod it, if you trust it"
        (pod.directory / name).rmdir()
    (pod.directory / "ipcimg-containers").touch()
    assert fails(pod, *pod.runtime()) == f"{pod.directory}/ipcimg-containers is there: is it of another dump?"
    assert [path.name for path in pod.directory.iterdir()] == ["ipcimg-containers"]


def test_directories_that_were_there(pod: Containers, target: Namespace) -> None:
    """Also behind links; and they stay when a dump fails."""
    for name in ("ipc", "first", "second"):
        (pod.scratch / "big" / name).mkdir(mode=0o700, parents=True)
    pod.directory.mkdir(mode=0o700)
    (pod.directory / "first").symlink_to(pod.scratch / "big/first")
    (pod.directory / "second").mkdir(mode=0o700)
    (pod.directory / "ipc").symlink_to(pod.scratch / "big/ipc")
    assert fails(pod, "--", "false", "{}") == "container first: `false first` ended with status 1"
    assert list((pod.scratch / "big/ipc").iterdir()) == []
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    said = ipcimg("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "true", "{}").stdout.splitlines()
    assert said[1:] == [f"restored container {name} from {pod.directory}/{name}" for name in NAMES]


def test_container_that_is_missing(pod: Containers, target: Namespace) -> None:
    """What a dump did not come to is not left out in silence."""
    fails(pod, *pod.runtime('[ "$1" = first ] || exit 3'))
    arguments = ("pod", "restore", "-t", target.pid, "-D", pod.directory)
    line = refused(*arguments, "--", "echo", "{}")
    assert line.startswith(f"container second: {pod.directory}/second is not detached from {pod.directory}/ipc; see ")
    (pod.directory / "ipcimg-containers").write_text('{"first": 1}')
    assert refused(*arguments) == f"{pod.directory}/ipcimg-containers is not as `ipcimg pod dump` writes it"
    assert target.do(lambda: oracle.table("msg")) == {}
    said = ipcimg(*arguments, "--container", "first", "--", "echo", "{}").stdout
    assert said.endswith(f"restored container first from {pod.directory}/first\n")
    done = run(IPCIMG, *arguments, "--container", "first", "--container", "first", status=2)
    assert done.stderr.endswith("a --container is named twice\n")


def test_two_dumps_at_once(pod: Containers) -> None:
    """The second one lets nobody go whom the first one has frozen."""
    begun, go_on = pod.scratch / "begun", pod.scratch / "go on"
    command = pod.runtime(f"touch {begun}; until [ -e '{go_on}' ]; do sleep 0.01; done")
    with subprocess.Popen([*IPCIMG, *map(str, pod.dump_arguments("--leave-frozen", *command))]) as dumping:
        until(begun.exists)
        first, pod.directory = pod.directory, pod.scratch / "another"
        line = refused(*pod.dump_arguments())
        assert line.startswith(f"the IPC namespace of process {pod.namespace.pid} is locked by process {dumping.pid}: ")
        assert (pod.frozen(), pod.marked()) == (list(NAMES), list(NAMES))
        go_on.touch()
    assert dumping.returncode == 0
    assert pod.frozen() == list(NAMES)
    assert not pod.directory.exists()
    pod.directory = first


@pytest.mark.parametrize("when", ["by the first command", "by the last command", "while the namespace is read"])
def test_somebody_thaws(pod: Containers, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    control, word = [("freezer.state", "THAWED"), ("cgroup.freeze", "0")][pod.version - 1]
    path = pod.cgroup("second") / control
    name = {"by the first command": "first", "by the last command": "second"}.get(when)
    if name is None:
        read = bystanders.Bystanders.expect_idle

        def thaw(self: bystanders.Bystanders) -> None:
            path.write_text(word)
            read(self)

        monkeypatch.setattr(bystanders.Bystanders, "expect_idle", thaw)
    line = fails(pod, "--leave-frozen", *pod.runtime(f'[ "$1" != {name} ] || echo {word} >{path}'))
    assert f"container second goes on: somebody has thawed its cgroup {pod.cgroup('second')} meanwhile" in line
    assert pod.directory.exists() == (name is not None)


def test_runtime_below_a_shell(pod: Containers) -> None:
    """When the command is to end, it may go on below a shell; it is waited for, and what it may need stays."""
    begun = pod.scratch / "begun"
    script = f"sh -c 'sleep 1; {end(pod, 'first')}'; true"
    arguments = pod.dump_arguments("--", "sh", "-c", f"touch {begun}; {script}", "{}")
    with subprocess.Popen([*IPCIMG, *map(str, arguments)], stderr=subprocess.DEVNULL) as dumping:
        until(begun.exists)
        dumping.terminate()
    assert dumping.returncode == 128 + signal.SIGTERM
    assert pod.processes["first"].wait(_TIMEOUT) == -signal.SIGKILL
    is_whole(pod)


def test_holder_after_a_failure(pod: Containers, target: Namespace) -> None:
    pod.namespace.do(lambda: oracle.segment(4, 4096, [(0, b"x")], wanted=1 << 20))
    with subprocess.Popen(
        ["nsenter", f"--ipc={pod.namespace.path}", sys.executable, "-c", KEEPER, str(1 << 20)], stdout=subprocess.PIPE
    ) as attached:
        assert attached.stdout is not None
        attached.stdout.readline()
        pod.put(attached.pid, pod.cgroup("first"))
        pod.namespace.do(lambda: oracle.remove("shm", 1 << 20))
        pod.prepare()
        ipcimg(*pod.dump_arguments(*pod.runtime()))
        attached.kill()
    done = run(IPCIMG, "pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "false", "{}", status=1)
    assert "; the objects of the pod are there" in done.stderr
    [holder] = [line for line in done.stdout.splitlines() if line.startswith("process ")]
    assert holder.endswith(f" keeps shared memory segments {1 << 20} until somebody attaches them")
    os.kill(int(holder.split()[1]), signal.SIGTERM)


def test_time_limit(pod: Containers, target: Namespace) -> None:
    """It holds for all commands, not for the dump of the namespace alone."""
    said = pod.scratch / "report"
    limited = ("--timeout", 3, "--report", said)
    forever = ("--", "sh", "-c", "exec sleep 3600", "{}")
    assert fails(pod, *limited, *pod.runtime('[ "$1" = first ] || exec sleep 3600')) == (
        "timed out after 3 s, at container second; first had been checkpointed before; the set in "
        f"{pod.directory}/ipc stays, since containers may have ended"
    )
    found = report(said.read_text())
    assert (found["status"], [one["name"] for one in found["containers"]]) == ("failed", ["first"])
    shutil.rmtree(pod.directory)
    assert fails(pod, *limited, *forever) == "timed out after 3 s, at container first"
    assert not pod.directory.exists()

    ipcimg(*pod.dump_arguments(*pod.runtime()))
    done = run(IPCIMG, "pod", "restore", "-t", target.pid, "-D", pod.directory, *limited, *forever, status=1)
    there = "timed out after 3 s, at container first; the objects of the pod are there"
    assert done.stderr == f"ipcimg: Error: {there}\n"
    assert report(said.read_text())["containers"] == []
    same(pod.directory / "ipc", f"ns:{target.pid}")  # others may use it


def test_signal_during_the_dump_of_the_namespace(pod: Containers, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes when the set is complete is not lost: it ends the rest."""
    finished = interrupts.finished

    def with_signal() -> None:
        finished()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("ipcimg.directory.finished", with_signal)
    containers = {name: process.pid for name, process in pod.processes.items()}
    with package.of_process(pod.namespace.pid) as one, pytest.raises(interrupts.Interrupted):
        dump(pod.directory, one, containers, sandbox=pod.namespace.pid, command=pod.runtime()[1:])
    assert not pod.log.exists()
    assert not pod.directory.exists()
    assert pod.frozen() == []


def test_checkpoint_of_another_moment(pod: Containers) -> None:
    pod.namespace.do(lambda: oracle.send(99, 5, b"after CRIU's dump"))
    line = fails(pod, *pod.runtime())
    assert line.startswith(f"container first: image directory {pod.directory}/first: is not of the moment of the pod, ")
    assert line.endswith(
        "message queue 99: the number of messages is 3 in the pod and 2 in the container (and 1 more); "
        f"the set in {pod.directory}/ipc stays, since containers may have ended"
    )


def test_command_that_leaves_no_images(pod: Containers) -> None:
    nothing = f"container first: nothing is in {pod.directory}/first, and no `ipcimg hook` of criu's has detached"
    assert fails(pod, "--", "true", "{}").startswith(nothing)
    assert "there is no inventory.img in it" in fails(pod, "--", "touch", "{dir}/something")


def test_somebody_else_in_the_namespace(pod: Containers) -> None:
    with subprocess.Popen(["nsenter", f"--ipc={pod.namespace.path}", "sleep", "3600"]) as other:
        inode = os.stat(pod.namespace.path).st_ino
        until(lambda: os.stat(f"/proc/{other.pid}/ns/ipc").st_ino == inode)
        line = fails(pod)
        other.kill()
    assert line == (
        f"process {other.pid} of the IPC namespace of process {pod.namespace.pid} is in none of the containers first, "
        "second, and would go on"
    )


def test_sandbox_that_does_not_sleep(make_namespace: Callable[[], Namespace], pod: Containers) -> None:
    busy = subprocess.Popen(["nsenter", f"--ipc={pod.namespace.path}", "sh", "-c", "while :; do :; done"])
    inode = os.stat(pod.namespace.path).st_ino
    until(lambda: os.stat(f"/proc/{busy.pid}/ns/ipc").st_ino == inode)
    pod.put(pod.namespace.pid, pod.cgroup("second"))  # so it is the only one outside
    try:
        arguments = pod.dump_arguments()
        arguments[2:4] = ["--ipc-ns", pod.namespace.path]
        assert refused(*arguments) == (
            f"process {busy.pid} is in no container, and does not sleep: who keeps a namespace has to"
        )
        assert pod.frozen() == []
    finally:
        busy.kill()
        busy.wait()
        pod.put(pod.namespace.pid, pod.parent.parent)


def test_sandbox_that_runs_now_and_then(pod: Containers) -> None:
    """It sleeps whenever one looks; that it has run is seen by its switches."""
    program = "import time\nwhile True: time.sleep(0.0002)"
    with subprocess.Popen(["nsenter", f"--ipc={pod.namespace.path}", sys.executable, "-c", program]) as restless:
        inode = os.stat(pod.namespace.path).st_ino
        until(lambda: os.stat(f"/proc/{restless.pid}/ns/ipc").st_ino == inode)
        pod.put(pod.namespace.pid, pod.cgroup("second"))
        arguments = pod.dump_arguments()
        arguments[2:4] = ["--ipc-ns", pod.namespace.path]
        try:
            line = refused(*arguments)
        finally:
            restless.kill()
            pod.put(pod.namespace.pid, pod.parent.parent)
    assert line == f"process {restless.pid} is in no container, and ran while the namespace was read"
    assert pod.frozen() == []
    assert not pod.directory.exists()


def test_sandbox_in_the_cgroup(pod: Containers) -> None:
    pod.put(pod.namespace.pid, pod.cgroup("second"))
    try:
        assert fails(pod) == (
            f"container second: to freeze its cgroup {pod.cgroup('second')} would stop the sandbox, "
            f"process {pod.namespace.pid}"
        )
    finally:
        pod.put(pod.namespace.pid, pod.parent.parent)


def test_ourselves_in_the_cgroup(pod: Containers) -> None:
    line = refused(*pod.dump_arguments(), preexec_fn=lambda: pod.put(os.getpid(), pod.cgroup("first")))
    assert line.startswith(f"container first: to freeze its cgroup {pod.cgroup('first')} would stop ipcimg itself")
    assert pod.frozen() == []


def test_one_cgroup_for_both(pod: Containers) -> None:
    pod.put(pod.processes["second"].pid, pod.cgroup("first"))
    assert fails(pod) == f"containers first and second are in one cgroup, {pod.cgroup('first')}"


def test_process_that_is_elsewhere(pod: Containers) -> None:
    assert "container third: process 1 is not in the IPC namespace" in fails(pod, "--container", "third:1")
    assert fails(pod, "--container", "third:4194305") == "container third: there is no process 4194305"


def test_no_cgroup(pod: Containers) -> None:
    pod.put(pod.processes["first"].pid, pod.parent.parent)
    assert fails(pod).endswith("has no cgroup of its own that could be frozen")
    pod.put(pod.processes["first"].pid, pod.cgroup("first"))


@pytest.mark.parametrize("name", ["ipc", "ipcimg-containers", "..", ".", "a/b", ""])
def test_names(name: str, pod: Containers) -> None:
    assert "cannot be the name of a container" in fails(pod, "--container", f"{name}:{pod.processes['first'].pid}")


def test_directory_that_is_not_empty(pod: Containers) -> None:
    (pod.directory / "second").mkdir(parents=True)
    (pod.directory / "second" / "pages-1.img").touch()
    assert fails(pod) == f"{pod.directory}/second is not empty: is it of another dump?"
    assert [path.name for path in pod.directory.iterdir()] == ["second"]


# ---- ended from outside --------------------------------------------------------------------


@contextlib.contextmanager
def at_the_command(pod: Containers) -> Iterator[subprocess.Popen[bytes]]:
    """A dump whose command for the first container has begun."""
    began = pod.scratch / "began"
    command = ["--", "sh", "-c", f"echo $$ >{began}.new; mv {began}.new {began}; exec sleep 3600", "{}"]
    arguments = list(map(str, pod.dump_arguments(*command)))
    process = subprocess.Popen([*IPCIMG, *arguments], stderr=subprocess.PIPE)
    try:
        until(began.exists)
        assert pod.frozen() == list(NAMES)
        assert pod.marked() == list(NAMES)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(began.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal(number: signal.Signals, pod: Containers) -> None:
    with at_the_command(pod) as process:
        process.send_signal(number)
        assert process.wait(_TIMEOUT) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == f"ipcimg: Error: ended by {number.name}, at container first\n".encode()
        command = int((pod.scratch / "began").read_text())
        assert not os.path.exists(f"/proc/{command}")
        assert pod.frozen() == []
        assert pod.marked() == []


def test_killed(pod: Containers) -> None:
    """The guardian lets everybody go."""
    with at_the_command(pod) as process:
        process.kill()
        until(lambda: pod.frozen() == [] and pod.marked() == [])


def test_killed_with_its_guardians(pod: Containers) -> None:
    """Then nobody does, until `ipcimg recover` is told to."""
    with at_the_command(pod) as process:
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        everybody = [
            int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if cmdline(path) == arguments
        ]
        assert len(everybody) >= 2
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        for pid in everybody:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert pod.frozen() == list(NAMES)
    said = ipcimg("recover", "-t", pod.namespace.pid).stdout
    for name in NAMES:
        assert f"thawed the cgroup {pod.cgroup(name)}, which a killed dump had left frozen" in said
    assert pod.frozen() == []


def cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# ---- restoring -----------------------------------------------------------------------------


def test_restore_that_fails(pod: Containers, target: Namespace) -> None:
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    command = ("--", "sh", "-c", '[ "$1" = first ]', "sh", "{}")
    done = run(IPCIMG, "pod", "restore", "-t", target.pid, "-D", pod.directory, *command, status=1)
    assert done.stderr.startswith("ipcimg: Error: container second: `sh -c ")
    assert done.stderr.endswith("ended with status 1; the objects of the pod are there, and first restored\n")
    same(pod.directory / "ipc", f"ns:{target.pid}")

    target.do(lambda: oracle.send(99, 7, b"by the first container"))
    again = ("pod", "restore", "-t", target.pid, "-D", pod.directory, "--objects-are-there", "--container", "second")
    told = pod.scratch / "report"
    said = ipcimg(*again, "--report", told, "--", "true").stdout.splitlines()
    assert said == [f"restored container second from {pod.directory}/second", "the objects of the pod were there"]
    assert [one["name"] for one in report(told.read_text())["containers"]] == ["second"]
    target.do(lambda: oracle.remove("sem", 98))
    target.do(lambda: oracle.semaphores(0x2, [5], wanted=98))
    assert refused(*again, "--", "true") == (
        "semaphore set 98 with key 0x00000002 and 2 semaphores: of the pod, and not in the IPC namespace of process "
        f"{target.pid}"
    )


def test_restore_of_some(pod: Containers, target: Namespace) -> None:
    ipcimg(*pod.dump_arguments(*pod.runtime()))
    shutil.rmtree(pod.directory / "first")
    line = refused("pod", "restore", "-t", target.pid, "-D", pod.directory, "--container", "first", "--", "true")
    assert line.startswith(f"image directory {pod.directory}/first: ")
    assert target.do(lambda: oracle.table("msg")) == {}
    done = ipcimg("pod", "restore", "-t", target.pid, "-D", pod.directory, "--container", "second", "--", "true")
    assert done.stdout.splitlines()[-1] == f"restored container second from {pod.directory}/second"


def test_restore_of_no_pod(target: Namespace, tmp_path: Path) -> None:
    line = refused("pod", "restore", "-t", target.pid, "-D", tmp_path, "--", "true")
    assert line == f"{tmp_path}: there is no directory ipc in it: no pod was dumped into it"


def test_own_namespace(tmp_path: Path) -> None:
    for arguments in (("dump", "--container", "a:1"), ("restore",)):
        done = run(IPCIMG, "pod", *arguments, "-D", tmp_path, status=2)
        assert done.stderr.endswith("one of the arguments -t/--tree --ipc-ns is required\n")


def test_initial_namespace(tmp_path: Path) -> None:
    if not package.own().is_initial:
        pytest.fail("the tests do not run in the machine's own IPC namespace: NOT TESTED")
    line = refused("pod", "dump", "-t", os.getpid(), "--container", "a:1", "-D", tmp_path)
    assert line == "the machine's own IPC namespace is that of no pod"


def test_paused_since_a_dump_was_killed(pod: Containers) -> None:
    """Whose mark is left says nothing of who has it frozen now."""
    for name in NAMES:
        os.setxattr(pod.cgroup(name), MARKS[pod.version], b"")
    pod.freeze("first", True)
    line = refused(*pod.dump_arguments())
    assert line == (
        f"the cgroup {pod.cgroup('first')} was left frozen by an ipcimg that was killed; `ipcimg recover` thaws it"
    )
    assert pod.frozen() == ["first"]
    os.removexattr(pod.cgroup("first"), MARKS[pod.version])
    ipcimg(*pod.dump_arguments())
    assert (pod.frozen(), pod.marked()) == (["first"], [])
