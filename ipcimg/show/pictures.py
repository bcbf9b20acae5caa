"""Numbers as pictures of characters: bars, histograms, and colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .view import View

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BOLD, _DIM, _RED, _GREEN, _YELLOW, _PLAIN = "\33[1m", "\33[2m", "\33[31m", "\33[32m", "\33[33m", "\33[m"


def bar(part: int, whole: int, width: int, view: View) -> str:
    """How much of the whole a part is: a bar that is width columns long when it is all of it, or more."""
    share = min(part / whole, 1.0) if whole else 0.0
    if not view.unicode:
        filled = round(share * width) or (1 if part else 0)
        return "#" * filled
    eighths = round(share * width * 8) or (1 if part else 0)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def histogram(rows: Sequence[tuple[str, int]], view: View) -> Iterator[str]:
    """A bar for each row, as long as its number is large among them: lines with label, number and bar."""
    most = max((count for _, count in rows), default=0)
    labels, numbers = max((len(label) for label, _ in rows), default=0), len(str(most))
    room = max(view.width - labels - numbers - 2, 10)
    for label, count in rows:
        drawn = bar(count, most, min(room, 50), view)
        yield f"{label:>{labels}} {count:>{numbers}} {strong(drawn, view)}".rstrip() + "\n"


def level(bar: str, view: View) -> str:
    """A bar in the colour of its length, padded to its whole length: red where it is full, or nearly so."""
    if not view.color:
        return bar
    share = len(bar.rstrip()) / max(len(bar), 1)
    return f"{_RED if share > 0.9 else _YELLOW if share > 0.7 else _GREEN}{bar}{_PLAIN}"


def title(text: str, view: View) -> str:
    """A heading."""
    return f"{_BOLD}{text}{_PLAIN}" if view.color else text


def warning(text: str, view: View) -> str:
    """What somebody should look at."""
    return f"{_YELLOW}{text}{_PLAIN}" if view.color else text


def faint(text: str, view: View) -> str:
    """Where there is nothing to see."""
    return f"{_DIM}{text}{_PLAIN}" if view.color else text


def strong(text: str, view: View) -> str:
    """Where there is something, among much that is nothing."""
    return f"{_GREEN}{text}{_PLAIN}" if view.color else text
