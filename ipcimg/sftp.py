"""The files of another host by sftp. All of paramiko, in those words of fsspec's that remote.py knows.

fsspec's own takes any key for that of a host, follows symbolic links, and cuts paths. Here a host has to be known.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

import paramiko

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 60  # that a host may take for an answer
_REQUEST = 32 << 10  # bytes that go by one request
_DIRECTORY, _FILE = 0o700, 0o600  # modes of what is made: for its owner alone


def connected(url: str) -> tuple[Host, str]:
    """The host of a URL, and the path, which goes to its end, whatever is in it. Raises what paramiko raises."""
    from urllib.parse import unquote, urlsplit

    rest, slash, path = url.partition("://")[2].partition("/")
    user, at, named = rest.rpartition("@")
    parts = urlsplit(f"//{named}")
    if not parts.hostname or parts.netloc != named:
        raise ValueError("there is no host in the URL")
    options: dict[str, Any] = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout"), _SECONDS)
    host = parts.hostname
    config = os.path.expanduser("~/.ssh/config")
    if os.path.exists(config):
        told = paramiko.SSHConfig.from_path(config).lookup(host)
        host = told["hostname"]
        options |= {"port": int(told.get("port", 22)), "username": told.get("user")}
        if "identityfile" in told:
            options["key_filename"] = told["identityfile"]
    if parts.port is not None:
        options["port"] = parts.port
    if at:
        name, colon, password = user.partition(":")
        options["username"] = unquote(name)
        if colon:
            options["password"] = unquote(password)
    return Host(host, options), slash + unquote(path)


class Host:
    """Paths are absolute; what is asked of none that is there raises FileNotFoundError."""

    def __init__(self, host: str, options: dict[str, Any]) -> None:
        """options are those of paramiko's connect()."""
        self._client = paramiko.SSHClient()
        self._made: list[str] = []  # directories, those above first
        try:
            self._client.load_system_host_keys()
            if os.path.exists("/etc/ssh/ssh_known_hosts"):
                self._client.load_system_host_keys("/etc/ssh/ssh_known_hosts")
            self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
            self._client.connect(host, **options)
            self._ftp = self._client.open_sftp()
        except BaseException:
            self._client.close()  # else its thread goes on
            raise
        channel = self._ftp.get_channel()
        if channel is not None:
            channel.settimeout(_SECONDS)

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]:
        """What is in a directory."""
        return [_told(f"{path}/{one.filename}", one) for one in self._ftp.listdir_iter(path)]

    def info(self, path: str) -> dict[str, Any]:
        """What is there, be it a symbolic link."""
        return _told(path, self._ftp.lstat(path))

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        """Bytes start to end of a file, or what there is of them."""
        with self._ftp.open(path, "rb") as file:
            # Many requests under way at once; read() would wait for each.
            return b"".join(file.readv([(start, end - start)]))

    def open(self, path: str, mode: str, block_size: int) -> Upload:
        """A file to be written, empty."""
        file = self._ftp.open(path, mode)
        file.chmod(_FILE)  # before anything is in it
        return Upload(file)

    def rm_file(self, path: str) -> None:
        """Remove what is no directory."""
        self._ftp.remove(path)

    def makedirs(self, path: str, exist_ok: bool) -> None:
        """Make a directory, and what is missing above it."""
        try:
            self._mkdir(path)
        except FileNotFoundError:
            if path.count("/") < 2:
                raise
            self.makedirs(path.rpartition("/")[0], exist_ok)
            self._mkdir(path)

    def _mkdir(self, path: str) -> None:
        try:
            self._ftp.mkdir(path, _DIRECTORY)
        except FileNotFoundError:
            raise
        except OSError:
            if not self._is_directory(path):  # else somebody else has made it
                raise
        else:
            self._made.append(path)

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self._ftp.stat(path).st_mode or 0)
        except FileNotFoundError:
            return False

    def remove_made(self) -> None:
        """Remove the directories that were made, as far as nothing is in them."""
        with contextlib.suppress(OSError):
            while self._made:
                self._ftp.rmdir(self._made.pop())

    def close(self) -> None:
        """Leave."""
        self._client.close()


class Upload:
    """A file on its way. After each write all that was sent has been answered."""

    def __init__(self, file: paramiko.SFTPFile) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        """Append data. Raises OSError where any of it did not get there."""
        last = max(len(data) - _REQUEST, 0)
        try:
            self._file.set_pipelined(True)  # many requests under way at once
            for part in _parts(memoryview(data)[:last]):
                self._file.write(part)
            self._file.set_pipelined(False)  # what comes now waits for all answers
            self._file.write(bytes(data[last:]))
        except OSError as error:
            if str(error) != "Failure":
                raise
            raise OSError("the host does not take it, and does not say why; is its disk full?") from error

    def close(self) -> None:
        """There is no more of it."""
        self._file.close()


def _parts(data: memoryview) -> Iterator[bytes]:
    for start in range(0, len(data), _REQUEST):
        yield bytes(data[start : start + _REQUEST])


def _told(path: str, found: paramiko.SFTPAttributes) -> dict[str, Any]:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(found.st_mode or 0), "other")
    return {"name": path, "size": found.st_size, "type": kind, "mtime": found.st_mtime}
