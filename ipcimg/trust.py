"""Whether a file is ours alone: what root acts upon must not be what others can change."""

from __future__ import annotations

import os
import stat


def who_could_change(status: os.stat_result) -> str | None:
    """Who, beside root and ourselves, could change a file between its check and its use; None for nobody."""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, who could change it meanwhile; chown it, if you trust it"
    if status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):  # with an access control list the group's bits are its mask
        return f"others can write it (mode {stat.S_IMODE(status.st_mode):04o}); chmod it, if you trust it"
    return None
