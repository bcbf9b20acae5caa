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
from collections.abc import Generator, Iterable, Iterator

from . import libc, sysctl
from .create import Creator
from .errors import ChangedError, ObjectError, explain
from .model import Message, MessageQueue, QueueFacts
from .reading import Reading, stat_any
from .turning import Turner

_SMALLEST_ROOM = 64  # bytes
_INT_MAX = (1 << 31) - 1


def collect(
    undo: contextlib.ExitStack, reading: Reading, turner: Turner | None = None
) -> Generator[MessageQueue, None, None]:
    """The queues of the namespace the caller is in, as far as they are wanted.

    undo takes what has to be put back after the last queue. turner turns deep queues; without it they are peeked at.
    The caller closes the iterator, which completes a turn. Raises ObjectError, ChangedError, KernelError.
    """
    peeker = _Peeker(undo)
    for msqid in reading.ids("msg"):
        ds = libc.msqid_ds()
        try:
            stat_any("msg", msqid, functools.partial(libc.msgctl, msqid, libc.MSG_STAT_ANY, ds))
        except ChangedError as error:
            reading.changed(error)
            continue
        permissions = reading.owners.inside("msg", ds.msg_perm, msqid)
        if ds.msg_qbytes >= 1 << 32:
            raise ObjectError(
                f"{permissions.named('msg')}: its qbytes, {ds.msg_qbytes}, are more than an image can tell"
            )
        facts = QueueFacts(ds.msg_cbytes, ds.msg_stime, ds.msg_rtime, ds.msg_ctime, ds.msg_lspid, ds.msg_lrpid)
        qnum: int = ds.msg_qnum
        messages: Iterable[Message] = peeker.messages(msqid, qnum, ds.msg_cbytes)
        with contextlib.ExitStack() as whole:
            if turner is not None:
                messages = whole.enter_context(contextlib.closing(turner.messages(ds, permissions, messages)))
            if reading.tolerant:
                # How many there are is written before them, and is known only when they have been read.
                messages = held = _as_far_as_they_go(messages, reading)
                qnum = len(held)
            yield MessageQueue(permissions, ds.msg_qbytes, qnum, messages, facts)


def _as_far_as_they_go(messages: Iterable[Message], reading: Reading) -> list[Message]:
    held: list[Message] = []
    try:
        for message in messages:
            held.append(message)
    except ChangedError as error:
        reading.changed(error)
    return held


class _Peeker:
    """Reads messages with a buffer that all queues share."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self._buffer = libc.MessageBuffer(_SMALLEST_ROOM)
        self._undo, self._msgmax_raised = undo, False

    def messages(self, msqid: int, qnum: int, cbytes: int) -> Iterator[Message]:
        """The qnum messages of a queue that holds cbytes bytes."""
        room = max(_SMALLEST_ROOM, -(-cbytes // qnum)) if qnum else 0
        for n in range(qnum):
            size, room = self._peek(msqid, n, room, cbytes)
            yield Message(self._buffer.mtype.value, bytes(self._buffer.view[8 : 8 + size]))

    def _peek(self, msqid: int, n: int, room: int, cbytes: int) -> tuple[int, int]:
        """Copy message n into the buffer. Gives its size, and the room that sufficed."""
        while True:
            if room > self._buffer.room:
                self._buffer = libc.MessageBuffer(room)
            try:
                return self._buffer.receive(msqid, room, n, libc.IPC_NOWAIT | libc.MSG_COPY), room
            except OSError as error:
                if error.errno == errno.E2BIG and room < cbytes:
                    room = min(max(2 * room, _SMALLEST_ROOM), cbytes)
                elif error.errno == errno.EINVAL and not self._msgmax_raised:
                    # The message is longer than msgmax is now: the kernel's copy is capped by it.
                    self._raise_msgmax(msqid)
                elif error.errno in (errno.ENOMSG, errno.E2BIG, errno.EIDRM, errno.EINVAL):
                    raise ChangedError(f"message queue {msqid} changed while its message {n} was read") from error
                else:
                    raise ObjectError(f"message queue {msqid}: reading message {n}: {explain(error)}") from error

    def _raise_msgmax(self, msqid: int) -> None:
        try:
            self._undo.enter_context(sysctl.temporarily("kernel/msgmax", _INT_MAX))
        except OSError as error:
            raise ObjectError(
                f"message queue {msqid}: a message is longer than kernel.msgmax, which cannot be raised: "
                f"{explain(error)}"
            ) from error
        self._msgmax_raised = True


def restore(queue: MessageQueue, creator: Creator) -> None:
    """Make a queue as it was. The namespace's limits are wide open. Raises ObjectError."""
    with creator.making(queue.permissions, libc.msgget) as (msqid, final):
        buffer = creator.buffer
        for message in queue.messages:
            size = len(message.body)
            if size > buffer.room:
                buffer = creator.buffer = libc.MessageBuffer(size)
            buffer.send(msqid, message.type, message.body, libc.IPC_NOWAIT)
        # Now that the queue holds all it held, it may also hold more than qbytes.
        libc.msgctl(msqid, libc.IPC_SET, libc.msqid_ds(final, msg_qbytes=queue.qbytes))
