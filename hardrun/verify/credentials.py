"""Read-backs of ids, capabilities, no_new_privs, seccomp and namespaces."""

from __future__ import annotations

from hardrun.kernel.capabilities import mask_of, names_of
from hardrun.posture import ids, namespaces, process
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.network import NETWORK
from hardrun.posture.seccomp import SECCOMP
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
    """The maps: one id of the caller's own, or a range; never the host's root (US-01)."""
    uids, gids = subject.read("uid_map"), subject.read("gid_map")
    observer = subject.observer
    problems = []
    for name, maps, own in (("uid", uids, observer.uid), ("gid", gids, observer.gid)):
        if not maps:
            problems.append(f"no {name} map")
        if own != 0 and any(m.outside == 0 for m in maps):
            problems.append(f"{name} 0 of the host is mapped")
        if not any(m.outside <= own < m.outside + m.size for m in maps):
            problems.append(f"the caller's {name} is not mapped")
    if subject.value(ids.RANGE) == "single":
        # A subordinate gid beside the own one is how groups are dropped (US-02).
        spare = subject.value(ids.SUPPLEMENTARY_GROUPS) == "drop"
        if sum(m.size for m in uids) > 1:
            problems.append("more than one uid")
        if sum(m.size for m in gids) > 1 + spare:
            problems.append("more than one gid")
    shown = " ".join(f"{m.inside}→{m.outside}+{m.size}" for m in uids)
    return Answer(not problems, "; ".join(problems) or f"uid {shown}", "/proc/PID/{uid,gid}_map")


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
    """Every namespace that is to be private is not the caller's."""
    found, own = subject.read("namespaces"), subject.observer.namespaces
    may_share = subject.value(namespaces.SHARED)
    private = _ALWAYS_PRIVATE | ({"ipc", "uts", "cgroup"} - may_share)
    wrong = [name for name in private if name not in found or found[name] == own.get(name)]
    observed = f"shared with the caller: {listed(wrong)}" if wrong else f"own: {listed(private)}"
    return Answer(not wrong, observed, "/proc/PID/ns")


def network(subject: Subject) -> Answer:
    """A network namespace of its own with the loopback interface alone."""
    if subject.value(NETWORK) == "host":
        return not_bound("the host's", "/proc/PID/ns/net")
    found = subject.read("namespaces").get("net")
    interfaces = subject.read("interfaces")
    own = found is not None and found != subject.observer.namespaces.get("net")
    return Answer(own and set(interfaces) <= set(_LOOPBACK),
                  f"{'own' if own else 'shared'} namespace, interfaces: {listed(interfaces)}",
                  "/proc/PID/ns/net, net/dev")
