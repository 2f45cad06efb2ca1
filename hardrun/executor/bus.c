/*
 * One request to systemd over D-Bus: a scope for the parent and PID 1. The messages were marshalled
 * when the plan was made; what is filled in here is the scope's name and two process numbers. Of
 * the answers only the fixed header is read, and the name of our scope looked for.
 */
#include "executor.h"

#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAXIMUM_MESSAGES 2048
#define SCOPE_PREFIX_SIZE 8 /* "hardrun-" */
#define RANDOM_DIGITS 16
enum { MESSAGE_ERROR = 3, MESSAGE_SIGNAL = 4, HEADER_SIZE = 16 };

static int send_all(struct sandbox *sandbox, const char *data, size_t size)
{
	ssize_t sent = send(sandbox->cgroup.bus_fd, data, size, MSG_NOSIGNAL);
	CHECK(sent, "send");
	errno = EMSGSIZE;
	return sent == (ssize_t)size ? 0 : fail(sandbox, "send");
}

/* Connects and says all that needs no process number; nothing here waits for an answer. */
int bus_connect(struct sandbox *sandbox, const struct operation *operation)
{
	const char *path = plan_string(&sandbox->plan, operation, 2);
	struct blob messages = plan_blob(&sandbox->plan, operation, 3);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct { pid_t pid; uid_t uid; gid_t gid; } peer;
	socklen_t size = sizeof peer;
	errno = ENAMETOOLONG;
	if (strlen(path) >= sizeof address.sun_path)
		return fail(sandbox, "connect");
	strcpy(address.sun_path, path);
	CHECK(sandbox->cgroup.bus_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
	      "socket");
	CHECK(connect(sandbox->cgroup.bus_fd, (struct sockaddr *)&address, sizeof address), "connect");
	CHECK(getsockopt(sandbox->cgroup.bus_fd, SOL_SOCKET, SO_PEERCRED, &peer, &size), "getsockopt");
	/* In another pid namespace the numbers that we send would be those of strangers. */
	errno = EXDEV;
	if (peer.pid == 0)
		return fail(sandbox, "the bus is of another pid namespace");
	errno = EINVAL;
	if (operation->values[4] > messages.size)
		return fail(sandbox, "send");
	return send_all(sandbox, messages.data, operation->values[4]);
}

/* Asks for the scope: from here on systemd works while PID 1 builds the view. */
int bus_request(struct sandbox *sandbox, pid_t init)
{
	static LARGE char message[MAXIMUM_MESSAGES];
	unsigned char random[RANDOM_DIGITS / 2];
	uint32_t pids[2] = {(uint32_t)getpid(), (uint32_t)init};
	struct operation operation;
	plan_find(&sandbox->plan, OP_CGROUP, &operation);
	struct blob messages = plan_blob(&sandbox->plan, &operation, 3);
	size_t start = operation.values[4], name = operation.values[5], at = operation.values[6];
	errno = EINVAL;
	if (start > messages.size || messages.size - start > sizeof message || name < SCOPE_PREFIX_SIZE ||
	    name > messages.size - start || messages.size - start - name < RANDOM_DIGITS + 8 ||
	    at > messages.size - start || messages.size - start - at < sizeof pids)
		return fail(sandbox, "send");
	memcpy(message, messages.data + start, messages.size - start);
	CHECK(getrandom(random, sizeof random, 0), "getrandom");
	for (size_t i = 0; i < RANDOM_DIGITS; i++)
		message[name + i] = "0123456789abcdef"[random[i / 2] >> (i % 2 ? 4 : 0) & 15];
	memcpy(message + at, pids, sizeof pids);
	strncpy(sandbox->cgroup.scope, message + name - SCOPE_PREFIX_SIZE,
		sizeof sandbox->cgroup.scope - 1);
	return send_all(sandbox, message, messages.size - start);
}

/* 1: the scope is made. An error's body is its text: four bytes of length, then the words. */
static int take_message(struct sandbox *sandbox, const char *message, size_t size, size_t body)
{
	static char words[SITE_SIZE];
	const char *scope = sandbox->cgroup.scope;
	errno = EREMOTEIO;
	if (message[1] == MESSAGE_ERROR) {
		if (size - body > 4)
			memcpy(words, message + body + 4, size - body - 4 < sizeof words
			       ? size - body - 4 : sizeof words - 1);
		return fail(sandbox, words[0] ? words : "systemd");
	}
	if (message[1] != MESSAGE_SIGNAL || !memmem(message + body, size - body, scope, strlen(scope)))
		return 0;
	/* JobRemoved: number, job, unit, result. */
	return memmem(message + body, size - body, "done", 5) ? 1 : fail(sandbox, "the scope failed");
}

/* 1: the scope is made, 0: not yet, -1: it will not be. */
int bus_answer(struct sandbox *sandbox)
{
	static LARGE char buffer[16384];
	static size_t filled;
	static bool accepted;
	ssize_t size = recv(sandbox->cgroup.bus_fd, buffer + filled, sizeof buffer - filled, 0);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	errno = size == 0 ? EPIPE : errno;
	if (size <= 0)
		return fail(sandbox, "the bus hung up");
	filled += (size_t)size;
	for (;;) {
		const char *line = memchr(buffer, '\n', filled);
		uint32_t body, fields;
		size_t head = 0, whole = accepted ? HEADER_SIZE : line ? (size_t)(line - buffer) + 1 : SIZE_MAX;
		if (filled < whole)
			return 0;
		if (accepted) {
			memcpy(&body, buffer + 4, sizeof body);
			memcpy(&fields, buffer + 12, sizeof fields);
			head = HEADER_SIZE + (((size_t)fields + 7) & ~(size_t)7);
			whole = head + body;
		}
		errno = EPROTO;
		if (accepted ? buffer[0] != 'l' || whole > sizeof buffer : strncmp(buffer, "OK", 2) != 0)
			return fail(sandbox, accepted ? "D-Bus" : "the bus knows us not");
		if (filled < whole)
			return 0;
		int answer = accepted ? take_message(sandbox, buffer, whole, head) : 0;
		accepted = true;
		filled -= whole;
		memmove(buffer, buffer + whole, filled);
		if (answer)
			return answer;
	}
}
