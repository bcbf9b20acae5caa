"""ipcimg pod."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..commandline import DONE, number, report
from . import arguments, outcome
from .arguments import Commands, new
from .outcome import Outcome

if TYPE_CHECKING:
    from ..pod import Container
    from ..restore import Restored

_RUN = "run it for each container, with {} replaced by its name and {dir} by its directory"


def add(commands: Commands) -> None:
    """Its commands and their arguments."""
    pod = new(
        commands,
        "pod",
        what="dump and restore containers that share an IPC namespace",
        description="Dump and restore containers that share an IPC namespace: the namespace once, and each container "
        "by its runtime.",
    )
    steps = pod.add_subparsers(dest="step", metavar="COMMAND", required=True, prog=pod.prog)
    _add_dump(steps)
    _add_restore(steps)
    _add_detach(steps)


def _add_dump(steps: Commands) -> None:
    dump = new(
        steps,
        "dump",
        what="freeze the containers, dump the namespace, have the runtime checkpoint each",
        usage="ipcimg pod dump (-t PID | --ipc-ns PATH) -D DIR --container NAME:PID… [OPTION…] [-- COMMAND…]",
        description="Freeze the cgroup of each container, dump the namespace into DIR/ipc, and have COMMAND checkpoint "
        "each container into DIR/NAME, from which the objects of the namespace are detached.",
    )
    _add_places(dump, "namespace to dump")
    dump.add_argument(
        "--container",
        type=_container,
        action="append",
        required=True,
        metavar="NAME:PID",
        help="a container, and a process in it (repeatable)",
    )
    dump.add_argument("--leave-frozen", action="store_true", help="leave the containers frozen, unless something fails")
    _add_rest(dump)
    dump.set_defaults(run=_dump)


def _add_restore(steps: Commands) -> None:
    restore = new(
        steps,
        "restore",
        what="restore the namespace, and have the runtime restore each container into it",
        usage="ipcimg pod restore (-t PID | --ipc-ns PATH) -D DIR [--container NAME…] [OPTION…] [-- COMMAND…]",
        description="Make what DIR/ipc holds in the namespace of a new sandbox, and have COMMAND restore each "
        "container from DIR/NAME.",
    )
    _add_places(restore, "namespace to restore into")
    restore.add_argument(
        "--container",
        action="append",
        default=[],
        metavar="NAME",
        help="a container (repeatable; default: all that are in DIR)",
    )
    restore.add_argument(
        "--objects-are-there",
        action="store_true",
        help="an earlier call has made the objects: only see that they are there, and restore containers",
    )
    _add_rest(restore)
    restore.set_defaults(run=_restore)


def _add_places(step: argparse.ArgumentParser, what: str) -> None:
    arguments.add_namespace(step, what, required=True)
    step.add_argument("-D", "--images-dir", metavar="DIR", required=True, help="the directory of the pod")


def _add_rest(step: argparse.ArgumentParser) -> None:
    arguments.add_progress(step)
    outcome.add(step)
    step.add_argument("run_command", nargs=argparse.REMAINDER, metavar="COMMAND", help=_RUN)


def _add_detach(steps: Commands) -> None:
    detach = new(
        steps,
        "detach",
        what="take the objects of the pod out of what was dumped of a container",
        description="Put the objects of the pod aside that CRIU has dumped with a container, and list the segments for "
        "criu's plugin; or have all as CRIU left it.",
    )
    how = detach.add_mutually_exclusive_group(required=True)
    how.add_argument("--pod", metavar="DIR", help="the directory of the pod, or of its set")
    how.add_argument("--undo", action="store_true", help="have the directories as CRIU left them")
    detach.add_argument("directories", nargs="+", metavar="DIR", help="what CRIU has dumped of a container")
    detach.set_defaults(run=_detach)


def _container(text: str) -> tuple[str, int]:
    name, colon, pid = text.rpartition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:PID")
    return name, number(pid)


def _dump(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from ..pod import dump, images_of

    containers = dict(options.container)
    if len(containers) < len(options.container):
        parser.error("a --container is named twice")
    with _told(parser, options, "Dumping", outcome.OF_DUMP) as told, contextlib.ExitStack() as stack:
        source = stack.enter_context(arguments.namespace_of(options))
        told.about(source)
        dumped = dump(
            options.images_dir,
            source,
            containers,
            sandbox=options.tree,
            command=arguments.command_of(options),
            leave_frozen=options.leave_frozen,
            told=_tell(told, "checkpointed container {} into {}"),
            progress=told.watching(stack.enter_context(arguments.progress(options, "dumping"))),
        )
        told.of_dump(dumped)
        told.done(f"dumped {arguments.counts(dumped.counts)} into {images_of(options.images_dir)}")
    return DONE


def _restore(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from ..pod import images_of, restore

    if len(set(options.container)) < len(options.container):
        parser.error("a --container is named twice")
    with _told(parser, options, "Restoring", outcome.OF_RESTORE) as told, contextlib.ExitStack() as stack:
        target = stack.enter_context(arguments.namespace_of(options))
        told.about(target)

        def made(restored: Restored) -> None:
            told.of_restore(restored)
            told.line(f"restored {arguments.counts(restored.counts)} from {images_of(options.images_dir)}")
            if restored.holder is not None:
                held = ", ".join(map(str, restored.held))
                told.line(f"process {restored.holder} keeps shared memory segments {held} until somebody attaches them")

        restore(
            options.images_dir,
            target,
            options.container,
            command=arguments.command_of(options),
            objects_are_there=options.objects_are_there,
            made=made,
            told=_tell(told, "restored container {} from {}"),
            progress=told.watching(stack.enter_context(arguments.progress(options, "restoring"))),
        )
        told.done(*(["the objects of the pod were there"] if options.objects_are_there else []))
    return DONE


def _told(
    parser: argparse.ArgumentParser, options: argparse.Namespace, doing: str, facts: Iterable[str]
) -> contextlib.AbstractContextManager[Outcome]:
    """What becomes of a pod, with the containers that are done."""
    if options.report == "-" and arguments.command_of(options):
        parser.error("--report - goes to standard output, which COMMAND has as well: name a file")
    makes = doing == "Dumping"
    return outcome.of(parser, options, doing, options.images_dir, facts=(*facts, "containers"), makes_directory=makes)


def _tell(told: Outcome, line: str) -> Callable[[Container], None]:
    """What tells of each container that is done; line has places for its name and directory."""
    done: list[dict[str, object]] = []
    told.fact(containers=done)

    def tell(container: Container) -> None:
        done.append(dataclasses.asdict(container))
        where = container.images_dir
        told.line(line.format(container.name, f"a place of its runtime's, {where}" if container.elsewhere else where))

    return tell


def _detach(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import detach
    from ..pod import images_of

    if options.undo:
        for directory in options.directories:
            undone = detach.undo(directory)
            report(parser, f"{directory} is {'as CRIU left it' if undone else 'not detached: nothing to undo'}")
        return DONE
    pod = detach.pod(images_of(options.pod))
    for directory in options.directories:
        new_one = detach.detach(directory, pod)
        report(parser, f"{directory} is detached from {pod.path}{'' if new_one else ' already'}")
    return DONE
