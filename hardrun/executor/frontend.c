/*
 * The installed `hardrun`: this program without a plan, under that name. A request seen before starts
 * from its stored plan with no interpreter, another one from the service's answer if there is one;
 * all else is the command line's, the program hardrun-cli beside it. hardrun/cache.py writes what is
 * read here.
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define RESTRICTED "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"

struct stored {
	char magic[8];
	uint32_t key_size, size, checksum, padding;
};
_Static_assert(sizeof(struct stored) == CACHE_HEADER_SIZE, "the cache and the executor disagree");

/* The text that must be equal: each word with its end. What does not fit is not looked for. */
struct key {
	size_t size;
	char data[65536];
};

static bool add(struct key *key, const char *word)
{
	size_t size = strlen(word) + 1;
	if (size > sizeof key->data - key->size)
		return false;
	memcpy(key->data + key->size, word, size);
	key->size += size;
	return true;
}

/* "NAME=value", the first one as getenv(3) has it; NULL without. */
static const char *find_variable(char **environment, const char *name)
{
	size_t size = strlen(name);
	for (; *environment; environment++)
		if (strncmp(*environment, name, size) == 0 && (*environment)[size] == '=')
			return *environment;
	return NULL;
}

static bool make_key(struct key *key, char **environment, char **request, const char *const *end)
{
	static const char *const names[] = CACHE_VARIABLES;
	static LARGE char directory[4096];
	struct text caller = {.size = 0};
	bool fits;
	text_number(&caller, geteuid(), 10);
	text_add(&caller, ":");
	text_number(&caller, getegid(), 10);
	fits = getcwd(directory, sizeof directory) && add(key, CACHE_IDENTITY) &&
	       add(key, caller.data) && add(key, directory);
	for (size_t i = 0; fits && i < sizeof names / sizeof *names; i++) {
		const char *variable = find_variable(environment, names[i]);
		fits = add(key, variable ? variable : names[i]);
	}
	for (; fits && (const char *const *)request != end; request++)
		fits = add(key, *request);
	return fits;
}

/* A plan decides what a sandbox may do: it counts only where nobody else could write it. */
static int open_own(int directory_fd, const char *name, int flags, struct stat *status)
{
	int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags);
	if (fd >= 0 && (fstat(fd, status) < 0 || status->st_uid != geteuid() ||
			status->st_mode & (S_IWGRP | S_IWOTH))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Our directory in the cache home; what lies above it may be reached by symlinks. */
static int open_directory(char **environment)
{
	const char *cache = find_variable(environment, "XDG_CACHE_HOME");
	const char *home = find_variable(environment, "HOME");
	struct stat status;
	int base_fd, own_fd;
	if (cache && cache[sizeof "XDG_CACHE_HOME"] == '/')
		base_fd = open(cache + sizeof "XDG_CACHE_HOME", O_PATH | O_CLOEXEC);
	else if (home && home[sizeof "HOME"] == '/') {
		int home_fd = open(home + sizeof "HOME", O_PATH | O_CLOEXEC);
		base_fd = openat(home_fd, ".cache", O_PATH | O_CLOEXEC);
		close(home_fd);
	} else
		return -1;
	own_fd = open_own(base_fd, "hardrun", O_DIRECTORY, &status);
	close(base_fd);
	return own_fd;
}

static struct blob read_whole(int fd, size_t size)
{
	struct blob none = {NULL, 0};
	char *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (data == MAP_FAILED)
		return none;
	for (size_t done = 0; done < size;) {
		ssize_t part = read(fd, data + done, size - done);
		if (part <= 0)
			return none;
		done += (size_t)part;
	}
	return (struct blob){data, size};
}

/* What is stored under the key, after the executor's path; that path is set, too. */
static struct blob find_artefact(const struct key *key, int directory_fd, const char **executor)
{
	static const char digits[] = "0123456789abcdef";
	struct blob none = {NULL, 0}, file;
	struct stored header;
	struct stat status;
	char name[] = "00000000.plan";
	uint32_t sum = checksum(0, (const unsigned char *)key->data, key->size);
	int plans_fd = open_own(directory_fd, "plans", O_DIRECTORY, &status), fd;
	for (unsigned i = 0; i < 8; i++)
		name[i] = digits[sum >> (28 - 4 * i) & 15];
	/* O_NONBLOCK: a fifo in the place of a plan must not hang the run. */
	fd = plans_fd < 0 ? -1 : open_own(plans_fd, name, O_NONBLOCK, &status);
	close(plans_fd);
	if (fd < 0 || !S_ISREG(status.st_mode) || status.st_size > (off_t)CACHE_MAXIMUM_BYTES ||
	    status.st_size < (off_t)(sizeof header + key->size))
		return none;
	file = read_whole(fd, (size_t)status.st_size);
	close(fd);
	if (!file.data)
		return none;
	memcpy(&header, file.data, sizeof header);
	file = (struct blob){file.data + sizeof header, file.size - sizeof header};
	if (memcmp(header.magic, CACHE_MAGIC, sizeof header.magic) || header.key_size != key->size ||
	    header.size != file.size - key->size || memcmp(file.data, key->data, key->size) ||
	    checksum(0, (const unsigned char *)file.data, file.size) != header.checksum)
		return none;
	*executor = file.data + key->size;
	size_t before = key->size + strnlen(*executor, header.size) + 1;
	return before < file.size ? (struct blob){file.data + before, file.size - before} : none;
}

/* As starts_by_path() of image.py: where namespaces are for programs with a profile at their path. */
static bool starts_by_path(void)
{
	char value = '0';
	int fd = open(RESTRICTED, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, &value, 1) < 0)
		value = '0';
	close(fd);
	return value == '1';
}

/* The image of the request, stored or decided by the service; -1 if Python has to see to it. */
static int find_image(const struct image *self, const struct key *key, char **environment,
		      const char **executor)
{
	static LARGE char path[4096];
	int directory_fd = open_directory(environment), fd = -1;
	struct blob artefact;
	if (directory_fd < 0)
		return -1;
	artefact = find_artefact(key, directory_fd, executor);
	if (artefact.data) {
		fd = image_find(self, artefact);
		if (fd < 0)
			fd = image_seal(self, artefact);
	} else {
		fd = ask_service(self, directory_fd, path, sizeof path);
		*executor = path;
	}
	close(directory_fd);
	return fd;
}

/* Returns where there is no image for this request, or it can't be executed: Python tells why. */
static void start_decided(const struct image *self, char **argv, char **environment)
{
	static LARGE struct key key;
	static char by_path[] = "hardrun-exec", name[] = "hardrun";
	struct text number = {.size = 0};
	const char *executor;
	char **command = argv + 1, *kept[3];
	int fd;
	while (*command && strcmp(*command, "--"))
		command++;
	if (!*command || !*++command ||
	    !make_key(&key, environment, argv + 1, (const char *const *)command + 1))
		return;
	fd = find_image(self, &key, environment, &executor);
	if (fd < 0)
		return;
	/* The words before the command are done with, "run" and "--" at least. */
	memcpy(kept, command - 2, sizeof kept);
	command[0] = name;
	if (starts_by_path()) {
		text_number(&number, (uint64_t)fd, 10);
		command[-2] = by_path;
		command[-1] = number.data;
		fcntl(fd, F_SETFD, 0);
		execve(executor, command - 2, environment);
	} else {
		image_execute(fd, command, environment);
	}
	close(fd);
	memcpy(command - 2, kept, sizeof kept);
}

/*
 * The name and the place are those of the file that runs, never argv's nor PATH's: whoever starts it
 * can't have another program taken for its other half.
 */
int front_end(const struct image *self, char **argv, char **environment, const char *problem)
{
	static LARGE char path[4096];
	static char *alone[] = {path, NULL};
	struct stat status;
	ssize_t size = readlink("/proc/self/exe", path, sizeof path - sizeof "-cli");
	const char *name = strrchr(path, '/');
	if (!self->base || size < 0 || size == sizeof path - sizeof "-cli" || !name ||
	    strcmp(name, "/hardrun")) {
		tell(problem, 0);
		return EXIT_REFUSED;
	}
	if (argv[0] && argv[1] && strcmp(argv[1], "run") == 0)
		start_decided(self, argv, environment);
	/* Python does not start with one, and would end with words and a status of its own. */
	if (fstat(STDIN_FILENO, &status) == 0 && S_ISDIR(status.st_mode)) {
		tell("standard input can't be a directory", EISDIR);
		return EXIT_REFUSED;
	}
	memcpy(path + size, "-cli", sizeof "-cli");
	execve(path, argv[0] ? argv : alone, environment);
	tell("can't execute hardrun-cli, which belongs beside hardrun", errno);
	return EXIT_REFUSED;
}
