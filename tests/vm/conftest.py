"""These tests run in the virtual machine of tools/vm alone. At the end: which program passed in which direction."""

from __future__ import annotations

import os

import pytest

if "IPCIMG_VM_PROGRAMS" not in os.environ:
    raise pytest.UsageError("tests/vm run in a virtual machine: tools/vm [PYTEST-ARGUMENTS]")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    verdicts: dict[str, dict[str, str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in report.user_properties:
                if name == "direction":
                    program, direction = value
                    words = report.longrepr[2].removeprefix("Skipped: ") if report.skipped else outcome.upper()
                    verdicts.setdefault(program, {})[direction] = f"{words} ({report.duration:.0f} s)"
    if not verdicts:
        return
    directions = sorted({direction for row in verdicts.values() for direction in row})
    terminalreporter.section("a real CRIU")
    terminalreporter.line("".join(f"{head:<28}" for head in ("program", *directions)))
    for program, row in verdicts.items():
        terminalreporter.line("".join(f"{cell:<28}" for cell in (program, *(row.get(d, "-") for d in directions))))
