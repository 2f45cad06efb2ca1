/* Built into an executor for tests alone (tests/escape/faulty.py); the shipped one has no such code. */
#ifndef FAULT_H
#define FAULT_H

#include <stdint.h>
#include <sys/syscall.h>

void watch_operation(const uint32_t *operation);
int call_fails(int32_t number);

#endif
