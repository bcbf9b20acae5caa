"""What became of many inputs, counted, and as a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .inputs import SHARES
from .judge import Verdict

# What a message has of the input, and not of the reason.
OF_THE_INPUT = (
    r"""b?'.*'|b?".*"|fields \[.*\]|lacks .*|only \d.*|\(.*\)|(DIR)?(/parent)+|(DIR/)?[-\w]+\.img|0[xo]\w+|\d+"""
)


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    accepted: int = 0
    refused: int = 0
    wrong: int = 0
    seconds: float = 0.0  # the slowest
    memory: int = 0  # the most
    reasons: Counter[str] = field(default_factory=Counter)  # of refusals, without what is in them of the input

    def add(self, other: Tally) -> None:
        self.accepted, self.refused = self.accepted + other.accepted, self.refused + other.refused
        self.wrong += other.wrong
        self.seconds, self.memory = max(self.seconds, other.seconds), max(self.memory, other.memory)
        self.reasons += other.reasons

    def count(self, verdict: Verdict) -> None:
        if verdict.violation is not None:
            self.wrong += 1
        elif verdict.refusal is None:
            self.accepted += 1
        else:
            self.refused += 1
            self.reasons[re.sub(OF_THE_INPUT, "…", verdict.refusal)] += 1
        self.seconds, self.memory = max(self.seconds, verdict.seconds), max(self.memory, verdict.memory)


def table(tallies: Mapping[str, Tally]) -> str:
    """What became of all inputs, as a table of docs/fuzzing.md."""
    rows = [["kind", "inputs", "accepted", "refused", "wrong", "reasons", "slowest", "most memory"]]
    total = Tally()
    for kind, tally in [(kind, tallies[kind]) for kind in SHARES if kind in tallies] + [("all", total)]:
        inputs = tally.accepted + tally.refused + tally.wrong
        numbers = (
            f"{inputs:,}",
            f"{tally.accepted:,}",
            f"{tally.refused:,}",
            f"{tally.wrong:,}",
            str(len(tally.reasons)),
        )
        rows.append([kind, *numbers, f"{tally.seconds * 1000:.0f} ms", f"{tally.memory / (1 << 20):.1f} MiB"])
        if tally is not total:
            total.add(tally)
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0], *(("-" * (width - 1) + ":") for width in widths[1:])])
    lines = (
        " | ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
    return "\n".join(f"| {line} |" for line in lines)
