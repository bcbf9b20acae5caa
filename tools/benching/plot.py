"""How the time grows with the work, measured and drawn."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bench import ROOT, Bench
from .content import Queues, Segment
from .measured import STAGES, WHOLE
from .rows import COPY, MAKES_QUEUES, PEEKS, TURNS, Round, dumping, restoring

PICTURES = ROOT / "docs" / "pictures"
_MESSAGES = STAGES["msg"]
_ROUNDS = 3
_PATIENCE = 3.0  # seconds; a curve ends with the first point that takes longer
_MIB = 1 << 20

Points = dict[str, list[tuple[float, float]]]  # label → where, seconds


@dataclass(frozen=True, slots=True)
class Series:
    """Curves that are measured in turn, in the same namespaces."""

    rounds: Callable[[Bench, int], contextlib.AbstractContextManager[Round]]
    curves: Mapping[str, str]  # what of it, a key of Took.seconds → the label


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn over the same sizes."""

    name: str
    x: str
    unit: int  # by which sizes are divided
    sizes: Sequence[int]
    series: Sequence[Series]


def _one_queue(n: int) -> Queues:
    return Queues(1, n, 64)


def _queues(n: int) -> Queues:
    return Queues(n, 1, 64)


def _dense(n: int) -> Segment:
    return Segment(n, _MIB, _MIB)


PICTURE_LIST = (
    Picture(
        "messages",
        "messages of 64 B in one queue",
        1,
        [250 << n for n in range(13)],
        (
            Series(
                lambda bench, n: dumping(bench, _one_queue(n), {PEEKS: ("peek", "0")}),
                {_MESSAGES: "ipcimg, queue in use", PEEKS: "bare peeks"},
            ),
            Series(
                lambda bench, n: dumping(bench, _one_queue(n), {TURNS: ("turn",)}, what="dump-frozen"),
                {_MESSAGES: "ipcimg, nobody uses the queue", TURNS: "bare receive and send"},
            ),
        ),
    ),
    Picture(
        "queues",
        "queues with one message",
        1,
        [100, 300, 1000, 3000, 10_000, 30_000],
        (
            Series(
                lambda bench, n: dumping(bench, _queues(n), {PEEKS: ("peek", "0")}),
                {_MESSAGES: "ipcimg, dump", PEEKS: "bare peeks"},
            ),
            Series(
                lambda bench, n: restoring(bench, _queues(n), {MAKES_QUEUES: ("make-queues", *_queues(n).numbers)}),
                {_MESSAGES: "ipcimg, restore", MAKES_QUEUES: "bare preset, create, send, set"},
            ),
        ),
    ),
    Picture(
        "segment",
        "MiB in a dense segment",
        _MIB,
        [_MIB << n for n in range(0, 11, 2)],
        (
            Series(
                lambda bench, n: dumping(bench, _dense(n), {COPY: ("copy-out", ".", *_dense(n).numbers)}),
                {WHOLE: "ipcimg, dump", COPY: "plain copy into a file"},
            ),
            Series(
                lambda bench, n: restoring(bench, _dense(n), {COPY: ("copy-in", "pages-1.img", *_dense(n).numbers)}),
                {WHOLE: "ipcimg, restore", COPY: "plain copy into a segment"},
            ),
        ),
    ),
)


def _measure(bench: Bench, picture: Picture, scale: float) -> Points:
    points: Points = defaultdict(list)
    going_on = list(picture.series)
    for size in picture.sizes:
        if size > picture.sizes[-1] * scale and size != picture.sizes[0]:
            break
        for one in list(going_on):
            labels = ", ".join(one.curves.values())
            print(f"{size // picture.unit:,} {picture.x}: {labels}", file=sys.stderr, flush=True)
            with one.rounds(bench, size) as one_round:
                found = [one_round().seconds for _ in range(_ROUNDS)]
            for name, label in one.curves.items():
                seconds = statistics.median(seconds[name] for seconds in found)
                points[label].append((size / picture.unit, seconds))
                if seconds > _PATIENCE and one in going_on:
                    going_on.remove(one)
    return points


def _draw(picture: Picture, points: Points, file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same measurements give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": picture.name, "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for n, (label, curve) in enumerate(points.items()):
        # Curves of one series have one colour: what it takes us is drawn through, its yardstick is dashed.
        axes.plot(*zip(*curve, strict=True), "--" if n % 2 else "-", color=f"C{n // 2}", marker=".", label=label)
    axes.set(xscale="log", yscale="log", xlabel=picture.x, ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def draw(bench: Bench, directory: Path, scale: float = 1) -> None:
    """Measure how time grows, and draw it into the directory."""
    os.environ["MPLCONFIGDIR"] = str(bench.scratch)  # what matplotlib keeps for later stays with us
    directory.mkdir(exist_ok=True)
    for picture in PICTURE_LIST:
        _draw(picture, _measure(bench, picture, scale), directory / f"{picture.name}.svg")
