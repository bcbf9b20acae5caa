"""Through the commands into stores that are the real thing, on this machine: an S3 server, and an sshd."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko  # noqa: F401  # and s3fs: read once, for all processes that are forked
import pytest
import s3fs  # noqa: F401

from ipcimg import sftp as ipcimg_sftp

from ..commands import IPCIMG, SHOW, ipcimg, refused, run, same
from ..test_streamer import Streamer
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.slow  # nothing here is another on another kernel

MIB = 1 << 20
SECRET = "very-s3cret"  # noqa: S105
_SSHD = "/usr/sbin/sshd"
_SECONDS = 30  # for a server to be there


def fill() -> None:
    oracle.queue(0x1234, 0o640, [(5, b"hello"), (1, b""), (2**63 - 1, os.urandom(8192)), (5, b"again")])
    oracle.semaphores(0x77, [1, 2, 32767])
    oracle.segment(0x99, 20 * MIB, [(0, os.urandom(17 * MIB))])
    oracle.segment(0x9A, 64 * MIB, [(33 * MIB, b"middle")])


def small() -> None:
    oracle.queue(0x1234, 0o640, [(5, b"hello")])
    oracle.segment(0x99, 4096, [(0, b"x" * 4096)])


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Iterator[None]:
    """A server of its own process, as long as the with block lasts."""
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            until = time.monotonic() + _SECONDS
            while True:
                assert server.poll() is None, f"{command} has ended"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < until, "the server does not come"
                time.sleep(0.05)  # it says nowhere that it is there
            yield
        finally:
            server.terminate()
            server.wait(_SECONDS)


class Store:
    """A store that a test puts sets into: url is that of an image directory in it, which is not there yet."""

    def __init__(self, url: str, names: Callable[[str], set[str]]) -> None:
        self.url, self.names = url, names


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    port = free_port()
    with serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        request(port, "PUT", "/bucket")
        yield port


def request(port: int, method: str, path: str) -> str:
    """What the server answers, who is to do it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status in (200, 204), text
        return text
    finally:
        connection.close()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port, and a home directory whose user may log in there as root."""
    if not os.path.exists(_SSHD):
        reason = "there is no sshd: NOT TESTED; it is Debian's openssh-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    directory, port = tmp_path_factory.mktemp("sshd"), free_port()
    home = directory / "home"
    (home / ".ssh").mkdir(mode=0o700, parents=True)
    for key in (directory / "host", home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (directory / "authorized").write_text((home / ".ssh" / "id_ed25519.pub").read_text())
    key_type, host_key = (directory / "host.pub").read_text().split()[:2]
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {key_type} {host_key}\n")
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    privileged = Path("/run/sshd")  # sshd wants it to be there, empty
    made = not privileged.exists()
    privileged.mkdir(mode=0o755, exist_ok=True)
    try:
        with serving([_SSHD, "-D", "-e", "-f", str(directory / "config")], port):
            yield port, home
    finally:
        if made:
            privileged.rmdir()


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    prefix = re.sub(r"\W", "-", request.node.name)
    return Store(f"s3://bucket/{prefix}/images", lambda url: s3_names(s3_port, url))


def s3_names(port: int, url: str) -> set[str]:
    path = url.removeprefix("s3://bucket/")
    listing = request(port, "GET", f"/bucket?list-type=2&prefix={path}/")
    return {name.removeprefix(f"{path}/") for name in re.findall("<Key>(.*?)</Key>", listing)}


@pytest.fixture
def sftp(sshd: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    port, home = sshd
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Store(
        f"sftp://root@127.0.0.1:{port}{tmp_path}/there/images",
        lambda url: set(os.listdir(url.partition(str(port))[2])),
    )


@pytest.fixture(params=["s3", "sftp"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


# ---- all commands --------------------------------------------------------------------------


def test_a_large_file(s3: Store, source: Namespace) -> None:
    """It goes by parts."""
    source.do(lambda: oracle.segment(0x99, 70 * MIB, [(0, os.urandom(70 * MIB))]))
    ipcimg("dump", "-t", source.pid, "-D", s3.url)
    assert "whole, and as it was written" in ipcimg("verify", s3.url).stdout


def test_there_and_back(store: Store, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    done = ipcimg("dump", "-t", source.pid, "-D", store.url)
    assert done.stdout == (
        "dumped 1 message queue (4 messages), 1 semaphore set, 2 shared memory segments (4353 pages) into "
        f"{store.url}\n"
    )
    assert "whole, and as it was written" in ipcimg("verify", store.url).stdout
    assert "4 messages" in run(SHOW, store.url).stdout
    assert run(SHOW, "-i", "msg:0", "--message", "0", "--raw", store.url).stdout == "hello"
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "here")
    same(store.url, tmp_path / "here")
    same(store.url, f"ns:{source.pid}")
    assert store.names(store.url) == set(os.listdir(tmp_path / "here")) - {"inventory.img", "stats-dump"}  # of no set
    done = ipcimg("restore", "-t", target.pid, "-D", store.url)
    assert done.stdout.endswith(f" from {store.url}\n")
    assert target.do(oracle.everything) == source.do(oracle.everything)


def test_in_the_place_of_an_old_set(store: Store, source: Namespace, target: Namespace) -> None:
    """And beside another one."""
    source.do(small)
    target.do(lambda: oracle.semaphores(0x77, [1]))
    ipcimg("dump", "-t", source.pid, "-D", store.url)
    ipcimg("dump", "-t", target.pid, "-D", store.url, "--ns-id", 2)
    assert refused("dump", "-t", source.pid, "-D", store.url, "--ns-id", 1) == (
        f"image directory {store.url}: set 1 is there already; --force replaces it"
    )
    source.do(lambda: oracle.segment(0x9B, 4096, [(0, b"new")]))
    ipcimg("dump", "-t", source.pid, "-D", store.url, "--force", "--ns-id", 1)
    assert ipcimg("verify", store.url).stdout.count("whole") == 2
    assert "2 shared memory segments" in ipcimg("verify", store.url, "--ns-id", 1).stdout
    assert {name for name in store.names(store.url) if name.startswith("pages-")} == {"pages-2.img", "pages-3.img"}


def test_a_damaged_image(sftp: Store, source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(small)
    ipcimg("dump", "-t", source.pid, "-D", sftp.url)
    there = tmp_path / "there" / "images"
    assert (there.stat().st_mode & 0o777, (there / "pages-1.img").stat().st_mode & 0o777) == (0o700, 0o600)
    with open(there / "pages-1.img", "r+b") as file:
        file.write(b"y")
    assert refused("verify", sftp.url) == f"{sftp.url}/pages-1.img: is not as it was written: its digest is another one"
    assert "is not as it was written" in refused("restore", "-t", target.pid, "-D", sftp.url)
    assert target.do(lambda: oracle.rows("shm")) == {}
    (there / "pages-1.img").unlink()
    (there / "pages-1.img").symlink_to("/etc/shadow")
    assert refused("verify", sftp.url) == f"{sftp.url}/pages-1.img: is a symbolic link"


# ---- writers that are killed ---------------------------------------------------------------


class Gate(http.server.BaseHTTPRequestHandler):
    """Stands before the S3 server; at the n-th request that changes something a process is killed, before or after."""

    protocol_version = "HTTP/1.1"
    server: GateServer

    def _pass_on(self) -> None:
        gate = self.server
        changes = self.command in ("PUT", "POST", "DELETE")
        at_last = False
        if changes:
            with gate.lock:
                gate.changes += 1
                at_last = gate.changes == gate.deadly
            if gate.ends_at is not None and re.match(gate.ends_at, f"{self.command} {self.path}"):
                gate.ends_at = None
                gate.end()
            elif gate.ends_at is None:
                gate.hasty.set()
        length = int(self.headers.get("Content-Length", 0))
        body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(length)
        if at_last and not gate.after:
            gate.kill()
        if gate.killed:  # who has been killed gets nothing done any more
            self.close_connection = True
            return
        connection = http.client.HTTPConnection("127.0.0.1", gate.beyond, timeout=_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if at_last and gate.after:
            gate.kill()
            self.close_connection = True
        else:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        connection.close()

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


class GateServer(http.server.ThreadingHTTPServer):
    def __init__(self, beyond: int, temporary: Path) -> None:
        super().__init__(("127.0.0.1", 0), Gate)
        self.beyond, self.temporary, self.lock = beyond, temporary, threading.Lock()
        self.changes, self.deadly, self.after, self.killed, self.dead = 0, 0, False, False, threading.Event()
        self.victim: subprocess.Popen[str] | None = None
        # What the request begins with at which it is told to end; the next one that changes something sets the event.
        self.ends_at: str | None = "$"
        self.hasty = threading.Event()

    def end(self) -> None:
        assert self.victim is not None
        self.victim.send_signal(signal.SIGTERM)
        self.hasty.wait(0.5)  # whoever does not wait for the answer goes on before there is one

    def kill(self) -> None:
        assert self.victim is not None
        self.killed = True
        self.victim.send_signal(signal.SIGKILL)
        self.dead.wait(_SECONDS)

    def die_at(self, n: int, after: bool, *command: object) -> bool:
        """Run ipcimg, which is killed at its n-th change. Did it come so far?"""
        self.changes, self.deadly, self.after, self.killed, self.dead = 0, n, after, False, threading.Event()
        status, err = self._run(*command)
        assert status == (-signal.SIGKILL if self.killed else 0), err
        return self.killed

    def end_at(self, request: str, *command: object) -> tuple[int, str]:
        """Run ipcimg, which gets a SIGTERM at a request. Gives its status and what it says."""
        self.ends_at, self.hasty = request, threading.Event()
        found = self._run(*command)
        assert self.ends_at is None
        self.ends_at = "$"
        return found

    def _run(self, *command: object) -> tuple[int, str]:
        env = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}"}
        env["TMPDIR"] = str(self.temporary)  # what is killed leaves something there
        with subprocess.Popen(
            [*IPCIMG, *map(str, command)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as self.victim:
            _, err = self.victim.communicate(timeout=120)
            self.dead.set()
        return self.victim.returncode, err


@pytest.fixture
def gate(s3_port: int, tmp_path: Path) -> Iterator[GateServer]:
    with GateServer(s3_port, tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
def test_a_writer_that_is_killed(
    s3: Store, gate: GateServer, source: Namespace, after: bool, record_property: Callable[[str, object], None]
) -> None:
    """At each request that changes something, SIGKILL: verify refuses, or all is there; then the next dump succeeds."""
    source.do(small)
    killed = 0
    while gate.die_at(killed + 1, after, "dump", "-t", source.pid, "-D", url := f"{s3.url}-{killed}"):
        killed += 1
        names = s3.names(url)
        if "ipcimg-manifest-1.img" in names:  # but for the mark
            ipcimg("verify", url)
        elif names:
            assert "unfinished" in refused("verify", url)
        if killed == 4:
            line = refused("dump", "-t", source.pid, "-D", url)
            assert "another dump of set 1 into it is running, or was killed" in line
            done = ipcimg("recover", "-D", url)
            assert done.stdout == f"image directory {url}: set 1: an unfinished dump was removed\n"
            assert s3.names(url) == set()
        ipcimg("dump", "-t", source.pid, "-D", url, *(["--force"] if s3.names(url) else []))
        assert len(s3.names(url)) == 6
    ipcimg("verify", url)
    assert killed == 8  # the mark comes, six files come, the mark goes
    record_property("nothing lost", f"dumps into a store that were killed: {killed}, 0 taken for whole")


def test_a_reader_that_is_killed(s3: Store, source: Namespace, target: Namespace, gate: GateServer) -> None:
    """In the midst of a restore: what was made is removed by recover, as ever."""
    source.do(fill)
    ipcimg("dump", "-t", source.pid, "-D", s3.url)
    before = target.do(oracle.everything)
    pass_on = Gate._pass_on

    def deadly(self: Gate) -> None:
        if self.command == "GET" and "pages-" in self.path and "bytes=8388608-" in self.headers.get("Range", ""):
            gate.kill()  # the second block of a segment that has been made
            self.close_connection = True
        else:
            pass_on(self)

    Gate.do_GET = deadly
    try:
        assert gate.die_at(0, False, "restore", "-t", target.pid, "-D", s3.url)
    finally:
        Gate.do_GET = pass_on
    assert len(target.do(lambda: oracle.rows("shm"))) > 0
    ipcimg("recover", "-t", target.pid)
    assert target.do(oracle.everything) == before
    ipcimg("restore", "-t", target.pid, "-D", s3.url)
    assert target.do(oracle.everything) == source.do(oracle.everything)


# ---- writers that are told to end ----------------------------------------------------------

ENDED = (128 + signal.SIGTERM, "ipcimg: Error: ended by SIGTERM\n")


@pytest.mark.parametrize("name", [".ipcimg-1.tmp", "pages-1.img", "ipcimg-manifest-1.img"])
def test_a_writer_that_is_told_to_end(s3: Store, gate: GateServer, source: Namespace, name: str) -> None:
    """While it puts a file: it waits until that is there, and nothing is left."""
    source.do(small)
    assert gate.end_at(f"PUT /bucket/{s3.url.removeprefix('s3://bucket/')}/{name}", *dump(source, s3.url)) == ENDED
    assert s3.names(s3.url) == set()


def dump(source: Namespace, url: str) -> tuple[object, ...]:
    return "dump", "-t", source.pid, "-D", url


@pytest.mark.parametrize("part", ["POST .*[?]uploads", "PUT .*[?]partNumber=1", "PUT .*[?]partNumber=2"])
def test_a_writer_of_a_large_file_that_is_told_to_end(
    s3: Store, gate: GateServer, source: Namespace, s3_port: int, part: str
) -> None:
    """A file that goes by parts is given up: the store keeps none of them."""
    source.do(lambda: oracle.segment(0x99, 40 * MIB, [(0, os.urandom(40 * MIB))]))
    assert gate.end_at(part, *dump(source, s3.url)) == ENDED
    assert s3.names(s3.url) == set()
    assert "<UploadId>" not in request(s3_port, "GET", "/bucket?uploads")


class Wire:
    """Stands before the sshd; when so many bytes have come from a process, that is told to end."""

    def __init__(self, beyond: int, limit: int) -> None:
        self._beyond, self._left = beyond, limit
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.victim: subprocess.Popen[str] | None = None
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        ours, _ = self._listening.accept()
        theirs = socket.create_connection(("127.0.0.1", self._beyond))
        back = threading.Thread(target=self._pass_on, args=(theirs, ours, False))
        back.start()
        self._pass_on(ours, theirs, True)
        back.join()
        ours.close()
        theirs.close()

    def _pass_on(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if counts:
                    before, self._left = self._left, self._left - len(data)
                    if before > 0 >= self._left:
                        assert self.victim is not None
                        self.victim.send_signal(signal.SIGTERM)
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listening.close()
        for thread in self._threads:
            thread.join()


def test_a_writer_to_another_host_that_is_told_to_end(
    sftp: Store, sshd: tuple[int, Path], source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of a file: nothing is left, nor the directories that were made."""
    port, home = sshd
    source.do(fill)
    wire = Wire(port, 5 * MIB)
    shutil.copytree(home, tmp_path / "home")
    known = tmp_path / "home" / ".ssh" / "known_hosts"
    known.write_text(known.read_text().replace(str(port), str(wire.port)))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    command = dump(source, sftp.url.replace(str(port), str(wire.port), 1))
    with subprocess.Popen([*IPCIMG, *map(str, command)], stderr=subprocess.PIPE, text=True) as wire.victim:
        try:
            _, err = wire.victim.communicate(timeout=50)  # less than it takes to give up a host
        finally:
            wire.victim.kill()
    wire.close()
    assert (wire.victim.returncode, err) == ENDED
    assert not (tmp_path / "there").exists()


# ---- what goes wrong -----------------------------------------------------------------------


def test_wrong_bucket(s3: Store, source: Namespace) -> None:
    assert refused("dump", "-t", source.pid, "-D", "s3://nobodys/x").endswith(": The specified bucket does not exist")
    assert refused("verify", "s3://nobodys/x") == "image directory s3://nobodys/x: No such directory, or nothing in it"


def test_no_server(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    line = refused("verify", s3.url)
    assert line.startswith(f"image directory {s3.url}: ")
    assert SECRET not in line


def test_no_credentials(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    line = refused("verify", s3.url)
    assert line.startswith(f"image directory {s3.url}: ")
    assert "redentials" in line and SECRET not in line


def test_an_unknown_host(sftp: Store, sshd: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked, and nothing is believed."""
    (tmp_path / ".ssh").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refused("verify", sftp.url) == (
        f"image directory {sftp.url}: Server '[127.0.0.1]:{sshd[0]}' not found in known_hosts"
    )
    assert not (tmp_path / ".ssh" / "known_hosts").exists()


def test_another_host_key(sftp: Store, sshd: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    key = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{sshd[0]} {key}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert re.match(rf"image directory {sftp.url}: Host key for server .* does not match", refused("verify", sftp.url))


def test_a_wrong_password(sftp: Store) -> None:
    line = refused("verify", sftp.url.replace("root@", f"nobody:{SECRET}@"))
    assert line.startswith(f"image directory {sftp.url.replace('root@', 'nobody@')}: ")
    assert SECRET not in line


def test_the_configuration_of_ssh(
    sftp: Store, sshd: tuple[int, Path], source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host, port, user and key by the name in ~/.ssh/config."""
    port, home = sshd
    (tmp_path / ".ssh").mkdir(mode=0o700)
    shutil.copy(home / ".ssh" / "known_hosts", tmp_path / ".ssh")
    shutil.copy(home / ".ssh" / "id_ed25519", tmp_path / "key")
    (tmp_path / ".ssh" / "config").write_text(
        f"Host there\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {tmp_path}/key\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    source.do(small)
    ipcimg("dump", "-t", source.pid, "-D", f"sftp://there{tmp_path}/images")
    ipcimg("verify", tmp_path / "images")
    ipcimg("verify", f"sftp://there{tmp_path}/images")


def test_a_directory_that_nobody_may_write(
    sftp: Store, source: Namespace, sshd: tuple[int, Path], tmp_path: Path
) -> None:
    source.do(small)
    line = refused("dump", "-t", source.pid, "-D", f"sftp://root@127.0.0.1:{sshd[0]}/proc/images")
    assert line == f"image directory sftp://root@127.0.0.1:{sshd[0]}/proc/images: No such file"
    (tmp_path / "file").write_text("x")
    assert refused("dump", "-t", source.pid, "-D", f"sftp://root@127.0.0.1:{sshd[0]}{tmp_path}/file").endswith(
        f"{tmp_path}/file: Failure"  # sftp has no more words
    )


def test_directories_whose_names_have_signs_of_urls(sftp: Store, source: Namespace, tmp_path: Path) -> None:
    source.do(small)
    for name in ("run#1", "run#2", "run?1"):
        ipcimg("dump", "-t", source.pid, "-D", url := f"{sftp.url}/{name}")
        assert f"into {url}\n" not in ipcimg("verify", url).stdout
        ipcimg("verify", tmp_path / "there" / "images" / name)


def test_a_link_in_the_place_of_the_mark(sftp: Store, source: Namespace, tmp_path: Path) -> None:
    """Nothing is written to where it leads, also where there is a set."""
    source.do(small)
    ipcimg("dump", "-t", source.pid, "-D", sftp.url)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "there" / "images" / ".ipcimg-1.tmp").symlink_to(tmp_path / "precious")
    line = f"{sftp.url}/.ipcimg-1.tmp: is a symbolic link"
    assert refused("dump", "-t", source.pid, "-D", sftp.url, "--force") == line
    assert refused("recover", "-D", sftp.url) == line
    assert (tmp_path / "precious").read_text() == "precious"
    ipcimg("verify", sftp.url)


def test_a_host_whose_disk_is_full(sftp: Store, sshd: tuple[int, Path], tmp_path: Path) -> None:
    """The answer to each part is looked at, however small the file is."""
    try:
        os.mknod(tmp_path / "full", stat.S_IFCHR | 0o600, os.makedev(1, 7))
        with open(tmp_path / "full", "wb"):
            pass
    except PermissionError:
        pytest.skip("no device can be made here: NOT TESTED")
    host, _ = ipcimg_sftp.connected(sftp.url)
    for size in (1, 100 << 10, 4 * MIB):
        upload = host.open(str(tmp_path / "full"), "wb", size)
        with pytest.raises(OSError, match="is its disk full"):
            upload.write(bytes(size))
        upload.close()
    upload = host.open(str(tmp_path / "file"), "wb", 0)
    data = os.urandom(MIB + 17)
    upload.write(memoryview(data))
    upload.write(b"end")
    upload.close()
    assert (tmp_path / "file").read_bytes() == data + b"end"
    assert host.cat_file(str(tmp_path / "file"), 5, 10) == data[5:10]
    host.close()


# ---- criu-image-streamer -------------------------------------------------------------------


def test_through_a_streamer(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """What one captures another serves; the program itself is not to be had, see test_streamer.py."""
    source.do(fill)
    place = f"streamer://{tmp_path}"
    captures = Streamer(tmp_path)
    assert ipcimg("dump", "-t", source.pid, "-D", place).stdout.endswith(f" into {place}\n")
    captures.join()
    for command in (("verify", place), ("diff", place, f"ns:{source.pid}"), ("restore", "-t", target.pid, "-D", place)):
        serves = Streamer(tmp_path, captures.files)
        ipcimg(*command)
        serves.join()
        serves.path.unlink()
    assert target.do(oracle.everything) == source.do(oracle.everything)
    assert refused("verify", place) == (
        f"{place}/streamer-serve.sock: No such file or directory: is a criu-image-streamer at work there?"
    )
    assert "nothing to recover in a streamer" in refused("recover", "-D", place)
