"""What shells offer behind ipcimg and ipcimg-show: the files in completions/ are up to date, and do it."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPLETIONS = ROOT / "completions"


def test_completions_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_completions.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in COMPLETIONS.iterdir()}, "run tools/generate_completions.py"


def test_completions_are_installed() -> None:
    """Where shells look, under names that they look for: bash takes one with .bash, too."""
    project = (ROOT / "pyproject.toml").read_text()
    for place, files in {
        "share/bash-completion/completions": ("ipcimg.bash", "ipcimg-show.bash"),
        "share/zsh/site-functions": ("_ipcimg", "_ipcimg-show"),
        "share/fish/vendor_completions.d": ("ipcimg.fish", "ipcimg-show.fish"),
    }.items():
        listed = ", ".join(f'"completions/{file}"' for file in files)
        assert f'"{place}" = [{listed}]' in project


# ---- asking a shell -------------------------------------------------------------------------

IN_BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
words=($(complete -p "$1")) # complete … -F FUNCTION COMMAND
"${words[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def by_bash(where: Path, *words: str) -> set[str]:
    file = COMPLETIONS / f"{words[0]}.bash"
    return printed(where, "bash", "--norc", "-c", IN_BASH, "bash", str(file), *words)


def by_fish(where: Path, *words: str) -> set[str]:
    file = COMPLETIONS / f"{words[0]}.fish"
    lines = printed(where, "fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(file), line(words))
    return {line.partition("\t")[0] for line in lines}  # behind the tab it says what it is


def printed(where: Path, *command: str) -> set[str]:
    environment = {**os.environ, "HOME": str(where)}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return set(done.stdout.splitlines())


def line(words: tuple[str, ...]) -> str:
    return " ".join(words)


# zsh completes on a terminal alone. All that is offered comes through compadd.
IN_ZSH = """
fpath=({completions} $fpath)
autoload -U compinit
compinit -u -D
unsetopt AUTO_LIST
compadd() {{
    local -a offered
    if (( ! ${{@[(I)-[AD]]}} )); then # it is not asked alone what would fit
        builtin compadd -A offered "$@"
        print -rl -- $offered >>{offered}
    fi
    builtin compadd "$@"
}}
"""


def by_zsh(where: Path, *words: str) -> set[str]:
    offered, settings = where / ".offered", where / ".settings"
    settings.write_text(IN_ZSH.format(completions=COMPLETIONS, offered=offered))
    terminal, end = pty.openpty()
    tty.setraw(end)  # else what is written before zsh reads is a line for the kernel to edit
    environment = {**os.environ, "HOME": str(where), "TERM": "dumb"}
    with subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=where, env=environment, stdin=end, stdout=end, stderr=end, start_new_session=True
    ) as process:
        os.close(end)
        # Complete, forget the line, and end.
        os.write(terminal, f"source {settings}\n{line(words)}\t\x15exit\n".encode())
        with contextlib.suppress(OSError):  # nobody holds the other end any more
            while os.read(terminal, 4096):
                pass
        os.close(terminal)
        process.wait(60)
    return set(offered.read_text().split("\n")) - {""} if offered.exists() else set()


SHELLS = {"bash": by_bash, "fish": by_fish, "zsh": by_zsh}
Asked = Callable[..., set[str]]


@pytest.fixture(params=SHELLS)
def asked(request: pytest.FixtureRequest) -> Asked:
    """Asks a shell what can come next: the directory it is in, and the words so far."""
    if shutil.which(request.param) is None:
        reason = f"{request.param} is missing: NOT TESTED (apt-get install {request.param})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHELLS[request.param]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "image.img").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ipcimg d", {"dump", "diff"}),
        ("ipcimg dump --fr", {"--freeze", "--frozen-by-caller"}),
        ("ipcimg dump --force --digest sh", {"sha256"}),
        ("ipcimg dump --force -D im", {"images"}),
        ("ipcimg restore --pidfile im", {"images", "image.img"}),
        ("ipcimg verify im", {"images"}),
        ("ipcimg diff images im", {"images"}),
        ("ipcimg encode im", {"images", "image.img"}),
        ("ipcimg check --feature msg_c", {"msg_copy"}),
        ("ipcimg-show --json-t", {"--json-tables"}),
        ("ipcimg-show im", {"images", "image.img"}),
        ("ipcimg-show -q images im", {"images", "image.img"}),
        ("ipcimg-show --time-format f", {"full"}),
        ("ipcimg-show --html im", {"images", "image.img"}),
        ("ipcimg-show --sort LA", {"LARGEST"}),
        ("ipcimg-show -o LA", {"LARGEST"}),
    ],
)
def test_what_is_offered(words: str, offered: set[str], asked: Asked, where: Path) -> None:
    assert {word.rstrip("/") for word in asked(where, *words.split(" "))} == offered


@pytest.mark.parametrize(
    ("words", "last"), [("ipcimg dump --only shm,ms", "msg"), ("ipcimg-show -o KEY,LA", "LARGEST")]
)
def test_lists(words: str, last: str, asked: Asked, where: Path) -> None:
    """zsh offers the last word of a list alone, the others with what is before it."""
    (found,) = asked(where, *words.split(" "))
    assert found.rpartition(",")[2] == last


def test_all_commands_and_options(asked: Asked, where: Path) -> None:
    """As many as --help has."""
    commands = {"dump", "restore", "recover", "verify", "diff", "encode", "check", "hook"}
    assert asked(where, "ipcimg", "") >= commands
    assert asked(where, "ipcimg-show", "--") >= {"--id", "--messages", "--save", "--json", "--json-lines", "--html"}
