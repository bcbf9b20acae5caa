"""Standard input: whatever it is, it can be read at any place."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import pytest

SHOW = """
import re
from ipcimg import spool
from ipcimg.errors import ImageError
try:
    image = spool.standard_input()
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    data = bytearray(5)
    image.read_into(memoryview(data), image.size - 5)
    print(image.path, image.size, data.decode(), peak)
except ImageError as error:
    print(error)
"""


def run(stdin: int, environment: Mapping[str, str] | None = None, before: str = "") -> str:
    """What a process makes of such a standard input."""
    env = {**os.environ, **(environment or {})}
    return subprocess.run(
        [sys.executable, "-c", before + SHOW], stdin=stdin, env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


def piped(size: int, environment: Mapping[str, str] | None = None, before: str = "") -> str:
    """Likewise, of a pipe with so many bytes and five more."""
    program = f"import sys; [sys.stdout.write('x' * 4096) for n in range({size // 4096})]; sys.stdout.write('12345')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as source:
        assert source.stdout is not None
        return run(source.stdout.fileno(), environment, before)


def test_a_file(tmp_path: pathlib.Path) -> None:
    """It is not copied, and read from its beginning on, wherever it stands."""
    (tmp_path / "x").write_bytes(b"abc12345")
    with open(tmp_path / "x", "rb") as file:
        file.seek(4)
        assert run(file.fileno(), {"TMPDIR": "/nonexistent"}).startswith("standard input 8 12345")


@pytest.mark.parametrize("size", [0, 4096, 1 << 20, 64 << 20])
def test_a_pipe(size: int, tmp_path: pathlib.Path) -> None:
    """Of any length, in constant memory, and nothing is left of it."""
    *words, peak = piped(size, {"TMPDIR": str(tmp_path)}).split()
    assert words == ["standard", "input", str(size + 5), "12345"]
    assert int(peak) < 64 << 10  # KiB; ipcimg and Python take half of it
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_full() -> None:
    """A limit stands for the disk: it ends a write in the same way."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    assert piped(8 << 20, before=limit) == "standard input: copying it into $TMPDIR: File too large"


def test_nowhere_to_copy_it() -> None:
    """No other place is looked for: it may be one that others read, or on a small disk."""
    assert piped(4096, {"TMPDIR": "/nonexistent"}).startswith("standard input: copying it into $TMPDIR: ")


def test_without_a_place_of_its_own(tmp_path: pathlib.Path) -> None:
    """It goes to /tmp, whatever else tempfile would take."""
    look = """
import tempfile
made = tempfile.TemporaryFile
def make(*arguments, **options):
    print(options["dir"])
    return made(*arguments, **options)
tempfile.TemporaryFile = make
"""
    for name in ("TEMP", "TMP"):
        assert piped(4096, {"TMPDIR": "", name: str(tmp_path)}, look).split()[0] == "/tmp"


def test_a_directory() -> None:
    directory = "import os; os.dup2(os.open('/', os.O_RDONLY), 0)\n"  # which Python does not start with
    assert run(subprocess.DEVNULL, before=directory) == "standard input: Is a directory"


def test_closed() -> None:
    """Also where something else was opened since, and has its number."""
    for more in ("", "import os; os.open('/etc/passwd', os.O_RDONLY)\n"):
        command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", more + SHOW]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "standard input: is closed\n"


def test_closed_by_a_program_that_has_it() -> None:
    closed = "import os; os.close(0)\n"
    assert run(subprocess.DEVNULL, before=closed) == "standard input: Bad file descriptor"
