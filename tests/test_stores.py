"""Image directories in stores: what is put is there, whole or not at all, whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

from ipcimg import codec, delivery, imageset, interrupts, model, places, remote, sftp, stores
from ipcimg.errors import DirectoryError, ImageError, IpcimgError
from ipcimg.images import manifest_name, temporary_name
from tests import rich, wire

URL = "memory://bucket/images"
MIB = 1 << 20


class Dead(BaseException):
    """As a SIGKILL: nothing that is called after it does anything."""


class Faulty:
    """A file system in memory of which each operation can be counted, and be another one than it should be."""

    OPERATIONS = ("ls", "info", "cat_file", "rm_file")
    async_impl = True  # no directory has to be made

    def __init__(self) -> None:
        self.files = fsspec.filesystem("memory", skip_instance_cache=True)
        self.done: list[str] = []  # operations, and on what
        self.before: Callable[[int], None] = lambda n: None  # the n-th operation
        self.cut = 0  # bytes that are missing at the end of all that is read
        self.shows_parts = False  # of what is being put, as another host does

    def __getattr__(self, name: str) -> Any:
        act = getattr(self.files, name)
        assert name in self.OPERATIONS, name

        def counted(*arguments: Any, **options: Any) -> Any:
            self.comes(name, arguments[0])
            found = act(*arguments, **options)
            return found[: len(found) - self.cut] if name == "cat_file" and self.cut else found

        return counted

    def comes(self, operation: str, path: str) -> None:
        self.done.append(f"{operation} {path.rpartition('/')[2]}")
        self.before(len(self.done))

    def open(self, path: str, mode: str, block_size: int) -> Upload:
        return Upload(self, path)

    def count(self, operation: str) -> int:
        return sum(one.startswith(operation) for one in self.done)


class Upload(fsspec.spec.AbstractBufferedFile):  # type: ignore[misc]
    """A file that is put. Where its store does not show parts, nothing has come before all is there."""

    def __init__(self, store: Faulty, path: str) -> None:
        self.store, self.path, self.data, self.discarded = store, path, b"", False
        self.closed = False

    def write(self, data: bytes) -> None:
        self.data += data
        if self.store.shows_parts:
            self.store.comes("write", self.path)
            self.store.files.pipe_file(self.path, self.data[: len(self.data) // 2])

    def close(self) -> None:
        self.store.comes("put_file", self.path)
        self.store.files.pipe_file(self.path, self.data)
        self.closed = True

    def discard(self) -> None:
        self.discarded = True


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """What all URLs lead to."""
    faulty = Faulty()

    def connected(url: str) -> tuple[object, str]:
        assert url.startswith("memory://")
        return faulty, "/" + url.removeprefix("memory://")

    monkeypatch.setattr(remote, "_connected", connected)
    tmp_path_factory.getbasetemp()  # which is to be where it always is
    if os.path.isdir("/dev/shm"):  # hundreds of sets are made, and none has to outlive anything
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    yield faulty
    faulty.files.store.clear()
    faulty.files.pseudo_dirs[:] = [""]


@pytest.fixture(params=[False, True], ids=["at once", "by parts"])
def any_store(store: Faulty, request: pytest.FixtureRequest) -> Faulty:
    """What is put is there when all of it is, as in an object store; or grows, as on another host."""
    store.shows_parts = request.param
    return store


OTHER = dataclasses.replace(rich.contents(), queues=(), semaphores=())
COUNTS = {"rich": model.Counts(4, 31, 2, 3, 6), "other": model.Counts(0, 0, 0, 3, 6)}


def put(contents: model.Contents | None = None, *, force: bool = False, ns_id: int | None = None) -> None:
    """As a dump does it."""
    destination = stores.StoreDestination(URL, ns_id=ns_id, force=force)

    def make(path: str) -> None:
        with interrupts.handled(), imageset.saving(path, ns_id=destination.ns_id, force=False) as out:
            counts = imageset.write(
                contents or rich.contents(), out, criu_exact=False, first_pages_id=destination.first_pages_id
            )
            imageset.finish(out, counts)

    delivery.delivered(make, destination)


def elsewhere(by: int = 100) -> model.Contents:
    """As rich.contents(), with other ids of segments, whose files are not those of set 1 then."""
    segments = [
        dataclasses.replace(one, permissions=dataclasses.replace(one.permissions, id=one.permissions.id + by))
        for one in rich.contents().segments
    ]
    return dataclasses.replace(rich.contents(), segments=segments)


def put_other_set() -> dict[str, bytes]:
    """Files that are not of set 1: a set 2, and pages of CRIU's. Gives them as they are."""
    put(elsewhere(), ns_id=2)
    fsspec.filesystem("memory").pipe_file("/bucket/images/pages-17.img", b"of a process")
    return files()


def files() -> dict[str, bytes]:
    found = fsspec.filesystem("memory").store.items()
    return {path.removeprefix("/bucket/images/"): bytes(file.getbuffer()) for path, file in found}


def check(ns_id: int = 1) -> model.Counts:
    return imageset.open_set(URL, ns_id).check()


def killed_at(store: Faulty, n: int, act: Callable[[], None]) -> bool:
    """Call act, whose process is killed at its n-th operation. Did it come so far?"""
    store.done.clear()

    def before(done: int) -> None:
        if done >= n:
            raise Dead

    store.before = before
    try:
        act()
        return False
    except Dead:
        return True
    finally:
        store.before = lambda n: None


def killed_after(store: Faulty, last: str, act: Callable[[], None]) -> None:
    """Call act, whose process is killed when it has done an operation."""
    store.done.clear()

    def before(done: int) -> None:
        if last in store.done[:-1]:
            raise Dead

    store.before = before
    with pytest.raises(Dead):
        act()
    store.before = lambda n: None


@contextlib.contextmanager
def happening(store: Faulty, n: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Have somebody act before the n-th operation inside the with block; what is given has n then."""
    came: list[int] = []

    def before(done: int) -> None:
        if done == n and not came:
            came.append(n)
            store.before = lambda n: None
            act()

    store.done.clear()
    store.before = before
    try:
        yield came
    finally:
        store.before = lambda n: None


def succeeds(act: Callable[[], object]) -> bool:
    try:
        act()
    except IpcimgError as error:
        assert "\n" not in str(error)
        return False
    return True


def numbered(act: Callable[[int], bool]) -> int:
    """Call act with 1, 2, … as long as it says so."""
    n = 1
    while act(n):
        n += 1
    return n


# ---- writing -------------------------------------------------------------------------------


def test_what_is_put_is_what_a_directory_has(store: Faulty, tmp_path: pathlib.Path) -> None:
    put()
    imageset.save(rich.contents(), tmp_path)
    directory = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stored = files()
    assert stored.keys() == directory.keys()
    assert all(stored[name] == data for name, data in directory.items() if name != manifest_name(1))
    assert check() == COUNTS["rich"]
    assert codec.decode_manifest(places.opened(URL).image(manifest_name(1))).counts == COUNTS["rich"]


def test_order(store: Faulty) -> None:
    """The mark, then the old manifest and variables go, then all comes, these last; then the mark goes."""
    put()
    store.done.clear()
    put(OTHER, force=True)
    writes = [one for one in store.done if not one.startswith(("ls", "info", "cat_file"))]
    assert writes[:3] == ["put_file .ipcimg-1.tmp", "rm_file ipcimg-manifest-1.img", "rm_file ipcns-var-1.img"]
    assert writes[-3:] == ["put_file ipcns-var-1.img", "put_file ipcimg-manifest-1.img", "rm_file .ipcimg-1.tmp"]
    assert {"rm_file ipcns-msg-1.img", "rm_file ipcns-sem-1.img", "rm_file pages-1.img"} < set(writes[3:-3])
    assert check() == COUNTS["other"]


def test_a_set_is_not_replaced_unasked(store: Faulty) -> None:
    put()
    before = files()
    with pytest.raises(DirectoryError, match="set 1 is there already; --force replaces it"):
        put(OTHER)
    assert files() == before


def test_numbers_of_pages_do_not_collide(store: Faulty) -> None:
    others = put_other_set()
    put()
    assert {name for name in files() if name.startswith("pages-")} - others.keys() == {
        f"pages-{n}.img" for n in (18, 19, 20)
    }
    assert {name: data for name, data in files().items() if name in others} == others
    assert (check(1), check(2)) == (COUNTS["rich"], COUNTS["rich"])


def test_files_of_another_set_are_not_overwritten(store: Faulty) -> None:
    """The page maps have no N; where the ids are the same, the sets do not fit into one directory."""
    put(ns_id=2)
    before = files()
    with pytest.raises(DirectoryError, match=r"pagemap-shmem-3.img exists, and is not of set 1"):
        put()
    assert files() == before


def test_the_number_of_a_dump_of_criu_s(store: Faulty) -> None:
    store.files.pipe_file("/bucket/images/ids-1.img", wire.ids(5))
    put()
    assert manifest_name(5) in files()


def test_a_store_that_fails_once(any_store: Faulty) -> None:
    """At whatever operation: one line, and nothing is left but what was there."""
    store = any_store
    before = put_other_set()

    def fails(n: int) -> bool:
        def fail(done: int) -> None:
            if done == n:
                raise OSError(5, "Input/output error")

        store.done.clear()
        store.before = fail
        try:
            put()
        except IpcimgError as error:
            assert str(error).startswith(("memory://bucket/images", "image directory memory://bucket/images: "))
            assert "Input/output error" in str(error) and "\n" not in str(error)
            left = files()
            if "rm_file .ipcimg-1.tmp" not in store.done[:n]:
                assert left == before
            else:  # all was there already, but for the mark
                assert check() == COUNTS["rich"]
                put(force=True)
                for name in files().keys() - before.keys():
                    store.files.rm_file(f"/bucket/images/{name}")
            return True
        finally:
            store.before = lambda n: None
        return False

    assert numbered(fails) > 15


def test_a_store_that_fails_for_good(store: Faulty) -> None:
    """What was put cannot even be removed, and that is said."""

    def fail(done: int) -> None:
        if store.done[-1].startswith(("put_file pages-2", "rm_file")):
            raise OSError(28, "No space left on device")

    store.before = fail
    with pytest.raises(DirectoryError, match=r"No space left on device; and what was put could not be removed: .*"):
        put()
    store.before = lambda n: None
    with pytest.raises(DirectoryError, match="unfinished"):
        check()


@pytest.mark.parametrize("way", ["recover", "force"])
def test_a_writer_that_is_killed(any_store: Faulty, way: str) -> None:
    """At whatever operation: nobody takes what is left for a set, and whoever comes next has no trouble with it."""
    store = any_store
    others = put_other_set()
    refusals = 0

    def killed(n: int) -> bool:
        nonlocal refusals
        if not killed_at(store, n, put):
            return False
        try:
            assert check() == COUNTS["rich"]  # all but the mark was there
        except IpcimgError:
            refusals += 1
        assert check(2) == COUNTS["rich"]
        if way == "recover":
            stores.recover(URL)
            assert files() == others or check() == COUNTS["rich"]
        put(OTHER, force=way == "force" or manifest_name(1) in files())
        assert check() == COUNTS["other"]
        assert temporary_name(1) not in files()
        for name in files().keys() - others.keys():
            store.files.rm_file(f"/bucket/images/{name}")
        assert files() == others
        return True

    assert numbered(killed) > 15
    assert refusals > 15


def test_a_writer_that_is_killed_while_it_replaces_a_set(any_store: Faulty) -> None:
    """Then the old set is there, or none, or the new one."""
    store = any_store
    others = put_other_set()
    seen = set()

    def killed(n: int) -> bool:
        put(OTHER, force=True)
        if not killed_at(store, n, lambda: put(force=True)):
            return False
        try:
            seen.add(check())
        except IpcimgError as error:
            assert "unfinished" in str(error) or manifest_name(1) in str(error)  # a part of it
        if n % 2:
            found = stores.recover(URL)
            assert all(map(check, (n for n, whole in found.items() if whole)))
        assert check(2) == COUNTS["rich"]
        return True

    assert numbered(killed) > 15
    assert seen == {COUNTS["rich"], COUNTS["other"]}
    assert {name: data for name, data in files().items() if name in others} == others


@pytest.mark.parametrize("force", [False, True])
def test_two_writers(store: Faulty, force: bool) -> None:
    """The second comes between any two operations of the first: who has succeeded has his set there, whole."""
    outcomes: dict[str, int] = {"first": 0, "second": 0, "neither": 0}

    def second_comes(n: int) -> bool:
        store.files.store.clear()
        second: list[bool] = []
        with happening(store, n, lambda: second.append(succeeds(lambda: put(OTHER, force=force)))) as came:
            first = succeeds(lambda: put(force=force))
        if first:
            assert check() == COUNTS["rich"] or (force and check() == COUNTS["other"])  # it may have come afterwards
            outcomes["first"] += 1
        elif second == [True]:
            outcomes["second"] += 1
            assert succeeds(check) or force  # then his files may be the first's
        else:
            outcomes["neither"] += 1
            assert files() == {}
        return bool(came)

    assert numbered(second_comes) > 15
    assert outcomes["first"] and outcomes["second"]


BACKWARDS = dataclasses.replace(rich.contents(), segments=tuple(rich.contents().segments)[::-1])


@pytest.mark.parametrize("contents", [BACKWARDS, elsewhere()], ids=["the same files", "other files"])
def test_two_writers_of_different_sets(any_store: Faulty, contents: model.Contents) -> None:
    """The second comes between any two operations of the first: who has succeeded has his set there, whole."""
    store = any_store
    both = 0

    def second_comes(n: int) -> bool:
        nonlocal both
        store.files.store.clear()
        second: list[bool] = []
        with happening(store, n, lambda: second.append(succeeds(lambda: put(contents, ns_id=2)))) as came:
            first = succeeds(put)
        done = [ns_id for ns_id, succeeded in ((1, first), (2, second == [True])) if succeeded]
        assert all(check(ns_id) == COUNTS["rich"] for ns_id in done)
        assert len(files()) == sum(len(places.opened(URL).names()) for _ in done[:1])
        assert {name for name in files() if name.startswith((".ipcimg", "ipcimg-manifest"))} == {
            manifest_name(ns_id) for ns_id in done
        }
        both += len(done) == 2
        return bool(came)

    assert numbered(second_comes) > 15
    assert (both > 15) == (contents is not BACKWARDS)


def test_a_writer_whose_mark_is_removed(store: Faulty) -> None:
    """By recover, between any two operations: it fails, and nothing is left; or all was there."""
    others = put_other_set()
    failed = 0

    def recovered() -> None:
        stores.recover(URL)

    def recover_comes(n: int) -> bool:
        nonlocal failed
        with happening(store, n, recovered) as came:
            succeeded = succeeds(put)
        if succeeded:  # recover came before there was a mark, or when all was there
            mark = ".ipcimg-1.tmp"
            assert f"put_file {mark}" not in store.done[: n - 1] or store.done[n - 1 : n] in ([], [f"rm_file {mark}"])
            assert check() == COUNTS["rich"]
        else:
            failed += 1
            assert files() == others
        assert check(2) == COUNTS["rich"]
        for name in files().keys() - others.keys():
            store.files.rm_file(f"/bucket/images/{name}")
        return bool(came)

    assert numbered(recover_comes) > 15
    assert failed > 10


def test_a_mark_keeps_its_files_from_other_sets(store: Faulty) -> None:
    """What a writer of set 1 that was killed may still do, or have undone, is no part of set 2."""
    killed_after(store, "put_file .ipcimg-1.tmp", put)
    left = files()
    with pytest.raises(
        DirectoryError,
        match=r"another dump, of set 1, into it is running, or was killed, and has pagemap-shmem-3.img too; "
        "`ipcimg recover -D memory://bucket/images` removes what was killed",
    ):
        put(ns_id=2)
    assert files() == left
    put(elsewhere(), ns_id=2)
    assert {name for name in files() if name.startswith("pages-")} == {f"pages-{n}.img" for n in (4, 5, 6)}
    assert stores.recover(URL) == {1: False}
    assert check(2) == COUNTS["rich"]


@pytest.mark.parametrize("way", ["recover", "force"])
def test_files_of_another_set_stay(store: Faulty, way: str) -> None:
    """Whatever a mark lists."""
    put(elsewhere(), ns_id=2)
    put(elsewhere(200), ns_id=3)
    store.files.rm_file(f"/bucket/images/{manifest_name(3)}")  # as a set of CRIU's
    before = files()
    names = "".join(f"{name}\n" for name in before if "manifest" not in name and "ipcns" not in name)
    store.files.pipe_file("/bucket/images/.ipcimg-1.tmp", f"{names}ipcns-msg-1.img\nend 17\n".encode())
    store.files.pipe_file("/bucket/images/ipcns-msg-1.img", b"")
    if way == "recover":
        stores.recover(URL)
        assert files() == before
    else:
        put(force=True)
        assert {name: data for name, data in files().items() if name in before} == before
        assert check() == COUNTS["rich"]
    assert check(2) == COUNTS["rich"]


def test_a_store_that_fails_once_while_a_set_is_replaced(any_store: Faulty) -> None:
    """Then the old set is there, or nothing; only the mark may be left of the new one."""
    store = any_store
    others = put_other_set()
    seen = set()

    def fails(n: int) -> bool:
        if manifest_name(1) not in files():
            put(OTHER)

        def fail(done: int) -> None:
            if done == n:
                raise OSError(5, "Input/output error")

        store.done.clear()
        store.before = fail
        failed = not succeeds(lambda: put(force=True))
        store.before = lambda n: None
        left = set(files()) - set(others)
        seen.add(check() if left else None)
        if failed and "rm_file .ipcimg-1.tmp" not in store.done[:n]:
            assert not left or check() == COUNTS["other"]
        return failed

    assert numbered(fails) > 20
    assert seen == {None, *COUNTS.values()}
    assert {name: data for name, data in files().items() if name in others} == others


@pytest.mark.parametrize("way", ["recover", "force"])
def test_a_store_that_fails_for_good_while_a_set_is_replaced(store: Faulty, way: str) -> None:
    """From whatever operation on: what is left does not stand in the way of the next dump, and goes."""
    put(OTHER)
    whole = files()

    def fails(n: int) -> bool:
        def fail(done: int) -> None:
            if done >= n:
                raise OSError(5, "Input/output error")

        store.done.clear()
        store.before = fail
        failed = not succeeds(lambda: put(force=True))
        store.before = lambda n: None
        if way == "recover":
            stores.recover(URL)
            assert not files() or check() in COUNTS.values()
        put(OTHER, force=way == "force" or manifest_name(1) in files())
        assert check() == COUNTS["other"]
        assert len(files()) == len(whole)  # with other numbers of pages
        return failed

    assert numbered(fails) > 20


@pytest.mark.parametrize("name", ["pages-2.img", "ipcns-var-1.img"])
def test_a_disk_that_is_full(store: Faulty, name: str) -> None:
    """What has come of the file goes as well."""

    def fail(done: int) -> None:
        if store.done[-1] == f"put_file {name}":
            raise OSError(28, "No space left on device")

    store.shows_parts, store.before = True, fail
    with pytest.raises(DirectoryError, match=rf"^memory://bucket/images/{name}: No space left on device$"):
        put()
    assert files() == {}


@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_waits_for_the_request(any_store: Faulty, fails: bool) -> None:
    """At whatever operation that changes something; what is under way is given up, and no request comes behind it."""
    store = any_store
    uploads: list[Upload] = []
    opened = store.open

    def noted(*arguments: Any, **options: Any) -> Upload:
        uploads.append(opened(*arguments, **options))
        return uploads[-1]

    store.open = noted  # type: ignore[method-assign]

    def comes(n: int) -> bool:
        done_before: list[int] = []

        def before(done: int) -> None:
            operation = store.done[-1].partition(" ")[0]
            if not done_before and done >= n and operation in ("write", "put_file"):
                done_before.append(done)
                signal.raise_signal(signal.SIGTERM)
            if done_before and fails and operation == "rm_file":
                raise OSError(5, "Input/output error")

        store.files.store.clear()
        store.done.clear()
        store.before = before
        try:
            with interrupts.handled():
                put()
        except interrupts.Interrupted as error:
            assert error.signum == signal.SIGTERM
            left = "; and what was put could not be removed: memory://bucket/images/"
            assert str(error).startswith(f"ended by SIGTERM{left if fails else ''}")
            assert "\n" not in str(error)
            assert fails or files() == {}
            assert all(one.closed for one in uploads)
            return True
        finally:
            store.before = lambda n: None
        return False

    assert numbered(comes) > 10


def test_what_is_given_up(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is discarded, and not closed: then all that has come of it would be there."""
    uploads: list[Upload] = []
    opened, write = store.open, Upload.write

    def noted(*arguments: Any, **options: Any) -> Upload:
        uploads.append(opened(*arguments, **options))
        return uploads[-1]

    def fails(upload: Upload, data: bytes) -> None:
        write(upload, data)
        if upload.path.endswith("pages-1.img"):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "open", noted)
    monkeypatch.setattr(Upload, "write", fails)
    with pytest.raises(DirectoryError, match=r"pages-1.img: Input/output error"):
        put()
    assert [one.path.rpartition("/")[2] for one in uploads if one.discarded] == ["pages-1.img"]
    assert all(one.closed for one in uploads)
    assert "put_file pages-1.img" not in store.done


@pytest.mark.parametrize("name", [".ipcimg-1.tmp", "pages-2.img"])
@pytest.mark.parametrize("kind", ["link", "directory"])
def test_links_are_not_written_through(store: Faulty, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a set is whole."""
    put()
    store.files.pipe_file("/bucket/images/.ipcimg-1.tmp", b"end 17\n")
    before, ls = files(), store.files.ls

    def told(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        return [
            {**one, "type": kind if one["name"].endswith(name) else one["type"]} for one in ls(*arguments, **options)
        ]

    monkeypatch.setattr(store.files, "ls", told)
    with pytest.raises(IpcimgError, match=rf"{name}:? is a (symbolic link|directory)|{name}: not a regular file"):
        put(force=True)
    if name == ".ipcimg-1.tmp":
        with pytest.raises(ImageError, match=r"\.ipcimg-1.tmp: (is a symbolic link|not a regular file)"):
            stores.recover(URL)
    assert files() == before


def test_what_the_store_has_is_looked_at(store: Faulty) -> None:
    """A store that loses a file, or a part of it, gets no manifest."""

    def lose(done: int) -> None:
        if store.done[-1] == "put_file ipcns-var-1.img":
            store.files.pipe_file("/bucket/images/pages-2.img", b"short")

    store.before = lose
    with pytest.raises(DirectoryError, match=r"pages-2.img: has 5 bytes, and \d+ were put"):
        put()
    assert files() == {}


# ---- recovering ----------------------------------------------------------------------------


def test_recover_where_there_is_nothing(store: Faulty) -> None:
    put()
    before = files()
    assert stores.recover(URL) == {}
    assert files() == before


@pytest.mark.parametrize("name", ["pages-1.img.gz", "../x", "ipcns-msg-2.img", "inventory.img"])
def test_a_mark_that_lies(store: Faulty, name: str) -> None:
    """It comes from elsewhere: nothing goes but what can be of the set."""
    store.files.pipe_file("/bucket/images/.ipcimg-1.tmp", f"ipcns-msg-1.img\n{name}\nend\n".encode())
    store.files.pipe_file("/bucket/images/ipcns-msg-1.img", b"x")
    before = files()
    with pytest.raises(ImageError, match=r"lists .*, which cannot be of set 1"):
        stores.recover(URL)
    assert files() == before


def test_a_mark_that_is_cut(store: Faulty) -> None:
    """Its writer has done nothing else."""
    store.files.pipe_file("/bucket/images/.ipcimg-1.tmp", b"ipcns-msg-1.img\npages-1")
    store.files.pipe_file("/bucket/images/pages-1.img", b"x")
    assert stores.recover(URL) == {1: False}
    assert files() == {"pages-1.img": b"x"}


# ---- reading -------------------------------------------------------------------------------


def large_file(store: Faulty, size: int, name: str = "pages-1.img") -> bytes:
    data = bytes(range(256)) * (size // 256)
    store.files.pipe_file(f"/bucket/images/{name}", data)
    return data


def test_pages_are_fetched_in_large_blocks(store: Faulty) -> None:
    data = large_file(store, 64 * MIB)
    image = places.opened(URL).image("pages-1.img")
    store.done.clear()
    with image.file() as file:
        assert all(file.read(64 << 10) == data[at : at + (64 << 10)] for at in range(0, len(data), 64 << 10))
    assert store.count("cat_file") == 8
    assert image.size == len(data)


def test_threads(store: Faulty) -> None:
    data = large_file(store, 40 * MIB)
    image = places.opened(URL).image("pages-1.img")
    wrong: list[int] = []

    def read(first: int) -> None:
        view = memoryview(bytearray(MIB))
        for at in range(first * MIB, 40 * MIB, 4 * MIB):
            image.read_into(view, at)
            if view != data[at : at + MIB]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_images_are_fetched_once(store: Faulty) -> None:
    put()
    images = imageset.ImageSet(places.opened(URL), 1)
    store.done.clear()
    images.check()
    images.check()
    fetched = [one for one in store.done if one.startswith("cat_file") and "pages-" not in one]
    assert len(fetched) == len(set(fetched))


def test_an_image_that_changes(store: Faulty) -> None:
    """What has been read once stays what it was; what is another one by now is refused."""
    put()
    images = imageset.ImageSet(places.opened(URL), 1)
    before = list(images.contents.queues)
    for name in ("ipcns-msg-1.img", "ipcns-sem-1.img", "pages-1.img"):
        data = store.files.cat_file(f"/bucket/images/{name}")
        store.files.pipe_file(f"/bucket/images/{name}", data[:-1] + bytes([data[-1] ^ 1]))
    assert [one.qnum for one in images.contents.queues] == [one.qnum for one in before]
    with pytest.raises(ImageError, match=r"ipcns-sem-1.img: has been changed since the directory was opened"):
        list(images.contents.semaphores)
    with pytest.raises(ImageError, match=r"pages-1.img: has been changed since the directory was opened"):
        images.verify({"pages-1.img"})


def test_a_store_that_tells_no_change(store: Faulty) -> None:
    """Then the digests do, as in any directory."""
    put()
    images = imageset.ImageSet(places.opened(URL), 1)
    one = store.files.store["/bucket/images/pages-1.img"]
    one.seek(0)
    one.write(b"\xff\xfe")  # leaves its time of creation alone
    with pytest.raises(ImageError, match=r"pages-1.img: is not as it was written"):
        images.check()


def test_less_comes_than_there_is(store: Faulty) -> None:
    put()
    store.cut = 1
    with pytest.raises(
        ImageError, match=r"memory://bucket/images/ipcimg-manifest-1.img, byte \d+: ends 1 bytes too early"
    ):
        check()


def test_reading_fails(store: Faulty) -> None:
    """At whatever operation: one line with the image or the directory."""
    put()

    def fails(n: int) -> bool:
        def fail(done: int) -> None:
            if done == n:
                raise RuntimeError("two\nlines \x1b[31m")

        store.done.clear()
        store.before = fail
        try:
            check()
        except IpcimgError as error:
            assert "memory://bucket/images" in str(error)
            assert "two lines \\x1b[31m" in str(error)
            return True
        finally:
            store.before = lambda n: None
        return False

    assert numbered(fails) > 15


def test_no_directory(store: Faulty) -> None:
    with pytest.raises(DirectoryError, match="memory://bucket/images: No such directory, or nothing in it"):
        places.opened(URL)


def test_a_file_is_no_directory(store: Faulty) -> None:
    store.files.pipe_file("/bucket/images", b"x")
    with pytest.raises(DirectoryError, match="memory://bucket/images: not a directory"):
        places.opened(URL)


def test_an_image_that_is_not_there(store: Faulty) -> None:
    put()
    images = places.opened(URL)
    assert not images.has("ipcns-msg-7.img")
    with pytest.raises(ImageError, match=r"memory://bucket/images/ipcns-msg-7.img: No such file or directory"):
        images.image("ipcns-msg-7.img")
    with pytest.raises(DirectoryError, match="No such file or directory"):
        images.is_directory("ipcns-msg-7.img")


def test_directories_and_links_are_no_images(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    store.files.pipe_file("/bucket/images/core-1.img/x", b"")
    assert places.opened(URL).is_directory("core-1.img")
    with pytest.raises(ImageError, match=r"core-1.img: not a regular file"):
        places.opened(URL).image("core-1.img")
    ls = store.files.ls
    monkeypatch.setattr(store.files, "ls", lambda *a, **k: [{**one, "type": "link"} for one in ls(*a, **k)])
    with pytest.raises(ImageError, match="is a symbolic link"):
        places.opened(URL).image("ipcns-msg-1.img")


def test_parents_are_not_looked_for(store: Faulty) -> None:
    put()
    with pytest.raises(DirectoryError, match="its parent, which is not looked for at a URL"):
        places.opened(URL).parent()


def test_a_set_that_was_copied_while_it_was_written(store: Faulty) -> None:
    """A temporary directory of a dump into a directory, put into a store by whatever copies files."""
    put()
    store.files.pipe_file("/bucket/images/.ipcimg-1.tmp/ipcns-msg-1.img", b"")
    assert check() == COUNTS["rich"]
    store.files.rm_file("/bucket/images/ipcimg-manifest-1.img")
    with pytest.raises(DirectoryError, match="set 1 is unfinished"):
        check()


# ---- URLs ----------------------------------------------------------------------------------


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://user:p%40ss@host:22/images?token=t0ken"
    assert places.described(url) == "https://user@host:22/images?…"

    def connected(url: str) -> tuple[object, str]:
        raise ValueError(f"no way to {url}, with p@ss")

    monkeypatch.setattr(remote, "_connected", connected)
    with pytest.raises(DirectoryError) as raised:
        places.opened(url)
    assert str(raised.value) == (
        "image directory https://user@host:22/images?…: no way to https://user:…@host:22/images?…, with …"
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sftp://user:se/cret@host/x", "sftp://user:…"),
        ("sftp://user:se/cret", "sftp://user:…"),
        ("s3://key:se/cret@bucket/x", "s3://key:…"),
        ("https://user:se?cret@host/x", "https://user:…"),
        ("sftp://me@host:port/x", "sftp://me@host:…"),
    ],
)
def test_passwords_with_a_slash(url: str, told: str) -> None:
    """They end the host, and what is behind it would be printed: so a host is a host, and a port."""
    assert places.described(url) == told
    with pytest.raises(DirectoryError) as raised:
        places.opened(url)
    assert str(raised.value) == (
        f"image directory {told}: what follows the colon is no port; a / in a password is written %2F"
    )


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/h?1",
        "s3://bucket/h#1",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/h",
        "sftp://me@host:22/run#1?2",
        "sftp://[::1]:22/x",
        "sftp://host:/x",
        "streamer://a?b:c@d/x",
    ],
)
def test_what_is_no_secret_is_printed(url: str) -> None:
    assert places.described(url) == url


@pytest.mark.parametrize(
    ("url", "host", "options", "path"),
    [
        ("sftp://host/run#1", "host", {}, "/run#1"),
        ("sftp://host/run?1#2%23", "host", {}, "/run?1#2#"),
        ("sftp://host/", "host", {}, "/"),
        ("sftp://host", "host", {}, ""),
        ("sftp://me:p?#%2Fw@[::1]:99/x", "::1", {"username": "me", "password": "p?#/w", "port": 99}, "/x"),
    ],
)
def test_urls_of_other_hosts(
    url: str, host: str, options: dict[str, object], path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sftp, "Host", lambda host, options: (host, options))
    connection: Any
    connection, there = sftp.connected(url)
    found, told = connection
    assert (found, there) == (host, path)
    assert {name: value for name, value in told.items() if "timeout" not in name} == options


def test_the_root(store: Faulty) -> None:
    """What is listed is where files go."""
    store.files.pipe_file("/x.img", b"x")
    assert places.opened("memory:///").has("x.img")
    assert bytes(places.opened("memory:///").image("x.img").file().read()) == b"x"


def test_another_package_is_missing() -> None:
    """What INSTALL installs would not help."""
    program = """
import sys
sys.modules["gcsfs"] = None
from ipcimg.cli import main
sys.exit(main(["verify", "gs://bucket/images"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "ipcimg: Error: image directory gs://bucket/images: Please install gcsfs to access Google Storage\n"
    )


@pytest.mark.parametrize(
    ("package", "url"),
    [("fsspec", "s3://bucket/images"), ("s3fs", "s3://bucket/images"), ("paramiko", "sftp://host/images")],
)
def test_without_the_packages(package: str, url: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None
from ipcimg.cli import main
sys.exit(main(["verify", {url!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ipcimg: Error: image directory {url}: ")
    assert done.stderr.endswith("; images at such URLs need pip install '.[stores]' in the sources of ipcimg\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nothing://bucket/images", "Protocol not known: nothing"),
        ("file:///tmp/images", "a directory of this machine is named by its path"),
        ("local:///tmp/images", "a directory of this machine is named by its path"),
        ("memory://bucket/images", "what is in memory goes with the process"),
        ("dir:///tmp/images", "dir:// alone names no place"),
        ("reference://x", "reference:// alone names no place"),
        ("sftp:///tmp/images", "there is no host in the URL"),
        ("sftp://host?x/images", "there is no host in the URL"),
        ("sftp://host#x/images", "there is no host in the URL"),
        ("sftp://host:99999/images", "Port out of range 0-65535"),
        ("s3://", "there is no path in the URL"),
    ],
)
def test_urls_that_lead_nowhere(url: str, why: str) -> None:
    with pytest.raises(DirectoryError, match=f"^image directory {re.escape(url)}: {why}$"):
        places.opened(url)
