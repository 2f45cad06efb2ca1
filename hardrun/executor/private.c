/*
 * A directory of one run's own, where no mount can be: HOME and TMPDIR in the landlock tier. The
 * launcher names it and the reaper makes it, so that one of two processes knows of it whichever is
 * killed; it is removed, with all that the workload left in it, when nothing of the sandbox lives
 * any more.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

int name_private_directory(struct sandbox *sandbox, const char *parent)
{
	struct text path = {.size = 0};
	uint64_t random;
	if (getrandom(&random, sizeof random, 0) != sizeof random)
		return fail(sandbox, "getrandom");
	text_add(&path, parent);
	text_add(&path, "/hardrun-");
	text_number(&path, random, 16);
	if (path.size >= sizeof sandbox->private_directory) {
		errno = ENAMETOOLONG;
		return fail(sandbox, "path");
	}
	memcpy(sandbox->private_directory, path.data, path.size + 1);
	return 0;
}

int make_private_directory(struct sandbox *sandbox)
{
	struct operation operation;
	if (!plan_find(&sandbox->plan, OP_PRIVATE_DIRECTORY, &operation))
		return 0;
	sandbox->current = operation.index;
	CHECK(mkdir(sandbox->private_directory, 0700), "mkdir");
	return 0;
}

static bool remove_name(int directory_fd, const char *name)
{
	return unlinkat(directory_fd, name, 0) == 0 || unlinkat(directory_fd, name, AT_REMOVEDIR) == 0;
}

static int open_directory(int parent_fd, const char *name)
{
	/* Whoever owned the directory may have locked itself out of it. */
	fchmodat(parent_fd, name, 0700, 0);
	return openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/*
 * Removes what `from` holds; what is not empty is moved into `top`, so that no depth of directories
 * costs depth here. Returns whether anything changed.
 */
static bool sweep(int from_fd, int top_fd, unsigned depth)
{
	static uint64_t serial;
	_Alignas(8) char buffer[4096];
	bool changed = false;
	long size;
	while ((size = syscall(SYS_getdents64, from_fd, buffer, sizeof buffer)) > 0)
		for (long at = 0; at < size;) {
			const struct directory_entry *entry = (const void *)(buffer + at);
			struct text name = {.size = 0};
			int fd;
			at += entry->size;
			if (!strcmp(entry->name, ".") || !strcmp(entry->name, ".."))
				continue;
			if (remove_name(from_fd, entry->name)) {
				changed = true;
				continue;
			}
			fd = open_directory(from_fd, entry->name);
			text_number(&name, serial++, 10);
			if (depth == 0 && fd >= 0 && sweep(fd, top_fd, 1))
				changed = true;
			if (depth && syscall(SYS_renameat2, from_fd, entry->name, top_fd, name.data,
					     0) == 0)
				changed = true;
			if (fd >= 0)
				close(fd);
		}
	return changed;
}

void remove_private_directory(const struct sandbox *sandbox)
{
	int fd;
	if (!sandbox->private_directory[0])
		return;
	fd = open_directory(AT_FDCWD, sandbox->private_directory);
	while (fd >= 0 && sweep(fd, fd, 0))
		lseek(fd, 0, SEEK_SET);
	if (fd >= 0)
		close(fd);
	rmdir(sandbox->private_directory);
}
