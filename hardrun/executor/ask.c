/*
 * Asks this user's decision service (hardrun/serve) for the image of a request not seen before. The
 * service reads from /proc what is asked and by whom; it decides, what it answers is executed here.
 * Without an answer in time everything goes on as if there were none.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_MS 50

/* The socket is in a directory that only this user can write; who listens is asked all the same. */
static int connect_to_service(int directory_fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ucred listener;
	socklen_t size = sizeof listener;
	struct text path = {.size = 0};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* By the descriptor: the path may be longer than an address. */
	text_add(&path, "/proc/self/fd/");
	text_number(&path, (uint64_t)directory_fd, 10);
	text_add(&path, "/" SERVICE_NAME);
	memcpy(address.sun_path, path.data, path.size);
	if (fd >= 0 && (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
			getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &listener, &size) < 0 ||
			listener.uid != geteuid() ||
			send(fd, CACHE_IDENTITY, sizeof CACHE_IDENTITY - 1, MSG_NOSIGNAL) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

int ask_service(const struct image *self, int directory_fd, char *executor, size_t room)
{
	int fd = connect_to_service(directory_fd), image_fd = -1;
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	ssize_t size = -1;
	pid_t sender;
	if (fd < 0)
		return -1;
	if (poll(&wait, 1, PATIENCE_MS) > 0)
		size = control_receive(fd, executor, room - 1, &sender, &image_fd);
	close(fd);
	executor[size > 0 ? size : 0] = 0;
	if (image_fd >= 0 && !image_is_ours(self, image_fd, NULL)) {
		close(image_fd);
		return -1;
	}
	return image_fd;
}
