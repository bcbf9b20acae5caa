/* The settings of a namespace, all different from the defaults. */
#include "program.h"

static const struct {
	const char *path, *value;
} variables[] = {
	{ "/proc/sys/kernel/msgmax", "8195" },
	{ "/proc/sys/kernel/msgmnb", "16391" },
	{ "/proc/sys/kernel/msgmni", "317" },
	{ "/proc/sys/kernel/sem", "251\t31999\t33\t129" },
	{ "/proc/sys/kernel/shmmax", "123456789012" },
	{ "/proc/sys/kernel/shmall", "9876543210" },
	{ "/proc/sys/kernel/shmmni", "2049" },
	{ "/proc/sys/kernel/shm_rmid_forced", "1" },
	{ "/proc/sys/fs/mqueue/queues_max", "257" },
	{ "/proc/sys/fs/mqueue/msg_max", "11" },
	{ "/proc/sys/fs/mqueue/msgsize_max", "8193" },
	{ "/proc/sys/fs/mqueue/msg_default", "9" },
	{ "/proc/sys/fs/mqueue/msgsize_default", "4097" },
};
enum { COUNT = sizeof(variables) / sizeof(*variables) };

static void make(void)
{
	for (int n = 0; n < COUNT; n++) {
		int fd = open(variables[n].path, O_WRONLY);
		int length = strlen(variables[n].value);
		if (fd < 0 || write(fd, variables[n].value, length) != length || close(fd))
			FAIL("%s", variables[n].path);
	}
}

static void check(void)
{
	for (int n = 0; n < COUNT; n++) {
		char found[100] = "";
		int fd = open(variables[n].path, O_RDONLY);
		int length = read(fd, found, sizeof(found) - 1);
		if (fd < 0 || length < 1 || close(fd))
			FAIL("%s", variables[n].path);
		found[length - 1] = 0; /* the newline */
		if (strcmp(found, variables[n].value))
			FAIL("%s is %s", variables[n].path, found);
	}
}
