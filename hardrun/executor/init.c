/* PID 1: builds the view, gives up every right, forks the workload, reaps, forwards signals. */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
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

/* Real time, and leave to ask for it, could take a CPU from everybody. musl has no such calls. */
static int leave_real_time(struct sandbox *sandbox)
{
	const struct sched_param ordinary = {0};
	const struct rlimit none = {0, 0};
	long policy = syscall(SYS_sched_getscheduler, 0);
	if (policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE)
		CHECK(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &ordinary), "sched_setscheduler");
	if (getpriority(PRIO_PROCESS, 0) < 0)
		CHECK(setpriority(PRIO_PROCESS, 0, 0), "setpriority");
	if (syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) >> IOPRIO_CLASS_SHIFT == IOPRIO_CLASS_RT)
		CHECK(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0), "ioprio_set");
	CHECK(setrlimit(RLIMIT_RTPRIO, &none), "RLIMIT_RTPRIO");
	CHECK(setrlimit(RLIMIT_NICE, &none), "RLIMIT_NICE");
	return 0;
}

/*
 * What a process passes on unasked. A low priority and the choice of CPUs stay the caller's wish: the
 * workload gets less by them. A personality may leave out address randomization.
 */
static int reset_attributes(struct sandbox *sandbox)
{
	if (leave_real_time(sandbox) < 0)
		return -1;
	if (personality(0xffffffff) > PER_LINUX)
		CHECK(personality(PER_LINUX), "personality");
	if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0)
		CHECK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), "PR_SET_THP_DISABLE");
	return 0;
}

/*
 * Nothing of the host stays open in a process that the workload can see (CVE-2024-21626), but for
 * the sockets to the parent and to whoever sends commands. These get a label by the sandbox's procfs.
 */
static int close_all_but_own(struct sandbox *sandbox, unsigned first)
{
	const int own[] = {sandbox->control_fd, sandbox->serve_fd,
			   sandbox->serving && sandbox->labelled ? sandbox->proc_fd : -1};
	unsigned next;
	do {
		next = ~0u;
		for (unsigned i = 0; i < sizeof own / sizeof *own; i++)
			if (own[i] >= 0 && (unsigned)own[i] >= first && (unsigned)own[i] < next)
				next = (unsigned)own[i];
		if (next > first)
			CHECK(close_descriptor_range(first, next - (next != ~0u)), "close_range");
		first = next + 1;
	} while (next != ~0u);
	return 0;
}

static int take_standard_descriptors(struct sandbox *sandbox)
{
	for (int fd = 0; fd < 3; fd++)
		if (sandbox->standard_fds[fd] != fd && dup2(sandbox->standard_fds[fd], fd) < 0)
			return fail(sandbox, "dup2");
	return close_all_but_own(sandbox, 3);
}

/* With PID 1 the kernel ends all of its namespace; a bare sandbox is ended one by one. */
static _Noreturn void leave(const struct sandbox *sandbox, int status)
{
	if (sandbox->bare) {
		end_children();
		remove_private_directory(sandbox);
	}
	_exit(status);
}

/*
 * Death of the parent ends PID 1 and so the sandbox. The kernel clears the setting when
 * credentials change; a parent that died before it was made shows as an end of the socket.
 */
static int follow_parent(struct sandbox *sandbox)
{
	char byte;
	CHECK(prctl(PR_SET_PDEATHSIG, sandbox->bare ? SIGNAL_END : SIGKILL, 0, 0, 0),
	      "PR_SET_PDEATHSIG");
	if (recv(sandbox->control_fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
		leave(sandbox, EXIT_REFUSED);
	return 0;
}

/*
 * The workload starts by vfork, sharing memory until its exec, which saves copying page tables. What
 * is to be held at its exec needs memory of its own: the parent may trace only what is dumpable, and
 * PID 1 has to run on to hold it.
 */
pid_t start_workload(struct sandbox *sandbox)
{
	static LARGE _Alignas(4096) char stack[32768];
	if (!(sandbox->served ? sandbox->labelled : sandbox->gated)) {
		pid_t started = clone(workload_main, stack + sizeof stack,
				      CLONE_VM | CLONE_VFORK | SIGCHLD, sandbox);
		/* It has memory of its own by now. The next command's would only be touched anew. */
		if (!sandbox->serving)
			release_pages(stack, sizeof stack);
		return started;
	}
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
	sandbox->shared->started = sandbox->shared->finished =
		sandbox->shared->reached && !sandbox->shared->failure.set;
	leave(sandbox, 0);
}

static _Noreturn void supervise(struct sandbox *sandbox, pid_t workload)
{
	sigset_t all;
	siginfo_t info;
	struct rusage usage;
	pid_t probe = 0;
	/* pid 0, in the kernel's words: from outside this pid namespace. */
	const pid_t outside = sandbox->bare ? getppid() : 0;
	*(volatile char *)&usage = 0; /* a page of its own now, not when somebody waits for the end */
	sigfillset(&all);
	for (;;) {
		int status, number = sandbox->serving ? serve_wait(sandbox, &info)
						      : sigwaitinfo(&all, &info);
		if (number == SIGCHLD) {
			for (pid_t pid; (pid = wait4(-1, &status, WNOHANG | __WALL, &usage)) > 0;) {
				/* A workload may make us its tracer: a stop is not its end. */
				if (WIFSTOPPED(status))
					continue;
				if (pid == workload || serve_ended(sandbox, pid, status, &usage))
					finish(sandbox, status);
				if (pid == probe)
					probe = probe_ended(sandbox);
			}
			/* A verifier says with the same signal that it has written questions. */
			if (!probe)
				probe = probe_start(sandbox);
		} else if (!number) {
			finish(sandbox, 0); /* nobody is left who could send a command */
		} else if (number < 0 && sandbox->serving) {
			leave(sandbox, EXIT_REFUSED); /* as one that was killed */
		} else if (number == SIGNAL_END && sandbox->bare) {
			leave(sandbox, 0);
		} else if (number > 0 && info.si_code == SI_USER && info.si_pid == outside) {
			if (workload)
				forward(workload, number);
			else if (number == SIGINT || number == SIGTERM || number == SIGHUP)
				finish(sandbox, 0);
		}
	}
}

/* The null device of the sandbox; -1 where it has none. */
int open_null(void)
{
	int null_fd = open("/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
	if (null_fd >= 0 && is_null(null_fd))
		return null_fd;
	if (null_fd >= 0)
		close(null_fd);
	return -1;
}

/*
 * The caller's null device becomes that of the sandbox, by its number: a program that opens
 * /dev/stdout anew reaches the file behind the descriptor, which must lie in the view.
 */
void exchange_null(void)
{
	int null_fd = open_null();
	for (int fd = 0; fd < 3 && null_fd >= 0; fd++)
		if (is_null(fd))
			dup2(null_fd, fd);
	if (null_fd >= 0)
		close(null_fd);
}

static int make_later_namespaces(struct sandbox *sandbox)
{
	struct operation operation;
	plan_find(&sandbox->plan, OP_CLONE, &operation);
	sandbox->current = operation.index;
	if (sandbox->network_apart && sandbox->later_namespaces & CLONE_NEWNET) {
		if (start_network(sandbox) < 0)
			return -1;
		sandbox->later_namespaces &= ~(uint64_t)CLONE_NEWNET;
	}
	if (sandbox->later_namespaces)
		CHECK(unshare((int)sandbox->later_namespaces), "unshare");
	return 0;
}

/* What a bare sandbox leaves behind comes to its reaper, and names start at the host's root. */
static int become_reaper(struct sandbox *sandbox)
{
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER");
	CHECK(sandbox->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "open");
	return make_private_directory(sandbox) < 0 ? -1 : cgroup_wait(sandbox);
}

/* Its descriptor is kept from the first on. */
static void find_serve(struct sandbox *sandbox)
{
	struct operation operation;
	sandbox->serving = plan_find(&sandbox->plan, OP_SERVE, &operation);
	if (sandbox->serving)
		sandbox->serve_fd = (int)operation.values[0];
}

_Noreturn void init_main(struct sandbox *sandbox)
{
	struct operation operation;
	pid_t workload = 0;
	/* Looked up here: behind the exec nothing is to come before they are closed. */
	bool closes = plan_find(&sandbox->plan, OP_CLOSE_DESCRIPTORS, &operation);
	sandbox->current = NO_OPERATION;
	find_serve(sandbox);
	reset_signals();
	if (follow_parent(sandbox) < 0 || take_standard_descriptors(sandbox) < 0 ||
	    reset_attributes(sandbox) < 0 ||
	    make_later_namespaces(sandbox) < 0 ||
	    (sandbox->bare ? become_reaper(sandbox) : perform(sandbox, PHASE_INIT)) < 0 ||
	    follow_parent(sandbox) < 0 ||
	    (!(sandbox->serving && sandbox->serve_mode) &&
	     (exchange_null(), workload = start_workload(sandbox)) < 0)) {
		record_failure(sandbox, errno);
		leave(sandbox, EXIT_REFUSED);
	}
	if (closes)
		sandbox->current = operation.index;
	if (close_all_but_own(sandbox, 0) < 0 || (sandbox->serving && serve_open(sandbox) < 0)) {
		record_failure(sandbox, errno);
		leave(sandbox, EXIT_REFUSED);
	}
	sandbox->shared->started =
		workload ? !sandbox->gated && sandbox->shared->reached && !sandbox->shared->failure.set
			 : sandbox->serve_mode == SERVE_ALONE;
	if (!sandbox->serving) {
		release_pages(sandbox->workload_argv, sandbox->arguments_size);
		release_stack();
	}
	supervise(sandbox, workload);
}
