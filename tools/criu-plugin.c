/*
 * A plugin of criu: containers of a pod find the shared memory segments of their namespace, which `ipcimg pod restore`
 * has made already.
 *
 * criu attaches a segment to a restored process only if it has made it itself, from ipcns-shm-N.img. A detached image
 * directory has no such image, but the list ipcimg-segments: a line "ID SIZE" for each segment, in decimal, in order
 * of ids. These are registered as if criu had made them. Where there is no list the plugin does nothing.
 *
 * Debian has no package with criu's headers, so what is needed of them is declared here, as it is in CRIU 3.17 to 4.2:
 * criu/include/criu-plugin.h, criu/include/shmem.h, criu/include/log.h. criu exports its functions to plugins;
 * collect_sysv_shmem() is one of its own, and in no interface.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STAGE_RESTORE = 2 };                /* CR_PLUGIN_STAGE__RESTORE */
enum { PLUGIN_VERSION = 0 << 16 | 2 << 8 }; /* 0.2.0: with a descriptor */
enum { LOG_ERROR = 1 };

typedef struct {
	const char *name;
	int (*init)(int stage);
	void (*exit)(int stage, int ret);
	unsigned int version;
	unsigned int max_hooks;
	void *hooks[1];
} cr_plugin_desc_t;

extern int criu_get_image_dir(void);
extern int collect_sysv_shmem(unsigned long shmid, unsigned long size);
extern void print_on_level(unsigned int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define LIST "ipcimg-segments"
/* runc looks for the word Error in criu's log. */
#define FAIL(format, ...) (print_on_level(LOG_ERROR, "Error (ipcimg): " LIST ": " format "\n", ##__VA_ARGS__), -1)

/* A number without sign or space; end is behind it. */
static bool number(const char *text, unsigned long most, unsigned long *found, char **end)
{
	errno = 0;
	*found = strtoul(text, end, 10);
	return text[0] >= '0' && text[0] <= '9' && !errno && *found <= most;
}

static int register_segments(FILE *list)
{
	char line[64], *end;
	unsigned long id, size, least = 0;

	for (unsigned n = 1; fgets(line, sizeof(line), list); n++) {
		if (!number(line, INT_MAX, &id, &end) || *end != ' ' || !number(end + 1, LONG_MAX, &size, &end) || !size ||
		    strcmp(end, "\n"))
			return FAIL("line %u is not \"ID SIZE\"", n);
		if (id < least)
			return FAIL("line %u: segment %lu is not after the one before", n, id);
		least = id + 1;
		if (collect_sysv_shmem(id, size))
			return FAIL("segment %lu: criu has no memory for it", id);
	}
	return ferror(list) ? FAIL("%s", strerror(errno)) : 0;
}

static int init(int stage)
{
	if (stage != STAGE_RESTORE)
		return 0;
	int fd = openat(criu_get_image_dir(), LIST, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : FAIL("%s", strerror(errno));
	struct stat status;
	bool regular = !fstat(fd, &status) && S_ISREG(status.st_mode);
	FILE *list = regular ? fdopen(fd, "r") : NULL;
	if (!list) {
		close(fd);
		return FAIL("%s", regular ? "out of memory" : "is not a regular file");
	}
	int result = register_segments(list);
	fclose(list);
	return result;
}

static void leave(int stage, int ret)
{
	(void)stage;
	(void)ret;
}

cr_plugin_desc_t CR_PLUGIN_DESC = { .name = "ipcimg", .init = init, .exit = leave, .version = PLUGIN_VERSION };
