"""What makes a set of images whole: the list of its files, written after all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from . import __version__, digest
from .model import Counts
from .selection import Selection


@dataclass(frozen=True, slots=True)
class File:
    """What a file of a set is to be."""

    size: int  # bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Consistency:
    """How it was made sure that a dump is of one moment.

    how is "frozen": all users were stopped; "frozen-by-caller": so the caller said; "checked": no queue and no
    semaphore set was used meanwhile, and every segment that somebody could have written was the same when it was read a
    second time; or "inconsistent": it is not.
    """

    how: str
    compared: int = 0  # how many segments were read twice
    moved: tuple[str, ...] = ()  # what moved, a sentence for each


@dataclass(frozen=True, slots=True)
class Parent:
    """An earlier set that has pages of this one."""

    ipc_ns_id: int  # the N in its file names
    digest: bytes  # of its whole manifest
    pages: int  # how many pages of segments are there; they are among the counts


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a set with their sizes and digests, what is in them, and where and when it was dumped."""

    VERSION: ClassVar[int] = 1

    ipc_ns_id: int  # the N in the file names
    files: Mapping[str, File]  # by name
    counts: Counts
    page_size: int  # bytes, of the machine that was dumped
    kernel: str  # uname -r
    machine: str  # uname -m
    created: int  # seconds since the epoch
    tool: str
    digest_algorithm: str = digest.DEFAULT
    consistency: Consistency | None = None  # None: not known
    selection: str | None = None  # which part of the namespace was dumped, as the command line says it; None for all
    variables_meant: bool = True  # are the settings part of it? They are there in any case
    parent: Parent | None = None  # None where all pages are in the set itself
    version: int = VERSION


def of_this_machine(
    ipc_ns_id: int,
    files: Mapping[str, File],
    counts: Counts,
    selection: Selection,
    digest_algorithm: str,
    consistency: Consistency | None,
    parent: Parent | None,
) -> Manifest:
    """The manifest of a set that is being written here and now."""
    uname = os.uname()
    return Manifest(
        ipc_ns_id,
        files,
        counts,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        kernel=uname.release,
        machine=uname.machine,
        created=int(time.time()),
        tool=f"ipcimg {__version__}",
        digest_algorithm=digest_algorithm,
        consistency=consistency,
        selection=None if selection.everything else str(selection),
        variables_meant=selection.variables,
        parent=parent,
    )
