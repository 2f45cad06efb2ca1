/*
 * The probe: a throw-away child of PID 1 that tries what must not work in this sandbox and reads
 * what the kernel shows to a process alone. A verifier writes its questions into the memory that
 * the parent and PID 1 share. It opens that as a descriptor of the parent, for which the kernel
 * asks for the right to trace the parent; the workload has neither, nor, since its exec, the
 * mapping. What can be asked is a short list all the same: whoever got hold of the memory could
 * make no system call through it that the filter refuses.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#define KEYCTL_DESCRIBE 6
#define KEYCTL_READ 11
#define SESSION_KEYRING (-3)
#define OPEN_FLAGS (O_ACCMODE | O_PATH | O_TMPFILE | O_NOFOLLOW)
#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | \
		    CLONE_NEWUTS | CLONE_NEWCGROUP)
#define MOST_DESCRIPTORS 1024
#define PATIENCE 5u /* seconds for one question: a network namespace waits for others on a busy machine */

_Static_assert(sizeof(struct question) == QUESTION_SIZE, "the schema and the executor disagree");
_Static_assert(offsetof(struct shared, probe) == PROBE_OFFSET &&
		       offsetof(struct shared, started) == REACHED_END,
	       "the schema and the executor disagree");

static uint32_t taken; /* PID 1: the last request that it has seen */
static unsigned descriptors; /* a probe: how many it got from PID 1 */

/* The descriptor stays open in the parent: that is how a verifier finds the memory. */
struct shared *probe_share(void)
{
	int fd = memfd_create(PROBE_MEMORY, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* Sealed, so that nobody can take pages away beneath those who have it mapped. */
	if (fd >= 0 && (ftruncate(fd, sizeof(struct shared)) < 0 ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) < 0)) {
		close(fd);
		fd = -1;
	}
	return mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE,
		    MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
}

static int connect_abstract(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t size = strnlen(name, sizeof address.sun_path - 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	memcpy(address.sun_path + 1, name, size);
	return fd < 0 ? -1 : connect(fd, (const void *)&address,
				     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + size));
}

static int64_t attempt(struct question *question)
{
	struct stat status;
	switch (question->kind & ~PROBE_FILTERED) {
	case ASK_OPEN:
		return open(question->text, (int)(question->value & OPEN_FLAGS) | O_NONBLOCK |
			    O_NOCTTY | O_CLOEXEC, 0600);
	case ASK_DEVICE:
		return mknod(question->text, S_IFCHR, makedev(1, 3));
	case ASK_INODE:
		return stat(question->text, &status) < 0 ? -1 : (int64_t)status.st_ino;
	case ASK_SECUREBITS:
		return prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
	case ASK_KEYRING:
		if (syscall(SYS_keyctl, KEYCTL_DESCRIBE, SESSION_KEYRING, question->text,
			    sizeof question->text) < 0)
			return -1;
		return syscall(SYS_keyctl, KEYCTL_READ, SESSION_KEYRING, NULL, 0);
	case ASK_NAMESPACES:
		return unshare((int)(question->value & NAMESPACES));
	case ASK_CONNECT:
		return connect_abstract(question->text);
	case ASK_SIGNAL:
		return kill((pid_t)question->value, 0);
	case ASK_DESCRIPTORS:
		return descriptors;
	default:
		errno = EINVAL;
		return -1;
	}
}

static int load_filters(struct sandbox *sandbox)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode == OP_LOAD_SECCOMP &&
		    perform_load_seccomp(sandbox, &operation) < 0)
			return -1;
	}
	return 0;
}

static _Noreturn void answer(const struct sandbox *sandbox, struct question *question)
{
	struct sandbox copy = *sandbox;
	struct question own = *question; /* who asks could write meanwhile */
	int64_t result;
	own.text[sizeof own.text - 1] = 0;
	own.answered = ANSWERED_TRIED;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	alarm(PATIENCE);
	copy.root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* Bare, PID 1 itself is in no domain: one is entered that has the workload's rules. */
	if ((copy.bare && perform(&copy, PHASE_INIT) < 0) ||
	    (own.kind & PROBE_FILTERED && load_filters(&copy) < 0)) {
		own.answered = ANSWERED_UNFILTERED;
		result = -1;
	} else {
		result = attempt(&own);
	}
	own.error = result < 0 ? errno : 0;
	own.value = (uint64_t)result;
	*question = own;
	_exit(0);
}

/* A process for each question: a filter may kill it, and what it gave itself is gone with it. */
static _Noreturn void probe_main(const struct sandbox *sandbox)
{
	struct probe *probe = &sandbox->shared->probe;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int fd = 0; fd < MOST_DESCRIPTORS; fd++)
		descriptors += fcntl(fd, F_GETFD) >= 0;
	descriptors -= serve_descriptors(sandbox);
	close_descriptor_range(0, ~0u);
	for (uint32_t i = 0; i < probe->count && i < QUESTIONS; i++) {
		struct question *question = &probe->questions[i];
		int status;
		pid_t pid = fork();
		if (pid == 0)
			answer(sandbox, question);
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			break;
		if (WIFSIGNALED(status) && question->answered == ANSWERED_NOT) {
			question->answered = ANSWERED_KILLED;
			question->error = WTERMSIG(status);
		}
	}
	_exit(0);
}

/* PID 1: starts a probe when a new request lies there. Returns its pid, or 0. */
pid_t probe_start(const struct sandbox *sandbox)
{
	uint32_t asked = __atomic_load_n(&sandbox->shared->probe.asked, __ATOMIC_ACQUIRE);
	if (asked == taken)
		return 0;
	taken = asked;
	pid_t pid = fork();
	if (pid == 0)
		probe_main(sandbox);
	return pid < 0 ? probe_ended(sandbox) : pid;
}

pid_t probe_ended(const struct sandbox *sandbox)
{
	__atomic_store_n(&sandbox->shared->probe.answered, taken, __ATOMIC_RELEASE);
	return 0;
}
