"""What all commands have in common: help, exit status, and the only place that prints errors.

A command sets `run` on its parser, which takes the parser and the options and gives the exit status, `parser`, that
parser, and `trouble` where the status of a failure is another one than FAILED.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from .describe import printable
from .errors import ConflictError, IpcimgError, explain
from .interrupts import Interrupted, TimedOut

DONE, FAILED, WRONG = 0, 1, 2

_LINES_AT_MOST = 20  # of one error


class Help(argparse.HelpFormatter):
    """As wide as the terminal. argparse asks shutil for that whenever an option is added, and it is long in coming."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(1).columns
        except (OSError, ValueError):  # no terminal, or no number
            columns = 0
        super().__init__(prog, width=(columns or 80) - 2)


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    # A caller may have closed them; these live as long as the process.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is escaped
            with contextlib.suppress(OSError):  # a file that cannot even tell its position
                stream.reconfigure(errors="backslashreplace")
    trouble = FAILED
    try:
        try:
            options = parser.parse_args(arguments)
        except SystemExit:  # --help and the like have printed something
            with nobody_has_to_read():
                sys.stdout.flush()
            raise
        trouble = getattr(options, "trouble", FAILED)
        status: int = options.run(getattr(options, "parser", parser), options)
        with nobody_has_to_read():
            sys.stdout.flush()
        return status
    except (IpcimgError, MemoryError) as error:
        _say_errors(parser, error)
        return trouble
    except OSError as error:
        _say_errors(parser, error)
        try:
            sys.stdout.flush()
        except OSError:  # so it was that; Python would try again, and end with a status of its own
            forget_stdout()
        return trouble
    except Interrupted as error:
        _say_errors(parser, error)
        return trouble if isinstance(error, TimedOut) else 128 + error.signum
    except KeyboardInterrupt as error:
        _say_errors(parser, error)
        return 128 + signal.SIGINT


def errors_of(error: BaseException) -> list[str]:
    """What is said of an error, one line or several."""
    if isinstance(error, ConflictError):
        return list(error.conflicts)
    if isinstance(error, OSError):
        return [explain(error)]
    unsaid = {MemoryError: "out of memory", KeyboardInterrupt: "interrupted"}
    return [str(error) or unsaid.get(type(error), type(error).__name__)]


def _say_errors(parser: argparse.ArgumentParser, error: BaseException) -> None:
    lines = errors_of(error)
    for line in lines[:_LINES_AT_MOST]:
        say(parser, f"Error: {line}")
    if more := lines[_LINES_AT_MOST:]:
        say(parser, f"Error: and {len(more)} more; --report and -o have all")


@contextlib.contextmanager
def nobody_has_to_read() -> Iterator[None]:
    """`… | head`: that nobody reads on is no error of what is printed inside the with block, and ends it."""
    try:
        yield
    except BrokenPipeError:
        forget_stdout()  # nothing may be flushed at exit either


def forget_stdout() -> None:
    """Have nothing come of what is printed from now on, nor of what waits to be."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Print that the work is done. It stays done if nobody can read that."""
    try:
        print(*map(printable, lines), sep="\n", flush=True)
    except OSError as error:
        forget_stdout()
        if not isinstance(error, BrokenPipeError):
            say(parser, f"Warning: {'; '.join(lines)}, but standard output: {explain(error)}")


def say(parser: argparse.ArgumentParser, text: str) -> None:
    """Print a line to standard error. That nobody can read it changes nothing else."""
    try:
        program, _, _ = parser.prog.partition(" ")  # that of a command has its name as well
        print(f"{program}: {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def as_json(value: object) -> str:
    """One line of JSON, of dictionaries, lists, tuples, texts and numbers; a name that is no text has escapes in it."""
    import json  # few are asked for it

    return json.dumps(_in_unicode(value))


def _in_unicode(value: object) -> object:
    # What stands for a byte of a name that is no UTF-8 would make an escape that JSON does not allow.
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_in_unicode(name): _in_unicode(one) for name, one in value.items()}
    return list(map(_in_unicode, value)) if isinstance(value, list | tuple) else value


def number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {(1 << 32) - 1}")
    return int(text)
