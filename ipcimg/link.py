"""The symbolic link `parent` of an image directory, which leads to an earlier one that has pages of it.

It is one for all page maps of the directory, those of CRIU's processes among them.
"""

from __future__ import annotations

import contextlib
import os
import stat

from .directory import ImageDirectory
from .errors import DirectoryError, listed, quoted
from .images import PARENT, is_pagemap_name


def to_replace(directory: ImageDirectory, files: set[str], parent: ImageDirectory | None, *, stays: bool) -> set[str]:
    """The link, if nobody but the files of a set that are to be replaced needs it; stays says that somebody may.

    parent is where that of the new set is to lead, if it needs one. Raises DirectoryError where there is one that leads
    elsewhere and stays, and where a new one could mean something for page maps that stay.
    """
    others = {name for name in directory.names() if is_pagemap_name(name)} - files
    if directory.has(PARENT):
        if files and not others and not stays and _is_link(directory):
            return {PARENT}
        if parent is not None and not leads_to(directory, parent):
            raise DirectoryError(
                f"image directory {directory.path}: it has a parent, {_target(directory)}, and it is not {parent.path}"
            )
    elif parent is not None and (shared := sorted(others & set(parent.names()))):
        raise DirectoryError(
            f"image directory {directory.path}: with a link to {parent.path} CRIU would look there for more pages of "
            f"{listed(shared)}"
        )
    return set()


def leads_to(directory: ImageDirectory, parent: ImageDirectory) -> bool:
    """Has a directory a link that leads to the other one?"""
    if not _is_link(directory):
        return False
    with directory.asked(), contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(PARENT, dir_fd=directory.fd), os.fstat(parent.fd))
    return False


def target(directory: ImageDirectory, parent: ImageDirectory) -> str:
    """What a link from a directory to the other one is to say: a relative path. Raises DirectoryError."""
    found = os.path.relpath(os.path.realpath(parent.path), os.path.realpath(directory.path))
    with directory.asked():
        if not os.path.samestat(os.stat(found, dir_fd=directory.fd), os.fstat(parent.fd)):
            raise DirectoryError(f"image directory {directory.path}: {found} from there is not {parent.path}")
    return found


def _is_link(directory: ImageDirectory) -> bool:
    with directory.asked(), contextlib.suppress(FileNotFoundError):
        return stat.S_ISLNK(os.stat(PARENT, dir_fd=directory.fd, follow_symlinks=False).st_mode)
    return False


def _target(directory: ImageDirectory) -> str:
    with directory.asked():
        return quoted(os.readlink(PARENT, dir_fd=directory.fd)) if _is_link(directory) else "which is no symbolic link"
