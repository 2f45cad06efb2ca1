/*
 * The kernel's user API as far as musl's headers lack it. Own definitions, so that the executor
 * builds the same against any C library (numbers: arch/x86/entry/syscalls, asm-generic/unistd.h).
 */
#ifndef HARDRUN_UAPI_H
#define HARDRUN_UAPI_H

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From 424 on a system call has the same number on every architecture. */
enum {
	NR_OPEN_TREE = 428,
	NR_MOVE_MOUNT = 429,
	NR_FSOPEN = 430,
	NR_FSCONFIG = 431,
	NR_FSMOUNT = 432,
	NR_CLONE3 = 435,
	NR_CLOSE_RANGE = 436,
	NR_OPENAT2 = 437,
	NR_MOUNT_SETATTR = 442,
	NR_LANDLOCK_CREATE_RULESET = 444,
	NR_LANDLOCK_ADD_RULE = 445,
	NR_LANDLOCK_RESTRICT_SELF = 446,
};

struct clone_arguments {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
		set_tid, set_tid_size, cgroup;
};

struct open_how {
	uint64_t flags, mode, resolve;
};
#define RESOLVE_NO_MAGICLINKS 0x02u
#define RESOLVE_NO_SYMLINKS 0x04u
#define RESOLVE_IN_ROOT 0x10u

struct mount_attributes {
	uint64_t set, clear, propagation, userns_fd;
};
#define MOUNT_ATTR_RDONLY 0x1u
#define MOUNT_ATTR_NOSUID 0x2u
#define MOUNT_ATTR_NODEV 0x4u
#define MOUNT_ATTR_NOEXEC 0x8u

#define MS_PRIVATE (1ul << 18)
#define MNT_DETACH 2

#define OPEN_TREE_CLONE 1u
#define OPEN_TREE_CLOEXEC 02000000u
#define TREE_RECURSIVE 0x8000u
#define MOVE_MOUNT_F_EMPTY_PATH 0x4u
#define MOVE_MOUNT_T_EMPTY_PATH 0x40u
#define FSOPEN_CLOEXEC 1u
#define FSMOUNT_CLOEXEC 1u
#define FSCONFIG_SET_FLAG 0u
#define FSCONFIG_SET_STRING 1u
#define FSCONFIG_CMD_CREATE 6u

struct landlock_ruleset {
	uint64_t filesystem, network, scoped;
};
struct landlock_path_beneath {
	uint64_t access;
	int32_t parent_fd;
} __attribute__((packed));
#define LANDLOCK_CREATE_RULESET_VERSION 1u
#define LANDLOCK_RULE_PATH_BENEATH 1u
#define LANDLOCK_ACCESS_FS_EXECUTE 1u
#define LANDLOCK_ACCESS_FS_WRITE_FILE 2u
#define LANDLOCK_ACCESS_FS_READ_FILE 4u
#define LANDLOCK_ACCESS_FS_TRUNCATE 0x4000u /* Linux 6.2 */
/* Execute, write, read, truncate, ioctl: the rights that a file (not a directory) can carry. */
#define LANDLOCK_FILE_RIGHTS 0xc007u

struct capability_header {
	uint32_t version;
	int32_t pid;
};
struct capability_data {
	uint32_t effective, permitted, inheritable;
};
#define CAPABILITY_VERSION_3 0x20080522u

struct directory_entry {
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

struct filter_program {
	uint16_t length;
	const void *filter;
};
#define SECCOMP_SET_MODE_FILTER 1u
#define SECCOMP_FILTER_FLAG_TSYNC 1u
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_CLASS_SHIFT 13
#define IOPRIO_CLASS_RT 1

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif
#define KEYCTL_JOIN_SESSION_KEYRING 1
#define KEYCTL_SETPERM 5
#define KEYCTL_GET_SECURITY 17
#define KEY_POSSESSOR_ALL 0x3f000000u
#define KEY_USER_VIEW_READ_SEARCH_LINK 0x001b0000u
#define PROC_SUPER_MAGIC 0x9fa0
#define CGROUP_SUPER_MAGIC 0x27e0eb
#define CGROUP2_SUPER_MAGIC 0x63677270
#define PF_EXITING 0x4u
#define TIOCGPTPEER_REQUEST 0x5441
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#define CLONE_INTO_CGROUP 0x200000000ull

static inline int openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags, .mode = 0, .resolve = resolve};
	return (int)syscall(NR_OPENAT2, directory_fd, path, &how, sizeof how);
}

static inline int open_tree(int fd, const char *path, unsigned flags)
{
	return (int)syscall(NR_OPEN_TREE, fd, path, flags);
}

static inline int move_mount(int from_fd, int to_fd)
{
	return (int)syscall(NR_MOVE_MOUNT, from_fd, "", to_fd, "",
			    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static inline int mount_setattr(int fd, unsigned flags, const struct mount_attributes *attributes)
{
	return (int)syscall(NR_MOUNT_SETATTR, fd, "", flags, attributes, sizeof *attributes);
}

static inline int close_descriptor_range(unsigned first, unsigned last)
{
	return (int)syscall(NR_CLOSE_RANGE, first, last, 0u);
}

#endif
