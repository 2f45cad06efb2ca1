/*
 * A program that keeps its plan in a file of the user's. The command sees the file as /proc/1/exe, and an
 * entry point "#!/proc/self/exe" enters it again: it could then be written (CVE-2019-5736). Such a program
 * runs from a sealed copy of itself, unless Landlock keeps the command from its file.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CHANGES (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE)

static const char OWN_FILE[] = "/proc/self/exe";

/* Every other answer says nothing: Linux 6.11 let it be written, and a mode can be changed. */
static bool is_busy(void)
{
	int fd = open(OWN_FILE, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? errno == ETXTBSY : close(fd) > 0; /* which is never */
}

/*
 * One inode, which is busy: beneath an overlay or FUSE, and on a server, it is written all the same. And one
 * name: a memory file has none, lies in no mount, and Landlock lets everybody open it.
 */
static bool is_of_a_disk(int fd)
{
	static const unsigned long ext4 = 0xef53, xfs = 0x58465342, btrfs = 0x9123683e, tmpfs = 0x01021994;
	struct statfs system;
	struct stat file;
	return fstatfs(fd, &system) == 0 && fstat(fd, &file) == 0 && file.st_nlink == 1 &&
	       (system.f_type == ext4 || system.f_type == xfs || system.f_type == btrfs || system.f_type == tmpfs);
}

/* By the names of what is given: a guess, as a directory may have two. prove_out_of_reach asks the kernel. */
bool is_out_of_reach(const struct plan *plan, int own_fd)
{
	char path[512];
	ssize_t size = readlink(OWN_FILE, path, sizeof path - 1);
	uint64_t handled = 0;
	unsigned needed = 0;
	if (size < 0 || (size_t)size == sizeof path - 1)
		return false;
	path[size] = 0;
	if (!is_of_a_disk(own_fd) || !is_busy())
		return false;
	for (uint32_t i = 0; i < plan->count; i++) {
		struct operation operation;
		plan_operation(plan, i, &operation);
		const uint64_t *values = operation.values;
		switch (operation.type->opcode) {
		case OP_LANDLOCK_RULESET:
			handled = values[0];
			break;
		case OP_LANDLOCK_PATH: /* what may be changed can be read, or the proof would be none */
			if (values[1] & CHANGES && !(values[1] & LANDLOCK_ACCESS_FS_READ_FILE))
				return false;
			break;
		case OP_ROOT_BIND: case OP_BIND:
			if (lies_beneath(path, plan_string(plan, &operation, 0)))
				return false;
			break;
		case OP_MOUNT_PROC: case OP_NOT_DUMPABLE: case OP_LANDLOCK_RESTRICT:
			needed++;
			break;
		case OP_ROOT_OVERLAY: case OP_BIND_WORKING_DIRECTORY: case OP_SERVE: case OP_EXPECT_LABEL:
		case OP_SET_EXEC_LABEL:
			return false;
		default:
			break;
		}
	}
	return needed == 3 && !(~handled & (CHANGES | LANDLOCK_ACCESS_FS_READ_FILE));
}

/* By PID 1, in the domain: its own file it always finds, and to open it is refused to all. */
int prove_out_of_reach(struct sandbox *sandbox)
{
	int fd = open(OWN_FILE, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == EACCES ? 0 : fail(sandbox, "open");
	errno = EPERM;
	return fail(sandbox, "this program lies in what the sandbox is given: move it elsewhere");
}
