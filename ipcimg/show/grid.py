"""Tables of a page: the columns of columns.py, with numbers to the right and shares as bars too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from . import columns, drawings
from .columns import Column, Kind
from .markup import Markup, tag, within
from .view import View

UNKNOWN = "–"  # what the image does not tell
_SAID_TWICE = {"FILL", "OWNER"}  # by the bar of USE%, and by UID

_CLASSES = {columns.KEY: "mono", columns.TIME: "time", columns.LIST: "wide"}


def with_values(kind: Kind, things: Iterable[Any], view: View) -> list[Column]:
    """The columns of a kind that at least one of the things has something in."""
    empty = {name: column for name, column in kind.columns.items() if name not in _SAID_TWICE}
    for thing in things:
        for name in [name for name, column in empty.items() if _has_text(column, thing, view)]:
            del empty[name]
        if not empty:
            break
    return [column for name, column in kind.columns.items() if name not in empty and name not in _SAID_TWICE]


def _has_text(column: Column, thing: Any, view: View) -> bool:
    value = column.of(thing)
    return value is not None and column.sort.text(value, view) != ""


def table(
    kind: Kind, chosen: Sequence[Column], things: Iterable[Any], view: View, link: Callable[[int], str | None]
) -> Iterator[Markup]:
    """A table with a row for each thing. link gives the address that the id of the n-th leads to, None for none."""

    def rows() -> Iterator[Markup]:
        for n, thing in enumerate(things):
            cells = (cell(kind, column, thing, view, link(n)) for column in chosen)
            yield Markup(tag("tr", *cells) + "\n")

    heads = (
        tag("th", column.name, scope="col", title=column.help, class_="number" if column.sort.right else None)
        for column in chosen
    )
    yield from boxed(kind.title, [tag("thead", tag("tr", *heads))], rows())


def boxed(title: str, head: Iterable[Markup], rows: Iterable[Markup]) -> Iterator[Markup]:
    """A table in a box of its own, which scrolls where it is too wide; title is for those who do not see it."""

    def parts() -> Iterator[Markup]:
        yield from head
        yield from within("tbody", rows)

    yield from within("div", within("table", parts()), class_="scroll", tabindex=0, role="region", aria_label=title)


def cell(kind: Kind, column: Column, thing: Any, view: View, link: str | None) -> Markup:
    """One cell."""
    value = column.of(thing)
    right = "number" if column.sort.right else None
    if value is None and kind is columns.LIMITS:
        return tag("td")  # there is nothing to know
    if value is None:
        return tag("td", UNKNOWN, class_=right, title="the image does not tell")
    if column.sort is columns.SHARE:
        part, whole = value
        text = drawings.percent(part, whole)
        # That all of a segment is used is nothing to look at.
        drawn = drawings.bar(part, whole, f"{column.help}: {text}", warns=kind is not columns.SEGMENTS)
        return tag("td", drawn, tag("span", text, class_="share"), class_=right)
    text = column.sort.text(value, view)
    if column.sort in _CLASSES:
        return tag("td", text, class_=_CLASSES[column.sort])
    if column.name == "ID" and link is not None:
        return tag("td", tag("a", text, href=link), class_=right)
    return tag("td", text, class_=right)
