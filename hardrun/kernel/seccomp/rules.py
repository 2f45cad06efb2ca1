"""What a profile says about one call of one ABI: the meaning that compiled programs are held to.

Where documents leave room, the reading is the stricter one that real profiles survive:

- Of several rules of one document that match a call, the strictest counts, as the kernel does it
  with several filters. (libseccomp ignores a rule with arguments beside one without.)
- Comparisons in one rule must all hold. Only equalities on the same argument are alternatives:
  as a conjunction they could never match, and runc reads them so. Two "not equal" are *not*
  alternatives, since one of the two always holds.
- An argument is compared over the bits that the kernel reads (``widths``).
- A known call without a matching rule gets the default action; a number that no table knows is
  answered ENOSYS, or the default action if that is a stricter kind: programs probe for new calls
  and fall back on ENOSYS, while EPERM breaks them (moby #42680, systemd #30250).
- clone3 without a rule fails with ENOSYS where the default is an errno, since its flags lie behind
  a pointer and glibc falls back on clone only then (CVE-2021-41133).
- socketcall, whose arguments lie behind a pointer, is never allowed beside a rule that restricts
  the calls it stands for: it would be the way round the list of families (containerd #13330).
- Of foreign ABIs only those that a profile declares are open, x32 never is: its numbers alias
  x86_64's under the same AUDIT_ARCH. A call through a closed ABI kills the process.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

from hardrun.kernel.seccomp import actions, tables, widths
from hardrun.kernel.seccomp.profile import (
    GO_ARCHITECTURES,
    OPERATORS,
    Argument,
    Profile,
    SyscallRule,
)
from hardrun.kernel.seccomp.tables import Abi

SOCKETCALL_STANDS_FOR = (
    "socket", "bind", "connect", "listen", "accept4", "getsockname", "getpeername", "socketpair",
    "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg",
)  # fmt: skip


_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Context(NamedTuple):
    """What the conditions of a profile are about."""

    architecture: str
    capabilities: frozenset[str] = frozenset()
    kernel: tuple[int, int] = (6, 18)

    @classmethod
    def of(cls, architecture: str, capabilities: frozenset[str], kernel_release: str) -> Context:
        """From a machine's names as uname(2) gives them."""
        return cls(
            tables.architecture_of(architecture), capabilities, kernel_version(kernel_release)
        )


class Comparison(NamedTuple):
    """``(argument & mask) operator value``, with the signs that Python has."""

    argument: int
    mask: int
    operator: str
    value: int

    def holds(self, arguments: Sequence[int]) -> bool:
        """Whether it is true of a call's argument registers."""
        return _COMPARE[self.operator](arguments[self.argument] & self.mask, self.value)

    def __str__(self) -> str:
        left = f"argument {self.argument}"
        if self.mask not in (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
            left += f" & {self.mask:#x}"
        return f"{left} {self.operator} {self.value:#x}"


class Rule(NamedTuple):
    """A rule for one call: the action if every comparison holds. ``source``: its index, if any."""

    comparisons: tuple[Comparison, ...]
    action: int
    source: int | None = None

    def matches(self, arguments: Sequence[int]) -> bool:
        """Whether the rule is about a call with these arguments."""
        return all(comparison.holds(arguments) for comparison in self.comparisons)


class Resolved:
    """A profile in a context: which rules count, and for which ABIs."""

    def __init__(self, profile: Profile, context: Context) -> None:
        self.profile = profile
        self.context = context
        self.default = profile.document.default
        compatible = profile.document.compatible_abis(context.architecture)
        self.abis = (context.architecture, *sorted(compatible))
        self._rules: dict[tuple[Abi, int], tuple[Rule, ...]] = {}

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[int, SyscallRule]]]:
        chosen: dict[str, list[tuple[int, SyscallRule]]] = {}
        for index, rule in enumerate(self.profile.document.syscalls):
            if _counts(rule, self.context):
                for name in rule.syscalls:
                    chosen.setdefault(name, []).append((index, rule))
        return chosen

    def rules(self, abi: Abi, number: int) -> tuple[Rule, ...]:
        """The rules about one call; the default action counts where none matches."""
        found = self._rules.get((abi, number))
        if found is None:
            found = self._rules[abi, number] = self._find(abi, number)
        return found

    def _find(self, abi: Abi, number: int) -> tuple[Rule, ...]:
        if abi.name not in self.abis:
            return (Rule((), actions.KILL_PROCESS),)
        names = tables.names(abi.name).get(number)
        if names is None:
            closed = _is_x32(abi, number)
            answer = actions.KILL_PROCESS if closed else _unknown_call(self.default)
            return (Rule((), answer),)
        found = [rule for name in names for rule in self._documented(abi, name)]
        if not found and "clone3" in names and self._default_is_errno:
            return (Rule((), actions.ENOSYS),)
        if "socketcall" in names and self._restricts_sockets(abi):
            found.append(Rule((), actions.ENOSYS))
        return tuple(found)

    @property
    def _default_is_errno(self) -> bool:
        return actions.class_of(self.default) == actions.ERRNO

    def _documented(self, abi: Abi, name: str) -> Iterator[Rule]:
        for index, rule in self._by_name.get(name, ()):
            for alternative in _alternatives(rule.args):
                comparisons = [_comparison(abi, name, argument) for argument in alternative]
                if None not in comparisons:
                    kept = tuple(c for c in comparisons if c is not None)
                    yield Rule(kept, rule.result, index)

    def _restricts_sockets(self, abi: Abi) -> bool:
        for name in SOCKETCALL_STANDS_FOR:
            rules = list(self._documented(abi, name))
            answers = {rule.action for rule in rules} if rules else {self.default}
            unconditional = not rules or any(not rule.comparisons for rule in rules)
            if not unconditional or answers != {actions.ALLOW}:
                return True
        return False


def resolve(profiles: Sequence[Profile], context: Context) -> tuple[Resolved, ...]:
    """Each profile in the context."""
    return tuple(Resolved(profile, context) for profile in profiles)


def evaluate(resolved: Sequence[Resolved], abi: Abi, number: int, arguments: Sequence[int]) -> int:
    """What several profiles together answer to a call: straight from the documents, no compiler.

    ``arguments`` are six register values. Returns a SECCOMP_RET_* value.
    """
    answers = []
    for profile in resolved:
        matching = [r.action for r in profile.rules(abi, number) if r.matches(arguments)]
        answers.append(actions.strictest(matching or [profile.default]))
    return actions.strictest(answers)


def kernel_version(release: str) -> tuple[int, int]:
    """``6.18.44-arch1`` as (6, 18); what can't be read counts as the oldest kernel."""
    parts = release.split("-")[0].split(".")
    digits = [int(part) for part in parts[:2] if part.isdecimal()]
    return (digits[0], digits[1]) if len(digits) == 2 else (0, 0)


def _counts(rule: SyscallRule, context: Context) -> bool:
    """Whether a rule's conditions are met: all of ``includes``, nothing of ``excludes``."""
    includes, excludes = rule.includes, rule.excludes
    architectures = {GO_ARCHITECTURES[name] for name in includes.arches}
    excluded = {GO_ARCHITECTURES[name] for name in excludes.arches}
    return (
        context.capabilities.issuperset(includes.caps)
        and context.capabilities.isdisjoint(excludes.caps)
        and (not includes.arches or context.architecture in architectures)
        and context.architecture not in excluded
        and (not includes.minKernel or context.kernel >= kernel_version(includes.minKernel))
        and (not excludes.minKernel or context.kernel < kernel_version(excludes.minKernel))
    )


def _alternatives(arguments: Sequence[Argument]) -> Iterator[tuple[Argument, ...]]:
    """The conjunctions that one rule's comparisons stand for (see the module's text)."""
    groups: dict[object, list[Argument]] = {}
    for position, argument in enumerate(arguments):
        same = [other for other in arguments if other.index == argument.index]
        equalities = all(OPERATORS[other.op] in ("==", "&==") for other in same)
        key = ("same argument", argument.index) if equalities else position
        groups.setdefault(key, []).append(argument)
    return product(*groups.values())


def _comparison(abi: Abi, name: str, argument: Argument) -> Comparison | None:
    """A document's comparison over the bits that count; None if it never holds on this ABI."""
    bits = widths.significant_bits(abi, name, argument.index)
    sign = OPERATORS[argument.op]
    if sign == "&==":
        if argument.valueTwo & ~bits:
            return None
        return Comparison(argument.index, argument.value & bits, "==", argument.valueTwo)
    value = widths.as_wide_as(argument.value, bits)
    if value is not None:
        return Comparison(argument.index, bits, sign, value)
    if sign == "==":
        return None
    # The value is above whatever the argument can hold.
    always = sign in ("!=", "<", "<=")
    return Comparison(argument.index, 0, "==", 0) if always else None


def _is_x32(abi: Abi, number: int) -> bool:
    return abi.name == "x86_64" and number >= tables.X32_SYSCALL_BIT and number != tables.SKIPPED


def _unknown_call(default: int) -> int:
    return actions.strictest((default, actions.ENOSYS))
