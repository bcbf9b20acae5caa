"""Naming an IPC namespace, entering it, and leaving it for certain.

A namespace is held as an open descriptor, so it cannot vanish or be mistaken for another while it
is being worked on. setns(2) and unshare(2) with CLONE_NEWIPC concern the calling thread alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

from . import libc
from .errors import NamespaceError, explain

INITIAL_INODE = 0xEFFFFFFF  # PROC_IPC_INIT_INO: the namespace the machine booted with
_T = TypeVar("_T")
_OWN = "/proc/thread-self/ns/ipc"
_PATIENCE = 2.0  # seconds; a holder of segments has the lock for the blink of an eye


class IpcNamespace:
    """An IPC namespace, held open. Made by own(), of_process(), at_path() or new()."""

    def __init__(self, fd: int, described: str, option: str = "") -> None:
        self.fd = fd
        self.described = described
        self.option = option  # by which the command line names it
        self.inode = os.fstat(fd).st_ino
        self._locked_by: int | None = None  # the thread

    @property
    def is_initial(self) -> bool:
        """Is this the namespace the machine booted with, the host's own?"""
        return self.inode == INITIAL_INODE

    def enter(self) -> None:
        """Move the calling thread into the namespace, for good. Raises NamespaceError."""
        if os.stat(_OWN).st_ino == self.inode:
            return  # needs no right
        try:
            libc.setns(self.fd, libc.CLONE_NEWIPC)
        except OSError as error:
            raise NamespaceError(f"entering {self.described}: {explain(error)}") from error

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the namespace inside the with block, and back where one was after it.

        Raises NamespaceError, before anything happens, where there would be no way back: root of a
        user namespace may leave an IPC namespace that belongs to another one, but not return to it.
        """
        with own() as home:
            if self.inode != home.inode:
                try:
                    libc.setns(home.fd, libc.CLONE_NEWIPC)
                except OSError as error:
                    raise NamespaceError(
                        f"entering {self.described}: there would be no way back: {explain(error)}; enter() it for good"
                    ) from error
            self.enter()
            try:
                yield
            finally:
                if self.inode != home.inode:
                    home.enter()

    @contextlib.contextmanager
    def locked(self, patience: float = _PATIENCE) -> Iterator[None]:
        """Be the only ipcimg that works in the namespace inside the with block, by flock(2) on its file.

        Dumps and restores change settings for a time, which another one would take for the real
        ones. The thread that has the lock may take it again, by the same object. Raises NamespaceError
        where somebody else keeps it for so many seconds.
        """
        thread = threading.get_ident()
        if self._locked_by == thread:
            yield
            return
        until = time.monotonic() + patience
        # The lock of self.fd would be that of all threads that have it.
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise NamespaceError(
                            f"{self.described} is locked by {_lock_holder(self.inode)}: is another ipcimg at work?"
                        ) from None
                    time.sleep(0.005)
            self._locked_by = thread
            yield
        finally:
            if self._locked_by == thread:
                self._locked_by = None
            # A copy in a process that was forked meanwhile is no lock then. Should this fail, the work is done.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            with contextlib.suppress(OSError):
                os.close(fd)

    def pin(self, path: str) -> None:
        """Keep the namespace alive without a process, by a bind mount on the new file path.

        Raises NamespaceError, also where path exists; then path is as before.
        """
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise NamespaceError(f"pinning the namespace: {explain(error)}") from error
        try:
            libc.mount_bind(f"/proc/self/fd/{self.fd}", path)
        except OSError as error:
            os.unlink(path)
            raise NamespaceError(f"pinning the namespace: mounting on {path}: {explain(error)}") from error

    @staticmethod
    def unpin(path: str) -> None:
        """Undo pin(). Raises NamespaceError."""
        try:
            libc.umount2(path, libc.MNT_DETACH)
            os.unlink(path)
        except OSError as error:
            raise NamespaceError(f"unpinning {path}: {explain(error)}") from error

    def close(self) -> None:
        """Let go of the namespace."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):  # the descriptor is gone in any case: close(2)
                os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> IpcNamespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock_holder(inode: int) -> str:
    """Who has the lock of the file with this inode, as far as /proc/locks tells."""
    with open("/proc/locks") as locks:
        for line in locks:
            fields = line.split()  # number, FLOCK, ADVISORY, WRITE, pid, device:device:inode, start, end
            if "FLOCK" in fields and fields[-3].endswith(f":{inode}"):
                return f"process {fields[-4]}"
    return "a process that cannot be seen from here"


def own() -> IpcNamespace:
    """The IPC namespace of the calling thread."""
    return _open(_OWN, "the caller's own IPC namespace")


def of_process(pid: int) -> IpcNamespace:
    """The IPC namespace of process pid. Raises NamespaceError where there is no such process."""
    if not os.path.isdir(f"/proc/{pid}"):
        raise NamespaceError(f"there is no process {pid}")
    return _open(f"/proc/{pid}/ns/ipc", f"the IPC namespace of process {pid}", f" -t {pid}")


def at_path(path: str) -> IpcNamespace:
    """The IPC namespace that a file stands for: /proc/PID/ns/ipc, or a bind mount of it."""
    return _open(path, f"the IPC namespace {path}", f" --ipc-ns {path}")


def new() -> IpcNamespace:
    """A new, empty IPC namespace. It lives as long as it is held open, pinned or entered.

    Needs CAP_SYS_ADMIN. Raises NamespaceError.
    """

    def make() -> IpcNamespace:
        libc.unshare(libc.CLONE_NEWIPC)
        return _open(_OWN, "the new IPC namespace")

    try:
        return aside(make)
    except OSError as error:
        raise NamespaceError(f"making an IPC namespace: {explain(error)}") from error


def aside(act: Callable[[], _T]) -> _T:
    """Call act in a thread of its own, which can go into a namespace without having to come back."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _open(path: str, described: str, option: str = "") -> IpcNamespace:
    try:
        # A FIFO or a device must not block or be disturbed by the question what it is.
        if not stat.S_ISREG(os.stat(path).st_mode) or os.stat(path).st_dev != os.stat("/proc/self/ns/ipc").st_dev:
            raise NamespaceError(f"{path} is not an IPC namespace")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError(f"opening {described}: {explain(error)}") from error
    try:
        if fcntl.ioctl(fd, libc.NS_GET_NSTYPE) != libc.CLONE_NEWIPC:
            raise NamespaceError(f"{path} is a namespace, but not an IPC namespace")
        return IpcNamespace(fd, described, option)
    except BaseException:
        os.close(fd)
        raise
