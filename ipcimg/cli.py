"""The command ipcimg: arguments → one call → exit status.

Exit status: 0 done, 1 failed (one line on standard error says at what), 2 the arguments were wrong.
After `restore … -- COMMAND` it is COMMAND's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import __version__, digest
from .commandline import DONE, FAILED, WRONG, Help, nobody_has_to_read, number, report, run, say
from .describe import printable
from .errors import IpcimgError, explain
from .model import NAMES
from .progress import shown
from .selection import KINDS, Selection

if TYPE_CHECKING:
    from .diff import Summary
    from .model import Counts
    from .namespace import IpcNamespace
    from .progress import Progress
    from .restore import Restored

_MOVED_AT_MOST = 20  # lines
_GRANULE = 4096  # bytes: how exactly differences of segments are told, whatever the size of a page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ipcimg."""
    return run(make_parser(), arguments)


def make_parser() -> argparse.ArgumentParser:
    """Its arguments."""
    parser = argparse.ArgumentParser(
        prog="ipcimg",
        allow_abbrev=False,
        formatter_class=Help,
        description="Dump a System V IPC namespace into CRIU-compatible images, and restore it from them.",
    )
    parser.add_argument("--version", action="version", version=f"ipcimg {__version__}")
    # Without prog argparse would format a usage for it, and ask for the size of the terminal.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, prog=parser.prog)

    dump = commands.add_parser(
        "dump",
        help="write an IPC namespace into images",
        allow_abbrev=False,
        formatter_class=Help,
        description="Write everything in an IPC namespace into an image directory.",
    )
    _add_namespace(dump, "namespace to dump")
    place = dump.add_mutually_exclusive_group(required=True)
    _add_directory(dump, place)
    place.add_argument(
        "--criu-set",
        metavar="DIR",
        help="put the images in the place of CRIU's in DIR, into which it has dumped the processes: "
        "criu restore then brings back what ipcimg has dumped",
    )
    _add_selection(dump, "dump")
    dump.add_argument(
        "--force",
        action="store_true",
        help="replace set N where it is there already; with --criu-set, what CRIU would hardly restore as well",
    )
    dump.add_argument("--criu-exact", action="store_true", help="leave out what CRIU does not write: times and pids")
    dump.add_argument(
        "--digest",
        choices=tuple(digest.ALGORITHMS),
        default=digest.DEFAULT,
        help="how the manifest tells whether a file is as it was written (default: %(default)s)",
    )
    _add_frozen(dump)
    dump.add_argument(
        "--allow-inconsistent",
        action="store_true",
        help="where the namespace is in use all the time, dump it all the same, and record what moved",
    )
    dump.add_argument(
        "--peek-only",
        action="store_true",
        help="never take a message off a queue and put it back, which is faster for deep ones of a stopped namespace",
    )
    _add_progress(dump)
    dump.set_defaults(run=_dump)

    restore = commands.add_parser(
        "restore",
        help="make an IPC namespace from images",
        allow_abbrev=False,
        formatter_class=Help,
        usage="ipcimg restore [-t PID | --ipc-ns PATH | --new-ns [--pin PATH]] -D DIR [OPTION…] [-- COMMAND…]",
        description="Make everything that an image directory holds, under the same ids.",
    )
    target = _add_namespace(restore, "namespace to restore into")
    target.add_argument("--new-ns", action="store_true", help="a new namespace, for --pin or COMMAND")
    restore.add_argument("--pin", metavar="PATH", help="keep the new namespace by a bind mount on the new file PATH")
    _add_directory(restore)
    _add_selection(restore, "restore")
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
    restore.add_argument("--json", action="store_true", help="print what was done as one JSON object")
    restore.add_argument(
        "-v", "--verbose", action="count", default=0, help="list what is in the images and nobody can restore"
    )
    _add_progress(restore)
    restore.add_argument("run_command", nargs=argparse.REMAINDER, metavar="COMMAND", help="run it in the new namespace")
    restore.set_defaults(run=_restore)

    verify = commands.add_parser(
        "verify",
        help="is a set of images whole, and as it was written",
        allow_abbrev=False,
        formatter_class=Help,
        description="Compare every file with its digest in the manifest, and see that all the images promise is there.",
    )
    verify.add_argument("images_dir", metavar="DIR", help="the image directory")
    verify.add_argument("--ns-id", type=number, metavar="N", help="only this set of the directory")
    _add_progress(verify)
    verify.set_defaults(run=_verify)

    diff = commands.add_parser(
        "diff",
        help="compare two sets of images, or one and a living namespace",
        allow_abbrev=False,
        formatter_class=Help,
        description="Say what differs between A and B, each an image directory, ns:PID or ns:PATH. "
        "Status 0 if nothing does, 1 if something does, 2 if that could not be found out.",
    )
    for name in ("a", "b"):
        diff.add_argument(name, metavar=name.upper(), help="an image directory, or ns:PID or ns:PATH for a namespace")
    diff.add_argument("--ns-id", type=number, metavar="N", help="the set of the image directories")
    _add_selection(diff, "compare")
    _add_frozen(diff)
    diff.add_argument("--facts", action="store_true", help="compare times and process ids as well")
    diff.add_argument("--json", action="store_true", help="print the differences as one JSON object")
    diff.set_defaults(run=_diff, trouble=WRONG)  # as diff(1) has it: 1 is for differences

    encode = commands.add_parser(
        "encode",
        help="make an image from JSON",
        allow_abbrev=False,
        formatter_class=Help,
        description="Write an image from what `ipcimg-show --json` or `crit decode` has printed of one.",
    )
    encode.add_argument("json", metavar="JSON", help="the file with the JSON; - for standard input")
    encode.add_argument("image", metavar="IMAGE", help="the image to write; - for standard output")
    encode.add_argument("--force", action="store_true", help="replace IMAGE where it is there already")
    encode.set_defaults(run=_encode)

    recover = commands.add_parser(
        "recover",
        help="undo a restore that was killed; complete or remove what a killed dump left",
        allow_abbrev=False,
        formatter_class=Help,
        description="Undo a restore into a namespace whose process was killed; have the messages of a queue that a "
        "killed dump was turning in their order again. With -D, look at an image directory instead, unless a namespace "
        "is named as well: a set that a killed dump had written whole is put in its place, anything less is removed.",
    )
    _add_namespace(recover, "namespace to recover")
    recover.add_argument("-D", "--images-dir", metavar="DIR", help="the image directory to recover")
    recover.set_defaults(run=_recover)

    check = commands.add_parser(
        "check",
        help="can this kernel, with these rights, do it",
        allow_abbrev=False,
        formatter_class=Help,
        description="Try each feature on a throwaway namespace; status 0 if all that were asked for work.",
    )
    check.add_argument("--feature", metavar="NAME", action="append", help="only this one (may be repeated)")
    check.set_defaults(run=_check)
    return parser


def _add_namespace(parser: argparse.ArgumentParser, what: str) -> argparse._MutuallyExclusiveGroup:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-t", "--tree", type=number, metavar="PID", help=f"the {what}: that of this process")
    group.add_argument(
        "--ipc-ns", metavar="PATH", help=f"the {what}: the one this file stands for (default: the caller's own)"
    )
    return group


def _add_directory(parser: argparse.ArgumentParser, among: argparse._MutuallyExclusiveGroup | None = None) -> None:
    """The image directory: required, or one of several ways to name it."""
    directory = parser if among is None else among
    directory.add_argument("-D", "--images-dir", metavar="DIR", required=among is None, help="the image directory")
    parser.add_argument("--ns-id", type=number, metavar="N", help="the number of the set: ipcns-*-N.img")


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-progress",
        action="store_true",
        help="show no progress (default: on a terminal, from the first second on)",
    )


def _add_frozen(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--freeze", action="store_true", help="stop all processes of the namespace while it is read")
    group.add_argument(
        "--frozen-by-caller",
        action="store_true",
        help="I have stopped all users of the namespace: do not wait to see that nothing moves",
    )


def _add_selection(parser: argparse.ArgumentParser, what: str) -> None:
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


def _selection(options: argparse.Namespace) -> Selection:
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


def _progress(options: argparse.Namespace, what: str) -> contextlib.AbstractContextManager[Progress]:
    return shown(what, wanted=not options.no_progress)


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

    selection = _selection(options)
    if options.criu_set is not None:
        if not selection.everything:
            parser.error("--criu-set replaces all that CRIU has dumped: it takes no part of a namespace")
        if options.criu_exact:
            parser.error("--criu-set is for any version of CRIU; what --criu-exact writes is for 4.2 and later")
        if options.allow_inconsistent:
            parser.error("--criu-set is for processes that are stopped: CRIU would not see --allow-inconsistent")
        if options.tree is None and options.ipc_ns is None:
            parser.error(
                "--criu-set needs -t PID or --ipc-ns PATH: the caller's own namespace is hardly that of the dump"
            )
    directory = options.images_dir if options.criu_set is None else options.criu_set
    with _namespace(options) as source, _progress(options, "dumping") as progress:
        source.enter()  # for good: not everybody who may go there may come back
        dumped = dump(
            directory,
            source,
            ns_id=options.ns_id,
            only=selection,
            force=options.force,
            criu_exact=options.criu_exact,
            digest_algorithm=options.digest,
            freeze=options.freeze,
            frozen=options.frozen_by_caller,
            allow_inconsistent=options.allow_inconsistent,
            peek_only=options.peek_only,
            criu_set=options.criu_set is not None,
            progress=progress,
        )
    moved = dumped.consistency.moved
    for what in moved[:_MOVED_AT_MOST]:
        say(parser, f"Warning: not of one moment: {what}")
    if moved[_MOVED_AT_MOST:]:
        say(parser, f"Warning: not of one moment: {len(moved) - _MOVED_AT_MOST} more, which ipcimg-show lists")
    report(parser, f"dumped {_counts(dumped.counts)} into {directory}")
    return DONE


def _restore(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import interrupts, namespace
    from .restore import restore

    command: list[str] = options.run_command
    if command[:1] == ["--"]:  # Python 3.13 leaves it out
        command = command[1:]
    if not options.new_ns and (options.pin is not None or command):
        parser.error("--pin and COMMAND go with --new-ns")
    if options.new_ns and options.pin is None and not command:
        parser.error("--new-ns needs --pin PATH or a COMMAND, else the new namespace would be gone at once")
    if options.pidfile is not None and not options.hold:
        parser.error("--pidfile goes with --hold")
    if options.pin is not None and os.path.lexists(options.pin):
        raise IpcimgError(f"pinning the namespace: {options.pin}: {os.strerror(errno.EEXIST)}")
    with contextlib.ExitStack() as stack:
        pidfile = None if options.pidfile is None else stack.enter_context(open(options.pidfile, "wb", 0))
        target = stack.enter_context(namespace.new() if options.new_ns else _namespace(options))
        target.enter()
        stack.enter_context(interrupts.handled())
        with _progress(options, "restoring") as progress:
            restored = restore(
                options.images_dir,
                target,
                ns_id=options.ns_id,
                only=_selection(options),
                variables=options.vars,
                into_free_ids=options.into_free_ids,
                hold=options.hold,
                strict=options.strict,
                creator_stays=bool(command),
                reachable=not options.new_ns or options.pin is not None,
                report_holder=None if pidfile is None else functools.partial(_write_pid, pidfile),
                progress=progress,
            )
        try:
            if not options.new_ns:
                interrupts.finished()
            for warning in restored.warnings:
                say(parser, f"Warning: {warning}")
            for line in restored.facts_lost if options.verbose else ():
                say(parser, f"Not restored, since nobody can: {line}")
            if options.pin is not None:
                target.pin(options.pin)
            report(parser, *_restored(restored, options.images_dir, options.json))
            if command:
                _become(command, options.pin)
        except BaseException:
            if options.new_ns and restored.holder is not None:  # nobody can get at what it holds
                os.kill(restored.holder, signal.SIGTERM)
                if pidfile is not None:
                    pidfile.truncate(0)
            raise
        return DONE


def _write_pid(pidfile: io.FileIO, pid: int) -> None:
    try:
        pidfile.write(b"%d\n" % pid)
    except OSError as error:
        raise IpcimgError(f"writing {os.fsdecode(pidfile.name)}: {explain(error)}") from error


def _become(command: list[str], pin: str | None) -> None:
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        # In this very process: it is the creator of the segments, and keeps them alive.
        os.execvp(command[0], command)
    except OSError as error:
        if pin is not None:
            from .namespace import IpcNamespace

            IpcNamespace.unpin(pin)
        raise IpcimgError(f"running {command[0]}: {error.strerror}") from error


def _restored(restored: Restored, directory: str, as_json: bool) -> list[str]:
    if as_json:
        new_ids: dict[str, dict[int, int]] = {kind: {} for kind in NAMES}
        for (kind, old), new in restored.new_ids.items():
            new_ids[kind][old] = new
        return [_json(dataclasses.asdict(restored) | {"new_ids": new_ids})]
    lines = [f"restored {_counts(restored.counts)} from {directory}"]
    lines += [f"{NAMES[kind]} {old} is now {new}" for (kind, old), new in restored.new_ids.items()]
    if restored.holder is not None:
        lines.append(f"process {restored.holder} keeps segments attached: {' '.join(map(str, restored.held))}")
    return lines


def _verify(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import imageset
    from .directory import ImageDirectory

    directory, status = ImageDirectory(options.images_dir), DONE
    for ns_id in directory.chosen_sets(options.ns_id):
        try:
            images = imageset.ImageSet(directory, ns_id)
            with _progress(options, "verifying") as progress:
                counts = images.check(progress)
        except IpcimgError as error:
            say(parser, f"Error: {error}")
            status = FAILED
            continue
        how = (
            "no manifest: nothing is missing that its images promise"
            if images.manifest is None
            else f"whole, and as it was written ({images.manifest.digest_algorithm})"
        )
        if images.moved:
            how += "; NOT of one moment: ipcimg-show lists what moved while it was dumped"
        report(parser, f"set {images.ns_id}: {_counts(counts)}: {how}")
    return status


def _recover(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import directory
    from .recover import recover

    if options.images_dir is not None:
        settled = directory.recover(directory.ImageDirectory(options.images_dir))
        for ns_id, complete in settled.items():
            what = (
                "is complete now" if complete else "an unfinished dump was removed; a set from before stays as it was"
            )
            report(parser, f"image directory {options.images_dir}: set {ns_id}: {what}")
        if not settled:
            report(parser, f"image directory {options.images_dir}: nothing to recover")
        if options.tree is None and options.ipc_ns is None:
            return DONE
    with _namespace(options) as target:
        target.enter()
        found = recover(target)
        if found is None:
            report(parser, f"{target.described}: nothing to recover")
        else:
            if found.restore is not None:
                report(parser, f"{target.described}: undone, {found.removed} objects removed: {found.restore}")
            if found.turned is not None:
                report(parser, f"{target.described}: {found.turned}")
            for cgroup in found.thawed:
                report(parser, f"{target.described}: thawed the cgroup {cgroup}, which a killed dump had left frozen")
    return DONE


def _diff(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import diff, interrupts

    selection = _selection(options)
    with interrupts.handled(), contextlib.ExitStack() as stack:
        # Both are opened before one is entered: /proc/self/ns/ipc means another namespace then.
        sides = [_opened(name, stack) for name in (options.a, options.b)]
        (a, a_meant), (b, b_meant) = (_summary(side, selection, options) for side in sides)
    variables = selection.variables and a_meant and b_meant
    found = (one for one in diff.compare(a, b, facts=options.facts) if variables or one.kind != "var")
    status = DONE
    with nobody_has_to_read():  # what was found stays found
        if options.json:
            differences = [dataclasses.asdict(one) for one in found]
            status = FAILED if differences else DONE
            print(_json({"a": options.a, "b": options.b, "same": not differences, "differences": differences}))
        else:
            for one in found:
                status = FAILED
                print(printable(one.words(options.a, options.b)))
        sys.stdout.flush()
    return status


def _opened(name: str, stack: contextlib.ExitStack) -> IpcNamespace | str:
    """The namespace that ns:PID or ns:PATH names, held open; an image directory as it is."""
    if not name.startswith("ns:"):
        return name
    from . import namespace

    which = name.removeprefix("ns:")
    try:
        return stack.enter_context(namespace.of_process(number(which)))
    except argparse.ArgumentTypeError:
        return stack.enter_context(namespace.at_path(which))


def _summary(side: IpcNamespace | str, selection: Selection, options: argparse.Namespace) -> tuple[Summary, bool]:
    """What is to be compared, and whether the settings are part of it."""
    from . import diff

    if not isinstance(side, str):
        from .dump import living

        side.enter()
        with living(side, only=selection, freeze=options.freeze, frozen=options.frozen_by_caller) as found:
            summary = diff.summarize(found.contents, _GRANULE)
        return summary, True
    from . import imageset

    images = imageset.open_set(side, options.ns_id)
    images.check()
    selection.expect((kind, one.permissions.id, one.permissions.key) for kind, one in images.contents.objects())
    return diff.summarize(selection.of(images.contents), _GRANULE), images.variables_meant


def _encode(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from . import encode, interrupts

    with interrupts.handled():
        document = encode.read(options.json)
        if options.image == "-":
            encode.write_to(sys.stdout.fileno(), document)
            return DONE
        encode.write(options.image, document, force=options.force)
        interrupts.finished()
    entries = len(document.entries)
    what = "1 entry" if entries == 1 else f"{entries} entries"
    report(parser, f"encoded {what} of {document.kind} into {options.image}")
    return DONE


def _json(value: object) -> str:
    import json

    return json.dumps(value)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .check import FEATURES, check

    names = options.feature or list(FEATURES)
    for name in names:
        if name not in FEATURES:
            parser.error(f"there is no feature {name}; there are {', '.join(FEATURES)}")
    results = [check(name) for name in names]
    for result in results:
        report(parser, f"{result.feature:<{max(map(len, FEATURES))}}  {result.verdict}")
    if all(result.supported for result in results):
        report(parser, "Looks good.")
        return DONE
    return FAILED
