"""ipcimg verify."""

from __future__ import annotations

import argparse

from ..commandline import DONE, FAILED, number
from ..errors import IpcimgError
from . import arguments, outcome
from .arguments import Commands, new


def add(commands: Commands) -> None:
    """Its arguments."""
    verify = new(
        commands,
        "verify",
        what="is a set of images whole, and as it was written",
        description="Compare every file with its digest in the manifest, and see that all the images promise is there.",
    )
    verify.add_argument(
        "images_dir", metavar="DIR", help="the image directory, its URL, or an archive; - for one from standard input"
    )
    verify.add_argument("--ns-id", type=number, metavar="N", help="only this set of the directory")
    arguments.add_progress(verify)
    outcome.add_log(verify)
    verify.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import imageset, places

    with outcome.of(parser, options, "Verifying", places.described(options.images_dir)) as told:
        directory, failure = places.opened(options.images_dir), None
        for ns_id in directory.chosen_sets(options.ns_id):
            try:
                images = imageset.ImageSet(directory, ns_id)
                with arguments.progress(options, "verifying") as progress:
                    counts = images.check(progress)
            except IpcimgError as error:
                told.error(error)
                failure = error
                continue
            how = (
                "no manifest: nothing is missing that its images promise"
                if images.manifest is None
                else f"whole, and as it was written ({images.manifest.digest_algorithm})"
            )
            if images.moved:
                how += "; NOT of one moment: ipcimg-show lists what moved while it was dumped"
            told.line(f"set {images.ns_id}: {arguments.counts(counts)}: {how}")
        if failure is not None:
            told.gave_up(failure)
            return FAILED
        told.done()
    return DONE
