"""The command by which a container runtime checkpoints or restores a container of a pod."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from . import interrupts
from .errors import CommandError, explain

if TYPE_CHECKING:
    import subprocess

_PLACES = re.compile(r"\{(?:dir)?\}")
_ENDED = 10.0  # seconds for a command to end when it is told to
_GONE = 30.0  # seconds for what it has started to end by itself then
_PAUSE = 0.01  # seconds between two looks


class Command:
    """A command with places: {} for the name of a container and {dir} for its directory."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self.goes_on = False  # was it given up, and may have left processes that go on?

    def __bool__(self) -> bool:
        return bool(self._words)

    def expect_fit(self, containers: Collection[str]) -> None:
        """Raise CommandError where it cannot be run, or would do the same for each of several containers."""
        import shutil

        if not self._words:
            return
        program = self._words[0]
        if not _PLACES.search(program) and shutil.which(program) is None:
            raise CommandError(f"{program}: there is no such command")
        if len(containers) > 1 and not any(map(_PLACES.search, self._words)):
            raise CommandError(f"`{self._said(self._words)}` is for no container: neither {{}} nor {{dir}} is in it")

    def run(self, name: str, directory: str) -> None:
        """Run it for a container, to its end. Raises CommandError. A signal for us ends it first.

        It is the leader of a session. Told to end is it alone, not criu below it, whose tasks would be left as they
        are then; but what it has started is waited for.
        """
        import subprocess

        words = [_PLACES.sub(lambda found: name if found[0] == "{}" else directory, word) for word in self._words]
        said = self._said(words)
        process: subprocess.Popen[bytes] | None = None
        try:
            with interrupts.deferred():
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
            status = process.wait()
        except OSError as error:
            raise CommandError(f"`{said}`: {explain(error)}") from error
        except BaseException:
            if process is not None:
                with interrupts.deferred():
                    self._end(process)
            raise
        if status:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            raise CommandError(f"`{said}` {how}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        import subprocess

        process.terminate()
        try:
            process.wait(_ENDED)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.goes_on = not _all_ended(process.pid)

    @staticmethod
    def _said(words: Sequence[str]) -> str:
        import shlex

        return shlex.join(words)


def _all_ended(group: int) -> bool:
    """Wait for the processes of a group to end; have they?"""
    until = time.monotonic() + _GONE
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(_PAUSE)
        return False
    return True
