"""A real criu calls `ipcimg hook` at each stage, by a line in /etc/criu/default.conf.

The machine's / is read-only, so /etc is a copy in memory meanwhile. criu gives an action script no arguments; here the
script is one that calls `ipcimg hook`, and lets it fail at the stage that FAIL has.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import IPCIMG, same
from tests.kernel import oracle

from .criu import Program, criu
from .test_pod import built, plugin

__all__ = ["built", "plugin"]  # fixtures

ETC = Path("/run/ipcimg/etc")
SCRIPT = Path("/run/ipcimg/ipcimg-hook")
LINE = re.compile(r"\(\d{2,}\.\d{6}\) (.*)")
DUMP = ["pre-dump", "post-dump"]
RESTORE = ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "pre-resume"]


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    shutil.copytree("/etc", ETC, symlinks=True, ignore_dangling_symlinks=True)
    (ETC / "criu").mkdir(exist_ok=True)
    (ETC / "ipcimg").mkdir(mode=0o755, exist_ok=True)
    (ETC / "criu/default.conf").write_text(f"action-script {SCRIPT}\n")
    SCRIPT.write_text(
        f"#!/bin/sh\ncd {shlex.quote(os.getcwd())}\n"
        'if [ "$CRTOOLS_SCRIPT_ACTION" = "$FAIL" ]; then set -- --config /nowhere; fi\n'
        f'exec {shlex.join([*IPCIMG, "hook"])} "$@"\n'
    )
    SCRIPT.chmod(0o755)
    subprocess.run(["mount", "--bind", ETC, "/etc"], check=True)
    yield
    subprocess.run(["umount", "/etc"], check=True)


@pytest.fixture(autouse=True)
def fails_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "none")


def configure(text: str) -> None:
    Path("/etc/ipcimg/hook.toml").write_text(text)


def said(directory: Path) -> list[str]:
    """What the hook has said, without the times."""
    found = [LINE.fullmatch(line) for line in (directory / "ipcimg-hook.log").read_text().splitlines()]
    assert all(found)
    return [match[1] for match in found if match]


def stages(directory: Path) -> list[str]:
    """The stages that have said something, each once, in order."""
    return list(
        dict.fromkeys(
            line.partition("): ")[2].partition(":")[0] if line.startswith("Error (") else line.partition(":")[0]
            for line in said(directory)
        )
    )


@contextlib.contextmanager
def running(name: str, scratch: Path, *unshare: str) -> Iterator[tuple[Program, Path]]:
    directory = scratch / "criu"
    directory.mkdir()
    with contextlib.closing(Program(name, scratch, *unshare)) as program:
        yield program, directory


def goes_on(program: Program) -> bool:
    return oracle.state(program.pid) in "RS"


def gone(pid: int) -> bool:
    """Is there no process of this id within a minute, not even one that is to be buried? It may be our child."""
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    return not os.path.exists(f"/proc/{pid}")


def passes(program: Program, directory: Path, *arguments: object) -> None:
    with contextlib.closing(program.restore(directory, *arguments)) as restored:
        assert restored.finish() == "PASS\n"


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["queues", pytest.param("semaphores", marks=SLOW), pytest.param("shm", marks=SLOW)])
def test_in_place(name: str, tmp_path: Path) -> None:
    """By default: nothing but the line in criu's configuration."""
    configure("")
    with running(name, tmp_path) as (program, directory):
        criu("dump", directory, "-t", program.pid)
    assert stages(directory) == DUMP
    assert said(directory)[-1].endswith(" in the place of CRIU's images")
    assert len(list(directory.glob("ipcimg-manifest-*.img"))) == 1
    before = len(said(directory))
    passes(program, directory)
    assert stages(directory) == DUMP + RESTORE
    assert "whole, and as it was written" in said(directory)[before]


@pytest.mark.parametrize("name", ["queues", pytest.param("semaphores", marks=SLOW), pytest.param("shm", marks=SLOW)])
def test_beside(name: str, plugin: Path, tmp_path: Path) -> None:
    """CRIU restores the processes alone, and ipcimg the objects; attached segments take the plugin."""
    configure("dump.place = 'beside'")
    with running(name, tmp_path) as (program, directory):
        criu("dump", directory, "-t", program.pid, "--leave-stopped")
        same(directory / "ipcimg", f"ns:{program.pid}")
    assert [path.name.split("-")[1] for path in directory.glob("ipcns-*.img")] == ["var"]
    passes(program, directory)
    assert stages(directory) == DUMP + RESTORE
    assert "post-setup-namespaces: restored " in "\n".join(said(directory))


@SLOW
def test_joined_namespace(tmp_path: Path) -> None:
    """With --join-ns the namespace of setup-namespaces is thrown away, and that of post-setup-namespaces is final."""
    configure("dump.place = 'beside'")
    with running("queues", tmp_path) as (program, directory):
        criu("dump", directory, "-t", program.pid)
    namespace = oracle.Namespace()
    try:
        restored = program.restore(directory, "--join-ns", f"ipc:{namespace.pid}")
        with contextlib.closing(restored):
            assert os.stat(restored.namespace.path).st_ino == os.stat(namespace.path).st_ino
            assert namespace.do(lambda: len(oracle.table("msg"))) == 4
            assert restored.finish() == "PASS\n"
    finally:
        namespace.close()


@SLOW
def test_before_criu_dumps(tmp_path: Path) -> None:
    """A network namespace of their own has criu call at network-lock."""
    configure("dump = {place = 'beside', stage = 'network-lock'}")
    with running("queues", tmp_path, "-n") as (program, directory):
        criu("dump", directory, "-t", program.pid)
    assert stages(directory)[:3] == ["pre-dump", "network-lock", "post-dump"]
    passes(program, directory)


def test_criu_fails_after_network_lock(tmp_path: Path) -> None:
    """What was dumped goes again, and the tasks go on."""
    configure("dump = {place = 'beside', stage = 'network-lock'}")
    with running("queues", tmp_path, "-n") as (program, directory):
        (directory / "inventory.img").mkdir()  # criu writes that last
        criu("dump", directory, "-t", program.pid, status=1)
        assert goes_on(program)
    assert stages(directory) == ["pre-dump", "network-lock", "network-unlock"]
    assert said(directory)[-1].endswith("removed ipcimg.unfinished: CRIU has not come as far as post-dump")
    assert not (directory / "ipcimg.unfinished").exists()


@pytest.mark.parametrize(
    ("stage", "status"), [pytest.param("pre-dump", 1, marks=SLOW), ("network-lock", 1), ("post-dump", 255)]
)
def test_hook_that_fails_at_a_dump(stage: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure("dump = {place = 'beside', stage = 'network-lock'}")
    monkeypatch.setenv("FAIL", stage)
    with running("queues", tmp_path, "-n") as (program, directory):
        criu("dump", directory, "-t", program.pid, status=status)
        assert goes_on(program)
    [error] = [line for line in said(directory) if line.startswith("Error ")]
    assert error.endswith(f": {stage}: /nowhere: No such file or directory")
    assert not list(directory.glob("ipcimg*.img")) + list(directory.glob("ipcimg.*")) + list(directory.glob("ipcimg"))


@pytest.mark.parametrize(
    "stage",
    ["pre-restore", pytest.param("setup-namespaces", marks=SLOW), pytest.param("post-setup-namespaces", marks=SLOW)],
)
def test_hook_that_fails_at_a_restore(
    stage: str, dumped: tuple[Program, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, directory = dumped
    configure("")
    monkeypatch.setenv("FAIL", stage)
    criu("restore", directory, "--restore-detached", status=1)
    assert said(directory)[-1].endswith(f": {stage}: /nowhere: No such file or directory")
    assert gone(program.pid)


def test_damaged(dumped: tuple[Program, Path]) -> None:
    """A damaged set ends the restore before it begins."""
    program, directory = dumped
    configure("")
    [image] = directory.glob("ipcns-msg-*.img")
    good = image.read_bytes()
    image.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    criu("restore", directory, "--restore-detached", status=1)
    assert said(directory)[-1].endswith(f"{image}: is not as it was written: its digest is another one")
    image.write_bytes(good)
    passes(program, directory)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    configure("")
    scratch = tmp_path_factory.mktemp("dumped")
    os.environ["FAIL"] = "none"
    with running("queues", scratch) as (program, directory):
        criu("dump", directory, "-t", program.pid)
    return program, directory


def test_criu_s_own_namespace(tmp_path: Path) -> None:
    configure("")
    with running("queues", tmp_path) as (program, directory):
        criu("dump", directory, "-t", program.pid, "--leave-running", namespace=program.namespace.path)
        nothing = "the tasks are in criu's own IPC namespace, of which CRIU dumps and restores nothing"
        assert said(directory)[-1] == f"post-dump: nothing to do: {nothing}"
        configure("dump.required = true")
        again = tmp_path / "again"
        again.mkdir()
        criu("dump", again, "-t", program.pid, namespace=program.namespace.path, status=255)
        assert said(again)[-1].endswith("; dump.required is true")
        assert goes_on(program)
