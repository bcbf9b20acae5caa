"""Every system call of a dump and of a restore fails once, and is the last one once: nothing is lost, nothing is left.

To end right after a call is not tried: for all that can be seen, it is to end at the next one.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

import ipcimg as library
from ipcimg import diff, imageset
from ipcimg.delivery import PREFIX

from . import oracle
from .inject import KILLED, WORKERS, Call, Injector, Outcome, Point, at_every
from .oracle import Processless

pytestmark = pytest.mark.exhaustive

Record = Callable[[str, object], None]
KINDS = ("msg", "sem", "shm")


# ---- what there is -------------------------------------------------------------------------


def fill() -> None:
    """What is carried: all kinds, and a message for which a dump has to raise msgmax for a while."""
    oracle.queue(0x1234, messages=[(1, b"one"), (2, b"two" * 1000)])
    oracle.queue(0, messages=[(3, b"")])
    with oracle.creating_as(1001, 1001):
        oracle.use(oracle.semaphores(0x77, [3, 4]))
    oracle.segment(0x99, 3 * 4096, [(0, b"a"), (2 * 4096, b"b")])
    oracle.set_variable("kernel/msgmax", 2000)
    oracle.preset("sem", 32768 * 3 + 5)


def fill_with_strangers() -> None:
    """What is in the target before: other objects, limits and presets of its own."""
    oracle.queue(0x4711, messages=[(1, b"was there"), (2, b"x" * 3000)], wanted=32768 * 7 + 99)
    oracle.use(oracle.semaphores(0x4712, [7, 8, 9], wanted=32768 * 8 + 98))
    oracle.preset("shm", 32768 * 9 + 97)
    with oracle.creating_as(1002, 1002):
        oracle.segment(0x4713, 4096, [(0, b"mine" * 1024)])
    oracle.set_variable("kernel/msgmax", 1000)
    oracle.set_variable("kernel/shmmni", 17)
    for n, kind in enumerate(KINDS):
        oracle.preset(kind, 32768 * 2 + n)


def fill_with_a_stranger() -> None:
    """No preset is pending, so none may be left pending."""
    oracle.segment(0x4713, 4096, [(0, b"mine" * 1024)], wanted=32768 * 9 + 97)


def state() -> dict[str, object]:
    """All that can be seen without changing it; atime, dtime, lpid and nattch of segments are a reader's traces."""
    tables = {kind: oracle.table(kind) for kind in KINDS}
    for row in tables["shm"].values():
        for trace in ("lpid", "atime", "dtime"):
            del row[trace]
    return {
        **tables,
        "variables": oracle.variables(),
        "values": {semid: oracle.values(semid, row["nsems"]) for semid, row in tables["sem"].items()},
        "contents": {  # to look at a hole makes it a page
            shmid: oracle.content(shmid, row["size"])
            for shmid, row in tables["shm"].items()
            if row["size"] == row["rss"]
        },
    }


def changes(was: dict[str, object], now: dict[str, object]) -> str:
    return "; ".join(f"{name}: {was[name]} became {found}" for name, found in now.items() if found != was[name])


def made_by(*fillings: Callable[[], None]) -> dict[str, object]:
    """All that is in a namespace after these."""
    namespace = Processless()
    for filling in fillings:
        namespace.do(filling)
    found = namespace.do(oracle.everything)
    namespace.close()
    return found


def summary(directory: Path) -> diff.Summary:
    images = imageset.open_set(str(directory))
    images.check()
    return diff.summarize(images.contents, 4096)


# ---- trying points -------------------------------------------------------------------------


class Worker:
    """Tries points, one at a time, in a namespace of its own."""

    def __init__(self) -> None:
        self.temporary = Path(tempfile.mkdtemp())  # its $TMPDIR
        self.injector = Injector(f"import os; os.environ['TMPDIR'] = {str(self.temporary)!r}")
        self.source = Processless()
        self.source.do(fill)
        # Two users that rest: the one will be stopped through its cgroup, the other by ptrace(2).
        enter = ("nsenter", f"--ipc={self.source.path}", "sleep", "10000")
        self.users = [subprocess.Popen(enter) for _ in range(2)]
        self._in_cgroup = oracle.cgroup(self.users[0].pid)
        self.cgroup = self._in_cgroup.__enter__()

    def stopped(self) -> str:
        """Which of its users is stopped, and stays it."""
        until, who = time.monotonic() + 5, ""
        while time.monotonic() < until:
            who = "the cgroup is frozen" if oracle.is_frozen(self.cgroup) else ""
            who = who or "".join(f"{user.pid} is stopped" for user in self.users if oracle.state(user.pid) in "tT")
            if not who:
                break
        return who

    def close(self) -> None:
        self.injector.close()
        self.temporary.rmdir()
        for user in self.users:
            user.kill()
            user.wait()
        self._in_cgroup.__exit__(None, None, None)
        left = self.source.do(oracle.everything)
        self.source.close()
        assert left == made_by(fill), "the source is not what it was"


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    if shutil.which("gcc") is None:
        reason = "gcc, which knows the numbers of the system calls, is missing: NOT TESTED (apt-get install gcc)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    made = [Worker() for _ in range(WORKERS)]
    yield made
    for worker in made:
        worker.close()


@pytest.fixture
def dumped(workers: list[Worker], tmp_path: Path) -> Path:
    outcome = workers[0].injector.run("dump", "--ipc-ns", workers[0].source.path, "-D", tmp_path / "whole")
    assert outcome.status == 0, outcome
    return tmp_path / "whole"


def unclear(outcome: Outcome) -> str:
    """What is wrong with how a command ended; a killed one has nothing to say."""
    if outcome.status is None:
        return "did not end"
    one_line = outcome.errors.startswith("ipcimg: Error: ") and outcome.errors.count("\n") == 1
    return f"said {outcome.errors[-300:]!r}" if outcome.status > 0 and not one_line else ""


def named(what: int) -> str:
    return errno.errorcode.get(what, "SIGKILL")


LOOKING = {"openat", "newfstatat", "getdents64", "close", "read", "fstat", "lseek", "ioctl"}
WRITING = {
    "mkdir",
    "mkdirat",
    "symlinkat",
    "write",
    "writev",
    "pwrite64",
    "renameat",
    "renameat2",
    "fsync",
    "fdatasync",
    "syncfs",
}


def is_writing(call: Call) -> bool:
    """Does it write, or make something?

    What is said to the user is not meant, nor a companion's word, the only four bytes that a dump writes: a pipe is
    never full, and a companion that is not told to end ends all the same.
    """
    if call.point.name == "openat":
        return bool(call.arguments[2] & os.O_CREAT)
    said = call.point.name == "write" and (call.arguments[0] in (1, 2) or call.arguments[2] == len(b"done"))
    return call.point.name in WRITING and not said


@pytest.mark.parametrize(
    ("what", "options"),
    [
        (errno.EIO, ()),
        (KILLED, ()),
        (errno.ENOSPC, ()),
        (errno.EROFS, ()),
        (errno.EIO, ("--freeze",)),
        (KILLED, ("--freeze",)),
        (errno.EIO, ("--parent",)),
        (KILLED, ("--parent",)),
        (errno.ENOSPC, ("--parent",)),
    ],
    ids=lambda it: "".join(it) if isinstance(it, tuple) else named(it),
)
def test_dump(
    workers: list[Worker],
    dumped: Path,
    tmp_path: Path,
    what: int,
    options: tuple[str, ...],
    record_property: Record,
) -> None:
    """The source is unharmed and goes on; there is a whole set, or one that nobody takes for whole."""
    before, whole = [worker.source.do(state) for worker in workers], summary(dumped)
    full = what in (errno.ENOSPC, errno.EROFS)
    meant: list[object] = [*options, dumped] if options == ("--parent",) else [*options]

    def dump(worker: Worker, point: Point) -> str:
        out = tmp_path / str(point)
        command = ("dump", "--ipc-ns", worker.source.path, "-D", out, *meant)
        outcome = worker.injector.inject(point, what, *command)
        try:
            found = list(diff.compare(whole, summary(out)))
        except library.IpcimgError as error:
            if outcome.status == 0:
                return f"claimed success, but {error}"
        else:
            if found:
                return f"is another set: {found[0].words()}"
        if full and outcome.status != 1:
            return f"ended with status {outcome.status}"
        if who := worker.stopped():
            return who
        if worker.source.do(state) != before[workers.index(worker)]:
            return f"left the source as {worker.source.do(state)}"
        if out.exists() and outcome.status != 0:
            again = worker.injector.run(*command, "--force")
            if again.status != 0 or list(diff.compare(whole, summary(out))):
                return f"left what the next dump does not replace: {again.errors}"
            if any(name.startswith(".") for name in os.listdir(out)):
                return f"left {os.listdir(out)}"
        if "--parent" in meant and out.exists() and not os.path.samefile(out / "parent", dumped):
            return "left another link"
        shutil.rmtree(out, ignore_errors=True)
        return unclear(outcome)

    calls = workers[0].injector.record("dump", "--ipc-ns", workers[0].source.path, "-D", tmp_path / "d", *meant)
    assert any(call.point.forked for call in calls), "no companion has a part in it"
    points = [call.point for call in calls if not full or is_writing(call)]
    if options == ("--freeze",):
        # Most of these are looks at every process of the machine: of what they take, a part is enough.
        looks = [point for point in points if point.name in LOOKING]
        points = [point for point in points if point.name not in LOOKING] + looks[::20]
    at_every(points, workers, dump, f"system calls of {' '.join(('a dump', *options))}, {named(what)}", record_property)


@pytest.mark.parametrize("what", [errno.EIO, KILLED], ids=named)
def test_dump_to_a_stream(
    workers: list[Worker], dumped: Path, tmp_path: Path, what: int, record_property: Record
) -> None:
    """From when the dump is whole on: all has been sent where it says so, a part is refused, and nothing is left."""
    before, whole = [worker.source.do(state) for worker in workers], summary(dumped)

    def dump(worker: Worker, point: Point) -> str:
        outcome = worker.injector.inject(point, what, "dump", "--ipc-ns", worker.source.path, "-D", "-")
        left = list(worker.temporary.iterdir())
        for path in left:
            shutil.rmtree(path)
        sent = tmp_path / f"{point}.tar"
        sent.write_bytes(outcome.output.encode("utf-8", "surrogateescape"))
        try:
            found = list(diff.compare(whole, summary(sent)))
        except library.IpcimgError as error:
            if outcome.status == 0:
                return f"claimed success, but {error}"
        else:
            if found:
                return f"sent another set: {found[0].words()}"
        if worker.source.do(state) != before[workers.index(worker)]:
            return f"left the source as {worker.source.do(state)}"
        if left and outcome.status is not None and outcome.status >= 0 and str(left[0]) not in outcome.errors:
            return f"left {left}, and said {outcome.errors}"
        if [path for path in left if not path.name.startswith(PREFIX)]:
            return f"left {left}"
        return "" if outcome.status == 0 else unclear(outcome)

    calls = workers[0].injector.record("dump", "--ipc-ns", workers[0].source.path, "-D", "-")
    names = [call.point.name for call in calls]
    [made] = [n for n, call in enumerate(calls) if call.point.name == "mkdir"][:1]
    moved = len(names) - 1 - names[::-1].index("renameat")
    points = [call.point for call in (*calls[made - 5 : made + 5], *calls[moved:])]
    assert any(point.name == "sendfile" for point in points)
    at_every(points, workers, dump, f"system calls of a dump to a stream, {named(what)}", record_property)


def both(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    """What two namespaces hold taken together, of which no objects have the same id, with the settings of the other."""
    return {
        name: found if name == "variables" else {**cast(dict[int, object], one[name]), **cast(dict[int, object], found)}
        for name, found in other.items()
    }


@pytest.mark.parametrize("others", [fill_with_strangers, fill_with_a_stranger])
@pytest.mark.parametrize("what", [errno.EIO, KILLED], ids=named)
def test_restore(
    workers: list[Worker], dumped: Path, what: int, others: Callable[[], None], record_property: Record
) -> None:
    """All is there, or the namespace is as it was, with everything that others have in it; once killed: recovered."""
    strangers = made_by(others)
    complete = both(strangers, made_by(fill))

    def restore(worker: Worker, point: Point) -> str:
        target = Processless()
        try:
            target.do(others)
            was = target.do(state)
            outcome = worker.injector.inject(point, what, "restore", "--ipc-ns", target.path, "-D", dumped)
            if wrong := unclear(outcome):
                return wrong
            if outcome.status is not None and outcome.status < 0:
                recovered = worker.injector.run("recover", "--ipc-ns", target.path)
                if recovered.status != 0:
                    return f"recover: {recovered.errors}"
            now, everything = target.do(state), target.do(oracle.everything)
            if everything == complete:
                return ""
            if outcome.status == 0:
                return f"claimed success, but {changes(complete, everything)}"
            if now != was:
                return f"{changes(was, now)}; it said {outcome.errors}"
            return changes(strangers, everything)
        finally:
            target.close()

    first = Processless()
    first.do(others)
    calls = workers[0].injector.record("restore", "--ipc-ns", first.path, "-D", dumped)
    assert first.do(oracle.everything) == complete
    first.close()
    points, label = [call.point for call in calls], f"system calls of a restore, {named(what)}"
    if others is fill_with_a_stranger:  # it makes a difference until there is a journal
        label += ", no preset pending"
        made = next(n for n, point in enumerate(points) if point.name == "shmget")
        points = points[made - 40 : made + 40]
    at_every(points, workers, restore, label, record_property)
