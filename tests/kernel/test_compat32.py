"""Objects that 32-bit programs make and use, by the compat system calls."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from ..commands import ipcimg, run
from ..fidelity import row
from . import oracle
from .oracle import Namespace

SOURCE = Path(__file__).with_name("compat32.c")
INT_MAX = 2**31 - 1

pytestmark = row("32-bit")


def not_tested(why: str) -> NoReturn:
    """In CI a failure, elsewhere a skip that says so."""
    if os.environ.get("CI"):
        pytest.fail(f"NOT TESTED: {why}")
    pytest.skip(f"NOT TESTED: {why}")


@pytest.fixture(scope="session")
def compat32(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of compat32.c."""
    if platform.machine() != "x86_64":
        pytest.skip(f"NOT TESTED: Debian has no packages for 32-bit programs on {platform.machine()}")
    directory = tmp_path_factory.mktemp("compat32")
    empty, program = str(directory / "empty"), str(directory / "compat32")
    (directory / "empty.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
    try:
        run(["gcc", "-m32", "-o", empty, f"{empty}.c"])
    except (FileNotFoundError, AssertionError):
        not_tested("gcc -m32 makes no programs here; apt-get install gcc-multilib")
    try:
        run([empty])
    except OSError as error:
        not_tested(f"this kernel runs no 32-bit programs: {error.strerror}")
    run(["gcc", "-m32", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, str(SOURCE)])
    return program


def inside(namespace: Namespace, program: str, *arguments: object) -> str:
    """Run the program in a namespace; gives what it printed."""
    return run(["nsenter", f"--ipc={namespace.path}", program], *arguments).stdout


def carry(source: Namespace, target: Namespace, directory: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", directory)
    ipcimg("restore", "-t", target.pid, "-D", directory)


def test_made_and_checked_by_32_bit(compat32: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    inside(source, compat32, "make")
    carry(source, target, tmp_path / "d")
    for namespace in (target, source):  # also that the dump took nothing away
        assert inside(namespace, compat32, "check") == ""


def test_made_by_32_bit_seen_by_64_bit(compat32: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    inside(source, compat32, "make")
    carry(source, target, tmp_path / "d")
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    assert restored == original
    assert original["messages"][98305] == [(7, pattern(0, 13))]  # type: ignore[index]


def pattern(n: int, size: int) -> bytes:
    return bytes((i * 7 + n * 31 + 1) % 256 for i in range(size))


def objects() -> None:
    """What the tables of compat32.c say."""
    types_and_sizes = [(5, 5), (1, 0), (INT_MAX, 8192), (5, 1), (INT_MAX, 0)]
    messages = [(mtype, pattern(n, size)) for n, (mtype, size) in enumerate(types_and_sizes)]
    oracle.queue(0x1234, 0o640, messages, wanted=INT_MAX)
    oracle.set_variable("kernel/msgmnb", 4096)  # from which a queue takes its qbytes
    oracle.own("msg", oracle.queue(0x80000001, messages=[(7, pattern(0, 13))], wanted=98305), 100000, 1234)
    oracle.set_variable("kernel/msgmnb", 16384)
    oracle.queue(wanted=2)
    oracle.semaphores(0x77, [0, 1, 32766, 32767, 7], 0o666, wanted=INT_MAX)
    oracle.use(oracle.semaphores(0xDEADBEEF, [3, 32767], wanted=98305))
    oracle.own("sem", 98305, 100000, 1234)
    oracle.semaphores(wanted=2)
    oracle.segment(0x99, 10001, [(0, pattern(0, 10001))], 0o640, wanted=INT_MAX)
    oracle.own("shm", oracle.segment(0xCAFEBABE, 4096, [(0, pattern(1, 4096))], wanted=98305), 100000, 1234)
    oracle.segment(size=20480, wanted=2)


def test_made_by_64_bit_checked_by_32_bit(compat32: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(objects)
    carry(source, target, tmp_path / "d")
    for namespace in (target, source):
        assert inside(namespace, compat32, "check") == ""


def test_stays_attached(compat32: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """A 32-bit program keeps its attachment over the dump, and one can attach what was restored."""
    inside(source, compat32, "make")
    for namespace in (source, target):
        command = ["nsenter", f"--ipc={namespace.path}", compat32, "attach"]
        user = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert user.stdout is not None
            assert user.stdout.readline() == "attached\n"
            if namespace is source:
                carry(source, target, tmp_path / "d")
            assert namespace.do(lambda: oracle.table("shm"))[INT_MAX]["nattch"] == 1
            output, _ = user.communicate(timeout=60)
            assert (user.returncode, output) == (0, "")
        finally:
            user.kill()
            user.wait()
        assert namespace.do(lambda: oracle.table("shm"))[INT_MAX]["nattch"] == 0


def test_types_that_32_bit_cannot_tell(compat32: str, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """The kernel cuts them for a 32-bit receiver: of what was restored in the same way."""
    types = [1, 2**31 - 1, 2**31, 2**32 + 5, 2**63 - 1]
    for key in (1, 2):
        source.do(lambda key=key: oracle.queue(key, messages=[(mtype, b"x") for mtype in types]))  # type: ignore[misc]
    carry(source, target, tmp_path / "d")
    seen = [inside(namespace, compat32, "types", 0).split() for namespace in (source, target)]
    assert seen[0] == seen[1]
    assert seen[1][:2] == ["1", "2147483647"]
    assert target.do(lambda: oracle.receive_all(1)) == [(mtype, b"x") for mtype in types]
