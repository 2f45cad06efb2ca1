"""Facts about labels that policies name, where the kernel does not list what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from hardrun.host import trial
from hardrun.host.attempt import Attempt, ExecutorUnusable
from hardrun.host.facts import HostFacts
from hardrun.kernel import lsm, selinux


def with_labels(facts: HostFacts, alternatives: Iterable[str], executor: str) -> HostFacts:
    """The facts, with what became of trying each label that a policy names.

    An AppArmor profile's mode stays unknown here; the label is read back at the exec.
    """
    names: dict[str, set[str]] = {"apparmor": set(), "selinux": set()}
    for alternative in alternatives:
        module, _, name = alternative.partition(":")
        names.get(module, set()).add(name)
    return _with_types(_with_profiles(facts, sorted(names["apparmor"])), names["selinux"],
                       executor)


def _with_profiles(facts: HostFacts, names: list[str]) -> HostFacts:
    if not facts.apparmor.available or not names:
        return facts
    confined = lsm.is_confined(facts.apparmor_label)
    if facts.apparmor_listed and not confined:
        return facts
    # a confined caller needs a rule that lets it, whatever is loaded
    verb = "stack" if confined else "exec"
    candidates = [n for n in names if n in facts.apparmor_profiles] if facts.apparmor_listed \
        else names
    taken = tuple(name for name in candidates if lsm.apparmor_takes(f"{verb} {name}"))
    return replace(facts, apparmor_profiles=taken)


def _with_types(facts: HostFacts, names: set[str], executor: str) -> HostFacts:
    new = names - set(facts.selinux_types) - set(facts.selinux_refused)
    if not facts.selinux.available or not new:
        return facts
    found = try_types(sorted(new), executor)
    return replace(facts, selinux_types=(*facts.selinux_types, *found.taken),
                   selinux_refused={**facts.selinux_refused, **found.refused})


class Types(NamedTuple):
    """Types that a program can be executed with, and why not with the others."""

    taken: tuple[str, ...]
    refused: Mapping[str, str]


def try_types(names: Iterable[str], executor: str) -> Types:
    """Try SELinux types in children that execute nothing. ``executor``: path of hardrun-exec."""
    own = selinux.context_of()
    known = selinux.known_types(names)
    refused = {name: "is not loaded" for name in names if name not in known}
    tries: dict[str, Attempt] = {}
    for name in known:
        if own is not None and selinux.is_permissive(own._replace(type=name)):
            refused[name] = "is permissive: it reports and stops nothing"
            continue
        try:
            tries[name] = Attempt(executor, trial.selinux_type(name, selinux.file_type(name)))
        except ExecutorUnusable as error:
            refused[name] = f"could not be tried: {error.strerror}"
    for name, attempt in tries.items():
        try:
            failure = attempt.result()
        except ExecutorUnusable as error:
            refused[name] = f"could not be tried: {error.strerror}"
            continue
        if failure is not None:
            refused[name] = f"can't be used: {failure}"
    return Types(tuple(name for name in known if name not in refused), refused)
