"""A directory at a URL, and what can be asked of it: to list, to read, to put and to remove. All of fsspec.

What changes something is one request after the other, each of which is waited for: one that nobody waits for may still
be carried out. Signals come in between.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from .describe import printable
from .errors import DirectoryError, ImageError, IpcimgError
from .image import ImageFile
from .interrupts import deferred
from .places import described, has_host, is_query
from .progress import NOBODY, Progress

INSTALL = "pip install '.[stores]' in the sources of ipcimg"

_BLOCK = 4 << 20  # bytes put at a time
_PART = 32 << 20  # bytes of the least part that an object store gets of a large file
_PARTS = 9000  # at most; S3 takes 10000

# By what a store may tell whether a file is another one now.
_VERSIONS = ("ETag", "etag", "generation", "mtime", "created")
# What these say goes nowhere, unless the program has said where to: an error is told once, by whoever asked.
_LOGGERS = ("aiobotocore", "asyncio", "botocore", "fsspec", "paramiko", "s3fs")
_OF_THE_EXTRA = ("s3", "s3a", "sftp", "ssh")  # schemes whose packages INSTALL installs
_NO_PLACE = {  # schemes where nothing can be, and why
    "file": "a directory of this machine is named by its path",  # who could change the files there can be known
    "local": "a directory of this machine is named by its path",
    "memory": "what is in memory goes with the process",
}
# What fsspec lays over something else.
_LAYERS = frozenset(("asyncwrapper", "blockcache", "cached", "data", "dir", "filecache", "generic", "libarchive")) | {
    *("reference", "simplecache", "tar", "zip")
}

_T = TypeVar("_T")


class Entry(NamedTuple):
    """What a store says of a file."""

    size: int | None  # bytes
    kind: str  # file, directory, link
    versions: Mapping[str, object]  # what is there of _VERSIONS

    def is_as(self, before: Entry) -> bool:
        """Is it the file that it was before, as far as the store tells?"""
        both = self.versions.keys() & before.versions.keys()
        return self[:2] == before[:2] and all(self.versions[name] == before.versions[name] for name in both)


def _entry(info: Mapping[str, Any]) -> Entry:
    kind = "link" if info.get("islink") else str(info.get("type"))
    versions = {name: _number(info[name]) for name in _VERSIONS if info.get(name)}
    return Entry(info.get("size"), kind, versions)


def _number(value: Any) -> object:
    # In one answer a store gives a time as such, in the next as a number.
    return value.timestamp() if hasattr(value, "timestamp") else value


class Store:
    """A directory in a store. path is its URL without secrets."""

    def __init__(self, url: str) -> None:
        """Raises DirectoryError where there is no way to it."""
        self.path = described(url)
        self._secrets = _secrets(url)
        if not has_host(url):
            raise self._refused("what follows the colon is no port; a / in a password is written %2F")
        try:
            self._files, root = _connected(url)
        except ImportError as error:
            needs = f"; images at such URLs need {INSTALL}" if _is_of_the_extra(url) else ""
            raise self._refused(f"{self._words(error)}{needs}") from error
        except Exception as error:
            raise self._refused(self._words(error)) from error
        if not root:
            raise self._refused("there is no path in the URL")
        self._root = root.rstrip("/")

    def path_of(self, name: str) -> str:
        """The name of a file in it for people."""
        return f"{self.path.rstrip('/')}/{printable(name)}"

    def listed(self) -> dict[str, Entry] | None:
        """What is there by its name; None where there is no such directory. Raises DirectoryError."""

        def ask() -> list[dict[str, Any]] | None:
            try:
                found: list[dict[str, Any]] = self._files.ls(self._root or "/", detail=True)
            except FileNotFoundError:
                return None
            return found

        found = self._asked("", ask)
        if found is None:
            return None
        entries = {}
        for info in found:
            path = str(info["name"]).rstrip("/")
            if path.lstrip("/") != self._root.lstrip("/"):
                entries[path.rpartition("/")[2]] = _entry(info)
            elif info.get("type") == "file" and not str(info["name"]).endswith("/"):
                raise self._refused("not a directory")
        return entries

    def read(self, name: str, start: int, end: int, before: Entry) -> bytes:
        """Bytes start to end of a file that is to be as it was before. Raises ImageError."""
        inside = self._inside(name)
        try:
            data: bytes = self._files.cat_file(inside, start=start, end=end)
            now = _entry(self._files.info(inside))
        except Exception as error:
            raise ImageError(self.path_of(name), start, self._words(error)) from error
        if not now.is_as(before):
            raise ImageError(self.path_of(name), None, "has been changed since the directory was opened")
        if len(data) != end - start:
            raise ImageError(self.path_of(name), start + len(data), f"ends {end - start - len(data)} bytes too early")
        return data

    def make(self) -> None:
        """Have the directory there, which is not, in a store that has directories. Raises DirectoryError."""
        if not getattr(self._files, "async_impl", False):  # object stores are; they would make a bucket
            self._asked("", lambda: self._files.makedirs(self._root, exist_ok=True))

    def remove_made(self) -> None:
        """Remove what make() has made, if nothing is in it and the store can tell. Raises DirectoryError."""
        remove = getattr(self._files, "remove_made", None)
        if remove is not None:
            self._asked("", remove)

    def put(self, name: str, image: ImageFile, progress: Progress = NOBODY) -> None:
        """Have the file there, in the place of one of that name. Raises DirectoryError, ImageError.

        On an error a part of it may be there. Nothing of it is under way any more.
        """
        part = max(_PART, image.size // _PARTS)
        files: list[Any] = []  # the one that is being written

        def begin() -> None:
            files.append(self._files.open(self._inside(name), "wb", block_size=part))

        def end() -> None:
            files[0].close()
            files.clear()

        def give_up() -> None:
            for file in files:
                _given_up(file)

        with undone(lambda: self._asked(name, give_up)):
            self._asked(name, begin)
            for block in _blocks(image):
                self._asked(name, functools.partial(files[0].write, block))
                progress.done(len(block))
            self._asked(name, end)

    def remove(self, name: str) -> None:
        """Have the file there no more. Raises DirectoryError."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._inside(name))

        self._asked(name, remove)

    def _inside(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _refused(self, why: str) -> DirectoryError:
        return DirectoryError(f"image directory {self.path}: {why}")

    def _asked(self, name: str, ask: Callable[[], _T]) -> _T:
        with deferred():
            try:
                return ask()
            except Exception as error:
                what = self.path_of(name) if name else f"image directory {self.path}"
                raise DirectoryError(f"{what}: {self._words(error)}") from error

    def _words(self, error: Exception) -> str:
        """What an error of any library says, in one line without secrets."""
        words = (isinstance(error, OSError) and error.strerror) or str(error)
        for secret in self._secrets:
            words = words.replace(secret, "…")
        return printable(" ".join(words.split())) or type(error).__name__


@contextlib.contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Call undo on any error inside the with block, and raise that error; where undo raises IpcimgError, it tells both.

    Signals wait meanwhile.
    """
    try:
        yield
    except BaseException as error:
        with deferred():
            try:
                undo()
            except IpcimgError as left:
                words = f"{error}; and what was put could not be removed: {left}"
                if isinstance(error, IpcimgError):
                    raise DirectoryError(words) from error
                error.args = (words,)
        raise


def _blocks(image: ImageFile) -> Iterator[memoryview]:
    """All of an image; each block is good until the next one is asked for."""
    room = memoryview(bytearray(min(_BLOCK, image.size)))
    for start in range(0, image.size, _BLOCK):
        block = room[: min(_BLOCK, image.size - start)]
        image.read_into(block, start)
        yield block


def _given_up(file: Any) -> None:
    """Let a file that is being written never be complete, where its store knows such files."""
    from fsspec.spec import AbstractBufferedFile

    if not isinstance(file, AbstractBufferedFile):
        file.close()
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            file.discard()
    finally:
        file.closed = True  # else it is completed when nobody has it any more


def _secrets(url: str) -> list[str]:
    """What must not be printed of a URL, as it stands there and as it is meant."""
    from urllib.parse import unquote

    rest = url.partition("://")[2]
    user, at, _ = rest.partition("/")[0].rpartition("@")
    password = user.partition(":")[2] if at else ""
    query = rest.partition("?")[2] if is_query(url) else ""
    return [secret for text in (password, query) if text for secret in (text, unquote(text))]


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _is_of_the_extra(url: str) -> bool:
    """Would INSTALL bring what was not found for this URL?"""
    from importlib.util import find_spec

    return _scheme(url) in _OF_THE_EXTRA or find_spec("fsspec") is None


def _connected(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises whatever its library raises."""
    import logging

    for name in _LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())
    scheme = _scheme(url)
    if scheme in _NO_PLACE:
        raise ValueError(_NO_PLACE[scheme])
    if scheme in _LAYERS:
        raise ValueError(f"{scheme}:// alone names no place")
    if scheme in ("sftp", "ssh"):
        from . import sftp

        return sftp.connected(url)
    import fsspec

    # Nothing is remembered of what was there before.
    files, path = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return files, path
