"""criu's plugin, in a program that has the functions of criu's that it uses: what it registers, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# As criu: it loads the plugin, and initializes it for a stage: 0 for a dump, 2 for a restore.
HOST = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct plugin { const char *name; int (*init)(int); void (*exit)(int, int); unsigned version, max_hooks; };

static int directory;

int criu_get_image_dir(void) { return directory; }

int collect_sysv_shmem(unsigned long id, unsigned long size) { return printf("%lu %lu\n", id, size) < 0; }

void print_on_level(unsigned level, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	printf("level %u: ", level);
	vprintf(format, arguments);
	va_end(arguments);
}

int main(int argc, char **argv)
{
	void *library = dlopen(argv[1], RTLD_LAZY);
	if (argc != 4 || !library)
		return 99;
	struct plugin *plugin = dlsym(library, "CR_PLUGIN_DESC");
	directory = open(argv[2], O_RDONLY | O_DIRECTORY);
	if (!plugin || plugin->version != 0x200 || plugin->max_hooks)
		return 98;
	int result = plugin->init(atoi(argv[3]));
	plugin->exit(atoi(argv[3]), result);
	return result != 0;
}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that has the plugin look into an image directory: the directory and the stage are to follow."""
    if shutil.which("gcc") is None:
        reason = "there is no gcc to build criu's plugin: NOT TESTED"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    scratch = tmp_path_factory.mktemp("plugin")
    (scratch / "host.c").write_text(HOST)
    subprocess.run(["gcc", "-rdynamic", scratch / "host.c", "-o", scratch / "host", "-ldl"], check=True)
    subprocess.run([ROOT / "tools" / "criu-plugin", scratch / "lib"], check=True)
    assert [path.name for path in (scratch / "lib").iterdir()] == ["ipcimg.so"]  # and no left-over
    return [str(scratch / "host"), str(scratch / "lib" / "ipcimg.so")]


def initialized(host: list[str], directory: Path, stage: int = 2) -> tuple[int, str]:
    """Exit status and output of the plugin in a stage of criu's."""
    done = subprocess.run([*host, directory, str(stage)], capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout


def test_registered(host: list[str], tmp_path: Path) -> None:
    lines = "0 1\n17 4096\n2147483647 9223372036854775807\n"
    (tmp_path / "ipcimg-segments").write_text(lines)
    assert initialized(host, tmp_path) == (0, lines)
    assert initialized(host, tmp_path, stage=0) == (0, "")


@pytest.mark.parametrize("empty", [False, True])
def test_nothing_to_register(empty: bool, host: list[str], tmp_path: Path) -> None:
    """No list is that of a container that was not detached, an empty one that of a pod without segments."""
    if empty:
        (tmp_path / "ipcimg-segments").touch()
    assert initialized(host, tmp_path) == (0, "")


@pytest.mark.parametrize(
    "line",
    [
        *("\n", "1\n", "1 \n", " 1 2\n", "1  2\n", "1 2 \n", "1 2 3\n", "1 2", "1\t2\n", "1 2\r\n", "a 1\n", "1 b\n"),
        *("-1 2\n", "+1 2\n", "1 -2\n", "1 0\n", "0x1 2\n", "2147483648 1\n", "1 9223372036854775808\n"),
        *("1 99999999999999999999\n", f"1 {'0' * 100}1\n", "1\0 2\n"),
    ],
    ids=repr,
)
def test_refused(line: str, host: list[str], tmp_path: Path) -> None:
    (tmp_path / "ipcimg-segments").write_text(f"7 8\n{line}")
    said = 'level 1: Error (ipcimg): ipcimg-segments: line 2 is not "ID SIZE"\n'
    assert initialized(host, tmp_path) == (1, f"7 8\n{said}")


@pytest.mark.parametrize("shmid", [7, 6, 0])
def test_order(shmid: int, host: list[str], tmp_path: Path) -> None:
    """So no segment is there twice."""
    (tmp_path / "ipcimg-segments").write_text(f"3 1\n7 8\n{shmid} 8\n")
    said = f"level 1: Error (ipcimg): ipcimg-segments: line 3: segment {shmid} is not after the one before\n"
    assert initialized(host, tmp_path) == (1, f"3 1\n7 8\n{said}")


@pytest.mark.parametrize("what", ["link", "directory", "fifo"])
def test_no_file(what: str, host: list[str], tmp_path: Path) -> None:
    path, why = tmp_path / "ipcimg-segments", "is not a regular file"
    if what == "link":
        path.symlink_to("/etc/passwd")
        why = "Too many levels of symbolic links"
    elif what == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)  # which nobody writes to: opened in the ordinary way it would never return
    assert initialized(host, tmp_path) == (1, f"level 1: Error (ipcimg): ipcimg-segments: {why}\n")
