"""Model ⇄ protobuf and payload: what is inside each kind of image. The only importer of pb/.

One encoder and one decoder a kind. Decoders check every number against the range the kernel could
have shown, so that nobody behind them has to; what they raise names file and byte. Field names and
numbers are CRIU's (proto/criu.proto); ipcimg's additions are extension fields (proto/ipcimg.proto),
which exact=True leaves out: then the bytes are those that CRIU 4.2 writes.
"""

from __future__ import annotations

import array
import contextlib
import io
import itertools
import struct
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from google.protobuf.unknown_fields import UnknownFieldSet

from . import digest, loops, magics, model
from .errors import ChangedError, DirectoryError, ImageError, quoted
from .image import COMMON_MAGIC, MAX_ENTRY, MAX_PLAIN, SERVICE_MAGIC, Block, ImageFile, Reader, Writer
from .manifest import Consistency, File, Manifest, Parent
from .pb import criu_pb2 as criu
from .pb import ipcimg_pb2 as own
from .pieces import INHERITED, RUN, Piece, Runs

_DECODED = ("IPC_VAR", "IPCNS_SHM", "IPCNS_MSG", "IPCNS_SEM", "PAGEMAP", "IDS", "INVENTORY", "IPCIMG_MANIFEST")
MAGICS = {magic: kind for magic, kind in magics.MAGICS.items() if kind in _DECODED}
_MAGIC_OF = {name: magic for magic, name in MAGICS.items()}
_STATS = next(magic for magic, kind in magics.MAGICS.items() if kind == "STATS")

# What numbers can be, for all who check them.
U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1
INT_MAX = (1 << 31) - 1
LONG_MAX = (1 << 63) - 1
SEMVMX = 32767  # linux/sem.h
NSEMS = (1 << 25) - 1  # a set has at most 2 GiB of the kernel's memory, and a semaphore takes 64 bytes
MODE = 0o777  # of queues and sets
SEGMENT_MODE = 0o3777  # and SHM_DEST, SHM_LOCKED

# Alignments of payloads, bytes.
_MESSAGE, _VALUES, _INLINE = 8, 8, 4

# pagemap_entry.flags
PE_PARENT, PE_LAZY, PE_PRESENT = 1, 2, 4

# protoc's stubs call them plain field descriptors, which no message takes as an extension.
_FACTS_OF_QUEUE: Any = own.queue
_FACTS_OF_SEMAPHORES: Any = own.semaphores
_FACTS_OF_SEGMENT: Any = own.segment
_HAS_MANIFEST: Any = own.has_manifest
_OWN_INVENTORY: Any = own.own_inventory
_OWN_STATS: Any = own.own_stats

_P = TypeVar("_P", bound=Protobuf)
_O = TypeVar("_O")
_NUMBERS = 128 << 10  # bytes for numbers that a loop in C reads
_MANY = 64  # messages from which on it pays to read a block of them
_NAMED = 8  # things of an entry that an error names; there can be any number
# Bytes that a field of a long entry has on average at least, since one of two bytes can take sixty when it is decoded.
# A file in a manifest has 35 or more, semaphores are packed into one field.
_FIELD = 32
_BIG_ENDIAN = sys.byteorder == "big"


def kind_of(image: ImageFile) -> str:
    """The kind an image says it is, by crit's name. Raises ImageError for none we know."""
    return image.reader().magic(MAGICS)


def kind_of_any(image: ImageFile) -> str | None:
    """The kind of any image of CRIU's or ours, by crit's name; None where it is none. Raises ImageError."""
    head = bytearray(8)  # an image without entries may have four, in CRIU's first format
    image.read_into(memoryview(head)[: image.size], 0)
    first, second = struct.unpack("<II", head)
    return magics.MAGICS.get(second if first in (COMMON_MAGIC, SERVICE_MAGIC) else first)


def has_common_magic(image: ImageFile) -> bool:
    """Does it begin as images of objects do, whatever their kind? Raises ImageError."""
    head = bytearray(4)
    image.read_into(memoryview(head)[: image.size], 0)
    return head == struct.pack("<I", COMMON_MAGIC)


def _open(image: ImageFile, kind: str) -> Reader:
    reader = image.reader()
    reader.magic({_MAGIC_OF[kind]: kind})
    return reader


def _writer(file: BinaryIO, kind: str) -> Writer:
    return Writer(file, _MAGIC_OF[kind])


def _next(reader: Reader, into: _P, most: int = MAX_PLAIN) -> _P | None:
    """The next entry, of at most so many bytes, as a message; None at the end of the image. Raises ImageError."""
    start, name = reader.offset, into.DESCRIPTOR.name
    data = reader.entry(name, most)
    if data is None:
        return None
    if len(data) > MAX_PLAIN and _has_more_fields(data, len(data) // _FIELD):
        raise ImageError(
            reader.image.path, start, f"{name} has {len(data)} bytes and fields of less than {_FIELD} on average"
        )
    try:
        into.ParseFromString(data)
    except DecodeError:
        raise ImageError(reader.image.path, start, f"{len(data)} bytes that are no {name}") from None
    if not into.IsInitialized():
        # protobuf's own list has a name for every gap of every entry of a list: an image can make it gigabytes long.
        missing = itertools.islice(_missing(into), _NAMED)
        raise ImageError(reader.image.path, start, f"{name} lacks {', '.join(missing)}")
    return into


def _only(reader: Reader, into: _P, most: int = MAX_PLAIN) -> _P:
    """As _next(), where the image may not end."""
    entry = _next(reader, into, most)
    if entry is None:
        raise ImageError(reader.image.path, reader.offset, f"ends where {into.DESCRIPTOR.name} should begin")
    return entry


def _has_more_fields(data: bytes, most: int) -> bool:
    """Has a message more fields than that? Those of groups count, those of messages inside do not."""
    at = fields = 0
    try:
        while at < len(data) and fields <= most:
            fields += 1
            tag, at = _varint(data, at)
            wire_type = tag & 7
            if wire_type == 0:
                _, at = _varint(data, at)
            elif wire_type == 2:
                length, at = _varint(data, at)
                at += length
            else:
                at += {1: 8, 5: 4}.get(wire_type, 0)
    except IndexError:  # it ends within a field, as who parses it will see
        return False
    return fields > most


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number there, of which a length has at most 32 bits, and where it ends. Raises IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift = min(shift + 7, 63)


def _missing(message: Protobuf) -> Iterator[str]:
    """The required fields that a message lacks, found one after the other."""
    for field in message.DESCRIPTOR.fields:
        if field.is_required and not message.HasField(field.name):
            yield field.name
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                if not inner.IsInitialized():
                    yield from (f"{field.name}.{name}" for name in _missing(inner))


class _Checks:
    """Range checks of one entry's fields; the error names the entry's place in the image."""

    def __init__(self, reader: Reader, start: int, what: str) -> None:
        self._path, self._start, self.what = reader.image.path, start, what

    def fail(self, why: str) -> ImageError:
        return ImageError(self._path, self._start, f"{self.what}: {why}")

    def within(self, name: str, value: int, low: int, high: int) -> int:
        if not low <= value <= high:
            raise self.fail(f"{name} is {value}; it can be {low} to {high}")
        return value


class Stored(Generic[_O]):
    """The objects of an image, decoded anew each time they are iterated; see model.StoredObjects."""

    def __init__(
        self,
        image: ImageFile,
        kind: str,
        decode: Callable[[Reader], _O | None],
        read: Callable[[ImageFile, Block, bytearray], tuple[Iterator[_O], int, int]],
    ) -> None:
        """kind is crit's name of it. decode gives the object that a reader stands at, None at the end.

        read gives what a loop in C can of a block, with numbers in the bytearray, where in the block it ended, and why.
        """
        self._image, self._kind, self._decode, self._read = image, kind, decode, read

    def __iter__(self) -> Iterator[_O]:
        if loops.c is not None:
            yield from self._by_blocks()
            return
        reader = _open(self._image, self._kind)
        while (one := self._decode(reader)) is not None:
            yield one

    def _by_blocks(self) -> Iterator[_O]:
        block, numbers = self.block(), bytearray(_NUMBERS)
        while block.left:
            objects, at, why = self._read(self._image, block, numbers)
            yield from objects
            used, block.at = at - block.at, at
            if why == loops.ODD or (why and not used and block.is_full):
                yield self.one_at(block)
            elif block.left and (not why or not used):
                block.more()

    def block(self) -> Block:
        """See model.StoredObjects."""
        return Block(self._image, _open(self._image, self._kind).offset)

    def one_at(self, block: model.Block) -> _O:
        """See model.StoredObjects."""
        reader = self._image.reader(block.offset)
        one = self._decode(reader)
        if one is None:
            raise ImageError(self._image.path, block.offset, "ends where an object should begin")
        block.move_to(reader.offset)
        return one


class ObjectEncoder(Generic[_O]):
    """Writes an image object by object."""

    KIND: ClassVar[str]  # crit's name of it

    def __init__(self, file: BinaryIO, exact: bool) -> None:
        self._writer, self._exact = _writer(file, self.KIND), exact

    def add(self, one: _O, /) -> None:
        """Write one object."""
        raise NotImplementedError

    def add_framed(self, frames: model.Frames) -> None:
        """Write some objects as they stand in an image."""
        self._writer.framed(frames.piece)


# ---- permissions ---------------------------------------------------------------------------


def _desc(permissions: model.Permissions) -> criu.ipc_desc_entry:
    p = permissions
    return criu.ipc_desc_entry(key=p.key, uid=p.uid, gid=p.gid, cuid=p.cuid, cgid=p.cgid, mode=p.mode, id=p.id)


def _permissions(desc: criu.ipc_desc_entry, checks: _Checks, known_mode: int = MODE) -> model.Permissions:
    if desc.mode & ~known_mode:
        raise checks.fail(f"mode {desc.mode:#o} has bits that no such object has")
    return model.Permissions(
        key=desc.key,
        uid=desc.uid,
        gid=desc.gid,
        cuid=desc.cuid,
        cgid=desc.cgid,
        mode=desc.mode,
        id=checks.within("id", desc.id, 0, INT_MAX),
    )


# ---- variables: ipcns-var-N.img ------------------------------------------------------------

_VARIABLES = tuple(model.Variables.__dataclass_fields__)
OPTIONAL_VARIABLES = tuple(f.name for f in criu.ipc_var_entry.DESCRIPTOR.fields if f.number >= 13)


def encode_variables(file: BinaryIO, variables: model.Variables, *, has_manifest: bool = False) -> None:
    """Write the whole image. has_manifest marks it as one of a set with a manifest."""
    values = {name: getattr(variables, name) for name in _VARIABLES}
    entry = criu.ipc_var_entry(**{name: value for name, value in values.items() if value is not None})
    if has_manifest:
        entry.Extensions[_HAS_MANIFEST] = True
    _writer(file, "IPC_VAR").entry(entry.SerializeToString())


def has_manifest(image: ImageFile) -> bool:
    """Is it the variables of a set with a manifest? Raises ImageError."""
    entry = _only(_open(image, "IPC_VAR"), criu.ipc_var_entry())
    return bool(entry.Extensions[_HAS_MANIFEST])


def decode_variables(image: ImageFile) -> model.Variables:
    """The one entry of the image. Raises ImageError, also where something follows it."""
    reader = _open(image, "IPC_VAR")
    start = reader.offset
    entry = _only(reader, criu.ipc_var_entry())
    checks = _Checks(reader, start, "variables")
    checks.within("shm_rmid_forced", entry.shm_rmid_forced, 0, 1)
    if len(entry.sem_ctls) != 4:
        raise checks.fail(f"sem_ctls has {len(entry.sem_ctls)} numbers; kernel.sem has 4")
    reader.expect_end()
    values = {name: getattr(entry, name) for name in _VARIABLES if name != "sem_ctls"}
    for name in OPTIONAL_VARIABLES:
        if not entry.HasField(name):
            values[name] = None
        elif name.endswith("_next_id"):
            checks.within(name, values[name], 0, INT_MAX)
    a, b, c, d = entry.sem_ctls
    return model.Variables(sem_ctls=(a, b, c, d), **values)


# ---- message queues: ipcns-msg-N.img -------------------------------------------------------


class QueueEncoder(ObjectEncoder[model.MessageQueue]):
    """Writes an image queue by queue."""

    KIND = "IPCNS_MSG"

    def add(self, queue: model.MessageQueue, /) -> None:
        """Raises ChangedError where the queue does not yield qnum messages."""
        entry = criu.ipc_msg_entry(desc=_desc(queue.permissions), qbytes=queue.qbytes, qnum=queue.qnum)
        if queue.facts is not None and not self._exact:
            f = queue.facts
            entry.Extensions[_FACTS_OF_QUEUE].CopyFrom(
                own.queue_facts(
                    cbytes=f.cbytes, stime=f.stime, rtime=f.rtime, ctime=f.ctime, lspid=f.lspid, lrpid=f.lrpid
                )
            )
        self._writer.entry(entry.SerializeToString())
        if isinstance(queue.messages, model.FramedMessages):
            for piece in queue.messages.framed():
                self._writer.framed(piece)
            return
        head, count = criu.ipc_msg(), 0
        for message in queue.messages:
            head.mtype, head.msize = message.type, len(message.body)
            self._writer.entry(head.SerializeToString())
            self._writer.payload(message.body, _MESSAGE)
            count += 1
        if count != queue.qnum:
            raise ChangedError(f"message queue {queue.permissions.id} had {queue.qnum} messages, then {count}")


_MESSAGE_NUMBERS = struct.Struct("=3Q")


class _Messages:
    """The messages of a queue, read from the image whenever they are iterated."""

    def __init__(self, image: ImageFile, offset: int, count: int, place: int, msqid: int) -> None:
        """place and msqid are for error messages: where the queue's entry begins, and its id."""
        self._image, self._offset, self._count, self._place, self._msqid = image, offset, count, place, msqid
        self.size = self.longest = 0  # bytes, of all messages and of one; known after skip()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[model.Message]:
        passed, offset = 0, self._offset
        if loops.c is not None and self._count >= _MANY:
            passed, offset = yield from self._read_most()
        reader = self._image.reader(offset)
        head = criu.ipc_msg()
        for n in range(passed, self._count):
            self._head(reader, n, head)
            yield model.Message(head.mtype, reader.payload(head.msize, _MESSAGE, "the message"))

    def _read_most(self) -> Generator[model.Message, None, tuple[int, int]]:
        """Up to the first that a loop in C cannot read; then how many these were, and where the next one begins."""
        block, numbers, n = self.block(), bytearray(_NUMBERS), 0
        while n < self._count:
            seen, at, why = loops.c.read_messages(block.data, block.at, block.end, self._count - n, numbers)
            for type_, place, size in _MESSAGE_NUMBERS.iter_unpack(memoryview(numbers)[: seen * _MESSAGE_NUMBERS.size]):
                yield model.Message(type_, bytes(block.data[place : place + size]))
            n, block.at = n + seen, at
            if why == loops.ODD or (why and not seen and block.is_full):
                break
            if why and not seen:
                block.more()
        return n, block.offset

    def block(self) -> Block:
        """See model.StoredMessages."""
        return Block(self._image, self._offset)

    def skip(self, reader: Reader) -> None:
        """Take a reader past the messages, checking that they are there."""
        head = criu.ipc_msg()
        passed = self._skip_most(reader) if loops.c is not None and self._count >= _MANY else 0
        for n in range(passed, self._count):
            self._head(reader, n, head)
            reader.skip(head.msize, _MESSAGE, "the message")
            self.size += head.msize
            self.longest = max(self.longest, head.msize)

    def _skip_most(self, reader: Reader) -> int:
        """As skip(), up to the first message that is not as it should be; gives how many were passed."""
        block, n = self.block(), 0
        while n < self._count:
            seen, at, size, longest, why = loops.c.scan(block.data, block.at, block.end, block.left, self._count - n)
            n += seen
            self.size, self.longest = self.size + size, max(self.longest, longest)
            block.move_to(block.offset + at - block.at)
            if why == loops.ODD or (why and block.is_full):
                break
            if why:
                block.more()
        reader.move_to(block.offset)
        return n

    def _head(self, reader: Reader, n: int, head: criu.ipc_msg) -> None:
        start = reader.offset
        if _next(reader, head) is None:
            why = f"message queue {self._msqid}: the image ends after {n} of its {self._count} messages"
            raise ImageError(self._image.path, self._place, why)
        if not 1 <= head.mtype <= LONG_MAX:
            raise ImageError(reader.image.path, start, f"message type {head.mtype}; it can be 1 to {LONG_MAX}")
        if head.msize > INT_MAX:
            raise ImageError(reader.image.path, start, f"message of {head.msize} bytes; the most is {INT_MAX}")


def _decode_queue(reader: Reader) -> model.MessageQueue | None:
    start = reader.offset
    entry = _next(reader, criu.ipc_msg_entry())
    if entry is None:
        return None
    checks = _Checks(reader, start, f"message queue {entry.desc.id}")
    permissions = _permissions(entry.desc, checks)
    messages = _Messages(reader.image, reader.offset, entry.qnum, start, permissions.id)
    messages.skip(reader)
    facts = None
    if entry.HasExtension(_FACTS_OF_QUEUE):
        f = entry.Extensions[_FACTS_OF_QUEUE]
        facts = model.QueueFacts(f.cbytes, f.stime, f.rtime, f.ctime, f.lspid, f.lrpid)
    return model.MessageQueue(permissions, entry.qbytes, entry.qnum, messages, facts, messages.size, messages.longest)


def decode_queues(image: ImageFile) -> Stored[model.MessageQueue]:
    """The queues of an image, one by one; iterating them raises ImageError."""
    return Stored(image, "IPCNS_MSG", _decode_queue, _read_queues)


_QUEUE = struct.Struct("=14Q5q")


def _read_queues(image: ImageFile, block: Block, out: bytearray) -> tuple[Iterator[model.MessageQueue], int, int]:
    base = block.offset - block.at
    count, at, why = loops.c.read_queues(block.data, block.at, block.end, out)
    return (_queue_of(image, base, n) for n in _QUEUE.iter_unpack(memoryview(out)[: 8 * count])), at, why


def _queue_of(image: ImageFile, base: int, numbers: tuple[int, ...]) -> model.MessageQueue:
    key, uid, gid, cuid, cgid, mode, msqid, qbytes, qnum, at, size, longest, has_facts, *facts = numbers
    messages = _Messages(image, base + at, qnum, base + at, msqid)
    return model.MessageQueue(
        model.Permissions(key, uid, gid, cuid, cgid, mode, msqid),
        qbytes,
        qnum,
        messages,
        model.QueueFacts(*facts) if has_facts else None,
        size,
        longest,
    )


# ---- semaphore sets: ipcns-sem-N.img -------------------------------------------------------


class SemaphoreEncoder(ObjectEncoder[model.SemaphoreSet]):
    """Writes an image set by set."""

    KIND = "IPCNS_SEM"

    def add(self, semaphores: model.SemaphoreSet, /) -> None:
        entry = criu.ipc_sem_entry(desc=_desc(semaphores.permissions), nsems=semaphores.nsems)
        if semaphores.facts is not None and not self._exact:
            f = semaphores.facts
            entry.Extensions[_FACTS_OF_SEMAPHORES].CopyFrom(
                own.semaphore_facts(otime=f.otime, ctime=f.ctime, sempid=f.sempid)
            )
        self._writer.entry(entry.SerializeToString())
        self._writer.payload(_little_endian(semaphores.values).tobytes(), _VALUES)


def _little_endian(values: array.array[int]) -> array.array[int]:
    if _BIG_ENDIAN:
        values = values[:]
        values.byteswap()
    return values


def _decode_set(reader: Reader) -> model.SemaphoreSet | None:
    start = reader.offset
    entry = _next(reader, criu.ipc_sem_entry(), MAX_ENTRY)
    if entry is None:
        return None
    checks = _Checks(reader, start, f"semaphore set {entry.desc.id}")
    permissions = _permissions(entry.desc, checks)
    checks.within("nsems", entry.nsems, 1, NSEMS)
    values = array.array("H", reader.payload(2 * entry.nsems, _VALUES, f"{checks.what}: its values"))
    values = _little_endian(values)
    if max(values) > SEMVMX:
        raise checks.fail(f"a value is {max(values)}; the most is {SEMVMX}")
    facts = None
    if entry.HasExtension(_FACTS_OF_SEMAPHORES):
        f = entry.Extensions[_FACTS_OF_SEMAPHORES]
        if len(f.sempid) != entry.nsems:
            raise checks.fail(f"{len(f.sempid)} process ids for {entry.nsems} semaphores")
        facts = model.SemaphoreFacts(f.otime, f.ctime, tuple(f.sempid))
    return model.SemaphoreSet(permissions, values, facts)


def decode_semaphores(image: ImageFile) -> Stored[model.SemaphoreSet]:
    """The semaphore sets of an image, one by one; iterating them raises ImageError."""
    return Stored(image, "IPCNS_SEM", _decode_set, _read_sets)


_SET = struct.Struct("=10Q2q")


def _read_sets(image: ImageFile, block: Block, out: bytearray) -> tuple[Iterator[model.SemaphoreSet], int, int]:
    count, at, why = loops.c.read_sets(block.data, block.at, block.end, out)
    return _sets_of(block.data, memoryview(out)[: 8 * count]), at, why


def _sets_of(data: bytearray, numbers: memoryview) -> Iterator[model.SemaphoreSet]:
    at = 0
    while at < len(numbers):
        key, uid, gid, cuid, cgid, mode, semid, nsems, place, has_facts, otime, ctime = _SET.unpack_from(numbers, at)
        at += _SET.size
        facts = None
        if has_facts:
            facts = model.SemaphoreFacts(otime, ctime, tuple(numbers[at : at + 4 * nsems].cast("I")))
            at += 4 * nsems + -4 * nsems % 8
        values = array.array("H", bytes(data[place : place + 2 * nsems]))
        yield model.SemaphoreSet(model.Permissions(key, uid, gid, cuid, cgid, mode, semid), values, facts)


# ---- shared memory: ipcns-shm-N.img --------------------------------------------------------


class SegmentEncoder:
    """Writes an image segment by segment; the pages go into files of their own."""

    def __init__(self, file: BinaryIO, exact: bool) -> None:
        self._writer, self._exact = _writer(file, "IPCNS_SHM"), exact

    def add(self, segment: model.SharedMemory, inline: bytes | None = None) -> None:
        """inline is the content, segment.size bytes, where it is to follow the entry as in CRIU's older images."""
        entry = criu.ipc_shm_entry(desc=_desc(segment.permissions), size=segment.size)
        if inline is None:
            entry.in_pagemaps = True
        if segment.hugetlb_flag is not None:
            entry.hugetlb_flag = segment.hugetlb_flag
        if segment.facts is not None and not self._exact:
            f = segment.facts
            entry.Extensions[_FACTS_OF_SEGMENT].CopyFrom(
                own.segment_facts(
                    atime=f.atime, dtime=f.dtime, ctime=f.ctime, cpid=f.cpid, lpid=f.lpid, nattch=f.nattch
                )
            )
        self._writer.entry(entry.SerializeToString())
        if inline is not None:
            self._writer.payload(inline, _INLINE)


def _hugetlb_flag(entry: criu.ipc_shm_entry, checks: _Checks) -> int | None:
    if not entry.HasField("hugetlb_flag"):
        return None
    flag = entry.hugetlb_flag
    shift = flag >> model.SHM_HUGE_SHIFT
    if flag != model.SHM_HUGETLB | shift << model.SHM_HUGE_SHIFT or not 14 <= shift <= 34:
        raise checks.fail(f"hugetlb_flag {flag:#o} is not SHM_HUGETLB and a size of pages")
    return flag


@dataclass(frozen=True, slots=True)
class ImageExtent:
    """A run of a segment's data in a file: length bytes at position."""

    image: ImageFile
    position: int
    offset: int
    length: int

    def read_into(self, view: memoryview, start: int = 0) -> None:
        """See model.Extent."""
        self.image.read_into(view, self.position + start)


def decode_segment_entries(image: ImageFile, page_size: int) -> Iterator[model.SharedMemory]:
    """As decode_segments(), where pages in files of their own do not matter: such a segment has no extents."""
    return decode_segments(image, lambda shmid, end: (), page_size)


def decode_segments(
    image: ImageFile, extents_of: Callable[[int, int], Iterable[model.Extent]], page_size: int
) -> Iterator[model.SharedMemory]:
    """The segments of an image, one by one. Raises ImageError.

    extents_of(id, end) finds the data of a segment whose pages are in files of their own and reach
    up to end; those of CRIU's older inline segments follow their entry.
    """
    reader = _open(image, "IPCNS_SHM")
    while True:
        start = reader.offset
        entry = _next(reader, criu.ipc_shm_entry())
        if entry is None:
            return
        checks = _Checks(reader, start, f"shared memory segment {entry.desc.id}")
        permissions = _permissions(entry.desc, checks, SEGMENT_MODE)
        checks.within("size", entry.size, 1, LONG_MAX)
        hugetlb_flag = _hugetlb_flag(entry, checks)
        granule = model.huge_page_size(hugetlb_flag) or page_size
        extents: Iterable[model.Extent]
        if entry.in_pagemaps:
            extents = extents_of(permissions.id, -(-entry.size // granule) * granule)
        else:
            extents = (ImageExtent(image, reader.offset, 0, entry.size),)
            reader.skip(entry.size, _INLINE, f"{checks.what}: its content")
        facts = None
        if entry.HasExtension(_FACTS_OF_SEGMENT):
            f = entry.Extensions[_FACTS_OF_SEGMENT]
            facts = model.SegmentFacts(f.atime, f.dtime, f.ctime, f.cpid, f.lpid, f.nattch)
        yield model.SharedMemory(permissions, entry.size, extents, hugetlb_flag, facts)


# ---- page maps: pagemap-shmem-ID.img -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PageRun:
    """One pagemap_entry: pages from offset (bytes) on, in this set's pages file or in the parent set."""

    offset: int
    pages: int
    in_parent: bool
    place: int  # of the entry in its image, bytes, for error messages


class PagemapEncoder:
    """Writes a page map run by run."""

    def __init__(self, file: BinaryIO, pages_id: int, exact: bool) -> None:
        if pages_id > U32_MAX:
            raise DirectoryError(f"pages-{U32_MAX}.img leaves no number for the pages of another segment")
        self._writer, self._exact = _writer(file, "PAGEMAP"), exact
        self._writer.entry(criu.pagemap_head(pages_id=pages_id).SerializeToString())
        self._last: tuple[int, int] | None = None  # the last run of the piece before, which may go on

    def add_piece(self, piece: Piece, page_size: int) -> None:
        """The runs of a piece, whose data was appended to the pages file. Uses them up; finish() is to follow."""
        if not piece.count:
            return
        if self._last is not None:
            offset, length = self._last
            first, its_length = RUN.unpack_from(piece.runs)
            if offset + length == first:
                RUN.pack_into(piece.runs, 0, offset, length + its_length)
            else:
                self.add(offset, length // page_size)
        piece.count -= 1
        self._last = RUN.unpack_from(piece.runs, piece.count * RUN.size)
        if loops.c is not None:
            self._writer.framed(loops.c.frame_runs(piece.runs, piece.count, page_size, self._exact))
            return
        for offset, length in RUN.iter_unpack(piece.packed):
            self.add(offset, length // page_size)

    def finish(self, page_size: int) -> None:
        """To be called after the last piece."""
        if self._last is not None:
            self.add(self._last[0], self._last[1] // page_size)

    def add(self, offset: int, pages: int) -> None:
        """A run of pages that were appended to the pages file, or, with INHERITED, are in the parent."""
        # CRIU up to 4.1 reads compat_nr_pages alone; 4.2 writes 0 there and prefers nr_pages.
        compat = 0 if self._exact or pages > U32_MAX else pages
        flags, vaddr = (PE_PARENT if offset & INHERITED else PE_PRESENT), offset & ~INHERITED
        self.add_fields({"vaddr": vaddr, "compat_nr_pages": compat, "flags": flags, "nr_pages": pages})

    def add_fields(self, fields: Mapping[str, Any]) -> None:
        """A pagemap_entry with these fields, by CRIU's names. vaddr and compat_nr_pages must be among them."""
        self._writer.entry(criu.pagemap_entry(**fields).SerializeToString())


def decode_pagemap(image: ImageFile, page_size: int) -> tuple[int, Iterator[PageRun]]:
    """The number of the pages file, and the runs in ascending order. Raises ImageError."""
    reader = _open(image, "PAGEMAP")
    head = _only(reader, criu.pagemap_head())
    return head.pages_id, (run for run, _ in _page_runs(reader, page_size))


class StoredRuns:
    """The runs of a page map, by as many as there is room for."""

    def __init__(self, image: ImageFile, page_size: int, end: int) -> None:
        """end is where the segment ends, with its last page. Raises ImageError."""
        self.image, self._page_size, self._end = image, page_size, end
        reader = _open(image, "PAGEMAP")
        self.pages_id: int = _only(reader, criu.pagemap_head()).pages_id
        self._offset, self._left = 0, 0  # where what comes next begins in the segment; how much of its run is to come
        # A part of the image, where the next entry begins in it, where it ends, and that place in the image.
        self._block, self._at, self._filled, self._read = bytearray(Reader.BUFFER), 0, 0, reader.offset
        # All that the loop in C has left, from the first entry on that is out of the ordinary.
        self._rest: Iterator[tuple[PageRun, object]] | None = None if loops.c else _page_runs(reader, page_size)

    def into(self, some: Runs) -> PageRun | None:
        """Add as many as there is room for, which are in the set itself, in the order of its pages file.

        The last may go on. At the end of the page map nothing is added. Before a run that is in the parent it stops,
        and gives that. Raises ImageError.
        """
        while some.left:
            if self._rest is None:
                self._take(some)
                continue
            if not self._left:
                run, _ = next(self._rest, (None, None))
                if run is None:
                    break
                length = run.pages * self._page_size
                if run.offset + length > self._end:
                    raise beyond_the_end(self.image, run, length, self._end)
                if run.in_parent:
                    return run
                self._offset, self._left = run.offset, length
            length = min(self._left, some.left)
            some.add(self._offset, length)
            self._offset, self._left = self._offset + length, self._left - length
        return None

    def _take(self, some: Runs) -> None:
        """As into(), by the loop in C, as far as the entries are ordinary ones; what is left of them goes to _rest."""
        self._at, some.count, size, self._offset, self._left, why = loops.c.next_runs(
            self._block,
            self._at,
            self._filled,
            self._page_size,
            self._end,
            self._offset,
            self._left,
            some.left,
            some.runs,
            some.count,
        )
        some.size += size
        if why == loops.ODD or (why == loops.FULL and not self._more()):
            reader = self.image.reader(self._read - (self._filled - self._at))
            self._rest = _page_runs(reader, self._page_size, self._offset)

    def _more(self) -> bool:
        """Read on in the image. Gives whether anything came."""
        rest = self._block[self._at : self._filled]
        self._block[: len(rest)] = rest
        n = self.image.read_some(memoryview(self._block)[len(rest) :], self._read)
        self._at, self._filled, self._read = 0, len(rest) + n, self._read + n
        return n > 0


def beyond_the_end(image: ImageFile, run: PageRun, length: int, end: int) -> ImageError:
    """The error for a run that reaches beyond its segment."""
    return ImageError(image.path, run.place, f"pages up to {run.offset + length:#x}; the segment ends at {end:#x}")


def decode_pagemap_fields(image: ImageFile, page_size: int) -> tuple[int, Iterator[dict[str, int]]]:
    """As decode_pagemap(), but of each run the fields that are set in its entry, by CRIU's names. Raises ImageError."""
    reader = _open(image, "PAGEMAP")
    head = _only(reader, criu.pagemap_head())
    entries = (entry for _, entry in _page_runs(reader, page_size))
    return head.pages_id, ({field.name: value for field, value in entry.ListFields()} for entry in entries)


def _page_runs(reader: Reader, page_size: int, end: int = 0) -> Iterator[tuple[PageRun, criu.pagemap_entry]]:
    """The runs from the reader on; the one before ends at end."""
    while True:
        start = reader.offset
        entry = _next(reader, criu.pagemap_entry())
        if entry is None:
            return
        checks = _Checks(reader, start, f"pages at {entry.vaddr:#x}")
        unknown_fields: Any = UnknownFieldSet(entry)
        unknown = sorted({field.field_number for field in unknown_fields})[:_NAMED]
        if unknown:
            raise checks.fail(
                f"pagemap_entry has fields {unknown}, as CRIU after 4.2 writes for compressed pages (criu dump "
                "--compress): ipcimg cannot read them"
            )
        pages = entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages
        flags = entry.flags if entry.HasField("flags") else PE_PRESENT
        if entry.in_parent:
            flags |= PE_PARENT
        if not flags & (PE_PARENT | PE_PRESENT):
            raise checks.fail(f"flags {flags}: the pages are neither here nor in a parent")
        if entry.vaddr % page_size:
            raise checks.fail(f"not a multiple of the page size {page_size}")
        if entry.vaddr < end:
            raise checks.fail(f"overlap what comes before, which ends at {end:#x}")
        checks.within("vaddr", entry.vaddr, 0, LONG_MAX - page_size)
        checks.within("nr_pages", pages, 1, (LONG_MAX - entry.vaddr) // page_size)
        if entry.compat_nr_pages not in (0, pages):
            raise checks.fail(
                f"nr_pages is {pages}, and compat_nr_pages, which CRIU up to 4.1 reads, is {entry.compat_nr_pages}"
            )
        end = entry.vaddr + pages * page_size
        yield PageRun(entry.vaddr, pages, bool(flags & PE_PARENT), start), entry


def decode_pagemap_entries(image: ImageFile, page_size: int) -> Iterator[int | PageRun]:
    """The entries of a page map: first the number of the pages file, then the runs. Raises ImageError."""
    pages_id, runs = decode_pagemap(image, page_size)
    yield pages_id
    yield from runs


# ---- a dump as a whole: ids-PID.img, inventory.img, stats-* --------------------------------

COMMON_MAGIC_VERSION = 2  # the img_version of images that begin with the common magic: of all since 2014


def decode_ipc_ns_id(image: ImageFile) -> int | None:
    """The N of ipcns-*-N.img that a task's ids image tells, or None where it tells none."""
    entry = _only(_open(image, "IDS"), criu.task_kobj_ids_entry())
    return entry.ipc_ns_id if entry.HasField("ipc_ns_id") else None


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is told of a dump as a whole."""

    img_version: int
    own_ipc_ns_id: int | None  # of criu itself: what it shares with the processes is not dumped
    is_ours: bool  # and not CRIU's


def decode_inventory(image: ImageFile) -> Inventory:
    """Raises ImageError."""
    entry = _only(_open(image, "INVENTORY"), criu.inventory_entry())
    ids = entry.root_ids
    own_id = ids.ipc_ns_id if ids.HasField("ipc_ns_id") else None
    return Inventory(entry.img_version, own_id, bool(entry.Extensions[_OWN_INVENTORY]))


def encode_inventory(file: BinaryIO) -> None:
    """Write the whole image, with the mark that it is ours."""
    entry = criu.inventory_entry(img_version=COMMON_MAGIC_VERSION, fdinfo_per_id=True, ns_per_id=True)
    entry.Extensions[_OWN_INVENTORY] = True
    Writer(file, _MAGIC_OF["INVENTORY"], first=None).entry(entry.SerializeToString())


def encode_dump_stats(
    file: BinaryIO, *, freezing: float, frozen: float, collecting: float, pages_written: int, pages_inherited: int
) -> None:
    """Write the whole of a stats-dump, with the mark that it is ours. Times are seconds."""
    dump = criu.dump_stats_entry(
        freezing_time=_microseconds(freezing),
        frozen_time=_microseconds(frozen),
        memdump_time=_microseconds(collecting),
        memwrite_time=0,
        pages_scanned=0,
        pages_skipped_parent=0,
        pages_written=0,
        pages_lazy=0,
        shpages_skipped_parent=pages_inherited,
        shpages_written=pages_written,
    )
    _encode_stats(file, criu.stats_entry(dump=dump))


def encode_restore_stats(file: BinaryIO, *, restoring: float, pages_restored: int) -> None:
    """Write the whole of a stats-restore, with the mark that it is ours. Times are seconds."""
    restore = criu.restore_stats_entry(
        pages_compared=0,
        pages_skipped_cow=0,
        forking_time=0,
        restore_time=_microseconds(restoring),
        pages_restored=pages_restored,
    )
    _encode_stats(file, criu.stats_entry(restore=restore))


def _encode_stats(file: BinaryIO, entry: criu.stats_entry) -> None:
    entry.Extensions[_OWN_STATS] = True
    Writer(file, _STATS, first=SERVICE_MAGIC).entry(entry.SerializeToString())


def _microseconds(seconds: float) -> int:
    return min(int(seconds * 1e6), U32_MAX)


def is_ours(image: ImageFile) -> bool:
    """Is it an inventory or statistics that we have written? Raises ImageError where it is damaged."""
    if image.size < 8:
        return False
    kind = kind_of_any(image)
    if kind == "INVENTORY":
        return decode_inventory(image).is_ours
    if kind != "STATS" or has_common_magic(image):
        return False
    reader = image.reader(4)
    reader.magic({_STATS: kind})
    return bool(_only(reader, criu.stats_entry()).Extensions[_OWN_STATS])


# ---- the manifest: ipcimg-manifest-N.img ---------------------------------------------------

_MANIFEST_COUNTS = tuple(model.Counts.__dataclass_fields__)
_MANIFEST_FACTS = ("version", "tool", "created", "kernel", "machine", "page_size", "ipc_ns_id")
_TEXT = 4096  # characters of a text in the manifest


def encode_streamer_request(name: str) -> bytes:
    """A message to a criu-image-streamer: the file that is about to go, or is wanted."""
    message = criu.img_streamer_request_entry(filename=name).SerializeToString()
    return struct.pack("<I", len(message)) + message


def decode_streamer_reply(data: bytes, path: str) -> bool:
    """Has the streamer that file? path is its name for people. Raises ImageError."""
    reply = criu.img_streamer_reply_entry()
    with contextlib.suppress(DecodeError):
        reply.ParseFromString(data)
        if reply.IsInitialized():
            return reply.exists
    raise ImageError(path, None, "the answer of the streamer is no img_streamer_reply_entry")


def encode_manifest(file: BinaryIO, manifest: Manifest) -> None:
    """Write the whole image."""
    entry = own.manifest_entry(
        **{name: getattr(manifest, name) for name in _MANIFEST_FACTS},
        **{name: getattr(manifest.counts, name) for name in _MANIFEST_COUNTS},
        files=[own.manifest_file(name=name, size=f.size, digest=f.digest) for name, f in manifest.files.items()],
        digest_algorithm=manifest.digest_algorithm,
        # It is for people, and as long as the command line was.
        selection=manifest.selection and manifest.selection[:_TEXT],
    )
    if manifest.consistency is not None:
        entry.consistency, entry.compared = manifest.consistency.how, manifest.consistency.compared
        entry.moved.extend(manifest.consistency.moved)
    if not manifest.variables_meant:
        entry.variables_meant = False
    if manifest.parent is not None:
        p = manifest.parent
        entry.parent.CopyFrom(own.manifest_parent(ipc_ns_id=p.ipc_ns_id, digest=p.digest, pages=p.pages))
    sealed = io.BytesIO()
    writer = _writer(sealed, "IPCIMG_MANIFEST")
    writer.entry(entry.SerializeToString())
    seal = digest.ALGORITHMS[manifest.digest_algorithm]()
    seal.update(sealed.getvalue())
    writer.entry(own.manifest_seal(digest=seal.digest()).SerializeToString())
    file.write(sealed.getvalue())


def decode_manifest(image: ImageFile) -> Manifest:
    """Raises ImageError."""
    reader = _open(image, "IPCIMG_MANIFEST")
    start = reader.offset
    entry = _only(reader, own.manifest_entry(), MAX_ENTRY)
    checks = _Checks(reader, start, "manifest")
    checks.within("version", entry.version, 1, Manifest.VERSION)
    if entry.digest_algorithm not in digest.ALGORITHMS:
        known = ", ".join(digest.ALGORITHMS)
        raise checks.fail(f"digest_algorithm is {quoted(entry.digest_algorithm)}; known are {known}")
    end = reader.offset
    seal = _only(reader, own.manifest_seal())
    reader.expect_end()
    if seal.digest != image.digest(entry.digest_algorithm, end):
        raise ImageError(image.path, None, "is not as it was written: its digest is another one")
    checks.within("created", entry.created, 0, 1 << 40)
    if entry.page_size & (entry.page_size - 1) or not 4096 <= entry.page_size <= 1 << 20:
        raise checks.fail(f"page_size is {entry.page_size}; no machine has such pages")
    texts = (entry.tool, entry.kernel, entry.machine, entry.selection, entry.consistency)
    for text in itertools.chain(texts, entry.moved, (file.name for file in entry.files)):
        if not isinstance(text, str):  # protobuf gives bytes that are no UTF-8 as they are
            raise checks.fail(f"{quoted(text)} is no text")
        if len(text) > _TEXT:
            raise checks.fail(f"{quoted(text)} has {len(text)} characters; no text has more than {_TEXT}")
    checks.within("parent.pages", entry.parent.pages, 0, entry.pages)
    return Manifest(
        **{name: getattr(entry, name) for name in _MANIFEST_FACTS},
        counts=model.Counts(**{name: getattr(entry, name) for name in _MANIFEST_COUNTS}),
        files={file.name: File(file.size, file.digest) for file in entry.files},
        digest_algorithm=entry.digest_algorithm,
        consistency=Consistency(entry.consistency, entry.compared, tuple(entry.moved))
        if entry.HasField("consistency")
        else None,
        selection=entry.selection if entry.HasField("selection") else None,
        variables_meant=entry.variables_meant,
        parent=Parent(entry.parent.ipc_ns_id, entry.parent.digest, entry.parent.pages)
        if entry.HasField("parent")
        else None,
    )
