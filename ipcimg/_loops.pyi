# What _loops.c gives. `at` and `end` are places in a bytearray. The last of what is given says why a loop has stopped:
# 0 when it has done all, FULL where the bytearray ends, ODD before what only the reference path can do, else an errno.

# The runs of a piece are packed as pieces.RUN in a bytearray, as many as it has room for; count of them are meant.

# hole: up to there it is known to be data → where to go on, hole, bytes in data, runs, why
def gather(
    fd: int, at: int, hole: int, end: int, page: int, data: bytearray, runs: bytearray, /
) -> tuple[int, int, int, int, int]: ...

# end: nothing is written beyond; n, at: the run to begin with, and its data → run and data that are next, why
def scatter(
    fd: int, end: int, data: bytearray, runs: bytearray, count: int, n: int, at: int, /
) -> tuple[int, int, int]: ...

# → bytes and runs that are kept
def drop_zeros(data: bytearray, runs: bytearray, count: int, kept: bytearray, page: int, /) -> tuple[int, int]: ...

# → the entries of a page map
def frame_runs(runs: bytearray, count: int, page: int, exact: bool, /) -> bytearray: ...

# high: where the segment ends; offset, left: the rest of a run; room: bytes of data → place of the next entry, runs,
# their bytes, offset, left, why
def next_runs(
    block: bytearray,
    at: int,
    end: int,
    page: int,
    high: int,
    offset: int,
    left: int,
    room: int,
    runs: bytearray,
    count: int,
    /,
) -> tuple[int, int, int, int, int, int]: ...
