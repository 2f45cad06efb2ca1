/*
 * Labels of AppArmor and SELinux. One is asked for before the exec and taken on by it, so what a
 * write returned says little (a profile may only complain, an exec may lose a label): the parent
 * reads it back from outside while the workload stands at its first instruction (LM-02).
 */
#include "executor.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CATEGORIES 1024u

/* The module's own directory first: where modules are stacked, attr/NAME belongs to another. */
static int open_attribute(int directory_fd, const char *process, const char *module,
			  const char *name, int flags)
{
	struct text own = {.size = 0}, shared = {.size = 0};
	int fd;
	text_add(&own, process);
	text_add(&own, "/attr/");
	shared = own;
	text_add(&own, module);
	text_add(&own, "/");
	text_add(&own, name);
	text_add(&shared, name);
	fd = openat(directory_fd, own.data, flags | O_CLOEXEC);
	return fd >= 0 ? fd : openat(directory_fd, shared.data, flags | O_CLOEXEC);
}

static int write_label(int fd, const char *label)
{
	ssize_t written = write(fd, label, strlen(label));
	close(fd);
	return written == (ssize_t)strlen(label) ? 0 : -1;
}

/* user:role:type:range of the caller; the words point into `text`. */
struct context {
	char text[1024];
	char *words[4];
};

static int read_label(int fd, char *label, size_t capacity)
{
	ssize_t size = fd < 0 ? -1 : read(fd, label, capacity - 1);
	if (fd >= 0)
		close(fd);
	while (size > 0 && (label[size - 1] == '\n' || !label[size - 1]))
		size--;
	label[size > 0 ? size : 0] = 0;
	return size > 0 ? 0 : -1;
}

static int read_context(struct sandbox *sandbox, struct context *context)
{
	int fd = open_attribute(AT_FDCWD, "/proc/thread-self", "selinux", "current", O_RDONLY);
	CHECK(read_label(fd, context->text, sizeof context->text), "attr/current");
	context->words[0] = context->text;
	for (int i = 1; i < 4; i++) {
		char *end = strchr(context->words[i - 1], ':');
		if (!end)
			return fail(sandbox, "attr/current");
		*end = 0;
		context->words[i] = end + 1;
	}
	return 0;
}

/* The categories of a range's upper end: c0.c1023 of s0-s0:c0.c1023. */
static unsigned clearance(const char *range, uint16_t *categories)
{
	const char *upper = strchr(range, '-'), *at = strchr(upper ? upper : range, ':');
	unsigned count = 0;
	for (uint64_t first, last; at && at[0] && at[1];) {
		at += 2; /* ":c" or ",c" */
		if (!parse_number(&at, &first))
			break;
		last = first;
		if (*at == '.') {
			at += 2;
			if (!parse_number(&at, &last))
				break;
		}
		while (first <= last && count < CATEGORIES)
			categories[count++] = (uint16_t)first++;
	}
	return count;
}

/*
 * Two categories that no other sandbox of this network namespace holds: who holds a pair has bound
 * its name, and the kernel lets go of the name with the executor. Without that, a hundred sandboxes
 * at a time would share a pair with a chance of one in a hundred. The descriptor stays open.
 */
static int draw(struct sandbox *sandbox, const uint16_t *from, unsigned count, struct text *drawn)
{
	static const char prefix[] = "hardrun-categories:";
	int fd;
	CHECK(fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	for (int attempts = 0; attempts < 256; attempts++) {
		struct sockaddr_un name = {.sun_family = AF_UNIX};
		uint32_t random[2];
		CHECK(getrandom(random, sizeof random, 0), "getrandom");
		unsigned one = random[0] % count, two = random[1] % (count - 1);
		two += two >= one;
		*drawn = (struct text){.size = 0};
		text_add(drawn, "c");
		text_number(drawn, from[one < two ? one : two], 10);
		text_add(drawn, ",c");
		text_number(drawn, from[one < two ? two : one], 10);
		memcpy(name.sun_path + 1, prefix, sizeof prefix - 1);
		memcpy(name.sun_path + sizeof prefix, drawn->data, drawn->size);
		if (bind(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path)
				+ sizeof prefix + drawn->size)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			break;
	}
	close(fd);
	return fail(sandbox, "bind");
}

static void compose(struct text *label, const struct context *context, const char *role,
		    const char *type, const char *categories)
{
	char sensitivity[16] = "";
	const char *range = context->words[3];
	const char *words[] = {context->words[0], ":", role, ":", type, ":", sensitivity,
			       *categories ? ":" : "", categories};
	memcpy(sensitivity, range, strnlen(range, sizeof sensitivity - 1));
	sensitivity[strcspn(sensitivity, ":-")] = 0;
	*label = (struct text){.size = 0};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		text_add(label, words[i]);
}

/* What attr/exec, the tmpfs and the keyring get; a plan drawn with a clearance is stale without. */
int label_draw(struct sandbox *sandbox, const struct operation *operation)
{
	static LARGE struct context context;
	static LARGE uint16_t categories[CATEGORIES];
	static LARGE struct text label, file_label;
	struct text drawn = {.size = 0};
	unsigned count;
	if (read_context(sandbox, &context) < 0)
		return -1;
	count = clearance(context.words[3], categories);
	if (count < 2 && operation->values[2]) {
		errno = ESTALE;
		return -1;
	}
	if (count >= 2 && draw(sandbox, categories, count, &drawn) < 0)
		return -1;
	compose(&label, &context, context.words[1], plan_string(&sandbox->plan, operation, 0), drawn.data);
	compose(&file_label, &context, "object_r", plan_string(&sandbox->plan, operation, 1), drawn.data);
	sandbox->label = label.data;
	sandbox->file_label = file_label.data;
	return 0;
}

/* The label of the keys that this process makes from now on; an exec forgets it. */
int label_next_key(struct sandbox *sandbox)
{
	int fd;
	CHECK(fd = open_attribute(AT_FDCWD, "/proc/thread-self", "selinux", "keycreate", O_WRONLY),
	      "attr/keycreate");
	CHECK(write_label(fd, sandbox->label), "attr/keycreate");
	return 0;
}

/* Of SELinux a plan holds the type: the whole context is drawn at each start. */
static const char *wanted(const struct sandbox *sandbox, const struct operation *operation)
{
	return strcmp(plan_string(&sandbox->plan, operation, 0), "selinux")
		       ? plan_string(&sandbox->plan, operation, 1) : sandbox->label;
}

/* The descriptor of our own procfs: a name in /proc could be somebody else's (CVE-2019-16884). */
int perform_set_exec_label(struct sandbox *sandbox, const struct operation *operation)
{
	int fd;
	CHECK(fd = open_attribute(sandbox->proc_fd, "thread-self",
				  plan_string(&sandbox->plan, operation, 0), "exec", O_WRONLY),
	      "openat");
	CHECK(write_label(fd, wanted(sandbox, operation)), "write");
	return 0;
}

/* Whether the kernel takes a label for an exec: asked by a child that executes nothing. */
bool label_is_taken(struct sandbox *sandbox, const struct operation *operation)
{
	const char *module = plan_string(&sandbox->plan, operation, 0);
	const char *label = plan_string(&sandbox->plan, operation, 1);
	static LARGE struct context context;
	struct text whole;
	int status;
	if (strcmp(module, "selinux") == 0) {
		if (read_context(sandbox, &context) < 0)
			return false;
		compose(&whole, &context, context.words[1], label, "");
		label = whole.data;
	}
	pid_t pid = vfork();
	if (pid == 0) {
		int fd = open_attribute(AT_FDCWD, "/proc/thread-self",
					module, "exec", O_WRONLY);
		_exit(fd < 0 || write_label(fd, label) < 0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* Compared to the last byte: profile, mode, and with SELinux every category. */
int label_check(struct sandbox *sandbox, const struct operation *operation, pid_t workload)
{
	static LARGE struct text found; /* outlives this call, as a site must */
	struct text process = {.size = 0};
	char label[1024];
	if (sandbox->proc_fd < 0)
		text_add(&process, "/proc/");
	text_number(&process, (uint64_t)workload, 10);
	CHECK(read_label(open_attribute(sandbox->proc_fd, process.data,
					plan_string(&sandbox->plan, operation, 0), "current",
					O_RDONLY), label, sizeof label), "attr/current");
	if (strcmp(label, wanted(sandbox, operation)) == 0)
		return 0;
	text_add(&found, "it has ");
	text_escape(&found, label, strlen(label));
	errno = EACCES;
	return fail(sandbox, found.data);
}
