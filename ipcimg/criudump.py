"""A dump of CRIU's: which IPC namespace is in it, and whether a set of ours may take the place of CRIU's."""

from __future__ import annotations

import dataclasses
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from . import codec, model
from .directory import ImageDirectory
from .errors import DirectoryError, ObjectError, listed
from .image import ImageFile
from .images import INVENTORY, Images, kind_name

_O = TypeVar("_O", model.SharedMemory, model.MessageQueue, model.SemaphoreSet)

_LONGEST = 8192  # bytes of a message that criu restores: MSGMAX in criu/ipc_ns.c


def namespace(directory: Images, ns_id: int | None = None, *, hint: str = "; choose one by --ns-id") -> int | None:
    """The N of the images of the IPC namespace that was dumped; None where the directory is no dump of CRIU's.

    ns_id chooses one, should there be several; hint is the end of the error where it does not. Raises DirectoryError,
    ImageError.
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
        raise DirectoryError(f"image directory {directory.path}: {names}{hint}")
    return told.pop()


def has_namespace(directory: Images) -> bool:
    """Is an IPC namespace in a dump of CRIU's? It dumps nothing of its own. Raises DirectoryError, ImageError."""
    if not directory.has(INVENTORY):
        raise DirectoryError(
            f"image directory {directory.path}: there is no {INVENTORY} in it: it is no dump of CRIU's"
        )
    found = namespace(directory, hint="; `ipcimg hook` takes one alone")
    return found != codec.decode_inventory(directory.image(INVENTORY)).own_ipc_ns_id


def namespace_to_replace(directory: Images, ns_id: int | None, *, hint: str = "; choose one by --ns-id") -> int:
    """As namespace(), where CRIU's restore is to read what we write. Raises DirectoryError where it would not."""

    def refused(why: str) -> DirectoryError:
        return DirectoryError(f"image directory {directory.path}: {why}")

    directory.refuse_detached()
    if not directory.has(INVENTORY):
        raise refused(f"there is no {INVENTORY} in it: it is no dump of CRIU's")
    inventory = codec.decode_inventory(directory.image(INVENTORY))
    if inventory.is_ours:
        raise refused(f"its {INVENTORY} is ipcimg's: it is no dump of CRIU's")
    if inventory.img_version != codec.COMMON_MAGIC_VERSION:
        what = (
            "of CRIU's first format"
            if inventory.img_version < codec.COMMON_MAGIC_VERSION
            else "of a format that ipcimg does not know"
        )
        raise refused(f"its images are {what} (img_version {inventory.img_version})")
    n = namespace(directory, ns_id, hint=hint)
    if n is None:
        raise refused("no ids-*.img tells which IPC namespace was dumped: it is a pre-dump, or cut short")
    # What is dumped of processes that live in criu's own namespace is restored into whatever namespace criu has then.
    if n == inventory.own_ipc_ns_id:
        raise refused("the processes were in criu's own IPC namespace, of which it dumps and restores nothing")
    if not directory.has(kind_name("var", n)):
        raise refused(f"CRIU has left no {kind_name('var', n)} in it: its dump is not whole")
    return n


def refuse_children(directory: ImageDirectory) -> None:
    """Raise DirectoryError where a directory beside or inside this one has it as `parent`: it has the pages of both."""
    with directory.asked():
        this = os.fstat(directory.fd)
        for place in ("..", "."):
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.fd)
            try:
                children = [name for name in sorted(os.listdir(fd)) if _is_child(fd, name, this)]
            finally:
                os.close(fd)
            if children:
                raise DirectoryError(
                    f"image directory {directory.path}: it is the parent of {listed(children)}, whose pages it holds"
                )


def _is_child(directory: int, name: str, parent: os.stat_result) -> bool:
    try:
        link = os.stat(f"{name}/parent", dir_fd=directory, follow_symlinks=False)
        there = os.stat(f"{name}/parent", dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # there is no such link, or it leads nowhere
            return False
        raise
    return stat.S_ISLNK(link.st_mode) and os.path.samestat(there, parent)


# ---- what criu restore is to find ----------------------------------------------------------


class Replacement:
    """What is written in the place of CRIU's set, noted while it is written."""

    def __init__(self, contents: model.Contents) -> None:
        self._contents = contents
        self._seen: set[tuple[str, int]] = set()
        self._unfit: list[str] = []

    def noted(self) -> model.Contents:
        """The contents, to be iterated once."""
        c = self._contents
        return model.Contents(c.variables, self._segments(), self._queues(), self._semaphores())

    def refuse_unfit(self, directory: Images, ns_id: int) -> None:
        """When all is written: raise ObjectError where criu would not restore it, or misses what it has dumped there.

        Its processes have attached segments, and know ids.
        """
        variables = self._contents.variables
        for kind, most in (
            ("shm", variables.shm_ctlmni),
            ("msg", variables.msg_ctlmni),
            ("sem", variables.sem_ctls[3]),
        ):
            count = sum(seen == kind for seen, _ in self._seen)
            if count > most:
                self._unfit.append(f"{count} {model.NAMES[kind]}s, and the limit of the namespace is {most}")
        if self._unfit:
            more = f" (and {len(self._unfit) - 1} more)" if len(self._unfit) > 1 else ""
            raise ObjectError(f"criu restore would fail: {self._unfit[0]}{more}; --force writes it all the same")
        for kind, one in objects(directory, ns_id):
            permissions = one.permissions
            if (kind, permissions.id) not in self._seen:
                raise ObjectError(
                    f"{permissions.named(kind)}, which CRIU has dumped, is not in the namespace: it is another one, or "
                    "its processes have run since; --force leaves it out"
                )

    def _segments(self) -> Iterator[model.SharedMemory]:
        variables = self._contents.variables
        for one in self._note("shm", self._contents.segments):
            if variables.shm_rmid_forced:
                self._unfit.append(
                    f"{one.permissions.named('shm')}: kernel.shm_rmid_forced is 1, and destroys it at once"
                )
            if one.size > variables.shm_ctlmax:
                self._unfit.append(
                    f"{one.permissions.named('shm')}: {one.size} bytes, and shmmax is {variables.shm_ctlmax}"
                )
            yield one

    def _queues(self) -> Iterator[model.MessageQueue]:
        variables = self._contents.variables
        for one in self._note("msg", self._contents.queues):
            measured = _Measured(one.messages)
            yield dataclasses.replace(one, messages=measured)
            most = min(_LONGEST, variables.msg_ctlmax)
            if measured.longest > most:
                self._unfit.append(
                    f"{one.permissions.named('msg')}: a message of {measured.longest} bytes, and the most is {most}"
                )
            if measured.size > variables.msg_ctlmnb:
                self._unfit.append(
                    f"{one.permissions.named('msg')}: {measured.size} bytes of messages, and its qbytes will be "
                    f"msgmnb, {variables.msg_ctlmnb}"
                )

    def _semaphores(self) -> Iterator[model.SemaphoreSet]:
        most = self._contents.variables.sem_ctls[0]
        for one in self._note("sem", self._contents.semaphores):
            if one.nsems > most:
                self._unfit.append(f"{one.permissions.named('sem')}: {one.nsems} semaphores, and semmsl is {most}")
            yield one

    def _note(self, kind: str, objects: Iterable[_O]) -> Iterator[_O]:
        for one in objects:
            self._seen.add((kind, one.permissions.id))
            yield one


def objects(directory: Images, ns_id: int) -> Iterator[tuple[str, model.Object]]:
    """What CRIU has dumped, a segment without data: each with its kind. Raises DirectoryError, ImageError."""
    decoders: dict[str, Callable[[ImageFile], Iterable[model.Object]]] = {
        "shm": lambda image: codec.decode_segment_entries(image, mmap.PAGESIZE),
        "msg": codec.decode_queues,
        "sem": codec.decode_semaphores,
    }
    for kind, decode in decoders.items():
        name = kind_name(kind, ns_id)
        if directory.has(name):
            yield from ((kind, one) for one in decode(directory.image(name)))


class _Measured:
    """Messages, of which is known how long they are when they have been iterated."""

    def __init__(self, messages: Iterable[model.Message]) -> None:
        self._messages = messages
        self.size = self.longest = 0  # bytes, of all and of one

    def __iter__(self) -> Iterator[model.Message]:
        for message in self._messages:
            self.size += len(message.body)
            self.longest = max(self.longest, len(message.body))
            yield message
