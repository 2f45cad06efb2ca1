/*
 * The image: this program's own file, with a plan appended. It is what /proc/PID/exe shows, so it
 * must be something that the sandbox can't write: an entry point "#!/proc/self/exe" would otherwise
 * re-enter the executor and let the workload overwrite it (CVE-2019-5736).
 */
#include "executor.h"
#include "uapi.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sendfile.h>

#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define SEAL_EXEC 0x20 /* Linux 6.3: the mode can't be changed either */

struct trailer {
	uint32_t plan_size, decision_size, fallback_size, reserved, checksum;
	uint32_t padding[3];
	char magic[8];
};
_Static_assert(sizeof(struct trailer) == TRAILER_SIZE, "the schema and the executor disagree");

bool image_is_safe(const struct image *image)
{
	struct stat status;
	int seals = fcntl(image->fd, F_GET_SEALS);
	if (seals >= 0)
		return (seals & ALL_SEALS) == ALL_SEALS;
	return fstat(image->fd, &status) == 0 && status.st_uid == 0 && geteuid() != 0 &&
	       !(status.st_mode & (S_IWGRP | S_IWOTH));
}

/* By words, which the C library does not; both are at the beginning of a page. */
static bool are_same(const void *one, const void *other, size_t size)
{
	const uint64_t *a = one, *b = other;
	size_t words = size / sizeof *a, i = 0;
	while (i < words && a[i] == b[i])
		i++;
	return i == words && memcmp(a + i, b + i, size % sizeof *a) == 0;
}

/* Whether it is sealed, and this very program: with any plan, or this user's with `rest` alone. */
bool image_is_ours(const struct image *self, int fd, const struct blob *rest)
{
	struct stat status;
	int seals = fcntl(fd, F_GET_SEALS);
	size_t size = self->size + (rest ? rest->size : 0);
	if (seals < 0 || (seals & ALL_SEALS) != ALL_SEALS || fstat(fd, &status) < 0 ||
	    (size_t)status.st_size < size + !rest ||
	    (rest && ((size_t)status.st_size != size || status.st_uid != geteuid())))
		return false;
	const char *base = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	return base != MAP_FAILED && are_same(base, self->base, self->size) &&
	       (!rest || memcmp(base + self->size, rest->data, rest->size) == 0);
}

/*
 * Sandboxes that run at the same time have one image if it is the same to the last byte, which nobody
 * can write. Each parent holds a lock on the byte of the root directory that stands for it: the kernel
 * tells who does, and that ends with him. (A lock on a file could be a server's.)
 */
static struct flock place_of(const char *plan, const char *end, short type)
{
	uint32_t sum = checksum(0, (const unsigned char *)plan, PLAN_HEADER_SIZE);
	sum = checksum(sum, (const unsigned char *)end - TRAILER_SIZE, TRAILER_SIZE);
	return (struct flock){.l_type = type, .l_start = sum, .l_len = 1};
}

void image_announce(const struct image *image)
{
	struct flock place = place_of(image->plan.data, (const char *)image->base + image->size, F_RDLCK);
	int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* stays open: closed, it would be unlocked */
	fcntl(fd, F_SETLK, &place);
}

/* The image of a sandbox that runs, of this program with `rest` after it; -1: there is none. */
int image_find(const struct image *self, struct blob rest)
{
	bool whole = !rest.size; /* this program has its plan already */
	const char *plan = whole ? self->plan.data : rest.data;
	const char *end = whole ? (const char *)self->base + self->size : rest.data + rest.size;
	struct text path = {.size = 0};
	if (!plan || (size_t)(end - plan) < PLAN_HEADER_SIZE + TRAILER_SIZE)
		return -1;
	struct flock place = place_of(plan, end, F_WRLCK);
	int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool found = fcntl(fd, F_GETLK, &place) == 0 && place.l_type != F_UNLCK && place.l_pid > 0;
	close(fd);
	if (!found)
		return -1;
	text_add(&path, "/proc/");
	text_number(&path, (uint64_t)place.l_pid, 10);
	text_add(&path, "/exe");
	fd = open(path.data, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || image_is_ours(self, fd, &rest))
		return fd;
	close(fd);
	return -1;
}

static int write_all(int fd, struct blob bytes)
{
	while (bytes.size) {
		ssize_t size = write(fd, bytes.data, bytes.size);
		if (size < 0)
			return -1;
		bytes = (struct blob){bytes.data + size, bytes.size - (size_t)size};
	}
	return 0;
}

/* A sealed memory file of this program and what is to follow it; it closes on the exec. */
int image_seal(const struct image *image, struct blob artefact)
{
	off_t offset = 0;
	/* MFD_EXEC is needed where vm.memfd_noexec is 1; kernels before 6.3 do not know it. */
	int fd = memfd_create("hardrun", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	if (fd < 0)
		fd = memfd_create("hardrun", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	while ((size_t)offset < image->size)
		if (sendfile(fd, image->fd, &offset, image->size - (size_t)offset) <= 0)
			return -1;
	if (write_all(fd, artefact) < 0)
		return -1;
	return fcntl(fd, F_ADD_SEALS, ALL_SEALS | SEAL_EXEC) < 0 &&
	       fcntl(fd, F_ADD_SEALS, ALL_SEALS) < 0 ? -1 : fd;
}

int image_execute(int fd, char **argv, char **environment)
{
	return (int)syscall(SYS_execveat, fd, "", argv, environment, AT_EMPTY_PATH);
}

static bool parts_fit(struct image *image, const struct trailer *trailer)
{
	uint64_t rest = (uint64_t)trailer->decision_size + trailer->fallback_size;
	uint64_t all = rest + trailer->plan_size + TRAILER_SIZE;
	if (memcmp(trailer->magic, TRAILER_MAGIC, sizeof trailer->magic) || all > image->size)
		return false;
	image->plan.data = (const char *)image->base + (image->size - all);
	image->plan.size = trailer->plan_size;
	image->fallback.data = (const char *)image->base + image->size - TRAILER_SIZE -
			       trailer->fallback_size;
	image->fallback.size = trailer->fallback_size;
	if (checksum(0, image->base + image->size - TRAILER_SIZE - rest, (size_t)rest) !=
	    trailer->checksum)
		return false;
	return !image->fallback.size || !image->fallback.data[image->fallback.size - 1];
}

int image_open(struct image *image, const char **problem)
{
	struct stat status;
	struct trailer trailer;
	void *base;
	*problem = "can't open /proc/self/exe: mount proc on /proc";
	image->fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (image->fd < 0 || fstat(image->fd, &status) < 0)
		return -1;
	*problem = "there is no plan in this program: start it with hardrun run or hardrun compile";
	image->size = (size_t)status.st_size;
	if (image->size < sizeof trailer)
		return -1;
	base = mmap(NULL, image->size, PROT_READ, MAP_PRIVATE, image->fd, 0);
	if (base == MAP_FAILED)
		return -1;
	image->base = base;
	memcpy(&trailer, image->base + image->size - sizeof trailer, sizeof trailer);
	return parts_fit(image, &trailer) ? 0 : -1;
}
