/* PID 1: builds the view, gives up every right, forks the workload, reaps, forwards signals. */
#include "executor.h"
#include "uapi.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int perform_mount(struct sandbox *sandbox, const struct operation *operation)
{
	switch ((enum opcode)operation->type->opcode) {
	case OP_MAKE_PRIVATE: return make_private(sandbox);
	case OP_ROOT_TMPFS: return root_tmpfs(sandbox, operation);
	case OP_ROOT_BIND: return root_bind(sandbox, operation);
	case OP_MAKE_DIRECTORY:
		return make_directory(sandbox, plan_string(&sandbox->plan, operation, 0),
				      (mode_t)operation->values[1]);
	case OP_MAKE_FILE: return make_file(sandbox, operation);
	case OP_MAKE_SYMLINK: return make_symlink(sandbox, operation);
	case OP_BIND: return bind_tree(sandbox, operation);
	case OP_BIND_WORKING_DIRECTORY: return bind_working_directory(sandbox, operation);
	case OP_WRITABLE_DIRECTORY: return writable_directory(sandbox, operation);
	case OP_MOUNT_TMPFS: return mount_tmpfs(sandbox, operation);
	case OP_MOUNT_PROC: return mount_proc(sandbox, operation);
	case OP_MOUNT_DEVPTS: return mount_devpts(sandbox, operation);
	case OP_BIND_DEVICE: return bind_device(sandbox, operation);
	case OP_MASK: return mask(sandbox, operation);
	case OP_MAKE_READ_ONLY: return make_read_only(sandbox, operation);
	case OP_ROOT_ATTRIBUTES: return root_attributes(sandbox, operation);
	case OP_PIVOT_ROOT: return pivot(sandbox);
	default: break;
	}
	errno = ENOSYS;
	return fail(sandbox, "operation");
}

static int perform_init(struct sandbox *sandbox, const struct operation *operation)
{
	switch ((enum opcode)operation->type->opcode) {
	case OP_AWAIT_ID_MAPS: return await_id_maps(sandbox);
	case OP_WRITE_ID_MAP: return write_id_map(sandbox, operation);
	case OP_WRITE_SYSCTL: return write_sysctl(sandbox, operation);
	case OP_LOOPBACK_UP: return loopback_up(sandbox);
	case OP_SET_HOSTNAME: return set_hostname(sandbox, operation);
	case OP_SET_GROUPS: return set_groups(sandbox, operation);
	case OP_DROP_BOUNDING: return drop_bounding(sandbox, operation);
	case OP_SET_SECUREBITS: return set_securebits(sandbox, operation);
	case OP_SET_CAPABILITIES: return set_capabilities(sandbox, operation);
	case OP_NO_NEW_PRIVS: return no_new_privs(sandbox);
	case OP_NOT_DUMPABLE: return not_dumpable(sandbox);
	case OP_LANDLOCK_RULESET: return landlock_ruleset(sandbox, operation);
	case OP_LANDLOCK_PATH: return landlock_path(sandbox, operation);
	case OP_LANDLOCK_RESTRICT: return landlock_restrict(sandbox);
	default: return perform_mount(sandbox, operation);
	}
}

static int perform_workload(struct sandbox *sandbox, const struct operation *operation)
{
	switch ((enum opcode)operation->type->opcode) {
	case OP_NEW_SESSION: return new_session(sandbox);
	case OP_SET_UMASK: umask((mode_t)operation->values[0]); return 0;
	case OP_SET_LIMIT: return set_limit(sandbox, operation);
	case OP_CHANGE_DIRECTORY: return change_directory(sandbox, operation);
	case OP_SET_EXEC_LABEL: return set_exec_label(sandbox, operation);
	case OP_CLOSE_DESCRIPTORS: return close_descriptors(sandbox);
	case OP_LOAD_SECCOMP: return load_seccomp(sandbox, operation);
	case OP_EXECUTE: return execute(sandbox, operation);
	default: return 0; /* argv and environment were laid out before the clone */
	}
}

int perform(struct sandbox *sandbox, enum phase phase)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->phase != phase)
			continue;
		sandbox->current = i;
		if ((phase == PHASE_INIT ? perform_init(sandbox, &operation)
					 : perform_workload(sandbox, &operation)) < 0)
			return -1;
	}
	return 0;
}

void record_failure(struct sandbox *sandbox, int error)
{
	struct failure *failure = sandbox->failure;
	failure->operation = sandbox->current;
	failure->error = error;
	strncpy(failure->site, sandbox->site ? sandbox->site : "", sizeof failure->site - 1);
	failure->set = 1;
}

static _Noreturn void give_up(struct sandbox *sandbox)
{
	struct message message = {.kind = MESSAGE_FAILED, .failure = *sandbox->failure};
	control_send(sandbox->control_fd, &message, -1);
	_exit(EXIT_REFUSED);
}

/* A disposition that the caller left ignored would be the workload's too. */
void reset_signals(void)
{
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_handler = SIG_DFL;
	for (int number = 1; number < _NSIG; number++)
		sigaction(number, &action, NULL);
}

static int take_standard_descriptors(struct sandbox *sandbox)
{
	unsigned control = (unsigned)sandbox->control_fd;
	for (int fd = 0; fd < 3; fd++)
		if (sandbox->standard_fds[fd] != fd && dup2(sandbox->standard_fds[fd], fd) < 0)
			return fail(sandbox, "dup2");
	/* Nothing of the host stays open in a process that the workload can see (CVE-2024-21626). */
	if (control > 3)
		CHECK(close_descriptor_range(3, control - 1), "close_range");
	CHECK(close_descriptor_range(control + 1, ~0u), "close_range");
	return 0;
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

static void finish(struct sandbox *sandbox, int status)
{
	struct message message = {.kind = MESSAGE_FINISHED, .status = status};
	if (sandbox->failure->set)
		give_up(sandbox);
	control_send(sandbox->control_fd, &message, -1);
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
				if (pid == workload)
					finish(sandbox, status);
		} else if (number > 0 && info.si_pid == 0) {
			/* pid 0: sent from outside this pid namespace, that is by the parent. */
			forward(workload, number);
		}
	}
}

_Noreturn void init_main(struct sandbox *sandbox)
{
	struct message started = {.kind = MESSAGE_STARTED};
	pid_t workload;
	sandbox->current = NO_OPERATION;
	reset_signals();
	if (follow_parent(sandbox) < 0 || take_standard_descriptors(sandbox) < 0 ||
	    perform(sandbox, PHASE_INIT) < 0 || follow_parent(sandbox) < 0 ||
	    (workload = start_workload(sandbox)) < 0) {
		record_failure(sandbox, errno);
		give_up(sandbox);
	}
	close_descriptor_range(0, 2);
	if (sandbox->terminal_fd >= 0)
		close(sandbox->terminal_fd);
	if (sandbox->root_fd >= 0)
		close(sandbox->root_fd);
	if (sandbox->proc_fd >= 0)
		close(sandbox->proc_fd);
	if (!sandbox->failure->set)
		control_send(sandbox->control_fd, &started, -1);
	supervise(sandbox, workload);
}
