/* Before the clone: is everything still as it was when the plan was made? Then clone3. */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>

static uint64_t nanoseconds(struct timespec time)
{
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static bool same_path(const char *path, const uint64_t *values)
{
	struct stat status;
	if (lstat(path, &status) < 0)
		return (errno == ENOENT || errno == ENOTDIR) && !values[1] && !values[2];
	return status.st_dev == values[1] && status.st_ino == values[2] &&
	       (!values[3] || nanoseconds(status.st_mtim) == values[3]) &&
	       (!values[4] || nanoseconds(status.st_ctim) == values[4]);
}

static bool same_content(const char *path, const char *content)
{
	char buffer[512];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
	if (fd >= 0)
		close(fd);
	if (size < 0)
		return false;
	while (size > 0 && buffer[size - 1] == '\n')
		size--;
	buffer[size] = 0;
	return strcmp(buffer, content) == 0;
}

static bool is_among(gid_t group, const void *groups, size_t size)
{
	for (size_t at = 0; at < size; at += sizeof group)
		if (memcmp((const char *)groups + at, &group, sizeof group) == 0)
			return true;
	return false;
}

/*
 * getgroups(2) promises no order, may or may not tell the gid itself, and in a user namespace tells
 * every group that is not mapped there as the same one.
 */
static bool same_groups(struct blob wanted, gid_t own)
{
	gid_t groups[1024], group;
	int count = getgroups(1024, groups);
	bool same = count >= 0;
	for (int i = 0; i < count; i++)
		same = same && (groups[i] == own || is_among(groups[i], wanted.data, wanted.size));
	for (size_t at = 0; same && at < wanted.size; at += sizeof group) {
		memcpy(&group, wanted.data + at, sizeof group);
		same = is_among(group, groups, (size_t)count * sizeof group);
	}
	return same;
}

static bool holds(struct sandbox *sandbox, const struct operation *operation)
{
	const struct plan *plan = &sandbox->plan;
	const uint64_t *values = operation->values;
	struct rlimit limit;
	struct utsname kernel;
	switch ((enum opcode)operation->type->opcode) {
	case OP_REQUIRE_PATH:
		return same_path(plan_string(plan, operation, 0), values);
	case OP_REQUIRE_CONTENT:
		return same_content(plan_string(plan, operation, 0),
				    plan_string(plan, operation, 1));
	case OP_REQUIRE_KERNEL:
		return uname(&kernel) == 0 && !strcmp(kernel.release, plan_string(plan, operation, 0));
	case OP_REQUIRE_IDS:
		return sandbox->uid == values[0] && geteuid() == values[0] &&
		       sandbox->gid == values[1] && getegid() == values[1] &&
		       same_groups(plan_blob(plan, operation, 2), sandbox->gid);
	case OP_REQUIRE_HARD_LIMIT:
		return getrlimit((int)values[0], &limit) == 0 && limit.rlim_max >= values[1];
	case OP_REQUIRE_LANDLOCK:
		return (uint64_t)syscall(NR_LANDLOCK_CREATE_RULESET, NULL, 0,
					 LANDLOCK_CREATE_RULESET_VERSION) == values[0];
	case OP_REQUIRE_LABEL:
		return label_is_taken(sandbox, operation) == (values[2] != 0);
	default:
		return true;
	}
}

/*
 * All sandboxes of a user share one empty session keyring: without it they would see the user's
 * keys, and one for each would meet the quota of 200 keys. Only a kernel without keys may lack it.
 * With a label there is one for each label: a sandbox could not use that of another.
 */
static int join_keyring(struct sandbox *sandbox, const char *name)
{
	struct text own = {.size = 0};
	char label[sizeof own.data];
	if (sandbox->label[0]) {
		text_add(&own, name);
		text_add(&own, ":");
		text_add(&own, sandbox->label);
		name = own.data;
		if (label_next_key(sandbox) < 0)
			return -1;
	}
	long keyring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);
	if (keyring < 0)
		return errno == ENOSYS ? 0 : fail(sandbox, "keyctl");
	/* A keyring is found again by its name only where its user may search it. */
	CHECK(syscall(SYS_keyctl, KEYCTL_SETPERM, keyring,
		      KEY_POSSESSOR_ALL | KEY_USER_VIEW_READ_SEARCH_LINK), "keyctl");
	if (!sandbox->label[0])
		return 0;
	CHECK(syscall(SYS_keyctl, KEYCTL_GET_SECURITY, keyring, label, sizeof label), "keyctl");
	errno = EACCES;
	return strcmp(label, sandbox->label) ? fail(sandbox, "label of the keyring") : 0;
}

int launch_checks(struct sandbox *sandbox)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->phase != PHASE_LAUNCH)
			break;
		sandbox->current = i;
		sandbox->site = NULL;
		if (operation.type->opcode == OP_DRAW_LABEL && label_draw(sandbox, &operation) < 0)
			return -1;
		if (operation.type->opcode == OP_JOIN_SESSION_KEYRING &&
		    join_keyring(sandbox, plan_string(&sandbox->plan, &operation, 0)) < 0)
			return -1;
		if (operation.type->opcode == OP_PRIVATE_DIRECTORY &&
		    name_private_directory(sandbox, plan_string(&sandbox->plan, &operation, 0)) < 0)
			return -1;
		if ((operation.type->opcode == OP_CGROUP || operation.type->opcode == OP_CGROUP_V1) &&
		    cgroup_open(sandbox, &operation) < 0)
			return -1;
		if (!holds(sandbox, &operation)) {
			sandbox->site = NULL;
			errno = ESTALE;
			return -1;
		}
	}
	return 0;
}

/* Filters of containers may let namespaces be made by clone alone, and none be joined. */
static bool may_join(void)
{
	return unshare(0) == 0 && setns(-1, CLONE_NEWNET) < 0 && errno == EBADF;
}

int launch_clone(struct sandbox *sandbox, int *pidfd, pid_t *pid)
{
	struct operation operation;
	int pair[2], one = 1;
	sigset_t all;
	long result;
	plan_find(&sandbox->plan, OP_CLONE, &operation);
	sandbox->current = operation.index;
	/* Signals wait for the signal descriptor here and for sigwaitinfo in PID 1. */
	sigfillset(&all);
	if (sigprocmask(SIG_BLOCK, &all, NULL) < 0)
		return -1;
	/*
	 * To make a network namespace takes as long as all the others: a process of its own does it, while
	 * PID 1 copies the mounts and builds the view.
	 */
	sandbox->network_apart = plan_find(&sandbox->plan, OP_JOIN_NETWORK, &operation) && may_join();
	if (sandbox->network_apart)
		sandbox->later_namespaces = CLONE_NEWNET | CLONE_NEWNS;
	/* Helpers that map ids need the user namespace alone: they start before the others exist. */
	if (plan_find(&sandbox->plan, OP_AWAIT_ID_MAPS, &operation))
		sandbox->later_namespaces = ~(uint64_t)(CLONE_NEWUSER | CLONE_NEWPID);
	plan_find(&sandbox->plan, OP_CLONE, &operation);
	sandbox->later_namespaces &= operation.values[0];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	if (setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) < 0)
		return -1;
	struct clone_arguments arguments = {
		.flags = (operation.values[0] & ~sandbox->later_namespaces) | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
	};
	if (sandbox->cgroup.placed) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (uint64_t)sandbox->cgroup.leaf_fds[0];
	}
	result = syscall(NR_CLONE3, &arguments, sizeof arguments);
	/* Filters of containers answer so because they can't look into the structure. */
	if (result < 0 && errno == ENOSYS && !sandbox->cgroup.placed)
		result = syscall(SYS_clone, arguments.flags | SIGCHLD, 0, pidfd, 0, 0);
	if (result == 0) {
		close(pair[0]);
		sandbox->control_fd = pair[1];
		init_main(sandbox);
	}
	close(pair[1]);
	sandbox->control_fd = pair[0];
	*pid = (pid_t)result;
	return result < 0 ? -1 : 0;
}

/* The sentence of the schema, with this operation's arguments in it. */
static void describe(struct text *text, const struct plan *plan, const struct operation *operation)
{
	for (const char *at = operation->type->sentence; *at; at++) {
		char plain[2] = {*at, 0};
		if (*at != '%') {
			text_add(text, plain);
			continue;
		}
		char conversion = *++at;
		unsigned index = (unsigned)(*++at - '0');
		if (conversion == 's') {
			const char *string = plan_string(plan, operation, index);
			text_escape(text, string, strlen(string));
		} else {
			text_number(text, operation->values[index],
				    conversion == 'x' ? 16 : conversion == 'o' ? 8 : 10);
		}
	}
}

/*
 * Ubuntu lets a program without a profile make a user namespace, and refuses whatever it does there.
 * A compiled program has nobody else to say so: on the command line `hardrun doctor` finds it.
 */
static bool is_restricted_by_apparmor(const struct failure *failure, const struct operation *operation)
{
	char label[64];
	enum phase phase = operation->type->phase;
	return (failure->error == EACCES || failure->error == EPERM) &&
	       (operation->type->opcode == OP_CLONE || phase == PHASE_PARENT || phase == PHASE_INIT) &&
	       same_content("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") &&
	       (read_process_file(getpid(), "/attr/current", NULL, label, sizeof label) <= 0 ||
		!strncmp(label, "unconfined", 10) || !strncmp(label, "unprivileged_userns", 19));
}

void report_failure(const struct sandbox *sandbox, const struct failure *failure)
{
	struct text text = {.size = 0};
	struct operation operation;
	text_add(&text, "hardrun: ");
	if (failure->error == ESTALE && !failure->site[0])
		text_add(&text, "the plan is stale, make it again: ");
	if (failure->operation < sandbox->plan.count) {
		plan_operation(&sandbox->plan, failure->operation, &operation);
		describe(&text, &sandbox->plan, &operation);
		text_add(&text, ": ");
	}
	if (failure->site[0]) {
		text_add(&text, failure->site);
		text_add(&text, ": ");
	}
	text_errno(&text, failure->error);
	if (failure->operation < sandbox->plan.count) {
		text_add(&text, " (operation ");
		text_number(&text, failure->operation, 10);
		if (operation.reason[0])
			text_add(&text, ", ");
		text_escape(&text, operation.reason, strlen(operation.reason));
		text_add(&text, ")");
	}
	text_add(&text, "\n");
	if (failure->operation < sandbox->plan.count && is_restricted_by_apparmor(failure, &operation))
		text_add(&text, "  hint: kernel.apparmor_restrict_unprivileged_userns is 1 and this program "
			 "has no AppArmor profile: as root: hardrun profile install hardrun, then use "
			 "hardrun run; or give this file a profile with 'userns,'\n");
	text_write(&text, STDERR_FILENO);
}
