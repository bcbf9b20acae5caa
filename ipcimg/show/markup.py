"""HTML by its elements. Whatever is not Markup is text, and is escaped: nothing from an image becomes an element."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from .. import describe

_EMPTY = {"br", "meta"}  # that have neither children nor an end


class Markup(str):
    """HTML that is escaped already. What str's methods make of it is plain text again."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Text as HTML. What no reader sees, or what changes the order of what they see, is there as a visible escape."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(text if text.isprintable() else describe.printable(text), quote=True))


def tag(name: str, /, *children: str, **attributes: str | int | None) -> Markup:
    """An element with its children.

    Attributes are named as in HTML, with _ for - and behind the names that Python wants for itself: class_, aria_label.
    Those that are None are left out. No name may come from an image.
    """
    if name in _EMPTY:
        return _start(name, attributes)
    return Markup("".join((_start(name, attributes), *map(escaped, children), _end(name))))


def within(name: str, pieces: Iterable[Markup], /, **attributes: str | int | None) -> Iterator[Markup]:
    """An element around pieces, which are made one after the other."""
    yield _start(name, attributes)
    yield from pieces
    yield _end(name)


def lines(texts: Iterable[str]) -> Markup:
    """Lines of text, for <pre>."""
    return Markup("\n".join(map(escaped, texts)))


def _start(name: str, attributes: dict[str, str | int | None]) -> Markup:
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"')
    return Markup(f"<{' '.join(words)}>")


def _end(name: str) -> Markup:
    return Markup(f"</{name}>")
