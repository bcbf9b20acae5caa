"""The command line of tools/bench."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ipcimg import interrupts

from .bench import BrokenError, bench
from .plot import PICTURES, draw
from .rows import Row, measurements
from .table import as_json, memory_met, table, write

DONE, NOT_MET, BROKEN = 0, 1, 2
ROUNDS = 7  # of a table that is to be kept


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure ipcimg beside bare loops of the same system calls, in turn, and print a table of the "
        "medians. See docs/performance.md. The status is 1 where a target is not met, 2 where something was not done.",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=f"these alone: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"by default {ROUNDS}")
    parser.add_argument("--scale", type=float, default=1, metavar="F", help="do so much of the work, above 0 to 1")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument(
        "--plot",
        nargs="?",
        type=Path,
        const=PICTURES,
        metavar="DIR",
        help="draw how the time grows with the work, in place of a table, by default into docs/pictures",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command."""
    names = [one.name for one in measurements()]
    parser = _parser(names)
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 0 < options.scale <= 1:
        parser.error("--rounds is at least 1, and --scale above 0 and at most 1")
    if options.write and (options.rounds < ROUNDS or options.scale != 1 or options.rows or options.plot):
        parser.error(f"a table that is to be kept has all rows, in full, and at least {ROUNDS} rounds")
    if os.geteuid() != 0:
        parser.error("needs root, to make namespaces")
    try:
        with interrupts.handled(), bench() as here:
            if options.plot is not None:
                draw(here, options.plot, options.scale)
                return DONE
            chosen = [one for one in measurements(options.scale) if not options.rows or one.name in options.rows]
            rows: list[Row] = []
            for one in chosen:
                print(f"{one.name}: {one.work}", file=sys.stderr, flush=True)
                rows += one.measure(here, options.rounds)
    except BrokenError as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return BROKEN
    except interrupts.Interrupted as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 128 + error.signum
    print(as_json(rows) if options.json else table(rows))
    if options.write:
        write(rows)
    return _status(rows)


def _status(rows: Sequence[Row]) -> int:
    return NOT_MET if any(row.met is False for row in rows) or not memory_met(rows) else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
