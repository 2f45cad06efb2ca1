/* Entry: find the image, make sure that nobody can rewrite it, check the plan, start. */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <limits.h>
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

/* Nothing was cloned yet: the operation that failed is told. */
static int refuse_start(struct sandbox *sandbox, struct streams *streams, const char *site)
{
	int error = errno;
	sandbox->site = site;
	record_failure(sandbox, error);
	return parent_refuse(sandbox, streams);
}

static int start(struct sandbox *sandbox, struct streams *streams)
{
	struct operation operation;
	pid_t init;
	int pidfd;
	sandbox->shared = probe_share();
	sandbox->failure = &sandbox->shared->failure;
	if (sandbox->shared == MAP_FAILED)
		return refuse("out of memory", errno);
	sandbox->bare = plan_find(&sandbox->plan, OP_CLONE, &operation) && !operation.values[0];
	if (launch_checks(sandbox) < 0) {
		record_failure(sandbox, errno);
		cgroup_close(&sandbox->cgroup);
		plan_operation(&sandbox->plan, sandbox->current, &operation);
		if (sandbox->fallback.size &&
		    (sandbox->site == NULL || operation.type->opcode == OP_CGROUP ||
		     operation.type->opcode == OP_CGROUP_V1))
			return hand_over(sandbox);
		return parent_refuse(sandbox, streams);
	}
	if (prepare_arguments(sandbox) < 0)
		return refuse_start(sandbox, streams, "mmap");
	if (streams_open(sandbox, streams) < 0)
		return refuse_start(sandbox, streams, "standard descriptors");
	if (launch_clone(sandbox, &pidfd, &init) < 0)
		return refuse_start(sandbox, streams, "clone3");
	/* PID 1's alone from now on: helpers get none, and its end is seen at once. */
	if (plan_find(&sandbox->plan, OP_SERVE, &operation))
		close((int)operation.values[0]);
	return parent_main(sandbox, streams, init, pidfd);
}

/*
 * "hardrun-exec DESCRIPTOR ARGV0 ...": a profile of AppArmor is attached to a path, which a memory
 * file has none of; a label that was taken on by this path stays with the image. Nothing else is
 * executed than this very program with a plan, or the profile would be everybody's.
 */
static int execute_image(const struct image *self, char **argv, char **environment)
{
	const char *at = argv[1];
	uint64_t fd;
	if (!parse_number(&at, &fd) || *at || fd > INT_MAX ||
	    fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return refuse("the descriptor of the image is not open", 0);
	if (!image_is_ours(self, (int)fd, NULL))
		return refuse("this is not an image of this program", 0);
	image_execute((int)fd, argv + 2, environment);
	return refuse("can't execute the image; hardrun doctor says why", errno);
}

/* PID 1's command line can be read inside: it must not tell a path of the host. */
static void hide_path(char *word)
{
	static const char name[] = "hardrun";
	for (size_t i = 0; word && word[i]; i++)
		word[i] = i < sizeof name ? name[i] : 0;
}

static int run_sealed(const struct image *image, char **argv, char **environment)
{
	static char name[] = "hardrun";
	const struct blob nothing = {"", 0};
	if (argv[0])
		argv[0] = name;
	int fd = image_find(image, nothing);
	if (fd >= 0)
		image_execute(fd, argv, environment);
	fd = image_seal(image, nothing);
	if (fd >= 0)
		image_execute(fd, argv, environment);
	return refuse("can't run from a sealed memory file", errno);
}

int main(int argc, char **argv, char **environment)
{
	static struct sandbox own;
	static struct streams streams;
	struct sandbox *sandbox = &own;
	struct image image = {.base = NULL};
	const char *problem;
	if (fill_standard_descriptors() < 0)
		return EXIT_REFUSED;
	if (image_open(&image, &problem) < 0)
		return image.base && argc > 2 && strcmp(argv[0], "hardrun-exec") == 0
			       ? execute_image(&image, argv, environment)
			       : front_end(&image, argv, environment, problem);
	hide_path(argv[0]);
	problem = plan_load(&sandbox->plan, image.plan);
	if (problem)
		return refuse(problem, 0);
	if (image_is_safe(&image))
		image_announce(&image);
	else if (is_out_of_reach(&sandbox->plan, image.fd))
		sandbox->unsealed = true;
	else
		return run_sealed(&image, argv, environment);
	close(image.fd);
	prctl(PR_SET_NAME, "hardrun");
	sandbox->fallback = image.fallback;
	sandbox->argv = argv;
	sandbox->environment = environment;
	sandbox->label = sandbox->file_label = "";
	sandbox->uid = getuid();
	sandbox->gid = getgid();
	sandbox->umask = umask(0);
	/* A caller that ignores SIGCHLD would have the kernel reap what is waited for here. */
	signal(SIGCHLD, SIG_DFL);
	sandbox->root_fd = sandbox->proc_fd = sandbox->serve_fd = -1;
	sandbox->parent_fd = sandbox->ruleset_fd = sandbox->mask_fd = sandbox->terminal_fd = -1;
	_exit(start(sandbox, &streams)); /* nothing is left to do, and exit(3) would write to one page more */
}
