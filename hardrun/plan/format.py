"""Plans and artefacts as bytes.

A **plan** is a header, fixed-size operation records and a pool of strings and blobs, all
little-endian. An **artefact** is what is stored and executed: a plan, the Decision that it was
compiled from, and (for cached runs) the command line that makes it anew when it is stale, followed
by a trailer that says where each part lies. Appended to the executor it is an ordinary program;
``hardrun run``, ``hardrun compile`` and the Python API all start that same image.

    plan     header (40 bytes) | operation records (64 bytes each) | pool
    artefact plan | decision (zlib) | fallback argv (NUL-terminated strings) | trailer (40 bytes)

The Decision travels with the running process: ``hardrun verify PID`` reads it back from the sealed
image that the kernel shows as /proc/PID/exe, so no state file has to be trusted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hardrun.errors import PlanError
from hardrun.plan.schema import (
    BY_NAME,
    BY_OPCODE,
    VERSION,
    Kind,
    Operation,
    OperationType,
    Unsafe,
    schema_id,
)

MAGIC = b"HRPLAN\r\n"
TRAILER_MAGIC = b"HRIMAGE\n"
# magic, version, unsafe bits, total size, operation count, pool size, schema id, checksum
HEADER = struct.Struct("<8sIIIIIII4x")
CHECKSUM_OFFSET = 32
RECORD = struct.Struct("<HHI7Q")
# plan size, decision size, fallback size, reserved, sha-less checksum of decision+fallback, magic
TRAILER = struct.Struct("<IIIII12x8s")
MAXIMUM_SIZE = 16 << 20
MAXIMUM_OPERATIONS = 65536


class Plan(NamedTuple):
    """A decoded plan."""

    operations: tuple[Operation, ...]
    unsafe: Unsafe = Unsafe(0)


class Artefact(NamedTuple):
    """A plan with the Decision (JSON bytes) that it came from, and how to make it anew."""

    plan: bytes
    decision: bytes = b""
    fallback: tuple[str, ...] = ()


class _Pool:
    """Strings and blobs, each stored once."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._known: dict[bytes, int] = {b"\0": 0}

    def add(self, data: bytes) -> int:
        offset = self._known.get(data)
        if offset is None:
            offset = len(self.data)
            self._known[data] = offset
            self.data += data
        return offset


def _bytes_of(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise PlanError(f"a string of a plan holds a NUL byte: {text!r}")
    return raw + b"\0"


def _encode_value(kind: Kind, value: int | str | bytes, pool: _Pool) -> int:
    if kind in (Kind.U32, Kind.U64):
        limit = 1 << (32 if kind is Kind.U32 else 64)
        if not isinstance(value, int) or not 0 <= value < limit:
            raise PlanError(f"not an unsigned {kind.name.lower()}: {value!r}")
        return int(value)
    if kind is Kind.STRING:
        if not isinstance(value, str):
            raise PlanError(f"not a string: {value!r}")
        return pool.add(_bytes_of(value))
    if not isinstance(value, bytes):
        raise PlanError(f"not bytes: {value!r}")
    return (pool.add(value) if value else 0) | len(value) << 32


def encode(operations: Iterable[Operation], unsafe: Unsafe = Unsafe(0)) -> bytes:
    """Encode operations as a plan.

    They are put in the order of their phase and rank; within a rank the given order stays.
    Raises PlanError for an unknown operation or a value that does not fit its argument.
    """
    pool = _Pool()
    records = bytearray()
    count = 0

    def place(operation: Operation) -> tuple[int, int]:
        kind = BY_NAME.get(operation.name)
        if kind is None:
            raise PlanError(f"no such operation: {operation.name}")
        return kind.phase, kind.rank

    for operation in sorted(operations, key=place):
        kind = BY_NAME[operation.name]
        if len(operation.values) != len(kind.arguments):
            raise PlanError(f"{kind.name}: {len(kind.arguments)} arguments expected, "
                            f"{len(operation.values)} given")
        values = [_encode_value(a.kind, v, pool)
                  for a, v in zip(kind.arguments, operation.values, strict=True)]
        reason = pool.add(_bytes_of(operation.reason))
        records += RECORD.pack(kind.opcode, kind.phase, reason, *values, *[0] * (7 - len(values)))
        count += 1
    pool.data += bytes(-len(pool.data) % 8)
    total = HEADER.size + len(records) + len(pool.data)
    body = bytes(records) + bytes(pool.data)

    def header(checksum: int) -> bytes:
        return HEADER.pack(MAGIC, VERSION, int(unsafe), total, count, len(pool.data), schema_id(),
                           checksum)

    return header(zlib.crc32(header(0) + body)) + body


def _check_header(data: bytes) -> tuple[Unsafe, int, bytes]:
    if len(data) < HEADER.size:
        raise PlanError(f"the plan is truncated: {len(data)} bytes")
    magic, version, unsafe, total, count, pool_size, schema, checksum = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PlanError("this is not a plan (wrong magic)")
    if version != VERSION or schema != schema_id():
        raise PlanError("the plan was made by another version of hardrun", hint="make it again")
    if total != len(data) or total > MAXIMUM_SIZE:
        raise PlanError(f"the plan is truncated: {len(data)} bytes of {total}")
    if HEADER.size + count * RECORD.size + pool_size != total or count > MAXIMUM_OPERATIONS:
        raise PlanError("the plan is damaged: its sizes do not add up")
    blank = data[:CHECKSUM_OFFSET] + bytes(4) + data[CHECKSUM_OFFSET + 4:]
    if zlib.crc32(blank) != checksum:
        raise PlanError("the plan is damaged: its checksum is wrong")
    return Unsafe(unsafe), count, data[HEADER.size + count * RECORD.size:]


def _string(pool: bytes, offset: int) -> str:
    end = pool.find(b"\0", offset) if offset < len(pool) else -1
    if end < 0:
        raise PlanError("the plan is damaged: a string lies outside the pool")
    return pool[offset:end].decode("utf-8", "surrogateescape")


def _decode_values(kind: OperationType, raw: Sequence[int],
                   pool: bytes) -> tuple[int | str | bytes, ...]:
    values: list[int | str | bytes] = []
    for argument, word in zip(kind.arguments, raw, strict=False):
        if argument.kind is Kind.STRING:
            values.append(_string(pool, word))
        elif argument.kind is Kind.BLOB:
            offset, size = word & 0xFFFFFFFF, word >> 32
            if offset + size > len(pool):
                raise PlanError("the plan is damaged: a blob lies outside the pool")
            values.append(pool[offset:offset + size])
        else:
            values.append(word)
    return tuple(values)


def decode(data: bytes) -> Plan:
    """Decode a plan; the inverse of :func:`encode`.

    Raises PlanError for anything truncated, damaged or of another version.
    """
    unsafe, count, pool = _check_header(data)
    operations: list[Operation] = []
    place = (-1, -1)
    for index in range(count):
        opcode, phase, reason, *raw = RECORD.unpack_from(data, HEADER.size + index * RECORD.size)
        kind = BY_OPCODE.get(opcode)
        if kind is None or kind.phase != phase:
            raise PlanError(f"operation {index}: unknown opcode {opcode}")
        if (kind.phase, kind.rank) < place:
            raise PlanError(f"operation {index}: {kind.name} out of order")
        place = (kind.phase, kind.rank)
        values = _decode_values(kind, raw, pool)
        operations.append(Operation(kind.name, values, _string(pool, reason)))
    return Plan(tuple(operations), unsafe)


def pack(artefact: Artefact) -> bytes:
    """The bytes of an artefact, to be stored or appended to the executor."""
    decision = zlib.compress(artefact.decision) if artefact.decision else b""
    fallback = b"".join(_bytes_of(word) for word in artefact.fallback)
    rest = decision + fallback
    return artefact.plan + rest + TRAILER.pack(
        len(artefact.plan), len(decision), len(fallback), 0, zlib.crc32(rest), TRAILER_MAGIC)


def program_of(data: bytes) -> bytes:
    """What an artefact was appended to: the executor. Raises as :func:`unpack`."""
    return data[:_start(data)]


def _start(data: bytes) -> int:
    if len(data) < TRAILER.size or not data.endswith(TRAILER_MAGIC):
        raise PlanError("there is no plan in this file (no trailer at its end)")
    plan_size, decision_size, fallback_size, *_ = TRAILER.unpack_from(
        data, len(data) - TRAILER.size)
    start: int = len(data) - TRAILER.size - plan_size - decision_size - fallback_size
    if start < 0:
        raise PlanError("the file is truncated: its parts do not fit")
    return start


def _inflate(data: bytes) -> bytes:
    """A compressed Decision; a thousandth of its size can stand for more than memory holds."""
    inflater = zlib.decompressobj()
    try:
        decision = inflater.decompress(data, MAXIMUM_SIZE)
    except zlib.error:
        raise PlanError("the file is damaged: its decision can't be decompressed") from None
    if not inflater.eof or inflater.unused_data:
        raise PlanError("the file is damaged: its decision has another size than it says")
    return decision


def unpack(data: bytes) -> Artefact:
    """Find the artefact at the end of ``data`` (a stored artefact, or a program made of one).

    Raises PlanError when there is none or it is damaged.
    """
    start, end = _start(data), len(data) - TRAILER.size
    plan_size, decision_size, _, _, checksum, _ = TRAILER.unpack_from(data, end)
    rest = data[start + plan_size:end]
    if zlib.crc32(rest) != checksum:
        raise PlanError("the file is damaged: its checksum is wrong")
    decision = _inflate(rest[:decision_size]) if decision_size else b""
    words = rest[decision_size:].split(b"\0")[:-1]
    return Artefact(data[start:start + plan_size], decision,
                    tuple(w.decode("utf-8", "surrogateescape") for w in words))
