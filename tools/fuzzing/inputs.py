"""Inputs, each made from a seed and a number alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .archives import archive
from .big import big
from .corpus import Corpus, Files, Sparse
from .damage import damaged
from .sets import damaged_set

SHOWN_BYTES = 4096  # of a file, in words


@dataclass(frozen=True)
class Input:
    """What a reader is given: a set of the corpus with some files changed, or the one file x.img."""

    kind: str  # its line in the table
    reader: str  # of READERS
    base: str  # the set that it changes; "" for none
    files: Files

    @property
    def size(self) -> int:
        """Bytes of its files, without those of holes."""
        whole = (node.data if isinstance(node, Sparse) else node for node in self.files.values())
        return sum(len(node) for node in whole if isinstance(node, bytes))

    def __str__(self) -> str:
        lines = [f"read as {self.reader}" + (f", the set {self.base} with" if self.base else "")]
        for name, node in self.files.items():
            if isinstance(node, Sparse):
                text = f"{node.data.hex()}, then a hole up to {node.size} bytes"
            elif isinstance(node, bytes):
                text = node[:SHOWN_BYTES].hex() + (f"… ({len(node)} bytes)" if len(node) > SHOWN_BYTES else "")
            else:
                text = f"({node or 'nothing'})"
            lines.append(f"    {name!r}: {text}")
        return "\n".join(lines)


IMAGES = ("var", "shm", "msg", "sem", "pagemap", "manifest", "ids")
SHOWN = ("text", "hex", "JSON")
# How many of a hundred thousand inputs are of each kind. Those that are long to read are few.
SHARES = dict.fromkeys(IMAGES, 8000) | {"pages": 13000, "set": 13900, "archive": 5000}
SHARES |= dict.fromkeys(SHOWN, 4000) | {"big": 100}


def make(corpus: Corpus, seed: str, number: int) -> Input:
    """Input number of a run with that seed."""
    rng = random.Random(f"{seed}/{number}")
    [kind] = rng.choices(list(SHARES), list(SHARES.values()))
    if kind == "big":
        of, data = big(rng)
        shown = () if of == "ids" else ("text", "hex") if isinstance(data, Sparse) else SHOWN
        return Input(kind, rng.choice((of, *shown)), "", {"x.img": data})
    if kind == "archive":
        return Input(kind, kind, "", {"x.img": archive(rng, corpus)})
    if kind in IMAGES or (kind in SHOWN and rng.random() < 0.7):
        of = kind if kind in IMAGES else rng.choice(IMAGES)
        return Input(kind, kind, "", {"x.img": damaged(rng, corpus, rng.choice(corpus.by_kind[of]))})
    base = rng.choice(corpus.with_pages if kind == "pages" else (*corpus.sets, *corpus.with_manifest * 3))
    reader = kind if kind in SHOWN else "set"
    return Input(kind, reader, base, damaged_set(rng, corpus, base, pages=kind == "pages"))
