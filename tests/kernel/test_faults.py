"""Every system call of a dump and of a restore fails once, and is the last one once: nothing is lost, nothing is left.

strace(1) makes the calls fail, or kills the process at them. The harness imports everything beforehand, so what it
goes through is ipcimg's own work.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ipcimg as library
from ipcimg import diff, imageset

from ..commands import ipcimg
from . import oracle
from .oracle import Namespace

MARKER = "/the-work-begins"
HARNESS = f"""
import importlib, os, pkgutil, sys
import ipcimg
for module in pkgutil.walk_packages(ipcimg.__path__, "ipcimg."):
    importlib.import_module(module.name)
import json, xxhash
from ipcimg.cli import main
try:
    os.stat({MARKER!r})
except OSError:
    pass
sys.exit(main(sys.argv[1:]))
"""
# Memory, threads and signals of the interpreter, and its end: no work of ipcimg's.
NOT_OURS = {"brk", "mmap", "munmap", "mprotect", "mremap", "futex", "rt_sigaction", "rt_sigprocmask", "exit_group"}
WORKERS = os.cpu_count() or 1

Point = tuple[str, int]  # the call's name, and which of all calls with this name it is
Run = Callable[[Point, list[str]], tuple[int, str]]


@pytest.fixture(autouse=True)
def strace() -> None:
    if shutil.which("strace") is None:
        reason = "strace is missing: NOT TESTED (apt-get install strace)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def run(arguments: list[object], *options: str) -> tuple[int, str]:
    """A command of ipcimg under strace: its status, and what it printed on standard error."""
    done = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", *options, sys.executable, "-c", HARNESS, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "LC_ALL": "C", "LANGUAGE": ""},
    )
    return done.returncode, done.stderr


def points(arguments: list[object], log: Path) -> list[Point]:
    """All system calls that the work takes."""
    status, errors = run(arguments, "-o", str(log))
    assert status == 0, errors
    before: collections.Counter[str] = collections.Counter()
    after: list[Point] = []
    begun = False
    for line in log.read_text().splitlines():
        if match := re.match(r"[0-9]+ +([a-z0-9_]+)\(", line):
            begun |= MARKER in line
            before[match[1]] += 1
            if begun and match[1] not in NOT_OURS and MARKER not in line:
                after.append((match[1], before[match[1]]))
    return after


def at_every(found: list[Point], act: Callable[[Point], str]) -> None:
    """Act at each point, on all processors; it gives what is wrong, or nothing."""
    with ThreadPoolExecutor(WORKERS) as pool:
        wrong = [
            f"{name} number {n}: {what}" for (name, n), what in zip(found, pool.map(act, found), strict=True) if what
        ]
    print(f"{len(found)} points, {len(wrong)} failures")
    assert not wrong, "\n".join(wrong)


def fill() -> None:
    oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two" * 1000)])
    oracle.queue(0, messages=[(3, b"")])
    with oracle.creating_as(1001, 1001):
        oracle.use(oracle.semaphores(0x77, [3, 4]))
    oracle.segment(0x99, 3 * 4096, [(0, b"a"), (2 * 4096, b"b")])


def state() -> object:
    """All that can be seen without changing it; atime, dtime, lpid and nattch of segments are a reader's traces."""
    kinds = ("msg", "sem", "shm")
    tables = {kind: oracle.table(kind) for kind in kinds}
    for row in tables["shm"].values():
        for trace in ("lpid", "atime", "dtime"):
            del row[trace]
    return tables, oracle.values(0, 2) if tables["sem"] else (), oracle.variables()


def one_line(errors: str) -> bool:
    return errors.startswith("ipcimg: Error: ") and errors.count("\n") == 1


def summary(directory: Path) -> diff.Summary:
    images = imageset.open_set(str(directory))
    images.check()
    return diff.summarize(images.contents, 4096)


@pytest.fixture
def dumped(source: Namespace, tmp_path: Path) -> Path:
    source.do(fill)
    source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 0))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.parametrize("how", ["error=EIO", "signal=KILL"])
def test_dump(source: Namespace, dumped: Path, tmp_path: Path, how: str) -> None:
    """The source is unharmed, and there is a whole set or one that nobody takes for whole."""
    before, whole = source.do(state), summary(dumped)

    def dump(point: Point) -> str:
        name, n = point
        out = tmp_path / f"{name}-{n}"
        inject = ("-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:{how}:when={n}")
        status, errors = run(["dump", "--ipc-ns", source.path, "-D", out], *inject)
        try:
            found = list(diff.compare(whole, summary(out)))
        except library.IpcimgError as error:
            if status == 0:
                return f"claimed success, but {error}"
        else:
            if found:
                return f"is another set: {found[0].words()}"
        shutil.rmtree(out, ignore_errors=True)
        if status > 0 and not one_line(errors):
            return f"said {errors[-300:]!r}"
        return ""

    at_every(points(["dump", "--ipc-ns", source.path, "-D", tmp_path / "d"], tmp_path / "log"), dump)
    assert source.do(state) == before
    assert [len(source.do(lambda n=n: oracle.receive_all(n))) for n in (0, 1)] == [2, 1]  # type: ignore[misc]


def test_restore(source: Namespace, make_namespace: Callable[[], Namespace], dumped: Path, tmp_path: Path) -> None:
    """All is there, or the namespace is as it was."""
    first = make_namespace()
    first.do(lambda: oracle.queue(0x4711, messages=[(1, b"was there")], wanted=32768 * 7 + 99))
    before = first.do(state)
    whole = summary(dumped)

    def restore(point: Point) -> str:
        name, n = point
        target = Namespace()
        try:
            target.do(lambda: oracle.queue(0x4711, messages=[(1, b"was there")], wanted=32768 * 7 + 99))
            was = target.do(state)
            inject = ("-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:error=EIO:when={n}")
            status, errors = run(["restore", "--ipc-ns", target.path, "-D", dumped], *inject)
            if status == 0:
                target.do(lambda: oracle.remove("msg", 32768 * 7 + 99))
                ipcimg("dump", "--ipc-ns", target.path, "-D", tmp_path / f"{name}-{n}")
                found = list(diff.compare(whole, summary(tmp_path / f"{name}-{n}")))
                return f"claimed success, but {found[0].words()}" if found else ""
            if not one_line(errors):
                return f"said {errors[-300:]!r}"
            return "" if target.do(state) == was else f"left {target.do(state)}; it said {errors}"
        finally:
            target.close()

    found = points(["restore", "--ipc-ns", first.path, "-D", dumped], tmp_path / "log")
    assert first.do(state) != before
    at_every(found, restore)
