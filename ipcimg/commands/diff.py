"""ipcimg diff."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING

from ..commandline import DONE, FAILED, WRONG, as_json, nobody_has_to_read, number
from ..describe import printable
from . import arguments
from .arguments import Commands, new

if TYPE_CHECKING:
    from ..diff import Summary
    from ..namespace import IpcNamespace
    from ..selection import Selection

_GRANULE = 4096  # bytes: how exactly differences of segments are told, whatever the size of a page


def add(commands: Commands) -> None:
    """Its arguments."""
    diff = new(
        commands,
        "diff",
        what="compare two sets of images, or one and a living namespace",
        description="Say what differs between A and B, each an image directory, its URL, or an archive, ns:PID or "
        "ns:PATH. Status 0 if nothing does, 1 if something does, 2 if that could not be found out.",
    )
    for name in ("a", "b"):
        diff.add_argument(
            name,
            metavar=name.upper(),
            help="an image directory or archive, - for one from standard input, or ns:PID or ns:PATH for a namespace",
        )
    diff.add_argument("--ns-id", type=number, metavar="N", help="the set of the image directories")
    arguments.add_selection(diff, "compare")
    arguments.add_frozen(diff)
    diff.add_argument("--facts", action="store_true", help="compare times and process ids as well")
    diff.add_argument("--json", action="store_true", help="print the differences as one JSON object")
    diff.set_defaults(run=_run, trouble=WRONG)  # as diff(1) has it: 1 is for differences


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import diff, interrupts, places

    if (options.a, options.b) == (places.STANDARD_INPUT, places.STANDARD_INPUT):
        parser.error("there is one standard input, which can be A or B")
    names = [places.described(name) for name in (options.a, options.b)]
    selection = arguments.selection(options)
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
            print(as_json({"a": names[0], "b": names[1], "same": not differences, "differences": differences}))
        else:
            for one in found:
                status = FAILED
                print(printable(one.words(*names)))
        sys.stdout.flush()
    return status


def _opened(name: str, stack: contextlib.ExitStack) -> IpcNamespace | str:
    """The namespace that ns:PID or ns:PATH names, held open; an image directory as it is."""
    if not name.startswith("ns:"):
        return name
    from .. import namespace

    which = name.removeprefix("ns:")
    try:
        return stack.enter_context(namespace.of_process(number(which)))
    except argparse.ArgumentTypeError:
        return stack.enter_context(namespace.at_path(which))


def _summary(side: IpcNamespace | str, selection: Selection, options: argparse.Namespace) -> tuple[Summary, bool]:
    """What is to be compared, and whether the settings are part of it."""
    from .. import diff

    if not isinstance(side, str):
        from ..dump import living

        side.enter()
        with living(side, only=selection, freeze=options.freeze, frozen=options.frozen_by_caller) as found:
            summary = diff.summarize(found.contents, _GRANULE)
        return summary, True
    from .. import imageset

    images = imageset.open_set(side, options.ns_id)
    images.check()
    selection.expect((kind, one.permissions.id, one.permissions.key) for kind, one in images.contents.objects())
    return diff.summarize(selection.of(images.contents), _GRANULE), images.variables_meant
