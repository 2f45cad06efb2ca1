/*
 * Binds and the root. Descriptor-based from end to end: a tree is cloned from a descriptor, gets
 * its attributes while still detached, and is attached to a descriptor. A failure never falls back
 * to mount(2) with a path.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define FLAG_PINNED 1u
#define FLAG_RECURSIVE 2u
#define OVERFLOW_ID 65534u
#define ANY_OWNER UINT64_MAX
#define RESERVED_FDS 48

/* Every mount is already a slave of the host's here; the clones are made private one by one. */
int perform_make_private(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	CHECK(syscall(SYS_mount, NULL, "/", NULL, MS_PRIVATE, NULL), "mount");
	return 0;
}

/*
 * From inside the user namespace a foreign owner shows as the overflow id. Where the caller is
 * foreign, too, owners can't be told apart: what is bound must be pinned.
 */
static bool owner_matches(const struct sandbox *sandbox, uid_t seen, uint64_t recorded,
			  bool pinned)
{
	if (sandbox->foreign)
		return pinned;
	if (recorded == sandbox->uid)
		return seen == getuid();
	return seen != getuid() || seen == OVERFLOW_ID;
}

/* A source that was swapped since the decision must not be bound (CVE-2024-1753, CVE-2025-9566). */
static int open_source(struct sandbox *sandbox, const char *path, struct stat *status)
{
	int fd;
	CHECK(fd = openat2(AT_FDCWD, path, O_PATH | O_CLOEXEC,
			   RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), "openat2");
	if (fstat(fd, status) < 0) {
		close(fd);
		return fail(sandbox, "fstat");
	}
	return fd;
}

static int changed(struct sandbox *sandbox, int fd)
{
	close(fd);
	errno = ESTALE;
	return fail(sandbox, "source changed");
}

int clone_tree(struct sandbox *sandbox, int source_fd, unsigned recursive, uint64_t attributes)
{
	struct mount_attributes set = {.set = attributes, .propagation = MS_PRIVATE};
	int tree_fd = open_tree(source_fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
					       recursive);
	if (tree_fd < 0)
		return fail(sandbox, "open_tree");
	if (mount_setattr(tree_fd, AT_EMPTY_PATH | recursive, &set) < 0) {
		close(tree_fd);
		return fail(sandbox, "mount_setattr");
	}
	return tree_fd;
}

static int attach_file(struct sandbox *sandbox, int tree_fd, const char *destination)
{
	int target_fd = open_in_root(sandbox, destination, O_PATH | O_NOFOLLOW);
	int result = target_fd < 0 ? -1 : move_mount(tree_fd, target_fd);
	if (target_fd >= 0 && result < 0)
		fail(sandbox, "move_mount");
	if (target_fd >= 0)
		close(target_fd);
	close(tree_fd);
	return result;
}

int attach(struct sandbox *sandbox, int tree_fd, const char *destination)
{
	forget_parent(sandbox);
	return attach_file(sandbox, tree_fd, destination);
}

/* The new root is stacked on the old one, whose name is then gone with the pivot. */
int attach_root(struct sandbox *sandbox, int tree_fd)
{
	int old_fd;
	CHECK(old_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "open");
	CHECK(move_mount(tree_fd, old_fd), "move_mount");
	close(old_fd);
	sandbox->root_fd = tree_fd;
	return 0;
}

/* What an operation that binds says of its source. */
struct source {
	mode_t type;
	uint64_t attributes, flags, device, inode, rdev;
	unsigned recursive;
};

static struct source source_of(const struct operation *operation)
{
	const uint64_t *values = operation->values;
	if (operation->type->opcode == OP_ROOT_BIND || operation->type->opcode == OP_ROOT_OVERLAY)
		return (struct source){S_IFDIR, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, values[1],
				       values[2], values[3], 0, TREE_RECURSIVE};
	if (operation->type->opcode == OP_BIND_DEVICE)
		return (struct source){S_IFCHR, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, 0, 0,
				       values[2], 0};
	return (struct source){(mode_t)(values[6] & UINT32_MAX), values[2], values[3], values[4],
			       values[5], 0, values[3] & FLAG_RECURSIVE ? TREE_RECURSIVE : 0};
}

static int take_source(struct sandbox *sandbox, const struct operation *operation)
{
	struct source source = source_of(operation);
	struct stat status;
	int tree_fd, fd = open_source(sandbox, plan_string(&sandbox->plan, operation, 0), &status);
	if (fd < 0)
		return -1;
	if ((status.st_mode & S_IFMT) != source.type ||
	    ((source.flags & FLAG_PINNED) &&
	     (status.st_dev != source.device || status.st_ino != source.inode)) ||
	    (source.type == S_IFCHR && source.rdev && status.st_rdev != source.rdev))
		return changed(sandbox, fd);
	tree_fd = clone_tree(sandbox, fd, source.recursive, source.attributes);
	close(fd);
	return tree_fd;
}

/* Clones the sources of binds before their turn, as many as there are descriptors for. */
int take_sources(struct sandbox *sandbox)
{
	struct operation operation;
	struct rlimit limit;
	unsigned *count = &sandbox->sources_taken;
	CHECK(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode != OP_ROOT_BIND && operation.type->opcode != OP_BIND &&
		    operation.type->opcode != OP_ROOT_OVERLAY &&
		    operation.type->opcode != OP_BIND_DEVICE)
			continue;
		if (*count == MAXIMUM_SOURCES || *count + RESERVED_FDS > limit.rlim_cur)
			break;
		sandbox->current = i;
		if ((sandbox->sources[*count] = take_source(sandbox, &operation)) < 0)
			return -1;
		++*count;
	}
	return 0;
}

/* The owner is compared now: a source may have been cloned before there was an id map. */
static int next_source(struct sandbox *sandbox, const struct operation *operation, uint64_t owner)
{
	struct stat status;
	int tree_fd = sandbox->sources_used < sandbox->sources_taken
			      ? sandbox->sources[sandbox->sources_used++]
			      : take_source(sandbox, operation);
	if (tree_fd < 0 || owner == ANY_OWNER)
		return tree_fd;
	if (fstat(tree_fd, &status) < 0 ||
	    !owner_matches(sandbox, status.st_uid, owner, source_of(operation).flags & FLAG_PINNED))
		return changed(sandbox, tree_fd);
	return tree_fd;
}

int perform_root_bind(struct sandbox *sandbox, const struct operation *operation)
{
	int tree_fd = next_source(sandbox, operation, operation->values[4]);
	return tree_fd < 0 ? -1 : attach_root(sandbox, tree_fd);
}

int perform_root_overlay(struct sandbox *sandbox, const struct operation *operation)
{
	int tree_fd = next_source(sandbox, operation, operation->values[4]);
	return tree_fd < 0 ? -1 : overlay_root(sandbox, tree_fd);
}

int perform_bind(struct sandbox *sandbox, const struct operation *operation)
{
	int tree_fd = next_source(sandbox, operation, operation->values[6] >> 32);
	return tree_fd < 0 ? -1
			   : attach(sandbox, tree_fd, plan_string(&sandbox->plan, operation, 1));
}

int perform_bind_device(struct sandbox *sandbox, const struct operation *operation)
{
	int tree_fd = next_source(sandbox, operation, ANY_OWNER);
	return tree_fd < 0 ? -1
			   : attach_file(sandbox, tree_fd, plan_string(&sandbox->plan, operation, 1));
}

bool lies_beneath(const char *path, const char *directory)
{
	size_t size = strlen(directory);
	while (size && directory[size - 1] == '/')
		size--;
	return strncmp(path, directory, size) == 0 && (path[size] == '/' || !path[size] || !size);
}

/* A program compiled for "the directory that I am called in" must not be given a way out. */
static bool directory_is_refused(const char *directory, struct blob refused)
{
	const char *end = refused.data + refused.size;
	for (const char *path = refused.data; path < end; path += strnlen(path, (size_t)(end - path)) + 1) {
		size_t size = strnlen(path, (size_t)(end - path));
		if (path + size == end)
			return true;
		if (lies_beneath(path, directory))
			return true;
		if (size && path[size - 1] == '/' && lies_beneath(directory, path))
			return true;
	}
	return directory[0] != '/';
}

int perform_bind_working_directory(struct sandbox *sandbox, const struct operation *operation)
{
	const char *directory = sandbox->caller_directory;
	int fd, tree_fd;
	if (!directory || directory_is_refused(directory, plan_blob(&sandbox->plan, operation, 1))) {
		errno = EACCES;
		return fail(sandbox, "working directory");
	}
	if (sandbox->bare)
		return 0;
	CHECK(fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC), "open");
	tree_fd = clone_tree(sandbox, fd, TREE_RECURSIVE, operation->values[0]);
	close(fd);
	if (tree_fd < 0 || make_directories(sandbox, directory) < 0)
		return -1;
	return attach(sandbox, tree_fd, directory);
}

static int bind_over_itself(struct sandbox *sandbox, int fd, const char *path, unsigned recursive,
			    uint64_t attributes)
{
	int tree_fd = clone_tree(sandbox, fd, recursive, attributes);
	close(fd);
	return tree_fd < 0 ? -1 : attach(sandbox, tree_fd, path);
}

int perform_writable_directory(struct sandbox *sandbox, const struct operation *operation)
{
	const char *path = plan_string(&sandbox->plan, operation, 0);
	int fd = open_in_root(sandbox, path, O_PATH);
	return fd < 0 ? -1 : bind_over_itself(sandbox, fd, path, 0, operation->values[1]);
}

int perform_make_read_only(struct sandbox *sandbox, const struct operation *operation)
{
	const char *path = plan_string(&sandbox->plan, operation, 0);
	int fd = open_in_root(sandbox, path, O_PATH);
	return fd < 0 ? errno == ENOENT ? 0 : -1
		      : bind_over_itself(sandbox, fd, path, TREE_RECURSIVE, MOUNT_ATTR_RDONLY);
}

int perform_root_attributes(struct sandbox *sandbox, const struct operation *operation)
{
	struct mount_attributes set = {.set = operation->values[0]};
	CHECK(mount_setattr(sandbox->root_fd, AT_EMPTY_PATH, &set), "mount_setattr");
	return 0;
}

/* pivot_root, not chroot: a chroot can be left again by whoever holds a directory outside. */
int perform_pivot_root(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	forget_parent(sandbox);
	CHECK(fchdir(sandbox->root_fd), "fchdir");
	CHECK(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	CHECK(syscall(SYS_umount2, ".", MNT_DETACH), "umount2");
	CHECK(chdir("/"), "chdir");
	return 0;
}
