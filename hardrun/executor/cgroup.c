/*
 * Limits of the whole sandbox: a cgroup of its own, limited before the workload starts. The parent
 * stays outside of it, so that it lives on to tell what the kernel counted and what it ended.
 * Of version 1 there is one in each hierarchy, and no file has the same name in two of them.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#define PREFIX "hardrun-"
#define SUPERVISOR PREFIX "supervisor"
#define BUS_PATIENCE_MS 20000 /* D-Bus has 25 s; a machine may be busy */
#define REMOVAL_TRIES 200

static ssize_t read_file(int directory_fd, const char *name, char *buffer, size_t room)
{
	int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, buffer, room - 1);
	if (fd >= 0)
		close(fd);
	buffer[size > 0 ? size : 0] = 0;
	return size;
}

static int write_file(int directory_fd, const char *name, const char *value)
{
	int fd = openat(directory_fd, name, O_WRONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : write(fd, value, strlen(value));
	if (fd >= 0)
		close(fd);
	return size == (ssize_t)strlen(value) ? 0 : -1;
}

static ssize_t read_leaf(const struct cgroup *cgroup, const char *name, char *buffer, size_t room)
{
	ssize_t size = -1;
	for (uint32_t i = 0; i < cgroup->count && size < 0; i++)
		size = read_file(cgroup->leaf_fds[i], name, buffer, room);
	return size;
}

/*
 * The path of the caller's group: a line "N:HIERARCHY:PATH" of /proc/PID/cgroup, in which version 2
 * has no name. Where systemd was asked for a scope, the caller must be in it. Without such a line,
 * or with half a path, the group would be made in one that is not the caller's.
 */
static int add_own_group(struct sandbox *sandbox, struct text *path, const char *hierarchy)
{
	char buffer[4096];
	size_t size = strlen(hierarchy), before = path->size;
	CHECK(read_process_file(getpid(), "/cgroup", NULL, buffer, sizeof buffer), "/proc");
	errno = EXDEV;
	if (sandbox->cgroup.scope[0] && !strstr(buffer, sandbox->cgroup.scope))
		return fail(sandbox, "not moved by systemd");
	for (char *line = buffer, *end; (end = strchr(line, '\n')); line = end + 1) {
		const char *name = strchr(line, ':');
		*end = 0;
		if (name && !strncmp(name + 1, hierarchy, size) && name[size + 1] == ':')
			text_add(path, name + size + 2);
	}
	errno = path->size == before ? ENOENT : ENAMETOOLONG;
	if (path->size == before || path->size + 1 >= sizeof path->data)
		return fail(sandbox, "the caller's own group");
	char *last = strrchr(path->data, '/');
	if (last && !strcmp(last, "/" SUPERVISOR))
		*last = 0;
	return 0;
}

/* "MOUNT/." stands for the caller's own group, which may be below it already, out of the way. */
static int open_group(struct sandbox *sandbox, const struct operation *operation)
{
	bool first = operation->type->opcode == OP_CGROUP_V1;
	struct text path = {.size = 0};
	struct statfs status;
	int fd;
	text_add(&path, plan_string(&sandbox->plan, operation, 0));
	const char *last = strrchr(path.data, '/');
	if (last && !strcmp(last, "/.") &&
	    add_own_group(sandbox, &path, first ? plan_string(&sandbox->plan, operation, 1) : "") < 0)
		return -1;
	CHECK(fd = open(path.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open");
	if (fstatfs(fd, &status) == 0 &&
	    status.f_type == (first ? CGROUP_SUPER_MAGIC : CGROUP2_SUPER_MAGIC))
		return fd;
	close(fd);
	errno = EXDEV;
	return fail(sandbox, "not a cgroup");
}

/* A parent that was killed could not remove its group: it is empty, and named after it. */
static void sweep(int group_fd)
{
	_Alignas(8) char buffer[4096];
	long size;
	while ((size = syscall(SYS_getdents64, group_fd, buffer, sizeof buffer)) > 0)
		for (long at = 0; at < size;) {
			const struct directory_entry *entry = (const void *)(buffer + at);
			const char *number = entry->name + sizeof PREFIX - 1;
			uint64_t pid;
			if (!strncmp(entry->name, PREFIX, sizeof PREFIX - 1) &&
			    parse_number(&number, &pid) && !*number &&
			    ((pid_t)pid == getpid() || (kill((pid_t)pid, 0) < 0 && errno == ESRCH)))
				unlinkat(group_fd, entry->name, AT_REMOVEDIR);
			at += entry->size;
		}
}

/* A group whose children have controllers may hold no process: the parent steps aside. */
static int enable(int group_fd, const char *controllers)
{
	if (write_file(group_fd, "cgroup.subtree_control", controllers) == 0)
		return 0;
	if (errno != EBUSY || (mkdirat(group_fd, SUPERVISOR, 0755) < 0 && errno != EEXIST) ||
	    write_file(group_fd, SUPERVISOR "/cgroup.procs", "0") < 0)
		return -1;
	return write_file(group_fd, "cgroup.subtree_control", controllers);
}

/* Of several groups, each to the one that has its file. */
static int write_limits(struct sandbox *sandbox)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		int written = -1;
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode != OP_CGROUP_LIMIT)
			continue;
		sandbox->current = i;
		errno = ENOENT;
		for (uint32_t at = 0; at < sandbox->cgroup.count && written < 0 && errno == ENOENT; at++)
			written = write_file(sandbox->cgroup.leaf_fds[at],
					     plan_string(&sandbox->plan, &operation, 0),
					     plan_string(&sandbox->plan, &operation, 1));
		CHECK(written, "write");
	}
	return 0;
}

/* Version 1 has no clone into a group: PID 1 is moved there while it waits. */
int cgroup_place(struct sandbox *sandbox, pid_t init)
{
	struct cgroup *cgroup = &sandbox->cgroup;
	struct text number = {.size = 0};
	text_number(&number, (uint64_t)init, 10);
	for (uint32_t i = 0; i < cgroup->count && !cgroup->placed; i++) {
		sandbox->current = cgroup->operation;
		CHECK(write_file(cgroup->leaf_fds[i], "cgroup.procs", number.data), "cgroup.procs");
	}
	cgroup->placed = cgroup->count != 0;
	return 0;
}

/* Makes and limits the groups; PID 1 is moved there now, or (init is 0) comes there later. */
static int make_groups(struct sandbox *sandbox, pid_t init)
{
	struct cgroup *cgroup = &sandbox->cgroup;
	struct text name = {.size = 0};
	struct operation operation;
	bool first = plan_find(&sandbox->plan, OP_CGROUP_V1, &operation);
	text_add(&name, PREFIX);
	text_number(&name, (uint64_t)getpid(), 10);
	memcpy(cgroup->leaf, name.data, sizeof cgroup->leaf - 1); /* a pid has ten digits at most */
	for (uint32_t i = 0; i < sandbox->plan.count && cgroup->count < MAXIMUM_HIERARCHIES; i++) {
		uint32_t at = cgroup->count;
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode != (first ? OP_CGROUP_V1 : OP_CGROUP))
			continue;
		sandbox->current = i;
		if ((cgroup->parent_fds[at] = open_group(sandbox, &operation)) < 0)
			return -1;
		sweep(cgroup->parent_fds[at]);
		CHECK(mkdirat(cgroup->parent_fds[at], cgroup->leaf, 0755), "mkdir");
		cgroup->count++;
		CHECK(cgroup->leaf_fds[at] = openat(cgroup->parent_fds[at], cgroup->leaf,
						    O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open");
	}
	if (!first && init && cgroup_place(sandbox, init) < 0)
		return -1;
	if (!first && plan_find(&sandbox->plan, OP_CGROUP, &operation))
		CHECK(enable(cgroup->parent_fds[0], plan_string(&sandbox->plan, &operation, 1)),
		      "cgroup.subtree_control");
	cgroup->placed |= !first; /* PID 1 is cloned into it */
	return write_limits(sandbox) < 0 ? -1 : init ? cgroup_place(sandbox, init) : 0;
}

/* Before the clone: the groups where they can be made at once, else the first words to systemd. */
int cgroup_open(struct sandbox *sandbox, const struct operation *operation)
{
	if (sandbox->cgroup.count || sandbox->cgroup.deadline)
		return 0; /* the first of several made all */
	sandbox->cgroup.operation = operation->index;
	if (operation->type->opcode == OP_CGROUP && plan_string(&sandbox->plan, operation, 2)[0]) {
		sandbox->cgroup.deadline = now_ms() + BUS_PATIENCE_MS;
		return bus_connect(sandbox, operation);
	}
	return make_groups(sandbox, 0);
}

/* Whether PID 1 is, or will be, told by its parent that it was moved. */
bool cgroup_is_awaited(const struct cgroup *cgroup)
{
	return !cgroup->placed && (cgroup->count || cgroup->deadline || cgroup->scope[0]);
}

/* PID 1 asks to go on. */
int cgroup_awaited(struct sandbox *sandbox)
{
	sandbox->cgroup.awaited = !sandbox->cgroup.placed;
	if (sandbox->cgroup.placed)
		CHECK(send(sandbox->control_fd, "g", 1, MSG_NOSIGNAL), "send");
	return 0;
}

/*
 * Whoever moves PID 1 out of its group takes the limits away: the sandbox ends. Looked at now and
 * then: cgroup.events would wake the parent once more at the end of every sandbox.
 */
int cgroup_check(struct sandbox *sandbox, pid_t init)
{
	char buffer[4096];
	uint32_t inside = 0;
	if (!sandbox->cgroup.placed ||
	    read_process_file(init, "/cgroup", NULL, buffer, sizeof buffer) <= 0)
		return 0;
	for (char *line = buffer, *end; (end = strchr(line, '\n')); line = end + 1) {
		*end = 0;
		const char *name = strrchr(line, '/');
		inside += name && !strcmp(name + 1, sandbox->cgroup.leaf);
	}
	/* Version 1 shows a process that ends in no group any more. */
	if (inside >= sandbox->cgroup.count || is_exiting(init))
		return 0;
	sandbox->current = sandbox->cgroup.operation;
	errno = ESRCH;
	return fail(sandbox, "PID 1 was moved out");
}

int cgroup_step(struct sandbox *sandbox, pid_t init)
{
	struct cgroup *cgroup = &sandbox->cgroup;
	sandbox->current = cgroup->operation;
	int answer = bus_answer(sandbox);
	if (answer <= 0) {
		if (answer == 0 && now_ms() < cgroup->deadline)
			return 0;
		errno = answer == 0 ? ETIMEDOUT : errno;
		return answer == 0 ? fail(sandbox, "no answer from systemd") : -1;
	}
	close(cgroup->bus_fd);
	cgroup->deadline = 0;
	if (make_groups(sandbox, init) < 0)
		return -1;
	return cgroup->awaited ? cgroup_awaited(sandbox) : 0;
}

/* The number after `key` in a file of lines "key number", or of a number alone; 0: none. */
uint64_t cgroup_count(const struct cgroup *cgroup, const char *file, const char *key)
{
	char buffer[4096];
	uint64_t value = 0;
	size_t size = strlen(key);
	if (!cgroup->placed || read_leaf(cgroup, file, buffer, sizeof buffer) <= 0)
		return 0;
	for (const char *line = buffer; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL)
		if (!strncmp(line, key, size) && (!size || line[size] == ' ')) {
			line += size;
			parse_number(&line, &value);
			break;
		}
	return value;
}

/* Of every process, children that were never waited for included; false where none counts it. */
bool cgroup_cpu_time(const struct cgroup *cgroup, struct usage *usage)
{
	uint64_t user = cgroup_count(cgroup, "cpu.stat", "user_usec");
	uint64_t both = cgroup_count(cgroup, "cpu.stat", "usage_usec");
	if (!both) {
		user = cgroup_count(cgroup, "cpuacct.usage_user", "") / 1000; /* by ticks */
		both = cgroup_count(cgroup, "cpuacct.usage", "") / 1000;
	}
	if (!both)
		return false;
	usage->user_us = user < both ? user : both;
	usage->system_us = both - usage->user_us;
	return true;
}

/* What the kernel counted, line by line as it has it: "cgroup.memory.peak 1048576". */
void cgroup_report(const struct cgroup *cgroup, int fd)
{
	static const char *const files[] = {
		"cpu.stat", "memory.events", "memory.peak", "memory.swap.peak", "pids.events", "pids.peak",
		"io.stat", "cpu.pressure", "memory.pressure", "io.pressure", "memory.oom_control",
		"memory.max_usage_in_bytes", "blkio.throttle.io_service_bytes"};
	char buffer[4096];
	for (size_t i = 0; cgroup->placed && i < sizeof files / sizeof *files; i++) {
		if (read_leaf(cgroup, files[i], buffer, sizeof buffer) <= 0)
			continue;
		for (char *line = buffer, *end; (end = strchr(line, '\n')); line = end + 1) {
			struct text text = {.size = 0};
			*end = 0;
			text_add(&text, "cgroup.");
			text_add(&text, files[i]);
			text_add(&text, " ");
			text_add(&text, line);
			text_add(&text, "\n");
			text_write(&text, fd);
		}
	}
}

void cgroup_close(struct cgroup *cgroup)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	for (; cgroup->count; cgroup->count--) {
		int parent_fd = cgroup->parent_fds[cgroup->count - 1], tries = REMOVAL_TRIES;
		write_file(cgroup->leaf_fds[cgroup->count - 1], "cgroup.kill", "1");
		while (unlinkat(parent_fd, cgroup->leaf, AT_REMOVEDIR) < 0 && errno == EBUSY && tries--)
			nanosleep(&pause, NULL);
	}
	cgroup->placed = false;
}

/*
 * In PID 1, until it was moved. Before it takes an id that is not the caller's, whose processes
 * alone systemd moves, and before it forks what is not PID 1.
 */
int cgroup_wait(struct sandbox *sandbox)
{
	if (!cgroup_is_awaited(&sandbox->cgroup))
		return 0;
	sandbox->cgroup.placed = true;
	CHECK(control_send(sandbox->control_fd, REQUEST_CGROUP, -1), "sendmsg");
	CHECK(control_wait(sandbox->control_fd), "recv");
	return 0;
}

/* The root of a cgroup namespace is the group that its maker is in at that moment. */
int perform_await_cgroup(struct sandbox *sandbox, const struct operation *operation)
{
	if (cgroup_wait(sandbox) < 0)
		return -1;
	if (operation->values[1] && !sandbox->bare)
		CHECK(unshare(CLONE_NEWCGROUP), "unshare");
	return 0;
}
