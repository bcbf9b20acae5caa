"""`ipcimg dump -D - | ssh HOST ipcimg restore -D -`, over sshd and a network of its own; and either end killed.

HOST is a network and a mount namespace of this machine, joined to another one by a pair of virtual interfaces.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from ..commands import IPCIMG, ipcimg, refused
from . import oracle, test_recover
from .oracle import Enterable, Namespace
from .test_round_trip import fill

pytestmark = [
    pytest.mark.usefixtures("temporary"),
    pytest.mark.slow,
    pytest.mark.exhaustive,
]  # an emulated processor takes minutes for the ciphers

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
HERE, HOST = "10.77.0.1", "10.77.0.2"
SSHD = """
Port 22
ListenAddress {host}
HostKey {at}/host
AuthorizedKeysFile {at}/user.pub
PidFile {at}/pid
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""
# The account of root may be locked; and /run is whose that runs, so the server has its own.
START_SSHD = """
set -e
mount -t tmpfs none /run
mkdir -m 755 /run/sshd
sed 's/^root:[^:]*:/root:*:/' /etc/shadow > {at}/shadow
chmod 600 {at}/shadow
mount --bind {at}/shadow /etc/shadow
exec /usr/sbin/sshd -D -e -f {at}/config
"""


class Host:
    """A machine that is reached by ssh, and the one it is reached from."""

    def __init__(self, at: Path, here: int, there: int) -> None:
        """here and there are processes in the network namespaces; at is where everything is kept."""
        self.at, self._here, self.there = at, here, there
        self.temporary = at / "tmp"  # $TMPDIR there
        self.temporary.mkdir()

    def ssh(
        self, *command: object, stdin: int | IO[bytes] = subprocess.PIPE, stops_at: tuple[str, int] | None = None
    ) -> subprocess.Popen[bytes]:
        """ipcimg there; stops_at is the system call, with its number, at which it stops until it is killed.

        Its process id is in the file `ipcimg` from its beginning on.
        """
        (self.at / "ipcimg").unlink(missing_ok=True)
        traced: list[str] = []
        if stops_at is not None:
            at = ("-e", f"trace={stops_at[0]}", "-e", f"inject={stops_at[0]}:signal=STOP:when={stops_at[1]}")
            traced = ["strace", "-D", "-qq", "-o", "/dev/null", *at]
        called = shlex.join(["env", f"TMPDIR={self.temporary}", *traced, *IPCIMG, *map(str, command)])
        pid = f"echo $$ > {self.at}/new && mv {self.at}/new {self.at}/ipcimg"
        options = [f"-oUserKnownHostsFile={self.at}/known", "-oStrictHostKeyChecking=yes", "-oBatchMode=yes"]
        ssh = ["ssh", "-F", "none", "-i", str(self.at / "user"), *options, f"root@{HOST}"]
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self._here}/ns/net", *ssh, f"cd {ROOT} && {pid} && exec {called}"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def pid(self) -> int:
        """Of ipcimg there, once it has begun."""
        wait_until((self.at / "ipcimg").exists)
        return int((self.at / "ipcimg").read_text())

    def received(self) -> int:
        """How many bytes ipcimg there has read; -1 before it reads."""
        for fd in Path(f"/proc/{self.pid()}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(fd).startswith(f"{self.temporary}/"):
                    return fd.stat().st_size
        return -1


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    for program in ("/usr/sbin/sshd", "ssh", "ip"):
        if shutil.which(program) is None:
            reason = f"no {program}: NOT TESTED"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    at = tmp_path_factory.mktemp("host")
    with contextlib.ExitStack() as stack:
        here, there = Namespace("-n"), Namespace("-n", "-m")
        stack.callback(here.close)
        stack.callback(there.close)
        subprocess.run(
            f"ip link add here netns {here.pid} type veth peer there netns {there.pid}".split(),
            check=True,
        )
        for pid, name, address in ((here.pid, "here", HERE), (there.pid, "there", HOST)):
            for change in (["address", "add", f"{address}/30", "dev", name], ["link", "set", name, "up"]):
                subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *change], check=True)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", at / key], check=True)
        (at / "known").write_text(f"{HOST} {(at / 'host.pub').read_text()}")
        (at / "config").write_text(SSHD.format(at=at, host=HOST))
        sshd = subprocess.Popen(
            ["nsenter", f"--target={there.pid}", "--net", "--mount", "sh", "-c", START_SSHD.format(at=at)],
            stderr=subprocess.PIPE,
        )
        stack.callback(sshd.wait)
        stack.callback(sshd.terminate)
        assert sshd.stderr is not None
        stack.enter_context(sshd.stderr)
        assert sshd.stderr.readline().startswith(b"Server listening on ")
        yield Host(at, here.pid, there.pid)


def dumping(source: Namespace, *options: object) -> subprocess.Popen[bytes]:
    command = [*IPCIMG, "dump", "-t", str(source.pid), "-D", "-", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The status, and what was printed on standard error."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    assert process.stderr is not None
    with process.stderr:
        errors = process.stderr.read().decode()
    return process.wait(60), errors


def state() -> object:
    """All that a dump and a restore that comes to nothing leave as they were."""
    queues, sets = oracle.table("msg"), oracle.table("sem")
    return (
        (queues, sets, oracle.rows("shm"), oracle.variables()),
        {msqid: oracle.peek_all(msqid) for msqid in queues},
        {semid: oracle.values(semid, row["nsems"]) for semid, row in sets.items()},
    )


def migrated(source: Namespace, host: Host, *arguments: object) -> str:
    """The pipe of the README; gives what it printed on standard output."""
    dump = dumping(source, "--freeze")
    restore = host.ssh("restore", "-D", "-", *arguments, stdin=dump.stdout or subprocess.PIPE)
    assert dump.stdout is not None
    dump.stdout.close()
    out, errors = restore.communicate(timeout=60)
    status, said = ended(dump)
    assert (restore.returncode, errors, status) == (0, b"", 0), (errors, said)
    assert said.startswith("ipcimg: dumped ")
    assert said.endswith(" into standard output\n")
    return out.decode()


# ---- all goes well --------------------------------------------------------------------------


def test_into_a_namespace(source: Namespace, target: Namespace, host: Host, temporary: Path) -> None:
    source.do(fill)
    assert migrated(source, host, "-t", target.pid).startswith("restored 4 message queues (261 messages), ")
    assert oracle.state(source.pid) in "RS"
    assert list(temporary.iterdir()) == list(host.temporary.iterdir()) == []
    assert target.do(oracle.everything) == source.do(oracle.everything)


def test_into_a_new_one(source: Namespace, host: Host) -> None:
    """As the README has it. The pin is in the mount namespace of the host."""
    source.do(fill)
    migrated(source, host, "--new-ns", "--pin", "/run/app.ipc")
    try:
        pinned = Enterable(f"/proc/{host.there}/root/run/app.ipc")
        assert pinned.do(oracle.everything) == source.do(oracle.everything)
    finally:
        subprocess.run(["nsenter", f"--target={host.there}", "--mount", "umount", "/run/app.ipc"], check=True)


# ---- one end is killed ----------------------------------------------------------------------


@pytest.fixture
def big(source: Namespace) -> Namespace:
    """A source whose stream is longer than what a pipe holds."""
    source.do(fill)
    source.do(lambda: oracle.segment(0xB16, 4 * MIB, [(0, os.urandom(4 * MIB))]))
    return source


class Held:
    """A migration of which so many bytes have arrived, and no more will before somebody says so."""

    def __init__(self, source: Namespace, target: Namespace, host: Host, size: int) -> None:
        self.dump, self._host = dumping(source, "--freeze"), host
        self.ssh = host.ssh("restore", "-D", "-", "-t", target.pid)
        assert self.dump.stdout is not None
        assert self.ssh.stdin is not None
        self.stream, self.to_ssh = self.dump.stdout, self.ssh.stdin
        self.forward(size)
        wait_until(lambda: host.received() == size)

    def forward(self, size: int = -1) -> None:
        """Without a size all that there is."""
        self.to_ssh.write(self.stream.read(size))
        self.to_ssh.flush()


@pytest.mark.parametrize("size", [0, 2 * MIB])
def test_the_reader_is_killed_while_it_reads(
    big: Namespace, target: Namespace, host: Host, temporary: Path, size: int
) -> None:
    """Nothing was made; the dump says that it did not get through, and the source goes on. Then it works."""
    before, there = big.do(state), target.do(state)
    held = Held(big, target, host, size)
    os.kill(host.pid(), 9)
    assert ended(held.ssh)[0] != 0
    status, said = ended(held.dump)
    assert status == 1
    early = "Broken pipe, since its reader ended before the archive did"
    assert said == f"ipcimg: Error: writing standard output: {early}\n"
    assert oracle.state(big.pid) in "RS"
    assert (big.do(state), target.do(state)) == (before, there)
    assert list(temporary.iterdir()) == list(host.temporary.iterdir()) == []
    assert ipcimg("recover", "-t", target.pid).stdout.endswith("nothing to recover\n")
    migrated(big, host, "-t", target.pid)
    assert target.do(oracle.everything) == big.do(oracle.everything)


@pytest.mark.parametrize("kind", ["msg", "sem", "shm"])
def test_the_reader_is_killed_while_it_makes_objects(
    source: Namespace, target: Namespace, host: Host, kind: str
) -> None:
    """What is half there is undone by recover."""
    source.do(test_recover.fill)
    target.do(test_recover.strangers)
    if kind == "shm":
        source.do(lambda: oracle.segment(0xB16, 64 * MIB, [(0, os.urandom(MIB) * 64)]))
    before, there = source.do(state), target.do(state)
    dump = dumping(source)
    # Segments are there when the first queue comes.
    stops_at = ("semget", 3) if kind == "sem" else ("msgget", 1 if kind == "shm" else 3)
    restore = host.ssh("restore", "-D", "-", "-t", target.pid, stdin=dump.stdout or subprocess.PIPE, stops_at=stops_at)
    pid = host.pid()
    # Strangers are one of each, and the journal is a segment.
    wait_until(lambda: target.do(lambda: len(oracle.table(kind))) > 1 + (kind == "shm"))
    os.kill(pid, 9)
    assert ended(restore)[0] != 0
    assert ended(dump)[0] == 0  # all that it was to do was done
    assert "holds an unfinished restore" in refused("dump", "-t", target.pid, "-D", host.at / "none")
    assert "undone, " in ipcimg("recover", "-t", target.pid).stdout
    assert (source.do(state), target.do(state)) == (before, there)
    assert oracle.state(source.pid) in "RS"


@pytest.mark.parametrize("who", ["dump", "ssh"])
@pytest.mark.parametrize("size", [0, 2 * MIB])
def test_the_writer_is_killed(big: Namespace, target: Namespace, host: Host, who: str, size: int) -> None:
    """The dump itself, or what carries it: the reader sees the end of the stream, and refuses it."""
    before, there = big.do(state), target.do(state)
    held = Held(big, target, host, size)
    pid = host.pid()
    with os.fdopen(os.pidfd_open(pid)) as reader:
        if who == "dump":
            held.dump.kill()
            held.forward()  # what it had sent by then
            status, said = ended(held.ssh)
            assert status == 1
            [line] = said.splitlines()
            assert line.startswith("ipcimg: Error: standard input")
            assert ended(held.dump)[0] == -9
        else:
            held.ssh.kill()
            ended(held.ssh)
            assert ended(held.dump)[0] == 1
        assert select.select([reader], [], [], 60)[0], "the reader has not ended"
    assert oracle.state(big.pid) in "RS"
    assert (big.do(state), target.do(state)) == (before, there)
    assert list(host.temporary.iterdir()) == []
