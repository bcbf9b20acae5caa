#!/usr/bin/env python3
"""Generate completions/ from the parsers of both commands: what bash, zsh and fish offer behind ipcimg and ipcimg-show.

The result is committed, so that installing ipcimg needs no shtab. A test regenerates and compares. What the parsers do
not say of their arguments, which ones are files, is said here by the names that --help has for them.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterable

import shtab

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ipcimg import check, cli, selection  # noqa: E402
from ipcimg.show import columns, command  # noqa: E402

NAMES = {"bash": "{}.bash", "zsh": "_{}", "fish": "{}.fish"}  # of the files, as the shells look for them

FILES = {"FILE", "IMAGE", "JSON", "PATH", "REPORT", "SOURCE"}
DIRECTORIES = {"A", "B", "DIR"}
COLUMNS = list(dict.fromkeys(name for kind in columns.ALL for name in kind.columns))
WORDS = {"COLUMN": COLUMNS, "NAME": list(check.FEATURES)}
LISTS = {"COLUMN,…": COLUMNS, "KIND,…": list(selection.KINDS)}


def comma_list(name: str, words: Iterable[str]) -> shtab.CompleteType:
    """What completes the last of words with commas between them; name is that of a function to make of it in bash."""
    listed = " ".join(words)
    in_bash = f"""\
# $1: the list so far
{name}() {{
  local last="${{1##*[,+]}}"
  compgen -P "${{1%"$last"}}" -W "{listed}" -- "$last"
}}"""
    return {
        "bash": name,
        "zsh": f"{{_values -s , {name} {listed}}}",
        "fish": f"(__fish_complete_list , 'string split , {listed.replace(' ', ',')}')",
        "preamble": {"bash": in_bash},
    }


def tell(parser: argparse.ArgumentParser) -> None:
    """Tell shtab of the arguments of a parser, and of its commands, what they are."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                tell(one)
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in WORDS:
            action.choices = WORDS[str(action.metavar)]
        elif action.metavar in LISTS:
            name = f"_{shtab.wordify(parser.prog)}_{action.dest}"
            action.complete = comma_list(name, LISTS[str(action.metavar)])  # type: ignore[attr-defined]


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The file for a shell, one of NAMES."""
    text = shtab.complete(parser, shell)
    if shell == "zsh" and '"(*)::' in text:
        # What shtab writes for any number of arguments is one argument to zsh. Put right, it is not recognized by a
        # check that would add commands to the arguments, so that is off.
        text = text.replace('"(*)::', '"*:').replace("_defaults_added=0", "_defaults_added=1")
    return text.rstrip() + "\n"


def generate(target: pathlib.Path) -> None:
    """Write all files into the directory target, which is made if it is missing."""
    target.mkdir(exist_ok=True)
    for parser in (cli.make_parser(), command.make_parser()):
        tell(parser)
        for shell, name in NAMES.items():
            (target / name.format(parser.prog)).write_text(completion(parser, shell))


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "completions")
