"""What ipcimg-show prints, held against files that a reviewer can read: tests/golden.

Each is a transcript of one set of images in every view. What differs from run to run stands there as <…>.
"""

from __future__ import annotations

import functools
import pathlib
import shlex
import subprocess

import pytest

import ipcimg
from tests import hostile, rich, transcripts
from tests.commands import SHOW, run

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE / "data" / "criu-4.2"
CRIU = ("attached", "basic", "identity")

ARCHIVES = {"tar": "-cf", "tar.gz": "-czf", "tar.zst": "--zstd -cf"}


@functools.cache
def _made(name: str, where: pathlib.Path) -> pathlib.Path:
    """The set of this name, in a directory below where, or CRIU's own."""
    if name in CRIU:
        return FIXTURES / name
    path = where / name
    if name == "hostile":
        return hostile.make(path, b"<b>" * 99)
    ipcimg.save(rich.contents(), path)
    return path


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("sets")


@pytest.mark.parametrize("name", [*CRIU, "rich", "hostile"])
def test_every_view(name: str, sets: pathlib.Path) -> None:
    path = _made(name, sets)
    transcripts.expect(transcripts.transcript(str(path), transcripts.calls(path)), name)


@pytest.mark.parametrize("name", [*CRIU, "rich"])
@pytest.mark.parametrize("suffix", ARCHIVES)
def test_archives_as_directories(name: str, suffix: str, sets: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As podman writes them: the images lie under checkpoint/, among other things."""
    path = _made(name, sets)
    (tmp_path / "checkpoint").symlink_to(path)
    (tmp_path / "config.dump").write_text("{}")
    archive = tmp_path / f"archive.{suffix}"
    command: list[str | pathlib.Path] = [
        "tar",
        "--dereference",
        *shlex.split(ARCHIVES[suffix]),
        archive,
        "-C",
        tmp_path,
        "config.dump",
        "checkpoint",
    ]
    subprocess.run(command, check=True)
    views = [(view, words) for view, words in transcripts.calls(path) if not words[-1].startswith("SET/")]
    of_archive = transcripts.transcript(str(archive), iter(views)).replace("SET:checkpoint", "SET")
    assert of_archive == transcripts.transcript(str(path), iter(views))
    with open(archive, "rb") as file:
        piped = subprocess.run([*SHOW, "-"], stdin=file, capture_output=True, text=True, check=True).stdout
    text = run(SHOW, archive).stdout
    assert piped.replace("standard input:checkpoint", str(path)) == text.replace(f"{archive}:checkpoint", str(path))
