/* Segments of huge pages: one attached, one not, one never used, each with a huge page to spare. */
#include "program.h"

enum { HUGE = 2 << 20, COUNT = 3 };
static unsigned char *address;

static void make(void)
{
	for (int n = 0; n < COUNT; n++)
		note(shmget(0x700 + n, 2 * HUGE, IPC_CREAT | IPC_EXCL | SHM_HUGETLB | 0600));
	address = attach(ids[0], 0);
	fill(address + 4096, HUGE - 4096, 1);
	unsigned char *other = attach(ids[1], 0);
	fill(other + HUGE, HUGE, 2);
	EXPECT(!shmdt(other));
}

static void check(void)
{
	EXPECT(made == COUNT);
	for (int n = 0; n < COUNT; n++) {
		struct shmid_ds ds;
		EXPECT(shmget(0x700 + n, 0, 0) == ids[n]);
		EXPECT(!shmctl(ids[n], IPC_STAT, &ds));
		EXPECT(ds.shm_segsz == 2 * HUGE);
	}
	if (!same_process)
		address = attach(ids[0], 0);
	expect_zeros(address, 4096);
	expect_filled(address + 4096, HUGE - 4096, 1);
	expect_zeros(address + HUGE, HUGE);
	unsigned char *other = attach(ids[1], 0);
	expect_zeros(other, HUGE);
	expect_filled(other + HUGE, HUGE, 2);
	/* Its pages are huge: a part of one is not unmapped. */
	EXPECT(munmap(other, 4096) < 0 && errno == EINVAL);
}
