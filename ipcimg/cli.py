"""The command ipcimg: arguments → one call → exit status.

Exit status: 0 done, 1 failed (one line on standard error says at what), 2 the arguments were wrong.
After `restore … -- COMMAND` it is COMMAND's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commandline import Help, run
from .commands import check, diff, dump, encode, hook, pod, recover, restore, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ipcimg."""
    return run(make_parser(), arguments)


def hook_main() -> int:
    """The command ipcimg-hook, for criu, which gives an action script no arguments: as `ipcimg hook`."""
    return main(["hook", *sys.argv[1:]])


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
    for command in (dump, restore, pod, verify, diff, encode, recover, check, hook):
        command.add(commands)
    return parser
