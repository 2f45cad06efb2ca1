"""How each control comes into force without namespaces: the whole of what the landlock tier gives.

A control that is not in ``RULES`` means the same in both tiers (seccomp, session, umask, …). What
is weaker than in the full tier is *degraded* and says what remains open; what other layers carry
as well is *replaced*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hardrun.kernel import landlock
from hardrun.posture import filesystem, ids, limits, mandatory, namespaces, process
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.control import UNLIMITED, Enforcement, degraded, enforced, replaced
from hardrun.posture.devices import DEVICES
from hardrun.posture.network import NETWORK
from hardrun.posture.tier import MIN_TIER

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

Rule = Callable[[Any, "HostFacts"], Enforcement]
_NO_MOUNTS = "no mounts of its own in the landlock tier"
_NO_USER = "no user namespace in the landlock tier"


def _by(*layers: str, because: str) -> Rule:
    def rule(value: Any, facts: HostFacts) -> Enforcement:
        return replaced(*layers, because=because)
    return rule


def _min_tier(value: str, facts: HostFacts) -> Enforcement:
    missing = next(name for name in facts.NAMESPACES if not getattr(facts, name).available)
    fact = getattr(facts, missing)
    layers = (f"landlock tier: Landlock ABI {facts.landlock_abi}", "seccomp", "no_new_privs")
    name = missing.replace("_", " ").removesuffix("s")
    layer = f" ({fact.layer})" if fact.layer else ""
    return degraded(*(layers if value == "landlock" and facts.landlock_abi else ()),
                    because=f"no {name}: {fact.detail}{layer}", fix=fact.fix, fact=missing)


def _network(value: str, facts: HostFacts) -> Enforcement:
    if value == "host":
        return enforced("not restricted")
    rules = ("Landlock TCP rules",) if landlock.network_access(facts.landlock_abi) else ()
    return replaced("seccomp", *rules, because="no network namespace in the landlock tier: no "
                    "socket can be made")


def _visible(value: frozenset[str], facts: HostFacts) -> Enforcement:
    return degraded("Landlock", because="of other files names that are guessed, sizes, owners, "
                    "times and attributes can be looked up (stat); nothing of them can be read or "
                    "listed")


def _writable(value: frozenset[str], facts: HostFacts) -> Enforcement:
    return degraded("Landlock", "seccomp", because="mode and times of the caller's other files can "
                    "be changed (chmod, utimensat): Landlock has no right for that")


def _protected(value: frozenset[str], facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("nothing to protect")
    return degraded(because="Landlock can't keep what lies below a writable path read-only; what "
                    "was changed is told at the end")


def _shared(value: frozenset[str], facts: HostFacts) -> Enforcement:
    held = "signals and tracing end at the Landlock domain"
    if not landlock.scopes(facts.landlock_abi):
        held = (f"tracing ends at the Landlock domain; with ABI {facts.landlock_abi} signals reach "
                "the caller's other processes, and what survives the end of hardrun's own")
    return degraded("Landlock", "seccomp", because="host name, mount table and process numbers are "
                    f"the host's; System V IPC and message queues are refused; {held}")


def _landlock(value: bool, facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("not asked for, and on all the same")
    lacking = landlock.lacking(facts.landlock_abi)
    layer = f"Landlock ABI {facts.landlock_abi}"
    if not lacking:
        return enforced(layer)
    held = "seccomp holds them" if landlock.scopes(facts.landlock_abi) \
        else "seccomp holds all but signals"
    return replaced(layer, "seccomp", because=f"it knows nothing of {', '.join(lacking)}: {held}",
                    fix="a newer kernel", fact="landlock_abi")


def _mandatory(value: frozenset[tuple[str, ...]], facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("not asked for")
    chosen = mandatory.resolve(value, facts)
    because = "labels are set in the full tier alone"
    if not chosen:
        return degraded(because=because, fact="mandatory")
    return replaced(*chosen, because=because)


def _range(value: str, facts: HostFacts) -> Enforcement:
    because = f"the caller's own id: {_NO_USER}"
    if value == "own":
        return degraded("no_new_privs", because=f"{because}; other sandboxes have the same")
    return replaced("no_new_privs", because=because)


def _groups(value: str, facts: HostFacts) -> Enforcement:
    if value == "inherit":
        return enforced("not restricted")
    if not facts.supplementary_groups:
        return enforced("no supplementary groups")
    groups = ", ".join(map(str, facts.supplementary_groups))
    return degraded(because=f"groups {groups} can't be dropped: {_NO_USER}",
                    fact="user_namespaces")


def _overlay(value: str, facts: HostFacts) -> Enforcement:
    return enforced("no layer") if value == "none" else degraded(because=_NO_MOUNTS)


def _space(value: int, facts: HostFacts) -> Enforcement:
    if value == UNLIMITED:
        return enforced("not limited")
    return degraded(because="the private directory lies on a file system of the host")


def _pids(value: int, facts: HostFacts) -> Enforcement:
    found = limits.PIDS.enforce(value, facts)
    if found.kind != "degraded":
        return found
    return replace(found, because=f"{found.because}; RLIMIT_NPROC counts all processes of the "
                   "caller here, and those that there were are added")


def _terminal(value: str, facts: HostFacts) -> Enforcement:
    return enforced("not restricted") if value == "inherited" else enforced("pipes", "setsid")


RULES: Mapping[str, Rule] = MappingProxyType({
    MIN_TIER.id: _min_tier,
    NETWORK.id: _network,
    filesystem.VISIBLE.id: _visible,
    filesystem.READABLE.id: _by("Landlock", because=_NO_MOUNTS),
    filesystem.WRITABLE.id: _writable,
    filesystem.PROTECTED.id: _protected,
    filesystem.READ_ONLY_ROOT.id: _by("Landlock", because=_NO_MOUNTS),
    filesystem.OVERLAY.id: _overlay,
    filesystem.PROC.id: _by("Landlock", because="the host's /proc can't be opened"),
    DEVICES.id: _by("Landlock", because=_NO_MOUNTS),
    CAPABILITIES.id: lambda value, facts: enforced("capability sets", "no_new_privs"),
    process.NO_NEW_PRIVS.id: lambda value, facts: enforced("no_new_privs"),
    process.SECUREBITS.id: _by("no_new_privs", because="only a user namespace gives the right to "
                               "set them"),
    process.TERMINAL.id: _terminal,
    mandatory.LANDLOCK.id: _landlock,
    mandatory.MANDATORY.id: _mandatory,
    namespaces.SHARED.id: _shared,
    namespaces.NESTED.id: _by("seccomp", because=_NO_USER),
    ids.RANGE.id: _range,
    ids.USER.id: _by("no_new_privs", because=f"the caller's own id: {_NO_USER}"),
    ids.SUPPLEMENTARY_GROUPS.id: _groups,
    limits.PIDS.id: _pids,
    limits.TMPFS.id: _space,
    limits.INODES.id: _space,
})
