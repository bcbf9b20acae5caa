"""A pod: containers that share one IPC namespace, which is dumped and restored once, and each container by its runtime.

In the directory of a pod are

    ipc/        what the namespace holds: a set of images
    NAME/       what the runtime has dumped of a container: CRIU's images, detached (see detach.py); where its runtime
                has them elsewhere, as in an archive, a file that tells where a hook has detached them (podnote.py)

A dump freezes the cgroup of each container, dumps the namespace, has the runtime checkpoint one container after the
other, and detaches each. A restore makes the objects and has the runtime restore the containers, which find them there.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import cgroups, detach, freeze, imageset, interrupts, libc, namespace, owners, podnote, var
from .cgroups import Cgroup
from .companion import ours
from .dump import Dumped
from .dump import dump as dump_namespace
from .errors import CommandError, DirectoryError, IpcimgError, NamespaceError, doing, explain, listed
from .listing import objects
from .progress import NOBODY, Progress
from .restore import Restored
from .restore import restore as restore_namespace
from .turning import segments_kept

IPC = "ipc"  # the directory of the set, beside those of the containers
_ELSEWHERE = "ipcimg-elsewhere"  # in the directory of a container
_PLACES = re.compile(r"\{(?:dir)?\}")  # in a command
_PATIENCE = 2.0  # seconds for a process of the sandbox to fall asleep
_ENDED = 10.0  # seconds for a command to end when it is told to
_PAUSE = 0.01  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Container:
    """What has become of a container."""

    name: str
    images_dir: str  # with what was dumped of it
    elsewhere: bool  # images_dir is a place of its runtime's, and may be gone by now


Told = Callable[[Container], None]


def images_of(directory: str) -> str:
    """The directory of the set of a pod: ipc in its directory, or that directory itself."""
    inside = os.path.join(directory, IPC)
    return inside if os.path.isdir(inside) else directory


# ---- dump ----------------------------------------------------------------------------------


def dump(
    directory: str | os.PathLike[str],
    source: namespace.IpcNamespace,
    containers: Mapping[str, int],
    *,
    sandbox: int | None = None,
    command: Sequence[str] = (),
    leave_frozen: bool = False,
    told: Told = lambda container: None,
    progress: Progress = NOBODY,
) -> Dumped:
    """Dump an IPC namespace, and the containers in it, into the directory, which is made if it is missing.

    containers are their names and a process of each; sandbox is the process that keeps the namespace,
    which has to sleep meanwhile. command is run for each, with {} replaced by its name and {dir} by its
    directory, while all are frozen, in the IPC namespace of the caller; when it has ended with status 0
    the container is detached, and told is called with it. At the end whatever is still there goes on,
    or stays frozen with leave_frozen; on any error it goes on, also if we are killed, and what was dumped is removed,
    unless a container was checkpointed already. Raises an IpcimgError.
    """
    place = os.path.abspath(directory)
    if source.is_initial:
        raise NamespaceError("the machine's own IPC namespace is that of no pod")
    _refuse_names(containers)
    for name in (IPC, *containers):
        _expect_empty(os.path.join(place, name))
    done: list[str] = []
    with interrupts.handled(), interrupts.kept_running(), contextlib.ExitStack() as stack:
        with doing(f"looking for the containers of {source.described}"):
            of_containers = _cgroups(source, containers, sandbox)
        stopped = stack.enter_context(cgroups.frozen([of_containers[name] for name in containers]))
        with doing(f"looking for the processes of {source.described}"):
            others, sees_all = _Others.of(source, of_containers, sandbox)
        stack.enter_context(_made(place))
        images = os.path.join(place, IPC)
        unless_needed = stack.enter_context(contextlib.ExitStack())
        with interrupts.part() if command else contextlib.nullcontext():
            dumped = dump_namespace(images, source, frozen=sees_all, when_read=others.expect_idle, progress=progress)
            if command:
                unless_needed.callback(_remove, images)
        if command:
            progress.stage("containers")
            with source.locked(), _segments_kept(source), podnote.written(source.inode, images) as note:
                pod = detach.pod(images)
                for name in containers:
                    try:
                        container = _checkpoint(name, os.path.join(place, name), command, pod, note)
                    except IpcimgError as error:
                        before = f"; {listed(done)} had been checkpointed before" if done else ""
                        raise CommandError(f"container {name}: {error}{before}") from error
                    done.append(name)
                    unless_needed.pop_all()  # the container may have ended by that
                    told(container)
        interrupts.finished()
        if leave_frozen:
            stopped.clear()
    return dumped


def _remove(directory: str) -> None:
    """Remove a set of ours, with its directory."""
    import shutil

    with interrupts.deferred():
        shutil.rmtree(directory)


def _refuse_names(containers: Mapping[str, int]) -> None:
    for name in containers:
        if name in ("", ".", "..", IPC) or "/" in name or "\0" in name:
            raise DirectoryError(f"{name!r} cannot be the name of a container: it names a directory beside {IPC!r}")


def _expect_empty(path: str) -> None:
    """Raise DirectoryError where something is in the way of what is to be dumped."""
    try:
        if os.listdir(path):
            raise DirectoryError(f"{path} is not empty: is it of another dump?")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DirectoryError(f"{path}: {explain(error).removeprefix(f'{path}: ')}") from error


@contextlib.contextmanager
def _made(path: str) -> Iterator[None]:
    """Have a directory inside the with block; on an error one that was made goes, if nothing is in it."""
    try:
        made = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            made = True
    except OSError as error:
        raise DirectoryError(explain(error)) from error
    try:
        yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise


def _cgroups(
    source: namespace.IpcNamespace, containers: Mapping[str, int], sandbox: int | None
) -> Mapping[str, Cgroup]:
    """The cgroup of each container. Raises NamespaceError where one cannot be frozen by itself, OSError."""
    found: dict[str, Cgroup] = {}
    users, _ = freeze.processes(source)
    not_to_stop = dict.fromkeys(ours(), "ipcimg itself") | ({} if sandbox is None else {sandbox: "the sandbox"})
    for name, pid in containers.items():
        if pid not in users:
            raise NamespaceError(f"container {name}: process {pid} is not in {source.described}")
        cgroup = cgroups.of_process(pid)
        if cgroup is None:
            raise NamespaceError(f"container {name}: process {pid} has no cgroup of its own that could be frozen")
        for other in cgroup.members() & not_to_stop.keys():
            raise NamespaceError(
                f"container {name}: to freeze its cgroup {cgroup.path} would stop {not_to_stop[other]}, process {other}"
            )
        for another, its in found.items():
            if cgroup.contains(its) or its.contains(cgroup):
                raise NamespaceError(f"containers {another} and {name} are in one cgroup, {cgroup.path}")
        found[name] = cgroup
    return found


@dataclass(frozen=True, slots=True)
class _Others:
    """Processes of the namespace that are in no container: at most one, which sleeps."""

    switches: Mapping[int, tuple[int, ...]]  # by process: how often its threads gave up their processor

    @staticmethod
    def of(
        source: namespace.IpcNamespace, containers: Mapping[str, Cgroup], sandbox: int | None
    ) -> tuple[_Others, bool]:
        """Look for them; and tell whether no other process can be hidden. Raises NamespaceError, OSError."""
        users, sees_all = freeze.processes(source)
        stopped: set[int] = set()
        for cgroup in containers.values():
            stopped |= cgroup.members()
        others = users - stopped
        beside = others - {sandbox} if sandbox is not None else others if len(others) > 1 else set()
        if beside:
            raise NamespaceError(
                f"process {min(beside)} of {source.described} is in none of the containers {listed(list(containers))}, "
                "and would go on"
            )
        return _Others({pid: _asleep(pid) for pid in others}), sees_all

    def expect_idle(self) -> None:
        """Raise NamespaceError where one of them has run since. Who sleeps and was never switched has not run."""
        for pid, before in self.switches.items():
            with doing(f"looking at process {pid}"):
                if _switches(pid) != before:
                    raise NamespaceError(f"process {pid} is in no container, and ran while the namespace was read")


def _asleep(pid: int) -> tuple[int, ...]:
    until = time.monotonic() + _PATIENCE
    while (found := _switches(pid)) is None:
        if time.monotonic() > until:
            raise NamespaceError(f"process {pid} is in no container, and does not sleep: who keeps a namespace has to")
        time.sleep(_PAUSE)
    return found


def _switches(pid: int) -> tuple[int, ...] | None:
    """For each thread its number and its switches of both kinds; None where one does not sleep. Raises OSError."""
    found: list[int] = []
    for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        with open(f"/proc/{pid}/task/{tid}/status", errors="surrogateescape") as file:
            lines = dict(line.split(":", 1) for line in file)
        if lines["State"].split()[0] not in ("S", "T", "t"):
            return None
        found += tid, int(lines["voluntary_ctxt_switches"]), int(lines["nonvoluntary_ctxt_switches"])
    return tuple(found)


@contextlib.contextmanager
def _segments_kept(source: namespace.IpcNamespace) -> Iterator[None]:
    """Have no segment of the namespace destroyed inside the with block, in which the caller is somewhere else.

    A checkpoint attaches each segment and lets it go, and may end processes that had it attached.
    """
    with contextlib.ExitStack() as inside:
        with source.entered(), doing(f"protecting the segments of {source.described}"):
            inside.enter_context(segments_kept(owners.of(source.fd)))
            for _, shmid, _ in objects("shm"):
                ds = libc.shmid_ds()
                libc.shmctl(shmid, libc.IPC_STAT, ds)
                if ds.shm_perm.mode & libc.SHM_DEST:
                    inside.callback(libc.shmdt, libc.shmat(shmid, libc.SHM_RDONLY))
        try:
            yield
        finally:
            with interrupts.deferred(), source.entered(), doing(f"letting the segments of {source.described} go"):
                inside.close()


def _checkpoint(name: str, place: str, command: Sequence[str], pod: detach.Pod, note: podnote.Note) -> Container:
    """Have the runtime checkpoint a container, and detach it, unless a hook has."""
    before = len(note.detached)
    with _made(place):
        _run(command, name, place)
        if os.listdir(place):
            detach.detach(place, pod)
            return Container(name, place, elsewhere=False)
        if len(note.detached) == before:
            raise CommandError(
                f"nothing is in {place}, and no `ipcimg hook` of criu's has detached what was dumped elsewhere"
            )
        where = note.detached[-1]
        with open(os.path.join(place, _ELSEWHERE), "w", errors="surrogateescape") as file:
            file.write(f"{where}\n")
    return Container(name, where, elsewhere=True)


# ---- restore -------------------------------------------------------------------------------


def restore(
    directory: str | os.PathLike[str],
    target: namespace.IpcNamespace,
    containers: Sequence[str] = (),
    *,
    command: Sequence[str] = (),
    told: Told = lambda container: None,
    progress: Progress = NOBODY,
) -> Restored:
    """Make what a pod's namespace held in another one, then run the command for each container: see dump().

    containers are their names, by default all in the directory; each has to be detached from this pod, here or where
    its runtime had it. Segments that only attachments keep alive are kept by a holder until somebody has attached them.
    told is called with each that was restored. If a command fails, what was made stays, since containers may use it.
    Raises an IpcimgError.
    """
    place = os.path.abspath(directory)
    images = os.path.join(place, IPC)
    if target.is_initial:
        raise NamespaceError("the machine's own IPC namespace is that of no pod")
    if not os.path.isdir(images):
        raise DirectoryError(f"{place}: there is no directory {IPC} in it: no pod was dumped into it")
    names = list(containers) or _containers(place)
    _refuse_names(dict.fromkeys(names, 0))
    if command and not names:
        raise DirectoryError(f"{place}: no container was dumped into it")
    pod = detach.pod_digest(images)
    for name in names:
        if os.path.exists(os.path.join(place, name, _ELSEWHERE)):
            continue
        if detach.detached_from(os.path.join(place, name)) != pod:
            raise DirectoryError(
                f"container {name}: {os.path.join(place, name)} is not detached from {images}; "
                f"see `ipcimg pod detach --pod {place} {os.path.join(place, name)}`"
            )
    done: list[str] = []
    with interrupts.handled():
        with interrupts.part() if command else contextlib.nullcontext():
            restored = restore_namespace(images, target, hold=True, progress=progress)
        if not command:
            return restored
        progress.stage("containers")
        try:
            for name in names:
                try:
                    _run(command, name, os.path.join(place, name))
                except IpcimgError as error:
                    before = f", and {listed(done)} restored" if done else ""
                    raise CommandError(
                        f"container {name}: {error}; the objects of the pod are there{before}"
                    ) from error
                done.append(name)
                told(Container(name, os.path.join(place, name), elsewhere=False))
            interrupts.finished()
        finally:
            # criu has set it to 0 with each container. Nothing is destroyed by it that the holder has attached.
            with (
                interrupts.deferred(),
                target.entered(),
                doing(f"setting kernel.shm_rmid_forced of {target.described}"),
            ):
                var.set_rmid_forced(imageset.load(images).variables)
    return restored


def _containers(place: str) -> list[str]:
    """The names of the containers that were dumped into a directory. Raises DirectoryError."""
    try:
        with os.scandir(place) as found:
            return sorted(one.name for one in found if one.name != IPC and one.is_dir(follow_symlinks=False))
    except OSError as error:
        raise DirectoryError(explain(error)) from error


# ---- the command of the runtime ------------------------------------------------------------


def _run(command: Sequence[str], name: str, place: str) -> None:
    """Run the command for a container, to its end. Raises CommandError. A signal ends it first."""
    import shlex
    import subprocess

    arguments = [_PLACES.sub(lambda found: name if found[0] == "{}" else place, word) for word in command]
    said = shlex.join(arguments)
    try:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise CommandError(f"`{said}`: {explain(error)}") from error
    try:
        status = process.wait()
    except BaseException:
        with interrupts.deferred():
            process.terminate()
            try:
                process.wait(_ENDED)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        raise
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise CommandError(f"`{said}` {how}")
