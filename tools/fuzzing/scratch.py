"""Directories for inputs, in memory where that is possible."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .corpus import Corpus, Node, Sparse
from .inputs import Input

LOOKED_AT = 8 << 20  # bytes of a file


def put(path: str, node: Node) -> None:
    """Make node stand at path, whatever is there."""
    try:
        there = os.lstat(path).st_mode
    except FileNotFoundError:
        there = 0
    if there and not (isinstance(node, bytes) and stat.S_ISREG(there)):
        if stat.S_ISDIR(there):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    if isinstance(node, Sparse):
        Path(path).write_bytes(node.data)
        os.truncate(path, node.size)
    elif isinstance(node, bytes):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.write(fd, node)
        os.close(fd)
    elif node == "fifo":
        os.mkfifo(path)
    elif node is not None and node.startswith("link "):
        os.symlink(node.removeprefix("link "), path)
    elif node is not None:
        os.mkdir(path)
        if node == "directory with commit":
            Path(path, "commit").touch()


def state(path: str) -> dict[str, object]:
    """What is in a directory: files with their size and their first bytes, others with their type."""
    found: dict[str, object] = {}
    for name in os.listdir(path):
        status = os.lstat(f"{path}/{name}")
        if stat.S_ISREG(status.st_mode):
            with open(f"{path}/{name}", "rb") as file:
                found[name] = (status.st_size, file.read(LOOKED_AT))
        else:
            found[name] = stat.S_IFMT(status.st_mode)
    return found


class Scratch:
    """A directory with all sets of the corpus in it, which inputs change for as long as they are read."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.path, self._corpus = path, corpus
        alone: dict[str, Node] = {"x.img": b""}
        for name, files in {**corpus.sets, "one": alone}.items():
            (path / name).mkdir(parents=True)
            for file, node in files.items():
                put(str(path / name / file), node)

    @contextlib.contextmanager
    def holding(self, this: Input) -> Iterator[str]:
        """The directory that holds the input, inside the with block."""
        path = str(self.path / (this.base or "one"))
        for name, node in this.files.items():
            put(f"{path}/{name}", node)
        yield path
        if this.base:
            for name in this.files:
                put(f"{path}/{name}", self._corpus.sets[this.base].get(name))


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory in memory, where there is such a file system; it is removed at the end."""
    memory = "/dev/shm"  # noqa: S108
    path = Path(tempfile.mkdtemp(prefix="ipcimg-fuzz-", dir=memory if os.path.isdir(memory) else None))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
