"""Profiles to one checked BPF program.

Why this writes BPF itself and libseccomp (pyseccomp) serves the tests as a second opinion. Of what
a filter here has to say, libseccomp can't say:

- "above the highest known number: ENOSYS": its rules are about single calls, so every known call
  that is *not* allowed would need a rule too, which doubles the program;
- "this argument, masked, is not TIOCSTI": it has no masked inequality, and an unconditional rule
  for the same call silently discards the conditional ones;
- several profiles in one program with the strictest answer: its rules of one call have no order
  that its documentation promises, and a rule equal to the default action is an error (-EACCES);
- a bad-architecture action or an x32 answer that differ for a skipped call (number -1);
- names that are newer than the library; programs for another architecture's byte order.

Each could be patched into its output, and the patches would be a BPF compiler. The program of
``untrusted`` is less than half as long this way, and no shared library is needed at run time.

What keeps it honest is that a program is returned only after the simulator has run it on every
number and every argument that matters and found what ``rules.evaluate`` reads in the documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

from hardrun.errors import BadInput, PlanError
from hardrun.kernel.seccomp import actions, decision, simulate, tables
from hardrun.kernel.seccomp.assemble import Range, assemble
from hardrun.kernel.seccomp.profile import Profile
from hardrun.kernel.seccomp.rules import Context, Resolved, evaluate, resolve
from hardrun.kernel.seccomp.tables import ABIS, Abi

# Without these no program starts or ends; libc retries exit for ever when it is denied
# (kubernetes #85191). execve: the filter is installed before it.
NEEDED = ("execve", "exit", "exit_group", "rt_sigreturn")

_CHECKED_NUMBERS = 1024
_CHECKED_CALLS = 4096  # combinations of arguments for one call number

# What is put into the upper halves: nothing, or something in all, or in every other argument.
_HIGH = 0x1234567800000000
_GARBAGE = ((0,) * 6, (_HIGH,) * 6, (_HIGH, 0) * 3, (0, _HIGH) * 3)


def build(
    profiles: Sequence[Profile],
    *,
    architecture: str,
    capabilities: frozenset[str],
    kernel_release: str,
) -> bytes:
    """One program (an array of ``struct sock_filter``) that is as strict as every profile.

    ``architecture`` and ``kernel_release`` are uname(2)'s, ``capabilities`` ("CAP_…") those that
    the workload is granted: the conditions of the profiles are about them. The result does not
    depend on the order of the profiles. BadInput if there is none, if together they deny what
    every program needs, or if the program would be too large; PlanError if the check finds a
    difference between the program and the documents.
    """
    if not profiles:
        raise BadInput("seccomp: a filter needs at least one profile")
    context = Context.of(architecture, capabilities, kernel_release)
    resolved = resolve(profiles, context)
    check_needed(resolved)
    abis = [ABIS[name] for name in _open_abis(resolved)]
    forest = decision.Forest()
    program = assemble([(abi, list(_ranges(forest, resolved, abi))) for abi in abis])
    check(program, resolved)
    return program


def check_needed(resolved: Sequence[Resolved]) -> None:
    """BadInput unless the profiles let a program start and end; by effect, not by rule count."""
    native = ABIS[resolved[0].context.architecture]
    for name in NEEDED:
        number = tables.numbers(native.name)[name]
        if _deny(resolved, native, number):
            files = [p.profile.file for p in resolved if _deny([p], native, number)]
            culprit = ", ".join(files) or "the profiles together"
            raise BadInput(
                f"seccomp: {culprit}: denies {name}, which every program needs",
                hint=f"allow {', '.join(NEEDED)}",
            )


def answers(node: decision.Node) -> frozenset[int]:
    """Every action that a decision tree can end in."""
    found: set[int] = set()
    seen: set[decision.Node] = set()
    ahead = [node]
    while ahead:
        node = ahead.pop()
        if isinstance(node, decision.Leaf):
            found.add(node.action)
        elif node not in seen:
            seen.add(node)
            ahead += (node.yes, node.no)
    return frozenset(found)


def check(program: bytes, resolved: Sequence[Resolved]) -> None:
    """Compare a program with the documents; PlanError at the first difference.

    Every number to 1023 and the special ones, through every ABI, with each argument that a rule
    names at, beside and far from each value it is compared with, and with the upper half set.
    """
    native = ABIS[resolved[0].context.architecture]
    served = (native.name, *tables.COMPATIBLE.get(native.name, ()))
    code = simulate.decode(program, big_endian=native.big_endian)
    for abi in (ABIS[name] for name in served):
        for number in _numbers(abi):
            for arguments in _arguments(resolved, abi, number):
                words = _words(native, abi, number, arguments)
                found = simulate.run(code, words).action
                expected = evaluate(resolved, abi, number, arguments)
                if found != expected:
                    call = f"{abi.name} {number} {[hex(a) for a in arguments]}"
                    raise PlanError(
                        f"seccomp: the compiled filter answers {actions.describe(found)} to "
                        f"{call}, the profiles say {actions.describe(expected)}",
                        hint="this is a fault of hardrun; please report it with the profile",
                    )
    foreign = simulate.run(code, _words(native, Abi("none", 0xDEAD, 32), 0, (0,) * 6)).action
    if foreign != actions.KILL_PROCESS:
        raise PlanError("seccomp: the compiled filter does not kill calls of a foreign ABI")


def _open_abis(resolved: Sequence[Resolved]) -> tuple[str, ...]:
    """The ABIs that every profile opens, the native one first."""
    first, *others = resolved
    return tuple(abi for abi in first.abis if all(abi in other.abis for other in others))


def _tree(
    forest: decision.Forest, resolved: Iterable[Resolved], abi: Abi, number: int
) -> decision.Node:
    states = [decision.state(p.rules(abi, number), p.default) for p in resolved]
    # Sorted, so that the program does not depend on the order of the profiles.
    return forest.tree(sorted(states))


def _deny(resolved: Sequence[Resolved], abi: Abi, number: int) -> bool:
    node = _tree(decision.Forest(), resolved, abi, number)
    return not any(actions.permits(action) for action in answers(node))


def _ranges(forest: decision.Forest, resolved: Sequence[Resolved], abi: Abi) -> Iterable[Range]:
    """The whole 32-bit range of numbers, as ranges of one decision each."""
    known = sorted(tables.names(abi.name))
    starts = {0, *known, *(number + 1 for number in known)}
    if abi.name == "x86_64":
        starts |= {tables.X32_SYSCALL_BIT, tables.SKIPPED}
    previous: decision.Node | None = None
    for start in sorted(starts):
        node = _tree(forest, resolved, abi, start)
        if node != previous:
            yield Range(start, node)
        previous = node


def _numbers(abi: Abi) -> Iterable[int]:
    known = tables.names(abi.name)
    beyond = {max(known) + 1, 5000, 0x3FFFFFFF, 0x40000000, 0x40000001, 0x7FFFFFFF, 0x80000000}
    x32 = {tables.X32_SYSCALL_BIT | number for number in (*range(0, 600, 7), 512, 520, 547)}
    return sorted({*range(_CHECKED_NUMBERS), *known, *beyond, *x32, 0xFFFFFFFE, tables.SKIPPED})


def _arguments(resolved: Sequence[Resolved], abi: Abi, number: int) -> Iterator[tuple[int, ...]]:
    """Argument registers worth trying: boundaries of what the rules compare, and garbage above.

    Every combination, or an even sample of them where rules compare very many values.
    """
    values: list[set[int]] = [{0} for _ in range(6)]
    for profile in resolved:
        for rule in profile.rules(abi, number):
            for index, mask, _, value in rule.comparisons:
                values[index] |= _around(mask, value)
    tried = [sorted(each) for each in values]
    total = prod(len(each) for each in tried)
    garbage = _GARBAGE if total > 1 else _GARBAGE[:1]
    for sample in range(0, total, max(1, total // _CHECKED_CALLS)):
        rest, arguments = sample, []
        for each in tried:
            rest, chosen = divmod(rest, len(each))
            arguments.append(each[chosen])
        for above in garbage:
            yield tuple(
                (value | extra) & abi.argument_mask
                for value, extra in zip(arguments, above, strict=True)
            )


def _around(mask: int, value: int) -> set[int]:
    """The value, its neighbours and the ends; each bit changed where only some bits count."""
    near = {value, value - 1, value + 1, mask}
    if mask & (mask + 1):
        near |= {value ^ (1 << bit) for bit in range(64) if mask >> bit & 1}
        near |= {value | (~mask & 0xFFFFFFFF)}
    return {number & 0xFFFFFFFFFFFFFFFF for number in near}


def _words(native: Abi, abi: Abi, number: int, arguments: Sequence[int]) -> tuple[int, ...]:
    """``struct seccomp_data`` as 32-bit words in the native order."""
    words = [number, abi.audit, 0, 0]
    for argument in arguments:
        halves = (argument & 0xFFFFFFFF, argument >> 32)
        words.extend(reversed(halves) if native.big_endian else halves)
    return tuple(words)
