/*
 * The root as an overlay: a given tree that nothing writes, and a layer of changes over it, in memory
 * or in a directory that outlives the sandbox. Thousands of sandboxes may have one tree below.
 *
 * The layers are named relative to a tmpfs that lies over the old root meanwhile: no path of the
 * host is resolved again, and overlay takes them from mounts of this namespace only (detached trees
 * from Linux 6.15 on).
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define LAYER_NAME 48

static void name_layer(char *name, const char *directory, uint64_t number, const char *kind)
{
	struct text text = {.size = 0};
	text_add(&text, directory);
	if (number) {
		text_number(&text, number, 10);
		text_add(&text, ".");
	}
	text_add(&text, kind);
	memcpy(name, text.data, text.size + 1);
}

/* Whose directory it is and that nobody else enters it: another user's layer would be a root of theirs. */
static int open_layers(struct sandbox *sandbox, const char *path)
{
	struct stat status;
	int fd;
	CHECK(fd = openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC,
			   RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), "openat2");
	if (fstat(fd, &status) < 0) {
		close(fd);
		return fail(sandbox, "fstat");
	}
	if (status.st_uid == getuid() && !(status.st_mode & 077))
		return fd;
	close(fd);
	errno = EPERM;
	return fail(sandbox, "not a directory of the caller alone");
}

static int attach_at(struct sandbox *sandbox, int tree_fd, const char *name)
{
	int result, target_fd = -1;
	if (make_directory_at(sandbox, sandbox->root_fd, name, 0700) == 0 &&
	    (target_fd = openat(sandbox->root_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		fail(sandbox, "openat");
	result = target_fd < 0 ? -1 : move_mount(tree_fd, target_fd);
	if (target_fd >= 0 && result < 0)
		fail(sandbox, "move_mount");
	if (target_fd >= 0)
		close(target_fd);
	close(tree_fd);
	return result;
}

int perform_layer(struct sandbox *sandbox, const struct operation *operation)
{
	const uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, *values = operation->values;
	const char *directory = plan_string(&sandbox->plan, operation, 0);
	int fd = new_tmpfs(sandbox, values[2], values[3], 0700, attributes), tree_fd;
	if (fd < 0 || attach_root(sandbox, fd) < 0)
		return -1;
	if (!values[1])
		return 0;
	if ((fd = open_layers(sandbox, directory)) < 0)
		return -1;
	tree_fd = clone_tree(sandbox, fd, 0, attributes);
	close(fd);
	return tree_fd < 0 ? -1 : attach_at(sandbox, tree_fd, "layers");
}

/* The top of the layer shows as the root of the sandbox: it has the mode of what it covers. */
static int make_layer(struct sandbox *sandbox, uint64_t number, mode_t mode, char (*names)[LAYER_NAME])
{
	const char *kinds[] = {"upper", "work"};
	mode_t modes[] = {mode & 0777, 0700};
	for (int i = 0; i < 2; i++) {
		name_layer(names[i], number ? "layers/" : "", number, kinds[i]);
		if (make_directory_at(sandbox, sandbox->root_fd, names[i], modes[i]) < 0)
			return -1;
	}
	return 0;
}

/*
 * With userxattr alone a user namespace may mark what was removed; it also keeps the kernel from
 * following redirects and from taking data from elsewhere (metacopy), which an image could plant.
 */
int overlay_root(struct sandbox *sandbox, int lower_fd)
{
	char names[2][LAYER_NAME];
	const struct option options[] = {{"lowerdir", "lower"}, {"upperdir", names[0]},
					 {"workdir", names[1]}, {"userxattr", NULL}, {NULL, NULL}};
	struct operation layer;
	struct stat status;
	int caller_fd, mount_fd;
	plan_find(&sandbox->plan, OP_LAYER, &layer);
	if (fstat(lower_fd, &status) < 0) {
		close(lower_fd);
		return fail(sandbox, "fstat");
	}
	if (attach_at(sandbox, lower_fd, "lower") < 0 ||
	    make_layer(sandbox, layer.values[1], status.st_mode, names) < 0)
		return -1;
	CHECK(caller_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC), "open");
	CHECK(fchdir(sandbox->root_fd), "fchdir");
	mount_fd = new_filesystem(sandbox, "overlay", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	/*
	 * The overlay has mounts of its own of its layers. What held them must not stay over the old
	 * root: the pivot detaches what lies on top, and beneath it the host would remain, at "/..".
	 */
	if (mount_fd >= 0) {
		CHECK(syscall(SYS_umount2, ".", MNT_DETACH), "umount2");
		/* The caller's directory may be one of the binds that follow. */
		CHECK(fchdir(caller_fd), "fchdir");
	}
	close(caller_fd);
	if (mount_fd < 0)
		return -1;
	close(sandbox->root_fd);
	return attach_root(sandbox, mount_fd);
}

/* In the parent, at the end: a layer without changes leaves nothing behind. What holds anything stays. */
void remove_empty_layer(const struct sandbox *sandbox)
{
	struct operation operation;
	char name[LAYER_NAME];
	int fd, work_fd;
	if (!plan_find(&sandbox->plan, OP_LAYER, &operation) || !operation.values[1])
		return;
	fd = openat2(AT_FDCWD, plan_string(&sandbox->plan, &operation, 0),
		     O_PATH | O_DIRECTORY | O_CLOEXEC, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	if (fd < 0)
		return;
	name_layer(name, "", operation.values[1], "work");
	work_fd = openat(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (work_fd >= 0) {
		unlinkat(work_fd, "work", AT_REMOVEDIR);
		close(work_fd);
	}
	unlinkat(fd, name, AT_REMOVEDIR);
	name_layer(name, "", operation.values[1], "upper");
	unlinkat(fd, name, AT_REMOVEDIR);
	close(fd);
}
