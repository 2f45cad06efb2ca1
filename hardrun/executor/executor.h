/*
 * hardrun-exec: interprets a sealed plan. The launcher, the parent that waits, PID 1 of the sandbox
 * and the last steps of the workload are all this program; docs/executor.md tells the order.
 */
#ifndef HARDRUN_EXECUTOR_H
#define HARDRUN_EXECUTOR_H

#include <errno.h>
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
#define SITE_SIZE 40

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

/*
 * A page that parent, PID 1 and, until its exec, the workload share: how it went gets out without
 * a system call, and the parent wakes once, when PID 1 is gone.
 */
struct shared {
	struct failure failure;
	uint32_t started, finished;
	int32_t status; /* of the workload, as wait(2) has it */
};

/* What the sandbox asks of its parent, a byte each; a terminal comes as a descriptor with it. */
enum request { REQUEST_MAPS = 'm', REQUEST_TERMINAL = 't', REQUEST_READY = 'r' };

/* The image: executor, plan, decision, fallback. */
struct image {
	int fd;
	const unsigned char *base;
	size_t size;
	struct blob plan, fallback;
};

struct sandbox {
	struct plan plan;
	struct blob fallback;
	char **argv, **environment; /* of the caller */
	char **workload_argv, **workload_environment;
	size_t workload_arguments, workload_variables;
	char *caller_directory;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	bool gated;
	bool terminal;
	uint32_t current; /* the operation under way */
	const char *site; /* the system call that failed last */
	struct shared *shared;
	int control_fd; /* requests to the parent; in the parent: from the sandbox */
	int root_fd, proc_fd, ruleset_fd, mask_fd, terminal_fd;
	const int *standard_fds; /* what the workload gets as 0, 1, 2 */
};

/* Records where a failure happened; returns -1 with errno kept. */
static inline int fail(struct sandbox *sandbox, const char *site)
{
	sandbox->site = site;
	return -1;
}
static inline const char *caller_directory_if_empty(const struct sandbox *sandbox, const char *path)
{
	return path[0] ? path : sandbox->caller_directory ? sandbox->caller_directory : "/";
}
#define CHECK(call, name)                                 \
	do {                                              \
		if ((call) < 0)                           \
			return fail(sandbox, (name));     \
	} while (0)

/* text.c: lines without stdio */
struct text {
	char data[1024];
	size_t size;
};
void text_add(struct text *text, const char *string);
void text_escape(struct text *text, const char *string, size_t size);
void text_number(struct text *text, uint64_t value, unsigned base);
void text_errno(struct text *text, int error);
void text_write(const struct text *text, int fd);
void tell(const char *problem, int error);
bool parse_number(const char **cursor, uint64_t *value);

/* image.c */
int image_open(struct image *image, const char **problem);
int image_seal(const struct image *image, char **argv, char **environment);
bool image_is_safe(const struct image *image);

/* plan.c */
const char *plan_load(struct plan *plan, struct blob bytes);
void plan_operation(const struct plan *plan, uint32_t index, struct operation *operation);
const char *plan_string(const struct plan *plan, const struct operation *operation, unsigned index);
struct blob plan_blob(const struct plan *plan, const struct operation *operation, unsigned index);
bool plan_find(const struct plan *plan, enum opcode opcode, struct operation *operation);

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
	char buffer[4096];
};
struct streams {
	struct relay input, output, error;
	int child_fds[3];
	uint64_t limit, bytes;
	bool truncated, raw;
};
bool is_null(int fd);
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

/* parent.c, gate.c */
int parent_refuse(struct sandbox *sandbox, struct streams *streams);
int parent_main(struct sandbox *sandbox, struct streams *streams, pid_t init, int pidfd);
int gate_hold(pid_t workload, int control_fd, int gate_fd);
int run_id_map_helpers(const struct sandbox *sandbox, pid_t init, uint32_t *failed);
void reset_signals(void);

/* init.c, workload.c, perform.c; perform_* of each operation: operations.h */
_Noreturn void init_main(struct sandbox *sandbox);
int workload_main(void *sandbox);
int perform(struct sandbox *sandbox, enum phase phase);
void record_failure(struct sandbox *sandbox, int error);

/* tree.c: names inside the new root */
int open_in_root(struct sandbox *sandbox, const char *path, uint64_t flags);
int make_directories(struct sandbox *sandbox, const char *path);

/* mounts.c, filesystems.c */
int attach_root(struct sandbox *sandbox, int tree_fd);
int attach(struct sandbox *sandbox, int tree_fd, const char *destination);
int clone_tree(struct sandbox *sandbox, int source_fd, unsigned recursive, uint64_t attributes);

/* control.c */
int control_send(int fd, enum request request, int passed_fd);
ssize_t control_receive(int fd, char *request, pid_t *sender, int *passed_fd);
int control_wait(int fd);
uint64_t now_ms(void);

#endif
