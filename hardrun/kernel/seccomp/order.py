"""Which profile is stricter.

``a`` implies ``b`` if no call, on any architecture, with any capabilities and on any kernel, gets
a weaker answer from ``a`` than from ``b``. The comparison walks both profiles' decision trees
together. It is conservative: what it can't show is answered no, and then both profiles apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations, product

from hardrun.errors import BadInput
from hardrun.kernel.seccomp import actions, decision, tables
from hardrun.kernel.seccomp.profile import Profile
from hardrun.kernel.seccomp.rules import (
    SOCKETCALL_STANDS_FOR,
    Context,
    Resolved,
    kernel_version,
)
from hardrun.kernel.seccomp.tables import ABIS, Abi

# A call whose rules depend on more capabilities than this is not compared.
_MAXIMUM_CAPABILITIES = 8

_WEAKER = decision.Leaf(actions.ALLOW)
_AT_MOST = decision.Leaf(actions.KILL_PROCESS)


def implies(a: Profile, b: Profile) -> bool:
    """Whether ``a`` is at least as strict as ``b``, so that ``b`` adds nothing beside it."""
    if a.document == b.document:
        return True
    if not actions.at_most(a.document.default, b.document.default):
        return False
    return all(_implies_on(a, b, architecture) for architecture in ABIS)


def meet(profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """The profiles that together are as strict as all: none that another one implies.

    The result does not depend on the order; of two that are equally strict the first by name is
    kept.
    """
    ordered = sorted(profiles, key=lambda profile: (profile.name, profile.file))
    kept: list[Profile] = []
    for position, profile in enumerate(ordered):
        others = [*kept, *ordered[position + 1 :]]
        earlier = len(kept)
        absorbed = any(
            implies(other, profile) and (index < earlier or not implies(profile, other))
            for index, other in enumerate(others)
        )
        if not absorbed:
            kept.append(profile)
    return tuple(kept)


def _implies_on(a: Profile, b: Profile, architecture: str) -> bool:
    if not a.document.compatible_abis(architecture) <= b.document.compatible_abis(architecture):
        return False
    known: dict[Context, tuple[Resolved, Resolved]] = {}
    for name in _named(a, b):
        contexts = _contexts(name, a, b, architecture)
        if contexts is None:
            return False
        for context in contexts:
            if context not in known:
                known[context] = Resolved(a, context), Resolved(b, context)
            if not all(_at_most(*known[context], abi, name) for abi in _abis(a, architecture)):
                return False
    return True


def _abis(profile: Profile, architecture: str) -> list[Abi]:
    return [ABIS[n] for n in (architecture, *profile.document.compatible_abis(architecture))]


def _named(a: Profile, b: Profile) -> list[str]:
    """The names that a rule is about, and those that get an answer without one."""
    rules = chain(a.document.syscalls, b.document.syscalls)
    return sorted({name for rule in rules for name in rule.syscalls} | {"clone3", "socketcall"})


def _contexts(name: str, a: Profile, b: Profile, architecture: str) -> list[Context] | None:
    """Every combination of what the conditions on one call distinguish; None if too many."""
    # socketcall's answer follows from those of the calls it stands for.
    about = {name, *SOCKETCALL_STANDS_FOR} if name == "socketcall" else {name}
    conditions = [
        condition
        for rule in chain(a.document.syscalls, b.document.syscalls)
        if not about.isdisjoint(rule.syscalls)
        for condition in (rule.includes, rule.excludes)
    ]
    capabilities = sorted({cap for condition in conditions for cap in condition.caps})
    if len(capabilities) > _MAXIMUM_CAPABILITIES:
        return None
    kernels = {kernel_version(c.minKernel) for c in conditions if c.minKernel}
    subsets = chain.from_iterable(
        combinations(capabilities, size) for size in range(len(capabilities) + 1)
    )
    return [
        Context(architecture, frozenset(subset), kernel)
        for subset, kernel in product(subsets, sorted({(0, 0), *kernels}))
    ]


def _at_most(a: Resolved, b: Resolved, abi: Abi, name: str) -> bool:
    number = tables.numbers(abi.name).get(name)
    if number is None:
        return True
    mine, theirs = a.rules(abi, number), b.rules(abi, number)
    if mine == theirs and (mine or a.default == b.default):
        return True
    states = (decision.state(mine, a.default), decision.state(theirs, b.default))
    try:
        return decision.Forest().tree(states, _settle) == _AT_MOST
    except BadInput:  # too entangled to tell
        return False


def _settle(now: tuple[decision.State, ...]) -> decision.Leaf | None:
    """Ends a branch once all answers of the first are as strict as all of the second, or not."""
    mine, theirs = now
    if all(actions.at_most(x, y) for x in mine.possible for y in theirs.possible):
        return _AT_MOST
    if not mine.pending and not theirs.pending:
        return _WEAKER
    return None
