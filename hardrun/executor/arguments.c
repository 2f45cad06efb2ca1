/* The workload's argv and environment, laid out before the clone: nothing allocates after it. */
#include "executor.h"

#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool matches(const char *variable, const char *name)
{
	size_t size = strlen(name);
	if (size && name[size - 1] == '*')
		return strncmp(variable, name, size - 1) == 0 && strchr(variable, '=');
	return strncmp(variable, name, size) == 0 && variable[size] == '=';
}

static bool already_set(const struct sandbox *sandbox, const char *variable)
{
	size_t size = strcspn(variable, "=");
	for (size_t i = 0; i < sandbox->workload_variables; i++)
		if (strncmp(sandbox->workload_environment[i], variable, size) == 0 &&
		    sandbox->workload_environment[i][size] == '=')
			return true;
	return false;
}

/* A value of the plan stands before one of the caller's. */
static void add_variables_of_caller(struct sandbox *sandbox, const char *name)
{
	for (char **variable = sandbox->environment; *variable; variable++)
		if (matches(*variable, name) && !already_set(sandbox, *variable))
			sandbox->workload_environment[sandbox->workload_variables++] = *variable;
}

/* NAME=the private directory of this run. */
static void add_place(struct sandbox *sandbox, const char *name)
{
	static LARGE struct text variables[4];
	static size_t count;
	if (count == sizeof variables / sizeof *variables)
		return;
	text_add(&variables[count], name);
	text_add(&variables[count], "=");
	text_add(&variables[count], sandbox->private_directory);
	sandbox->workload_environment[sandbox->workload_variables++] = variables[count++].data;
}

static void add_word(struct sandbox *sandbox, const struct operation *operation)
{
	char *string = (char *)(uintptr_t)plan_string(&sandbox->plan, operation, 0);
	if (operation->type->opcode == OP_ARGUMENT)
		sandbox->workload_argv[sandbox->workload_arguments++] = string;
	else
		sandbox->workload_environment[sandbox->workload_variables++] = string;
}

static void fill(struct sandbox *sandbox)
{
	struct operation operation;
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode == OP_ARGUMENT || operation.type->opcode == OP_ENVIRONMENT)
			add_word(sandbox, &operation);
		if (operation.type->opcode == OP_ENVIRONMENT_OF_DIRECTORY)
			add_place(sandbox, plan_string(&sandbox->plan, &operation, 0));
		if (operation.type->opcode == OP_ARGUMENTS_OF_CALLER && sandbox->argv[0])
			for (char **word = sandbox->argv + 1; *word; word++)
				sandbox->workload_argv[sandbox->workload_arguments++] = *word;
	}
	for (uint32_t i = 0; i < sandbox->plan.count; i++) {
		plan_operation(&sandbox->plan, i, &operation);
		if (operation.type->opcode == OP_ENVIRONMENT_OF_CALLER)
			add_variables_of_caller(sandbox, plan_string(&sandbox->plan, &operation, 0));
	}
}

int prepare_arguments(struct sandbox *sandbox)
{
	size_t words = sandbox->plan.count + 1, variables = sandbox->plan.count + 1;
	char **space;
	for (char **word = sandbox->argv; *word; word++)
		words++;
	for (char **variable = sandbox->environment; *variable; variable++)
		variables++;
	sandbox->arguments_size = (words + variables) * sizeof *space + PATH_MAX;
	space = mmap(NULL, sandbox->arguments_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (space == MAP_FAILED)
		return -1;
	sandbox->caller_directory = getcwd((char *)(space + words + variables), PATH_MAX);
	sandbox->workload_argv = space;
	sandbox->workload_environment = space + words;
	fill(sandbox);
	return 0;
}
