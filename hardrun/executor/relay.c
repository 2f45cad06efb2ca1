/*
 * Standard input and output. The caller's terminal and files are not handed over: a terminal could
 * be typed into (TIOCSTI, CVE-2017-5226), a log file truncated or read. Output goes through a pipe
 * or a private terminal and is counted.
 */
#include "executor.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#define PIPEFS_MAGIC 0x50495045
#define COPIED_INPUT (64 << 20) /* bytes of a file; what is larger goes through a pipe */

static struct termios saved_terminal;
/* Pages that nothing is relayed through are never touched, and take no memory. */
static LARGE _Alignas(4096) char buffers[3][RELAY_SIZE];

bool is_null(int fd)
{
	struct stat status;
	return fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
}

static bool same_file(int a, int b)
{
	struct stat first, second;
	return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
	       first.st_ino == second.st_ino && first.st_rdev == second.st_rdev;
}

/*
 * The workload can open its end of a pipe anew through /proc and empty or fill it between poll(2)
 * and what follows: a parent that blocked then would keep no time-out any more. The flag belongs
 * to the parent's open file description, which the workload can't reach. `child_end` is 0 for a
 * pipe to the workload, 1 for one from it.
 */
static int open_pipe(int *kept_fd, int *child_fd, int child_end)
{
	int pipe_fds[2];
	/* Any mode: who opens a pipe anew needs the right to look into a process that has it. */
	if (pipe2(pipe_fds, O_CLOEXEC) < 0 || fchmod(pipe_fds[0], 0666) < 0 ||
	    fcntl(pipe_fds[!child_end], F_SETFL, O_NONBLOCK) < 0)
		return -1;
	*kept_fd = pipe_fds[!child_end];
	*child_fd = pipe_fds[child_end];
	return 0;
}

static int open_output(struct relay *relay, int to_fd, int *child_fd)
{
	relay->to_fd = to_fd;
	relay->ended = false;
	return open_pipe(&relay->from_fd, child_fd, 1);
}

/*
 * What a file of the caller's holds, in memory: the file itself could be opened anew for writing
 * through /proc, its path be read there, and a security module would take it from a process whose
 * label does not reach it. The caller's position in it stays.
 */
static int copy_input(struct streams *streams)
{
	off_t offset = lseek(STDIN_FILENO, 0, SEEK_CUR);
	ssize_t size;
	int fd = memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	while ((size = sendfile(fd, STDIN_FILENO, &offset, COPIED_INPUT)) > 0)
		;
	if (size < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		return -1;
	streams->child_fds[0] = fd;
	return lseek(fd, 0, SEEK_SET) < 0 ? -1 : 0;
}

/* What a labelled workload can have as it is: the sandbox's own null device, nameless pipes. */
bool is_free(int fd)
{
	struct statfs system;
	return is_null(fd) || (fstatfs(fd, &system) == 0 && system.f_type == PIPEFS_MAGIC);
}

static int open_input(struct streams *streams, bool interactive, bool labelled)
{
	struct stat status;
	if (!isatty(STDIN_FILENO)) {
		if (fstat(STDIN_FILENO, &status) < 0)
			return -1;
		/* It would lead out of the root (CVE-2024-21626). */
		if (S_ISDIR(status.st_mode))
			return errno = EISDIR, -1;
		if (!S_ISREG(status.st_mode) && (!labelled || is_free(STDIN_FILENO)))
			return 0;
		/* Files of /proc have no size: they are relayed, and what can't be copied is. */
		if (S_ISREG(status.st_mode) && status.st_size > 0 && status.st_size <= COPIED_INPUT &&
		    copy_input(streams) == 0)
			return 0;
	} else if (!interactive) {
		streams->child_fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		return streams->child_fds[0];
	}
	streams->input.from_fd = STDIN_FILENO;
	streams->input.ended = false;
	return open_pipe(&streams->input.to_fd, &streams->child_fds[0], 0);
}

int streams_open(struct sandbox *sandbox, struct streams *streams)
{
	struct operation operation;
	int mode = STANDARD_IO_RELAY;
	bool interactive = false;
	streams->input.ended = streams->output.ended = streams->error.ended = true;
	streams->input.buffer = buffers[0];
	streams->output.buffer = buffers[1];
	streams->error.buffer = buffers[2];
	for (int fd = 0; fd < 3; fd++)
		streams->child_fds[fd] = fd;
	sandbox->standard_fds = streams->child_fds;
	if (plan_find(&sandbox->plan, OP_STANDARD_IO, &operation)) {
		mode = (int)operation.values[0];
		interactive = operation.values[1];
		streams->limit = operation.values[2];
		sandbox->current = operation.index;
	}
	sandbox->labelled = plan_find(&sandbox->plan, OP_EXPECT_LABEL, &operation);
	sandbox->gated = sandbox->labelled || plan_find(&sandbox->plan, OP_GATE, &operation);
	sandbox->terminal = mode == STANDARD_IO_TERMINAL;
	if (mode != STANDARD_IO_RELAY)
		return 0;
	if (open_input(streams, interactive, sandbox->labelled) < 0)
		return -1;
	if (!is_null(STDOUT_FILENO) &&
	    open_output(&streams->output, STDOUT_FILENO, &streams->child_fds[1]) < 0)
		return -1;
	/* One pipe for both where they are one file, so that the order of lines stays. */
	if (!streams->output.ended && same_file(STDOUT_FILENO, STDERR_FILENO)) {
		streams->child_fds[2] = streams->child_fds[1];
		return 0;
	}
	if (is_null(STDERR_FILENO))
		return 0;
	return open_output(&streams->error, STDERR_FILENO, &streams->child_fds[2]);
}

/* The parent's copies of the child's ends must go, or no end of file would ever be seen. */
void streams_started(struct streams *streams)
{
	for (int fd = 0; fd < 3; fd++)
		if (streams->child_fds[fd] > 2 &&
		    (fd != 2 || streams->child_fds[2] != streams->child_fds[1]))
			close(streams->child_fds[fd]);
}

void streams_resize(const struct streams *streams)
{
	struct winsize size;
	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
		ioctl(streams->output.from_fd, TIOCSWINSZ, &size);
}

void streams_terminal(struct streams *streams, int master_fd)
{
	struct termios raw;
	fcntl(master_fd, F_SETFL, O_RDWR | O_NONBLOCK);
	streams->output.from_fd = streams->input.to_fd = master_fd;
	streams->output.to_fd = STDOUT_FILENO;
	streams->input.from_fd = STDIN_FILENO;
	streams->output.ended = streams->input.ended = false;
	streams_resize(streams);
	if (tcgetattr(STDIN_FILENO, &saved_terminal) < 0)
		return;
	raw = saved_terminal;
	cfmakeraw(&raw);
	streams->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void streams_restore(const struct streams *streams)
{
	if (streams->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
}

bool streams_ended(const struct streams *streams)
{
	return streams->output.ended && streams->error.ended;
}

short relay_interest(const struct relay *relay, int *fd)
{
	*fd = relay->ended ? -1 : relay->size ? relay->to_fd : relay->from_fd;
	return relay->size ? POLLOUT : POLLIN;
}

static void end(struct streams *streams, struct relay *relay)
{
	relay->ended = true;
	relay->size = 0;
	if (relay == &streams->input) {
		if (relay->to_fd != streams->output.from_fd)
			close(relay->to_fd);
		return;
	}
	if (streams->input.to_fd == relay->from_fd)
		streams->input.ended = true; /* a terminal's master serves both ways */
	close(relay->from_fd);
}

static void take(struct streams *streams, struct relay *relay)
{
	ssize_t size = read(relay->from_fd, relay->buffer, RELAY_SIZE);
	if (size < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (size <= 0) {
		end(streams, relay);
		return;
	}
	relay->start = 0;
	relay->size = (size_t)size;
	if (relay == &streams->input || !streams->limit)
		return;
	if (relay->size > streams->limit - streams->bytes) {
		relay->size = (size_t)(streams->limit - streams->bytes);
		streams->truncated = true;
	}
	streams->bytes += relay->size;
}

void relay_step(struct streams *streams, struct relay *relay)
{
	ssize_t size;
	if (!relay->size) {
		take(streams, relay);
		return;
	}
	size = write(relay->to_fd, relay->buffer + relay->start, relay->size);
	if (size < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (size < 0) {
		/* A reader that has enough (head) is no loss. */
		if (relay != &streams->input && errno != EPIPE)
			streams->lost = errno;
		end(streams, relay);
		return;
	}
	relay->start += (size_t)size;
	relay->size -= (size_t)size;
}
