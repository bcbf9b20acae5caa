"""Shared memory segments: kernel ⇄ model.SharedMemory. See shmop(2).

A segment is attached to be read or filled. Its holes are found without touching them, by SEEK_DATA on the file behind
the mapping (/proc/self/map_files, which wants CAP_CHECKPOINT_RESTORE in the initial user namespace), else by
mincore(2). Memory is gone through in windows that are unmapped again, so the process does not grow with the segment.

Where kernel.shm_rmid_forced is 1 the kernel destroys a segment with its last attachment, and that may be ours: the
caller has it set to 0 around collect() and restore().
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from . import digest, libc
from .create import Creator
from .errors import ChangedError, ObjectError, explain
from .model import PIECE, SHM_HUGE_SHIFT, SHM_HUGETLB, Extent, SegmentFacts, SharedMemory, huge_page_size
from .reading import Reading, stat_any, vanished

_PAGE = mmap.PAGESIZE
_WINDOW = 4 << 20  # bytes mapped at a time
_SCAN = 1 << 20  # pages asked mincore(2) for at a time
_ZEROS = bytes(2 << 20)


@dataclass(frozen=True, slots=True)
class MappedExtent:
    """A run of an attached segment that holds data."""

    address: int  # of the first byte, in this process
    offset: int
    length: int
    droppable: bool  # may its windows be unmapped after use?

    def write_to(self, file: BinaryIO) -> None:
        """See model.Extent."""
        for start, view in _windows(self.address, self.length, self.droppable, libc.MADV_POPULATE_READ):
            del start
            for piece in range(0, len(view), PIECE):
                file.write(view[piece : piece + PIECE])

    def read_into(self, view: memoryview, start: int = 0) -> None:
        """See model.Extent."""
        address = self.address + start
        view[:] = libc.memory(address, len(view))
        if self.droppable and address % _PAGE == 0:
            libc.madvise(address, len(view), libc.MADV_DONTNEED)


class _Watched:
    """The extents of a segment that may be written meanwhile, with a digest of what is read of them, in that order."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self._extents, self.digest = extents, digest.ALGORITHMS[digest.DEFAULT]()

    def __iter__(self) -> Iterator[Extent]:
        for extent in self._extents:
            self.digest.update(b"%d %d " % (extent.offset, extent.length))
            yield _WatchedExtent(extent, extent.offset, extent.length, self.digest)

    def read_all(self) -> bytes:
        """Read everything for its digest alone."""
        block = memoryview(bytearray(PIECE))
        for extent in self:
            for start in range(0, extent.length, PIECE):
                extent.read_into(block[: min(PIECE, extent.length - start)], start)
        return self.digest.digest()


@dataclass(frozen=True, slots=True)
class _WatchedExtent:
    inside: Extent
    offset: int
    length: int
    digest: digest.Digest

    def write_to(self, file: BinaryIO) -> None:
        """See model.Extent. What is digested is a copy, and what is written is the same one."""
        block = memoryview(bytearray(min(PIECE, self.length)))
        for start in range(0, self.length, PIECE):
            view = block[: min(PIECE, self.length - start)]
            self.read_into(view, start)
            file.write(view)

    def read_into(self, view: memoryview, start: int = 0) -> None:
        """See model.Extent."""
        self.inside.read_into(view, start)
        self.digest.update(view)


def _windows(address: int, length: int, droppable: bool, populate: int) -> Iterator[tuple[int, memoryview]]:
    for start in range(0, length, _WINDOW):
        size = min(_WINDOW, length - start)
        with contextlib.suppress(OSError):  # before Linux 5.14 each page is mapped when it is touched
            libc.madvise(address + start, size, populate)
        yield start, libc.memory(address + start, size)
        if droppable:
            libc.madvise(address + start, size, libc.MADV_DONTNEED)


def collect(reading: Reading) -> Generator[SharedMemory, None, None]:
    """The wanted segments of the namespace the caller is in, each attached until the next is asked for.

    The caller closes the iterator before it lets go of shm_rmid_forced. Raises ObjectError, ChangedError.
    """
    for shmid in reading.ids("shm"):
        ds = libc.shmid_ds()
        try:
            stat_any("shm", shmid, functools.partial(libc.shmctl, shmid, libc.SHM_STAT_ANY, ds))
            permissions = reading.owners.inside("shm", ds.shm_perm, shmid)
            address = _attach(shmid)
        except ChangedError as error:
            reading.changed(error)
            continue
        facts = SegmentFacts(ds.shm_atime, ds.shm_dtime, ds.shm_ctime, ds.shm_cpid, ds.shm_lpid, ds.shm_nattch)
        with contextlib.ExitStack() as attached:
            attached.callback(libc.shmdt, address)
            mapping = attached.enter_context(_Mapping(address, ds.shm_segsz, reading))
            # Companions are forked from us, and would attach it once more.
            libc.madvise(address, mapping.length, libc.MADV_DONTFORK)
            extents: Iterable[Extent] = mapping
            if _may_be_written(shmid, ds, mapping, reading):
                extents = watched = _Watched(mapping)
                again = functools.partial(_compare, shmid, ds.shm_segsz, watched, reading)
                reading.compare_later(shmid, again)
            yield SharedMemory(permissions, ds.shm_segsz, extents, mapping.hugetlb_flag, facts)
            if shmid not in reading.compared and reading.stopped is not None:
                mapping.close()
                reading.hold(shmid, address)
                attached.pop_all()


def _attach(shmid: int) -> int:
    try:
        return libc.shmat(shmid, libc.SHM_RDONLY)
    except OSError as error:
        if error.errno in libc.GONE:
            raise vanished("shm", shmid) from error
        raise ObjectError(f"shared memory segment {shmid}: attaching it: {explain(error)}") from error


def _may_be_written(shmid: int, before: libc.shmid_ds, mapping: _Mapping, reading: Reading) -> bool:
    """Is a segment, attached by ourselves since before, also attached by a process that may be running?"""
    if reading.stopped is None:
        return False
    now = libc.shmid_ds()
    stat_any("shm", shmid, functools.partial(libc.shmctl, shmid, libc.SHM_STAT_ANY, now))
    ours_alone = (now.shm_nattch, now.shm_lpid) == (before.shm_nattch + 1, os.getpid())
    return before.shm_nattch > reading.stopped(mapping.file) or not ours_alone


def _compare(shmid: int, size: int, first: _Watched, reading: Reading) -> None:
    try:
        address = _attach(shmid)
    except ChangedError as error:
        reading.changed(error)
        return
    try:
        with _Mapping(address, size, reading) as mapping:
            if _Watched(mapping).read_all() != first.digest.digest():
                reading.changed(ChangedError(f"shared memory segment {shmid} was written while the namespace was read"))
    finally:
        libc.shmdt(address)


class _Mapping:
    """An attached segment; iterating it gives its extents."""

    def __init__(self, address: int, size: int, reading: Reading) -> None:
        self._address, self._size, self._reading = address, size, reading
        self._fd: int | None = None
        self._huge_page = 0  # bytes; 0 for a segment of ordinary pages

    @property
    def hugetlb_flag(self) -> int | None:
        """What shmget(2) needs to be given for pages of this size, None for ordinary ones."""
        if not self._huge_page:
            return None
        return SHM_HUGETLB | (self._huge_page.bit_length() - 1) << SHM_HUGE_SHIFT

    def __enter__(self) -> _Mapping:
        try:
            self._fd = _open_mapping(f"{self._address:x}-{self._address + self._size + -self._size % _PAGE:x}")
            # An ordinary user may not open it, and a mapping that ends elsewhere is one of huge pages.
            known = self._fd is not None
        except FileNotFoundError:
            known = False
        if not known:
            mapping, page = _smaps(self._address)
            with contextlib.suppress(FileNotFoundError):  # a kernel without map_files
                self._fd = _open_mapping(mapping)
            self._huge_page = page if page != _PAGE else 0
        elif self._fd is not None:
            kind, block = libc.fstatfs(self._fd)
            self._huge_page = block if kind == libc.HUGETLBFS_MAGIC else 0
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file behind it; it stays attached."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def length(self) -> int:
        """Bytes that are mapped: whole pages."""
        return self._size + -self._size % (self._huge_page or _PAGE)

    @property
    def file(self) -> os.stat_result | None:
        """The file behind it, None where that may not be looked at."""
        return None if self._fd is None else os.fstat(self._fd)

    def __iter__(self) -> Iterator[Extent]:
        if self._huge_page:
            return self._not_zero()
        if self._fd is not None:
            return self._data(self._fd)
        # mincore(2) does not tell a page that is swapped out from a hole.
        return self._not_zero() if _info().shm_swp else self._resident()

    def _extent(self, start: int, end: int) -> MappedExtent:
        return MappedExtent(self._address + start, start, end - start, droppable=not self._huge_page)

    def _data(self, fd: int) -> Iterator[Extent]:
        end = 0
        while True:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole from here on
                    return
                raise
            end = os.lseek(fd, start, os.SEEK_HOLE)
            end += -end % _PAGE
            yield self._extent(start, end)

    def _resident(self) -> Iterator[Extent]:
        start: int | None = None
        pages = -(-self._size // _PAGE)
        for first in range(0, pages, _SCAN):
            count = min(_SCAN, pages - first)
            vector = libc.mincore(self._address + first * _PAGE, count * _PAGE, _PAGE)
            for n, resident in enumerate(vector, first):
                if resident & 1 and start is None:
                    start = n
                elif not resident & 1 and start is not None:
                    yield self._extent(start * _PAGE, n * _PAGE)
                    start = None
        if start is not None:
            yield self._extent(start * _PAGE, pages * _PAGE)
        if _info().shm_swp:
            self._reading.changed(
                ChangedError("a shared memory segment was swapped out while its pages were looked for")
            )

    def _not_zero(self) -> Iterator[Extent]:
        """By looking at the content: for huge pages, of which the kernel does not tell the holes."""
        for start in range(0, self.length, len(_ZEROS)):
            size = min(len(_ZEROS), self.length - start)
            if self._fd is not None:
                # read(2) gives zeros for a hole; touching it would make a page of it.
                empty = os.pread(self._fd, size, start) in (_ZEROS[:size], _ZEROS[: max(0, self._size - start)])
            else:
                empty = libc.memory(self._address + start, size) == _ZEROS[:size]
            if not empty:
                yield self._extent(start, start + size)


def _info() -> libc.shm_info:
    """What the kernel tells of all segments of the caller's namespace."""
    info = libc.shm_info()
    libc.shmctl(0, libc.SHM_INFO, info)
    return info


def _open_mapping(mapping: str) -> int | None:
    """The file behind a mapping, None where that is not allowed. Raises FileNotFoundError."""
    try:
        return os.open(f"/proc/self/map_files/{mapping}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return None


def _smaps(address: int) -> tuple[str, int]:
    """The mapping that begins at address, as map_files names it, and the size of its pages."""
    mapping = None
    with open("/proc/self/smaps") as file:
        for line in file:
            word = line.split(None, 1)[0]
            if "-" in word:
                first, _, last = word.partition("-")
                mapping = f"{int(first, 16):x}-{int(last, 16):x}" if int(first, 16) == address else None
            elif mapping is not None and word == "KernelPageSize:":
                return mapping, int(line.split()[1]) << 10
    raise OSError(errno.ENOENT, f"no mapping at {address:#x} in /proc/self/smaps")


def count() -> int:
    """How many segments the namespace of the caller has. Raises OSError."""
    return _info().used_ids


def restore(segment: SharedMemory, creator: Creator) -> None:
    """Make a segment as it was, but for SHM_DEST. The namespace's limits are wide open. Raises ObjectError."""

    def get(key: int, flags: int) -> int:
        flags |= segment.hugetlb_flag or 0
        try:
            return libc.shmget(key, segment.size, flags)
        except OSError as error:
            if error.errno != errno.ENOMEM or segment.hugetlb_flag is not None:
                raise
            # Larger than memory: that it could be made shows that no memory was set aside for it.
            return libc.shmget(key, segment.size, flags | libc.SHM_NORESERVE)

    with creator.making(segment.permissions, get) as (shmid, final):
        _fill(shmid, segment)
        libc.shmctl(shmid, libc.IPC_SET, libc.shmid_ds(final))
        if segment.permissions.mode & libc.SHM_LOCKED:
            libc.shmctl(shmid, libc.SHM_LOCK)


def _fill(shmid: int, segment: SharedMemory) -> None:
    huge_page = huge_page_size(segment.hugetlb_flag)
    end = segment.size + -segment.size % (huge_page or _PAGE)
    address = None
    try:
        for extent in segment.extents:
            if address is None:  # a segment without data is not touched at all
                address = libc.shmat(shmid, 0)
            if extent.offset + extent.length > end:  # beyond it is other memory of this process
                raise ObjectError(f"shared memory segment {shmid}: data at {extent.offset:#x} is beyond its end")
            where = address + extent.offset
            for start, view in _windows(where, extent.length, not huge_page, libc.MADV_POPULATE_WRITE):
                extent.read_into(view, start)
    finally:
        if address is not None:
            libc.shmdt(address)
