/* Groups, capabilities, securebits, no_new_privs: in the order in which they can still be given up. */
#include "executor.h"
#include "uapi.h"

#include <grp.h>
#include <string.h>
#include <sys/prctl.h>

#define PR_CAP_AMBIENT_ALL_SETS 4
#define MAXIMUM_GROUPS 64

/*
 * A single-id map with setgroups denied keeps the caller's groups: a file of mode 0040 and one of
 * those groups stays readable (CVE-2018-7169's other side). Where the plan says so they are dropped.
 */
int perform_set_groups(struct sandbox *sandbox, const struct operation *operation)
{
	struct blob blob = plan_blob(&sandbox->plan, operation, 0);
	gid_t groups[MAXIMUM_GROUPS];
	if (blob.size > sizeof groups || blob.size % sizeof *groups) {
		errno = EINVAL;
		return fail(sandbox, "set_groups");
	}
	memcpy(groups, blob.data, blob.size);
	CHECK(syscall(SYS_setgroups, blob.size / sizeof *groups, groups), "setgroups");
	return 0;
}

/*
 * From here on no process of the sandbox has an id of the caller's, nor of another sandbox. The
 * kernel makes us non-dumpable for that, and /proc/self root's; nobody else is in the namespace yet.
 */
int perform_become(struct sandbox *sandbox, const struct operation *operation)
{
	uint64_t uid = operation->values[0], gid = operation->values[1];
	if (cgroup_wait(sandbox) < 0)
		return -1;
	CHECK(syscall(SYS_setresgid, gid, gid, gid), "setresgid");
	CHECK(syscall(SYS_setresuid, uid, uid, uid), "setresuid");
	CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE");
	sandbox->foreign = true;
	return 0;
}

/* Not only no_new_privs: without this, root in the namespace regains everything at an exec. */
int perform_drop_bounding(struct sandbox *sandbox, const struct operation *operation)
{
	for (unsigned long capability = 0; capability < 64; capability++) {
		if (operation->values[0] >> capability & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
			/* Only the kernel's end of the list ends ours: each before it has to go. */
			if (errno == EINVAL && prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0)
				break;
			return fail(sandbox, "PR_CAPBSET_DROP");
		}
	}
	return 0;
}

int perform_set_securebits(struct sandbox *sandbox, const struct operation *operation)
{
	CHECK(prctl(PR_SET_SECUREBITS, (unsigned long)operation->values[0]), "PR_SET_SECUREBITS");
	return 0;
}

int perform_set_capabilities(struct sandbox *sandbox, const struct operation *operation)
{
	uint64_t mask = operation->values[0];
	uint32_t low = (uint32_t)mask, high = (uint32_t)(mask >> 32);
	struct capability_header header = {.version = CAPABILITY_VERSION_3};
	struct capability_data data[2] = {{low, low, low}, {high, high, high}};
	CHECK(syscall(SYS_capset, &header, data), "capset");
	for (unsigned long capability = 0; capability < 64; capability++)
		if (mask >> capability & 1)
			CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0),
			      "PR_CAP_AMBIENT_RAISE");
	return 0;
}

int perform_no_new_privs(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
	return 0;
}

/* PID 1 has the workload's uid: dumpable, its descriptors and memory would be the workload's. */
int perform_not_dumpable(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE");
	return 0;
}
