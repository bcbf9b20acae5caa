"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, TypeAlias

from ..commandline import Help, number
from ..model import NAMES
from ..progress import shown
from ..selection import KINDS, Selection

if TYPE_CHECKING:
    from ..model import Counts
    from ..namespace import IpcNamespace
    from ..progress import Progress

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def new(
    commands: Commands, name: str, *, what: str, description: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """A command: what is what the list of commands says of it, description what its own help does."""
    made = commands.add_parser(
        name, help=what, description=description, usage=usage, allow_abbrev=False, formatter_class=Help
    )
    made.set_defaults(parser=made)
    return made


def add_namespace(
    parser: argparse.ArgumentParser, what: str, *, required: bool = False
) -> argparse._MutuallyExclusiveGroup:
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("-t", "--tree", type=number, metavar="PID", help=f"the {what}: that of this process")
    default = "" if required else " (default: the caller's own)"
    group.add_argument("--ipc-ns", metavar="PATH", help=f"the {what}: the one this file stands for{default}")
    return group


def add_directory(
    parser: argparse.ArgumentParser, what: str, among: argparse._MutuallyExclusiveGroup | None = None
) -> None:
    """The image directory, or what may stand for it: required, or one of several ways to name it."""
    directory = parser if among is None else among
    directory.add_argument("-D", "--images-dir", metavar="DIR", required=among is None, help=what)
    parser.add_argument("--ns-id", type=number, metavar="N", help="the number of the set: ipcns-*-N.img")


def command_of(options: argparse.Namespace) -> list[str]:
    """The COMMAND at the end of the line."""
    command: list[str] = options.run_command
    return command[1:] if command[:1] == ["--"] else command  # Python 3.13 leaves it out


def add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-progress",
        action="store_true",
        help="show no progress (default: on a terminal, from the first second on)",
    )


def add_frozen(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--freeze", action="store_true", help="stop all processes of the namespace while it is read")
    group.add_argument(
        "--frozen-by-caller",
        action="store_true",
        help="I have stopped all users of the namespace: do not wait to see that nothing moves",
    )


def add_selection(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--only",
        type=_kinds,
        metavar="KIND,…",
        help=f"{what} only these kinds: {', '.join(KINDS[1:])}, and var for the settings",
    )
    parser.add_argument(
        "--id", type=_id, metavar="KIND:ID", action="append", default=[], help=f"{what} only this object (repeatable)"
    )
    parser.add_argument(
        "--key", type=_key, metavar="KEY", action="append", default=[], help=f"{what} only objects with this key"
    )


def joined(text: str) -> str:
    """What --join-ns names: a process id or a path."""
    kind, colon, which = text.partition(":")
    if kind != "ipc":
        raise argparse.ArgumentTypeError(f"{text!r}: ipcimg joins IPC namespaces alone, ipc:PID or ipc:PATH")
    if not colon or not which:
        raise argparse.ArgumentTypeError(f"{text!r} is not ipc:PID or ipc:PATH")
    return which if not which.isdigit() else str(number(which))


def selection(options: argparse.Namespace) -> Selection:
    kinds = options.only or frozenset(KINDS)
    return Selection(kinds, frozenset(options.id), frozenset(options.key))


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.split(","))
    if not kinds <= set(KINDS):
        raise argparse.ArgumentTypeError(f"{text!r}: the kinds are {', '.join(KINDS)}")
    return kinds


def _id(text: str) -> tuple[str, int]:
    kind, _, digits = text.partition(":")
    if kind not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is not {', '.join(f'{kind}:ID' for kind in NAMES)}")
    return kind, number(digits)


def _key(text: str) -> int:
    try:
        key = int(text, 0)
    except ValueError:
        key = 0
    if not 0 < key < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a key: 1 to 0xffffffff")
    return key


def progress(options: argparse.Namespace, what: str) -> contextlib.AbstractContextManager[Progress]:
    return shown(what, wanted=not options.no_progress)


def namespace_of(options: argparse.Namespace) -> IpcNamespace:
    from .. import namespace

    if options.tree is not None:
        return namespace.of_process(options.tree)
    if options.ipc_ns is not None:
        return namespace.at_path(options.ipc_ns)
    if (which := getattr(options, "join_ns", None)) is not None:
        return namespace.of_process(int(which)) if which.isdigit() else namespace.at_path(which)
    return namespace.own()


def some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def counts(counts: Counts) -> str:
    queues, sets = some(counts.queues, "message queue"), some(counts.semaphore_sets, "semaphore set")
    segments = some(counts.segments, "shared memory segment")
    return f"{queues} ({some(counts.messages, 'message')}), {sets}, {segments} ({some(counts.pages, 'page')})"
