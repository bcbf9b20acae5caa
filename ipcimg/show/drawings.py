"""Numbers as pictures of a page: bars, histograms, the map of a segment, the values of a semaphore set.

Lengths are attributes of SVG's elements and colours are classes of style.py, as the page allows itself no style
attributes. What a colour says is said in words too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from .. import model
from .markup import Markup, tag
from .pages import Cell
from .view import View

_ROW = 64  # cells of a row of a page map at most
_LEAST = 16  # and at least, so that small segments are small
_LEVELS = 4  # of colours
_FULL = 0.9  # a bar that is longer is one to look at


def percent(part: int, whole: int) -> str:
    """A share in words."""
    share = 100 * part / whole if whole else 0.0
    return "<0.1%" if 0 < share < 0.05 else f"{share:.1f}%"


def bar(part: int, whole: int, what: str, *, warns: bool = True) -> Markup:
    """How much of a whole there is, full where it is more; what says it to those who do not see it.

    warns: is it something to look at when little is left?
    """
    share = min(part / whole, 1.0) if whole else 0.0
    kind = "full" if warns and share > _FULL else "part"
    return tag(
        "svg",
        tag("rect", class_="track", width="100%", height="100%"),
        tag("rect", class_=kind, width=f"{100 * share:.2f}%", height="100%"),
        class_="bar",
        role="img",
        aria_label=what,
    )


def histogram(title: str, rows: Sequence[tuple[str, int]]) -> Markup:
    """A bar for each label, as long as its number is large among them."""
    most = max((count for _, count in rows), default=0)
    drawn = (
        tag(
            "tr",
            tag("th", label, scope="row"),
            tag("td", _plain_bar(count, most), class_="drawn"),
            tag("td", str(count), class_="number"),
        )
        for label, count in rows
    )
    return tag("table", tag("caption", title), tag("tbody", *drawn), class_="histogram")


def _plain_bar(part: int, whole: int) -> Markup:
    """A bar with its number beside it."""
    rect = tag("rect", class_="part", width=f"{100 * part / whole:.2f}%", height="100%")
    return tag("svg", rect, class_="bar", aria_hidden="true")


# ---- segments ------------------------------------------------------------------------------


def page_map(cells: Sequence[Cell], view: View) -> Markup:
    """A box for each cell, in rows that begin with their offsets, and what the colours mean."""
    wide = min(max(len(cells), _LEAST), _ROW)
    digits = len(f"{cells[-1].offset:x}")
    rows = (
        tag(
            "tr",
            tag("th", f"{cells[start].offset:#0{digits + 2}x}", scope="row"),
            tag("td", _row(cells[start : start + wide], wide, view), class_="drawn"),
        )
        for start in range(0, len(cells), wide)
    )
    words = " · ".join(_usage(cells, view))
    return Markup(
        tag("table", tag("caption", words), tag("tbody", *rows), class_="map") + _legend(view.size(cells[0].length))
    )


def _usage(cells: Iterable[Cell], view: View) -> Iterator[str]:
    """What the cells are all together."""
    length = data = zeros = busy = 0
    for cell in cells:
        length, data, zeros, busy = length + cell.length, data + cell.data, zeros + cell.zeros, busy + cell.busy
    for words, size in (("in pages with data", data), ("in stored zeros", zeros), ("in holes", length - data - zeros)):
        if size:
            yield f"{view.size(size)} {words}"
    yield f"{percent(busy, length)} of all bytes are not zero"


def _row(cells: Sequence[Cell], wide: int, view: View) -> Markup:
    """A row of a map. Cells that look the same are one box, over which the lines between them are drawn."""
    boxes, at = [], 0
    for look, same in itertools.groupby(cells, _look):
        these = list(same)
        boxes.append(
            tag("rect", tag("title", _words(these, view)), class_=look, x=at, width=len(these), height="1")  # of cells
        )
        at += len(these)
    between = "".join(f"M{n} 0V1" for n in range(1, wide))
    return tag(
        "svg",
        *boxes,
        tag("path", d=between, class_="between"),
        viewBox=f"0 0 {wide} 1",
        preserveAspectRatio="none",
        class_="cells" if wide == _ROW else "cells few",
        role="img",
        aria_label=_words(cells, view),
    )


def _look(cell: Cell) -> str:
    """The class of a cell."""
    if cell.data:
        return f"level{1 + min(_LEVELS * cell.busy // cell.length, _LEVELS - 1)}"
    return "zeros" if cell.zeros else "hole"


def _words(cells: Sequence[Cell], view: View) -> str:
    start, end = cells[0].offset, cells[-1].offset + cells[-1].length
    return f"{start:#x} to {end:#x}: {', '.join(_usage(cells, view))}"


def _legend(each: str) -> Markup:
    named = [("hole", "hole"), ("zeros", "stored zeros")]
    named += [(f"level{n}", f"up to {100 * n // _LEVELS}%") for n in range(1, _LEVELS + 1)]
    swatches = (
        tag("li", tag("svg", tag("rect", class_=look, width="100%", height="100%"), aria_hidden="true"), words)
        for look, words in named
    )
    return tag("ul", tag("li", f"each box {each}"), *swatches, tag("li", "of its bytes are not zero"), class_="legend")


# ---- semaphores ----------------------------------------------------------------------------


def values(one: model.SemaphoreSet, at_most: int) -> Markup:
    """A box for each of the first semaphores with its number and value, the darker the larger that is among them."""
    shown = one.values[:at_most]
    pids = itertools.repeat(None) if one.facts is None else one.facts.sempid
    most = max(shown, default=0)
    boxes = (
        tag("li", tag("small", str(n)), f" {value}", class_=_shade(value, most), title=_told(n, value, pid))
        for n, (value, pid) in enumerate(zip(shown, pids, strict=False))
    )
    return tag("ol", *boxes, class_="values")


def _shade(value: int, most: int) -> str:
    return f"shade{-(-_LEVELS * value // most)}" if most else "shade0"


def _told(n: int, value: int, pid: int | None) -> str:
    user = "" if pid is None else f", last used by process {pid}" if pid else ", never used"
    return f"semaphore {n}: {value}{user}"
