"""`ipcimg hook`, called as criu calls it: by its environment, with the image directory as a descriptor of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .. import wire
from ..commands import IPCIMG, SHOW, ipcimg, run, same
from ..test_criu_images import dump_of
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.slow  # nothing here is another on another kernel

LINE = re.compile(r"\(\d{2,}\.\d{6}\) (?:Error \(\w+\.py:\d+\): |Warn: )?([\w-]+): (.*)")


class Criu:
    """What criu is to the hook: a parent with an open image directory."""

    def __init__(self, images: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
        self.images, self._patch, self._configuration = images, monkeypatch, scratch / "hook.toml"
        self._configuration.touch()
        self._fd = os.open(images, os.O_RDONLY)

    def close(self) -> None:
        os.close(self._fd)

    def configure(self, text: str) -> None:
        self._configuration.write_text(text)

    def at(self, stage: str, task: int | None = None, *, status: int = 0) -> list[str]:
        """Call the hook, which is to end with status; gives what it says, without times and the stage."""
        self.environment(stage, task)
        log = self.images / "ipcimg-hook.log"
        before = len(log.read_text()) if log.is_file() else 0
        done = run(IPCIMG, "hook", "--config", self._configuration, status=status)
        assert done.stdout == ""
        if log.is_file():
            assert log.read_text()[before:] == done.stderr
        found = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
        assert found
        assert all(match and match[1] == stage for match in found), done.stderr
        errors = [line for line in done.stderr.splitlines() if ") Error (" in line]
        assert bool(errors) == bool(status), done.stderr
        return [match[2] for match in found if match]

    def environment(self, stage: str, task: int | None, images: str | None = None) -> None:
        self._patch.setenv("CRTOOLS_SCRIPT_ACTION", stage)
        self._patch.setenv("CRTOOLS_IMAGE_DIR", images or f"/proc/{os.getpid()}/fd/{self._fd}")
        if task is None:
            self._patch.delenv("CRTOOLS_INIT_PID", raising=False)
        else:
            self._patch.setenv("CRTOOLS_INIT_PID", str(task))

    def explained(self, stage: str, task: int | None) -> list[str]:
        """What it says it would do now."""
        before = files(self.images)
        self.environment(stage, task)
        text = run(IPCIMG, "hook", "--explain", "--config", self._configuration).stdout
        assert files(self.images) == before
        head, _, now = text.rpartition("\nnow: ")
        assert head
        first, *lines = now.splitlines()
        assert first == f"{stage}, images {self.images}, process {task or 'not told'}"
        return lines


@pytest.fixture
def criu(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Criu]:
    """At the end of a dump of CRIU's, of source, whose process is stopped."""
    directory = dump_of("basic", tmp_path / "criu")
    ipcimg("restore", "-t", source.pid, "-D", directory)
    source.stop()
    made = Criu(directory, monkeypatch, tmp_path)
    yield made
    made.close()


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


CONTENTS = "2 message queues (5 messages), 2 semaphore sets, 2 shared memory segments (4 pages)"
BESIDE = "dump.place = 'beside'"
EARLY = "dump = {place = 'beside', stage = 'network-lock'}"


# ---- in the place of CRIU's images ---------------------------------------------------------


def test_in_place(source: Namespace, criu: Criu) -> None:
    source.do(lambda: oracle.semaphores(0x1234, (7,)))
    contents = CONTENTS.replace("2 semaphore", "3 semaphore")
    set_id = int(next(criu.images.glob("ipcns-var-*.img")).stem.split("-")[2])
    assert criu.explained("post-dump", source.pid) == [
        f"  would dump the IPC namespace of process {source.pid} in the place of CRIU's set {set_id} in {criu.images}"
    ]
    assert criu.at("network-lock", source.pid) == ['nothing to do: dump.stage is "post-dump"']
    assert criu.at("post-dump", source.pid) == [f"dumped {contents} in the place of CRIU's images"]
    same(criu.images, f"ns:{source.pid}")
    assert criu.at("network-unlock", source.pid) == ['nothing to do: dump.stage is "post-dump"']
    assert criu.explained("pre-restore", None) == [f"  would compare set {set_id} in {criu.images} with its manifest"]
    assert criu.at("pre-restore") == [f"set {set_id}: {contents}: whole, and as it was written (xxh3-128)"]


def test_nothing_to_do(source: Namespace, criu: Criu, target: Namespace) -> None:
    """Every stage says so."""
    before = files(criu.images)
    nothing = "nothing to do: ipcimg has nothing to do at this stage"
    for stage in (
        "post-restore",
        "pre-resume",
        "post-resume",
        "orphan-pts-master",
        "query-ext-files",
        "x-y",
    ):
        assert criu.at(stage, source.pid) == [nothing], stage
    assert criu.at("pre-dump", source.pid) == ["nothing to do: no earlier dump is beside CRIU's"]
    assert criu.at("pre-restore") == ["nothing to do: no set of images that is there has a manifest"]
    assert criu.at("setup-namespaces", target.pid) == [
        "nothing to do: the namespace may be one that the tasks leave again (--join-ns)"
    ]
    assert criu.at("post-setup-namespaces", target.pid) == [f"nothing to do: there is no ipcimg in {criu.images}"]
    criu.configure("dump.stage = 'none'\n[restore]\nstage = 'none'\nverify = false")
    for stage in ("pre-dump", "network-lock", "post-dump", "network-unlock"):
        assert criu.at(stage, source.pid) == ['nothing to do: dump.stage is "none"']
    assert criu.at("pre-restore") == ["nothing to do: restore.verify is false"]
    assert criu.at("post-setup-namespaces", target.pid) == [f"nothing to do: there is no ipcimg in {criu.images}"]
    after = files(criu.images)
    log = after.pop("ipcimg-hook.log").decode()
    assert after == before
    assert len(log.splitlines()) == 16
    assert (criu.images / "ipcimg-hook.log").stat().st_mode & 0o777 == 0o600


def test_running(source: Namespace, criu: Criu) -> None:
    """What CRIU has dumped is not as the tasks are by now; nothing is left of the attempt."""
    os.kill(source.pid, signal.SIGCONT)
    before = files(criu.images)
    [line] = criu.at("post-dump", source.pid, status=1)
    assert line.startswith(f"process {source.pid} of the IPC namespace of process {source.pid} is running, ")
    assert files(criu.images).keys() - before.keys() == {"ipcimg-hook.log"}


@pytest.mark.parametrize("stage", ["post-dump", "network-lock"])
def test_criu_s_own_namespace(stage: str, criu: Criu) -> None:
    """CRIU dumps and restores nothing of it, and says nothing."""
    pid, text = os.getpid(), "the tasks are in criu's own IPC namespace, of which CRIU dumps and restores nothing"
    inventory = criu.images / "inventory.img"
    [ids] = criu.images.glob("ids-*.img")
    theirs, criu_s = ids.read_bytes()[12:], inventory.read_bytes()
    assert theirs not in criu_s
    at = criu_s.index(b"\x1a") + 2  # root_ids, its length
    inventory.write_bytes(criu_s[: at - 1] + bytes([len(theirs)]) + theirs + criu_s[at + criu_s[at - 1] :])
    size = len(inventory.read_bytes()) - 8
    inventory.write_bytes(inventory.read_bytes()[:4] + size.to_bytes(4, "little") + inventory.read_bytes()[8:])
    criu.configure("" if stage == "post-dump" else EARLY)
    assert criu.at(stage, pid) == [f"nothing to do: {text}"]
    criu.configure("dump.required = true" if stage == "post-dump" else EARLY.replace("}", ", required = true}"))
    assert criu.at(stage, pid, status=1) == [f"{text}; dump.required is true"]


def test_several_namespaces(source: Namespace, criu: Criu) -> None:
    """The error names no option: criu gives none."""
    (criu.images / "ids-7.img").write_bytes(wire.ids(11))
    [line] = criu.at("post-dump", source.pid, status=1)
    assert line.endswith("its ids-*.img name the IPC namespaces 9, 11; `ipcimg hook` takes one alone")


@pytest.mark.parametrize("pattern", ["ipcns-msg-*.img", "pages-*.img", "ipcimg-manifest-*.img"])
def test_damaged(pattern: str, source: Namespace, criu: Criu) -> None:
    """A restore ends before it begins."""
    criu.at("post-dump", source.pid)
    path = max(criu.images.glob(pattern))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    [line] = criu.at("pre-restore", status=1)
    assert str(path) in line
    path.unlink()
    [line] = criu.at("pre-restore", status=1)
    assert path.name in line
    criu.configure("restore.verify = false")
    assert criu.at("pre-restore") == ["nothing to do: restore.verify is false"]


# ---- beside CRIU's images ------------------------------------------------------------------


def restored_beside(criu: Criu, source: Namespace, target: Namespace) -> None:
    """What was dumped beside is what is restored, and it is all that CRIU leaves in its images."""
    assert not (criu.images / "ipcimg.unfinished").exists()
    beside = criu.images / "ipcimg"
    same(beside, f"ns:{source.pid}")
    kinds = {path.name.split("-")[1] for path in criu.images.glob("ipcns-*.img")}
    assert kinds == {"var"}
    [line] = criu.at("pre-restore")
    assert line.startswith(f"set 1: {CONTENTS}: whole") or f": {CONTENTS}: whole" in line
    assert criu.explained("post-setup-namespaces", target.pid) == [
        f"  would restore {beside} into the IPC namespace of process {target.pid}"
    ]
    assert criu.at("post-setup-namespaces", target.pid)[-1] == f"restored {CONTENTS} from ipcimg"
    same(beside, f"ns:{target.pid}")


def test_beside(source: Namespace, target: Namespace, criu: Criu) -> None:
    criu.configure(BESIDE)
    assert criu.explained("post-dump", source.pid) == [
        f"  would dump the IPC namespace of process {source.pid} into {criu.images}/ipcimg, and detach CRIU's images"
    ]
    assert criu.at("post-dump", source.pid) == [
        f"dumped {CONTENTS} into ipcimg.unfinished",
        "ipcimg.unfinished is ipcimg now, and CRIU's images are detached from it",
        "tasks that have a segment attached need the plugin of ipcimg at criu restore: tools/criu-plugin",
    ]
    assert (criu.images / "ipcimg-segments").read_text().count("\n") == 2
    restored_beside(criu, source, target)


def test_before_criu_dumps(source: Namespace, target: Namespace, criu: Criu) -> None:
    criu.configure(EARLY)
    assert criu.explained("network-lock", source.pid) == [
        f"  would dump the IPC namespace of process {source.pid} into {criu.images}/ipcimg.unfinished"
    ]
    assert criu.at("network-lock", source.pid) == [f"dumped {CONTENTS} into ipcimg.unfinished"]
    assert criu.at("network-lock", source.pid) == [
        f"dumped {CONTENTS} into ipcimg.unfinished"
    ]  # of one that was killed
    assert (
        criu.at("post-dump", source.pid)[0] == "ipcimg.unfinished is ipcimg now, and CRIU's images are detached from it"
    )
    assert criu.at("network-unlock", source.pid) == ["nothing to do: there is no ipcimg.unfinished"]
    restored_beside(criu, source, target)


def test_criu_fails_after_network_lock(source: Namespace, criu: Criu) -> None:
    criu.configure(EARLY)
    before = files(criu.images)
    criu.at("network-lock", source.pid)
    assert criu.explained("network-unlock", source.pid) == [f"  would remove {criu.images}/ipcimg.unfinished"]
    assert criu.at("network-unlock", source.pid) == ["removed ipcimg.unfinished: CRIU has not come as far as post-dump"]
    assert files(criu.images).keys() - before.keys() == {"ipcimg-hook.log"}
    assert not (criu.images / "ipcimg.unfinished").exists()


def test_network_lock_was_not_called(source: Namespace, criu: Criu) -> None:
    criu.configure(EARLY)
    [line] = criu.at("post-dump", source.pid, status=1)
    assert line.startswith(f"{criu.images}/ipcimg.unfinished is not there: CRIU has not called at network-lock, ")


def test_criu_has_dumped_something_else(source: Namespace, criu: Criu) -> None:
    """Then CRIU's images stay as they are, and what is beside them goes."""
    criu.configure(EARLY)
    before = files(criu.images)
    criu.at("network-lock", source.pid)
    [image] = criu.images.glob("ipcns-sem-*.img")
    image.write_bytes(image.read_bytes().replace(b"\x01", b"\x02", 1))
    changed = image.read_bytes()
    assert changed != before[image.name]
    [line] = criu.at("post-dump", source.pid, status=1)
    assert line.startswith(f"image directory {criu.images}: is not of the moment of the pod, {criu.images}/ipcimg: ")
    after = files(criu.images)
    assert after.pop("ipcimg-hook.log")
    assert after == before | {image.name: changed}
    assert not (criu.images / "ipcimg").exists()


def test_others_run(source: Namespace, criu: Criu) -> None:
    """A process of the namespace that CRIU has not stopped: it is looked at whether anything moves."""
    criu.configure(BESIDE)
    with subprocess.Popen(["nsenter", f"--ipc={source.path}", "sleep", "1000"]) as other:
        try:
            while os.stat(f"/proc/{other.pid}/ns/ipc").st_ino != os.stat(source.path).st_ino:
                pass
            first, *rest = criu.at("post-dump", source.pid)
        finally:
            other.kill()
    assert first == (
        f"process {other.pid} of the IPC namespace of process {source.pid} is running: "
        "what it uses meanwhile is waited for"
    )
    assert rest[0] == f"dumped {CONTENTS} into ipcimg.unfinished"
    assert "of one moment: nothing was used while it was read" in run(SHOW, criu.images / "ipcimg").stdout


@pytest.mark.parametrize("name", ["ipcimg", "ipcimg-detached", "ipcimg-segments"])
@pytest.mark.parametrize("configuration", ["", BESIDE])
def test_directory_of_an_earlier_dump(name: str, configuration: str, source: Namespace, criu: Criu) -> None:
    criu.configure(configuration)
    (criu.images / name).mkdir()
    for stage in ("pre-dump", "post-dump"):
        assert criu.at(stage, source.pid, status=1) == [
            f"{criu.images}/{name} is of an earlier dump into this directory; dump into a new one, or remove it"
        ]


def test_what_is_beside_is_not_what_was_detached(source: Namespace, target: Namespace, criu: Criu) -> None:
    criu.configure(BESIDE)
    criu.at("post-dump", source.pid)
    beside, aside = criu.images / "ipcimg", criu.images / "aside"
    stages = (("pre-restore", None), ("post-setup-namespaces", target.pid))
    beside.rename(aside)
    beside.symlink_to("aside")
    for stage, task in stages:
        assert criu.at(stage, task, status=1) == [f"{beside} is a symbolic link"]
    beside.unlink()
    ipcimg("dump", "-t", target.pid, "-D", beside)
    for stage, task in stages:
        [line] = criu.at(stage, task, status=1)
        assert line == f"{beside}: is another set than the one from which CRIU's images are detached"
    for path in beside.iterdir():
        path.unlink()
    beside.rmdir()
    aside.rename(beside)
    beside.chmod(0o777)
    for stage, task in stages:
        [line] = criu.at(stage, task, status=1)
        assert "others can write it" in line
    assert target.do(oracle.everything)["msg"] == {}


def test_killed_before_criu_s_images_were_detached(source: Namespace, target: Namespace, criu: Criu) -> None:
    ipcimg("dump", "-t", source.pid, "-D", criu.images / "ipcimg")
    for stage, task in (("pre-restore", None), ("post-setup-namespaces", target.pid)):
        [line] = criu.at(stage, task, status=1)
        assert line == f"{criu.images}: CRIU's images are not detached from ipcimg: its dump has not ended well"


def test_nobody_would_restore_it(source: Namespace, target: Namespace, criu: Criu) -> None:
    """CRIU's own objects were put aside: it is no way out to leave these out."""
    criu.configure(BESIDE)
    criu.at("post-dump", source.pid)
    criu.configure("restore.stage = 'none'")
    missing = f'{criu.images}/ipcimg has the objects of the tasks, which would be missing: restore.stage is "none"'
    assert criu.at("post-setup-namespaces", target.pid, status=1) == [missing]
    assert criu.explained("post-setup-namespaces", target.pid) == [f"  would fail: {missing}"]
    assert target.do(oracle.everything)["msg"] == {}


def test_pod_that_is_not_there(source: Namespace, target: Namespace, criu: Criu, tmp_path: Path) -> None:
    """Whatever the configuration says of what is beside CRIU's images."""
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "pod", "--frozen-by-caller")
    ipcimg("pod", "detach", "--pod", tmp_path / "pod", criu.images)
    for text in ("", "restore.stage = 'none'", "dump.stage = 'none'\nrestore.stage = 'none'"):
        criu.configure(text)
        [line] = criu.at("post-setup-namespaces", target.pid, status=1)
        assert line.endswith("of the pod, and not there; `ipcimg pod restore` comes before its containers")
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "pod")
    [line] = criu.at("post-setup-namespaces", target.pid)
    assert line == "the 6 objects of the pod, from which CRIU's images are detached, are there"


def test_target_that_is_in_use(source: Namespace, target: Namespace, criu: Criu) -> None:
    """A restore that fails leaves the namespace as it was, and says all that is in its way."""
    criu.configure(BESIDE)
    criu.at("post-dump", source.pid)
    target.do(lambda: (oracle.segment(), oracle.semaphores()))
    before = target.do(lambda: [oracle.rows(kind) for kind in ("shm", "msg", "sem")])
    lines = criu.at("post-setup-namespaces", target.pid, status=1)
    assert len(lines) == 2
    assert all("id is taken" in line for line in lines)
    assert target.do(lambda: [oracle.rows(kind) for kind in ("shm", "msg", "sem")]) == before


# ---- what criu says, and where it is said what was done ----------------------------------------


def test_wrong_environment(source: Namespace, criu: Criu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRTOOLS_SCRIPT_ACTION", "post-dump")
    for variable, value, why in (
        ("CRTOOLS_INIT_PID", "one", "CRTOOLS_INIT_PID is 'one', and should be a process id"),
        ("CRTOOLS_INIT_PID", "4194305", "there is no process 4194305"),
        ("CRTOOLS_INIT_PID", None, "criu has told no process (CRTOOLS_INIT_PID)"),
        ("CRTOOLS_IMAGE_DIR", None, "criu has told no image directory that is there (CRTOOLS_IMAGE_DIR)"),
        ("CRTOOLS_IMAGE_DIR", "/nowhere", "criu has told no image directory that is there (CRTOOLS_IMAGE_DIR)"),
    ):
        criu.environment("post-dump", source.pid)
        if value is None:
            monkeypatch.delenv(variable)
        else:
            monkeypatch.setenv(variable, value)
        [line] = run(IPCIMG, "hook", "--config", criu._configuration, status=1).stderr.splitlines()
        assert line.endswith(f"post-dump: {why}"), variable


def test_not_called_by_criu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRTOOLS_SCRIPT_ACTION", raising=False)
    *_, line = run(IPCIMG, "hook", status=2).stderr.splitlines()
    assert line.startswith("ipcimg hook: error: CRTOOLS_SCRIPT_ACTION is not set: criu calls this, by a line in ")


def test_wrong_configuration_fails_every_stage(source: Namespace, criu: Criu) -> None:
    criu.configure("dump.places = 'criu'")
    before = files(criu.images)
    for stage in ("pre-dump", "post-dump", "post-resume"):
        [line] = criu.at(stage, source.pid, status=1)
        assert line.endswith("hook.toml: dump.places: there is no such key, only stage, place, required")
    assert files(criu.images).keys() - before.keys() == {"ipcimg-hook.log"}


def test_log_elsewhere(criu: Criu, tmp_path: Path) -> None:
    for name in ("other.log", str(tmp_path / "absolute.log")):
        criu.configure(f"log.file = '{name}'")
        criu.at("pre-resume", 1)
        criu.at("pre-resume", 1)
        assert len((criu.images / name).read_text().splitlines()) == 2
    criu.configure("log.file = ''")
    criu.at("pre-resume", 1)
    assert not (criu.images / "ipcimg-hook.log").exists()


@pytest.mark.parametrize("what", ["link", "other name", "fifo", "directory", "somebody's"])
def test_log_that_is_not_ours(what: str, criu: Criu, tmp_path: Path) -> None:
    """It is not written; the stage goes on."""
    log, victim = criu.images / "ipcimg-hook.log", tmp_path / "victim"
    victim.write_text("as it was")
    if what == "link":
        log.symlink_to(victim)
        why = "Too many levels of symbolic links"
    elif what == "other name":
        log.hardlink_to(victim)
        why = "it has other names"
    elif what == "fifo":
        os.mkfifo(log)
        why = "No such device or address"
    elif what == "directory":
        log.mkdir()
        why = "Is a directory"
    else:
        log.touch()
        os.chown(log, 1000, 1000)
        why = "belongs to user 1000, who could change it meanwhile; chown it, if you trust it"
    criu.environment("pre-resume", 1)
    first, second = run(IPCIMG, "hook", "--config", criu._configuration).stderr.splitlines()
    assert first.endswith(f"pre-resume: no log file: {log}: {why}")
    assert second.endswith("pre-resume: nothing to do: ipcimg has nothing to do at this stage")
    assert victim.read_text() == "as it was"


def test_closed_directory(criu: Criu, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at post-resume: criu names a descriptor that it has closed."""
    criu.environment("post-resume", 1, "/proc/self/fd/99")
    [line] = run(IPCIMG, "hook", "--config", criu._configuration).stderr.splitlines()
    assert line.endswith(" post-resume: nothing to do: ipcimg has nothing to do at this stage")
    assert not (criu.images / "ipcimg-hook.log").exists()


def test_time_is_criu_s(criu: Criu) -> None:
    """Seconds since the process that criu is was started: this one, and not the hook."""
    criu.environment("pre-resume", 1)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    [line] = run(IPCIMG, "hook", "--config", criu._configuration).stderr.splitlines()
    told = float(line[1:].partition(")")[0])
    assert uptime - started - 0.1 < told < uptime - started + 10


def test_as_a_process(criu: Criu) -> None:
    """By the name for criu, ipcimg-hook, which has no arguments but a test's."""
    program = "import sys; from ipcimg.cli import hook_main; sys.exit(hook_main())"
    environment = dict(os.environ, CRTOOLS_SCRIPT_ACTION="pre-resume", CRTOOLS_IMAGE_DIR=f"/proc/self/fd/{criu._fd}")
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", criu._configuration],
        env=environment,
        pass_fds=[criu._fd],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (criu.images / "ipcimg-hook.log").read_text() == done.stderr
    assert done.stderr.endswith(" pre-resume: nothing to do: ipcimg has nothing to do at this stage\n")


# ---- explaining ------------------------------------------------------------------------------

DEFAULT = """\
configuration: no file, all by default
  dump.stage = "post-dump"  # default
  dump.place = "criu"  # default
  dump.required = false  # default
  restore.stage = "post-setup-namespaces"  # default
  restore.verify = true  # default
  log.file = "ipcimg-hook.log"  # default
stages:
  pre-dump               refuse a directory with an earlier dump that is beside CRIU's
  network-lock           nothing: dump.stage is "post-dump"
  post-dump              dump the IPC namespace in the place of CRIU's images
  network-unlock         nothing: dump.stage is "post-dump"
  pre-restore            compare every set that has a manifest with it
  setup-namespaces       nothing: the namespace may be one that the tasks leave again (--join-ns)
  post-setup-namespaces  restore the set in ipcimg, if there is one, into the namespace of the tasks
  post-restore           nothing: ipcimg has nothing to do at this stage
  pre-resume             nothing: ipcimg has nothing to do at this stage
  post-resume            nothing: ipcimg has nothing to do at this stage
of a pod:
  post-dump              detach CRIU's images while `ipcimg pod` dumps the pod, and nothing else
  post-setup-namespaces  see that the objects are there from which they were detached
"""
CHANGED = """\
configuration: a.toml, b.toml
  dump.stage = "network-lock"  # b.toml
  dump.place = "beside"  # a.toml
  dump.required = true  # b.toml
  restore.stage = "post-setup-namespaces"  # a.toml
  restore.verify = false  # b.toml
  log.file = "ipcimg-hook.log"  # default
stages:
  pre-dump               refuse a directory with an earlier dump that is beside CRIU's
  network-lock           dump the IPC namespace into ipcimg.unfinished, before CRIU dumps
  post-dump              make ipcimg.unfinished ipcimg, and detach CRIU's images from it
  network-unlock         remove ipcimg.unfinished, which is there where CRIU has not come as far as post-dump
  pre-restore            nothing: restore.verify is false
  setup-namespaces       nothing: the namespace may be one that the tasks leave again (--join-ns)
  post-setup-namespaces  restore the set in ipcimg, if there is one, into the namespace of the tasks
  post-restore           nothing: ipcimg has nothing to do at this stage
  pre-resume             nothing: ipcimg has nothing to do at this stage
  post-resume            nothing: ipcimg has nothing to do at this stage
of a pod:
  post-dump              detach CRIU's images while `ipcimg pod` dumps the pod, and nothing else
  post-setup-namespaces  see that the objects are there from which they were detached
"""


def test_explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRTOOLS_SCRIPT_ACTION", raising=False)
    monkeypatch.chdir(tmp_path)
    if not os.path.exists("/etc/ipcimg"):
        assert run(IPCIMG, "hook", "--explain").stdout == DEFAULT
    Path("a.toml").write_text("dump.place = 'beside'\nrestore = {stage = 'post-setup-namespaces', verify = true}")
    Path("b.toml").write_text("restore.verify = false\n[dump]\nstage = 'network-lock'\nrequired = true")
    done = run(IPCIMG, "hook", "--explain", "--config", "a.toml", "--config", "b.toml")
    assert done.stdout == CHANGED
    Path("b.toml").write_text("restore.stage = 'none'")
    said = run(IPCIMG, "hook", "--explain", "--config", "b.toml").stdout
    assert "refuse a set in ipcimg, which nobody would restore\n" in said
    Path("b.toml").write_text("dump.stage = 'none'")
    said = run(IPCIMG, "hook", "--explain", "--config", "b.toml").stdout
    assert 'post-dump              nothing, since dump.stage is "none"' in said
    Path("b.toml").write_text("dump.stage = 1")
    done = run(IPCIMG, "hook", "--explain", "--config", "b.toml", status=1)
    assert done.stderr == "ipcimg: Error: b.toml: dump.stage: is a number, and should be a string\n"


def test_explain_what_would_fail(source: Namespace, criu: Criu) -> None:
    (criu.images / "ipcimg").mkdir()
    assert criu.explained("post-dump", source.pid) == [
        f"  would fail: {criu.images}/ipcimg is of an earlier dump into this directory; "
        "dump into a new one, or remove it"
    ]
    assert criu.explained("pre-resume", source.pid) == ["  nothing: ipcimg has nothing to do at this stage"]
