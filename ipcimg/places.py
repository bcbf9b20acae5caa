"""Where images are, by the name that somebody gave: an image directory, an archive, standard input, a URL."""

from __future__ import annotations

import os
import re
import stat

from .describe import printable
from .directory import ImageDirectory
from .errors import DirectoryError, ImageError, explain, listed
from .image import ImageFile
from .images import Images
from .trust import who_could_change

STANDARD_INPUT = "-"
STREAMER = "streamer://"  # before the directory in which a criu-image-streamer has its socket
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(
    r"arn:aws.*:s3.*|(?:\[[^]]*\]|[^:]*)(?::[0-9]*)?"
)  # of a URL: a name or an address, and a port; S3's own names
_ALL_NAMES = ("s3", "s3a", "gs", "gcs", "sftp", "ssh")  # schemes of URLs in which all that is no host is names


def opened(place: str, *, wary: bool = False) -> Images:
    """The images at a place: an image directory, a checkpoint archive, STANDARD_INPUT for an archive from there, a URL.

    wary refuses what anybody but root and ourselves could change after it has been checked. Raises DirectoryError,
    also for an archive with several image directories, and ImageError for one that is damaged or ends early.
    """
    if place.startswith(STREAMER):
        from . import streamer

        return streamer.StreamedImages(place)
    if is_url(place):
        from . import stored  # most have directories

        return stored.opened(place)
    return _of_archive(opened_file(place), wary) if is_file(place) else ImageDirectory(place, wary=wary)


def described(place: str) -> str:
    """The place, for people; a URL without the secrets that may be in it."""
    if is_url(place) and not place.startswith(STREAMER):
        rest, query = (place.split("?", 1)[0], "?…") if is_query(place) else (place, "")
        scheme, separator, rest = rest.partition("://")
        host, slash, path = rest.partition("/")
        user, at, host = host.rpartition("@")
        before = f"{scheme}{separator}{user.partition(':')[0]}{at}"
        if not has_host(place):
            return printable(f"{before}{host.partition(':')[0]}:…")
        return printable(f"{before}{host}{slash}{path}{query}")
    return "standard input" if place == STANDARD_INPUT else printable(place) if is_url(place) else place


def has_host(url: str) -> bool:
    """Is what stands for a host in it at most that, and a port? Else it may be the beginning of a password with a /."""
    rest = url.partition("://")[2]
    host = (rest.partition("?")[0] if is_query(url) else rest).partition("/")[0].rpartition("@")[2]
    return _HOST.fullmatch(host) is not None


def is_query(url: str) -> bool:
    """Is there something behind a ? that may be secret? There are stores where it is part of a name."""
    return "?" in url and url.partition("://")[0].lower() not in _ALL_NAMES


def is_url(place: str) -> bool:
    """Is it the URL of a directory, scheme://…, and no path?"""
    return _URL.match(place) is not None


def is_file(place: str) -> bool:
    """Is it no directory, but something that is to be read from its beginning to its end? Raises DirectoryError."""
    if place == STANDARD_INPUT or is_url(place):
        return place == STANDARD_INPUT
    try:
        return not stat.S_ISDIR(os.stat(place).st_mode)
    except OSError as error:
        raise DirectoryError(f"{place}: {explain(error).removeprefix(f'{place}: ')}") from error


def opened_file(place: str) -> ImageFile:
    """The file, or all of standard input. Raises ImageError."""
    if place == STANDARD_INPUT:
        from .spool import standard_input

        return standard_input()
    # A symbolic link that the user names is followed; inside directories none is.
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(place, None, explain(error).removeprefix(f"{place}: ")) from error
    return ImageFile(fd, place)


def _of_archive(image: ImageFile, wary: bool) -> Images:
    from . import archive  # most have directories

    # A member is a part of the open file, and a copy of standard input is ours alone: who cannot write the file changes
    # nothing of it.
    if wary and (why_not := who_could_change(os.fstat(image.fd))):
        raise ImageError(image.path, None, why_not)
    if not image.size:
        raise ImageError(image.path, None, "is empty")
    if not archive.is_archive(image):
        raise ImageError(image.path, None, "is no image directory, and no tar, tar.gz or tar.zst with one")
    found = archive.directories(image)
    if len(found) > 1:
        raise DirectoryError(
            f"{image.path}: {len(found)} image directories in this archive; unpack the one that is meant: "
            f"{listed([one.path for one in found])}"
        )
    return found[0]
