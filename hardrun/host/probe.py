"""Fill in HostFacts by trying: what this kernel lets this user do now.

Two throw-away children (everything a sandbox is made of; a range of ids) run while files are read.
What is found holds for this user, boot, kernel and executor, and until somebody changes a sysctl.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from hardrun.host import cgroup, trial
from hardrun.host.attempt import Attempt, ExecutorUnusable, Failure, attempt
from hardrun.host.diagnose import (
    Diagnosis,
    Surroundings,
    diagnose,
    landlock_missing,
    not_executable,
)
from hardrun.host.facts import Fact, HostFacts
from hardrun.kernel import idmap, landlock, lsm

UNLIMITED = 2**63 - 1
EXECUTOR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "executor", "hardrun-exec")
SELINUX_TYPES = ("hardrun_untrusted_t",)
"""Types that policies name; each is looked for in the loaded SELinux policy."""
# Never by PATH: a directory of the caller's must not decide which program maps ids (US-07).
_HELPER_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin")
_NOSUID = "lies on a file system mounted nosuid"
_CAP_SETID = {"newuidmap": "cap_setuid", "newgidmap": "cap_setgid"}
# Which operations have to work for a fact to hold; a namespace is needed by all that follows it.
_NAMESPACE = ("clone", "write_id_map")
_MOUNT = (*_NAMESPACE, "make_private", "root_tmpfs", "root_attributes", "pivot_root")
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "user_namespaces": _NAMESPACE,
    "pid_namespace": _NAMESPACE,
    "mount_namespace": _MOUNT,
    "network_namespace": (*_NAMESPACE, "network namespace", "loopback_up"),
    "ipc_namespace": (*_NAMESPACE, "ipc namespace"),
    "uts_namespace": (*_NAMESPACE, "uts namespace", "set_hostname"),
    "cgroup_namespace": (*_NAMESPACE, "cgroup namespace"),
    "nested_namespaces_limit": (*_NAMESPACE, "write_sysctl"),
    "proc_mount": (*_MOUNT, "mount_proc"),
    "proc_subset": (*_MOUNT, "proc_subset"),
    "devpts_mount": (*_MOUNT, "mount_devpts"),
    "keyring": ("join_session_keyring",),
    "landlock": ("landlock_ruleset", "landlock_restrict"),
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


def probe(executor: str = EXECUTOR) -> HostFacts:
    """Try what this host lets this user do. ``executor`` is the path of hardrun-exec.

    Raises nothing for what is missing: that is what the facts say.
    """
    system = os.uname()
    abi = landlock.abi_version()
    who = _identity()
    ranges = _ranges(who)
    trials, group = _try(executor, who, ranges, with_landlock=abi > 0)
    around = Surroundings.read()
    facts = {name: _fact(needs, trials, around) for name, needs in _NEEDS.items()}
    if not abi:
        facts["landlock"] = _missing("no such system call", landlock_missing(around))
    elif facts["landlock"].available:
        facts["landlock"] = Fact(available=True, detail=f"ABI {abi}")
    profiles = lsm.apparmor_profiles()
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
        apparmor=_apparmor(profiles), apparmor_profiles=profiles or (), selinux=_selinux(),
        selinux_types=lsm.selinux_types(SELINUX_TYPES),
        cgroup=group.fact, cgroup_directory=group.directory, cgroup_controllers=group.controllers,
        **facts)


def _try(executor: str, who: Identity, ranges: Ranges, *, with_landlock: bool
         ) -> tuple[Trials, cgroup.Found]:
    plans = [trial.everything(landlock=with_landlock)]
    if ranges.complete:
        plans.append(trial.id_range(
            ranges.newuidmap.detail, ranges.newgidmap.detail, (who.uid, who.gid),
            (ranges.uids[0][0], ranges.gids[0][0])))
    children: list[Attempt] = []
    unusable: ExecutorUnusable | None = None
    results: list[Failure | None] = []
    try:
        children.extend(Attempt(executor, plan) for plan in plans)
    except ExecutorUnusable as error:
        unusable = error
    group = cgroup.probe()  # while the children run
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
    return Trials(failures, results[1] if len(results) > 1 else None, unusable), group


def _fact(needs: tuple[str, ...], trials: Trials, around: Surroundings) -> Fact:
    if trials.unusable is not None:
        return _missing("not tried: " + _reason(trials.unusable),
                        not_executable(trials.unusable, around))
    for name in needs:
        failure = trials.failures.get(name)
        if failure is not None:
            return _missing(str(failure), diagnose(failure, around))
    if "clone" in trials.failures:  # the filters could not be tried without a child to lose
        return Fact(available=True, detail="offered by the kernel, not tried")
    return Fact(available=True, detail="tried")


def _missing(detail: str, diagnosis: Diagnosis) -> Fact:
    return Fact(available=False, detail=detail, layer=diagnosis.layer, fix=diagnosis.fix)


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


def _ranges(who: Identity) -> Ranges:
    return Ranges(_subordinate("/etc/subuid", who), _subordinate("/etc/subgid", who),
                  _helper("newuidmap"), _helper("newgidmap"))


def _subordinate(path: str, who: Identity) -> tuple[tuple[int, int], ...]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return idmap.usable(idmap.parse_subordinate(file.read()), who.user_name, who.uid)
    except OSError:
        return ()


def _helper(name: str) -> Fact:
    for directory in _HELPER_DIRECTORIES:
        path = f"{directory}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        problem = _helper_problem(path, status)
        if problem:
            fix = f"as root: setcap {_CAP_SETID[name]}+ep {path}"
            if problem == _NOSUID:
                fix = f"as root: mount -o remount,suid the file system that holds {directory}"
            return Fact(available=False, detail=f"{path} {problem}", layer="installation", fix=fix)
        return Fact(available=True, detail=path)
    return Fact(available=False, detail=f"{name} is not in {', '.join(_HELPER_DIRECTORIES)}",
                layer="installation", fix="as root: apt install uidmap (Debian, Ubuntu) or dnf "
                "install shadow-utils (Fedora)")


def _helper_problem(path: str, status: os.stat_result) -> str:
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "could be changed by others than root"
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        return "can't be executed"
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return _NOSUID
    if status.st_mode & stat.S_ISUID:
        return ""
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return "lost its file capabilities and is not setuid"
    return ""


def _id_ranges(who: Identity, ranges: Ranges, trials: Trials, around: Surroundings) -> Fact:
    for helper in (ranges.newuidmap, ranges.newgidmap):
        if not helper.available:
            return helper
    if not ranges.uids or not ranges.gids:
        file = "/etc/subgid" if ranges.uids else "/etc/subuid"
        return Fact(available=False, detail=f"no range for {who.user_name} alone in {file}",
                    layer="subordinate ids",
                    fix="as root: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST "
                    f"{who.user_name}, 65536 ids that nobody else has")
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
    return Fact(available=False, detail="not in /proc/filesystems", layer="kernel",
                fix="as root: modprobe overlay")


def _apparmor(profiles: tuple[str, ...] | None) -> Fact:
    if not lsm.apparmor_enabled():
        return Fact(available=False, detail="not in this kernel or switched off", layer="kernel",
                    fix="a kernel with CONFIG_SECURITY_APPARMOR=y, and apparmor in its lsm= list")
    known = "profiles can't be listed" if profiles is None else f"{len(profiles)} profiles loaded"
    return Fact(available=True, detail=f"{known}; the caller is {lsm.apparmor_label()}")


def _selinux() -> Fact:
    enforcing = lsm.selinux_enforcing()
    if enforcing:
        return Fact(available=True, detail=f"enforcing; the caller is {lsm.label()}")
    if enforcing is None:
        return Fact(available=False, detail="not in this kernel or switched off", layer="kernel",
                    fix="a distribution that ships an SELinux policy")
    return Fact(available=False, detail="permissive: it reports and stops nothing",
                layer="SELinux", fix="as root: setenforce 1")
