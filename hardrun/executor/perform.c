/* The interpreter: the operations of a phase, one after the other, until one fails. */
#define PERFORMER_TABLE
#include "executor.h"

#include <string.h>

/* Of a command that has not come yet, and its process, which waits for it. */
static bool is_ahead(const struct sandbox *sandbox, enum opcode opcode)
{
	return sandbox->ahead && (opcode == OP_NEW_SESSION || opcode == OP_SET_UMASK ||
				  opcode == OP_SET_LIMIT || opcode == OP_LOAD_SECCOMP);
}

int perform(struct sandbox *sandbox, enum phase phase)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->phase != phase ||
		    (sandbox->part && (sandbox->part == PART_AHEAD) !=
					      is_ahead(sandbox, operation.type->opcode)))
			continue;
		sandbox->current = i;
		/* argv and environment were laid out before the clone: nothing to perform. */
		if (operation.type->opcode < sizeof performers / sizeof *performers &&
		    performers[operation.type->opcode] &&
		    performers[operation.type->opcode](sandbox, &operation) < 0)
			return -1;
	}
	return 0;
}

/* The first is told: what fails later may be for its sake. */
void record_failure(struct sandbox *sandbox, int error)
{
	struct failure *failure = sandbox->failure;
	if (failure->set)
		return;
	failure->operation = sandbox->current;
	failure->error = error;
	strncpy(failure->site, sandbox->site ? sandbox->site : "", sizeof failure->site - 1);
	failure->set = 1;
}
