"""A run of the fuzzer, and one of its inputs once more."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter

from .corpus import Corpus
from .inputs import make
from .report import Tally, table
from .scratch import put, scratch_directory
from .workers import Worker

SHOWN_OF_A_SORT = 2  # violations that are told in full


def run(count: int, seed: str) -> int:
    """Judge that many inputs; 1 if one was taken wrongly."""
    began = time.monotonic()
    with scratch_directory() as scratch:
        corpus = Corpus(scratch)
        workers = min(len(os.sched_getaffinity(0)), max(1, count))
        print(f"seed {seed}: {count:,} inputs, {workers} processes, Python {sys.version.split()[0]}", flush=True)
        at_work = [Worker(corpus, scratch / str(n), seed, range(n, count, workers)) for n in range(workers)]
        all_workers = list(at_work)
        while at_work:
            at_work = [worker for worker in at_work if worker.tend()]
        tallies: dict[str, Tally] = {}
        for worker in all_workers:
            for kind, tally in worker.tallies.items():
                tallies.setdefault(kind, Tally()).add(tally)
        wrong = sorted(one for worker in all_workers for one in worker.wrong)
        print(table(tallies))
        sorts: Counter[str] = Counter()
        for number, violation in wrong:
            sort = re.sub(r"\d+", "…", violation)[:60]
            sorts[sort] += 1
            if sorts[sort] <= SHOWN_OF_A_SORT:
                print(f"\nseed {seed}, input {number}: {violation}\n{make(corpus, seed, number)}")
    print(f"{len(wrong)} taken wrongly, {time.monotonic() - began:.0f} s")
    for sort, times in sorts.most_common():
        print(f"  {times}× {sort}")
    return 1 if wrong else 0


def again(seed: str, number: int, directory: str | None) -> int:
    """Judge one input of a run, and show it; 1 if it is taken wrongly."""
    with scratch_directory() as scratch:
        corpus = Corpus(scratch)
        this = make(corpus, seed, number)
        print(this)
        if directory is not None:
            os.mkdir(directory)
            for name, node in {**corpus.sets.get(this.base, {}), **this.files}.items():
                put(f"{directory}/{name}", node)
        worker = Worker(corpus, scratch / "again", seed, range(number, number + 1))
        while worker.tend():
            pass
        for _, violation in worker.wrong:
            print(violation)
        for tally in worker.tallies.values():
            print(
                f"{tally.seconds * 1000:.1f} ms, {tally.memory >> 10} KiB, {'; '.join(tally.reasons) or 'not refused'}"
            )
    return 1 if worker.wrong else 0
