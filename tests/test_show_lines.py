"""JSON of ipcimg-show for programs: what its lines say, and that docs/ipcimg-show.schema.json says the same of them."""

from __future__ import annotations

import array
import base64
import copy
import dataclasses
import json
import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ipcimg
from ipcimg import model
from ipcimg.show.answer import Answer
from ipcimg.show.problems import Problems
from ipcimg.show.request import Request
from ipcimg.show.source import subjects
from ipcimg.show.subject import Other, Subject

from . import wire
from .commands import SHOW, run

ROOT = Path(__file__).parent.parent
SETS = sorted((ROOT / "tests" / "data" / "criu-4.2").iterdir())
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "ipcimg-show.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MANY = 2001  # extents

Line = dict[str, Any]


def shown(*arguments: object, status: int = 0) -> list[Line]:
    return [json.loads(line) for line in run(SHOW, "--json=lines", *arguments, status=status).stdout.splitlines()]


def of(kind: str, lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["kind"] == kind]


def permissions(id: int, mode: int = 0o640, key: int = 0) -> model.Permissions:  # noqa: A002  (the field's name)
    return model.Permissions(key, 1, 2, 3, 4, mode, id)


@dataclasses.dataclass(frozen=True)
class Ones:
    """A page that is stored."""

    offset: int
    length: int = wire.PAGE

    def read_into(self, view: memoryview, start: int = 0) -> None:
        view[:] = b"1" * len(view)


RICH = model.Contents(
    model.Variables((1, 2, 3, 4), 5, 6, 7, 8, (1 << 64) - 1, 10, 11, 1, 13, 14, 15, 16, 17, 18, 19, 20),
    [
        model.SharedMemory(permissions(1), 3 * wire.PAGE - 1, [Ones(0), Ones(2 * wire.PAGE)]),
        model.SharedMemory(
            permissions((1 << 31) - 1, 0o3777, 0xFFFFFFFF),
            2 << 20,
            [],
            0o4000 | 21 << 26,
            model.SegmentFacts(1, 2, 3, 4, -1, 6),
        ),
        model.SharedMemory(permissions(2), 2 * MANY * wire.PAGE, [Ones(2 * n * wire.PAGE) for n in range(MANY)]),
    ],
    [
        model.MessageQueue(permissions(3), 100, 0, []),
        model.MessageQueue(
            permissions(7, key=9),
            (1 << 32) - 1,
            4,
            [
                model.Message(1, b"hello"),
                model.Message((1 << 63) - 1, bytes(range(256))),
                model.Message(2, b""),
                model.Message(1, "ü\33[31m\u2028".encode()),
            ],
            model.QueueFacts(270, -1, 2, 3, 4, -5),
        ),
    ],
    [
        model.SemaphoreSet(permissions(5), array.array("H", [0])),
        model.SemaphoreSet(
            permissions(6), array.array("H", [1, 32767]), model.SemaphoreFacts(0, 1 << 40, (-1, (1 << 31) - 1))
        ),
    ],
)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("rich") / "set"
    ipcimg.save(RICH, where)
    return where


def no_problem(problem: object) -> None:
    pytest.fail(str(problem))


def asked(subject: Subject, request: Request | None = None) -> Iterator[str]:
    return Answer(request or Request(json="lines")).pieces(subject, None)


@pytest.fixture(scope="module")
def lines(rich: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """Of everything that there is a line of."""
    moved: dict[int, int | bytes] = {
        14: b"--only msg",
        17: b"inconsistent",
        18: 3,
        19: b"message queue 1: a message was sent",
        24: wire.message({1: 7, 2: b"\1\2", 3: 0}),
    }
    alone = wire.write(
        tmp_path_factory.mktemp("alone"),
        {
            "manifest.img": wire.manifest(7, {"ipcns-var-7.img": b"x"}, moved),
            "pagemap.img": wire.pagemap(8, wire.pages(0, 1), wire.pages(1 << 40, 5, wire.PARENT)),
            "segments.img": wire.image(wire.SHM, wire.segment(wire.desc(99), 9)),
        },
    )
    archive = Subject("archive", Problems(no_problem), wire.PAGE, others=(Other("inventory.img", "INVENTORY", 9),))
    return shown(*SETS, rich, *sorted(alone.iterdir())) + [json.loads(line) for line in asked(archive)]


# ---- the schema -----------------------------------------------------------------------------


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_lines_are_as_the_schema_says(lines: list[Line]) -> None:
    for line in lines:
        VALIDATOR.validate(line)


def properties(schema: Line, path: str = "") -> Iterator[str]:
    """All that a line can have: "queue.facts.ctime"."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from properties(SCHEMA["$defs"][name], path or name)
    for one in schema.get("oneOf", []):
        yield from properties(one, path)
    for name, one in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from properties(one, f"{path}.{name}")


def members(value: object, path: str) -> Iterator[str]:
    """All that a line has and that is not null."""
    if isinstance(value, dict):
        for name, one in value.items():
            if one is not None:
                yield f"{path}.{name}"
                yield from members(one, f"{path}.{name}")


def test_every_property_is_seen(lines: list[Line]) -> None:
    assert {path for line in lines for path in members(line, line["kind"])} == set(properties(SCHEMA))


def places(value: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Where there is something in a line: the names that lead to it."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield (*path, name)
            yield from places(one, *path, name)


def test_no_other_line_is(lines: list[Line]) -> None:
    """Nothing can be left out, added, or be of another type or beyond its range."""
    tried: set[tuple[str, ...]] = set()
    for line in lines:
        for place in places(line):
            if (line["kind"], *place) in tried:
                continue
            tried.add((line["kind"], *place))
            *path, last = place
            spoilt = copy.deepcopy(line)
            parent = spoilt
            for name in path:
                parent = parent[name]
            value = parent.pop(last)
            assert not VALIDATOR.is_valid(spoilt), place
            wrong: list[object] = [1.5, [None], {}, -(1 << 64), 1 << 65, "true" if type(value) is bool else True]
            for other in wrong:
                parent[last] = other
                assert not VALIDATOR.is_valid(spoilt), (place, other)
            parent[last] = value
            assert VALIDATOR.is_valid(spoilt)
            parent["more"] = 1
            assert not VALIDATOR.is_valid(spoilt), place
    assert len(tried) > 100


# ---- what they say --------------------------------------------------------------------------


def test_values_are_those_of_the_model(rich: Path) -> None:
    found = shown(rich)
    assert {line["source"] for line in found} == {str(rich)}
    contents = ipcimg.load(rich)

    def plain(thing: Any) -> Any:
        return None if thing is None else json.loads(json.dumps(dataclasses.asdict(thing)))

    def described(line: Line) -> object:
        return line["permissions"], line["facts"]

    (variables,) = of("variables", found)
    assert {**variables, **plain(contents.variables)} == variables

    for line, segment in zip(of("segment", found), contents.segments, strict=True):
        assert described(line) == (plain(segment.permissions), plain(segment.facts))
        assert (line["size"], line["hugetlb_flag"]) == (segment.size, segment.hugetlb_flag)
        parts = [one["extents"] for one in of("extents", found) if one["segment"] == segment.permissions.id]
        assert all(0 < len(part) <= 1000 for part in parts)
        extents = [tuple(extent) for part in parts for extent in part]
        assert extents == [(extent.offset, extent.length) for extent in segment.extents]
        assert line["data"] == sum(length for _, length in extents)
    assert len(of("extents", found)) == 1 + 3

    queues = list(contents.queues)
    for line, queue in zip(of("queue", found), queues, strict=True):
        sizes = [len(message.body) for message in queue.messages]
        assert described(line) == (plain(queue.permissions), plain(queue.facts))
        assert (line["qbytes"], line["qnum"]) == (queue.qbytes, queue.qnum)
        assert (line["bytes"], line["longest"]) == (sum(sizes), max(sizes, default=0))
    bodies = [base64.b64decode(line["body"], validate=True) for line in of("message", found)]
    assert [
        (line["queue"], line["n"], line["type"], line["size"], body)
        for line, body in zip(of("message", found), bodies, strict=True)
    ] == [
        (queue.permissions.id, n, one.type, len(one.body), one.body)
        for queue in queues
        for n, one in enumerate(queue.messages)
    ]
    assert [line["text"] for line in of("message", found)] == ["hello", None, "", "ü\33[31m\u2028"]

    for line, semaphores in zip(of("semaphores", found), contents.semaphores, strict=True):
        assert described(line) == (plain(semaphores.permissions), plain(semaphores.facts))
        assert line["values"] == semaphores.values.tolist()


def test_order_and_end(rich: Path) -> None:
    """A set comes first, what belongs to an object behind it, and the end last, which counts the lines."""
    *found, end = shown(rich)
    kinds = [line["kind"] for line in found]
    files = len(list(rich.iterdir())) - 1  # the manifest does not list itself
    objects = ["segment", "extents", "segment", "segment", "extents", "extents", "extents"]
    objects += ["queue", "queue", "message", "message", "message", "message", "semaphores", "semaphores"]
    assert kinds == ["set", *["file"] * files, "variables", *objects]
    assert end["kind"] == "end"
    assert (end["ns_id"], end["complete"]) == (1, True)
    assert end["lines"] == {kind: kinds.count(kind) for kind in end["lines"]}
    assert sum(end["lines"].values()) == len(found)


def test_sets_of_one_directory(tmp_path: Path) -> None:
    for ns_id in (1, 2):
        ipcimg.save(model.Contents(RICH.variables, queues=[list(RICH.queues)[ns_id - 1]]), tmp_path, ns_id=ns_id)
    kinds = ["set", "file", "file", "variables", "queue"]
    found = shown(tmp_path)
    assert [line["kind"] for line in found] == [*kinds, "end", *kinds, *["message"] * 4, "end"]
    assert [line["ns_id"] for line in of("set", found)] == [line["ns_id"] for line in of("end", found)] == [1, 2]


def test_manifest(rich: Path) -> None:
    first = shown(rich)[0]
    counts = {"queues": 2, "messages": 4, "semaphore_sets": 2, "segments": 3, "pages": 2 + MANY}
    assert (first["ns_id"], first["manifest"]["counts"]) == (1, counts)
    assert first["manifest"]["tool"] == f"ipcimg {ipcimg.__version__}"
    files = {line["name"]: line["size"] for line in of("file", shown(rich))}
    assert files == {
        path.name: path.stat().st_size for path in rich.iterdir() if not path.name.startswith("ipcimg-manifest")
    }
    assert shown(SETS[0])[0]["manifest"] is None


def test_terminals_obey_none_of_it(rich: Path) -> None:
    text = run(SHOW, "--json=lines", rich).stdout
    assert all(line.isascii() and line.isprintable() for line in text.splitlines())


def test_image_that_came_alone(tmp_path: Path) -> None:
    image = wire.write(tmp_path, {"x.img": wire.image(wire.SHM, wire.segment(wire.desc(99), 9))}) / "x.img"
    segment, end = shown(image)
    assert (segment["data"], end["ns_id"], end["complete"]) == (None, None, True)


# ---- what is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["-m"], {"segment": 3, "extents": 4}),
        (["-q"], {"queue": 2, "message": 4}),
        (["-s"], {"semaphores": 2}),
        (["-g"], {"variables": 1}),
        (["-g", "-s"], {"variables": 1, "semaphores": 2}),
        (["--id", "shm:1"], {"segment": 1, "extents": 1}),
        (["--id", "msg:7", "--id", "0xffffffff"], {"segment": 1, "queue": 1, "message": 4}),
        (["--messages"], {"queue": 2, "message": 4}),
        (["--type", "1"], {"queue": 2, "message": 2}),
        (["--message", "3-", "--id", "msg:7"], {"queue": 1, "message": 1}),
        (["--size", "256"], {"queue": 2, "message": 1}),
        (["--grep", "hel+o"], {"queue": 2, "message": 1}),
        (["-q", "--limit", "1"], {"queue": 1, "message": 1}),
    ],
)
def test_only_what_is_asked_for(arguments: list[str], wanted: dict[str, int], rich: Path) -> None:
    first, *found, end = shown(*arguments, rich)
    assert (first["kind"], end["complete"]) == ("set", True)
    assert {line["kind"]: len(of(line["kind"], found)) for line in found} == wanted
    assert {kind: count for kind, count in end["lines"].items() if count} == {"set": 1, **wanted}
    for line in (first, *found, end):
        VALIDATOR.validate(line)


@pytest.mark.parametrize("arguments", [["--id", "msg:8"], ["--type", "77"], ["--grep", "nowhere"]])
def test_what_is_not_there(arguments: list[str], rich: Path) -> None:
    assert not of("message", shown(*arguments, rich, status=1))


# ---- what goes wrong, and how much there is -------------------------------------------------


def test_damaged_set_is_not_complete(rich: Path, tmp_path: Path) -> None:
    for path in rich.iterdir():
        os.link(path, tmp_path / path.name)
    image = tmp_path / "ipcns-msg-1.img"
    data = image.read_bytes()
    image.unlink()
    image.write_bytes(data[:-1])
    found = shown(tmp_path, status=2)
    for line in found:
        VALIDATOR.validate(line)
    assert found[-1]["complete"] is False
    assert len(of("queue", found)) == 1  # the second one is cut
    assert len(of("semaphores", found)) == 2


def test_source_that_cannot_be_read(rich: Path, tmp_path: Path) -> None:
    """Who sees the end alone sees that something is missing before it."""
    assert shown(tmp_path / "none", rich, status=2)[-1]["complete"] is False
    assert shown(tmp_path / "none", status=2) == []


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """8 MB of messages."""
    queue = wire.queue(wire.desc(1), [(1, b"x" * 1000)] * 8000)
    image = wire.write(tmp_path, {"x.img": wire.image(wire.MSG, queue)}) / "x.img"
    (subject,) = subjects(str(image), None, Problems(no_problem))
    tracemalloc.start()
    count = sum(1 for _ in asked(subject))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1 + 8000 + 1
    assert peak < 2 << 20


def test_nobody_has_to_read_on(rich: Path) -> None:
    """`… | head -n 1`."""
    command = [*SHOW, "--json=lines", *[str(rich)] * 50]  # prints more than a pipe takes
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "set"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0
