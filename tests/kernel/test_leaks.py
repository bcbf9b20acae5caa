"""A namespace is carried on and on: nothing is left behind on the way, and at its end everything is there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ipcimg

from . import oracle
from .inject import WORKERS, Injector
from .oracle import Enterable, Processless

pytestmark = pytest.mark.exhaustive

CYCLES = 2000
_WARM_UP = 100  # cycles after which Python has imported, cached and allocated what it ever will
_MEMORY = 2048  # KiB, that the others may take: a leak of two bytes a cycle and object would be more

Record = Callable[[str, object], None]


def fill() -> None:
    """All kinds, and a message for which a dump changes a setting meanwhile."""
    oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two" * 1000)])
    oracle.queue(0, messages=[(3, b"")], wanted=32768 * 5 + 77)
    with oracle.creating_as(1001, 1001):
        oracle.use(oracle.semaphores(0x77, [3, 4]))
    oracle.segment(0x99, 3 * 4096, [(0, b"a"), (2 * 4096, b"b")])
    oracle.set_variable("kernel/msgmax", 2000)
    oracle.preset("sem", 32768 * 3 + 5)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory where fsync(2) takes no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def filled() -> Processless:
    made = Processless()
    made.do(fill)
    return made


def traces(directory: Path) -> dict[str, int]:
    """How much there is of everything that a cycle could leave behind, seen from a process of its own."""
    mine, processes = Path("/proc/self/cmdline").read_bytes(), 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            processes += Path(f"/proc/{pid}/cmdline").read_bytes() == mine  # a companion has it from us
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
        processes += 1  # a child, be it a zombie
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "open files": len(targets),
        "open namespaces": sum(target.startswith("ipc:") for target in targets),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": processes,
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "files": len(list(directory.rglob("*"))),
        "KiB of memory": int(status["VmRSS"].split()[0]),
    }


def work(directory: Path) -> None:
    """The cycles in this process, and what there is of everything after the warm-up and at the end."""
    source, looks = ipcimg.at_path(filled().path), []
    for n in range(_WARM_UP + CYCLES):
        if n == _WARM_UP:
            looks.append(traces(directory))
        target = ipcimg.new()
        ipcimg.dump(directory / "d", source, frozen=True)
        ipcimg.restore(directory / "d", target)
        shutil.rmtree(directory / "d")
        source.close()
        source = target
    looks.append(traces(directory))
    assert Enterable(f"/proc/self/fd/{source.fd}").do(oracle.everything) == filled().do(oracle.everything)
    print(json.dumps(looks))


def test_in_one_process(in_memory: Path, record_property: Record) -> None:
    program = f"import pathlib, sys; from {__name__} import work; work(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, in_memory],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    before, after = json.loads(done.stdout)
    more = {name: after[name] - count for name, count in before.items() if after[name] != count}
    memory = more.pop("KiB of memory", 0)
    record_property(
        "nothing lost",
        f"dumps and restores in one process: {CYCLES} cycles, {sum(more.values())} files, processes, "
        f"threads, namespaces or mounts left, {memory} KiB of memory more",
    )
    assert (more, memory < _MEMORY) == ({}, True)


def chain(directory: Path, cycles: int) -> None:
    """Cycles of processes. The injector waits until nothing runs any more of what a command has started."""
    injector, source = Injector(), filled()
    for _ in range(cycles):
        target = Processless()
        for command in (
            ("dump", "--ipc-ns", source.path, "-D", directory, "--frozen-by-caller"),
            ("restore", "--ipc-ns", target.path, "-D", directory),
        ):
            outcome = injector.run(*command)
            assert (outcome.status, outcome.errors) == (0, "")
        shutil.rmtree(directory)
        source.close()
        source = target
    injector.close()
    assert source.do(oracle.everything) == filled().do(oracle.everything)


def test_as_processes(in_memory: Path, record_property: Record) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(chain, in_memory / str(n), CYCLES // WORKERS) for n in range(WORKERS)]:
            future.result()
    left = len(list(in_memory.iterdir())) + (Path("/proc/self/mountinfo").read_text() != mounts)
    record_property("nothing lost", f"dumps and restores as processes: {CYCLES} cycles, {left} files or mounts left")
    assert left == 0
