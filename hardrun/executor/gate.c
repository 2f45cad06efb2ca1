/*
 * What the parent does for a start that waits: id maps written by helpers, and the gate, where the
 * workload stands still at its successful exec. There every filter, label and descriptor is final
 * and not one instruction has run, so what is read back then is what will be in force.
 */
#include "executor.h"

#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int until_exec(pid_t workload)
{
	int status;
	for (;;) {
		if (waitpid(workload, &status, __WALL) < 0)
			return -1;
		if (!WIFSTOPPED(status))
			return -1;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8))
			return 0;
		if (ptrace(PTRACE_CONT, workload, NULL, (void *)(intptr_t)WSTOPSIG(status)) < 0)
			return -1;
	}
}

int gate_hold(pid_t workload, int control_fd, int gate_fd)
{
	struct text line = {.size = 0};
	char answer = 0;
	if (ptrace(PTRACE_SEIZE, workload, NULL, (void *)(intptr_t)PTRACE_O_TRACEEXEC) < 0)
		return -1;
	if (send(control_fd, "g", 1, MSG_NOSIGNAL) != 1)
		return -1;
	if (until_exec(workload) < 0)
		return 0; /* the exec failed: PID 1 says why */
	text_number(&line, (uint64_t)workload, 10);
	text_add(&line, "\n");
	text_write(&line, gate_fd);
	if (read(gate_fd, &answer, 1) != 1 || answer != 'g') {
		/* What is traced is reaped by its tracer first: PID 1 would wait for that for ever. */
		kill(workload, SIGKILL);
		waitpid(workload, NULL, __WALL);
		errno = ECANCELED;
		return -1;
	}
	return ptrace(PTRACE_DETACH, workload, NULL, NULL) < 0 ? -1 : 0;
}

static int run_helper(const struct sandbox *sandbox, const struct operation *operation, pid_t init)
{
	struct blob map = plan_blob(&sandbox->plan, operation, 1);
	const char *helper = plan_string(&sandbox->plan, operation, 0);
	const char *argv[34] = {helper}, *environment[1] = {NULL};
	struct text number = {.size = 0};
	size_t count = 2;
	int status;
	text_number(&number, (uint64_t)init, 10);
	argv[1] = number.data;
	for (const char *at = map.data; at < map.data + map.size && count < 33;) {
		argv[count++] = at;
		at += strnlen(at, (size_t)(map.data + map.size - at)) + 1;
	}
	pid_t pid = fork();
	if (pid == 0) {
		reset_signals();
		/* Absolute path, empty environment: nothing of the caller's steers a setuid program. */
		if (helper[0] == '/')
			execve(helper, (char **)(uintptr_t)argv, (char **)(uintptr_t)environment);
		_exit(EXIT_NOT_FOUND);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	errno = EPERM;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* Returns -1 with the index of the operation in *failed. */
int run_id_map_helpers(const struct sandbox *sandbox, pid_t init, uint32_t *failed)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		*failed = i;
		if (operation.type->opcode == OP_WRITE_ID_MAP_HELPER &&
		    run_helper(sandbox, &operation, init) < 0)
			return -1;
	}
	return send(sandbox->control_fd, "g", 1, MSG_NOSIGNAL) == 1 ? 0 : -1;
}
