"""Deep queues that are turned: they are read like others, and are as before whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ipcimg as library
from ipcimg import freeze, interrupts, libc, loops, owners, reading, selection, sysctl, turn, turning, var
from ipcimg.companion import Companion
from ipcimg.dump import living
from ipcimg.turn import Turn

from ..commands import IPCIMG, ipcimg, refused, run, same
from ..fidelity import row
from . import oracle
from .inject import ALL_KILLED, KILLED, WORKERS, Injector, Point, at_every
from .oracle import Namespace, Processless, cgroup
from .test_user_namespace import USER, Mapped

pytestmark = pytest.mark.slow  # test_round_trip.py has a deep queue for an emulated processor
DEEP = 20  # messages, here
Messages = list[tuple[int, bytes]]
Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are deep sooner; and all processes of the machine tell their namespace, as where all of it is ours."""
    monkeypatch.setattr(turning, "DEEP", DEEP)
    users = freeze._users
    monkeypatch.setattr(freeze, "_users", lambda *arguments: (users(*arguments)[0], True))


@pytest.fixture
def python_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "c", None)


def numbered(n: int) -> Messages:
    return [(1 + k % 5, b"%d" % k * (k % 40)) for k in range(n)]


# ---- what may be in a queue ----------------------------------------------------------------


def plain() -> tuple[int, Messages]:
    return oracle.queue(7, messages=numbered(100)), numbered(100)


def all_sizes() -> tuple[int, Messages]:
    """Empty ones and the largest there are, every type; msgmax is lower by now."""
    messages = [(1, b""), (2**63 - 1, b"x" * 60000), *numbered(30), (3, b""), (1, b"y" * 8193)]
    oracle.set_variable("kernel/msgmnb", 1 << 20)
    oracle.set_variable("kernel/msgmax", 60000)
    msqid = oracle.queue(0, messages=messages)
    oracle.set_variable("kernel/msgmax", 100)
    return msqid, messages


def over_its_qbytes() -> tuple[int, Messages]:
    """Of bytes; and what it may hold is more than msgmnb."""
    oracle.set_variable("kernel/msgmnb", 1 << 16)
    msqid = oracle.queue(0, messages=[(n + 1, b"x" * 1000) for n in range(50)])
    oracle.set_qbytes(msqid, 20000)
    oracle.set_variable("kernel/msgmnb", 16384)
    return msqid, [(n + 1, b"x" * 1000) for n in range(50)]


def over_its_number() -> tuple[int, Messages]:
    """A queue may not hold more messages than qbytes either."""
    msqid = oracle.queue(0, messages=[(n + 1, b"") for n in range(50)])
    oracle.set_qbytes(msqid, 10)
    return msqid, [(n + 1, b"") for n in range(50)]


def presets_pending() -> tuple[int, Messages]:
    made = plain()
    for n, kind in enumerate(("msg", "sem", "shm")):
        oracle.preset(kind, 32768 * 3 + 5 + n)
    return made


def no_room() -> tuple[int, Messages]:
    oracle.segment(9, 4096, [(0, b"stays")])
    for name in ("shmmni", "shmmax", "shmall"):
        oracle.set_variable(f"kernel/{name}", 1)
    return plain()


def keys_taken() -> tuple[int, Messages]:
    """Somebody else's segments, one of which might be a journal by its content."""
    oracle.segment(turn.KEYS[0], 4096 + 16, [(0, b"something")])
    oracle.segment(turn.KEYS[1], 8192, [(0, turn._MAGIC)], mode=0o644)
    return plain()


FILLINGS = [plain, all_sizes, over_its_qbytes, over_its_number, presets_pending, no_room, keys_taken]
Filling = Callable[[], tuple[int, Messages]]


def state() -> dict[str, object]:
    """All that is to be the same; what a turn leaves of a queue is not."""
    queues = oracle.table("msg")
    for one in queues.values():
        for trace in ("lspid", "lrpid", "stime", "rtime", "ctime"):
            del one[trace]
    segments = oracle.table("shm")
    for one in segments.values():
        for trace in ("lpid", "atime", "dtime"):
            del one[trace]
    return {
        "msg": queues,
        "shm": segments,
        "variables": oracle.variables(),
        "qbytes": {msqid: oracle.qbytes(msqid) for msqid in queues},
    }


def was_turned(namespace: oracle.Enterable, msqid: int) -> bool:
    return namespace.do(lambda: oracle.table("msg"))[msqid]["lrpid"] != 0


# ---- with nothing in its way ---------------------------------------------------------------


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("how", ["--frozen-by-caller", "--freeze"])
def test_same_afterwards(source: Namespace, tmp_path: Path, filling: Filling, how: str, both_loops: bool) -> None:
    msqid, messages = source.do(filling)
    before = source.do(state)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", how)
    assert was_turned(source, msqid)
    assert source.do(state) == before
    [dumped] = library.load(tmp_path / "d").queues
    assert [(message.type, message.body) for message in dumped.messages] == messages
    assert dumped.facts is not None
    assert dumped.facts.lrpid == 0, "the image has what the turn has left"
    same(tmp_path / "d", f"ns:{source.pid}")
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


def test_forced_removal_of_segments(source: Namespace, tmp_path: Path) -> None:
    """kernel.shm_rmid_forced=1: neither a segment in use nor the journal goes, and it is 1 again."""
    attach = "from tests.kernel import oracle; oracle.attach(oracle.segment(1, 4096)); print(flush=True); input()"
    command = ["nsenter", f"--ipc={source.path}", sys.executable, "-c", attach]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "\n"
        msqid, messages = source.do(plain)
        source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
        before = source.do(state)
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
        assert was_turned(source, msqid)
        assert source.do(state) == before
        assert source.do(lambda: oracle.receive_all(msqid)) == messages
        user.communicate("\n")


@pytest.mark.parametrize("options", [(), ("--frozen-by-caller", "--peek-only"), ("--freeze", "--peek-only")])
def test_never(source: Namespace, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Where others may use the namespace, where one asks for it, and where two namespaces are compared."""
    msqid, _ = source.do(plain)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", *options)
    same(tmp_path / "d", f"ns:{source.pid}", "--frozen-by-caller")
    assert not was_turned(source, msqid)


def test_shallow_queues_are_not_turned(source: Namespace, tmp_path: Path) -> None:
    msqid = source.do(lambda: oracle.queue(1, messages=numbered(DEEP)))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
    assert not was_turned(source, msqid)


def test_several_queues(source: Namespace, tmp_path: Path, both_loops: bool) -> None:
    made = [source.do(lambda n=n: oracle.queue(n, messages=numbered(n))) for n in (5, 30, 60, 7, 100)]  # type: ignore[misc]
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
    assert [was_turned(source, msqid) for msqid in made] == [False, True, True, False, True]
    same(tmp_path / "d", f"ns:{source.pid}")


def test_who_may_not_use_a_queue_peeks(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be read, and not be written; and where a queue is over its qbytes, it may be used and not widened."""

    def of_somebody_else(mode: int) -> int:
        with oracle.creating_as(1001, 1001):
            return oracle.queue(0, mode=mode, messages=numbered(50))

    readable, usable, wide = (source.do(lambda mode=mode: of_somebody_else(mode)) for mode in (0o644, 0o666, 0o666))  # type: ignore[misc]
    source.do(lambda: oracle.set_qbytes(wide, 10))
    effective = libc.Capabilities.effective
    denied = (libc.CAP_IPC_OWNER, libc.CAP_SYS_ADMIN)
    monkeypatch.setattr(libc.Capabilities, "effective", lambda self, one: one not in denied and effective(self, one))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
    assert [was_turned(source, msqid) for msqid in (readable, usable, wide)] == [False, True, False]
    same(tmp_path / "d", f"ns:{source.pid}")


def test_limits_that_are_not_ours_to_raise(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no turn, and nothing of it is left."""
    for n, name in enumerate(("kernel/msgmax", "kernel/msgmnb", "kernel/shm_next_id", "kernel/shmmni")):
        namespace = Processless()
        filling = {"kernel/shm_next_id": presets_pending, "kernel/shmmni": no_room}.get(name, over_its_qbytes)
        msqid, _ = namespace.do(filling)
        before = namespace.do(state)

        def write(path: str, value: int | str, name: str = name) -> None:
            if path == name:
                raise PermissionError(1, "no")
            oracle.set_variable(path, value)

        monkeypatch.setattr("ipcimg.sysctl.write", write)
        ipcimg("dump", "--ipc-ns", namespace.path, "-D", tmp_path / str(n), "--frozen-by-caller")
        assert not was_turned(namespace, msqid), name
        assert namespace.do(state) == before, name
        namespace.close()


@row("user namespaces")
def test_namespace_of_a_user_namespace(tmp_path: Path) -> None:
    """From outside: owners have other numbers there, and the settings are for another root."""
    namespace = Mapped(100000)
    try:

        def fill() -> tuple[int, Messages]:
            with oracle.creating_as(100000, 100000):
                return over_its_qbytes()

        msqid, messages = namespace.do(fill)
        before = namespace.do(state)
        ipcimg("dump", "-t", namespace.pid, "-D", tmp_path / "d", "--frozen-by-caller")
        assert was_turned(namespace, msqid)
        assert namespace.do(state) == before
        begun(namespace, msqid, taken)
        assert "messages are in their order" in ipcimg("recover", "-t", namespace.pid).stdout
        assert namespace.do(state) == before
        assert namespace.do(lambda: oracle.receive_all(msqid)) == messages
    finally:
        namespace.close()


INSIDE = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.kernel import oracle, test_turn
from ipcimg import turning
from ipcimg.cli import main
turning.DEEP = {DEEP}
msqid, messages = test_turn.over_its_qbytes()
before = test_turn.state()
assert main(["dump", "-D", sys.argv[1], "--frozen-by-caller"]) == 0
assert oracle.table("msg")[msqid]["lrpid"] != 0
assert test_turn.state() == before
assert oracle.receive_all(msqid) == messages
"""


def test_inside_a_user_namespace(tmp_path: Path) -> None:
    run([*USER, INSIDE], tmp_path / "d")


# ---- leaving early -------------------------------------------------------------------------


def leave(how: str, after: int) -> Callable[[library.Message], None]:
    seen = [0]

    def look(message: library.Message) -> None:
        seen[0] += 1
        if seen[0] == after:
            if how == "error":
                raise OSError(28, "No space left on device")
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "nobody asks for more":
                raise StopIteration

    return look


@pytest.mark.parametrize("filling", [plain, all_sizes, over_its_qbytes])
@pytest.mark.parametrize("how", ["error", "signal", "nobody asks for more"])
@pytest.mark.parametrize("after", [1, 7, 20])
def test_leaving_early(source: Namespace, filling: Filling, how: str, after: int) -> None:
    msqid, messages = source.do(filling)
    before, look = source.do(state), leave(how, after)
    wanted = (library.KernelError, interrupts.Interrupted, StopIteration)
    with (
        interrupts.handled(),
        contextlib.suppress(*wanted),
        library.of_process(source.pid) as one,
        living(one, frozen=True, turns=True) as found,
    ):
        for found_queue in found.contents.queues:
            for message in found_queue.messages:
                look(message)
        pytest.fail("it was left early")
    assert was_turned(source, msqid)
    assert source.do(state) == before
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


def test_no_space_left(source: Namespace, tmp_path: Path, both_loops: bool) -> None:
    msqid, messages = source.do(all_sizes)
    before = source.do(state)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
        assert "No space left on device" in line
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert source.do(state) == before
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


# ---- somebody else at the queue, against the caller's word ---------------------------------


def steps_interrupted(monkeypatch: pytest.MonkeyPatch, after: int, by: Callable[[], None]) -> None:
    """Have something happen after so many steps of a turn, be they made by the loop in C or in Python."""
    step, loop, steps = Turn.step, getattr(loops.c, "turn", None), [0]

    def once() -> None:
        steps[0] += 1
        if steps[0] == after + 1:
            by()

    def one(self: Turn) -> int:
        once()
        return step(self)

    def turn_one(journal: int, msqid: int, qnum: int, *others: Any) -> tuple[int, int, int]:
        once()
        assert loop is not None
        made: tuple[int, int, int] = loop(journal, msqid, min(qnum, libc.word(journal + 8).value // 2 + 1), *others)
        return made

    monkeypatch.setattr(Turn, "step", one)
    if loop is not None:
        monkeypatch.setattr(loops.c, "turn", turn_one)


@pytest.mark.parametrize("how", ["send", "receive", "both", "all", "remove", "narrow"])
def test_a_queue_in_use(
    source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, both_loops: bool
) -> None:
    """It is noticed, no message is lost, and the journal is gone. The next try peeks."""
    msqid, messages = source.do(plain)

    def use() -> None:
        if how in ("receive", "both"):
            oracle.receive(msqid)
        if how in ("send", "both"):
            oracle.send(msqid, 99, b"theirs")
        if how == "all":
            oracle.receive_all(msqid)
        if how == "remove":
            oracle.remove("msg", msqid)
        if how == "narrow":
            oracle.set_qbytes(msqid, 12345)

    def somebody() -> None:
        if (pid := os.fork()) == 0:
            use()
            os._exit(0)
        os.waitpid(pid, 0)

    steps_interrupted(monkeypatch, 9, somebody)
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
    assert source.do(lambda: oracle.table("shm")) == {}
    found = [] if how == "remove" else source.do(lambda: oracle.peek_all(msqid))
    theirs = {"send": [(99, b"theirs")], "both": [(99, b"theirs")]}.get(how, [])
    if how not in ("all", "remove"):
        gone = [messages[9]] if how in ("receive", "both") else []
        assert sorted(found + gone) == sorted(messages + theirs)
    same(tmp_path / "d", f"ns:{source.pid}", "--frozen-by-caller")


# ---- recover -------------------------------------------------------------------------------


def begun(namespace: oracle.Enterable, msqid: int, act: Callable[[Turn], None]) -> None:
    """Begin a turn, act, and end like one that is killed together with its guardian, in a process of its own."""

    def be_killed() -> None:
        one = library.at_path(namespace.path)
        seen_as = owners.of(one.fd)
        before = var.collect()
        sysctl.write("kernel/shm_rmid_forced", 0)
        looking = reading.Reading(seen_as, selection.EVERYTHING, at_rest=True, stopped=None)
        turner = turning.Turner(one, before, looking)
        ds = libc.msqid_ds()
        libc.msgctl(msqid, libc.MSG_STAT_ANY, ds)
        made = turner._begun(ds, seen_as.inside("msg", ds.msg_perm, msqid))
        assert made is not None
        act(made)

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                vars(turning)["Companion"] = lambda *_: None
                be_killed()
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]

    assert namespace.do(fork) == 0


def nothing(it: Turn) -> None:
    pass


def not_begun(it: Turn) -> None:
    it.memory[:8] = bytes(8)


def without_its_preset(it: Turn) -> None:
    """Killed before it had armed the preset that the journal has taken."""
    oracle.set_variable("kernel/shm_next_id", 32768 * 3 + 7)
    oracle.remove("shm", oracle.segment())
    it._state.value = turn._PREPARING


def some(it: Turn) -> None:
    for _ in range(10):
        it.step()


def all_of_them(it: Turn) -> None:
    for _ in range(it.qnum):
        it.step()


def _intend(it: Turn) -> None:
    it._size.value = it.peek()
    it._taken_size.value, it.taken.mtype.value = turn._UNKNOWN, 0
    it._state.value |= 1


def intended(it: Turn) -> None:
    some(it)
    _intend(it)


def _take(it: Turn) -> int:
    return it.taken.receive(it.msqid, it.room, 0, libc.IPC_NOWAIT)


def first_taken(it: Turn) -> None:
    _intend(it)
    _take(it)


def taken(it: Turn) -> None:
    intended(it)
    it._taken_size.value = _take(it)


def taken_and_not_copied(it: Turn) -> None:
    """Killed while the kernel has the message in its hands."""
    intended(it)
    _take(it)
    it.taken.mtype.value = 0
    it.taken.view[8:] = bytes(it.room)


def sent_again(it: Turn) -> None:
    taken(it)
    it.peeked.resend(it.msqid, it._size.value, libc.IPC_NOWAIT)


def first_sent_again(it: Turn) -> None:
    first_taken(it)
    it.peeked.resend(it.msqid, it._size.value, libc.IPC_NOWAIT)


def last_taken(it: Turn) -> None:
    for _ in range(it.qnum - 1):
        it.step()
    _intend(it)
    _take(it)


def killed_again(it: Turn) -> None:
    """In recover, before it was sent."""
    taken(it)
    it._taken_size.value, it.taken.mtype.value = turn._UNKNOWN, 1


def killed_again_later(it: Turn) -> None:
    killed_again(it)
    it.peeked.resend(it.msqid, it._size.value, libc.IPC_NOWAIT)


STATES = [nothing, not_begun, some, all_of_them, intended, first_taken, taken, taken_and_not_copied, sent_again]
STATES += [first_sent_again, last_taken, killed_again, killed_again_later]


@pytest.mark.parametrize("at", STATES)
@pytest.mark.parametrize("filling", [plain, all_sizes, over_its_qbytes])
def test_recovered(
    source: Namespace, tmp_path: Path, filling: Filling, at: Callable[[Turn], None], both_loops: bool
) -> None:
    if at is not_begun and filling is not plain:
        return  # it has begun before anything is changed
    msqid, messages = source.do(filling)
    if at is not not_begun:
        source.do(lambda: oracle.set_variable("kernel/shm_rmid_forced", 1))
    before = source.do(state)
    begun(source, msqid, at)
    holds = "which was turning message queue 0" if at is not not_begun else "killed before it had taken a message"
    line = refused("dump", "-t", source.pid, "-D", tmp_path / "d")
    assert holds in line
    assert line.endswith(f"; `ipcimg recover -t {source.pid}` completes it")
    done = ipcimg("recover", "-t", source.pid).stdout
    assert "messages are in their order" in done if at is not not_begun else "had taken no message" in done
    assert source.do(state) == before
    assert source.do(lambda: oracle.receive_all(msqid)) == messages
    assert "nothing to recover" in ipcimg("recover", "-t", source.pid).stdout


def test_a_preset_that_the_journal_has_taken(source: Namespace) -> None:
    msqid, messages = source.do(presets_pending)
    before = source.do(state)
    begun(source, msqid, without_its_preset)
    assert source.do(oracle.variables)["kernel/shm_next_id"] == "-1"
    ipcimg("recover", "-t", source.pid)
    assert source.do(state) == before
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


def test_restore_refuses(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    msqid, _ = target.do(plain)
    begun(target, msqid, some)
    line = refused("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert line.endswith(f"turning message queue 0 (key 0x00000007); `ipcimg recover -t {target.pid}` completes it")


def test_recovered_from_another_process_id_namespace(source: Namespace) -> None:
    """Where its processes have other numbers, or none."""
    msqid, messages = source.do(plain)
    begun(source, msqid, taken)
    program = "import sys; from ipcimg.cli import main; sys.exit(main(['recover']))"
    command = ["nsenter", f"--ipc={source.path}", "unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    done = run([*command, program])
    assert "messages are in their order" in done.stdout
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


@pytest.mark.parametrize("how", ["send", "receive", "both", "settings"])
@pytest.mark.parametrize("at", [some, taken, sent_again])
def test_used_since(source: Namespace, how: str, at: Callable[[Turn], None]) -> None:
    """Nobody guesses: it is refused, as often as one asks, and what is missing is in the journal."""
    msqid, messages = source.do(all_sizes)
    before = source.do(oracle.variables)
    begun(source, msqid, at)
    time.sleep(1.1 if how == "settings" else 0)

    def use() -> None:
        if how in ("receive", "both"):
            oracle.receive(msqid)
        if how in ("send", "both"):
            oracle.send(msqid, 99, b"x" * 10)
        if how == "settings":
            oracle.set_qbytes(msqid, 1 << 20)

    source.do(use)
    left = source.do(lambda: oracle.table("msg"))[msqid]
    [shmid] = source.do(lambda: oracle.table("shm"))
    for _ in range(2):
        line = refused("recover", "-t", source.pid)
        assert line.startswith(f"message queue {msqid} was used by somebody else since a dump began to turn it: ")
        assert line.endswith(f"`ipcrm -m {shmid}` gives it up")
        assert ("the next one may be missing" in line) == (at is not some)
        if at is taken:
            mtype, body = messages[10]
            where = f"in shared memory segment {shmid}: type {mtype}, {len(body)} bytes from byte 4104 on"
            assert where in line
            content = source.do(lambda: oracle.content(shmid, 4104 + 60000))
            assert content[4104:].startswith(body)
        assert source.do(lambda: oracle.table("msg"))[msqid] == left
        assert source.do(oracle.variables) == before
    source.do(lambda: subprocess.run(["ipcrm", "-m", str(shmid)], check=True))
    assert "nothing to recover" in ipcimg("recover", "-t", source.pid).stdout


@pytest.mark.parametrize("again", [False, True])
def test_queue_that_is_gone(source: Namespace, again: bool) -> None:
    msqid, _ = source.do(over_its_qbytes)
    before = source.do(oracle.variables)
    begun(source, msqid, taken)
    source.do(lambda: oracle.remove("msg", msqid))
    if again:
        source.do(lambda: oracle.queue(1, messages=[(1, b"another")], wanted=msqid))
    assert ipcimg("recover", "-t", source.pid).stdout.endswith("was killed: it is gone\n")
    assert source.do(lambda: oracle.table("shm")) == {}
    assert source.do(oracle.variables) == before
    if again:
        assert source.do(lambda: oracle.receive_all(msqid)) == [(1, b"another")]


def test_forged_journals(source: Namespace, tmp_path: Path) -> None:
    """What cannot be is refused; what is not ours is left alone."""
    msqid, messages = source.do(plain)
    kept: list[bytes] = []
    begun(source, msqid, some)
    [shmid] = source.do(lambda: oracle.table("shm"))
    size = source.do(lambda: oracle.table("shm"))[shmid]["size"]
    kept.append(source.do(lambda: oracle.content(shmid, size)))
    source.do(lambda: oracle.remove("shm", shmid))
    for at, word in ((8, 201), (16, size), (24, 1 << 40), (32, size), (40, 4000), (40, 3), (48, 0)):
        content = kept[0][:at] + word.to_bytes(8, "little")[: 4 if at == 40 else 8] + kept[0][at + 8 - 4 * (at == 40) :]
        forged = source.do(lambda content=content: oracle.segment(turn.KEYS[0], size, [(0, content)]))  # type: ignore[misc]
        line = refused("recover", "-t", source.pid)
        assert line.startswith(f"shared memory segment {forged} is the journal of a turn, but damaged: "), at
        assert refused("dump", "-t", source.pid, "-D", tmp_path / "d") == line
        source.do(lambda forged=forged: oracle.remove("shm", forged))  # type: ignore[misc]
    source.do(lambda: oracle.segment(turn.KEYS[0], size, [(0, kept[0])], mode=0o666))
    assert "nothing to recover" in ipcimg("recover", "-t", source.pid).stdout
    assert sorted(source.do(lambda: oracle.receive_all(msqid))) == sorted(messages)


def test_journal_outlives_its_guardian(
    source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both_loops: bool
) -> None:
    """The one that sets kernel.shm_rmid_forced again, which destroys segments that nobody has attached, goes on."""
    msqid, messages = source.do(hundred)
    before = source.do(state)
    guardians: list[Companion] = []

    def companion(*arguments: object) -> Companion:
        guardians.append(Companion(*arguments))  # type: ignore[arg-type]
        return guardians[-1]

    def killed_with_its_guardian() -> None:
        _, its = guardians
        os.kill(its.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(turning, "Companion", companion)
        steps_interrupted(patched, 50, killed_with_its_guardian)
        run(IPCIMG, "dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller", status=-signal.SIGKILL)
    until = time.monotonic() + 10
    while source.users():
        assert time.monotonic() < until
    assert source.do(oracle.variables)["kernel/shm_rmid_forced"] == "0"
    assert "messages are in their order" in ipcimg("recover", "-t", source.pid).stdout
    assert source.do(state) == before
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


def test_no_memory(source: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python_alone: None) -> None:
    """Where the kernel has none for a message that was taken, it stays in the journal."""
    msqid, messages = source.do(plain)
    before = source.do(state)
    resend, sent = libc.MessageBuffer.resend, [0]

    def send(self: libc.MessageBuffer, msqid: int, size: int, flags: int) -> None:
        sent[0] += 1
        if sent[0] > 30:
            raise OSError(12, "Cannot allocate memory")
        resend(self, msqid, size, flags)

    with monkeypatch.context() as patched:
        patched.setattr(libc.MessageBuffer, "resend", send)
        patched.setattr(turn, "_PATIENCE", 0.1)
        line = refused("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
    assert line.startswith("putting all messages of message queue 0 (key 0x00000007) back: Cannot allocate memory; ")
    assert line.endswith(f"`ipcimg recover -t {source.pid}` completes it")
    assert len(source.do(lambda: oracle.peek_all(msqid))) == 99
    ipcimg("recover", "-t", source.pid)
    assert source.do(state) == before
    assert source.do(lambda: oracle.receive_all(msqid)) == messages


# ---- SIGKILL at every system call ----------------------------------------------------------

SETTING = f"""
from ipcimg import freeze, turning
turning.DEEP = {DEEP}
users = freeze._users
freeze._users = lambda *arguments: (users(*arguments)[0], True)
"""


def started(setting: str) -> Iterator[list[Injector]]:
    if shutil.which("gcc") is None:
        reason = "gcc, which knows the numbers of the system calls, is missing: NOT TESTED (apt-get install gcc)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    made = [Injector(setting) for _ in range(WORKERS)]
    yield made
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def injectors() -> Iterator[list[Injector]]:
    """With the loops in C, where they were built."""
    yield from started(SETTING)


@pytest.fixture(scope="module")
def injectors_of_python() -> Iterator[list[Injector]]:
    yield from started('import os; os.environ["IPCIMG_LOOPS"] = "python"' + SETTING)


def thinned(points: list[Point]) -> list[Point]:
    """Without most of the calls that each message repeats: one of seven, so each kind of them is among the rest."""
    repeated = [point for point in points if point.name in ("msgrcv", "msgsnd")]
    return [point for point in points if point not in repeated] + repeated[::7]


def hundred() -> tuple[int, Messages]:
    """All that a turn has to put back: a preset, limits, qbytes, forced removal of segments."""
    messages = [(1 + n % 3, b"%d" % n * (n % 30)) for n in range(99)] + [(7, b"long" * 300)]
    msqid = oracle.queue(7, messages=messages)
    oracle.set_qbytes(msqid, 1000)
    oracle.set_variable("kernel/msgmax", 1000)
    oracle.set_variable("kernel/shm_rmid_forced", 1)
    oracle.preset("shm", 32768 * 3 + 5)
    return msqid, messages


def differs(namespace: oracle.Enterable, before: dict[str, object], msqid: int, messages: Messages) -> str:
    """What is not as it was. Empties the queue."""
    now = namespace.do(state)
    if now != before:
        return "; ".join(f"{name}: {before[name]} became {now[name]}" for name in now if now[name] != before[name])
    found = namespace.do(lambda: oracle.receive_all(msqid))
    return "" if found == messages else f"messages {found}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", [KILLED, ALL_KILLED, errno.EIO], ids=["SIGKILL alone", "SIGKILL of all", "EIO"])
def test_every_call(injectors: list[Injector], tmp_path: Path, what: int, record_property: Record) -> None:
    """A dump is killed at each of its calls, alone or with all its companions, or it fails: the queue is as before."""
    every_call(injectors, tmp_path, what, record_property, thin=what == errno.EIO)


@pytest.mark.exhaustive
def test_every_call_in_python(injectors_of_python: list[Injector], tmp_path: Path, record_property: Record) -> None:
    """The same by the reference."""
    every_call(
        injectors_of_python,
        tmp_path,
        ALL_KILLED,
        lambda name, what: record_property(name, f"{what}, in Python"),
        thin=True,
    )


def every_call(injectors: list[Injector], tmp_path: Path, what: int, record: Record, *, thin: bool) -> None:
    def arguments(namespace: Processless, out: Path) -> tuple[object, ...]:
        return "dump", "--ipc-ns", namespace.path, "-D", out, "--frozen-by-caller"

    def dump(injector: Injector, point: Point) -> str:
        namespace = Processless()
        try:
            msqid, messages = namespace.do(hundred)
            before = namespace.do(state)
            outcome = injector.inject(point, what, *arguments(namespace, tmp_path / str(point)))
            if outcome.status is None:
                return "did not end"
            told = f"`ipcimg recover --ipc-ns {namespace.path}` completes it" in outcome.errors
            if what != ALL_KILLED and not point.forked and not told and namespace.do(lambda: oracle.table("shm")):
                return "the journal was left"
            recovered = injector.run("recover", "--ipc-ns", namespace.path)
            if recovered.status != 0:
                return f"recover: {recovered.errors}"
            if what == ALL_KILLED and "in their order" not in recovered.output:
                # Without a journal nobody is left who knows what the settings were: those are for the guardians.
                before["variables"] = namespace.do(oracle.variables)
            return differs(namespace, before, msqid, messages)
        finally:
            namespace.close()
            shutil.rmtree(tmp_path / str(point), ignore_errors=True)

    namespace = Processless()
    namespace.do(hundred)
    calls = injectors[0].record(*arguments(namespace, tmp_path / "d"))
    namespace.close()
    assert sum(call.point.name == "msgsnd" for call in calls) == 100, "it was not turned"
    points = [call.point for call in calls if what != ALL_KILLED or not call.point.forked]
    points = thinned(points) if thin else points
    label = {KILLED: "SIGKILL", ALL_KILLED: "SIGKILL with its companions", errno.EIO: "EIO"}[what]
    at_every(points, injectors, dump, f"system calls of a dump that turns a queue, {label}", record)


@pytest.mark.exhaustive
def test_sigkill_of_recover(injectors: list[Injector], record_property: Record) -> None:
    """It is killed at each of its calls as well, and called again."""

    def broken() -> tuple[Processless, dict[str, object], int, Messages]:
        namespace = Processless()
        msqid, messages = namespace.do(hundred)
        before = namespace.do(state)
        begun(namespace, msqid, taken)
        return namespace, before, msqid, messages

    def recover(injector: Injector, point: Point) -> str:
        namespace, before, msqid, messages = broken()
        try:
            injector.inject(point, KILLED, "recover", "--ipc-ns", namespace.path)
            again = injector.run("recover", "--ipc-ns", namespace.path)
            if again.status != 0:
                return again.errors
            return differs(namespace, before, msqid, messages)
        finally:
            namespace.close()

    namespace, *_ = broken()
    calls = injectors[0].record("recover", "--ipc-ns", namespace.path)
    namespace.close()
    points = thinned([call.point for call in calls])
    at_every(points, injectors, recover, "system calls of a recovery of a turn, SIGKILL", record_property)


# ---- users that are stopped meanwhile ------------------------------------------------------


@contextlib.contextmanager
def drainer(namespace: oracle.Enterable, msqid: int) -> Iterator[tuple[int, int]]:
    """A user that takes all messages as soon as it sees that one was taken: its process, and where it tells them."""
    hear, tell = os.pipe()

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os.write(tell, b"\n")
                while oracle.table("msg")[msqid]["lrpid"] == 0:
                    pass
                os.write(tell, repr(oracle.receive_all(msqid)).encode())
            finally:
                os._exit(0)
        return pid

    pid = namespace.do(fork)
    os.close(tell)
    assert os.read(hear, 1) == b"\n"
    try:
        yield pid, hear
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(hear)


def told(hear: int) -> str:
    found = b""
    while more := os.read(hear, 1 << 16):
        found += more
    return found.decode()


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["ptrace", "cgroup", "cgroup, and all are killed"])
def test_users_go_on_with_a_whole_queue(
    injectors: list[Injector], tmp_path: Path, how: str, record_property: Record
) -> None:
    """Those who were stopped see the messages in their order, wherever the dump is killed.

    Killed with it, a freezer cannot thaw a cgroup; then recover does.
    """
    what = ALL_KILLED if "all" in how else KILLED

    def dump(injector: Injector, point: Point) -> str:
        namespace = Processless()
        try:
            msqid, messages = namespace.do(all_sizes)
            with contextlib.ExitStack() as stack:
                pid, hear = stack.enter_context(drainer(namespace, msqid))
                if "cgroup" in how:
                    stack.enter_context(cgroup(pid))
                out = tmp_path / str(point)
                command = ("dump", "--ipc-ns", namespace.path, "-D", out, "--freeze")
                if injector.inject(point, what, *command).status is None:
                    return "did not end"
                if what == ALL_KILLED:
                    recovered = injector.run("recover", "--ipc-ns", namespace.path)
                    if recovered.status != 0:
                        return f"recover: {recovered.errors}"
                shutil.rmtree(out, ignore_errors=True)
                if not was_turned(namespace, msqid):
                    os.kill(pid, signal.SIGKILL)
                    return "" if namespace.do(lambda: oracle.receive_all(msqid)) == messages else "not as before"
                found = told(hear)
            return "" if found == repr(messages) else f"they saw {found}"
        finally:
            namespace.close()

    namespace = Processless()
    msqid, _ = namespace.do(all_sizes)
    with drainer(namespace, msqid):
        calls = injectors[0].record("dump", "--ipc-ns", namespace.path, "-D", tmp_path / "d", "--freeze")
    namespace.close()
    points = [call.point for call in calls if not call.point.forked]
    turns = [
        point for point in points if point.name in ("msgrcv", "msgsnd", "shmget", "shmctl", "msgctl", "shmat", "shmdt")
    ]
    assert len(turns) > 70, "it was not turned"
    label = f"system calls of a turn, users stopped by {how}, SIGKILL"
    at_every(turns, injectors, dump, label, record_property)
