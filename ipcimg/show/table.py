"""Rows of a table in the formats of lsipc(1): list, raw, export, one value a line, JSON.

Text comes in pieces that end with a newline, and streams: a list is aligned block by block, so memory does not grow
with the image. Only sorting needs all rows at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import pictures
from .columns import BAR, Column, Kind
from .view import View

_BLOCK = 4096  # rows that are aligned to each other, at most
_SIZE = 1 << 20  # characters of them, about
UNKNOWN = "-"  # for what the image does not tell


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of which rows, in which format and order."""

    format: str = "list"  # a key of _FORMATS
    headings: bool = True
    columns: tuple[str, ...] = ()  # instead of those that a kind shows by itself
    more: tuple[str, ...] = ()  # beside them, as far as the kind has them
    times: bool = False
    pids: bool = False
    sort: tuple[str, bool] | None = None  # by a column; downwards?
    at_most: int | None = None  # rows
    forced: bool = False  # a table also where one object is named

    def of(self, kind: Kind) -> list[Column]:
        """The columns of a kind: of those that are asked for the ones it has."""
        if self.columns:
            return kind.chosen([name for name in self.columns if name in kind.columns])
        names = [name for name in kind.shown if self.format == "list" or name not in kind.only_tables]
        names += [name for name in self.more if name in kind.columns]
        names += [*(kind.times if self.times else ()), *(kind.pids if self.pids else ())]
        return kind.chosen(list(dict.fromkeys(names)))


def lines(kind: Kind, things: Iterable[Any], layout: Layout, view: View, hint: str = "") -> Iterator[str]:
    """The table of the things of a kind. hint is how to get at the rows beyond layout.at_most, which it counts."""
    columns = layout.of(kind)
    rows = _sorted(kind, things, layout, None if hint else layout.at_most)
    if layout.at_most is not None:
        rows = iter(rows)
        yield from _FORMATS[layout.format](columns, itertools.islice(rows, layout.at_most), layout, view)
        left = sum(1 for _ in rows) if hint else 0
        if left:
            yield f"… and {left} more ({hint})\n"
        return
    yield from _FORMATS[layout.format](columns, rows, layout, view)


def several(tables: Sequence[tuple[Kind, Iterable[Any]]], layout: Layout, view: View) -> Iterator[str]:
    """Tables below each other, those without rows left out; or one JSON document of all."""
    if layout.format == "json":
        separator = "{"
        for kind, things in tables:
            yield f'{separator}\n   "{kind.json_name}": ['
            yield from lines(kind, things, layout, view)
            yield "   ]"
            separator = ","
        yield "\n}\n" if tables else "{}\n"
        return
    tables = [(kind, things) for kind, things in tables if layout.of(kind)]
    titled = len(tables) > 1 and layout.format == "list" and layout.headings
    before = ""
    for kind, things in tables:
        pieces = lines(kind, things, layout, view)
        first = next(pieces, None)
        if first is None:
            continue
        yield f"{before}{pictures.title(kind.title, view)}\n{first}" if titled else first
        yield from pieces
        before = "\n"


def _sorted(kind: Kind, things: Iterable[Any], layout: Layout, at_most: int | None) -> Iterable[Any]:
    """In the order that is asked for. Without at_most all are in memory at once."""
    if layout.sort is None or layout.sort[0] not in kind.columns:
        return things
    name, downwards = layout.sort
    column = kind.columns[name]

    def by(thing: Any) -> tuple[bool, Any]:
        value = column.of(thing)
        if value is None:
            return (not downwards, 0)  # what is not known comes last either way
        return (downwards, column.sort.order(value))

    if at_most is not None:
        return (heapq.nlargest if downwards else heapq.nsmallest)(at_most, things, key=by)
    return sorted(things, key=by, reverse=downwards)


def _texts(columns: Sequence[Column], things: Iterable[Any], view: View) -> Iterator[tuple[str, ...]]:
    """A row for each thing."""
    cells = [(column.of, column.sort.texts(view)) for column in columns]
    for thing in things:
        yield tuple([UNKNOWN if (value := of(thing)) is None else text(value) for of, text in cells])


def _list(columns: Sequence[Column], things: Iterable[Any], layout: Layout, view: View) -> Iterator[str]:
    heads = [tuple(column.name for column in columns)] if layout.headings else []
    texts, titled = _texts(columns, things, view), layout.headings
    while rows := _block(texts):
        lines = _aligned(columns, heads, rows, view)
        if heads and (head := next(lines)) and titled:
            yield f"{pictures.title(head, view)}\n"
            titled = False  # what follows is aligned to it
        for line in lines:
            yield f"{line}\n"


def _block(texts: Iterator[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Some rows, which are aligned to each other: fewer where they are long."""
    rows: list[tuple[str, ...]] = []
    size = 0
    for row in itertools.islice(texts, _BLOCK):
        rows.append(row)
        size += sum(map(len, row))
        if size > _SIZE:
            break
    return rows


def _aligned(
    columns: Sequence[Column], heads: list[tuple[str, ...]], rows: list[tuple[str, ...]], view: View
) -> Iterator[str]:
    """Columns as wide as what is in them."""
    widths = [max(map(len, cells)) for cells in zip(*heads, *rows, strict=True)]
    whole = " ".join(f"%{'' if one.sort.right else '-'}{width}s" for one, width in zip(columns, widths, strict=True))
    bars = [n for n, column in enumerate(columns) if column.sort is BAR] if view.color else []
    yield from ((whole % head).rstrip() for head in heads)
    for row in rows:
        yield (whole % (_painted(row, bars, widths, view) if bars else row)).rstrip()


def _painted(row: tuple[str, ...], bars: Sequence[int], widths: Sequence[int], view: View) -> tuple[str, ...]:
    """The row with its bars in colour, which are as wide as their columns before: a colour has no width."""
    cells = list(row)
    for n in bars:
        cells[n] = pictures.level(row[n].ljust(widths[n]), view)
    return tuple(cells)


def _raw(columns: Sequence[Column], things: Iterable[Any], layout: Layout, view: View) -> Iterator[str]:
    if layout.headings:
        yield " ".join(column.name for column in columns) + "\n"
    for row in _texts(columns, things, view):
        yield " ".join(map(_without_blanks, row)) + "\n"


def _escapes(characters: str) -> dict[int, str]:
    return {ord(c): f"\\x{ord(c):02x}" for c in characters}


_IN_RAW, _IN_QUOTES = _escapes(" \\"), _escapes('"\\$`')


def _without_blanks(text: str) -> str:
    """A cell of raw format: as libsmartcols has it, blanks are written as \\x20."""
    return text.translate(_IN_RAW) or "\\x20"


def _export(columns: Sequence[Column], things: Iterable[Any], layout: Layout, view: View) -> Iterator[str]:
    del layout
    for row in _texts(columns, things, view):
        yield " ".join(_pairs(columns, row)) + "\n"


def _newline(columns: Sequence[Column], things: Iterable[Any], layout: Layout, view: View) -> Iterator[str]:
    del layout
    for n, row in enumerate(_texts(columns, things, view)):
        if n:
            yield "\n"
        for pair in _pairs(columns, row):
            yield f"{pair}\n"


def _pairs(columns: Sequence[Column], row: Sequence[str]) -> Iterator[str]:
    """NAME="value", to be read by a shell: what it would look into is escaped, and names are those of variables."""
    for column, text in zip(columns, row, strict=True):
        yield f'{column.name.replace("%", "_PCT")}="{text.translate(_IN_QUOTES)}"'


def _json(columns: Sequence[Column], things: Iterable[Any], layout: Layout, view: View) -> Iterator[str]:
    del layout
    import json  # few need it

    cells = [(column.json_name, column.of, column.sort.json) for column in columns]
    separator = "\n"
    for thing in things:
        row = {name: None if (value := of(thing)) is None else of_json(value, view) for name, of, of_json in cells}
        yield f"{separator}      {json.dumps(row)}"
        separator = ",\n"
    yield "\n"


_FORMATS: dict[str, Callable[[Sequence[Column], Iterable[Any], Layout, View], Iterator[str]]] = {
    "list": _list,
    "raw": _raw,
    "export": _export,
    "newline": _newline,
    "json": _json,
}
