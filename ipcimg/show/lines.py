"""What images hold as JSON for programs: an object a line, which docs/ipcimg-show.schema.json describes.

All members are there in every line of a kind: null stands for what the image does not tell. Lines come as images are
read, so memory does not grow with them; only a message, and the values of a semaphore set, are a line as a whole.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .. import model
from ..manifest import Manifest
from .request import Request
from .subject import Subject, stored

if TYPE_CHECKING:
    from .answer import Answer

# Of lines, beside the end.
KINDS = ("set", "file", "variables", "segment", "extents", "queue", "message", "semaphores", "run", "other")
_EXTENTS = 1000  # in a line at most
_VARIABLES, _REST = "var", "rest"  # what may be meant beside objects: the settings; what no option names

_Line = tuple[str, dict[str, object]]  # kind and members


def pieces(subject: Subject, request: Request, answer: Answer) -> Iterator[str]:
    """The lines of a subject that are meant, at most request.limit of each kind, and the line that ends them.

    What cannot be read is reported to subject.problems, and then they are not complete.
    """
    counts = dict.fromkeys(KINDS, 0)
    for kind, members in _lines(subject, request, answer):
        if request.limit is None or counts[kind] < request.limit:
            counts[kind] += 1
            yield _text(subject, kind, members)
    # The count is that of all sources so far: a problem that is met again is not counted a second time.
    yield _text(subject, "end", {"ns_id": subject.ns_id, "complete": not subject.problems.count, "lines": counts})


def _text(subject: Subject, kind: str, members: dict[str, object]) -> str:
    return json.dumps({"kind": kind, "source": subject.name, **members}) + "\n"  # ASCII: no terminal obeys any of it


def _meant(request: Request) -> Sequence[str]:
    """Of model.NAMES, _VARIABLES and _REST."""
    if request.lists_messages:
        return ["msg"]
    return request.kinds or tuple(model.NAMES) + (() if request.objects else (_VARIABLES, _REST))


def _lines(subject: Subject, request: Request, answer: Answer) -> Iterator[_Line]:
    meant = _meant(request)
    if subject.is_set or subject.manifest is not None:  # always: nothing else tells the sets of a directory apart
        manifest = subject.manifest and _manifest(subject.manifest)
        yield "set", {"ns_id": subject.ns_id, "page_size": subject.page_size, "manifest": manifest}
    if _REST in meant and subject.manifest is not None:
        for name, file in subject.manifest.files.items():
            yield "file", {"name": name, "size": file.size, "digest": file.digest.hex()}
    if _VARIABLES in meant and subject.variables is not None:
        yield "variables", dataclasses.asdict(subject.variables)
    for _, one in answer.chosen(subject, [kind for kind in model.NAMES if kind in meant]):
        if isinstance(one, model.SharedMemory):
            yield from _segment(subject, one)
        elif isinstance(one, model.MessageQueue):
            yield from _queue(subject, one, answer)
        else:
            yield "semaphores", {**_object(one), "values": one.values.tolist(), "facts": _facts(one)}
    if _REST in meant:
        yield from _rest(subject)


def _manifest(one: Manifest) -> dict[str, Any]:
    members = dataclasses.asdict(dataclasses.replace(one, files={}))
    del members["files"]  # they have lines of their own
    if one.parent is not None:
        members["parent"]["digest"] = one.parent.digest.hex()
    return members


def _object(one: model.Object) -> dict[str, object]:
    return {"permissions": dataclasses.asdict(one.permissions)}


def _facts(one: model.Object) -> dict[str, Any] | None:
    return None if one.facts is None else dataclasses.asdict(one.facts)


def _segment(subject: Subject, one: model.SharedMemory) -> Iterator[_Line]:
    pages = {"size": one.size, "hugetlb_flag": one.hugetlb_flag, "data": stored(one)}
    yield "segment", {**_object(one), **pages, "facts": _facts(one)}
    extents = subject.problems.within(one.extents)
    while some := [[extent.offset, extent.length] for extent in itertools.islice(extents, _EXTENTS)]:
        yield "extents", {"segment": one.permissions.id, "extents": some}


def _queue(subject: Subject, one: model.MessageQueue, answer: Answer) -> Iterator[_Line]:
    sizes = {"qbytes": one.qbytes, "qnum": one.qnum, "bytes": one.size, "longest": one.longest}
    yield "queue", {**_object(one), **sizes, "facts": _facts(one)}
    for found in answer.messages_of(subject, one):
        body = found.message.body
        place = {"queue": found.queue, "n": found.n, "type": found.message.type, "size": len(body)}
        yield "message", {**place, "body": base64.b64encode(body).decode(), "text": _utf8(body)}


def _utf8(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:  # then it is no text
        return None


def _rest(subject: Subject) -> Iterator[_Line]:
    if subject.pagemap is not None:
        pages_id, runs = subject.pagemap
        for run in runs:
            yield (
                "run",
                {
                    "pages_id": pages_id,
                    "offset": run.offset,
                    "pages": run.pages,
                    "in_parent": run.in_parent,
                },
            )
    for other in subject.others:
        yield "other", {"name": other.name, "magic": other.kind, "size": other.size}
