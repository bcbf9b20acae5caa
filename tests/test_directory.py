"""A set of images is in its directory wholly or not at all, whatever happens and whatever else is there."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import ipcimg
from ipcimg import imageset, libc, model
from ipcimg.directory import ImageDirectory
from ipcimg.errors import DirectoryError, IpcimgError
from tests import wire

TMP = ".ipcimg-1.tmp"
PAGE = wire.PAGE
VARIABLES = ipcimg.Variables((1, 2, 3, 4), 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 12)


class Page:
    """An extent of one page."""

    def __init__(self, letter: bytes) -> None:
        self._data = letter * PAGE
        self.offset, self.length = 0, PAGE

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = self._data[start : start + len(view)]


def permissions(id: int) -> ipcimg.Permissions:  # noqa: A002  (the field's name)
    return ipcimg.Permissions(0, 0, 0, 0, 0, 0o600, id)


def segments(pages: dict[int, bytes]) -> list[ipcimg.SharedMemory]:
    """A segment of one page for each id, filled with its letter."""
    return [ipcimg.SharedMemory(permissions(shmid), PAGE, [Page(letter)]) for shmid, letter in pages.items()]


def queue(id: int, *bodies: bytes) -> ipcimg.MessageQueue:  # noqa: A002
    return ipcimg.MessageQueue(permissions(id), 1000, len(bodies), [ipcimg.Message(1, body) for body in bodies])


OLD = ipcimg.Contents(
    VARIABLES,
    segments({5: b"o", 6: b"p"}),
    [queue(1, b"old")],
    [ipcimg.SemaphoreSet(permissions(1), array.array("H", [1]))],
)
NEW = ipcimg.Contents(VARIABLES, segments({5: b"n"}), [queue(1, b"new")])  # no semaphores, one segment fewer
BARE = ipcimg.Contents(VARIABLES)


def digest(contents: model.Contents) -> Any:
    """Everything in it, as plain values that compare."""
    pages = {}
    for segment in contents.segments:
        [extent] = segment.extents
        data = bytearray(extent.length)
        extent.read_into(memoryview(data))
        pages[segment.permissions.id] = bytes(data)
    return (
        contents.variables,
        pages,
        [(queue.permissions.id, [message.body for message in queue.messages]) for queue in contents.queues],
        [(one.permissions.id, one.values.tolist()) for one in contents.semaphores],
    )


def snapshot(where: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory: mode, and content or target."""
    found = {}
    for path in sorted(where.rglob("*")):
        status = path.lstat()
        data = b""
        if path.is_symlink():
            data = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            data = path.read_bytes()
        found[str(path.relative_to(where))] = status.st_mode, data
    return found


def files(where: pathlib.Path) -> set[str]:
    return set(os.listdir(where))


class Failure(Exception):
    """Something that goes wrong while a namespace is collected."""


def failing(objects: Iterable[Any]) -> Iterator[Any]:
    yield from objects
    raise Failure


# ---- modes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_can_read_it(tmp_path: pathlib.Path, umask: int) -> None:
    """A dump holds what its owners thought was private to them."""
    before = os.umask(umask)
    try:
        ipcimg.save(OLD, tmp_path / "set")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "set").iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o755)
    ipcimg.save(OLD, tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_directory_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (("file", "Not a directory"), ("file/set", "Not a directory"), ("no/set", "No such file")):
        with pytest.raises(DirectoryError, match=f"{path}.*{why}"):
            ipcimg.save(OLD, tmp_path / path)


# ---- replacing -----------------------------------------------------------------------------


def test_existing_set_is_refused(tmp_path: pathlib.Path) -> None:
    ipcimg.save(OLD, tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(DirectoryError, match="set 1 is there already; --force replaces it"):
        ipcimg.save(NEW, tmp_path)
    assert snapshot(tmp_path) == before


FOREIGN = {
    "inventory.img": b"CRIU's",
    "core-7.img": b"a task",
    "pages-1.img": b"the task's own pages",
    "ipcns-var-2.img": wire.variables(),
    "ipcns-msg-2.img": wire.image(wire.MSG),
}


def test_existing_set_is_replaced_with_force(tmp_path: pathlib.Path) -> None:
    wire.write(tmp_path, FOREIGN)
    ipcimg.save(OLD, tmp_path, ns_id=1)
    ipcimg.save(NEW, tmp_path, ns_id=1, force=True)
    assert digest(ipcimg.load(tmp_path, 1)) == digest(NEW)
    names = {"ipcns-var-1.img", "ipcns-shm-1.img", "ipcns-msg-1.img", "pagemap-shmem-5.img", "ipcimg-manifest-1.img"}
    [pages] = files(tmp_path) - FOREIGN.keys() - names
    assert pages.startswith("pages-")
    assert {name: (tmp_path / name).read_bytes() for name in FOREIGN} == FOREIGN


def test_criu_s_set_is_replaced_with_force(tmp_path: pathlib.Path) -> None:
    """It has no manifest; which files are its own is found out from its page maps."""
    theirs = {
        "ipcns-var-1.img": wire.variables(),
        "ipcns-shm-1.img": wire.image(wire.SHM, wire.segment(wire.desc(8), PAGE)),
        "ipcns-sem-1.img": wire.image(wire.SEM, wire.semaphores(wire.desc(), [1])),
        "pagemap-shmem-8.img": wire.pagemap(2, wire.pages(0, 1)),
        "pages-2.img": bytes(PAGE),
    }
    wire.write(tmp_path, FOREIGN | theirs)
    with pytest.raises(DirectoryError, match="set 1 is there already"):
        ipcimg.save(BARE, tmp_path, ns_id=1)
    ipcimg.save(BARE, tmp_path, ns_id=1, force=True)
    assert files(tmp_path) == FOREIGN.keys() | {"ipcns-var-1.img", "ipcimg-manifest-1.img"}


def test_force_without_an_existing_set(tmp_path: pathlib.Path) -> None:
    ipcimg.save(NEW, tmp_path, force=True)
    assert digest(ipcimg.load(tmp_path)) == digest(NEW)


def test_another_set_s_files_are_in_the_way(tmp_path: pathlib.Path) -> None:
    """The names of page maps do not say whose they are: segments of the same id cannot lie side by side."""
    ipcimg.save(OLD, tmp_path, ns_id=2)
    before = snapshot(tmp_path)
    with pytest.raises(DirectoryError, match=r"pagemap-shmem-5\.img exists, and is not of set 1"):
        ipcimg.save(NEW, tmp_path, ns_id=1, force=True)
    assert snapshot(tmp_path) == before


# ---- the numbers of pages files ------------------------------------------------------------


@pytest.mark.parametrize("there", [1, 2, 7, 4294967294])
def test_pages_of_others_stay(tmp_path: pathlib.Path, there: int) -> None:
    wire.write(tmp_path, {f"pages-{there}.img": b"others'", "pages-x.img": b"", "pages-3.img.bak": b""})
    ipcimg.save(NEW, tmp_path)
    assert (tmp_path / f"pages-{there}.img").read_bytes() == b"others'"
    assert digest(ipcimg.load(tmp_path)) == digest(NEW)


@pytest.mark.parametrize("there", [4294967295, 9999999999])
def test_no_number_is_left_above_the_highest(tmp_path: pathlib.Path, there: int) -> None:
    """pages_id has 32 bits. Whether another number is found or the dump refused: what is there stays."""
    (tmp_path / f"pages-{there}.img").write_bytes(b"others'")
    try:
        ipcimg.save(NEW, tmp_path)
    except DirectoryError:
        assert files(tmp_path) == {f"pages-{there}.img"}
    else:
        assert digest(ipcimg.load(tmp_path)) == digest(NEW)
    assert (tmp_path / f"pages-{there}.img").read_bytes() == b"others'"


def test_two_sets_at_the_same_time(tmp_path: pathlib.Path) -> None:
    """Set 2 is to be written while set 1 is: whether that is refused or not, neither gets the other's pages."""
    sets = {1: ipcimg.Contents(VARIABLES, segments({1: b"a"})), 2: ipcimg.Contents(VARIABLES, segments({2: b"b"}))}
    saved = {1}

    def with_another_meanwhile() -> Iterator[ipcimg.SharedMemory]:
        yield from sets[1].segments
        with contextlib.suppress(DirectoryError):
            ipcimg.save(sets[2], tmp_path, ns_id=2)
            saved.add(2)

    ipcimg.save(ipcimg.Contents(VARIABLES, with_another_meanwhile()), tmp_path, ns_id=1)
    for ns_id in saved:
        assert digest(ipcimg.load(tmp_path, ns_id)) == digest(sets[ns_id])
    if 2 not in saved:
        ipcimg.save(sets[2], tmp_path, ns_id=2)
        assert digest(ipcimg.load(tmp_path, 2)) == digest(sets[2])


# ---- symbolic links ------------------------------------------------------------------------

WRITTEN = ["ipcns-var-1.img", "ipcns-shm-1.img", "ipcns-msg-1.img", "pagemap-shmem-5.img", "ipcimg-manifest-1.img", TMP]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("exists", [False, True], ids=["dangling", "to a file"])
@pytest.mark.parametrize("name", WRITTEN)
def test_symbolic_links_are_not_written_through(tmp_path: pathlib.Path, name: str, exists: bool, force: bool) -> None:
    """Root may dump into a directory that others can write to."""
    victim, where = tmp_path / "victim", tmp_path / "set"
    where.mkdir()
    if exists:
        victim.write_bytes(b"precious")
    (where / name).symlink_to(victim)
    before = snapshot(where)
    try:
        ipcimg.save(NEW, where, force=force)
    except IpcimgError:
        assert snapshot(where) == before
    else:
        assert force  # the link itself is replaced
        assert digest(ipcimg.load(where)) == digest(NEW)
    assert victim.exists() == exists
    assert not exists or victim.read_bytes() == b"precious"


def test_temporary_directory_that_is_a_link_to_another(tmp_path: pathlib.Path) -> None:
    """What is in a leftover temporary directory is removed: it must be our own."""
    victim, where = tmp_path / "victim", tmp_path / "set"
    wire.write(victim, {"precious": b"precious"})
    where.mkdir()
    (where / TMP).symlink_to(victim)
    with pytest.raises(DirectoryError):
        ipcimg.save(NEW, where)
    assert files(victim) == {"precious"}


# ---- failures ------------------------------------------------------------------------------

FAILING: dict[str, Callable[[], ipcimg.Contents]] = {
    "at the first segment": lambda: ipcimg.Contents(VARIABLES, failing([])),
    "after a segment": lambda: ipcimg.Contents(VARIABLES, failing(NEW.segments)),
    "after a queue": lambda: ipcimg.Contents(VARIABLES, NEW.segments, failing(NEW.queues)),
    "within a queue": lambda: ipcimg.Contents(
        VARIABLES, (), [ipcimg.MessageQueue(permissions(1), 9, 2, failing([ipcimg.Message(1, b"x")]))]
    ),
    "at the first semaphores": lambda: ipcimg.Contents(VARIABLES, NEW.segments, NEW.queues, failing([])),
}


@pytest.mark.parametrize("make", FAILING.values(), ids=FAILING)
def test_failure_leaves_nothing(tmp_path: pathlib.Path, make: Callable[[], ipcimg.Contents]) -> None:
    with pytest.raises(Failure):
        ipcimg.save(make(), tmp_path / "set")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("make", FAILING.values(), ids=FAILING)
def test_failure_leaves_the_directory_as_it_was(tmp_path: pathlib.Path, make: Callable[[], ipcimg.Contents]) -> None:
    ipcimg.save(OLD, tmp_path)
    wire.write(tmp_path, FOREIGN)
    before = snapshot(tmp_path)
    with pytest.raises(Failure):
        ipcimg.save(make(), tmp_path, ns_id=1, force=True)
    assert snapshot(tmp_path) == before


def test_queue_with_fewer_messages_than_it_had(tmp_path: pathlib.Path) -> None:
    changed = ipcimg.MessageQueue(permissions(4), 9, 2, [ipcimg.Message(1, b"x")])
    with pytest.raises(ipcimg.ChangedError, match="message queue 4"):
        ipcimg.save(ipcimg.Contents(VARIABLES, (), [changed]), tmp_path / "set")
    assert files(tmp_path) == set()


def test_full_disk_before_anything_moves(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ipcimg.save(OLD, tmp_path)
    before = snapshot(tmp_path)

    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DirectoryError, match="No space left on device"):
        ipcimg.save(NEW, tmp_path, force=True)
    assert snapshot(tmp_path) == before


# ---- what a killed process leaves ----------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: it goes through everything, and nothing may clean up after it."""


def leave(where: pathlib.Path, contents: ipcimg.Contents, *names: str, replaces: Iterable[str] | None = None) -> None:
    """A temporary directory as a killed process leaves it: with some of the files of the set, or all of them.

    replaces is what the process had written down as the files to go, once its set was complete.
    """
    scratch = pathlib.Path(tempfile.mkdtemp(dir=where.parent))
    (scratch / "pages-50.img").touch()  # a killed process, too, takes numbers that are free
    ipcimg.save(contents, scratch, ns_id=1)
    (where / TMP).mkdir(mode=0o700, parents=True)
    for name in names or files(scratch) - {"pages-50.img"}:
        (scratch / name).rename(where / TMP / name)
    if replaces is not None:
        (where / TMP / "commit").write_text("".join(f"{name}\n" for name in replaces))


@pytest.mark.parametrize("names", [("ipcns-var-1.img",), ("ipcns-var-1.img", "ipcns-shm-1.img")])
def test_leftover_without_manifest(tmp_path: pathlib.Path, names: tuple[str, ...]) -> None:
    where = tmp_path / "set"
    leave(where, OLD, *names)
    for ns_id in (None, 1):
        with pytest.raises(DirectoryError):
            ipcimg.load(where, ns_id)
    ipcimg.save(NEW, where)
    assert TMP not in files(where)
    assert digest(ipcimg.load(where)) == digest(NEW)


def test_empty_leftover(tmp_path: pathlib.Path) -> None:
    (tmp_path / TMP).mkdir()
    ipcimg.save(NEW, tmp_path)
    assert digest(ipcimg.load(tmp_path)) == digest(NEW)


@pytest.mark.parametrize("names", [("ipcns-var-1.img",), ()], ids=["begun", "all but complete"])
def test_leftover_beside_an_older_set(tmp_path: pathlib.Path, names: tuple[str, ...]) -> None:
    """Nothing of the old set was touched: it is as whole as it was, and perhaps the last one there is."""
    where = tmp_path / "set"
    ipcimg.save(OLD, where)
    before = snapshot(where)
    leave(where, NEW, *names)
    assert digest(ipcimg.load(where)) == digest(OLD)
    with pytest.raises(DirectoryError, match="set 1 is there already"):
        ipcimg.save(NEW, where)
    assert digest(ipcimg.load(where)) == digest(OLD)
    with pytest.raises(Failure):
        ipcimg.save(ipcimg.Contents(VARIABLES, failing([])), where, force=True)
    assert snapshot(where) == before
    leave(where, NEW, *names)
    ipcimg.save(NEW, where, force=True)
    assert digest(ipcimg.load(where)) == digest(NEW)


def test_leftover_beside_criu_s_set(tmp_path: pathlib.Path) -> None:
    """Without a manifest nobody can tell a whole set from what a killed process had moved of one."""
    where = tmp_path / "set"
    leave(where, NEW, "ipcns-var-1.img")
    wire.write(where, {"ipcns-var-1.img": wire.variables()})
    with pytest.raises(DirectoryError, match=f"set 1 is unfinished: {TMP}"):
        ipcimg.load(where)


def test_leftover_of_another_set_goes(tmp_path: pathlib.Path) -> None:
    """Its writer is dead, since the directory could be locked."""
    where = tmp_path / "set"
    leave(where, OLD, "ipcns-var-1.img")
    ipcimg.save(NEW, where, ns_id=2)
    assert digest(ipcimg.load(where, 2)) == digest(NEW)
    assert not (where / TMP).exists()


def test_complete_leftover_is_completed(tmp_path: pathlib.Path) -> None:
    """It was a whole set: the next dump finds it where it belongs, and is refused without --force."""
    where = tmp_path / "set"
    wire.write(where, {"ipcns-msg-1.img": b"old", "pages-77.img": b"old"} | FOREIGN)
    leave(where, OLD, replaces=["pages-77.img"])
    with pytest.raises(DirectoryError, match=f"set 1 is unfinished: {TMP}"):
        ipcimg.load(where, ns_id=1)
    with pytest.raises(DirectoryError, match="set 1 is there already"):
        ipcimg.save(NEW, where, ns_id=1)
    assert "pages-77.img" not in files(where)
    assert {name: (where / name).read_bytes() for name in FOREIGN} == FOREIGN
    assert digest(ipcimg.load(where, 1)) == digest(OLD)


def test_complete_leftover_of_another_set(tmp_path: pathlib.Path) -> None:
    """It is not in its place yet, and is still going to be: until then nobody else may take its numbers."""
    where = tmp_path / "set"
    where.mkdir()
    (where / "pages-50.img").touch()
    leave(where, OLD, replaces=[])
    second = ipcimg.Contents(VARIABLES, segments({2: b"b"}))
    ipcimg.save(second, where, ns_id=2)
    with pytest.raises(DirectoryError, match="set 1 is there already"):
        ipcimg.save(NEW, where, ns_id=1)
    assert digest(ipcimg.load(where, 1)) == digest(OLD)
    assert digest(ipcimg.load(where, 2)) == digest(second)


def test_complete_leftover_is_replaced_with_force(tmp_path: pathlib.Path) -> None:
    where = tmp_path / "set"
    leave(where, OLD, replaces=[])
    ipcimg.save(NEW, where, force=True)
    assert digest(ipcimg.load(where)) == digest(NEW)
    assert len(files(where)) == len(files_of(NEW, tmp_path))  # nothing of the old set is left


def files_of(contents: ipcimg.Contents, tmp_path: pathlib.Path) -> set[str]:
    """What saving contents into an empty directory writes."""
    ipcimg.save(contents, tmp_path / "files_of", force=True)
    return files(tmp_path / "files_of")


@pytest.mark.parametrize("name", ["../victim", "/etc/hostname", "inventory.img", "core-7.img", ".", ""])
def test_leftover_cannot_make_just_any_file_go(tmp_path: pathlib.Path, name: str) -> None:
    where = tmp_path / "set"
    (tmp_path / "victim").write_bytes(b"precious")
    wire.write(where, FOREIGN)
    leave(where, OLD, replaces=[name])
    with pytest.raises(DirectoryError, match="set 1 is there already"):
        ipcimg.save(NEW, where, ns_id=1)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert {name: (where / name).read_bytes() for name in FOREIGN} == FOREIGN


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("length", [None, 0, 4, 20])
def test_leftover_that_was_not_declared_complete(tmp_path: pathlib.Path, length: int | None, force: bool) -> None:
    """A manifest alone makes nothing whole: it may be cut, and what it lists may not have reached the disk."""
    where = tmp_path / "set"
    leave(where, OLD)
    if length is not None:
        os.truncate(where / TMP / "ipcimg-manifest-1.img", length)
    ipcimg.save(NEW, where, force=force)
    assert digest(ipcimg.load(where)) == digest(NEW)


def calls_of_a_save(monkeypatch: pytest.MonkeyPatch, kill_at: int | None, save: Callable[[], object]) -> int:
    """Run save and count its calls that change the directory; die at one of them, before it has an effect."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            # Dead processes make no more calls at all.
            if kill_at is not None and count > kill_at:
                raise Killed
            return call(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("rename", "unlink", "fsync", "rmdir", "mkdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        try:
            save()
        except Killed:
            assert kill_at is not None
    return count


@pytest.mark.parametrize("redo", [OLD, NEW, BARE], ids=["old", "new", "bare"])
def test_killed_at_any_call(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, redo: ipcimg.Contents) -> None:
    """A set is replaced, by one that has fewer kinds. Whenever that stops, nobody takes a mixture for a set, and the
    next dump with --force makes everything right."""

    def prepare(n: int | None) -> pathlib.Path:
        where = tmp_path / f"killed-{n}"
        ipcimg.save(OLD, where)
        return where

    where = prepare(None)
    calls = calls_of_a_save(monkeypatch, None, lambda: ipcimg.save(NEW, where, force=True))
    assert calls > 20
    expected = {"old": digest(OLD), "new": digest(NEW)}
    for n in range(calls):
        where = prepare(n)
        calls_of_a_save(monkeypatch, n, lambda where=where: ipcimg.save(NEW, where, force=True))  # type: ignore[misc]
        try:
            found = digest(ipcimg.load(where))
        except IpcimgError:
            pass  # refused
        else:
            assert found in expected.values(), f"a mixture after {n} calls"
        ipcimg.save(redo, where, force=True)
        assert digest(ipcimg.load(where)) == digest(redo), f"killed after {n} calls"
        assert TMP not in files(where)
        another = tmp_path / f"another-{n}"
        ipcimg.save(redo, another)
        assert len(files(where)) == len(files(another)), f"killed after {n} calls, {sorted(files(where))} are left"


@pytest.mark.parametrize("replacing", [False, True])
def test_killed_while_moving(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, replacing: bool) -> None:
    """The set was whole, and a part of it is in place: the next dump completes it, and is refused without --force."""
    completed = 0
    for n in range(40):
        where = tmp_path / f"killed-{n}"
        if replacing:
            ipcimg.save(OLD, where)
        calls_of_a_save(monkeypatch, n, lambda where=where: ipcimg.save(NEW, where, force=True))  # type: ignore[misc]
        if not (where / TMP / "commit").exists():
            continue
        completed += 1
        with pytest.raises(DirectoryError, match=r"is unfinished|no images"):
            ipcimg.load(where)
        with pytest.raises(DirectoryError, match="set 1 is there already"):
            ipcimg.save(BARE, where)
        assert digest(ipcimg.load(where)) == digest(NEW), f"killed after {n} calls"
        assert len(files(where)) == len(files_of(NEW, tmp_path)), f"killed after {n} calls"
    assert completed > 6  # at least once for each file


# ---- the order on the disk -----------------------------------------------------------------


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Write down (call, file) of everything that moves files or forces them to the disk."""
    calls: list[tuple[str, str]] = []
    rename, fsync = os.rename, os.fsync

    def recorded_rename(source: str, target: str, **fds: int) -> None:
        calls.append(("rename", target))
        rename(source, target, **fds)

    def recorded_fsync(fd: int) -> None:
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
        fsync(fd)

    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    return calls


def test_everything_is_on_the_disk_before_its_manifest(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "set"
    calls = record(monkeypatch)
    ipcimg.save(OLD, where)
    manifest = "ipcimg-manifest-1.img"
    renames = [name for call, name in calls if call == "rename"]
    assert renames[0] == "commit"
    assert sorted(renames[1:]) == sorted(files(where))
    assert renames[-1] == manifest
    # All that the set consists of is on the disk before it is declared complete, and that before it moves.
    declared = calls.index(("rename", "commit"))
    assert {name for call, name in calls[:declared] if call == "fsync"} == files(where) | {TMP, "commit.new"}
    assert calls[declared + 1] == ("fsync", TMP)
    assert calls[declared + 2 : declared + 4] == [("fsync", "set"), ("rename", renames[1])]
    # The names of the others must be on the disk before the variables' is, without which CRIU restores nothing.
    assert renames[-2] == "ipcns-var-1.img"
    assert calls[calls.index(("rename", renames[-2])) - 1] == ("fsync", "set")
    # They must be there before the manifest is, and that before all is done.
    last = calls.index(("rename", manifest))
    assert calls[last - 1] == ("fsync", "set")
    assert calls[last + 1] == ("fsync", "set")


def test_many_files_are_forced_to_the_disk_at_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch)
    synced: list[str] = []
    syncfs = libc.syncfs

    def recorded_syncfs(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        calls.append(("syncfs", ""))
        syncfs(fd)

    monkeypatch.setattr(libc, "syncfs", recorded_syncfs)
    ipcimg.save(ipcimg.Contents(VARIABLES, segments(dict.fromkeys(range(100), b"x"))), tmp_path / "set")
    assert synced == [TMP]
    assert calls[0] == ("syncfs", "")
    assert {name for call, name in calls if call == "fsync"} == {"commit.new", TMP, "set"}


# ---- the lock ------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_another_process_is_writing_into_the_directory(tmp_path: pathlib.Path, force: bool) -> None:
    where = tmp_path / "set"
    leave(where, OLD, "ipcns-var-1.img")
    before = snapshot(where)
    fd = os.open(where, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for ns_id in (1, 2):
            with pytest.raises(DirectoryError, match="another dump into it, or a restore from it, is running"):
                ipcimg.save(NEW, where, ns_id=ns_id, force=force)
            assert snapshot(where) == before
    finally:
        os.close(fd)
    ipcimg.save(NEW, where, force=force)
    assert digest(ipcimg.load(where)) == digest(NEW)


def test_the_lock_is_held_while_a_set_is_written(tmp_path: pathlib.Path) -> None:
    def look() -> Iterator[Any]:
        with pytest.raises(DirectoryError, match="another dump into it, or a restore from it, is running"):
            ipcimg.save(NEW, tmp_path)
        with pytest.raises(DirectoryError):
            ipcimg.load(tmp_path, 1)
        return iter(())

    class Looking:
        def __iter__(self) -> Iterator[Any]:
            return look()

    ipcimg.save(ipcimg.Contents(VARIABLES, (), Looking()), tmp_path)
    assert files(tmp_path) == {"ipcns-var-1.img", "ipcimg-manifest-1.img"}


@pytest.mark.parametrize("fails", [False, True])
def test_the_lock_is_given_up(tmp_path: pathlib.Path, fails: bool) -> None:
    """At once, and not when whoever called has forgotten about the error and the directory it refers to."""
    try:
        ipcimg.save(ipcimg.Contents(VARIABLES, failing([])) if fails else BARE, tmp_path)
    except Failure as error:
        kept: BaseException | None = error
    else:
        kept = None
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)
    assert (kept is not None) == fails


@pytest.mark.parametrize("kind", ["file", "link", "loop"])
def test_leftover_that_is_no_directory(tmp_path: pathlib.Path, kind: str) -> None:
    """Nor is a symbolic link followed to one."""
    ipcimg.save(ipcimg.load(pathlib.Path(__file__).parent / "data" / "criu-4.2" / "basic"), tmp_path / "d")
    (tmp_path / "elsewhere").mkdir()
    leftover = tmp_path / "d" / ".ipcimg-1.tmp"
    if kind == "file":
        leftover.touch()
    else:
        leftover.symlink_to(leftover if kind == "loop" else tmp_path / "elsewhere")
    with pytest.raises(DirectoryError, match=r"\.ipcimg-1\.tmp is not a directory"):
        ipcimg.load(tmp_path / "d")


def test_a_directory_that_may_only_be_listed(tmp_path: pathlib.Path) -> None:
    where = wire.write(tmp_path / "d", {"ipcns-var-1.img": wire.variables()})
    directory = ImageDirectory(str(where))
    where.chmod(0o444)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        assert directory.the_set(None) == 1
        with pytest.raises(DirectoryError) as raised:
            imageset.ImageSet(directory, 1)
    finally:
        os.seteuid(before)
        where.chmod(0o755)
    assert str(raised.value) == f"image directory {where}: .ipcimg-1.tmp: Permission denied"


def test_a_directory_whose_disk_fails(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = ImageDirectory(str(tmp_path))

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", fails)
    with pytest.raises(DirectoryError, match="Input/output error"):
        directory.sets()
