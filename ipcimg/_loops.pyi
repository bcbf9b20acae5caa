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

# text of /proc/sysvipc/… → the ids
def ids(text: bytes, /) -> bytes: ...

# most: messages of a queue, or semaphores of a set, that is not ODD → index of the next id, end of what was framed,
# messages among it, why
def dump_queues(ids: bytes, n: int, exact: bool, most: int, out: bytearray, /) -> tuple[int, int, int, int]: ...
def dump_sets(ids: bytes, n: int, exact: bool, most: int, out: bytearray, /) -> tuple[int, int, int, int]: ...

# → 8-byte numbers in out, place of the next object, why
def read_queues(block: bytearray, at: int, end: int, out: bytearray, /) -> tuple[int, int, int]: ...
def read_sets(block: bytearray, at: int, end: int, out: bytearray, /) -> tuple[int, int, int]: ...

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
def make_sets(
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

# The turn of a queue, on its journal's memory; without framing where out is empty → end of what was framed, room that
# sufficed, why; where the state of the journal is odd then, a message is under way
def turn(journal: int, msqid: int, qnum: int, room: int, out: bytearray, /) -> tuple[int, int, int]: ...
