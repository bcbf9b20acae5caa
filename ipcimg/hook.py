"""What is to be done at each stage of a dump or a restore of CRIU's, which calls `ipcimg hook` by --action-script.

For each stage the configuration makes a plan: what is done there, or why nothing is. Whoever plans something looks
first, which touches nothing and gives a step, and only then acts; so that --explain can tell what would be done.

What is dumped beside CRIU's images goes into the directory UNFINISHED in the image directory, which becomes BESIDE at
the stage post-dump, before CRIU's own are detached. Who is killed in between leaves both, and a restore fails at ids
that are taken; it never leaves out the objects.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import DirectoryError, IpcimgError, NamespaceError, explain, quoted

if TYPE_CHECKING:
    from .directory import ImageDirectory
    from .hookconfig import Configuration
    from .hooklog import Log
    from .imageset import ImageSet
    from .manifest import Manifest
    from .namespace import IpcNamespace

BESIDE = "ipcimg"  # of the image directory
UNFINISHED = "ipcimg.unfinished"
STAGE, IMAGES, TASK = "CRTOOLS_SCRIPT_ACTION", "CRTOOLS_IMAGE_DIR", "CRTOOLS_INIT_PID"  # environment, set by criu


@dataclass(frozen=True, slots=True)
class Call:
    """That criu is at a stage."""

    stage: str
    images: str | None  # its image directory; None where it does not say, or has closed it
    task: int | None  # the process id of the first task; None where there is none yet

    @property
    def directory(self) -> str:
        """The image directory. Raises DirectoryError where there is none."""
        if self.images is None:
            raise DirectoryError(f"criu has told no image directory that is there ({IMAGES})")
        return self.images

    def namespace(self) -> IpcNamespace:
        """The IPC namespace of the tasks. Raises NamespaceError."""
        from . import namespace

        if self.task is None:
            raise NamespaceError(f"criu has told no process ({TASK})")
        return namespace.of_process(self.task)


def call(environment: Mapping[str, str]) -> Call:
    """What criu says in the environment, of which STAGE has to be set. Raises NamespaceError."""
    task = environment.get(TASK)
    if task is not None and not (task.isascii() and task.isdigit() and len(task) <= 10):
        raise NamespaceError(f"{TASK} is {quoted(task)}, and should be a process id")
    return Call(environment[STAGE], _named(environment.get(IMAGES)), None if task is None else int(task))


def _named(images: str | None) -> str | None:
    """An open directory, /proc/PID/fd/N, by the name that says something to people, if that is still its own."""
    if images is None or not os.path.isdir(images):
        return None
    with contextlib.suppress(OSError):
        name = os.readlink(images)
        if os.path.samestat(os.stat(name), os.stat(images)):
            return name
    return images


# ---- plans ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now, and how; act is None where nothing is."""

    words: str
    act: Callable[[Log], None] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done at a stage, or, where look is None, why nothing is."""

    words: str
    look: Callable[[Call], Step] | None = None


def plan(stage: str, configuration: Configuration) -> Plan:
    """What the configuration wants at a stage, also at one that nobody knows yet."""
    made = _PLANS.get(stage)
    return Plan("ipcimg has nothing to do at this stage") if made is None else made(configuration)


def run(call: Call, configuration: Configuration, log: Log) -> None:
    """Do what is to be done at a stage, and say so. Raises an IpcimgError, OSError."""
    planned = plan(call.stage, configuration)
    step = Step(planned.words) if planned.look is None else planned.look(call)
    if step.act is None:
        log.say(f"nothing to do: {step.words}")
    else:
        step.act(log)


def explanation(call: Call | None, configuration: Configuration) -> Iterator[str]:
    """Lines: the configuration, what is done at each stage, and, with a call, what would be done now."""
    yield f"configuration: {', '.join(configuration.files) or 'no file, all by default'}"
    for key, value in configuration.values():
        written = ("false", "true")[value] if isinstance(value, bool) else f'"{value}"'
        yield f"  {key} = {written}  # {configuration.origins.get(key, 'default')}"
    yield "stages:"
    width = max(map(len, STAGES))
    for stage in STAGES:
        planned = plan(stage, configuration)
        yield f"  {stage:<{width}}  {'nothing: ' if planned.look is None else ''}{planned.words}"
    yield "of a pod:"
    yield f"  {'post-dump':<{width}}  detach CRIU's images while `ipcimg pod` dumps the pod, and nothing else"
    yield f"  {'post-setup-namespaces':<{width}}  see that the objects are there from which they were detached"
    if call is None:
        return
    yield f"now: {call.stage}, images {call.images or 'not told'}, process {call.task or 'not told'}"
    planned = plan(call.stage, configuration)
    try:
        step = Step(planned.words) if planned.look is None else planned.look(call)
    except IpcimgError as error:
        yield f"  would fail: {error}"
    except OSError as error:
        yield f"  would fail: {explain(error)}"
    else:
        yield f"  {'nothing' if step.act is None else 'would'}{':' if step.act is None else ''} {step.words}"


def _pre_dump(configuration: Configuration) -> Plan:
    if configuration.dump.stage == "none":
        return Plan('dump.stage is "none"')
    return Plan("refuse a directory with an earlier dump that is beside CRIU's", _look_for_stale)


def _network_lock(configuration: Configuration) -> Plan:
    if configuration.dump.stage != "network-lock":
        return Plan(f'dump.stage is "{configuration.dump.stage}"')
    return Plan(
        f"dump the IPC namespace into {UNFINISHED}, before CRIU dumps", functools.partial(_look_early, configuration)
    )


def _network_unlock(configuration: Configuration) -> Plan:
    if configuration.dump.stage != "network-lock":
        return Plan(f'dump.stage is "{configuration.dump.stage}"')
    return Plan(f"remove {UNFINISHED}, which is there where CRIU has not come as far as post-dump", _look_for_left)


def _post_dump(configuration: Configuration) -> Plan:
    if configuration.dump.stage == "none":
        words, look = 'nothing, since dump.stage is "none"', _look_for_pod
    elif configuration.dump.place == "criu":
        words, look = "dump the IPC namespace in the place of CRIU's images", _look_in_place
    elif configuration.dump.stage == "post-dump":
        words, look = f"dump the IPC namespace into {BESIDE}, and detach CRIU's images from it", _look_beside
    else:
        words, look = f"make {UNFINISHED} {BESIDE}, and detach CRIU's images from it", _look_for_early
    return Plan(words, functools.partial(look, configuration))


def _pre_restore(configuration: Configuration) -> Plan:
    if not configuration.restore.verify:
        return Plan("restore.verify is false")
    return Plan("compare every set that has a manifest with it", _look_at_sets)


def _setup_namespaces(configuration: Configuration) -> Plan:
    return Plan("the namespace may be one that the tasks leave again (--join-ns)")


def _post_setup_namespaces(configuration: Configuration) -> Plan:
    if configuration.restore.stage == "none":
        words = f"refuse a set in {BESIDE}, which nobody would restore"
    else:
        words = f"restore the set in {BESIDE}, if there is one, into the namespace of the tasks"
    return Plan(words, functools.partial(_look_at_beside, configuration))


_PLANS: dict[str, Callable[[Configuration], Plan]] = {
    "pre-dump": _pre_dump,
    "network-lock": _network_lock,
    "network-unlock": _network_unlock,
    "post-dump": _post_dump,
    "pre-restore": _pre_restore,
    "setup-namespaces": _setup_namespaces,
    "post-setup-namespaces": _post_setup_namespaces,
}
STAGES = (
    *("pre-dump", "network-lock", "post-dump", "network-unlock"),
    *("pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "pre-resume", "post-resume"),
)


# ---- dump ----------------------------------------------------------------------------------


def _look_for_stale(call: Call) -> Step:
    _refuse_stale(call)  # before CRIU writes over its own images; later it is too late for them
    return Step("no earlier dump is beside CRIU's")


def _look_for_pod(configuration: Configuration, call: Call) -> Step:
    found = None if call.task is None else _of_pod(call)
    return found or Step(f'dump.stage is "{configuration.dump.stage}"')


def _look_in_place(configuration: Configuration, call: Call) -> Step:
    from . import criudump
    from .directory import ImageDirectory

    directory = ImageDirectory(call.directory)
    _refuse_stale(call)
    if not criudump.has_namespace(directory):
        return _no_namespace(configuration)
    if step := _of_pod(call):
        return step
    n = criudump.namespace_to_replace(directory, None)
    return Step(
        f"dump the IPC namespace of process {call.task} in the place of CRIU's set {n} in {call.directory}",
        functools.partial(_dump_in_place, call),
    )


def _dump_in_place(call: Call, log: Log) -> None:
    from .commands.arguments import counts
    from .dump import dump

    with call.namespace() as source:
        source.enter()  # for good: not everybody who may go there may come back
        dumped = dump(call.directory, source, frozen=True, criu_set=True)
    log.say(f"dumped {counts(dumped.counts)} in the place of CRIU's images")


def _look_beside(configuration: Configuration, call: Call) -> Step:
    from . import criudump
    from .directory import ImageDirectory

    _refuse_stale(call)
    if not criudump.has_namespace(ImageDirectory(call.directory)):
        return _no_namespace(configuration)
    if step := _of_pod(call):
        return step

    def act(log: Log) -> None:
        _dump_beside(call, log)
        _finish(call, log)

    where = os.path.join(call.directory, BESIDE)
    return Step(f"dump the IPC namespace of process {call.task} into {where}, and detach CRIU's images", act)


def _look_early(configuration: Configuration, call: Call) -> Step:
    from . import namespace

    _refuse_stale(call)
    with call.namespace() as theirs, namespace.own() as criu_s:
        if theirs.inode == criu_s.inode:
            return _no_namespace(configuration)
    if _of_pod(call):
        return Step("the pod of the tasks is being dumped")
    where = os.path.join(call.directory, UNFINISHED)
    return Step(f"dump the IPC namespace of process {call.task} into {where}", functools.partial(_dump_beside, call))


def _look_for_early(configuration: Configuration, call: Call) -> Step:
    from . import criudump
    from .directory import ImageDirectory

    if not criudump.has_namespace(ImageDirectory(call.directory)):
        return _no_namespace(configuration)
    if step := _of_pod(call):
        return step
    where = os.path.join(call.directory, UNFINISHED)
    if not os.path.lexists(where):
        raise DirectoryError(
            f"{where} is not there: CRIU has not called at network-lock, as it does for tasks with a network namespace "
            'of their own alone; dump.stage = "post-dump" is for all'
        )
    return Step(f"make {where} {BESIDE}, and detach CRIU's images", functools.partial(_finish, call))


def _dump_beside(call: Call, log: Log) -> None:
    """Into UNFINISHED. That CRIU has dumped the same is compared later."""
    from .commands.arguments import counts
    from .dump import dump
    from .errors import doing
    from .freeze import running

    where = os.path.join(call.directory, UNFINISHED)
    _remove(where)
    with call.namespace() as source:
        with doing(f"looking for the processes of {source.described}"):
            pid = running(source)
        if pid is not None:
            log.say(f"process {pid} of {source.described} is running: what it uses meanwhile is waited for")
        source.enter()
        dumped = dump(where, source, frozen=pid is None)
    log.say(f"dumped {counts(dumped.counts)} into {UNFINISHED}")


def _finish(call: Call, log: Log) -> None:
    from .detach import detach, pod
    from .interrupts import handled

    where = os.path.join(call.directory, BESIDE)
    with handled():
        _refuse_stale(call)
        os.rename(os.path.join(call.directory, UNFINISHED), where)
        try:
            made = pod(where)
            detach(call.directory, made)
        except BaseException:
            _remove(where)
            raise
    log.say(f"{UNFINISHED} is {BESIDE} now, and CRIU's images are detached from it")
    if made.segments:
        log.say("tasks that have a segment attached need the plugin of ipcimg at criu restore: tools/criu-plugin")


def _look_for_left(call: Call) -> Step:
    where = os.path.join(call.directory, UNFINISHED)
    if not os.path.lexists(where):
        return Step(f"there is no {UNFINISHED}")

    def act(log: Log) -> None:
        _remove(where)
        log.say(f"removed {UNFINISHED}: CRIU has not come as far as post-dump")

    return Step(f"remove {where}", act)


def _of_pod(call: Call) -> Step | None:
    """What to do where the tasks are in a pod that is being dumped. Raises an IpcimgError."""
    from . import hookpod

    return hookpod.being_dumped(call)


def _no_namespace(configuration: Configuration) -> Step:
    what = "the tasks are in criu's own IPC namespace, of which CRIU dumps and restores nothing"
    if configuration.dump.required:
        raise NamespaceError(f"{what}; dump.required is true")
    return Step(what)


def _refuse_stale(call: Call) -> None:
    """Raise DirectoryError where an earlier dump into the same directory was beside CRIU's: what is whose?"""
    from .images import DETACHED, SEGMENTS

    for name in (BESIDE, DETACHED, SEGMENTS):
        path = os.path.join(call.directory, name)
        if os.path.lexists(path):
            raise DirectoryError(f"{path} is of an earlier dump into this directory; dump into a new one, or remove it")


def _remove(directory: str) -> None:
    """Remove a directory of ours, if it is there. Raises OSError."""
    if os.path.lexists(directory):
        import shutil

        shutil.rmtree(directory)


# ---- restore -------------------------------------------------------------------------------


def _look_at_sets(call: Call) -> Step:
    sets = list(_sets(call))
    if not sets:
        return Step("no set of images that is there has a manifest")
    names = ", ".join(f"set {images.ns_id} in {images.directory.path}" for images, _ in sets)
    return Step(f"compare {names} with its manifest", functools.partial(_verify, sets))


def _sets(call: Call) -> Iterator[tuple[ImageSet, Manifest]]:
    """All that have a manifest. Raises DirectoryError, ImageError."""
    from .directory import ImageDirectory
    from .imageset import ImageSet

    directories = [ImageDirectory(call.directory)]
    if os.path.lexists(os.path.join(call.directory, BESIDE)):
        directories.append(_beside(call))
    for directory in directories:
        for n in directory.sets():
            images = ImageSet(directory, n)
            if images.manifest is not None:
                yield images, images.manifest


def _verify(sets: list[tuple[ImageSet, Manifest]], log: Log) -> None:
    from .commands.arguments import counts

    for images, manifest in sets:
        found = counts(images.check())
        log.say(f"set {images.ns_id}: {found}: whole, and as it was written ({manifest.digest_algorithm})")


def _look_at_beside(configuration: Configuration, call: Call) -> Step:
    where = os.path.join(call.directory, BESIDE)
    if not os.path.lexists(where):
        from . import hookpod

        return hookpod.being_restored(call) or Step(f"there is no {BESIDE} in {call.directory}")
    if configuration.restore.stage == "none":
        raise DirectoryError(f'{where} has the objects of the tasks, which would be missing: restore.stage is "none"')
    where = _beside(call).path

    def act(log: Log) -> None:
        from .commands.arguments import counts
        from .restore import restore

        with call.namespace() as target:
            target.enter()
            restored = restore(where, target)
        for warning in restored.warnings:
            log.warn(warning)
        log.say(f"restored {counts(restored.counts)} from {BESIDE}")

    return Step(f"restore {where} into the IPC namespace of process {call.task}", act)


def _beside(call: Call) -> ImageDirectory:
    """The directory BESIDE, from which CRIU's images have to be detached. Raises DirectoryError, ImageError."""
    from .detach import detached_from, pod_digest
    from .directory import ImageDirectory

    path = os.path.join(call.directory, BESIDE)
    if os.path.islink(path):
        raise DirectoryError(f"{path} is a symbolic link")
    beside = ImageDirectory(path, wary=True)
    wanted = detached_from(call.directory)
    if wanted is None:
        raise DirectoryError(
            f"{call.directory}: CRIU's images are not detached from {BESIDE}: its dump has not ended well"
        )
    if pod_digest(path) != wanted:
        raise DirectoryError(f"{path}: is another set than the one from which CRIU's images are detached")
    return beside
