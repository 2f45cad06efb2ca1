/*
 * Names inside the new root. Nothing is resolved by joining strings: every path goes through
 * openat2(RESOLVE_IN_ROOT) from a descriptor of the root (CVE-2021-30465, CVE-2026-41579).
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define RACE_RETRIES 32

/* EAGAIN means that a rename raced with "..": retried a bounded number of times, then an error. */
int open_in_root(struct sandbox *sandbox, const char *path, uint64_t flags)
{
	int fd = -1;
	for (int attempt = 0; attempt < RACE_RETRIES; attempt++) {
		fd = openat2(sandbox->root_fd, path, flags | O_CLOEXEC,
			     RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd < 0 ? fail(sandbox, "openat2") : fd;
}

/* What lies on a directory from now on must be found: no descriptor of what is beneath it is kept. */
void forget_parent(struct sandbox *sandbox)
{
	if (sandbox->parent_fd >= 0)
		close(sandbox->parent_fd);
	sandbox->parent_fd = -1;
}

/*
 * The directory that holds the last component, at which *name then points. It stays open for the next
 * name in it, as long as nothing is mounted.
 */
static int parent_of(struct sandbox *sandbox, const char *path, const char **name)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t size = slash ? (size_t)(slash - path) : 0;
	if (!slash || !slash[1] || size >= sizeof parent || !strcmp(slash + 1, "..")) {
		errno = EINVAL;
		return fail(sandbox, "path");
	}
	*name = slash + 1;
	memcpy(parent, path, size);
	parent[size] = 0;
	if (sandbox->parent_fd >= 0 && !strcmp(parent, sandbox->parent_path))
		return sandbox->parent_fd;
	forget_parent(sandbox);
	if (size < sizeof sandbox->parent_path)
		memcpy(sandbox->parent_path, parent, size + 1);
	else
		sandbox->parent_path[0] = '.'; /* too long: it is like no other */
	return sandbox->parent_fd = open_in_root(sandbox, size ? parent : "/", O_PATH | O_DIRECTORY);
}

static int keep_existing(struct sandbox *sandbox, int parent_fd, const char *name, mode_t type)
{
	struct stat status;
	CHECK(fstatat(parent_fd, name, &status, AT_SYMLINK_NOFOLLOW), "fstatat");
	if ((status.st_mode & S_IFMT) == type)
		return 0;
	errno = S_ISLNK(status.st_mode) ? ELOOP : EEXIST;
	return fail(sandbox, "existing file");
}

int make_directory_at(struct sandbox *sandbox, int parent_fd, const char *name, mode_t mode)
{
	int result = mkdirat(parent_fd, name, mode);
	if (result < 0 && errno == EEXIST)
		return keep_existing(sandbox, parent_fd, name, S_IFDIR);
	return result < 0 ? fail(sandbox, "mkdirat") : 0;
}

static int make_directory(struct sandbox *sandbox, const char *path, mode_t mode)
{
	const char *name;
	int parent_fd = parent_of(sandbox, path, &name);
	return parent_fd < 0 ? -1 : make_directory_at(sandbox, parent_fd, name, mode);
}

int perform_make_directory(struct sandbox *sandbox, const struct operation *operation)
{
	return make_directory(sandbox, plan_string(&sandbox->plan, operation, 0),
			      (mode_t)operation->values[1]);
}

int make_directories(struct sandbox *sandbox, const char *path)
{
	char prefix[PATH_MAX];
	size_t size = strlen(path);
	if (path[0] != '/' || size >= sizeof prefix) {
		errno = ENAMETOOLONG;
		return fail(sandbox, "path");
	}
	for (size_t at = 1; at <= size; at++) {
		if (path[at] != '/' && path[at])
			continue;
		memcpy(prefix, path, at);
		prefix[at] = 0;
		if (make_directory(sandbox, prefix, 0755) < 0)
			return -1;
	}
	return 0;
}

static int write_all(int fd, struct blob content)
{
	while (content.size) {
		ssize_t size = write(fd, content.data, content.size);
		if (size <= 0)
			return -1;
		content.data += size;
		content.size -= (size_t)size;
	}
	return 0;
}

int perform_make_file(struct sandbox *sandbox, const struct operation *operation)
{
	const char *name;
	int parent_fd = parent_of(sandbox, plan_string(&sandbox->plan, operation, 0), &name);
	int fd, result;
	if (parent_fd < 0)
		return -1;
	fd = openat(parent_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    (mode_t)operation->values[1]);
	if (fd < 0)
		return errno == EEXIST ? keep_existing(sandbox, parent_fd, name, S_IFREG)
				       : fail(sandbox, "openat");
	result = write_all(fd, plan_blob(&sandbox->plan, operation, 2));
	if (result < 0)
		fail(sandbox, "write");
	close(fd);
	return result;
}

int perform_make_symlink(struct sandbox *sandbox, const struct operation *operation)
{
	const char *name;
	int parent_fd = parent_of(sandbox, plan_string(&sandbox->plan, operation, 0), &name);
	if (parent_fd < 0)
		return -1;
	CHECK(symlinkat(plan_string(&sandbox->plan, operation, 1), parent_fd, name), "symlinkat");
	return 0;
}
