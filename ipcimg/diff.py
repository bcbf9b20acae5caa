"""The comparison of two namespaces: object by object, message by message, page by page. Knows no image and no kernel.

Each side is gone through once and by itself: what is collected from a kernel can be iterated only once, and only from
inside its namespace. Of messages and pages digests are kept, and those with the same one are taken for equal.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import heapq
import itertools
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import describe, model, pieces
from .errors import ChangedError, ObjectError

_NOT_EVERYWHERE = ("mq_msg_default", "mq_msgsize_default")  # None where the kernel has no such variable
_WORDS: dict[str, Callable[[Any], str]] = {
    "key": describe.key,
    "mode": "0{:03o}".format,
    "hugetlb_flag": "0{:o}".format,
    "sem_ctls": lambda numbers: " ".join(map(str, numbers)),
}
_PAGE = struct.Struct("<Q16s")  # number in the segment, digest
_MESSAGE = struct.Struct("<QI16s")  # type, size, digest of the body


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same on the two sides, a and b.

    kind is "var", "shm", "msg" or "sem"; id the object's, None for var; what one of

    - "key", "uid", "gid", "cuid", "cgid", "mode", "size", "hugetlb_flag", "qbytes", "messages" (how many), "nsems",
      the name of a variable, "sem_otime" or the name of another fact: a and b are the values, None for what is not set
    - "object": only one side has it, and a or b is a dict of its fields, by these names, and its id
    - "value", "sempid": a and b are those of semaphore number start
    - "content": the bytes from start to before end, which are whole pages as far as the segment reaches
    - "message": a and b are dicts of type, size and blake2b (hex) of the message at position start
    - "extra_messages": only one side has those at positions start to before end, and a or b is their number

    Everything counts from 0. JSON can hold all values.
    """

    kind: str
    id: int | None
    what: str
    a: Any = None
    b: Any = None
    start: int | None = None
    end: int | None = None

    def words(self, a: str = "A", b: str = "B") -> str:
        """One line for people, in which the sides have the names a and b."""
        named = f"{model.NAMES[self.kind]} {self.id}" if self.kind in model.NAMES else "variable"
        only, side = (self.a, a) if self.b is None else (self.b, b)
        first, last = self.start or 0, (self.end or 0) - 1
        if self.what == "object":
            key = f" (key {describe.key(only['key'])})" if only["key"] else ""
            return f"{named}{key} is only in {side}"
        if self.what == "content":
            return f"{named}: bytes {first:#x} to {last:#x} differ"
        if self.what == "extra_messages":
            return f"{named}: message{f' {first} is' if only == 1 else f's {first} to {last} are'} only in {side}"
        if self.what == "message":
            in_a, in_b = (f"of type {one['type']}, length {one['size']}" for one in (self.a, self.b))
            other = ", with other content," if in_a == in_b else ""
            return f"{named}: message {first} is {in_a} in {a} and {in_b}{other} in {b}"
        subject = {"messages": "the number of messages", "value": "the value"}.get(self.what, self.what)
        of = "" if self.start is None else f" of semaphore {first}"
        in_a, in_b = ("not set" if one is None else _WORDS.get(self.what, str)(one) for one in (self.a, self.b))
        return f"{named}{':' if self.kind in model.NAMES else ''} {subject}{of} is {in_a} in {a} and {in_b} in {b}"


# ---- one side ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Object:
    head: model.Object  # without messages and extents
    records: bytes = b""  # of a segment's pages or a queue's messages

    @property
    def fields(self) -> dict[str, Any]:
        """By the names they have in Difference.what, and the id."""
        one = self.head
        if isinstance(one, model.SharedMemory):
            own: dict[str, Any] = {"size": one.size, "hugetlb_flag": one.hugetlb_flag}
        elif isinstance(one, model.MessageQueue):
            own = {"qbytes": one.qbytes, "messages": one.qnum}
        else:
            own = {"nsems": one.nsems}
        return asdict(one.permissions) | own

    @property
    def facts(self) -> dict[str, Any]:
        """Likewise; empty where they are not known."""
        if isinstance(self.head, model.SemaphoreSet):
            facts = self.head.facts
            return {} if facts is None else {"sem_otime": facts.otime, "ctime": facts.ctime}
        return {} if self.head.facts is None else asdict(self.head.facts)

    @property
    def values(self) -> Sequence[int]:
        """Of semaphores."""
        return self.head.values if isinstance(self.head, model.SemaphoreSet) else ()

    @property
    def sempid(self) -> Sequence[int]:
        """Of semaphores; none where they are not known."""
        facts = self.head.facts
        return facts.sempid if isinstance(facts, model.SemaphoreFacts) else ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a namespace: 24 bytes for each page that is not all zeros, 28 for each message."""

    variables: model.Variables
    page_size: int  # bytes
    objects: dict[str, dict[int, _Object]]  # by kind, then by id


def summarize(contents: model.Contents, page_size: int) -> Summary:
    """Go through contents once, each object to its end before the next. A message, or a piece of a segment, is held.

    page_size, in bytes, is the granularity in which segments are compared; any will do, whatever machine they are from.
    Raises ObjectError for two objects of one kind and id, ChangedError for a queue that has not qnum messages, and
    whatever iterating contents and reading extents raises.
    """
    objects: dict[str, dict[int, _Object]] = {kind: {} for kind in model.NAMES}

    def keep(kind: str, one: _Object) -> None:
        p = one.head.permissions
        if p.id in objects[kind]:
            raise ObjectError(f"{p.named(kind)} is there twice")
        objects[kind][p.id] = one

    for segment in contents.segments:
        keep("shm", _Object(replace(segment, extents=()), bytes(_pages(segment, page_size))))
    for queue in contents.queues:
        keep("msg", _Object(replace(queue, messages=()), bytes(_messages(queue))))
    for one in contents.semaphores:
        keep("sem", _Object(one))
    return Summary(contents.variables, page_size, objects)


def _digest(data: bytes | bytearray) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _messages(queue: model.MessageQueue) -> bytearray:
    """A record for each message."""
    records = bytearray()
    for message in queue.messages:
        records += _MESSAGE.pack(message.type, len(message.body), _digest(message.body))
    count = len(records) // _MESSAGE.size
    if count != queue.qnum:
        raise ChangedError(f"message queue {queue.permissions.id} had {queue.qnum} messages, then {count}")
    return records


def _pages(segment: model.SharedMemory, page_size: int) -> bytearray:
    """A record for each page that is not all zeros, ascending. The page that the segment ends in is padded by zeros."""
    records, zeros = bytearray(), bytes(page_size)
    page, number = bytearray(page_size), 0  # the page that is put together, and which one it is

    def end_page() -> None:
        if page != zeros:
            records.extend(_PAGE.pack(number, _digest(page)))
            page[:] = zeros

    with contextlib.closing(pieces.of(segment)) as found:
        for offset, data in itertools.chain.from_iterable(piece.parts() for piece in found):
            at, end = offset, min(offset + len(data), segment.size)
            while at < end:
                if at // page_size != number:
                    end_page()
                    number = at // page_size
                stop = min(end, (number + 1) * page_size)
                start = at - number * page_size
                page[start : start + stop - at] = data[at - offset : stop - offset]
                at = stop
    end_page()
    return records


# ---- both sides ----------------------------------------------------------------------------


def compare(a: Summary, b: Summary, *, facts: bool = False) -> Iterator[Difference]:
    """The differences: variables, segments, queues, semaphore sets; the objects of a kind by ascending ids.

    facts says that times, process ids and whatever else nobody can set are compared too, where both sides have them;
    otherwise only whether a semaphore set was ever used (sem_otime). Where segments differ in size, the shorter is
    taken to go on with zeros. Raises ValueError for summaries of different page_size.
    """
    if a.page_size != b.page_size:
        raise ValueError(f"pages of {a.page_size} bytes cannot be compared with those of {b.page_size}")
    of_b = asdict(b.variables)
    for name, x in asdict(a.variables).items():
        if x != of_b[name] and not (name in _NOT_EVERYWHERE and None in (x, of_b[name])):
            yield Difference("var", None, name, x, of_b[name])
    for kind in model.NAMES:
        for id_ in sorted(a.objects[kind].keys() | b.objects[kind].keys()):
            in_a, in_b = a.objects[kind].get(id_), b.objects[kind].get(id_)
            if in_a is not None and in_b is not None:
                yield from _of_objects(kind, in_a, in_b, a.page_size, facts)
            else:
                yield Difference(kind, id_, "object", in_a and in_a.fields, in_b and in_b.fields)


def _of_objects(kind: str, a: _Object, b: _Object, page_size: int, facts: bool) -> Iterator[Difference]:
    id_, fields = a.head.permissions.id, b.fields
    for name, x in a.fields.items():
        if x != fields[name]:
            yield Difference(kind, id_, name, x, fields[name])
    if a.records != b.records:
        yield from _of_pages(a, b, page_size) if kind == "shm" else _of_messages(id_, a.records, b.records)
    yield from _of_semaphores(id_, "value", a.values, b.values)
    of_b = b.facts
    for name, x in a.facts.items() if of_b else ():
        y = of_b[name]
        if x != y and (facts or (name == "sem_otime" and 0 in (x, y))):
            yield Difference(kind, id_, name, x, y)
    if facts:
        yield from _of_semaphores(id_, "sempid", a.sempid, b.sempid)


def _of_semaphores(id_: int, what: str, a: Sequence[int], b: Sequence[int]) -> Iterator[Difference]:
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            yield Difference("sem", id_, what, x, y, n, n + 1)


def _of_pages(a: _Object, b: _Object, page_size: int) -> Iterator[Difference]:
    size = max(a.fields["size"], b.fields["size"])
    before = 0  # how many pages were in the runs before
    for ahead, run in itertools.groupby(enumerate(_differing_pages(a, b)), lambda pair: pair[1] - pair[0]):
        first, count = ahead + before, sum(1 for _ in run)
        before += count
        end = min((first + count) * page_size, size)  # the last page may reach beyond the segment
        yield Difference("shm", a.head.permissions.id, "content", start=first * page_size, end=end)


def _differing_pages(a: _Object, b: _Object) -> Iterator[int]:
    both = heapq.merge(_PAGE.iter_unpack(a.records), _PAGE.iter_unpack(b.records))
    for page, records in itertools.groupby(both, operator.itemgetter(0)):
        first, *others = records
        if others != [first]:
            yield page


def _of_messages(id_: int, a: bytes, b: bytes) -> Iterator[Difference]:
    """Position by position, or what came off one queue's head and onto its end, where that is shorter to tell."""
    in_a, in_b = _count(a), _count(b)
    same = min(in_a, in_b)
    head = next((n for n in range(same) if _record(a, n) != _record(b, n)), same)
    same -= head
    tail = next((n for n in range(same) if _record(a, in_a - 1 - n) != _record(b, in_b - 1 - n)), same)
    a, b = (side[head * _MESSAGE.size : len(side) - tail * _MESSAGE.size] for side in (a, b))
    in_a, in_b, same = _count(a), _count(b), same - tail
    # From here on, message skip_a of a lies against message skip_b of b, and so do the same - 1 that follow them.
    skip_a = skip_b = 0
    differing = sum(_record(a, n) != _record(b, n) for n in range(same))
    for lead_a, lead_b in ((_lead(a, b), 0), (0, _lead(b, a))) if same else ():
        overlap = min(in_a - lead_a, in_b - lead_b)
        if 2 * (same - overlap) < differing:
            skip_a, skip_b, same, differing = lead_a, lead_b, overlap, 0

    def extra(start_a: int, end_a: int, start_b: int, end_b: int) -> Iterator[Difference]:
        if start_a < end_a:
            yield Difference("msg", id_, "extra_messages", end_a - start_a, None, head + start_a, head + end_a)
        if start_b < end_b:
            yield Difference("msg", id_, "extra_messages", None, end_b - start_b, head + start_b, head + end_b)

    yield from extra(0, skip_a, 0, skip_b)
    for n in range(same if differing else 0):  # nothing is skipped then
        x, y = _record(a, n), _record(b, n)
        if x != y:
            yield Difference("msg", id_, "message", _told(x), _told(y), head + n, head + n + 1)
    yield from extra(skip_a + same, in_a, skip_b + same, in_b)


def _count(records: bytes) -> int:
    return len(records) // _MESSAGE.size


def _record(records: bytes, n: int) -> bytes:
    return records[n * _MESSAGE.size : (n + 1) * _MESSAGE.size]


def _told(record: bytes) -> dict[str, int | str]:
    type_, size, digest = _MESSAGE.unpack(record)
    return {"type": type_, "size": size, "blake2b": digest.hex()}


def _lead(a: bytes, b: bytes) -> int:
    """The first message of a from which on a is like b from its beginning, up to the end of either.

    By Knuth, Morris and Pratt: a queue can be long, and all its messages the same.
    """
    joined = b + b"\xff" * _MESSAGE.size + a  # between them what is no message
    borders = array.array("Q", [0])  # of joined's first 1, 2, … records: how many of their last are like their first
    for n in range(1, _count(joined)):
        this, k = _record(joined, n), borders[-1]
        while k and this != _record(joined, k):
            k = borders[k - 1]
        borders.append(k + (this == _record(joined, k)))
        if borders[-1] == _count(b):
            return n - 2 * _count(b)
    return _count(a) - borders[-1]
