/* Segments shared by parent and child, attached twice, read-only, and not attached at all. */
#include "program.h"

enum { PAGE = 4096, SHARED = 5 * PAGE, DETACHED = 3 * PAGE, READ_ONLY = 2 * PAGE };
enum { TALK, SHARED_ID, DETACHED_ID, READ_ONLY_ID, NEVER_USED_ID, COUNT };
enum { REQUEST, ANSWER };

static pid_t child;
static unsigned char *shared, *again;
static const unsigned char *read_only;

static void make(void)
{
	note(semget(0x5a, 2, IPC_CREAT | IPC_EXCL | 0600));
	note(shmget(0x5a, SHARED, IPC_CREAT | IPC_EXCL | 0640));
	preset("shm", 0x1234 << 15 | 3);
	note(shmget(IPC_PRIVATE, DETACHED, 0600));
	note(shmget((key_t)0x8000005a, READ_ONLY, IPC_CREAT | IPC_EXCL | 0444));
	note(shmget(0x5b, 64 * PAGE, IPC_CREAT | IPC_EXCL | 0600));

	shared = attach(ids[SHARED_ID], 0);
	again = attach(ids[SHARED_ID], 0);
	fill(shared, 2 * PAGE, 1); /* then a hole of two pages */
	fill(shared + 4 * PAGE, PAGE, 2);

	unsigned char *detached = attach(ids[DETACHED_ID], 0);
	fill(detached + PAGE, PAGE, 3);
	EXPECT(!shmdt(detached));

	unsigned char *writable = attach(ids[READ_ONLY_ID], 0);
	fill(writable, READ_ONLY, 4);
	EXPECT(!shmdt(writable));
	read_only = attach(ids[READ_ONLY_ID], SHM_RDONLY);

	child = fork();
	EXPECT(child >= 0);
	if (!child) {
		operate(ids[TALK], REQUEST, -1);
		expect_filled(shared + 2 * PAGE, PAGE, 5); /* what the parent has written since it was restored */
		fill(shared + 3 * PAGE, PAGE, 6);
		operate(ids[TALK], ANSWER, 1);
		_exit(0);
	}
}

static void expect_segment(int id, key_t key, size_t size, int mode, unsigned attached)
{
	struct shmid_ds ds;
	if (key)
		EXPECT(shmget(key, 0, 0) == id);
	EXPECT(!shmctl(id, IPC_STAT, &ds));
	expect_permissions(&ds.shm_perm, key, mode, 0, 0);
	EXPECT(ds.shm_segsz == size);
	if (same_process)
		EXPECT(ds.shm_nattch == attached);
}

static void check(void)
{
	EXPECT(made == COUNT);
	expect_segment(ids[SHARED_ID], 0x5a, SHARED, 0640, 4);
	expect_segment(ids[DETACHED_ID], 0, DETACHED, 0600, 0);
	expect_segment(ids[READ_ONLY_ID], (key_t)0x8000005a, READ_ONLY, 0444, 2);
	expect_segment(ids[NEVER_USED_ID], 0x5b, 64 * PAGE, 0600, 0);
	if (!same_process) {
		shared = attach(ids[SHARED_ID], 0);
		again = attach(ids[SHARED_ID], 0);
		read_only = attach(ids[READ_ONLY_ID], SHM_RDONLY);
	}
	expect_filled(shared, 2 * PAGE, 1);
	expect_zeros(shared + 2 * PAGE, 2 * PAGE);
	expect_filled(shared + 4 * PAGE, PAGE, 2);
	expect_filled(read_only, READ_ONLY, 4);
	unsigned char *detached = attach(ids[DETACHED_ID], 0);
	expect_zeros(detached, PAGE);
	expect_filled(detached + PAGE, PAGE, 3);
	expect_zeros(detached + 2 * PAGE, PAGE);
	EXPECT(!shmdt(detached));
	unsigned char *never_used = attach(ids[NEVER_USED_ID], 0);
	expect_zeros(never_used, 64 * PAGE);
	EXPECT(!shmdt(never_used));

	shared[PAGE] ^= 1; /* both are the segment, not a copy of it */
	EXPECT(again[PAGE] == (byte(1, PAGE) ^ 1));
	if (same_process) {
		int status;
		fill(shared + 2 * PAGE, PAGE, 5);
		operate(ids[TALK], REQUEST, 1);
		operate(ids[TALK], ANSWER, -1);
		expect_filled(again + 3 * PAGE, PAGE, 6);
		EXPECT(waitpid(child, &status, 0) == child && status == 0);
		child = fork(); /* what was attached to be read is not to be written */
		EXPECT(child >= 0);
		if (!child)
			*(volatile unsigned char *)read_only = 0;
		EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}
}
