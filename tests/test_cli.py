"""The commands' words and exit status, as far as they need no rights: one line says what is wrong."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from tests import wire
from tests.commands import IPCIMG, SHOW, refused, run

NO_PROCESS = 4194305  # above the highest pid_max there can be


def show_refused(*arguments: object) -> str:
    """Run ipcimg-show, which is to fail; gives its one line on standard error."""
    done = run(SHOW, *arguments, status=2)
    [line] = done.stderr.splitlines()
    assert line.startswith("ipcimg-show: Error: ")
    return line.removeprefix("ipcimg-show: Error: ")


# ---- wrong arguments -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "required: COMMAND"),
        (["undo"], "invalid choice: 'undo'"),
        (["dump"], "one of the arguments -D/--images-dir --criu-set is required"),
        (["dump", "-D"], "expected one argument"),
        (["dump", "-D", "x", "-t", "1", "--ipc-ns", "y"], "not allowed with argument"),
        (["dump", "-D", "x", "-t", "one"], "'one' is not a number from 0 to 4294967295"),
        (["dump", "-D", "x", "-t", "-1"], "-t"),
        (["dump", "-D", "x", "--ns-id", "4294967296"], "'4294967296' is not a number from 0 to 4294967295"),
        (["dump", "-D", "x", "--ns-id", "٣"], "is not a number"),
        (["dump", "-D", "x", "--criu"], "unrecognized arguments: --criu"),  # no abbreviations
        (["dump", "-D", "x", "y"], "unrecognized arguments: y"),
        (["restore"], "required: -D/--images-dir"),
        (["restore", "-D", "x", "--new-ns"], "--new-ns needs --pin PATH or a COMMAND"),
        (["restore", "-D", "x", "--pin", "y"], "--pin and COMMAND go with --new-ns"),
        (["restore", "-D", "x", "--", "true"], "--pin and COMMAND go with --new-ns"),
        (["restore", "-D", "x", "--new-ns", "-t", "1"], "not allowed with argument"),
        (["check", "--feature", "telepathy"], "there is no feature telepathy"),
    ],
)
def test_wrong_arguments(arguments: list[str], why: str, tmp_path: pathlib.Path) -> None:
    done = run(IPCIMG, *arguments, status=2)
    assert done.stdout == ""
    *usage, line = done.stderr.splitlines()
    assert usage[0].startswith("usage: ipcimg")
    assert re.match(r"ipcimg( dump| restore| check)?: error: ", line)
    assert why in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "why"),
    [
        ("dump", ["-D", "x", "--zstd"], "--zstd goes with -D -"),
        ("dump", ["-D", "x", "--status-fd", "2"], "--status-fd: descriptor 2 is a standard stream"),
        ("restore", ["-D", "x", "--pin", "y"], "--pin and COMMAND go with --new-ns"),
        ("diff", ["-", "-"], "there is one standard input, which can be A or B"),
        ("pod dump", ["-t1", "-Dx", "--container", "a:1", "--container", "a:2"], "a --container is named twice"),
    ],
)
def test_what_no_parser_sees(command: str, arguments: list[str], why: str) -> None:
    """It comes with the usage of what was asked for."""
    usage, *_, line = run(IPCIMG, *command.split(), *arguments, status=2).stderr.splitlines()
    assert usage.startswith(f"usage: ipcimg {command} ")
    assert line == f"ipcimg {command}: error: {why}"


@pytest.mark.parametrize("arguments", [["--type", "some"], ["--ns-id", "-1"], ["--nothing"], ["--json=some"]])
def test_wrong_arguments_of_show(arguments: list[str]) -> None:
    done = run(SHOW, *arguments, status=1)  # as lsipc has it
    assert done.stderr.splitlines()[-1].startswith("ipcimg-show: error: ")


@pytest.mark.parametrize("command", [IPCIMG, SHOW])
def test_version_and_help(command: tuple[str, ...]) -> None:
    assert re.fullmatch(r"ipcimg \d+\.\d+\.\d+\n", run(command, "--version").stdout)
    assert run(command, "--help").stdout.startswith("usage: ipcimg")


# ---- namespaces that are none ----------------------------------------------------------------


@pytest.mark.parametrize("command", ["dump", "restore"])
@pytest.mark.parametrize("pid", [0, NO_PROCESS, 4294967295])
def test_no_such_process(command: str, pid: int, tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path / "set", {"ipcns-var-1.img": wire.variables()})
    where = tmp_path / ("new" if command == "dump" else "set")
    assert refused(command, "-t", pid, "-D", where) == f"there is no process {pid}"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["dump", "restore"])
@pytest.mark.parametrize("kind", ["file", "fifo", "directory", "socket", "/dev/null", "/dev/zero"])
def test_not_a_namespace_file(command: str, kind: str, tmp_path: pathlib.Path) -> None:
    """A FIFO nobody writes to must not block either."""
    path = make(kind, tmp_path)
    assert refused(command, "--ipc-ns", path, "-D", tmp_path / "new") == f"{path} is not an IPC namespace"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["net", "mnt", "pid", "uts", "user"])
def test_another_kind_of_namespace(kind: str, tmp_path: pathlib.Path) -> None:
    path = f"/proc/self/ns/{kind}"
    assert refused("dump", "--ipc-ns", path, "-D", tmp_path / "new") == (
        f"{path} is a namespace, but not an IPC namespace"
    )


def test_namespace_file_is_missing(tmp_path: pathlib.Path) -> None:
    assert "No such file or directory" in refused("dump", "--ipc-ns", tmp_path / "no", "-D", tmp_path / "new")


# ---- images that are none --------------------------------------------------------------------


def make(kind: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """Something that is no image and no namespace."""
    path = tmp_path / "it"
    if kind.startswith("/"):
        return pathlib.Path(kind)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, 0o140600)
    else:
        path.write_bytes(b"something else")
    return path


@pytest.mark.parametrize("kind", ["fifo", "socket", "/dev/null", "/dev/zero"])
def test_show_what_is_no_regular_file(kind: str, tmp_path: pathlib.Path) -> None:
    path = make(kind, tmp_path)
    assert show_refused(path).startswith(f"{path}: ")


def test_show_what_is_missing(tmp_path: pathlib.Path) -> None:
    assert show_refused(tmp_path / "no") == f"{tmp_path}/no: No such file or directory"


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_image_of_a_set_that_is_no_regular_file(kind: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "set").mkdir()
    make(kind, tmp_path).rename(tmp_path / "set" / "ipcns-var-1.img")
    why = refused("restore", "-D", tmp_path / "set")
    assert why.startswith(f"{tmp_path}/set/ipcns-var-1.img: ")
    assert show_refused(tmp_path / "set") == why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "{}: is empty"),
        (b"#!/bin/sh\n", "{}, byte 0: unknown magic 0x622f2123; "),
        (wire.u32(wire.COMMON, 0x12345678), "{}, byte 4: unknown magic 0x12345678; "),
        (wire.image(wire.SEM), "{}, byte 4: unknown magic 0x59573019; this should be IPC_VAR"),
        (wire.image(wire.VAR), "{}, byte 8: ends where ipc_var_entry should begin"),
    ],
    ids=["empty", "text", "no kind", "another kind", "cut"],
)
def test_wrong_image(data: bytes, why: str, tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, {"ipcns-var-1.img": data})
    assert refused("restore", "-D", tmp_path).startswith(why.format(tmp_path / "ipcns-var-1.img"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (wire.u32(wire.COMMON, 0x12345678), "unknown magic 0x12345678; known are "),
        (wire.ids(9), "is of kind IDS, which has nothing of an IPC namespace in it"),
        (
            wire.u32(wire.INVENTORY) + wire.entry(b""),
            "is of kind INVENTORY, which has nothing of an IPC namespace in it",
        ),
    ],
    ids=["unknown", "ids", "inventory"],
)
def test_show_another_kind(data: bytes, why: str, tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, {"x.img": data})
    assert why in show_refused(tmp_path / "x.img")


# ---- directories -----------------------------------------------------------------------------


@pytest.mark.parametrize("run_refused", [lambda where: refused("restore", "-D", where), show_refused])
def test_no_set(run_refused: object, tmp_path: pathlib.Path) -> None:
    assert callable(run_refused)
    assert run_refused(tmp_path) == (f"image directory {tmp_path}: no images of an IPC namespace (ipcns-*-N.img) in it")


def test_two_sets(tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, {"ipcns-var-3.img": wire.variables(), "ipcns-var-20.img": wire.variables()})
    assert refused("restore", "-D", tmp_path) == (
        f"image directory {tmp_path}: 2 sets in it; choose one by --ns-id: 3, 20"
    )
    assert "no set 4 in it, only 3, 20" in refused("restore", "-D", tmp_path, "--ns-id", 4)
    # Nothing is done by looking: show shows both.
    assert run(SHOW, tmp_path).stdout.count("IPC namespace") == 2
    assert run(SHOW, tmp_path, "--ns-id", 20).stdout.startswith("IPC namespace 20, ")


def test_missing_directory(tmp_path: pathlib.Path) -> None:
    assert refused("restore", "-D", tmp_path / "no") == f"{tmp_path}/no: No such file or directory"
    assert "No such file or directory" in refused("dump", "-D", tmp_path / "no" / "set")


def test_directory_that_is_a_file(tmp_path: pathlib.Path) -> None:
    path = make("file", tmp_path)
    assert refused("restore", "-D", path) == f"{path}: is no image directory, and no tar, tar.gz or tar.zst with one"
    assert refused("dump", "-D", path) == f"image directory {path}: Not a directory"
    assert path.read_bytes() == b"something else"


def test_existing_set(tmp_path: pathlib.Path) -> None:
    """Refused before anything of the namespace is read."""
    wire.write(tmp_path, {"ipcns-var-1.img": wire.variables()})
    assert refused("dump", "-D", tmp_path) == (
        f"image directory {tmp_path}: set 1 is there already; --force replaces it"
    )


def test_file_names_cannot_speak_to_the_terminal(tmp_path: pathlib.Path) -> None:
    """What is wrong with a hostile name is still said on one line."""
    path = tmp_path / "a\x1b[31m\nipcimg: Error: b"
    assert "\x1b" not in show_refused(path)
    assert "\x1b" not in refused("restore", "-D", path)
