"""Debian's crit as a second reader: what it makes of CRIU's images is what ipcimg-show makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .commands import SHOW, run

DATA = Path(__file__).parent / "data" / "criu-4.2"
# Of shm crit is no judge: it takes in_pagemaps for an inline segment.
IMAGES = sorted(path for kind in ("var", "msg", "sem") for path in DATA.glob(f"*/ipcns-{kind}-*.img"))


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_same_values(image: Path) -> None:
    if shutil.which("crit") is None:
        if os.environ.get("CI"):
            pytest.fail("crit is missing: NOT COMPARED (apt-get install criu)")
        pytest.skip("crit is missing: NOT COMPARED (apt-get install criu)")
    # Debian's crit wants Debian's python3-protobuf, whatever Python is first on PATH.
    crit = subprocess.run(["/usr/bin/python3", "/usr/bin/crit", "decode", "-i", image], capture_output=True, check=True)
    assert json.loads(run(SHOW, "--json", image).stdout) == json.loads(crit.stdout)


def test_there_are_images() -> None:
    assert len(IMAGES) == 7
