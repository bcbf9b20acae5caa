"""The command ipcimg-show: arguments → what is to be shown of what → exit status.

Exit status as that of lsipc(1): 0 all was shown, 1 the arguments were wrong, or what they ask for is not there, 2
something could not be read, or is not as it was written. All that can be read is shown in any case.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from ..commandline import DONE, nobody_has_to_read, run, say
from . import arguments, columns, message, save, source, table
from .answer import Answer
from .arguments import WRONG
from .columns import FOUND, KINDS, LIMITS, MESSAGES
from .problems import Problems
from .request import Request
from .subject import Subject
from .view import View

TROUBLE = 2  # exit status; that of wrong arguments is 1


def main(given: Sequence[str] | None = None) -> int:
    """The command ipcimg-show."""
    given = sys.argv[1:] if given is None else list(given)
    end = given.index("--") if "--" in given else len(given)
    # argparse cannot have an option with a value that may be left out and is never the next argument.
    return run(make_parser(), ["--json-lines" if a == "--json=lines" else a for a in given[:end]] + given[end:])


def make_parser() -> argparse.ArgumentParser:
    """Its arguments."""
    parser = arguments.make_parser()
    parser.set_defaults(run=_show, trouble=TROUBLE)
    return parser


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
