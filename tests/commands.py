"""Running the commands as processes, the way a user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

IPCIMG = (sys.executable, "-c", "import sys; from ipcimg.cli import main; sys.exit(main())")
SHOW = (sys.executable, "-c", "import sys; from ipcimg.cli import show_main; sys.exit(show_main())")


def run(
    command: Sequence[str],
    *arguments: object,
    status: int = 0,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command that is to end with status; what it printed is in the result."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=preexec_fn,
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def ipcimg(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ipcimg, which is to succeed."""
    return run(IPCIMG, *arguments, **options)  # type: ignore[arg-type]


def same(a: object, b: object, *arguments: object) -> None:
    """Have `ipcimg diff` find that a and b are the same."""
    done = run(IPCIMG, "diff", a, b, *arguments)
    assert done.stdout == ""


def refused(*arguments: object, preexec_fn: Callable[[], None] | None = None) -> str:
    """Run ipcimg, which is to fail; gives its one line on standard error."""
    done = run(IPCIMG, *arguments, status=1, preexec_fn=preexec_fn)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("ipcimg: Error: "), done.stderr
    return lines[0].removeprefix("ipcimg: Error: ")


# A process starts with the peak of the one it was forked from, so a small one stands between.
_MEASURE = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.executable, sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_memory(*arguments: object) -> int:
    """Run ipcimg, which is to succeed; gives the most memory it held, in KiB."""
    return int(run((sys.executable, "-c", _MEASURE, *IPCIMG), *arguments).stdout)
