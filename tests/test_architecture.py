"""Who may import whom, and the linters: what every change has to keep."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import ipcimg

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "ipcimg"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if "pb" not in path.relative_to(PACKAGE).parts
)
SHOW = {name for name in MODULES if name.startswith("show.")}  # the inspector
COMMANDS = {name for name in MODULES if name.startswith("commands.")}  # of ipcimg

# The two sides of model.py, which know nothing of each other, and those who bring them together.
KERNEL = {
    *("libc", "credentials", "companion", "namespace", "owners", "sysctl", "preset"),
    *("var", "msg", "sem", "shm", "listing", "reading", "freeze", "kinds", "create", "hold", "preflight"),
    *("notes", "journal", "turn", "turning", "cgroups", "podnote", "bystanders", "runtime", "outline"),
}
COLLECTORS = {"var", "msg", "sem", "shm"}
IMAGES = {"image", "images", "magics", "codec", "manifest", "directory", "archive", "spool", "criudump", "imageset"}
IMAGES |= {
    "places",
    "delivery",
    "stores",
    "stored",
    "remote",
    "sftp",
    "streamer",
    "tarstream",
    "link",
    "parent",
    "inventory",
    "detach",
}
JSON = {"jsonfields", "critjson", "encode"}
HOOK = {"hook", "hookconfig", "hooklog", "hookpod"}
TOGETHER = {"dump", "restore", "pod", "recover", "check", "cli", "commandline", "logfile", "__init__"} | HOOK | COMMANDS


def imported(module: str, at_import: bool = False) -> set[str]:
    """What a module imports: ipcimg's modules by their names, others by their whole names.

    At import: without what is imported inside functions, or for the type checker alone.
    """
    names: set[str] = set()
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())
    inside = module.rpartition(".")[0]  # the package within ipcimg that it is in
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if at_import and isinstance(node, (ast.FunctionDef, ast.If)):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= (2 if inside else 1), f"{module} imports from beyond ipcimg"
            found = {node.module} if node.module else {alias.name for alias in node.names}
            if inside and node.level == 1:
                names |= {f"{inside}.{name}" for name in found}
            else:
                names |= {name if name in MODULES else name.partition(".")[0] for name in found}
        todo += ast.iter_child_nodes(node)
    return names


def of_ipcimg(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The modules of ipcimg that importing a module imports, through all others."""
    found = {module}
    for name in imported(module, at_import=True) & set(MODULES):
        if name not in seen:
            found |= of_ipcimg(name, seen | found)
    return found


def packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(module)}


def test_every_module_has_its_side() -> None:
    """A new module must be put on one side, or be known to both."""
    known_to_both = {
        "model",
        "pieces",
        "progress",
        "stopwatch",
        "loops",
        "digest",
        "selection",
        "errors",
        "describe",
        "diff",
        "interrupts",
        "newfile",
        "trust",
    }
    assert set(MODULES) - KERNEL - IMAGES - TOGETHER - JSON - SHOW == known_to_both


@pytest.mark.parametrize(
    "module",
    [
        "image",
        "images",
        "magics",
        "archive",
        "spool",
        "digest",
        "codec",
        "manifest",
        "model",
        "selection",
        "errors",
        "describe",
        "diff",
        *sorted(JSON),
    ],
)
def test_codec_and_below_know_no_kernel(module: str) -> None:
    assert of_ipcimg(module) & (KERNEL | TOGETHER - {"__init__"}) == set()


@pytest.mark.parametrize(
    "module",
    [
        "directory",
        "imageset",
        "places",
        "delivery",
        "stores",
        "stored",
        "remote",
        "streamer",
        "tarstream",
        *sorted(SHOW),
    ],
)
def test_the_inspector_s_side_collects_nothing(module: str) -> None:
    assert of_ipcimg(module) & (KERNEL - {"libc"} | TOGETHER - {"commandline", "__init__"}) == set()


def test_the_command_alone_of_the_inspector_knows_what_a_command_is() -> None:
    assert {module for module in SHOW if "commandline" in imported(module)} == {"show.command", "show.arguments"}


@pytest.mark.parametrize("module", sorted(KERNEL))
def test_the_kernel_s_side_knows_no_images(module: str) -> None:
    assert of_ipcimg(module) & (IMAGES | TOGETHER | JSON | SHOW | {"describe"}) == set()
    assert packages(module) & {"pb", "google"} == set()


def test_collectors_know_nothing_of_each_other() -> None:
    for module in COLLECTORS:
        assert imported(module) & COLLECTORS == set(), module


def test_model_knows_nobody() -> None:
    assert imported("model") & set(MODULES) == set()


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("ctypes", {"libc"}),
        ("_loops", {"loops"}),
        ("pb", {"codec"}),
        ("google", {"codec"}),
        ("argparse", {"cli", "commandline", "show.arguments", "show.command"} | COMMANDS - {"commands.__init__"}),
        ("xxhash", {"digest"}),
        ("tarfile", {"archive", "tarstream"}),
        ("gzip", {"archive"}),
        ("backports", {"archive", "tarstream"}),
        ("compression", {"archive", "tarstream"}),
        ("tqdm", {"progress"}),
        ("fsspec", {"remote"}),
        ("paramiko", {"sftp"}),
        ("tomllib", {"hookconfig"}),
        ("tomli", {"hookconfig"}),
    ],
)
def test_one_module_knows(package: str, only: set[str]) -> None:
    assert {module for module in MODULES if package in packages(module)} == only


def test_nothing_but_protobuf_tomli_tqdm_xxhash_and_zstd_is_needed() -> None:
    for module in MODULES:
        others = (
            packages(module)
            - set(sys.stdlib_module_names)
            - set(MODULES)
            - {"pb", "_loops", "__version__", "show", "commands"}
        )
        of_extras = {"remote": {"fsspec"}, "sftp": {"paramiko"}}.get(module, set())  # for whoever wants them
        assert others <= {"google", "tomli", "tqdm", "xxhash", "backports", "compression"} | of_extras, module


# ---- starting ------------------------------------------------------------------------------

# What a command may read before it does anything. A new name here is some milliseconds for everybody.
FOR_ALL = {
    "__init__",
    "commandline",
    "describe",
    "digest",
    "errors",
    "interrupts",
    "loops",
    "model",
    "pieces",
    "progress",
    "selection",
    "stopwatch",
}
FOR_COMMANDS = {"cli", "commands"} | COMMANDS
FOR_IMAGES = {
    "codec",
    "criudump",
    "directory",
    "image",
    "images",
    "imageset",
    "magics",
    "manifest",
    "newfile",
    "places",
    "link",
    "trust",
}
FOR_THE_KERNEL = {
    *("companion", "credentials", "journal", "kinds", "libc", "listing", "namespace", "owners", "preset"),
    *("reading", "sysctl", "var", "msg", "sem", "shm", "notes", "turn", "turning", "recover"),
}
# What of the inspector only some views need.
SHOW_LATE = {f"show.{name}" for name in ("drawings", "grid", "lines", "markup", "panels", "report", "style")}
# What takes long to read, and is needed for what few commands do, late if at all.
LATE = {
    *("backports", "compression", "concurrent", "fsspec", "gzip", "hashlib", "json", "logging", "platform", "shutil"),
    *("subprocess", "tarfile", "tempfile", "tqdm", "urllib"),
}


@pytest.mark.parametrize(
    ("module", "only"),
    [
        ("cli", FOR_COMMANDS),
        ("show.command", SHOW - SHOW_LATE | {"show"} | FOR_IMAGES),
        ("imageset", FOR_COMMANDS | FOR_IMAGES),  # verify
        ("hook", FOR_COMMANDS | {"hook"}),
        ("dump", FOR_COMMANDS | {"dump", "inventory", "parent"} | FOR_IMAGES | FOR_THE_KERNEL),
        ("restore", FOR_COMMANDS | {"restore", "create", "hold", "preflight"} | FOR_IMAGES | FOR_THE_KERNEL),
    ],
)
def test_commands_read_what_they_need(module: str, only: set[str]) -> None:
    command = "" if module in SHOW else "ipcimg.cli, "
    program = "import sys; before = set(sys.modules); import {}ipcimg.{}; print(*(set(sys.modules) - before))"
    read = set(python(program.format(command, module)).split())
    assert {name.partition(".")[2] or "__init__" for name in read if name.split(".")[0] == "ipcimg"} - {
        "_loops",
        "pb",
        "pb.criu_pb2",
        "pb.ipcimg_pb2",
    } <= only | FOR_ALL
    assert read & LATE == set()


def test_a_stage_of_criu_s_that_has_nothing_to_do_reads_little() -> None:
    """criu calls the hook about eight times in a dump and a restore, and mostly for nothing."""
    program = (
        "import os, sys; before = set(sys.modules); os.environ['CRTOOLS_SCRIPT_ACTION'] = 'pre-resume'; "
        "from ipcimg.cli import main; main(['hook', '--config', 'docs/examples/hook.toml']); "
        "print(*(set(sys.modules) - before))"
    )
    read = set(python(program).split())
    of_ipcimg = {name.partition(".")[2] or "__init__" for name in read if name.split(".")[0] == "ipcimg"}
    assert of_ipcimg - {"_loops"} <= FOR_COMMANDS | FOR_ALL | HOOK | {"logfile", "trust"}
    assert read & LATE == set()


# ---- the public names ----------------------------------------------------------------------


def python(program: str) -> str:
    """What a Python program of its own prints."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", ipcimg.__all__)
def test_public_name(name: str) -> None:
    assert python(f"from ipcimg import {name}; print(type({name}) is type(__import__('sys')))") == "False\n"


@pytest.mark.parametrize("first", ["dump", "restore", "recover", "load", "new", "check"])
@pytest.mark.parametrize("then", ["dump", "restore", "recover"])
def test_functions_that_are_named_as_their_modules(first: str, then: str) -> None:
    """Importing a submodule sets its name in the package: in no order may that hide the function."""
    program = f"import ipcimg; getattr(ipcimg, {first!r}, None); print(callable(ipcimg.{then}))"
    assert python(program) == "True\n"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ipcimg.nothing


# ---- generated code and linters ------------------------------------------------------------


def test_generated_code_is_fresh(tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_pb.py", tmp_path], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in (PACKAGE / "pb").iterdir() if path.is_file()}
    assert made == committed


@pytest.mark.parametrize(
    "arguments",
    [
        ["ruff", "check", "--no-cache"],
        ["ruff", "format", "--check", "--no-cache"],
        ["mypy"],
    ],
    ids=" ".join,
)
def test_linter(arguments: list[str], tmp_path: pathlib.Path) -> None:
    # A cache from an earlier run can hide what a fresh checkout shows.
    cache = ["--cache-dir", str(tmp_path)] if arguments == ["mypy"] else []
    done = subprocess.run(
        [sys.executable, "-m", *arguments, *cache], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
