"""`ipcimg check` tries what it reports, says so in its exit status, and cleans up."""

from __future__ import annotations

import os
import subprocess

from ..commands import IPCIMG, ipcimg, run

FEATURES = (
    "ipc_namespace",
    "user_namespace",
    "msg_copy",
    "msg_next_id",
    "sem_next_id",
    "shm_next_id",
    "map_files",
    "freeze",
    "cgroup_freeze",
)


def cgroups() -> set[str]:
    return {path for path, _, _ in os.walk("/sys/fs/cgroup") if "ipcimg-check" in path}


def test_all_features() -> None:
    done = ipcimg("check")
    lines = done.stdout.splitlines()
    assert [line.split(None, 1) for line in lines[:-1]] == [[name, "supported"] for name in FEATURES]
    assert lines[-1] == "Looks good."
    assert cgroups() == set()


def test_one_feature() -> None:
    assert ipcimg("check", "--feature", "msg_copy").stdout.splitlines()[-1] == "Looks good."


def test_unknown_feature() -> None:
    assert "there is no feature nonsense" in run(IPCIMG, "check", "--feature", "nonsense", status=2).stderr


def test_without_map_files() -> None:
    """Root of a user namespace may do all but open /proc/self/map_files and freeze cgroups."""
    done = subprocess.run(["unshare", "-Ur", *IPCIMG, "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    verdicts = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert verdicts["map_files"].startswith("not supported: opening /proc/self/map_files needs CAP_CHECKPOINT_RESTORE")
    assert all(verdicts[name] == "supported" for name in FEATURES if name not in ("map_files", "cgroup_freeze"))
    assert "Looks good." not in done.stdout
