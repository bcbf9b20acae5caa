"""A pod: containers that share one IPC namespace, which is dumped and restored once, and each container by its runtime.

In the directory of a pod are

    ipc/                what the namespace holds: a set of images
    ipcimg-containers   the names of the containers that a dump was of, as JSON
    NAME/               what the runtime has dumped of a container: CRIU's images, detached (see detach.py); where its
                        runtime has them elsewhere, as in an archive, a file that tells where a hook has detached them,
                        and from which set (podnote.py)

A dump freezes the cgroup of each container, dumps the namespace, has the runtime checkpoint one container after the
other, and detaches each. A restore makes the objects and has the runtime restore the containers, which find them there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from . import cgroups, detach, freeze, imageset, interrupts, libc, namespace, owners, podnote, var
from .bystanders import Bystanders
from .cgroups import Cgroup
from .companion import ours
from .dump import Dumped
from .dump import dump as dump_namespace
from .errors import CommandError, DirectoryError, IpcimgError, NamespaceError, doing, explain, listed
from .images import INVENTORY
from .listing import objects
from .newfile import new_file
from .outline import absent, outline, outlines
from .progress import FREEZING, LETTING_GO, NOBODY, Progress
from .restore import Restored
from .restore import restore as restore_namespace
from .runtime import Command
from .trust import who_could_change
from .turning import segments_kept

IPC = "ipc"  # the directory of the set, beside those of the containers
_CONTAINERS = "ipcimg-containers"
_ELSEWHERE = "ipcimg-elsewhere"  # in the directory of a container
_LARGEST = 1 << 20  # bytes of these two
_PAUSE = 0.02  # seconds between two looks

_T = TypeVar("_T")


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
    unless a container may have been checkpointed already. Raises an IpcimgError.
    """
    place = os.path.abspath(directory)
    if source.is_initial:
        raise NamespaceError("the machine's own IPC namespace is that of no pod")
    _refuse_names(containers)
    runtime = Command(command)
    runtime.expect_fit(containers)
    with (
        interrupts.handled(),
        interrupts.kept_running(),
        source.locked(),  # so nobody else freezes or thaws the same containers
        _made(place),
        _locked(place),
        contextlib.ExitStack() as stack,
    ):
        for name in (IPC, *containers):
            _expect_empty(os.path.join(place, name))
        if os.path.lexists(listed_in := os.path.join(place, _CONTAINERS)):
            raise DirectoryError(f"{listed_in} is there: is it of another dump?")
        with doing(f"looking for the containers of {source.described}"):
            of_containers = _cgroups(source, containers, sandbox)
        stack.callback(progress.stage, "leaving the containers")
        progress.stage(FREEZING)
        stopped = stack.enter_context(cgroups.frozen(list(of_containers.values())))
        stack.callback(progress.stage, LETTING_GO)
        with doing(f"looking for the processes of {source.described}"):
            others, sees_all = Bystanders.of(source, of_containers, sandbox)

        def expect_at_rest() -> None:
            others.expect_idle()
            _expect_frozen(of_containers)

        its = stack.enter_context(_removed_on_error(place))
        with interrupts.part() if command else contextlib.nullcontext():
            dumped = dump_namespace(its.images, source, frozen=sees_all, when_read=expect_at_rest, progress=progress)
            its.is_dumped = True
        if command:
            progress.stage("containers")
            with interrupts.deferred():
                with new_file(listed_in) as file:
                    file.write(json.dumps(list(containers)).encode())
                    file.flush()
                    os.fsync(file.fileno())
                its.is_listed = True
            _checkpoint_each(its, source, of_containers, runtime, told)
        if leave_frozen:
            _expect_frozen(of_containers)
        interrupts.finished()
        if leave_frozen:
            stopped.clear()
    return dumped


@contextlib.contextmanager
def _locked(place: str) -> Iterator[None]:
    """Be the only one who dumps a pod into a directory, which nobody else can change. Raises DirectoryError."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DirectoryError(explain(error)) from error
    try:
        if why := who_could_change(os.fstat(fd)):
            raise DirectoryError(f"{place} {why}")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryError(f"{place}: another dump into it is running") from None
        yield
    finally:
        os.close(fd)


class _Set:
    """What has been dumped so far."""

    def __init__(self, place: str) -> None:
        self.place, self.images = place, os.path.join(place, IPC)
        self.is_dumped = self.is_listed = False  # what is there of ours
        self.at: str | None = None  # the container that is being checkpointed
        self.done: list[str] = []  # those that were
        self.is_needed = False  # may a container have ended since?

    @property
    def so_far(self) -> str:
        """What has to be known of it when it fails."""
        done = f"; {listed(self.done)} had been checkpointed before" if self.done else ""
        stays = f"; the set in {self.images} stays, since containers may have ended" if self.is_needed else ""
        return done + stays


@contextlib.contextmanager
def _removed_on_error(place: str) -> Iterator[_Set]:
    """The set, and the list of containers, go on any error inside the with block, unless they are needed."""
    its = _Set(place)
    was_there = os.path.isdir(its.images)
    try:
        yield its
    except BaseException as error:
        if not its.is_needed:
            with interrupts.held():
                try:
                    _remove(its, was_there)
                except OSError as left:
                    if isinstance(error, IpcimgError):
                        why = f"{error}; and what was dumped could not be removed: {explain(left)}"
                        raise DirectoryError(why) from error
        if isinstance(error, interrupts.Interrupted):
            at = "" if its.at is None else f", at container {its.at}"
            error.args = (f"{error}{at}{its.so_far}",)
        raise


def _remove(its: _Set, was_there: bool) -> None:
    if its.is_listed:
        os.unlink(os.path.join(its.place, _CONTAINERS))
    if its.is_dumped:
        for name in os.listdir(its.images):
            os.unlink(os.path.join(its.images, name))
        if not was_there:
            os.rmdir(its.images)


def _expect_frozen(of_containers: Mapping[str, Cgroup]) -> None:
    """Raise NamespaceError where somebody has thawed one."""
    for name, cgroup in of_containers.items():
        with doing(f"looking at container {name}"):
            if cgroup.members() and not cgroup.is_frozen():
                raise NamespaceError(
                    f"container {name} goes on: somebody has thawed its cgroup {cgroup.path} meanwhile"
                )


def _refuse_names(containers: Mapping[str, int]) -> None:
    for name in containers:
        if name in ("", ".", "..", IPC, _CONTAINERS) or "/" in name or "\0" in name:
            raise DirectoryError(f"{name!r} cannot be the name of a container: it names a directory beside {IPC!r}")


def _expect_empty(path: str) -> None:
    """Raise DirectoryError where something is in the way of what is to be dumped, or others could change that."""
    try:
        if os.listdir(path):
            raise DirectoryError(f"{path} is not empty: is it of another dump?")
        if why := who_could_change(os.stat(path)):
            raise DirectoryError(f"{path} {why}")
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
            gone = not os.path.exists(f"/proc/{pid}")
            what = f"there is no process {pid}" if gone else f"process {pid} is not in {source.described}"
            raise NamespaceError(f"container {name}: {what}")
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


def _checkpoint_each(
    its: _Set, source: namespace.IpcNamespace, of_containers: Mapping[str, Cgroup], runtime: Command, told: Told
) -> None:
    """Have the runtime checkpoint one container after the other. Raises CommandError."""
    left = dict(of_containers)
    with _segments_kept(source), podnote.written(source.inode, its.images, podnote.DUMP) as note:
        pod = detach.pod(its.images)
        for name in of_containers:
            with doing(f"looking at container {name}"):
                checkpoint = _Checkpoint(name, os.path.join(its.place, name), left[name], note)
            before, its.is_needed, its.at = its.is_needed, True, name  # until it is known that nothing has happened
            try:
                _expect_frozen(left)
                container = checkpoint.make(runtime, pod)
            except BaseException as error:
                with interrupts.held():
                    note.withdraw()  # so a hook that we do not see any more sees that
                    if not runtime.goes_on and checkpoint.left_nothing():
                        its.is_needed = before
                if isinstance(error, IpcimgError | OSError):
                    why = explain(error) if isinstance(error, OSError) else str(error)
                    raise CommandError(f"container {name}: {why}{its.so_far}") from error
                raise
            its.done.append(name)
            del left[name]
            told(container)
    its.at = None


class _Checkpoint:
    """What becomes of a container."""

    def __init__(self, name: str, place: str, cgroup: Cgroup, note: podnote.Note) -> None:
        self._name, self._place, self._cgroup, self._note = name, place, cgroup, note
        self._members = cgroup.members()
        self._before = len(note.detached)

    def make(self, runtime: Command, pod: detach.Pod) -> Container:
        """Have the runtime checkpoint it, and detach it, unless a hook has. Raises an IpcimgError, OSError."""
        with _made(self._place):
            runtime.run(self._name, self._place)
            elsewhere = self._note.detached[self._before :]
            if _dumped_by_criu(self._place) or (os.listdir(self._place) and not elsewhere):
                detach.detach(self._place, pod)
                return Container(self._name, self._place, elsewhere=False)
            if not elsewhere:
                raise CommandError(
                    f"nothing is in {self._place}, and no `ipcimg hook` of criu's has detached what was dumped "
                    "elsewhere"
                )
            where = [where for task, where in elsewhere if task in self._members]
            if not where:
                raise CommandError(
                    f"what was dumped elsewhere, {elsewhere[-1][1]}, is of process {elsewhere[-1][0]}, which was not "
                    "in it"
                )
            with new_file(os.path.join(self._place, _ELSEWHERE)) as file:
                file.write(json.dumps({"images_dir": where[-1], "pod": pod.digest}).encode())
        return Container(self._name, where[-1], elsewhere=True)

    def left_nothing(self) -> bool:
        """Is all as it was, so that the container cannot have been checkpointed?"""
        try:
            if (os.path.exists(self._place) and os.listdir(self._place)) or len(self._note.detached) > self._before:
                return False
            # Who was killed is still there for a moment, and for a part of it neither frozen nor about to be killed.
            for pause in (_PAUSE, 0):
                if any(map(_is_about_to_be_killed, self._members)) or not self._cgroup.is_frozen():
                    return False
                time.sleep(pause)
            return self._members <= self._cgroup.members()
        except OSError:
            return False


def _is_about_to_be_killed(pid: int) -> bool:
    with open(f"/proc/{pid}/status", errors="surrogateescape") as file:
        lines = dict(line.split(":", 1) for line in file)
    return bool((int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)) >> signal.SIGKILL - 1 & 1)


def _dumped_by_criu(place: str) -> bool:
    return os.path.lexists(os.path.join(place, INVENTORY))


# ---- restore -------------------------------------------------------------------------------


def restore(
    directory: str | os.PathLike[str],
    target: namespace.IpcNamespace,
    containers: Sequence[str] = (),
    *,
    command: Sequence[str] = (),
    objects_are_there: bool = False,
    made: Callable[[Restored], None] = lambda restored: None,
    told: Told = lambda container: None,
    progress: Progress = NOBODY,
) -> Restored | None:
    """Make what a pod's namespace held in another one, then run the command for each container: see dump().

    containers are their names, by default all that the dump was of; each has to be detached from this pod, here or
    where its runtime had it. Segments that only attachments keep alive are kept by a holder until somebody has attached
    them. objects_are_there says that they were made before, which is seen by what outlines tell; then None is returned.
    made is called when they have been made, told with each container that was restored. If a command fails, what was
    made stays, since containers may use it. Raises an IpcimgError.
    """
    place = os.path.abspath(directory)
    images = os.path.join(place, IPC)
    if target.is_initial:
        raise NamespaceError("the machine's own IPC namespace is that of no pod")
    if not os.path.isdir(images):
        raise DirectoryError(f"{place}: there is no directory {IPC} in it: no pod was dumped into it")
    if why := who_could_change(os.stat(place)):
        raise DirectoryError(f"{place} {why}")
    names = list(containers) or _containers(place)
    _refuse_names(dict.fromkeys(names, 0))
    runtime = Command(command)
    runtime.expect_fit(names)
    if command and not names:
        raise DirectoryError(f"{place}: no container was dumped into it")
    pod = detach.pod_digest(images)
    for name in names:
        _expect_of_pod(name, os.path.join(place, name), images, pod)
    with interrupts.handled(), contextlib.ExitStack() as stack:
        restored: Restored | None = None
        if command:
            stack.enter_context(podnote.written(target.inode, images, podnote.RESTORE))
        if objects_are_there:
            _expect_objects(images, target)
        else:
            with interrupts.part() if command else contextlib.nullcontext():
                restored = restore_namespace(images, target, hold=True, progress=progress)
                made(restored)
        if command:
            progress.stage("containers")
            _restore_each(place, names, target, images, runtime, told)
        interrupts.finished()
    return restored


def _expect_objects(images: str, target: namespace.IpcNamespace) -> None:
    """Raise NamespaceError where an object of the set is not in the namespace, as far as outlines tell."""
    wanted = {outline(kind, one) for kind, one in imageset.load(images).objects()}
    with target.entered(), doing("looking at the objects of the target"):
        missing = absent(wanted, outlines())
    if missing:
        raise NamespaceError(f"{missing}: of the pod, and not in {target.described}")


def _restore_each(
    place: str, names: Sequence[str], target: namespace.IpcNamespace, images: str, runtime: Command, told: Told
) -> None:
    """Have the runtime restore one container after the other. Raises an IpcimgError."""
    done: list[str] = []
    try:
        for name in names:
            where = os.path.join(place, name)
            there = "; the objects of the pod are there" + (f", and {listed(done)} restored" if done else "")
            try:
                runtime.run(name, where)
            except IpcimgError as error:
                raise CommandError(f"container {name}: {error}{there}") from error
            except interrupts.Interrupted as error:
                error.args = (f"{error}, at container {name}{there}",)
                raise
            done.append(name)
            told(Container(name, where, elsewhere=False))
    finally:
        # criu has set it to 0 with each container. Nothing is destroyed by it that the holder has attached.
        with interrupts.deferred(), target.entered(), doing(f"setting kernel.shm_rmid_forced of {target.described}"):
            var.set_rmid_forced(imageset.load(images).variables)


def _expect_of_pod(name: str, place: str, images: str, pod: str) -> None:
    """Raise DirectoryError where what was dumped of a container is not detached from the set with this digest."""
    elsewhere = os.path.join(place, _ELSEWHERE)
    if os.path.lexists(elsewhere):
        if _read(elsewhere, lambda found: found["pod"]) != pod:
            raise DirectoryError(
                f"container {name}: what {elsewhere} tells of was detached from another set than {images}"
            )
    elif detach.detached_from(place) != pod:
        raise DirectoryError(
            f"container {name}: {place} is not detached from {images}; see `ipcimg pod detach --pod "
            f"{os.path.dirname(images)} {place}`"
        )


def _containers(place: str) -> list[str]:
    """The names of the containers that a dump was of, or else of all that are there. Raises DirectoryError."""
    path = os.path.join(place, _CONTAINERS)
    if os.path.lexists(path):
        return _read(path, _names)
    try:
        with os.scandir(place) as found:
            return sorted(one.name for one in found if one.name != IPC and one.is_dir())
    except OSError as error:
        raise DirectoryError(explain(error)) from error


def _names(found: object) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise TypeError
    return found


def _read(path: str, wanted: Callable[[Any], _T]) -> _T:
    """What is wanted of a file of ours. Raises DirectoryError where it is not as it was written."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if why := who_could_change(os.fstat(file.fileno())):
                raise DirectoryError(f"{path} {why}")
            return wanted(json.loads(file.read(_LARGEST)))
    except OSError as error:
        raise DirectoryError(explain(error)) from error
    except (ValueError, LookupError, TypeError) as error:
        raise DirectoryError(f"{path} is not as `ipcimg pod dump` writes it") from error
