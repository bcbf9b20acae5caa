"""The objects of a report in full: each in a panel with all that is known of it, and pictures of what it holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from .. import describe, model
from . import columns, contents, drawings, message, pages
from .columns import Column, used_bytes
from .grid import UNKNOWN, boxed
from .markup import Markup, lines, tag, within
from .subject import Subject, Unknown
from .summary import many
from .view import View

_CELLS = 1024  # of a page map
_MESSAGES = 100  # of a queue that are listed
_LISTED = 5000  # of all queues together: a page is to be looked at
_SHOWN = 512  # bytes of a message
_LINE = 96  # characters of them that are always there
_SEMAPHORES = 256  # of a set
_ELSEWHERE = {"KEY", "ID", "OWNER", "USE%", "FILL", "VALUES", "SEMPID"}  # in the heading, or in pictures


class Panels:
    """Makes the panels of a page, one after the other."""

    def __init__(self, view: View) -> None:
        self._view, self._left = view, _LISTED

    def panel(self, subject: Subject, kind: str, one: model.Object, anchor: str) -> Iterator[Markup]:
        """The panel of an object. What of it cannot be read is reported, and the rest is there."""

        def pieces() -> Iterator[Markup]:
            p = one.permissions
            key = [tag("small", f"key {describe.key(p.key)}", class_="mono")] if p.key else []
            yield tag("h3", f"{model.NAMES[kind].capitalize()} {p.id}", *key)
            facts = (self._fact(column, one) for column in columns.KINDS[kind].columns.values())
            yield tag("dl", *facts, class_="told")
            if isinstance(one, model.MessageQueue):
                yield from self._queue(subject, one)
            elif isinstance(one, model.SemaphoreSet):
                yield from self._semaphores(one)
            else:
                yield from self._segment(subject, one)

        yield from within("article", pieces(), class_="object", id=anchor)
        yield Markup("\n")

    def _fact(self, column: Column, one: Any) -> Markup:
        """What a column says; nothing where it has nothing to say."""
        value = column.of(one)
        text = UNKNOWN if value is None else column.sort.text(value, self._view)
        if not text and column.sort is columns.TIME:
            text = "never"
        if not text or column.name in _ELSEWHERE:
            return Markup()
        return tag("div", tag("dt", column.help), tag("dd", text))

    # ---- queues ----

    def _queue(self, subject: Subject, queue: model.MessageQueue) -> Iterator[Markup]:
        used, view = used_bytes(queue), self._view
        words = f"{view.size(used)} of {view.size(queue.qbytes)}, {drawings.percent(used, queue.qbytes)}"
        yield tag("div", tag("p", words), drawings.bar(used, queue.qbytes, words), class_="depth")
        if not queue.qnum:
            return
        seen = message.survey(subject.problems.within(queue.messages))
        yield tag(
            "div",
            drawings.histogram("Messages by type", seen.by_type()),
            drawings.histogram("Messages by size", seen.by_size()),
            class_="pair",
        )
        count = min(queue.qnum, _MESSAGES, self._left)
        self._left -= count
        if count:
            yield tag("h4", "Messages" if count == queue.qnum else f"The first {count} of {queue.qnum} messages")
            heads = [
                tag("th", name, scope="col", title=columns.MESSAGES.columns[name].help, class_=kind)
                for name, kind in (("N", "number"), ("TYPE", "number"), ("SIZE", "number"), ("TEXT", None))
            ]
            rows = itertools.islice(subject.problems.within(queue.messages), count)
            drawn = (self._message(n, one) for n, one in enumerate(rows))
            yield from boxed("Messages", [tag("thead", tag("tr", *heads))], drawn)
        if count < queue.qnum:
            how = f"ipcimg-show -i msg:{queue.permissions.id} --messages"
            yield tag("p", f"{queue.qnum - count} more are not in this page: ", tag("code", how), class_="note")

    def _message(self, n: int, one: model.Message) -> Markup:
        numbers = (tag("td", text, class_="number") for text in (str(n), str(one.type), self._view.size(len(one.body))))
        return Markup(tag("tr", *numbers, tag("td", _body(one.body), class_="content")) + "\n")

    # ---- the other kinds ----

    def _semaphores(self, one: model.SemaphoreSet) -> Iterator[Markup]:
        yield drawings.values(one, _SEMAPHORES)
        if one.nsems > _SEMAPHORES:
            how = f"ipcimg-show -i sem:{one.permissions.id}"
            yield tag("p", f"{one.nsems - _SEMAPHORES} more are not in this page: ", tag("code", how), class_="note")

    def _segment(self, subject: Subject, segment: model.SharedMemory) -> Iterator[Markup]:
        if isinstance(segment.extents, Unknown):
            yield tag("p", "Its pages are not in this image.", class_="note")
            return
        cells = list(subject.problems.within(pages.page_map(segment, subject.page_size, _CELLS)))
        yield drawings.page_map(cells, self._view) if cells else tag("p", "Its pages cannot be read.", class_="note")


def _body(body: bytes) -> Markup:
    """The first bytes of a message: a line of text, and behind it more of it and a hex dump."""
    if not body:
        return tag("span", "empty", class_="note")
    shown = body[:_SHOWN]
    text = describe.printable(shown.decode("utf-8", "backslashreplace"))
    more = "" if len(shown) == len(body) else "…"
    line = text + more if len(text) <= _LINE else text[:_LINE] + "…"
    inside = [tag("pre", text + more, class_="text")] if line != text + more else []
    inside.append(tag("pre", lines(line.rstrip() for line in contents.hex_lines(contents.of(model.Message(1, shown))))))
    if more:
        inside.append(tag("p", f"the first {len(shown)} of {many(len(body), 'byte')}", class_="note"))
    return tag("details", tag("summary", line), *inside)
