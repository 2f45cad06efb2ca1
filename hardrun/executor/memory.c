/*
 * What only the start needed goes back to the kernel: it would be held by two processes for as long
 * as the sandbox sleeps. The pages read as zeros afterwards. Advice: to fail costs nothing but memory.
 */
#include "executor.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define DEEPEST (64u << 10) /* of what the stack may have been; below it there is the kernel's gap */
#define IN_USE 1024u	    /* of this function, its caller's leaf part and the system call */

/*
 * `start` is at the beginning of a page; what lies behind the end on the last one goes, too. Where pages
 * are larger, that would be more than is meant.
 */
void release_pages(void *start, size_t size)
{
	if (sysconf(_SC_PAGESIZE) == PAGE)
		syscall(SYS_madvise, start, size, MADV_DONTNEED);
}

/* The stack below the caller's frame, which calls that have returned made deep. */
void release_stack(void)
{
	uintptr_t end = ((uintptr_t)__builtin_frame_address(0) - IN_USE) & ~(uintptr_t)(PAGE - 1);
	release_pages((void *)(end - DEEPEST), DEEPEST);
}
