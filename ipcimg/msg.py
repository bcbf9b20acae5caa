"""Message queues: kernel ⇄ model.MessageQueue. See msgop(2) and msgctl(2).

Messages are read by MSG_COPY, which leaves them where they are: position n counts from the head, from 0. The kernel
allocates, and copies in, a buffer of the size it is given before it looks for the message, and walks the list to it
(ipc/msg.c: prepare_copy, find_msg). So the buffer is sized by what the queue holds and grows when it must. Deep queues
are turned instead, where that may be (turning.py).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from . import libc, loops, sysctl, turning
from .errors import ChangedError, ObjectError, explain
from .model import Block, Frames, Message, MessageQueue, QueueFacts, StoredMessages
from .reading import Reading, stat_any

if TYPE_CHECKING:
    from .create import Creator

_ROOM = 256  # bytes of a buffer, at least: for less the kernel does not work less
_QNUM_MOST = 1 << 10  # messages of a queue that is dumped in one go with others
_INT_MAX = (1 << 31) - 1
_FRAMING = 12  # bytes of a message in an image beside its text, roughly


class Queues:
    """The queues of the namespace the caller is in, as far as they are wanted; see model.FramedObjects."""

    def __init__(self, undo: contextlib.ExitStack, reading: Reading, turner: turning.Turner | None = None) -> None:
        """undo takes what has to be put back after the last queue. turner turns deep ones; else they are peeked at."""
        self._reading, self._peeker, self._turner = reading, _Peeker(undo), turner

    def __iter__(self) -> Iterator[MessageQueue]:
        """Raises ObjectError, ChangedError."""
        for msqid in self._reading.ids("msg"):
            yield from self._one(msqid)

    def framed(self, exact: bool) -> Iterator[MessageQueue | Frames]:
        """See model.FramedObjects."""
        if loops.c is None or self._reading.tolerant or not self._reading.owners.have_their_names:
            return iter(self)
        most = _QNUM_MOST if self._turner is None else min(_QNUM_MOST, turning.DEEP)
        return loops.framed(loops.c.dump_queues, self._reading.ids("msg"), self._one, exact=exact, most=most)

    def _one(self, msqid: int) -> Iterator[MessageQueue]:
        """The queue; nothing where it has gone, and that may be."""
        reading, ds = self._reading, libc.msqid_ds()
        try:
            stat_any("msg", msqid, functools.partial(libc.msgctl, msqid, libc.MSG_STAT_ANY, ds))
        except ChangedError as error:
            reading.changed(error)
            return
        permissions = reading.owners.inside("msg", ds.msg_perm, msqid)
        if ds.msg_qbytes >= 1 << 32:
            raise ObjectError(
                f"{permissions.named('msg')}: its qbytes, {ds.msg_qbytes}, are more than an image can tell"
            )
        facts = QueueFacts(ds.msg_cbytes, ds.msg_stime, ds.msg_rtime, ds.msg_ctime, ds.msg_lspid, ds.msg_lrpid)
        qnum: int = ds.msg_qnum
        kind = _Peeked if loops.c is None else _PeekedByLoop
        messages: Iterable[Message] = kind(self._peeker, msqid, qnum, ds.msg_cbytes)
        if self._turner is not None and qnum > turning.DEEP:
            messages = self._turner.messages(ds, permissions, messages)
        if reading.tolerant:
            # How many there are is written before them, and is known only when they have been read.
            messages = held = _as_far_as_they_go(messages, reading)
            qnum = len(held)
        yield MessageQueue(permissions, ds.msg_qbytes, qnum, messages, facts)
        if self._turner is not None:
            self._turner.end()


def _as_far_as_they_go(messages: Iterable[Message], reading: Reading) -> list[Message]:
    held: list[Message] = []
    try:
        for message in messages:
            held.append(message)
    except ChangedError as error:
        reading.changed(error)
    return held


class _Peeker:
    """What all queues share: a buffer, and msgmax, which one of them may have had raised."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self.buffer = libc.MessageBuffer(_ROOM)
        self.frames = bytearray(loops.BLOCK if loops.c is not None else 0)
        self._undo, self._msgmax_raised = undo, False

    def refused(self, msqid: int, n: int, number: int) -> None:
        """To be told of the errno that peeking at message n has failed with.

        Returns where it can be tried again. Raises ObjectError, ChangedError.
        """
        if number == errno.EINVAL and not self._msgmax_raised:
            # The message is longer than msgmax is now: the kernel's copy is capped by it.
            self._raise_msgmax(msqid)
        elif number in (errno.ENOMSG, errno.E2BIG, errno.EIDRM, errno.EINVAL):
            raise ChangedError(f"message queue {msqid} changed while its message {n} was read")
        else:
            raise ObjectError(
                f"message queue {msqid}: reading message {n}: {explain(OSError(number, os.strerror(number)))}"
            )

    def _raise_msgmax(self, msqid: int) -> None:
        try:
            self._undo.enter_context(sysctl.temporarily("kernel/msgmax", _INT_MAX))
        except OSError as error:
            raise ObjectError(
                f"message queue {msqid}: a message is longer than kernel.msgmax, which cannot be raised: "
                f"{explain(error)}"
            ) from error
        self._msgmax_raised = True


class _Peeked:
    """The qnum messages of a queue that holds cbytes bytes, read where they are: the reference."""

    def __init__(self, peeker: _Peeker, msqid: int, qnum: int, cbytes: int) -> None:
        self._peeker, self._msqid, self._qnum, self._cbytes = peeker, msqid, qnum, cbytes

    def __iter__(self) -> Iterator[Message]:
        room = max(_ROOM, -(-self._cbytes // self._qnum)) if self._qnum else 0
        for n in range(self._qnum):
            size, room = self._peek(n, room)
            buffer = self._peeker.buffer
            yield Message(buffer.mtype.value, bytes(buffer.view[8 : 8 + size]))
            # One long message does not have all others asked for with a long buffer.
            if size < room // 4 and room > _ROOM:
                room -= room // 4

    def _peek(self, n: int, room: int) -> tuple[int, int]:
        """Copy message n into the buffer. Gives its size, and the room that sufficed."""
        while True:
            if room > self._peeker.buffer.room:
                self._peeker.buffer = libc.MessageBuffer(room)
            try:
                return self._peeker.buffer.receive(self._msqid, room, n, libc.IPC_NOWAIT | libc.MSG_COPY), room
            except OSError as error:
                if error.errno == errno.E2BIG and room < self._cbytes:
                    room = min(2 * room, self._cbytes)
                else:
                    self._peeker.refused(self._msqid, n, error.errno or 0)


class _PeekedByLoop(_Peeked):
    """As they are peeked at by the loop in C: see model.FramedMessages."""

    def framed(self) -> Iterator[memoryview]:
        """Raises ObjectError, ChangedError."""
        n = room = 0
        while n < self._qnum:
            out = self._peeker.frames
            n, end, room, why = loops.c.peek(self._msqid, n, self._qnum, self._cbytes, room, out)
            if end:
                yield memoryview(out)[:end]
            elif why == loops.FULL:
                self._peeker.frames = bytearray(2 * room)
            if why > 0:
                self._peeker.refused(self._msqid, n, why)


def stored() -> int:
    """About how many bytes an image of all queues of the caller's namespace takes. Raises OSError."""
    info = libc.msginfo()
    libc.msgctl(0, libc.MSG_INFO, info)
    return info.msgtql + info.msgmap * _FRAMING


def restore(queue: MessageQueue, creator: Creator) -> None:
    """Make a queue as it was. The namespace's limits are wide open. Raises ObjectError."""
    with creator.making(queue.permissions, libc.msgget) as (msqid, final):
        if loops.c is not None and isinstance(queue.messages, StoredMessages):
            _send_stored(msqid, queue.messages.block(), queue.qnum)
        else:
            _send(msqid, queue.messages, creator)
        # Now that the queue holds all it held, it may also hold more than qbytes.
        libc.msgctl(msqid, libc.IPC_SET, libc.msqid_ds(final, msg_qbytes=queue.qbytes))


def _send(msqid: int, messages: Iterable[Message], creator: Creator) -> None:
    buffer = creator.buffer
    for message in messages:
        size = len(message.body)
        if size > buffer.room:
            buffer = creator.buffer = libc.MessageBuffer(size)
        buffer.send(msqid, message.type, message.body, libc.IPC_NOWAIT)


def _send_stored(msqid: int, block: Block, count: int) -> None:
    while count:
        sent, block.at, why = loops.c.send(msqid, block.data, block.at, block.end, count)
        count -= sent
        if why == loops.FULL:
            block.more()
        elif why:
            raise OSError(why, os.strerror(why))
