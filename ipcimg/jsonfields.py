"""JSON from elsewhere: parsed strictly, and each value checked for what it has to be.

Python's json takes names that are there twice, NaN, fractions and numbers of any length. Here each of them is a value
that no check accepts. A check is a function of a value and its place; it gives the value in the form that the model
has, or raises a JsonError that names the place.
"""

from __future__ import annotations

import binascii
import collections
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from .errors import JsonError, quoted

_T = TypeVar("_T")
_DIGITS = 20  # of 2^64-1
_NUMBER = re.compile(rf"-?(?:0|[1-9][0-9]{{0,{_DIGITS - 1}}}|0[xX][0-9a-fA-F]{{1,16}}|0[oO][0-7]{{1,22}})\Z")


class Place:
    """Where a value stands. It is put into words for an error alone: there can be millions of values."""

    __slots__ = ("_file", "_outer", "_step")

    def __init__(self, file: str, outer: Place | None = None, step: str | int = "") -> None:
        self._file, self._outer, self._step = file, outer, step

    def at(self, step: str | int) -> Place:
        """The place of a member, by its name, or of an element, by its number."""
        return Place(self._file, self, step)

    def fail(self, why: str) -> JsonError:
        """The error that says what is wrong with the value."""
        steps: list[str] = []
        here: Place | None = self
        while here is not None and here._outer is not None:
            steps.append(f"[{here._step}]" if isinstance(here._step, int) else f".{here._step}")
            here = here._outer
        return JsonError(self._file, "".join(reversed(steps)).removeprefix("."), why)

    def refuse(self, value: object, expected: str) -> JsonError:
        """The error of a value that is not what is expected there."""
        if isinstance(value, _Unusable):
            return self.fail(value.why)
        return self.fail(f"is {_said(value)}, not {expected}")


Check = Callable[[Any, Place], _T]


class _Unusable:
    """What stands for a value that would be another one, or none, after parsing."""

    def __init__(self, why: str) -> None:
        self.why = why


def _said(value: object) -> str:
    if isinstance(value, (str, bool, int)) or value is None:
        return quoted(value) if isinstance(value, str) else json.dumps(value)
    return "an array" if isinstance(value, list) else "an object"


# ---- parsing -------------------------------------------------------------------------------


def _whole(text: str) -> int | _Unusable:
    digits = len(text.lstrip("-"))
    return (
        int(text) if digits <= _DIGITS else _Unusable(f"is a number of {digits} digits; none has more than {_DIGITS}")
    )


def _other(text: str) -> _Unusable:
    return _Unusable(f"is {text[:_DIGITS]}, not a whole number")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unusable:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice, _ = next(pair for pair in collections.Counter(name for name, _ in pairs).items() if pair[1] > 1)
    return _Unusable(f"has {quoted(twice)} more than once")


def parse(data: bytes, file: str) -> Any:
    """What the bytes say, to be checked. Raises JsonError where they are not the JSON of one value, in UTF-8."""
    if not data:
        raise JsonError(file, "", "is empty")
    try:
        text = data.decode()
        return json.loads(text, object_pairs_hook=_pairs, parse_int=_whole, parse_float=_other, parse_constant=_other)
    except UnicodeDecodeError as error:
        raise JsonError(file, f"byte {error.start}", "is not UTF-8, so this is no JSON") from None
    except json.JSONDecodeError as error:
        why = "more follows the JSON of one image" if error.msg == "Extra data" else f"is no JSON: {error.msg}"
        raise JsonError(file, f"line {error.lineno}, column {error.colno}", why) from None
    except RecursionError:
        raise JsonError(file, "", "is nested too deeply") from None


# ---- checks --------------------------------------------------------------------------------


def number(low: int, high: int) -> Check[int]:
    """A whole number in this range, or a text that says one: "12", "0x1000", "0o640"."""

    def check(value: Any, place: Place) -> int:
        found = int(value, 0) if type(value) is str and _NUMBER.match(value) else value
        if type(found) is not int:  # True is an int too
            raise place.refuse(value, "a number")
        if not low <= found <= high:
            raise place.fail(f"is {found}; it can be {low} to {high}")
        return found

    return check


def boolean(value: Any, place: Place) -> bool:
    """true or false."""
    if type(value) is not bool:
        raise place.refuse(value, "true or false")
    return value


def text(value: Any, place: Place) -> str:
    """A string."""
    if type(value) is not str:
        raise place.refuse(value, "a string")
    return value


def binary(value: Any, place: Place) -> bytes:
    """Bytes in base64, with or without line breaks."""
    plain = text(value, place).replace("\n", "").replace("\r", "")
    try:
        found = binascii.a2b_base64(plain)
    except ValueError:
        raise place.fail("is no base64") from None
    # The decoder skips what does not belong there, and how much of it depends on the version of Python.
    if binascii.b2a_base64(found, newline=False).decode() != plain:
        raise place.fail("is no base64")
    return found


def array(value: Any, place: Place) -> list[Any]:
    """An array, of whatever elements."""
    if type(value) is not list:
        raise place.refuse(value, "an array")
    return value


def each(check: Check[_T]) -> Check[tuple[_T, ...]]:
    """An array whose elements pass a check."""
    return lambda value, place: tuple(check(one, place.at(n)) for n, one in enumerate(array(value, place)))


def members(fields: Mapping[str, Check[Any]], optional: Collection[str] = ()) -> Check[dict[str, Any]]:
    """An object with these members and no others, all of which are there but for the optional ones."""

    def check(value: Any, place: Place) -> dict[str, Any]:
        if type(value) is not dict:
            raise place.refuse(value, "an object")
        found = {}
        for name, one in value.items():
            if name not in fields:
                raise place.fail(f"has the unknown field {quoted(name)}; known are {', '.join(fields)}")
            found[name] = fields[name](one, place.at(name))
        if len(found) != len(fields):
            missing = [name for name in fields if name not in found and name not in optional]
            if missing:
                raise place.fail(f"lacks {', '.join(missing)}")
        return found

    return check


def made(into: Callable[..., _T], fields: Mapping[str, Check[Any]], optional: Collection[str] = ()) -> Check[_T]:
    """An object as for members(), whose members are what into is called with."""
    check = members(fields, optional)
    return lambda value, place: into(**check(value, place))
