"""ipcimg hook."""

from __future__ import annotations

import argparse
import os

from ..commandline import DONE, FAILED, nobody_has_to_read
from ..describe import printable
from ..errors import ConflictError, IpcimgError, explain
from ..interrupts import Interrupted
from .arguments import Commands, new

_PROGRAM = "ipcimg-hook"  # for criu, which gives it no arguments


def add(commands: Commands) -> None:
    """Its arguments."""
    hook = new(
        commands,
        "hook",
        what="what criu calls at each stage of a dump or restore",
        description="Do what is to be done at a stage of criu's, which calls this by --action-script: dump the IPC "
        "namespace of the tasks when criu has dumped them, compare images with their manifests before a restore. "
        "/etc/ipcimg/hook.toml and /etc/ipcimg/hook.d/*.toml say what is wanted; what was done is said in "
        "ipcimg-hook.log, in the image directory.",
    )
    hook.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=[],
        help="this configuration and no other (repeatable; the last one wins)",
    )
    hook.add_argument(
        "--explain",
        action="store_true",
        help="do nothing; tell which configuration there is, and what is done at each stage by it",
    )
    hook.set_defaults(run=_run)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from .. import hook, hookconfig

    if options.explain:
        configuration = hookconfig.read(options.config)
        call = hook.call(os.environ) if hook.STAGE in os.environ else None
        with nobody_has_to_read():
            for line in hook.explanation(call, configuration):
                print(printable(line))
        return DONE
    if not os.environ.get(hook.STAGE):
        import shutil

        parser.error(
            f"{hook.STAGE} is not set: criu calls this, by a line in its configuration, /etc/criu/default.conf or "
            f"that of the runtime, /etc/criu/runc.conf: action-script {shutil.which(_PROGRAM) or _PROGRAM}. "
            "--explain tells what it would do"
        )
    return _stage(os.environ[hook.STAGE], options.config)


def _stage(stage: str, files: list[str]) -> int:
    """Whatever happens is in the log; criu has our status."""
    from .. import hook, hookconfig, hooklog

    log = hooklog.Log(stage, hooklog.process_of(os.environ.get(hook.IMAGES)))
    configuration = hookconfig.Configuration()  # has a place for the log, where the real one cannot be read
    try:
        call = hook.call(os.environ)
        try:
            configuration = hookconfig.read(files)
        finally:
            if configuration.log.file:
                log.open(configuration.log.file, call.images)
        hook.run(call, configuration, log)
    except ConflictError as error:
        for conflict in error.conflicts:
            log.error(error, conflict)
    except (IpcimgError, MemoryError) as error:
        log.error(error, str(error) or "out of memory")
    except OSError as error:
        log.error(error, explain(error))
    except Interrupted as error:
        log.error(error, str(error))
        return 128 + error.signum
    else:
        return DONE
    finally:
        log.close()
    return FAILED
