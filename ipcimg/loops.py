"""The loops in C, _loops.c, where they could be built; c is None where there are none.

They do what modules in Python do as well, without the interpreter between two system calls. Those are the reference,
and go on where a loop stops at what is out of the ordinary. IPCIMG_LOOPS=python does without C.
"""

from __future__ import annotations

import array
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .model import Frames

if TYPE_CHECKING:
    from . import _loops

    c = _loops
elif os.environ.get("IPCIMG_LOOPS") == "python":
    c = None
else:
    try:
        from . import _loops as c
    except ImportError:
        c = None

BLOCK = 256 << 10  # bytes that are framed before they are written: they are still in the processor's cache then

# Why a loop has stopped, beside errno's numbers: see _loops.pyi.
FULL, ODD, OTHER_ID = -1, -2, -3

Make = Callable[[bytearray, int, int, int, int, int, int, int, int, int, int], tuple[int, int, int, int, int]]
_O = TypeVar("_O")
_Dump = Callable[[bytes, int, bool, int, bytearray], tuple[int, int, int, int]]


def framed(
    loop: _Dump, ids: array.array[int], one: Callable[[int], Iterable[_O]], *, exact: bool, most: int
) -> Iterator[_O | Frames]:
    """The objects with these ids, in their order: from loop, c.dump_queues or the like, as far as it can do them.

    one gives the others. For exact and most see _loops.pyi.
    """
    packed, out, n = ids.tobytes(), bytearray(BLOCK), 0
    while n < len(ids):
        first = n
        n, end, messages, why = loop(packed, n, exact, most, out)
        if end:
            yield Frames(memoryview(out)[:end], n - first, messages)
        if why and not (end and why == FULL):
            yield from one(ids[n])
            n += 1
