"""Archives of sets: packed as they are or after damage, and damaged once they are packed."""

from __future__ import annotations

import gzip
import io
import random
import sys
import tarfile
from collections.abc import Callable

from .corpus import Corpus, Files, Sparse
from .damage import damage_bytes
from .sets import damaged_set

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
_BLOCK = tarfile.BLOCKSIZE
_CHECKSUM = slice(148, 156)  # of a header, in it
_PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    lambda data: gzip.compress(data, mtime=0),
    zstd.compress,
)


def archive(rng: random.Random, corpus: Corpus) -> bytes:
    """A tar, tar.gz or tar.zst of a set of the corpus with its parents: sound, or damaged somewhere on the way."""
    base, how = rng.choice(list(corpus.sets)), rng.random()
    tar, pack = (
        _tar(rng, corpus, base, damaged_set(rng, corpus, base, False) if how < 0.4 else {}),
        rng.choice(_PACKERS),
    )
    if 0.4 <= how < 0.7:
        for _ in range(rng.choice((1, 1, 2, 4))):
            tar = _damaged_header(rng, tar) if rng.random() < 0.6 else damage_bytes(rng, tar, tar)
    data = pack(tar)
    if 0.7 <= how < 0.95:
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = damage_bytes(rng, data, pack(tar[:_BLOCK]))
    return data


def _tar(rng: random.Random, corpus: Corpus, base: str, changed: Files) -> bytes:
    """The set with what is changed in it, under its name as in the corpus; and the sets that its parents lead to."""
    sets = {base: {**corpus.sets[base], **changed}}
    while isinstance(parent := corpus.sets[base].get("parent"), str):
        base = parent.removeprefix("link ../")
        sets[base] = corpus.sets[base]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=rng.choice(_FORMATS), errors="surrogateescape") as tar:
        for directory, files in sets.items():
            for name, node in files.items():
                if node is None:
                    continue
                info, data = tarfile.TarInfo(f"{directory}/{name}"), b""
                if isinstance(node, (bytes, Sparse)):
                    data = node.data if isinstance(node, Sparse) else node
                elif node.startswith("link "):
                    info.type, info.linkname = tarfile.SYMTYPE, node.removeprefix("link ")
                else:
                    info.type = tarfile.FIFOTYPE if node == "fifo" else tarfile.DIRTYPE
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _damaged_header(rng: random.Random, tar: bytes) -> bytes:
    """The archive after a change in a header, whose checksum is right again: behind a wrong one nobody looks."""
    headers = [at for at in range(0, len(tar), _BLOCK) if tar[at + 257 : at + 262] == b"ustar"]
    if not headers:  # it is damaged already
        return damage_bytes(rng, tar, tar)
    at, other = rng.choice(headers), rng.choice(headers)
    header = bytearray(
        damage_bytes(rng, tar[at : at + _BLOCK], tar[other : other + _BLOCK])[:_BLOCK].ljust(_BLOCK, b"\0")
    )
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return tar[:at] + header + tar[at + _BLOCK :]
