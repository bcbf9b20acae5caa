"""The commands: arguments → one call → exit status. The only place that prints errors.

Exit status: 0 done, 1 failed (one line on standard error says at what), 2 the arguments were wrong.
After `restore … -- COMMAND` it is COMMAND's.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import __version__
from .describe import printable
from .errors import IpcimgError, explain
from .interrupts import Interrupted

if TYPE_CHECKING:
    from .model import Counts
    from .namespace import IpcNamespace

DONE, FAILED, WRONG = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ipcimg."""
    parser = argparse.ArgumentParser(
        prog="ipcimg",
        allow_abbrev=False,
        description="Dump a System V IPC namespace into CRIU-compatible images, and restore it from them.",
    )
    parser.add_argument("--version", action="version", version=f"ipcimg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    dump = commands.add_parser(
        "dump",
        help="write an IPC namespace into images",
        allow_abbrev=False,
        description="Write everything in an IPC namespace into an image directory.",
    )
    _add_namespace(dump, "namespace to dump")
    _add_directory(dump)
    dump.add_argument("--force", action="store_true", help="replace set N where it is there already")
    dump.add_argument("--criu-exact", action="store_true", help="leave out what CRIU does not write: times and pids")
    dump.add_argument(
        "--frozen-by-caller",
        action="store_true",
        help="I have stopped all users of the namespace: do not check, nor wait for it, that nothing moves",
    )
    dump.set_defaults(run=_dump)

    restore = commands.add_parser(
        "restore",
        help="make an IPC namespace from images",
        allow_abbrev=False,
        usage="ipcimg restore [-t PID | --ipc-ns PATH | --new-ns [--pin PATH]] -D DIR [--ns-id N] [--vars | --no-vars] "
        "[-- COMMAND…]",
        description="Make everything that an image directory holds, under the same ids.",
    )
    target = _add_namespace(restore, "namespace to restore into")
    target.add_argument("--new-ns", action="store_true", help="a new namespace, for --pin or COMMAND")
    restore.add_argument("--pin", metavar="PATH", help="keep the new namespace by a bind mount on the new file PATH")
    _add_directory(restore)
    restore.add_argument(
        "--vars",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="restore the namespace's settings too (default: unless it is the machine's own namespace)",
    )
    restore.add_argument("run_command", nargs=argparse.REMAINDER, metavar="COMMAND", help="run it in the new namespace")
    restore.set_defaults(run=_restore)

    check = commands.add_parser(
        "check",
        help="can this kernel, with these rights, do it",
        allow_abbrev=False,
        description="Try each feature on a throwaway namespace; status 0 if all that were asked for work.",
    )
    check.add_argument("--feature", metavar="NAME", action="append", help="only this one (may be repeated)")
    check.set_defaults(run=_check)
    return _run(parser, arguments)


def show_main(arguments: Sequence[str] | None = None) -> int:
    """The command ipcimg-show."""
    parser = argparse.ArgumentParser(
        prog="ipcimg-show",
        allow_abbrev=False,
        description="Show what images of an IPC namespace hold: ipcimg's or CRIU's. Needs no root.",
    )
    parser.add_argument("--version", action="version", version=f"ipcimg {__version__}")
    parser.add_argument(
        "paths", nargs="*", default=["."], metavar="PATH", help="an image or an image directory (default: .)"
    )
    parser.add_argument("--ns-id", type=_number, metavar="N", help="only this set of the directories")
    parser.add_argument(
        "--messages",
        type=_number,
        default=10,
        metavar="COUNT",
        help="show at most COUNT messages of each queue (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="show all messages")
    parser.add_argument("--hex", action="store_true", help="show contents of messages in full, as a hex dump")
    parser.add_argument("--json", action="store_true", help="print each image as crit does, one JSON object a line")
    parser.set_defaults(run=_show)
    return _run(parser, arguments)


def _add_namespace(parser: argparse.ArgumentParser, what: str) -> argparse._MutuallyExclusiveGroup:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-t", "--tree", type=_number, metavar="PID", help=f"the {what}: that of this process")
    group.add_argument(
        "--ipc-ns", metavar="PATH", help=f"the {what}: the one this file stands for (default: the caller's own)"
    )
    return group


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-D", "--images-dir", metavar="DIR", required=True, help="the image directory")
    parser.add_argument("--ns-id", type=_number, metavar="N", help="the number of the set: ipcns-*-N.img")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {(1 << 32) - 1}")
    return int(text)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    # A caller may have closed them; these live as long as the process.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    options = parser.parse_args(arguments)
    run: Callable[[argparse.ArgumentParser, argparse.Namespace], int] = options.run
    try:
        status = run(parser, options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # `… | head`: nobody reads on, which is no error. Nothing may be flushed at exit either.
        _forget_stdout()
        return DONE
    except (IpcimgError, MemoryError) as error:
        _say(parser, f"Error: {error or 'out of memory'}")
        return FAILED
    except OSError as error:
        _say(parser, f"Error: {explain(error)}")
        return FAILED
    except Interrupted as error:
        _say(parser, f"Error: {error}")
        return 128 + error.signum
    except KeyboardInterrupt:
        _say(parser, "Error: interrupted")
        return 128 + signal.SIGINT


def _forget_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(parser: argparse.ArgumentParser, text: str) -> None:
    """Print that the work is done. It stays done if nobody can read that."""
    try:
        print(printable(text), flush=True)
    except OSError as error:
        _forget_stdout()
        if not isinstance(error, BrokenPipeError):
            _say(parser, f"Warning: {text}, but standard output: {explain(error)}")


def _say(parser: argparse.ArgumentParser, text: str) -> None:
    print(f"{parser.prog}: {printable(text)}", file=sys.stderr)


def _namespace(options: argparse.Namespace) -> IpcNamespace:
    from . import namespace

    if options.tree is not None:
        return namespace.of_process(options.tree)
    if options.ipc_ns is not None:
        return namespace.at_path(options.ipc_ns)
    return namespace.own()


def _counts(counts: Counts) -> str:
    def some(number: int, what: str) -> str:
        return f"{number} {what}" if number == 1 else f"{number} {what}s"

    queues, sets = some(counts.queues, "message queue"), some(counts.semaphore_sets, "semaphore set")
    segments = some(counts.segments, "shared memory segment")
    return f"{queues} ({some(counts.messages, 'message')}), {sets}, {segments} ({some(counts.pages, 'page')})"


def _dump(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .dump import dump

    with _namespace(options) as source:
        source.enter()  # for good: not everybody who may go there may come back
        counts = dump(
            options.images_dir,
            source,
            ns_id=options.ns_id,
            force=options.force,
            criu_exact=options.criu_exact,
            frozen=options.frozen_by_caller,
        )
    _report(parser, f"dumped {_counts(counts)} into {options.images_dir}")
    return DONE


def _restore(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import namespace
    from .restore import restore

    command: list[str] = options.run_command
    if command[:1] == ["--"]:  # Python 3.13 leaves it out
        command = command[1:]
    if not options.new_ns and (options.pin is not None or command):
        parser.error("--pin and COMMAND go with --new-ns")
    if options.new_ns and options.pin is None and not command:
        parser.error("--new-ns needs --pin PATH or a COMMAND, else the new namespace would be gone at once")
    with namespace.new() if options.new_ns else _namespace(options) as target:
        target.enter()
        restored = restore(
            options.images_dir, target, ns_id=options.ns_id, variables=options.vars, creator_stays=bool(command)
        )
        for warning in restored.warnings:
            _say(parser, f"Warning: {warning}")
        if options.pin is not None:
            target.pin(options.pin)
        _report(parser, f"restored {_counts(restored.counts)} from {options.images_dir}")
        if not command:
            return DONE
        for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored_by_python, signal.SIG_DFL)
        try:
            # In this very process: it is the creator of the segments, and keeps them alive.
            os.execvp(command[0], command)
        except OSError as error:
            if options.pin is not None:
                target.unpin(options.pin)
            raise IpcimgError(f"running {command[0]}: {error.strerror}") from error


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .check import FEATURES, check

    names = options.feature or list(FEATURES)
    for name in names:
        if name not in FEATURES:
            parser.error(f"there is no feature {name}; there are {', '.join(FEATURES)}")
    results = [check(name) for name in names]
    for result in results:
        print(f"{result.feature:<{max(map(len, FEATURES))}}  {result.verdict}")
    if all(result.supported for result in results):
        print("Looks good.")
        return DONE
    return FAILED


def _show(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import show

    view = show.View(messages=None if options.all else options.messages, hex=options.hex, json=options.json)
    status = DONE
    for path in options.paths:
        try:
            sys.stdout.writelines(show.show(path, options.ns_id, view))
        except IpcimgError as error:
            sys.stdout.flush()
            _say(parser, f"Error: {error}")
            status = FAILED
    return status
