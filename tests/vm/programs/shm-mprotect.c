/* A segment attached in one piece, of which the process has since protected some pages: several mappings, one segment. */
#include "program.h"

enum { PAGE = 4096, PAGES = 6 };
static unsigned char *address;
static const int protections[PAGES] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ, PROT_READ };

static void make(void)
{
	address = attach(note(shmget(0x3b, PAGES * PAGE, IPC_CREAT | IPC_EXCL | 0600)), 0);
	for (int n = 0; n < PAGES; n++) {
		if (n != 4)
			fill(address + n * PAGE, PAGE, n);
		EXPECT(!mprotect(address + n * PAGE, PAGE, protections[n]));
	}
}

/* How a child that touches a page ends. */
static bool dies(unsigned char *page, bool by_writing)
{
	int status;
	pid_t child = fork();
	EXPECT(child >= 0);
	if (!child) {
		volatile unsigned char *here = page;
		unsigned char was = *here;
		if (by_writing)
			*here = was;
		_exit(0);
	}
	EXPECT(waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void check(void)
{
	EXPECT(made == 1);
	if (same_process) {
		for (int n = 0; n < PAGES; n++) {
			EXPECT(dies(address + n * PAGE, true) == !(protections[n] & PROT_WRITE));
			EXPECT(dies(address + n * PAGE, false) == !protections[n]);
		}
		EXPECT(!mprotect(address, PAGES * PAGE, PROT_READ | PROT_WRITE));
	} else {
		address = attach(ids[0], 0);
	}
	EXPECT(shmget(0x3b, 0, 0) == ids[0]);
	for (int n = 0; n < PAGES; n++) {
		if (n == 4)
			expect_zeros(address + n * PAGE, PAGE);
		else
			expect_filled(address + n * PAGE, PAGE, n);
	}
}
