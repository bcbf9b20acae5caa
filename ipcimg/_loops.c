/* The inner loops of a dump and a restore, without the interpreter between two system calls.
 *
 * They do what is ordinary. Whatever is not, an error of the kernel's or bytes that they do not expect, they leave
 * undone and tell the caller, who does that object or message by the reference path in Python: so there is one place
 * that explains errors and one that decides. See loops.py for what the functions take and give.
 *
 * Framing and field numbers are those of image.py and proto/. All memory is the caller's; all its bounds are checked.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's own structures, which libc's differ from in name alone. */
#include <linux/ipc.h>
#include <linux/msg.h>
#include <linux/sem.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_LONG__ != 8
#error "images are little-endian, and the structures those of 64-bit kernels"
#endif

#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif
#ifndef SEM_STAT_ANY
#define SEM_STAT_ANY 20
#endif

typedef unsigned char byte;

enum {
    HEAD_MOST = 4 + 1 + 10 + 1 + 5, /* bytes before a message's text: length, mtype, msize */
    ENTRY_MOST = 256,               /* bytes of a queue's entry, or of a set's without its process ids */
    ROOM_LEAST = 256,               /* bytes: for less the kernel does not work less */
    PLAIN_MOST = 64 << 10,          /* image.MAX_PLAIN */
};

/* List steps of the kernel in one call: about a tenth of a second, after which signals are looked for. */
#define STEPS_MOST (40L << 20)
#define STEPS_EACH 256L /* what a message costs beside its place in the list */

#define TURNED_MOST (1L << 15) /* messages turned in one call, for the same reason */

/* Why a loop has stopped, beside errno's numbers: as in loops.py. */
enum { FULL = -1, ODD = -2, OTHER_ID = -3 };

/* ---- varints ----------------------------------------------------------------------------------------------------- */

static size_t varint_length(uint64_t value)
{
    size_t n = 1;
    for (; value >= 0x80; value >>= 7)
        n++;
    return n;
}

static byte *put_varint(byte *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *at++ = value | 0x80;
    *at++ = value;
    return at;
}

static byte *put_field(byte *at, unsigned number, uint64_t value)
{
    return put_varint(put_varint(at, number << 3), value);
}

static byte *put_u32(byte *at, uint32_t value)
{
    memcpy(at, &value, 4);
    return at + 4;
}

struct span {
    const byte *at, *end;
};

static int get_varint(struct span *from, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && from->at < from->end; shift += 7) {
        byte b = *from->at++;
        if (shift == 63 && b > 1)
            return 0;
        *value |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80)
            return 1;
    }
    return 0;
}

/* The field that must come next, and its number or length. */
static int get_field(struct span *from, unsigned number, unsigned wire_type, uint64_t *value)
{
    uint64_t tag;
    return get_varint(from, &tag) && tag == (number << 3 | wire_type) && get_varint(from, value);
}

static int get_inner(struct span *from, unsigned number, struct span *inner)
{
    uint64_t length;
    if (!get_field(from, number, 2, &length) || length > (uint64_t)(from->end - from->at))
        return 0;
    inner->at = from->at;
    inner->end = from->at += length;
    return 1;
}

/* The entry at from, which is moved behind it. Gives 0, FULL where it goes on behind the end, or ODD. */
static int get_entry(struct span *from, struct span *entry)
{
    uint32_t length;
    if (from->end - from->at < 4)
        return FULL;
    memcpy(&length, from->at, 4);
    if (length > PLAIN_MOST)
        return ODD;
    if (length > from->end - from->at - 4)
        return FULL;
    entry->at = from->at + 4;
    entry->end = from->at = entry->at + length;
    return 0;
}

static size_t padding(size_t size)
{
    return -size & 7;
}

/* ---- messages out of a queue ------------------------------------------------------------------------------------- */

struct peek {
    int msqid;
    size_t room, most; /* bytes asked for at present, and at most */
    size_t head;       /* bytes before the text of the message before: most likely of the next one as well */
};

static struct peek peek_from(int msqid, size_t qnum, size_t cbytes)
{
    size_t room = qnum ? (cbytes + qnum - 1) / qnum : 0;
    return (struct peek){msqid, room > ROOM_LEAST ? room : ROOM_LEAST, cbytes, 4 + 2 + 2};
}

/* Bytes before a message's text. */
static size_t head_length(uint64_t mtype, uint64_t size)
{
    return 4 + 2 + varint_length(mtype) + varint_length(size);
}

/* What stands before a message's text; gives where the text begins. */
static byte *put_head(byte *at, uint64_t mtype, uint64_t size)
{
    return put_field(put_field(put_u32(at, head_length(mtype, size) - 4), 1, mtype), 2, size);
}

/* The zeros behind a message's text; gives what is behind them. */
static byte *put_padding(byte *at, uint64_t size)
{
    memset(at, 0, padding(size));
    return at + padding(size);
}

/* The room for the next message. One long message does not have all others asked for with a long buffer. */
static size_t next_room(size_t room, size_t size)
{
    return size < room / 4 && room > ROOM_LEAST ? room - room / 4 : room;
}

/* Peek at message n and frame it at *at, which is moved behind it. Gives 0, FULL or an errno. */
static int peek_one(struct peek *p, size_t n, byte **at, byte *end)
{
    for (;;) {
        if ((size_t)(end - *at) < HEAD_MOST + p->room + 8)
            return FULL;
        byte *text = *at + p->head; /* the kernel puts eight bytes of mtype before it, where the head will be */
        long size = syscall(SYS_msgrcv, p->msqid, text - 8, p->room, n, IPC_NOWAIT | MSG_COPY);
        if (size < 0) {
            if (errno != E2BIG || p->room >= p->most)
                return errno;
            p->room = 2 * p->room < p->most ? 2 * p->room : p->most;
            continue;
        }
        uint64_t mtype;
        memcpy(&mtype, text - 8, 8);
        if (head_length(mtype, size) != p->head) {
            p->head = head_length(mtype, size);
            memmove(*at + p->head, text, size);
        }
        *at = put_padding(put_head(*at, mtype, size) + size, size);
        p->room = next_room(p->room, size);
        return 0;
    }
}

static PyObject *peek(PyObject *self, PyObject *args)
{
    int msqid, stop = 0;
    Py_ssize_t n, qnum, cbytes, room;
    PyObject *out;
    (void)self;
    if (!PyArg_ParseTuple(args, "innnnO!", &msqid, &n, &qnum, &cbytes, &room, &PyByteArray_Type, &out))
        return NULL;
    if (n < 0 || cbytes < 0 || room < 0)
        return PyErr_Format(PyExc_ValueError, "negative");
    byte *start = (byte *)PyByteArray_AsString(out), *end = start + PyByteArray_Size(out), *to = start;
    struct peek p = peek_from(msqid, qnum, cbytes);
    if (room > 0)
        p.room = room;
    Py_BEGIN_ALLOW_THREADS
    for (long steps = 0; n < qnum && !stop && steps < STEPS_MOST; steps += n + STEPS_EACH) {
        stop = peek_one(&p, n, &to, end);
        n += !stop;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nnni", n, (Py_ssize_t)(to - start), (Py_ssize_t)p.room, stop);
}

/* ---- messages into a queue --------------------------------------------------------------------------------------- */

struct message {
    uint64_t mtype, size;
    byte *text;
};

/* The message framed at from, which is moved behind its head. Gives 0, FULL where it goes on behind the end, or ODD. */
static int get_head(struct span *from, struct message *message)
{
    struct span entry, before = *from;
    int stop = get_entry(from, &entry);
    if (stop)
        return stop;
    if (!get_field(&entry, 1, 0, &message->mtype) || !get_field(&entry, 2, 0, &message->size) ||
        entry.at != entry.end || message->mtype < 1 || message->mtype > INT64_MAX || message->size > INT32_MAX) {
        *from = before;
        return ODD;
    }
    message->text = (byte *)from->at;
    return 0;
}

/* The same, with its text, all of which is to be there; from is moved behind it. */
static int get_message(struct span *from, struct message *message)
{
    struct span next = *from;
    int stop = get_head(&next, message);
    if (stop)
        return stop;
    if (message->size + padding(message->size) > (uint64_t)(next.end - next.at))
        return FULL;
    from->at = next.at + message->size + padding(message->size);
    return 0;
}

/* Send count messages that are framed at *from, which is moved behind those that were sent; their heads are overwritten.
 * Gives 0, FULL, ODD or an errno. */
static int send_some(int msqid, struct span *from, size_t count, size_t *sent)
{
    for (*sent = 0; *sent < count; ++*sent) {
        struct span next = *from;
        struct message message;
        int stop = get_message(&next, &message);
        if (stop)
            return stop;
        /* msgsnd(2) wants the type in the eight bytes before the text. There are as many: no head is shorter. */
        memcpy(message.text - 8, &message.mtype, 8);
        if (syscall(SYS_msgsnd, msqid, message.text - 8, message.size, IPC_NOWAIT) < 0)
            return errno;
        *from = next;
    }
    return 0;
}

/* The span of a bytearray from at to end. */
static int span_of(PyObject *block, Py_ssize_t at, Py_ssize_t end, struct span *span)
{
    const byte *start = (const byte *)PyByteArray_AsString(block);
    if (at < 0 || at > end || end > PyByteArray_Size(block)) {
        PyErr_SetString(PyExc_ValueError, "outside the buffer");
        return 0;
    }
    *span = (struct span){start + at, start + end};
    return 1;
}

static PyObject *send(PyObject *self, PyObject *args)
{
    int msqid, stop;
    Py_ssize_t at, end, count;
    size_t sent;
    PyObject *block;
    struct span from;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!nnn", &msqid, &PyByteArray_Type, &block, &at, &end, &count) ||
        !span_of(block, at, end, &from))
        return NULL;
    const byte *start = from.at;
    Py_BEGIN_ALLOW_THREADS
    stop = send_some(msqid, &from, count, &sent);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nni", (Py_ssize_t)sent, at + (Py_ssize_t)(from.at - start), stop);
}

static PyObject *scan(PyObject *self, PyObject *args)
{
    Py_ssize_t at, end, left, count, n;
    unsigned long long bytes = 0, longest = 0;
    int stop = 0;
    PyObject *block;
    struct span from;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!nnnn", &PyByteArray_Type, &block, &at, &end, &left, &count) ||
        !span_of(block, at, end, &from))
        return NULL;
    const byte *start = from.at;
    Py_BEGIN_ALLOW_THREADS
    for (n = 0; n < count; n++) {
        struct span next = from;
        struct message message;
        stop = get_head(&next, &message);
        if (stop)
            break;
        uint64_t padded = message.size + padding(message.size);
        if (padded > (uint64_t)(left - (next.at - start))) {
            stop = ODD;
            break;
        }
        bytes += message.size;
        longest = message.size > longest ? message.size : longest;
        if (padded > (uint64_t)(next.end - next.at)) { /* the next head is behind the block */
            n++;
            start -= padded - (next.end - next.at);
            from.at = from.end;
            stop = n < count ? FULL : 0;
            break;
        }
        from.at = next.at + padded;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nnKKi", n, at + (Py_ssize_t)(from.at - start), bytes, longest, stop);
}

/* Each message as three numbers: its type, the place of its text in the block, its size. */
static PyObject *read_messages(PyObject *self, PyObject *args)
{
    PyObject *block, *out;
    Py_ssize_t at, end, count, n = 0;
    struct span from;
    int stop = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!nnnO!", &PyByteArray_Type, &block, &at, &end, &count, &PyByteArray_Type, &out) ||
        !span_of(block, at, end, &from))
        return NULL;
    const byte *start = from.at - at;
    uint64_t *numbers = (uint64_t *)PyByteArray_AsString(out);
    const Py_ssize_t room = PyByteArray_Size(out) / (3 * sizeof *numbers);
    Py_BEGIN_ALLOW_THREADS
    for (; n < count; n++) {
        struct message message;
        stop = n == room ? FULL : get_message(&from, &message);
        if (stop)
            break;
        numbers[3 * n] = message.mtype;
        numbers[3 * n + 1] = message.text - start;
        numbers[3 * n + 2] = message.size;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nni", n, (Py_ssize_t)(from.at - start), stop);
}

/* ---- objects out of a namespace ---------------------------------------------------------------------------------- */

static byte *put_desc(byte *at, const struct ipc64_perm *perm, int id)
{
    const uint32_t values[] = {perm->key, perm->uid, perm->gid, perm->cuid, perm->cgid, perm->mode, id};
    byte desc[7 * 6], *to = desc;
    for (unsigned n = 0; n < 7; n++)
        to = put_field(to, n + 1, values[n]);
    at = put_varint(put_varint(at, 1 << 3 | 2), to - desc);
    memcpy(at, desc, to - desc);
    return at + (to - desc);
}

/* Field 1000, ipcimg's own facts of an object. */
static byte *put_facts(byte *at, const byte *facts, size_t length)
{
    at = put_varint(put_varint(at, 1000 << 3 | 2), length);
    memcpy(at, facts, length);
    return at + length;
}

/* The ids in a listing of /proc/sysvipc: the second number of each line. */
static PyObject *ids(PyObject *self, PyObject *text)
{
    char *at, *end;
    Py_ssize_t size, lines = 0, n = 0;
    (void)self;
    if (PyBytes_AsStringAndSize(text, &at, &size) < 0)
        return NULL;
    end = at + size;
    for (char *line = at; line < end && (line = memchr(line, '\n', end - line)); line++)
        lines++;
    PyObject *found = PyBytes_FromStringAndSize(NULL, lines * sizeof(int));
    if (!found)
        return NULL;
    int *into = (int *)PyBytes_AsString(found);
    for (; n < lines; n++) {
        char *next = memchr(at, '\n', end - at);
        int id = 0;
        for (; at < next && *at == ' '; at++)
            ;
        for (; at < next && *at != ' '; at++)
            ;
        for (; at < next && *at == ' '; at++)
            ;
        for (; at < next && *at >= '0' && *at <= '9'; at++)
            id = 10 * id + (*at - '0');
        into[n] = id;
        at = next + 1;
    }
    return found;
}

/* One queue with its messages, framed at *at, which is moved behind it. Gives 0, FULL, ODD or an errno. */
static int dump_queue(int msqid, int exact, size_t qnum_most, byte **at, byte *end, size_t *messages)
{
    struct msqid64_ds ds;
    long found = syscall(SYS_msgctl, msqid, MSG_STAT_ANY, &ds);
    if (found < 0)
        return errno;
    if (found != msqid || ds.msg_qbytes > UINT32_MAX || ds.msg_qnum > qnum_most)
        return ODD;
    if (end - *at < ENTRY_MOST)
        return FULL;
    byte *entry = *at + 4, *to = put_desc(entry, &ds.msg_perm, msqid);
    to = put_field(put_field(to, 2, ds.msg_qbytes), 3, ds.msg_qnum);
    if (!exact) {
        byte facts[6 * 11], *fact = put_field(facts, 1, ds.msg_cbytes);
        fact = put_field(put_field(put_field(fact, 2, ds.msg_stime), 3, ds.msg_rtime), 4, ds.msg_ctime);
        fact = put_field(put_field(fact, 5, (int64_t)ds.msg_lspid), 6, (int64_t)ds.msg_lrpid);
        to = put_facts(to, facts, fact - facts);
    }
    put_u32(*at, to - entry);
    struct peek p = peek_from(msqid, ds.msg_qnum, ds.msg_cbytes);
    for (size_t n = 0; n < ds.msg_qnum; n++) {
        int stop = peek_one(&p, n, &to, end);
        if (stop)
            return stop;
    }
    *messages += ds.msg_qnum;
    *at = to;
    return 0;
}

/* Room for the values of any set: GETALL and SETALL go by the number that the set has then, which is another one where
 * somebody has put another set in its place. It takes no memory before it is used. */
enum { VALUES_MOST = 2 << 25 };

static byte *map_values(void)
{
    byte *values = mmap(NULL, VALUES_MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return values == MAP_FAILED ? NULL : values;
}

static int dump_set(int semid, int exact, size_t nsems_most, byte *values, byte **at, byte *end)
{
    struct semid64_ds ds;
    long found = syscall(SYS_semctl, semid, 0, SEM_STAT_ANY, &ds);
    if (found < 0)
        return errno;
    if (found != semid || ds.sem_nsems > nsems_most)
        return ODD;
    size_t nsems = ds.sem_nsems;
    /* A process id takes five bytes at most, and there are their length and the values behind it. */
    if ((size_t)(end - *at) < ENTRY_MOST + 5 * nsems + 16 + 2 * nsems)
        return FULL;
    byte *entry = *at + 4, *to = put_field(put_desc(entry, &ds.sem_perm, semid), 2, nsems);
    if (!exact) {
        byte facts[64], *fact = put_field(put_field(facts, 1, ds.sem_otime), 2, ds.sem_ctime);
        byte *pids = to + 64, *pid = pids; /* where there is room: they are moved to their place */
        for (size_t n = 0; n < nsems; n++) {
            long last = syscall(SYS_semctl, semid, n, GETPID, 0);
            if (last < 0)
                return errno;
            pid = put_varint(pid, last);
        }
        size_t length = pid - pids;
        fact = put_varint(put_varint(fact, 3 << 3 | 2), length);
        to = put_varint(put_varint(to, 1000 << 3 | 2), fact - facts + length);
        memcpy(to, facts, fact - facts);
        to += fact - facts;
        memmove(to, pids, length);
        to += length;
    }
    put_u32(*at, to - entry);
    if (syscall(SYS_semctl, semid, 0, GETALL, values) < 0)
        return errno;
    memcpy(to, values, 2 * nsems);
    memset(to + 2 * nsems, 0, padding(2 * nsems));
    *at = to + 2 * nsems + padding(2 * nsems);
    return 0;
}

/* The ids from n on: common to both kinds. */
static PyObject *dump_objects(PyObject *args, int queues)
{
    PyObject *list, *out;
    Py_ssize_t n, size, most;
    int exact, stop = 0;
    char *ids;
    size_t messages = 0;
    if (!PyArg_ParseTuple(args, "O!npnO!", &PyBytes_Type, &list, &n, &exact, &most, &PyByteArray_Type, &out) ||
        PyBytes_AsStringAndSize(list, &ids, &size) < 0)
        return NULL;
    if (n < 0 || most < 0)
        return PyErr_Format(PyExc_ValueError, "negative");
    byte *start = (byte *)PyByteArray_AsString(out), *end = start + PyByteArray_Size(out), *to = start;
    byte *values = queues ? NULL : map_values();
    if (!queues && !values)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    while (!stop && n < size / (Py_ssize_t)sizeof(int)) {
        int id;
        memcpy(&id, ids + n * sizeof(int), sizeof(int));
        stop = queues ? dump_queue(id, exact, most, &to, end, &messages) : dump_set(id, exact, most, values, &to, end);
        n += !stop;
    }
    if (values)
        munmap(values, VALUES_MOST);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nnni", n, (Py_ssize_t)(to - start), (Py_ssize_t)messages, stop);
}

static PyObject *dump_queues(PyObject *self, PyObject *args)
{
    (void)self;
    return dump_objects(args, 1);
}

static PyObject *dump_sets(PyObject *self, PyObject *args)
{
    (void)self;
    return dump_objects(args, 0);
}

/* ---- entries ------------------------------------------------------------------------------------------------------ */

struct desc {
    uint32_t key, uid, gid, cuid, cgid, mode, id;
};

static int get_desc(struct span *from, struct desc *desc)
{
    struct span inner;
    uint32_t *const values[] = {&desc->key, &desc->uid, &desc->gid, &desc->cuid, &desc->cgid, &desc->mode, &desc->id};
    if (!get_inner(from, 1, &inner))
        return 0;
    for (unsigned n = 0; n < 7; n++) {
        uint64_t value;
        if (!get_field(&inner, n + 1, 0, &value) || value > UINT32_MAX)
            return 0;
        *values[n] = value;
    }
    return inner.at == inner.end && desc->id <= INT32_MAX;
}

/* ---- objects of an image, for whoever reads it -------------------------------------------------------------------- */

static uint64_t *put_desc_numbers(uint64_t *to, const struct desc *desc)
{
    const uint32_t values[] = {desc->key, desc->uid, desc->gid, desc->cuid, desc->cgid, desc->mode, desc->id};
    for (unsigned n = 0; n < 7; n++)
        *to++ = values[n];
    return to;
}

/* The facts behind an entry's own fields, if it has any: count numbers, fields 1 and on. Gives whether all is as it
 * should be; *has tells whether there were any, and *facts is what is behind these numbers. */
static int get_facts(struct span *entry, unsigned count, uint64_t *numbers, uint64_t *has, struct span *facts)
{
    *has = entry->at != entry->end;
    memset(numbers, 0, count * sizeof *numbers);
    if (!*has)
        return 1;
    if (!get_inner(entry, 1000, facts) || entry->at != entry->end)
        return 0;
    for (unsigned n = 0; n < count; n++)
        if (!get_field(facts, n + 1, 0, &numbers[n]))
            return 0;
    return 1;
}

/* One queue, as 19 numbers: see codec.py. */
static int read_queue(struct span *from, const byte *start, uint64_t **to, const uint64_t *end)
{
    struct span entry, facts = {0}, rest = *from;
    struct desc desc;
    uint64_t qbytes, qnum, numbers[6], has, size = 0, longest = 0;
    if (end - *to < 19)
        return FULL;
    int stop = get_entry(&rest, &entry);
    if (stop)
        return stop;
    if (!get_desc(&entry, &desc) || desc.mode & ~0777u || !get_field(&entry, 2, 0, &qbytes) ||
        !get_field(&entry, 3, 0, &qnum) || qbytes > UINT32_MAX || qnum > UINT32_MAX ||
        !get_facts(&entry, 6, numbers, &has, &facts) || facts.at != facts.end || numbers[4] > INT32_MAX ||
        numbers[5] > INT32_MAX)
        return ODD;
    const byte *messages = rest.at;
    for (uint64_t n = 0; n < qnum; n++) {
        struct message message;
        stop = get_message(&rest, &message);
        if (stop)
            return stop;
        size += message.size;
        longest = message.size > longest ? message.size : longest;
    }
    uint64_t *number = put_desc_numbers(*to, &desc);
    const uint64_t more[] = {qbytes, qnum, messages - start, size, longest, has};
    memcpy(number, more, sizeof more);
    memcpy(number + 6, numbers, sizeof numbers);
    *to = number + 12;
    *from = rest;
    return 0;
}

/* One set, as 12 numbers and its process ids, two of them in the room of a number. */
static int read_set(struct span *from, const byte *start, uint64_t **to, const uint64_t *end)
{
    struct span entry, facts = {0}, pids = {0}, rest = *from;
    struct desc desc;
    uint64_t nsems, numbers[2], has;
    int stop = get_entry(&rest, &entry);
    if (stop)
        return stop;
    if (!get_desc(&entry, &desc) || desc.mode & ~0777u || !get_field(&entry, 2, 0, &nsems) || nsems < 1 ||
        nsems > PLAIN_MOST || !get_facts(&entry, 2, numbers, &has, &facts))
        return ODD;
    if (has && (!get_inner(&facts, 3, &pids) || facts.at != facts.end))
        return ODD;
    if (2 * nsems + padding(2 * nsems) > (uint64_t)(rest.end - rest.at) ||
        12 + (nsems + 1) / 2 > (uint64_t)(end - *to))
        return FULL;
    for (uint64_t n = 0; n < nsems; n++) {
        uint16_t value;
        memcpy(&value, rest.at + 2 * n, 2);
        if (value > INT16_MAX)
            return ODD;
    }
    uint64_t *number = put_desc_numbers(*to, &desc);
    const uint64_t more[] = {nsems, rest.at - start, has, numbers[0], numbers[1]};
    memcpy(number, more, sizeof more);
    number += 5;
    if (has) {
        for (uint64_t n = 0; n < nsems; n++) {
            uint64_t pid;
            if (!get_varint(&pids, &pid) || pid > INT32_MAX)
                return ODD;
            memcpy((byte *)number + 4 * n, &(uint32_t){pid}, 4);
        }
        if (pids.at != pids.end)
            return ODD;
        number += (nsems + 1) / 2;
    }
    *to = number;
    from->at = rest.at + 2 * nsems + padding(2 * nsems);
    return 0;
}

static PyObject *read_objects(PyObject *args, int queues)
{
    PyObject *block, *out;
    Py_ssize_t at, end;
    struct span from;
    int stop = 0;
    if (!PyArg_ParseTuple(args, "O!nnO!", &PyByteArray_Type, &block, &at, &end, &PyByteArray_Type, &out) ||
        !span_of(block, at, end, &from))
        return NULL;
    const byte *start = from.at - at, *first = from.at;
    uint64_t *numbers = (uint64_t *)PyByteArray_AsString(out), *to = numbers;
    const uint64_t *to_end = numbers + PyByteArray_Size(out) / sizeof *numbers;
    Py_BEGIN_ALLOW_THREADS
    while (from.at < from.end && !stop)
        stop = queues ? read_queue(&from, start, &to, to_end) : read_set(&from, start, &to, to_end);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nni", (Py_ssize_t)(to - numbers), at + (Py_ssize_t)(from.at - first), stop);
}

static PyObject *read_queues(PyObject *self, PyObject *args)
{
    (void)self;
    return read_objects(args, 1);
}

static PyObject *read_sets(PyObject *self, PyObject *args)
{
    (void)self;
    return read_objects(args, 0);
}

/* ---- objects into a namespace ------------------------------------------------------------------------------------ */

/* The journal of a restore: see journal.py. */
struct record {
    uint8_t kind, state;
    uint16_t zero;
    uint32_t id, key, cuid, cgid, more;
};

enum { INTENDED = 1, MADE = 2, RECORDS_AT = 4096, COUNT_AT = 8 };

struct maker {
    int preset;          /* the descriptor of *_next_id */
    byte *journal;       /* its memory */
    uint32_t count, capacity;
    uint32_t uid, gid;   /* whoever makes objects */
    unsigned newborn;    /* the mode of an object that is being made */
    uint8_t kind;        /* as the journal has it */
    byte *values;        /* see map_values() */
};

/* Make an object under its id, noting it. get is what creates it. Gives 0, OTHER_ID, ODD or an errno. */
static int make_one(struct maker *maker, const struct desc *desc, long (*get)(const struct desc *, size_t, int), size_t size,
                    long (*stat)(int), int *given)
{
    if (desc->cuid != maker->uid || desc->cgid != maker->gid || maker->count >= maker->capacity || stat(desc->id) >= 0)
        return ODD;
    char wanted[16];
    int length = snprintf(wanted, sizeof wanted, "%u", desc->id);
    if (pwrite(maker->preset, wanted, length, 0) != length)
        return ODD;
    struct record *record = (struct record *)(maker->journal + RECORDS_AT) + maker->count;
    uint32_t *count = (uint32_t *)(maker->journal + COUNT_AT);
    *record = (struct record){maker->kind, INTENDED, 0, desc->id, desc->key, desc->cuid, desc->cgid, 0};
    __atomic_store_n(count, maker->count + 1, __ATOMIC_SEQ_CST);
    *given = get(desc, size, IPC_CREAT | IPC_EXCL | maker->newborn);
    if (*given < 0) {
        __atomic_store_n(count, maker->count, __ATOMIC_SEQ_CST);
        return ODD;
    }
    maker->count++;
    record->id = *given;
    __atomic_store_n(&record->state, MADE, __ATOMIC_SEQ_CST);
    return (uint32_t)*given == desc->id ? 0 : OTHER_ID;
}

static long get_queue(const struct desc *desc, size_t size, int flags)
{
    (void)size;
    return syscall(SYS_msgget, desc->key, flags);
}

static long get_set(const struct desc *desc, size_t nsems, int flags)
{
    return syscall(SYS_semget, desc->key, (int)nsems, flags);
}

static long stat_queue(int id)
{
    struct msqid64_ds ds;
    return syscall(SYS_msgctl, id, MSG_STAT_ANY, &ds);
}

static long stat_set(int id)
{
    struct semid64_ds ds;
    return syscall(SYS_semctl, id, 0, SEM_STAT_ANY, &ds);
}

/* The queue at *from, which is moved behind it once it is made. Gives 0, FULL, ODD, OTHER_ID or an errno. */
static int make_queue(struct maker *maker, struct span *from, int *given)
{
    struct span entry, rest = *from;
    struct desc desc;
    uint64_t qbytes, qnum;
    int stop = get_entry(&rest, &entry);
    if (stop)
        return stop;
    if (!get_desc(&entry, &desc) || !get_field(&entry, 2, 0, &qbytes) || !get_field(&entry, 3, 0, &qnum) ||
        qbytes > UINT32_MAX)
        return ODD;
    struct span messages = rest; /* they are to be in the block, all of them */
    for (uint64_t n = 0; n < qnum; n++) {
        struct message message;
        stop = get_message(&rest, &message);
        if (stop)
            return stop;
    }
    *given = desc.id;
    stop = make_one(maker, &desc, get_queue, 0, stat_queue, given);
    if (stop)
        return stop;
    size_t sent;
    stop = send_some(*given, &messages, qnum, &sent);
    if (stop)
        return stop;
    struct msqid64_ds final = {.msg_perm = {.uid = desc.uid, .gid = desc.gid, .mode = desc.mode}, .msg_qbytes = qbytes};
    if (syscall(SYS_msgctl, *given, IPC_SET, &final) < 0)
        return errno;
    *from = rest;
    return 0;
}

static int make_set(struct maker *maker, struct span *from, int *given)
{
    struct span entry, facts, rest = *from;
    struct desc desc;
    uint64_t nsems, otime = 0;
    int stop = get_entry(&rest, &entry);
    if (stop)
        return stop;
    if (!get_desc(&entry, &desc) || !get_field(&entry, 2, 0, &nsems) || nsems < 1 || nsems > VALUES_MOST / 2)
        return ODD;
    if (entry.at != entry.end && (!get_inner(&entry, 1000, &facts) || !get_field(&facts, 1, 0, &otime) ||
                                  entry.at != entry.end))
        return ODD;
    if (2 * nsems + padding(2 * nsems) > (uint64_t)(rest.end - rest.at))
        return FULL;
    memcpy(maker->values, rest.at, 2 * nsems);
    *given = desc.id;
    stop = make_one(maker, &desc, get_set, nsems, stat_set, given);
    if (stop)
        return stop;
    if (syscall(SYS_semctl, *given, 0, SETALL, maker->values) < 0)
        return errno;
    if (otime) { /* see sem.restore() */
        short step = rest.at[0] || rest.at[1] ? -1 : 1;
        struct sembuf twice[] = {{0, step, IPC_NOWAIT}, {0, -step, IPC_NOWAIT}};
        if (syscall(SYS_semop, *given, twice, 2) < 0)
            return errno;
    }
    struct semid64_ds final = {.sem_perm = {.uid = desc.uid, .gid = desc.gid, .mode = desc.mode}};
    if (syscall(SYS_semctl, *given, 0, IPC_SET, &final) < 0)
        return errno;
    from->at = rest.at + 2 * nsems + padding(2 * nsems);
    return 0;
}

static PyObject *make_objects(PyObject *args, int queues)
{
    PyObject *block;
    Py_ssize_t at, end, made = 0;
    int stop = 0, given = -1;
    unsigned long long journal;
    struct maker maker = {0};
    struct span from;
    if (!PyArg_ParseTuple(args, "O!nniKIIIIIb", &PyByteArray_Type, &block, &at, &end, &maker.preset, &journal, &maker.count,
                          &maker.capacity, &maker.uid, &maker.gid, &maker.newborn, &maker.kind) ||
        !span_of(block, at, end, &from))
        return NULL;
    maker.journal = (byte *)(uintptr_t)journal;
    if (!queues && !(maker.values = map_values()))
        return PyErr_NoMemory();
    const byte *start = from.at;
    Py_BEGIN_ALLOW_THREADS
    while (from.at < from.end && !stop) {
        stop = queues ? make_queue(&maker, &from, &given) : make_set(&maker, &from, &given);
        made += !stop;
    }
    if (maker.values)
        munmap(maker.values, VALUES_MOST);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nnIii", made, at + (Py_ssize_t)(from.at - start), maker.count, given, stop);
}

static PyObject *make_queues(PyObject *self, PyObject *args)
{
    (void)self;
    return make_objects(args, 1);
}

static PyObject *make_sets(PyObject *self, PyObject *args)
{
    (void)self;
    return make_objects(args, 0);
}

/* ---- the turn of a queue: turn.py has the journal's layout, and what is to be done whenever we are killed ----------- */

enum { STATE_AT = 8, SIZE_AT = 16, TAKEN_SIZE_AT = 32, SLOTS_AT = 4096 };

static uint64_t *word(byte *journal, size_t at)
{
    return (uint64_t *)(journal + at);
}

static void set_state(byte *journal, uint64_t state)
{
    __atomic_store_n(word(journal, STATE_AT), state, __ATOMIC_SEQ_CST);
}

/* The message at the head in the slot peeked: its bytes, at most so many, or FULL, or an errno below. */
static long peek_head(byte *peeked, int msqid, size_t room, size_t *fitting, size_t most, int *why)
{
    long size;
    while (*fitting <= most) {
        if ((size = syscall(SYS_msgrcv, msqid, peeked, *fitting, 0L, IPC_NOWAIT | MSG_COPY)) >= 0)
            return size;
        if (errno != E2BIG || *fitting >= room) {
            *why = errno;
            return -1;
        }
        *fitting = 2 * *fitting + 64 < room ? 2 * *fitting + 64 : room;
    }
    *why = FULL;
    return -1;
}

/* Turns as Turn.step() does. Others may be able to write the journal: what memory is used does not depend on it. */
static PyObject *turn(PyObject *self, PyObject *args)
{
    unsigned long long address;
    int msqid, why = 0;
    Py_ssize_t qnum, room, least, steps = 0;
    PyObject *out;
    (void)self;
    if (!PyArg_ParseTuple(args, "KinnnO!", &address, &msqid, &qnum, &room, &least, &PyByteArray_Type, &out))
        return NULL;
    byte *journal = (byte *)(uintptr_t)address, *peeked = journal + SLOTS_AT, *taken = peeked + 8 + room + padding(room);
    byte *start = (byte *)PyByteArray_AsString(out), *end = start + PyByteArray_Size(out), *to = start;
    int framing = start != end;
    size_t fitting = least < room ? least : room;
    Py_BEGIN_ALLOW_THREADS
    for (uint64_t state; steps < TURNED_MOST && (state = *word(journal, STATE_AT)) < 2 * (uint64_t)qnum; steps++) {
        size_t left = end - to - HEAD_MOST - 8;
        long size, came;
        if (state & 1 || (framing && end - to < HEAD_MOST + 8)) {
            why = state & 1 ? ODD : FULL;
            break;
        }
        if ((size = peek_head(peeked, msqid, room, &fitting, framing ? left : SIZE_MAX, &why)) < 0)
            break;
        *word(journal, SIZE_AT) = size;
        *word(journal, TAKEN_SIZE_AT) = UINT64_MAX;
        memset(taken, 0, 8);
        set_state(journal, state + 1);
        if ((came = syscall(SYS_msgrcv, msqid, taken, room, 0L, IPC_NOWAIT)) < 0) {
            why = errno;
            break;
        }
        *word(journal, TAKEN_SIZE_AT) = came;
        if (came != size || memcmp(taken, peeked, 8 + size)) {
            why = ODD;
            break;
        }
        if (framing) { /* before it is sent: what cannot be sent now will be, and is not framed again */
            uint64_t mtype;
            memcpy(&mtype, peeked, 8);
            to = put_head(to, mtype, size);
            memcpy(to, peeked + 8, size);
            to = put_padding(to + size, size);
        }
        if (syscall(SYS_msgsnd, msqid, peeked, size, IPC_NOWAIT) < 0) {
            why = errno;
            break;
        }
        set_state(journal, state + 2);
        fitting = next_room(fitting, size);
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nni", (Py_ssize_t)(to - start), (Py_ssize_t)fitting, why);
}

/* ---- the data of a segment --------------------------------------------------------------------------------------- */

/* A piece of a segment's data: runs of it, back to back in memory. See pieces.py. */
struct run {
    uint64_t offset, length; /* bytes, in the segment */
};

struct runs {
    struct run *at;
    size_t count, room;
};

enum { INHERITED = 1 }; /* added to the offset of a run: an earlier set of images has its pages */

static int add_run(struct runs *runs, uint64_t offset, uint64_t length)
{
    if (runs->count) {
        struct run *last = runs->at + runs->count - 1;
        if (last->offset + last->length == offset) {
            last->length += length;
            return 1;
        }
    }
    if (runs->count == runs->room)
        return 0;
    runs->at[runs->count++] = (struct run){offset, length};
    return 1;
}

/* The runs that a bytearray has room for, of which count are there. */
static int runs_of(PyObject *packed, Py_ssize_t count, struct runs *runs)
{
    size_t room = PyByteArray_Size(packed) / sizeof(struct run);
    if (count < 0 || (size_t)count > room) {
        PyErr_SetString(PyExc_ValueError, "more runs than there is room for");
        return 0;
    }
    *runs = (struct runs){(struct run *)PyByteArray_AsString(packed), count, room};
    return 1;
}

static int read_all(int fd, byte *to, size_t size, off_t offset)
{
    while (size) {
        ssize_t n = pread(fd, to, size, offset);
        if (n <= 0)
            return n ? errno : EIO;
        to += n, size -= n, offset += n;
    }
    return 0;
}

static int write_all(int fd, const byte *from, size_t size, off_t offset)
{
    while (size) {
        ssize_t n = pwrite(fd, from, size, offset);
        if (n <= 0)
            return n ? errno : EIO;
        from += n, size -= n, offset += n;
    }
    return 0;
}

static PyObject *gather(PyObject *self, PyObject *args)
{
    int fd, stop = 0;
    Py_ssize_t at, hole, end, page;
    PyObject *data, *packed;
    struct runs runs;
    (void)self;
    if (!PyArg_ParseTuple(args, "innnnO!O!", &fd, &at, &hole, &end, &page, &PyByteArray_Type, &data, &PyByteArray_Type,
                          &packed) ||
        !runs_of(packed, 0, &runs))
        return NULL;
    byte *to = (byte *)PyByteArray_AsString(data);
    size_t size = 0, room = PyByteArray_Size(data);
    Py_BEGIN_ALLOW_THREADS
    while (at < end && size < room) {
        if (at >= hole) {
            off_t start = lseek(fd, at, SEEK_DATA);
            if (start < 0 && errno != ENXIO) {
                stop = errno;
                break;
            }
            if (start < 0 || start >= end) { /* nothing but a hole from here on */
                at = end;
                break;
            }
            off_t last = lseek(fd, start, SEEK_HOLE);
            if (last < 0) {
                stop = errno;
                break;
            }
            last += -last & (page - 1);
            at = start;
            hole = last < end ? last : end;
        }
        size_t length = (size_t)(hole - at) < room - size ? (size_t)(hole - at) : room - size;
        if (runs.count == runs.room)
            break;
        stop = read_all(fd, to + size, length, at);
        if (stop)
            break;
        add_run(&runs, at, length);
        at += length;
        size += length;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nnnni", at, hole, (Py_ssize_t)size, (Py_ssize_t)runs.count, stop);
}

static PyObject *scatter(PyObject *self, PyObject *args)
{
    int fd, stop = 0;
    Py_ssize_t n, count, at, end;
    PyObject *data, *packed;
    struct runs runs;
    (void)self;
    if (!PyArg_ParseTuple(args, "inO!O!nnn", &fd, &end, &PyByteArray_Type, &data, &PyByteArray_Type, &packed, &count,
                          &n, &at) ||
        !runs_of(packed, count, &runs))
        return NULL;
    const byte *from = (const byte *)PyByteArray_AsString(data);
    size_t size = PyByteArray_Size(data);
    if (n < 0 || at < 0 || (size_t)at > size)
        return PyErr_Format(PyExc_ValueError, "outside the buffer");
    Py_BEGIN_ALLOW_THREADS
    for (; n < count; n++) {
        struct run run = runs.at[n];
        if (run.length > size - at || run.offset > (uint64_t)end || run.length > end - run.offset) {
            stop = ODD;
            break;
        }
        stop = write_all(fd, from + at, run.length, run.offset);
        if (stop)
            break;
        at += run.length;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nni", n, at, stop);
}

static int is_zero(const byte *at, size_t size)
{
    /* Most pages that are not zero show it in their first words; the rest is compared with itself, a word further. */
    uint64_t first[4];
    memcpy(first, at, sizeof first);
    return !(first[0] | first[1] | first[2] | first[3]) && !memcmp(at, at + 8, size - 8);
}

static PyObject *drop_zeros(PyObject *self, PyObject *args)
{
    Py_ssize_t count, page;
    PyObject *data, *packed, *kept_packed;
    struct runs runs, kept;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!nO!n", &PyByteArray_Type, &data, &PyByteArray_Type, &packed, &count,
                          &PyByteArray_Type, &kept_packed, &page) ||
        !runs_of(packed, count, &runs) || !runs_of(kept_packed, 0, &kept))
        return NULL;
    byte *start = (byte *)PyByteArray_AsString(data), *to = start, *from = start;
    uint64_t left = PyByteArray_Size(data);
    if (page < 32 || kept.room < left / page)
        return PyErr_Format(PyExc_ValueError, "no room for a run of each page");
    for (Py_ssize_t n = 0; n < count; n++) {
        if (runs.at[n].length % page || runs.at[n].length > left)
            return PyErr_Format(PyExc_ValueError, "no whole pages, or outside the buffer");
        left -= runs.at[n].length;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t n = 0; n < count; n++) {
        uint64_t offset = runs.at[n].offset, end = offset + runs.at[n].length;
        while (offset < end) {
            uint64_t length = 0; /* of what is to be kept from here on */
            while (offset + length < end && !is_zero(from + length, page))
                length += page;
            if (length) {
                if (to != from)
                    memmove(to, from, length);
                add_run(&kept, offset, length);
                to += length;
            }
            while (offset + length < end && is_zero(from + length, page))
                length += page;
            from += length;
            offset += length;
        }
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nn", (Py_ssize_t)(to - start), (Py_ssize_t)kept.count);
}

/* Are they whole pages, in ascending order, of so many bytes at most? */
static int are_pages(const struct runs *runs, uint64_t page, uint64_t size)
{
    uint64_t end = 0;
    for (size_t n = 0; n < runs->count; n++) {
        struct run run = runs->at[n];
        if (run.offset % page || run.length % page || run.length > size || run.offset < end ||
            run.length > UINT64_MAX - run.offset)
            return 0;
        size -= run.length;
        end = run.offset + run.length;
    }
    return 1;
}

static PyObject *drop_same(PyObject *self, PyObject *args)
{
    Py_ssize_t count, at, to, kept_count, page, other_count;
    int ended;
    PyObject *data, *packed, *kept_packed, *other, *other_packed;
    struct runs runs, kept, theirs;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!nnnO!nnO!O!np", &PyByteArray_Type, &data, &PyByteArray_Type, &packed, &count, &at,
                          &to, &PyByteArray_Type, &kept_packed, &kept_count, &page, &PyByteArray_Type, &other,
                          &PyByteArray_Type, &other_packed, &other_count, &ended) ||
        !runs_of(packed, count, &runs) || !runs_of(kept_packed, kept_count, &kept) ||
        !runs_of(other_packed, other_count, &theirs))
        return NULL;
    byte *ours = (byte *)PyByteArray_AsString(data);
    const byte *before = (const byte *)PyByteArray_AsString(other);
    Py_ssize_t size = PyByteArray_Size(data);
    if (page < 1 || !are_pages(&runs, page, size) || !are_pages(&theirs, page, PyByteArray_Size(other)))
        return PyErr_Format(PyExc_ValueError, "no whole pages that ascend, or outside the buffer");
    if (to < 0 || to > at || at > size || at % page || to % page || kept.room - kept.count < (size_t)(size - at) / page)
        return PyErr_Format(PyExc_ValueError, "outside the buffer, or no room for a run of each page");
    Py_BEGIN_ALLOW_THREADS
    uint64_t end = ended ? UINT64_MAX : theirs.count ? theirs.at[theirs.count - 1].offset + theirs.at[theirs.count - 1].length : 0;
    uint64_t start = 0;       /* of a run in our data */
    uint64_t their_start = 0; /* of run m in theirs */
    for (size_t n = 0, m = 0; n < runs.count; start += runs.at[n++].length) {
        if ((uint64_t)at >= start + runs.at[n].length)
            continue;
        uint64_t offset = runs.at[n].offset + (at - start), last = runs.at[n].offset + runs.at[n].length;
        if (last > end)
            last = end;
        while (offset < last) {
            while (m < theirs.count && theirs.at[m].offset + theirs.at[m].length <= offset)
                their_start += theirs.at[m++].length;
            uint64_t stop = last, same = 0, other_than = 0;
            if (m < theirs.count && theirs.at[m].offset <= offset) {
                const byte *their = before + their_start + (offset - theirs.at[m].offset);
                if (stop > theirs.at[m].offset + theirs.at[m].length)
                    stop = theirs.at[m].offset + theirs.at[m].length;
                while (offset + same < stop && !memcmp(ours + at + same, their + same, page))
                    same += page;
                while (offset + same + other_than < stop &&
                       memcmp(ours + at + same + other_than, their + same + other_than, page))
                    other_than += page;
            } else {
                if (m < theirs.count && stop > theirs.at[m].offset)
                    stop = theirs.at[m].offset;
                other_than = stop - offset;
            }
            if (same)
                add_run(&kept, offset | INHERITED, same);
            if (other_than) {
                if (to != at + (Py_ssize_t)same)
                    memmove(ours + to, ours + at + same, other_than);
                add_run(&kept, offset + same, other_than);
            }
            to += other_than;
            at += same + other_than;
            offset += same + other_than;
        }
        if (offset >= end)
            break;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("nnn", at, to, (Py_ssize_t)kept.count);
}

/* ---- page maps --------------------------------------------------------------------------------------------------- */

enum { PAGEMAP_ENTRY_MOST = 4 + 2 * 11 + 2 * 6, PE_PARENT = 1, PE_PRESENT = 4 };

static PyObject *frame_runs(PyObject *self, PyObject *args)
{
    Py_ssize_t count, page;
    int exact;
    PyObject *packed;
    struct runs runs;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!nnp", &PyByteArray_Type, &packed, &count, &page, &exact) ||
        !runs_of(packed, count, &runs))
        return NULL;
    PyObject *framed = PyByteArray_FromStringAndSize(NULL, count * PAGEMAP_ENTRY_MOST);
    if (!framed)
        return NULL;
    byte *start = (byte *)PyByteArray_AsString(framed), *to = start;
    for (Py_ssize_t n = 0; n < count; n++) {
        uint64_t pages = runs.at[n].length / page;
        byte *entry = to + 4, *end = put_field(entry, 1, runs.at[n].offset & ~(uint64_t)INHERITED);
        end = put_field(end, 2, exact || pages > UINT32_MAX ? 0 : pages);
        end = put_field(end, 4, runs.at[n].offset & INHERITED ? PE_PARENT : PE_PRESENT);
        end = put_field(end, 5, pages);
        put_u32(to, end - entry);
        to = end;
    }
    if (PyByteArray_Resize(framed, to - start) < 0) {
        Py_DECREF(framed);
        return NULL;
    }
    return framed;
}

static int next_is(const struct span *from, unsigned number)
{
    return from->at < from->end && *from->at == number << 3;
}

/* The run of pages that are in the set itself, whose entry is at *from, which is moved behind it. low is where the run
 * before ends. Gives 0, FULL or ODD. */
static int get_run(struct span *from, uint64_t page, uint64_t low, uint64_t high, struct run *run)
{
    struct span entry, next = *from;
    uint64_t compat, pages, flags = PE_PRESENT;
    int stop = get_entry(&next, &entry);
    if (stop)
        return stop;
    if (!get_field(&entry, 1, 0, &run->offset) || !get_field(&entry, 2, 0, &compat))
        return ODD;
    pages = compat; /* up to CRIU 4.1 */
    if ((next_is(&entry, 4) && !get_field(&entry, 4, 0, &flags)) ||
        (next_is(&entry, 5) && !get_field(&entry, 5, 0, &pages)) || entry.at != entry.end ||
        flags != PE_PRESENT || (compat && compat != pages) || !pages || run->offset % page || run->offset < low ||
        run->offset > high || pages > (high - run->offset) / page)
        return ODD;
    run->length = pages * page;
    *from = next;
    return 0;
}

static PyObject *next_runs(PyObject *self, PyObject *args)
{
    Py_ssize_t at, end, count;
    int stop = 0;
    unsigned long long page, high, offset, left, room, size = 0;
    PyObject *block, *packed;
    struct span from;
    struct runs runs;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!nnKKKKKO!n", &PyByteArray_Type, &block, &at, &end, &page, &high, &offset, &left,
                          &room, &PyByteArray_Type, &packed, &count) ||
        !span_of(block, at, end, &from) || !runs_of(packed, count, &runs))
        return NULL;
    const byte *start = from.at;
    if (!page)
        return PyErr_Format(PyExc_ValueError, "no size of a page");
    Py_BEGIN_ALLOW_THREADS
    while (size < room) {
        if (!left) {
            struct run run;
            stop = get_run(&from, page, offset, high, &run);
            if (stop)
                break;
            offset = run.offset;
            left = run.length;
        }
        uint64_t length = left < room - size ? left : room - size;
        if (!add_run(&runs, offset, length))
            break;
        offset += length;
        left -= length;
        size += length;
    }
    Py_END_ALLOW_THREADS
    at += from.at - start;
    return Py_BuildValue("nnKKKi", at, (Py_ssize_t)runs.count, size, offset, left, stop);
}

/* ---- the module -------------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"peek", peek, METH_VARARGS, NULL},
    {"send", send, METH_VARARGS, NULL},
    {"scan", scan, METH_VARARGS, NULL},
    {"read_messages", read_messages, METH_VARARGS, NULL},
    {"ids", ids, METH_O, NULL},
    {"dump_queues", dump_queues, METH_VARARGS, NULL},
    {"dump_sets", dump_sets, METH_VARARGS, NULL},
    {"read_queues", read_queues, METH_VARARGS, NULL},
    {"read_sets", read_sets, METH_VARARGS, NULL},
    {"make_queues", make_queues, METH_VARARGS, NULL},
    {"make_sets", make_sets, METH_VARARGS, NULL},
    {"turn", turn, METH_VARARGS, NULL},
    {"gather", gather, METH_VARARGS, NULL},
    {"scatter", scatter, METH_VARARGS, NULL},
    {"drop_zeros", drop_zeros, METH_VARARGS, NULL},
    {"drop_same", drop_same, METH_VARARGS, NULL},
    {"frame_runs", frame_runs, METH_VARARGS, NULL},
    {"next_runs", next_runs, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "_loops", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__loops(void)
{
    return PyModule_Create(&module);
}
