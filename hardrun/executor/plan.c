/* Reads a plan. Every length, offset, opcode, phase and order is checked before the first clone. */
#define OPERATION_TABLE
#include "executor.h"

#include <sched.h>
#include <string.h>

struct header {
	char magic[8];
	uint32_t version, unsafe, total, count, pool_size, schema, checksum, padding;
};
struct record {
	uint16_t opcode, phase;
	uint32_t reason;
	uint64_t values[7];
};
_Static_assert(sizeof(struct header) == PLAN_HEADER_SIZE, "the schema and the executor disagree");
_Static_assert(sizeof(struct record) == 64, "the schema and the executor disagree");

enum { KIND_U32, KIND_U64, KIND_STRING, KIND_BLOB };

/* CRC-32 as zlib has it; the format is little-endian, as is all that we run on. */
uint32_t checksum(uint32_t crc, const unsigned char *data, size_t size)
{
	uint32_t word;
	crc = ~crc;
	for (; size >= sizeof word; size -= sizeof word, data += sizeof word) {
		memcpy(&word, data, sizeof word);
		crc ^= word;
		crc = checksum_tables[3][crc & 255] ^ checksum_tables[2][crc >> 8 & 255] ^
		      checksum_tables[1][crc >> 16 & 255] ^ checksum_tables[0][crc >> 24];
	}
	for (; size; size--)
		crc = crc >> 8 ^ checksum_tables[0][(crc ^ *data++) & 255];
	return ~crc;
}

static const struct operation_type *find_type(uint16_t opcode)
{
	return opcode < OPCODES && operation_types[opcode].sentence ? &operation_types[opcode] : NULL;
}

static bool string_fits(const struct plan *plan, uint64_t offset)
{
	return offset < plan->pool_size &&
	       memchr(plan->pool + offset, 0, plan->pool_size - (size_t)offset);
}

static bool value_fits(const struct plan *plan, uint8_t kind, uint64_t value)
{
	uint64_t offset = value & UINT32_MAX, size = value >> 32;
	switch (kind) {
	case KIND_U32:
		return value <= UINT32_MAX;
	case KIND_STRING:
		return string_fits(plan, value);
	case KIND_BLOB:
		return offset + size <= plan->pool_size;
	default:
		return kind == KIND_U64;
	}
}

static bool record_fits(const struct plan *plan, const struct record *record,
			const struct operation_type *type)
{
	if (record->phase != type->phase || !string_fits(plan, record->reason))
		return false;
	for (unsigned i = 0; i < 7; i++)
		if (i < type->arguments ? !value_fits(plan, type->kinds[i], record->values[i])
					: record->values[i] != 0)
			return false;
	return true;
}

static const unsigned char *record_at(const struct plan *plan, uint32_t index)
{
	return plan->base + PLAN_HEADER_SIZE + (size_t)index * sizeof(struct record);
}

static const char *check_records(const struct plan *plan)
{
	unsigned place = 0;
	uint32_t seen[8] = {0};
	for (uint32_t i = 0; i < plan->count; i++) {
		struct record record;
		const struct operation_type *type;
		memcpy(&record, record_at(plan, i), sizeof record);
		type = find_type(record.opcode);
		if (!type || !record_fits(plan, &record, type))
			return "the plan is damaged: an operation is malformed";
		if ((type->phase * 256u + type->rank) < place)
			return "the plan is damaged: its operations are out of order";
		place = type->phase * 256u + type->rank;
		if (type->once) {
			if (seen[type->opcode / 32] & 1u << type->opcode % 32)
				return "the plan is damaged: an operation is repeated";
			seen[type->opcode / 32] |= 1u << type->opcode % 32;
		}
	}
	return NULL;
}

bool plan_find(const struct plan *plan, enum opcode opcode, struct operation *operation)
{
	uint16_t found;
	for (uint32_t i = 0; i < plan->count; i++) {
		memcpy(&found, record_at(plan, i), sizeof found);
		if (found == opcode) {
			plan_operation(plan, i, operation);
			return true;
		}
	}
	return false;
}

/* Without namespaces what PID 1 sets up would be the host's: for root it could even succeed. */
static const char *check_bare(const struct plan *plan)
{
	struct operation operation;
	for (uint32_t i = 0; i < plan->count; i++) {
		plan_operation(plan, i, &operation);
		if (operation.type->phase == PHASE_INIT && operation.type->opcode < OP_SET_GROUPS &&
		    operation.type->opcode != OP_BIND_WORKING_DIRECTORY)
			return "the plan changes the host: it has no namespaces";
	}
	return NULL;
}

/*
 * At a gate the plan's own command is dumpable: others inside could reach into it before it is
 * confined. None is there where the parent itself lets commands in, once the gate was passed.
 */
static const char *check_serving(const struct plan *plan)
{
	struct operation operation;
	bool serves = plan_find(plan, OP_SERVE, &operation);
	bool beside = serves && operation.values[1] == SERVE_BESIDE;
	bool admits = plan_find(plan, OP_ADMIT, &operation);
	bool gated = plan_find(plan, OP_GATE, &operation);
	bool labelled = plan_find(plan, OP_EXPECT_LABEL, &operation);
	bool held = beside ? (gated || labelled) && !admits : gated;
	if (admits && !(beside && gated))
		return "the plan admits commands and starts none";
	if (serves && (held || plan->unsafe & (UNSAFE_NO_NAMESPACES | UNSAFE_DUMPABLE_INIT)))
		return "the plan serves commands that it can't hold to its defences";
	return NULL;
}

/*
 * A plan must hold every defence or say with a bit of its own that it leaves one out: an encoder
 * that forgets an operation must not give a weaker sandbox (two independent checks have to agree).
 */
static const char *check_defences(const struct plan *plan)
{
	static const struct {
		enum opcode opcode;
		uint32_t unless;
		const char *problem;
	} needed[] = {
		{OP_CLONE, 0, "the plan has no clone operation"},
		{OP_EXECUTE, 0, "the plan executes nothing"},
		{OP_PIVOT_ROOT, UNSAFE_NO_PIVOT_ROOT, "the plan does not pivot into a root"},
		{OP_NO_NEW_PRIVS, UNSAFE_NO_NEW_PRIVS_OFF, "the plan does not set no_new_privs"},
		{OP_SET_CAPABILITIES, UNSAFE_KEEPS_CAPABILITIES, "the plan keeps capabilities"},
		{OP_DROP_BOUNDING, UNSAFE_NO_BOUNDING_DROP, "the plan keeps the bounding set"},
		{OP_NOT_DUMPABLE, UNSAFE_DUMPABLE_INIT, "the plan leaves PID 1 dumpable"},
		{OP_LANDLOCK_RESTRICT, UNSAFE_NO_LANDLOCK, "the plan has no Landlock domain"},
		{OP_NEW_SESSION, UNSAFE_NO_SESSION, "the plan starts no session"},
		{OP_CLOSE_DESCRIPTORS, UNSAFE_KEEPS_DESCRIPTORS, "the plan leaves descriptors open"},
		{OP_LOAD_SECCOMP, UNSAFE_NO_SECCOMP, "the plan has no seccomp filter"},
	};
	struct operation operation;
	bool grouped = plan_find(plan, OP_CGROUP, &operation);
	bool moved = (grouped && plan_string(plan, &operation, 2)[0]) ||
		     plan_find(plan, OP_CGROUP_V1, &operation);
	if (moved && !(plan_find(plan, OP_AWAIT_CGROUP, &operation) && operation.values[0]))
		return "the plan does not wait for its cgroup";
	if (!grouped && !moved && plan_find(plan, OP_CGROUP_LIMIT, &operation))
		return "the plan limits a cgroup that it has not";
	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
		if (!(plan->unsafe & needed[i].unless) &&
		    !plan_find(plan, needed[i].opcode, &operation))
			return needed[i].problem;
	if (plan_find(plan, OP_SET_EXEC_LABEL, &operation) &&
	    !plan_find(plan, OP_EXPECT_LABEL, &operation))
		return "the plan sets a label and does not read it back";
	const char *problem = check_serving(plan);
	if (problem)
		return problem;
	if (plan_find(plan, OP_ROOT_OVERLAY, &operation) && !plan_find(plan, OP_LAYER, &operation))
		return "the plan has no layer for its overlay";
	plan_find(plan, OP_CLONE, &operation);
	if (!operation.values[0] && plan->unsafe & UNSAFE_NO_NAMESPACES)
		return check_bare(plan);
	uint64_t flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID;
	if (!(plan->unsafe & UNSAFE_SHARED_NETWORK))
		flags |= CLONE_NEWNET;
	if ((operation.values[0] & flags) != flags)
		return "the plan shares a namespace that must be private";
	if (operation.values[0] & ~(uint64_t)(flags | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
					      CLONE_NEWCGROUP))
		return "the plan asks clone3 for a flag that is no namespace";
	return NULL;
}

const char *plan_load(struct plan *plan, struct blob bytes)
{
	struct header header, blank;
	const char *problem;
	uint64_t records;
	if (bytes.size < sizeof header)
		return "the plan is truncated";
	memcpy(&header, bytes.data, sizeof header);
	if (memcmp(header.magic, PLAN_MAGIC, sizeof header.magic))
		return "this is not a plan";
	if (header.version != PLAN_VERSION || header.schema != PLAN_SCHEMA)
		return "the plan was made by another version of hardrun: make it again";
	if (header.total != bytes.size || header.total > PLAN_MAXIMUM_SIZE)
		return "the plan is truncated";
	records = (uint64_t)header.count * sizeof(struct record);
	if (header.count > PLAN_MAXIMUM_OPERATIONS ||
	    sizeof header + records + header.pool_size != header.total)
		return "the plan is damaged: its sizes do not add up";
	blank = header;
	blank.checksum = 0;
	plan->base = (const unsigned char *)bytes.data;
	if (checksum(checksum(0, (const unsigned char *)&blank, sizeof blank),
		     plan->base + sizeof header, bytes.size - sizeof header) != header.checksum)
		return "the plan is damaged: its checksum is wrong";
	plan->size = bytes.size;
	plan->pool = bytes.data + sizeof header + records;
	plan->pool_size = header.pool_size;
	plan->count = header.count;
	plan->unsafe = header.unsafe;
	problem = check_records(plan);
	return problem ? problem : check_defences(plan);
}

void plan_operation(const struct plan *plan, uint32_t index, struct operation *operation)
{
	const unsigned char *at = record_at(plan, index);
	uint16_t opcode;
	uint32_t reason;
	memcpy(&opcode, at, sizeof opcode);
	memcpy(&reason, at + offsetof(struct record, reason), sizeof reason);
	memcpy(operation->values, at + offsetof(struct record, values), sizeof operation->values);
	operation->type = find_type(opcode);
	operation->index = index;
	operation->reason = plan->pool + reason;
}

const char *plan_string(const struct plan *plan, const struct operation *operation, unsigned index)
{
	return plan->pool + operation->values[index];
}

struct blob plan_blob(const struct plan *plan, const struct operation *operation, unsigned index)
{
	uint64_t value = operation->values[index];
	return (struct blob){plan->pool + (value & UINT32_MAX), (size_t)(value >> 32)};
}
