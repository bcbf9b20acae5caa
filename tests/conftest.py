"""At the end of a run: the table of fidelity, if some of its rows were tried, and what tests have counted.

A test has its line among the counts by record_property("nothing lost", "what: how many tried, how many wrong").
"""

from __future__ import annotations

import os
import pathlib

import pytest

from ipcimg import loops

from .fidelity import ROWS

IN_VM = "IPCIMG_VM_PROGRAMS" in os.environ  # that of tools/vm
collect_ignore = [] if IN_VM else ["vm"]
_TOO_SLOW = pytest.mark.skip(
    reason="so many cases would take hours on an emulated processor: NOT TESTED on this kernel"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fidelity(row): the test is for this row of the table of fidelity")
    config.addinivalue_line("markers", "slow: takes long on an emulated processor; tools/vm runs it when it is named")
    config.addinivalue_line("markers", "exhaustive: tries so many cases that an emulated processor would take hours")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("fidelity"):
            item.user_properties.append(("fidelity", mark.args[0]))
        if IN_VM and item.get_closest_marker("exhaustive"):
            item.add_marker(_TOO_SLOW)


@pytest.fixture(params=["loops in C", "Python alone"])
def both_loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tries a test with the loops in C and without; tells whether it is with them."""
    if request.param == "loops in C":
        if loops.c is None:
            reason = "the loops in C were not built: NOT TESTED (gcc and Python's headers are needed: python3-dev)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        return True
    monkeypatch.setattr(loops, "c", None)
    monkeypatch.setenv("IPCIMG_LOOPS", "python")  # for those that are processes of their own
    return False


def _verdict(reports: list[pytest.TestReport]) -> str:
    if any(report.failed for report in reports):
        return "FAILED"
    skipped = [report.longrepr for report in reports if report.skipped]
    if skipped:
        why = skipped[0][2] if isinstance(skipped[0], tuple) else str(skipped[0])
        return why.removeprefix("Skipped: ")
    passed = sum(report.when == "call" for report in reports)
    return f"done ({passed} {'test' if passed == 1 else 'tests'})" if passed else "not run"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports: dict[str, list[pytest.TestReport]] = {key: [] for key in ROWS}
    counts: dict[str, None] = {}  # in the order of the tests; a test that fails may have two reports
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):  # a file that cannot be collected has none
                if name == "fidelity":
                    reports[value].append(report)
                elif name == "nothing lost":
                    counts[str(value)] = None
    if any(reports.values()):
        terminalreporter.section(f"restored exactly, on Linux {os.uname().release}")
        for key, text in ROWS.items():
            terminalreporter.line(f"{text:<66} {_verdict(reports[key])}")
    if counts:
        terminalreporter.section("nothing lost")
        for line in counts:
            terminalreporter.line(line)


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """$TMPDIR, in which nothing is to be left."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path / "tmp"
