/*
 * Memory and CPU time of a whole sandbox where no cgroup counts them: the tree of processes below
 * PID 1 is walked. Memory that no process maps (a memfd that is only written to) is not seen; the
 * Decision reports these limits as degraded.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAXIMUM_PROCESSES 4096
#define TICKS_PER_SECOND 100u

struct walk {
	_Alignas(4096) size_t count; /* of whole pages, to be let go of */
	pid_t pids[MAXIMUM_PROCESSES];
};

ssize_t read_process_file(pid_t pid, const char *name, const char *last, char *buffer, size_t room)
{
	struct text path = {.size = 0};
	int fd;
	ssize_t size;
	text_add(&path, "/proc/");
	text_number(&path, (uint64_t)pid, 10);
	text_add(&path, name);
	if (last) {
		text_add(&path, last);
		text_add(&path, "/children");
	}
	fd = open(path.data, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size = read(fd, buffer, room - 1);
	close(fd);
	buffer[size > 0 ? size : 0] = 0;
	return size;
}

static void add_children(struct walk *walk, pid_t pid, const char *thread)
{
	char buffer[4096];
	const char *at = buffer;
	uint64_t child;
	if (read_process_file(pid, "/task/", thread, buffer, sizeof buffer) <= 0)
		return;
	while (walk->count < MAXIMUM_PROCESSES && parse_number(&at, &child))
		walk->pids[walk->count++] = (pid_t)child;
}

/* opendir(3) would allocate: entries are read with getdents64(2). */
static void add_children_of_threads(struct walk *walk, pid_t pid)
{
	struct text path = {.size = 0};
	_Alignas(8) char buffer[4096];
	long size;
	int fd;
	text_add(&path, "/proc/");
	text_number(&path, (uint64_t)pid, 10);
	text_add(&path, "/task");
	fd = open(path.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	while ((size = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
		for (long at = 0; at < size;) {
			const struct directory_entry *entry = (const void *)(buffer + at);
			if (entry->name[0] != '.')
				add_children(walk, pid, entry->name);
			at += entry->size;
		}
	close(fd);
}

/* The number after `key` in a file of "key: number" or plain columns. */
static uint64_t column(const char *at, unsigned index)
{
	uint64_t value = 0;
	for (unsigned i = 0; i <= index; i++) {
		while (*at == ' ')
			at++;
		if (i == index)
			parse_number(&at, &value);
		while (*at && *at != ' ')
			at++;
	}
	return value;
}

/* Its own and that of the children it has reaped. */
static void add_cpu_time(pid_t pid, struct usage *usage)
{
	char buffer[1024];
	const char *after;
	uint64_t user, system;
	if (read_process_file(pid, "/stat", NULL, buffer, sizeof buffer) <= 0)
		return;
	after = strrchr(buffer, ')');
	if (!after)
		return;
	after++; /* columns from "state": utime is 11, stime 12, cutime 13, cstime 14 */
	user = column(after, 11) + column(after, 13);
	system = column(after, 12) + column(after, 14);
	usage->user_us += user * (1000000 / TICKS_PER_SECOND);
	usage->system_us += system * (1000000 / TICKS_PER_SECOND);
}

bool is_exiting(pid_t pid)
{
	char buffer[1024];
	ssize_t size = read_process_file(pid, "/stat", NULL, buffer, sizeof buffer);
	const char *after = size > 0 ? strrchr(buffer, ')') : NULL;
	return !after || column(after + 1, 6) & PF_EXITING;
}

/* Shared pages are counted once by smaps_rollup and once for each process by statm. */
static void add_memory(pid_t pid, bool exact, struct usage *usage)
{
	char buffer[2048];
	uint64_t value;
	if (!exact && read_process_file(pid, "/statm", NULL, buffer, sizeof buffer) > 0)
		usage->memory += column(buffer, 1) * (uint64_t)sysconf(_SC_PAGESIZE);
	if (exact && read_process_file(pid, "/smaps_rollup", NULL, buffer, sizeof buffer) > 0) {
		const char *at = strstr(buffer, "\nPss:");
		at = at ? at + strlen("\nPss:") : "";
		if (parse_number(&at, &value))
			usage->memory += value * 1024;
	}
}

/*
 * Ends all that descends from this process, which adopts whatever loses its parent. Only its own
 * children are signalled: nobody else reaps them, so that no number can have become another's.
 */
void end_children(void)
{
	static LARGE struct walk walk;
	do {
		walk.count = 0;
		add_children_of_threads(&walk, getpid());
		for (size_t i = 0; i < walk.count; i++)
			kill(walk.pids[i], SIGKILL);
	} while (waitpid(-1, NULL, walk.count ? __WALL : __WALL | WNOHANG) > 0);
}

int watch_tree(pid_t init, bool exact, struct usage *usage)
{
	static LARGE struct walk walk;
	walk.count = 0;
	walk.pids[walk.count++] = init;
	*usage = (struct usage){0, 0, 0};
	for (size_t i = 0; i < walk.count; i++) {
		add_children_of_threads(&walk, walk.pids[i]);
		add_cpu_time(walk.pids[i], usage);
		if (i)
			add_memory(walk.pids[i], exact, usage);
	}
	bool alone = walk.count == 1;
	release_pages(&walk, sizeof walk);
	return alone ? -1 : 0;
}
