"""From a name on the command line to what is to be shown: image, directory, archive, standard input."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator

from .. import codec, imageset, model, places
from ..directory import ImageDirectory
from ..errors import ImageError
from ..image import ImageFile
from ..images import KINDS, Images, is_segment_name, is_set_name, kind_name, number_of_segments, pagemap_name
from .problems import Problems
from .subject import Data, Other, Subject, Unknown


def subjects(path: str, ns_id: int | None, problems: Problems) -> Iterator[Subject]:
    """All that path names; ns_id chooses a set where there are several. Raises ImageError, DirectoryError.

    path is that of an image, or of what places.opened() opens.
    """
    if places.is_file(path):
        beside = None if path == places.STANDARD_INPUT else os.path.dirname(path) or "."
        yield from _of_file(places.opened_file(path), beside, ns_id, problems)
    else:
        yield from _of_directory(places.opened(path), ns_id, problems)


def _of_file(image: ImageFile, beside: str | None, ns_id: int | None, problems: Problems) -> Iterator[Subject]:
    """What is in a file; beside is the directory that it lies in, if it lies in any."""
    if codec.kind_of_any(image) is None:  # no image: few need what reads archives
        from .. import archive

        if archive.is_archive(image):
            for directory in archive.directories(image):
                yield from _of_directory(directory, ns_id, problems)
            return
        if image.size and not codec.has_common_magic(image):
            raise ImageError(image.path, None, "is no image of CRIU's or ipcimg's, and no tar, tar.gz or tar.zst")
    yield _single(image, beside, problems)


def _of_directory(directory: Images, ns_id: int | None, problems: Problems) -> Iterator[Subject]:
    """Each of the sets. Where there is none, but other images of CRIU's, these alone."""
    sets = directory.sets()
    others = _others(directory, problems)
    if not sets and ns_id is None and others:
        yield Subject(directory.path, problems, imageset.PAGE_SIZE, others=others)
        return
    for this in directory.chosen_sets(ns_id):
        yield dataclasses.replace(_set(directory, this, problems), others=others)


def _others(directory: Images, problems: Problems) -> tuple[Other, ...]:
    """The images that have nothing to do with IPC, and are not ours."""
    found = []
    for name in directory.names():
        if name.endswith(".img") and not (is_set_name(name) or is_segment_name(name)):
            other = problems.asked(lambda name=name: _other(directory, name))  # type: ignore[misc]
            found += [] if other is None else [other]
    return tuple(found)


def _other(directory: Images, name: str) -> Other | None:
    image = directory.image(name)
    kind = codec.kind_of_any(image)
    return None if kind is None or (kind == "INVENTORY" and codec.is_ours(image)) else Other(name, kind, image.size)


def _set(directory: Images, ns_id: int, problems: Problems) -> Subject:
    """The set, as it should be; or where it is not, what there is of it."""
    whole = problems.asked(lambda: imageset.ImageSet(directory, ns_id))
    if whole is not None:
        manifest, page_size = whole.manifest, whole.page_size
        variables: model.Variables | None = whole.contents.variables
        segments, queues, semaphores = whole.contents.segments, whole.contents.queues, whole.contents.semaphores
    else:
        manifest = problems.asked(lambda: imageset.read_manifest(directory, ns_id))
        page_size = imageset.PAGE_SIZE if manifest is None else manifest.page_size
        variables = problems.asked(lambda: codec.decode_variables(directory.image(kind_name("var", ns_id))))
        segments = problems.asked(lambda: imageset.segments(directory, ns_id, page_size, None)) or ()
        queues = problems.asked(lambda: imageset.queues(directory, ns_id)) or ()
        semaphores = problems.asked(lambda: imageset.semaphores(directory, ns_id)) or ()

    def verify() -> object:
        return (whole or imageset.ImageSet(directory, ns_id)).check()

    return Subject(
        directory.path,
        problems,
        page_size,
        ns_id=ns_id,
        manifest=manifest,
        variables=variables,
        segments=_with_data(segments, problems),
        queues=problems.again(queues),
        semaphores=problems.again(semaphores),
        images=model.Again(lambda: _images(directory, ns_id, segments, problems)),
        verify=verify,
    )


def _with_data(segments: Iterable[model.SharedMemory], problems: Problems) -> Iterable[model.SharedMemory]:
    return problems.again(
        model.Again(lambda: (dataclasses.replace(one, extents=Data(one.extents, problems)) for one in segments))
    )


def _images(
    directory: Images, ns_id: int, segments: Iterable[model.SharedMemory], problems: Problems
) -> Iterator[ImageFile]:
    """The images of a set: those of kinds that there are, and the page maps of all segments that have one."""
    names = filter(directory.has, [kind_name(kind, ns_id) for kind in KINDS])
    pagemaps = (
        pagemap_name(one.permissions.id) for one in problems.within(segments) if imageset.pages_are_elsewhere(one)
    )
    for name in dict.fromkeys(itertools.chain(names, pagemaps)):
        image = problems.asked(lambda name=name: directory.image(name))  # type: ignore[misc]
        if image is not None:
            yield image


def _alone(image: ImageFile, beside: str | None, problems: Problems) -> Iterable[model.SharedMemory]:
    """The segments of an image. Their pages are found where they lie beside it."""
    directory = None if beside is None else ImageDirectory(beside)
    page_size = imageset.PAGE_SIZE
    if directory is not None and (ns_id := number_of_segments(os.path.basename(image.path))) is not None:
        manifest = problems.asked(lambda: imageset.read_manifest(directory, ns_id))
        page_size = page_size if manifest is None else manifest.page_size

    def data(shmid: int, end: int) -> Iterable[model.Extent]:
        found = None if directory is None else imageset.data_beside(directory, shmid, end, page_size)
        return Unknown() if found is None else found

    def segments() -> Iterator[model.SharedMemory]:
        for one in codec.decode_segments(image, data, page_size):
            known = not isinstance(one.extents, Unknown)
            yield dataclasses.replace(one, extents=Data(one.extents, problems)) if known else one

    return problems.again(model.Again(segments))


def _single(image: ImageFile, beside: str | None, problems: Problems) -> Subject:
    """One image."""
    kind, page_size = codec.kind_of(image), imageset.PAGE_SIZE
    subject = Subject(image.path, problems, page_size, images=(image,))
    if kind == "IPC_VAR":
        return dataclasses.replace(subject, variables=problems.asked(lambda: codec.decode_variables(image)))
    if kind == "IPCIMG_MANIFEST":
        return dataclasses.replace(subject, manifest=problems.asked(lambda: codec.decode_manifest(image)))
    if kind == "IPCNS_MSG":
        return dataclasses.replace(subject, queues=problems.again(codec.decode_queues(image)))
    if kind == "IPCNS_SEM":
        return dataclasses.replace(subject, semaphores=problems.again(codec.decode_semaphores(image)))
    if kind == "PAGEMAP":
        pages_id, _ = codec.decode_pagemap(image, page_size)
        runs = model.Again(lambda: codec.decode_pagemap(image, page_size)[1])
        return dataclasses.replace(subject, pagemap=(pages_id, problems.again(runs)))
    if kind == "IPCNS_SHM":
        return dataclasses.replace(subject, segments=_alone(image, beside, problems))
    raise ImageError(image.path, None, f"is of kind {kind}, which has nothing of an IPC namespace in it")
