"""The table of what was measured: as text, as JSON, and in the document."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from .bench import ROOT
from .content import in_bytes
from .rows import IMAGES_AT_MOST, PEAK_AT_MOST, Row

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- The table: written by tools/bench --write. -->", "<!-- The end of the table. -->"
COLUMNS = ("row", "work", "yardstick", "its time", "of ipcimg", "time", "ratio", "target", "met", "peak memory")
_TO_THE_RIGHT = ("its time", "time", "ratio", "target", "peak memory")
_MET = {True: "yes", False: "**no**", None: ""}


def in_seconds(seconds: float | None) -> str:
    """A time, for people."""
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _cells(row: Row) -> tuple[str, ...]:
    peak = in_bytes(row.peak)
    if row.size is not None and row.ratio is None:
        size, most = in_bytes(row.size), f"< {in_bytes(IMAGES_AT_MOST)}"
        return (row.name, row.work, "", "", "size of the images", size, "", most, _MET[row.met], peak)
    return (
        row.name,
        row.work,
        row.yardstick,
        in_seconds(row.yardstick_seconds),
        row.ipcimg,
        in_seconds(row.ipcimg_seconds),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.target is None else f"≤ {row.target:g}",
        _MET[row.met],
        peak,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown, with a line about the memory of all."""
    cells = [COLUMNS, *map(_cells, rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(COLUMNS))]
    right = [name in _TO_THE_RIGHT for name in COLUMNS]
    lines = [
        [cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right, strict=True)]
        for row in cells
    ]
    lines.insert(1, ["-" * (width - r) + ":" * r for width, r in zip(widths, right, strict=True)])
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", memory(rows)])


def memory_met(rows: Sequence[Row]) -> bool:
    """Has no row taken more memory than it may?"""
    return max(row.peak for row in rows) <= PEAK_AT_MOST


def memory(rows: Sequence[Row]) -> str:
    """A line about the memory of all rows."""
    most = max(rows, key=lambda row: row.peak)
    return (
        f"Peak memory of every row, at most {in_bytes(PEAK_AT_MOST)}: {'met' if memory_met(rows) else '**not met**'}, "
        f"with {in_bytes(most.peak)} in {most.name}."
    )


def machine() -> dict[str, str]:
    """Where it was measured."""
    return {
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "processors": str(len(os.sched_getaffinity(0))),
    }


def as_json(rows: Sequence[Row]) -> str:
    """The rows as JSON: times in seconds, memory and sizes in bytes."""
    found = [dataclasses.asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows]
    summary = {"peak": max(row.peak for row in rows), "target": PEAK_AT_MOST, "met": memory_met(rows)}
    return json.dumps({"machine": machine(), "rows": found, "memory": summary}, indent=2)


def write(rows: Sequence[Row], document: Path = DOCUMENT) -> None:
    """Put the table into the document."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"{document} has no place for the table")
    facts = machine()
    where = f"{facts['kernel']}, Python {facts['python']}, {facts['processors']} processors"
    how = f"Medians of {min(row.rounds for row in rows)} rounds; {where}."
    document.write_text(f"{before}{BEGIN}\n\n{how}\n\n{table(rows)}\n\n{END}{after}")
