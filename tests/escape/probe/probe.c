/*
 * What an attacker's first steps inside a sandbox come to: makes system calls that its arguments
 * spell out and prints one line of JSON for each argument. Static, so that nothing of the root file
 * system decides what it does; each argument runs in a process of its own, so that one that is
 * killed says so and the next is tried all the same.
 *
 *     probe PROGRAM...        PROGRAM: STEP[;STEP]...      STEP: NUMBER[,ARGUMENT]...
 *
 * ARGUMENT is a number (123, -1, 0x7f), rN (what step N returned), sHEX (the address of these bytes
 * with a NUL behind them), oSIZE (the address of SIZE zero bytes, printed afterwards), pN:OFFSET (the
 * address in the oSIZE of step N). A NUMBER with i before it goes through int 0x80, where the
 * addresses are below 4 GiB. A NUMBER of @race, @fork, @memory, @hold, @poke is a behaviour that takes
 * more than a call.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAXIMUM_STEPS 24
#define MAXIMUM_ARGUMENTS 6
#define ARENA_SIZE (1 << 20)

struct result {
	long value;
	int error;
	unsigned char *out;
	size_t out_size;
};

static unsigned char *arena;
static size_t arena_used;

/* Below 4 GiB where the kernel lets us: addresses must fit the registers of int 0x80. */
static void make_arena(void)
{
	void *base = mmap((void *)0x20000000, ARENA_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		_exit(120);
	arena = base;
}

static unsigned char *take(size_t size)
{
	unsigned char *start = arena + arena_used;
	arena_used += (size + 16) & ~(size_t)15;
	if (arena_used > ARENA_SIZE)
		_exit(121);
	return start;
}

static unsigned digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
}

static unsigned char *bytes_of(const char *hex, size_t size)
{
	unsigned char *bytes = take(size / 2 + 1);
	for (size_t i = 0; i + 1 < size; i += 2)
		bytes[i / 2] = (unsigned char)(digit(hex[i]) << 4 | digit(hex[i + 1]));
	bytes[size / 2] = 0;
	return bytes;
}

static long argument_of(const char *word, const struct result *results, struct result *own)
{
	char *rest;
	switch (word[0]) {
	case 'r':
		return results[strtoul(word + 1, NULL, 10)].value;
	case 's':
		return (long)(intptr_t)bytes_of(word + 1, strlen(word + 1));
	case 'o':
		own->out_size = strtoul(word + 1, NULL, 0);
		own->out = take(own->out_size);
		return (long)(intptr_t)own->out;
	case 'p': {
		unsigned char *base = results[strtoul(word + 1, &rest, 10)].out;
		return (long)(intptr_t)(base + strtoul(rest + 1, NULL, 0));
	}
	default:
		return (long)strtoull(word, NULL, 0);
	}
}

static long int80(long number, const long *a)
{
#ifdef __x86_64__
	long value;
	register long bp __asm__("r12") = a[5];
	/* The sixth argument is ebp, which the compiler may need for itself. */
	__asm__ volatile("push %%rbp; mov %%r12, %%rbp; int $0x80; pop %%rbp"
			 : "=a"(value)
			 : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]), "r"(bp)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	value = (int)value;
	if (value < 0 && value > -4096) {
		errno = (int)-value;
		return -1;
	}
	return value;
#else
	(void)number;
	(void)a;
	errno = ENOEXEC;
	return -1;
#endif
}

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Exchanges two names as fast as it can, for so many milliseconds. */
static long race(const long *a)
{
	long count = 0;
	for (double end = seconds() + (double)a[2] / 1000; seconds() < end; count++)
		if (syscall(SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], 2 /* RENAME_EXCHANGE */) < 0)
			return -1;
	return count;
}

/* Forks until the kernel refuses, at most a[0] times; what was made sleeps until all end. */
static long fork_many(const long *a)
{
	long count = 0;
	int saved = 0;
	for (; count < a[0]; count++) {
		pid_t pid = fork();
		if (pid == 0) {
			pause();
			_exit(0);
		}
		if (pid < 0) {
			saved = errno;
			break;
		}
	}
	errno = saved;
	return saved ? -count : count;
}

/* Touches a[0] mebibytes, one after the other; answers how many it got. */
static long eat_memory(const long *a)
{
	for (long count = 0; count < a[0]; count++) {
		unsigned char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (page == MAP_FAILED)
			return -1;
		memset(page, 1, 1 << 20);
	}
	return a[0];
}

static long hold(const long *a)
{
	struct timespec time = {.tv_sec = a[0] / 1000, .tv_nsec = a[0] % 1000 * 1000000};
	return nanosleep(&time, NULL);
}

/* Writes the word a[1] at the address a[0]: structures that hold addresses. */
static long poke(const long *a)
{
	memcpy((void *)(intptr_t)a[0], &a[1], sizeof a[1]);
	return 0;
}

static long behave(const char *name, const long *a)
{
	if (!strcmp(name, "@race"))
		return race(a);
	if (!strcmp(name, "@fork"))
		return fork_many(a);
	if (!strcmp(name, "@memory"))
		return eat_memory(a);
	if (!strcmp(name, "@hold"))
		return hold(a);
	if (!strcmp(name, "@poke"))
		return poke(a);
	_exit(122);
}

static void perform(char *step, struct result *results, unsigned index)
{
	struct result *own = &results[index];
	long a[MAXIMUM_ARGUMENTS] = {0};
	char *save, *name = strtok_r(step, ",", &save), *word;
	for (unsigned i = 0; i < MAXIMUM_ARGUMENTS && (word = strtok_r(NULL, ",", &save)); i++)
		a[i] = argument_of(word, results, own);
	errno = 0;
	if (name[0] == '@')
		own->value = behave(name, a);
	else if (name[0] == 'i')
		own->value = int80(strtol(name + 1, NULL, 0), a);
	else
		own->value = syscall(strtol(name, NULL, 0), a[0], a[1], a[2], a[3], a[4], a[5]);
	own->error = errno;
}

static unsigned run(char *program, struct result *results, unsigned *done)
{
	char *save, *step = strtok_r(program, ";", &save);
	for (*done = 0; step && *done < MAXIMUM_STEPS; step = strtok_r(NULL, ";", &save)) {
		perform(step, results, *done);
		(*done)++;
	}
	return *done;
}

static void print(const struct result *results, unsigned done, int status)
{
	printf("{\"signal\": %d, \"steps\": [", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	for (unsigned i = 0; i < done; i++) {
		printf("%s{\"value\": %ld, \"errno\": %d, \"out\": \"", i ? ", " : "", results[i].value,
		       results[i].value == -1 || results[i].error ? results[i].error : 0);
		for (size_t at = 0; at < results[i].out_size; at++)
			printf("%02x", results[i].out[at]);
		printf("\"}");
	}
	printf("]}\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	make_arena();
	for (int i = 1; i < argc; i++) {
		struct result *results;
		unsigned *done;
		int status = 0;
		arena_used = 0;
		memset(arena, 0, ARENA_SIZE);
		results = (void *)take(MAXIMUM_STEPS * sizeof *results);
		done = (void *)take(sizeof *done);
		pid_t pid = fork();
		if (pid == 0) {
			run(argv[i], results, done);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			return 123;
		print(results, *done, status);
	}
	return 0;
}
