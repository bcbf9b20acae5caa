/*
 * The two containers of a pod that talk to each other, for good: through a segment that both have attached, another one
 * that was removed since, a queue, and a set of semaphores. Each looks at every round whether what the other one has
 * left is what belongs there.
 *
 *   talk first [plain]     makes the objects; plain: without segments
 *   talk second [plain]
 *   talk                   sleeps: for who keeps the namespace
 *
 * The set tells how it is: whose turn it is, [0] for the first and [1] for the second; [2] the number of rounds, modulo
 * 32768; [3] the line in this file at which something was wrong, or 0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

#define EXPECT(condition) ((condition) ? (void)0 : fail(__LINE__))

enum { KEY = 0x90d, SIZE = 64 * 4096 + 100, HALF = 32 * 4096, ROUNDS = 2, WRONG = 3 };

struct message {
	long type;
	unsigned round;
	unsigned char body[500];
};

union semun {
	int val;
};

static int set, queue;

static void fail(int line)
{
	semctl(set, WRONG, SETVAL, (union semun){ .val = line });
	exit(1);
}

static void operate(int number, int change)
{
	struct sembuf operation = { .sem_num = number, .sem_op = change };
	while (semop(set, &operation, 1)) /* a restored process sees EINTR where it was dumped inside the call */
		EXPECT(errno == EINTR);
}

static unsigned char byte(unsigned who, unsigned round, size_t at)
{
	return (at * 167 + (at >> 12) * 31 + round * 59 + who * 101) >> 1;
}

static void fill(unsigned char *data, size_t size, unsigned who, unsigned round)
{
	for (size_t n = 0; n < size; n++)
		data[n] = byte(who, round, n);
}

static void expect_filled(const unsigned char *data, size_t size, unsigned who, unsigned round)
{
	for (size_t n = 0; n < size; n++)
		EXPECT(data[n] == byte(who, round, n));
}

static void say(unsigned who, unsigned round, unsigned char *const segments[2])
{
	struct message message = { .type = who + 1, .round = round };
	fill(message.body, sizeof(message.body), who, round);
	EXPECT(!msgsnd(queue, &message, sizeof(message) - sizeof(long), IPC_NOWAIT));
	for (int n = 0; n < 2; n++)
		if (segments[n])
			fill(segments[n] + who * HALF, HALF, who, round);
}

static void hear(unsigned who, unsigned round, unsigned char *const segments[2])
{
	struct message message;
	EXPECT(msgrcv(queue, &message, sizeof(message) - sizeof(long), who + 1, IPC_NOWAIT) ==
	       sizeof(message) - sizeof(long));
	EXPECT(message.round == round);
	expect_filled(message.body, sizeof(message.body), who, round);
	for (int n = 0; n < 2; n++)
		if (segments[n])
			expect_filled(segments[n] + who * HALF, HALF, who, round);
}

static unsigned long attached(int id)
{
	struct shmid_ds ds;
	EXPECT(!shmctl(id, IPC_STAT, &ds));
	return ds.shm_nattch;
}

static unsigned char *attach(int id)
{
	unsigned char *address = shmat(id, NULL, 0);
	EXPECT(address != (void *)-1);
	return address;
}

int main(int argc, char **argv)
{
	unsigned char *segments[2] = { NULL, NULL };
	while (argc < 2)
		pause();
	bool first = !strcmp(argv[1], "first"), plain = argc > 2;
	int id;

	for (int fd = 0; fd < 3; fd++) /* they are the runtime's */
		close(fd);
	if (first) {
		queue = msgget(KEY, IPC_CREAT | IPC_EXCL | 0600);
		int ids[2] = { plain ? -1 : shmget(KEY, SIZE, IPC_CREAT | IPC_EXCL | 0600),
			       plain ? -1 : shmget(IPC_PRIVATE, SIZE, 0600) };
		for (int n = 0; n < 2 && !plain; n++)
			segments[n] = attach(ids[n]);
		if (!plain)
			memcpy(segments[0], &ids[1], sizeof(ids[1]));
		set = semget(KEY, 4, IPC_CREAT | IPC_EXCL | 0600);
		while (!plain && (attached(ids[0]) < 2 || attached(ids[1]) < 2))
			usleep(1000);
		EXPECT(plain || !shmctl(ids[1], IPC_RMID, NULL));
		operate(0, 1);
	} else {
		while ((set = semget(KEY, 4, 0)) < 0)
			usleep(1000);
		queue = msgget(KEY, 0);
		if (!plain) {
			segments[0] = attach(shmget(KEY, SIZE, 0));
			memcpy(&id, segments[0], sizeof(id));
			segments[1] = attach(id);
		}
	}
	for (unsigned round = 0;; round++) {
		operate(!first, -1);
		if (first && round)
			hear(1, round - 1, segments);
		if (!first)
			hear(0, round, segments);
		say(!first, round, segments);
		if (first)
			EXPECT(!semctl(set, ROUNDS, SETVAL, (union semun){ .val = round & 32767 }));
		operate(first, 1);
		usleep(2000);
	}
}
