"""A pod of podman's, whose two containers talk through its IPC namespace: checkpointed into archives, and restored.

What is run is what docs/orchestrators.md says.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import oracle

from .test_pod import NAMES, PROGRAM, Talk, built, others, others_are_there, plugin, steps

__all__ = ["built", "plugin"]  # fixtures

HOME = Path("/run/ipcimg/podman")
ETC = HOME / "etc"
_TIMEOUT = 300  # seconds; everything is slow here


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """podman, with all that it keeps in memory."""
    shutil.copytree("/etc", ETC, symlinks=True, ignore_dangling_symlinks=True)
    (ETC / "containers").mkdir(exist_ok=True)
    (ETC / "containers/policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (ETC / "containers/containers.conf").write_text(
        '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\nevents_logger = "file"\n'
        '[containers]\nlog_driver = "k8s-file"\n'
    )
    (ETC / "containers/storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{HOME}/storage"\nrunroot = "{HOME}/run"\n'
    )
    mounted = ["/etc"]
    subprocess.run(["mount", "--bind", ETC, "/etc"], check=True)
    for place in ("/var/lib/containers", "/var/lib/cni", "/var/tmp"):
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        mounted.append(place)
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as archive:
        archive.add(PROGRAM, "talk")
    podman("import", "-", "localhost/talk", data=image.getvalue())
    yield
    podman("system", "reset", "--force")
    for place in reversed(mounted):
        subprocess.run(["umount", place], check=True)


def podman(*arguments: object, data: bytes | None = None) -> str:
    """Run it, which is to succeed; gives what it says."""
    done = subprocess.run(
        ["podman", *map(str, arguments)], input=data or b"", capture_output=True, check=False, timeout=_TIMEOUT
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class Pod(Talk):
    """A pod, wherever it is at present."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self._create()

    def _create(self) -> None:
        podman(
            *("pod", "create", "--name", "pod", "--share", "ipc", "--share-parent=false", "--network", "none"),
            *("--infra-image", "localhost/talk", "--infra-command", "/talk"),
        )
        podman("pod", "start", "pod")
        self.pod, infra = podman("pod", "inspect", "--format", "{{.Id}} {{.InfraContainerID}}", "pod").split()
        self.pid = int(podman("inspect", "--format", "{{.State.Pid}}", infra))
        self.sandbox = oracle.Enterable(f"/proc/{self.pid}/ns/ipc")

    def variables(self) -> dict[str, str]:
        pids = {name.upper(): podman("inspect", "--format", "{{.State.Pid}}", name) for name in self.containers()}
        return {"SANDBOX": str(self.pid), "DIR": str(self.directory), "POD": self.pod, **pids}

    def logs(self) -> list[Path]:
        return [path for path in sorted((HOME / "storage").rglob("*.log")) if path.name in ("dump.log", "restore.log")]

    def containers(self) -> set[str]:
        listed = json.loads(podman("ps", "--format", "json"))
        return {name for one in listed for name in one["Names"]} & set(NAMES)

    def start(self) -> None:
        for name in NAMES:
            podman("run", "--detach", "--pod", "pod", "--name", name, "localhost/talk", "/talk", name)
        self.goes_on()

    def move(self) -> None:
        """Have a new pod; the old one ends, and its namespace with it."""
        podman("pod", "rm", "--force", "--time", 0, "pod")
        self._create()
        assert self.sandbox.do(lambda: [oracle.table(kind) for kind in ("shm", "msg", "sem")]) == [{}, {}, {}]

    def close(self) -> None:
        subprocess.run(["podman", "pod", "rm", "--force", "--time", "0", "pod"], capture_output=True, check=False)


@contextlib.contextmanager
def a_pod(scratch: Path) -> Iterator[Pod]:
    with contextlib.closing(Pod(scratch)) as pod:
        pod.sandbox.do(others)
        pod.start()
        yield pod


@pytest.mark.slow  # test_pod.py has the like
def test_without_ipcimg(tmp_path: Path) -> None:
    """The second container cannot be restored."""
    with a_pod(tmp_path) as pod:
        pod.directory.mkdir()
        for name in NAMES:
            podman("container", "checkpoint", "--compress", "none", "--export", pod.directory / f"{name}.tar", name)
        pod.move()
        restore = 'podman container restore --keep --pod "$POD" --import "$DIR/{}.tar"'
        pod.run(restore.format("first"))
        with pytest.raises(AssertionError, match=r"set: File exists"):
            pod.run(restore.format("second"))


def test_moved(plugin: None, tmp_path: Path) -> None:
    """Both containers have segments attached; one of them was removed meanwhile."""
    with a_pod(tmp_path) as pod:
        before, attached = pod.ids(), pod.attachments()
        assert sorted(attached) == [(0, False), (2, False), (2, True)]
        pod.run(steps("Checkpoint by podman")[0])
        assert sorted(path.name for path in pod.directory.iterdir()) == sorted(
            ["ipc", "ipcimg-containers", *NAMES, *(f"{name}.tar" for name in NAMES)]
        )
        pod.move()
        pod.run(steps("Restore by podman")[0])
        pod.goes_on()
        assert pod.ids() == before
        pod.until_attached(attached)
        pod.sandbox.do(others_are_there)
        assert pod.containers() == set(NAMES)


@pytest.mark.slow
def test_hook_below_a_runtime(tmp_path: Path) -> None:
    """This CRIU ends where a runtime and its configuration both want to be called: what the document says of it."""
    (ETC / "criu").mkdir(exist_ok=True)
    (ETC / "criu/runc.conf").write_text("action-script /bin/true\n")
    try:
        with a_pod(tmp_path) as pod, pytest.raises(AssertionError, match=r"BUG at criu/action-scripts\.c:172"):
            pod.directory.mkdir()
            pod.run('podman container checkpoint --export "$DIR/first.tar" first')
    finally:
        (ETC / "criu/runc.conf").unlink()
