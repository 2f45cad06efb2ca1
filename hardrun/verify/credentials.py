"""Read-backs of ids, capabilities, no_new_privs, seccomp and namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hardrun.kernel.capabilities import mask_of, names_of
from hardrun.kernel.idmap import IdMapping
from hardrun.plan.schema import Operation
from hardrun.posture import ids, namespaces, process
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.network import NETWORK
from hardrun.posture.seccomp import SECCOMP
from hardrun.verify import canaries
from hardrun.verify.check import Answer, Subject, Unreadable, listed, not_bound

_SECCOMP_FILTER = 2
_ALWAYS_PRIVATE = frozenset({"user", "mnt", "pid"})
_LOOPBACK = ("lo",)


def capabilities(subject: Subject) -> Answer:
    """All five sets: exactly the granted ones at the start, no more later (CP-01)."""
    names = subject.value(CAPABILITIES)
    granted = mask_of(names)
    masks = subject.live.status.capabilities
    exact = subject.at_gate or subject.live.is_init
    wrong = {name: mask for name, mask in masks.items()
             if (mask != granted if exact else mask & ~granted)}
    shown = "; ".join(f"{name}: {listed(names_of(mask))}" for name, mask in wrong.items())
    same = f"five sets: {listed(names_of(granted))}"
    return Answer(not wrong, shown or same, "/proc/PID/status Cap*")


def no_new_privs(subject: Subject) -> Answer:
    """The bit, and nosuid on every mount."""
    wanted, found = subject.value(process.NO_NEW_PRIVS), subject.live.status.no_new_privs
    if found is None:
        raise Unreadable("this kernel does not show NoNewPrivs (before 4.10)")
    if not wanted:
        return not_bound(f"NoNewPrivs {int(found)}", "/proc/PID/status")
    suid = [m.mount_point for m in subject.live.mounts or () if not m.has("nosuid")]
    observed = f"NoNewPrivs {int(found)}" + (f", not nosuid: {listed(suid)}" if suid else "")
    return Answer(found and not suid, observed, "/proc/PID/status, mountinfo")


def seccomp(subject: Subject) -> Answer:
    """Filter mode, with a filter more than whoever started the sandbox has."""
    status, outside = subject.live.status, subject.observer.status
    if not subject.value(SECCOMP):
        return not_bound(f"mode {status.seccomp}", "/proc/PID/status Seccomp")
    if status.seccomp is None:
        raise Unreadable("this kernel does not show Seccomp")
    count = status.seccomp_filters
    more = count is None or count > (outside.seccomp_filters or 0)
    filters = "" if count is None else f", filters: {count}"
    return Answer(status.seccomp == _SECCOMP_FILTER and more, f"mode {status.seccomp}{filters}",
                  "/proc/PID/status Seccomp; the filter's content needs CAP_SYS_ADMIN to be read")


def id_range(subject: Subject) -> Answer:
    """The maps: the caller's one id, ids that are not the caller's, or both; never the host's root.

    And to the last number those that the sealed plan has (US-01).
    """
    value, observer, problems = subject.value(ids.RANGE), subject.observer, []
    # A subordinate gid beside the own one is how groups are dropped (US-02).
    spare = subject.value(ids.SUPPLEMENTARY_GROUPS) == "drop"
    for name, own, most in (("uid", observer.uid, 1), ("gid", observer.gid, 1 + spare)):
        maps = subject.read(f"{name}_map")
        mapped = any(m.outside <= own < m.outside + m.size for m in maps)
        if not maps:
            problems.append(f"no {name} map")
        if own != 0 and any(m.outside == 0 for m in maps):
            problems.append(f"{name} 0 of the host is mapped")
        if mapped == (value == "own"):
            problems.append(f"the caller's {name} is {'' if mapped else 'not '}mapped")
        if value == "single" and sum(m.size for m in maps) > most:
            problems.append(f"more than one {name}")
        planned = _planned_map(subject.evidence.sealed, name, own)
        if planned and sorted(planned) != sorted(maps):
            problems.append(f"the {name} map is not the plan's ({_arrows(planned)})")
    shown = _arrows(subject.read("uid_map"))
    return Answer(not problems, "; ".join(problems) or f"uid {shown}", "/proc/PID/{uid,gid}_map")


def _planned_map(operations: Sequence[Operation], name: str, own: int) -> list[IdMapping]:
    """The ``uid`` or ``gid`` map that operations make; empty where they make none."""
    for operation in operations:
        values = operation.values
        if operation.name == "write_id_map":
            return [IdMapping(int(values[0 if name == "uid" else 1]), own, 1)]
        if operation.name == "write_uid_map" and name == "uid":
            return [IdMapping(int(values[0]), own, 1)]
        if operation.name == "write_id_map_helper" and str(values[0]).endswith(f"/new{name}map"):
            assert isinstance(values[1], bytes)
            numbers = [int(number) for number in values[1].split(b"\0")[:-1]]
            return [IdMapping(*numbers[at:at + 3]) for at in range(0, len(numbers), 3)]
    return []


def _arrows(maps: Iterable[IdMapping]) -> str:
    return " ".join(f"{m.inside}→{m.outside}+{m.size}" for m in maps)


def id_inside(subject: Subject) -> Answer:
    """Root inside only where that was granted."""
    uids = subject.read("uid_map")
    outside = subject.live.status.uids[1]
    inside = [m.inside + outside - m.outside for m in uids
              if m.outside <= outside < m.outside + m.size]
    allowed = subject.value(ids.USER) == "root" or subject.observer.uid == 0
    return Answer(bool(inside) and (allowed or inside[0] != 0),
                  f"uid {listed(inside)} inside", "/proc/PID/status Uid, uid_map")


def supplementary_groups(subject: Subject) -> Answer:
    """No group but the primary one, unless they are inherited."""
    status = subject.live.status
    found = set(status.groups) - {status.gids[1]}
    if subject.value(ids.SUPPLEMENTARY_GROUPS) == "inherit":
        return not_bound(listed(found), "/proc/PID/status Groups")
    return Answer(not found, listed(found), "/proc/PID/status Groups")


def shared_namespaces(subject: Subject) -> Answer:
    """Every namespace that is to be private is not the caller's, and the same as PID 1's."""
    found, own = subject.read("namespaces"), subject.observer.namespaces
    of_init = canaries.namespaces_of_init(subject.evidence.inside)
    may_share = subject.value(namespaces.SHARED)
    private = _ALWAYS_PRIVATE | ({"ipc", "uts", "cgroup"} - may_share)
    wrong = [name for name in private if name not in found or found[name] == own.get(name)]
    other = [name for name, link in of_init.items() if found.get(name, link) != link
             and not subject.value(namespaces.NESTED)]
    observed = f"shared with the caller: {listed(wrong)}" if wrong else f"own: {listed(private)}"
    observed += f"; not PID 1's: {listed(other)}" if other else ""
    told = "namespaces" in subject.live.told
    return Answer(not wrong and not other, observed,
                  f"told by PID 1: {canaries.BY_PID_1}" if told else "/proc/PID/ns")


def tier(subject: Subject) -> Answer:
    """The namespaces that only the full tier has."""
    if not any(layer.startswith("full tier") for layer in subject.layers):
        raise Unreadable("the landlock tier has no namespaces to look at")
    found, own = subject.read("namespaces"), subject.observer.namespaces
    shared = [name for name in _ALWAYS_PRIVATE if found.get(name, own.get(name)) == own.get(name)]
    return Answer(not shared, f"the caller's: {listed(shared)}" if shared else "full",
                  "/proc/PID/ns")


def network(subject: Subject) -> Answer:
    """A network namespace of its own with the loopback interface alone."""
    if subject.value(NETWORK) == "host":
        return not_bound("the host's", "/proc/PID/ns/net")
    found = subject.read("namespaces").get("net")
    interfaces = subject.read("interfaces")
    own = found is not None and found != subject.observer.namespaces.get("net")
    reached = ", an abstract socket outside was reached" if canaries.connected(subject) else ""
    return Answer(own and set(interfaces) <= set(_LOOPBACK) and not reached,
                  f"{'own' if own else 'shared'} namespace, interfaces: {listed(interfaces)}"
                  + reached, "/proc/PID/ns/net, net/dev")
