"""Image directories at URLs: object stores and other hosts, through fsspec, which nobody else knows.

A store has no lock, no rename of several files at once, and nothing that outlives its writer. So a set that is being
put, or has lost its writer, is told by a mark, an object .ipcimg-N.tmp, which lists the files that come and go; and by
what is not there yet, its manifest. Whoever is killed leaves no set that anybody takes for whole. Two writers of one
set at once leave a mixture, which the digests in the manifest give away.

What is read is of one listing. All images of a set but the pages are fetched once, whole, and read from a copy then, as
often as somebody goes through them. After each fetch the store is asked whether the image is still the one of the
listing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from . import criudump, imageset
from .describe import printable
from .errors import DirectoryError, ImageError, IpcimgError, quoted
from .image import ImageFile, ImagePart
from .images import (
    Images,
    is_data_name,
    is_pagemap_name,
    is_set_name,
    kind_name,
    manifest_name,
    number_of_pages,
    number_of_temporary,
    temporary_name,
)
from .interrupts import deferred
from .places import described
from .progress import NOBODY, Progress
from .spool import Spool, copied

INSTALL = "pip install 'ipcimg[stores]'"

_BLOCK = 8 << 20  # bytes fetched at a time
_BLOCKS = 4  # of pages that are kept: of a segment and of the one that comes next
_SECONDS = 60  # that a host may take for an answer
_END = "end"  # the last line of a whole mark
_LONGEST_MARK = 64 << 20  # bytes

# By what a store may tell whether a file is another one now.
_VERSIONS = ("ETag", "etag", "generation", "mtime", "created")
# What these say goes nowhere, unless the program has said where to: an error is told once, by whoever asked.
_LOGGERS = ("aiobotocore", "asyncio", "botocore", "fsspec", "paramiko", "s3fs")

_T = TypeVar("_T")


def opened(url: str) -> StoredImages:
    """The images of the directory at a URL. Raises DirectoryError where there is none, or nobody can get at it."""
    return StoredImages(_Store(url))


# ---- a store -------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """What a store says of a file."""

    size: int | None  # bytes
    kind: str  # file, directory, link
    versions: Mapping[str, object]  # what is there of _VERSIONS

    def is_as(self, before: _Entry) -> bool:
        """Is it the file that it was before, as far as the store tells?"""
        both = self.versions.keys() & before.versions.keys()
        return self.size == before.size and all(self.versions[name] == before.versions[name] for name in both)


def _entry(info: Mapping[str, Any]) -> _Entry:
    kind = "link" if info.get("islink") else str(info.get("type"))
    versions = {name: _number(info[name]) for name in _VERSIONS if info.get(name)}
    return _Entry(info.get("size"), kind, versions)


def _number(value: Any) -> object:
    # In one answer a store gives a time as such, in the next as a number.
    return value.timestamp() if hasattr(value, "timestamp") else value


class _Store:
    """A directory in a store. path is its URL without secrets."""

    def __init__(self, url: str) -> None:
        """Raises DirectoryError where there is no way to it."""
        self.path = described(url)
        self._secrets = _secrets(url)
        try:
            self._files, root = _connected(url)
        except ImportError as error:
            why = self._words(error)
            raise DirectoryError(f"image directory {self.path}: {why}; images at such URLs need {INSTALL}") from error
        except Exception as error:
            raise DirectoryError(f"image directory {self.path}: {self._words(error)}") from error
        self._root = root.rstrip("/")

    def path_of(self, name: str) -> str:
        """The name of a file in it for people."""
        return f"{self.path.rstrip('/')}/{printable(name)}"

    def listed(self) -> dict[str, _Entry] | None:
        """What is there by its name; None where there is no such directory. Raises DirectoryError."""

        def ask() -> list[dict[str, Any]] | None:
            try:
                found: list[dict[str, Any]] = self._files.ls(self._root, detail=True)
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
                raise DirectoryError(f"image directory {self.path}: not a directory")
        return entries

    def read(self, name: str, start: int, end: int, before: _Entry) -> bytes:
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

    def put(self, name: str, image: ImageFile) -> None:
        """Have the file there, in the place of one of that name. Raises DirectoryError."""
        self._asked(name, lambda: self._files.put_file(f"/proc/self/fd/{image.fd}", self._inside(name)))

    def remove(self, name: str) -> None:
        """Have the file there no more. Raises DirectoryError."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._inside(name))

        self._asked(name, remove)

    def _inside(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _asked(self, name: str, ask: Callable[[], _T]) -> _T:
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


def _secrets(url: str) -> list[str]:
    """What must not be printed of a URL, as it stands there and as it is meant."""
    from urllib.parse import unquote

    rest = url.partition("://")[2]
    user, at, _ = rest.partition("/")[0].rpartition("@")
    password = user.partition(":")[2] if at else ""
    query = rest.partition("?")[2]
    return [secret for text in (password, query) if text for secret in (text, unquote(text))]


def _connected(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises whatever its library raises."""
    import logging

    import fsspec

    for name in _LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())
    scheme = url.partition("://")[0].lower()
    if scheme in ("sftp", "ssh"):
        return _sftp(url)
    if scheme in ("file", "local"):  # who could change the files there can be known
        raise ValueError("a directory of this machine is named by its path")
    # Nothing is remembered of what was there before.
    files, path = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return files, path


def _sftp(url: str) -> tuple[Any, str]:
    """Another host. fsspec takes any key for that of a host; here it has to be known."""
    from urllib.parse import unquote, urlsplit

    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    class Sftp(SFTPFileSystem):  # type: ignore[misc]
        def _connect(self) -> None:
            self.client = paramiko.SSHClient()
            try:
                self.client.load_system_host_keys()
                if os.path.exists("/etc/ssh/ssh_known_hosts"):
                    self.client.load_system_host_keys("/etc/ssh/ssh_known_hosts")
                self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
                self.client.connect(self.host, **self.ssh_kwargs)
                self.ftp = self.client.open_sftp()
            except BaseException:
                self.client.close()  # else its thread goes on
                raise
            channel = self.ftp.get_channel()
            if channel is not None:
                channel.settimeout(_SECONDS)

        def cat_file(self, path: str, start: int, end: int) -> bytes:
            with self.ftp.open(path, "rb") as file:
                # Many requests under way at once; read() would wait for each.
                return b"".join(file.readv([(start, end - start)]))

        def put_file(self, lpath: str, rpath: str) -> None:
            try:
                self.ftp.open(rpath, "wb").close()
            except FileNotFoundError:
                self._make(rpath.rpartition("/")[0])
                self.ftp.open(rpath, "wb").close()
            self.ftp.chmod(rpath, 0o600)  # before anything is in it
            self.ftp.put(lpath, rpath)

        def _make(self, path: str) -> None:
            """Make a directory, and what is missing above it, mode 0700."""
            try:
                self.ftp.mkdir(path, 0o700)
            except FileNotFoundError:
                self._make(path.rpartition("/")[0])
                self.ftp.mkdir(path, 0o700)

    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("there is no host in the URL")
    options: dict[str, Any] = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout"), _SECONDS)
    host = parts.hostname
    config = os.path.expanduser("~/.ssh/config")
    if os.path.exists(config):
        told = paramiko.SSHConfig.from_path(config).lookup(host)
        host = told["hostname"]
        options |= {"port": int(told.get("port", 22)), "username": told.get("user")}
        if "identityfile" in told:
            options["key_filename"] = told["identityfile"]
    if parts.port is not None:
        options["port"] = parts.port
    if parts.username is not None:
        options["username"] = unquote(parts.username)
    if parts.password is not None:
        options["password"] = unquote(parts.password)
    return Sftp(host, skip_instance_cache=True, **options), unquote(parts.path)


# ---- reading -------------------------------------------------------------------------------


class StoredImages(Images):
    """The images in a directory of a store, as they were when it was opened."""

    def __init__(self, store: _Store) -> None:
        """Raises DirectoryError where there is no such directory."""
        entries = store.listed()
        if entries is None:
            raise DirectoryError(f"image directory {store.path}: No such directory, or nothing in it")
        self.path, self._store, self._entries = store.path, store, entries
        self._spool = Spool()
        self._copies: dict[str, ImageFile] = {}
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()  # the last that was used comes last
        self._lock = threading.Lock()

    @property
    def remedy(self) -> str:
        """See Images."""
        return f"; `ipcimg recover -D {self.path}` removes it"

    def names(self) -> list[str]:
        """See Images."""
        return sorted(self._entries)

    def has(self, name: str) -> bool:
        """See Images. Nothing that is in a directory below this one is there."""
        return name in self._entries

    def image(self, name: str) -> ImageFile:
        """See Images."""
        path, entry = self._store.path_of(name), self._entries.get(name)
        if entry is None:
            raise ImageError(path, None, "No such file or directory")
        if entry.kind != "file":
            raise ImageError(path, None, "is a symbolic link" if entry.kind == "link" else "not a regular file")
        if entry.size is None:
            raise ImageError(path, None, "the store does not tell its size")
        is_copied = is_set_name(name) or is_pagemap_name(name) or number_of_temporary(name) is not None
        return ImagePart(_Copied(self, name) if is_copied else _Blocks(self, name), 0, entry.size, path)

    def is_directory(self, name: str) -> bool:
        """See Images."""
        if name not in self._entries:
            raise DirectoryError(f"{self._store.path_of(name)}: No such file or directory")
        return self._entries[name].kind == "directory"

    def parent(self) -> Images:
        """See Images. There are no links in a store, and those of another host are not followed."""
        raise DirectoryError(
            f"image directory {self.path}: some of its pages are in those of its parent, which is not looked for at a "
            "URL; copy both to this machine"
        )

    def refuse_unfinished(self, ns_id: int) -> None:
        """See Images."""
        name = temporary_name(ns_id)
        if not self.has(name) or self.is_directory(name):
            super().refuse_unfinished(ns_id)
        elif not self.has(manifest_name(ns_id)):
            raise DirectoryError(
                f"image directory {self.path}: set {ns_id} is unfinished: {name} is there, so its dump is still "
                f"running or was killed{self.remedy}"
            )

    def next_pages_id(self) -> int:
        """The first number that no pages-P.img in the directory reaches."""
        used = [number for name in self._entries if (number := number_of_pages(name)) is not None]
        return max(used, default=0) + 1

    def copied(self, name: str) -> ImageFile:
        """The whole image, from the store the first time. Raises ImageError."""
        with self._lock:
            if name not in self._copies:
                size = self._entries[name].size or 0
                parts = (self._fetched(name, start) for start in range(0, size, _BLOCK))
                self._copies[name] = self._spool.add(parts, self._store.path_of(name))
            return self._copies[name]

    def block(self, name: str, number: int) -> bytes:
        """Bytes number × _BLOCK and on of an image, or as many as there are. Raises ImageError."""
        with self._lock:
            found = self._blocks.pop((name, number), None)
            if found is None:
                found = self._fetched(name, number * _BLOCK)
                if len(self._blocks) == _BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks[name, number] = found
            return found

    def _fetched(self, name: str, start: int) -> bytes:
        entry = self._entries[name]
        return self._store.read(name, start, min(start + _BLOCK, entry.size or 0), entry)


class _Copied:
    """An image that is read from its copy."""

    def __init__(self, images: StoredImages, name: str) -> None:
        self._images, self._name = images, name

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        return self._images.copied(self._name).read_some(view, offset) if len(view) else 0


class _Blocks:
    """An image that is too large for that, or of which only the head matters: read from front to back, in blocks."""

    def __init__(self, images: StoredImages, name: str) -> None:
        self._images, self._name = images, name

    def read_some(self, view: memoryview, offset: int) -> int:
        """See ImageFile."""
        if not len(view):
            return 0
        number, at = divmod(offset, _BLOCK)
        part = memoryview(self._images.block(self._name, number))[at : at + len(view)]
        view[: len(part)] = part
        return len(part)


# ---- writing -------------------------------------------------------------------------------


class StoreDestination:
    """A set on its way into a store; see delivery.Destination.

    Its mark comes first. Then the old set goes, its manifest before all else, if there is one. Then the new files come,
    and the manifest when all others are seen to be there; then the mark goes. On an error all that was put is removed.
    """

    makes_directory = False  # nothing but sets: others' dumps have their own inventories there

    def __init__(self, url: str, *, ns_id: int | None = None, force: bool = False, progress: Progress = NOBODY) -> None:
        """ns_id and force are those of a dump. Raises DirectoryError or ImageError where the set cannot go there."""
        self._store, self._force, self._progress = _Store(url), force, progress
        self.path = self._store.path
        there = self._images()
        self.ns_id = ns_id if ns_id is not None else (criudump.namespace(there) if there else None) or 1
        self.first_pages_id = there.next_pages_id() if there else 1
        self._replaced(there)  # a dump that nobody may put is not made
        self._sizes: dict[str, int] = {}  # bytes of what has been put

    def begin(self, ns_id: int, names: Sequence[str]) -> None:
        """See delivery.Destination."""
        if ns_id != self.ns_id:
            raise AssertionError(f"set {ns_id} comes, and {self.ns_id} was asked for")
        there = self._images()
        old = self._replaced(there)
        for name in names:
            if there and there.has(name) and name not in old:
                raise DirectoryError(f"{self._store.path_of(name)} exists, and is not of set {ns_id}")
        with self._removed_on_error():
            self._mark(sorted({*old, *names}))
            stay = set(names) - set(_makes_a_set(ns_id))  # until they are overwritten
            for name in _first_to_go(old - stay, ns_id):
                self._store.remove(name)

    def put(self, name: str, image: ImageFile) -> None:
        """See delivery.Destination."""
        with self._removed_on_error():
            if name == manifest_name(self.ns_id):
                self._expect_all()
                with deferred():  # a request that nobody waits for may still be carried out
                    self._store.put(name, image)
            else:
                self._store.put(name, image)
            self._sizes[name] = image.size
        self._progress.done(image.size)

    def finish(self) -> None:
        """See delivery.Destination."""
        with self._removed_on_error():
            self._expect_all()
        with deferred():
            self._store.remove(temporary_name(self.ns_id))

    def _images(self) -> StoredImages | None:
        """What is there now; None where there is nothing."""
        return None if self._store.listed() is None else StoredImages(self._store)

    def _replaced(self, there: StoredImages | None) -> set[str]:
        """The files that make room for the new set. Raises DirectoryError where they may not."""
        if there is None:
            return set()
        mark = temporary_name(self.ns_id)
        if there.has(mark) and not there.has(manifest_name(self.ns_id)):
            if not self._force:
                raise DirectoryError(
                    f"image directory {self.path}: another dump of set {self.ns_id} into it is running, or was killed; "
                    "--force takes its place"
                )
            return set(_marked(there, self.ns_id))
        return imageset.files_to_replace(there, self.ns_id, force=self._force)

    def _mark(self, names: Iterable[str]) -> None:
        text = "".join(f"{name}\n" for name in (*names, _END)).encode()
        self._store.put(temporary_name(self.ns_id), copied([text], "the mark of a set"))

    def _expect_all(self) -> None:
        """Raise DirectoryError where the store does not have what was put."""
        found = self._store.listed() or {}
        for name, size in self._sizes.items():
            there = found.get(name)
            if there is None or there.size != size:
                how = "is not there" if there is None else f"has {there.size} bytes"
                raise DirectoryError(
                    f"{self._store.path_of(name)}: {how}, and {size} were put; is another dump into it running?"
                )

    @contextlib.contextmanager
    def _removed_on_error(self) -> Iterator[None]:
        """What was put is removed on any error inside the with block."""
        try:
            yield
        except BaseException as error:
            with deferred():
                try:
                    for name in _first_to_go(self._sizes, self.ns_id):
                        self._store.remove(name)
                    self._store.remove(temporary_name(self.ns_id))
                except IpcimgError as left:
                    if not isinstance(error, IpcimgError):
                        raise
                    raise DirectoryError(f"{error}; and what was put could not be removed: {left}") from error
            raise


def recover(url: str) -> dict[int, bool]:
    """Remove what killed dumps have left at a URL: the N of each set, and whether a whole set is there.

    Nobody can tell a dump that was killed from one that is running: it would fail. Raises DirectoryError, ImageError.
    """
    store = _Store(url)
    there, found = StoredImages(store), {}
    for name in there.names():
        ns_id = number_of_temporary(name)
        if ns_id is not None:
            found[ns_id] = there.has(manifest_name(ns_id))  # of the old set, or of the new one
            if not found[ns_id]:
                for old in _first_to_go(_marked(there, ns_id), ns_id):
                    store.remove(old)
            store.remove(name)
    return found


def _marked(images: StoredImages, ns_id: int) -> list[str]:
    """The files that the mark of a set lists. Raises ImageError."""
    image = images.image(temporary_name(ns_id))
    if image.size > _LONGEST_MARK:
        raise ImageError(image.path, None, f"has {image.size} bytes; none has more than {_LONGEST_MARK}")
    text = bytearray(image.size)
    image.read_into(memoryview(text), 0)
    names = text.decode(errors="surrogateescape").split("\n")
    if names[-2:] != [_END, ""]:
        return []  # its writer was killed while it wrote it, and had done nothing else
    for name in names[:-2]:
        if not is_data_name(name, ns_id) and name != manifest_name(ns_id):
            raise ImageError(image.path, None, f"lists {quoted(name)}, which cannot be of set {ns_id}")
    return names[:-2]


def _makes_a_set(ns_id: int) -> tuple[str, str]:
    """Without these nobody takes anything for a set: ipcimg without the one, CRIU without the other."""
    return manifest_name(ns_id), kind_name("var", ns_id)


def _first_to_go(names: Iterable[str], ns_id: int) -> list[str]:
    """The names in the order in which the files go."""
    left = set(names)
    first = [name for name in _makes_a_set(ns_id) if name in left]
    return first + sorted(left - set(first))
