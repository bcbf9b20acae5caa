"""The columns of tables: lsipc(1)'s names, and those that only an image can fill.

A column gives the plain value of a thing; how it looks in a table, in lsipc's other formats and in JSON follows from
the sort of value. None stands for what an image does not tell: CRIU's have no times and no process ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from .. import describe, model
from . import pictures
from .subject import stored
from .view import View

_FIRST = 16  # numbers of a long list that are shown
_FILL = 10  # characters of a bar


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort of values: how one looks, and what it is in JSON."""

    texts: Callable[[View], Callable[[Any], str]]  # in a view, of any number of values
    json: Callable[[Any, View], object]
    right: bool = False  # aligned to the right
    order: Callable[[Any], Any] = lambda value: value  # what values are sorted by

    def text(self, value: Any, view: View) -> str:
        """How one looks."""
        return self.texts(view)(value)


def _listed(view: View) -> Callable[[Sequence[int]], str]:
    def listed(numbers: Sequence[int]) -> str:
        shown = numbers[:_FIRST] if view.truncate else numbers
        return " ".join(map(str, shown)) + (" …" if len(shown) < len(numbers) else "")

    return listed


def _preview(view: View) -> Callable[[bytes], str]:
    return describe.preview if view.truncate else lambda body: describe.preview(body, len(body))


def _share(value: tuple[int, int]) -> float:
    part, whole = value
    return 100 * part / whole if whole else 0.0


def _plain(value: Any, view: View) -> object:
    del view
    return value


# What is nothing but a function is called without another one around it: a table may have a million rows.
NUMBER = Sort(lambda _: str, _plain, right=True)
SIZE = Sort(lambda view: str if view.in_bytes else describe.size, _plain, right=True)
TIME = Sort(lambda view: view.moment, lambda value, view: view.moment(value) or None)
KEY = Sort(lambda _: describe.key, lambda value, _: describe.key(value))
PERMS = Sort(lambda view: view.perms, lambda value, view: view.perms(value))
TEXT = Sort(lambda _: str, _plain)
LIST = Sort(_listed, lambda value, _: list(value), order=list)
SHARE = Sort(
    lambda _: lambda value: f"{_share(value):.2f}%",
    lambda value, _: round(_share(value), 2),
    right=True,
    order=_share,
)
BAR = Sort(
    lambda view: lambda value: pictures.bar(value[0], value[1], _FILL, view),
    lambda value, _: round(_share(value), 2),
    order=_share,
)
PREVIEW = Sort(_preview, lambda value, view: _preview(view)(value))
OFFSET = Sort(lambda _: lambda value: f"{value:#x}", _plain, right=True)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name on the command line, what it means, and its value for a thing."""

    name: str
    help: str
    sort: Sort
    of: Callable[[Any], Any]  # None where the image does not tell

    @property
    def json_name(self) -> str:
        """As lsipc writes it in JSON."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Kind:
    """What is listed in one table."""

    title: str
    json_name: str  # of the list of them, as in lsipc
    columns: Mapping[str, Column]
    shown: tuple[str, ...]  # without options
    times: tuple[str, ...] = ()  # with -t
    pids: tuple[str, ...] = ()  # with -p
    only_tables: tuple[str, ...] = ()  # of those shown: not in formats that programs read

    def chosen(self, names: Sequence[str]) -> list[Column]:
        """The columns of these names. Raises KeyError."""
        return [self.columns[name] for name in names]


def _named(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


def _permission(name: str) -> Callable[[Any], Any]:
    return lambda one: getattr(one.permissions, name)


def _fact(name: str) -> Callable[[Any], Any]:
    return lambda one: None if one.facts is None else getattr(one.facts, name)


_COMMON = (
    Column("KEY", "key", KEY, _permission("key")),
    Column("ID", "ID", NUMBER, _permission("id")),
    Column("PERMS", "permissions", PERMS, _permission("mode")),
    Column("OWNER", "user id of the owner", NUMBER, _permission("uid")),
    Column("UID", "user id of the owner", NUMBER, _permission("uid")),
    Column("GID", "group id of the owner", NUMBER, _permission("gid")),
    Column("CUID", "user id of the creator", NUMBER, _permission("cuid")),
    Column("CGID", "group id of the creator", NUMBER, _permission("cgid")),
)
_CTIME = Column("CTIME", "time of the last change", TIME, _fact("ctime"))
_FIRST_SHOWN = ("KEY", "ID", "PERMS", "OWNER")
CREATOR = ("CUID", "CGID", "UID", "GID")  # with -c


def used_bytes(queue: model.MessageQueue) -> int:
    """Bytes of the messages on a queue, as they are in the image, whatever it says of them."""
    return queue.size if queue.size is not None else sum(len(message.body) for message in queue.messages)


def _used_data(segment: model.SharedMemory) -> tuple[int, int] | None:
    data = stored(segment)
    return None if data is None else (min(data, segment.size), segment.size)


QUEUES = Kind(
    "Message queues",
    "messages",
    _named(
        *_COMMON,
        Column("USEDBYTES", "bytes of its messages", SIZE, used_bytes),
        Column("QBYTES", "the most bytes it may hold", SIZE, lambda queue: queue.qbytes),
        Column("USE%", "how full it is", SHARE, lambda queue: (used_bytes(queue), queue.qbytes)),
        Column("FILL", "USE% as a bar", BAR, lambda queue: (used_bytes(queue), queue.qbytes)),
        Column("MSGS", "number of messages", NUMBER, lambda queue: queue.qnum),
        Column("LARGEST", "bytes of its longest message", SIZE, lambda queue: queue.longest),
        Column("LSPID", "process that sent the last message", NUMBER, _fact("lspid")),
        Column("LRPID", "process that received the last message", NUMBER, _fact("lrpid")),
        Column("SEND", "time of the last message sent", TIME, _fact("stime")),
        Column("RECV", "time of the last message received", TIME, _fact("rtime")),
        _CTIME,
    ),
    (*_FIRST_SHOWN, "USEDBYTES", "QBYTES", "USE%", "FILL", "MSGS", "LSPID", "LRPID"),
    times=("SEND", "RECV", "CTIME"),
    only_tables=("FILL",),
)
SEGMENTS = Kind(
    "Shared memory segments",
    "sharedmemory",
    _named(
        *_COMMON,
        Column("SIZE", "size", SIZE, lambda segment: segment.size),
        Column("DATA", "bytes of it that the image holds", SIZE, stored),
        Column("USE%", "share of it that is in the image", SHARE, _used_data),
        Column("FILL", "USE% as a bar", BAR, _used_data),
        Column("NATTCH", "number of attachments when it was dumped", NUMBER, _fact("nattch")),
        Column(
            "STATUS",
            "state: dest (is to be destroyed), locked, hugetlb",
            TEXT,
            lambda segment: describe.segment_status(segment.permissions.mode, segment.hugetlb_flag),
        ),
        Column("CPID", "process that made it", NUMBER, _fact("cpid")),
        Column("LPID", "process that last attached or detached", NUMBER, _fact("lpid")),
        Column("ATTACH", "time of the last attach", TIME, _fact("atime")),
        Column("DETACH", "time of the last detach", TIME, _fact("dtime")),
        _CTIME,
    ),
    (*_FIRST_SHOWN, "SIZE", "DATA", "USE%", "FILL", "NATTCH", "STATUS", "CPID", "LPID"),
    times=("ATTACH", "DETACH", "CTIME"),
    only_tables=("FILL",),
)
SEMAPHORES = Kind(
    "Semaphore sets",
    "semaphores",
    _named(
        *_COMMON,
        Column("NSEMS", "number of semaphores", NUMBER, lambda one: one.nsems),
        Column("VALUES", "their values", LIST, lambda one: one.values),
        Column("SEMPID", "process that last operated on each of them", LIST, _fact("sempid")),
        Column("OTIME", "time of the last operation", TIME, _fact("otime")),
        _CTIME,
    ),
    (*_FIRST_SHOWN, "NSEMS", "VALUES"),
    times=("OTIME", "CTIME"),
    pids=("SEMPID",),
)


class Numbered(NamedTuple):
    """A message, the id of its queue, and its place there: 0 for the first."""

    queue: int
    n: int
    message: model.Message


MESSAGES = Kind(
    "Messages",
    "payloads",
    _named(
        Column("QUEUE", "id of its queue", NUMBER, attrgetter("queue")),
        Column("N", "place in the queue, 0 for the first", NUMBER, attrgetter("n")),
        Column("TYPE", "type", NUMBER, attrgetter("message.type")),
        Column("SIZE", "bytes", SIZE, lambda one: len(one.message.body)),
        Column("TEXT", "the beginning, as far as it is ASCII", PREVIEW, attrgetter("message.body")),
    ),
    ("QUEUE", "N", "TYPE", "SIZE", "TEXT"),
)


@dataclass(frozen=True, slots=True)
class Resource:
    """A setting of the namespace, and how much of it is used; None for what nothing counts."""

    name: str
    description: str
    limit: int
    used: int | None = None
    sort: Sort = NUMBER


_LIMIT = Sort(
    lambda view: lambda one: one.sort.text(one.limit, view),
    lambda one, _: one.limit,
    right=True,
    order=lambda one: one.limit,
)

LIMITS = Kind(
    "Settings",
    "ipclimits",
    _named(
        Column("RESOURCE", "name", TEXT, lambda one: one.name),
        Column("DESCRIPTION", "what it is", TEXT, lambda one: one.description),
        Column("LIMIT", "its value", _LIMIT, lambda one: one),
        Column("USED", "how much is used", NUMBER, lambda one: one.used),
        Column("USE%", "USED in LIMIT", SHARE, lambda one: None if one.used is None else (one.used, one.limit)),
    ),
    ("RESOURCE", "DESCRIPTION", "LIMIT", "USED", "USE%"),
)

RUNS = Kind(
    "Runs of pages",
    "runs",
    _named(
        Column("OFFSET", "where it begins in its segment", OFFSET, lambda run: run.offset),
        Column("PAGES", "number of pages", NUMBER, lambda run: run.pages),
        Column(
            "STATUS", "parent: the pages are in the parent set", TEXT, lambda run: "parent" if run.in_parent else ""
        ),
    ),
    ("OFFSET", "PAGES", "STATUS"),
)


@dataclass(frozen=True, slots=True)
class Semaphore:
    """One of a set: its number there, its value, and the process that last operated on it, if the image tells."""

    number: int
    value: int
    pid: int | None


ELEMENTS = Kind(
    "Elements",
    "elements",
    _named(
        Column("SEMNUM", "number", NUMBER, lambda one: one.number),
        Column("VALUE", "value", NUMBER, lambda one: one.value),
        Column("PID", "process that last operated on it", NUMBER, lambda one: one.pid),
    ),
    ("SEMNUM", "VALUE", "PID"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Bytes in an object: a match of a search, or a text."""

    place: str  # "shm:3", or "msg:7[0]" for the first message of a queue
    offset: int  # there, bytes
    text: str  # what is shown of them


FOUND = Kind(
    "Found in contents",
    "found",
    _named(
        Column("OBJECT", "a segment, or a queue and the place of a message there", TEXT, lambda one: one.place),
        Column("OFFSET", "where it begins", OFFSET, lambda one: one.offset),
        Column("TEXT", "what it is, as far as it is ASCII", TEXT, lambda one: one.text),
    ),
    ("OBJECT", "OFFSET", "TEXT"),
)

ALL = (SEGMENTS, QUEUES, SEMAPHORES, LIMITS, MESSAGES, FOUND)  # that have columns to choose from
KINDS = {"shm": SEGMENTS, "msg": QUEUES, "sem": SEMAPHORES}


def described() -> Iterator[str]:
    """All columns with their meanings, for --help."""
    for kind in ALL:
        yield f"{kind.title}:"
        for column in kind.columns.values():
            yield f"  {column.name:<12}{column.help}"
