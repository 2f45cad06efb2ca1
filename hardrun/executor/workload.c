/*
 * The last steps, in the process that becomes the command. It may share memory with PID 1 (vfork):
 * it allocates nothing and returns by _exit alone. The filter comes last, so that a profile needs
 * to allow what the workload does and nothing for our sake.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* At a gate the parent attaches here and is told of the exec by the kernel. */
static int wait_at_gate(struct sandbox *sandbox)
{
	CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE");
	CHECK(control_send(sandbox->control_fd, REQUEST_READY, -1), "sendmsg");
	CHECK(control_wait(sandbox->control_fd), "recv");
	CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE");
	return 0;
}

/*
 * PID 1 holds them under any numbers, 0-2 among them. Memory is PID 1's own: what is written to
 * `sandbox` here stays there, and the next command would find it.
 */
static int take_served(struct sandbox *sandbox, int null_fd)
{
	int moved[3];
	for (int fd = 0; fd < 3; fd++) {
		moved[fd] = is_null(sandbox->standard_fds[fd]) && null_fd >= 0
				    ? null_fd : sandbox->standard_fds[fd];
		if (moved[fd] < 3)
			CHECK(moved[fd] = fcntl(moved[fd], F_DUPFD_CLOEXEC, 3), "fcntl");
	}
	for (int fd = 0; fd < 3; fd++)
		CHECK(dup2(moved[fd], fd), "dup2");
	return 0;
}

/*
 * Of a sandbox for a single command: forked before that comes, with as much done as does not depend on
 * it. The plan says whether the filter lets through what is left to do; else it comes last, as ever.
 */
_Noreturn void workload_ahead(struct sandbox *sandbox)
{
	struct job job;
	int fds[4], null_fd;
	sigset_t none;
	do /* what comes is above 2 then */
		null_fd = open_null();
	while (null_fd >= 0 && null_fd < 3);
	sigemptyset(&none);
	umask(sandbox->umask);
	sandbox->part = PART_AHEAD;
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || perform(sandbox, PHASE_WORKLOAD) < 0 ||
	    serve_await(sandbox, &job, fds) < 0) {
		record_failure(sandbox, errno);
		_exit(EXIT_REFUSED);
	}
	sandbox->served = &job;
	sandbox->standard_fds = fds + 1;
	sandbox->part = PART_REST;
	/* PID 1 holds it once it waits for nothing else: a stop that it sees before would be lost. */
	if ((sandbox->labelled &&
	     (control_wait(sandbox->control_fd) < 0 || gate_ask(sandbox) < 0)) ||
	    take_served(sandbox, null_fd) < 0 || perform(sandbox, PHASE_WORKLOAD) < 0)
		record_failure(sandbox, errno);
	_exit(EXIT_REFUSED);
}

int workload_main(void *argument)
{
	struct sandbox *sandbox = argument;
	sigset_t none;
	sigemptyset(&none);
	umask(sandbox->umask);
	/* Bare, PID 1's part is done here: its reaper stays outside of what signals can reach. */
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 ||
	    (sandbox->bare && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) ||
	    (sandbox->gated && !sandbox->served && wait_at_gate(sandbox) < 0) ||
	    (sandbox->served && take_served(sandbox, open_null()) < 0) ||
	    (sandbox->served && sandbox->labelled && gate_ask(sandbox) < 0) ||
	    (sandbox->bare && perform(sandbox, PHASE_INIT) < 0) ||
	    perform(sandbox, PHASE_WORKLOAD) < 0)
		record_failure(sandbox, errno);
	_exit(EXIT_REFUSED);
}

int perform_new_session(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	CHECK(setsid(), "setsid");
	if (sandbox->terminal_fd < 0)
		return 0;
	CHECK(ioctl(sandbox->terminal_fd, TIOCSCTTY, 0), "TIOCSCTTY");
	for (int fd = 0; fd < 3; fd++)
		CHECK(dup2(sandbox->terminal_fd, fd), "dup2");
	return 0;
}

int perform_set_umask(struct sandbox *sandbox, const struct operation *operation)
{
	(void)sandbox;
	umask((mode_t)operation->values[0]);
	return 0;
}

int perform_set_limit(struct sandbox *sandbox, const struct operation *operation)
{
	struct rlimit limit = {.rlim_cur = operation->values[1], .rlim_max = operation->values[2]};
	CHECK(setrlimit((int)operation->values[0], &limit), "setrlimit");
	return 0;
}

int perform_change_directory(struct sandbox *sandbox, const struct operation *operation)
{
	const char *path = plan_string(&sandbox->plan, operation, 0);
	char current[PATH_MAX];
	if (sandbox->served && sandbox->served->directory[0])
		path = sandbox->served->directory;
	CHECK(chdir(place(sandbox, path)), "chdir");
	/* A directory outside the root shows as "(unreachable)" (CVE-2024-21626). */
	if (syscall(SYS_getcwd, current, sizeof current) < 0 || current[0] != '/') {
		errno = EXDEV;
		return fail(sandbox, "getcwd");
	}
	return 0;
}

int perform_close_descriptors(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	CHECK(close_descriptor_range(3, ~0u), "close_range");
	return 0;
}

int perform_load_seccomp(struct sandbox *sandbox, const struct operation *operation)
{
	struct blob blob = plan_blob(&sandbox->plan, operation, 0);
	struct filter_program program = {.length = (uint16_t)(blob.size / 8), .filter = blob.data};
	if (!blob.size || blob.size % 8 || blob.size / 8 > UINT16_MAX) {
		errno = EINVAL;
		return fail(sandbox, "seccomp");
	}
	/* There is one thread. Were there another, its number would come back, and no filter be loaded. */
	long thread = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			      operation->values[1] | SECCOMP_FILTER_FLAG_TSYNC, &program);
	if (thread > 0)
		errno = EBUSY;
	return thread ? fail(sandbox, "seccomp") : 0;
}

static void try_execute(const struct sandbox *sandbox, const char *path)
{
	const struct job *job = sandbox->served;
	execve(path, job ? job->argv : sandbox->workload_argv,
	       job ? job->environment : sandbox->workload_environment);
}

/* As execvp(3): a file that can't be executed is remembered, the search goes on. */
static int search(const struct sandbox *sandbox, const char *name, const char *directories)
{
	char path[PATH_MAX];
	size_t name_size = strlen(name);
	int error = ENOENT;
	while (*directories) {
		size_t size = strcspn(directories, ":");
		if (size && size + name_size + 2 <= sizeof path) {
			memcpy(path, directories, size);
			path[size] = '/';
			memcpy(path + size + 1, name, name_size + 1);
			try_execute(sandbox, path);
			if (errno != ENOENT && errno != ENOTDIR)
				error = errno;
			if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
				break;
		}
		directories += size + (directories[size] == ':');
	}
	return error;
}

/* Its own PATH: a name is looked up inside, as the last thing of all (CVE-2024-21626). */
static const char *path_of(char **environment)
{
	for (; *environment; environment++)
		if (!strncmp(*environment, "PATH=", 5))
			return *environment + 5;
	return "";
}

int perform_execute(struct sandbox *sandbox, const struct operation *operation)
{
	const char *path = plan_string(&sandbox->plan, operation, 0);
	const char *directories = plan_string(&sandbox->plan, operation, 1);
	if (sandbox->served) {
		path = sandbox->served->argv[0];
		directories = path_of(sandbox->served->environment);
	}
	sandbox->shared->reached = 1;
	if (strchr(path, '/'))
		try_execute(sandbox, path);
	else
		errno = search(sandbox, path, directories);
	return fail(sandbox, "execve");
}
