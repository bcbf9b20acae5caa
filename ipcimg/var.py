"""The namespace's variables: /proc/sys ⇄ model.Variables."""

from __future__ import annotations

import dataclasses
import errno
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import preset, sysctl
from .errors import doing
from .model import Variables

# Field of model.Variables → path below /proc/sys. kernel.sem is four of them in one.
_PATHS = {
    "msg_ctlmax": "kernel/msgmax",
    "msg_ctlmnb": "kernel/msgmnb",
    "msg_ctlmni": "kernel/msgmni",
    "auto_msgmni": "kernel/auto_msgmni",
    "shm_ctlmax": "kernel/shmmax",
    "shm_ctlall": "kernel/shmall",
    "shm_ctlmni": "kernel/shmmni",
    "mq_queues_max": "fs/mqueue/queues_max",
    "mq_msg_max": "fs/mqueue/msg_max",
    "mq_msgsize_max": "fs/mqueue/msgsize_max",
    "mq_msg_default": "fs/mqueue/msg_default",
    "mq_msgsize_default": "fs/mqueue/msgsize_default",
}
# A kernel built without POSIX message queues has none of these; CRIU writes 0 then.
_MAY_BE_MISSING = (
    "auto_msgmni",
    "mq_queues_max",
    "mq_msg_max",
    "mq_msgsize_max",
    "mq_msg_default",
    "mq_msgsize_default",
)
SEM = "kernel/sem"
RMID_FORCED = "kernel/shm_rmid_forced"

_INT_MAX = (1 << 31) - 1
_IPCMNI = (1 << 24, 1 << 15)  # ipc/util.h: the most objects of a kind, with ipcmni_extend and without
_UNLIMITED = (1 << 64) - 1 - (1 << 24)  # SHMMAX and SHMALL of linux/shm.h: the largest that cannot overflow


def collect() -> Variables:
    """The variables of the namespace the caller is in. Raises KernelError."""
    with doing("reading the namespace's variables"):
        values: dict[str, int | None] = {}
        for name, path in _PATHS.items():
            try:
                values[name] = sysctl.read_int(path)
            except FileNotFoundError:
                if name not in _MAY_BE_MISSING:
                    raise
                values[name] = None if name.endswith("_default") else 0
        for kind in preset.KINDS:
            armed = sysctl.read_int(preset.name(kind))
            values[f"{kind}_next_id"] = None if armed == preset.UNSET else armed
        a, b, c, d = map(int, sysctl.read(SEM).split())
        forced = sysctl.read_int(RMID_FORCED)
        return Variables(sem_ctls=(a, b, c, d), shm_rmid_forced=forced, **values)  # type: ignore[arg-type]


def of(facts: Mapping[str, Any]) -> Variables:
    """The variables that dataclasses.asdict() and JSON have made this of. Raises ValueError, TypeError, KeyError."""
    for field in dataclasses.fields(Variables):
        value = facts[field.name]
        for number in value if field.name == "sem_ctls" else [value]:
            if not (number is None or (type(number) is int and 0 <= number < 1 << 64)):
                raise ValueError(f"{field.name} is {number!r}")
    return Variables(**{**facts, "sem_ctls": tuple(facts["sem_ctls"])})


def moved(before: Variables) -> list[str]:
    """The variables that are not as they were, but for those that a dump itself sets. Raises KernelError."""
    now = collect()
    names = {"sem_ctls": SEM, **{f"{kind}_next_id": preset.name(kind) for kind in preset.KINDS}, **_PATHS}
    return [
        path.replace("/", ".")
        for name, path in names.items()
        if name != "msg_ctlmax" and getattr(now, name) != getattr(before, name)
    ]


def open_limits(before: Variables) -> Sequence[str]:
    """Have every limit out of the way, and kernel.shm_rmid_forced at 0.

    Limits may have been lowered after the objects came to be, so no limit of the image can be in
    force while its objects are made. A queue takes its qbytes from msgmnb when it is created, and
    IPC_SET of more than msgmnb needs CAP_SYS_RESOURCE: an open msgmnb spares that too. A limit that is
    not ours to write stays, and an object that it does not admit is refused; those are what is given.
    Raises KernelError.
    """
    closed: list[str] = []
    with doing("opening the namespace's limits"):
        _set(RMID_FORCED, before.shm_rmid_forced, 0)
        for path, wide in _wide(before):
            for value in wide:
                try:
                    sysctl.write(path, value)
                    break
                except OSError as error:
                    if isinstance(error, PermissionError):
                        closed.append(path.replace("/", "."))
                        break
                    if error.errno not in (errno.EINVAL, errno.ERANGE) or value == wide[-1]:
                        raise
    return closed


def _wide(before: Variables) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """The limits that are to be raised: path, and the values to try."""
    for name, wide in (
        ("msg_ctlmax", (_INT_MAX,)),
        ("msg_ctlmnb", (_INT_MAX,)),
        ("shm_ctlmax", (_UNLIMITED,)),
        ("shm_ctlall", (_UNLIMITED,)),
        ("msg_ctlmni", _IPCMNI),
        ("shm_ctlmni", _IPCMNI),
    ):
        if getattr(before, name) < wide[0]:
            yield _PATHS[name], wide
    semmsl, semmns, semopm, _ = before.sem_ctls
    # Two operations at once are what sem_otime takes.
    yield SEM, tuple(f"{max(semmsl, 1 << 30)} {max(semmns, 1 << 30)} {max(semopm, 2)} {most}" for most in _IPCMNI)


def apply(variables: Variables, *, rmid_forced: bool = True) -> None:
    """Set every variable; limits first, then the presets, shm_rmid_forced last.

    Raises KernelError for the first that could not be set, when all others are.

    rmid_forced=False leaves shm_rmid_forced as it is: writing 1 destroys each segment that nobody has
    attached and whose creator has exited.
    """
    steps = itertools.chain(_disarming(variables), _limits(variables), _presets(variables))
    _all(itertools.chain(steps, [functools.partial(set_rmid_forced, variables)] if rmid_forced else []))


def apply_presets(variables: Variables) -> None:
    """Set the presets alone. Raises as apply()."""
    _all(itertools.chain(_disarming(variables), _presets(variables)))


def put_back(variables: Variables, *names: str) -> None:
    """Set some of the variables, by their names in model.Variables. Raises as apply()."""
    present = collect()
    _all(functools.partial(_set, _PATHS[name], getattr(present, name), getattr(variables, name)) for name in names)


def set_rmid_forced(variables: Variables) -> None:
    """Set kernel.shm_rmid_forced. Raises OSError."""
    _set(RMID_FORCED, sysctl.read_int(RMID_FORCED), variables.shm_rmid_forced)


_Steps = Iterable[Callable[[], None]]


def _all(steps: _Steps) -> None:
    with doing("setting the namespace's variables"):
        failures: list[OSError] = []
        for step in steps:
            try:
                step()
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]


def _disarming(variables: Variables) -> _Steps:
    # It makes an object, for which the final limits may have no room.
    for kind in preset.KINDS:
        if getattr(variables, f"{kind}_next_id") is None:
            yield functools.partial(preset.disarm, kind)


def _limits(variables: Variables) -> _Steps:
    present = collect()
    for name, path in _PATHS.items():
        wanted = getattr(variables, name)
        # 0 stands for a variable that the kernel of the dump did not have: none of these can be 0.
        if wanted is not None and (wanted or name not in _MAY_BE_MISSING):
            yield functools.partial(_set, path, getattr(present, name), wanted)
    if variables.sem_ctls != present.sem_ctls:
        yield functools.partial(sysctl.write, SEM, " ".join(map(str, variables.sem_ctls)))


def _presets(variables: Variables) -> _Steps:
    for kind in preset.KINDS:
        wanted = getattr(variables, f"{kind}_next_id")
        if wanted is not None:
            yield functools.partial(sysctl.write, preset.name(kind), wanted)


def _set(path: str, present: int | None, wanted: int) -> None:
    # A variable that is right already is not written: it may be missing, or not ours to write.
    if present != wanted:
        sysctl.write(path, wanted)
