"""What ipcimg-show prints of a namespace with some of everything, held against tests/golden/kernel-*.txt.

Objects of a new namespace have the ids 0, 1, 2, …; settings are set; what is left to differ from run to run, times and
process ids, is replaced by something as long.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from tests import rich, transcripts

from ..commands import ipcimg
from . import oracle
from .oracle import Namespace

PAGE = 4096
SETTINGS = {
    "kernel/msgmax": 8192,
    "kernel/msgmnb": 16384,
    "kernel/msgmni": 32000,
    "kernel/shmmax": 1 << 40,
    "kernel/shmall": 1 << 30,
    "kernel/shmmni": 4096,
    "kernel/sem": "32000 1024000000 500 32000",
    "kernel/shm_rmid_forced": 0,
    "fs/mqueue/queues_max": 256,
    "fs/mqueue/msg_max": 10,
    "fs/mqueue/msgsize_max": 8192,
    "fs/mqueue/msg_default": 10,
    "fs/mqueue/msgsize_default": 8192,
}
OPTIONS = {"plain": (), "exact": ("--criu-exact",), "part": ("--only", "msg")}
PIDS = 20000  # all that are seen are from here on, and no other number has five digits and begins with 2


def fill() -> None:
    """Queues with messages of all kinds, sets before and after operations, sparse, dense and marked segments."""
    for name, value in SETTINGS.items():
        oracle.set_variable(name, value)
    for one in rich.contents().queues:
        messages = [(message.type, message.body) for message in one.messages]
        msqid = oracle.queue(one.permissions.key, one.permissions.mode, [(9, b"taken off"), *messages])
        oracle.receive(msqid)
    oracle.own("msg", oracle.queue(0x10, 0o622), 1000, 100)  # never sent to
    oracle.use(oracle.semaphores(0x77, [1, 0, 32767], 0o640))
    oracle.semaphores(0, range(20))
    oracle.segment(0x1234, 2 << 20, [(0, b"hello from the first page"), (PAGE, b"\xa5" * PAGE), (1 << 20, b"h" * PAGE)])
    oracle.segment(0x1235, 3 * PAGE - 5, [(0, b"x" * (3 * PAGE - 5))], 0o644)
    oracle.lock(oracle.segment(0, PAGE, [(7, b"in the middle")]))
    oracle.segment(0x99, 1 << 30)
    marked = oracle.segment(0x9A, 2 * PAGE, [(0, b"to be destroyed")])
    oracle.attach(marked)
    oracle.remove("shm", marked)


@contextlib.contextmanager
def filled(source: Namespace) -> Iterator[None]:
    """Have it filled by a process that has such a process id, and stays attached to a segment for the with block."""
    done, say = os.pipe()

    def start() -> int:
        oracle.set_variable("kernel/ns_last_pid", PIDS)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                fill()
                os.write(say, b"done")
                signal.pause()
            os._exit(1)
        return pid

    pid = source.do(start)
    os.close(say)
    try:
        with open(done, "rb") as told:
            assert told.read(4) == b"done", "it could not be filled"
        assert PIDS < pid < PIDS + 10000
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def settled(text: str) -> str:
    """Without times and process ids, and whatever digests there are."""
    text = re.sub(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "yyyy-mm-ddThh:mm:ss+00:00", text)
    text = re.sub(r"\b[A-Z]\w\w [A-Z]\w\w [ \d]\d \d\d:\d\d:\d\d 20\d\d\b", "Www Mmm dd hh:mm:ss yyyy", text)
    text = re.sub(r'("[acdors]time": )[1-9]\d{9}\b', r"\1<time>", text)
    text = re.sub(r'"(digest|digest_algorithm)": "[^"]+"', r'"\1": "<\1>"', text)
    return re.sub(r"\b2\d{4}\b", "<pid>", text)


def test_every_view(source: Namespace, tmp_path: Path) -> None:
    with filled(source):
        for name, options in OPTIONS.items():  # the first sees who used segments last; then it is ipcimg
            ipcimg("dump", "-t", source.pid, "-D", tmp_path / name, *options)
    for name in OPTIONS:
        path = tmp_path / name
        transcripts.expect(settled(transcripts.transcript(str(path), transcripts.calls(path))), f"kernel-{name}")
