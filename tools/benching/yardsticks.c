/* Bare loops of the system calls that a dump or a restore cannot do without, and namespaces to run them in.

   yardsticks new MSGMAX CONTENT           Be a new namespace with that content: say "ready", and go at the end of input.
   yardsticks in PID YARDSTICK             Do one thing in the namespace of a process, print the nanoseconds it took and
                                           how many messages, sets or bytes it had to do with.
   yardsticks in PID count                 Print how many queues, messages, sets, segments and resident pages are there.

   CONTENT: nothing, queues N EACH SIZE, sets N, segment SIZE RUN STEP random|zeros
   YARDSTICK: the names in main(). A ROOM of 0 is one that fits. Where segments are not dense, RUN bytes of every STEP
   are written.

   Any call that fails ends the program: what did not happen must not count as fast. */

#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

/* linux/msg.h, linux/sem.h, linux/shm.h */
#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif
#ifndef SEM_STAT_ANY
#define SEM_STAT_ANY 20
#endif
#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif
/* asm-generic/mman-common.h, since Linux 5.14 */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum { NEW = IPC_CREAT | IPC_EXCL | 0600, PIECE = 1 << 20 };

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

struct pattern {
    size_t size, run, step;
};

static struct {
    long mtype;
    char mtext[1 << 16];
} message = {.mtype = 1};

static struct timespec began, ended;

static long must(long result, const char *call)
{
    if (result < 0)
        err(1, "%s", call);
    return result;
}

static void start(void)
{
    clock_gettime(CLOCK_MONOTONIC, &began);
}

static void stop(void)
{
    clock_gettime(CLOCK_MONOTONIC, &ended);
}

static long number(const char *text)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < 0)
        errx(2, "%s is not a number", text);
    return value;
}

static void sysctl(const char *name, const char *value)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/sys/kernel/%s", name);
    int fd = must(open(path, O_WRONLY), path);
    must(write(fd, value, strlen(value)), path);
    close(fd);
}

/* ---- the objects there are, by their indices: each function gives -1 where an index is free ---- */

static int there(int id)
{
    if (id < 0 && errno != EINVAL)
        err(1, "looking at an object");
    return id;
}

static int queue_at(int index, struct msqid_ds *ds)
{
    return there(msgctl(index, MSG_STAT_ANY, ds));
}

static int set_at(int index, struct semid_ds *ds)
{
    return there(semctl(index, 0, SEM_STAT_ANY, (union semun){.buf = ds}));
}

static int segment_at(int index, struct shmid_ds *ds)
{
    return there(shmctl(index, SHM_STAT_ANY, ds));
}

static int last_queue(void)
{
    struct msginfo info;
    return must(msgctl(0, MSG_INFO, (struct msqid_ds *)&info), "MSG_INFO");
}

static int last_set(void)
{
    struct seminfo info;
    return must(semctl(0, 0, SEM_INFO, (union semun){.info = &info}), "SEM_INFO");
}

static int last_segment(struct shm_info *info)
{
    return must(shmctl(0, SHM_INFO, (struct shmid_ds *)info), "SHM_INFO");
}

static void count(void)
{
    long queues = 0, messages = 0, sets = 0, segments = 0;
    struct msqid_ds queue;
    struct semid_ds set;
    struct shmid_ds segment;
    struct shm_info info;
    for (int n = 0, last = last_queue(); n <= last; n++)
        if (queue_at(n, &queue) >= 0)
            queues++, messages += queue.msg_qnum;
    for (int n = 0, last = last_set(); n <= last; n++)
        sets += set_at(n, &set) >= 0;
    for (int n = 0, last = last_segment(&info); n <= last; n++)
        segments += segment_at(n, &segment) >= 0;
    printf("%ld %ld %ld %ld %lu\n", queues, messages, sets, segments, info.shm_rss);
}

/* A namespace that goes by itself is taken apart by the kernel at a time of its choice, and may disturb what is measured
   next. */
static void remove_all(void)
{
    struct msqid_ds queue;
    struct semid_ds set;
    struct shmid_ds segment;
    struct shm_info info;
    for (int id, n = 0, last = last_queue(); n <= last; n++)
        if ((id = queue_at(n, &queue)) >= 0)
            must(msgctl(id, IPC_RMID, NULL), "removing a queue");
    for (int id, n = 0, last = last_set(); n <= last; n++)
        if ((id = set_at(n, &set)) >= 0)
            must(semctl(id, 0, IPC_RMID), "removing a set");
    for (int id, n = 0, last = last_segment(&info); n <= last; n++)
        if ((id = segment_at(n, &segment)) >= 0)
            must(shmctl(id, IPC_RMID, NULL), "removing a segment");
}

/* ---- queues -------------------------------------------------------------------------------- */

static void send_to(int msqid, long each, size_t size)
{
    for (long n = 0; n < each; n++)
        must(msgsnd(msqid, &message, size, IPC_NOWAIT), "msgsnd");
}

/* An id, so that the next object gets it. */
static void preset(int fd, int id)
{
    char text[16];
    int length = snprintf(text, sizeof text, "%d", id);
    must(pwrite(fd, text, length, 0), "presetting an id");
}

static int preset_of(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/sys/kernel/%s_next_id", name);
    return must(open(path, O_WRONLY), path);
}

static long make_queues(int queues, long each, size_t size)
{
    int fd = preset_of("msg");
    start();
    for (int id = 0; id < queues; id++) {
        preset(fd, id);
        if (must(msgget(id + 1, NEW), "msgget") != id)
            errx(1, "a queue should have got the id %d", id);
        send_to(id, each, size);
        struct msqid_ds ds = {.msg_perm = {.mode = 0600}, .msg_qbytes = INT_MAX};
        must(msgctl(id, IPC_SET, &ds), "IPC_SET");
    }
    stop();
    return queues * each;
}

static long send_all(int queues, long each, size_t size)
{
    int *ids = calloc(queues, sizeof *ids);
    for (int n = 0; n < queues; n++)
        ids[n] = must(msgget(n + 1, NEW), "msgget");
    start();
    for (int n = 0; n < queues; n++)
        send_to(ids[n], each, size);
    stop();
    free(ids);
    return queues * each;
}

static long peek(size_t room)
{
    long messages = 0;
    struct msqid_ds ds;
    start();
    for (int id, index = 0, last = last_queue(); index <= last; index++) {
        if ((id = queue_at(index, &ds)) < 0)
            continue;
        size_t fits = ds.msg_qnum ? (ds.__msg_cbytes + ds.msg_qnum - 1) / ds.msg_qnum : 0;
        for (unsigned long n = 0; n < ds.msg_qnum; n++)
            must(msgrcv(id, &message, room ? room : fits, n, IPC_NOWAIT | MSG_COPY), "msgrcv");
        messages += ds.msg_qnum;
    }
    stop();
    return messages;
}

static long turn(void)
{
    long messages = 0;
    struct msqid_ds ds;
    start();
    for (int id, index = 0, last = last_queue(); index <= last; index++) {
        if ((id = queue_at(index, &ds)) < 0)
            continue;
        for (unsigned long n = 0; n < ds.msg_qnum; n++) {
            ssize_t size = must(msgrcv(id, &message, sizeof message.mtext, 0, IPC_NOWAIT), "msgrcv");
            must(msgsnd(id, &message, size, IPC_NOWAIT), "msgsnd");
        }
        messages += ds.msg_qnum;
    }
    stop();
    return messages;
}

/* ---- semaphore sets ------------------------------------------------------------------------ */

static long make_sets(int sets)
{
    int fd = preset_of("sem");
    unsigned short value = 1;
    start();
    for (int id = 0; id < sets; id++) {
        preset(fd, id);
        if (must(semget(id + 1, 1, NEW), "semget") != id)
            errx(1, "a set should have got the id %d", id);
        must(semctl(id, 0, SETALL, (union semun){.array = &value}), "SETALL");
        struct semid_ds ds = {.sem_perm = {.mode = 0600}};
        must(semctl(id, 0, IPC_SET, (union semun){.buf = &ds}), "IPC_SET");
    }
    stop();
    return sets;
}

static long get_all(void)
{
    long sets = 0;
    unsigned short values[1];
    struct semid_ds ds;
    start();
    for (int id, index = 0, last = last_set(); index <= last; index++) {
        if ((id = set_at(index, &ds)) < 0)
            continue;
        if (ds.sem_nsems != 1)
            errx(1, "a set of %lu semaphores", ds.sem_nsems);
        must(semctl(id, 0, GETALL, (union semun){.array = values}), "GETALL");
        sets++;
    }
    stop();
    return sets;
}

/* ---- a segment ----------------------------------------------------------------------------- */

static struct pattern pattern(char **arguments)
{
    return (struct pattern){number(arguments[0]), number(arguments[1]), number(arguments[2])};
}

static char *attach(int shmid, int flags)
{
    char *address = shmat(shmid, NULL, flags);
    if (address == (void *)-1)
        err(1, "shmat");
    return address;
}

static void make_segment(struct pattern p, int zeros)
{
    char *address = attach(must(shmget(1, p.size, NEW), "shmget"), 0);
    unsigned long state = 88172645463325252;
    for (size_t at = 0; at < p.size; at += p.step) {
        unsigned long *word = (unsigned long *)(address + at);
        for (size_t n = 0; n < p.run / sizeof *word; n++) {
            /* Marsaglia's xorshift: nothing in it can be made smaller. */
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            word[n] = zeros ? 0 : state;
        }
    }
    must(shmdt(address), "shmdt");
}

/* Change a word of each run. */
static long touch(struct pattern p)
{
    struct shmid_ds ds;
    long bytes = 0;
    int shmid = segment_at(0, &ds);
    if (shmid < 0)
        errx(1, "there is no segment");
    start();
    char *address = attach(shmid, 0);
    for (size_t at = 0; at < p.size; at += p.step, bytes += p.run)
        ++*(unsigned long *)(address + at);
    must(shmdt(address), "shmdt");
    stop();
    return bytes;
}

typedef ssize_t transfer(int fd, char *address, size_t size);

static ssize_t to_file(int fd, char *address, size_t size)
{
    return write(fd, address, size);
}

static ssize_t from_file(int fd, char *address, size_t size)
{
    return read(fd, address, size);
}

static long copy(int fd, char *address, struct pattern p, transfer *move)
{
    long bytes = 0;
    for (size_t at = 0; at < p.size; at += p.step)
        for (size_t done = 0; done < p.run;) {
            size_t piece = p.run - done < PIECE ? p.run - done : PIECE;
            ssize_t moved = must(move(fd, address + at + done, piece), "copying");
            if (moved == 0)
                errx(1, "the file is too short");
            done += moved, bytes += moved;
        }
    return bytes;
}

/* Have pages mapped run by run: each when it is touched takes much longer. A segment that is read into gains nothing by
   that. */
static void map(char *address, struct pattern p)
{
    for (size_t at = 0; at < p.size; at += p.step)
        must(madvise(address + at, p.run, MADV_POPULATE_READ), "madvise");
}

static long copy_out(const char *directory, int mapped, struct pattern p)
{
    struct shmid_ds ds;
    int shmid = segment_at(0, &ds);
    if (shmid < 0)
        errx(1, "there is no segment");
    start();
    int fd = must(open(directory, O_TMPFILE | O_WRONLY, 0600), directory);
    char *address = attach(shmid, SHM_RDONLY);
    if (mapped)
        map(address, p);
    long bytes = copy(fd, address, p, to_file);
    must(shmdt(address), "shmdt");
    stop(); /* before the file is closed, and goes: no dump does that */
    close(fd);
    return bytes;
}

static long copy_in(const char *file, struct pattern p)
{
    start();
    int fd = must(open(file, O_RDONLY), file);
    char *address = attach(must(shmget(1, p.size, NEW), "shmget"), 0);
    long bytes = copy(fd, address, p, from_file);
    must(shmdt(address), "shmdt");
    close(fd);
    stop();
    return bytes;
}

/* ---- the program --------------------------------------------------------------------------- */

static int is(int argc, char **argv, const char *name, int arguments)
{
    return argc == arguments + 1 && strcmp(argv[0], name) == 0;
}

static int be_new(const char *msgmax, int argc, char **argv)
{
    must(unshare(CLONE_NEWIPC), "unshare");
    sysctl("msgmax", msgmax);
    sysctl("msgmnb", "2147483647");
    if (is(argc, argv, "queues", 3))
        send_all(number(argv[1]), number(argv[2]), number(argv[3]));
    else if (is(argc, argv, "sets", 1))
        make_sets(number(argv[1]));
    else if (is(argc, argv, "segment", 4))
        make_segment(pattern(argv + 1), strcmp(argv[4], "zeros") == 0);
    else if (!is(argc, argv, "nothing", 0))
        errx(2, "no such content");
    puts("ready");
    fflush(stdout);
    while (must(read(0, message.mtext, sizeof message.mtext), "waiting") > 0)
        ;
    remove_all();
    return 0;
}

static int be_in(const char *pid, int argc, char **argv)
{
    char path[64];
    long amount;
    snprintf(path, sizeof path, "/proc/%ld/ns/ipc", number(pid));
    must(setns(must(open(path, O_RDONLY), path), CLONE_NEWIPC), "setns");
    if (is(argc, argv, "count", 0)) {
        count();
        return 0;
    }
    if (is(argc, argv, "peek", 1))
        amount = peek(number(argv[1]));
    else if (is(argc, argv, "turn", 0))
        amount = turn();
    else if (is(argc, argv, "send", 3))
        amount = send_all(number(argv[1]), number(argv[2]), number(argv[3]));
    else if (is(argc, argv, "make-queues", 3))
        amount = make_queues(number(argv[1]), number(argv[2]), number(argv[3]));
    else if (is(argc, argv, "make-sets", 1))
        amount = make_sets(number(argv[1]));
    else if (is(argc, argv, "get-all", 0))
        amount = get_all();
    else if (is(argc, argv, "copy-out", 4))
        amount = copy_out(argv[1], 1, pattern(argv + 2));
    else if (is(argc, argv, "copy-out-by-faults", 4))
        amount = copy_out(argv[1], 0, pattern(argv + 2));
    else if (is(argc, argv, "touch", 3))
        amount = touch(pattern(argv + 1));
    else if (is(argc, argv, "copy-in", 4))
        amount = copy_in(argv[1], pattern(argv + 2));
    else
        errx(2, "no such yardstick");
    printf("%lld %ld\n", (ended.tv_sec - began.tv_sec) * 1000000000LL + ended.tv_nsec - began.tv_nsec, amount);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "new") == 0)
        return be_new(argv[2], argc - 3, argv + 3);
    if (argc > 3 && strcmp(argv[1], "in") == 0)
        return be_in(argv[2], argc - 3, argv + 3);
    errx(2, "see the comment at the top of the program");
}
