"""ipcimg check."""

from __future__ import annotations

import argparse

from ..commandline import DONE, FAILED, report
from .arguments import Commands, new


def add(commands: Commands) -> None:
    """Its arguments."""
    check = new(
        commands,
        "check",
        what="can this kernel, with these rights, do it",
        description="Try each feature on a throwaway namespace; status 0 if all that were asked for work.",
    )
    check.add_argument("--feature", metavar="NAME", action="append", help="only this one (may be repeated)")
    check.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from ..check import FEATURES, check

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
