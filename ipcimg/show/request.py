"""What is asked for: the arguments of ipcimg-show, understood."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import model
from .message import Filter
from .table import Layout
from .view import View


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that is named on the command line."""

    kind: str | None  # one of model.NAMES, None for any
    number: int
    is_key: bool  # is the number a key, not an id?

    def is_it(self, kind: str, one: model.Object) -> bool:
        """Is this object meant?"""
        p = one.permissions
        return self.kind in (None, kind) and self.number == (p.key if self.is_key else p.id)

    def __str__(self) -> str:
        """In the words of the command line."""
        number = f"{self.number:#010x}" if self.is_key else str(self.number)
        return number if self.kind is None else f"{self.kind}:{number}"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, and how it is to look."""

    view: View = field(default_factory=View)
    layout: Layout = field(default_factory=Layout)
    kinds: tuple[str, ...] = ()  # whole tables: of model.NAMES, and var for the settings
    objects: tuple[Wanted, ...] = ()
    verify: bool = False
    messages: bool = False  # list messages, whatever filter says
    filter: Filter = field(default_factory=Filter)
    limit: int | None = None  # rows of each table, or contents
    contents: str | None = None  # "hex", "text", "strings" or "raw"
    least: int = 4  # characters of each of strings
    range: tuple[int, int | None] | None = None  # of contents: bytes, the end excluded, None for all that follow
    json: str | None = None  # "crit" or "lines"

    @property
    def lists_messages(self) -> bool:
        """Is it messages that are asked for?"""
        return self.messages or self.filter != Filter()

    @property
    def is_summary(self) -> bool:
        """Is nothing in particular asked for?"""
        return not (self.kinds or self.objects or self.lists_messages or self.looks_into_contents)

    @property
    def looks_into_contents(self) -> bool:
        """Is it contents that are to be shown, not what there is?"""
        return self.contents is not None or self.range is not None

    @property
    def asks_for_some(self) -> bool:
        """Is something looked for, that may not be there?"""
        return self.filter != Filter() or self.range is not None or self.contents == "strings"

    @property
    def is_for_people(self) -> bool:
        """Is it text to read, not a format of programs?"""
        return self.json is None and self.layout.format == "list"

    def tables(self) -> tuple[str, ...]:
        """The kinds of objects that are meant."""
        named = tuple(kind for kind in model.NAMES if kind in self.kinds)
        return named or tuple(model.NAMES)
