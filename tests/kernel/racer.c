/* A user of a namespace that never rests: it counts, and writes each number to one place after the other.
 *
 *   racer [BURST REST]     milliseconds: it counts for up to BURST, then rests for up to REST; without them it never rests
 *   racer outside          counts in a segment of a namespace that it has left since it attached it
 *   racer vfork            spends its time in vfork(2)
 *   racer exec             calls execve(2) all the time, in a thread beside others
 *   racer visits           attaches segment 1, counts in its first and last page, and detaches it
 *
 * The places, in this order: the first and the last page of segment 1, segment 2, which is attached anew each time, the
 * one message of a queue, and a semaphore, modulo 32768. So at any moment the numbers do not rise along the places, and
 * the last is at most one less than the first; only the queue may be empty, while its message is exchanged.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 16, WORDS = 4096 / sizeof(long) };

struct { long type; long number; } message = {1, 0};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long milliseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void *pauses(void *unused)
{
	for (;;)
		pause();
}

static void *again(void *argv)
{
	usleep(rand() % 3000);
	setenv("ON", "", 1);
	execv("/proc/self/exe", argv);
	die("execv");
	return NULL;
}

int main(int argc, char **argv)
{
	int mode = argc == 2 ? argv[1][0] : 0;
	int first = shmget(1, PAGES * 4096, IPC_CREAT | 0600), second = shmget(2, 4096, IPC_CREAT | 0600);
	int queue = msgget(3, IPC_CREAT | 0600), set = semget(4, 1, IPC_CREAT | 0600);
	volatile long *one = shmat(first, NULL, 0);
	int burst = argc > 2 ? atoi(argv[1]) : 0, rest = argc > 2 ? atoi(argv[2]) : 0;
	if (first < 0 || second < 0 || queue < 0 || set < 0 || one == (void *)-1)
		die("making objects");
	srand(getpid());
	if (argc == 2 && !strcmp(argv[1], "outside") && unshare(CLONE_NEWIPC))
		die("unshare");
	if (!getenv("ON")) {
		puts("on");
		fflush(stdout);
	}
	if (mode == 'e') {
		pthread_t thread;
		for (int n = 0; n < 3; n++)
			pthread_create(&thread, NULL, pauses, NULL);
		pthread_create(&thread, NULL, again, argv);
		pauses(NULL);
	}
	if (mode == 'v' && argv[1][1] == 'i')
		shmdt((void *)one);
	for (long n = 1; mode == 'v' && argv[1][1] == 'i'; n++) {
		one = shmat(first, NULL, 0);
		one[0] = n;
		one[(PAGES - 1) * WORDS] = n;
		shmdt((void *)one);
		usleep(2000);
	}
	for (long n = 1; argc == 2 && !strcmp(argv[1], "outside"); n++)
		one[0] = n;
	while (argc == 2 && !strcmp(argv[1], "vfork")) {
		if (!vfork()) {
			usleep(1000);
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		wait(NULL);
	}
	if (msgsnd(queue, &message, sizeof message.number, 0))
		die("msgsnd");
	long until = milliseconds() + (burst ? rand() % burst : 0);
	for (long n = 1;; n++) {
		one[0] = n;
		__sync_synchronize();
		one[(PAGES - 1) * WORDS] = n;
		__sync_synchronize();
		volatile long *two = shmat(second, NULL, 0);
		*two = n;
		shmdt((void *)two);
		if (msgrcv(queue, &message, sizeof message.number, 0, 0) < 0)
			die("msgrcv");
		message.number = n;
		if (msgsnd(queue, &message, sizeof message.number, 0))
			die("msgsnd");
		if (semctl(set, 0, SETVAL, (int)(n % 32768)))
			die("semctl");
		if (burst && milliseconds() >= until) {
			usleep(1000 * (rand() % rest));
			until = milliseconds() + rand() % burst;
		}
	}
}
