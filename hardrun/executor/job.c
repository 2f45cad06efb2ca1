/* A command that is to be started in a running sandbox: every length is checked here, before a fork. */
#include "executor.h"

#include <string.h>

struct job_header {
	char magic[8];
	uint32_t flags, arguments, variables, padding;
};
_Static_assert(sizeof(struct job_header) == JOB_HEADER_SIZE,
	       "the schema and the executor disagree");

/* The string at *at, which moves behind it; NULL where none ends before `end`. */
static char *next_string(char **at, char *end)
{
	char *string = *at, *stop = string < end ? memchr(string, 0, (size_t)(end - string)) : NULL;
	if (!stop)
		return NULL;
	*at = stop + 1;
	return string;
}

/* The words point into `data`. */
bool job_parse(struct job *job, char *data, size_t size)
{
	struct job_header header;
	char *at = data + sizeof header, *end = data + size;
	if (size < sizeof header || size > JOB_MOST_BYTES)
		return false;
	memcpy(&header, data, sizeof header);
	if (memcmp(header.magic, JOB_MAGIC, sizeof header.magic) || header.padding ||
	    header.flags & ~(uint32_t)JOB_TELL_START || !header.arguments ||
	    header.arguments > JOB_MOST_WORDS ||
	    header.variables > JOB_MOST_WORDS - header.arguments)
		return false;
	job->flags = header.flags;
	job->variables = header.variables;
	job->directory = next_string(&at, end);
	for (uint32_t i = 0; i < header.arguments; i++)
		if (!(job->argv[i] = next_string(&at, end)))
			return false;
	job->argv[header.arguments] = NULL;
	for (uint32_t i = 0; i < header.variables; i++) {
		job->environment[i] = next_string(&at, end);
		if (!job->environment[i] || job->environment[i][0] == '=' ||
		    !strchr(job->environment[i], '='))
			return false;
	}
	return job->directory && at == end && job->argv[0][0];
}
