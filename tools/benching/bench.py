"""Namespaces to measure in, and the processes that are measured.

Everything that is made goes with the process that made it, however that ends: the namespaces are those of processes
that go when they have nothing more to read, and files are in a file system that only we and our children see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipcimg import imageset, libc
from ipcimg.interrupts import deferred
from ipcimg.model import Counts

from .content import Content

ROOT = Path(__file__).resolve().parent.parent.parent
MSGMAX = 8192  # bytes, what it is by default
_CLONE_NEWNS = 0x00020000  # linux/sched.h
_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_MEMORY = "/dev/shm"  # noqa: S108


class BrokenError(Exception):
    """Something was not done that is to be measured, so there is nothing to be said of its time."""


@dataclass(slots=True)
class Took:
    """What was measured at one time."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak: int = 0  # bytes of memory, of ipcimg alone
    size: int | None = None  # bytes of the images, where they are asked for

    def add(self, other: Took) -> None:
        """Add what was measured beside it."""
        self.seconds |= other.seconds
        self.peak = max(self.peak, other.peak)


def run(*command: str, directory: Path = ROOT, scratch: Path | None = None) -> str:
    """What a process prints, whose temporary files go to scratch. Raises BrokenError where it fails."""
    environment = os.environ if scratch is None else os.environ | {"TMPDIR": str(scratch)}
    with _started(*command, cwd=directory, stdin=subprocess.DEVNULL, env=environment) as process:
        printed, _ = process.communicate()
    if process.returncode:
        raise BrokenError(f"{' '.join(command)} ended with status {process.returncode}")
    return printed


@contextlib.contextmanager
def _started(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process whose output is read, for the with block; on any error it is killed, with those that it started."""

    def end(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    with contextlib.ExitStack() as stack:
        with deferred():  # a signal that comes while it is being started finds it here, to be ended
            # In a session of its own, where Ctrl-C does not reach it: it is ended by us.
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)
            )
            stack.push(end)
        yield process


def _expect(what: str, found: Counts, made: Counts) -> None:
    # Pages that were not written may be there as well: of huge pages, and of zeros.
    if dataclasses.replace(found, pages=min(found.pages, made.pages)) != made:
        raise BrokenError(f"{what} {found}; made were {made}")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with a known content, that of the process pid."""

    pid: int
    content: Content
    program: Path

    def yardstick(self, *arguments: str, directory: Path, amount: int) -> float:
        """Seconds of a yardstick in it, which is to have to do with that many messages, sets or bytes."""
        nanoseconds, found = map(int, self._run(*arguments, directory=directory).split())
        if found != amount:
            raise BrokenError(f"the yardstick {' '.join(arguments)} has done {found} in place of {amount}")
        return nanoseconds / 1e9

    def ipcimg(self, what: str, images: Path, made: Counts) -> Took:
        """Measure what (see measured.py), which is to have to do with what was made."""
        found = json.loads(
            run(sys.executable, "-m", "tools.benching.measured", what, str(self.pid), str(images)),
        )
        _expect(f"ipcimg says of a {what}", Counts(**found["counts"]), made)
        return Took(found["seconds"], found["peak"])

    def expect(self, made: Counts) -> None:
        """See that what was made is there. Raises BrokenError."""
        numbers = self._run("count", directory=ROOT).split()
        _expect("the namespace holds", Counts(*map(int, numbers)), made)

    def _run(self, *arguments: str, directory: Path) -> str:
        return run(str(self.program), "in", str(self.pid), *arguments, directory=directory)


class Bench:
    """A place to measure at. Made by bench()."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch  # a directory in memory
        self._program = scratch / "yardsticks"
        compile_yardsticks(self._program)

    @contextlib.contextmanager
    def holding(self, content: Content, msgmax: int = MSGMAX) -> Iterator[Namespace]:
        """A new namespace with that content."""
        command = (str(self._program), "new", str(msgmax), *content.arguments)
        with _started(*command, stdin=subprocess.PIPE) as process:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise BrokenError(f"{content} could not be made")
            namespace = Namespace(process.pid, content, self._program)
            namespace.expect(content.counts)
            yield namespace

    @contextlib.contextmanager
    def images(self) -> Iterator[Path]:
        """A directory for images, which must not grow into the next measurement."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            yield Path(directory)


def check_images(directory: Path, made: Counts) -> None:
    """See that images hold what was made, by going through all of them. Raises BrokenError."""
    images = imageset.open_set(str(directory))
    _expect("the images hold", images.check(), made)


def size_of(directory: Path) -> int:
    """Bytes of all files in a directory."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())


def compile_yardsticks(program: Path) -> None:
    """Compile yardsticks.c to a program."""
    source = Path(__file__).with_name("yardsticks.c")
    run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source), scratch=program.parent)


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A place to measure at, for the with block. The process is then in namespaces of its own, for good."""
    libc.unshare(libc.CLONE_NEWIPC | _CLONE_NEWNS)
    run("mount", "--make-rprivate", "/")
    # Images go to memory, where having them on the disk costs nothing: a disk is not what is measured.
    run("mount", "-t", "tmpfs", "-o", "mode=700,size=5g", "ipcimg-bench", _MEMORY)
    scratch = os.open(_MEMORY, os.O_RDONLY)
    try:
        if libc.fstatfs(scratch)[0] != _TMPFS_MAGIC:
            raise BrokenError(f"{_MEMORY} is no tmpfs")
    finally:
        os.close(scratch)
    yield Bench(Path(_MEMORY))
