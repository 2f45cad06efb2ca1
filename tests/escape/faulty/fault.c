/*
 * Lets one system call of one operation fail, and writes down which there are. The linker leads
 * every call of the executor's to a wrapper (faulty.py); the process that makes it and the operation
 * under way, which the sandbox itself keeps, say which call it is.
 */
#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);

enum { LAUNCHER, PARENT, INIT, CHILD };
enum { CALLS = 8192 };

struct call {
	uint32_t process, operation;
	int32_t number; /* of the system call where syscall(2) made it, or the wrapper's below 0 */
	uint32_t nth;
};

struct page {
	struct call wanted; /* its nth counts from 1; 0: none is to fail */
	int32_t error;
	uint32_t failed, count;
	struct call calls[CALLS];
};

static struct page *page;
static const uint32_t *current;
static long launcher, init;
static int cloned;

/* Runs in the process that the caller started, and again in the sealed copy of the program. */
__attribute__((constructor)) static void open_page(void)
{
	const char *path = getenv("HARDRUN_FAULT");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *base = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE,
						MAP_SHARED, fd, 0);
	if (path && base == MAP_FAILED)
		_Exit(99);
	page = path ? base : NULL;
}

void watch_operation(const uint32_t *operation)
{
	current = operation;
	launcher = __real_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

static uint32_t process_now(void)
{
	long pid = __real_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
	if (pid == launcher && !init)
		return cloned ? PARENT : LAUNCHER;
	return pid == init ? INIT : CHILD;
}

static uint32_t same(const struct call *one, const struct call *other)
{
	return one->process == other->process && one->operation == other->operation &&
	       one->number == other->number;
}

/* Filters may be in force by now: what is asked here no filter of a sandbox's refuses. */
int call_fails(int32_t number)
{
	const struct call *wanted = &page->wanted;
	if (!page || !current || *current == UINT32_MAX)
		return 0;
	struct call call = {process_now(), *current, number, 1};
	uint32_t index = __atomic_fetch_add(&page->count, 1, __ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < index && i < CALLS; i++)
		call.nth += same(&page->calls[i], &call);
	if (index < CALLS)
		page->calls[index] = call;
	if (!same(&call, wanted) || call.nth != wanted->nth)
		return 0;
	page->failed = 1;
	errno = page->error;
	return 1;
}

/* The numbers of the kernel are the same in both: from here on the child is PID 1. */
static long after_clone(long result)
{
	cloned = 1;
	if (result == 0)
		init = __real_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
	return result;
}

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (call_fails((int32_t)number))
		return -1;
	long result = __real_syscall(number, a, b, c, d, e, f);
	return number == SYS_clone3 || number == SYS_clone ? after_clone(result) : result;
}

/* As the C library's: arguments in registers, and what a function does not take is not looked at. */
#define WRAP(name, number)                                                             \
	long __real_##name(long a, long b, long c, long d, long e, long f);            \
	long __wrap_##name(long a, long b, long c, long d, long e, long f)             \
	{                                                                              \
		return call_fails(number) ? -1 : __real_##name(a, b, c, d, e, f);      \
	}
