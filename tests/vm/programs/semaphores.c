/* Semaphore sets of several lengths, and a child that is dumped while it waits for one. */
#include "program.h"

enum { COUNT = 4, LONGEST = 250 };

static const struct {
	key_t key;
	int mode, length;
	unsigned uid, gid;
} sets[COUNT] = {
	{ 0x5e, 0640, 1, 0, 0 },
	{ IPC_PRIVATE, 0600, 3, 1000, 1001 },
	{ (key_t)0x8000005e, 0606, 5, 0, 0 },
	{ 0x7fffffff, 0600, LONGEST, 0, 0 },
};
enum { REQUEST = 0, ANSWER = 1 }; /* of the private set; both are 0 while the child waits */
static pid_t child;

static unsigned short value_of(int set, int n)
{
	return set == 1 && n <= ANSWER ? 0 : n == 2 ? 32767 : set * 1000 + n;
}

static void make(void)
{
	for (int s = 0; s < COUNT; s++) {
		unsigned short values[LONGEST];
		struct semid_ds ds;
		if (s == 2)
			preset("sem", 0x7fff8000);
		int id = note(semget(sets[s].key, sets[s].length, IPC_CREAT | IPC_EXCL | sets[s].mode));
		for (int n = 0; n < sets[s].length; n++)
			values[n] = value_of(s, n);
		EXPECT(!semctl(id, 0, SETALL, (union semun){ .array = values }));
		EXPECT(!semctl(id, 0, IPC_STAT, (union semun){ .buf = &ds }));
		ds.sem_perm.uid = sets[s].uid;
		ds.sem_perm.gid = sets[s].gid;
		EXPECT(!semctl(id, 0, IPC_SET, (union semun){ .buf = &ds }));
	}
	child = fork();
	EXPECT(child >= 0);
	if (!child) {
		operate(ids[1], REQUEST, -1);
		operate(ids[1], ANSWER, 1);
		_exit(0);
	}
	while (semctl(ids[1], REQUEST, GETNCNT) != 1) /* until it waits */
		usleep(1000);
}

static void check(void)
{
	EXPECT(made == COUNT);
	for (int s = 0; s < COUNT; s++) {
		unsigned short values[LONGEST];
		struct semid_ds ds;
		if (sets[s].key)
			EXPECT(semget(sets[s].key, sets[s].length, 0) == ids[s]);
		EXPECT(!semctl(ids[s], 0, IPC_STAT, (union semun){ .buf = &ds }));
		expect_permissions(&ds.sem_perm, sets[s].key, sets[s].mode, sets[s].uid, sets[s].gid);
		EXPECT(ds.sem_nsems == (unsigned)sets[s].length);
		EXPECT(!semctl(ids[s], 0, GETALL, (union semun){ .array = values }));
		for (int n = 0; n < sets[s].length; n++)
			if (values[n] != value_of(s, n))
				FAIL("semaphore %d of set %d is %d", n, ids[s], values[n]);
	}
	if (same_process) {
		int status;
		operate(ids[1], REQUEST, 1);
		operate(ids[1], ANSWER, -1);
		EXPECT(waitpid(child, &status, 0) == child && status == 0);
	}
}
