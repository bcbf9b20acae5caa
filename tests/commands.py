"""Running the commands as processes, the way a user does."""

from __future__ import annotations

import gc
import io
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

import jsonschema

import ipcimg as package
from ipcimg.cli import main
from ipcimg.show.command import main as show_main

IPCIMG = (sys.executable, "-c", "import sys; from ipcimg.cli import main; sys.exit(main())")
SHOW = (sys.executable, "-c", "import sys; from ipcimg.show.command import main; sys.exit(main())")
_MAIN: dict[tuple[str, ...], Callable[[Sequence[str]], int]] = {IPCIMG: main, SHOW: show_main}
_TIMEOUT = 300  # seconds
REPORT = json.loads((Path(__file__).parent.parent / "docs" / "ipcimg-report.schema.json").read_text())


def report(text: str) -> Any:
    """What --report wrote, which is one JSON object of the schema."""
    found = json.loads(text)
    jsonschema.validate(found, REPORT)
    return found


def run(
    command: Sequence[str],
    *arguments: object,
    status: int = 0,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command that is to end with status; what it printed is in the result."""
    called = [*command, *map(str, arguments)]
    if tuple(command) in _MAIN and preexec_fn is None:  # what that does may come into force by an execve(2) alone
        done = _run_main(_MAIN[tuple(command)], called, called[len(command) :])
    else:
        done = subprocess.run(
            called, capture_output=True, text=True, check=False, timeout=_TIMEOUT, preexec_fn=preexec_fn
        )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


# Two thirds of the time of a command go into starting Python and reading ipcimg, so where nothing but ipcimg is called
# the process is a fork of this one. That IPCIMG and SHOW do the same is seen by all tests that put a command before
# them, or start them on their own.
for _module in pkgutil.walk_packages(package.__path__, "ipcimg."):
    import_module(_module.name)


def _run_main(
    main: Callable[[Sequence[str]], int],
    called: list[str],
    arguments: list[str],
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _be_main(main, arguments, (out, err))
        status = _wait(pid, called)
        texts = [_read(file) for file in (out, err)]
    return subprocess.CompletedProcess(called, os.waitstatus_to_exitcode(status), *texts)


def _wait(pid: int, called: list[str]) -> int:
    with os.fdopen(os.pidfd_open(pid)) as process:
        ended = select.select([process], [], [], _TIMEOUT)[0]
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert ended, f"{called} has not ended within {_TIMEOUT} s"
    return status


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read())).read()


def _be_main(
    main: Callable[[Sequence[str]], int],
    arguments: list[str],
    outputs: tuple[IO[bytes], IO[bytes]],
) -> NoReturn:
    """As a process that has just started Python."""
    status = 1
    try:
        gc.freeze()  # nothing of what was before is to close a file descriptor that now means another file
        for number, output in enumerate(outputs, 1):
            os.dup2(output.fileno(), number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = (open(*how) for how in ((0, "r"), (1, "w"), (2, "w", 1)))  # noqa: SIM115
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


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
