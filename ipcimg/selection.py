"""Which part of a namespace is meant: by kind, by id, by key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from .errors import ObjectError
from .model import NAMES, Again, Contents, MessageQueue, SemaphoreSet, SharedMemory

KINDS = ("var", *NAMES)

_O = TypeVar("_O", MessageQueue, SemaphoreSet, SharedMemory)
Name = tuple[str, int, int]  # of an object: kind, id, key


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of the kinds, and if ids or keys are given only those that one of them names."""

    kinds: frozenset[str] = frozenset(KINDS)  # "var" stands for the namespace's settings
    ids: frozenset[tuple[str, int]] = frozenset()  # kind and id
    keys: frozenset[int] = frozenset()  # as in images: unsigned, not 0

    @property
    def everything(self) -> bool:
        """Is the whole namespace meant?"""
        return self == EVERYTHING

    @property
    def variables(self) -> bool:
        """Are the namespace's settings meant?"""
        return "var" in self.kinds and not (self.ids or self.keys)

    def wants(self, kind: str, object_id: int, key: int) -> bool:
        """Is this object meant?"""
        named = not (self.ids or self.keys) or (kind, object_id) in self.ids or key in self.keys
        return kind in self.kinds and named

    def of(self, contents: Contents) -> Contents:
        """The objects of contents that are meant, and the variables in any case."""
        if self.everything:
            return contents

        def meant(kind: str, objects: Iterable[_O]) -> Iterable[_O]:
            return Again(lambda: (o for o in objects if self.wants(kind, o.permissions.id, o.permissions.key)))

        return Contents(
            contents.variables,
            meant("shm", contents.segments),
            meant("msg", contents.queues),
            meant("sem", contents.semaphores),
        )

    def expect(self, found: Iterable[Name]) -> None:
        """Raise ObjectError if one of the ids or keys names none of the objects that there are."""
        ids, keys = set(self.ids), set(self.keys)
        for kind, object_id, key in found if ids or keys else ():
            if kind in self.kinds:
                ids.discard((kind, object_id))
                keys.discard(key)
        for kind, object_id in sorted(ids):
            raise ObjectError(f"there is no {NAMES[kind]} {object_id}")
        for key in sorted(keys):
            raise ObjectError(f"there is no object with the key {key:#010x}")

    def __str__(self) -> str:
        """In the words of the command line."""
        words = [] if self.kinds == EVERYTHING.kinds else [f"--only {','.join(k for k in KINDS if k in self.kinds)}"]
        words += [f"--id {kind}:{object_id}" for kind, object_id in sorted(self.ids)]
        words += [f"--key {key:#x}" for key in sorted(self.keys)]
        return " ".join(words)


EVERYTHING = Selection()
