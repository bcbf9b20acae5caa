"""Transcripts of ipcimg-show: a set of images in every view, in a form that is the same from run to run.

IPCIMG_GOLDEN=write python -m pytest tests/test_golden.py     # writes them anew; look at the difference
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

from ipcimg.describe import printable

from .commands import SHOW, run

_DIRECTORY = pathlib.Path(__file__).parent / "golden"

# Each but the last with its exit status where that is not 0. SET stands for the set; 1 is for what is not there.
VIEWS = (
    "SET",
    "-mqsg SET",
    "-qms -ctp SET",
    "-mqs -P -b --noheadings SET",
    "-q -t --time-format full SET",
    "-s -p --notruncate SET",
    "-q --sort USE% --limit 2 SET",
    "-mqs -o KEY,ID,SIZE,NSEMS,LARGEST SET",
    "-m -o +CUID,LPID SET",
    "-r -mqs SET",
    "-e -mqs -t SET",
    "-n -s SET",
    "-J -mqsg -t SET",
    "-l -i 0x00001234 SET",
    "-i 0 SET",
    "-i msg:163847 SET",
    "-i shm:3 SET",
    "-i sem:1 SET",
    "--messages SET",
    "--messages --type 2-7 --size 1-100 SET",
    "--grep hello.from|piled|other SET",
    "--grep-hex 00:00:00 -m SET",
    "--hex --size 0-200 SET",
    "--text --size 0-200 SET",
    "--strings --least 6 SET",
    "-i shm:0 --range 0x1000+0x40 SET",
    "--verify SET",
    "--json SET",
    "--json=lines SET",
    "SET/ipcns-msg-N.img",
    "SET/ipcns-shm-N.img",
    "SET/ipcns-var-N.img",
    "SET/pagemap-shmem-ID.img",
)


def calls(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Each view as it is typed, and its arguments for a set."""
    n = next(iter(path.glob("ipcns-var-*"))).stem.rpartition("-")[2]
    pagemap = min(path.glob("pagemap-shmem-*"), default=None)
    for view in VIEWS:
        if "pagemap" in view and pagemap is None:
            continue
        view = view.replace("-N.", f"-{n}.").replace("pagemap-shmem-ID.img", pagemap.name if pagemap else "")
        yield view, view.split()


def transcript(source: str, views: Iterator[tuple[str, list[str]]]) -> str:
    """All of it; source is what is given to the command in the place of the set."""
    parts = []
    for view, arguments in views:
        done = subprocess.CompletedProcess[str]([], 0)
        words = [word.replace("SET", source) for word in arguments]
        for status in (0, 1, 2):
            try:
                done = run(SHOW, *words, status=status)
                break
            except AssertionError:
                if status == 2:
                    raise
        said = "".join(f"{line}\n" for line in done.stderr.splitlines())
        ended = f"[{done.returncode}]\n" if done.returncode else ""
        parts.append(f"$ ipcimg-show {view}\n{done.stdout}{said}{ended}")
    text = "\n".join(parts)
    for written in (source, printable(source), json.dumps(source)[1:-1]):
        text = text.replace(written, "SET")
    return _steady(text)


def _steady(text: str) -> str:
    """Without what is another thing each time: the machine, the moment, and what follows from them."""
    text = re.sub(
        r"20\d\d-\d\d-\d\dT\S+( by ipcimg )\S+ on Linux \S+ \S+", r"<when>\1<version> on Linux <kernel>", text
    )
    text = re.sub(r'"created": \d+', '"created": <when>', text)
    text = re.sub(r'"(kernel|machine|tool)": "[^"]*"', r'"\1": "<\1>"', text)
    return re.sub(r'("digest": )"[0-9a-f]{32}"', r'\1"<digest>"', text)


def expect(found: str, name: str) -> None:
    """See that a transcript is what the file of this name has; or write the file, where that is asked for."""
    file = _DIRECTORY / f"{name}.txt"
    if os.environ.get("IPCIMG_GOLDEN") == "write":
        file.write_text(found)
    assert found == file.read_text(), f"see {__file__}"
