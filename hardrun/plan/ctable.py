"""Writes the executor's view of the schema: ``python -m hardrun.plan.ctable > operations.h``."""

from __future__ import annotations

import enum
import errno
import re
import sys

from hardrun import cache
from hardrun.plan import probe, serve
from hardrun.plan.format import (
    HEADER,
    MAGIC,
    MAXIMUM_OPERATIONS,
    MAXIMUM_SIZE,
    TRAILER,
    TRAILER_MAGIC,
)
from hardrun.plan.schema import (
    OPERATIONS,
    VERSION,
    OperationType,
    Phase,
    StandardIO,
    Unsafe,
    schema_id,
)

_PLACE = re.compile(r"\{(\w+)(?::#?([xo]))?\}")


def _sentence(operation: OperationType) -> str:
    """``{path}`` becomes ``%s0``: a conversion and the number of the argument."""
    names = [a.name for a in operation.arguments]

    def conversion(match: re.Match[str]) -> str:
        index = names.index(match[1])
        kind = operation.arguments[index].kind
        return f"%{match[2] or ('s' if kind.name == 'STRING' else 'd')}{index}"

    return _PLACE.sub(conversion, operation.sentence)


def _is_performed(operation: OperationType) -> bool:
    """Whether the sandbox performs it; the others are data that the parent reads."""
    return operation.phase is Phase.INIT or (operation.phase is Phase.WORKLOAD
                                             and operation.rank > 0)


def _function(operation: OperationType) -> str:
    return f"perform_{operation.name}"


def _members(prefix: str, kind: type[enum.IntEnum] | type[enum.IntFlag]) -> list[str]:
    return [f"\t{prefix}_{m.name} = {int(m)}," for m in kind]


def _c_bytes(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def _probe() -> list[str]:
    return [
        f'#define PROBE_MEMORY "{probe.MEMORY}"',
        f"#define PROBE_OFFSET {probe.OFFSET}u",
        f"#define REACHED_END {probe.REACHED.size}u",
        f"#define PROBE_FILTERED {probe.FILTERED}u",
        f"#define QUESTION_TEXT {probe.TEXT_SIZE}u",
        f"#define QUESTION_SIZE {probe.QUESTION.size}u",
        f"#define QUESTIONS {probe.MOST}u",
        "enum ask {",
        *_members("ASK", probe.Ask),
        "};",
        "enum answered {",
        *_members("ANSWERED", probe.Answered),
        "};",
    ]


def _serve() -> list[str]:
    return [
        f'#define JOB_MAGIC "{_c_bytes(serve.MAGIC)}"',
        f"#define JOB_HEADER_SIZE {serve.REQUEST.size}u",
        f"#define JOB_MOST_BYTES {serve.MOST_BYTES}u",
        f"#define JOB_MOST_WORDS {serve.MOST_WORDS}u",
        f"#define MOST_COMMANDS {serve.MOST_COMMANDS}u",
        f"#define REPLY_SIZE {serve.REPLY.size}u",
        "enum serve_mode {",
        *_members("SERVE", serve.ServeMode),
        "};",
        "enum job_flags {",
        *_members("JOB", serve.Flag),
        "};",
        "enum told {",
        *_members("TOLD", serve.Told),
        "};",
    ]


def _cache() -> list[str]:
    variables = ", ".join(f'"{name}"' for name in cache.VARIABLES)
    return [
        f'#define CACHE_MAGIC "{_c_bytes(cache.MAGIC)}"',
        f'#define CACHE_IDENTITY "{cache.identity(schema_id())}"',
        f'#define SERVICE_NAME "{cache.SERVICE}"',
        f"#define CACHE_HEADER_SIZE {cache.HEADER.size}u",
        f"#define CACHE_MAXIMUM_BYTES {cache.MAXIMUM_BYTES}u",
        f"#define CACHE_VARIABLES {{{variables}}}",
    ]


def _checksum_tables() -> list[str]:
    """CRC-32 as zlib has it, four bytes at a time: row n is of a byte with n zeros behind it."""
    row = list(range(256))
    for _ in range(8):
        row = [word >> 1 ^ (0xEDB88320 if word & 1 else 0) for word in row]
    rows = [row]
    for _ in range(3):
        rows.append([word >> 8 ^ row[word & 255] for word in rows[-1]])
    return ["static const uint32_t checksum_tables[4][256] = {",
            *("\t{" + ", ".join(f"{word:#x}" for word in each) + "}," for each in rows), "};"]


def header() -> str:
    """The text of operations.h."""
    lines = [
        "/* Written from hardrun/plan/schema.py by hardrun/plan/ctable.py. Do not edit. */",
        "#ifndef HARDRUN_OPERATIONS_H",
        "#define HARDRUN_OPERATIONS_H",
        "#include <stdint.h>",
        f'#define PLAN_MAGIC "{_c_bytes(MAGIC)}"',
        f'#define TRAILER_MAGIC "{_c_bytes(TRAILER_MAGIC)}"',
        f"#define PLAN_VERSION {VERSION}u",
        f"#define PLAN_SCHEMA {schema_id()}u",
        f"#define PLAN_HEADER_SIZE {HEADER.size}u",
        f"#define TRAILER_SIZE {TRAILER.size}u",
        f"#define PLAN_MAXIMUM_SIZE {MAXIMUM_SIZE}u",
        f"#define PLAN_MAXIMUM_OPERATIONS {MAXIMUM_OPERATIONS}u",
        f"#define OPCODES {max(o.opcode for o in OPERATIONS) + 1}u",
        *_cache(),
        "enum phase {",
        *_members("PHASE", Phase),
        "};",
        "enum unsafe_bits {",
        *_members("UNSAFE", Unsafe),
        "};",
        "enum standard_io {",
        *_members("STANDARD_IO", StandardIO),
        "};",
        *_probe(),
        *_serve(),
        "enum opcode {",
        *(f"\tOP_{o.name.upper()} = {o.opcode}," for o in OPERATIONS),
        "};",
        "struct sandbox;",
        "struct operation;",
        *(f"int {_function(o)}(struct sandbox *sandbox, const struct operation *operation);"
          for o in OPERATIONS if _is_performed(o)),
        "struct operation_type {",
        "\tuint16_t opcode;",
        "\tuint8_t phase, rank, once, arguments;",
        "\tuint8_t kinds[7]; /* 0 u32, 1 u64, 2 string, 3 blob */",
        "\tconst char *sentence;",
        "};",
        "#ifdef OPERATION_TABLE",
        "static const struct operation_type operation_types[OPCODES] = {",
    ]
    for o in OPERATIONS:
        kinds = ", ".join(str(int(a.kind)) for a in o.arguments) or "0"
        lines.append(f"\t[{o.opcode}] = {{{o.opcode}, {int(o.phase)}, {o.rank}, {int(o.once)}, "
                     f'{len(o.arguments)}, {{{kinds}}}, "{_sentence(o)}"}},')
    lines += ["};", *_checksum_tables(), "#endif", "#ifdef PERFORMER_TABLE",
              "static int (*const performers[])(struct sandbox *, const struct operation *) = {"]
    lines += [f"\t[OP_{o.name.upper()}] = {_function(o)}," for o in OPERATIONS if _is_performed(o)]
    lines += ["};", "#endif", "#ifdef ERRNO_TABLE", "static const char *const errno_names[] = {"]
    lines += [f'\t[{number}] = "{name}",' for number, name in sorted(errno.errorcode.items())]
    return "\n".join([*lines, "};", "#endif", "#endif", ""])


if __name__ == "__main__":
    sys.stdout.write(header())
