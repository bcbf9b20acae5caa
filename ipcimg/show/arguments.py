"""The arguments of ipcimg-show: which there are, and what single ones stand for."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from .. import __version__
from ..commandline import Help, number
from ..describe import printable
from ..model import NAMES
from . import columns, message
from .request import Wanted
from .view import TIME_FORMATS

WRONG = 1  # exit status where the arguments are wrong, as that of lsipc(1)

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


def _columns(text: str) -> tuple[bool, tuple[str, ...]]:
    """Are they to be added; their names."""
    names = tuple(name.upper() for name in text.removeprefix("+").split(","))
    known = {name for kind in columns.ALL for name in kind.columns}
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no column {name}; --columns lists all")
    return text.startswith("+"), names
