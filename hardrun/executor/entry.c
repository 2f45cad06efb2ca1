/* Entry: find the image, make sure that nobody can rewrite it, check the plan, start. */
#include "executor.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuse(const char *problem, int error)
{
	tell(problem, error);
	return EXIT_REFUSED;
}

/* A closed descriptor 0-2 would be taken by the next open and handed to the workload. */
static int fill_standard_descriptors(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return -1;
	return 0;
}

/* The stored plan is stale: the command line that made it makes it anew. */
static int hand_over(const struct sandbox *sandbox)
{
	const char *word = sandbox->fallback.data, *end = word + sandbox->fallback.size;
	size_t count = sandbox->fallback.size + 1; /* no more words than bytes */
	char **argv;
	for (char **rest = sandbox->argv; *rest; rest++)
		count++;
	argv = mmap(NULL, count * sizeof *argv, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (argv == MAP_FAILED)
		return refuse("out of memory", errno);
	count = 0;
	for (; word < end; word += strlen(word) + 1)
		argv[count++] = (char *)(uintptr_t)word;
	for (char **rest = sandbox->argv + 1; *sandbox->argv && *rest; rest++)
		argv[count++] = *rest;
	execve(argv[0], argv, sandbox->environment);
	return refuse("the stored plan is stale and can't be made again", errno);
}

static int start(struct sandbox *sandbox)
{
	struct streams *streams;
	struct operation operation;
	pid_t init;
	int pidfd;
	sandbox->shared = mmap(NULL, sizeof *sandbox->shared, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	streams = mmap(NULL, sizeof *streams, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	if (sandbox->shared == MAP_FAILED || streams == MAP_FAILED)
		return refuse("out of memory", errno);
	if (launch_checks(sandbox) < 0) {
		record_failure(sandbox, errno);
		if (sandbox->fallback.size && sandbox->site == NULL)
			return hand_over(sandbox);
		return parent_refuse(sandbox, streams);
	}
	if (prepare_arguments(sandbox) < 0)
		return refuse("can't prepare the arguments", errno);
	if (streams_open(sandbox, streams) < 0)
		return refuse("can't set up standard input and output", errno);
	if (launch_clone(sandbox, &pidfd, &init) < 0) {
		sandbox->site = "clone3";
		record_failure(sandbox, errno);
		plan_find(&sandbox->plan, OP_CLONE, &operation);
		sandbox->shared->failure.operation = operation.index;
		return parent_refuse(sandbox, streams);
	}
	return parent_main(sandbox, streams, init, pidfd);
}

int main(int argc, char **argv, char **environment)
{
	static struct sandbox sandbox;
	static char directory[4096], name[] = "hardrun";
	struct image image;
	const char *problem;
	(void)argc;
	if (fill_standard_descriptors() < 0)
		return EXIT_REFUSED;
	if (image_open(&image, &problem) < 0)
		return refuse(problem, 0);
	if (!image_is_safe(&image)) {
		/* PID 1's command line can be read inside: it must not tell a path of the host. */
		if (argv[0])
			argv[0] = name;
		image_seal(&image, argv, environment);
		return refuse("can't run from a sealed memory file", errno);
	}
	close(image.fd);
	prctl(PR_SET_NAME, "hardrun");
	problem = plan_load(&sandbox.plan, image.plan);
	if (problem)
		return refuse(problem, 0);
	sandbox.fallback = image.fallback;
	sandbox.argv = argv;
	sandbox.environment = environment;
	sandbox.uid = getuid();
	sandbox.gid = getgid();
	sandbox.umask = umask(0);
	/* A caller that ignores SIGCHLD would have the kernel reap what is waited for here. */
	signal(SIGCHLD, SIG_DFL);
	sandbox.caller_directory = getcwd(directory, sizeof directory);
	sandbox.root_fd = sandbox.proc_fd = -1;
	sandbox.ruleset_fd = sandbox.mask_fd = sandbox.terminal_fd = -1;
	return start(&sandbox);
}
