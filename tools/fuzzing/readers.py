"""Everything in ipcimg that reads images."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ipcimg import archive, codec, imageset
from ipcimg.image import ImageFile
from ipcimg.show.answer import pieces
from ipcimg.show.columns import CREATOR
from ipcimg.show.problems import Problems
from ipcimg.show.request import Request
from ipcimg.show.table import Layout
from ipcimg.show.view import View

from .corpus import PAGE


def _through(extents: Any) -> None:
    for extent in extents:
        view = memoryview(bytearray(min(extent.length, 1 << 16)))
        for start in range(0, min(extent.length, 8 << 20), len(view)):  # what is longer is a hole
            extent.read_into(view[: extent.length - start], start)


def _variables(image: ImageFile) -> None:
    codec.has_manifest(image)
    codec.decode_variables(image)


def _segments(image: ImageFile) -> None:
    for one in codec.decode_segments(image, lambda shmid, end: (), PAGE):
        _through(one.extents)


def _queues(image: ImageFile) -> None:
    for one in codec.decode_queues(image):
        for message in one.messages:
            del message


def _semaphores(image: ImageFile) -> None:
    for one in codec.decode_semaphores(image):
        del one


def _pagemap(image: ImageFile) -> None:
    for run in codec.decode_pagemap(image, PAGE)[1]:
        del run


def _opened(path: str) -> ImageFile:
    return ImageFile(os.open(f"{path}/x.img", os.O_RDONLY | os.O_CLOEXEC), f"{path}/x.img")


def _image(decode: Callable[[ImageFile], object]) -> Callable[[str], None]:
    def read(path: str) -> None:
        image = _opened(path)
        codec.kind_of(image)
        decode(image)

    return read


def _set(path: str) -> None:
    images = imageset.open_set(path)
    images.check()
    for segment in images.contents.segments:
        _through(segment.extents)


def _archive(path: str) -> None:
    for directory in archive.directories(_opened(path)):
        for ns_id in directory.sets():
            imageset.ImageSet(directory, ns_id).check()


def _show(request: Request) -> Callable[[str], str]:
    def read(path: str) -> str:
        path = f"{path}/x.img" if os.path.basename(path) == "one" else path
        return "".join(pieces(path, None, request, Problems()))

    return read


WIDE = Layout(more=CREATOR, times=True, pids=True)
READERS: dict[str, Callable[[str], str | None]] = {
    "var": _image(_variables),
    "shm": _image(_segments),
    "msg": _image(_queues),
    "sem": _image(_semaphores),
    "pagemap": _image(_pagemap),
    "manifest": _image(codec.decode_manifest),
    "ids": _image(codec.decode_ipc_ns_id),
    "set": _set,
    "archive": _archive,
    "text": _show(Request(view=View(truncate=False), layout=WIDE)),
    "hex": _show(Request(contents="hex")),
    "JSON": _show(Request(json="crit")),
}
