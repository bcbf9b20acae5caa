# What _loops.c gives. Ids are an array of C ints, as bytes. `at` and `end` are places in a bytearray. The last of what
# is given says why a loop has stopped: 0 when it has done all, FULL where the bytearray ends, ODD before what only the
# reference path can do, else an errno. room 0 lets the loop choose.
# → next message, end of what was framed, room, why
def peek(msqid: int, n: int, qnum: int, cbytes: int, room: int, out: bytearray, /) -> tuple[int, int, int, int]: ...

# → messages sent, place of the next one, why
def send(msqid: int, block: bytearray, at: int, end: int, count: int, /) -> tuple[int, int, int]: ...

# left: bytes of the image from `at` on → messages seen, place of the next one (also behind the block), bytes of all, of
# the longest, why
def scan(block: bytearray, at: int, end: int, left: int, count: int, /) -> tuple[int, int, int, int, int]: ...

# → messages read, place of the next one, why; out has three 8-byte numbers of each: its type, the place of its text in
# the block, its size
def read_messages(block: bytearray, at: int, end: int, count: int, out: bytearray, /) -> tuple[int, int, int]: ...

# text of /proc/sysvipc/… → the ids
def ids(text: bytes, /) -> bytes: ...

# most: messages of a queue, or semaphores of a set, that is not ODD → index of the next id, end of what was framed,
# messages among it, why
def dump_queues(ids: bytes, n: int, exact: bool, most: int, out: bytearray, /) -> tuple[int, int, int, int]: ...

dump_sets = dump_queues

# → 8-byte numbers in out, place of the next object, why
def read_queues(block: bytearray, at: int, end: int, out: bytearray, /) -> tuple[int, int, int]: ...

read_sets = read_queues

# → objects made, place of the next one, records of the journal, the id of the last one, why; OTHER_ID where it has got
# another one than it should
def make_queues(
    block: bytearray,
    at: int,
    end: int,
    preset: int,
    journal: int,
    records: int,
    capacity: int,
    uid: int,
    gid: int,
    newborn: int,
    kind: int,
    /,
) -> tuple[int, int, int, int, int]: ...

make_sets = make_queues

# The turn of a queue of qnum messages, in the journal at an address, whose slots have so much room; fitting: bytes of a
# message to begin with; where out is empty nothing is framed → end of what was framed, bytes that sufficed, why. Where
# the state of the journal is odd then, a message is under way: after ODD it is another one than was peeked, after
# ENOMEM, EAGAIN and EINVAL it is framed and was not sent.
def turn(journal: int, msqid: int, qnum: int, room: int, fitting: int, out: bytearray, /) -> tuple[int, int, int]: ...

# The message in the slot peeked → end of what was framed
def frame_turned(journal: int, out: bytearray, /) -> int: ...

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

# See pieces.Earlier. at: what of the data is next; to: where what differs goes; ended: nothing comes behind what the
# other has, where the loop stops otherwise → at, to, runs in kept
def drop_same(
    data: bytearray,
    runs: bytearray,
    count: int,
    at: int,
    to: int,
    kept: bytearray,
    kept_count: int,
    page: int,
    other: bytearray,
    other_runs: bytearray,
    other_count: int,
    ended: bool,
    /,
) -> tuple[int, int, int]: ...

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
