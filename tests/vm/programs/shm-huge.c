/* A segment of 6 GiB, larger than the memory of the virtual machine, of which a few pages were used. */
#include "program.h"

enum { PAGE = 4096 };
static const size_t size = 6ul << 30;
static const size_t used[] = { 0, 4096, 1ul << 20, (1ul << 31) - 4096, 1ul << 31, (1ul << 32) - 4096, 1ul << 32, (6ul << 30) - 4096 };
enum { USED = sizeof(used) / sizeof(*used) };
static unsigned char *address;

static void make(void)
{
	note(shmget(0x46, size, IPC_CREAT | IPC_EXCL | SHM_NORESERVE | 0600));
	address = attach(ids[0], 0);
	for (int n = 0; n < USED; n++)
		fill(address + used[n], PAGE, n);
}

static void check(void)
{
	struct shmid_ds ds;
	EXPECT(made == 1 && shmget(0x46, 0, 0) == ids[0]);
	EXPECT(!shmctl(ids[0], IPC_STAT, &ds));
	EXPECT(ds.shm_segsz == size);
	if (!same_process)
		address = attach(ids[0], 0);
	for (int n = 0; n < USED; n++) {
		expect_filled(address + used[n], PAGE, n);
		if (n + 1 < USED && used[n + 1] > used[n] + PAGE) /* in between there are holes */
			expect_zeros(address + used[n] + PAGE, PAGE);
	}
}
