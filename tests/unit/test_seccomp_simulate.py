"""The BPF machine: what it admits is what the kernel admits."""

from __future__ import annotations

import struct

import pytest

from hardrun.errors import BadInput
from hardrun.kernel.seccomp.simulate import Instruction, Outcome, decode, run, simulate

RET, RET_A, LD_ABS, LD_IMM, LDX_IMM = 0x06, 0x16, 0x20, 0x00, 0x01
LD_MEM, LDX_MEM, ST, STX, TAX, TXA = 0x60, 0x61, 0x02, 0x03, 0x07, 0x87
LD_LEN, LDX_LEN, NEG = 0x80, 0x81, 0x84
JA, JEQ, JGT, JGE, JSET, X = 0x05, 0x15, 0x25, 0x35, 0x45, 0x08
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, XOR = 0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0xA4


def program(*instructions: tuple[int, ...], order: str = "<") -> bytes:
    """Instructions as (code, k) or (code, k, jt, jf)."""
    packed = bytearray()
    for code, k, *jumps in instructions:
        jt, jf = jumps or (0, 0)
        packed += struct.pack(f"{order}HBBI", code, jt, jf, k)
    return bytes(packed)


def result(*instructions: tuple[int, ...]) -> int:
    return run(decode(program(*instructions)), [0] * 16).action


def test_every_field_of_seccomp_data_is_where_the_kernel_has_it() -> None:
    arguments = [0x1111111122222222 * n for n in range(1, 7)]
    words = [
        simulate(program((LD_ABS, offset), (RET_A, 0)), "x86_64", 77, arguments,
                 instruction_pointer=0xAAAABBBBCCCC).action
        for offset in range(0, 64, 4)
    ]  # fmt: skip
    expected = [77, 0xC000003E, 0xBBBBCCCC, 0xAAAA]
    for argument in arguments:
        expected += [argument & 0xFFFFFFFF, argument >> 32]
    assert words == expected


def test_a_big_endian_architecture_has_the_upper_half_first() -> None:
    load = program((LD_ABS, 16), (RET_A, 0), order=">")
    assert simulate(load, "s390x", 1, [0x1111111122222222]).action == 0x11111111


@pytest.mark.parametrize(
    "code, left, right, expected",
    [
        (ADD, 0xFFFFFFFF, 2, 1), (SUB, 1, 2, 0xFFFFFFFF), (MUL, 0x10000, 0x10001, 0x10000),
        (DIV, 7, 2, 3), (OR, 5, 2, 7), (AND, 6, 3, 2), (LSH, 0x80000001, 1, 2),
        (RSH, 0x80000000, 31, 1), (XOR, 6, 3, 5),
    ],
)  # fmt: skip
def test_arithmetic_has_32_bits(code: int, left: int, right: int, expected: int) -> None:
    assert result((LD_IMM, left), (code, right), (RET_A, 0)) == expected
    assert result((LDX_IMM, right), (LD_IMM, left), (code | X, 0), (RET_A, 0)) == expected


def test_negation_wraps() -> None:
    assert result((LD_IMM, 1), (NEG, 0), (RET_A, 0)) == 0xFFFFFFFF


def test_division_by_a_register_of_zero_kills_the_thread() -> None:
    assert result((LD_IMM, 7), (DIV | X, 0), (RET, 5)) == 0


@pytest.mark.parametrize(
    "code, left, right, taken",
    [
        (JEQ, 5, 5, True), (JEQ, 5, 6, False), (JGT, 5, 5, False), (JGT, 0xFFFFFFFF, 1, True),
        (JGE, 5, 5, True), (JGE, 4, 5, False), (JSET, 6, 2, True), (JSET, 4, 2, False),
    ],
)  # fmt: skip
def test_comparisons_are_unsigned(code: int, left: int, right: int, taken: bool) -> None:
    ends = ((RET, 0), (RET, 1))
    assert result((LD_IMM, left), (code, right, 1, 0), *ends) == taken
    assert result((LDX_IMM, right), (LD_IMM, left), (code | X, 0, 1, 0), *ends) == taken


def test_scratch_memory_and_registers_keep_values() -> None:
    code = ((LD_IMM, 7), (ST, 3), (LD_IMM, 1), (LDX_MEM, 3), (TXA, 0), (RET_A, 0))
    assert result(*code) == 7
    code = ((LD_IMM, 9), (TAX, 0), (STX, 15), (LD_IMM, 0), (LD_MEM, 15), (RET_A, 0))
    assert result(*code) == 9
    assert result((LD_LEN, 0), (RET_A, 0)) == 64
    assert result((LDX_LEN, 0), (TXA, 0), (RET_A, 0)) == 64


def test_instructions_executed_are_counted() -> None:
    code = decode(program((JA, 1), (RET, 1), (RET, 2)))
    assert run(code, [0] * 16) == Outcome(2, 2)


@pytest.mark.parametrize(
    "instructions, reason",
    [
        ([(0x28, 0), (RET, 0)], "opcode 0x28 is not admitted"),  # a half-word load
        ([(0x94, 2), (RET, 0)], "opcode 0x94 is not admitted"),  # BPF_MOD
        ([(LD_ABS, 64), (RET, 0)], "outside struct seccomp_data"),
        ([(LD_ABS, 2), (RET, 0)], "not aligned"),
        ([(LD_IMM, 0)], "beyond the end"),
        ([(JA, 5), (RET, 0)], "beyond the end"),
        ([(JEQ, 0, 1, 0), (RET, 0)], "beyond the end"),
        ([(JA, 0xFFFFFFFF), (RET, 0)], "beyond the end"),
        ([(DIV, 0), (RET, 0)], "division by zero"),
        ([(LSH, 32), (RET, 0)], "shift by 32"),
        ([(ST, 16), (RET, 0)], "no scratch word 16"),
        ([(LD_MEM, 0), (RET, 0)], "read before it is written"),
        ([(JEQ, 0, 1, 0), (ST, 0), (LD_MEM, 0), (RET, 0)], "read before it is written"),
    ],
)
def test_a_program_that_the_kernel_refuses_is_refused(
    instructions: list[tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        decode(program(*instructions))


@pytest.mark.parametrize("size", [0, 4, 9, 8 * 4097])
def test_bytes_that_are_no_program_are_refused(size: int) -> None:
    with pytest.raises(BadInput, match="are not a BPF program"):
        decode(bytes(size))


def test_instructions_are_decoded_in_the_architectures_byte_order() -> None:
    assert decode(bytes.fromhex("0600000000000500")) == (Instruction(6, 0, 0, 0x50000),)
    assert decode(bytes.fromhex("0006000000050000"), big_endian=True) == (
        Instruction(6, 0, 0, 0x50000),
    )
