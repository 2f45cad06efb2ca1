"""Laws of filters: a program says what its documents say; composition is the kernel's meet."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hardrun.kernel.seccomp import actions, profile, tables
from hardrun.kernel.seccomp.compile import build
from hardrun.kernel.seccomp.decision import Forest, Leaf, Node, state
from hardrun.kernel.seccomp.order import implies, meet
from hardrun.kernel.seccomp.rules import Comparison, Context, Rule, evaluate, resolve
from hardrun.kernel.seccomp.simulate import simulate

LAW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

CALLS = ["read", "ioctl", "clone", "clone3", "socket", "socketcall", "mmap", "personality", "mknod"]
NEEDED = ["execve", "exit", "exit_group", "rt_sigreturn"]
CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_NET_RAW"]
VALUES = st.sampled_from([0, 1, 2, 3, 8, 40, 0x5412, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1])
ACTIONS = st.sampled_from(
    [("SCMP_ACT_ALLOW", None), ("SCMP_ACT_ERRNO", 1), ("SCMP_ACT_ERRNO", 38),
     ("SCMP_ACT_LOG", None), ("SCMP_ACT_TRAP", None), ("SCMP_ACT_KILL_PROCESS", None),
     ("SCMP_ACT_KILL", None)]
)  # fmt: skip


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]))
    value = draw(VALUES)
    second = draw(VALUES) & value if operator == "MASKED_EQ" else 0
    if operator == "EQ":
        value &= 0xFFFF  # wider ones are refused for narrow arguments
    return {"index": draw(st.integers(0, 2)), "value": value, "valueTwo": second,
            "op": f"SCMP_CMP_{operator}"}  # fmt: skip


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    action, number = draw(ACTIONS)
    conditions = st.fixed_dictionaries(
        {}, optional={"caps": st.lists(st.sampled_from(CAPABILITIES), max_size=1),
                      "minKernel": st.sampled_from(["4.8", "6.0"])})  # fmt: skip
    rule = {
        "names": draw(st.lists(st.sampled_from(CALLS), min_size=1, max_size=3)),
        "action": action,
        "args": draw(st.lists(arguments(), max_size=2)),
        "includes": draw(conditions),
        "excludes": draw(conditions),
    }
    return rule if number is None else rule | {"errnoRet": number}


@st.composite
def profiles(draw: st.DrawFn) -> profile.Profile:
    action, number = draw(ACTIONS)
    document = {
        "defaultAction": action,
        "architectures": draw(st.sampled_from([[], ["SCMP_ARCH_X86"]])),
        "syscalls": [
            {"names": NEEDED, "action": "SCMP_ACT_ALLOW"},
            *draw(st.lists(rules(), max_size=4)),
        ],
    }
    if number is not None:
        document["defaultErrnoRet"] = number
    return profile.parse(json.dumps(document), file="p.json", name="p")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[profile.Profile, profile.Profile]:
    """Two profiles, of which the first often has the second's rules and some that deny."""
    weak = draw(profiles())
    if draw(st.booleans()):
        return draw(profiles()), weak
    added = draw(st.lists(rules(), max_size=2))
    dumped = weak.document.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for rule in added:
        rule["action"] = "SCMP_ACT_ERRNO"
    dumped["syscalls"] = [*dumped["syscalls"], *added]
    return profile.parse(json.dumps(dumped), file="p.json", name="p"), weak


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    return Context(
        "x86_64",
        draw(st.frozensets(st.sampled_from(CAPABILITIES))),
        draw(st.sampled_from([(4, 4), (5, 10), (6, 18)])),
    )


REGISTERS = st.lists(VALUES | st.integers(0, (1 << 64) - 1), min_size=6, max_size=6)
NUMBERS = st.sampled_from(
    [tables.numbers("x86_64")[name] for name in CALLS if name in tables.numbers("x86_64")]
) | st.integers(0, 0xFFFFFFFF)  # fmt: skip


def compiled(several: Sequence[profile.Profile], context: Context) -> bytes:
    return build(
        several,
        architecture=context.architecture,
        capabilities=context.capabilities,
        kernel_release=f"{context.kernel[0]}.{context.kernel[1]}",
    )


@LAW
@given(profiles(), contexts(), st.lists(st.tuples(NUMBERS, REGISTERS), min_size=20, max_size=20))
def test_a_program_answers_what_the_document_says(
    one: profile.Profile, context: Context, calls: list[tuple[int, list[int]]]
) -> None:
    program = compiled([one], context)
    resolved = resolve([one], context)
    for number, registers in calls:
        found = simulate(program, "x86_64", number, registers).action
        assert found == evaluate(resolved, tables.ABIS["x86_64"], number, registers)


@LAW
@given(profiles(), profiles(), contexts(), NUMBERS, REGISTERS)
def test_a_composition_is_as_strict_as_each_and_no_stricter_than_all(
    a: profile.Profile, b: profile.Profile, context: Context, number: int, registers: list[int]
) -> None:
    one, other, both = (compiled(some, context) for some in ([a], [b], [a, b]))
    assert both == compiled([b, a], context)
    answers = [simulate(p, "x86_64", number, registers).action for p in (one, other)]
    assert simulate(both, "x86_64", number, registers).action == actions.strictest(answers)


@LAW
@given(pairs(), contexts(), NUMBERS, REGISTERS)
def test_what_implies_says_holds_for_every_call(
    pair: tuple[profile.Profile, profile.Profile],
    context: Context,
    number: int,
    registers: list[int],
) -> None:
    a, b = pair
    assume(implies(a, b))
    strict, weak = (
        evaluate(resolve([p], context), tables.ABIS["x86_64"], number, registers) for p in (a, b)
    )
    assert actions.at_most(strict, weak)


@LAW
@given(st.lists(profiles(), min_size=1, max_size=4), contexts(), NUMBERS, REGISTERS)
def test_a_meet_loses_no_strictness(
    several: list[profile.Profile], context: Context, number: int, registers: list[int]
) -> None:
    kept = meet(several)
    everything, least = (
        evaluate(resolve(some, context), tables.ABIS["x86_64"], number, registers)
        for some in (several, kept)
    )
    assert actions.severity(everything) == actions.severity(least)


@LAW
@given(profiles())
def test_every_profile_implies_itself(one: profile.Profile) -> None:
    assert implies(one, one)


COMPARISONS = st.builds(
    Comparison, st.integers(0, 1), st.sampled_from([0xF, 0xFF, 0xFFFFFFFF, (1 << 64) - 1]),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), VALUES,
)  # fmt: skip
RULES = st.lists(
    st.builds(
        Rule,
        st.lists(COMPARISONS, max_size=3).map(tuple),
        st.sampled_from([actions.ALLOW, actions.EPERM, actions.ENOSYS, actions.KILL_PROCESS]),
    ),
    max_size=4,
)


def walk(node: Node, registers: Sequence[int]) -> int:
    while not isinstance(node, Leaf):
        index, mask, operator, value = node.atom
        node = node.yes if Comparison(index, mask, operator, value).holds(registers) else node.no
    return node.action


@settings(max_examples=400, deadline=None)
@given(st.lists(RULES, min_size=1, max_size=3), REGISTERS)
def test_a_decision_tree_decides_as_the_rules_do(
    several: list[list[Rule]], registers: list[int]
) -> None:
    expected = actions.strictest(
        actions.strictest([r.action for r in some if r.matches(registers)] or [actions.EPERM])
        for some in several
    )
    node = Forest().tree([state(some, actions.EPERM) for some in several])
    assert walk(node, registers) == expected


@cache
def libseccomp() -> Any:
    return pytest.importorskip("pyseccomp", exc_type=RuntimeError)


@LAW
@given(
    st.sets(st.sampled_from(sorted(tables.numbers("x86_64"))), min_size=1, max_size=60),
    st.integers(0, 3),
    st.integers(0, 1 << 33),
    st.sampled_from(["EQ", "NE", "LT", "LE", "GT", "GE"]),
)
def test_libseccomp_as_a_second_compiler_gives_the_same_answers(
    names: set[str], index: int, value: int, operator: str
) -> None:
    """Where libseccomp can say it: calls that are allowed, one of them by a 64-bit comparison."""
    library = libseccomp()
    numbers = tables.numbers("x86_64")
    known = sorted(n for n in names | set(NEEDED) if library.resolve_syscall(0xC000003E, n) >= 0)
    plain = [name for name in known if name != "mmap"]
    argument = {"index": index, "value": value, "op": f"SCMP_CMP_{operator}"}
    ours = compiled(
        [profile.parse(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": plain, "action": "SCMP_ACT_ALLOW"},
            {"names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": [argument]}]}),
            file="p", name="p")], Context("x86_64"))  # fmt: skip
    theirs = library.SyscallFilter(library.ERRNO(1))
    if not theirs.exist_arch(library.Arch.X86_64):
        theirs.add_arch(library.Arch.X86_64)
    theirs.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    for name in plain:
        theirs.add_rule(library.ALLOW, numbers[name])
    theirs.add_rule(library.ALLOW, numbers["mmap"],
                    library.Arg(index, getattr(library, operator), value))  # fmt: skip
    with tempfile.TemporaryFile() as file:
        theirs.export_bpf(file)
        file.seek(0)
        second = file.read()
    for name, number in numbers.items():
        if name != "clone3":
            registers = [value, value + 1, max(value - 1, 0), value | 1 << 40, 0, 0]
            assert (
                simulate(ours, "x86_64", number, registers).action
                == simulate(second, "x86_64", number, registers).action
            )
