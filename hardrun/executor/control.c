/* What the sandbox asks of its parent before the workload starts. */
#include "executor.h"

#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int control_send(int fd, enum request request, int passed_fd)
{
	char byte = (char)request;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS}};
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	if (passed_fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &passed_fd, sizeof passed_fd);
		header.msg_control = &control;
		header.msg_controllen = sizeof control;
	}
	/* Never interrupted: signals are blocked, or deadly, in those who call this. */
	return sendmsg(fd, &header, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

static void take_control(struct msghdr *header, pid_t *sender, int *passed_fd)
{
	char *end = (char *)header->msg_control + header->msg_controllen;
	for (struct cmsghdr *part = CMSG_FIRSTHDR(header);
	     part && (char *)part + sizeof *part <= end && part->cmsg_len >= sizeof *part;
	     part = (struct cmsghdr *)(void *)((char *)part + CMSG_ALIGN(part->cmsg_len))) {
		int pid_uid_gid[3];
		if (part->cmsg_level != SOL_SOCKET)
			continue;
		if (part->cmsg_type == SCM_RIGHTS && part->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(passed_fd, CMSG_DATA(part), sizeof(int));
		if (part->cmsg_type == SCM_CREDENTIALS &&
		    part->cmsg_len == CMSG_LEN(sizeof pid_uid_gid)) {
			memcpy(pid_uid_gid, CMSG_DATA(part), sizeof pid_uid_gid);
			*sender = pid_uid_gid[0];
		}
	}
}

/* The sender's pid is the kernel's word, translated into the parent's pid namespace. */
ssize_t control_receive(int fd, char *data, size_t room, pid_t *sender, int *passed_fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec part = {.iov_base = data, .iov_len = room};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				.msg_controllen = sizeof control};
	ssize_t size = recvmsg(fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	*sender = 0;
	*passed_fd = -1;
	if (size > 0)
		take_control(&header, sender, passed_fd);
	return size;
}

/* Waits for the parent's one byte. */
int control_wait(int fd)
{
	char byte;
	ssize_t size;
	do
		size = recv(fd, &byte, 1, 0);
	while (size < 0 && errno == EINTR);
	if (size == 0)
		errno = EPIPE;
	return size == 1 ? 0 : -1;
}

uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
