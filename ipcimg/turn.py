"""The turn of a queue: its first message is taken and put back at the end, once around. So all are read in linear time.

Before a message is taken it is in the journal, a segment of the queue's own namespace (notes.py), which also says how
far the turn has come. So whoever finds the journal can complete the turn, wherever it was broken off, and be killed at
that as well. The layout, in the machine's own byte order:

    0 magic[8], written last    8 state u64    16 size u64    24 room u64    32 taken_size u64    40 length u32
    48 facts[length], JSON    4024 ctime u64    4032 worker u32[16]
    4096 slot "peeked": mtype i64, mtext[room]; 8-aligned behind it, slot "taken", the same

State is 2n while n messages are at the end again and nothing is under way, and 2n + 1 from when the next one is in
the slot peeked, with size bytes, until it is at the end again. How many the queue holds, and the type that is in the
slot taken, tell what was done then:

    one less         it was taken: it is sent
    all, taken is 0  it was not taken
    all              it was sent again

Anything else was somebody else's doing, and nobody can tell what the order should be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import math
import os
import struct
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from . import kinds, libc, loops, preset, sysctl, var
from .errors import ObjectError, doing
from .listing import objects
from .model import NAMES, Permissions, Variables
from .namespace import own
from .notes import Notes
from .owners import Owners

# Somebody else's segment may have one of them: then the next one is taken.
KEYS = tuple(0x69707400 + n for n in range(8))

_MAGIC = b"ipcimgT1"
_STATE, _SIZE, _ROOM, _TAKEN_SIZE, _LENGTH, _FACTS, _CTIME, _WORKERS, _SLOTS = 8, 16, 24, 32, 40, 48, 4024, 4032, 4096
_WORKER = struct.Struct("=16I")
_U32 = struct.Struct("=I")
_PREPARING = (1 << 64) - 2  # a state: the preset that the journal took is not back yet
_ABANDONED = (1 << 64) - 4  # somebody else uses the queue: there is nothing to complete, and none of it is ours
_UNKNOWN = (1 << 64) - 1  # a taken_size: nothing is known to be in the slot
_INT_MAX = (1 << 31) - 1
_MSGMAX, _MSGMNB = "kernel/msgmax", "kernel/msgmnb"
_LIMITS = ("msg_ctlmax", "msg_ctlmnb", "shm_ctlmax", "shm_ctlall", "shm_ctlmni")  # what a turn may raise
_NUMBERS = {  # facts, and what they are below
    **dict.fromkeys(("id", "qnum", "wide", "pid"), 1 << 31),
    **dict.fromkeys(("key", "qbytes", "lspid", "lrpid", "pid_namespace"), 1 << 32),
    "cbytes": 1 << 62,
}
_CANNOT_BE = (errno.ENOMSG, errno.E2BIG)  # of a queue that nobody else uses
_PATIENCE = 10.0  # seconds, where the kernel has no memory
_PAUSE = 0.01
_TO_THAW = 60.0  # seconds: so long may somebody else keep the namespace locked while its processes are stopped
_T = TypeVar("_T")


class InUse(Exception):
    """Somebody else has used the queue; str() says what shows it."""


def size_for(cbytes: int) -> int:
    """How large a journal is, for a queue that holds so many bytes."""
    return _SLOTS + 2 * _slot(_room(cbytes))


def _room(cbytes: int) -> int:
    return min(cbytes, _INT_MAX)  # no message is longer than msgmax can be


def _slot(room: int) -> int:
    return 8 + room + -room % 8


class Turn(Notes):
    """An attached journal of a turn."""

    KEYS = KEYS
    WHAT = "a turn"

    room: int  # bytes of mtext in each slot
    peeked: libc.MessageBuffer
    taken: libc.MessageBuffer
    _fitting: int  # bytes of mtext that sufficed so far
    _frames: bytearray | None = None

    def __init__(self, shmid: int) -> None:
        """Attach the segment. Raises OSError."""
        super().__init__(shmid)
        self.facts: dict[str, Any] = {}
        names = (_STATE, _SIZE, _ROOM, _TAKEN_SIZE, _CTIME)
        self._state, self._size, self._room, self._taken_size, self._ctime = (
            libc.word(self.address + at) for at in names
        )

    # ---- to be written ---------------------------------------------------------------------

    def begin(self, queue: libc.msqid_ds, permissions: Permissions, before: Variables) -> None:
        """Make it a journal: from now on there is something to complete.

        queue is as it is, permissions are its own as they are called inside, before the settings that were there before
        ours. A queue that is over its qbytes will have to have them widened.
        """
        most = max(queue.msg_cbytes, queue.msg_qnum)
        self.facts = {
            "id": permissions.id,
            "key": permissions.key,
            **{name: getattr(queue, f"msg_{name}") for name in ("qnum", "cbytes", "qbytes", "lspid", "lrpid")},
            "wide": most if most > queue.msg_qbytes else 0,
            "pid": os.getpid(),
            "pid_namespace": _pid_namespace(),
            "variables": dataclasses.asdict(before),
        }
        import json  # a dump that turns nothing does without

        text = json.dumps(self.facts).encode()
        self.memory[_FACTS : _FACTS + len(text)] = text
        _U32.pack_into(self.memory, _LENGTH, len(text))
        self._room.value, self._state.value = _room(queue.msg_cbytes), _PREPARING
        self._work()
        self._have_slots()
        self.memory[:8] = _MAGIC

    def prepared(self) -> None:
        """Note that the preset is back: what is left to put back are limits and qbytes."""
        self._state.value = 0

    def widen(self) -> None:
        """Have room on a queue that is over its qbytes, and note when it was changed last. Raises OSError."""
        queue = self._queue()
        if self.facts["wide"] and queue is not None:
            _set_qbytes(self.msqid, queue, self.facts["wide"])
            queue = self._queue()
        self._ctime.value = 0 if queue is None else queue.msg_ctime

    def _work(self) -> None:
        """Note that the queue's lspid and lrpid may be ours from now on."""
        workers = list(_WORKER.unpack_from(self.memory, _WORKERS))
        if os.getpid() not in workers:
            workers[workers.index(0) if 0 in workers else -1] = os.getpid()
            _WORKER.pack_into(self.memory, _WORKERS, *workers)

    # ---- the turn --------------------------------------------------------------------------

    def step(self) -> int:
        """Turn the message at the head, which is in peeked then: how many bytes it has. Raises InUse and OSError."""
        n = self._state.value >> 1
        try:
            self._size.value = size = self.peek()
            self._taken_size.value, self.taken.mtype.value = _UNKNOWN, 0
            self._state.value = 2 * n + 1
            self._taken_size.value = came = self.taken.receive(self.msqid, self.room, 0, libc.IPC_NOWAIT)
        except OSError as error:
            if error.errno in _CANNOT_BE:
                self._abandon("it does not hold what it held", error)
            raise
        if not self._is_the_peeked(size, came):
            self._give_back(came)
        self._send(self.peeked, size)
        self._state.value = 2 * n + 2
        return size

    def framed_steps(self) -> memoryview:
        """Many steps by the loop in C: the messages as they stand in an image, good until it is called again.

        There may be none, or only a few of them. Raises InUse and OSError.
        """
        self._frames = self._frames or bytearray(loops.BLOCK)
        end, why = self._loop(self._frames)
        if why == loops.FULL and not end:
            self._frames = bytearray(2 * self._fitting + loops.BLOCK)
        elif why not in (0, loops.FULL):
            self._go_on_after(why)
        return memoryview(self._frames)[:end]

    def _loop(self, out: bytearray) -> tuple[int, int]:
        address, msqid, qnum = self.address, self.msqid, self.qnum
        end, self._fitting, why = loops.c.turn(address, msqid, qnum, self.room, self._fitting, out)
        return end, why

    def _go_on_after(self, why: int) -> None:
        """Do what the loop in C has left: all that is out of the ordinary. Raises InUse and OSError."""
        if self.misses_nothing:
            self.peek()
        elif why == loops.ODD:
            self._give_back(self._bounded(self._taken_size))
        elif why in (errno.ENOMEM, errno.EAGAIN, errno.EINVAL):
            self._send(self.peeked, self._bounded(self._size))
            self._state.value += 1
        elif why in _CANNOT_BE:
            self._abandon("it does not hold what it held")
        else:
            raise OSError(why, os.strerror(why))

    def _bounded(self, word: libc.Word) -> int:
        """A size from the journal, which others may be able to write. Raises InUse where it cannot be."""
        value: int = word.value
        if value > self.room:
            raise InUse("its journal was written")
        return value

    @property
    def is_over(self) -> bool:
        """Are all messages at the end again?"""
        return self._state.value >= 2 * self.qnum

    def peek(self, n: int = 0) -> int:
        """Have message n from the head in peeked: how many bytes it has. Raises OSError."""
        while True:
            fits = functools.partial(self.peeked.receive, self.msqid, self._fitting, n, libc.IPC_NOWAIT | libc.MSG_COPY)
            try:
                return self._persist(fits)
            except OSError as error:
                if error.errno != errno.E2BIG or self._fitting >= self.room:
                    raise
                self._fitting = min(2 * self._fitting + 64, self.room)

    def _is_the_peeked(self, size: int, came: int) -> bool:
        return (
            came == size
            and self.taken.mtype.value == self.peeked.mtype.value
            and bytes(self.taken.view[8 : 8 + size]) == bytes(self.peeked.view[8 : 8 + size])
        )

    def _give_back(self, came: int) -> NoReturn:
        self._send(self.taken, came)
        self._abandon("another message came from its head than was there before")

    def _send(self, slot: libc.MessageBuffer, size: int) -> None:
        self._persist(functools.partial(slot.resend, self.msqid, size, libc.IPC_NOWAIT))

    def _persist(self, call: Callable[[], _T]) -> _T:
        """Call again and again what there is no memory for. Raises OSError."""
        until: float | None = None
        while True:
            try:
                return call()
            except OSError as error:
                if error.errno == errno.EINVAL and sysctl.read_int(_MSGMAX) < self.room:
                    # A guardian of a dump that was killed has put it back.
                    sysctl.write(_MSGMAX, self.room)
                    continue
                until = until or time.monotonic() + _PATIENCE
                if error.errno not in (errno.ENOMEM, errno.EAGAIN) or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE)

    def _abandon(self, why: str, error: OSError | None = None) -> NoReturn:
        self._state.value = _ABANDONED
        raise InUse(why) from error

    # ---- to be completed -------------------------------------------------------------------

    def complete(self) -> bool:
        """Go on with the turn from wherever it was broken off. False where the queue is gone.

        Raises InUse where somebody else has used the queue since, and OSError; it can be called again then.
        """
        try:
            while self._settled():
                self._work()
                if loops.c is None:
                    self.step()
                elif why := self._loop(bytearray())[1]:
                    self._go_on_after(why)
        except OSError as error:
            if error.errno not in libc.GONE or self._queue() is not None:
                raise
        return self._queue() is not None

    def _settled(self) -> bool:
        """Have no message under way. False where there is nothing to be turned any more."""
        state = self._state.value
        if not state or self.is_over:
            return False
        queue = self._queue()
        if queue is None:
            return False
        n, under_way = divmod(state, 2)
        missing = self.qnum - queue.msg_qnum
        taken = under_way and missing == 1
        sent = under_way and not missing and self.taken.mtype.value != 0
        size = self._bounded(self._size)
        if not (taken or not missing) or queue.msg_cbytes != self.facts["cbytes"] - (size if taken else 0):
            raise InUse(f"it holds {queue.msg_qnum} messages of {queue.msg_cbytes} bytes")
        if queue.msg_ctime != self._ctime.value:
            raise InUse("its settings were changed")
        self._expect(queue, "lspid", worked=bool(n or sent))
        self._expect(queue, "lrpid", worked=bool(n or taken or sent))
        if taken:
            came = self._taken_size.value
            if came != _UNKNOWN and not self._is_the_peeked(size, came):
                raise InUse("another message came from its head than was there before")
            self._work()
            # Where we are killed as well: it is sent when none is missing any more.
            self._taken_size.value, self.taken.mtype.value = _UNKNOWN, 1
            self._send(self.peeked, size)
        self._state.value = 2 * (n + bool(taken or sent))
        return not self.is_over

    def _expect(self, queue: libc.msqid_ds, name: str, *, worked: bool) -> None:
        """See that the last process to send, or to receive, is one that turns: elsewhere it may have another number."""
        if self.facts["pid_namespace"] != _pid_namespace():
            return
        pid = getattr(queue, f"msg_{name}")
        known = _WORKER.unpack_from(self.memory, _WORKERS) if worked else (self.facts[name],)
        if pid not in known:
            raise InUse(f"process {pid} was the last to {'send' if name == 'lspid' else 'receive'}")

    def put_qbytes_back(self, owners: Owners) -> None:
        """Narrow the queue again, if it was widened and is there. Raises ObjectError, OSError."""
        queue = self._queue()
        if queue is not None and self.facts["wide"] and queue.msg_qbytes == self.facts["wide"]:
            owners.inside("msg", queue.msg_perm, self.msqid)  # an owner without a name here would become another
            _set_qbytes(self.msqid, queue, self.facts["qbytes"])

    def recover(self, owners: Owners) -> str:
        """Complete a turn whose process was killed, put the settings back, and remove the journal: what was done.

        Raises ObjectError where that cannot be done, KernelError where the kernel refuses it; then the journal stays.
        """
        if not self.has_begun:
            with doing("removing the journal of a turn"):
                kinds.discard("shm", self.shmid)
            return "a dump that was killed had taken no message yet"
        with doing(f"completing the turn of {self.named}"):
            try:
                there = self.complete()
            except InUse as error:
                self._put_back(owners)
                raise ObjectError(self.kept(str(error))) from error
            self._put_back(owners)
            if self._state.value == _PREPARING:
                put_preset_back(self.before)
            done = f"all {self.qnum} messages are in their order" if there else "it is gone"
            if self._state.value == _ABANDONED:
                done = "it was in use, and its messages may be in another order"
            # It is attached until we end: where we are killed now, it goes with us, and all else is done.
            var.set_rmid_forced(self.before)
            kinds.discard("shm", self.shmid)
        return f"{self.named}, which a dump was turning whose process {self.facts['pid']} was killed: {done}"

    def _put_back(self, owners: Owners) -> None:
        self.put_qbytes_back(owners)
        var.put_back(self.before, *_LIMITS)

    @property
    def misses_nothing(self) -> bool:
        """Is nothing under way, so that all messages that are the queue's are in it?"""
        return not self._state.value & 1

    def kept(self, why: str) -> str:
        """For people: the turn cannot be completed, and what of the queue is where."""
        state, where = self._state.value, "none of them is missing"
        if not self.misses_nothing:
            where = (
                f"the next one may be missing, and is in {NAMES['shm']} {self.shmid}: type {self.peeked.mtype.value}, "
                f"{self._size.value} bytes from byte {_SLOTS + 8} on"
            )
        first = "some" if state == _ABANDONED else str(state >> 1)
        forced = "" if not self.before.shm_rmid_forced else " and `sysctl kernel.shm_rmid_forced=1`"
        return (
            f"{self.named} was used by somebody else since a dump began to turn it: {why}. Of its first messages "
            f"{first} may be behind the others; {where}. `ipcrm -m {self.shmid}`{forced} gives it up"
        )

    # ---- what it tells ---------------------------------------------------------------------

    def read(self) -> None:
        """Take up what another process has written. Raises ValueError and the like where it makes no sense."""
        if not self.has_begun:
            return
        (length,) = _U32.unpack_from(self.memory, _LENGTH)
        if length > _CTIME - _FACTS:
            raise ValueError("its numbers do not fit together")
        import json

        self.facts = json.loads(bytes(self.memory[_FACTS : _FACTS + length]))
        for name, end in _NUMBERS.items():
            if type(self.facts[name]) is not int or not 0 <= self.facts[name] < end:
                raise ValueError(f"{name} is {self.facts[name]!r}")
        var.of(self.facts["variables"])
        room, state = self._room.value, self._state.value
        if (
            room != _room(self.facts["cbytes"])
            or self.size != size_for(room)
            or not (state <= 2 * self.qnum or state in (_PREPARING, _ABANDONED))
            or self._size.value > room
            or not (self._taken_size.value <= room or self._taken_size.value == _UNKNOWN)
        ):
            raise ValueError("its numbers do not fit together")
        self._have_slots()

    def _have_slots(self) -> None:
        self.room = self._room.value
        self.peeked, self.taken = (
            libc.MessageBuffer(self.room, self.address + _SLOTS + n * _slot(self.room)) for n in range(2)
        )
        self._fitting = min(self.room, max(64, -(-self.facts["cbytes"] // (self.qnum or 1))))

    @property
    def is_one(self) -> bool:
        """Is the segment a journal of a turn, be it that its process was killed before it had begun?"""
        return self.size > _SLOTS and not (self.size - _SLOTS) % 16 and (self.has_begun or not any(self.memory[:8]))

    @property
    def has_begun(self) -> bool:
        """Is it one that begin() has finished?"""
        return bytes(self.memory[:8]) == _MAGIC

    @property
    def msqid(self) -> int:
        """The queue."""
        msqid: int = self.facts["id"]
        return msqid

    @property
    def qnum(self) -> int:
        """How many messages there are to turn."""
        qnum: int = self.facts["qnum"]
        return qnum

    @property
    def before(self) -> Variables:
        """The settings that were there before."""
        return var.of(self.facts["variables"])

    @property
    def named(self) -> str:
        """The queue, for people."""
        return f"{NAMES['msg']} {self.msqid}" + (f" (key {self.facts['key']:#010x})" if self.facts["key"] else "")

    @property
    def described(self) -> str:
        """Whose journal it is, for people."""
        if not self.has_begun:
            return "a dump that was killed before it had taken a message"
        return f"an unfinished dump of process {self.facts['pid']}, which was turning {self.named}"

    def _queue(self) -> libc.msqid_ds | None:
        """The queue as it is now; None where it is gone, or another one in its place. Raises OSError."""
        queue = libc.msqid_ds()
        try:
            if libc.msgctl(self.msqid, libc.MSG_STAT_ANY, queue) != self.msqid:
                return None
        except OSError as error:
            if error.errno in libc.GONE:
                return None
            raise
        return queue if queue.msg_perm.key == self.facts["key"] else None


def put_preset_back(before: Variables) -> None:
    """Arm the preset that the journal took, if there was one. Raises OSError."""
    if before.shm_next_id is not None:
        sysctl.write(preset.name("shm"), before.shm_next_id)


# ---- for companions, when our end has come -------------------------------------------------


def complete_before_thaw(owners: Owners) -> None:
    """Complete a turn that has begun, while all processes of the namespace are stopped.

    Raises an IpcimgError, OSError.
    """
    found = Turn.find(objects("shm"), owners)
    if found is not None:
        begun = found.has_begun
        found.close()
        if begun:  # of another one the guardian knows more
            with own() as here, here.locked(_TO_THAW):
                found = Turn.find(objects("shm"), owners)
                if found is not None:
                    with found:
                        found.recover(owners)


def complete_for(before: Variables, owners: Owners) -> None:
    """Complete the turn of the process whose end has come, and put back what it had not noted yet.

    Raises an IpcimgError, OSError.
    """
    with own() as here, here.locked(math.inf):
        found = Turn.find(objects("shm"), owners)
        if found is None:
            var.put_back(before, *_LIMITS)
            return
        with found:
            begun = found.has_begun
            found.recover(owners)
        if not begun:
            var.put_back(before, *_LIMITS)
            put_preset_back(before)
            var.set_rmid_forced(before)


def is_left(owners: Owners) -> bool:
    """Is the journal of a turn in the namespace that the caller is in? One that is damaged is none. Raises OSError."""
    try:
        found = Turn.find(objects("shm"), owners)
    except ObjectError:
        return False
    if found is None:
        return False
    found.close()
    return True


def _set_qbytes(msqid: int, queue: libc.msqid_ds, qbytes: int) -> None:
    """Set it, leaving owner and mode as they are. Raises OSError."""
    with contextlib.ExitStack() as raised:
        if sysctl.read_int(_MSGMNB) < qbytes:  # beyond it takes CAP_SYS_RESOURCE, which root in a container lacks
            raised.enter_context(sysctl.temporarily(_MSGMNB, qbytes, guarded=False))
        libc.msgctl(msqid, libc.IPC_SET, libc.msqid_ds(queue.msg_perm, msg_qbytes=qbytes))


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
