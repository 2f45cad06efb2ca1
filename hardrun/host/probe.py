"""Fill in HostFacts by trying: what this kernel lets this user do now.

Two throw-away children (everything a sandbox is made of; a range of ids) run while files are read.
What is found holds for this user, boot, kernel and executor, and until somebody changes a sysctl.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from hardrun.errors import HostUnsupported
from hardrun.executor.image import starts_by_path
from hardrun.host import cgroup, trial
from hardrun.host.attempt import NOT_ENFORCED, Attempt, ExecutorUnusable, Failure, attempt
from hardrun.host.causes import FIXES, Diagnosis
from hardrun.host.diagnose import diagnose, landlock_missing, not_executable
from hardrun.host.facts import Fact, HostFacts
from hardrun.host.labels import try_types
from hardrun.host.surroundings import Surroundings
from hardrun.kernel import idmap, landlock, lsm, selinux

UNLIMITED = 2**63 - 1
EXECUTOR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "executor", "hardrun-exec")
SELINUX_TYPES = ("hardrun_agent_t", "hardrun_build_t", "hardrun_contained_t", "hardrun_judge_t",
                 "hardrun_untrusted_t")
"""Types that policies name; each is looked for in the loaded SELinux policy."""
# Never by PATH: a directory of the caller's must not decide which program maps ids (US-07).
_HELPER_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin")
HELPER_PATHS = tuple(f"{directory}/{name}" for directory in _HELPER_DIRECTORIES
                     for name in ("newuidmap", "newgidmap"))
"""Everywhere that the helpers are looked for."""
_ENOUGH_IDS = 1 << 16  # fewer in the user namespace around: there are none to give away
_NOBODY = 65534  # an owner without a mapping is shown as this one (kernel.overflowuid)
_CAP_SETID = {"newuidmap": "cap_setuid", "newgidmap": "cap_setgid"}
# Which operations have to work for a fact to hold; a namespace is needed by all that follows it.
_NAMESPACE = ("clone", "write_id_map")
_MOUNT = (*_NAMESPACE, "make_private", "root_tmpfs", "make_file", "make_directory",
          "writable_directory", "root_attributes", "pivot_root")
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "user_namespaces": _NAMESPACE,
    "pid_namespace": _NAMESPACE,
    "mount_namespace": _MOUNT,
    "network_namespace": (*_NAMESPACE, "network namespace", "join_network"),
    "ipc_namespace": (*_NAMESPACE, "ipc namespace"),
    "uts_namespace": (*_NAMESPACE, "uts namespace"),
    "host_name": (*_NAMESPACE, "uts namespace", "set_hostname"),
    "cgroup_namespace": (*_NAMESPACE, "cgroup namespace"),
    "nested_namespaces_limit": (*_NAMESPACE, "write_sysctl"),
    "proc_mount": (*_MOUNT, "mount_proc"),
    "proc_subset": (*_MOUNT, "proc_subset"),
    "devpts_mount": (*_MOUNT, "mount_devpts"),
    "keyring": ("join_session_keyring",),
    "landlock": ("landlock_ruleset", "landlock_path", "landlock_restrict", NOT_ENFORCED),
    "seccomp": ("load_seccomp",),
}


class Identity(NamedTuple):
    """Who asks."""

    uid: int
    gid: int
    user_name: str
    home: str
    groups: tuple[int, ...]


class Ranges(NamedTuple):
    """Subordinate ids and the programs that map them."""

    uids: tuple[tuple[int, int], ...]
    gids: tuple[tuple[int, int], ...]
    newuidmap: Fact
    newgidmap: Fact

    @property
    def complete(self) -> bool:
        """Whether a range can be tried at all."""
        return bool(self.uids and self.gids and self.newuidmap.available
                    and self.newgidmap.available)


class Trials(NamedTuple):
    """What the children came to."""

    failures: Mapping[str, Failure]
    ids: Failure | None = None
    unusable: ExecutorUnusable | None = None


def probe(executor: str = EXECUTOR, *, cgroup_parent: str = "") -> HostFacts:
    """Try what this host lets this user do. ``executor`` is the path of hardrun-exec.

    ``cgroup_parent`` is what --cgroup-parent names. Raises BadInput where that is no cgroup,
    HostUnsupported without /proc; nothing for what else is missing: the facts say that.
    """
    if not os.path.exists("/proc/self/status"):
        raise HostUnsupported("no proc is mounted on /proc here", fact="proc_mount",
                              cause="no-proc",
                              hint="mount proc where hardrun is called (bwrap --proc /proc)")
    system = os.uname()
    abi = landlock.abi_version()
    who = _identity()
    around = Surroundings.read()
    ranges = _ranges(who, around)
    place = cgroup.candidate(who.uid, cgroup_parent)
    trials, group = _try(executor, who, ranges, place, with_landlock=abi > 0)
    if around.seccomp == 2 and (trials.failures or trials.unusable or not abi):
        from hardrun.host import filtered

        around = around._replace(filtered=filtered.refused(around.kernel))
    facts = {name: _fact(needs, trials, around) for name, needs in _NEEDS.items()}
    if not abi:
        facts["landlock"] = _missing("no such system call", landlock_missing(around))
    elif facts["landlock"].available:
        facts["landlock"] = Fact(available=True, detail=f"ABI {abi}")
    profiles = lsm.apparmor_profiles()
    types = try_types(SELINUX_TYPES if selinux.enforcing() is not None else (), executor)
    return HostFacts(
        kernel_release=system.release, architecture=system.machine,
        boot_id=lsm.read_line("/proc/sys/kernel/random/boot_id") or "",
        uid=who.uid, gid=who.gid, user_name=who.user_name, home=who.home,
        supplementary_groups=who.groups, hard_limits=_hard_limits(),
        subordinate_uids=ranges.uids, subordinate_gids=ranges.gids,
        newuidmap=ranges.newuidmap, newgidmap=ranges.newgidmap,
        id_ranges=_id_ranges(who, ranges, trials, around),
        overlay=_overlay(), memory_executable=_memory_executable(trials, around),
        landlock_abi=abi if facts["landlock"].available else 0,
        apparmor=_apparmor(profiles), apparmor_label=_executor_label(profiles),
        apparmor_profiles=_in_mode(profiles, enforcing=True),
        apparmor_complaining=_in_mode(profiles, enforcing=False),
        apparmor_listed=profiles is not None, selinux=_selinux(),
        selinux_types=types.taken, selinux_refused=types.refused,
        selinux_categories=selinux.clearance(),
        **{**_of_group(group), **facts})


def with_group(facts: HostFacts, executor: str = EXECUTOR) -> HostFacts:
    """The facts, with those about cgroups tried anew."""
    place = cgroup.candidate(facts.uid)
    group: Attempt | None = None
    if isinstance(place, cgroup.Candidate):
        with contextlib.suppress(ExecutorUnusable):  # without one the answer says that
            group = Attempt(executor, place.trial(facts.uid))
    return replace(facts, **_of_group(cgroup.judge(place, group)))


def _of_group(group: cgroup.Found) -> dict[str, Any]:
    return {"cgroup": group.fact, "cgroup_delegation": group.delegation, "cgroup_bus": group.bus,
            "cgroup_directory": group.directory, "cgroup_controllers": group.controllers,
            "cgroup_hierarchies": group.hierarchies, "cgroup_cpuset": group.cpuset}


def _try(executor: str, who: Identity, ranges: Ranges, place: cgroup.Candidate | Fact, *,
         with_landlock: bool) -> tuple[Trials, cgroup.Found]:
    plans = [trial.everything(landlock=with_landlock)]
    if ranges.complete:
        plans.append(trial.id_range(
            ranges.newuidmap.detail, ranges.newgidmap.detail, (who.uid, who.gid),
            (ranges.uids[0][0], ranges.gids[0][0])))
    group: Attempt | None = None
    children: list[Attempt] = []
    unusable: ExecutorUnusable | None = None
    results: list[Failure | None] = []
    try:
        children.extend(Attempt(executor, plan) for plan in plans)
        if isinstance(place, cgroup.Candidate):
            group = Attempt(executor, place.trial(who.uid))
    except ExecutorUnusable as error:
        unusable = error
    for child in children:
        try:
            results.append(child.result())
        except ExecutorUnusable as error:
            unusable = error
    failures: Mapping[str, Failure] = {}
    if unusable is None:
        try:
            failures = trial.explore(lambda operations: attempt(executor, operations), results[0],
                                     landlock=with_landlock)
        except ExecutorUnusable as error:
            unusable = error
    return (Trials(failures, results[1] if len(results) > 1 else None, unusable),
            cgroup.judge(place, group))


def _fact(needs: tuple[str, ...], trials: Trials, around: Surroundings) -> Fact:
    if trials.unusable is not None:
        return _missing("not tried: " + _reason(trials.unusable),
                        not_executable(trials.unusable, around))
    for name in needs:
        failure = trials.failures.get(name)
        if failure is not None:
            return _missing(str(failure), diagnose(failure, around))
    return Fact(available=True, detail="tried")


def _missing(detail: str, diagnosis: Diagnosis) -> Fact:
    return Fact(available=False, detail=detail, layer=diagnosis.layer, fix=diagnosis.fix,
                cause=diagnosis.cause)


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"


def _memory_executable(trials: Trials, around: Surroundings) -> Fact:
    if trials.unusable is None:
        return Fact(available=True, detail="tried")
    return _missing(_reason(trials.unusable), not_executable(trials.unusable, around))


def _identity() -> Identity:
    import pwd

    uid, gid = os.getuid(), os.getgid()
    try:
        entry = pwd.getpwuid(uid)
        name, home = entry.pw_name, entry.pw_dir
    except KeyError:  # a uid without an account, as containers have them
        name, home = str(uid), "/"
    from_environment = os.environ.get("HOME", "")
    if from_environment.startswith("/"):
        home = from_environment
    groups = tuple(sorted(set(os.getgroups()) - {gid}))
    # Resolved: what lies below it (~/.ssh) is recognised in the resolved sources of grants.
    return Identity(uid, gid, name, os.path.realpath(home), groups)


def _hard_limits() -> dict[str, int]:
    import resource

    names = (name for name in dir(resource) if name.startswith("RLIMIT_"))
    limits = {name: resource.getrlimit(getattr(resource, name))[1] for name in names}
    return {name: UNLIMITED if value == resource.RLIM_INFINITY else value
            for name, value in limits.items()}


def _ranges(who: Identity, around: Surroundings) -> Ranges:
    return Ranges(_subordinate("/etc/subuid", who), _subordinate("/etc/subgid", who),
                  _helper("newuidmap", around), _helper("newgidmap", around))


def _subordinate(path: str, who: Identity) -> tuple[tuple[int, int], ...]:
    return idmap.usable(_entries(path), who.user_name, who.uid)


def _helper(name: str, around: Surroundings) -> Fact:
    for directory in _HELPER_DIRECTORIES:
        path = f"{directory}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        problem = _helper_problem(path, status, around)
        if problem is None:
            return Fact(available=True, detail=path)
        return _missing(f"{path} {problem.layer}", problem._replace(layer="installation"))
    return _missing(f"{name} is not in {', '.join(_HELPER_DIRECTORIES)}", Diagnosis(
        "no-newuidmap", "installation", around.distribution.install_helpers()))


def _helper_problem(path: str, status: os.stat_result, around: Surroundings) -> Diagnosis | None:
    """What is wrong with a helper; ``layer`` is the end of a sentence that begins with the path."""
    if around.nested and around.own_ids < _ENOUGH_IDS:
        return Diagnosis("outer-single-id", "can't map what the user namespace around it lacks",
                         FIXES["outer-single-id"])
    restore = around.distribution.restore_helper(path, _CAP_SETID[os.path.basename(path)])
    if around.nested and status.st_uid == _NOBODY:
        return Diagnosis(
            "newuidmap-unprivileged", "belongs to somebody whom the user namespace around hardrun "
            "does not have, so that setuid gives it nothing",
            f"start hardrun outside of that user namespace, or in it, {restore}")
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Diagnosis("newuidmap-insecure", "could be changed by others than root", restore)
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        return Diagnosis("newuidmap-unprivileged", "can't be executed", restore)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return Diagnosis("newuidmap-nosuid", "lies on a file system mounted nosuid",
                         FIXES["newuidmap-nosuid"])
    if status.st_mode & stat.S_ISUID:
        return None
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return Diagnosis("newuidmap-unprivileged",
                         "lost its file capabilities and is not setuid", restore)
    return None


def _free_ids() -> int:
    """The first id above every range of /etc/subuid and /etc/subgid."""
    end = 100000  # SUB_UID_MIN, login.defs(5)
    for path in ("/etc/subuid", "/etc/subgid"):
        for entry in _entries(path):
            end = max(end, entry.start + entry.size)
    return end


def _entries(path: str) -> tuple[idmap.SubordinateRange, ...]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return idmap.parse_subordinate(file.read())
    except OSError:
        return ()


def _id_ranges(who: Identity, ranges: Ranges, trials: Trials, around: Surroundings) -> Fact:
    for helper in (ranges.newuidmap, ranges.newgidmap):
        if not helper.available:
            return helper
    if not ranges.uids or not ranges.gids:
        file = "/etc/subgid" if ranges.uids else "/etc/subuid"
        return _missing(f"no range for {who.user_name} alone in {file}", Diagnosis(
            "no-subordinate-ids", "subordinate ids",
            around.distribution.subordinate_ids(who.user_name, _free_ids())))
    if trials.unusable is not None:
        return _memory_executable(trials, around)
    if trials.ids is not None:
        return _missing(str(trials.ids), diagnose(trials.ids, around))
    return Fact(available=True, detail="tried")


def _overlay() -> Fact:
    try:
        with open("/proc/filesystems", encoding="ascii") as file:
            known = any(line.split()[-1:] == ["overlay"] for line in file)
    except OSError:
        known = False
    if known:
        return Fact(available=True, detail="in this kernel, not tried")
    return _missing("not in /proc/filesystems",
                    Diagnosis("no-overlay", "kernel", FIXES["no-overlay"]))


def _executor_label(profiles: Mapping[str, str] | None) -> str:
    """The label under which the executor will run: ours, or that of a profile on its own path."""
    own = lsm.apparmor_label() or ""
    mode = (profiles or {}).get("hardrun", "")
    takes_on = mode and starts_by_path() and not lsm.is_confined(own)
    return f"hardrun ({mode})" if takes_on else own


def _in_mode(profiles: Mapping[str, str] | None, *, enforcing: bool) -> tuple[str, ...]:
    return tuple(sorted(name for name, mode in (profiles or {}).items()
                        if (mode in lsm.ENFORCING) == enforcing))


def _apparmor(profiles: Mapping[str, str] | None) -> Fact:
    if not lsm.apparmor_enabled():
        return _missing("not in this kernel or switched off",
                        Diagnosis("no-apparmor", "kernel", FIXES["no-apparmor"]))
    known = "profiles can't be listed" if profiles is None else f"{len(profiles)} profiles loaded"
    return Fact(available=True, detail=f"{known}; the caller is {lsm.apparmor_label()}")


def _selinux() -> Fact:
    enforcing = selinux.enforcing()
    if enforcing:
        return Fact(available=True, detail=f"enforcing; the caller is {lsm.label()}")
    if enforcing is None:
        hidden = selinux.confining()
        return _missing(f"not to be seen from here; the caller is {hidden}" if hidden else
                        "not in this kernel or switched off",
                        Diagnosis("no-selinux", "kernel", FIXES["no-selinux"]))
    return _missing("permissive: it reports and stops nothing",
                    Diagnosis("selinux-permissive", "SELinux", FIXES["selinux-permissive"]))
