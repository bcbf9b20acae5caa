"""ipcimg recover."""

from __future__ import annotations

import argparse

from ..commandline import DONE
from ..errors import IpcimgError
from . import arguments, outcome
from .arguments import Commands, new


def add(commands: Commands) -> None:
    """Its arguments."""
    recover = new(
        commands,
        "recover",
        what="undo a restore that was killed; complete or remove what a killed dump left",
        description="Undo a restore into a namespace whose process was killed; have the messages of a queue that a "
        "killed dump was turning in their order again. With -D, look at an image directory instead, unless a namespace "
        "is named as well: a set that a killed dump had written whole is put in its place, anything less is removed.",
    )
    arguments.add_namespace(recover, "namespace to recover")
    recover.add_argument("-D", "--images-dir", metavar="DIR", help="the image directory to recover, or its URL")
    outcome.add_log(recover)
    recover.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import places
    from ..recover import recover

    where = None if options.images_dir is None else places.described(options.images_dir)
    with outcome.of(parser, options, "Recovering", where) as told:
        if options.images_dir is not None:
            settled = _settled(options.images_dir)
            for ns_id, complete in settled.items():
                what = "is complete now" if complete else "an unfinished dump was removed"
                if not complete and not places.is_url(options.images_dir):
                    what += "; a set from before stays as it was"
                told.line(f"image directory {where}: set {ns_id}: {what}")
            if not settled:
                told.line(f"image directory {where}: nothing to recover")
            if options.tree is None and options.ipc_ns is None:
                told.done()
                return DONE
        with arguments.namespace_of(options) as target:
            target.enter()
            found = recover(target)
            if found is None:
                told.line(f"{target.described}: nothing to recover")
            else:
                if found.restore is not None:
                    removed = arguments.some(found.removed, "object")
                    told.line(f"{target.described}: undone, {removed} removed: {found.restore}")
                if found.turned is not None:
                    told.line(f"{target.described}: {found.turned}")
                for cgroup in found.thawed:
                    told.line(f"{target.described}: thawed the cgroup {cgroup}, which a killed dump had left frozen")
        told.done()
        return DONE


def _settled(place: str) -> dict[int, bool]:
    """See directory.settle()."""
    from .. import directory, places

    if place == places.STANDARD_INPUT:
        raise IpcimgError("there is nothing to recover in a stream: it is whole, or it is refused")
    if place.startswith(places.STREAMER):
        raise IpcimgError("there is nothing to recover in a streamer: what it has not got to its end is worthless")
    if places.is_url(place):
        from .. import stores

        return stores.recover(place)
    return directory.recover(directory.ImageDirectory(place))
