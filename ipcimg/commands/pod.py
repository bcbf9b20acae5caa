"""ipcimg pod."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..commandline import DONE, number, report, say
from ..errors import NamespaceError
from . import arguments
from .arguments import Commands, new

if TYPE_CHECKING:
    from ..namespace import IpcNamespace

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
    arguments.add_namespace(dump, "namespace to dump")
    dump.add_argument("-D", "--images-dir", metavar="DIR", required=True, help="the directory of the pod")
    dump.add_argument(
        "--container",
        type=_container,
        action="append",
        required=True,
        metavar="NAME:PID",
        help="a container, and a process in it (repeatable)",
    )
    dump.add_argument("--leave-frozen", action="store_true", help="leave the containers frozen, unless something fails")
    arguments.add_progress(dump)
    dump.add_argument("run_command", nargs=argparse.REMAINDER, metavar="COMMAND", help=_RUN)
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
    arguments.add_namespace(restore, "namespace to restore into")
    restore.add_argument("-D", "--images-dir", metavar="DIR", required=True, help="the directory of the pod")
    restore.add_argument(
        "--container",
        action="append",
        default=[],
        metavar="NAME",
        help="a container (repeatable; default: all that are in DIR)",
    )
    arguments.add_progress(restore)
    restore.add_argument("run_command", nargs=argparse.REMAINDER, metavar="COMMAND", help=_RUN)
    restore.set_defaults(run=_restore)


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
    from ..pod import dump

    containers = dict(options.container)
    if len(containers) < len(options.container):
        parser.error("a --container is named twice")
    with _namespace(options) as source, arguments.progress(options, "dumping") as progress:
        dumped = dump(
            options.images_dir,
            source,
            containers,
            sandbox=options.tree,
            command=arguments.command_of(options),
            leave_frozen=options.leave_frozen,
            told=lambda line: report(parser, line),
            progress=progress,
        )
    report(parser, f"dumped {arguments.counts(dumped.counts)} into {options.images_dir}/ipc")
    return DONE


def _restore(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from ..pod import restore

    with _namespace(options) as target, arguments.progress(options, "restoring") as progress:
        restored = restore(
            options.images_dir,
            target,
            options.container,
            command=arguments.command_of(options),
            told=lambda line: report(parser, line),
            progress=progress,
        )
    for warning in restored.warnings:
        say(parser, f"Warning: {warning}")
    report(parser, f"restored {arguments.counts(restored.counts)} from {options.images_dir}/ipc")
    if restored.holder is not None:
        held = ", ".join(map(str, restored.held))
        report(parser, f"process {restored.holder} keeps shared memory segments {held} until somebody attaches them")
    return DONE


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


def _namespace(options: argparse.Namespace) -> IpcNamespace:
    if options.tree is None and options.ipc_ns is None:
        raise NamespaceError("the caller's own IPC namespace is that of no pod: name that of the sandbox, -t PID")
    return arguments.namespace_of(options)
