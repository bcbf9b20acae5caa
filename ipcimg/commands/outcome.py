"""What programs are told of a command: a report in JSON, a log, and a byte when it is done; and its time limit."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .. import __version__, interrupts
from ..commandline import as_json, errors_of, forget_stdout, number, report, say
from ..describe import printable
from ..errors import DirectoryError, IpcimgError, explain
from ..model import NAMES
from ..progress import Progress
from ..stopwatch import Stopwatch

if TYPE_CHECKING:
    from ..dump import Dumped
    from ..logfile import LogFile
    from ..manifest import Consistency
    from ..model import Counts
    from ..namespace import IpcNamespace
    from ..restore import Restored

VERSION = 1  # of the report
# What the report tells of a set, beside what is always in it.
OF_DUMP = ("ns_id", "namespace", "counts", "files", "bytes", "consistency")
OF_RESTORE = (*OF_DUMP, "new_ids", "holder", "held", "facts_lost")
_MOVED_AT_MOST = 20  # lines
VERBOSE = 3  # from this level on what nobody has to act on is said, too


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments for programs that call the command, as they call criu."""
    parser.add_argument(
        "--report",
        type=_file,
        metavar="FILE",
        help="write what was done, or went wrong, as JSON; - for standard output",
    )
    parser.add_argument(
        "--status-fd",
        type=number,
        metavar="FD",
        help="write a zero byte to this descriptor when all is done, and close it in any case",
    )
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="give up, and undo all, after so many seconds"
    )
    add_log(parser)


def add_without_effect(parser: argparse.ArgumentParser) -> None:
    """What callers of criu may say, too."""
    for option, long in (("-R", "--leave-running"), ("-j", "--shell-job")):
        parser.add_argument(option, long, action="store_true", help="for callers of criu; without effect")


def add_log(parser: argparse.ArgumentParser) -> None:
    """The arguments of the log."""
    parser.add_argument(
        "-o", "--log-file", type=_file_alone, metavar="FILE", help="write a log to FILE, in the work directory"
    )
    parser.add_argument("-W", "--work-dir", metavar="DIR", help="where FILE is (default: the image directory)")
    parser.add_argument(
        "-v",
        action="count",
        default=2,
        dest="verbosity",
        help="log more: stages, and said twice details; a digit behind it, 0 to 4, sets the level (default: 2)",
    )
    for level in range(5):
        parser.add_argument(f"-v{level}", action="store_const", const=level, dest="verbosity", help=argparse.SUPPRESS)


def _file(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is missing")
    return text


def _file_alone(text: str) -> str:
    if text == "-":
        raise argparse.ArgumentTypeError("a log goes to a file; ./- is one of that name")
    return _file(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1 << 31:  # so it is no number either
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


class Outcome:
    """What has become of a command so far. Made by of()."""

    def __init__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, doing: str, *, to_stream: bool
    ) -> None:
        self._parser, self._doing, self.command = parser, doing, options.command
        if step := getattr(options, "step", ""):
            self.command += f" {step}"
        self._to_people = say if to_stream else report
        self._report: str | None = getattr(options, "report", None)
        self._status_fd: int | None = getattr(options, "status_fd", None)
        self._verbose: bool = options.verbosity >= VERBOSE
        self.log: LogFile | None = None
        self.watch = Stopwatch()
        self._facts: dict[str, object] = {}
        self._warnings: list[str] = []
        self._is_told = False

    def watching(self, progress: Progress) -> Stopwatch:
        """The Progress for what is done, which tells progress as well. One for each command."""
        self.watch = Stopwatch(progress if self.log is None else _Logged(progress, self.log))
        return self.watch

    def fact(self, **facts: object) -> None:
        """Members of the report."""
        self._facts |= facts

    def about(self, namespace: IpcNamespace) -> None:
        """The namespace is this one."""
        self.fact(namespace={"described": namespace.described, "inode": namespace.inode})

    def of_dump(self, dumped: Dumped) -> None:
        """This was dumped."""
        self._of_set(dumped.ns_id, dumped.counts, dumped.files, dumped.consistency)
        moved = dumped.consistency.moved
        for what in moved[:_MOVED_AT_MOST]:
            self.warn(f"not of one moment: {what}")
        if moved[_MOVED_AT_MOST:]:
            self.warn(f"not of one moment: {len(moved) - _MOVED_AT_MOST} more, which ipcimg-show lists")

    def of_restore(self, restored: Restored) -> None:
        """This was restored."""
        for warning in restored.warnings:
            self.warn(warning)
        for line in restored.facts_lost:
            self.note(f"Not restored, since nobody can: {line}")
        self._of_set(restored.ns_id, restored.counts, restored.files, restored.consistency)
        new_ids: dict[str, dict[int, int]] = {kind: {} for kind in NAMES}
        for (kind, old), taken in restored.new_ids.items():
            new_ids[kind][old] = taken
        self.fact(new_ids=new_ids, holder=restored.holder, held=restored.held, facts_lost=restored.facts_lost)

    def _of_set(
        self, ns_id: int, counts: Counts, files: Mapping[str, int] | None, consistency: Consistency | None
    ) -> None:
        """The set is this one. The files have bytes, and are None where they are not known."""
        from ..images import KINDS, kind_of_name

        sizes: dict[str, int] | None = None
        if files is not None:
            sizes = dict.fromkeys((*KINDS, "pagemap", "pages", "manifest"), 0)
            for name, size in files.items():
                sizes[kind_of_name(name)] += size
                self.debug(f"{name}: {size} bytes")
        self.fact(
            ns_id=ns_id,
            counts=dataclasses.asdict(counts),
            files=files,
            bytes=sizes,
            consistency=None if consistency is None else dataclasses.asdict(consistency),
        )

    def warn(self, text: str) -> None:
        """Say it, and have it in the log and in the report."""
        say(self._parser, f"Warning: {text}")
        self._warnings.append(text)
        if self.log is not None:
            self.log.warning(text)

    def line(self, *lines: str) -> None:
        """Have lines for people, and in the log."""
        for line in lines:
            self.info(line)
            if self._report != "-":
                self._to_people(self._parser, line)

    def error(self, error: IpcimgError) -> None:
        """Say an error, and have it in the log."""
        for line in errors_of(error):
            say(self._parser, f"Error: {line}")
            if self.log is not None:
                self.log.error(line, error)

    def note(self, text: str) -> None:
        """Have it in the log, and say it to those who want more to be said."""
        self.info(text)
        if self._verbose:
            say(self._parser, text)

    def info(self, text: str) -> None:
        """Have it in the log."""
        if self.log is not None:
            self.log.info(text)

    def debug(self, text: str) -> None:
        """Have it in the log, where that has details."""
        if self.log is not None:
            self.log.debug(text)

    def done(self, *lines: str) -> None:
        """It is done, which nothing can undo any more: tell everybody. The lines are for people."""
        interrupts.finished()
        if self.log is not None and self.log.failed is not None:
            self.warn(self.log.failed)
        with self._report_or_none():
            self._write_report("done", [])
        self.line(*lines)
        self._is_told = True
        self.info(f"{self._doing} finished successfully")
        if self._status_fd is not None:
            try:
                os.write(self._status_fd, b"\0")
            except OSError as error:
                say(self._parser, f"Warning: --status-fd: {explain(error)}")
            self._close_status()

    def failed(self, error: BaseException) -> None:
        """It failed, which is said elsewhere: tell everybody else."""
        lines = [printable(line) for line in errors_of(error)]
        if self.log is not None:
            for line in lines:
                self.log.error(line, error)
        self.gave_up(error)
        if self._is_told and self._report == "-":
            return  # standard output has one report
        try:
            self._write_report("failed", lines)
        except IpcimgError as why:
            say(self._parser, f"Error: {why}")

    def gave_up(self, error: BaseException) -> None:
        """It failed by an error that is told already: have that in the log."""
        if self.log is not None:
            self.log.error(f"{self._doing} FAILED.", error)
            if self.log.failed is not None:
                self.warn(self.log.failed)

    def close(self) -> None:
        """Nothing more is told."""
        if self.log is not None:
            self.log.close()
        self._close_status()

    def _close_status(self) -> None:
        if self._status_fd is not None:
            with contextlib.suppress(OSError):  # it is closed in any case
                os.close(self._status_fd)
            self._status_fd = None

    def expect_report(self) -> None:
        """Raise DirectoryError where no report could be written, before anything is done."""
        path = self._report
        if path is None or path == "-":
            return
        from ..newfile import refuse_other

        with self._report_or_none():
            refuse_other(path, _is_report)
            where = os.path.dirname(path) or "."
            if not os.access(where, os.W_OK | os.X_OK):
                raise DirectoryError(f"writing {path}: {where} cannot be written, or is not there")

    @contextlib.contextmanager
    def _report_or_none(self) -> Iterator[None]:
        """Where no report can be written, nor can one that says so."""
        try:
            yield
        except IpcimgError:
            self._report = None
            raise

    def _write_report(self, status: str, errors: list[str]) -> None:
        if self._report is None:
            return
        found = {
            "version": VERSION,
            "tool": f"ipcimg {__version__}",
            "command": self.command,
            "status": status,
            "error": errors,
            "warnings": self._warnings,
            **self._facts,
            "seconds": {
                "total": self.watch.total,
                "freezing": self.watch.freezing,
                "frozen": self.watch.frozen,
                "stages": self.watch.stages,
            },
        }
        if self._report == "-":
            try:
                print(as_json(found), flush=True)
            except OSError as error:
                forget_stdout()
                raise IpcimgError(f"writing the report to standard output: {explain(error)}") from error
        else:
            from ..newfile import put

            put(self._report, f"{as_json(found)}\n".encode(), ours=_is_report)


def _is_report(fd: int) -> bool:
    begins = b'{"version": %d, "tool": "ipcimg ' % VERSION
    return os.pread(fd, len(begins), 0) == begins


@contextlib.contextmanager
def of(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    doing: str,
    directory: str | None,
    *,
    facts: Iterable[str] = (),
    makes_directory: bool = False,
    to_stream: bool = False,
) -> Iterator[Outcome]:
    """What becomes of what is done inside the with block, which doing names; whatever it raises is told as a failure.

    directory is the image directory, for people, and may be missing where makes_directory says so. facts are members of
    the report, null as long as nothing is known. to_stream says that standard output is for the images. Signals and the
    time limit end what is done, and are told as a failure; once it is done, or has failed, signals come too late.
    """
    told = Outcome(parser, options, doing, to_stream=to_stream)
    told.fact(images_dir=directory, **dict.fromkeys(facts))
    if told._status_fd is not None:
        _refuse_unwritable(parser, told._status_fd)
    try:
        with interrupts.handled(getattr(options, "timeout", None), for_good=True):
            told.expect_report()
            with interrupts.deferred():
                told.log = _open_log(options, makes_directory)
            told.info(f"ipcimg {__version__}: {told.command}, process {os.getpid()}")
            yield told
    except BaseException as error:
        told.failed(error)
        raise
    finally:
        told.close()


def _refuse_unwritable(parser: argparse.ArgumentParser, fd: int) -> None:
    """End where nothing can be written to the descriptor. COMMAND is not to have it."""
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except (OSError, OverflowError):
        parser.error(f"--status-fd: descriptor {fd} is not open")
    if fd <= 2:
        parser.error(f"--status-fd: descriptor {fd} is a standard stream")
    if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
        parser.error(f"--status-fd: descriptor {fd} is not open for writing")
    os.set_inheritable(fd, False)


def local(options: argparse.Namespace) -> str | None:
    """The work directory, or the image directory where that is one of this machine; None where there is neither."""
    from .. import places

    images: str | None = getattr(options, "criu_set", None) or options.images_dir
    if options.work_dir or images is None:
        return options.work_dir or None
    elsewhere = images == places.STANDARD_INPUT or places.is_url(images) or os.path.isfile(images)
    return None if elsewhere else images


def _open_log(options: argparse.Namespace, makes_directory: bool) -> LogFile | None:
    from ..logfile import LogFile

    if options.log_file is None:
        return None
    where = local(options) or "."
    path = os.path.join(where, options.log_file)
    with contextlib.ExitStack() as on_error:
        if makes_directory and not options.work_dir and path != options.log_file:
            try:
                os.mkdir(where, 0o700)
                on_error.callback(os.rmdir, where)
            except FileExistsError:
                pass
            except OSError as error:
                raise DirectoryError(f"image directory {where}: {error.strerror}") from error
        log = LogFile(path, options.verbosity)
        on_error.pop_all()
    return log


class _Logged:
    """A Progress that logs the stages and hands on."""

    def __init__(self, progress: Progress, log: LogFile) -> None:
        self._hand_on, self._log, self.counts = progress.stage, log, progress.counts
        self.expect, self.done = progress.expect, progress.done

    def stage(self, name: str) -> None:
        """See Progress."""
        self._log.info(name)
        self._hand_on(name)
