/*
 * hardrun-exec: interprets a sealed plan. The launcher, the parent that waits, PID 1 of the sandbox
 * and the last steps of the workload are all this program; docs/executor.md tells the order.
 */
#ifndef HARDRUN_EXECUTOR_H
#define HARDRUN_EXECUTOR_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "operations.h"

#define EXIT_TIMEOUT 124
#define EXIT_REFUSED 125
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND 127
#define NO_OPERATION UINT32_MAX
#define SITE_SIZE 120
/* Large, and touched seldom: it lies behind all else, which has room on a single page. */
#define LARGE __attribute__((section(".sbss")))
#define MAXIMUM_SOURCES 128
#define MAXIMUM_HIERARCHIES 8
/* To the reaper of a bare sandbox, also when its parent dies: end it. No program sends this one. */
#define SIGNAL_END 16

/* A plan, validated; everything in it lies inside `base` .. `base + size`. */
struct plan {
	const unsigned char *base;
	size_t size;
	const char *pool;
	uint32_t count, pool_size, unsafe;
};

struct operation {
	const struct operation_type *type;
	uint32_t index;
	const char *reason;
	uint64_t values[7];
};

struct blob {
	const char *data;
	size_t size;
};

/* Why the start failed: the one thing that crosses from the sandbox to the parent as an error. */
struct failure {
	uint32_t set, operation;
	int32_t error;
	char site[SITE_SIZE];
};

/* What a verifier asks, and what came of it; hardrun/plan/probe.py says what the fields mean. */
struct question {
	uint16_t kind, answered;
	int32_t error;
	uint64_t value;
	char text[QUESTION_TEXT];
};
struct probe {
	uint32_t asked, answered, count, padding;
	struct question questions[QUESTIONS];
};

/*
 * What parent, PID 1 and, until its exec, the workload share: how it went gets out without a
 * system call, and the parent wakes once, when PID 1 is gone. `refused` is of a command that came
 * later and could not be executed: the sandbox goes on.
 */
struct shared {
	struct failure failure, refused;
	uint32_t reached, started, finished; /* reached: its exec was asked for */
	int32_t status; /* of the workload, as wait(2) has it */
	int32_t network_fd; /* of PID 1, for a while */
	_Alignas(PROBE_OFFSET) struct probe probe;
};

/* What the sandbox asks of its parent, a byte each; a terminal comes as a descriptor with it. */
enum request {
	REQUEST_TERMINAL = 't',
	REQUEST_READY = 'r',
	REQUEST_CGROUP = 'c',
	REQUEST_BEGUN = 'b',
	REQUEST_ADMITTED = 'a', /* by the parent, to who connects: with it the way to PID 1 */
};

/* A command that came to a running sandbox. */
struct job {
	char **argv, **environment;
	const char *directory; /* empty: as the plan has it */
	uint32_t flags, variables;
};

/* The image: executor, plan, decision, fallback. */
struct image {
	int fd;
	const unsigned char *base;
	size_t size;
	struct blob plan, fallback;
};

struct text {
	char data[1024];
	size_t size;
};

/* Groups of the sandbox's own, all of one name: one, or of version 1 one in each hierarchy. */
struct cgroup {
	int bus_fd, parent_fds[MAXIMUM_HIERARCHIES], leaf_fds[MAXIMUM_HIERARCHIES];
	uint32_t count, operation; /* the first that asks for them */
	char scope[32], leaf[24];
	uint64_t deadline; /* for systemd's answer; 0: none is awaited */
	bool placed, awaited;
};

struct sandbox {
	struct plan plan;
	struct blob fallback;
	char **argv, **environment; /* of the caller */
	char **workload_argv, **workload_environment;
	size_t workload_arguments, workload_variables, arguments_size;
	char *caller_directory;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	bool gated, labelled;
	bool terminal;
	bool bare; /* without namespaces: the tree is ended by its reaper, not by the kernel */
	char private_directory[64]; /* HOME and TMPDIR where no mount can be */
	uint32_t current; /* the operation under way */
	const char *site; /* the system call that failed last */
	struct shared *shared;
	struct failure *failure; /* where the next one is told */
	struct cgroup cgroup;
	int control_fd; /* requests to the parent; in the parent: from the sandbox */
	int root_fd, proc_fd, ruleset_fd, mask_fd, terminal_fd;
	int parent_fd; /* of the last name that was made, and its path */
	char parent_path[64];
	uint64_t later_namespaces; /* made by PID 1, beside others */
	bool network_apart; /* that of the network, by a process of its own */
	pid_t network_pid;
	int sources[MAXIMUM_SOURCES]; /* of binds, cloned meanwhile, in the order of the plan */
	unsigned sources_taken, sources_used;
	bool unsealed; /* it runs from a file that the command must not reach */
	bool foreign; /* PID 1 has given up the caller's ids for some of the sandbox's own */
	const int *standard_fds; /* what the workload gets as 0, 1, 2 */
	bool serving; /* commands come later, by serve_fd */
	int serve_fd;
	enum serve_mode serve_mode;
	const struct job *served; /* the one that is started; NULL: the plan's own command */
	bool ahead; /* of a single one: limits and filter come before it does */
	enum { PART_WHOLE, PART_AHEAD, PART_REST } part;
	const char *label, *file_label; /* SELinux contexts, drawn; empty without */
};

/* Records where a failure happened; returns -1 with errno kept. */
static inline int fail(struct sandbox *sandbox, const char *site)
{
	sandbox->site = site;
	return -1;
}
/* Absolute, or empty for the caller's working directory, or ~ for the private directory. */
static inline const char *place(const struct sandbox *sandbox, const char *path)
{
	if (path[0] == '~')
		return sandbox->private_directory;
	return path[0] ? path : sandbox->caller_directory ? sandbox->caller_directory : "/";
}
#define CHECK(call, name)                                 \
	do {                                              \
		if ((call) < 0)                           \
			return fail(sandbox, (name));     \
	} while (0)

/* text.c: lines without stdio */
void text_add(struct text *text, const char *string);
void text_escape(struct text *text, const char *string, size_t size);
void text_number(struct text *text, uint64_t value, unsigned base);
void text_errno(struct text *text, int error);
void text_write(const struct text *text, int fd);
void tell(const char *problem, int error);
bool parse_number(const char **cursor, uint64_t *value);

/* image.c */
int image_open(struct image *image, const char **problem);
int image_seal(const struct image *image, struct blob artefact);
int image_execute(int fd, char **argv, char **environment);
bool image_is_safe(const struct image *image);
bool image_is_ours(const struct image *self, int fd, const struct blob *rest);
void image_announce(const struct image *image);
int image_find(const struct image *self, struct blob rest);

/* reach.c */
bool is_out_of_reach(const struct plan *plan, int own_fd);
int prove_out_of_reach(struct sandbox *sandbox);

/* frontend.c, ask.c */
int front_end(const struct image *self, char **argv, char **environment, const char *problem);
int ask_service(const struct image *self, int directory_fd, char *executor, size_t room);

/* plan.c */
uint32_t checksum(uint32_t crc, const unsigned char *data, size_t size);
const char *plan_load(struct plan *plan, struct blob bytes);
void plan_operation(const struct plan *plan, uint32_t index, struct operation *operation);
const char *plan_string(const struct plan *plan, const struct operation *operation, unsigned index);
struct blob plan_blob(const struct plan *plan, const struct operation *operation, unsigned index);
bool plan_find(const struct plan *plan, enum opcode opcode, struct operation *operation);

/* memory.c */
void release_pages(void *start, size_t size);
void release_stack(void);

/* launch.c */
int launch_checks(struct sandbox *sandbox);
int launch_clone(struct sandbox *sandbox, int *pidfd, pid_t *pid);
void report_failure(const struct sandbox *sandbox, const struct failure *failure);

/* arguments.c */
int prepare_arguments(struct sandbox *sandbox);

/* relay.c */
struct relay {
	int from_fd, to_fd;
	size_t size, start;
	bool ended;
	char *buffer;
};
#define RELAY_SIZE 4096
struct streams {
	struct relay input, output, error;
	int child_fds[3];
	uint64_t limit, bytes;
	bool truncated, raw;
	int lost; /* why output could not be written to where the caller wants it */
};
bool is_null(int fd);
bool is_free(int fd);
int streams_open(struct sandbox *sandbox, struct streams *streams);
void streams_started(struct streams *streams);
void streams_terminal(struct streams *streams, int master_fd);
void streams_resize(const struct streams *streams);
void streams_restore(const struct streams *streams);
bool streams_ended(const struct streams *streams);
short relay_interest(const struct relay *relay, int *fd);
void relay_step(struct streams *streams, struct relay *relay);

/* watch.c */
struct usage {
	uint64_t memory, user_us, system_us;
};
int watch_tree(pid_t init, bool exact, struct usage *usage);
bool is_exiting(pid_t pid);
void end_children(void);

/* private.c */
int name_private_directory(struct sandbox *sandbox, const char *parent);
int make_private_directory(struct sandbox *sandbox);
void remove_private_directory(const struct sandbox *sandbox);
ssize_t read_process_file(pid_t pid, const char *name, const char *last, char *buffer, size_t room);

/* cgroup.c, bus.c */
int cgroup_open(struct sandbox *sandbox, const struct operation *operation);
int cgroup_check(struct sandbox *sandbox, pid_t init);
int cgroup_awaited(struct sandbox *sandbox);
int cgroup_step(struct sandbox *sandbox, pid_t init);
int cgroup_place(struct sandbox *sandbox, pid_t init);
bool cgroup_is_awaited(const struct cgroup *cgroup);
bool cgroup_cpu_time(const struct cgroup *cgroup, struct usage *usage);
uint64_t cgroup_count(const struct cgroup *cgroup, const char *file, const char *key);
void cgroup_report(const struct cgroup *cgroup, int fd);
void cgroup_close(struct cgroup *cgroup);
int cgroup_wait(struct sandbox *sandbox);
int bus_connect(struct sandbox *sandbox, const struct operation *operation);
int bus_request(struct sandbox *sandbox, pid_t init);
int bus_answer(struct sandbox *sandbox);

/* parent.c, gate.c, admit.c */
int parent_refuse(struct sandbox *sandbox, struct streams *streams);
int parent_main(struct sandbox *sandbox, struct streams *streams, pid_t init, int pidfd);
int gate_ask(struct sandbox *sandbox);
int gate_hold(struct sandbox *sandbox, pid_t workload, int gate_fd);
int gate_hold_served(struct sandbox *sandbox, pid_t workload);
void gate_end(pid_t workload);
void admit_client(int listener_fd, int serve_fd);

/* helpers.c: newuidmap and newgidmap under way. */
struct helper {
	pid_t pid;
	int error_fd;
	uint32_t operation;
};
struct helpers {
	struct helper list[2];
	unsigned count;
	char problem[SITE_SIZE]; /* what one that failed had to say */
};
int helpers_start(struct sandbox *sandbox, pid_t init, struct helpers *helpers);
int helpers_reap(struct sandbox *sandbox, struct helpers *helpers);
void reset_signals(void);

/* label.c */
int label_draw(struct sandbox *sandbox, const struct operation *operation);
int label_next_key(struct sandbox *sandbox);
bool label_is_taken(struct sandbox *sandbox, const struct operation *operation);
int label_check(struct sandbox *sandbox, const struct operation *operation, pid_t workload);

/* namespaces.c */
int start_network(struct sandbox *sandbox);

/* init.c, workload.c, perform.c; perform_* of each operation: operations.h */
_Noreturn void init_main(struct sandbox *sandbox);
pid_t start_workload(struct sandbox *sandbox);
int open_null(void);
void exchange_null(void);
int workload_main(void *sandbox);
_Noreturn void workload_ahead(struct sandbox *sandbox);
int perform(struct sandbox *sandbox, enum phase phase);
void record_failure(struct sandbox *sandbox, int error);

/* serve.c, job.c: commands that come later */
struct rusage;
bool job_parse(struct job *job, char *data, size_t size);
int serve_open(struct sandbox *sandbox);
int serve_await(struct sandbox *sandbox, struct job *job, int *fds);
int serve_wait(struct sandbox *sandbox, siginfo_t *info);
bool serve_ended(struct sandbox *sandbox, pid_t pid, int status, struct rusage *usage);
unsigned serve_descriptors(const struct sandbox *sandbox);

/* tree.c: names inside the new root */
int open_in_root(struct sandbox *sandbox, const char *path, uint64_t flags);
void forget_parent(struct sandbox *sandbox);
int make_directories(struct sandbox *sandbox, const char *path);
int make_directory_at(struct sandbox *sandbox, int parent_fd, const char *name, mode_t mode);

/* mounts.c, filesystems.c */
struct option {
	const char *name, *value; /* value NULL: a flag */
};
int new_filesystem(struct sandbox *sandbox, const char *type, const struct option *options,
		   uint64_t attributes);
int new_tmpfs(struct sandbox *sandbox, uint64_t size, uint64_t inodes, mode_t mode,
	      uint64_t attributes);
int attach_root(struct sandbox *sandbox, int tree_fd);
int attach(struct sandbox *sandbox, int tree_fd, const char *destination);
int take_sources(struct sandbox *sandbox);
bool lies_beneath(const char *path, const char *directory);
int clone_tree(struct sandbox *sandbox, int source_fd, unsigned recursive, uint64_t attributes);

/* layer.c */
int overlay_root(struct sandbox *sandbox, int lower_fd);
void remove_empty_layer(const struct sandbox *sandbox);

/* probe.c */
struct shared *probe_share(void);
pid_t probe_start(const struct sandbox *sandbox);
pid_t probe_ended(const struct sandbox *sandbox);

/* control.c */
int control_send(int fd, enum request request, int passed_fd);
ssize_t control_receive(int fd, char *data, size_t room, pid_t *sender, int *passed_fd);
int control_wait(int fd);
uint64_t now_ms(void);

#endif
