/*
 * What the kernel alone takes for the posture of the policy untrusted on a root of its own: one program
 * that makes the necessary system calls and checks nothing. No sandbox: a number to compare with.
 *
 *	floor FILTER ROOTFS PROGRAM [ARGUMENT...]
 *	floor FILTER ROOTFS - SOCKET     waits, prepared, for the program that a packet of a pool's names
 */
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#undef MS_PRIVATE /* the same numbers, of another type */
#undef MNT_DETACH
#include "operations.h"
#include "uapi.h"

#define NEW_NAMESPACES \
	(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
#define ALL_RIGHTS 0xffffu

static char filter[65536];

static void must(int holds, const char *what)
{
	if (holds)
		return;
	perror(what);
	_exit(1);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && write(fd, text, strlen(text)) > 0 && !close(fd), path);
}

static void map_ids(unsigned uid, unsigned gid)
{
	char text[64];
	write_text("/proc/self/setgroups", "deny");
	snprintf(text, sizeof text, "%u %u 1\n", uid, uid);
	write_text("/proc/self/uid_map", text);
	snprintf(text, sizeof text, "%u %u 1\n", gid, gid);
	write_text("/proc/self/gid_map", text);
}

static void raise_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	must(fd >= 0 && !ioctl(fd, SIOCSIFFLAGS, &request) && !close(fd), "lo");
}

static void bind_device(const char *name)
{
	char source[32], target[64];
	snprintf(source, sizeof source, "/dev/%s", name);
	snprintf(target, sizeof target, "dev/%s", name);
	int fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	must(fd >= 0 && !close(fd) && !mount(source, target, NULL, MS_BIND, NULL), source);
}

static void make_view(const char *rootfs)
{
	static const char *const DEVICES[] = {"full", "null", "random", "tty", "urandom", "zero"};
	static const char *const LINKS[][2] = {{"dev/fd", "/proc/self/fd"}, {"dev/stdin", "/proc/self/fd/0"},
					       {"dev/stdout", "/proc/self/fd/1"},
					       {"dev/stderr", "/proc/self/fd/2"}};
	struct mount_attributes read_only = {.set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
						    MOUNT_ATTR_NODEV};
	must(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	must(!mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL) && !chdir(rootfs), rootfs);
	must(!mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755"), "dev");
	for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++)
		bind_device(DEVICES[i]);
	must(!mkdir("dev/shm", 01777) &&
		     !mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL),
	     "dev/shm");
	for (size_t i = 0; i < sizeof LINKS / sizeof *LINKS; i++)
		must(!symlink(LINKS[i][1], LINKS[i][0]), LINKS[i][0]);
	must(!mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid"), "proc");
	must(!mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"), "tmp");
	int fd = open(".", O_PATH | O_CLOEXEC);
	must(fd >= 0 && !syscall(NR_MOUNT_SETATTR, fd, "", 0x1000, &read_only, sizeof read_only),
	     "read-only");
	must(!close(fd) && !syscall(SYS_pivot_root, ".", ".") && !umount2(".", MNT_DETACH), "pivot");
}

static void drop_privileges(void)
{
	struct capability_header header = {.version = CAPABILITY_VERSION_3};
	struct capability_data none[2] = {{0}};
	for (int capability = 0; capability <= 40; capability++)
		must(!prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "bounding");
	must(!prctl(PR_SET_SECUREBITS, 0x2f, 0, 0, 0) && !syscall(SYS_capset, &header, none), "capset");
	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl");
}

static void enter_domain(void)
{
	static const struct {
		const char *path;
		uint64_t access;
	} RULES[] = {{"/", 0xd}, {"/dev", 0x800e}, {"/dev/shm", 0x7ff2}, {"/proc", 0xe}, {"/tmp", 0x7fff}};
	struct landlock_ruleset ruleset = {.filesystem = ALL_RIGHTS};
	int domain = (int)syscall(NR_LANDLOCK_CREATE_RULESET, &ruleset, 8, 0);
	for (size_t i = 0; domain >= 0 && i < sizeof RULES / sizeof *RULES; i++) {
		struct landlock_path_beneath rule = {
			.access = RULES[i].access, .parent_fd = open(RULES[i].path, O_PATH | O_CLOEXEC)};
		must(!syscall(NR_LANDLOCK_ADD_RULE, domain, LANDLOCK_RULE_PATH_BENEATH, &rule, 0),
		     "landlock");
		close(rule.parent_fd);
	}
	if (domain >= 0) /* else this kernel has no Landlock, and no sandbox here pays for it */
		must(!syscall(NR_LANDLOCK_RESTRICT_SELF, domain, 0), "landlock");
}

static void limit(void)
{
	static const int LIMITS[] = {RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NOFILE, RLIMIT_CORE, RLIMIT_MEMLOCK};
	setsid();
	for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
		struct rlimit limit;
		getrlimit((__typeof__(RLIMIT_CPU))LIMITS[i], &limit);
		setrlimit((__typeof__(RLIMIT_CPU))LIMITS[i], &limit);
	}
}

static void load_filter(ssize_t size)
{
	struct filter_program program = {.length = (uint16_t)(size / 8), .filter = filter};
	must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

static void become(char **argv, ssize_t size)
{
	limit();
	close_descriptor_range(3, ~0u);
	load_filter(size);
	execv(argv[0], argv);
	_exit(127);
}

/* Descriptors are PID 1's, too, until the last step: so it has the channel without being told. */
static void become_what_comes(int socket_fd, int *channel_fd, ssize_t size)
{
	char data[512];
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec part = {data, sizeof data};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				.msg_controllen = sizeof control};
	int fds[4];
	limit();
	load_filter(size);
	must(recvmsg(socket_fd, &header, MSG_CMSG_CLOEXEC) > 0, "recvmsg");
	memcpy(fds, CMSG_DATA(&control.header), sizeof fds);
	*channel_fd = fds[0];
	for (int fd = 0; fd < 3; fd++)
		dup2(fds[fd + 1], fd);
	syscall(SYS_close_range, 3u, ~0u, 2u /* CLOSE_RANGE_UNSHARE */);
	char *argv[] = {data + JOB_HEADER_SIZE + 1, NULL};
	execv(argv[0], argv);
	_exit(127);
}

static int wait_for_one(int socket_fd, ssize_t size)
{
	struct {
		uint32_t kind;
		int32_t status;
		char rest[REPLY_SIZE - 8];
	} reply = {.kind = TOLD_ENDED};
	int *channel_fd = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(channel_fd != MAP_FAILED, "mmap");
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | 17 /* SIGCHLD */, 0, 0, 0, 0);
	if (!pid)
		become_what_comes(socket_fd, channel_fd, size);
	must(pid > 0 && waitpid(pid, &reply.status, 0) == pid, "wait");
	return send(*channel_fd, &reply, sizeof reply, MSG_NOSIGNAL) < 0;
}

static int init(char **argv, unsigned uid, unsigned gid, ssize_t size)
{
	int status = 0;
	map_ids(uid, gid);
	raise_loopback();
	write_text("/proc/sys/user/max_user_namespaces", "0");
	must(!sethostname("floor", 5), "sethostname");
	make_view(argv[2]);
	drop_privileges();
	enter_domain();
	if (!strcmp(argv[3], "-"))
		return wait_for_one(atoi(argv[4]), size);
	pid_t pid = vfork();
	if (!pid)
		become(argv + 3, size);
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "wait");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}

int main(int argc, char **argv)
{
	unsigned uid = getuid(), gid = getgid();
	struct clone_arguments how = {.flags = NEW_NAMESPACES, .exit_signal = 17 /* SIGCHLD */};
	int status = 0;
	must(argc > 3, "usage");
	int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, filter, sizeof filter);
	must(size > 0 && !close(fd), argv[1]);
	must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "hardrun") >= 0, "keyring");
	pid_t pid = (pid_t)syscall(NR_CLONE3, &how, sizeof how);
	if (!pid)
		_exit(init(argv, uid, gid, size));
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "clone3");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
