/* PID 1: builds the view, gives up every right, forks the workload, reaps, forwards signals. */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * A disposition that the caller left ignored would be the workload's too. The C library keeps its
 * hands off signals 32-34, which make(1) leaves ignored: the kernel is asked without it.
 */
void reset_signals(void)
{
	static const uint64_t by_default[4]; /* the kernel's sigaction: SIG_DFL, nothing else */
	for (int number = 1; number < _NSIG; number++)
		syscall(SYS_rt_sigaction, number, by_default, NULL, sizeof(uint64_t));
}

/* Nothing of the host stays open in a process that the workload can see (CVE-2024-21626). */
static int close_all_but_control(struct sandbox *sandbox, unsigned first)
{
	unsigned control = (unsigned)sandbox->control_fd;
	if (control > first)
		CHECK(close_descriptor_range(first, control - 1), "close_range");
	CHECK(close_descriptor_range(control + 1, ~0u), "close_range");
	return 0;
}

static int take_standard_descriptors(struct sandbox *sandbox)
{
	for (int fd = 0; fd < 3; fd++)
		if (sandbox->standard_fds[fd] != fd && dup2(sandbox->standard_fds[fd], fd) < 0)
			return fail(sandbox, "dup2");
	return close_all_but_control(sandbox, 3);
}

/*
 * Death of the parent ends PID 1 and so the sandbox. The kernel clears the setting when
 * credentials change; a parent that died before it was made shows as an end of the socket.
 */
static int follow_parent(struct sandbox *sandbox)
{
	char byte;
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG");
	if (recv(sandbox->control_fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
		_exit(EXIT_REFUSED);
	return 0;
}

/*
 * The workload starts by vfork, sharing memory until its exec, which saves copying page tables.
 * At a gate it needs memory of its own: the parent may trace only what is dumpable.
 */
static pid_t start_workload(struct sandbox *sandbox)
{
	static _Alignas(64) char stack[32768];
	if (!sandbox->gated)
		return clone(workload_main, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD,
			     sandbox);
	pid_t pid = fork();
	if (pid == 0)
		_exit(workload_main(sandbox));
	return pid;
}

static void forward(pid_t workload, int number)
{
	switch (number) {
	case SIGTSTP: /* the caller's job control */
		kill(-workload, SIGSTOP);
		return;
	case SIGINT: case SIGQUIT: case SIGHUP: case SIGCONT: /* as a terminal sends them */
		kill(-workload, number);
		return;
	default:
		kill(workload, number);
	}
}

static _Noreturn void finish(struct sandbox *sandbox, int status)
{
	sandbox->shared->status = status;
	sandbox->shared->started = sandbox->shared->finished = !sandbox->shared->failure.set;
	_exit(0);
}

static _Noreturn void supervise(struct sandbox *sandbox, pid_t workload)
{
	sigset_t all;
	siginfo_t info;
	sigfillset(&all);
	for (;;) {
		int status, number = sigwaitinfo(&all, &info);
		if (number == SIGCHLD) {
			for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;)
				/* A workload may make us its tracer: a stop is not its end. */
				if (pid == workload && !WIFSTOPPED(status))
					finish(sandbox, status);
		} else if (number > 0 && info.si_code == SI_USER && info.si_pid == 0) {
			/* pid 0, in the kernel's words: from outside this pid namespace. */
			forward(workload, number);
		}
	}
}

/*
 * The caller's null device becomes that of the sandbox, by its number: a program that opens
 * /dev/stdout anew reaches the file behind the descriptor, which must lie in the view.
 */
static void exchange_null(void)
{
	for (int fd = 0; fd < 3; fd++) {
		int null_fd = is_null(fd) ? open("/dev/null", O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
		if (null_fd >= 0 && is_null(null_fd))
			dup2(null_fd, fd);
		if (null_fd >= 0)
			close(null_fd);
	}
}

_Noreturn void init_main(struct sandbox *sandbox)
{
	pid_t workload;
	sandbox->current = NO_OPERATION;
	reset_signals();
	if (follow_parent(sandbox) < 0 || take_standard_descriptors(sandbox) < 0 ||
	    perform(sandbox, PHASE_INIT) < 0 || follow_parent(sandbox) < 0 ||
	    (exchange_null(), workload = start_workload(sandbox)) < 0) {
		record_failure(sandbox, errno);
		_exit(EXIT_REFUSED);
	}
	close_all_but_control(sandbox, 0);
	sandbox->shared->started = !sandbox->gated && !sandbox->shared->failure.set;
	supervise(sandbox, workload);
}
