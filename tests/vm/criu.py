"""Processes that a real CRIU dumps and restores."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time

from tests.kernel.oracle import Enterable

_libc = ctypes.CDLL(None, use_errno=True)
NAMES = tuple(sorted(path.stem for path in pathlib.Path(__file__).parent.glob("programs/*.c")))
PROGRAMS = pathlib.Path(os.environ.get("IPCIMG_VM_PROGRAMS", "."))  # where they are compiled
_PR_SET_CHILD_SUBREAPER = 36
_TIMEOUT = 300  # seconds; everything is slow here


def criu(
    action: str,
    directory: pathlib.Path,
    *arguments: object,
    namespace: str = "/proc/self/ns/ipc",
    status: int = 0,
) -> None:
    """Run criu, which is to end with status."""
    log = f"{action}.log"
    done = subprocess.run(
        ["nsenter", f"--ipc={namespace}", "criu", action, "-D", directory, "-v4", "-o", log, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    if done.returncode != status:
        wrong = [line for line in (directory / log).read_text().splitlines() if "Error" in line]
        raise AssertionError(f"criu {action}: status {done.returncode}\n{done.stderr}\n" + "\n".join(wrong))


def _end_session(pid: int) -> None:
    """End all processes of a session of one process group, and wait until their ids are free for those to come."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-pid, 0)


class Program:
    """One of programs/, in an IPC namespace of its own."""

    def __init__(self, name: str, scratch: pathlib.Path, *unshare: str) -> None:
        """Start it, and wait until it has made its objects. unshare are further arguments of unshare(1)."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans, and what criu leaves, are our children
        self.name, self._output = name, scratch / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                ["unshare", "-i", *unshare, PROGRAMS / name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=scratch,
                start_new_session=True,
            )
        self.pid = self._process.pid
        until = time.monotonic() + _TIMEOUT
        while not (line := self._output.read_text()).endswith("\n"):
            assert self._process.poll() is None, line
            assert time.monotonic() < until
            time.sleep(0.05)
        assert line.startswith("made"), line
        self.ids = line.split()[1:]
        self.said = len(line)
        self.namespace = Enterable(f"/proc/{self.pid}/ns/ipc")

    def close(self) -> None:
        """End it and its children, if they have not ended."""
        _end_session(self.pid)
        self._process.wait()

    def check_in(self, namespace: str) -> None:
        """Have another process look at the objects in the namespace that this file stands for."""
        done = subprocess.run(
            ["nsenter", f"--ipc={namespace}", PROGRAMS / self.name, "check", *self.ids],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
        assert done.stdout == "PASS\n", done.stdout + done.stderr

    def restore(self, directory: pathlib.Path, *arguments: object) -> Restored:
        """Have criu restore it from a directory. What it said since it was dumped is forgotten: CRIU wants that."""
        os.truncate(self._output, self.said)
        criu("restore", directory, "--restore-detached", *arguments)
        return Restored(self.pid, self._output, self.said)


class Restored:
    """A program that criu has restored."""

    def __init__(self, pid: int, output: pathlib.Path, said: int) -> None:
        self.pid, self._output, self._said = pid, output, said
        self._end = os.pidfd_open(pid)
        self.namespace = Enterable(f"/proc/{pid}/ns/ipc")

    def finish(self) -> str:
        """Tell it to look at its objects; gives what it says."""
        signal.pidfd_send_signal(self._end, signal.SIGTERM)
        if not select.select([self._end], [], [], _TIMEOUT)[0]:
            return "it has not ended"
        return self._output.read_text()[self._said :]

    def close(self) -> None:
        """End it and its children, if they have not ended."""
        os.close(self._end)
        _end_session(self.pid)


def copy(directory: pathlib.Path, where: pathlib.Path) -> pathlib.Path:
    """A copy of an image directory, links as links."""
    return pathlib.Path(shutil.copytree(directory, where, symlinks=True))
