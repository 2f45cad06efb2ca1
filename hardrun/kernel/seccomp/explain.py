"""What each profile says about one system call, and in which line: for ``hardrun why SYSCALL``."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import actions, tables
from hardrun.kernel.seccomp.profile import Conditions, Profile
from hardrun.kernel.seccomp.rules import Context, Resolved, Rule, resolve
from hardrun.kernel.seccomp.tables import ABIS


class Gate(NamedTuple):
    """One thing that a profile says about a call.

    ``place`` is ``file:line``; ``rule`` the index in ``syscalls`` (None: the default action, or
    an answer that no document spells out). ``condition`` says when the answer holds ("always",
    "argument 1 == 0x5412"), ``reason`` why, where the profile or hardrun has something to say.
    ``applies`` is False for a rule whose capability, kernel or architecture is not at hand: it is
    what would have to change.
    """

    profile: str
    place: str
    rule: int | None
    answer: str
    permits: bool
    condition: str
    reason: str
    applies: bool

    def __str__(self) -> str:
        when = "" if self.condition == "always" else f" if {self.condition}"
        where = "" if self.rule is None else f", rule {self.rule}"
        state = "" if self.applies else " (does not apply)"
        why = f": {self.reason}" if self.reason else ""
        return f"{self.answer}{when}: profile {self.profile} ({self.place}{where}){state}{why}"


def gate(
    profiles: Sequence[Profile],
    syscall: str,
    *,
    architecture: str,
    capabilities: frozenset[str] = frozenset(),
    kernel_release: str,
) -> tuple[Gate, ...]:
    """Everything that gates a call, per profile and rule, in the documents' order.

    BadInput, with a suggestion, for a name that no architecture has.
    """
    known = tables.known_names()
    if syscall not in known:
        close = get_close_matches(syscall, known, 1, 0.6)
        hint = f"did you mean {close[0]}?" if close else None
        raise BadInput(f"unknown system call {syscall!r}", hint=hint)
    context = Context.of(architecture, capabilities, kernel_release)
    number = tables.numbers(context.architecture).get(syscall)
    gates: list[Gate] = []
    for resolved in resolve(profiles, context):
        gates.extend(_of_profile(resolved, syscall, number))
    return tuple(gates)


def _of_profile(resolved: Resolved, syscall: str, number: int | None) -> list[Gate]:
    profile, context = resolved.profile, resolved.context
    if number is None:
        reason = f"{context.architecture} has no such call"
        return [_unlisted(profile, actions.ENOSYS, "always", reason)]
    rules = resolved.rules(ABIS[context.architecture], number)
    found = [_of_rule(profile, rule) for rule in rules]
    if all(rule.comparisons for rule in rules):
        condition = "no rule matches" if rules else "always"
        reason = "the default action" if rules else "not listed: the default action"
        found.append(_unlisted(profile, resolved.default, condition, reason))
    in_force = {rule.source for rule in rules}
    for index, document_rule in enumerate(profile.document.syscalls):
        if syscall in document_rule.syscalls and index not in in_force:
            found.append(_not_in_force(profile, index))
    return found


def _of_rule(profile: Profile, rule: Rule) -> Gate:
    condition = " and ".join(str(comparison) for comparison in rule.comparisons) or "always"
    if rule.source is None:
        reason = "hardrun's own: what its flags or arguments are, no filter can see"
        place = profile.file
    else:
        reason = profile.document.syscalls[rule.source].comment or ""
        place = profile.place(rule.source)
    return Gate(
        profile.name,
        place,
        rule.source,
        actions.describe(rule.action),
        actions.permits(rule.action),
        condition,
        reason,
        applies=True,
    )


def _unlisted(profile: Profile, answer: int, condition: str, reason: str) -> Gate:
    return Gate(
        profile.name,
        profile.place(None),
        None,
        actions.describe(answer),
        actions.permits(answer),
        condition,
        reason,
        applies=True,
    )


def _not_in_force(profile: Profile, index: int) -> Gate:
    rule = profile.document.syscalls[index]
    needed = [*_wanted(rule.includes, ""), *_wanted(rule.excludes, "without ")]
    return Gate(
        profile.name,
        profile.place(index),
        index,
        actions.describe(rule.result),
        actions.permits(rule.result),
        " and ".join(needed) or "the arguments could match",
        rule.comment or "",
        applies=False,
    )


def _wanted(conditions: Conditions, word: str) -> list[str]:
    wanted = [f"{word}{capability}" for capability in conditions.caps]
    if conditions.arches:
        wanted.append(f"{word}architecture {' or '.join(conditions.arches)}")
    if conditions.minKernel:
        wanted.append(f"{word}kernel {conditions.minKernel}")
    return wanted
