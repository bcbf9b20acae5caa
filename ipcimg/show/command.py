"""The command ipcimg-show: arguments → what is to be shown of what → exit status.

Exit status as that of lsipc(1): 0 all was shown, 1 the arguments were wrong, or what they ask for is not there, 2
something could not be read, or is not as it was written. All that can be read is shown in any case.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from .. import __version__
from ..commandline import DONE, Help, nobody_has_to_read, number, run, say
from ..describe import printable
from ..model import NAMES
from . import columns, message, save, source, table
from .answer import Answer
from .columns import FOUND, KINDS, LIMITS, MESSAGES
from .problems import Problems
from .request import Request, Wanted
from .subject import Subject
from .view import TIME_FORMATS, View

WRONG, TROUBLE = 1, 2

_EPILOG = """\
questions, and what answers them:
  What is in it? Which queue is fullest, and why?
      ipcimg-show DIR                       and -i msg:7 for all about one queue
  Is there a message that contains hello, and which?
      ipcimg-show --grep hello DIR          with -q --text: the whole messages
  How much of this segment is really used, and where?
      ipcimg-show -i shm:3 DIR
  What are the bytes of this message?
      ipcimg-show -i msg:7 --message 0 --save FILE DIR
  Which queues are the fullest?
      ipcimg-show -q --sort USE% DIR
  What was in this container? Of podman, CRI-O or containerd:
      ipcimg-show checkpoint.tar.zst

exit status:
  0 all was shown; 1 the arguments are wrong, or nothing fits them;
  2 something could not be read, or is not as it was written
"""


class Parser(argparse.ArgumentParser):
    """argparse with the exit status of lsipc(1)."""

    def error(self, text: str) -> NoReturn:
        """Say what is wrong with the arguments, in one line, and end."""
        self.exit(WRONG, f"{self.prog}: error: {printable(text)}; --help lists what there is\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ipcimg-show."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    end = given.index("--") if "--" in given else len(given)
    # argparse cannot have an option with a value that may be left out and is never the next argument.
    return run(make_parser(), ["--json-lines" if a == "--json=lines" else a for a in given[:end]] + given[end:])


def make_parser() -> argparse.ArgumentParser:
    """Its arguments."""
    parser = Parser(
        prog="ipcimg-show",
        allow_abbrev=False,
        formatter_class=_Raw,
        description="Show what images of a System V IPC namespace hold, ipcimg's or CRIU's. Needs no root.",
        epilog=_EPILOG,
        add_help=False,
    )
    parser.add_argument(
        "paths",
        nargs="*",
        default=["."],
        metavar="SOURCE",
        help="an image, an image directory, a checkpoint archive (tar, tar.gz, tar.zst), or - for standard input "
        "(default: the current directory)",
    )
    parser.add_argument("--ns-id", type=number, metavar="N", help="only set N, where there are several")
    _add_what(parser.add_argument_group("what to show (default: a summary)"))
    _add_messages(
        parser.add_argument_group("messages of all queues, or of those of --id (those that fit all that is given)")
    )
    _add_contents(parser.add_argument_group("contents of messages and segments (choose them by --id, or as above)"))
    _add_how(parser.add_argument_group("how it looks, as with lsipc(1)"))
    _add_programs(parser.add_argument_group("for programs, and as a page"))
    parser.set_defaults(run=_show, trouble=TROUBLE)
    return parser


class _Raw(Help, argparse.RawDescriptionHelpFormatter):
    pass


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-m", "--shmems", action="append_const", dest="kinds", const="shm", help="table of shared memory segments"
    )
    group.add_argument(
        "-q", "--queues", action="append_const", dest="kinds", const="msg", help="table of message queues"
    )
    group.add_argument(
        "-s", "--semaphores", action="append_const", dest="kinds", const="sem", help="table of semaphore sets"
    )
    group.add_argument(
        "-g",
        "--global",
        action="append_const",
        dest="kinds",
        const="var",
        help="table of settings, and how much is used",
    )
    group.add_argument(
        "-i",
        "--id",
        type=_object,
        action="append",
        default=[],
        metavar="OBJECT",
        help="all about this object: msg:7, shm:3, sem:1, a key (0x…), or an id; may be repeated",
    )
    group.add_argument("--verify", action="store_true", help="also see whether every file is as it was written")


def _add_messages(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--messages", action="store_true", help="all of them")
    group.add_argument("--message", type=_ranges, metavar="N", help="at this place of a queue: 0 for the first, 0-9")
    group.add_argument("--type", type=_ranges, metavar="TYPE", help="of this type: 7, 1-5, 100-, or a list: 7,9")
    group.add_argument("--size", type=_ranges, metavar="BYTES", help="of so many bytes: 0, 1-99, 8192-")
    pattern = group.add_mutually_exclusive_group()
    pattern.add_argument("--grep", type=_pattern, metavar="REGEX", help="with this in it; also where in segments it is")
    pattern.add_argument(
        "--grep-hex", type=_bytes, dest="grep", metavar="HEX", help="the same, given as bytes: de:ad:be:ef or deadbeef"
    )
    group.add_argument("--limit", type=number, metavar="COUNT", help="at most so many rows, or contents")


def _add_contents(group: argparse._ArgumentGroup) -> None:
    how = group.add_mutually_exclusive_group()
    how.add_argument("--hex", action="store_const", dest="payload", const="hex", help="as a hex dump")
    how.add_argument(
        "--text", action="store_const", dest="payload", const="text", help="as text, which only messages are taken for"
    )
    how.add_argument(
        "--strings",
        action="store_const",
        dest="payload",
        const="strings",
        help="the runs of printable characters in them",
    )
    group.add_argument(
        "--least",
        type=number,
        default=4,
        metavar="COUNT",
        help="runs of so many characters at least (default: %(default)s)",
    )
    group.add_argument(
        "--range", type=_range, metavar="FROM-TO", help="only these bytes of each: 0x1000-0x2000, 4096+512, 4096-"
    )
    group.add_argument(
        "--save", metavar="FILE", help="the bytes of one message or segment, into a new file with the same holes"
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output", type=_columns, metavar="COLUMN,…", help="these columns; +COLUMN,… adds some")
    group.add_argument("--columns", action="store_true", help="list all columns and what they are")
    group.add_argument("--sort", metavar="COLUMN", help="largest first; COLUMN:asc: smallest first")
    formats = group.add_mutually_exclusive_group()
    for short, long, what in (
        ("-e", "--export", 'NAME="value" pairs, a line for each object'),
        ("-n", "--newline", "the same, a line for each value"),
        ("-J", "--json-tables", "tables as JSON, in the shape of lsipc"),
    ):
        formats.add_argument(short, long, action="store_const", dest="format", const=_FORMAT_OF[short], help=what)
    group.add_argument(
        "-r",
        "--raw",
        action="store_true",
        help="no alignment; with --id the bytes of one message or segment, to standard output",
    )
    group.add_argument("-l", "--list", action="store_true", help="with --id: a table")
    group.add_argument("--noheadings", action="store_true", help="no headings")
    group.add_argument("--notruncate", action="store_true", help="long values whole")
    group.add_argument("-b", "--bytes", action="store_true", help="sizes in bytes")
    group.add_argument("-c", "--creator", action="store_true", help="also CUID, CGID, UID, GID")
    group.add_argument("-t", "--time", action="store_true", help="also times, in UTC")
    group.add_argument("-p", "--pid", action="store_true", help="also who last operated on each semaphore")
    group.add_argument("-P", "--numeric-perms", action="store_true", help="permissions as a number")
    group.add_argument(
        "--time-format", choices=TIME_FORMATS, default="iso", help="how times are written (default: iso)"
    )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colours (default: on a terminal, unless NO_COLOR is set)",
    )
    group.add_argument("-h", "--help", action="help", help="show this help")
    group.add_argument("-V", "--version", action="version", version=f"ipcimg {__version__}")


_FORMAT_OF = {"-e": "export", "-n": "newline", "-J": "json"}


def _add_programs(group: argparse._ArgumentGroup) -> None:
    among = group.add_mutually_exclusive_group()
    among.add_argument("--json", action="store_true", help="each image as `crit decode` has it, one a line")
    among.add_argument(
        "--json-lines", "--json=lines", action="store_true", help="each object and each message as JSON, one a line"
    )
    among.add_argument(
        "--html",
        metavar="REPORT",
        help="a page about all of it, with pictures, into a new file (- for standard output)",
    )


# ---- arguments ------------------------------------------------------------------------------


def _object(text: str) -> Wanted:
    kind, colon, name = text.rpartition(":")
    is_key = name.lower().startswith("0x")
    if (colon and kind not in NAMES) or not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", name):
        raise argparse.ArgumentTypeError(f"{text!r} is no object: msg:7, shm:3, sem:1, a key (0x…), or an id")
    return Wanted(kind or None, int(name, 16 if is_key else 10), is_key)


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, OverflowError, RecursionError, re.error) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _compiled(text: str) -> re.Pattern[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the next version of Python takes for something else
        return re.compile(os.fsencode(text), re.DOTALL)


def _of_hex(text: str) -> re.Pattern[bytes]:
    return re.compile(re.escape(bytes.fromhex(text.replace(":", " "))))


_ranges, _pattern, _bytes = _checked(message.ranges), _checked(_compiled), _checked(_of_hex)


def _parsed_range(text: str) -> tuple[int, int | None]:
    from .contents import parse_range

    return parse_range(text)


_range = _checked(_parsed_range)


def _expect_columns(parser: argparse.ArgumentParser, request: Request) -> None:
    """End where a column is asked for that none of the tables has."""
    kinds = [LIMITS if kind == "var" else KINDS[kind] for kind in request.kinds or KINDS]
    if request.lists_messages or request.contents:
        kinds = [MESSAGES, FOUND]
    names = {name for kind in kinds for name in kind.columns}
    sort = request.layout.sort
    for option, wanted in (("-o/--output", request.layout.columns), ("--sort", sort[:1] if sort else ())):
        for name in wanted:
            if name not in names:
                parser.error(f"argument {option}: there is no column {name} in this table; --columns lists all")


def _columns(text: str) -> tuple[bool, tuple[str, ...]]:
    """Are they to be added; their names."""
    names = tuple(name.upper() for name in text.removeprefix("+").split(","))
    known = {name for kind in columns.ALL for name in kind.columns}
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no column {name}; --columns lists all")
    return text.startswith("+"), names


def _sort(parser: argparse.ArgumentParser, text: str | None) -> tuple[str, bool] | None:
    if text is None:
        return None
    name, _, order = text.upper().partition(":")
    if order not in ("", "ASC", "DESC") or all(name not in kind.columns for kind in columns.ALL):
        parser.error(f"argument --sort: {text!r} is no column; --columns lists all")
    return name, order != "ASC"


# ---- showing --------------------------------------------------------------------------------


def _view(options: argparse.Namespace) -> View:
    wanted = options.color == "always" or (
        options.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    )
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    try:
        width = os.get_terminal_size(1).columns
    except OSError:  # no terminal
        width = 80
    return View(
        in_bytes=options.bytes,
        numeric_perms=options.numeric_perms,
        time_format=options.time_format,
        truncate=not options.notruncate,
        color=wanted,
        unicode=encoding.startswith("utf"),
        width=max(width, 40),
    )


def _layout(parser: argparse.ArgumentParser, options: argparse.Namespace) -> table.Layout:
    add, names = options.output or (True, ())
    return table.Layout(
        format=options.format or ("raw" if options.raw else "list"),
        headings=not options.noheadings,
        columns=() if add else names,
        more=(*(names if add else ()), *(columns.CREATOR if options.creator else ())),
        times=options.time,
        pids=options.pid,
        sort=_sort(parser, options.sort),
        at_most=options.limit,
        forced=options.list or options.output is not None,
    )


def _expect_a_view(parser: argparse.ArgumentParser, options: argparse.Namespace, payload: str | None) -> None:
    """End where options do not go together: none is to be without effect, and nobody to know."""
    formats = options.format or options.raw
    chooses = options.messages or payload or options.range is not None or _filter(options) != message.Filter()
    if options.json and (chooses or formats or options.id or options.kinds):
        parser.error("--json gives each image whole; --json=lines takes choices")
    if options.html is not None and (chooses or formats):
        parser.error("--html takes no messages, contents and formats; a page has all of them")
    if options.json_lines and (payload is not None or options.range is not None or formats):
        parser.error("--json=lines has no other format, and no contents but whole messages")
    if options.format and payload in ("hex", "text", "raw"):
        parser.error(f"contents as {payload} have no other format")
    if options.limit == 0:
        parser.error("argument --limit: at least 1")


def _filter(options: argparse.Namespace) -> message.Filter:
    return message.Filter(options.message, options.type, options.size, options.grep)


def _request(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Request:
    payload = options.payload
    one = options.id or options.range is not None or options.message is not None
    if options.save is not None or (options.raw and one and not options.list):
        if payload is not None:
            parser.error(f"bytes as they are, and --{payload}, exclude each other")
        payload = "raw"
    _expect_a_view(parser, options, payload)
    return Request(
        view=_view(options),
        layout=_layout(parser, options),
        kinds=tuple(dict.fromkeys(options.kinds or ())),
        objects=tuple(options.id),
        verify=options.verify,
        messages=options.messages,
        filter=_filter(options),
        limit=options.limit,
        contents=payload,
        least=max(options.least, 1),
        range=options.range,
        json="crit" if options.json else "lines" if options.json_lines else None,
    )


def _show(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.columns:
        with nobody_has_to_read():
            sys.stdout.writelines(f"{line}\n" for line in columns.described())
            sys.stdout.flush()
        return DONE
    request = _request(parser, options)
    _expect_columns(parser, request)
    answer = Answer(request)

    def complain(error: object) -> None:
        sys.stdout.flush()
        say(parser, f"Error: {error}")

    problems = Problems(complain)
    was_read = False
    with nobody_has_to_read():
        subjects = _subjects(options.paths, options.ns_id, problems)
        if options.html is not None:
            from . import report

            report.write(options.html, subjects, answer)
        elif request.contents == "raw":
            save.one(answer, subjects, options.save)
        else:
            for subject in _printed(answer, subjects, len(options.paths) > 1):
                say(parser, f"{subject.title}: every file is as it was written")
        sys.stdout.flush()
        was_read = True
    if problems.count:
        return TROUBLE
    if was_read and answer.lacks:
        complain(answer.lacks)
        return WRONG
    return DONE


def _subjects(paths: Sequence[str], ns_id: int | None, problems: Problems) -> Iterator[Subject]:
    for path in paths:
        yield from problems.within(source.subjects(path, ns_id, problems))


def _printed(answer: Answer, subjects: Iterable[Subject], several: bool) -> Iterator[Subject]:
    """Show one subject after the other, each under its name where there are several.

    Gives those that were seen to be as they were written, where what is shown does not say so.
    """
    request = answer.request
    for n, subject in enumerate(subjects):
        verified = subject.is_as_written() if request.verify else None
        pieces = subject.problems.within(answer.pieces(subject, verified))
        if request.is_for_people:
            says_its_name = request.is_summary and (subject.is_set or bool(subject.others))
            name = f"{subject.title}:\n" if (several or n) and not says_its_name else ""
            pieces = itertools.chain(["\n" if n else "", name], pieces)
        sys.stdout.writelines(pieces)
        if verified and not request.is_summary:
            sys.stdout.flush()
            yield subject
