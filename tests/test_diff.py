"""What differs between two namespaces: everything that does, nothing that does not, and in which words."""

from __future__ import annotations

import array
import dataclasses
import json
import pathlib
import random
import re
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

import ipcimg
from ipcimg import model
from ipcimg.diff import Difference, Summary, compare, summarize
from ipcimg.errors import ChangedError, ImageError, ObjectError

PAGE = 4096
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Held:
    """An extent in memory, which counts how much of it is asked for at a time."""

    offset: int
    data: bytes
    asked: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.data)

    def read_into(self, view: memoryview, start: int = 0) -> None:
        self.asked.append(len(view))
        view[:] = self.data[start : start + len(view)]


def described(id_: int = 0, key: int = 0) -> model.Permissions:
    return model.Permissions(key, uid=1, gid=2, cuid=3, cgid=4, mode=0o600, id=id_)


def queue(*messages: tuple[int, bytes], id_: int = 7, key: int = 0) -> model.MessageQueue:
    facts = model.QueueFacts(sum(len(body) for _, body in messages), 11, 12, 13, 14, 15)
    return model.MessageQueue(
        described(id_, key), 16384, len(messages), [model.Message(*one) for one in messages], facts
    )


def semaphores(*values: int, id_: int = 3, otime: int = 21) -> model.SemaphoreSet:
    facts = model.SemaphoreFacts(otime, 22, tuple(range(100, 100 + len(values))))
    return model.SemaphoreSet(described(id_), array.array("H", values), facts)


def segment(size: int = 4 * PAGE, *extents: Held, id_: int = 4) -> model.SharedMemory:
    return model.SharedMemory(described(id_), size, extents, None, model.SegmentFacts(31, 32, 33, 34, 35, 36))


def filled(pages: str, offset: int = 0) -> Held:
    """A page of each letter, of zeros for a dot."""
    return Held(offset, b"".join((b"\0" if letter == "." else letter.encode()) * PAGE for letter in pages))


VARIABLES = model.Variables((250, 32000, 100, 128), 2, 3, 4, 5, 6, 7, 8, 0, 10, 11, 12, 13, 14)
QUEUE = queue((1, b"first"), (5, b"a body of 17 byte"), (2**63 - 1, b""))
SEGMENT = segment(4 * PAGE, filled("a"), filled("bc", 2 * PAGE))
SET = semaphores(0, 1, 32767)
ALL = model.Contents(VARIABLES, [SEGMENT], [QUEUE], [SET])


def differences(a: model.Contents, b: model.Contents, facts: bool = False) -> list[Difference]:
    found = list(compare(summarize(a, PAGE), summarize(b, PAGE), facts=facts))
    for one in found:
        told = json.loads(json.dumps(dataclasses.asdict(one)))
        assert told["kind"] in ("var", "shm", "msg", "sem")
        assert "\n" not in one.words()
    return found


def between(a: model.Object, b: model.Object, facts: bool = False) -> list[Difference]:
    """What differs where each side has only this one object."""
    return differences(holding(a), holding(b), facts)


def holding(*objects: model.Object) -> model.Contents:
    return model.Contents(
        VARIABLES,
        [one for one in objects if isinstance(one, model.SharedMemory)],
        [one for one in objects if isinstance(one, model.MessageQueue)],
        [one for one in objects if isinstance(one, model.SemaphoreSet)],
    )


def names(of: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(of)]


# ---- nothing differs -----------------------------------------------------------------------


@pytest.mark.parametrize("facts", [False, True])
def test_the_same(facts: bool) -> None:
    assert differences(ALL, ALL, facts) == []
    assert differences(model.Contents(VARIABLES), model.Contents(VARIABLES), facts) == []


def test_order_does_not_matter() -> None:
    objects: list[model.Object] = [semaphores(id_, id_=id_) for id_ in range(4)]
    objects += [queue((1, b"x"), id_=id_) for id_ in range(4)]
    objects += [segment(PAGE, filled(letter), id_=id_) for id_, letter in enumerate("abcd")]
    assert differences(holding(*objects), holding(*reversed(objects))) == []


def test_what_can_be_iterated_once_is_iterated_once() -> None:
    """As what is collected from a kernel: each object to its end, and before the next one is asked for."""

    def once() -> model.Contents:
        current: list[object] = []

        def parts(of: object, all_: Iterable[Any]) -> Iterator[Any]:
            for one in all_:
                assert current[-1] is of
                yield one

        def segments() -> Iterator[model.SharedMemory]:
            for id_ in range(3):
                current.append(one := segment(2 * PAGE, id_=id_))
                yield replace(one, extents=parts(one, [filled("a"), filled("b", PAGE)]))

        def queues() -> Iterator[model.MessageQueue]:
            for id_ in range(3):
                current.append(one := queue((1, b"x"), (2, b"y"), id_=id_))
                yield replace(one, messages=parts(one, one.messages))

        return model.Contents(VARIABLES, segments(), queues(), iter([SET]))

    assert differences(once(), once()) == []


# ---- every field counts --------------------------------------------------------------------


@pytest.mark.parametrize("name", names(model.Variables))
def test_variable(name: str) -> None:
    value = getattr(VARIABLES, name)
    other: Any = (250, 32000, 100, 129) if name == "sem_ctls" else (value or 0) + 1
    b = replace(ALL, variables=replace(VARIABLES, **{name: other}))
    assert differences(ALL, b) == [Difference("var", None, name, value, other)]
    assert differences(b, ALL) == [Difference("var", None, name, other, value)]


def test_a_variable_that_a_kernel_lacks() -> None:
    b = replace(ALL, variables=replace(VARIABLES, mq_msg_default=None, mq_msgsize_default=None))
    assert differences(ALL, b) == differences(b, ALL) == []


def test_a_preset_that_is_not_armed_is_not_one_of_0() -> None:
    armed = replace(ALL, variables=replace(VARIABLES, sem_next_id=0))
    [found] = differences(ALL, armed)
    assert found == Difference("var", None, "sem_next_id", None, 0)
    assert found.words() == "variable sem_next_id is not set in A and 0 in B"


@pytest.mark.parametrize("one", [SEGMENT, QUEUE, SET], ids=["shm", "msg", "sem"])
@pytest.mark.parametrize("name", names(model.Permissions))
def test_permissions(one: Any, name: str) -> None:
    value = getattr(one.permissions, name)
    other = replace(one, permissions=replace(one.permissions, **{name: value + 1}))
    found = between(one, other)
    if name == "id":
        assert [(each.id, each.what) for each in found] == [(value, "object"), (value + 1, "object")]
    else:
        assert [(each.id, each.what, each.a, each.b) for each in found] == [
            (one.permissions.id, name, value, value + 1)
        ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (QUEUE, replace(QUEUE, qbytes=1), Difference("msg", 7, "qbytes", 16384, 1)),
        (segment(1), segment(2), Difference("shm", 4, "size", 1, 2)),
        (SEGMENT, replace(SEGMENT, hugetlb_flag=21 << 26 | 0o4000), ("hugetlb_flag", None, 21 << 26 | 0o4000)),
        (semaphores(5), semaphores(5, 6), Difference("sem", 3, "nsems", 1, 2)),
        (semaphores(5, 6, 7), semaphores(5, 9, 7), Difference("sem", 3, "value", 6, 9, 1, 2)),
        (semaphores(5, otime=0), semaphores(5), Difference("sem", 3, "sem_otime", 0, 21)),
    ],
    ids=["qbytes", "size", "hugetlb_flag", "nsems", "value", "sem_otime"],
)
def test_fields_of_one_kind(a: Any, b: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        expected = Difference("shm", 4, *expected)
    assert between(a, b) == [expected]
    assert between(b, a) == [replace(expected, a=expected.b, b=expected.a)]


@pytest.mark.parametrize(
    ("one", "name"),
    [(one, name) for one in (SEGMENT, QUEUE, SET) for name in names(type(one.facts)) if name != "sempid"],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_facts(one: Any, name: str) -> None:
    value = getattr(one.facts, name)
    other = replace(one, facts=replace(one.facts, **{name: value + 1}))
    what = "sem_otime" if name == "otime" else name
    assert between(one, other) == []
    assert [(each.what, each.a, each.b) for each in between(one, other, facts=True)] == [(what, value, value + 1)]
    for a, b in ((one, replace(one, facts=None)), (replace(one, facts=None), one)):
        assert between(a, b, facts=True) == []


def test_sempid() -> None:
    assert SET.facts is not None
    other = replace(SET, facts=replace(SET.facts, sempid=(100, 1, 102)))
    assert between(SET, other) == []
    assert between(SET, other, facts=True) == [Difference("sem", 3, "sempid", 101, 1, 1, 2)]


def test_whether_a_set_was_used_is_told_where_both_sides_know() -> None:
    assert between(semaphores(5, otime=0), replace(semaphores(5), facts=None)) == []
    assert between(semaphores(5, otime=1), semaphores(5, otime=2)) == []
    assert len(between(semaphores(5, otime=0), semaphores(5, otime=2), facts=True)) == 1


def test_objects_of_one_side() -> None:
    found = differences(ALL, model.Contents(VARIABLES))
    assert [(each.kind, each.id, each.what, each.b) for each in found] == [
        ("shm", 4, "object", None),
        ("msg", 7, "object", None),
        ("sem", 3, "object", None),
    ]
    own: list[dict[str, Any]] = [
        {"size": 4 * PAGE, "hugetlb_flag": None},
        {"qbytes": 16384, "messages": 3},
        {"nsems": 3},
    ]
    for each, permissions, fields in zip(found, map(described, (4, 7, 3)), own, strict=True):
        assert each.a == dataclasses.asdict(permissions) | fields
    assert differences(model.Contents(VARIABLES), ALL) == [replace(each, a=None, b=each.a) for each in found]


def test_order_of_differences() -> None:
    ids = (9, 40000, 0, 2**31 - 1, 32768)
    a = holding(*(semaphores(1, id_=id_) for id_ in ids), *(queue(id_=id_) for id_ in ids))
    b = replace(holding(*(segment(1, id_=id_) for id_ in ids)), variables=replace(VARIABLES, msg_ctlmax=0))
    expected = [("var", None), *((kind, id_) for kind in ("shm", "msg", "sem") for id_ in sorted(ids))]
    assert [(each.kind, each.id) for each in differences(a, b)] == expected


# ---- segments ------------------------------------------------------------------------------


def ranges(a: model.SharedMemory, b: model.SharedMemory) -> list[tuple[int | None, int | None]]:
    """The bytes that differ, and nothing else does."""
    found = between(a, b)
    assert {each.what for each in found} <= {"content"}
    return [(each.start, each.end) for each in found]


def test_holes_are_zeros() -> None:
    size = 8 * PAGE
    a = segment(size, filled("a...b..."))
    for extents in (
        [filled("a"), filled("b", 4 * PAGE)],
        [filled("a."), filled(".b.", 3 * PAGE)],
        [filled("a"), filled("...", PAGE), filled("b", 4 * PAGE), filled("..", 6 * PAGE)],
    ):
        assert ranges(a, segment(size, *extents)) == []
    assert ranges(segment(size), segment(size, filled("." * 8))) == []


def test_how_extents_are_cut_does_not_matter() -> None:
    size = 3 * MIB
    data = random.Random(1).randbytes(size)
    whole = segment(size, Held(0, data))
    for step in (PAGE, 3 * PAGE, 16 * PAGE, MIB - PAGE, MIB, MIB + PAGE):
        cut = segment(size, *(Held(at, data[at : at + step]) for at in range(0, size, step)))
        assert ranges(whole, cut) == []


@pytest.mark.parametrize("page_size", [512, PAGE, 16 * PAGE, 2 * MIB])
def test_any_granularity_will_do(page_size: int) -> None:
    """Also one that is no divisor of where extents begin: they may be of a machine with smaller pages."""
    size, data = 5 * MIB, random.Random(2).randbytes(40 * PAGE)
    extents = [Held(at * PAGE, data[at * PAGE : (at + n) * PAGE]) for at, n in ((1, 2), (5, 1), (9, 30))]
    extents += [Held(5 * MIB - PAGE, b"end" + bytes(PAGE - 3))]
    changed = [*extents[:1], Held(5 * PAGE, b"\0" + extents[1].data[1:]), *extents[2:]]
    one_piece = bytearray(size)
    for extent in extents:
        one_piece[extent.offset : extent.offset + extent.length] = extent.data
    a, b, c = (
        summarize(holding(segment(size, *each)), page_size) for each in (extents, [Held(0, bytes(one_piece))], changed)
    )
    assert list(compare(a, b)) == []
    start = 5 * PAGE // page_size * page_size
    assert [(each.what, each.start, each.end) for each in compare(a, c)] == [("content", start, start + page_size)]


def test_summaries_of_different_granularity() -> None:
    with pytest.raises(ValueError, match="pages of 4096 bytes cannot be compared with those of 8192"):
        next(compare(summarize(ALL, 4096), summarize(ALL, 8192)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("abcdefgh", "abcdefgX", [(7, 8)]),
        ("abcdefgh", "Xbcdefgh", [(0, 1)]),
        ("abcdefgh", "aXXXefgX", [(1, 4), (7, 8)]),
        ("abcdefgh", "........", [(0, 8)]),
        ("a.c.e.g.", ".b.d.f.h", [(0, 8)]),
        ("a...e...", "a...X...", [(4, 5)]),
        ("ab......", "......ab", [(0, 2), (6, 8)]),
        ("abcdefgh", "XbXXeXXX", [(0, 1), (2, 4), (5, 8)]),
        ("abcdefgh", "abdcefhg", [(2, 4), (6, 8)]),
    ],
)
def test_ranges(a: str, b: str, expected: list[tuple[int, int]]) -> None:
    size, bytes_ = 8 * PAGE, [(start * PAGE, end * PAGE) for start, end in expected]
    assert ranges(segment(size, filled(a)), segment(size, filled(b))) == bytes_
    assert ranges(segment(size, filled(b)), segment(size, filled(a))) == bytes_


@pytest.mark.parametrize("at", [0, 1, PAGE - 1, PAGE, MIB - 1, MIB, 2 * MIB + 17, 3 * MIB - 1])
def test_one_bit(at: int) -> None:
    data = bytearray(random.Random(3).randbytes(3 * MIB))
    a = segment(3 * MIB, Held(0, bytes(data)))
    data[at] ^= 1
    page = at // PAGE * PAGE
    assert ranges(a, segment(3 * MIB, Held(0, bytes(data)))) == [(page, page + PAGE)]


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE + 1, 3 * PAGE + 100])
def test_what_lies_beyond_the_size_is_no_content(size: int) -> None:
    content = b"c" * size
    ends = [content, content + bytes(-size % PAGE), content + b"x" * (-size % PAGE), content + b"y" * (2 * MIB)]
    segments = [segment(size, Held(0, data)) for data in ends]
    for other in segments[1:]:
        assert ranges(segments[0], other) == []
    # Beyond it even whole extents, as in the last page of a segment of huge ones.
    assert ranges(segments[0], segment(size, Held(0, ends[1]), Held(len(ends[1]), b"z" * PAGE))) == []
    assert ranges(segments[0], segment(size, Held(0, content[:-1] + b"d"))) == [((size - 1) // PAGE * PAGE, size)]


def test_segments_of_different_sizes() -> None:
    """The shorter is taken to go on with zeros."""
    a, longer = segment(PAGE + 10, filled("ab")), segment(3 * PAGE, Held(0, b"a" * PAGE + b"b" * 10 + bytes(PAGE - 10)))
    size = Difference("shm", 4, "size", PAGE + 10, 3 * PAGE)
    assert between(a, longer) == [size]
    more = segment(3 * PAGE - 5, filled("abc"))
    assert between(a, more) == [
        replace(size, b=3 * PAGE - 5),
        Difference("shm", 4, "content", start=PAGE, end=3 * PAGE - 5),
    ]


def test_segments_are_read_in_windows() -> None:
    extent = Held(0, bytes(5 * MIB) + b"x" * PAGE)
    summarize(holding(segment(6 * MIB, extent)), PAGE)
    assert sum(extent.asked) == extent.length
    assert max(extent.asked) <= MIB


def test_a_hole_costs_nothing() -> None:
    size = 2**63 - 1
    a, b = (segment(size, filled("a"), Held(2**62, data * PAGE)) for data in (b"b", b"c"))
    assert ranges(a, b) == [(2**62, 2**62 + PAGE)]


# ---- messages ------------------------------------------------------------------------------


def lettered(letters: str) -> model.MessageQueue:
    """A queue with a message for each letter."""
    return queue(*((1 + ord(letter), letter.encode()) for letter in letters))


def told(a: str, b: str) -> list[str]:
    """What differs between the messages of two queues, less the number of messages."""
    words = []
    for each in between(lettered(a), lettered(b)):
        if each.what == "messages":
            assert (each.a, each.b) == (len(a), len(b)) != (len(b), len(a))
        elif each.what == "extra_messages":
            assert each.start is not None and each.end is not None
            side, text = ("A", a) if each.b is None else ("B", b)
            assert (each.b if each.a is None else each.a) == each.end - each.start
            words.append(f"{side}{each.start}:{text[each.start : each.end]}")
        else:
            assert each.what == "message" and each.start is not None and each.end == each.start + 1
            assert (each.a["type"], each.b["type"]) == (1 + ord(a[each.start]), 1 + ord(b[each.start]))
            words.append(f"{each.start}:{a[each.start]}→{b[each.start]}")
    return words


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("abcdefgh", "defgh", ["A0:abc"]),  # received
        ("abcdefgh", "abcde", ["A5:fgh"]),
        ("abcde", "abcdefgh", ["B5:fgh"]),  # sent
        ("abcdefgh", "", ["A0:abcdefgh"]),
        ("abcdefgh", "defghij", ["A0:abc", "B5:ij"]),  # received and sent
        ("defghij", "abcdefgh", ["B0:abc", "A5:ij"]),
        ("abcdefgh", "bcdefghi", ["A0:a", "B7:i"]),
        ("abcdefgh", "cdef", ["A0:ab", "A6:gh"]),
        ("cdef", "abcdefgh", ["B0:ab", "B6:gh"]),
        ("abcdefgh", "abefgh", ["A2:cd"]),  # received by type
        ("abcdefgh", "abXdefgh", ["2:c→X"]),
        ("abcdefgh", "Xbcdefgh", ["0:a→X"]),
        ("abcdefgh", "aXcdeYgh", ["1:b→X", "5:f→Y"]),
        ("abcdefgh", "aXcdeYghij", ["1:b→X", "5:f→Y", "B8:ij"]),
        ("abcdefgh", "badcfehg", ["0:a→b", "1:b→a", "2:c→d", "3:d→c", "4:e→f", "5:f→e", "6:g→h", "7:h→g"]),
        ("ab", "ba", ["0:a→b", "1:b→a"]),
        ("abcd", "wxyz", ["0:a→w", "1:b→x", "2:c→y", "3:d→z"]),
        ("abcd", "xy", ["0:a→x", "1:b→y", "A2:cd"]),
        ("aaaaab", "aaaac", ["4:a→c", "A5:b"]),
        ("aabaabaac", "baabaac", ["A0:aa"]),
        ("zaabaabaac", "aabaacw", ["A0:zaab", "B6:w"]),
        ("aabaacw", "zaabaabaac", ["B0:zaab", "A6:w"]),
    ],
)
def test_messages(a: str, b: str, expected: list[str]) -> None:
    assert told(a, b) == expected


@pytest.mark.parametrize("seed", range(300))
def test_messages_can_be_put_together_again(seed: int) -> None:
    """From what is told, and a, b can be made; nor is there a shorter way to tell it."""
    rng = random.Random(seed)
    a, b = ("".join(rng.choices("aab" if seed % 2 else "abcd", k=rng.randrange(12))) for _ in "ab")
    found = between(lettered(a), lettered(b))
    positional = sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
    slides = [(x[n:], y) for x, y in ((a, b), (b, a)) for n in range(len(x) + 1)]
    overlaps = [min(len(x), len(y)) for x, y in slides if x.startswith(y) or y.startswith(x)]
    extras = [each for each in found if each.what == "extra_messages"]
    one_by_one = [each for each in found if each.what == "message"]
    assert sum(each.a or each.b for each in extras) + len(one_by_one) <= min(
        positional, len(a) + len(b) - 2 * max(overlaps)
    )
    made, gone = list(a), [n for each in extras if each.b is None for n in range(each.start or 0, each.end or 0)]
    for each in one_by_one:
        made[each.start or 0] = chr(each.b["type"] - 1)
    made = [letter for n, letter in enumerate(made) if n not in gone]
    for each in extras:
        if each.a is None:
            made[each.start : each.start] = b[each.start : each.end]
    assert "".join(made) == b


@pytest.mark.parametrize(
    ("a", "b"),
    [((5, b"x"), (6, b"x")), ((5, b"x"), (5, b"y")), ((5, b""), (5, b"\0")), ((1, b"x"), (2**63 - 1, b"x"))],
)
def test_what_is_in_a_message(a: tuple[int, bytes], b: tuple[int, bytes]) -> None:
    [found] = between(queue((1, b"1"), a), queue((1, b"1"), b))
    assert (found.what, found.start, found.end) == ("message", 1, 2)
    assert [(one["type"], one["size"]) for one in (found.a, found.b)] == [(a[0], len(a[1])), (b[0], len(b[1]))]
    assert (found.a["blake2b"] == found.b["blake2b"]) == (a[1] == b[1])


def test_nothing_is_left_out() -> None:
    count = 2000
    a, b = (queue(*((n + 1, letter) for n in range(count))) for letter in (b"a", b"b"))
    assert [each.start for each in between(a, b)] == list(range(count))


@pytest.mark.parametrize("qnum", [0, 2, 4])
def test_queue_with_another_number_of_messages(qnum: int) -> None:
    with pytest.raises(ChangedError, match=f"message queue 7 had {qnum} messages, then 3"):
        summarize(holding(replace(QUEUE, qnum=qnum)), PAGE)


def test_long_queue_of_like_messages() -> None:
    """Where every shift is nearly right, the right one is found in linear time."""
    count = 30_000
    same = [(1, b"heartbeat")] * count
    a, b = queue((3, b""), *same, (2, b"end")), queue(*same, (2, b"other end"))
    tracemalloc.start()
    found = between(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(each.what, each.start, each.end) for each in found][1:] == [
        ("message", 0, 1),
        ("message", count, count + 1),
        ("extra_messages", count + 1, count + 2),
    ]
    assert peak < 300 * count


def test_many_messages_stay_small() -> None:
    count = 200_000

    def messages() -> Iterator[model.Message]:
        for n in range(count):
            yield model.Message(n + 1, b"%d" % n * 50)

    contents = holding(model.MessageQueue(described(), 2**32 - 1, count, messages()))
    tracemalloc.start()
    summary = summarize(contents, PAGE)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(summary, Summary)
    assert kept < 33 * count
    assert peak < 70 * count  # a buffer is copied when it grows


# ---- hostile sets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "name"),
    [(SEGMENT, "shared memory segment 4"), (QUEUE, "message queue 7"), (SET, "semaphore set 3")],
    ids=["shm", "msg", "sem"],
)
def test_two_of_one_id(one: Any, name: str) -> None:
    with pytest.raises(ObjectError, match=f"^{name} is there twice$"):
        summarize(holding(one, replace(one, permissions=replace(one.permissions, key=0))), PAGE)


def test_errors_come_through() -> None:
    def broken() -> Iterator[model.Message]:
        yield model.Message(1, b"")
        raise ImageError("x.img", 5, "ends")

    with pytest.raises(ImageError, match=r"x\.img, byte 5: ends"):
        summarize(holding(replace(QUEUE, messages=broken())), PAGE)


# ---- in words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (QUEUE, replace(QUEUE, permissions=replace(described(7), mode=0o4)), "mode is 0600 in old and 0004 in new"),
        (QUEUE, replace(QUEUE, permissions=described(7, 0x12)), "key is 0x00000000 in old and 0x00000012 in new"),
        (lettered("abc"), lettered("ab"), "the number of messages is 3 in old and 2 in new"),
        (lettered("abc"), lettered("ab"), "message 2 is only in old"),
        (lettered("a"), lettered("abc"), "messages 1 to 2 are only in new"),
        (queue((5, b"xy")), queue((6, b"")), "message 0 is of type 5, length 2 in old and of type 6, length 0 in new"),
        (
            queue((5, b"x")),
            queue((5, b"y")),
            "message 0 is of type 5, length 1 in old and of type 5, length 1, with other",
        ),
        (segment(4 * PAGE, filled("abcd")), segment(4 * PAGE, filled("aXYd")), "bytes 0x1000 to 0x2fff differ"),
        (segment(), segment(1), "size is 16384 in old and 1 in new"),
        (SEGMENT, replace(SEGMENT, hugetlb_flag=0o4000), "hugetlb_flag is not set in old and 04000 in new"),
        (semaphores(1, 2), semaphores(1, 0), "the value of semaphore 1 is 2 in old and 0 in new"),
        (semaphores(otime=0), semaphores(), "sem_otime is 0 in old and 21 in new"),
        (SEGMENT, replace(SEGMENT, facts=model.SegmentFacts(30, 32, 33, 34, 35, 36)), "atime is 31 in old and 30 in"),
    ],
)
def test_words(a: Any, b: Any, words: str) -> None:
    lines = [each.words("old", "new") for each in between(a, b, facts="atime" in words)]
    assert len([line for line in lines if re.match(f"[a-z ]* {a.permissions.id}: {re.escape(words)}", line)]) == 1, (
        lines
    )


def test_words_for_objects_and_variables() -> None:
    b = model.Contents(replace(VARIABLES, sem_ctls=(1, 2, 3, 4)), [], [], [])
    assert [each.words("x", "y/z") for each in differences(holding(queue(key=0x1234), SET), b)] == [
        "variable sem_ctls is 250 32000 100 128 in x and 1 2 3 4 in y/z",
        "message queue 7 (key 0x00001234) is only in x",
        "semaphore set 3 is only in x",
    ]
    assert [each.words("x", "y/z") for each in differences(model.Contents(VARIABLES), holding(SET))] == [
        "semaphore set 3 is only in y/z",
    ]


# ---- by chance -----------------------------------------------------------------------------


def some_contents(rng: random.Random) -> model.Contents:
    """A few objects of each kind; none is empty, so that any can be mutated."""

    def permissions(id_: int) -> model.Permissions:
        key, uid, gid, cuid, cgid = (rng.randrange(1 << 32) for _ in range(5))
        return model.Permissions(key, uid, gid, cuid, cgid, rng.randrange(0o1000), id_)

    def ids() -> Sequence[int]:
        return rng.sample(range(1 << 31), rng.randrange(1, 6))

    def some_segment(id_: int) -> model.SharedMemory:
        size = rng.randrange(1, 20 * PAGE)
        starts = sorted(rng.sample(range(-(-size // PAGE)), rng.randint(1, min(4, -(-size // PAGE)))))
        ends = [*starts[1:], -(-size // PAGE)]
        extents = [
            Held(start * PAGE, rng.randbytes(rng.randint(1, end - start) * PAGE))
            for start, end in zip(starts, ends, strict=True)
        ]
        facts = model.SegmentFacts(*(rng.randrange(1 << 31) for _ in range(6)))
        return model.SharedMemory(permissions(id_), size, extents, None, facts)

    def some_queue(id_: int) -> model.MessageQueue:
        messages = [
            model.Message(rng.randint(1, 3), rng.choice([b"", b"again", rng.randbytes(rng.randrange(300))]))
            for _ in range(rng.randint(1, 20))
        ]
        facts = model.QueueFacts(*(rng.randrange(1 << 31) for _ in range(6)))
        return model.MessageQueue(permissions(id_), rng.randrange(1 << 32), len(messages), messages, facts)

    def some_set(id_: int) -> model.SemaphoreSet:
        values = array.array("H", (rng.randrange(32768) for _ in range(rng.randint(1, 50))))
        facts = model.SemaphoreFacts(rng.randrange(3), 5, tuple(rng.randrange(1 << 22) for _ in values))
        return model.SemaphoreSet(permissions(id_), values, facts)

    return model.Contents(
        VARIABLES, list(map(some_segment, ids())), list(map(some_queue, ids())), list(map(some_set, ids()))
    )


Mutated = tuple[str, Any, Any, list[Any]]  # kind, the object before and after (None: there is none), what differs


def change_segment(rng: random.Random, one: Any) -> Mutated:
    extents = list(one.extents)
    n = rng.randrange(len(extents))
    extent = extents[n]
    at = rng.randrange(min(extent.length, one.size - extent.offset))
    data = extent.data[:at] + bytes([extent.data[at] ^ 1 << rng.randrange(8)]) + extent.data[at + 1 :]
    extents[n] = Held(extent.offset, data)
    start = (extent.offset + at) // PAGE * PAGE
    expected = ("content", None, None, start, min(start + PAGE, one.size))
    return "shm", one, replace(one, extents=extents), [expected]


def change_message(rng: random.Random, one: Any) -> Mutated:
    messages = list(one.messages)
    n = rng.randrange(len(messages))
    if rng.randrange(2):
        messages[n] = replace(messages[n], body=messages[n].body + b"\0")
    else:
        messages[n] = replace(messages[n], type=messages[n].type + 3)
    return "msg", one, replace(one, messages=messages), [("message", ..., ..., n, n + 1)]


def drop_messages(rng: random.Random, one: Any) -> Mutated:
    messages = list(one.messages)
    k = rng.randint(1, len(messages))
    rest = rng.choice([messages[k:], messages[:-k]])
    # Which ones they are is ambiguous where messages are alike.
    expected = [("messages", len(messages), len(rest), None, None), ("extra_messages", k, None, ..., ...)]
    return "msg", one, replace(one, messages=rest, qnum=len(rest)), expected


def change_value(rng: random.Random, one: Any) -> Mutated:
    values, n = one.values[:], rng.randrange(one.nsems)
    values[n] ^= 1 << rng.randrange(15)
    return "sem", one, replace(one, values=values), [("value", one.values[n], values[n], n, n + 1)]


def use_or_not(rng: random.Random, one: Any) -> Mutated:
    otime = rng.randint(0, 2)
    told = [("sem_otime", one.facts.otime, otime, None, None)] if (one.facts.otime == 0) != (otime == 0) else []
    return "sem", one, replace(one, facts=replace(one.facts, otime=otime)), told


def change_permissions(rng: random.Random, one: Any) -> Mutated:
    kinds = {model.SharedMemory: "shm", model.MessageQueue: "msg", model.SemaphoreSet: "sem"}
    name = rng.choice(["key", "uid", "gid", "cuid", "cgid", "mode"])
    value = getattr(one.permissions, name)
    changed = replace(one, permissions=replace(one.permissions, **{name: value ^ 1}))
    return kinds[type(one)], one, changed, [(name, value, value ^ 1, None, None)]


def remove(rng: random.Random, one: Any) -> Mutated:
    kind, *_ = change_permissions(rng, one)
    return kind, one, None, [("object", ..., None, None, None)]


@pytest.mark.parametrize(
    ("objects", "mutate"),
    [
        ("segments", change_segment),
        ("queues", change_message),
        ("queues", drop_messages),
        ("semaphores", change_value),
        ("semaphores", use_or_not),
        *((objects, change_permissions) for objects in ("segments", "queues", "semaphores")),
        *((objects, remove) for objects in ("segments", "queues", "semaphores")),
    ],
)
@pytest.mark.parametrize("seed", range(20))
def test_one_mutation_is_one_difference(
    seed: int, objects: str, mutate: Callable[[random.Random, Any], Mutated]
) -> None:
    rng = random.Random(seed)
    a = some_contents(rng)
    assert differences(a, a, facts=True) == []
    n = rng.randrange(len(getattr(a, objects)))
    kind, before, after, expected = mutate(rng, getattr(a, objects)[n])
    others = [one for one in getattr(a, objects) if one is not before]
    rng.shuffle(others)
    changed: Any = others if after is None else [*others, after]
    b = replace(a, **{objects: changed})
    for one, other, swapped in ((a, b, False), (b, a, True)):
        found = differences(one, other)
        assert [(each.kind, each.id) for each in found] == [(kind, before.permissions.id)] * len(expected)
        for each, (what, x, y, start, end) in zip(found, expected, strict=True):
            told = (each.what, *((each.b, each.a) if swapped else (each.a, each.b)), each.start, each.end)
            wanted = (what, x, y, start, end)
            assert all(y is ... or x == y for x, y in zip(told, wanted, strict=True)), (told, wanted)


# ---- through images ------------------------------------------------------------------------


def test_through_images(tmp_path: pathlib.Path) -> None:
    size = 3 * MIB + 5
    data = random.Random(4).randbytes(size) + b"beyond" * PAGE
    large = segment(size, Held(0, data[:PAGE]), Held(MIB, data[MIB : size + -size % PAGE]), id_=9)
    contents = replace(ALL, segments=[SEGMENT, large])
    ipcimg.save(contents, tmp_path / "one")
    assert differences(contents, ipcimg.load(tmp_path / "one"), facts=True) == []
    ipcimg.save(contents, tmp_path / "criu", criu_exact=True)
    assert differences(contents, ipcimg.load(tmp_path / "criu"), facts=True) == []

    altered = bytearray(data)
    altered[2 * MIB - 1 : 2 * MIB + 1] = b"\0\0" if data[2 * MIB - 1] and data[2 * MIB] else b"\1\1"
    other = segment(size, Held(0, data[:PAGE]), Held(MIB, bytes(altered[MIB : size + -size % PAGE])), id_=9)
    b = model.Contents(
        replace(VARIABLES, shm_next_id=5), [other, SEGMENT], [queue((1, b"first")), queue(id_=8)], [semaphores(1, 1, 1)]
    )
    ipcimg.save(b, tmp_path / "two")
    found = differences(ipcimg.load(tmp_path / "one"), ipcimg.load(tmp_path / "two"))
    assert found == differences(contents, b)
    assert [each.words("one", "two") for each in found] == [
        "variable shm_next_id is not set in one and 5 in two",
        "shared memory segment 9: bytes 0x1ff000 to 0x200fff differ",
        "message queue 7: the number of messages is 3 in one and 1 in two",
        "message queue 7: messages 1 to 2 are only in one",
        "message queue 8 is only in two",
        "semaphore set 3: the value of semaphore 0 is 0 in one and 1 in two",
        "semaphore set 3: the value of semaphore 2 is 32767 in one and 1 in two",
    ]
