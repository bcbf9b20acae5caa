"""The table of what is restored exactly: a row for each property, done if the tests that bear its mark have passed."""

from __future__ import annotations

import pytest

ROWS = {
    "big messages": "messages of any size up to what msgmax was",
    "long messages": "messages longer than the present msgmax, at the dump",
    "qbytes": "qbytes, raised or lowered, also without CAP_SYS_RESOURCE",
    "full queue": "a queue fuller than its qbytes",
    "creator": "cuid and cgid",
    "sem_otime": "sem_otime: non-zero stays non-zero, zero stays zero",
    "SHM_LOCKED": "SHM_LOCKED",
    "SHM_DEST": "SHM_DEST: removed segments that are still attached",
    "SHM_HUGETLB": "SHM_HUGETLB: any size, and sparse ones sparse",
    "limits": "limits that were lowered after the objects came to be",
    "shm_rmid_forced": "shm_rmid_forced=1 with segments, attached and not",
    "presets": "pending msg_next_id, sem_next_id, shm_next_id",
    "ids": "every id from 0 to 2^31-1",
    "ipcmni_extend": "ids that only ipcmni_extend allows",
    "user namespaces": "namespaces owned by a user namespace, from outside and inside",
    "32-bit": "objects made and used by 32-bit programs",
    "no mapping": "owners without a mapping in the target are refused, by name",
}


def row(key: str) -> pytest.MarkDecorator:
    """The mark of a test for a row."""
    assert key in ROWS
    return pytest.mark.fidelity(key)
