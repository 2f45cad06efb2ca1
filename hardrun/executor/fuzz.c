/*
 * Feeds the decoders damaged plans, images and commands for a running sandbox, and reads all that
 * they accept as the executor would.
 *     hardrun-exec-libfuzzer        a libFuzzer target (-DLIBFUZZER)
 *     hardrun-exec-fuzz COUNT SEED FILE...   COUNT mutations of the files, the same for the same seed
 *     hardrun-exec-fuzz 0 0 FILE...          each file as it is; says of each what the decoder says
 * Every input is tried as it is and with header, sizes and checksums put right, so that what lies
 * behind them is reached, and so that kept inputs mean the same under the next schema.
 */
#include "image.c"
#include "job.c"

#include <stdio.h>
#include <stdlib.h>

#define MOST (1u << 20)
#define RECORD_SIZE 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);
#ifdef LIBFUZZER
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
#endif

/* As struct header of plan.c has them, in 32-bit words behind the magic. */
enum { VERSION, UNSAFE, TOTAL, COUNT, POOL_SIZE, SCHEMA, CHECKSUM, PADDING };

static uint32_t get(const uint8_t *plan, unsigned field)
{
	uint32_t value;
	memcpy(&value, plan + 8 + 4 * field, sizeof value);
	return value;
}

static void put(uint8_t *plan, unsigned field, uint32_t value)
{
	memcpy(plan + 8 + 4 * field, &value, sizeof value);
}

static void repair_plan(uint8_t *plan, size_t size)
{
	uint32_t room = (uint32_t)((size - PLAN_HEADER_SIZE) / RECORD_SIZE), count = get(plan, COUNT);
	count = count < room ? count : room;
	memcpy(plan, PLAN_MAGIC, 8);
	put(plan, VERSION, PLAN_VERSION);
	put(plan, SCHEMA, PLAN_SCHEMA);
	put(plan, TOTAL, (uint32_t)size);
	put(plan, COUNT, count);
	put(plan, POOL_SIZE, (uint32_t)size - PLAN_HEADER_SIZE - count * RECORD_SIZE);
	put(plan, CHECKSUM, 0);
	put(plan, CHECKSUM, checksum(0, plan, size));
}

static bool is_image(const uint8_t *data, size_t size)
{
	return size >= TRAILER_SIZE && !memcmp(data + size - 8, TRAILER_MAGIC, 8);
}

static bool is_job(const uint8_t *data, size_t size)
{
	return size >= JOB_HEADER_SIZE && !memcmp(data, JOB_MAGIC, 8);
}

/* An image becomes one with nothing before its plan. */
static void repair(uint8_t *data, size_t size)
{
	if (is_job(data, size))
		return;
	struct trailer trailer;
	if (is_image(data, size)) {
		size -= sizeof trailer;
		memcpy(&trailer, data + size, sizeof trailer);
		size_t rest = (size_t)trailer.decision_size + trailer.fallback_size;
		if (rest > size)
			return;
		trailer.plan_size = (uint32_t)(size - rest);
		trailer.checksum = checksum(0, data + trailer.plan_size, rest);
		memcpy(data + size, &trailer, sizeof trailer);
		size = trailer.plan_size;
	}
	if (size >= PLAN_HEADER_SIZE)
		repair_plan(data, size);
}

static volatile size_t sink;

static void read_operation(const struct plan *plan, const struct operation *operation)
{
	sink += strlen(operation->reason) + strlen(operation->type->sentence);
	for (unsigned at = 0; at < operation->type->arguments; at++) {
		if (operation->type->kinds[at] == 2)
			sink += strlen(plan_string(plan, operation, at));
		if (operation->type->kinds[at] != 3)
			continue;
		struct blob blob = plan_blob(plan, operation, at);
		for (size_t byte = 0; byte < blob.size; byte++)
			sink += (unsigned char)blob.data[byte];
	}
}

static const char *decode_job(const uint8_t *data, size_t size)
{
	static char *argv[JOB_MOST_WORDS + 1], *environment[JOB_MOST_WORDS + 1];
	struct job job = {.argv = argv, .environment = environment};
	if (!job_parse(&job, (char *)(uintptr_t)data, size))
		return "the command is malformed";
	sink += strlen(job.directory);
	for (char **word = job.argv; *word; word++)
		sink += strlen(*word);
	for (uint32_t i = 0; i < job.variables; i++)
		sink += strlen(job.environment[i]);
	return NULL;
}

static const char *decode(const uint8_t *data, size_t size)
{
	if (is_job(data, size))
		return decode_job(data, size);
	struct plan plan = {.base = NULL};
	struct image image = {.base = data, .size = size};
	struct blob bytes = {(const char *)data, size};
	struct operation operation;
	const char *problem;
	if (is_image(data, size)) {
		struct trailer trailer;
		memcpy(&trailer, data + size - sizeof trailer, sizeof trailer);
		if (!parts_fit(&image, &trailer))
			return "the parts of the image do not fit";
		bytes = image.plan;
		const char *end = image.fallback.data + image.fallback.size;
		for (const char *word = image.fallback.data; word < end; word += strlen(word) + 1)
			sink += (size_t)word[0];
	}
	problem = plan_load(&plan, bytes);
	for (uint32_t i = 0; !problem && i < plan.count; i++) {
		plan_operation(&plan, i, &operation);
		read_operation(&plan, &operation);
	}
	return problem;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1); /* exact size, for the address sanitizer */
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	decode(copy, size);
	repair(copy, size);
	decode(copy, size);
	free(copy);
	return 0;
}

static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static const uint64_t edges[] = {0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff,
				 0x100000000, UINT64_MAX};

static size_t change_bytes(uint8_t *data, size_t size)
{
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

/* Drops, doubles or exchanges whole operations, or gives one a value of another, or an odd one. */
static size_t change_operations(uint8_t *data, size_t size, size_t most)
{
	uint32_t count = size < PLAN_HEADER_SIZE ? 0 : get(data, COUNT);
	if (!count || count > (size - PLAN_HEADER_SIZE) / RECORD_SIZE)
		return change_bytes(data, size);
	uint8_t *one = data + PLAN_HEADER_SIZE + next_random() % count * RECORD_SIZE;
	uint8_t *other = data + PLAN_HEADER_SIZE + next_random() % count * RECORD_SIZE;
	uint8_t kept[RECORD_SIZE];
	size_t behind = size - (size_t)(one - data), value = 8 + next_random() % 7 * 8;
	switch (next_random() % 5) {
	case 0:
		memmove(one, one + RECORD_SIZE, behind - RECORD_SIZE);
		put(data, COUNT, count - 1);
		return size - RECORD_SIZE;
	case 1:
		if (size + RECORD_SIZE > most)
			return size;
		memmove(one + RECORD_SIZE, one, behind);
		put(data, COUNT, count + 1);
		return size + RECORD_SIZE;
	case 2:
		memcpy(kept, one, RECORD_SIZE);
		memcpy(one, other, RECORD_SIZE);
		memcpy(other, kept, RECORD_SIZE);
		return size;
	case 3:
		memcpy(one + value, other + 8 + next_random() % 7 * 8, 8);
		return size;
	default:
		memcpy(one + value, &edges[next_random() % 9], 8);
		return size;
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
	random_state = ((uint64_t)seed << 20) | 1;
	next_random();
	if (!size)
		return 0;
#ifdef LIBFUZZER
	if (next_random() % 2)
		return LLVMFuzzerMutate(data, size, most);
#endif
	return next_random() % 2 ? change_operations(data, size, most) : change_bytes(data, size);
}

#ifndef LIBFUZZER
static size_t read_file(const char *name, uint8_t *data)
{
	int fd = open(name, O_RDONLY);
	ssize_t size = fd < 0 ? -1 : read(fd, data, MOST);
	if (size <= 0)
		exit(2);
	close(fd);
	return (size_t)size;
}

int main(int argc, char **argv)
{
	static uint8_t work[MOST];
	uint64_t count = argc > 3 ? strtoull(argv[1], NULL, 10) : 0, state;
	if (argc < 4)
		return 2;
	for (int i = 3; i < argc; i++) {
		uint8_t *seed = malloc(MOST);
		size_t size = seed ? read_file(argv[i], seed) : 0;
		state = (uint64_t)strtoull(argv[2], NULL, 10) + (unsigned)i;
		if (!count) {
			LLVMFuzzerTestOneInput(seed, size);
			repair(seed, size);
			const char *problem = decode(seed, size);
			printf("%s: %s\n", argv[i], problem ? problem : "accepted");
		}
		for (uint64_t n = count / (uint64_t)(argc - 3); n; n--) {
			memcpy(work, seed, size);
			size_t damaged = size;
			for (uint64_t times = 1 + state % 3; times; times--) {
				state = state * 6364136223846793005u + 1442695040888963407u;
				damaged = LLVMFuzzerCustomMutator(work, damaged, MOST, (unsigned)(state >> 32));
			}
			LLVMFuzzerTestOneInput(work, damaged);
		}
		free(seed);
	}
	return 0;
}
#endif
