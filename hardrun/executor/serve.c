/*
 * PID 1 as a server of commands. Whoever started the sandbox sends argv, variables, a directory and
 * the descriptors 0-2, and nothing else: all other things a command has from PID 1, which has every
 * restriction already, so that nobody comes in from outside who would have to be confined first
 * (CVE-2016-9962: a joiner that can be attached to before it is).
 */
#include "executor.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PASSED 4 /* the channel, and what becomes 0-2 */
#define MAXIMUM_VARIABLES 4096

struct reply {
	uint32_t kind;
	int32_t status, error;
	uint32_t max_rss_kib;
	uint64_t user_us, system_us;
	char site[32];
};
_Static_assert(sizeof(struct reply) == REPLY_SIZE, "the schema and the executor disagree");

static LARGE struct command {
	pid_t pid;
	int channel_fd;
} commands[MOST_COMMANDS];
static unsigned count;
static int signal_fd = -1, ahead_fd = -1; /* to the process that waits for the one command */

int perform_serve(struct sandbox *sandbox, const struct operation *operation)
{
	int type = 0;
	socklen_t size = sizeof type;
	CHECK(getsockopt(sandbox->serve_fd, SOL_SOCKET, SO_TYPE, &type, &size), "getsockopt");
	errno = EPROTOTYPE;
	if (type != SOCK_SEQPACKET || operation->values[1] > SERVE_ONCE)
		return fail(sandbox, "serve");
	sandbox->serve_mode = (enum serve_mode)operation->values[1];
	sandbox->ahead = operation->values[2];
	return 0;
}

/* How many descriptors it holds for its commands: a verifier is told of all others. */
unsigned serve_descriptors(const struct sandbox *sandbox)
{
	unsigned held = sandbox->serve_fd >= 0;
	held += signal_fd >= 0;
	held += sandbox->serving && sandbox->labelled && sandbox->proc_fd >= 0;
	held += ahead_fd >= 0;
	for (unsigned i = 0; i < count; i++)
		held += commands[i].channel_fd >= 0;
	return held;
}

/* Never waits: a client that does not read its channel must not hold up the others. */
static void tell_channel(int fd, const struct reply *reply)
{
	send(fd, reply, sizeof *reply, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void close_all(const int *fds, unsigned number)
{
	for (unsigned i = 0; i < number; i++)
		close(fds[i]);
}

/* What came with a packet; how many. More than fit are dropped by the kernel, and all are refused. */
static unsigned passed(struct msghdr *header, int *fds)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(header);
	size_t size;
	if (!part || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
		return 0;
	size = part->cmsg_len - CMSG_LEN(0);
	memcpy(fds, CMSG_DATA(part), size);
	return (unsigned)(size / sizeof *fds);
}

/*
 * As at the start of a sandbox: pipes without a name, the null device, and for input a file in memory
 * that is sealed. A file or terminal of the caller's could be opened anew through /proc, or typed into
 * (CVE-2017-5226); a directory leads out of the root (CVE-2024-21626).
 */
static bool may_have(int fd, unsigned number)
{
	int seals;
	if (is_free(fd))
		return true;
	seals = number == 0 ? fcntl(fd, F_GET_SEALS) : -1;
	return seals >= 0 && (seals & F_SEAL_WRITE);
}

static bool is_channel(int fd)
{
	int domain = 0, type = 0;
	socklen_t size = sizeof type;
	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

static bool is_set(const struct job *job, const char *variable)
{
	size_t size = strcspn(variable, "=") + 1;
	for (uint32_t i = 0; i < job->variables; i++)
		if (!strncmp(job->environment[i], variable, size))
			return true;
	return false;
}

/* The variables of the sandbox, but for those that the request sets. */
static bool add_variables(const struct sandbox *sandbox, struct job *job)
{
	uint32_t own = job->variables;
	for (size_t i = 0; i < sandbox->workload_variables; i++) {
		char *variable = sandbox->workload_environment[i];
		if (is_set(job, variable))
			continue;
		if (own == MAXIMUM_VARIABLES)
			return false;
		job->environment[own++] = variable;
	}
	job->environment[own] = NULL;
	return true;
}

/* Why it was not executed; who knows best has said so. */
static void tell_failure(struct sandbox *sandbox, int channel_fd, const char *site, int error)
{
	struct reply reply = {.kind = TOLD_FAILED};
	if (!sandbox->failure->set) {
		sandbox->site = site;
		record_failure(sandbox, error);
	}
	reply.error = sandbox->failure->error;
	memcpy(reply.site, sandbox->failure->site, sizeof reply.site - 1);
	tell_channel(channel_fd, &reply);
}

static bool is_executed(const struct sandbox *sandbox)
{
	return sandbox->shared->reached && !sandbox->failure->set;
}

/* Under a label, until it has been executed with that. Who ended before is reaped as any other. */
static void hold(struct sandbox *sandbox, pid_t pid)
{
	if (!sandbox->labelled || gate_hold_served(sandbox, pid) == 0)
		return;
	record_failure(sandbox, errno);
	kill(pid, SIGKILL);
}

/* Beside others: PID 1 knows when it has been executed, or tells the channel why not. */
static void start(struct sandbox *sandbox, struct job *job, const int *fds)
{
	struct reply reply = {.kind = TOLD_STARTED};
	sandbox->served = job;
	sandbox->standard_fds = fds + 1;
	*sandbox->failure = (struct failure){.set = 0};
	uint32_t before = sandbox->shared->reached;
	sandbox->shared->reached = 0;
	pid_t pid = start_workload(sandbox);
	int error = errno;
	if (pid > 0)
		hold(sandbox, pid);
	bool executed = pid > 0 && is_executed(sandbox);
	sandbox->shared->reached = before; /* what it tells is the sandbox's own start */
	close_all(fds + 1, PASSED - 1);
	if (executed) {
		commands[count++] = (struct command){pid, fds[0]};
		if (job->flags & JOB_TELL_START)
			tell_channel(fds[0], &reply);
		return;
	}
	tell_failure(sandbox, fds[0], pid < 0 ? "vfork" : "killed before its exec",
		     pid < 0 ? error : ECHILD);
	close(fds[0]);
}

/* Whether a packet is a command; any other has been answered, and its descriptors are closed. */
static bool take_packet(struct sandbox *sandbox, struct job *job, char *data, size_t size, int *fds,
			unsigned number)
{
	struct reply answer = {.kind = TOLD_REFUSED, .error = EINVAL};
	bool accepted = number == PASSED && is_channel(fds[0]);
	if (number == 1 && is_channel(fds[0])) {
		answer = (struct reply){.kind = TOLD_READY};
		tell_channel(fds[0], &answer);
		close(fds[0]);
		return false;
	}
	for (unsigned i = 1; i < PASSED && accepted; i++)
		accepted = may_have(fds[i], i - 1);
	if (accepted && job_parse(job, data, size) && add_variables(sandbox, job) &&
	    count < MOST_COMMANDS &&
	    !(sandbox->serve_mode == SERVE_ONCE && job->flags & JOB_TELL_START))
		return true;
	answer.error = count == MOST_COMMANDS ? EAGAIN : EINVAL;
	if (number)
		tell_channel(fds[0], &answer);
	close_all(fds, number);
	return false;
}

static LARGE char data[JOB_MOST_BYTES + 1];
static LARGE char *argv[JOB_MOST_WORDS + 1];
static LARGE char *environment[JOB_MOST_WORDS + MAXIMUM_VARIABLES + 1];

/* A command that has come: 1; none: 0; -1: nobody is left who could send one. */
static int receive(struct sandbox *sandbox, struct job *job, int *fds, int flags)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(PASSED * sizeof(int))];
	} control;
	struct iovec part = {.iov_base = data, .iov_len = sizeof data};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				.msg_controllen = sizeof control};
	struct pollfd end = {.fd = sandbox->serve_fd};
	*job = (struct job){.argv = argv, .environment = environment};
	ssize_t size = recvmsg(sandbox->serve_fd, &header, MSG_CMSG_CLOEXEC | flags);
	if (size < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	unsigned number = passed(&header, fds);
	if (size == 0 && !number && poll(&end, 1, 0) > 0)
		return -1;
	if (header.msg_flags & MSG_CTRUNC) {
		close_all(fds, number);
		number = 0;
	}
	/* A packet that was cut has a size beyond the bound, and is refused for that. */
	return take_packet(sandbox, job, data, (size_t)size, fds, number);
}

/*
 * A sandbox for a single command: by the process that becomes it, which PID 1 has forked before. PID 1
 * gets the channel and nothing else of what came. Nobody reads another packet.
 */
int serve_await(struct sandbox *sandbox, struct job *job, int *fds)
{
	volatile char below[3 * 4096];
	int came;
	/* What will be written to is a page of its own by then, and need not become one. */
	data[0] = below[0] = below[4096] = below[2 * 4096] = 0;
	argv[0] = environment[0] = NULL;
	sandbox->shared->reached = 0;
	while (!(came = receive(sandbox, job, fds, 0)))
		;
	if (came < 0)
		_exit(0);
	CHECK(control_send(sandbox->control_fd, REQUEST_BEGUN, fds[0]), "sendmsg");
	return 0;
}

/*
 * PID 1 of such a sandbox: the channel of its command, which has come. Returns false where that is lost, as
 * the command runs already and took away PID 1's descriptors: it is to be held to its time all the same.
 */
static bool take_over(struct sandbox *sandbox)
{
	char request;
	pid_t sender;
	ssize_t size = ahead_fd < 0 ? -1 : control_receive(ahead_fd, &request, 1, &sender,
							   &commands[0].channel_fd);
	if (size < 0)
		return true;
	if (size && sandbox->labelled)
		send(ahead_fd, "g", 1, MSG_NOSIGNAL);
	close(ahead_fd);
	close(sandbox->serve_fd); /* the last copy, or soon: whoever sends now is told that it is used */
	sandbox->serve_fd = ahead_fd = -1;
	if (!size)
		return true;
	if (commands[0].channel_fd < 0 || control_send(sandbox->control_fd, REQUEST_BEGUN, -1) < 0)
		return false;
	hold(sandbox, commands[0].pid);
	return true;
}

/* Returns false when the sandbox is to end: its owner is gone. */
static bool take_request(struct sandbox *sandbox)
{
	struct job job;
	int fds[PASSED], came = receive(sandbox, &job, fds, MSG_DONTWAIT);
	if (came > 0)
		start(sandbox, &job, fds);
	return came >= 0;
}

/* The command's group, where it has one; what left the group stays, as a process in the background. */
static void end_command(const struct command *command, int number)
{
	if (kill(-command->pid, number) < 0)
		kill(command->pid, number);
}

static void take_channel(struct command *command)
{
	uint32_t number = 0;
	ssize_t size = recv(command->channel_fd, &number, sizeof number, MSG_DONTWAIT);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size == sizeof number && number > 0 && number < _NSIG) {
		end_command(command, (int)number);
		return;
	}
	if (size > 0)
		return;
	/* Whoever asked for it is gone, however that was. */
	end_command(command, SIGKILL);
	close(command->channel_fd);
	command->channel_fd = -1;
}

static uint64_t microseconds(const struct timeval *time)
{
	return (uint64_t)time->tv_sec * 1000000u + (uint64_t)time->tv_usec;
}

/*
 * Before the caller hears of the end nothing is left that could still run. Whoever is in the namespace
 * descends from PID 1: where that has no child there is nobody, and the kernel need not look at every
 * process of the host.
 */
static void end_all(struct rusage *usage)
{
	pid_t pid;
	while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
		;
	if (pid == 0) {
		kill(-1, SIGKILL);
		while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
			;
	}
	getrusage(RUSAGE_CHILDREN, usage);
}

/* A child has ended. Returns true when the sandbox ends with it. */
bool serve_ended(struct sandbox *sandbox, pid_t pid, int status, struct rusage *usage)
{
	unsigned at = 0;
	while (at < count && commands[at].pid != pid)
		at++;
	if (at == count)
		return false;
	bool once = sandbox->serve_mode == SERVE_ONCE;
	if (once) {
		take_over(sandbox);
		end_all(usage);
	}
	struct reply reply = {.kind = TOLD_ENDED, .status = status,
			      .max_rss_kib = (uint32_t)usage->ru_maxrss,
			      .user_us = microseconds(&usage->ru_utime),
			      .system_us = microseconds(&usage->ru_stime)};
	int channel_fd = commands[at].channel_fd;
	commands[at] = commands[--count];
	if (channel_fd >= 0 && once && !is_executed(sandbox))
		tell_failure(sandbox, channel_fd, "killed before its exec", ECHILD);
	else if (channel_fd >= 0)
		tell_channel(channel_fd, &reply);
	if (channel_fd >= 0)
		close(channel_fd);
	/* Whoever asked goes on before the kernel takes the namespaces down, which holds up a CPU. */
	if (once)
		sched_yield();
	return once;
}

/* The process that becomes the one command waits for it in PID 1's place. */
static int fork_ahead(struct sandbox *sandbox)
{
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "socketpair");
	pid_t pid = fork();
	CHECK(pid, "fork");
	if (pid == 0) {
		close(sandbox->control_fd);
		CHECK(sandbox->control_fd = fcntl(pair[1], F_DUPFD_CLOEXEC, 3), "fcntl");
		close_all(pair, 2);
		workload_ahead(sandbox);
	}
	close(pair[1]);
	ahead_fd = pair[0];
	commands[count++] = (struct command){pid, -1};
	return 0;
}

/* All else of PID 1 works with signals alone; here they come by descriptor, beside the requests. */
int serve_open(struct sandbox *sandbox)
{
	sigset_t all;
	bool once = sandbox->serve_mode == SERVE_ONCE;
	sigfillset(&all);
	sandbox->failure = once ? &sandbox->shared->failure : &sandbox->shared->refused;
	sandbox->terminal_fd = -1; /* the first command's own */
	sandbox->shared->reached |= sandbox->serve_mode == SERVE_ALONE;
	if (once && fork_ahead(sandbox) < 0)
		return -1;
	signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	return signal_fd < 0 ? fail(sandbox, "signalfd") : 0;
}

/*
 * Serves until a signal comes, and tells it as sigwaitinfo(2) does; 0: the sandbox is to end. -1: it can't
 * serve any more, as a command took away PID 1's descriptors: prlimit(2) asks for no more than the same
 * ids, and poll(2) refuses more entries than RLIMIT_NOFILE. To try for ever would be a CPU for nothing.
 */
int serve_wait(struct sandbox *sandbox, siginfo_t *info)
{
	struct pollfd polls[2 + MOST_COMMANDS];
	struct signalfd_siginfo signal;
	const bool once = sandbox->serve_mode == SERVE_ONCE;
	for (;;) {
		polls[0] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
		polls[1] = (struct pollfd){.fd = once ? ahead_fd : sandbox->serve_fd, .events = POLLIN};
		for (unsigned i = 0; i < count; i++)
			polls[2 + i] = (struct pollfd){.fd = commands[i].channel_fd, .events = POLLIN};
		unsigned known = count;
		if (poll(polls, 2 + known, -1) < 0) {
			if (errno != EINTR)
				return -1;
			continue;
		}
		for (unsigned i = 0; i < known; i++)
			if (polls[2 + i].revents)
				take_channel(&commands[i]);
		if (polls[1].revents && once && !take_over(sandbox))
			return -1;
		if (polls[1].revents && !once && !take_request(sandbox))
			return 0;
		if (read(signal_fd, &signal, sizeof signal) == sizeof signal) {
			info->si_code = signal.ssi_code;
			info->si_pid = (pid_t)signal.ssi_pid;
			return (int)signal.ssi_signo;
		}
	}
}
