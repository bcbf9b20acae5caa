"""What an IPC namespace holds, as frozen dataclasses: the waist between kernel and images.

Collectors make these from the kernel and the codec from images; both consume what the other made.
Big things are iterated: MessageQueue.messages and SharedMemory.extents are iterables, and so are
the collections of Contents. What is loaded from images can be iterated any number of times; what is
being collected from a kernel only once, each object before the next one is asked for.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


NAMES = {"shm": "shared memory segment", "msg": "message queue", "sem": "semaphore set"}


def object_name(kind: str, object_id: int, key: int) -> str:
    """An object, for people; kind is one of NAMES, key 0 for none."""
    return f"{NAMES[kind]} {object_id}" + (f" (key {key:#010x})" if key else "")


@dataclass(frozen=True, slots=True)
class Permissions:
    """struct ipc_perm, with the id beside it. See sysvipc(7).

    Users and groups are those of the user namespace that owns the IPC namespace.
    """

    key: int  # key_t seen as unsigned, 0 to 2^32-1; 0 is IPC_PRIVATE
    uid: int  # owner, 0 to 2^32-1
    gid: int
    cuid: int  # creator
    cgid: int
    mode: int  # 0 to 0777; for segments with SHM_DEST 01000 and SHM_LOCKED 02000
    id: int  # 0 to 2^31-1

    def named(self, kind: str) -> str:
        """The object, for people; kind is one of NAMES."""
        return object_name(kind, self.id, self.key)


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as msgrcv(2) gives it."""

    type: int  # 1 to 2^63-1
    body: bytes


class Block(Protocol):
    """A part of an image in memory, which is moved on as it is used up."""

    data: bytearray
    at: int  # where in data the next thing begins
    end: int  # of what data holds

    @property
    def offset(self) -> int:
        """Of what is at `at`, in the image: bytes."""

    @property
    def left(self) -> int:
        """Bytes of the image from there on."""

    @property
    def is_full(self) -> bool:
        """Would more() have to make data longer, or find nothing?"""

    def move_to(self, offset: int) -> None:
        """Stand at another offset of the image, ahead."""

    def more(self) -> None:
        """Forget what is before at, and read what comes behind end: at least one byte. Raises ImageError."""


@runtime_checkable
class FramedMessages(Protocol):
    """Messages of a queue that can also be had as they stand in an image, one behind the other."""

    def framed(self) -> Iterator[memoryview]:
        """All of them, by pieces that are good until the next one is asked for. Raises as iterating them does."""


@runtime_checkable
class StoredMessages(Protocol):
    """Messages of an image, which can also be had as they stand there."""

    def block(self) -> Block:
        """A block at the first of them."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What the kernel shows of a queue and nobody can set. Times in seconds since the epoch, 0 for never."""

    cbytes: int  # bytes of payload on the queue
    stime: int
    rtime: int
    ctime: int
    lspid: int
    lrpid: int


@dataclass(frozen=True, slots=True)
class MessageQueue:
    """A message queue and its messages, first to last."""

    permissions: Permissions
    qbytes: int  # the most bytes it may hold, 0 to 2^32-1
    qnum: int  # how many messages there are
    messages: Iterable[Message]
    facts: QueueFacts | None = None  # None in CRIU's images
    # What follows from the messages: bytes of all and of the longest, where they need not be read for it.
    size: int | None = field(default=None, compare=False)
    longest: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SemaphoreFacts:
    """What the kernel shows of a semaphore set and nobody can set. Times in seconds since the epoch."""

    otime: int  # 0 for never
    ctime: int
    sempid: tuple[int, ...]  # who last operated on each semaphore


@dataclass(frozen=True, slots=True)
class SemaphoreSet:
    """A semaphore set with its values, 0 to 32767 (SEMVMX) each."""

    permissions: Permissions
    values: array.array[int]  # type code "H"
    facts: SemaphoreFacts | None = None

    @property
    def nsems(self) -> int:
        """How many semaphores the set has."""
        return len(self.values)


PIECE = 128 << 10  # bytes that are copied at a time


class Extent(Protocol):
    """A run of a segment that holds data. What lies between extents is a hole and reads as zeros."""

    @property
    def offset(self) -> int:
        """Where it begins in the segment: bytes, a multiple of the page size."""

    @property
    def length(self) -> int:
        """Bytes, a multiple of the page size; the last page may reach beyond the segment's size."""

    def read_into(self, view: memoryview, start: int = 0) -> None:
        """Fill view with the data from start on. Raises OSError or ImageError, also for a short file."""


SHM_HUGETLB = 0o4000  # linux/shm.h
SHM_HUGE_SHIFT = 26


def huge_page_size(hugetlb_flag: int | None) -> int:
    """The size in bytes of the pages that a segment's hugetlb_flag tells; 0 for ordinary ones."""
    return 1 << (hugetlb_flag >> SHM_HUGE_SHIFT) if hugetlb_flag is not None else 0


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What the kernel shows of a segment and nobody can set. Times in seconds since the epoch, 0 for never."""

    atime: int
    dtime: int
    ctime: int
    cpid: int
    lpid: int
    nattch: int


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A shared memory segment. Its extents are in ascending order and do not overlap."""

    permissions: Permissions
    size: int  # bytes, as given to shmget(2); not rounded
    extents: Iterable[Extent]
    hugetlb_flag: int | None = None  # SHM_HUGETLB and the page size's logarithm << SHM_HUGE_SHIFT
    facts: SegmentFacts | None = None


Object = SharedMemory | MessageQueue | SemaphoreSet


@dataclass(frozen=True, slots=True)
class Frames:
    """Some objects of a kind as they stand in an image, one behind the other."""

    piece: memoryview  # good until the next ones are asked for
    objects: int
    messages: int  # of all of them


@runtime_checkable
class FramedObjects(Protocol[_T_co]):
    """Objects of a kind, of which some can also be had as they stand in an image."""

    def __iter__(self) -> Iterator[_T_co]: ...

    def framed(self, exact: bool) -> Iterator[_T_co | Frames]:
        """All of them, in their order. exact leaves out what CRIU does not write. Raises as iterating them does."""


@runtime_checkable
class StoredObjects(Protocol[_T_co]):
    """Objects of an image, which can also be had as they stand there."""

    def __iter__(self) -> Iterator[_T_co]: ...

    def block(self) -> Block:
        """A block at the first of them."""

    def one_at(self, block: Block) -> _T_co:
        """The object that a block stands at, which is moved behind it. Raises ImageError."""


@dataclass(frozen=True, slots=True)
class Variables:
    """The namespace's settings, named as in CRIU's ipc_var_entry."""

    sem_ctls: tuple[int, int, int, int]  # kernel.sem: semmsl, semmns, semopm, semmni
    msg_ctlmax: int  # kernel.msgmax, bytes
    msg_ctlmnb: int  # kernel.msgmnb, bytes
    msg_ctlmni: int  # kernel.msgmni
    auto_msgmni: int
    shm_ctlmax: int  # kernel.shmmax, bytes
    shm_ctlall: int  # kernel.shmall, pages
    shm_ctlmni: int  # kernel.shmmni
    shm_rmid_forced: int  # 0 or 1
    mq_queues_max: int  # fs.mqueue.*
    mq_msg_max: int
    mq_msgsize_max: int  # bytes
    mq_msg_default: int | None = None  # the kernel has it since 3.5
    mq_msgsize_default: int | None = None
    msg_next_id: int | None = None  # a preset that is armed; None while the sysctl reads -1
    sem_next_id: int | None = None
    shm_next_id: int | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """All of one IPC namespace."""

    variables: Variables
    segments: Iterable[SharedMemory] = ()
    queues: Iterable[MessageQueue] = ()
    semaphores: Iterable[SemaphoreSet] = ()

    def objects(self) -> Iterator[tuple[str, Object]]:
        """All objects, each with its kind."""
        for kind, objects in (("shm", self.segments), ("msg", self.queues), ("sem", self.semaphores)):
            for one in objects:
                yield kind, one


class Again(Generic[_T]):
    """What can be iterated again and again, each time through a new iterator."""

    def __init__(self, iterator: Callable[[], Iterator[_T]]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[_T]:
        return self._iterator()


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of everything was carried."""

    queues: int = 0
    messages: int = 0
    semaphore_sets: int = 0
    segments: int = 0
    pages: int = 0  # of segments: those that hold data

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.queues + other.queues,
            self.messages + other.messages,
            self.semaphore_sets + other.semaphore_sets,
            self.segments + other.segments,
            self.pages + other.pages,
        )
