"""The progress bar: on a terminal alone, after a second, and gone when the command ends."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import ipcimg
from ipcimg import progress

from .commands import IPCIMG, run
from .test_pieces import Held, segment

SIZE = 32 << 20
# As a command that has been at work for a second when it begins.
AT_ONCE = (
    "import sys; from ipcimg import progress; progress.AFTER = {}; from ipcimg.cli import main; "
    "status = main(); print(*sorted({{'tqdm', 'multiprocessing'}} & set(sys.modules))); sys.exit(status)"
)


@pytest.fixture
def dumped(tmp_path: Path) -> Path:
    whole = segment(SIZE, Held(0, os.urandom(SIZE)))
    variables = ipcimg.Variables((1, 2, 3, 4), 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 12)
    ipcimg.save(ipcimg.Contents(variables, [whole]), tmp_path / "d")
    return tmp_path / "d"


def terminal() -> tuple[int, int]:
    """A terminal of 100 columns: our end, and that of a command."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    return ours, its


def on_terminal(*arguments: object, after: float = 0, status: int = 0) -> tuple[str, str]:
    """Run ipcimg with a terminal as standard error; gives what it printed, and what came to the terminal."""
    ours, its = terminal()
    command = [sys.executable, "-c", AT_ONCE.format(after), *map(str, arguments)]
    shown = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, text=True) as process:
        os.close(its)
        while select.select([ours], [], [], 60)[0]:
            try:
                shown += os.read(ours, 1 << 16)
            except OSError:  # nobody has it open any more
                break
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == status, (out, shown)
    return out, shown.decode()


def left_on(shown: str) -> str:
    """What stands on a terminal in the end: behind each return stands what is written over the line."""
    lines = [""]
    for part in re.split(r"(\r\n|\r|\n)", shown):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part != "\r":
            lines[-1] = part + lines[-1][len(part) :]
    return "\n".join(line.rstrip() for line in lines)


def test_a_bar_on_a_terminal(dumped: Path) -> None:
    out, shown = on_terminal("verify", dumped)
    assert re.search(r"verifying: +\d+%\|.*\| [\d.]+k?M?/32\.\dM \[.*B/s\]", shown)
    assert left_on(shown) == ""
    assert out.endswith("whole, and as it was written (xxh3-128)\ntqdm\n")


def test_not_before_a_second(dumped: Path) -> None:
    """Nothing is imported for it either."""
    out, shown = on_terminal("verify", dumped, after=60)
    assert shown == ""
    assert out.endswith("(xxh3-128)\n\n")


def test_not_if_it_is_not_wanted(dumped: Path) -> None:
    assert on_terminal("verify", dumped, "--no-progress")[1] == ""


def test_not_on_anything_else(dumped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER", 0)
    assert run(IPCIMG, "verify", dumped).stderr == ""


def test_an_error_has_the_line_for_itself(dumped: Path) -> None:
    with open(dumped / "pages-1.img", "r+b") as file:
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, SIZE - 1)[0] ^ 1]), SIZE - 1)
    out, shown = on_terminal("verify", dumped, status=1)
    why = "is not as it was written: its digest is another one"
    assert "verifying: " in shown
    assert left_on(shown) == f"ipcimg: Error: {dumped}/pages-1.img: {why}\n"
    assert out == "tqdm\n"


def test_a_terminal_that_takes_nothing_stops_nobody(dumped: Path) -> None:
    """Whoever reads it may be stopped: by ourselves, while its namespace is dumped."""
    ours, its = terminal()
    os.set_blocking(its, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(its, b"x" * 100)
    os.set_blocking(its, True)
    command = [sys.executable, "-c", AT_ONCE.format(0), "verify", str(dumped)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=its, check=True, timeout=60)
    assert b"as it was written" in done.stdout
    os.close(its)
    os.close(ours)


def test_a_pipe_that_is_closed(dumped: Path) -> None:
    """`ipcimg verify DIR | true`, on a terminal."""
    ours, its = terminal()
    read, write = os.pipe()
    os.close(read)
    program = AT_ONCE.partition("print(")[0].format(0) + "sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", program, "verify", str(dumped)], stdout=write, stderr=its, check=False)
    os.close(write)
    os.close(its)
    assert done.returncode == 0
    assert left_on(os.read(ours, 1 << 16).decode()) == ""
    os.close(ours)
