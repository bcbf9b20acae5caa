"""The configuration of `ipcimg hook`: which files, which of them wins, and what is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipcimg import hookconfig
from ipcimg.errors import ConfigurationError
from ipcimg.hookconfig import Configuration

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "hook.toml"


def test_nothing_there(tmp_path: Path) -> None:
    assert hookconfig.read(directory=str(tmp_path / "none")) == Configuration()
    assert hookconfig.read(directory=str(tmp_path)) == Configuration()


def test_example_has_every_key_at_its_default() -> None:
    found = hookconfig.read([str(EXAMPLE)])
    assert list(found.values()) == list(Configuration().values())
    assert set(found.origins) == {key for key, _ in found.values()}


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "hook.d").mkdir()
    for name, text in {
        "hook.toml": "dump = {place = 'beside', required = true}\nlog.file = ''",
        "hook.d/20.toml": "[dump]\nrequired = false",
        "hook.d/10.toml": "[dump]\nrequired = true\nstage = 'none'\n[restore]",
        "hook.d/30.toml~": "nonsense",
    }.items():
        (tmp_path / name).write_text(text)
    found = hookconfig.read(directory=str(tmp_path))
    assert found.files == tuple(f"{tmp_path}/{name}" for name in ("hook.toml", "hook.d/10.toml", "hook.d/20.toml"))
    assert found.dump == hookconfig.Dump(stage="none", place="beside", required=False)
    assert found.restore == hookconfig.Restore()
    assert found.log.file == ""
    assert found.origins["dump.required"] == f"{tmp_path}/hook.d/20.toml"
    assert found.origins["dump.stage"] == f"{tmp_path}/hook.d/10.toml"


def test_named_files_alone(tmp_path: Path) -> None:
    for name, text in (("hook.toml", "nonsense"), ("a", "dump.place = 'beside'"), ("b", "dump.stage = 'network-lock'")):
        (tmp_path / name).write_text(text)
    found = hookconfig.read([f"{tmp_path}/a", f"{tmp_path}/b"], directory=str(tmp_path))
    assert found.dump == hookconfig.Dump(stage="network-lock", place="beside")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"dump = 1", "dump: is a number, and should be a table"),
        (b"[dumps]", "dumps: there is no such table, only dump, restore, log"),
        (b"stage = 'none'", "stage: there is no such table, only dump, restore, log"),
        (b"[dump]\nstages = 'none'", "dump.stages: there is no such key, only stage, place, required"),
        (b"dump.stage = 7", "dump.stage: is a number, and should be a string"),
        (b"dump.stage = true", "dump.stage: is true or false, and should be a string"),
        (b"dump.stage = []", "dump.stage: is an array, and should be a string"),
        (b"dump.stage.x = 1", "dump.stage: is a table, and should be a string"),
        (b"dump.required = 'yes'", "dump.required: is a string, and should be true or false"),
        (b"dump.required = 1", "dump.required: is a number, and should be true or false"),
        (b"restore.verify = 1.5", "restore.verify: is a number, and should be true or false"),
        (b"log.file = 2026-11-24", "log.file: is a time, and should be a string"),
        (b'log.file = "a\\u0000b"', "log.file: has a null character in it"),
        (
            b"dump.stage = 'pre-dump'",
            'dump.stage: is \'pre-dump\', and should be one of "post-dump", "network-lock", "none"',
        ),
        (b"dump.place = ''", 'dump.place: is \'\', and should be one of "criu", "beside"'),
        (
            b"restore.stage = 'setup-namespaces'",
            'restore.stage: is \'setup-namespaces\', and should be one of "post-setup-namespaces", "none"',
        ),
        (
            b"dump.stage = 'network-lock'",
            'dump.stage: "network-lock" is before CRIU has dumped anything; it goes with place = "beside" alone',
        ),
        (
            b"dump = {stage = 'none', required = true}",
            'dump.required: is true, and dump.stage is "none": nothing would be dumped',
        ),
        (
            b"dump.place = 'beside'\nrestore.stage = 'none'",
            'restore.stage: is "none", and dump.place "beside": nobody would restore what is dumped',
        ),
        *(
            (
                f"log.file = '{name}'".encode(),
                f"log.file: is '{name}', and should be NAME.log, in the image directory, or an absolute path",
            )
            for name in (
                *("ipcns-msg-9.img", "pages-1.img", "inventory.img", "stats-dump", "parent", "ipcimg-segments"),
                *("../outside.log", "down/there.log", "..", ".", "hook", ".log"),
            )
        ),
        (b"dump", "is not TOML: Expected '=' after a key in a key/value pair (at end of document)"),
        (b"[dump]\n[dump]", "is not TOML: Cannot declare ('dump',) twice (at line 2, column 6)"),
        (b"# \xff", "byte 2: is not UTF-8"),
        (b"x = " + b"[" * 100_000, "is nested too deeply"),
        (b"#" * ((1 << 20) + 1), "is longer than 1048576 bytes"),
    ],
)
def test_refused(text: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "hook.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigurationError) as error:
        hookconfig.read([str(file)])
    assert str(error.value) == f"{file}: {why}"


@pytest.mark.parametrize(
    "text",
    [
        "dump.stage = 'none'\nrestore.stage = 'none'",
        "dump = {stage = 'none', place = 'beside'}\nrestore.stage = 'none'",  # it is not dumped
        "restore.stage = 'none'",
        "log.file = 'other.log'",
        "log.file = '/var/log/ipcns-msg-9.img'",
    ],
)
def test_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "hook.toml").write_text(text)
    hookconfig.read([str(tmp_path / "hook.toml")])


def test_contradiction_of_two_files(tmp_path: Path) -> None:
    """It is said of the one that has the key."""
    (tmp_path / "hook.d").mkdir()
    (tmp_path / "hook.toml").write_text("dump.required = true")
    (tmp_path / "hook.d" / "1.toml").write_text("dump.stage = 'none'")
    assert refused(tmp_path / "hook.toml", tmp_path).startswith("dump.required: is true, and dump.stage is")
    (tmp_path / "hook.d" / "2.toml").write_text("dump.required = false")
    hookconfig.read(directory=str(tmp_path))


def refused(path: Path, directory: Path) -> str:
    """Why a file, or directory, of a directory with configuration is refused."""
    with pytest.raises(ConfigurationError) as error:
        hookconfig.read(directory=str(directory))
    found = str(error.value)
    assert found.startswith(f"{path}: ")
    return found.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["", "hook.toml", "hook.d", "hook.d/1.toml"])
def test_others_can_write_it(name: str, tmp_path: Path) -> None:
    made = tmp_path / "etc"
    (made / "hook.d").mkdir(parents=True)
    for file in ("hook.toml", "hook.d/1.toml"):
        (made / file).touch()
    path = made / name
    before = path.stat().st_mode & 0o777
    hookconfig.read(directory=str(made))
    for more in (0o020, 0o002):
        path.chmod(before | more)
        assert refused(path, made) == f"others can write it (mode {before | more:04o}); chmod it, if you trust it"
    path.chmod(before)
    if os.geteuid() == 0:
        os.chown(path, 1000, 0)
        assert refused(path, made) == "belongs to user 1000, who could change it meanwhile; chown it, if you trust it"


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hook.toml")
    assert refused(tmp_path / "hook.toml", tmp_path) == "is not a regular file"
    with pytest.raises(ConfigurationError, match="/none: No such file or directory"):
        hookconfig.read([f"{tmp_path}/none"])


@pytest.mark.parametrize("name", ["", "hook.toml", "hook.d", "hook.d/1.toml"])
def test_symbolic_link(name: str, tmp_path: Path) -> None:
    """It leads to where somebody else may put another file of ours in the place of the one that is meant."""
    made = tmp_path / "etc"
    (made / "hook.d").mkdir(parents=True)
    for file in ("hook.toml", "hook.d/1.toml"):
        (made / file).touch()
    path, elsewhere = made / name, tmp_path / "shared"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    path.rename(elsewhere / "there")
    path.symlink_to(elsewhere / "there")
    assert refused(path, made) == "is a symbolic link"
    if name == "hook.toml":  # one that is named is meant
        hookconfig.read([str(path)])
