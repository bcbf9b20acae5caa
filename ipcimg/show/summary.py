"""A set of images at a glance: what, how much, how made, and what stands out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import final

from .. import describe, model
from ..images import manifest_name
from ..manifest import Consistency, Manifest
from . import columns, message, pictures, table
from .columns import Resource, used_bytes
from .subject import Subject, stored
from .view import View

_ROWS = 10  # of each table
_SURVEYED = 10_000  # messages of the fullest queue
_OTHERS = 20  # images that are named

_CONSISTENCY = {
    "frozen": "of one moment: all users were stopped",
    "frozen-by-caller": "of one moment by the caller's word, who had stopped all users",
    "checked": "of one moment: nothing was used while it was read",
    "inconsistent": "NOT of one moment",
}


@final
@dataclass(slots=True)
class Totals:
    """How much there is of everything."""

    queues: int = 0
    messages: int = 0
    message_bytes: int = 0
    sets: int = 0
    semaphores: int = 0
    segments: int = 0
    segment_bytes: int = 0
    segment_pages: int = 0
    data_bytes: int | None = 0  # None where the data of a segment cannot be told
    fullest: model.MessageQueue | None = None
    all_read: bool = True  # else there may be more of everything


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to know about a subject."""

    label: str  # empty where it belongs to the fact before it
    text: str  # one line
    warns: bool = False  # should somebody look at it?


def totals(subject: Subject) -> Totals:
    """Count what is in a subject, in one pass over each kind."""
    found, share, problems = Totals(), -1.0, subject.problems.count
    for queue in subject.queues or ():
        used = used_bytes(queue)
        found.queues, found.messages = found.queues + 1, found.messages + queue.qnum
        found.message_bytes += used
        if queue.qnum and (filled := used / max(queue.qbytes, 1)) > share:
            found.fullest, share = queue, filled
    for one in subject.semaphores or ():
        found.sets, found.semaphores = found.sets + 1, found.semaphores + one.nsems
    for segment in subject.segments or ():
        data = stored(segment)
        data = None if data is None else min(data, segment.size)
        found.segments, found.segment_bytes = found.segments + 1, found.segment_bytes + segment.size
        found.segment_pages += -(-segment.size // subject.page_size)
        found.data_bytes = None if data is None or found.data_bytes is None else found.data_bytes + data
    found.all_read = subject.problems.count == problems
    return found


def pieces(subject: Subject, view: View, layout: table.Layout, verified: bool | None) -> Iterator[str]:
    """The summary, and the first rows of each table. verified: None where nobody has tried."""
    found = totals(subject) if subject.is_set else None
    whole = subject.is_set or bool(subject.others)
    if whole:
        heading = subject.title if subject.is_set else f"No IPC namespace, {subject.title}"
        yield f"{pictures.title(heading, view)}\n"
    for fact in facts(subject, found, view, verified):
        text = pictures.warning(fact.text, view) if fact.warns else fact.text
        yield f"{fact.label:<12} {text}\n" if whole else f"{text}\n"
    shown = layout if layout.at_most is not None or not subject.is_set else replace(layout, at_most=_ROWS)
    for kind, option in (("shm", "-m"), ("msg", "-q"), ("sem", "-s")):
        objects = subject.of_kind(kind)
        if objects is None or next(iter(objects), None) is None:
            continue
        this = columns.KINDS[kind]
        yield f"\n{pictures.title(this.title, view)}\n" if subject.is_set else ""
        yield from table.lines(this, objects, shown, view, option)
    if not subject.is_set and subject.variables is not None:
        yield from table.lines(columns.LIMITS, resources(subject.variables, found), layout, view)
    if subject.pagemap is not None:
        yield from _pagemap(subject, view)


def facts(subject: Subject, found: Totals | None, view: View, verified: bool | None) -> Iterator[Fact]:
    """What is to be known of a subject before its objects are looked at. verified: None where nobody has tried."""
    if subject.manifest is not None:
        yield from _manifest(subject.manifest, view)
    if found is not None:
        yield from _of_set(subject, found, view, verified)
    if subject.others:
        named = [f"{describe.printable(other.name)} ({other.kind})" for other in subject.others[:_OTHERS]]
        more = len(subject.others) - len(named)
        yield Fact(
            "beside it" if subject.is_set else "images", ", ".join(named) + (f" and {more} more" if more else "")
        )


def _of_set(subject: Subject, found: Totals, view: View, verified: bool | None) -> Iterator[Fact]:
    if subject.manifest is None:
        missing = manifest_name(subject.ns_id or 0)
        by_criu = any(other.kind == "INVENTORY" for other in subject.others)
        maker = "by CRIU, whose inventory is beside it" if by_criu else "not by ipcimg"
        yield Fact("dumped", f"{maker}: no {missing}, and nothing says that the set is whole")
    else:
        yield Fact("verified", _VERIFIED[verified], warns=verified is False)
    yield from _lines("holds", _holds(found, view) or ["no objects"])
    if not found.all_read:
        yield Fact("", "and what could not be read", warns=True)
    if found.fullest is not None:
        yield from _lines("fullest", _why_full(found.fullest, subject, view))
    if subject.variables is not None:
        for one in resources(subject.variables, found):
            if one.used is not None and 10 * one.used > 9 * one.limit:
                share = 100 * one.used / max(one.limit, 1)
                yield Fact("near limit", f"{one.name}: {one.used} of {one.limit}, {share:.0f}%", warns=True)


_VERIFIED = {None: "not now (--verify)", True: "every file is as it was written", False: "NOT as it was written"}


def _manifest(one: Manifest, view: View) -> Iterator[Fact]:
    where = f"Linux {describe.printable(one.kernel)} {describe.printable(one.machine)}"
    yield Fact(
        "dumped", f"{view.moment(one.created) or 'at no known time'} by {describe.printable(one.tool)} on {where}"
    )
    yield Fact("files", f"{len(one.files)}, {view.size(sum(file.size for file in one.files.values()))}")
    if one.consistency is not None:
        moved = one.consistency.moved
        yield Fact("consistency", _consistency(one.consistency), warns=bool(moved))
        for text in moved:
            yield Fact("", describe.printable(text))
    if one.parent is not None:
        some = f"{one.parent.pages} of the {one.counts.pages} pages of segments"
        yield Fact("parent", f"{some} are in the parent's set {one.parent.ipc_ns_id}")
    if one.selection is not None:
        yield Fact("selection", f"a part of its namespace: {describe.printable(one.selection)}")


def _consistency(found: Consistency) -> str:
    words = _CONSISTENCY.get(found.how, describe.printable(found.how))
    return words + (f"; segments in use, which were read twice: {found.compared}" if found.compared else "")


def _lines(label: str, texts: Iterable[str]) -> Iterator[Fact]:
    for n, text in enumerate(texts):
        yield Fact("" if n else label, text)


def _holds(found: Totals, view: View) -> list[str]:
    lines = []
    if found.queues:
        messages = f"{many(found.messages, 'message')}, {view.size(found.message_bytes)}"
        lines.append(f"{many(found.queues, 'message queue')} ({messages})")
    if found.sets:
        lines.append(f"{many(found.sets, 'semaphore set')} ({many(found.semaphores, 'semaphore')})")
    if found.segments:
        data = "" if found.data_bytes is None else f", {view.size(found.data_bytes)} of it stored"
        lines.append(f"{many(found.segments, 'shared memory segment')} ({view.size(found.segment_bytes)}{data})")
    return lines


def many(count: int, what: str) -> str:
    """A number of things, in words."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def _why_full(queue: model.MessageQueue, subject: Subject, view: View) -> Iterator[str]:
    """Which queue it is, and what speaks of the reason: many messages or long ones, of a type, and who takes them."""
    used, p = used_bytes(queue), queue.permissions
    key = f" (key {describe.key(p.key)})" if p.key else ""
    yield f"msg:{p.id}{key}: {view.size(used)} of {view.size(queue.qbytes)}, {100 * used / max(queue.qbytes, 1):.2f}%"
    like = f"{many(queue.qnum, 'message')}, the longest {view.size(queue.longest or 0)}"
    seen = message.survey(itertools.islice(subject.problems.within(queue.messages), _SURVEYED))
    if seen.types:
        type_, count = seen.types.most_common(1)[0]
        among = "" if seen.count == queue.qnum else f" of the first {seen.count}"
        like += f"; {count}{among} of type {type_}"
    yield like
    if queue.facts is not None:
        f = queue.facts
        sent = f"last sent {view.moment(f.stime)} by {f.lspid}" if f.stime else "never sent to"
        received = f"last received {view.moment(f.rtime)} by {f.lrpid}" if f.rtime else "never received from"
        yield f"{sent}; {received}"


def _pagemap(subject: Subject, view: View) -> Iterator[str]:
    if subject.pagemap is None:
        return
    pages_id, runs = subject.pagemap
    yield f"pages-{pages_id}.img\n"
    yield from table.lines(columns.RUNS, runs, table.Layout(), view)


def resources(variables: model.Variables, found: Totals | None) -> Iterator[Resource]:
    """The settings as lsipc(1) names them, with what of them is used; then those that it does not show."""
    v = variables

    def used(what: str) -> int | None:
        return None if found is None else getattr(found, what)

    yield Resource("MSGMNI", "Number of message queues", v.msg_ctlmni, used("queues"))
    yield Resource("MSGMAX", "Max size of message (bytes)", v.msg_ctlmax, sort=columns.SIZE)
    yield Resource("MSGMNB", "Default max size of queue (bytes)", v.msg_ctlmnb, sort=columns.SIZE)
    yield Resource("SHMMNI", "Shared memory segments", v.shm_ctlmni, used("segments"))
    yield Resource("SHMALL", "Shared memory pages", v.shm_ctlall, used("segment_pages"))
    yield Resource("SHMMAX", "Max size of shared memory segment (bytes)", v.shm_ctlmax, sort=columns.SIZE)
    semmsl, semmns, semopm, semmni = v.sem_ctls
    yield Resource("SEMMNI", "Number of semaphore identifiers", semmni, used("sets"))
    yield Resource("SEMMNS", "Total number of semaphores", semmns, used("semaphores"))
    yield Resource("SEMMSL", "Max semaphores per semaphore set", semmsl)
    yield Resource("SEMOPM", "Max number of operations per semop(2)", semopm)
    yield Resource("SHMRMID", "Segments without attachment are destroyed (kernel.shm_rmid_forced)", v.shm_rmid_forced)
    yield Resource("AUTOMSGMNI", "kernel.auto_msgmni", v.auto_msgmni)
    for name, value, what in (
        ("MQQUEUES", v.mq_queues_max, "POSIX message queues (fs.mqueue.queues_max)"),
        ("MQMSG", v.mq_msg_max, "Messages of a POSIX queue (fs.mqueue.msg_max)"),
        ("MQMSGSIZE", v.mq_msgsize_max, "Max size of a POSIX message (fs.mqueue.msgsize_max)"),
        ("MQMSGDEF", v.mq_msg_default, "fs.mqueue.msg_default"),
        ("MQMSGSIZEDEF", v.mq_msgsize_default, "fs.mqueue.msgsize_default"),
        ("MSGNEXTID", v.msg_next_id, "Preset that is armed (kernel.msg_next_id)"),
        ("SEMNEXTID", v.sem_next_id, "Preset that is armed (kernel.sem_next_id)"),
        ("SHMNEXTID", v.shm_next_id, "Preset that is armed (kernel.shm_next_id)"),
    ):
        if value is not None:
            yield Resource(name, what, value)
