"""Shared memory segments: kernel ⇄ model.SharedMemory. See shmop(2).

A segment is attached to be read or filled, and then read and written through the file behind the mapping
(/proc/self/map_files, which wants CAP_CHECKPOINT_RESTORE in the initial user namespace): that maps no page, so the
process does not grow with the segment, and the kernel does not stop at each page. Otherwise it goes through the memory,
by pieces that are unmapped again. Holes are found without touching them, by SEEK_DATA, else by mincore(2).

Where kernel.shm_rmid_forced is 1 the kernel destroys a segment with its last attachment, and that may be ours: the
caller has it set to 0 around collect() and restore().
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import digest, libc
from .errors import ChangedError, ObjectError, explain
from .loops import c
from .model import SHM_HUGE_SHIFT, SHM_HUGETLB, Extent, SegmentFacts, SharedMemory
from .pieces import Piece, ahead, one_by_one, rooms
from .pieces import of as pieces_of
from .progress import NOBODY, Progress
from .reading import Reading, stat_any, vanished

if TYPE_CHECKING:
    from .create import Creator

_PAGE = mmap.PAGESIZE
_SCAN = 1 << 20  # pages asked mincore(2) for at a time
_ZEROS = bytes(2 << 20)


@dataclass(frozen=True, slots=True)
class MappedExtent:
    """A run of an attached segment that holds data."""

    mapping: _Mapping
    offset: int
    length: int

    def read_into(self, view: memoryview, start: int = 0) -> None:
        """See model.Extent."""
        self.mapping.read_into(view, self.offset + start)


class _Watched:
    """The extents of a segment that may be written meanwhile, with a digest of what is read of them by pieces."""

    def __init__(self, mapping: _Mapping) -> None:
        self._mapping, self.digest = mapping, digest.ALGORITHMS[digest.DEFAULT]()

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._mapping)

    def pieces(self) -> Generator[Piece, None, None]:
        """See pieces.InPieces."""
        with contextlib.closing(self._mapping.pieces()) as found:
            for piece in found:
                self.digest.update(piece.packed)
                self.digest.update(piece.view)
                yield piece

    def read_all(self) -> bytes:
        """Read everything for its digest alone."""
        for _ in self.pieces():
            pass
        return self.digest.digest()


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
            extents: _Mapping | _Watched = mapping
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
    """An attached segment. Iterating it gives its extents, if it is attached by who has the reading of its namespace.

    Its data is read and written through the file behind it, which maps none of it. Where that may not be opened, as for
    huge pages, and in the page that the segment ends in, of which a file has only what is before the end, it goes
    through the memory.
    """

    def __init__(self, address: int, size: int, reading: Reading | None = None) -> None:
        self._address, self._size, self._reading = address, size, reading
        self._flags = os.O_RDONLY if reading is not None else os.O_RDWR
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
            self._fd = self._open(f"{self._address:x}-{self._address + self._size + -self._size % _PAGE:x}")
            # An ordinary user may not open it, and a mapping that ends elsewhere is one of huge pages.
            known = self._fd is not None
        except FileNotFoundError:
            known = False
        if not known:
            mapping, page = _smaps(self._address)
            with contextlib.suppress(FileNotFoundError):  # a kernel without map_files
                self._fd = self._open(mapping)
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

    def pieces(self) -> Generator[Piece, None, None]:
        """See pieces.InPieces."""
        if self._huge_page or self._fd is None:
            return one_by_one(self, self.length)
        return ahead(self._gathered(self._fd) if c is not None else one_by_one(self, self.length), self.length)

    def _gathered(self, fd: int) -> Generator[Piece, None, None]:
        """As one_by_one(), by the loops in C."""
        empty, at, hole = rooms(self.length), 0, 0
        while at < self._in_file:
            piece = next(empty)
            at, hole, piece.size, piece.count, why = c.gather(
                fd, at, hole, self._in_file, _PAGE, piece.data, piece.runs
            )
            if why:
                raise OSError(why, os.strerror(why))
            if piece.size:
                yield piece
        yield from one_by_one(self._data(fd, self._in_file), _PAGE)

    @property
    def _in_file(self) -> int:
        """Up to where reading and writing the file does as well as the memory: bytes."""
        return self._size - self._size % _PAGE if self._fd is not None and not self._huge_page else 0

    def _part_in_file(self, offset: int, length: int) -> tuple[int, int]:
        """The file, and how many of length bytes from offset on go through it."""
        return -1 if self._fd is None else self._fd, max(0, min(length, self._in_file - offset))

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill view from offset on. Raises OSError."""
        fd, in_file = self._part_in_file(offset, len(view))
        done = 0
        while done < in_file:
            n = os.preadv(fd, [view[done:in_file]], offset + done)
            if n == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            done += n
        if done < len(view):
            with self._memory(offset + done, len(view) - done, libc.MADV_POPULATE_READ) as memory:
                view[done:] = memory

    def write(self, piece: Piece) -> None:
        """Put the data of a piece to its place. Raises OSError, ValueError for what is beyond the end."""
        if piece.end > self.length:  # there is other memory of this process
            raise ValueError(f"data up to {piece.end:#x} in a segment that ends at {self.length:#x}")
        n = at = 0
        if c is not None and self._fd is not None:
            n, at, why = c.scatter(self._fd, self._in_file, piece.data, piece.runs, piece.count, n, at)
            if why > 0:
                raise OSError(why, os.strerror(why))
        for offset, data in piece.parts(n, at):
            fd, in_file = self._part_in_file(offset, len(data))
            done = 0
            while done < in_file:
                done += os.pwrite(fd, data[done:in_file], offset + done)
            if done < len(data):
                with self._memory(offset + done, len(data) - done, libc.MADV_POPULATE_WRITE) as memory:
                    memory[:] = data[done:]

    @contextlib.contextmanager
    def _memory(self, offset: int, length: int, populate: int) -> Iterator[memoryview]:
        """A part of it in this process; what is mapped for that is unmapped again."""
        first = offset - offset % _PAGE
        area = self._address + first, offset + length - first
        with contextlib.suppress(OSError):  # before Linux 5.14 each page is mapped when it is touched
            libc.madvise(*area, populate)
        yield libc.memory(self._address + offset, length)
        if not self._huge_page:
            libc.madvise(*area, libc.MADV_DONTNEED)

    def _open(self, mapping: str) -> int | None:
        """The file behind a mapping, None where that is not allowed. Raises FileNotFoundError."""
        try:
            return os.open(f"/proc/self/map_files/{mapping}", self._flags | os.O_CLOEXEC)
        except PermissionError:
            return None

    def _extent(self, start: int, end: int) -> MappedExtent:
        return MappedExtent(self, start, end - start)

    def _data(self, fd: int, end: int = 0) -> Iterator[Extent]:
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
        if _info().shm_swp and self._reading is not None:
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


def stored() -> int:
    """How many bytes of memory and swap the segments of the caller's namespace take. Raises OSError."""
    info = _info()
    return (info.shm_rss + info.shm_swp) * _PAGE


def count() -> int:
    """How many segments the namespace of the caller has. Raises OSError."""
    return _info().used_ids


def restore(segment: SharedMemory, creator: Creator, progress: Progress = NOBODY) -> None:
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
        _fill(shmid, segment, progress)
        libc.shmctl(shmid, libc.IPC_SET, libc.shmid_ds(final))
        if segment.permissions.mode & libc.SHM_LOCKED:
            libc.shmctl(shmid, libc.SHM_LOCK)


def _fill(shmid: int, segment: SharedMemory, progress: Progress) -> None:
    with contextlib.ExitStack() as stack:
        mapping = None
        for piece in stack.enter_context(contextlib.closing(pieces_of(segment))):
            if mapping is None:  # a segment without data is not touched at all
                address = libc.shmat(shmid, 0)
                stack.callback(libc.shmdt, address)
                mapping = stack.enter_context(_Mapping(address, segment.size))
            try:
                mapping.write(piece)
            except OSError as error:
                raise ObjectError(f"{segment.permissions.named('shm')}: filling it: {explain(error)}") from error
            progress.done(piece.size)
