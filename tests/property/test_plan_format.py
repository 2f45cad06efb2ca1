"""decode∘encode is the identity, and damaged plans are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardrun.cli.render import printable
from hardrun.errors import PlanError
from hardrun.plan.format import MAXIMUM_SIZE, Artefact, Plan, decode, encode, pack, unpack
from hardrun.plan.schema import BY_NAME, OPERATIONS, Kind, Operation, OperationType, Unsafe
from hardrun.plan.show import load_plan, show

# any bytes but NUL, as surrogateescape shows them
TEXTS = st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"").decode("utf-8",
                                                                          "surrogateescape"))
VALUES = {
    Kind.U32: st.integers(0, 2**32 - 1),
    Kind.U64: st.integers(0, 2**64 - 1),
    Kind.STRING: TEXTS,
    Kind.BLOB: st.binary(max_size=64),
}


def operations_of(kind: OperationType) -> st.SearchStrategy[Operation]:
    values = st.tuples(*(VALUES[argument.kind] for argument in kind.arguments))
    return st.builds(Operation, st.just(kind.name), values, TEXTS)


PROGRAMS = st.lists(st.sampled_from(OPERATIONS).flatmap(operations_of), max_size=10)
UNSAFE = st.integers(0, sum(Unsafe)).map(Unsafe)


def in_order(operations: list[Operation]) -> tuple[Operation, ...]:
    return tuple(sorted(operations, key=lambda o: (BY_NAME[o.name].phase, BY_NAME[o.name].rank)))


@given(PROGRAMS, UNSAFE)
def test_decode_of_encode_is_the_identity(operations: list[Operation], unsafe: Unsafe) -> None:
    assert decode(encode(operations, unsafe)) == Plan(in_order(operations), unsafe)


@given(PROGRAMS)
def test_encoding_is_deterministic_and_encode_of_decode_is_the_identity(
        operations: list[Operation]) -> None:
    data = encode(operations)
    assert encode(decode(data).operations) == data


@given(PROGRAMS, st.data())
def test_a_flipped_bit_or_a_cut_is_refused(operations: list[Operation],
                                           data: st.DataObject) -> None:
    plan = bytearray(encode(operations))
    bit = data.draw(st.integers(0, len(plan) * 8 - 1))
    plan[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PlanError):
        decode(bytes(plan))
    with pytest.raises(PlanError):
        decode(encode(operations)[:data.draw(st.integers(0, len(plan) - 1))])


@given(PROGRAMS, st.binary(max_size=200), st.lists(TEXTS, max_size=4), st.binary(max_size=100))
def test_an_artefact_is_found_behind_any_program(operations: list[Operation], decision: bytes,
                                                 fallback: list[str], program: bytes) -> None:
    artefact = Artefact(encode(operations), decision, tuple(fallback))
    assert unpack(program + pack(artefact)) == artefact
    assert load_plan(program + pack(artefact)) == decode(artefact.plan)


def test_a_decision_that_would_fill_the_memory_is_refused() -> None:
    image = pack(Artefact(encode([]), bytes(MAXIMUM_SIZE + 1)))
    assert len(image) < MAXIMUM_SIZE // 500
    with pytest.raises(PlanError, match="another size"):
        unpack(image)
    assert unpack(pack(Artefact(encode([]), bytes(MAXIMUM_SIZE)))).decision == bytes(MAXIMUM_SIZE)


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_plan_give_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(PlanError):
        load_plan(data)


@given(PROGRAMS, UNSAFE)
def test_every_plan_can_be_shown_and_steers_no_terminal(operations: list[Operation],
                                                        unsafe: Unsafe) -> None:
    lines = [printable(line) for line in show(Plan(in_order(operations), unsafe))]
    assert all(line.isprintable() for line in lines)
    for operation in operations:
        assert any(f" {operation.name}(" in line for line in lines)
