/*
 * The gate, where the workload stands still at its successful exec, for a label or for whoever
 * asked. There every filter, label and descriptor is final and not one instruction has run, so what
 * is read back then is what will be in force. The parent holds the first workload there; PID 1 holds
 * those that come later, when others run that could reach into what the parent may trace.
 */
#include "executor.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The signal and event that stopped it; -1: it has ended, and is left to whoever reaps it. */
static int next_stop(pid_t workload)
{
	siginfo_t info;
	for (;;) {
		if (waitid(P_PID, (id_t)workload, &info, WEXITED | WSTOPPED | WNOWAIT | __WALL) < 0 ||
		    (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED))
			return -1;
		info.si_pid = 0;
		if (waitid(P_PID, (id_t)workload, &info, WSTOPPED | WNOHANG | __WALL) < 0)
			return -1;
		if (info.si_pid)
			return info.si_status;
	}
}

static int until_exec(pid_t workload)
{
	int stop;
	while ((stop = next_stop(workload)) >= 0) {
		if (stop == (SIGTRAP | PTRACE_EVENT_EXEC << 8))
			return 0;
		if (ptrace(PTRACE_CONT, workload, NULL, (void *)(intptr_t)(stop & 0xff)) < 0)
			return -1;
	}
	return -1;
}

/*
 * Ends a workload that still stands at the gate, after it has been noted why: its end is that of
 * PID 1, too. What is traced is reaped by its tracer first: PID 1 would wait for that for ever.
 */
void gate_end(pid_t workload)
{
	int status;
	pid_t found = waitpid(workload, &status, __WALL | WNOHANG);
	if (found < 0 || (found == workload && !WIFSTOPPED(status)))
		return; /* let go, or dead already */
	kill(workload, SIGKILL);
	waitpid(workload, NULL, __WALL);
}

static int ask_gate(int gate_fd, pid_t workload)
{
	struct text line = {.size = 0};
	char answer = 0;
	text_number(&line, (uint64_t)workload, 10);
	text_add(&line, "\n");
	text_write(&line, gate_fd);
	return read(gate_fd, &answer, 1) == 1 && answer == 'g' ? 0 : -1;
}

/*
 * In a process that PID 1 is to hold: who is traced by its own wish needs not be dumpable, and has no
 * moment in which another could attach.
 */
int gate_ask(struct sandbox *sandbox)
{
	CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL), "ptrace");
	return kill(getpid(), SIGSTOP);
}

/* PID 1's. The exec that failed has told why already. */
int gate_hold_served(struct sandbox *sandbox, pid_t workload)
{
	struct operation label;
	plan_find(&sandbox->plan, OP_EXPECT_LABEL, &label);
	sandbox->current = label.index;
	if (next_stop(workload) < 0)
		return 0;
	CHECK(ptrace(PTRACE_SETOPTIONS, workload, NULL,
		     (void *)(intptr_t)(PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)), "ptrace");
	CHECK(ptrace(PTRACE_CONT, workload, NULL, NULL), "ptrace");
	if (until_exec(workload) < 0)
		return 0;
	if (label_check(sandbox, &label, workload) < 0)
		return -1;
	CHECK(ptrace(PTRACE_DETACH, workload, NULL, NULL), "ptrace");
	return 0;
}

/* Fails with ECANCELED where whoever holds the gate says no; else site and operation tell why. */
int gate_hold(struct sandbox *sandbox, pid_t workload, int gate_fd)
{
	struct operation label;
	bool labelled = plan_find(&sandbox->plan, OP_EXPECT_LABEL, &label);
	sandbox->current = label.index;
	if (!labelled && plan_find(&sandbox->plan, OP_GATE, &label))
		sandbox->current = label.index;
	CHECK(ptrace(PTRACE_SEIZE, workload, NULL, (void *)(intptr_t)PTRACE_O_TRACEEXEC), "ptrace");
	if (send(sandbox->control_fd, "g", 1, MSG_NOSIGNAL) != 1)
		return fail(sandbox, "send");
	if (until_exec(workload) < 0)
		return 0; /* the exec failed: PID 1 says why */
	if (labelled && label_check(sandbox, &label, workload) < 0)
		return -1;
	if (gate_fd >= 0 && ask_gate(gate_fd, workload) < 0) {
		errno = ECANCELED;
		return -1;
	}
	CHECK(ptrace(PTRACE_DETACH, workload, NULL, NULL), "ptrace");
	return 0;
}
