"""Decision trees to BPF instructions.

A program is written from its end, so that every jump's target is known when the jump is written.
The call's number is found by binary search over ranges of numbers with the same answer: eight or
nine comparisons to any call, and one instruction for each change of answer rather than one or more
for each call. The kernel runs the filter for every number when it is loaded, to know which calls
are always allowed (the action bitmap of Linux 5.11), so short ways also make the load cheap.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import actions
from hardrun.kernel.seccomp.decision import Atom, Leaf, Node
from hardrun.kernel.seccomp.simulate import MAXIMUM_INSTRUCTIONS, Instruction
from hardrun.kernel.seccomp.tables import Abi

_LOAD, _AND = 0x20, 0x54  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K
_JA, _JEQ, _JGT, _JGE = 0x05, 0x15, 0x25, 0x35  # BPF_JMP|…|BPF_K
_RET = 0x06

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_WORD = 0xFFFFFFFF
_REACH = 250  # a conditional jump's offset has 8 bits; some room for what comes between


class Range(NamedTuple):
    """Call numbers from ``start`` to the next range's, with one decision."""

    start: int
    decision: Node


class Load(NamedTuple):
    """What the accumulator holds: a word of struct seccomp_data, masked."""

    offset: int
    mask: int


@dataclass(frozen=True, eq=False)
class WordTest:
    """An atom, or half of one, over 32 bits: what a jump instruction can do. Made once."""

    load: Load
    jump: int
    value: int
    yes: Code
    no: Code


Code = Leaf | WordTest


def assemble(abis: Sequence[tuple[Abi, Sequence[Range]]]) -> bytes:
    """One program for several ABIs, the most used first; any other kills the process.

    The bad-architecture action is ours to choose: libseccomp's default would kill one thread and
    leave the others of a process without it (SC-01).
    """
    writer = _Writer()
    refuse = writer.code(Leaf(actions.KILL_PROCESS), None)
    for abi, ranges in reversed(abis):
        entry = writer.numbers(abi, ranges)
        refuse = writer.jump(_JEQ, abi.audit, entry, refuse)
    writer.emit(_LOAD, _ARCH)
    return writer.finish(big_endian=abis[0][0].big_endian)


class _Writer:
    """Instructions in reverse; a label is the distance of an instruction from the end."""

    def __init__(self) -> None:
        self.reversed: list[Instruction] = []
        self.labels: dict[tuple[Code, Load | None], int] = {}
        self.lowered: dict[tuple[Abi, Node], Code] = {}
        self.words: dict[tuple[Load, int, int, Code, Code], WordTest] = {}

    def emit(self, code: int, k: int, jt: int = 0, jf: int = 0) -> int:
        self.reversed.append(Instruction(code, jt, jf, k))
        return len(self.reversed)

    def near(self, label: int) -> int:
        """A label within a conditional jump's reach that leads to ``label``."""
        distance = len(self.reversed) - label
        if distance <= _REACH:
            return label
        target = self.reversed[label - 1]
        return self.emit(_RET, target.k) if target.code == _RET else self.emit(_JA, distance)

    def jump(self, code: int, value: int, yes: int, no: int) -> int:
        yes, no = self.near(yes), self.near(no)
        here = len(self.reversed)
        return self.emit(code, value, here - yes, here - no)

    def code(self, node: Code, held: Load | None) -> int:
        """The label of a node, for a jump from where the accumulator holds ``held``."""
        if isinstance(node, Leaf) or held != node.load:
            held = None
        label = self.labels.get((node, held))
        near = label is not None and len(self.reversed) - label <= _REACH
        if label is not None and (near or not isinstance(node, Leaf)):
            return label
        if isinstance(node, Leaf):  # a return is repeated where the last one is out of reach
            label = self.emit(_RET, node.action)
        else:
            no = self.code(node.no, node.load)
            yes = self.code(node.yes, node.load)
            label = self.jump(node.jump, node.value, yes, no)
            if held is None:
                if node.load.mask != _WORD:
                    self.emit(_AND, node.load.mask)
                label = self.emit(_LOAD, node.load.offset)
        self.labels[node, held] = label
        return label

    def numbers(self, abi: Abi, ranges: Sequence[Range]) -> int:
        """The binary search over an ABI's numbers."""
        codes = [(entry.start, self.lower(abi, entry.decision)) for entry in ranges]

        def search(low: int, high: int) -> int:
            if high - low == 1:
                return self.code(codes[low][1], None)
            middle = (low + high) // 2
            right = search(middle, high)
            left = search(low, middle)
            return self.jump(_JGE, codes[middle][0], right, left)

        root = search(0, len(codes))
        if root != len(self.reversed):  # one decision for all numbers, and written before
            self.emit(_JA, len(self.reversed) - root)
        return self.emit(_LOAD, _NUMBER)

    def lower(self, abi: Abi, node: Node) -> Code:
        """A decision tree over the ABI's arguments as tests of 32-bit words."""
        if isinstance(node, Leaf):
            return node
        if (done := self.lowered.get((abi, node))) is None:
            yes, no = self.lower(abi, node.yes), self.lower(abi, node.no)
            done = self.lowered[abi, node] = self.split(abi, node.atom, yes, no)
        return done

    def word(self, load: Load, jump: int, value: int, yes: Code, no: Code) -> WordTest:
        fields = (load, jump, value, yes, no)
        return self.words.setdefault(fields, WordTest(*fields))

    def split(self, abi: Abi, atom: Atom, yes: Code, no: Code) -> Code:
        """A 64-bit comparison by halves; a half that no bit counts in is left out."""
        offset = _ARGUMENTS + 8 * atom.argument
        low_offset, high_offset = (offset + 4, offset) if abi.big_endian else (offset, offset + 4)
        low, high = Load(low_offset, atom.mask & _WORD), Load(high_offset, atom.mask >> 32)
        low_value, high_value = atom.value & _WORD, atom.value >> 32
        jump = {"==": _JEQ, ">": _JGT, ">=": _JGE}[atom.operator]
        below = self.word(low, jump, low_value, yes, no) if low.mask else None
        if not high.mask:
            assert below is not None, "an atom without bits is decided before it gets here"
            return below
        if atom.operator == "==":
            return self.word(high, _JEQ, high_value, below or yes, no)
        if below is None:
            return self.word(high, jump, high_value, yes, no)
        equal = self.word(high, _JEQ, high_value, below, no)
        return self.word(high, _JGT, high_value, yes, equal)

    def finish(self, *, big_endian: bool) -> bytes:
        if len(self.reversed) > MAXIMUM_INSTRUCTIONS:
            raise BadInput(
                f"seccomp: the filter needs {len(self.reversed)} instructions; the kernel takes "
                f"{MAXIMUM_INSTRUCTIONS}"
            )
        record = struct.Struct(">HBBI" if big_endian else "<HBBI")
        return b"".join(record.pack(*instruction) for instruction in reversed(self.reversed))
