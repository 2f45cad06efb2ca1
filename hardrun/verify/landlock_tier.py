"""Read-backs of the landlock tier: what shows of a sandbox without namespaces or mounts.

Its mount table, ids and namespaces are the caller's own and say nothing; what holds is tried from
inside, by a child of the reaper that enters a domain of the same rules.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType

from hardrun.kernel.capabilities import names_of
from hardrun.plan.uapi import Resource
from hardrun.posture import filesystem, ids, limits, mandatory, namespaces, process
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.devices import DEVICES
from hardrun.posture.network import NETWORK
from hardrun.verify import canaries
from hardrun.verify import limits as limits_of_both
from hardrun.verify.check import Answer, ReadBack, Subject, Unreadable, listed, not_bound
from hardrun.verify.limits import in_group


def _none(subject: Subject) -> Answer:
    raise Unreadable("the landlock tier has none of its own to look at; the canaries of the "
                     "control landlock say whether the domain holds")


def readable(subject: Subject) -> Answer:
    """Nothing that the host has and that was not granted opens from inside."""
    opened = canaries.reached(subject)
    return Answer(not opened, f"opened from inside: {listed(opened)}" if opened else
                  "nothing hidden opened", canaries.BY_PID_1)


def landlock(subject: Subject) -> Answer:
    """A file that anybody may read, and that was not granted, does not open."""
    controls = (filesystem.VISIBLE, filesystem.READABLE, filesystem.WRITABLE)
    granted = frozenset(path for control in controls for path in subject.value(control))
    if any(filesystem.below(canaries.OUTSIDE.text, path) for path in granted):
        raise Unreadable(f"{canaries.OUTSIDE.text} was granted, and is what would be tried")
    found = subject.told(canaries.OUTSIDE)
    return Answer(found.error == errno.EACCES, f"reading {canaries.OUTSIDE.text}: {found.shown}",
                  canaries.BY_PID_1)


def shown(subject: Subject) -> Answer:
    """The root and what is visible take no file."""
    taken = canaries.written(subject)
    return Answer(not taken, f"took a file: {listed(taken)}" if taken else "took no file",
                  canaries.BY_PID_1)


def capabilities(subject: Subject) -> Answer:
    """Four sets are empty; the bounding set is left, and without meaning under no_new_privs."""
    masks = subject.live.status.capabilities
    wrong = {name: mask for name, mask in masks.items() if mask and name != "CapBnd"}
    shown = "; ".join(f"{name}: {listed(names_of(mask))}" for name, mask in wrong.items())
    return Answer(not wrong, shown or "four sets: none", "/proc/PID/status Cap*")


def no_new_privs(subject: Subject) -> Answer:
    """The bit alone: there are no mounts to be nosuid."""
    found = subject.live.status.no_new_privs
    return Answer(bool(found), f"NoNewPrivs {int(found or 0)}", "/proc/PID/status")


def network(subject: Subject) -> Answer:
    """No socket outside is reached under the workload's filter."""
    if subject.value(NETWORK) == "host":
        return not_bound("the host's", "the Decision")
    reached = canaries.connected(subject)
    return Answer(not reached, "an abstract socket outside was reached" if reached else
                  "no socket outside was reached", canaries.BY_PID_1)


def processes(subject: Subject) -> Answer:
    """RLIMIT_NPROC as the sealed plan has it: the limit and what the caller had besides."""
    if in_group(subject.layers):
        return limits_of_both.READ_BACK[limits.PIDS.id](subject)
    sealed = [o.values[2] for o in subject.evidence.sealed
              if o.name == "set_limit" and o.values[0] == Resource.RLIMIT_NPROC]
    found = subject.read("limits").get("RLIMIT_NPROC")
    if found is None or not sealed:
        raise Unreadable("this kernel does not show RLIMIT_NPROC, or no plan is known")
    return Answer(found.hard <= int(sealed[0]), str(found.hard), "/proc/PID/limits RLIMIT_NPROC")


READ_BACK: Mapping[str, ReadBack] = MappingProxyType({
    filesystem.VISIBLE.id: shown,
    filesystem.READABLE.id: readable,
    filesystem.WRITABLE.id: _none,
    filesystem.PROTECTED.id: _none,
    filesystem.READ_ONLY_ROOT.id: shown,
    filesystem.PROC.id: _none,
    DEVICES.id: _none,
    CAPABILITIES.id: capabilities,
    process.NO_NEW_PRIVS.id: no_new_privs,
    process.SECUREBITS.id: _none,
    namespaces.SHARED.id: _none,
    ids.RANGE.id: _none,
    ids.USER.id: _none,
    NETWORK.id: network,
    mandatory.LANDLOCK.id: landlock,
    mandatory.MANDATORY.id: landlock,
    limits.PIDS.id: processes,
})
"""What stands in the place of the full tier's read-backs."""
