"""From what is asked for to what is printed: which view of a subject it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import codec, describe, model
from ..errors import ObjectError
from . import columns, contents, full, message, pictures, source, summary, table
from .columns import FOUND, LIMITS, MESSAGES, Found, Kind, Numbered
from .contents import Content
from .problems import Problems
from .request import Request, Wanted
from .subject import Subject, Unknown

_TITLES = {"var": "settings", **{kind: f"{name}s" for kind, name in model.NAMES.items()}}


@dataclass(frozen=True, slots=True)
class Place:
    """What has contents: a segment or a message."""

    name: str  # "shm:3", or "msg:7[0]" for the first message of a queue
    words: str  # about it
    content: Content
    is_message: bool = False


class Answer:
    """What there is to print of one subject after the other."""

    def __init__(self, request: Request) -> None:
        self.request, self._view, self._layout = request, request.view, request.layout
        self._missing = set(request.objects)  # that no subject had so far
        self._unfit: set[Wanted] = set()  # that are there, and have nothing of what is asked for
        self._found = False  # any message, or match, that fits
        self._without: set[str] | None = None  # kinds that are listed and that no subject had an image for

    @property
    def lacks(self) -> str | None:
        """What was asked for and was not there, in words; None where nothing is missing."""
        # Beyond a limit nobody has looked.
        if self._missing and (self.request.limit is None or len(self._missing) == len(set(self.request.objects))):
            return f"there is no {', '.join(sorted(map(str, self._missing)))}"
        if self._unfit:
            return f"{', '.join(sorted(map(str, self._unfit)))}: of a kind that has nothing of what is asked for"
        if self.request.asks_for_some and not self._found:
            return "nothing fits what is asked for"
        if self._without:
            return f"no image with {' and '.join(_TITLES[kind] for kind in sorted(self._without))}"
        return None

    def pieces(self, subject: Subject, verified: bool | None) -> Iterator[str]:
        """The view of a subject that is asked for. verified: None where nobody has tried. Raises IpcimgError."""
        yield from self._view_of(subject, verified)
        self.note_unfit(subject)

    def note_unfit(self, subject: Subject) -> None:
        """See which of the objects that were not met are there, of a kind that lacks what is asked for."""
        if self._missing and self.request.limit is None:
            for kind, one in subject.objects():
                self._unfit |= {wanted for wanted in self._missing if wanted.is_it(kind, one)}
            self._missing -= self._unfit

    def _view_of(self, subject: Subject, verified: bool | None) -> Iterator[str]:
        request = self.request
        if request.json == "crit":
            return self._crit(subject)
        if request.json == "lines":
            from . import lines

            return lines.pieces(subject, request, self)
        if request.looks_into_contents:
            return self._contents(subject)
        if request.lists_messages:
            return self._messages(subject)
        if request.objects and self._layout.format == "list" and not self._layout.forced:
            return self._in_full(subject)
        if request.objects or request.kinds or self._layout.format != "list":
            return table.several(self._tables(subject), self._layout, self._view)
        return summary.pieces(subject, self._view, self._layout, verified)

    # ---- what is meant ----

    def chosen(self, subject: Subject, kinds: Iterable[str]) -> Iterator[tuple[str, model.Object]]:
        """The objects of these kinds that are meant, each with its kind."""
        for kind in kinds:
            for one in subject.of_kind(kind) or ():
                if self.means(kind, one):
                    yield kind, one

    def means(self, kind: str, one: model.Object) -> bool:
        """Is this object meant, as far as objects are named? Then it is not missing."""
        named = {wanted for wanted in self.request.objects if wanted.is_it(kind, one)}
        self._missing -= named
        return bool(named) or not self.request.objects

    def numbered(self, subject: Subject) -> Iterator[Numbered]:
        """The messages that are meant, of all queues that are meant."""
        for _, queue in self.chosen(subject, ["msg"]):
            if isinstance(queue, model.MessageQueue):
                yield from self.messages_of(subject, queue)

    def messages_of(self, subject: Subject, queue: model.MessageQueue) -> Iterator[Numbered]:
        """The messages of a queue that are meant."""
        for one in subject.problems.within(self.request.filter.of(queue)):
            self._found = self._found or not self.request.looks_into_contents
            yield one

    def _segments(self, subject: Subject) -> Iterator[model.SharedMemory]:
        """The segments that are meant, as far as their data can be had."""
        for _, segment in self.chosen(subject, ["shm"]):
            if isinstance(segment, model.SharedMemory) and not isinstance(segment.extents, Unknown):
                yield segment

    def _places(self, subject: Subject) -> Iterator[Place]:
        """Segments and messages that are meant; without names, segments only where texts are looked for."""
        wanted = self.request
        kinds = wanted.tables() if wanted.kinds or wanted.objects or wanted.contents == "strings" else ("msg",)
        if wanted.messages or wanted.filter.is_of_messages:
            kinds = ("msg",)
        if "shm" in kinds:
            for segment in self._segments(subject):
                place = Place(f"shm:{segment.permissions.id}", f"{segment.size} bytes", contents.of(segment))
                if self._has_match(subject, place):
                    yield place
        if "msg" in kinds:
            for one in self.numbered(subject):
                words = f"type {one.message.type}, {len(one.message.body)} bytes"
                yield Place(f"msg:{one.queue}[{one.n}]", words, contents.of(one.message), is_message=True)
        if "sem" in kinds and wanted.objects:
            for _, semaphores in self.chosen(subject, ["sem"]):
                named = semaphores.permissions.named("sem")
                subject.problems.report(ObjectError(f"{named} has values, and no contents"))

    def _has_match(self, subject: Subject, place: Place) -> bool:
        pattern = self.request.filter.pattern
        if pattern is None:
            return True
        return next(subject.problems.within(contents.search(place.content, pattern)), None) is not None

    # ---- views ----

    def _crit(self, subject: Subject) -> Iterator[str]:
        from .. import critjson

        for image in subject.images:
            ended = True
            for piece in subject.problems.within(critjson.pieces(image, codec.kind_of(image), subject.page_size)):
                ended = piece.endswith("\n")
                yield piece
            if not ended:  # what comes next is another document
                yield "\n"

    def _tables(self, subject: Subject) -> list[tuple[Kind, Iterable[object]]]:
        found: list[tuple[Kind, Iterable[object]]] = []
        if self._without is None:
            self._without = set(self.request.kinds)
        for kind in self.request.kinds or self.request.tables():
            if subject.has(kind):
                self._without.discard(kind)
            if kind == "var":
                if subject.variables is not None:
                    used = summary.totals(subject) if subject.is_set else None
                    found.append((LIMITS, summary.resources(subject.variables, used)))
            elif subject.of_kind(kind) is not None:
                found.append((columns.KINDS[kind], (one for _, one in self.chosen(subject, [kind]))))
        return found

    def _in_full(self, subject: Subject) -> Iterator[str]:
        before = ""
        for kind, one in self.chosen(subject, self.request.tables()):
            yield before
            yield from full.pieces(subject, kind, one, self._view)
            before = "\n"

    def _messages(self, subject: Subject) -> Iterator[str]:
        tables: list[tuple[Kind, Iterable[object]]] = [(MESSAGES, self.numbered(subject))]
        wanted = self.request.filter
        if wanted.pattern is not None and not wanted.is_of_messages and subject.segments is not None:
            tables.append((FOUND, self._matches(subject)))
        return table.several(tables, self._layout, self._view)

    def _matches(self, subject: Subject) -> Iterator[Found]:
        pattern = self.request.filter.pattern
        if pattern is None or "shm" not in self.request.tables():
            return
        for segment in self._segments(subject):
            for offset, match in subject.problems.within(contents.search(contents.of(segment), pattern)):
                self._found = True
                text = describe.preview(match) if self._view.truncate else describe.preview(match, len(match))
                yield Found(f"shm:{segment.permissions.id}", offset, text)

    def _contents(self, subject: Subject) -> Iterator[str]:
        how, view = self.request.contents or "hex", self._view
        if how == "strings":
            return table.several([(FOUND, self._strings(subject))], self._layout, view)
        places = itertools.islice(self._in_range(subject), self.request.limit)
        return itertools.chain.from_iterable(self._shown(subject, place, how) for place in places)

    def _in_range(self, subject: Subject) -> Iterator[Place]:
        """Those that have anything in the range that is asked for."""
        start, _ = self.request.range or (0, None)
        for place in self._places(subject):
            if not start or start < place.content.length:
                yield place

    def _shown(self, subject: Subject, place: Place, how: str) -> Iterator[str]:
        if how == "text" and not place.is_message:
            why = f"{place.name} is a segment, and no text: there are --strings and --hex"
            subject.problems.report(ObjectError(why))
            return
        self._found = True
        start, end = place.content.clip(*(self.request.range or (0, None)))
        yield f"{pictures.title(f'{place.name}: {place.words}', self._view)}\n"
        if how == "text":
            yield from message.text_lines(place.content.read(start, end - start))
        else:
            yield from subject.problems.within(contents.hex_lines(place.content, start, end))

    def _strings(self, subject: Subject) -> Iterator[Found]:
        for place in self._in_range(subject):
            start, end = place.content.clip(*(self.request.range or (0, None)))
            for offset, text in subject.problems.within(contents.strings(place.content, self.request.least)):
                if start <= offset < end:
                    self._found = True
                    yield Found(place.name, offset, text)

    # ---- bytes as they are ----

    def some_places(self, subject: Subject) -> list[Place]:
        """What is meant; of more than one two are enough to say so."""
        found = list(itertools.islice(self._in_range(subject), 2))
        self._found = self._found or bool(found)
        return found


def pieces(path: str, ns_id: int | None, request: Request, problems: Problems) -> Iterator[str]:
    """The answer about all that path names; see source.subjects(). Raises IpcimgError."""
    answer = Answer(request)
    for subject in source.subjects(path, ns_id, problems):
        yield from answer.pieces(subject, None)
