/*
 * Who may send commands to a sandbox that outlives whoever started it. The parent has the other end
 * of PID 1's socket and hands it to those who connect: this user's processes outside of every sandbox.
 * They decide about the command first, as they would before a start.
 */
#include "executor.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * The same user, and the same user namespace, which no sandbox has: one that was shown the socket
 * would run its commands in another sandbox.
 */
static bool is_own(int client_fd)
{
	struct ucred peer;
	socklen_t size = sizeof peer;
	struct stat theirs, ours;
	struct text path = {.size = 0};
	if (getsockopt(client_fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid())
		return false;
	text_add(&path, "/proc/");
	text_number(&path, (uint64_t)peer.pid, 10);
	text_add(&path, "/ns/user");
	return stat(path.data, &theirs) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
	       theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

/* One that waits at the listener; never blocks, for time and signals are kept meanwhile. */
void admit_client(int listener_fd, int serve_fd)
{
	int client_fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client_fd < 0)
		return;
	if (is_own(client_fd))
		control_send(client_fd, REQUEST_ADMITTED, serve_fd);
	close(client_fd);
}
