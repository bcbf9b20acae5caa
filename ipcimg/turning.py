"""Reading deep queues by turning them, where nobody else can use the namespace: see turn.py.

A turn is for certain or not at all: where the queue may not be used, limits may not be raised, or no journal can be
made, the queue is peeked at. Once it has begun it is completed, whatever happens: by us, by a guardian if we are
killed, and if both are, by `ipcimg recover`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from . import kinds, libc, namespace, sysctl, turn, var
from .companion import Companion
from .errors import ChangedError, KernelError, explain
from .interrupts import deferred
from .model import FramedMessages, Message, Permissions, Variables
from .namespace import IpcNamespace
from .notes import with_room
from .owners import Owners
from .reading import Reading, vanished

# Messages, from which on turning takes less time: with the loop in C 8 ms to begin with and 3 µs for each, without it
# 10 ms and 18 µs. Peeks at 2000 messages of 64 bytes take 19 ms, at 8000 of them 350 ms; of 4000 bytes, 70 ms and 5 s.
# So it pays from 1500 on in C, and from 1500 to 3500 in Python.
DEEP = 2048
_PROBES = 8  # messages of a queue that are looked at before it is turned and after: that walks through it each time
_INT_MAX = (1 << 31) - 1
_Turning = Callable[[], AbstractContextManager[turn.Turn | None]]


class Turner:
    """Turns the deep queues of one reading of a namespace, which the caller is in and has locked and to itself."""

    def __init__(self, source: IpcNamespace, before: Variables, reading: Reading) -> None:
        """before are the settings that were there before we changed any. kernel.shm_rmid_forced is 0 meanwhile."""
        self._source, self._before, self._reading = source, before, reading
        self._guardian: Companion | None = None
        self._turn: turn.Turn | None = None  # that has begun
        self._raised = contextlib.ExitStack()  # limits, for it

    def messages(
        self, queue: libc.msqid_ds, permissions: Permissions, otherwise: Iterable[Message]
    ) -> Iterable[Message]:
        """The messages of a queue, which is as it is; otherwise are the same by peeking, for where it is not turned.

        Iterating them, or going through them framed, raises ChangedError and KernelError.
        """
        turned = functools.partial(self._turned, queue, permissions)
        if isinstance(otherwise, FramedMessages):
            return _TurnedByLoop(turned, otherwise, otherwise.framed)
        return _Turned(turned, otherwise)

    def end(self) -> None:
        """Complete a turn that was left. Raises ChangedError and KernelError."""
        if self._turn is not None:
            self._end(self._turn)

    def close(self) -> None:
        """The same; and let the guardian go."""
        try:
            self.end()
        finally:
            with deferred():
                if self._guardian is not None:
                    self._guardian.dismiss()
                    self._guardian = None

    # ---- one queue -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turned(self, queue: libc.msqid_ds, permissions: Permissions) -> Iterator[turn.Turn | None]:
        """A turn for the with block, which may leave it early; None where the queue is to be peeked at."""
        self.end()
        with deferred():
            self._turn = turning = self._begun(queue, permissions)
        if turning is None:
            yield None
            return
        try:
            with self._in_use_is_a_change(turning):
                before = _look(turning)
                yield turning
                if turning.is_over and _look(turning) != before:
                    raise turn.InUse("it does not hold what it held")
        except GeneratorExit:
            raise  # nobody hears the errors of what is thrown away: end() completes it
        except BaseException:
            self._end(turning)
            raise
        self._end(turning)

    @contextlib.contextmanager
    def _in_use_is_a_change(self, turning: turn.Turn) -> Iterator[None]:
        """Raise ChangedError for what shows that somebody else is at the queue."""
        try:
            yield
        except turn.InUse as error:
            raise ChangedError(f"{turning.named} changed while the namespace was read: {error}") from error
        except OSError as error:
            if error.errno in libc.GONE:
                raise vanished("msg", turning.msqid) from error
            if error.errno == errno.ENOMSG:
                raise ChangedError(f"{turning.named} changed while the namespace was read") from error
            raise KernelError(f"turning {turning.named}: {explain(error)}") from error

    def _end(self, turning: turn.Turn) -> None:
        """Complete a turn, if it has not ended, and have all as it was. Otherwise the journal stays."""
        with deferred():
            if self._turn is not turning:
                return
            self._turn, in_use = None, None
            with turning, self._raised:
                try:
                    try:
                        turning.complete()
                    except turn.InUse as error:
                        if not turning.misses_nothing:
                            raise KernelError(turning.kept(str(error))) from error
                        in_use = error
                    turning.put_qbytes_back(self._reading.owners)
                    self._raised.close()
                    kinds.discard("shm", turning.shmid)
                except OSError as error:
                    raise KernelError(
                        f"putting all messages of {turning.named} back: {explain(error)}; what is missing is kept in "
                        f"shared memory segment {turning.shmid}, and `ipcimg recover{self._source.option}` completes it"
                    ) from error
            if in_use is not None:
                raise ChangedError(f"{turning.named} changed while the namespace was read: {in_use}") from in_use
            self._tell(turning)

    def _tell(self, turning: turn.Turn) -> None:
        """Have the reading know what the turn has left; all else of the queue is to be as it was."""
        now = libc.msqid_ds()
        with contextlib.suppress(OSError):  # that it is gone will be seen
            libc.msgctl(turning.msqid, libc.MSG_STAT_ANY, now)
            columns = ("lspid", "lrpid", "stime", "rtime", *(("ctime",) if turning.facts["wide"] else ()))
            self._reading.turned(turning.msqid, {name: getattr(now, f"msg_{name}") for name in columns})
            if now.msg_qbytes != turning.facts["qbytes"]:
                self._reading.changed(ChangedError(f"the qbytes of {turning.named} were changed"))

    # ---- before its first message is taken -------------------------------------------------

    def _begun(self, queue: libc.msqid_ds, permissions: Permissions) -> turn.Turn | None:
        """A turn that has begun; None where it might not be completed, when all is as it was."""
        if not _may_turn(queue):
            return None
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._raised.close)
            try:
                if self._guardian is None:
                    act = functools.partial(turn.complete_for, self._before, self._reading.owners)
                    self._guardian = Companion(lambda: None, lambda prepared, word: None if word else act())
                turning = self._journal(queue, permissions, on_error)
                longest = min(queue.msg_cbytes, _INT_MAX)
                if sysctl.read_int("kernel/msgmax") < longest:
                    self._raised.enter_context(sysctl.temporarily("kernel/msgmax", longest, guarded=False))
                on_error.callback(turning.put_qbytes_back, self._reading.owners)
                turning.widen()
            except OSError:
                return None
            on_error.pop_all()
            return turning

    def _journal(self, queue: libc.msqid_ds, permissions: Permissions, on_error: contextlib.ExitStack) -> turn.Turn:
        def make() -> int:
            for key in turn.KEYS:
                with contextlib.suppress(FileExistsError):
                    flags = libc.IPC_CREAT | libc.IPC_EXCL | libc.SHM_NORESERVE | 0o600
                    return libc.shmget(key, turn.size_for(queue.msg_cbytes), flags)
            raise OSError(errno.EEXIST, "all keys of journals are taken")

        turn.put_preset_back(self._before)  # whoever may not do that is not to take it
        shmid = with_room(make, guarded=False)
        on_error.callback(kinds.discard, "shm", shmid)
        on_error.callback(turn.put_preset_back, self._before)
        turning = turn.Turn(shmid)
        on_error.callback(turning.close)
        turning.begin(queue, permissions, self._before)
        turn.put_preset_back(self._before)
        turning.prepared()
        return turning


class _Turned:
    """The messages of a queue, which is turned for them; the reference."""

    def __init__(self, turned: _Turning, otherwise: Iterable[Message]) -> None:
        self._turned, self._otherwise = turned, otherwise

    def __iter__(self) -> Iterator[Message]:
        with self._turned() as turning:
            if turning is None:
                yield from self._otherwise
                return
            while not turning.is_over:
                yield _message(turning, turning.step())


class _TurnedByLoop(_Turned):
    """As they are turned by the loop in C: see model.FramedMessages."""

    def __init__(
        self, turned: _Turning, otherwise: Iterable[Message], framed: Callable[[], Iterator[memoryview]]
    ) -> None:
        super().__init__(turned, otherwise)
        self._otherwise_framed = framed

    def framed(self) -> Iterator[memoryview]:
        """Raises what iterating raises."""
        with self._turned() as turning:
            if turning is None:
                yield from self._otherwise_framed()
                return
            while not turning.is_over:
                piece = turning.framed_steps()
                if piece:
                    yield piece


def _message(turning: turn.Turn, size: int) -> Message:
    return Message(turning.peeked.mtype.value, bytes(turning.peeked.view[8 : 8 + size]))


def _look(turning: turn.Turn) -> list[object]:
    """How much a queue holds that is turned, and some of its messages."""
    queue = libc.msqid_ds()
    libc.msgctl(turning.msqid, libc.MSG_STAT_ANY, queue)
    found: list[object] = [queue.msg_qnum, queue.msg_cbytes]
    for n in range(_PROBES):
        message = _message(turning, turning.peek(n * (turning.qnum - 1) // (_PROBES - 1)))
        found += message.type, len(message.body), hash(message.body)
    return found


def _may_turn(queue: libc.msqid_ds) -> bool:
    """May the calling thread receive from a queue, send to it, and widen it if need be? As ipc/util.c: ipcperms()."""
    perm, capabilities = queue.msg_perm, libc.Capabilities()
    ours = os.geteuid() in (perm.uid, perm.cuid)
    groups = {os.getegid(), *os.getgroups()}
    granted = perm.mode >> (6 if ours else 3 if groups & {perm.gid, perm.cgid} else 0)
    most = max(queue.msg_cbytes, queue.msg_qnum)
    widened = most > queue.msg_qbytes
    return (
        (granted & 0o6 == 0o6 or capabilities.effective(libc.CAP_IPC_OWNER))
        and (not widened or ours or capabilities.effective(libc.CAP_SYS_ADMIN))
        and (not widened or most <= _INT_MAX)
    )


@contextlib.contextmanager
def segments_kept(owners: Owners) -> Iterator[None]:
    """Have kernel.shm_rmid_forced at 0 inside the with block, and as it was after it, even if we are killed meanwhile.

    But not while the journal of a turn is there, which would be destroyed if nobody has it attached: then it is set by
    whoever completes the turn.
    """
    before = sysctl.read_int(var.RMID_FORCED)
    if not before:
        yield
        return

    def put_back() -> None:
        if not turn.is_left(owners):
            sysctl.write(var.RMID_FORCED, before)

    def if_killed(prepared: None, word: bytes) -> None:
        if not word:
            with namespace.own() as here, here.locked(math.inf):  # so nobody makes a journal now
                put_back()

    with deferred():
        guardian = Companion(lambda: None, if_killed)
    try:
        sysctl.write(var.RMID_FORCED, 0)
        yield
    finally:
        with deferred():
            put_back()
            guardian.dismiss()
