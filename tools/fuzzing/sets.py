"""A set of images, damaged: its files, and what stands in their places."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping

from tests import wire

from .corpus import PAGE, Corpus, Node, Sparse, is_manifest, kind_of, taken_apart
from .damage import damage_bytes, damage_message, damaged
from .protobuf import algorithm, encode, parse, sealed


def with_digests(rng: random.Random, files: Mapping[str, Node]) -> dict[str, Node]:
    """The files of a set, with a manifest that lists them as they are. It may be damaged besides."""
    files = dict(files)
    for name in filter(is_manifest, list(files)):
        data = files[name]
        if not isinstance(data, bytes) or len(data) < 12:
            continue
        try:
            fields = [one for one in parse(wire.unsealed(data)[12:]) if one[0] != 13]
        except (ValueError, IndexError):
            continue
        digest = algorithm(encode(fields))
        listed = [
            (13, 2, wire.message({1: os.fsencode(one), 2: len(there), 3: digest(there)}))
            for one, there in sorted(files.items())
            if isinstance(there, bytes)
            and (kind_of(one) in ("var", "shm", "msg", "sem", "pagemap") or one[:6] == "pages-")
        ]
        entry = encode(fields + listed)
        if rng.random() < 0.1:
            entry = damage_message(rng, entry, entry)
        files[name] = sealed(data[:8] + wire.entry(entry))
    return files


OTHER_NODES: tuple[Node, ...] = (
    *("directory", "directory with commit", "fifo", "link .", "link ..", "link nowhere", "link parent"),
    *("link .ipcimg-1.tmp", b"", b"x"),
)
STRANGE_NAMES = (
    *(".ipcimg-1.tmp", ".ipcimg-9.tmp", ".ipcimg-2.tmp", "parent", "ids-1.img", "ipcns-var-2.img", "ipcns-msg-1.img"),
    *("ipcns-var-9999999999.img", "ipcns-shm-01.img", "ipcns-sem-1.img\n", "pages-4294967295.img"),
    *("ipcimg-manifest-1.img", "ipcimg-manifest-9.img", "pagemap-shmem-0.img", "\udcff.img", "commit"),
)


def damaged_set(rng: random.Random, corpus: Corpus, base: str, pages: bool) -> dict[str, Node]:
    """What is changed in a sound set: files by name. With pages, mostly what makes up segments."""
    files = dict(corpus.sets[base])
    wanted = [
        name for name in files if not pages or kind_of(name) in ("pagemap", "shm") or name[:5] in ("pages", "paren")
    ]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name, how = rng.choice(wanted), rng.random()
        data = files.get(name)
        if how < 0.06:
            files[name] = None
        elif how < 0.08:
            files[name] = files.get(rng.choice(wanted))
        elif how < 0.12:
            files[name] = rng.choice(list(rng.choice(list(corpus.sets.values())).values()))
        elif how < 0.16:
            files[rng.choice((name, *STRANGE_NAMES))] = rng.choice((*OTHER_NODES, data))
        elif how < 0.20:
            number = rng.choice((0, 1, 2, 3, 9, 4294967295))
            files[re.sub(r"\d+(?=\.img)", str(number), name)] = files.pop(name, None)
        elif pages and isinstance(data, bytes) and how < 0.22:
            files[name] = Sparse(data, 1 << 40)
        elif isinstance(data, bytes) and (kind := kind_of(name)):
            try:
                files[name] = damaged(rng, corpus, taken_apart(kind, data))
            except (ValueError, IndexError, KeyError):  # it is damaged already
                files[name] = damage_bytes(rng, data, data)
        elif isinstance(data, bytes):
            whole = data[: rng.choice((0, PAGE, 2 * PAGE))] + bytes(rng.choice((0, 0, 1, PAGE, 3 * PAGE)))
            files[name] = whole if rng.random() < 0.5 else damage_bytes(rng, data, data)
        else:
            files[name] = rng.choice((*OTHER_NODES, *(f"link ../{one}" for one in corpus.sets)))
    if rng.random() < 0.85:
        files = with_digests(rng, files)
    changed = {name: node for name, node in files.items() if corpus.sets[base].get(name, None) != node}
    return changed | {name: None for name in corpus.sets[base] if name not in files}
