/* Message queues: ids with sequence numbers, keys of both signs and none, other owners, messages of many sizes. */
#include "program.h"

enum { COUNT = 4, LARGEST = 8192 }; /* CRIU restores no longer message */

struct message {
	long type;
	char body[LARGEST];
};

static const struct {
	key_t key;
	int mode;
	unsigned uid, gid;
	int preset; /* its id, or 0 for any */
	int count;
	int sizes[12];
} queues[COUNT] = {
	{ 0x51, 0640, 0, 0, 0, 3, { 17, 29, 0 } },
	{ IPC_PRIVATE, 0600, 0, 0, 0, 0, { 0 } },
	{ (key_t)0x80000051, 0622, 1000, 1001, 0x7fffffff, 7, { 8, 1, 7, 4048, 4049, 63, 0 } },
	{ 0x7fffffff, 0, 65534, 3, 3 << 15 | 7, 2, { LARGEST, 8184 } },
};

static long type_of(int queue, int n)
{
	return n == 1 ? __LONG_MAX__ - queue : queue * 100 + n + 1;
}

static void make(void)
{
	static struct message message;
	for (int q = 0; q < COUNT; q++) {
		struct msqid_ds ds;
		if (queues[q].preset)
			preset("msg", queues[q].preset);
		int id = note(msgget(queues[q].key, IPC_CREAT | IPC_EXCL | queues[q].mode));
		for (int n = 0; n < queues[q].count; n++) {
			message.type = type_of(q, n);
			fill(message.body, queues[q].sizes[n], q * 16 + n);
			EXPECT(!msgsnd(id, &message, queues[q].sizes[n], IPC_NOWAIT));
		}
		EXPECT(!msgctl(id, IPC_STAT, &ds));
		ds.msg_perm.uid = queues[q].uid;
		ds.msg_perm.gid = queues[q].gid;
		EXPECT(!msgctl(id, IPC_SET, &ds));
		EXPECT(!queues[q].preset || id == queues[q].preset);
	}
}

static void check(void)
{
	static struct message message;
	EXPECT(made == COUNT);
	for (int q = 0; q < COUNT; q++) {
		int id = ids[q];
		struct msqid_ds ds;
		if (queues[q].key)
			EXPECT(msgget(queues[q].key, 0) == id);
		EXPECT(!msgctl(id, IPC_STAT, &ds));
		expect_permissions(&ds.msg_perm, queues[q].key, queues[q].mode, queues[q].uid, queues[q].gid);
		EXPECT(ds.msg_qnum == (unsigned)queues[q].count);
		EXPECT(ds.msg_qbytes == 16384);
		for (int n = 0; n < queues[q].count; n++) {
			EXPECT(msgrcv(id, &message, LARGEST, 0, IPC_NOWAIT) == queues[q].sizes[n]);
			EXPECT(message.type == type_of(q, n));
			expect_filled(message.body, queues[q].sizes[n], q * 16 + n);
		}
		EXPECT(msgrcv(id, &message, LARGEST, 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
		message.type = 5; /* and it is still a queue */
		EXPECT(!msgsnd(id, &message, 12, 0));
		EXPECT(msgrcv(id, &message, LARGEST, 5, 0) == 12);
	}
}
