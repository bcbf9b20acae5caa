"""One object in full: all that is known of it, in words and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from .. import model
from ..errors import ImageError
from . import columns, message, pages, pictures, table
from .columns import ELEMENTS, MESSAGES, Column, Numbered, Semaphore
from .subject import Subject, Unknown
from .view import View

_MESSAGES = 10  # that are listed
_CELLS = 1024  # of a page map
_LABELS = 42  # columns


def pieces(subject: Subject, kind: str, one: model.Object, view: View) -> Iterator[str]:
    """The object. What of it cannot be read is reported."""
    yield f"{pictures.title(one.permissions.named(kind), view)}\n"
    for column in columns.KINDS[kind].columns.values():
        if column.name not in _ELSEWHERE:
            yield from _line(column, one, view)
    if isinstance(one, model.MessageQueue):
        yield from _queue(subject, one, view)
    elif isinstance(one, model.SemaphoreSet):
        yield "\n"
        yield from table.lines(ELEMENTS, _elements(one), table.Layout(), view)
    elif not isinstance(one.extents, Unknown):
        yield from _segment(subject, one, view)


_ELSEWHERE = {"FILL", "VALUES", "SEMPID", "OWNER"}  # said by other columns, or below


def _line(column: Column, one: Any, view: View) -> Iterator[str]:
    value = column.of(one)
    if value is not None and (text := column.sort.text(value, view)):
        label = column.help.partition(":")[0]
        yield f"{label[0].upper()}{label[1:]}:".ljust(_LABELS) + f"{text}\n"


def _elements(one: model.SemaphoreSet) -> Iterator[Semaphore]:
    pids = itertools.repeat(None) if one.facts is None else one.facts.sempid
    return (Semaphore(n, value, pid) for n, (value, pid) in enumerate(zip(one.values, pids, strict=False)))


def _queue(subject: Subject, queue: model.MessageQueue, view: View) -> Iterator[str]:
    if not queue.qnum:
        return
    within, msqid = subject.problems.within, queue.permissions.id
    yield from message.histograms(message.survey(within(queue.messages)), view)
    yield f"\n{pictures.title('Messages', view)}\n"
    first = (Numbered(msqid, n, one) for n, one in enumerate(itertools.islice(within(queue.messages), _MESSAGES)))
    yield from table.lines(MESSAGES, first, table.Layout(columns=("N", "TYPE", "SIZE", "TEXT")), view)
    if queue.qnum > _MESSAGES:
        yield f"… and {queue.qnum - _MESSAGES} more (-i msg:{msqid} --messages)\n"


def _segment(subject: Subject, segment: model.SharedMemory, view: View) -> Iterator[str]:
    try:
        cells = list(pages.page_map(segment, subject.page_size, _CELLS))
    except ImageError as error:
        subject.problems.report(error)
        return
    used = pages.usage(cells, subject.page_size)
    really = f"{view.size(used.busy)} of {view.size(used.size)} are not zero, {used.share:.2%}"
    yield "Really used:".ljust(_LABELS) + f"{really}\n"
    yield "Pages:".ljust(_LABELS) + f"{used.words()}\n\n"
    yield from pages.picture(cells, view)
