/*
 * What is run inside every sandbox that is measured: nothing by default, and on request one byte of
 * output, a wait, or one operation many times.
 *
 *	probe                        exit 0
 *	probe byte                   write one byte
 *	probe hold                   wait until it is killed
 *	probe time NAME N PATH...    nanoseconds for one of N operations, a line for each three words: the
 *	                             mean of the quickest tenth, as what disturbs only ever adds
 *	probe filtered FILE MODE...  load a seccomp filter first; "allow" is one that allows all
 *	probe client PROGRAM INSIDE  outside: for each packet at descriptor 0 the nanoseconds of a start:
 *	                             with a socket, of INSIDE in the sandbox that waits behind it, from the
 *	                             request to the end that is told; without, of PROGRAM by fork and exec,
 *	                             or vfork where the packet is a "v"
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "operations.h"
#include "uapi.h"

#define BLOCK (1u << 20)
#define PARTS 10

static char block[BLOCK];
static const char *self;

static int fail(const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
	return 1;
}

static int get_pid(const char *path)
{
	(void)path;
	return syscall(SYS_getpid) < 0;
}

static int read_byte(const char *path)
{
	static int fd = -1;
	if (fd < 0) /* once: it is the read that is timed */
		fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || pread(fd, block, 1, 0) < 0;
}

static int open_and_close(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || close(fd);
}

static int make_child(const char *path)
{
	int status = 0;
	pid_t pid = fork();
	(void)path;
	if (!pid)
		_exit(0);
	return pid < 0 || waitpid(pid, &status, 0) != pid || status;
}

static int execute(const char *path)
{
	int status = 0;
	pid_t pid = vfork();
	(void)path;
	if (!pid) {
		execl(self, self, (char *)0);
		_exit(127);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid || status;
}

static int read_file(const char *path)
{
	ssize_t count;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	do
		count = read(fd, block, sizeof block);
	while (count > 0);
	return close(fd) || count < 0;
}

static int write_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return 1;
	ssize_t count = write(fd, block, sizeof block);
	return close(fd) || unlink(path) || count != (ssize_t)sizeof block;
}

static int look_at(const char *path)
{
	struct stat status;
	return stat(path, &status);
}

static const struct {
	const char *name;
	int (*perform)(const char *path);
} OPERATIONS[] = {
	{"getpid", get_pid}, {"read", read_byte}, {"openat", open_and_close}, {"clone", make_child},
	{"exec", execute}, {"read-file", read_file}, {"write-file", write_file}, {"stat", look_at},
};

static uint64_t nanoseconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int time_operation(const char *name, long count, const char *path)
{
	long part = count < PARTS ? 1 : count / PARTS;
	uint64_t least = UINT64_MAX;
	for (size_t i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++) {
		if (strcmp(OPERATIONS[i].name, name) != 0)
			continue;
		if (OPERATIONS[i].perform(path)) /* not counted: caches are filled */
			return fail(name);
		for (long done = 0; done < count; done += part) {
			uint64_t begin = nanoseconds();
			for (long n = 0; n < part; n++)
				if (OPERATIONS[i].perform(path))
					return fail(name);
			uint64_t taken = nanoseconds() - begin;
			least = least < taken ? least : taken;
		}
		return printf("%.3f\n", (double)least / (double)part) < 0;
	}
	errno = EINVAL;
	return fail(name);
}

static int time_operations(int count, char **words)
{
	for (int i = 0; i + 2 < count; i += 3)
		if (time_operation(words[i], strtol(words[i + 1], NULL, 10), words[i + 2]))
			return 1;
	return 0;
}

static int load_filter(const char *path)
{
	static const uint64_t allow = 0x7fff000000000006ull; /* BPF_RET, SECCOMP_RET_ALLOW */
	struct filter_program program = {.length = 1, .filter = &allow};
	if (strcmp(path, "allow") != 0) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t size = fd < 0 ? -1 : read(fd, block, sizeof block);
		if (size <= 0)
			return 1;
		close(fd);
		program = (struct filter_program){.length = (uint16_t)(size / 8), .filter = block};
	}
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* The descriptors of a packet go out with it, or the one that it may have comes in. */
static ssize_t packet(int fd, void *data, size_t size, int *fds, unsigned count, int sends)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control = {.header = {.cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS}};
	struct iovec part = {data, size};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int))};
	if (sends) {
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
		return sendmsg(fd, &header, MSG_NOSIGNAL);
	}
	ssize_t got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
	if (got > 0 && header.msg_controllen)
		memcpy(fds, CMSG_DATA(&control.header), count * sizeof(int));
	return got;
}

/* As serve.py does it: one packet, a channel of its own, and the null device three times. */
static int request(int to, const char *inside, int null_fd)
{
	char data[512] = JOB_MAGIC, reply[REPLY_SIZE];
	uint32_t told[2] = {0, 1}, words = 1;
	int pair[2];
	size_t size = JOB_HEADER_SIZE + 1 + strlen(inside) + 1;
	if (size > sizeof data || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return 1;
	memcpy(data + 12, &words, sizeof words);
	strcpy(data + JOB_HEADER_SIZE + 1, inside);
	int fds[4] = {pair[1], null_fd, null_fd, null_fd};
	ssize_t sent = packet(to, data, size, fds, 4, 1);
	close(pair[1]);
	ssize_t got = sent < 0 ? -1 : recv(pair[0], reply, sizeof reply, 0);
	memcpy(told, reply, sizeof told);
	close(pair[0]);
	return got != sizeof reply || told[0] != TOLD_ENDED || told[1];
}

static int spawn(const char *program, int null_fd, int by_vfork)
{
	int status = 0;
	pid_t pid = by_vfork ? vfork() : fork();
	if (!pid) {
		for (int fd = 0; fd < 3; fd++)
			dup2(null_fd, fd);
		execl(program, program, (char *)0);
		_exit(127);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid || status;
}

static int be_client(const char *program, const char *inside)
{
	char byte;
	int to = -1, null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (packet(0, &byte, 1, &to, 1, 0) > 0) {
		if (spawn(program, null_fd, 1)) /* not counted: caches are filled */
			return fail(program);
		uint64_t begin = nanoseconds();
		int failed = to < 0 ? spawn(program, null_fd, byte == 'v') : request(to, inside, null_fd);
		uint64_t taken = failed ? 0 : nanoseconds() - begin;
		if (to >= 0)
			close(to);
		to = -1;
		if (send(0, &taken, sizeof taken, MSG_NOSIGNAL) < 0)
			return fail("send");
	}
	return 0;
}

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc > 3 && !strcmp(argv[1], "filtered")) {
		if (load_filter(argv[2]))
			return fail("filtered");
		argc -= 2;
		argv += 2;
	}
	if (argc < 2)
		return 0;
	if (!strcmp(argv[1], "byte"))
		return write(1, "1", 1) != 1;
	if (!strcmp(argv[1], "hold"))
		for (;;)
			pause();
	if (!strcmp(argv[1], "time") )
		return time_operations(argc - 2, argv + 2);
	if (argc == 4 && !strcmp(argv[1], "client"))
		return be_client(argv[2], argv[3]);
	errno = EINVAL;
	return fail(argv[1]);
}
