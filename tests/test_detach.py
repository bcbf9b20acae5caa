"""Detaching the dump of a container from its pod: what is left for criu, what is refused, and no way to lose it."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipcimg
from ipcimg import detach
from ipcimg.errors import IpcimgError
from ipcimg.images import KINDS

from . import wire
from .test_criu_images import FIXTURES, NS_ID, SETS, dump_of

STEPS = ("mkdir", "open", "fsync", "rename", "unlink", "rmdir")


def tree(directory: Path) -> dict[str, bytes | None]:
    """Every file below a directory with its bytes, and every directory."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


def changed(contents: ipcimg.Contents, **variables: Any) -> ipcimg.Contents:
    return dataclasses.replace(contents, variables=dataclasses.replace(contents.variables, **variables))


def pod_of(name: str, where: Path, **variables: Any) -> detach.Pod:
    """A pod that holds what a set of CRIU's does, but for some settings."""
    ipcimg.save(changed(ipcimg.load(FIXTURES / name), **variables), where)
    return detach.pod(where)


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    one: str = request.param
    return one


@pytest.fixture
def container(name: str, tmp_path: Path) -> Path:
    """The dump of a container."""
    return dump_of(name, tmp_path / "container")


@pytest.fixture
def pod(name: str, tmp_path: Path) -> detach.Pod:
    """The pod that it was in."""
    return pod_of(name, tmp_path / "pod", shm_rmid_forced=1, shm_next_id=77)


def test_detached(name: str, container: Path, pod: detach.Pod) -> None:
    before = tree(container)
    assert detach.detach(container, pod)
    after = tree(container)
    images = {f"ipcns-{kind}-{NS_ID}.img" for kind in KINDS} & before.keys()
    for one in before.keys() - images:
        assert after[one] == before[one], one
    for one in images:
        assert after[f"ipcimg-detached/{one}"] == before[one]
    assert after.keys() & images == {f"ipcns-var-{NS_ID}.img"}

    found = ipcimg.load(container)
    assert [*found.segments, *found.queues, *found.semaphores] == []
    expected = ipcimg.load(FIXTURES / name)
    assert found.variables == expected.variables  # shm_rmid_forced is 0 there, and no preset is pending
    lines = after["ipcimg-segments"]
    assert lines is not None
    sizes = {one.permissions.id: one.size for one in expected.segments}
    told = [line.split(" ") for line in lines.decode().splitlines()]
    assert [(int(shmid), int(size)) for shmid, size in told] == sorted(sizes.items())
    assert detach.detached_from(container) == pod.digest


def test_list_is_in_the_order_that_the_plugin_takes(tmp_path: Path) -> None:
    found = ipcimg.load(FIXTURES / "basic")
    ipcimg.save(dataclasses.replace(found, segments=list(found.segments)[::-1]), tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    detach.detach(container, detach.pod(tmp_path / "pod"))
    ids = [int(line.split()[0]) for line in (container / "ipcimg-segments").read_text().splitlines()]
    assert len(ids) > 1
    assert ids == sorted(ids)


def test_again(container: Path, pod: detach.Pod) -> None:
    assert detach.detach(container, pod)
    once = tree(container)
    assert not detach.detach(container, pod)
    assert tree(container) == once


def test_undone(container: Path, pod: detach.Pod) -> None:
    before = tree(container)
    assert not detach.undo(container)
    assert detach.detach(container, pod)
    assert detach.undo(container)
    assert tree(container) == before
    assert detach.detached_from(container) is None
    assert not detach.undo(container)


def test_set_of_ipcimg_in_the_place_of_criu_s(container: Path, name: str, pod: detach.Pod) -> None:
    ipcimg.save(ipcimg.load(FIXTURES / name), container, criu_set=True)
    before = tree(container)
    assert detach.detach(container, pod)
    assert f"ipcimg-manifest-{NS_ID}.img" not in tree(container)
    assert ipcimg.load(container).variables.shm_rmid_forced == 0
    assert detach.undo(container)
    assert tree(container) == before


# ---- killed --------------------------------------------------------------------------------


def killed_after(steps: int, act: Callable[[], object]) -> bool:
    """Have a process call act and end as if killed when it has done so many steps; was it?"""
    pid = os.fork()
    if pid == 0:
        left = steps

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                result = function(*arguments, **named)
                left -= 1
                if left == 0:
                    os._exit(9)
                return result

            return call

        try:
            for step in STEPS:
                setattr(os, step, counted(getattr(os, step)))
            act()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 9


def criu_restores(directory: Path) -> bool:
    """Would criu take it for the dump of a namespace? It needs the settings alone."""
    return (directory / f"ipcns-var-{NS_ID}.img").exists()


@pytest.mark.parametrize("then", ["detach", "undo"])
@pytest.mark.parametrize("first", ["detach", "undo"])
def test_killed(first: str, then: str, tmp_path: Path, record_property: Any) -> None:
    """After every step: whoever comes next completes it, either way, and criu restores nothing that is half done."""
    pod = pod_of("basic", tmp_path / "pod")
    attached = dump_of("basic", tmp_path / "attached")
    detached = Path(shutil.copytree(attached, tmp_path / "detached"))
    detach.detach(detached, pod)
    whole = {"detach": tree(detached), "undo": tree(attached)}
    act = {"detach": lambda at: detach.detach(at, pod), "undo": detach.undo}
    steps = 0
    while True:
        steps += 1
        directory = Path(shutil.copytree(attached if first == "detach" else detached, tmp_path / f"{steps}"))
        if not killed_after(steps, lambda at=directory: act[first](at)):  # type: ignore[misc]
            assert tree(directory) == whole[first]
            break
        if criu_restores(directory):
            images = {name for name in tree(directory) if name.startswith(("ipcns-", "ipcimg-seg"))}
            sides = [{name for name in side if name.startswith(("ipcns-", "ipcimg-seg"))} for side in whole.values()]
            assert images in sides
        act[then](directory)
        assert tree(directory) == whole[then]
    assert steps > 15
    record_property("nothing lost", f"{first} killed at each step, then {then}: {steps - 1} tried, 0 wrong")


@pytest.mark.parametrize("step", STEPS[1:4])
def test_failing(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails is undone at once."""
    pod = pod_of("basic", tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    before = tree(container)
    function, left = getattr(os, step), 1
    while True:
        calls = left

        def fail(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls -= 1
            if calls == 0:
                raise OSError(28, "No space left on device")
            return function(*arguments, **named)

        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            try:
                detach.detach(container, pod)
                break
            except IpcimgError as error:
                assert "No space left on device" in str(error)
        assert tree(container) == before
        left += 1
    assert left > 3


# ---- refused -------------------------------------------------------------------------------


def why(act: Callable[[], object]) -> str:
    """The error of what is to fail."""
    with pytest.raises(IpcimgError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(container: Path, pod: detach.Pod) -> str:
    """Detach, which is to fail and change nothing; gives why."""
    before = tree(container)
    line = why(lambda: detach.detach(container, pod))
    assert tree(container) == before
    return line


def test_what_differs(tmp_path: Path) -> None:
    container = dump_of("basic", tmp_path / "container")
    line = refused(container, pod_of("identity", tmp_path / "other"))
    assert line.startswith(f"image directory {container}: is not of the moment of the pod, {tmp_path}/other: ")
    assert "is only in the" in line
    assert " more)" in line


@pytest.mark.parametrize("kind", ["value", "message", "page", "setting", "object"])
def test_a_single_difference(kind: str, tmp_path: Path) -> None:
    found = ipcimg.load(FIXTURES / "basic")
    queues, sets, segments = list(found.queues), list(found.semaphores), list(found.segments)
    if kind == "value":
        values = sets[0].values[:]
        values[1] += 1
        sets[0] = dataclasses.replace(sets[0], values=values)
    elif kind == "message":
        messages = list(queues[0].messages)
        messages[0] = dataclasses.replace(messages[0], type=messages[0].type + 1)
        queues[0] = dataclasses.replace(queues[0], messages=messages)
    elif kind == "page":
        segments[0] = dataclasses.replace(segments[0], extents=())
    elif kind == "object":
        del queues[1]
    contents = ipcimg.Contents(found.variables, segments, queues, sets)
    if kind == "setting":
        contents = changed(contents, msg_ctlmax=4711)
    ipcimg.save(contents, tmp_path / "pod")
    said = {
        "value": ": the value of semaphore 1 is ",
        "message": ": message 0 is of type ",
        "page": ": bytes 0x",
        "setting": "variable msg_ctlmax is 4711 in the pod and 8192 in the container",
        "object": " is only in the container",
    }
    assert said[kind] in refused(dump_of("basic", tmp_path / "container"), detach.pod(tmp_path / "pod"))


def test_another_pod(tmp_path: Path) -> None:
    container = dump_of("basic", tmp_path / "container")
    assert detach.detach(container, pod_of("basic", tmp_path / "pod"))
    assert "is detached from another set than that of" in refused(container, pod_of("identity", tmp_path / "other"))


def test_no_dump_of_criu_s(tmp_path: Path) -> None:
    pod = pod_of("basic", tmp_path / "pod")
    assert "there is no inventory.img in it: it is no dump of CRIU's" in refused(tmp_path / "pod", pod)


def test_pod_that_ipcimg_has_not_dumped(tmp_path: Path) -> None:
    with pytest.raises(IpcimgError, match="set 9 has no manifest: ipcimg has not dumped it"):
        detach.pod(dump_of("basic", tmp_path / "pod"))


def test_damaged_pod(tmp_path: Path) -> None:
    pod_of("basic", tmp_path / "pod")
    pages = tmp_path / "pod" / "pages-1.img"
    data = bytearray(pages.read_bytes())
    data[100] ^= 1
    pages.write_bytes(data)
    with pytest.raises(IpcimgError, match="its digest is another one"):
        detach.pod(tmp_path / "pod")


def dump_again(name: str, directory: Path, *, but: str = "") -> None:
    """As criu does, which overwrites what is there, and asks nobody."""
    for path in (FIXTURES / name).glob("*.img"):
        if path.name != but:
            shutil.copy(path, directory)


def refused_by_all(container: Path, pod: detach.Pod) -> str:
    """Why whoever looks whether it is detached refuses, and changes nothing."""
    before = tree(container)
    line = refused(container, pod)
    assert why(lambda: detach.detached_from(container)) == line
    assert why(lambda: detach.undo(container)) == line
    assert tree(container) == before
    return line


@pytest.mark.parametrize("what", ["all", "ipcns-var-9.img", "ipcns-msg-9.img", "inventory.img", "another number"])
def test_dumped_into_again(what: str, tmp_path: Path) -> None:
    """It is neither taken for detached, nor overwritten by what was put aside, nor removed."""
    pod = pod_of("basic", tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    detach.detach(container, pod)
    shown = what
    if what == "all":
        dump_again("identity", container)
        shown = "inventory.img"
    elif what == "ipcns-var-9.img":
        ipcimg.save(changed(ipcimg.load(FIXTURES / "basic"), msg_ctlmax=4711), tmp_path / "other", ns_id=9)
        shutil.copy(tmp_path / "other" / what, container)
    elif what == "another number":
        shutil.copy(FIXTURES / "identity" / "ipcns-var-9.img", container / "ipcns-var-12.img")
        shown = "ipcns-var-12.img"
    else:
        (container / what).write_bytes((FIXTURES / "identity" / what).read_bytes())
    line = refused_by_all(container, pod)
    assert line == (
        f"image directory {container}: was dumped into since it was detached: {shown} is another one; "
        "remove ipcimg-detached and ipcimg-segments, if what was dumped last is meant"
    )


def test_what_was_dumped_last_is_meant(tmp_path: Path) -> None:
    """As the error says."""
    pod = pod_of("basic", tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    detach.detach(container, pod)
    once = tree(container)
    dump_again("basic", container)
    refused_by_all(container, pod)
    shutil.rmtree(container / "ipcimg-detached")
    (container / "ipcimg-segments").unlink()
    assert detach.detach(container, pod)
    assert tree(container) == once


@pytest.mark.parametrize("same", ["", "inventory.img"])
def test_killed_and_dumped_into_again(same: str, tmp_path: Path) -> None:
    """After every step: what criu has dumped then is detached or refused, and never what was dumped first."""
    pod, other = pod_of("basic", tmp_path / "pod"), pod_of("identity", tmp_path / "other")
    attached = dump_of("basic", tmp_path / "attached")
    detached = Path(shutil.copytree(attached, tmp_path / "detached"))
    detach.detach(detached, pod)
    acts: dict[Path, Callable[[Path], object]] = {attached: lambda at: detach.detach(at, pod), detached: detach.undo}
    for first, act in acts.items():
        steps = refusals = 0
        while True:
            steps += 1
            directory = Path(shutil.copytree(first, tmp_path / f"{first.name}-{steps}"))
            if not killed_after(steps, functools.partial(act, directory)):
                break
            dump_again("identity", directory, but=same)
            if (directory / "ipcimg-detached" / f"ipcns-var-{NS_ID}.img").exists():
                refusals += 1
                assert "was dumped into since it was detached" in refused_by_all(directory, pod)
                assert "was dumped into since it was detached" in refused_by_all(directory, other)
            else:
                assert "is not of the moment of the pod" in why(functools.partial(detach.detach, directory, pod))
                assert detach.detach(directory, other)
        assert 5 < refusals < steps - 1


@pytest.mark.parametrize("name", ["ipcimg-segments", "inventory.img"])
def test_something_is_gone(name: str, tmp_path: Path) -> None:
    """Which is no other dump: it can be undone."""
    pod = pod_of("basic", tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    before = tree(container)
    detach.detach(container, pod)
    (container / name).unlink()
    line = refused(container, pod)
    assert line == (
        f"image directory {container}: {name}, which it had when it was detached, is gone; "
        f"`ipcimg pod detach --undo {container}` brings back what CRIU has dumped"
    )
    assert why(lambda: detach.detached_from(container)) == line
    detach.undo(container)
    assert tree(container) == {one: data for one, data in before.items() if one != name}


@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_list_of_somebody_else(what: str, tmp_path: Path) -> None:
    container = dump_of("basic", tmp_path / "container")
    segments = container / "ipcimg-segments"
    if what == "file":
        segments.write_text("1 2\n")
    elif what == "directory":
        segments.mkdir()
    else:
        segments.symlink_to("inventory.img")
    line = refused(container, pod_of("basic", tmp_path / "pod"))
    assert line == f"{segments} is there, and of no detached dump; remove it"
    assert not detach.undo(container)
    assert os.path.lexists(segments)


@pytest.mark.parametrize("text", ["", "0" * 64, f"{'0' * 64} ipcns-var-9.img\n", f"{'0' * 64} pod\nmore"])
def test_record_that_is_not_ours(text: str, tmp_path: Path) -> None:
    pod = pod_of("basic", tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    detach.detach(container, pod)
    (container / "ipcimg-detached" / "pod").write_text(text)
    assert refused_by_all(container, pod) == f"{container}/ipcimg-detached/pod: ipcimg has not written it"


def test_several_namespaces(tmp_path: Path) -> None:
    """`ipcimg pod detach` chooses none, so it names no option for that."""
    pod = pod_of("basic", tmp_path / "pod")
    container = dump_of("basic", tmp_path / "container")
    (container / "ids-7.img").write_bytes(wire.ids(11))
    shutil.copy(container / f"ipcns-sem-{NS_ID}.img", container / "ipcns-sem-11.img")
    assert refused(container, pod) == (
        f"image directory {container}: its ids-*.img name the IPC namespaces 9, 11; "
        "a container of a pod is in one alone"
    )
    assert detach.detach(container, pod, NS_ID)
    assert not detach.detach(container, pod, NS_ID)
    (container / "ipcns-sem-11.img").write_bytes(b"another one")
    assert "was dumped into since it was detached: ipcns-sem-11.img is another one" in refused_by_all(container, pod)

    ipcimg.save(ipcimg.load(FIXTURES / "identity"), tmp_path / "pod", ns_id=2)
    for read in (detach.pod, detach.pod_digest):
        assert why(functools.partial(read, tmp_path / "pod")) == (
            f"image directory {tmp_path}/pod: sets 1, 2 in it; that of a pod is one alone"
        )


def test_what_ipcimg_has_not_put_there(tmp_path: Path) -> None:
    container = dump_of("basic", tmp_path / "container")
    (container / "ipcimg-detached").mkdir()
    (container / "ipcimg-detached" / "stranger").touch()
    assert "stranger: ipcimg has not put it there" in refused(container, pod_of("basic", tmp_path / "pod"))


def test_link(tmp_path: Path) -> None:
    container = dump_of("basic", tmp_path / "container")
    (container / "ipcimg-detached").symlink_to(tmp_path)
    assert "ipcimg-detached is not a directory" in refused(container, pod_of("basic", tmp_path / "pod"))


def test_nobody_else_takes_it_for_a_set(tmp_path: Path) -> None:
    """It would be restored as a namespace without objects; and what is dumped into it would come a second time."""
    container = dump_of("basic", tmp_path / "container")
    detach.detach(container, pod_of("basic", tmp_path / "pod"))
    before = tree(container)
    for use in (
        lambda: ipcimg.restore(container),
        lambda: ipcimg.save(ipcimg.load(FIXTURES / "basic"), container, criu_set=True),
    ):
        with pytest.raises(
            IpcimgError, match="is detached from a pod, which has its objects; `ipcimg pod detach --undo"
        ):
            use()
    assert tree(container) == before


def test_others_can_write(tmp_path: Path) -> None:
    container = dump_of("basic", tmp_path / "container")
    container.chmod(0o777)
    assert "others can write it" in refused(container, pod_of("basic", tmp_path / "pod"))
