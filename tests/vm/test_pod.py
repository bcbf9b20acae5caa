"""A pod of two runc containers that talk to each other through its IPC namespace: checkpointed, and restored elsewhere.

What is run is what docs/orchestrators.md says.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.commands import IPCIMG
from tests.kernel import oracle

ROOT = Path(__file__).parent.parent.parent
PROGRAM = Path(os.environ.get("IPCIMG_VM_PROGRAMS", ".")) / "talk"
PLUGIN = Path("/usr/lib/criu/ipcimg.so")
NAMES = ("first", "second")
KEY = 0x90D
ROUNDS, WRONG = 2, 3  # semaphores of the containers' set
MESSAGES = [(7, b"a message that waits"), (1, bytes(range(256)) * 8)]
_TIMEOUT = 120  # seconds; everything is slow here


def steps(heading: str) -> list[str]:
    """The blocks of commands under a heading of the document."""
    document = (ROOT / "docs" / "orchestrators.md").read_text()
    [section] = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", document, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks
    return blocks


def until(what: Callable[[], bool], why: str) -> None:
    limit = time.monotonic() + _TIMEOUT
    while not what():
        assert time.monotonic() < limit, why
        time.sleep(0.05)


class Talk:
    """The containers of a pod, and what they tell by the namespace that they share."""

    sandbox: oracle.Enterable

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.directory = scratch, scratch / "dump"
        programs = scratch / "bin"
        programs.mkdir()
        (programs / "ipcimg").write_text(f'#!/bin/sh\nexec {IPCIMG[0]} -c "{IPCIMG[2]}" "$@"\n')
        (programs / "ipcimg").chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"

    def variables(self) -> dict[str, str]:
        """What the commands of the document know."""
        raise NotImplementedError

    def logs(self) -> Iterable[Path]:
        """What criu has logged."""
        return (*self.directory.glob("*/dump.log"), *self.directory.glob("*/restore.log"))

    def run(self, script: str) -> str:
        """Run commands; gives what they have said. The containers inherit no pipe of ours."""
        said = self.scratch / "said"
        environment = os.environ | {"PATH": self.path, **self.variables()}
        with said.open("w") as output:
            done = subprocess.run(
                ["bash", "-euc", script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=ROOT,
                check=False,
                timeout=_TIMEOUT,
            )
        text = said.read_text()
        if done.returncode:
            for log in self.logs():
                text += "".join(f"{log}: {line}\n" for line in log.read_text().splitlines() if "Error" in line)
            raise AssertionError(f"status {done.returncode}\n{text}")
        return text

    def set(self) -> int:
        """The id of the set by which the containers take turns, or -1."""
        sets = self.sandbox.do(lambda: oracle.table("sem"))
        return next((semid for semid, row in sets.items() if row["key"] == KEY), -1)

    def rounds(self) -> int:
        values = self.sandbox.do(lambda: oracle.values(self.set(), 4))
        assert values[WRONG] == 0, f"talk.c:{values[WRONG]}"
        return values[ROUNDS]

    def goes_on(self) -> None:
        """Wait until the containers have talked for some more rounds, each of which they verify."""
        until(lambda: self.set() >= 0, "the containers have not begun")
        before = self.rounds()
        until(lambda: (self.rounds() - before) % 32768 >= 20, f"the containers have stopped at round {before}")

    def ids(self) -> dict[str, list[int]]:
        return self.sandbox.do(lambda: {kind: list(oracle.table(kind)) for kind in ("shm", "msg", "sem")})

    def attachments(self) -> list[tuple[int, bool]]:
        """Of each segment the number of attachments, and whether it was removed."""
        table = self.sandbox.do(lambda: oracle.table("shm"))
        return [(row["nattch"], bool(row["perms"] & 0o1000)) for row in table.values()]

    def until_attached(self, attached: list[tuple[int, bool]]) -> None:
        until(lambda: self.attachments() == attached, f"attachments: {self.attachments()}, not {attached}")


class Pod(Talk):
    """A sandbox and the containers of runc in it, wherever they are at present."""

    sandbox: oracle.Namespace

    def __init__(self, scratch: Path, plain: bool) -> None:
        super().__init__(scratch)
        self.plain, self.bundles = plain, scratch / "bundles"
        for name in NAMES:
            rootfs = self.bundles / name / "rootfs"
            (rootfs / "proc").mkdir(parents=True)
            shutil.copy(PROGRAM, rootfs)
        self.sandbox = self._new_sandbox()

    def variables(self) -> dict[str, str]:
        pids = {name.upper(): str(pid) for name, pid in self.containers().items()}
        return {"SANDBOX": str(self.sandbox.pid), "DIR": str(self.directory), "BUNDLES": str(self.bundles), **pids}

    def _new_sandbox(self) -> oracle.Namespace:
        """As an orchestrator: a process that keeps a namespace, and bundles that name it."""
        sandbox = oracle.Namespace()
        for name in NAMES:
            config = {
                "ociVersion": "1.0.2",
                "process": {
                    "terminal": False,
                    "user": {"uid": 0, "gid": 0},
                    "args": ["/talk", name, *(["plain"] if self.plain else [])],
                    "cwd": "/",
                },
                "root": {"path": "rootfs"},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
                "linux": {
                    "cgroupsPath": f"/pod/{name}",
                    "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc", "path": sandbox.path}],
                },
            }
            (self.bundles / name / "config.json").write_text(json.dumps(config))
        return sandbox

    def move(self) -> None:
        """Have a new sandbox; the old one ends, and its namespace with it."""
        assert self.containers() == {}
        self.sandbox.close()
        self.sandbox = self._new_sandbox()
        assert self.sandbox.do(self._everything_else) == ({}, {}, {})

    @staticmethod
    def _everything_else() -> tuple[object, ...]:
        return tuple(oracle.table(kind) for kind in ("shm", "msg", "sem"))

    def containers(self) -> dict[str, int]:
        """The containers that runc knows, and their first processes."""
        listed = subprocess.run(["runc", "list", "--format", "json"], capture_output=True, text=True, check=True)
        return {one["id"]: one["pid"] for one in json.loads(listed.stdout) or () if one["status"] != "stopped"}

    def start(self) -> None:
        for name in NAMES:
            self.run(f'runc run --detach --bundle "$BUNDLES/{name}" {name}')
        self.goes_on()

    def close(self) -> None:
        for name in NAMES:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)
        self.sandbox.close()


@contextlib.contextmanager
def a_pod(scratch: Path, *, plain: bool = False) -> Iterator[Pod]:
    """Two containers that talk; and objects of nobody, with ids that a new namespace would not give."""
    with contextlib.closing(Pod(scratch, plain)) as pod:
        pod.sandbox.do(others)
        pod.start()
        yield pod


def others() -> None:
    oracle.queue(0x71, messages=MESSAGES, wanted=4 * 32768 + 5)
    oracle.semaphores(0x72, (3, 1, 4), wanted=7 * 32768 + 9)
    oracle.segment(0x73, 10000, [(4096, b"pages of nobody")], wanted=2 * 32768 + 11)


def others_are_there() -> None:
    assert oracle.receive_all(4 * 32768 + 5) == MESSAGES
    assert oracle.values(7 * 32768 + 9, 3) == (3, 1, 4)
    assert oracle.content(2 * 32768 + 11, 10000)[4096:4111] == b"pages of nobody"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """criu's plugin, built as the document says, and put aside."""
    [command] = steps("Once for each machine")
    subprocess.run(["bash", "-euc", command], cwd=ROOT, check=True)
    return Path(shutil.move(PLUGIN, tmp_path_factory.mktemp("plugin")))


@pytest.fixture
def plugin(built: Path) -> Iterator[Path]:
    """criu's plugin, where criu looks for it."""
    yield Path(shutil.copy(built, PLUGIN))
    PLUGIN.unlink()


def check_moved(pod: Pod, before: dict[str, list[int]], attached: list[tuple[int, bool]]) -> None:
    """The containers go on, with all that they had, and nobody has anything more."""
    pod.goes_on()
    assert pod.ids() == before
    pod.until_attached(attached)
    pod.sandbox.do(others_are_there)
    assert pod.containers().keys() == set(NAMES)


def test_without_ipcimg(tmp_path: Path) -> None:
    """The reason for it all: the second container cannot be restored."""
    with a_pod(tmp_path) as pod:
        pod.directory.mkdir()
        for name in NAMES:
            pod.run(f'runc checkpoint --image-path "$DIR/{name}" --work-path "$DIR/{name}" {name}')
        pod.move()
        restore = 'runc restore --detach --bundle "$BUNDLES/{0}" --image-path "$DIR/{0}" --work-path "$DIR/{0}" {0}'
        pod.run(restore.format("first"))
        with pytest.raises(AssertionError, match=r"Failed to create \w+ set: File exists"):
            pod.run(restore.format("second"))


def test_moved(plugin: Path, tmp_path: Path) -> None:
    """Both containers have two segments attached, of which one was removed meanwhile."""
    with a_pod(tmp_path) as pod:
        before, attached = pod.ids(), pod.attachments()
        assert sorted(attached) == [(0, False), (2, False), (2, True)]
        pod.run(steps("Checkpoint")[0])
        assert sorted(path.name for path in pod.directory.iterdir()) == ["first", "ipc", "ipcimg-containers", "second"]
        pod.move()
        pod.run(steps("Restore")[0])
        check_moved(pod, before, attached)


def test_without_segments_and_plugin(tmp_path: Path) -> None:
    assert not PLUGIN.exists()
    with a_pod(tmp_path, plain=True) as pod:
        before, attached = pod.ids(), pod.attachments()
        pod.run(steps("Checkpoint")[0])
        pod.move()
        pod.run(steps("Restore")[0])
        check_moved(pod, before, attached)


@pytest.mark.slow
def test_going_on(plugin: Path, tmp_path: Path) -> None:
    """The containers go on where they are; when they have ended they are restored as they were."""
    with a_pod(tmp_path) as pod:
        before, attached = pod.ids(), pod.attachments()
        pod.run(steps("Checkpoint, and go on")[0])
        pod.goes_on()
        assert pod.attachments() == attached
        for name in NAMES:
            pod.run(f"runc delete --force {name}")
        pod.move()
        pod.run(steps("Restore")[0])
        check_moved(pod, before, attached)


@pytest.mark.slow
def test_step_by_step(plugin: Path, tmp_path: Path) -> None:
    with a_pod(tmp_path) as pod:
        before, attached = pod.ids(), pod.attachments()
        dump, restore = steps("Step by step")
        pod.run(dump)
        pod.move()
        pod.run(restore)
        check_moved(pod, before, attached)


@pytest.mark.slow
def test_segments_without_the_plugin(built: Path, tmp_path: Path) -> None:
    """It fails, and says so. With a bad list so does the plugin, by lines that runc shows; with a good one it works."""
    with a_pod(tmp_path) as pod:
        before, attached = pod.ids(), pod.attachments()
        pod.run(steps("Checkpoint")[0])
        pod.move()
        assert not PLUGIN.exists()
        with pytest.raises(AssertionError) as caught:
            pod.run(steps("Restore")[0])
        assert "ended with status 1; the objects of the pod are there\n" in str(caught.value)
        assert "Can't find sysv shmem for " in str(caught.value)

        shutil.copy(built, PLUGIN)
        _, first, second = steps("Step by step")[1].splitlines()
        segments = pod.directory / "first" / "ipcimg-segments"
        good = segments.read_text()
        for line in ("1  4096\n", "-1 4096\n", "1 0\n", "1 4096", "4294967296 1\n"):
            segments.write_text(f"0 4096\n{line}")
            with pytest.raises(AssertionError, match=r'ipcimg-segments: line 2 is not "ID SIZE"'):
                pod.run(first)
        segments.write_text(good)
        pod.run(first)
        pod.run(second)
        check_moved(pod, before, attached)
        PLUGIN.unlink()


@pytest.mark.slow
def test_a_checkpoint_that_fails(plugin: Path, tmp_path: Path) -> None:
    """All go on as if nothing had been."""
    with a_pod(tmp_path) as pod:
        script = steps("Checkpoint, and go on")[0].replace("runc checkpoint", "runc checkpoint --no-such-option")
        with pytest.raises(AssertionError, match=r"container first: .* ended with status"):
            pod.run(script)
        pod.goes_on()
        assert pod.containers().keys() == set(NAMES)
