"""A namespace is filled, dumped, restored into another, and both are compared by the oracle."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ipcimg as library

from ..commands import IPCIMG, ipcimg, refused, run, same
from ..fidelity import row
from . import oracle
from .oracle import Namespace

pytestmark = pytest.mark.usefixtures("both_loops")
PAGE = os.sysconf("SC_PAGE_SIZE")


def fill() -> None:
    """Objects of all kinds, among them the extremes of each."""
    oracle.queue(0x1234, 0o640, [(5, b"hello"), (1, b""), (2**63 - 1, os.urandom(8192)), (5, b"again")])
    oracle.queue(0, 0o000)
    oracle.queue(0x80000001, 0o777, [(n + 1, bytes([n])) for n in range(256)])
    oracle.own("msg", oracle.queue(0xFFFFFFFF, 0o400, [(9, b"x" * 7)], wanted=2**31 - 1), 65534, 1234)
    oracle.semaphores(0x77, [32767])
    oracle.semaphores(0, [n % 32768 for n in range(32000)], 0o000)
    oracle.own("sem", oracle.semaphores(0xDEADBEEF, [0, 5, 32767], 0o666, wanted=32768 * 65535 + 17), 1001, 100)
    oracle.segment(0x99, 1, [(0, b"A")])
    oracle.segment(0, 10001, [(5000, b"unaligned"), (10000, b"!")], 0o000)
    oracle.segment(0x9A, 64 << 20, [(0, b"head"), (33 << 20, b"middle"), ((64 << 20) - 4, b"tail")])
    oracle.segment(0x9B, 5 * PAGE, [(0, os.urandom(5 * PAGE))])
    oracle.segment(0x9C, 7 * PAGE)  # never written
    oracle.own("shm", oracle.segment(0xCAFEBABE, PAGE, [(0, b"z")], 0o777, wanted=404525055), 1000, 1000)


def test_everything(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    before = source.do(lambda: ({kind: oracle.rows(kind) for kind in ("msg", "sem", "shm")}, oracle.variables()))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    after = source.do(lambda: ({kind: oracle.rows(kind) for kind in ("msg", "sem", "shm")}, oracle.variables()))
    assert after == before  # qnum and cbytes as well; rss: no hole became a page
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    same(tmp_path / "d", f"ns:{target.pid}")
    restored, original = target.do(oracle.everything), source.do(oracle.everything)
    assert restored == original
    assert len(restored["messages"][2**31 - 1]) == 1  # type: ignore[index]


def test_again(make_namespace: Callable[[], Namespace], tmp_path: Path) -> None:
    """What was restored is dumped the same: the images of both dumps are equal, file by file."""
    first, second = make_namespace(), make_namespace()
    first.do(fill)
    ipcimg("dump", "-t", first.pid, "-D", tmp_path / "1", "--criu-exact")
    ipcimg("restore", "-t", second.pid, "-D", tmp_path / "1")
    ipcimg("dump", "-t", second.pid, "-D", tmp_path / "2", "--criu-exact")
    with_times = {"ipcimg-manifest-1.img", "stats-dump", "stats-restore"}
    names = {p.name for p in (tmp_path / "1").iterdir()} - with_times
    assert len(names) == 4 + 2 * 6 + 1
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_deep_queue(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    """Turned, and the same afterwards but for what tells who used it last."""

    def deep() -> None:
        oracle.set_variable("kernel/msgmnb", 1 << 20)
        oracle.queue(1, messages=[(1 + n % 7, b"%d" % n) for n in range(3000)])

    source.do(deep)
    before = source.do(lambda: (oracle.rows("msg"), oracle.variables()))
    last = source.do(lambda: oracle.table("msg")[0]["lrpid"])
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d", "--frozen-by-caller")
    assert source.do(lambda: (oracle.rows("msg"), oracle.variables())) == before
    assert source.do(lambda: oracle.table("msg")[0]["lrpid"]) != last, "it was not turned"
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert target.do(oracle.everything) == source.do(oracle.everything)


CRIU_SETS = Path(__file__).parent.parent / "data" / "criu-4.2"


@pytest.mark.parametrize("name", ["basic", "identity", "attached"])
def test_criu_set_through_the_kernel(target: Namespace, tmp_path: Path, name: str) -> None:
    """CRIU's images → kernel → CRIU's images, byte for byte."""
    # A restore takes no files that belong to others, and these may belong to whoever has made the checkout.
    ipcimg(
        "restore",
        "-t",
        target.pid,
        "-D",
        shutil.copytree(CRIU_SETS / name, tmp_path / "in", copy_function=shutil.copyfile),
    )
    [ids] = (CRIU_SETS / name).glob("ids-*.img")
    out = tmp_path / "out"
    out.mkdir()
    (out / ids.name).write_bytes(ids.read_bytes())
    (out / "pages-1.img").touch()  # the task's own, which the set leaves out
    ipcimg("dump", "-t", target.pid, "-D", out, "--criu-exact")
    images = [p for p in (CRIU_SETS / name).iterdir() if p.name.startswith(("ipcns-", "pagemap-", "pages-"))]
    assert images
    for image in images:
        assert image.read_bytes() == (out / image.name).read_bytes(), image.name


@pytest.mark.slow
def test_more_than_256_of_each(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    def fill_many() -> None:
        for n in range(300):
            oracle.queue(0, messages=[(n + 1, b"%d" % n)])
            oracle.semaphores(0, [n])
            oracle.segment(0, 1 + n, [(n, b"%d" % (n % 10))])
        for n in range(0, 300, 7):  # and gaps
            oracle.remove("msg", n)
            oracle.remove("sem", n)
            oracle.remove("shm", n)

    source.do(fill_many)
    ipcimg("dump", "--ipc-ns", source.path, "-D", tmp_path / "d")
    ipcimg("restore", "--ipc-ns", target.path, "-D", tmp_path / "d")
    same(tmp_path / "d", f"ns:{target.pid}")
    assert target.do(oracle.everything) == source.do(oracle.everything)


def test_empty(source: Namespace, target: Namespace, tmp_path: Path) -> None:
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    beside = ["inventory.img", "stats-dump"]
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == sorted(
        ["ipcimg-manifest-1.img", "ipcns-var-1.img", *beside]
    )
    ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
    assert target.do(oracle.everything) == source.do(oracle.everything)


def test_own_namespace(source: Namespace, tmp_path: Path) -> None:
    """Without -t and --ipc-ns the caller's own namespace is meant."""
    source.do(lambda: oracle.queue(7, messages=[(1, b"own")]))
    run(["nsenter", f"--ipc={source.path}", *IPCIMG], "dump", "-D", tmp_path / "d")
    [queue] = library.load(tmp_path / "d").queues
    assert [message.body for message in queue.messages] == [b"own"]
    source.do(lambda: oracle.remove("msg", queue.permissions.id))
    run(["nsenter", f"--ipc={source.path}", *IPCIMG], "restore", "-D", tmp_path / "d")
    assert source.do(lambda: oracle.receive_all(queue.permissions.id)) == [(1, b"own")]


def test_new_namespace_for_a_command(source: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.queue(0x4711, messages=[(1, b"own")], wanted=98304))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    done = ipcimg("restore", "--new-ns", "-D", tmp_path / "d", "--", "sh", "-c", "cat /proc/sysvipc/msg; exit 0")
    assert "98304" in done.stdout
    run(IPCIMG, "restore", "--new-ns", "-D", tmp_path / "d", "--", "sh", "-c", "exit 7", status=7)
    line = run(IPCIMG, "restore", "--new-ns", "-D", tmp_path / "d", "--", "/no/such/command", status=1).stderr
    assert line == "ipcimg: Error: running /no/such/command: there is no such command\n"


def test_new_namespace_pinned(source: Namespace, tmp_path: Path) -> None:
    source.do(lambda: oracle.queue(0x4711, messages=[(1, b"pinned")]))
    ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
    pin = tmp_path / "pin"
    ipcimg("restore", "--new-ns", "--pin", pin, "-D", tmp_path / "d")
    try:
        line = refused("restore", "--new-ns", "--pin", pin, "-D", tmp_path / "d")
        assert line == f"pinning the namespace: {pin}: File exists"
        ipcimg("dump", "--ipc-ns", pin, "-D", tmp_path / "e")
    finally:
        subprocess.run(["umount", pin], check=True)
    [queue] = library.load(tmp_path / "e").queues
    assert [message.body for message in queue.messages] == [b"pinned"]


MIB = 1 << 20


@row("SHM_HUGETLB")
@pytest.mark.parametrize(
    ("size", "data", "huge_pages"),
    [
        (1, b"x", [0]),
        (2 * MIB, b"y" * 2 * MIB, [0]),
        (5 * MIB, b"in the second", [2 * MIB]),
        (5 * MIB + 3, b"in the last", [4 * MIB]),
        (6 * MIB, b"", []),
    ],
    ids=["1 byte", "1 page", "no multiple", "no multiple of anything", "all holes"],
)
def test_huge_pages(
    source: Namespace, target: Namespace, tmp_path: Path, size: int, data: bytes, huge_pages: list[int]
) -> None:
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    pool.write_text(str(int(before) + 8))
    try:
        if int(pool.read_text()) < int(before) + 8:
            pytest.fail("this machine has no 8 huge pages to spare: NOT TESTED")
        where = [(offset + min(5, size - len(data) - offset), data) for offset in huge_pages]
        source.do(lambda: oracle.segment(0x99, size, where, flags=0o4000))  # SHM_HUGETLB
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "d")
        [segment] = library.load(tmp_path / "d").segments
        assert [extent.offset for extent in segment.extents] == huge_pages
        ipcimg("dump", "-t", source.pid, "-D", tmp_path / "exact", "--criu-exact")
        [segment] = library.load(tmp_path / "exact").segments
        assert [(extent.offset, extent.length) for extent in segment.extents] == [(n, 2 * MIB) for n in huge_pages]
        ipcimg("restore", "-t", target.pid, "-D", tmp_path / "d")
        same(tmp_path / "d", f"ns:{target.pid}")
        assert target.do(lambda: oracle.rows("shm")) == source.do(lambda: oracle.rows("shm"))
        assert target.do(lambda: oracle.content(0, size)) == source.do(lambda: oracle.content(0, size))
        ipcimg("dump", "-t", target.pid, "-D", tmp_path / "e")
        [segment] = library.load(tmp_path / "e").segments
        assert segment.hugetlb_flag == 0o4000 | 21 << 26
        for one in (source, target):
            one.do(lambda: oracle.remove("shm", 0))
    finally:
        pool.write_text(before)


def test_library(source: Namespace, tmp_path: Path) -> None:
    source.do(fill)
    here = os.stat("/proc/self/ns/ipc").st_ino
    with library.of_process(source.pid) as ns:
        counts = library.dump(tmp_path / "d", ns).counts
    assert (counts.queues, counts.semaphore_sets, counts.segments) == (4, 3, 6)
    with library.new() as made:
        restored = library.restore(tmp_path / "d", made)
        assert restored.counts == counts
        assert restored.warnings == ()
        library.dump(tmp_path / "e", made)
    assert os.stat("/proc/self/ns/ipc").st_ino == here
    contents = library.load(tmp_path / "e")
    assert sum(1 for queue in contents.queues for _ in queue.messages) == counts.messages
    # Objects of a loaded set may be kept and looked at in any order.
    queues = list(contents.queues)
    assert [len(list(queue.messages)) for queue in reversed(queues)] == [queue.qnum for queue in reversed(queues)]
