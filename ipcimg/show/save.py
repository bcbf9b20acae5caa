"""The bytes of one message or segment, as they are: into a new file, with its holes, or to standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ..errors import ObjectError
from ..interrupts import handled
from ..newfile import new_file
from . import contents
from .answer import Answer, Place
from .subject import Subject


def one(answer: Answer, subjects: Iterable[Subject], path: str | None) -> None:
    """Write the only content that is meant into the new file path, or to standard output. Raises IpcimgError."""
    place: Place | None = None
    for subject in subjects:
        if answer.request.verify and not subject.is_as_written():
            return
        for this in answer.some_places(subject):
            if place is not None:
                raise ObjectError(f"{place.name} and {this.name} are both meant; choose one by --id and --message")
            place = this
        answer.note_unfit(subject)
    if place is None:
        if answer.lacks is None:
            raise ObjectError("there is no such message or segment")
        return
    start, end = place.content.clip(*(answer.request.range or (0, None)))
    if path is None:
        if sys.stdout.isatty():
            raise ObjectError("bytes as they are go to a pipe, or to a file by --save, not to a terminal")
        sys.stdout.flush()
        contents.raw(place.content, sys.stdout.buffer, start, end)
        return
    with handled(), new_file(path) as file:
        contents.extract(place.content, file, start, end)
