"""The bench: its yardsticks, a small run of everything, and what it does where something is not done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import uuid

import pytest

from ipcimg.model import Counts
from tools.benching import table
from tools.benching.__main__ import BROKEN, NOT_MET
from tools.benching.bench import Bench, BrokenError, compile_yardsticks
from tools.benching.content import Content, Nothing, Queues, Segment, Sets
from tools.benching.rows import PEAK_AT_MOST, Row, measurements

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "tools.benching")
SMALL = ("--rounds", "1", "--scale", "0.005")


@pytest.fixture(autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("making namespaces needs root: NOT TESTED; run the tests as root")
        pytest.skip("making namespaces needs root: NOT TESTED; run the tests as root")


# What the bench takes for the machine's own namespaces are some that nobody else changes meanwhile.
APART = (
    *("unshare", "--ipc", "--mount", "sh", "-c"),
    """
    state() { cat /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm /proc/self/mounts; ls -A /dev/shm; }
    mount -t tmpfs tmpfs /dev/shm && before=$(state) || exit 3
    "$@"
    status=$?
    [ "$(state)" = "$before" ] || { echo "something is left: $(state)" >&2; exit 3; }
    exit $status
    """,
    "sh",
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*APART, *COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, NOT_MET), done.stderr  # so small, a target says nothing
    return done


def started(mark: str, name: str = "") -> list[str]:
    """The processes that have the mark in their environment, and the name in their command."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                command = (process / "cmdline").read_text()
                found += [command] if name in command else []
    return found


# ---- runs ----------------------------------------------------------------------------------


def test_a_small_run_of_everything() -> None:
    names = [one.name for one in measurements()]
    if shutil.which("crit") is None:  # test_crit.py says so
        names.remove("show")
    rows = json.loads(bench(*SMALL, "--json", "--rows", *names).stdout)["rows"]
    assert {row["name"] for row in rows} == {*names}
    for row in rows:
        assert row["peak"] > 0
        assert (row["ratio"] is None) == (row["name"] == "zeros"), row
        assert (row["met"] is None) == (row["target"] is None and row["size"] is None), row


def test_table() -> None:
    names = ["queues-dump", "sparse-restore", "zeros"]
    head, _, *lines, _, memory = bench(*SMALL, "--rows", *names).stdout.splitlines()
    assert tuple(cell.strip() for cell in head.strip("|").split("|")) == table.COLUMNS
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == names
    assert all(len(row) == len(table.COLUMNS) and row[-2] in ("yes", "**no**") for row in cells)
    assert memory.startswith("Peak memory of every row, at most 96 MiB: met, with ")


def test_pictures(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need what the extra bench installs: NOT TESTED")
    bench("--plot", str(tmp_path), "--scale", "0.0001")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["messages.svg", "queues.svg", "segment.svg"]
    assert "bare receive and send" in (tmp_path / "messages.svg").read_text()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: str(how.name))
def test_a_run_that_is_ended_by_a_signal(how: signal.Signals) -> None:
    mark = f"IPCIMG_TEST={uuid.uuid4()}"
    process = subprocess.Popen(
        ["env", mark, *COMMAND, "--rows", "many-sets-restore"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not started(mark, "measured"):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait(timeout=30) != 0
    while left := started(mark):  # where the bench was killed, what was being measured comes to its end
        assert how == signal.SIGKILL, left
        assert time.monotonic() < until, left
        time.sleep(0.05)


@pytest.mark.parametrize(
    "arguments",
    [["--write", "--rounds", "3"], ["--write", "--scale", "0.5"], ["--write", "--rows", "zeros"], ["--scale", "0"]],
)
def test_a_table_that_would_be_kept_in_part_is_refused(arguments: list[str]) -> None:
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == BROKEN
    assert done.stdout == ""


# ---- the table -----------------------------------------------------------------------------

FAST = Row("a", "work", 7, 1 << 20, "yardstick", 2.0, "ipcimg", 2.5, 1.25)
SLOW = Row("b", "work", 7, PEAK_AT_MOST + 1, "yardstick", 2.0, "ipcimg", 3.0, 1.25)
LARGE = Row("c", "work", 7, 1 << 20, size=1 << 20)
GREEDY = dataclasses.replace(FAST, peak_at_most=FAST.peak - 1)


def test_what_is_met() -> None:
    assert [row.met for row in (FAST, SLOW, LARGE, GREEDY)] == [True, False, False, False]
    assert (table.memory_met([FAST]), table.memory_met([FAST, SLOW])) == (True, False)


def test_write(tmp_path: pathlib.Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.write([FAST, LARGE], document)
        text = document.read_text()
        assert text.startswith(f"before\n{table.BEGIN}\n\nMedians of 7 rounds")
        assert text.endswith(f"{table.END}\nafter\n")
        assert text.count("| a ") == 1
        assert "old" not in text


def test_the_document_has_a_place_for_the_table() -> None:
    assert table.BEGIN in table.DOCUMENT.read_text().partition(table.END)[0]


# ---- what is not done must not count as fast -----------------------------------------------


@pytest.fixture
def here(tmp_path: pathlib.Path) -> Bench:
    """A bench in the test's own mounts."""
    return Bench(tmp_path)


def test_the_yardsticks_compile_without_a_warning(tmp_path: pathlib.Path) -> None:
    compile_yardsticks(tmp_path / "yardsticks")
    assert (tmp_path / "yardsticks").exists()


@pytest.mark.parametrize(
    ("content", "yardstick", "amount"),
    [
        (Queues(2, 3, 5), ("peek", "0"), 6),
        (Queues(2, 3, 5), ("peek", "8192"), 6),
        (Queues(2, 3, 5), ("turn",), 6),
        (Sets(3), ("get-all",), 3),
        (Segment(1 << 20, 1 << 12, 1 << 16), ("copy-out", ".", str(1 << 20), str(1 << 12), str(1 << 16)), 16 << 12),
        (Nothing(), ("send", "2", "3", "5"), 6),
        (Nothing(), ("make-queues", "2", "3", "5"), 6),
        (Nothing(), ("make-sets", "3"), 3),
    ],
    ids=str,
)
def test_yardstick(here: Bench, content: Content, yardstick: tuple[str, ...], amount: int) -> None:
    with here.holding(content) as namespace:
        namespace.expect(content.counts)
        assert 0 < namespace.yardstick(*yardstick, directory=here.scratch, amount=amount) < 10
    wrong = f"has done {amount} in place of {amount + 1}"
    with pytest.raises(BrokenError, match=wrong), here.holding(content) as namespace:
        namespace.yardstick(*yardstick, directory=here.scratch, amount=amount + 1)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (Queues(2, 3, 5), Counts(queues=2, messages=7)),
        (Sets(3), Counts(semaphore_sets=4)),
        (Segment(1 << 20, 1 << 12, 1 << 16), Counts(segments=1, pages=17)),
    ],
    ids=str,
)
def test_a_dump_that_holds_less_than_was_made(
    here: Bench, content: Content, wrong: Counts, tmp_path: pathlib.Path
) -> None:
    with here.holding(content) as namespace:
        namespace.ipcimg("dump", tmp_path / "one", content.counts)
        with pytest.raises(BrokenError, match="made were"):
            namespace.ipcimg("dump", tmp_path / "other", wrong)


def test_a_listing_without_crit_to_compare_with(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [show] = [one for one in measurements(0.001) if one.name == "show"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrokenError, match="there is no crit"):
        show.measure(here, 1)


def test_a_yardstick_that_fails(here: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    with here.holding(Queues(1, 1, 1)) as namespace, pytest.raises(BrokenError, match="status 1"):
        namespace.yardstick("make-queues", "1", "1", "1", directory=here.scratch, amount=1)
    assert "msgget: File exists" in capfd.readouterr().err
