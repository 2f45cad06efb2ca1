/* Id maps, namespaced sysctls, host name: what PID 1 sets up before any mount; and the network. */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * A write to /proc that lands elsewhere is a write that silently did nothing (CVE-2019-16884,
 * CVE-2025-52881): the descriptor must be procfs.
 */
static int write_proc(struct sandbox *sandbox, const char *path, const char *data, size_t size)
{
	struct statfs status;
	int fd, saved;
	ssize_t written;
	CHECK(fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), "open");
	if (fstatfs(fd, &status) < 0 || status.f_type != PROC_SUPER_MAGIC) {
		close(fd);
		errno = EXDEV;
		return fail(sandbox, "fstatfs");
	}
	written = write(fd, data, size);
	saved = errno;
	close(fd);
	errno = saved;
	return written == (ssize_t)size ? 0 : fail(sandbox, "write");
}

static int write_map(struct sandbox *sandbox, const char *path, uint64_t inside, uint64_t outside)
{
	struct text line = {.size = 0};
	text_number(&line, inside, 10);
	text_add(&line, " ");
	text_number(&line, outside, 10);
	text_add(&line, " 1");
	return write_proc(sandbox, path, line.data, line.size);
}

/* Without a subordinate range the kernel takes a gid map only where setgroups is denied. */
int perform_write_id_map(struct sandbox *sandbox, const struct operation *operation)
{
	if (write_map(sandbox, "/proc/self/uid_map", operation->values[0], sandbox->uid) < 0 ||
	    write_proc(sandbox, "/proc/self/setgroups", "deny", 4) < 0)
		return -1;
	return write_map(sandbox, "/proc/self/gid_map", operation->values[1], sandbox->gid);
}

/* The kernel lets the owner of a namespace map its own uid, whoever maps the gids. */
int perform_write_uid_map(struct sandbox *sandbox, const struct operation *operation)
{
	return write_map(sandbox, "/proc/self/uid_map", operation->values[0], sandbox->uid);
}

/*
 * The helpers started with this process. What needs no mapped id is done before the wait: a file
 * can be made only once there is a map (EOVERFLOW), a tree can be cloned without.
 */
int perform_await_id_maps(struct sandbox *sandbox, const struct operation *operation)
{
	if (take_sources(sandbox) < 0)
		return -1;
	sandbox->current = operation->index;
	CHECK(control_wait(sandbox->control_fd), "recv");
	return 0;
}

int perform_write_sysctl(struct sandbox *sandbox, const struct operation *operation)
{
	const char *value = plan_string(&sandbox->plan, operation, 1);
	return write_proc(sandbox, plan_string(&sandbox->plan, operation, 0), value, strlen(value));
}

static int raise_loopback(struct sandbox *sandbox)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd, result;
	CHECK(fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	request.ifr_flags = IFF_UP;
	result = ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return result < 0 ? fail(sandbox, "SIOCSIFFLAGS") : 0;
}

static int make_network(struct sandbox *sandbox)
{
	CHECK(unshare(CLONE_NEWNET), "unshare");
	if (raise_loopback(sandbox) < 0)
		return -1;
	CHECK(sandbox->shared->network_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "open");
	return 0;
}

/* Its descriptors are PID 1's, so that the namespace is at hand when it has ended. */
int start_network(struct sandbox *sandbox)
{
	struct operation operation;
	CHECK(sandbox->network_pid = (pid_t)syscall(SYS_clone, CLONE_FILES, 0, 0, 0, 0), "clone");
	if (sandbox->network_pid)
		return 0;
	plan_find(&sandbox->plan, OP_JOIN_NETWORK, &operation);
	sandbox->current = operation.index;
	if (make_network(sandbox) == 0)
		_exit(0);
	record_failure(sandbox, errno);
	_exit(EXIT_REFUSED);
}

int perform_join_network(struct sandbox *sandbox, const struct operation *operation)
{
	int status;
	(void)operation;
	if (!sandbox->network_pid) /* it came with the others */
		return raise_loopback(sandbox);
	CHECK(waitpid(sandbox->network_pid, &status, __WALL), "waitpid");
	errno = ECHILD;
	if (status)
		return fail(sandbox, "killed"); /* unless it has told another failure */
	CHECK(setns(sandbox->shared->network_fd, CLONE_NEWNET), "setns");
	return close(sandbox->shared->network_fd);
}

int perform_set_hostname(struct sandbox *sandbox, const struct operation *operation)
{
	const char *name = plan_string(&sandbox->plan, operation, 0);
	CHECK(sethostname(name, strlen(name)), "sethostname");
	/* The kernel's own default: a new namespace has the host's. */
	CHECK(setdomainname("(none)", 6), "setdomainname");
	return 0;
}
