"""System calls and C structures under their C names: the only module that knows ctypes.

Each call raises OSError with the kernel's errno. Structures are those of the 64-bit kernel ABI
(asm-generic/{ipcbuf,msgbuf,sembuf,shmbuf}.h; x86 has a semid64_ds of its own in
arch/x86/include/uapi/asm/sembuf.h), which glibc and musl hand through unchanged.
"""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_short, c_size_t, c_uint, c_ulong, c_ushort, c_void_p

# linux/sched.h
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000

# linux/nsfs.h
NS_GET_USERNS = 0xB701
NS_GET_NSTYPE = 0xB703

# linux/prctl.h
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_GET_KEEPCAPS = 7
PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET, _PR_CAP_AMBIENT_RAISE = 47, 1, 2

# linux/ptrace.h
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207

# linux/wait.h
WALL = 0x40000000  # __WALL: threads of others as well

# linux/kcmp.h
KCMP_VM = 1

# linux/capability.h
CAP_SETGID = 6
CAP_SETUID = 7
CAP_IPC_OWNER = 15
CAP_SYS_ADMIN = 21
_CAP_LAST_CAP = 40  # CAP_CHECKPOINT_RESTORE
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# linux/ipc.h
IPC_PRIVATE = 0
IPC_CREAT = 0o1000
IPC_EXCL = 0o2000
IPC_NOWAIT = 0o4000
IPC_RMID = 0
IPC_SET = 1
IPC_STAT = 2
IPC_INFO = 3

GONE = (errno.EINVAL, errno.EIDRM)  # what a call for an object that is not there any more fails with

# linux/msg.h
MSG_INFO = 12
MSG_STAT_ANY = 13
MSG_NOERROR = 0o10000
MSG_COPY = 0o40000

# linux/sem.h
GETPID = 11
GETALL = 13
SETALL = 17
SEM_INFO = 19
SEM_STAT_ANY = 20

# linux/shm.h
SHM_LOCK = 11
SHM_INFO = 14
SHM_STAT_ANY = 15
SHM_RDONLY = 0o10000
SHM_NORESERVE = 0o10000  # the same bit, for shmget(2)
SHM_DEST = 0o1000
SHM_LOCKED = 0o2000

# linux/mount.h
MS_BIND = 4096
MNT_DETACH = 2

# linux/magic.h
HUGETLBFS_MAGIC = 0x958458F6

# asm-generic/mman-common.h
MADV_DONTNEED = 4
MADV_DONTFORK = 10
MADV_POPULATE_READ = 22  # Linux 5.14
MADV_POPULATE_WRITE = 23

_MACHINE = os.uname().machine
_PADDED_SEMID_DS = ("x86_64",)
_GENERIC = ("aarch64", "riscv64", "loongarch64")
# The numbers of setresuid(2), setresgid(2) and kcmp(2): asm/unistd_64.h of x86, asm-generic/unistd.h of the others.
_SETRESUID, _SETRESGID = (117, 119) if _MACHINE == "x86_64" else (147, 149)
_KCMP = 312 if _MACHINE == "x86_64" else 272


class ipc_perm(ctypes.Structure):
    """struct ipc64_perm."""

    _fields_ = (
        ("key", c_uint),
        ("uid", c_uint),
        ("gid", c_uint),
        ("cuid", c_uint),
        ("cgid", c_uint),
        ("mode", c_uint),
        ("seq", c_ushort),
        ("_pad", c_ushort),
        ("_unused", c_ulong * 2),
    )
    key: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    mode: int


class msqid_ds(ctypes.Structure):
    """struct msqid64_ds."""

    _fields_ = (
        ("msg_perm", ipc_perm),
        ("msg_stime", c_long),
        ("msg_rtime", c_long),
        ("msg_ctime", c_long),
        ("msg_cbytes", c_ulong),
        ("msg_qnum", c_ulong),
        ("msg_qbytes", c_ulong),
        ("msg_lspid", c_int),
        ("msg_lrpid", c_int),
        ("_unused", c_ulong * 2),
    )
    msg_perm: ipc_perm
    msg_stime: int
    msg_rtime: int
    msg_ctime: int
    msg_cbytes: int
    msg_qnum: int
    msg_qbytes: int
    msg_lspid: int
    msg_lrpid: int


_TIMES = (
    (("sem_otime", c_long), ("_pad1", c_ulong), ("sem_ctime", c_long), ("_pad2", c_ulong))
    if _MACHINE in _PADDED_SEMID_DS
    else (("sem_otime", c_long), ("sem_ctime", c_long))
)


class semid_ds(ctypes.Structure):
    """struct semid64_ds."""

    _fields_ = (("sem_perm", ipc_perm), *_TIMES, ("sem_nsems", c_ulong), ("_unused", c_ulong * 2))
    sem_perm: ipc_perm
    sem_otime: int
    sem_ctime: int
    sem_nsems: int


class shmid_ds(ctypes.Structure):
    """struct shmid64_ds."""

    _fields_ = (
        ("shm_perm", ipc_perm),
        ("shm_segsz", c_size_t),
        ("shm_atime", c_long),
        ("shm_dtime", c_long),
        ("shm_ctime", c_long),
        ("shm_cpid", c_int),
        ("shm_lpid", c_int),
        ("shm_nattch", c_ulong),
        ("_unused", c_ulong * 2),
    )
    shm_perm: ipc_perm
    shm_segsz: int
    shm_atime: int
    shm_dtime: int
    shm_ctime: int
    shm_cpid: int
    shm_lpid: int
    shm_nattch: int


class shm_info(ctypes.Structure):
    """struct shm_info: what SHM_INFO tells of the whole namespace, in pages."""

    _fields_ = (
        ("used_ids", c_int),
        ("shm_tot", c_ulong),
        ("shm_rss", c_ulong),
        ("shm_swp", c_ulong),
        ("_unused", c_ulong * 2),
    )
    used_ids: int
    shm_rss: int
    shm_swp: int


class msginfo(ctypes.Structure):
    """struct msginfo, as MSG_INFO fills it."""

    _fields_ = (
        ("msgpool", c_int),
        ("msgmap", c_int),
        ("msgmax", c_int),
        ("msgmnb", c_int),
        ("msgmni", c_int),
        ("msgssz", c_int),
        ("msgtql", c_int),
        ("msgseg", c_ushort),
    )
    msgmap: int  # messages in all queues
    msgtql: int  # their bytes


class sembuf(ctypes.Structure):
    """struct sembuf: one operation of semop(2)."""

    _fields_ = (("sem_num", c_ushort), ("sem_op", c_short), ("sem_flg", c_short))


class _cap_header(ctypes.Structure):
    _fields_ = (("version", c_uint), ("pid", c_int))


class _cap_data(ctypes.Structure):
    _fields_ = (("effective", c_uint), ("permitted", c_uint), ("inheritable", c_uint))
    effective: int


class _statfs(ctypes.Structure):
    _fields_ = (("f_type", c_long), ("f_bsize", c_long), ("_rest", c_long * 14))
    f_type: int
    f_bsize: int


if _MACHINE not in _PADDED_SEMID_DS + _GENERIC or ctypes.sizeof(c_void_p) != 8:
    raise ImportError(
        f"ipcimg does not know the IPC structures of {_MACHINE}; it supports 64-bit "
        f"{', '.join(_PADDED_SEMID_DS + _GENERIC)}"
    )

_libc = ctypes.CDLL(None, use_errno=True)
_SHMAT_FAILED = c_void_p(-1).value

# Looked up once: a dump may call them a million times.
_msgrcv, _msgsnd = _libc.msgrcv, _libc.msgsnd
_msgrcv.restype = ctypes.c_ssize_t
_msgrcv.argtypes = (c_int, c_void_p, c_size_t, c_long, c_int)
_msgsnd.argtypes = (c_int, c_void_p, c_size_t, c_int)
_libc.shmat.restype = c_void_p
_libc.shmat.argtypes = (c_int, c_void_p, c_int)
_libc.shmdt.argtypes = (c_void_p,)
_libc.shmget.argtypes = (c_int, c_size_t, c_int)
_libc.msgctl.argtypes = (c_int, c_int, c_void_p)
_libc.shmctl.argtypes = (c_int, c_int, c_void_p)
_libc.madvise.argtypes = (c_void_p, c_size_t, c_int)
_libc.mincore.argtypes = (c_void_p, c_size_t, c_void_p)
_libc.mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_libc.umount2.argtypes = (c_char_p, c_int)
_libc.fstatfs.argtypes = (c_int, POINTER(_statfs))
_libc.ptrace.restype = c_long
_libc.ptrace.argtypes = (c_long, c_int, c_void_p, c_void_p)


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _check(result: int) -> int:
    if result < 0:
        raise _fail()
    return result


def _signed(key: int) -> int:
    """key_t is signed; images and ipc64_perm show it unsigned."""
    return key - (1 << 32) if key >= 1 << 31 else key


# ---- namespaces and mounts -----------------------------------------------------------------


def unshare(flags: int) -> None:
    """unshare(2), of the calling thread."""
    _check(_libc.unshare(flags))


def setns(fd: int, nstype: int) -> None:
    """setns(2), of the calling thread."""
    _check(_libc.setns(fd, nstype))


class Capabilities:
    """The calling thread's capabilities at the time this was made, to be looked at or taken on again."""

    def __init__(self) -> None:
        """capget(2)."""
        self._data = (_cap_data * 2)()
        _check(_libc.capget(byref(_cap_header(_LINUX_CAPABILITY_VERSION_3, 0)), self._data))

    def effective(self, capability: int) -> bool:
        """Is the capability, one of the numbers of linux/capability.h, in force?"""
        return bool(self._data[capability // 32].effective >> capability % 32 & 1)

    def take_on(self) -> None:
        """capset(2)."""
        _check(_libc.capset(byref(_cap_header(_LINUX_CAPABILITY_VERSION_3, 0)), self._data))


def ambient_capabilities() -> list[int]:
    """PR_CAP_AMBIENT_IS_SET for each capability."""
    return [
        number
        for number in range(_CAP_LAST_CAP + 1)
        if _libc.prctl(_PR_CAP_AMBIENT, c_ulong(_PR_CAP_AMBIENT_IS_SET), c_ulong(number), c_ulong(0), c_ulong(0)) == 1
    ]


def raise_ambient_capability(number: int) -> None:
    """PR_CAP_AMBIENT_RAISE."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, c_ulong(_PR_CAP_AMBIENT_RAISE), c_ulong(number), c_ulong(0), c_ulong(0)))


def set_effective_ids(uid: int, gid: int) -> None:
    """setresgid(2) and setresuid(2) of the calling thread alone, which libc's wrappers would extend to all threads."""
    keep = c_uint(0xFFFFFFFF)
    _check(_libc.syscall(c_long(_SETRESGID), keep, c_uint(gid), keep))
    _check(_libc.syscall(c_long(_SETRESUID), keep, c_uint(uid), keep))


def ptrace(request: int, tid: int, data: int = 0) -> None:
    """ptrace(2), of the requests above."""
    _check(_libc.ptrace(request, tid, None, data))


def kcmp(pid: int, other: int, kind: int) -> int:
    """kcmp(2) of two processes: 0 where they share what kind says, else 1 or 2, an order among those that do not."""
    return _check(_libc.syscall(c_long(_KCMP), c_int(pid), c_int(other), c_int(kind), c_ulong(0), c_ulong(0)))


def prctl(option: int, value: int = 0) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, c_ulong(value), c_ulong(0), c_ulong(0), c_ulong(0)))


def mount_bind(source: str, target: str) -> None:
    """mount(2) with MS_BIND."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None))


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags))


def syncfs(fd: int) -> None:
    """syncfs(2): everything on the file system of fd is on the disk (errors are told since Linux 5.8)."""
    _check(_libc.syncfs(fd))


def fstatfs(fd: int) -> tuple[int, int]:
    """fstatfs(2): (f_type, f_bsize in bytes)."""
    result = _statfs()
    _check(_libc.fstatfs(fd, byref(result)))
    return result.f_type, result.f_bsize


# ---- message queues ------------------------------------------------------------------------


class MessageBuffer:
    """A struct msgbuf with room bytes of mtext, reused from call to call."""

    def __init__(self, room: int, address: int | None = None) -> None:
        """At an aligned address, which the caller keeps mapped, or in memory of its own."""
        self.room = room
        at = None if address is None else (ctypes.c_char * (8 + room)).from_address(address)
        self._buffer = ctypes.create_string_buffer(8 + room) if at is None else at
        self.mtype = c_long.from_buffer(self._buffer)
        self.view = memoryview(self._buffer).cast("B")
        self._address = ctypes.addressof(self._buffer)

    def receive(self, msqid: int, room: int, msgtyp: int, flags: int) -> int:
        """msgrcv(2) of at most room bytes: how many came. They are view[8:8 + n], their type mtype.value."""
        n: int = _msgrcv(msqid, self._address, room, msgtyp, flags)
        if n < 0:
            raise _fail()
        return n

    def send(self, msqid: int, mtype: int, body: bytes | memoryview, flags: int) -> None:
        """msgsnd(2) of at most room bytes."""
        n = len(body)
        self.mtype.value = mtype
        self.view[8 : 8 + n] = body
        self.resend(msqid, n, flags)

    def resend(self, msqid: int, size: int, flags: int) -> None:
        """msgsnd(2) of what is in it, size bytes, at most room."""
        if _msgsnd(msqid, self._address, size, flags) < 0:
            raise _fail()


def msgget(key: int, flags: int) -> int:
    """msgget(2); key as in images, unsigned."""
    return _check(_libc.msgget(_signed(key), flags))


def msgctl(msqid: int, cmd: int, ds: msqid_ds | msginfo | None = None) -> int:
    """msgctl(2); ds is read or filled according to cmd."""
    return _check(_libc.msgctl(msqid, cmd, byref(ds if ds is not None else msqid_ds())))


# ---- semaphores ----------------------------------------------------------------------------


def semget(key: int, nsems: int, flags: int) -> int:
    """semget(2); key as in images, unsigned."""
    return _check(_libc.semget(_signed(key), c_int(nsems), flags))


def semctl(semid: int, cmd: int, ds: semid_ds | None = None) -> int:
    """semctl(2) of a whole set; ds is read or filled according to cmd."""
    return _check(_libc.semctl(semid, 0, cmd, byref(ds if ds is not None else semid_ds())))


# GETALL and SETALL go by the number of values that the set has then, which is another one where somebody has put
# another set in its place. So there is room for the most that a set can have; it takes no memory before it is used.
_VALUES_MOST = 2 << 25  # bytes


def _values(of: bytes = b"") -> tuple[mmap.mmap, c_void_p]:
    values = mmap.mmap(-1, _VALUES_MOST, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values[: len(of)] = of
    return values, c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(values)))


def semctl_getall(semid: int, nsems: int) -> array.array[int]:
    """semctl(GETALL): the first nsems values."""
    values, address = _values()
    _check(_libc.semctl(semid, 0, GETALL, address))
    return array.array("H", values[: 2 * nsems])


def semctl_setall(semid: int, values: array.array[int]) -> None:
    """semctl(SETALL)."""
    kept, address = _values(values.tobytes())
    _check(_libc.semctl(semid, 0, SETALL, address))
    del kept


def semctl_getpid(semid: int, semnum: int) -> int:
    """semctl(GETPID): the pid that last changed the semaphore, 0 for none."""
    return _check(_libc.semctl(semid, semnum, GETPID))


def semop(semid: int, *operations: tuple[int, int]) -> None:
    """semop(2) without waiting: each operation is a semaphore's number and what is added to it."""
    array_type = sembuf * len(operations)
    done = array_type(*(sembuf(number, change, IPC_NOWAIT) for number, change in operations))
    _check(_libc.semop(semid, done, c_size_t(len(operations))))


# ---- shared memory -------------------------------------------------------------------------


def shmget(key: int, size: int, flags: int) -> int:
    """shmget(2); key as in images, unsigned."""
    return _check(_libc.shmget(_signed(key), size, c_int(flags & 0xFFFFFFFF).value))


def shmctl(shmid: int, cmd: int, ds: shmid_ds | shm_info | None = None) -> int:
    """shmctl(2); ds is read or filled according to cmd."""
    return _check(_libc.shmctl(shmid, cmd, byref(ds if ds is not None else shmid_ds())))


def shmat(shmid: int, flags: int) -> int:
    """shmat(2): the address."""
    address: int | None = _libc.shmat(shmid, None, flags)
    if address is None or address == _SHMAT_FAILED:
        raise _fail()
    return address


def shmdt(address: int) -> None:
    """shmdt(2)."""
    _check(_libc.shmdt(address))


def memory(address: int, size: int) -> memoryview:
    """size bytes at address, which the caller keeps mapped for as long as the view is used."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


Word = c_ulong


def word(address: int) -> Word:
    """The 64 bits at an aligned address, which the caller keeps mapped: value reads or sets all of them at once."""
    return Word.from_address(address)


def madvise(address: int, length: int, advice: int) -> None:
    """madvise(2); address is page-aligned."""
    _check(_libc.madvise(address, length, advice))


def mincore(address: int, length: int, page_size: int) -> bytes:
    """mincore(2): a byte for each page, bit 0 set where the page is resident."""
    vector = ctypes.create_string_buffer((length + page_size - 1) // page_size)
    _check(_libc.mincore(address, length, vector))
    return vector.raw
