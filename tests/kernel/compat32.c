/*
 * A 32-bit program that makes System V IPC objects, checks them, and uses them, by the compat system calls.
 *
 *   compat32 make              the objects of the tables below
 *   compat32 check             compares the objects with the tables, receiving all messages; 1 if anything differs
 *   compat32 attach            attaches the first segment, says so, and lets it go after standard input has ended
 *   compat32 types MSQID       receives all messages of a queue and prints their types
 *
 * test_compat32.py makes the same objects as a 64-bit process: objects() there and the tables here go together.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

_Static_assert(sizeof(long) == 4, "to be built with -m32");

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define LONG 8192

struct message { long type; size_t size; };
struct queue { int id; key_t key; unsigned mode, uid, gid; unsigned long qbytes; unsigned n; struct message messages[5]; };
struct set { int id; key_t key; unsigned mode, uid, gid; int used; unsigned n; unsigned short values[5]; };
struct segment { int id; key_t key; unsigned mode, uid, gid; size_t size, written; };

static const struct queue queues[] = {
    {INT_MAX, 0x1234, 0640, 0, 0, 16384, 5, {{5, 5}, {1, 0}, {INT_MAX, LONG}, {5, 1}, {INT_MAX, 0}}},
    {98305, (key_t)0x80000001, 0600, 100000, 1234, 4096, 1, {{7, 13}}},
    {2, IPC_PRIVATE, 0600, 0, 0, 16384, 0, {{0, 0}}},
};
static const struct set sets[] = {
    {INT_MAX, 0x77, 0666, 0, 0, 0, 5, {0, 1, 32766, 32767, 7}},
    {98305, (key_t)0xDEADBEEF, 0600, 100000, 1234, 1, 2, {3, 32767}},
    {2, IPC_PRIVATE, 0600, 0, 0, 0, 1, {0}},
};
static const struct segment segments[] = {
    {INT_MAX, 0x99, 0640, 0, 0, 10001, 10001},
    {98305, (key_t)0xCAFEBABE, 0600, 100000, 1234, 4096, 4096},
    {2, IPC_PRIVATE, 0600, 0, 0, 20480, 0},
};

union semun { int val; struct semid_ds *buf; unsigned short *array; };
static struct { long type; char body[LONG]; } buffer;
static int wrong;

static void differs(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    wrong = 1;
}

static int must(int result, const char *what)
{
    if (result == -1) {
        perror(what);
        exit(2);
    }
    return result;
}

/* What message or segment number n holds at place i. */
static char byte(unsigned n, size_t i)
{
    return (char)(i * 7 + n * 31 + 1);
}

/* The next object of the kind gets this id. */
static void preset(const char *kind, int id)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/sys/kernel/%s_next_id", kind);
    FILE *file = fopen(path, "w");
    if (!file || fprintf(file, "%d", id) < 0 || fclose(file)) {
        perror(path);
        exit(2);
    }
}

static void *attached(int id, int flags)
{
    void *address = shmat(id, NULL, flags);
    must(address == (void *)-1 ? -1 : 0, "shmat");
    return address;
}

/* ---- make -------------------------------------------------------------------------------- */

static void make_queue(const struct queue *q)
{
    struct msqid_ds ds;
    preset("msg", q->id);
    int id = must(msgget(q->key, IPC_CREAT | IPC_EXCL | 0600), "msgget");
    for (unsigned n = 0; n < q->n; n++) {
        buffer.type = q->messages[n].type;
        for (size_t i = 0; i < q->messages[n].size; i++)
            buffer.body[i] = byte(n, i);
        must(msgsnd(id, &buffer, q->messages[n].size, IPC_NOWAIT), "msgsnd");
    }
    must(msgctl(id, IPC_STAT, &ds), "msgctl");
    ds.msg_qbytes = q->qbytes;
    ds.msg_perm.uid = q->uid, ds.msg_perm.gid = q->gid, ds.msg_perm.mode = q->mode;
    must(msgctl(id, IPC_SET, &ds), "msgctl");
}

static void make_set(const struct set *s)
{
    struct semid_ds ds;
    unsigned short values[COUNT(s->values)];
    preset("sem", s->id);
    int id = must(semget(s->key, (int)s->n, IPC_CREAT | IPC_EXCL | 0600), "semget");
    memcpy(values, s->values, sizeof values);
    values[0] += s->used;
    must(semctl(id, 0, SETALL, (union semun){.array = values}), "semctl");
    if (s->used)
        must(semop(id, &(struct sembuf){0, -1, IPC_NOWAIT}, 1), "semop");
    must(semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}), "semctl");
    ds.sem_perm.uid = s->uid, ds.sem_perm.gid = s->gid, ds.sem_perm.mode = s->mode;
    must(semctl(id, 0, IPC_SET, (union semun){.buf = &ds}), "semctl");
}

static void make_segment(const struct segment *s, unsigned n)
{
    struct shmid_ds ds;
    preset("shm", s->id);
    int id = must(shmget(s->key, s->size, IPC_CREAT | IPC_EXCL | 0600), "shmget");
    if (s->written) {
        char *address = attached(id, 0);
        for (size_t i = 0; i < s->written; i++)
            address[i] = byte(n, i);
        must(shmdt(address), "shmdt");
    }
    must(shmctl(id, IPC_STAT, &ds), "shmctl");
    ds.shm_perm.uid = s->uid, ds.shm_perm.gid = s->gid, ds.shm_perm.mode = (unsigned short)s->mode;
    must(shmctl(id, IPC_SET, &ds), "shmctl");
}

/* ---- check ------------------------------------------------------------------------------- */

/* wanted is a row of any of the tables, which begin alike. */
#define CHECK_PERMISSIONS(what, wanted, perm, found) \
    check_permissions(what, (wanted)->id, (wanted)->key, (wanted)->mode, (wanted)->uid, (wanted)->gid, &(perm), found)

static void check_permissions(
    const char *what, int id, key_t key, unsigned mode, unsigned uid, unsigned gid, const struct ipc_perm *p, int found)
{
    if (key != IPC_PRIVATE && found != id)
        differs("%s %d: its key leads to %d", what, id, found);
    if (p->__key != key)
        differs("%s %d: key %#x, not %#x", what, id, (unsigned)p->__key, (unsigned)key);
    if (p->mode != mode)
        differs("%s %d: mode %o, not %o", what, id, p->mode, mode);
    if (p->uid != uid || p->gid != gid)
        differs("%s %d: owner %u:%u, not %u:%u", what, id, p->uid, p->gid, uid, gid);
    if (p->cuid != 0 || p->cgid != 0)
        differs("%s %d: creator %u:%u, not 0:0", what, id, p->cuid, p->cgid);
}

static void check_queue(const struct queue *q)
{
    struct msqid_ds ds;
    must(msgctl(q->id, IPC_STAT, &ds), "msgctl");
    CHECK_PERMISSIONS("queue", q, ds.msg_perm, msgget(q->key, 0));
    if (ds.msg_qbytes != q->qbytes || ds.msg_qnum != q->n)
        differs("queue %d: %lu messages, at most %lu bytes", q->id, ds.msg_qnum, ds.msg_qbytes);
    for (unsigned n = 0; n < q->n; n++) {
        ssize_t size = must(msgrcv(q->id, &buffer, LONG, 0, IPC_NOWAIT), "msgrcv");
        if (buffer.type != q->messages[n].type || (size_t)size != q->messages[n].size)
            differs("queue %d: message %u has type %ld and %zd bytes", q->id, n, buffer.type, size);
        for (ssize_t i = 0; i < size; i++)
            if (buffer.body[i] != byte(n, (size_t)i)) {
                differs("queue %d: message %u differs at %zd", q->id, n, i);
                break;
            }
    }
    if (msgrcv(q->id, &buffer, LONG, 0, IPC_NOWAIT) != -1 || errno != ENOMSG)
        differs("queue %d: it is not empty then", q->id);
}

static void check_set(const struct set *s)
{
    struct semid_ds ds;
    unsigned short values[COUNT(s->values)];
    must(semctl(s->id, 0, IPC_STAT, (union semun){.buf = &ds}), "semctl");
    CHECK_PERMISSIONS("set", s, ds.sem_perm, semget(s->key, 0, 0));
    if (ds.sem_nsems != s->n) {
        differs("set %d: %lu semaphores", s->id, (unsigned long)ds.sem_nsems);
        return;
    }
    must(semctl(s->id, 0, GETALL, (union semun){.array = values}), "semctl");
    for (unsigned n = 0; n < s->n; n++)
        if (values[n] != s->values[n] || semctl(s->id, (int)n, GETVAL) != s->values[n])
            differs("set %d: semaphore %u is %u, not %u", s->id, n, values[n], s->values[n]);
    if (!s->used != !ds.sem_otime)
        differs("set %d: otime %ld", s->id, (long)ds.sem_otime);
}

static void check_segment(const struct segment *s, unsigned n)
{
    struct shmid_ds ds;
    must(shmctl(s->id, IPC_STAT, &ds), "shmctl");
    CHECK_PERMISSIONS("segment", s, ds.shm_perm, shmget(s->key, 0, 0));
    if (ds.shm_segsz != s->size)
        differs("segment %d: %zu bytes", s->id, ds.shm_segsz);
    char *address = attached(s->id, SHM_RDONLY);
    for (size_t i = 0; i < s->size; i++)
        if (address[i] != (i < s->written ? byte(n, i) : 0)) {
            differs("segment %d differs at %zu", s->id, i);
            break;
        }
    must(shmdt(address), "shmdt");
}

/* ---- the rest ---------------------------------------------------------------------------- */

static void attach(void)
{
    char *address = attached(segments[0].id, 0);
    puts("attached");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    for (size_t i = 0; i < segments[0].written; i++)
        if (address[i] != byte(0, i))
            differs("the attached segment differs at %zu", i);
    must(shmdt(address), "shmdt");
}

static void types(int id)
{
    while (msgrcv(id, &buffer, LONG, 0, IPC_NOWAIT) != -1)
        printf("%ld\n", buffer.type);
    must(errno == ENOMSG ? 0 : -1, "msgrcv");
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    alarm(120);
    if (!strcmp(mode, "make")) {
        for (unsigned n = 0; n < COUNT(queues); n++)
            make_queue(&queues[n]);
        for (unsigned n = 0; n < COUNT(sets); n++)
            make_set(&sets[n]);
        for (unsigned n = 0; n < COUNT(segments); n++)
            make_segment(&segments[n], n);
    } else if (!strcmp(mode, "check")) {
        for (unsigned n = 0; n < COUNT(queues); n++)
            check_queue(&queues[n]);
        for (unsigned n = 0; n < COUNT(sets); n++)
            check_set(&sets[n]);
        for (unsigned n = 0; n < COUNT(segments); n++)
            check_segment(&segments[n], n);
    } else if (!strcmp(mode, "attach")) {
        attach();
    } else if (!strcmp(mode, "types") && argc == 3) {
        types(atoi(argv[2]));
    } else {
        fprintf(stderr, "usage: compat32 make | check | attach | types MSQID\n");
        return 2;
    }
    return wrong;
}
