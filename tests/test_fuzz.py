"""The fuzzer: two short runs of it, and that its judge can say no."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from ipcimg.errors import ImageError
from tools.fuzzing import inputs, workers
from tools.fuzzing.corpus import Corpus
from tools.fuzzing.judge import LARGE, Judge
from tools.fuzzing.readers import READERS

TOOL = pathlib.Path(__file__).parent.parent / "tools" / "fuzz"


@pytest.mark.parametrize("seed", ["fixed", f"{datetime.date.today():%Y-%m-%d}"])
def test_short_run(seed: str, record_property: Callable[[str, object], None]) -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "10000", seed], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, total, end = done.stdout.splitlines()
    assert end.startswith("0 taken wrongly")
    accepted, refused, wrong, reasons = (int(cell.replace(",", "")) for cell in total.split("|")[3:7])
    what = "image files and directories changed at random" if seed == "fixed" else f"the same, seed {seed}"
    record_property("nothing lost", f"{what}: {accepted + refused} tried, {wrong} taken wrongly")
    assert (accepted + refused, wrong) == (10000, 0)
    # It gets beyond the front door, and finds most of what can be wrong.
    assert accepted > 2000
    assert reasons > 90


def test_an_input_is_made_from_its_seed_and_number(tmp_path: pathlib.Path) -> None:
    one, other = (Corpus(tmp_path) for _ in range(2))
    made = [inputs.make(one, "a", number) for number in range(500)]
    assert made == [inputs.make(other, "a", number) for number in range(500)]
    assert made != [inputs.make(one, "b", number) for number in range(500)]
    assert {this.kind for this in made} >= inputs.SHARES.keys() - {"big"}


# ---- the judge -----------------------------------------------------------------------------

KEPT: list[object] = []


def raises(error: BaseException) -> Callable[[], str | None]:
    def read() -> str | None:
        raise error

    return read


def allocates() -> None:
    KEPT.append(b"x" * (100 << 20))
    KEPT.clear()


def reserves() -> None:
    """Memory that is never touched."""
    KEPT.append(bytearray(1 << 40))


def sleeps() -> None:
    time.sleep(0.3)


def spins() -> None:
    while True:
        pass


def catches() -> None:
    with contextlib.suppress(Exception):
        spins()


def writes() -> None:
    os.close(os.open("/dev/null", os.O_WRONLY))


def removes() -> None:
    os.unlink("/nowhere/nothing")


def leaks() -> None:
    os.open("/dev/null", os.O_RDONLY)


class Unwell:
    def __del__(self) -> None:
        raise ValueError("lost")


def loses() -> None:
    Unwell()


GOOD: dict[str, tuple[Callable[[], str | None], str | None]] = {
    "accepted": (lambda: None, None),
    "shown": (lambda: "text …\nlines\n", None),
    "refused": (raises(ImageError("x.img", 4, "why not")), "x.img, byte 4: why not"),
}
BAD: dict[str, tuple[Callable[[], str | None], str]] = {
    "another exception": (raises(ValueError("what?")), r"ValueError at test_fuzz\.py:\d+: what\?"),
    "an exit": (raises(SystemExit(3)), "SystemExit at .*: 3"),
    "too deep": (raises(RecursionError()), "RecursionError"),
    "an error of the system": (raises(NotADirectoryError(20, "no")), "NotADirectoryError"),
    "no file": (raises(ImageError("somewhere", None, "why not")), "a message that names no file"),
    "two lines": (raises(ImageError("x.img", 4, "why\nnot")), "a message of 2 lines"),
    "what a terminal obeys": (raises(ImageError("x.img", 4, "\x1b[2J")), "a message that terminals obey"),
    "too long": (raises(ImageError("x.img", 4, "why" * 2000)), r"a message of 6\d\d\d characters"),
    "shown what a terminal obeys": (lambda: "\x1b[2J", "printed what terminals obey"),
    "allocates": (allocates, r"took \d+ MiB of memory"),
    "reserves": (reserves, "MemoryError"),
    "sleeps": (sleeps, r"took 0\.\d+ s"),
    "spins": (spins, r"took \d\.\d+ s"),
    "spins, and catches everything": (catches, r"took \d\.\d+ s"),
    "writes": (writes, "did more than to read: opened '/dev/null' for writing"),
    "removes": (removes, "did more than to read: os.remove|FileNotFoundError"),
    "leaves a file open": (leaks, "left a file open"),
    "loses an exception": (loses, "lost an exception: ValueError"),
}


def judged(read: Callable[[], str | None], **how: Any) -> Any:
    """The verdict of a judge in a process of its own. The time is short here, that of memory as ever."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def work() -> None:
        judge = Judge(seconds=0.2)
        judge.judge(lambda: None)
        judge.settle()
        theirs.send(vars(judge.judge(read, **how)))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    verdict = mine.recv()
    process.join()
    return verdict


@pytest.mark.parametrize(("read", "refusal"), GOOD.values(), ids=GOOD)
def test_right(read: Callable[[], str | None], refusal: str | None) -> None:
    verdict = judged(read)
    assert (verdict["violation"], verdict["refusal"]) == (None, refusal)


@pytest.mark.parametrize(("read", "violation"), BAD.values(), ids=BAD)
def test_wrong(read: Callable[[], str | None], violation: str) -> None:
    # The address space is limited where the input is small, so that this would be a MemoryError.
    size = LARGE + 1 if read is allocates else 0
    verdict = judged(read, size=size)
    assert verdict["violation"] is not None
    assert re.match(violation, verdict["violation"])


def test_not_json() -> None:
    assert judged(lambda: '{"a": 1}\n', as_json=True)["violation"] is None
    assert "not JSON" in judged(lambda: '{"a": }\n', as_json=True)["violation"]


# ---- a reader that takes its process along, or works behind Python's back --------------------


def dies(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(path: str) -> None:
    """Not even a signal ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    spins()


def changes(path: str) -> None:
    """Python has no event for it."""
    os.mkfifo(f"{path}/new")


@pytest.mark.parametrize(
    ("read", "violation"),
    [(dies, "ended the process: -9"), (hangs, "still running after 1 s"), (changes, "changed its image directory")],
)
def test_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, read: Callable[[str], None], violation: str
) -> None:
    corpus = Corpus(tmp_path)
    monkeypatch.setattr(inputs, "SHARES", {"ids": 1})
    monkeypatch.setattr(workers, "PATIENCE", 1.0)
    monkeypatch.setattr(workers, "LOOK", 1)
    monkeypatch.setattr(workers, "warm_up", lambda *_: None)
    monkeypatch.setitem(READERS, "ids", read)
    worker = workers.Worker(corpus, tmp_path / "workers", "a", range(1))
    while worker.tend():
        pass
    assert worker.wrong == [(0, violation)]
    assert worker.tallies["ids"].wrong == 1
