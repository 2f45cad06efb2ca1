/*
 * Feeds the decoder damaged plans. As a libFuzzer target (-DLIBFUZZER), or on its own:
 *     fuzz PLAN COUNT SEED    COUNT mutations of the plan in the file, the same for the same seed
 * Half of the mutations get a right checksum, so that what lies behind it is reached.
 */
#include "executor.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t plain_checksum(const uint8_t *data, size_t size)
{
	uint32_t crc = ~0u;
	for (size_t i = 0; i < size; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	return ~crc;
}

/* Reads all that an accepted plan refers to, as the executor would. */
static size_t read_everything(const struct plan *plan)
{
	struct operation operation;
	size_t total = 0;
	for (uint32_t i = 0; i < plan->count; i++) {
		plan_operation(plan, i, &operation);
		total += strlen(operation.reason) + strlen(operation.type->sentence);
		for (unsigned at = 0; at < operation.type->arguments; at++) {
			if (operation.type->kinds[at] == 2)
				total += strlen(plan_string(plan, &operation, at));
			if (operation.type->kinds[at] == 3) {
				struct blob blob = plan_blob(plan, &operation, at);
				for (size_t byte = 0; byte < blob.size; byte++)
					total += (unsigned char)blob.data[byte];
			}
		}
	}
	return total;
}

static volatile size_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plan plan = {.base = NULL};
	uint8_t *copy = malloc(size ? size : 1); /* exact size, for the address sanitizer */
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	if (size >= PLAN_HEADER_SIZE && (data[size - 1] & 1)) {
		memset(copy + 32, 0, 4);
		uint32_t crc = plain_checksum(copy, size);
		memcpy(copy + 32, &crc, 4);
	}
	if (!plan_load(&plan, (struct blob){(const char *)copy, size}))
		sink += read_everything(&plan);
	free(copy);
	return 0;
}

#ifndef LIBFUZZER
static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static size_t mutate(uint8_t *data, size_t size)
{
	static const uint64_t edges[] = {0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff,
					 0x100000000, UINT64_MAX};
	for (uint64_t times = 1 + next_random() % 4; times; times--) {
		size_t at = next_random() % size;
		switch (next_random() % 4) {
		case 0: data[at] ^= (uint8_t)(1u << next_random() % 8); break;
		case 1: data[at] = (uint8_t)next_random(); break;
		case 2:
			if (at + 8 <= size)
				memcpy(data + at, &edges[next_random() % 9], 8);
			break;
		default:
			if (next_random() % 16 == 0)
				return 1 + next_random() % size;
		}
	}
	return size;
}

int main(int argc, char **argv)
{
	static uint8_t seed[1 << 20], work[1 << 20];
	if (argc != 4)
		return 2;
	int fd = open(argv[1], O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, seed, sizeof seed);
	if (size <= 0)
		return 2;
	random_state = strtoull(argv[3], NULL, 10) | 1;
	for (uint64_t count = strtoull(argv[2], NULL, 10); count; count--) {
		memcpy(work, seed, (size_t)size);
		LLVMFuzzerTestOneInput(work, mutate(work, (size_t)size));
	}
	return 0;
}
#endif
