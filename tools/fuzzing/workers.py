"""Processes that judge inputs, and others in their places where they die of one."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .corpus import Corpus
from .inputs import IMAGES, SHOWN, Input, make
from .judge import Judge, Verdict
from .readers import READERS
from .report import Tally
from .scratch import Scratch, state

PATIENCE = 150.0  # seconds after which a process that does not even take a signal is ended
SETTLING = 300  # inputs that fill caches before memory is measured
LOOK = 16  # of so many inputs, one is followed by a look at its whole directory
REPORT = 500  # inputs between two reports to the parent


def judge_input(judge: Judge, scratch: Scratch, this: Input, look: bool = False) -> Verdict:
    """Run the input's reader on it. look: see besides that the directory is as it was."""
    with scratch.holding(this) as path:
        before = state(path) if look else None
        reader = READERS[this.reader]
        verdict = judge.judge(lambda: reader(path), this.size, this.reader == "JSON")
        if look and before != state(path) and not verdict.violation:
            verdict.violation = "changed its image directory"
        if verdict.refusal is not None:
            verdict.refusal = verdict.refusal.replace(path, "DIR")
    return verdict


def warm_up(corpus: Corpus, scratch: Scratch, judge: Judge) -> None:
    """Have all modules imported and all caches filled; all of the corpus is sound."""
    for name in corpus.sets:
        for reader in ("set", *SHOWN):
            verdict = judge_input(judge, scratch, Input(reader, reader, name, {}))
            if verdict.refusal:
                raise SystemExit(f"the corpus is not sound: {name}: {verdict}")
    for kind in IMAGES:
        for member in corpus.by_kind[kind]:
            verdict = judge_input(
                judge, scratch, Input(kind, kind, "", {"x.img": member.header + b"".join(member.parts)})
            )
            if verdict.refusal:
                raise SystemExit(f"the corpus is not sound: {kind}: {verdict}")
    for number in range(SETTLING):
        judge_input(judge, scratch, make(corpus, "settling", number))
    judge.settle()


def work(corpus: Corpus, path: Path, seed: str, numbers: range, now: Any, results: Connection) -> None:
    """Judge the inputs with these numbers. now[0] is the present one, now[1] when it began."""
    judge, scratch = Judge(), Scratch(path, corpus)
    warm_up(corpus, scratch, judge)
    tallies: dict[str, Tally] = {}
    wrong: list[tuple[int, str]] = []
    for done, number in enumerate(numbers, 1):
        this = make(corpus, seed, number)
        now[0], now[1] = number, time.monotonic()
        verdict = judge_input(judge, scratch, this, look=done % LOOK == 0)
        tallies.setdefault(this.kind, Tally()).count(verdict)
        if verdict.violation:
            wrong.append((number, verdict.violation))
        if done % REPORT == 0 or verdict.violation or done == len(numbers):
            results.send((number, tallies, wrong))
            tallies, wrong = {}, []
    now[1] = 0.0


class Worker:
    """A process that judges some of the inputs, and another one in its place where one dies of an input."""

    def __init__(self, corpus: Corpus, path: Path, seed: str, numbers: range) -> None:
        self._corpus, self._path, self._seed, self._numbers = corpus, path, seed, numbers
        self._context = multiprocessing.get_context("fork")
        self._generation = 0
        self.tallies: dict[str, Tally] = {}
        self.wrong: list[tuple[int, str]] = []
        self._start()

    def _start(self) -> None:
        self._generation += 1
        self._now = self._context.RawArray("d", 2)
        self._results, theirs = self._context.Pipe(duplex=False)
        path = self._path / str(self._generation)
        self._process = self._context.Process(
            target=work, args=(self._corpus, path, self._seed, self._numbers, self._now, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def tend(self) -> bool:
        """Take what it has to report. False when all its inputs are judged."""
        ended = False
        while not ended and self._results.poll(0.1):
            try:
                number, tallies, wrong = self._results.recv()
            except EOFError:
                ended = True
                break
            self._numbers = self._numbers[self._numbers.index(number) + 1 :]
            for kind, tally in tallies.items():
                self.tallies.setdefault(kind, Tally()).add(tally)
            self.wrong += wrong
        number, began = int(self._now[0]), self._now[1]
        if not ended:
            if not began or time.monotonic() - began < PATIENCE:
                return True
            self._process.kill()
            return self._died(number, f"still running after {PATIENCE:.0f} s")
        self._process.join()
        if self._process.exitcode == 0:
            return False
        if not began:
            raise SystemExit("a worker ended before its first input")
        return self._died(number, f"ended the process: {self._process.exitcode}")

    def _died(self, number: int, how: str) -> bool:
        self._process.join()
        self.wrong.append((number, how))
        self.tallies.setdefault(make(self._corpus, self._seed, number).kind, Tally()).wrong += 1
        # Those before it that were not reported are judged again; what they had been counted as is lost with it.
        self._numbers = self._numbers[self._numbers.index(number) + 1 :]
        if self._numbers:
            self._start()
        return bool(self._numbers)
