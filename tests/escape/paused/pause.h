/* Built into an executor for tests alone (tests/escape/paused.py); the shipped one has no such code. */
#ifndef PAUSE_H
#define PAUSE_H

#include <stdint.h>

int pause_before(uint32_t operation);

#endif
