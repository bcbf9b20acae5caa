"""Stopping every process of an IPC namespace, and letting them go, whatever happens.

A process of its own, the freezer, stops them: by the freezer of cgroup v2 where a cgroup holds processes of the
namespace alone, otherwise by ptrace(2). It lets them go on our word and on our end. Should it be killed itself, the
kernel lets go of what it traced. Its cgroups bear a mark, an extended attribute, by which we thaw them; or, where we
are killed as well, whoever freezes the namespace next, or recovers it.

All threads of a process are stopped where one of them is in the namespace: they share its memory. New processes and
threads are looked for until there are none.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from . import cgroups, libc
from .cgroups import Cgroup, Hierarchies
from .companion import Companion, ours
from .errors import ChangedError, NamespaceError, doing
from .interrupts import deferred, kept_running
from .namespace import IpcNamespace

_PATIENCE = 2.0  # seconds to stop a process
_TRIES = 3  # a parent in vfork(2) does not stop before its child goes on
_BETWEEN = 0.05  # seconds between two tries
_AT_MOST = 20.0  # seconds for all of it
_PAUSE = 0.0005  # seconds between two looks
_PID_INIT_INO = 0xEFFFFFFC  # linux/proc_ns.h: the process id namespace the machine booted with
_GONE = (FileNotFoundError, ProcessLookupError)
_DEAD = ("Z", "X")
_ENDS = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
_SEGMENT = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .*/SYSV[0-9a-f]{8}(?: \(deleted\))?$", re.M)

Task = tuple[int, int]  # process, thread
_File = tuple[int, int, int, int]  # what tells the file behind a segment from others


@dataclass(frozen=True, slots=True)
class Frozen:
    """The processes of a namespace, which are stopped."""

    freezer: int  # process id
    sees_all: bool  # no process is hidden from us; otherwise one may be in the namespace, and is not stopped
    _inode: int
    _tasks: frozenset[Task]
    _attachments: Mapping[_File, int]

    def attachments(self, file: os.stat_result | None) -> int:
        """How many attachments of the segment with this file behind it are known to be of stopped processes."""
        return 0 if file is None else self._attachments.get(_file(file), 0)

    def moved(self) -> ChangedError | None:
        """None where just these processes are there, and stopped, else what moved. Raises OSError."""
        try:
            found, _ = _all_stopped(self._inode, self.freezer)
        except ChangedError as error:
            return error
        if found == self._tasks:
            return None
        pid = min(found ^ self._tasks)[0]
        return ChangedError(f"process {pid} {'came' if pid in dict(found) else 'ended'} while the namespace was read")


@contextlib.contextmanager
def frozen(namespace: IpcNamespace, if_killed: Callable[[], None] | None = None) -> Iterator[Frozen]:
    """Have every process of the namespace stopped inside the with block, ourselves excepted.

    if_killed is called, where we are killed meanwhile, before they are let go, by a process in the namespaces that the
    caller is in. Raises NamespaceError, and KernelError where one does not stop or is traced by somebody else.
    """
    if namespace.is_initial:
        raise NamespaceError("to freeze the machine's own IPC namespace would stop the machine")
    if os.readlink("/proc/self") != str(os.getpid()):
        raise NamespaceError("freezing takes the /proc of the own process id namespace")
    with kept_running(), contextlib.ExitStack() as let_go:
        try:
            with deferred(), doing(f"freezing {namespace.described}"):
                let_go.callback(thaw_left, namespace.inode)
                freezer = Companion(
                    functools.partial(_freeze, namespace.inode, ours()), functools.partial(_let_go, if_killed)
                )
                let_go.callback(freezer.close, b"thaw")
                tasks, sees_all = _all_stopped(namespace.inode, freezer.pid)
                attachments = _attachments({pid for pid, _ in tasks})
            yield Frozen(freezer.pid, sees_all, namespace.inode, tasks, attachments)
        finally:
            with deferred(), doing(f"letting the processes of {namespace.described} go"):
                let_go.close()


def running(namespace: IpcNamespace) -> int | None:
    """A process of the namespace, ourselves excepted, that nobody has stopped; None where all are. Raises OSError.

    Stopped are those of SIGSTOP, of a tracer, and of a frozen cgroup.
    """
    hierarchy = _hierarchy()
    users, _ = _users(namespace.inode, ours())
    for pid, threads in users.items():
        for tid in threads:
            with contextlib.suppress(*_GONE):
                [state] = _status(pid, tid, "State")
                if state not in ("T", "t", *_DEAD) and not _is_frozen(_cgroup(hierarchy, pid, tid)):
                    return pid
    return None


def processes(namespace: IpcNamespace) -> tuple[set[int], bool]:
    """The processes that use a namespace, ourselves excepted, and whether there can be none that are hidden from us.

    Raises OSError.
    """
    users, all_told = _users(namespace.inode, ours())
    return set(users), all_told and _sees_all_processes()


# ---- who is there --------------------------------------------------------------------------


def _users(inode: int, excepted: frozenset[int]) -> tuple[dict[int, list[int]], bool]:
    """Each process that has a thread in the IPC namespace, with all its threads; and whether all processes told."""
    found, all_told = {}, True
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid not in excepted:
            try:
                threads = list(map(int, os.listdir(f"/proc/{pid}/task")))
                if any(_is_in(inode, pid, tid) for tid in threads):
                    found[pid] = threads
            except PermissionError:
                all_told = False
            except _GONE:
                pass
    return found, all_told


def _is_in(inode: int, pid: int, tid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/task/{tid}/ns/ipc").st_ino == inode
    except _GONE:  # it has ended, and may wait to be buried
        return False


def _status(pid: int, tid: int, *names: str) -> list[str]:
    with open(f"/proc/{pid}/task/{tid}/status", errors="surrogateescape") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [lines[name].split()[0] for name in names]


def _all_stopped(inode: int, freezer: int) -> tuple[frozenset[Task], bool]:
    """The threads of all processes that use the namespace, and whether there may be others that cannot be seen.

    Raises ChangedError where one of them is not stopped.
    """
    hierarchy, found = _hierarchy(), set()
    users, all_told = _users(inode, ours())
    for pid, threads in users.items():
        for tid in threads:
            with contextlib.suppress(*_GONE):
                state, tracer = _status(pid, tid, "State", "TracerPid")
                if state in _DEAD:
                    continue
                if (state, tracer) != ("t", str(freezer)) and not _is_frozen(_cgroup(hierarchy, pid, tid)):
                    raise ChangedError(f"process {pid} is in the namespace and was not stopped")
                found.add((pid, tid))
    return frozenset(found), all_told and _sees_all_processes()


def _sees_all_processes() -> bool:
    # Processes of other process id namespaces, the ones below ours excepted, are not in our /proc.
    return os.stat("/proc/self/ns/pid").st_ino == _PID_INIT_INO


def _attachments(pids: set[int]) -> Mapping[_File, int]:
    """How often each segment is attached by these processes.

    A memory that several of them share counts once; one that somebody else shares, who is not stopped, not at all.
    """
    found: collections.Counter[_File] = collections.Counter()
    others = set(map(int, filter(str.isdigit, os.listdir("/proc")))) - pids
    having: list[int] = []
    for pid in sorted(pids):
        with contextlib.suppress(*_GONE), open(f"/proc/{pid}/maps", "rb") as maps:
            segments = _SEGMENT.findall(maps.read())
            if segments and not _shared(pid, having) and not _shared(pid, others):
                having.append(pid)
                for first, last in segments:
                    mapping = f"/proc/{pid}/map_files/{int(first, 16):x}-{int(last, 16):x}"
                    with contextlib.suppress(FileNotFoundError, PermissionError):  # it counts as somebody else's then
                        found[_file(os.stat(mapping))] += 1
    return found


def _shared(pid: int, others: Iterable[int]) -> bool:
    """Does one of the others share its memory?"""
    for other in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if libc.kcmp(pid, other, libc.KCMP_VM) == 0:
                return True
    return False


def _file(status: os.stat_result) -> _File:
    # The inode number is the id, which other namespaces have as well. Times are those at which it was made.
    return status.st_ino, status.st_size, status.st_ctime_ns, status.st_mtime_ns


# ---- cgroups -------------------------------------------------------------------------------


def _hierarchy() -> Hierarchies:
    """That of cgroup v2. Version 1 is for what pods and their runtimes freeze."""
    return {version: place for version, place in cgroups.hierarchies().items() if version == 2}


def _cgroup(hierarchy: Hierarchies, pid: int, tid: int) -> Cgroup | None:
    """A thread's cgroup; None for the root, which cannot be frozen, and for what cannot be seen."""
    return next(cgroups.of_thread(pid, tid, hierarchy), None)


def _is_frozen(cgroup: Cgroup | None) -> bool:
    return cgroup is not None and cgroup.is_frozen()


def _of_their_own(hierarchy: Hierarchies, users: Mapping[int, list[int]]) -> Iterator[Cgroup]:
    """The cgroups that are ours to freeze and have none but these processes in them and below."""
    for cgroup in cgroups.of_threads(users, hierarchy):
        with contextlib.suppress(OSError):  # it goes, is threaded, or not for us: ptrace(2) will do
            if cgroup.is_ours_to_freeze() and cgroup.members() <= users.keys():
                cgroup.mark()
                yield cgroup


def thaw_left(inode: int) -> list[str]:
    """Thaw the cgroups of an IPC namespace that a freezer has left frozen: which these are. Raises OSError.

    Whoever calls it has the namespace locked, so that no freezer is at work.
    """
    users, _ = _users(inode, frozenset())
    left = [one for one in cgroups.of_threads(users, cgroups.hierarchies()) if one.is_marked()]
    cgroups.thaw(left)
    return [one.path for one in left]


# ---- the freezer's work --------------------------------------------------------------------


@dataclass(slots=True)
class _Stopped:
    """What the freezer has stopped."""

    traced: dict[int, int] = field(default_factory=dict)  # thread → the signal that it was about to take, or 0
    seized: dict[int, int] = field(default_factory=dict)  # threads that have not stopped yet → their processes
    cgroups: list[Cgroup] = field(default_factory=list)
    refused: OSError | None = None  # why a thread could not be traced, at the last look


def _freeze(inode: int, excepted: frozenset[int]) -> _Stopped:
    """Stop all processes of the namespace. Raises OSError, when all are let go again."""
    tries = 1
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _AT_MOST)  # which ends us, wherever we hang, and so lets everybody go
    while True:
        stopped = _Stopped()
        try:
            _stop_all(inode, excepted | {os.getpid()}, stopped)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return stopped
        except BaseException as error:
            _thaw(stopped)
            if not isinstance(error, TimeoutError) or tries == _TRIES:
                raise
        tries += 1
        time.sleep(_BETWEEN)


def _stop_all(inode: int, excepted: frozenset[int], stopped: _Stopped) -> None:
    hierarchy, until = _hierarchy(), time.monotonic() + _PATIENCE
    tracers = {int(_status(pid, pid, "TracerPid")[0]) for pid in excepted}
    new = True
    while new:
        if time.monotonic() > until:
            # In the middle of an execve(2) a thread may not be traced for a moment.
            raise stopped.refused or TimeoutError(errno.ETIMEDOUT, "new processes and threads come all the time")
        stopped.refused = None
        users, _ = _users(inode, excepted)
        if traced_by := users.keys() & tracers:
            raise OSError(errno.EBUSY, f"process {min(traced_by)} would be stopped, and traces ipcimg")
        for cgroup in _of_their_own(hierarchy, users):
            if cgroup not in stopped.cgroups:
                stopped.cgroups.append(cgroup)
                cgroup.set_frozen(True)
        for cgroup in stopped.cgroups:
            while not cgroup.is_frozen():
                _wait(until, f"the cgroup {cgroup.path} does not freeze")
        new = False
        with _burying(stopped):
            for pid, threads in users.items():
                for tid in threads:
                    with contextlib.suppress(*_GONE):
                        new |= tid not in stopped.traced and _seize(hierarchy, pid, tid, stopped)
        while stopped.seized:
            for tid in list(filter(functools.partial(_has_stopped, stopped=stopped), stopped.seized)):
                del stopped.seized[tid]
            if stopped.seized:
                _wait(until, f"process {next(iter(stopped.seized.values()))} does not stop")


def _seize(hierarchy: Hierarchies, pid: int, tid: int, stopped: _Stopped) -> bool:
    """Have a thread stop soon. False where it is dead, or frozen by us: whom others have frozen, they may let go."""
    state, tracer = _status(pid, tid, "State", "TracerPid")
    if state in _DEAD or _cgroup(hierarchy, pid, tid) in stopped.cgroups:
        return False
    # By execve(2), a thread that was seized becomes the one with the number of its process.
    if tracer != str(os.getpid()):
        if tracer != "0":
            raise OSError(errno.EBUSY, f"process {pid} is traced by process {tracer}")
        try:
            libc.ptrace(libc.PTRACE_SEIZE, tid)
        except PermissionError as error:
            state, tracer = _status(pid, tid, "State", "TracerPid")
            if state in _DEAD:
                return False
            if tracer != str(os.getpid()):  # it has become ours just now
                stopped.refused = OSError(errno.EPERM, f"process {pid} may not be traced")
                stopped.refused.__cause__ = error
                return True
    stopped.seized[tid] = pid
    libc.ptrace(libc.PTRACE_INTERRUPT, tid)
    return True


def _has_stopped(tid: int, stopped: _Stopped) -> bool:
    """Has a thread stopped, or ended?"""
    try:
        found = _news_of(tid)
    except ChildProcessError:  # it has another number by now, or is buried
        return True
    if found is not None and found.si_code not in _ENDS:
        # Without an event it is about to take a signal, which is given back to it when it is let go.
        stopped.traced[tid] = 0 if found.si_status >> 8 else found.si_status
    return found is not None


def _news_of(tid: int) -> os.waitid_result | None:
    """What a thread that we trace has come to, None for nothing. One that has ended is buried."""
    # A stop is not taken up, but stays with the kernel: a signal that the thread was about to take is not lost with us.
    found = os.waitid(os.P_PID, tid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | libc.WALL)
    if found is not None and found.si_code in _ENDS:
        os.waitpid(tid, libc.WALL)
    return found


@contextlib.contextmanager
def _burying(stopped: _Stopped) -> Iterator[None]:
    """Bury threads that end while they are traced by us.

    To seize a thread waits for an execve(2) in its process, which waits for all other threads to be buried.
    """
    over = threading.Event()

    def bury() -> None:
        while not over.wait(_PAUSE):
            for tid in (*stopped.seized, *stopped.traced):
                with contextlib.suppress(ChildProcessError):
                    _news_of(tid)

    thread = threading.Thread(target=bury)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait(until: float, otherwise: str) -> None:
    if time.monotonic() > until:
        raise TimeoutError(errno.ETIMEDOUT, otherwise)
    time.sleep(_PAUSE)


def _let_go(if_killed: Callable[[], None] | None, stopped: _Stopped, word: bytes) -> None:
    try:
        if if_killed is not None and not word:
            if_killed()
    finally:
        _thaw(stopped)


def _thaw(stopped: _Stopped) -> None:
    """Let everybody go. Raises OSError for a cgroup that could not be thawed, when everybody else is let go."""
    with contextlib.ExitStack() as all_of_them:
        for tid, number in stopped.traced.items():
            with contextlib.suppress(ProcessLookupError):  # somebody has killed it
                libc.ptrace(libc.PTRACE_DETACH, tid, number)
        all_of_them.callback(cgroups.thaw, stopped.cgroups)
