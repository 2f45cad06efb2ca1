/*
 * Ids that only newuidmap and newgidmap may map. They run beside PID 1, which goes on with all that
 * needs no mapped id; the parent reaps them as signals come and lets it pass when both are done.
 */
#include "executor.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELPER_ARGUMENTS 33 /* program, pid, and the numbers of ten ranges */

static void arguments_of(const struct sandbox *sandbox, const struct operation *operation,
			 const char **argv, const char *number)
{
	struct blob map = plan_blob(&sandbox->plan, operation, 1);
	size_t count = 0;
	argv[count++] = plan_string(&sandbox->plan, operation, 0);
	argv[count++] = number;
	for (const char *at = map.data; at < map.data + map.size && count < HELPER_ARGUMENTS;) {
		argv[count++] = at;
		at += strnlen(at, (size_t)(map.data + map.size - at)) + 1;
	}
}

static int start_helper(struct sandbox *sandbox, const struct operation *operation, pid_t init,
			struct helpers *helpers)
{
	struct helper *helper = &helpers->list[helpers->count];
	const char *argv[HELPER_ARGUMENTS + 1] = {NULL}, *environment[1] = {NULL};
	struct text number = {.size = 0};
	int pipe_fds[2];
	volatile int error = 0;
	text_number(&number, (uint64_t)init, 10);
	arguments_of(sandbox, operation, argv, number.data);
	CHECK(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), "pipe2");
	pid_t pid = vfork();
	if (pid == 0) {
		reset_signals();
		dup2(pipe_fds[1], STDERR_FILENO);
		/* Absolute path, empty environment: nothing of the caller's steers a setuid program. */
		errno = ENOENT;
		if (argv[0][0] == '/')
			execve(argv[0], (char **)(uintptr_t)argv, (char **)(uintptr_t)environment);
		error = errno;
		_exit(EXIT_NOT_FOUND);
	}
	close(pipe_fds[1]);
	if (pid < 0)
		close(pipe_fds[0]);
	CHECK(pid, "vfork");
	*helper = (struct helper){pid, pipe_fds[0], operation->index};
	helpers->count++;
	errno = error;
	return error ? fail(sandbox, "execve") : 0;
}

/* Both at once: neither map needs the other. On failure sandbox->current tells which. */
int helpers_start(struct sandbox *sandbox, pid_t init, struct helpers *helpers)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode != OP_WRITE_ID_MAP_HELPER)
			continue;
		sandbox->current = i;
		errno = E2BIG;
		if (helpers->count == sizeof helpers->list / sizeof *helpers->list)
			return fail(sandbox, "id map helpers");
		if (start_helper(sandbox, &operation, init, helpers) < 0)
			return -1;
	}
	return 0;
}

/* The first line that a helper wrote, without its name and without what a terminal would obey. */
static void take_problem(int fd, char *problem)
{
	char line[SITE_SIZE], *from = line;
	ssize_t size = read(fd, line, sizeof line - 1);
	line[size < 0 ? 0 : size] = 0;
	if (strchr(line, ' ') && strchr(line, ' ')[-1] == ':')
		from = strchr(line, ' ') + 1;
	for (; *from >= ' ' && *from <= '~'; from++)
		*problem++ = *from;
	*problem = 0;
}

/* After a child has ended: lets the sandbox go on when that was the last helper. */
int helpers_reap(struct sandbox *sandbox, struct helpers *helpers)
{
	unsigned left = 0;
	for (unsigned i = 0; i < helpers->count; i++) {
		struct helper *helper = &helpers->list[i];
		int status = 0;
		if (helper->pid && waitpid(helper->pid, &status, WNOHANG) == 0) {
			left++;
			continue;
		}
		if (helper->pid && status != 0) {
			take_problem(helper->error_fd, helpers->problem);
			helpers->count = 0;
			sandbox->current = helper->operation;
			errno = EPERM;
			return fail(sandbox, helpers->problem);
		}
		helper->pid = 0;
	}
	if (left || !helpers->count)
		return 0;
	helpers->count = 0;
	return send(sandbox->control_fd, "g", 1, MSG_NOSIGNAL) == 1 ? 0 : fail(sandbox, "send");
}
