"""What cannot be read: it is said as it is met, and all the rest is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..errors import IpcimgError
from ..model import Again

_T = TypeVar("_T")
_REMEMBERED = 4096  # reports that are not repeated when the same thing is read again


class Problems:
    """Takes what goes wrong while images are read."""

    def __init__(self, say: Callable[[IpcimgError], None] | None = None) -> None:
        """say tells somebody of an error. Without it nothing is taken: the first error is raised."""
        self._say = say
        self.said: dict[str, None] = {}  # the first reports, in their order
        self.count = 0  # reports so far

    def report(self, error: IpcimgError) -> None:
        """Say what is wrong, once."""
        text = str(error)
        if text in self.said:
            return
        if len(self.said) < _REMEMBERED:
            self.said[text] = None
        self.count += 1
        if self._say is not None:
            self._say(error)

    def within(self, things: Iterable[_T]) -> Iterator[_T]:
        """Those things that can be read; what ends them before their end is reported."""
        try:
            yield from things
        except IpcimgError as error:
            if self._say is None:
                raise
            self.report(error)

    def asked(self, ask: Callable[[], _T]) -> _T | None:
        """An answer, or None where there is none, which is reported."""
        try:
            return ask()
        except IpcimgError as error:
            if self._say is None:
                raise
            self.report(error)
            return None

    def succeeds(self, do: Callable[[], object]) -> bool:
        """Do it; whether nothing was wrong."""

        def done() -> bool:
            do()
            return True

        return self.asked(done) is not None

    def again(self, things: Iterable[_T]) -> Again[_T]:
        """As within(), to be iterated again and again."""
        return Again(lambda: self.within(things))
