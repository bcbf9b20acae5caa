"""The process that is measured: it calls ipcimg for a namespace, and prints as JSON what that took.

    python -m tools.benching.measured dump|dump-frozen|dump-since|restore PID DIRECTORY

dump-since is with what `first` beside DIRECTORY holds as its parent.

Stages are the functions of ipcimg that have to do with one kind of object, with a timer around them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import ipcimg
from ipcimg import create, imageset

STAGES = {"msg": "the message stage", "sem": "the semaphore stage", "shm": "the segment stage"}
WHOLE = "the whole call"

_seconds: defaultdict[str, float] = defaultdict(float)


@contextlib.contextmanager
def _timer(name: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        _seconds[name] += time.perf_counter() - began


def _time_stages() -> None:
    for kind, name in (("msg", "_write_queues"), ("sem", "_write_semaphores"), ("shm", "_write_segments")):
        setattr(imageset, name, _timed(STAGES[kind], getattr(imageset, name)))
    make = create.Creator.make

    def timed_make(creator: create.Creator, *arguments: Any) -> None:
        with _timer(STAGES[creator._kind]):
            make(creator, *arguments)

    create.Creator.make = timed_make  # type: ignore[assignment, method-assign]


def _timed(name: str, function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def timed(*arguments: object, **options: object) -> object:
        with _timer(name):
            return function(*arguments, **options)

    return timed


def peak_memory() -> int:
    """The most memory that this process has held, in bytes: what ru_maxrss tells may be of the one that started it."""
    with open("/proc/self/status") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def main(what: str, pid: str, directory: str) -> None:
    _time_stages()
    with ipcimg.of_process(int(pid)) as namespace, _timer(WHOLE):
        done: ipcimg.Dumped | ipcimg.Restored
        if what == "restore":
            done = ipcimg.restore(directory, namespace)
        else:
            parent = os.path.join(os.path.dirname(directory), "first") if what == "dump-since" else None
            done = ipcimg.dump(directory, namespace, frozen=what != "dump", parent=parent)
    found = {"seconds": _seconds, "peak": peak_memory(), "counts": dataclasses.asdict(done.counts)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
