/*
 * A program to be dumped and restored, in the manner of CRIU's ZDTM tests. It makes its objects, prints their ids,
 * waits for SIGTERM, looks whether everything is as it was, and prints PASS or what is wrong.
 *
 *   program                the whole, in one process that is dumped and restored meanwhile
 *   program check ID...    only the look, by a process that has not made them: what it sees is in the namespace alone
 *
 * Whatever a program holds is a function of its source, so the look needs nothing but the ids.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAIL(...) (printf("FAIL: %s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), printf(" (errno: %m)\n"), exit(1))
#define EXPECT(condition) ((condition) ? (void)0 : FAIL("not so: %s", #condition))

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

static int ids[16];
static int made;
static bool same_process; /* as the one that made them: it has them attached, and its child is alive */

static int note(int id)
{
	EXPECT(id >= 0);
	return ids[made++] = id;
}

/* Have the next object of a kind, msg, sem or shm, get an id that the kernel would not give yet. */
static void preset(const char *kind, int id)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/sys/kernel/%s_next_id", kind);
	FILE *file = fopen(path, "w");
	EXPECT(file && fprintf(file, "%d", id) > 0 && !fclose(file));
}

/* A byte that depends on where it is. */
static unsigned char byte(unsigned seed, size_t offset)
{
	return (offset * 167 + (offset >> 8) * 13 + (offset >> 12) * 31 + seed * 59) >> 1;
}

static void fill(void *data, size_t size, unsigned seed)
{
	for (size_t n = 0; n < size; n++)
		((unsigned char *)data)[n] = byte(seed, n);
}

static void expect_filled(const void *data, size_t size, unsigned seed)
{
	for (size_t n = 0; n < size; n++)
		if (((const unsigned char *)data)[n] != byte(seed, n))
			FAIL("byte %zu of what was filled with seed %u is %u", n, seed, ((const unsigned char *)data)[n]);
}

static void expect_zeros(const void *data, size_t size)
{
	for (size_t n = 0; n < size; n++)
		if (((const unsigned char *)data)[n])
			FAIL("byte %zu of a hole is %u", n, ((const unsigned char *)data)[n]);
}

static void expect_permissions(const struct ipc_perm *perm, key_t key, unsigned mode, unsigned uid, unsigned gid)
{
	if (perm->__key != key || perm->mode != mode || perm->uid != uid || perm->gid != gid)
		FAIL("key %#x, mode %o, uid %u, gid %u", perm->__key, perm->mode, perm->uid, perm->gid);
}

static void *attach(int id, int flags)
{
	void *address = shmat(id, NULL, flags);
	EXPECT(address != (void *)-1);
	return address;
}

static void operate(int id, int number, int change)
{
	struct sembuf operation = { .sem_num = number, .sem_op = change };
	while (semop(id, &operation, 1))
		if (errno != EINTR) /* a restored process sees one where it was dumped inside the call */
			FAIL("semop on %d[%d] by %d", id, number, change);
}

static void make(void);  /* note()s each object */
static void check(void); /* looks at ids[] */

static void told(int signum)
{
	(void)signum;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	same_process = argc == 1;
	if (!same_process) {
		for (made = 0; made < argc - 2; made++)
			ids[made] = atoi(argv[made + 2]);
	} else {
		sigset_t terms, before;
		sigemptyset(&terms);
		sigaddset(&terms, SIGTERM);
		sigprocmask(SIG_BLOCK, &terms, &before);
		signal(SIGTERM, told);
		make();
		printf("made");
		for (int n = 0; n < made; n++)
			printf(" %d", ids[n]);
		printf("\n");
		sigsuspend(&before);
		errno = 0;
	}
	check();
	printf("PASS\n");
	return 0;
}
