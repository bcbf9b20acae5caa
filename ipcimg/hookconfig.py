"""The configuration of `ipcimg hook`: TOML files, of which a later one wins key by key.

Whoever can write such a file decides what becomes of a checkpoint, and criu runs as root. So a file, or a directory of
files, that others can write is refused, and a symbolic link that is found there, since it would take every directory on
its way to be looked at. So is whatever is not known here: a key that is misspelt would be a wish that nobody heard.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .errors import ConfigurationError, DirectoryError, explain, quoted
from .trust import who_could_change

DIRECTORY = "/etc/ipcimg"  # hook.toml, and hook.d with more
_LARGEST = 1 << 20  # bytes of a file
_LOG_NAME = re.compile(r"[^/]+\.log")  # so it is no image, nor anything else that criu, a runtime or ipcimg looks for


@dataclass(frozen=True, slots=True)
class Dump:
    """What is dumped, when, and to where."""

    stage: str = "post-dump"  # or "network-lock", before CRIU dumps; or "none"
    place: str = "criu"  # in the place of CRIU's images; or "beside" them, in a directory of its own
    required: bool = False  # is it an error where CRIU dumps no IPC namespace?


@dataclass(frozen=True, slots=True)
class Restore:
    """What is restored, and when."""

    stage: str = "post-setup-namespaces"  # of what was dumped "beside"; or "none", and then there must not be any
    verify: bool = True  # is every set compared with its manifest, before a restore begins?


@dataclass(frozen=True, slots=True)
class Log:
    """Where it is said what was done."""

    file: str = "ipcimg-hook.log"  # of the image directory, or an absolute path; "" for standard error alone


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it, and where it is from."""

    dump: Dump = field(default_factory=Dump)
    restore: Restore = field(default_factory=Restore)
    log: Log = field(default_factory=Log)
    files: tuple[str, ...] = ()  # in the order in which they were read
    origins: Mapping[str, str] = field(default_factory=dict)  # "dump.stage" → the file that it is from

    def values(self) -> Iterator[tuple[str, str | bool]]:
        """Each key, as "dump.stage", with its value."""
        for name in TABLES:
            table = getattr(self, name)
            for one in fields(table):
                yield f"{name}.{one.name}", getattr(table, one.name)


TABLES = ("dump", "restore", "log")
CHOICES = {
    "dump.stage": ("post-dump", "network-lock", "none"),
    "dump.place": ("criu", "beside"),
    "restore.stage": ("post-setup-namespaces", "none"),
}


def read(files: Sequence[str] = (), directory: str = DIRECTORY) -> Configuration:
    """The configuration in these files; without any, in hook.toml and hook.d/*.toml of the directory, as far as there.

    Raises ConfigurationError, or DirectoryError where hook.d cannot be listed.
    """
    made = Configuration()
    for file in files or _default_files(directory):
        for table, keys in _parsed(file).items():
            made = _with(made, file, table, keys)
        made = replace(made, files=(*made.files, file))
    _refuse_contradictions(made)
    return made


def _refuse_contradictions(made: Configuration) -> None:
    def refused(key: str, why: str) -> ConfigurationError:
        return ConfigurationError(made.origins[key], key, why)

    if made.dump.stage == "network-lock" and made.dump.place == "criu":
        why = '"network-lock" is before CRIU has dumped anything; it goes with place = "beside" alone'
        raise refused("dump.stage", why)
    if made.dump.stage == "none" and made.dump.required:
        raise refused("dump.required", 'is true, and dump.stage is "none": nothing would be dumped')
    if made.dump.stage != "none" and made.dump.place == "beside" and made.restore.stage == "none":
        raise refused("restore.stage", 'is "none", and dump.place "beside": nobody would restore what is dumped')


def _default_files(directory: str) -> Iterator[str]:
    main, more = os.path.join(directory, "hook.toml"), os.path.join(directory, "hook.d")
    try:
        if not os.path.lexists(directory):
            return
        _refuse_others(directory, os.lstat(directory))
        if os.path.lexists(main):
            _refuse_others(main, os.lstat(main))
            yield main
        if os.path.lexists(more):
            _refuse_others(more, os.lstat(more))
            for name in sorted(os.listdir(more)):
                if name.endswith(".toml"):
                    file = os.path.join(more, name)
                    _refuse_others(file, os.lstat(file))
                    yield file
    except OSError as error:
        raise DirectoryError(f"configuration: {explain(error)}") from error


def _refuse_others(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ConfigurationError(path, None, "is a symbolic link")
    if why := who_could_change(status):
        raise ConfigurationError(path, None, why)


def _parsed(file: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml  # type: ignore[import-not-found,unused-ignore]
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as opened:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(file, None, "is not a regular file")
            _refuse_others(file, status)
            text = opened.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(file, None, explain(error).removeprefix(f"{file}: ")) from error
    if len(text) > _LARGEST:
        raise ConfigurationError(file, None, f"is longer than {_LARGEST} bytes")
    try:
        found: dict[str, Any] = toml.loads(text.decode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(file, None, f"byte {error.start}: is not UTF-8") from error
    except toml.TOMLDecodeError as error:
        raise ConfigurationError(file, None, f"is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(file, None, "is nested too deeply") from error
    return found


def _with(made: Configuration, file: str, table: str, keys: object) -> Configuration:
    """What was read so far, and a table of another file."""
    if table not in TABLES:
        raise ConfigurationError(file, table, f"there is no such table, only {', '.join(TABLES)}")
    if not isinstance(keys, dict):
        raise ConfigurationError(file, table, f"is {_kind(keys)}, and should be a table")
    part = getattr(made, table)
    for name, value in keys.items():
        key = f"{table}.{name}"
        if name not in (known := [one.name for one in fields(part)]):
            raise ConfigurationError(file, key, f"there is no such key, only {', '.join(known)}")
        wanted = type(getattr(part, name))
        if type(value) is not wanted:
            raise ConfigurationError(file, key, f"is {_kind(value)}, and should be {_KINDS[wanted]}")
        if value not in CHOICES.get(key, (value,)):
            allowed = ", ".join(f'"{one}"' for one in CHOICES[key])
            raise ConfigurationError(file, key, f"is {quoted(value)}, and should be one of {allowed}")
        if "\0" in str(value):
            raise ConfigurationError(file, key, "has a null character in it")
        if key == "log.file" and value and not (value.startswith("/") or _LOG_NAME.fullmatch(value)):
            why = f"is {quoted(value)}, and should be NAME.log, in the image directory, or an absolute path"
            raise ConfigurationError(file, key, why)
        part = replace(part, **{name: value})
        made = replace(made, **{table: part}, origins={**made.origins, key: file})
    return made


_KINDS: dict[type, str] = {
    bool: "true or false",
    str: "a string",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "a table",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a time")
