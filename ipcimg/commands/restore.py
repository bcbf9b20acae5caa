"""ipcimg restore."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
from typing import TYPE_CHECKING

from ..commandline import DONE
from ..errors import IpcimgError, explain
from ..model import NAMES
from . import arguments, outcome
from .arguments import Commands, new

if TYPE_CHECKING:
    from ..model import Counts
    from ..restore import Restored


def add(commands: Commands) -> None:
    """Its arguments."""
    restore = new(
        commands,
        "restore",
        what="make an IPC namespace from images",
        usage="ipcimg restore [-t PID | --ipc-ns PATH | -J ipc:WHICH | --new-ns [--pin PATH]] -D DIR [OPTION…] "
        "[-- COMMAND…]",
        description="Make everything that an image directory or archive holds, under the same ids.",
    )
    target = arguments.add_namespace(restore, "namespace to restore into")
    target.add_argument(
        "-J",
        "--join-ns",
        type=arguments.joined,
        metavar="ipc:WHICH",
        help="the namespace to restore into, as for criu: that of a process id, or of a file",
    )
    target.add_argument("--new-ns", action="store_true", help="a new namespace, for --pin or COMMAND")
    restore.add_argument("--pin", metavar="PATH", help="keep the new namespace by a bind mount on the new file PATH")
    arguments.add_directory(restore, "the image directory, its URL, or an archive; - for one from standard input")
    arguments.add_selection(restore, "restore")
    restore.add_argument(
        "--vars",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="restore the namespace's settings too (default: unless it is the machine's own namespace, or a part "
        "without them was dumped or is restored)",
    )
    restore.add_argument(
        "--into-free-ids", action="store_true", help="give objects whose ids are taken other ids, and print which"
    )
    restore.add_argument(
        "--hold",
        action="store_true",
        help="keep segments that only attachments keep alive in a process of its own until somebody attaches them",
    )
    restore.add_argument("--pidfile", metavar="FILE", help="write the process id of that process to FILE")
    restore.add_argument("--strict", action="store_true", help="refuse what would otherwise end with a warning")
    arguments.add_progress(restore)
    outcome.add(restore)
    outcome.add_without_effect(restore)
    restore.add_argument("run_command", nargs=argparse.REMAINDER, metavar="COMMAND", help="run it in the new namespace")
    restore.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import interrupts, namespace, places
    from ..restore import restore

    command = arguments.command_of(options)
    if not options.new_ns and (options.pin is not None or command):
        parser.error("--pin and COMMAND go with --new-ns")
    if options.new_ns and options.pin is None and not command:
        parser.error("--new-ns needs --pin PATH or a COMMAND, else the new namespace would be gone at once")
    if options.pidfile is not None and not options.hold:
        parser.error("--pidfile goes with --hold")
    with (
        outcome.of(
            parser, options, "Restoring", places.described(options.images_dir), facts=outcome.OF_RESTORE
        ) as told,
        contextlib.ExitStack() as stack,
    ):
        if command:
            import shutil

            if shutil.which(command[0]) is None:  # before all is told to be done
                raise IpcimgError(f"running {command[0]}: there is no such command")
        if options.pin is not None and os.path.lexists(options.pin):
            raise IpcimgError(f"pinning the namespace: {options.pin}: {os.strerror(errno.EEXIST)}")
        pidfile = None if options.pidfile is None else stack.enter_context(open(options.pidfile, "wb", 0))
        # What is of no use to anybody unless all is done; a COMMAND is part of that.
        on_error = stack.enter_context(contextlib.ExitStack())
        if pidfile is not None:
            on_error.callback(_empty, pidfile)

        def note_holder(pid: int) -> None:
            if options.new_ns:  # nobody could get at what it holds
                on_error.callback(_end, pid)
            if pidfile is not None:
                _write_pid(pidfile, pid)

        target = stack.enter_context(namespace.new() if options.new_ns else arguments.namespace_of(options))
        told.about(target)
        target.enter()
        with (
            arguments.progress(options, "restoring") as progress,
            interrupts.part() if options.new_ns else contextlib.nullcontext(),
        ):
            restored = restore(
                options.images_dir,
                target,
                ns_id=options.ns_id,
                only=arguments.selection(options),
                variables=options.vars,
                into_free_ids=options.into_free_ids,
                hold=options.hold,
                strict=options.strict,
                creator_stays=bool(command),
                reachable=not options.new_ns or options.pin is not None,
                report_holder=note_holder,
                progress=told.watching(progress),
            )
        interrupts.finished()
        if options.pin is not None:
            target.pin(options.pin)
            on_error.callback(target.unpin, options.pin)
        if not command:
            on_error.pop_all()
        told.of_restore(restored)
        if (where := outcome.local(options)) is not None:
            _leave_stats(told, where, restored.counts)
        told.done(*_restored(restored, places.described(options.images_dir)))
        if command:
            if options.images_dir == places.STANDARD_INPUT:  # of which nothing is left
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _become(command)
    return DONE


def _empty(pidfile: io.FileIO) -> None:
    with contextlib.suppress(OSError):  # it may be a device
        pidfile.truncate(0)


def _end(holder: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder, signal.SIGTERM)


def _write_pid(pidfile: io.FileIO, pid: int) -> None:
    try:
        pidfile.write(b"%d\n" % pid)
    except OSError as error:
        raise IpcimgError(f"writing {os.fsdecode(pidfile.name)}: {explain(error)}") from error


def _become(command: list[str]) -> None:
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        # In this very process: it is the creator of the segments, and keeps them alive.
        os.execvp(command[0], command)
    except OSError as error:
        raise IpcimgError(f"running {command[0]}: {error.strerror}") from error


def _leave_stats(told: outcome.Outcome, where: str, counts: Counts) -> None:
    """Leave statistics as criu does, where that is possible; nobody has asked for them."""
    from ..codec import is_ours
    from ..image import ImageFile
    from ..images import STATS_RESTORE
    from ..inventory import stats_restore
    from ..newfile import put

    path = os.path.join(where, STATS_RESTORE)
    try:
        put(path, stats_restore(told.watch, counts), ours=lambda fd: is_ours(ImageFile(os.dup(fd), path)))
    except IpcimgError as error:
        told.info(f"no {STATS_RESTORE}: {error}")


def _restored(restored: Restored, directory: str) -> list[str]:
    lines = [f"restored {arguments.counts(restored.counts)} from {directory}"]
    lines += [f"{NAMES[kind]} {old} is now {new}" for (kind, old), new in restored.new_ids.items()]
    if restored.holder is not None:
        lines.append(f"process {restored.holder} keeps segments attached: {' '.join(map(str, restored.held))}")
    return lines
