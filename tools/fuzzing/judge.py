"""The judge of readers: what a reader does with an input, and whether it may."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ipcimg.errors import IpcimgError

LARGE = 256 << 10  # bytes of an input
SECONDS = 1.0  # an input may take, for each LARGE bytes begun
MEMORY = 64 << 20  # bytes it may make the process grow by
LINE = 4096  # characters of an error
SLACK = 16 << 20  # bytes of address space that the allocator may map beyond MEMORY
ATTEMPTS = 3  # an input that was too slow or too big is tried again: the machine has other things to do


@dataclass
class Verdict:
    """What became of an input."""

    refusal: str | None = None  # the message, where it was refused
    seconds: float = 0.0
    memory: int = 0  # bytes that the process grew by
    violation: str | None = None


class Overtime(BaseException):
    """Raised by a timer in the middle of whatever is running."""


class _Audited:
    """What a reader does to the machine beyond reading; audit hooks cannot be removed, so this one is switched."""

    on = False
    installed = False
    done: list[str] = []  # noqa: RUF012  (there is one interpreter)

    # Python raises an event for each; these do no harm.
    HARMLESS = frozenset({"os.listdir", "os.scandir", "os.fwalk", "os.walk"})
    DOERS = (
        "os.",
        "socket.",
        "ctypes.",
        "subprocess.",
        "shutil.",
        "tempfile.",
        "fcntl.",
        "mmap.",
        "signal.",
        "syslog.",
    )
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if not cls.on:
            return
        if event == "open":
            if arguments[2] & cls.WRITING:
                cls.done.append(f"opened {arguments[0]!r} for writing")
        elif event.startswith(cls.DOERS) and event not in cls.HARMLESS:
            cls.done.append(f"{event}{arguments!r}"[:200])


class Judge:
    """Runs readers in this process, which it changes: to be made in a process of its own."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        if not _Audited.installed:
            sys.addaudithook(_Audited.hook)
            _Audited.installed = True
        sys.dont_write_bytecode = True
        sys.unraisablehook = self._unraisable
        self._lost: list[str] = []
        signal.signal(signal.SIGALRM, self._overtime)
        self._deadline = 0.0
        # What is freed goes back to the kernel, so that growth is seen each time: mallopt(M_MMAP_THRESHOLD),
        # mallopt(M_TRIM_THRESHOLD).
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 128 << 10)
        libc.mallopt(-1, 128 << 10)
        self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        self._schedule = -1
        with contextlib.suppress(OSError):  # a kernel without CONFIG_SCHED_INFO
            self._schedule = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._free_fd = self._next_fd()
        self._limited: bool | None = None

    def _unraisable(self, lost: Any) -> None:
        if not isinstance(lost.exc_value, Overtime):
            self._lost.append(f"{lost.exc_type.__name__} in {lost.object!r}: {lost.exc_value}")

    def _overtime(self, signum: int, frame: FrameType | None) -> None:
        if self._clock() > self._deadline:  # else only other processes took long
            raise Overtime

    def _clock(self) -> float:
        """Seconds, without those in which other processes had the processor."""
        waited = int(os.pread(self._schedule, 99, 0).split()[1]) if self._schedule >= 0 else 0
        return time.perf_counter() - waited / 1e9

    @staticmethod
    def _next_fd() -> int:
        fd = os.dup(2)
        os.close(fd)
        return fd

    def settle(self) -> None:
        """What the process has by now, modules and all, is no input's."""
        gc.collect()
        gc.freeze()
        self._free_fd = self._next_fd()
        self._limited = None

    def _limit(self, large: bool) -> None:
        # protobuf takes a lack of memory for damage, so what is large gets more address space, and only what is
        # really used counts.
        if self._limited == large:
            return
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        gc.collect()
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        room = 4 << 30 if large else self.memory + SLACK
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        self._limited = large

    def judge(self, read: Callable[[], str | None], size: int = 0, as_json: bool = False) -> Verdict:
        """Run a reader on an input of so many bytes. as_json: what it returns should be JSON."""
        self._limit(size > LARGE)
        seconds = self.seconds * (1 + size // LARGE)
        best = self._attempt(read, seconds, as_json)
        for _ in range(ATTEMPTS - 1):
            if best.violation or (best.seconds <= seconds and best.memory <= self.memory):
                return best
            again = self._attempt(read, seconds, as_json)
            best.seconds, best.memory = min(best.seconds, again.seconds), min(best.memory, again.memory)
            best.violation = again.violation
        if not best.violation:
            if best.seconds > seconds:
                best.violation = f"took {best.seconds:.2f} s"
            elif best.memory > self.memory:
                best.violation = f"took {best.memory >> 20} MiB of memory"
        return best

    def _attempt(self, read: Callable[[], str | None], seconds: float, as_json: bool) -> Verdict:
        verdict, out = Verdict(), None
        _Audited.done = []
        os.write(self._clear, b"5")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = self._clock()
        self._deadline = began + 2 * seconds
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
                _Audited.on = True
                out = read()
            finally:
                _Audited.on = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except IpcimgError as error:
            verdict.refusal = str(error)
        except Overtime:
            pass  # the time tells
        except MemoryError:
            verdict.violation = f"MemoryError: wants more than {self.memory >> 20} MiB"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(place.filename)}:{place.lineno}"
            verdict.violation = f"{type(error).__name__} at {where}: {str(error)[:200]}"
        verdict.seconds = self._clock() - began
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        verdict.memory = max(0, after - before) << 10
        verdict.violation = verdict.violation or self._misdeed(verdict.refusal) or _misprint(out, as_json)
        return verdict

    def _misdeed(self, refusal: str | None) -> str | None:
        if refusal is not None:
            if len(refusal.splitlines()) != 1:
                return f"a message of {len(refusal.splitlines())} lines: {refusal[:200]!r}"
            if len(refusal) > LINE:
                return f"a message of {len(refusal)} characters: {refusal[:200]!r}…"
            if not refusal.isprintable():
                return f"a message that terminals obey: {refusal[:200]!r}"
            if not re.search(r"\.img\b|image directory /", refusal):
                return f"a message that names no file: {refusal!r}"
        if _Audited.done:
            return f"did more than to read: {_Audited.done[0]}"
        free, self._free_fd = self._free_fd, self._next_fd()
        if self._free_fd > free:
            return "left a file open"
        if self._lost:
            lost, self._lost = self._lost, []
            return f"lost an exception: {lost[0]}"
        return None


def _misprint(out: str | None, as_json: bool) -> str | None:
    if not out:
        return None
    if as_json:
        try:
            for line in out.splitlines():
                json.loads(line)
        except ValueError as error:
            return f"not JSON: {error}"
    return None if out.replace("\n", "").isprintable() else "printed what terminals obey"
