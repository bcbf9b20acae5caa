"""The rows of the table: which work, beside which yardstick, with which target."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .bench import Bench, BrokenError, Took, check_images, run, size_of
from .content import Content, Nothing, Queues, Segment, Sets
from .measured import STAGES, WHOLE

MESSAGES, SEMAPHORES = STAGES["msg"], STAGES["sem"]
PEAK_AT_MOST = 96 << 20  # bytes
SHOWING_AT_MOST = 64 << 20  # bytes, of ipcimg-show
SINCE_AT_MOST = 2  # times the pages that have changed: bytes of images that have them alone
IMAGES_AT_MOST = 1 << 20  # bytes, of a segment of zeros

PEEKS_8K = "peeks with 8 KiB of room"
PEEKS = "peeks with room that fits"
TURNS = "receive and send, once around"
MAKES_QUEUES = "preset, create, send, set"
SENDS = "sends alone"
GETS = "stat and GETALL"
MAKES_SETS = "preset, create, SETALL, set"
COPY = "plain copy of the same bytes"
FAULTS = "the same, a page fault each time"
START = "start-up"
FIRST, SINCE = "a whole dump", "a dump with it as parent"
_PYTHON, _COMMAND = "python3 -c pass", "ipcimg dump, the whole process"
CRIT = "crit decode, once"
SUMMARY, LISTING = "ipcimg-show", "ipcimg-show --messages"
OF_SET, OF_ARCHIVE = "ipcimg-show of the directory", "ipcimg-show of its tar.zst"

_COMMAND_MEASURED = """\
import sys
from ipcimg.cli import main
status = main()
from tools.benching.measured import peak_memory
print(peak_memory())
sys.exit(status)
"""

_SHOW_MEASURED = """\
import os, sys
from ipcimg.show.command import main
told, path = os.dup(1), sys.argv.pop(1)
os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
status = main()
from tools.benching.measured import peak_memory
os.write(told, b"%d" % peak_memory())
sys.exit(status)
"""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A row: one thing that is measured beside another one."""

    ipcimg: str  # what of it is compared, a key of Took.seconds
    yardstick: str  # with what, another one
    target: float | None = None  # the ratio is at most that
    less: str | None = None  # what is taken from ipcimg's time before


Round = Callable[[], Took]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured in turn, round after round, and the rows that come of it."""

    name: str
    work: str
    rounds: Callable[[Bench], contextlib.AbstractContextManager[Round]]  # gives what measures one round
    ratios: tuple[Ratio, ...] = ()  # none where the size of the images is asked for
    peak_at_most: int = PEAK_AT_MOST  # bytes

    def measure(self, bench: Bench, rounds: int) -> list[Row]:
        """The rows, with medians over so many rounds. Raises BrokenError."""
        with self.rounds(bench) as one_round:
            one_round()  # not counted: it is for what is slow the first time, memory above all
            found = [one_round() for _ in range(rounds)]
        medians = {name: statistics.median(one.seconds[name] for one in found) for name in found[0].seconds}
        peak = max(one.peak for one in found)
        if not self.ratios:
            return [Row(self.name, self.work, rounds, peak, size=max(one.size or 0 for one in found))]
        return [self._row(ratio, medians, peak, rounds) for ratio in self.ratios]

    def _row(self, ratio: Ratio, medians: Mapping[str, float], peak: int, rounds: int) -> Row:
        taken = medians[ratio.ipcimg] - (medians[ratio.less] if ratio.less is not None else 0)
        ipcimg = ratio.ipcimg if ratio.less is None else f"{ratio.ipcimg} less {ratio.less}"
        return Row(
            self.name,
            self.work,
            rounds,
            peak,
            yardstick=ratio.yardstick,
            yardstick_seconds=medians[ratio.yardstick],
            ipcimg=ipcimg,
            ipcimg_seconds=taken,
            target=ratio.target,
            peak_at_most=self.peak_at_most,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was measured. Times are medians, in seconds."""

    name: str
    work: str
    rounds: int
    peak: int  # bytes of memory
    yardstick: str = ""
    yardstick_seconds: float | None = None
    ipcimg: str = ""
    ipcimg_seconds: float | None = None
    target: float | None = None
    size: int | None = None  # bytes of the images
    peak_at_most: int = PEAK_AT_MOST  # bytes; what is more is not met, whatever the ratio

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if self.yardstick_seconds is None or self.ipcimg_seconds is None:
            return None
        return self.ipcimg_seconds / self.yardstick_seconds

    @property
    def met(self) -> bool | None:
        """Is it as it should be? None where nothing is asked for."""
        if self.size is not None:
            return self.size < IMAGES_AT_MOST
        if self.ratio is None or self.target is None:
            return None
        return self.ratio <= self.target and self.peak <= self.peak_at_most


# ---- how something is measured -------------------------------------------------------------

Yardsticks = Mapping[str, Sequence[str]]  # name → arguments of the program


def _amount(content: Content) -> int:
    """With how many messages, sets or bytes a yardstick has to do."""
    if isinstance(content, Segment):
        return content.written
    return content.counts.messages + content.counts.semaphore_sets


@contextlib.contextmanager
def dumping(
    bench: Bench, content: Content, yardsticks: Yardsticks, *, what: str = "dump", start: bool = False
) -> Iterator[Round]:
    """Rounds of the yardsticks and a dump, in the same namespace. start: and of a dump of an empty one."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(bench.holding(content))
        empty = stack.enter_context(bench.holding(Nothing())) if start else None
        time.sleep(1.1)  # seconds, after which no dump has to wait for the end of the second of the last change
        checked = False

        def one_round() -> Took:
            nonlocal checked
            took = Took()
            for name, arguments in yardsticks.items():
                took.seconds[name] = source.yardstick(*arguments, directory=bench.scratch, amount=_amount(content))
            with bench.images() as images:
                took.add(source.ipcimg(what, images, content.counts))
                took.size = size_of(images)
                if not checked:
                    check_images(images, content.counts)
                    checked = True
            if empty is not None:
                with bench.images() as images:
                    took.seconds[START] = empty.ipcimg(what, images, Nothing.counts).seconds[WHOLE]
            return took

        yield one_round


@contextlib.contextmanager
def restoring(bench: Bench, content: Content, yardsticks: Yardsticks, *, start: bool = False) -> Iterator[Round]:
    """Rounds of the yardsticks and a restore, each in a new namespace. start: and of a restore of nothing."""
    with contextlib.ExitStack() as stack:
        images, nothing = (stack.enter_context(bench.images()) for _ in range(2))
        for one, directory in ((content, images), (Nothing(), nothing)):
            with bench.holding(one) as source:
                source.ipcimg("dump", directory, one.counts)

        def one_round() -> Took:
            took = Took()
            for name, arguments in yardsticks.items():
                with bench.holding(Nothing()) as target:
                    took.seconds[name] = target.yardstick(*arguments, directory=images, amount=_amount(content))
                    target.expect(content.counts)
            with bench.holding(Nothing()) as target:
                took.add(target.ipcimg("restore", images, content.counts))
                target.expect(content.counts)
            if start:
                with bench.holding(Nothing()) as target:
                    took.seconds[START] = target.ipcimg("restore", nothing, Nothing.counts).seconds[WHOLE]
            return took

        yield one_round


@contextlib.contextmanager
def _dumping_with_other_msgmax(bench: Bench, content: Content, msgmax: Mapping[str, int]) -> Iterator[Round]:
    """Rounds of dumps alone, of namespaces that differ in msgmax; their message stages have the names of msgmax."""
    with contextlib.ExitStack() as stack:
        sources = {name: stack.enter_context(bench.holding(content, value)) for name, value in msgmax.items()}

        def one_round() -> Took:
            took = Took()
            for name, source in sources.items():
                with bench.images() as images:
                    done = source.ipcimg("dump", images, content.counts)
                    check_images(images, content.counts)
                done.seconds = {name: done.seconds[MESSAGES]}
                took.add(done)
            return took

        yield one_round


@contextlib.contextmanager
def _dumping_again(bench: Bench, content: Segment, changed: Segment) -> Iterator[Round]:
    """Rounds of a whole dump, and one with that as its parent after a word of each run was changed."""
    with bench.holding(content) as source:

        def one_round() -> Took:
            with bench.images() as where:
                first, second = where / "first", where / "second"
                took = source.ipcimg("dump-frozen", first, content.counts)
                took.seconds = {FIRST: took.seconds[WHOLE]}
                source.yardstick("touch", *changed.numbers, directory=where, amount=changed.written)
                again = source.ipcimg("dump-since", second, content.counts)
                again.seconds = {SINCE: again.seconds[WHOLE]}
                took.add(again)
                if size_of(second) > SINCE_AT_MOST * changed.written:
                    raise BrokenError(f"{size_of(second)} bytes of images for {changed.written} that have changed")
                check_images(second, content.counts)
            return took

        yield one_round


def _timed_run(*command: str) -> tuple[float, str]:
    """Seconds of a process as a whole, and what it prints. Raises BrokenError where it fails."""
    began = time.perf_counter()
    printed = run(*command)
    return time.perf_counter() - began, printed


@contextlib.contextmanager
def _showing(bench: Bench, content: Queues) -> Iterator[Round]:
    """Rounds of ipcimg-show, each time a process. crit, which takes as long as some rounds, is measured once."""
    if shutil.which("crit") is None:
        raise BrokenError("there is no crit to compare with: Debian has it in the package criu")
    with bench.images() as where:
        directory, archive = where / "images", where / "images.tar.zst"
        with bench.holding(content) as source:
            source.ipcimg("dump-frozen", directory, content.counts)
        run("tar", "--zstd", "-cf", str(archive), "-C", str(where), directory.name)
        [image] = map(str, directory.glob("ipcns-msg-*"))
        crit, _ = _timed_run("crit", "decode", "-i", image, "-o", os.devnull)

        def show(*arguments: str, to: str = os.devnull) -> tuple[float, int]:
            seconds, peak = _timed_run(sys.executable, "-c", _SHOW_MEASURED, to, *arguments)
            return seconds, int(peak)

        text = where / "text"
        show("--messages", image, to=str(text))
        with open(text, "rb") as lines:
            shown = sum(1 for _ in lines) - 1  # without the headings
        text.unlink()
        if shown != content.counts.messages:
            raise BrokenError(f"ipcimg-show has listed {shown} messages in place of {content.counts.messages}")

        def one_round() -> Took:
            took = Took({CRIT: crit})
            for name, arguments in {
                SUMMARY: (image,),
                LISTING: ("--messages", image),
                OF_SET: (str(directory),),
                OF_ARCHIVE: (str(archive),),
            }.items():
                took.seconds[name], peak = show(*arguments)
                took.peak = max(took.peak, peak)
            return took

        yield one_round


@contextlib.contextmanager
def _starting(bench: Bench) -> Iterator[Round]:
    """Rounds of Python alone, and of `ipcimg dump` of an empty namespace, each a process."""

    with bench.holding(Nothing()) as source:

        def one_round() -> Took:
            took = Took({_PYTHON: _timed_run(sys.executable, "-c", "pass")[0]})
            with bench.images() as images:
                arguments = ("dump", "-t", str(source.pid), "-D", str(images))
                took.seconds[_COMMAND], printed = _timed_run(sys.executable, "-c", _COMMAND_MEASURED, *arguments)
                check_images(images, Nothing.counts)
            took.peak = int(printed.splitlines()[-1])
            return took

        yield one_round


# ---- the rows ------------------------------------------------------------------------------

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def measurements(scale: float = 1) -> list[Measurement]:
    """Everything that is measured. scale makes queues, sets, messages of one queue and segments fewer or smaller."""

    def some(number: int) -> int:
        return max(1, round(number * scale))

    def of_size(size: int, run: int, step: int, zeros: bool = False) -> Segment:
        return Segment(max(1, round(size * scale / step)) * step, run, step, zeros)

    def dump(
        name: str, content: Content, yardsticks: Yardsticks, *ratios: Ratio, what: str = "dump", start: bool = False
    ) -> Measurement:
        rounds = functools.partial(dumping, content=content, yardsticks=yardsticks, what=what, start=start)
        return Measurement(name, f"{content}: dump", rounds, ratios)

    def restore(
        name: str, content: Content, yardsticks: Yardsticks, *ratios: Ratio, start: bool = False
    ) -> Measurement:
        rounds = functools.partial(restoring, content=content, yardsticks=yardsticks, start=start)
        return Measurement(name, f"{content}: restore", rounds, ratios)

    def deep(number: int) -> Measurement:
        return dump(
            f"deep-{number}",
            Queues(1, some(number), 64),
            {TURNS: ("turn",)},
            Ratio(MESSAGES, TURNS, 2.5),
            what="dump-frozen",
        )

    queues, one_queue = Queues(some(2000), 16, 100), Queues(1, some(2000), 64)
    many_queues, many_sets = Queues(some(20_000), 1, 64), Sets(some(20_000))
    dense = of_size(_GIB, _MIB, _MIB)
    changed = Segment(dense.size, mmap.PAGESIZE, 128 * mmap.PAGESIZE)
    sparse = of_size(4 * _GIB, 40 * _KIB, 4 * _MIB)
    zeros = of_size(_GIB, _MIB, _MIB, zeros=True)
    msgmax = {f"{MESSAGES}, msgmax 8 KiB": 8 * _KIB, f"{MESSAGES}, msgmax 16 MiB": 16 * _MIB}
    usual, wide = msgmax
    few = Queues(1, some(1000), 64)
    shown = Queues(1, some(1_000_000), 80)

    return [
        dump("queues-dump", queues, {PEEKS_8K: ("peek", "8192")}, Ratio(MESSAGES, PEEKS_8K, 0.75)),
        restore(
            "queues-restore",
            queues,
            {MAKES_QUEUES: ("make-queues", *queues.numbers), SENDS: ("send", *queues.numbers)},
            Ratio(MESSAGES, MAKES_QUEUES, 1.3),
            Ratio(MESSAGES, SENDS),
        ),
        deep(20_000),
        deep(100_000),
        deep(1_000_000),
        dump("one-queue-in-use", one_queue, {PEEKS: ("peek", "0")}, Ratio(MESSAGES, PEEKS, 1.15)),
        Measurement(
            "msgmax",
            f"{few}: dump",
            functools.partial(_dumping_with_other_msgmax, content=few, msgmax=msgmax),
            (Ratio(wide, usual, 1.5),),
        ),
        dump(
            "many-queues-dump",
            many_queues,
            {PEEKS: ("peek", "0")},
            Ratio(MESSAGES, PEEKS, 2),
            Ratio(WHOLE, PEEKS),
        ),
        restore(
            "many-queues-restore",
            many_queues,
            {MAKES_QUEUES: ("make-queues", *many_queues.numbers)},
            Ratio(MESSAGES, MAKES_QUEUES, 2),
            Ratio(WHOLE, MAKES_QUEUES),
        ),
        dump(
            "many-sets-dump",
            many_sets,
            {GETS: ("get-all",)},
            Ratio(SEMAPHORES, GETS, 2),
            Ratio(WHOLE, GETS),
        ),
        restore(
            "many-sets-restore",
            many_sets,
            {MAKES_SETS: ("make-sets", *many_sets.numbers)},
            Ratio(SEMAPHORES, MAKES_SETS, 2),
            Ratio(WHOLE, MAKES_SETS),
        ),
        dump(
            "dense-dump",
            dense,
            {COPY: ("copy-out", ".", *dense.numbers), FAULTS: ("copy-out-by-faults", ".", *dense.numbers)},
            Ratio(WHOLE, COPY, 1.25),
            Ratio(WHOLE, FAULTS),
        ),
        Measurement(
            "dense-dump-again",
            f"{dense}, 1 in 128 pages changed: dump",
            functools.partial(_dumping_again, content=dense, changed=changed),
            (Ratio(SINCE, FIRST),),
        ),
        restore("dense-restore", dense, {COPY: ("copy-in", "pages-1.img", *dense.numbers)}, Ratio(WHOLE, COPY, 1.25)),
        dump(
            "sparse-dump",
            sparse,
            {COPY: ("copy-out", ".", *sparse.numbers)},
            Ratio(WHOLE, COPY, 1.5, less=START),
            start=True,
        ),
        restore(
            "sparse-restore",
            sparse,
            {COPY: ("copy-in", "pages-1.img", *sparse.numbers)},
            Ratio(WHOLE, COPY, 1.5, less=START),
            start=True,
        ),
        dump("zeros", zeros, {}),
        Measurement("empty", "nothing: dump", _starting, (Ratio(_COMMAND, _PYTHON, 5),)),
        Measurement(
            "show",
            f"{shown}: show",
            functools.partial(_showing, content=shown),
            (Ratio(SUMMARY, CRIT, 0.1), Ratio(LISTING, CRIT, 0.75), Ratio(OF_ARCHIVE, OF_SET)),
            SHOWING_AT_MOST,
        ),
    ]
