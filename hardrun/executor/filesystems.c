/* New file systems: tmpfs, proc, devpts; and masks. */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static int configure(int fd, const struct option *option)
{
	return (int)syscall(NR_FSCONFIG, fd, option->value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG,
			    option->name, option->value, 0);
}

int new_filesystem(struct sandbox *sandbox, const char *type, const struct option *options,
		   uint64_t attributes)
{
	int mount_fd, fd = (int)syscall(NR_FSOPEN, type, FSOPEN_CLOEXEC);
	if (fd < 0)
		return fail(sandbox, "fsopen");
	for (; options->name; options++)
		if (configure(fd, options) < 0) {
			close(fd);
			return fail(sandbox, "fsconfig");
		}
	struct option label = {"context", sandbox->file_label};
	if (sandbox->file_label[0] && strcmp(type, "proc") && configure(fd, &label) < 0) {
		close(fd);
		return fail(sandbox, "fsconfig context");
	}
	if (syscall(NR_FSCONFIG, fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
		close(fd);
		return fail(sandbox, "fsconfig");
	}
	mount_fd = (int)syscall(NR_FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes);
	close(fd);
	return mount_fd < 0 ? fail(sandbox, "fsmount") : mount_fd;
}

/* Always with size and nr_inodes: the kernel's defaults are half the memory and millions. */
int new_tmpfs(struct sandbox *sandbox, uint64_t size, uint64_t inodes, mode_t mode,
	      uint64_t attributes)
{
	struct text size_text = {.size = 0}, inodes_text = {.size = 0}, mode_text = {.size = 0};
	text_number(&size_text, size, 10);
	text_number(&inodes_text, inodes, 10);
	text_number(&mode_text, mode, 8);
	struct option options[] = {{"size", size_text.data}, {"nr_inodes", inodes_text.data},
				   {"mode", mode_text.data}, {NULL, NULL}};
	return new_filesystem(sandbox, "tmpfs", options, attributes);
}

int perform_root_tmpfs(struct sandbox *sandbox, const struct operation *operation)
{
	int fd = new_tmpfs(sandbox, operation->values[0], operation->values[1], 0755,
			   MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	return fd < 0 ? -1 : attach_root(sandbox, fd);
}

int perform_mount_tmpfs(struct sandbox *sandbox, const struct operation *operation)
{
	const uint64_t *values = operation->values;
	int fd = new_tmpfs(sandbox, values[1], values[2], (mode_t)values[3], values[4]);
	if (fd < 0)
		return -1;
	return attach(sandbox, fd, plan_string(&sandbox->plan, operation, 0));
}

int perform_mount_proc(struct sandbox *sandbox, const struct operation *operation)
{
	static const struct option subset[] = {{"subset", "pid"}, {"hidepid", "invisible"},
					       {NULL, NULL}};
	int fd = new_filesystem(sandbox, "proc", operation->values[1] ? subset : subset + 2,
				MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fd < 0)
		return -1;
	CHECK(sandbox->proc_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3), "fcntl");
	return attach(sandbox, fd, plan_string(&sandbox->plan, operation, 0));
}

/*
 * The terminal comes from our own devpts by descriptor, its other end by TIOCGPTPEER: no name in
 * /dev is resolved (CVE-2025-52565). The master goes to the parent, which relays.
 */
static int open_terminal(struct sandbox *sandbox, int devpts_fd)
{
	int unlocked = 0, result, master_fd;
	CHECK(master_fd = openat(devpts_fd, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), "openat");
	CHECK(ioctl(master_fd, TIOCSPTLCK, &unlocked), "TIOCSPTLCK");
	CHECK(sandbox->terminal_fd = ioctl(master_fd, TIOCGPTPEER_REQUEST,
					   O_RDWR | O_NOCTTY | O_CLOEXEC), "TIOCGPTPEER");
	result = control_send(sandbox->control_fd, REQUEST_TERMINAL, master_fd);
	close(master_fd);
	return result < 0 ? fail(sandbox, "sendmsg") : 0;
}

/* Not nodev: the open of ptmx would answer EACCES. The kernel makes every devpts a new instance. */
int perform_mount_devpts(struct sandbox *sandbox, const struct operation *operation)
{
	static const struct option options[] = {{"ptmxmode", "0666"}, {"mode", "0620"}, {NULL, NULL}};
	int fd = new_filesystem(sandbox, "devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	if (fd < 0)
		return -1;
	if (sandbox->terminal && open_terminal(sandbox, fd) < 0)
		return -1;
	return attach(sandbox, fd, plan_string(&sandbox->plan, operation, 0));
}

/* The kernel's null device, checked by its number: an image's /dev/null can be anything. */
static int clone_null(struct sandbox *sandbox)
{
	struct stat status;
	int tree_fd, fd = openat2(AT_FDCWD, "/dev/null", O_PATH | O_CLOEXEC, RESOLVE_NO_SYMLINKS);
	if (fd < 0)
		return fail(sandbox, "openat2");
	if (fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3)) {
		close(fd);
		errno = ENODEV;
		return fail(sandbox, "/dev/null");
	}
	tree_fd = clone_tree(sandbox, fd, 0,
			     MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	close(fd);
	return tree_fd;
}

/* Masked directories share one empty read-only tmpfs: the first is mounted, the others clone it. */
static int clone_empty(struct sandbox *sandbox)
{
	uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			      MOUNT_ATTR_NOEXEC;
	int fd;
	if (sandbox->mask_fd >= 0)
		return clone_tree(sandbox, sandbox->mask_fd, 0, attributes);
	fd = new_tmpfs(sandbox, 4096, 2, 0555, attributes);
	if (fd >= 0)
		sandbox->mask_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return fd;
}

int perform_mask(struct sandbox *sandbox, const struct operation *operation)
{
	const char *path = plan_string(&sandbox->plan, operation, 0);
	struct stat status;
	int tree_fd, result, fd = open_in_root(sandbox, path, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	result = fstat(fd, &status);
	close(fd);
	CHECK(result, "fstat");
	tree_fd = S_ISDIR(status.st_mode) ? clone_empty(sandbox) : clone_null(sandbox);
	return tree_fd < 0 ? -1 : attach(sandbox, tree_fd, path);
}
