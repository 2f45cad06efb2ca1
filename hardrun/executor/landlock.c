/*
 * The Landlock domain is taken by PID 1 before it forks the workload: two processes with equal
 * rulesets but domains of their own could not signal each other.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <sys/stat.h>

int perform_landlock_ruleset(struct sandbox *sandbox, const struct operation *operation)
{
	struct landlock_ruleset ruleset = {operation->values[0], operation->values[1],
					   operation->values[2]};
	sandbox->ruleset_fd = (int)syscall(NR_LANDLOCK_CREATE_RULESET, &ruleset, sizeof ruleset, 0);
	return sandbox->ruleset_fd < 0 ? fail(sandbox, "landlock_create_ruleset") : 0;
}

int perform_landlock_path(struct sandbox *sandbox, const struct operation *operation)
{
	struct landlock_path_beneath rule = {.access = operation->values[1]};
	struct stat status;
	long result;
	const char *path = plan_string(&sandbox->plan, operation, 0);
	rule.parent_fd = open_in_root(sandbox, place(sandbox, path), O_PATH);
	if (rule.parent_fd < 0)
		return -1;
	result = fstat(rule.parent_fd, &status);
	if (result == 0 && !S_ISDIR(status.st_mode))
		rule.access &= LANDLOCK_FILE_RIGHTS;
	if (result == 0)
		result = syscall(NR_LANDLOCK_ADD_RULE, sandbox->ruleset_fd, LANDLOCK_RULE_PATH_BENEATH,
				 &rule, 0);
	close(rule.parent_fd);
	return result < 0 ? fail(sandbox, "landlock_add_rule") : 0;
}

int perform_landlock_restrict(struct sandbox *sandbox, const struct operation *operation)
{
	(void)operation;
	CHECK(syscall(NR_LANDLOCK_RESTRICT_SELF, sandbox->ruleset_fd, 0), "landlock_restrict_self");
	close(sandbox->ruleset_fd);
	return sandbox->unsealed ? prove_out_of_reach(sandbox) : 0;
}
