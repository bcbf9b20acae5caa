"""Containers whose runtime has its images elsewhere, and packs them at once: criu's hook detaches them before."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipcimg import podnote
from ipcimg.errors import DirectoryError
from tests.commands import IPCIMG, ipcimg, refused, run, same

from . import oracle
from .oracle import Namespace
from .test_pod import NAMES, Containers, hierarchy, until, version

pytestmark = pytest.mark.slow  # nothing here is another on another kernel

__all__ = ["hierarchy", "version"]  # fixtures


@pytest.fixture
def pod(source: Namespace, hierarchy: Path, version: int, tmp_path: Path) -> Iterator[Containers]:
    source.do(some_objects)
    made = Containers(source, hierarchy, version, tmp_path)
    made.prepare()
    yield made
    made.close()


def some_objects() -> None:
    oracle.queue(0x1, messages=[(3, b"one")], wanted=99)
    oracle.segment(0x3, 9000, [(5000, b"content")], wanted=97)


def place(pod: Containers, name: str) -> Path:
    """Where the runtime has the images of a container."""
    return pod.scratch / "runtime" / name


def runtime(pod: Containers, *, hook: bool = True) -> list[str]:
    """The command of a runtime that dumps elsewhere, and whose criu calls the hook."""
    for name, process in pod.processes.items():
        place(pod, name).mkdir(parents=True)
        (pod.scratch / f"pid-{name}").write_text(str(process.pid))
    (pod.scratch / "hook.toml").touch()
    (pod.scratch / "hook.toml").chmod(0o644)
    script = f'set -e; cd {pod.scratch}; cp prepared/* "runtime/$1"; exec 9<"runtime/$1"; '
    if hook:
        script += (
            'CRTOOLS_SCRIPT_ACTION=post-dump CRTOOLS_IMAGE_DIR=/proc/$$/fd/9 CRTOOLS_INIT_PID=$(cat "pid-$1") '
            f"PYTHONPATH={shlex.quote(os.getcwd())} {shlex.join([*IPCIMG, 'hook'])} --config hook.toml"
        )
    return ["--", "sh", "-c", script, "sh", "{}"]


def hook_said(pod: Containers, name: str) -> str:
    return (place(pod, name) / "ipcimg-hook.log").read_text()


def at_post_setup_namespaces(pod: Containers, name: str, pid: int, *, status: int = 0) -> str:
    """What the hook says when criu has set up the namespaces of a container."""
    fd = os.open(place(pod, name), os.O_RDONLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRTOOLS_SCRIPT_ACTION", "post-setup-namespaces")
        patch.setenv("CRTOOLS_IMAGE_DIR", f"/proc/{os.getpid()}/fd/{fd}")
        patch.setenv("CRTOOLS_INIT_PID", str(pid))
        said = run(IPCIMG, "hook", "--config", pod.scratch / "hook.toml", status=status).stderr
    os.close(fd)
    return said


def test_detached_by_the_hook(pod: Containers, target: Namespace) -> None:
    said = ipcimg(*pod.dump_arguments(*runtime(pod))).stdout.splitlines()
    assert sorted(path.name for path in pod.directory.iterdir()) == ["first", "ipc", "ipcimg-containers", "second"]
    for name, line in zip(NAMES, said, strict=False):
        where = place(pod, name)
        assert json.loads((pod.directory / name / "ipcimg-elsewhere").read_text())["images_dir"] == str(where)
        assert line == f"checkpointed container {name} into a place of its runtime's, {where}"
        assert (where / "ipcimg-segments").read_text() == "97 9000\n"
        assert not (where / "ipcns-shm-11.img").exists()
        assert f"CRIU's images are detached from {pod.directory}/ipc, where their pod is dumped" in hook_said(pod, name)
    assert list(Path(podnote.DIRECTORY).glob(f"pod-{os.stat(pod.namespace.path).st_ino}*")) == []

    missing = at_post_setup_namespaces(pod, "first", target.pid, status=1)
    assert missing.endswith(
        "post-setup-namespaces: message queue 99 with key 0x00000001, shared memory segment 97 with key 0x00000003 "
        "and 9000 bytes: of the pod, and not there; `ipcimg pod restore` comes before its containers\n"
    )
    said = ipcimg("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "true", "{}").stdout.splitlines()
    assert said[1:] == [f"restored container {name} from {pod.directory}/{name}" for name in NAMES]
    same(pod.directory / "ipc", f"ns:{target.pid}")
    there = at_post_setup_namespaces(pod, "first", target.pid)
    assert "the 2 objects of the pod, from which CRIU's images are detached, are there" in there


def test_the_hook_refuses_what_differs(pod: Containers) -> None:
    """And so does the one who dumps the pod: the runtime's criu has failed."""
    command = runtime(pod)
    pod.namespace.do(lambda: oracle.send(99, 4, b"since then"))
    of_the_hook, line = run(IPCIMG, *pod.dump_arguments(*command), status=1).stderr.splitlines()
    assert "is not of the moment of the pod" in of_the_hook
    assert line.startswith("ipcimg: Error: container first: `sh -c ")
    assert line.endswith("ended with status 1")
    assert "is not of the moment of the pod" in hook_said(pod, "first")
    assert (place(pod, "first") / "ipcns-shm-11.img").exists()
    assert pod.frozen() == []


def test_no_hook(pod: Containers) -> None:
    line = refused(*pod.dump_arguments(*runtime(pod, hook=False)))
    assert line == (
        f"container first: nothing is in {pod.directory}/first, and no `ipcimg hook` of criu's has detached what was "
        "dumped elsewhere"
    )
    assert pod.frozen() == []


def test_hook_that_dumps_nothing_else(pod: Containers) -> None:
    command = runtime(pod)
    (pod.scratch / "hook.toml").write_text("dump.stage = 'none'")
    said = ipcimg(*pod.dump_arguments(*command)).stdout
    assert said.startswith(f"checkpointed container first into a place of its runtime's, {place(pod, 'first')}\n")


def test_hook_of_another_container(pod: Containers) -> None:
    command = runtime(pod)
    command[3] = command[3].replace('"pid-$1"', '"pid-second"')
    pid = pod.processes["second"].pid
    line = run(IPCIMG, *pod.dump_arguments(*command), status=1).stderr.splitlines()[-1]
    assert line.startswith(
        f"ipcimg: Error: container first: what was dumped elsewhere, {place(pod, 'first')}, is of process {pid}, "
        "which was not in it"
    )


def test_images_that_a_runtime_keeps_its_log_beside(pod: Containers) -> None:
    command = [*runtime(pod), "{dir}"]
    command[3] += '; echo said >"$2/dump.log"'
    said = ipcimg(*pod.dump_arguments(*command)).stdout
    assert said.startswith(f"checkpointed container first into a place of its runtime's, {place(pod, 'first')}\n")


def test_hook_of_a_dump_that_has_ended(pod: Containers) -> None:
    """Its criu is no descendant of the command, and goes on when that is ended: nothing is left detached."""
    begun, go_on = pod.scratch / "begun", pod.scratch / "go on"
    command = runtime(pod)
    hook = command[3].replace("$1", "first")
    command[3] = f"touch {begun}; exec sleep 3600"
    slow = "import time; from ipcimg import podnote; add = podnote.Note.add; "
    slow += f'podnote.Note.add = lambda *of: (open("{go_on}", "w").close(), time.sleep(1), add(*of)); '
    with subprocess.Popen([*IPCIMG, *map(str, pod.dump_arguments(*command))], stderr=subprocess.DEVNULL) as dumping:
        try:
            until(begun.exists)
            late = subprocess.Popen(
                ["sh", "-c", hook.replace("import sys;", f"import sys; {slow}")], stderr=subprocess.PIPE, text=True
            )
            until(go_on.exists)
        finally:
            dumping.terminate()
        _, said = late.communicate()
    assert dumping.returncode == 128 + signal.SIGTERM
    assert late.returncode == 1
    assert f"the dump of the pod in {pod.directory}/ipc has ended" in said
    assert (place(pod, "first") / "ipcns-shm-11.img").exists()


def test_container_of_another_pod(pod: Containers, target: Namespace) -> None:
    """With objects of the same ids and keys, and other contents."""
    ipcimg(*pod.dump_arguments(*runtime(pod)))
    pod.namespace.do(lambda: oracle.send(99, 4, b"of another one"))
    pod.prepare()
    first, pod.directory = pod.directory, pod.scratch / "another"
    shutil.rmtree(pod.scratch / "runtime")
    ipcimg(*pod.dump_arguments(*runtime(pod)))
    shutil.copytree(first / "first", pod.directory / "first", dirs_exist_ok=True)
    arguments = ("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "echo", "{}")
    assert refused(*arguments) == (
        f"container first: what {pod.directory}/first/ipcimg-elsewhere tells of was detached from another set than "
        f"{pod.directory}/ipc"
    )
    assert target.do(lambda: oracle.table("msg")) == {}

    ipcimg("pod", "restore", "-t", target.pid, "-D", first)
    with podnote.written(os.stat(target.path).st_ino, str(first / "ipc"), podnote.RESTORE):
        said = at_post_setup_namespaces(pod, "first", target.pid, status=1)
    assert f"is detached from another set than that of {first}/ipc, whose objects are there" in said


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images_dir": "/x"}'])
def test_note_of_a_container_that_is_damaged(pod: Containers, target: Namespace, text: str) -> None:
    ipcimg(*pod.dump_arguments(*runtime(pod)))
    (pod.directory / "first/ipcimg-elsewhere").write_text(text)
    line = refused("pod", "restore", "-t", target.pid, "-D", pod.directory, "--", "echo", "{}")
    assert line == f"{pod.directory}/first/ipcimg-elsewhere is not as `ipcimg pod dump` writes it"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(podnote, "DIRECTORY", str(tmp_path / "notes"))
    return tmp_path / "notes"


def test_note(directory: Path) -> None:
    with podnote.found(5, podnote.DUMP) as none:
        assert none is None
    strange = "/a\nplace \udcff"
    with podnote.written(5, strange, podnote.DUMP) as note:
        with (
            podnote.found(5, podnote.DUMP) as seen,
            podnote.found(6, podnote.DUMP) as other,
            podnote.found(5, podnote.RESTORE) as of_a_restore,
        ):
            assert other is of_a_restore is None
            assert seen is not None
            assert seen.images == strange
            seen.add(1, strange)
            seen.add(23, "/second")
        assert note.detached == [(1, strange), (23, "/second")]
        with pytest.raises(DirectoryError, match="dumped or restored by another"), podnote.written(5, "/x", "restore"):
            pass
        assert not note.is_withdrawn
        note.withdraw()
        assert note.is_withdrawn
        with podnote.found(5, podnote.DUMP) as none, podnote.written(5, "/another", podnote.DUMP) as other:
            assert none is None
            note.withdraw()  # that is not ours
            assert not other.is_withdrawn
        assert directory.stat().st_mode & 0o777 == 0o711
    assert list(directory.iterdir()) == []


def test_note_of_one_that_was_killed(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    left = b"dump\0\n/left\0\n1 /first\0\n"
    (directory / "pod-5").write_bytes(left)
    podnote.forget(5)
    podnote.forget(5)
    assert list(directory.iterdir()) == []
    (directory / "pod-5").write_bytes(left)
    with podnote.found(5, podnote.DUMP) as none:
        assert none is None
    with podnote.written(5, "/new", podnote.DUMP) as note:
        assert (note.images, note.detached) == ("/new", [])
        assert directory.stat().st_mode & 0o777 == 0o711


def test_directory_that_others_can_write(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with (
        pytest.raises(DirectoryError, match=r"others can write it \(mode 0777\)"),
        podnote.written(5, "/x", podnote.DUMP),
    ):
        pass
    directory.chmod(0o700)
    with podnote.written(5, "/x", podnote.DUMP):
        directory.chmod(0o777)
        with pytest.raises(DirectoryError, match="others can write it"), podnote.found(5, podnote.DUMP):
            pass
