"""The command by which a container runtime checkpoints or restores a container of a pod."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from . import interrupts
from .errors import CommandError, explain

if TYPE_CHECKING:
    import subprocess

_PLACES = re.compile(r"\{(?:dir)?\}")
_ENDED = 10.0  # seconds for a command to end when it is told to
_GONE = 30.0  # seconds for what it has started to end by itself then
_GONE_AFTER_FAILURE = 2.0  # likewise, where it has failed by itself
_PAUSE = 0.01  # seconds between two looks


class Command:
    """A command with places: {} for the name of a container and {dir} for its directory."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self.goes_on = False  # has it failed, or was given up, and may have left processes that go on?

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
            with _children_told():
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
            self.goes_on = not _all_ended(process.pid, _GONE_AFTER_FAILURE)
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
        self.goes_on = not _all_ended(process.pid, _GONE)

    @staticmethod
    def _said(words: Sequence[str]) -> str:
        import shlex

        return shlex.join(words)


@contextlib.contextmanager
def _children_told() -> Iterator[None]:
    """Have the kernel tell how a child ends, which it does not where SIGCHLD is ignored. Raises CommandError."""
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
        yield
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError:
        raise CommandError("SIGCHLD is ignored, so nobody could tell how the command ends") from None
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _all_ended(group: int, patience: float) -> bool:
    """Wait for the processes of a group to end, so many seconds; have they?"""
    until = time.monotonic() + patience
    try:
        while True:
            os.killpg(group, 0)
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
    except ProcessLookupError:
        return True
    except PermissionError:  # they are somebody else's
        return False
