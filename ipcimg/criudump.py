"""A dump of CRIU's: which IPC namespace is in it, and whether a set of ours may take the place of CRIU's."""

from __future__ import annotations

import os
import stat

from . import codec
from .directory import ImageDirectory, kind_name
from .errors import DirectoryError, listed

_INVENTORY = "inventory.img"
_COMMON_MAGIC = 2  # the img_version since which images begin with it


def namespace(directory: ImageDirectory, ns_id: int | None = None) -> int | None:
    """The N of the images of the IPC namespace that was dumped; None where the directory is no dump of CRIU's.

    ns_id chooses one, should there be several. Raises DirectoryError, ImageError.
    """
    told = {found for image in directory.ids_images() if (found := codec.decode_ipc_ns_id(image)) is not None}
    if not told:
        return None
    names = f"its ids-*.img name the IPC namespaces {listed(sorted(told))}"
    if ns_id is not None:
        if ns_id not in told:
            raise DirectoryError(f"image directory {directory.path}: {names}, not {ns_id}")
        return ns_id
    if len(told) > 1:
        raise DirectoryError(f"image directory {directory.path}: {names}; choose one by --ns-id")
    return told.pop()


def namespace_to_replace(directory: ImageDirectory, ns_id: int | None) -> int:
    """As namespace(), where CRIU's restore is to read what we write. Raises DirectoryError where it would not."""

    def refused(why: str) -> DirectoryError:
        return DirectoryError(f"image directory {directory.path}: {why}")

    if not directory.has(_INVENTORY):
        raise refused(f"there is no {_INVENTORY} in it: it is no dump of CRIU's")
    inventory = codec.decode_inventory(directory.image(_INVENTORY))
    if inventory.img_version < _COMMON_MAGIC:
        raise refused(
            f"its images are of CRIU's first format (img_version {inventory.img_version}), which ipcimg only reads"
        )
    n = namespace(directory, ns_id)
    if n is None:
        raise refused("no ids-*.img tells which IPC namespace was dumped: it is a pre-dump, or cut short")
    # What is dumped of processes that live in criu's own namespace is restored into whatever namespace criu has then.
    if n == inventory.own_ipc_ns_id:
        raise refused("the processes were in criu's own IPC namespace, which it neither dumps nor restores")
    if not directory.has(kind_name("var", n)):
        raise refused(f"CRIU has left no {kind_name('var', n)} in it: its dump is not whole")
    children = _children(directory)
    if children:
        raise refused(f"it is the parent of {listed(children)}, whose pages it holds")
    return n


def _children(directory: ImageDirectory) -> list[str]:
    """The directories beside this one whose symbolic link `parent` leads to it: where CRIU puts a chain of dumps."""
    found = []
    with directory.asked():
        this = os.fstat(directory.fd)
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd)
        try:
            for name in sorted(os.listdir(above)):
                try:
                    link = os.stat(f"{name}/parent", dir_fd=above, follow_symlinks=False)
                    if stat.S_ISLNK(link.st_mode) and os.path.samestat(os.stat(f"{name}/parent", dir_fd=above), this):
                        found.append(name)
                except OSError:  # there is none, or it leads nowhere: so nobody reads our pages through it
                    continue
        finally:
            os.close(above)
    return found
