/* Segments whose sizes are no multiple of a page, full and sparse, attached and not. */
#include "program.h"

enum { PAGE = 4096, COUNT = 5 };
static const size_t sizes[COUNT] = { 1, PAGE - 1, PAGE + 1, 3 * PAGE + 17, 100 * PAGE + 4095 };
static unsigned char *addresses[COUNT];

static size_t last_page(int n)
{
	return (sizes[n] - 1) / PAGE * PAGE;
}

static void make(void)
{
	for (int n = 0; n < COUNT; n++) {
		note(shmget(0x500 + n, sizes[n], IPC_CREAT | IPC_EXCL | 0600));
		addresses[n] = attach(ids[n], 0);
		fill(addresses[n] + last_page(n), sizes[n] - last_page(n), n);
		if (n % 2)
			EXPECT(!shmdt(addresses[n]));
	}
}

static void check(void)
{
	EXPECT(made == COUNT);
	for (int n = 0; n < COUNT; n++) {
		struct shmid_ds ds;
		EXPECT(shmget(0x500 + n, 0, 0) == ids[n]);
		EXPECT(!shmctl(ids[n], IPC_STAT, &ds));
		EXPECT(ds.shm_segsz == sizes[n]);
		if (n % 2 || !same_process)
			addresses[n] = attach(ids[n], 0);
		expect_zeros(addresses[n], last_page(n));
		expect_filled(addresses[n] + last_page(n), sizes[n] - last_page(n), n);
		expect_zeros(addresses[n] + sizes[n], -sizes[n] % PAGE);
		EXPECT(!shmdt(addresses[n]));
		EXPECT(!shmctl(ids[n], IPC_RMID, NULL));
	}
}
