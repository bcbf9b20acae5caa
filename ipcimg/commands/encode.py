"""ipcimg encode."""

from __future__ import annotations

import argparse
import sys

from ..commandline import DONE, report
from .arguments import Commands, new


def add(commands: Commands) -> None:
    """Its arguments."""
    encode = new(
        commands,
        "encode",
        what="make an image from JSON",
        description="Write an image from what `ipcimg-show --json` or `crit decode` has printed of one.",
    )
    encode.add_argument("json", metavar="JSON", help="the file with the JSON; - for standard input")
    encode.add_argument("image", metavar="IMAGE", help="the image to write; - for standard output")
    encode.add_argument("--force", action="store_true", help="replace IMAGE where it is there already")
    encode.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import encode, interrupts

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
