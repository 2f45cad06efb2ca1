/*
 * The parent: relays output, forwards signals, keeps time and limits, tells the end. When it dies
 * the kernel kills PID 1, and with it every process of the sandbox.
 */
#include "executor.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WATCH_INTERVAL_MS 50u
#define DRAIN_MS 500 /* how long the reader of an ended sandbox's output may take */
#define NR_PIDFD_SEND_SIGNAL 424

enum { POLL_SIGNALS, POLL_INIT, POLL_CONTROL, POLL_LIFELINE, POLL_CGROUP, POLL_CLIENT,
       POLL_INPUT, POLL_OUTPUT, POLL_ERROR, POLL_COUNT };

struct parent {
	struct sandbox *sandbox;
	struct shared *shared;
	struct streams *streams;
	pid_t init;
	int pidfd, signal_fd, lifeline_fd, report_fd, gate_fd;
	int listener_fd, serve_fd; /* for commands that come later */
	uint64_t begun, deadline, next_watch, memory_limit, cpu_limit;
	const char *outcome; /* why the parent ended the sandbox, or how it ended */
	struct rusage usage;
	struct usage sample;
	struct helpers helpers;
	bool running, silent; /* silent: no request can come any more */
	bool killed;	      /* before the command started, from outside */
	unsigned interrupts;
};

static void send_signal(const struct parent *parent, int number)
{
	syscall(NR_PIDFD_SEND_SIGNAL, parent->pidfd, number, NULL, 0);
}

/* Exact where a cgroup counts, children that were never waited for included. */
static int sample(const struct parent *parent, bool exact, struct usage *usage)
{
	return cgroup_cpu_time(&parent->sandbox->cgroup, usage)
		       ? 0 : watch_tree(parent->init, exact, usage);
}

static void end_sandbox(struct parent *parent, const char *outcome)
{
	if (!parent->outcome && !parent->shared->finished) {
		parent->outcome = outcome;
		/* Children that die with PID 1 are not in its own count: taken while they live. */
		sample(parent, false, &parent->sample);
	}
	/* A reaper that waits for its cgroup has no child yet, and hears no signal but this one. */
	bool waits = cgroup_is_awaited(&parent->sandbox->cgroup);
	send_signal(parent, parent->sandbox->bare && !waits ? SIGNAL_END : SIGKILL);
}

/* A sandbox that failed or was killed by itself: what fails here is a consequence. */
static void fail_start(struct parent *parent)
{
	int error = errno;
	if (is_exiting(parent->init))
		return;
	if (!parent->shared->failure.set)
		record_failure(parent->sandbox, error);
	end_sandbox(parent, "internal");
}

/* From now on commands may come: none is to be there while a process at the gate is dumpable. */
static void pass_gate(struct parent *parent)
{
	struct operation operation;
	parent->shared->started = parent->shared->reached;
	if (!parent->shared->started || !plan_find(&parent->sandbox->plan, OP_ADMIT, &operation))
		return;
	parent->listener_fd = (int)operation.values[0];
	parent->serve_fd = (int)operation.values[1];
}

static void hold_at_gate(struct parent *parent, pid_t workload)
{
	if (gate_hold(parent->sandbox, workload, parent->gate_fd) == 0)
		pass_gate(parent);
	else if (errno == ECANCELED)
		end_sandbox(parent, "cancelled");
	else
		fail_start(parent);
	gate_end(workload);
}

/* From now on its time counts: of one that waits for its command, when that has come. */
static void begin(struct parent *parent)
{
	struct operation operation;
	const struct sandbox *sandbox = parent->sandbox;
	parent->begun = now_ms();
	if (plan_find(&sandbox->plan, OP_TIMEOUT, &operation) && operation.values[0] < UINT32_MAX)
		parent->deadline = parent->begun + operation.values[0];
	if (parent->memory_limit || parent->cpu_limit || sandbox->cgroup.count ||
	    cgroup_is_awaited(&sandbox->cgroup))
		parent->next_watch = parent->begun + WATCH_INTERVAL_MS;
}

static void take_requests(struct parent *parent)
{
	ssize_t size;
	pid_t sender;
	char request;
	int fd;
	while ((size = control_receive(parent->sandbox->control_fd, &request, 1, &sender, &fd)) > 0)
		switch (request) {
		case REQUEST_TERMINAL:
			if (fd >= 0)
				streams_terminal(parent->streams, fd);
			break;
		case REQUEST_CGROUP:
			if (cgroup_awaited(parent->sandbox) < 0)
				fail_start(parent);
			break;
		case REQUEST_READY:
			hold_at_gate(parent, sender);
			break;
		case REQUEST_BEGUN:
			begin(parent);
			break;
		default:
			break;
		}
	parent->silent = size == 0;
}

static void take_signals(struct parent *parent)
{
	struct signalfd_siginfo info;
	while (read(parent->signal_fd, &info, sizeof info) == sizeof info) {
		int number = (int)info.ssi_signo;
		switch (number) {
		case SIGCHLD:
			if (helpers_reap(parent->sandbox, &parent->helpers) < 0)
				fail_start(parent);
			break;
		case SIGPIPE: case SIGTTIN: case SIGTTOU:
			break;
		case SIGWINCH:
			streams_resize(parent->streams);
			break;
		case SIGINT: case SIGTERM:
			/* Asked twice, the sandbox goes, whatever the workload does with signals. */
			if (parent->interrupts++)
				end_sandbox(parent, "cancelled");
			send_signal(parent, number);
			break;
		case SIGTSTP:
			send_signal(parent, number);
			kill(getpid(), SIGSTOP);
			break;
		default:
			send_signal(parent, number);
		}
	}
}

static void watch(struct parent *parent)
{
	struct usage usage = {0, 0, 0};
	parent->next_watch = now_ms() + WATCH_INTERVAL_MS;
	if (!parent->running || parent->outcome || sample(parent, false, &usage) < 0)
		return;
	if (cgroup_check(parent->sandbox, parent->init) < 0)
		fail_start(parent);
	/* Version 1 kills a single process for want of memory, and leaves half a sandbox. */
	if (cgroup_count(&parent->sandbox->cgroup, "memory.oom_control", "oom_kill"))
		end_sandbox(parent, "memory-limit");
	if (parent->cpu_limit && (usage.user_us + usage.system_us) / 1000 >= parent->cpu_limit)
		end_sandbox(parent, "cpu-limit");
	if (parent->memory_limit && usage.memory > parent->memory_limit &&
	    watch_tree(parent->init, true, &usage) == 0 && usage.memory > parent->memory_limit)
		end_sandbox(parent, "memory-limit");
	release_stack();
}

/* Milliseconds until the next thing that only time brings; -1: none. */
static int patience(const struct parent *parent)
{
	uint64_t next = parent->deadline, now = now_ms(), answer = parent->sandbox->cgroup.deadline;
	if (!parent->running)
		return parent->outcome ? DRAIN_MS : -1;
	if (parent->next_watch && (!next || parent->next_watch < next))
		next = parent->next_watch;
	if (answer && (!next || answer < next))
		next = answer;
	if (!next)
		return -1;
	return next <= now ? 0 : (int)(next - now > 60000 ? 60000 : next - now);
}

static void watch_cgroup(struct parent *parent, bool changed)
{
	uint64_t deadline = parent->sandbox->cgroup.deadline;
	if (deadline && (changed || now_ms() >= deadline) && parent->running && !parent->outcome &&
	    cgroup_step(parent->sandbox, parent->init) < 0) {
		parent->sandbox->cgroup.deadline = 0;
		fail_start(parent);
	}
}

static void reap(struct parent *parent)
{
	int status;
	/* ECHILD: it has been reaped, and nothing would ever come from it again. */
	if (wait4(parent->init, &status, __WALL, &parent->usage) == parent->init || errno == ECHILD)
		parent->running = false;
}

/* Returns false when an ended sandbox's output finds no reader any more. */
static bool step(struct parent *parent)
{
	struct streams *streams = parent->streams;
	const struct cgroup *cgroup = &parent->sandbox->cgroup;
	struct pollfd polls[POLL_COUNT] = {
		[POLL_SIGNALS] = {.fd = parent->signal_fd, .events = POLLIN},
		[POLL_INIT] = {.fd = parent->running ? parent->pidfd : -1, .events = POLLIN},
		[POLL_CONTROL] = {.fd = parent->silent ? -1 : parent->sandbox->control_fd,
				  .events = POLLIN},
		[POLL_LIFELINE] = {.fd = parent->lifeline_fd, .events = POLLIN},
		[POLL_CGROUP] = {.fd = cgroup->deadline ? cgroup->bus_fd : -1, .events = POLLIN},
		[POLL_CLIENT] = {.fd = parent->running ? parent->listener_fd : -1, .events = POLLIN},
	};
	struct relay *relays[] = {&streams->input, &streams->output, &streams->error};
	for (int i = 0; i < 3; i++)
		polls[POLL_INPUT + i].events = relay_interest(relays[i], &polls[POLL_INPUT + i].fd);
	if (!parent->running)
		polls[POLL_INPUT].fd = polls[POLL_CGROUP].fd = -1;
	int ready = poll(polls, POLL_COUNT, patience(parent));
	if (ready == 0 && !parent->running)
		return false;
	if (ready < 0)
		return true;
	if (polls[POLL_SIGNALS].revents)
		take_signals(parent);
	if (polls[POLL_CONTROL].revents)
		take_requests(parent);
	if (polls[POLL_CLIENT].revents)
		admit_client(parent->listener_fd, parent->serve_fd);
	for (int i = 0; i < 3; i++)
		if (polls[POLL_INPUT + i].revents)
			relay_step(streams, relays[i]);
	if (streams->truncated)
		end_sandbox(parent, "output-limit");
	if (polls[POLL_LIFELINE].revents) {
		end_sandbox(parent, "cancelled");
		parent->lifeline_fd = -1;
	}
	if (parent->deadline && parent->running && now_ms() >= parent->deadline)
		end_sandbox(parent, "timeout");
	if (parent->next_watch && now_ms() >= parent->next_watch)
		watch(parent);
	if (polls[POLL_INIT].revents)
		reap(parent);
	else
		watch_cgroup(parent, polls[POLL_CGROUP].revents != 0);
	return true;
}

static void configure(struct parent *parent)
{
	struct operation operation;
	const struct plan *plan = &parent->sandbox->plan;
	parent->lifeline_fd = plan_find(plan, OP_LIFELINE, &operation) ? (int)operation.values[0] : -1;
	parent->report_fd = plan_find(plan, OP_REPORT, &operation) ? (int)operation.values[0] : -1;
	parent->gate_fd = plan_find(plan, OP_GATE, &operation) ? (int)operation.values[0] : -1;
	parent->listener_fd = -1;
	if (plan_find(plan, OP_WATCH, &operation)) {
		parent->memory_limit = operation.values[0];
		parent->cpu_limit = operation.values[1];
	}
	bool waits = plan_find(plan, OP_SERVE, &operation) && operation.values[1] == SERVE_ONCE;
	parent->silent = !parent->sandbox->gated && !parent->sandbox->terminal && !waits &&
			 !cgroup_is_awaited(&parent->sandbox->cgroup);
	if (waits)
		parent->begun = now_ms();
	else
		begin(parent);
}

static uint64_t cpu_us(const struct timeval *time)
{
	return (uint64_t)time->tv_sec * 1000000u + (uint64_t)time->tv_usec;
}

/* The kernel's own limit on one process ends it with SIGXCPU, or SIGKILL when that is ignored. */
static bool cpu_limit_reached(const struct parent *parent)
{
	uint64_t used = cpu_us(&parent->usage.ru_utime) + cpu_us(&parent->usage.ru_stime);
	uint64_t counted = parent->sample.user_us + parent->sample.system_us;
	used = used > counted ? used : counted;
	return parent->cpu_limit && WIFSIGNALED(parent->shared->status) &&
	       (WTERMSIG(parent->shared->status) == SIGXCPU || WTERMSIG(parent->shared->status) == SIGKILL) &&
	       used / 1000 + 20 >= parent->cpu_limit;
}

/* From outside: PID 1, or the workload before its exec; by the kernel for want of memory perhaps. */
static int conclude_killed(struct parent *parent)
{
	struct shared *shared = parent->shared;
	bool memory = cgroup_count(&parent->sandbox->cgroup, "memory.events", "oom_kill");
	shared->status = SIGKILL;
	parent->outcome = memory ? "memory-limit" : shared->started ? "signaled" : "internal";
	parent->killed = !memory && !shared->started;
	if (memory ? isatty(STDERR_FILENO) : parent->killed && parent->report_fd < 0)
		tell(memory ? parent->outcome : "the sandbox was killed before its command started", 0);
	return parent->killed ? EXIT_REFUSED : 128 + SIGKILL;
}

static int conclude(struct parent *parent)
{
	const struct cgroup *cgroup = &parent->sandbox->cgroup;
	int status;
	struct operation operation = {.type = NULL};
	if (parent->shared->failure.set) {
		if (parent->shared->failure.operation < parent->sandbox->plan.count)
			plan_operation(&parent->sandbox->plan, parent->shared->failure.operation, &operation);
		parent->outcome = "internal";
		parent->shared->started = false;
		/* Who asked for a report reads it there, and once. */
		if (parent->report_fd < 0)
			report_failure(parent->sandbox, &parent->shared->failure);
		if (!operation.type || operation.type->opcode != OP_EXECUTE)
			return EXIT_REFUSED;
		return parent->shared->failure.error == ENOENT || parent->shared->failure.error == ENOTDIR
			       ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
	}
	/* Without a gate nothing holds a command whose exec was reached. */
	parent->shared->started |= parent->shared->reached && !parent->sandbox->gated;
	if (!parent->outcome && cgroup_count(cgroup, "memory.oom_control", "oom_kill"))
		parent->outcome = "memory-limit";
	if (parent->outcome) {
		/* Captured output is the workload's alone; a person is told why it ended. */
		if (isatty(STDERR_FILENO))
			tell(parent->outcome, 0);
		return strcmp(parent->outcome, "timeout") ? 128 + SIGKILL : EXIT_TIMEOUT;
	}
	if (!parent->shared->finished)
		return conclude_killed(parent);
	status = WIFEXITED(parent->shared->status) ? WEXITSTATUS(parent->shared->status)
						   : 128 + WTERMSIG(parent->shared->status);
	parent->outcome = WIFEXITED(parent->shared->status) ? "exited" :
			  cpu_limit_reached(parent) ? "cpu-limit" : "signaled";
	/* Nothing is killed at this limit: a command that failed is told what was refused to it. */
	if (status && cgroup_count(cgroup, "pids.events", "max") && strcmp(parent->outcome, "cpu-limit"))
		parent->outcome = "pids-limit";
	return status;
}

static void report_line(int fd, const char *key, uint64_t value, const char *string)
{
	struct text text = {.size = 0};
	text_add(&text, key);
	text_add(&text, " ");
	if (string)
		text_add(&text, string);
	else
		text_number(&text, value, 10);
	text_add(&text, "\n");
	text_write(&text, fd);
}

static void write_report(const struct parent *parent)
{
	int fd = parent->report_fd, status = parent->shared->status;
	uint64_t user = cpu_us(&parent->usage.ru_utime), system = cpu_us(&parent->usage.ru_stime);
	if (fd < 0)
		return;
	report_line(fd, "outcome", 0, parent->outcome);
	report_line(fd, "started", parent->shared->started, NULL);
	report_line(fd, "status", (uint64_t)(WIFEXITED(status) ? WEXITSTATUS(status)
							       : WTERMSIG(status)), NULL);
	report_line(fd, "wall_ms", now_ms() - parent->begun, NULL);
	report_line(fd, "user_us", user > parent->sample.user_us ? user : parent->sample.user_us, NULL);
	report_line(fd, "system_us",
		    system > parent->sample.system_us ? system : parent->sample.system_us, NULL);
	report_line(fd, "max_rss_kib", (uint64_t)parent->usage.ru_maxrss, NULL);
	report_line(fd, "output_bytes", parent->streams->bytes, NULL);
	report_line(fd, "truncated", parent->streams->truncated, NULL);
	report_line(fd, "killed", parent->killed, NULL);
	cgroup_report(&parent->sandbox->cgroup, fd);
	if (!parent->shared->failure.set)
		return;
	report_line(fd, "failed_operation", parent->shared->failure.operation, NULL);
	report_line(fd, "failed_errno", (uint64_t)parent->shared->failure.error, NULL);
	report_line(fd, "failed_site", 0, parent->shared->failure.site);
}

/* A start that failed before there was anything to wait for. */
int parent_refuse(struct sandbox *sandbox, struct streams *streams)
{
	struct parent parent = {.sandbox = sandbox, .shared = sandbox->shared, .streams = streams};
	int status;
	configure(&parent);
	status = conclude(&parent);
	write_report(&parent);
	cgroup_close(&sandbox->cgroup);
	return status;
}

/* A command whose output a full disk swallowed has not succeeded, whatever it says itself. */
static void output_was_lost(struct sandbox *sandbox, int error)
{
	struct operation operation;
	if (plan_find(&sandbox->plan, OP_STANDARD_IO, &operation))
		sandbox->current = operation.index;
	sandbox->site = "write";
	record_failure(sandbox, error);
}

int parent_main(struct sandbox *sandbox, struct streams *streams, pid_t init, int pidfd)
{
	struct parent parent = {.sandbox = sandbox, .shared = sandbox->shared, .streams = streams,
				.init = init, .pidfd = pidfd, .running = true};
	sigset_t all;
	int status;
	if (helpers_start(sandbox, init, &parent.helpers) < 0)
		fail_start(&parent);
	sigfillset(&all);
	parent.signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	configure(&parent);
	if ((sandbox->cgroup.deadline ? bus_request(sandbox, init) : cgroup_place(sandbox, init)) < 0)
		fail_start(&parent);
	streams_started(streams);
	release_pages(sandbox->workload_argv, sandbox->arguments_size);
	release_stack();
	while ((parent.running || !streams_ended(streams)) && step(&parent))
		;
	streams_restore(streams);
	if (streams->lost && !parent.outcome && !sandbox->shared->failure.set)
		output_was_lost(sandbox, streams->lost);
	cgroup_cpu_time(&sandbox->cgroup, &parent.sample);
	status = conclude(&parent);
	write_report(&parent);
	cgroup_close(&sandbox->cgroup);
	remove_private_directory(sandbox); /* where the reaper was killed with the group */
	remove_empty_layer(sandbox);
	return status;
}
