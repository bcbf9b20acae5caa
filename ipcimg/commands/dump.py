"""ipcimg dump."""

from __future__ import annotations

import argparse
import contextlib
import functools
from typing import TYPE_CHECKING

from .. import digest
from ..commandline import DONE
from . import arguments, outcome
from .arguments import Commands, new

if TYPE_CHECKING:
    from ..delivery import Destination
    from ..progress import Progress

STANDARD_OUTPUT = "-"


def add(commands: Commands) -> None:
    """Its arguments."""
    dump = new(
        commands,
        "dump",
        what="write an IPC namespace into images",
        description="Write everything in an IPC namespace into an image directory, or with -D - as a tar archive to "
        "standard output.",
    )
    arguments.add_namespace(dump, "namespace to dump")
    place = dump.add_mutually_exclusive_group(required=True)
    arguments.add_directory(dump, "the image directory, or its URL; - for an archive to standard output", place)
    dump.add_argument("--zstd", action="store_true", help="with -D -: compress the archive")
    place.add_argument(
        "--criu-set",
        metavar="DIR",
        help="put the images in the place of CRIU's in DIR, into which it has dumped the processes: "
        "criu restore then brings back what ipcimg has dumped",
    )
    arguments.add_selection(dump, "dump")
    dump.add_argument(
        "--force",
        action="store_true",
        help="replace set N where it is there already; with --criu-set, what CRIU would hardly restore as well",
    )
    dump.add_argument("--criu-exact", action="store_true", help="leave out what CRIU does not write: times and pids")
    dump.add_argument(
        "--parent",
        metavar="DIR",
        help="write only those pages of segments that are not the same in the set in DIR, which is needed from then on",
    )
    dump.add_argument(
        "--digest",
        choices=tuple(digest.ALGORITHMS),
        default=digest.DEFAULT,
        help="how the manifest tells whether a file is as it was written (default: %(default)s)",
    )
    arguments.add_frozen(dump)
    dump.add_argument(
        "--allow-inconsistent",
        action="store_true",
        help="where the namespace is in use all the time, dump it all the same, and record what moved",
    )
    dump.add_argument(
        "--peek-only",
        action="store_true",
        help="never take a message off a queue and put it back, which is faster for deep ones of a stopped namespace",
    )
    arguments.add_progress(dump)
    outcome.add(dump)
    outcome.add_without_effect(dump)
    dump.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import places
    from ..dump import dump

    selection = arguments.selection(options)
    if options.parent is not None and options.criu_exact:
        parser.error(
            "--criu-exact writes what CRIU does, and that is all pages of segments: it does not go with --parent"
        )
    if options.criu_set is not None:
        if not selection.everything:
            parser.error("--criu-set replaces all that CRIU has dumped: it takes no part of a namespace")
        if options.criu_exact:
            parser.error("--criu-set is for any version of CRIU; what --criu-exact writes is for 4.2 and later")
        if options.allow_inconsistent:
            parser.error("--criu-set is for processes that are stopped: CRIU would not see --allow-inconsistent")
        if options.tree is None and options.ipc_ns is None:
            parser.error(
                "--criu-set needs -t PID or --ipc-ns PATH: the caller's own namespace is hardly that of the dump"
            )
        if places.is_url(options.criu_set):
            parser.error("--criu-set is for a directory of this machine, which criu restore reads")
    to_stream = options.images_dir == STANDARD_OUTPUT
    if options.zstd and not to_stream:
        parser.error("--zstd goes with -D -")
    if options.force and to_stream:
        parser.error("--force replaces a set in a directory; -D - writes a new archive")
    if options.parent is not None and (to_stream or places.is_url(options.images_dir or "")):
        parser.error("--parent is linked to from a directory: it does not go with a stream or a store")
    directory = options.images_dir if options.criu_set is None else options.criu_set
    if to_stream and options.report == "-":
        parser.error("--report - goes to standard output, which has the archive with -D -")
    where = "standard output" if to_stream else places.described(directory)
    with outcome.of(
        parser,
        options,
        "Dumping",
        where,
        facts=outcome.OF_DUMP,
        makes_directory=options.criu_set is None,
        to_stream=to_stream,
    ) as told:
        with contextlib.ExitStack() as stack:
            progress = told.watching(stack.enter_context(arguments.progress(options, "dumping")))
            destination = _stream(options, progress) if to_stream else None
            source = stack.enter_context(arguments.namespace_of(options))
            told.about(source)
            source.enter()  # for good: not everybody who may go there may come back
            make = functools.partial(
                dump,
                source=source,
                ns_id=options.ns_id,
                only=selection,
                force=options.force,
                criu_exact=options.criu_exact,
                digest_algorithm=options.digest,
                freeze=options.freeze,
                frozen=options.frozen_by_caller,
                allow_inconsistent=options.allow_inconsistent,
                peek_only=options.peek_only,
                criu_set=options.criu_set is not None,
                parent=options.parent,
                progress=progress,
                durable=destination is None,
            )
            if destination is None:
                dumped = make(directory)
            else:
                from ..delivery import delivered

                dumped = delivered(make, destination, progress)
        told.of_dump(dumped)
        line = f"dumped {arguments.counts(dumped.counts)} into {where}"
        if dumped.inherited:
            line += f"; {dumped.inherited} of the pages {'is' if dumped.inherited == 1 else 'are'} in {options.parent}"
        told.done(line)
    return DONE


def _stream(options: argparse.Namespace, progress: Progress) -> Destination:
    from ..tarstream import TarDestination  # reads tarfile

    return TarDestination(zstd=options.zstd, progress=progress)
