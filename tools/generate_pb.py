#!/usr/bin/env python3
"""Generate ipcimg/pb/ from proto/.

The result is committed, so that installing ipcimg needs no protobuf compiler and the generated
code never meets a protobuf runtime older than itself. A test regenerates and compares.

protoc writes absolute imports (``import criu_pb2``), which only work with ipcimg/pb itself on
sys.path; they are made relative here.
"""

import pathlib
import re
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("criu.proto", "ipcimg.proto")
ABSOLUTE_IMPORT = re.compile(r"^import (\w+_pb2)", re.MULTILINE)


def generate(target: pathlib.Path) -> None:
    """Write the modules and their type stubs into the directory target, which must exist."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={scratch}", f"--pyi_out={scratch}"]
        if protoc.main([*arguments, *SOURCES]) != 0:
            raise SystemExit(f"protoc refused {', '.join(SOURCES)} (see above)")
        for made in sorted(pathlib.Path(scratch).iterdir()):
            text = ABSOLUTE_IMPORT.sub(r"from . import \1", made.read_text())
            (target / made.name).write_text(text)
    (target / "__init__.py").write_text('"""Generated from proto/ by tools/generate_pb.py; not to be edited."""\n')


if __name__ == "__main__":
    print(f"grpcio-tools in {pathlib.Path(grpc_tools.__file__).parent}")
    generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "ipcimg" / "pb")
