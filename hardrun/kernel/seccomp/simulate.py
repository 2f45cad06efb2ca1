"""A classic-BPF machine that runs a filter as seccomp(2) would: for any architecture, any call.

It knows every instruction that the kernel's ``seccomp_check_filter()`` admits and refuses what the
kernel refuses: other opcodes, jumps out of the program, loads outside ``struct seccomp_data``,
reads of scratch memory that was never written.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.kernel.seccomp.tables import ABIS

MAXIMUM_INSTRUCTIONS = 4096  # BPF_MAXINSNS
DATA_SIZE = 64  # sizeof(struct seccomp_data): nr, arch, instruction_pointer, args[6]
_WORD = 0xFFFFFFFF
_ALLOW = 0x7FFF0000
_SCRATCH_WORDS = 16  # BPF_MEMWORDS

# <linux/bpf_common.h>: class | size or operation | mode or source
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_X = 0x08
_JA, _JEQ, _JGT, _JGE, _JSET = 0x00, 0x10, 0x20, 0x30, 0x40
_RET_A = _RET | 0x10
_TXA = _MISC | 0x80
_ADD, _SUB, _MUL, _DIV, _OR, _AND, _LSH, _RSH, _NEG, _XOR = (
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xA0,
)  # fmt: skip

_ARITHMETIC = (_ADD, _SUB, _MUL, _DIV, _OR, _AND, _LSH, _RSH, _XOR)
_ADMITTED = frozenset(
    [_LD | _ABS, _LD | _LEN, _LDX | _LEN, _LD | _IMM, _LDX | _IMM, _LD | _MEM, _LDX | _MEM]
    + [_ST, _STX, _RET, _RET_A, _MISC, _TXA, _ALU | _NEG, _JMP | _JA]
    + [_ALU | operation | source for operation in _ARITHMETIC for source in (0, _X)]
    + [_JMP | test | source for test in (_JEQ, _JGT, _JGE, _JSET) for source in (0, _X)]
)


class Instruction(NamedTuple):
    """``struct sock_filter``."""

    code: int
    jt: int
    jf: int
    k: int


class Outcome(NamedTuple):
    """What a filter returned, and how many instructions it took."""

    action: int
    instructions: int


def simulate(
    program: bytes,
    architecture: str,
    number: int,
    arguments: Sequence[int] = (),
    *,
    audit: int | None = None,
    instruction_pointer: int = 0,
) -> Outcome:
    """Run a program of ``architecture``'s byte order on one call.

    ``architecture`` is an ABI of ``tables.ABIS``; ``audit`` replaces its AUDIT_ARCH_* value, for
    calls through an ABI that the table does not have. Missing arguments are 0. Raises BadInput
    for a program that the kernel would not load.
    """
    abi = ABIS[architecture]
    order = ">" if abi.big_endian else "<"
    registers = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack(
        f"{order}IIQ6Q", number, abi.audit if audit is None else audit, instruction_pointer,
        *registers,
    )  # fmt: skip
    return run(decode(program, big_endian=abi.big_endian), struct.unpack(f"{order}16I", data))


@lru_cache(maxsize=16)
def decode(program: bytes, *, big_endian: bool = False) -> tuple[Instruction, ...]:
    """The instructions of a program, checked as the kernel checks them."""
    if not program or len(program) % 8 or len(program) > 8 * MAXIMUM_INSTRUCTIONS:
        raise BadInput(f"seccomp: {len(program)} bytes are not a BPF program")
    record = struct.Struct(">HBBI" if big_endian else "<HBBI")
    code = tuple(Instruction(*fields) for fields in record.iter_unpack(program))
    _check(code)
    return code


def run(code: Sequence[Instruction], data: Sequence[int]) -> Outcome:
    """Run checked instructions on the 16 words of a ``struct seccomp_data``."""
    a = x = position = steps = 0
    scratch = [0] * _SCRATCH_WORDS
    while True:
        opcode, jt, jf, k = code[position]
        position += 1
        steps += 1
        kind = opcode & 7
        if kind == _JMP:
            position += k if opcode == _JMP | _JA else jt if _test(opcode, a, x, k) else jf
        elif opcode == _LD | _ABS:
            a = data[k >> 2]
        elif kind == _RET:
            return Outcome(a if opcode == _RET_A else k, steps)
        elif kind == _ALU:
            right = x if opcode & _X else k
            if opcode & 0xF0 == _DIV and not right:
                return Outcome(0, steps)  # the kernel ends the program: SECCOMP_RET_KILL_THREAD
            a = _arithmetic(opcode & 0xF0, a, right)
        elif kind == _LD:
            a = _source(opcode, k, scratch)
        elif kind == _LDX:
            x = _source(opcode, k, scratch)
        elif kind in (_ST, _STX):
            scratch[k] = a if kind == _ST else x
        elif opcode == _TXA:
            a = x
        else:
            x = a


def always_allowed(code: Sequence[Instruction], audit: int, number: int) -> bool:
    """Whether a call is allowed whatever its arguments are: the kernel runs no filter for it.

    As ``seccomp_is_const_allow()`` finds out when a filter is loaded (Linux 5.11): it follows the
    program for this number and architecture, and gives up where anything else is looked at.
    """
    a = position = 0
    while True:
        opcode, yes, no, k = code[position]
        position += 1
        if opcode == _LD | _ABS and k in (0, 4):
            a = number if k == 0 else audit
        elif opcode == _RET:
            return k == _ALLOW
        elif opcode == _JMP | _JA:
            position += k
        elif opcode & 0xF == _JMP:
            position += yes if _test(opcode, a, 0, k) else no
        elif opcode == _ALU | _AND:
            a &= k
        else:
            return False


def _test(opcode: int, a: int, x: int, k: int) -> bool:
    right = x if opcode & _X else k
    operation = opcode & 0xF0
    if operation == _JEQ:
        return a == right
    if operation == _JGE:
        return a >= right
    return a > right if operation == _JGT else bool(a & right)


def _arithmetic(operation: int, a: int, right: int) -> int:
    match operation:
        case 0x00:
            result = a + right
        case 0x10:
            result = a - right
        case 0x20:
            result = a * right
        case 0x30:
            result = a // right
        case 0x40:
            result = a | right
        case 0x50:
            result = a & right
        case 0x60:
            result = a << (right & 31)
        case 0x70:
            result = a >> (right & 31)
        case 0x80:
            result = -a
        case _:
            result = a ^ right
    return result & _WORD


def _source(opcode: int, k: int, scratch: Sequence[int]) -> int:
    mode = opcode & 0xE0
    if mode == _IMM:
        return k
    return DATA_SIZE if mode == _LEN else scratch[k]


def _check(code: Sequence[Instruction]) -> None:
    """``bpf_check_classic()`` and ``seccomp_check_filter()``."""
    written = {0: 0}  # which scratch words are written on every way to an instruction
    for position, (opcode, jt, jf, k) in enumerate(code):

        def wrong(reason: str, at: int = position) -> BadInput:
            return BadInput(f"seccomp: BPF instruction {at}: {reason}")

        if opcode not in _ADMITTED:
            raise wrong(f"opcode {opcode:#x} is not admitted")
        if opcode == _LD | _ABS and (k >= DATA_SIZE or k % 4):
            raise wrong(f"load at {k} is outside struct seccomp_data or not aligned")
        if opcode == _ALU | _DIV and k == 0:
            raise wrong("division by zero")
        if opcode in (_ALU | _LSH, _ALU | _RSH) and k > 31:
            raise wrong(f"shift by {k}")
        before = written.get(position, 0xFFFF)
        if opcode in (_ST, _STX, _LD | _MEM, _LDX | _MEM):
            if k >= _SCRATCH_WORDS:
                raise wrong(f"no scratch word {k}")
            if opcode in (_ST, _STX):
                before |= 1 << k
            elif not before >> k & 1:
                raise wrong(f"scratch word {k} is read before it is written")
        for target in _targets(position, Instruction(opcode, jt, jf, k)):
            if target >= len(code):
                raise wrong("goes beyond the end of the program")
            written[target] = written.get(target, 0xFFFF) & before


def _targets(position: int, instruction: Instruction) -> tuple[int, ...]:
    if instruction.code & 7 == _RET:
        return ()
    if instruction.code == _JMP | _JA:
        return (position + 1 + instruction.k,)
    if instruction.code & 7 == _JMP:
        return (position + 1 + instruction.jt, position + 1 + instruction.jf)
    return (position + 1,)
