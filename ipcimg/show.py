"""The inspector: images → model → text or JSON. No kernel anywhere.

Text comes in pieces that end with a newline, and streams: a table is aligned block by block, so memory does not grow
with the image. JSON is that of critjson.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import codec, describe, imageset, model
from .directory import ImageDirectory
from .errors import DirectoryError, ImageError, explain
from .image import ImageFile
from .images import KINDS, kind_name, manifest_name, pagemap_name
from .manifest import Consistency, Manifest

_BLOCK = 4096  # rows that are aligned to each other


@dataclass(frozen=True, slots=True)
class View:
    """How much is to be shown, and how."""

    messages: int | None = 10  # of each queue; None for all
    hex: bool = False
    json: bool = False
    creator: bool = False  # what text has on demand only: cuid and cgid,
    times: bool = False  # when what happened to an object,
    pids: bool = False  # and who last operated on each semaphore


def show(path: str, ns_id: int | None, view: View) -> Iterator[str]:
    """What to print for an image or an image directory. Raises ImageError, DirectoryError."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise DirectoryError(f"{path}: {explain(error).removeprefix(f'{path}: ')}") from error
    if not is_directory:
        yield from _image(_open(path), view)
        return
    directory = ImageDirectory(path)
    for n, this in enumerate(directory.chosen_sets(ns_id)):
        if n and not view.json:
            yield "\n"
        yield from _set(imageset.ImageSet(directory, this), view)


def _open(path: str) -> ImageFile:
    # A symbolic link that the user names is followed; inside directories none is.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(path, None, explain(error).removeprefix(f"{path}: ")) from error
    return ImageFile(fd, path)


def _set(images: imageset.ImageSet, view: View) -> Iterator[str]:
    if view.json:
        names = [kind_name(kind, images.ns_id) for kind in KINDS]
        pagemaps = (pagemap_name(segment.permissions.id) for segment in images.contents.segments)
        for name in dict.fromkeys(filter(images.directory.has, itertools.chain(names, pagemaps))):
            yield from _image(images.directory.image(name), view, images.page_size)
        return
    yield f"IPC namespace {images.ns_id}, {describe.printable(images.directory.path)}\n"
    if images.manifest is None:
        yield f"no {manifest_name(images.ns_id)}: the set is not ipcimg's, and nothing says that it is whole\n"
    else:
        yield from _manifest_text([images.manifest], view)
    yield from _titled("Variables", _variables_text([images.contents.variables], view))
    yield from _titled("Shared memory segments", _segments_text(images.contents.segments, view, data=True))
    yield from _titled("Message queues", _queues_text(images.contents.queues, view))
    yield from _titled("Semaphore sets", _semaphores_text(images.contents.semaphores, view))


def _titled(title: str, pieces: Iterator[str]) -> Iterator[str]:
    first = next(pieces, None)
    if first is not None:
        yield f"\n{title}\n{first}"
        yield from pieces


def _image(image: ImageFile, view: View, page_size: int = imageset.PAGE_SIZE) -> Iterator[str]:
    kind = codec.kind_of(image)
    if kind not in _KINDS:
        raise ImageError(image.path, None, f"is of kind {kind}; ipcimg-show looks into {', '.join(_KINDS)}")
    if view.json:
        from . import critjson

        yield from critjson.pieces(image, kind, page_size)
        return
    this = _KINDS[kind]
    yield from this.text(this.decode(image, page_size), view)


# ---- text ----------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: str, indent: str = "") -> Iterator[str]:
    rows = iter(rows)
    while block := list(itertools.islice(rows, _BLOCK)):
        for line in describe.table(heads, block, right):
            yield f"{indent}{line}\n"


# Names of users are those of the machine that was dumped; here only their numbers mean anything.
_COMMON, _CREATOR = ("KEY", "ID", "PERMS", "UID", "GID"), ("CUID", "CGID")
_RIGHT = (
    "ID UID GID CUID CGID SIZE DATA USED-BYTES QBYTES MESSAGES NSEMS NATTCH CPID LPID LSPID LRPID OFFSET PAGES N TYPE"
)

# The columns of times, named as in lsipc(1), and the facts that they show.
_QUEUE_TIMES = {"SEND": "stime", "RECV": "rtime", "CTIME": "ctime"}
_SEMAPHORE_TIMES = {"OTIME": "otime", "CTIME": "ctime"}
_SEGMENT_TIMES = {"ATTACH": "atime", "DETACH": "dtime", "CTIME": "ctime"}


def _common_heads(view: View) -> tuple[str, ...]:
    return (*_COMMON, *_CREATOR) if view.creator else _COMMON


def _common(p: model.Permissions, view: View) -> tuple[str, ...]:
    creator = (str(p.cuid), str(p.cgid)) if view.creator else ()
    return (describe.key(p.key), str(p.id), describe.perms(p.mode), str(p.uid), str(p.gid), *creator)


def _fact(facts: object | None, name: str) -> str:
    return "-" if facts is None else str(getattr(facts, name))


def _times(facts: object | None, times: Mapping[str, str]) -> Iterator[str]:
    for name in times.values():
        seconds = 0 if facts is None else getattr(facts, name)
        yield describe.moment(seconds) if seconds else "-"


def _first(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")


def _queues_text(queues: Iterable[model.MessageQueue], view: View) -> Iterator[str]:
    times = _QUEUE_TIMES if view.times else {}
    heads = (*_common_heads(view), "USED-BYTES", "QBYTES", "MESSAGES", "LSPID", "LRPID", *times)

    def row(queue: model.MessageQueue) -> Sequence[str]:
        used = sum(len(message.body) for message in queue.messages) if queue.facts is None else queue.facts.cbytes
        return (
            *_common(queue.permissions, view),
            describe.size(used),
            describe.size(queue.qbytes),
            str(queue.qnum),
            _fact(queue.facts, "lspid"),
            _fact(queue.facts, "lrpid"),
            *_times(queue.facts, times),
        )

    yield from _table(heads, map(row, queues), _RIGHT)
    if view.messages != 0:
        for queue in queues:
            if queue.qnum:
                yield f"\nMessages of queue {queue.permissions.id}\n"
                yield from _messages_text(queue, view)


def _messages_text(queue: model.MessageQueue, view: View) -> Iterator[str]:
    shown = queue.qnum if view.messages is None else min(view.messages, queue.qnum)
    numbered = enumerate(itertools.islice(queue.messages, shown))
    if view.hex:
        for n, message in numbered:
            yield f"{n}: type {message.type}, {len(message.body)} bytes\n"
            for line in describe.hex_dump(message.body):
                yield f"    {line}\n"
    else:
        rows = (
            (str(n), str(message.type), describe.size(len(message.body)), describe.preview(message.body))
            for n, message in numbered
        )
        yield from _table(("N", "TYPE", "SIZE", "PREVIEW"), rows, _RIGHT, "    ")
    if shown < queue.qnum:
        yield f"    … and {queue.qnum - shown} more (--all)\n"


def _semaphores_text(sets: Iterable[model.SemaphoreSet], view: View) -> Iterator[str]:
    times = _SEMAPHORE_TIMES if view.times else {}
    heads = (*_common_heads(view), "NSEMS", *times, "VALUES", *(["SEMPID"] if view.pids else []))

    def row(one: model.SemaphoreSet) -> Sequence[str]:
        pids = ["-" if one.facts is None else _first(one.facts.sempid)] if view.pids else []
        return (
            *_common(one.permissions, view),
            str(one.nsems),
            *_times(one.facts, times),
            _first(one.values),
            *pids,
        )

    yield from _table(heads, map(row, sets), _RIGHT)


def _segments_text(segments: Iterable[model.SharedMemory], view: View, data: bool = False) -> Iterator[str]:
    times = _SEGMENT_TIMES if view.times else {}
    heads = (*_common_heads(view), "SIZE", *(["DATA"] if data else []), "NATTCH", "STATUS", "CPID", "LPID", *times)

    def row(one: model.SharedMemory) -> Sequence[str]:
        stored = [describe.size(sum(extent.length for extent in one.extents))] if data else []
        return (
            *_common(one.permissions, view),
            describe.size(one.size),
            *stored,
            _fact(one.facts, "nattch"),
            describe.segment_status(one.permissions.mode, one.hugetlb_flag),
            _fact(one.facts, "cpid"),
            _fact(one.facts, "lpid"),
            *_times(one.facts, times),
        )

    yield from _table(heads, map(row, segments), _RIGHT)


def _pagemap_text(parts: Iterable[object], view: View) -> Iterator[str]:
    del view
    head, *runs = parts
    yield f"pages-{head}.img\n"
    rows = (
        (f"{run.offset:#x}", str(run.pages), "parent" if run.in_parent else "")
        for run in runs
        if isinstance(run, codec.PageRun)
    )
    yield from _table(("OFFSET", "PAGES", "STATUS"), rows, _RIGHT)


def _variables_text(variables: Iterable[model.Variables], view: View) -> Iterator[str]:
    del view
    for one in variables:
        values = dataclasses.asdict(one) | {"sem_ctls": " ".join(map(str, one.sem_ctls))}
        rows = [(name, str(value)) for name, value in values.items() if value is not None]
        yield from _table(("NAME", "VALUE"), rows, "")


_CONSISTENCY = {
    "frozen": "of one moment: all users were stopped",
    "frozen-by-caller": "of one moment by the caller's word, who had stopped all users",
    "checked": "of one moment: nothing was used while it was read",
    "inconsistent": "NOT of one moment",
}


def _consistency(found: Consistency) -> str:
    words = _CONSISTENCY.get(found.how, describe.printable(found.how))
    return words + (f"; segments in use, which were read twice: {found.compared}" if found.compared else "")


def _manifest_text(manifests: Iterable[Manifest], view: View) -> Iterator[str]:
    del view
    for one in manifests:
        when = f"{describe.moment(one.created)} UTC"
        stored = describe.size(sum(file.size for file in one.files.values()))
        yield (
            f"dumped {when} by {describe.printable(one.tool)} on Linux {describe.printable(one.kernel)} "
            f"{describe.printable(one.machine)}: {len(one.files)} files, {stored}\n"
        )
        if one.consistency is not None:
            yield f"consistency: {_consistency(one.consistency)}\n"
            for moved in one.consistency.moved:
                yield f"    {describe.printable(moved)}\n"
        if one.selection is not None:
            yield f"a part of its namespace: {describe.printable(one.selection)}\n"


# ---- the kinds -----------------------------------------------------------------------------


# What is in an image whose page maps count in pages of so many bytes.
_Decode = Callable[[ImageFile, int], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class _Kind:
    decode: _Decode  # gives what can be iterated again and again
    text: Callable[[Any, View], Iterator[str]]


def _one(decode: Callable[[ImageFile], Any]) -> _Decode:
    return lambda image, _: [decode(image)]


def _decoded(decode: Callable[[ImageFile, int], Iterator[Any]]) -> _Decode:
    return lambda image, page_size: model.Again(lambda: decode(image, page_size))


_KINDS = {
    "IPC_VAR": _Kind(_one(codec.decode_variables), _variables_text),
    "IPCNS_SHM": _Kind(_decoded(codec.decode_segment_entries), _segments_text),
    "IPCNS_MSG": _Kind(lambda image, _: codec.decode_queues(image), _queues_text),
    "IPCNS_SEM": _Kind(lambda image, _: codec.decode_semaphores(image), _semaphores_text),
    "PAGEMAP": _Kind(_decoded(codec.decode_pagemap_entries), _pagemap_text),
    "IPCIMG_MANIFEST": _Kind(_one(codec.decode_manifest), _manifest_text),
}
