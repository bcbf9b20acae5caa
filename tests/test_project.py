"""What surrounds the code: man pages, links, the wheel."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .commands import IPCIMG, SHOW, run
from .fidelity import ROWS

ROOT = Path(__file__).parent.parent
MAN_PAGES = sorted((ROOT / "docs" / "man").glob("*.1"))


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda page: page.name)
def test_man_page_is_sound(page: Path) -> None:
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def options_of(*command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", run(command, "--help").stdout))


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        (
            "ipcimg.1",
            [
                *(
                    [*IPCIMG, name]
                    for name in ("dump", "restore", "recover", "verify", "diff", "encode", "check", "hook")
                ),
                *([*IPCIMG, "pod", step] for step in ("dump", "restore", "detach")),
            ],
        ),
        ("ipcimg-show.1", [list(SHOW)]),
    ],
)
def test_man_page_names_every_option(page: str, commands: list[list[str]]) -> None:
    text = subprocess.run(
        ["mandoc", "-Tascii", ROOT / "docs" / "man" / page], capture_output=True, text=True, check=True
    ).stdout
    text = re.sub(r".\x08", "", text)  # bold and underlined
    options = set().union(*(options_of(*command) for command in commands)) - {"-h", "--help", "-n"}
    assert len(options) >= 6
    assert {option for option in options if option not in text} == set()


def test_links_between_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_table_of_fidelity_has_the_rows_that_are_tested() -> None:
    """The first table of the document: the same texts, in the same order, and no cell is empty."""
    [_, table, *_] = re.split(r"\n(?=\| what )", (ROOT / "docs" / "fidelity.md").read_text())
    head, _, *rows = [line.strip("|").split("|") for line in table.partition("\n\n")[0].splitlines()]
    assert [row[0].strip() for row in rows] == list(ROWS.values())
    assert all(len(row) == len(head) and all(map(str.strip, row)) for row in rows)


def test_wheel(tmp_path: Path) -> None:
    """A wheel has the commands, the man pages, the types and the generated code."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True
    )
    [wheel] = tmp_path.glob("ipcimg-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wanted = ("share/man/man1/ipcimg.1", "share/man/man1/ipcimg-show.1", "ipcimg/py.typed", "ipcimg/pb/criu_pb2.py")
    for one in wanted:
        assert any(name.endswith(one) for name in names), one
    assert not any("tests/" in name for name in names)


def test_installation(tmp_path: Path) -> None:
    """What the README says, into other directories, and without the extra, of which others are tests."""
    block = (ROOT / "README.md").read_text().partition("To have them for good")[2].partition("```sh\n")[2]
    commands = block.partition("```")[0]
    commands = commands.replace("/opt/", f"{tmp_path}/opt/").replace("/usr/local/", f"{tmp_path}/local/")
    for directory in ("opt", "local/bin", "local/share"):
        (tmp_path / directory).mkdir(parents=True)
    commands = commands.replace("'.[stores]'", "--quiet .")
    subprocess.run(["sh", "-euc", commands], cwd=ROOT, check=True)
    for name in ("ipcimg", "ipcimg-show", "ipcimg-hook"):
        subprocess.run([tmp_path / "local/bin" / name, "--help"], check=True, stdout=subprocess.DEVNULL, cwd=tmp_path)
    assert (tmp_path / "local/share/man/man1/ipcimg.1").exists()


def test_installed_commands_are_there() -> None:
    """What pyproject.toml says that a command calls can be called."""
    scripts = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]\n")[2].partition("\n\n")[0]
    found = dict(re.findall(r'^(\S+) = "(\S+)"$', scripts, re.MULTILINE))
    assert set(found) == {"ipcimg", "ipcimg-hook", "ipcimg-show"}
    for target in found.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
