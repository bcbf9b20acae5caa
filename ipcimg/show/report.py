"""The report: one page with all of the subjects in words, tables and pictures, which needs nothing but a browser.

It is written while images are read, so memory does not grow with them. Images may come from anywhere: nothing in them
becomes markup (markup.py), and the page's own policy forbids scripts, requests and any other style (style.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from .. import __version__, describe, model
from ..interrupts import handled
from ..newfile import new_file
from . import columns, grid, summary
from .answer import Answer
from .markup import Markup, tag, within
from .panels import Panels
from .style import POLICY, STYLE
from .subject import Subject
from .summary import Totals, many
from .view import View

_Object = TypeVar("_Object", bound=model.Object)

STANDARD_OUTPUT = "-"
_BLOCK = 1 << 16  # characters that are written at once
_IN_FULL = 500  # objects of a kind that have a panel; all are in the table
_CHIPS = 24  # links to objects of a kind at the top
_RUNS = 10_000  # of a page map that came alone
_PROBLEMS = 100  # links to what could not be read


def write(path: str, subjects: Iterable[Subject], answer: Answer) -> None:
    """Write the page into the new file path, or to standard output. All subjects have the same Problems.

    Without any subject nothing is written; on any error no file is left. Raises DirectoryError, also where the file is
    there already, Interrupted, and whatever iterating the subjects raises.
    """
    rest = iter(subjects)
    first = next(rest, None)
    if first is None:
        return
    blocks = _blocks(_Page(answer).pieces(first, rest))
    if path == STANDARD_OUTPUT:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(blocks)
        return
    with handled(), new_file(path) as file:
        file.writelines(blocks)


def _blocks(pieces: Iterable[str]) -> Iterator[bytes]:
    """The pieces in UTF-8, many at once."""
    block: list[str] = []
    size = 0
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield "".join(block).encode()
            block, size = [], 0
    yield "".join(block).encode()


@dataclass(frozen=True, slots=True)
class _PageView(View):
    """How values look on a page."""

    def moment(self, seconds: int) -> str:
        """As short as it can be said: the page says once that times are in UTC."""
        iso = self.time_format == "iso"
        return describe.moment(seconds) if seconds and iso else View.moment(self, seconds)


class _Page:
    """Makes the page, piece by piece."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._request = answer, answer.request
        self._view = _PageView(**{**dataclasses.asdict(answer.request.view), "color": False, "unicode": True})
        self._panels = Panels(self._view)
        self._told = 0  # problems that are in the page

    def pieces(self, first: Subject, rest: Iterator[Subject]) -> Iterator[Markup]:
        """The page."""
        yield Markup("<!DOCTYPE html>\n")
        yield from within("html", self._document(first, rest), lang="en")

    def _document(self, first: Subject, rest: Iterator[Subject]) -> Iterator[Markup]:
        yield tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", f"{_heading(first)} · {first.name}"),
            tag("style", Markup(STYLE)),
        )
        yield from within("body", self._body(first, rest))

    def _body(self, first: Subject, rest: Iterator[Subject]) -> Iterator[Markup]:
        see = tag("a", "see what", href="#end")
        # Shown by the style where there are problems, which is not known before the end.
        yield tag("p", "Not all could be read: ", see, class_="problem notice", hidden="")
        for n, subject in enumerate(itertools.chain([first], rest), 1):
            yield from within("main" if n == 1 else "section", self._subject(subject, f"s{n}"), class_="subject")
        yield from self._problems(first)
        yield tag("footer", *self._footer(first), id="end")

    def _footer(self, first: Subject) -> Iterator[Markup]:
        if first.problems.count:
            links = (tag("a", str(n), href=f"#problem-{n}") for n in range(1, min(self._told, _PROBLEMS) + 1))
            listed = itertools.chain.from_iterable((" ", link) for link in links)
            count = f"What could not be read: {many(first.problems.count, 'problem')}."
            yield tag("p", count, *listed, id="problems", class_="warns")
        yield tag(
            "p", f"ipcimg-show {__version__}. Times are in UTC; {grid.UNKNOWN} stands for what the images do not tell."
        )

    def _problems(self, subject: Subject) -> Iterator[Markup]:
        """What could not be read since this was last asked for."""
        for text in list(subject.problems.said)[self._told :]:  # a copy: there may be more at any time
            self._told += 1
            yield tag("p", text, class_="problem", id=f"problem-{self._told}")

    # ---- one subject ----

    def _subject(self, subject: Subject, anchor: str) -> Iterator[Markup]:
        verified = subject.is_as_written() if self._request.verify else None
        found = summary.totals(subject)
        shown = self._meant(subject)
        yield tag(
            "header",
            tag("p", "ipcimg report", class_="eyebrow"),
            tag("h1", _heading(subject)),
            tag("p", subject.name, class_="where"),
        )
        yield from self._problems(subject)
        yield from self._facts(subject, found, verified)
        yield from self._tiles(shown, found if shown is subject else summary.totals(shown), anchor)
        for kind in model.NAMES:
            yield from self._objects(shown, kind, f"{anchor}-{kind}")
        if shown.variables is not None:
            settings = list(summary.resources(shown.variables, found if subject.is_set else None))
            yield tag("h2", columns.LIMITS.title, id=f"{anchor}-var")
            yield from self._table(columns.LIMITS, settings)
        if subject.pagemap is not None:
            pages_id, runs = subject.pagemap
            yield tag("h2", columns.RUNS.title, tag("small", f"in pages-{pages_id}.img"))
            yield from self._table(columns.RUNS, model.Again(lambda: itertools.islice(runs, _RUNS)))
            left = sum(1 for _ in itertools.islice(runs, _RUNS, None))
            if left:
                yield tag("p", f"{left} more are not in this page.", class_="note")
        yield from self._problems(subject)

    def _meant(self, subject: Subject) -> Subject:
        """The subject with those objects alone that are asked for."""
        kinds, objects = self._request.kinds, self._request.objects
        if not kinds and not objects:
            return subject
        return dataclasses.replace(
            subject,
            segments=self._those(subject, subject.segments, "shm"),
            queues=self._those(subject, subject.queues, "msg"),
            semaphores=self._those(subject, subject.semaphores, "sem"),
            variables=subject.variables if "var" in kinds else None,
        )

    def _those(self, subject: Subject, objects: Iterable[_Object] | None, kind: str) -> Iterable[_Object] | None:
        kinds = self._request.kinds
        if objects is None or (kinds and kind not in kinds):
            return None
        return model.Again(lambda: (one for one in objects if self._answer.means(kind, one)))

    def _facts(self, subject: Subject, found: Totals, verified: bool | None) -> Iterator[Markup]:
        facts = [
            part
            for fact in summary.facts(subject, found, self._view, verified)
            for part in (
                *([tag("dt", fact.label)] if fact.label else []),
                tag("dd", fact.text, class_="warns" if fact.warns else None),
            )
        ]
        if facts:
            yield tag("dl", *facts, class_="facts")

    def _tiles(self, shown: Subject, found: Totals, anchor: str) -> Iterator[Markup]:
        """How many objects there are of each kind, with links to the first."""
        size, stored = self._view.size, found.data_bytes
        words = {
            "shm": (found.segments, size(found.segment_bytes) + (f", {size(stored)} of it stored" if stored else "")),
            "msg": (found.queues, f"{many(found.messages, 'message')}, {size(found.message_bytes)}"),
            "sem": (found.sets, many(found.semaphores, "semaphore")),
        }
        tiles = []
        for kind, (count, holds) in words.items():
            objects = shown.of_kind(kind)
            if objects is None or not count:
                continue
            chips = [
                tag("li", tag("a", f"{kind}:{one.permissions.id}", href=f"#{anchor}-{kind}-{n}"))
                for n, one in enumerate(itertools.islice(objects, _CHIPS))
            ]
            if count > _CHIPS:
                chips.append(tag("li", tag("a", f"{count - _CHIPS} more", href=f"#{anchor}-{kind}")))
            head = tag("a", tag("b", str(count)), _plural(kind, count), href=f"#{anchor}-{kind}")
            tiles.append(tag("div", head, tag("p", holds), tag("ul", *chips), class_="tile"))
        if tiles:
            yield tag("nav", *tiles, class_="tiles", aria_label="Objects")

    def _objects(self, shown: Subject, kind: str, anchor: str) -> Iterator[Markup]:
        """The table of all objects of a kind, and the panels of the first."""
        objects = shown.of_kind(kind)
        if objects is None or next(iter(objects), None) is None:
            return
        this = columns.KINDS[kind]
        yield tag("h2", this.title, id=anchor)
        yield from self._table(this, objects, lambda n: f"#{anchor}-{n}" if n < _IN_FULL else None)
        yield from self._problems(shown)
        rest = iter(objects)
        for n, one in enumerate(itertools.islice(rest, _IN_FULL)):
            yield from self._panels.panel(shown, kind, one, f"{anchor}-{n}")
            yield from self._problems(shown)
        left = sum(1 for _ in rest)
        if left:
            yield tag("p", f"{left} more are in the table alone.", class_="note")

    def _table(
        self, kind: columns.Kind, things: Iterable[object], link: Callable[[int], str | None] = lambda n: None
    ) -> Iterator[Markup]:
        chosen = grid.with_values(kind, things, self._view)
        yield from grid.table(kind, chosen, things, self._view, link)


def _heading(subject: Subject) -> str:
    return f"IPC namespace {subject.ns_id}" if subject.is_set else "Image"


def _plural(kind: str, count: int) -> str:
    return f" {model.NAMES[kind]}" + ("" if count == 1 else "s")
