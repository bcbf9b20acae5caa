"""The loops in C, _loops.c, where they could be built; c is None where there are none.

They do what modules in Python do as well, without the interpreter between two system calls. Those are the reference,
and go on where a loop stops at what is out of the ordinary. IPCIMG_LOOPS=python does without C.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import _loops

    c = _loops
elif os.environ.get("IPCIMG_LOOPS") == "python":
    c = None
else:
    try:
        from . import _loops as c
    except ImportError:
        c = None

# Why a loop has stopped, beside errno's numbers: see _loops.pyi.
FULL, ODD = -1, -2
