"""Why the kernel refused: from an operation and its errno to the layer at fault and a remedy.

The kernel answers a dozen different causes with EPERM. What tells them apart is the state around
the caller, which is read once (``Surroundings.read``); the rules here are pure. A remedy is the
least that helps: a profile for this program before a switch for the whole machine, a rule in an
outer container's filter before a container without one. None of them switches a protection off.
"""

from __future__ import annotations

import errno

from hardrun.host.attempt import NOT_ENFORCED, Failure
from hardrun.host.causes import FIXES, Diagnosis
from hardrun.host.surroundings import Surroundings

# Operations that need a namespace, and the sysctl that counts it.
_COUNTERS = {
    "network namespace": "max_net_namespaces", "ipc namespace": "max_ipc_namespaces",
    "uts namespace": "max_uts_namespaces", "cgroup namespace": "max_cgroup_namespaces",
}
_MOUNTS = frozenset({
    "make_private", "root_tmpfs", "mount_proc", "mount_devpts", "root_attributes", "pivot_root",
    "make_file", "make_directory", "writable_directory",
})
# What sandboxes are made of, where it could not be found out which of them a filter refuses.
SANDBOX_CALLS = ("clone", "clone3", "unshare", "setns", "mount", "umount2", "pivot_root",
                 "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "mount_setattr",
                 "keyctl", "sethostname", "setgroups", "seccomp", "landlock_create_ruleset",
                 "landlock_add_rule", "landlock_restrict_self")
_NAMESPACES = 15000  # what kernels have by default on small machines


def diagnose(failure: Failure, around: Surroundings) -> Diagnosis:
    """The likeliest cause of a failure, and its least remedy."""
    name = failure.operation
    if failure.errno == errno.EROFS:
        return Diagnosis("proc-read-only", "a read-only /proc around the caller",
                         "mount it writable where hardrun is called (bwrap --proc /proc): the "
                         "kernel protects what is in it")
    if name in ("clone", "write_id_map", "await_id_maps"):
        return _user_namespace(failure, around)
    if name in _COUNTERS:
        return _other_namespace(failure, around)
    if name == "write_id_map_helper":
        return _helper(around)
    if name == "set_hostname" and around.seccomp == 2:
        # In a namespace of one's own nothing else refuses it, and no filter could be asked before.
        return _outer_filter(around._replace(filtered=("sethostname",)))
    if name == "join_session_keyring":
        return _keyring(failure, around)
    if name in _MOUNTS:
        return _mount(failure, around)
    if name == NOT_ENFORCED:
        return Diagnosis("landlock-not-enforced", "Landlock", FIXES["landlock-not-enforced"])
    if name in ("load_seccomp", "landlock_ruleset", "landlock_path", "landlock_restrict"):
        return _filter(name, failure, around)
    return _refused(around) or _kernel()


def _kernel() -> Diagnosis:
    return Diagnosis("kernel", "kernel", "")


def _too_old(version: str, what: str, around: Surroundings) -> Diagnosis:
    return Diagnosis("kernel-too-old", f"kernel before {version}",
                     f"{around.distribution.newer_kernel(version)}: {what}")


def _user_namespace(failure: Failure, around: Surroundings) -> Diagnosis:
    number = failure.errno
    if number in (errno.ENOSPC, errno.EUSERS):
        if around.max_user_namespaces == "0":
            return Diagnosis(
                "max-user-namespaces", "sysctl user.max_user_namespaces",
                around.distribution.sysctl("user.max_user_namespaces", _NAMESPACES))
        # Every sandbox has these two besides: the same call makes all three.
        for switch in ("max_mnt_namespaces", "max_pid_namespaces"):
            if getattr(around, switch) == "0":
                return _none_left(switch, around)
        return Diagnosis(
            "userns-used-up", "user namespace limit",
            "the user's namespaces (user.max_user_namespaces) or 32 levels of nesting are used up, "
            "or a sandbox around hardrun allows none: end other sandboxes, or start hardrun "
            "outside")
    if number == errno.EAGAIN:
        return caller_limit(number) or _kernel()
    if failure.operation == "write_id_map" and number == errno.EPERM and around.bare_root:
        return Diagnosis("root-without-setfcap", "root of a container without CAP_SETFCAP",
                         "start hardrun as another user than root there (docker run --user, in "
                         "Kubernetes runAsNonRoot), or keep that capability")
    if around.unprivileged_userns_clone == "0":
        return Diagnosis("unprivileged-userns-clone", "sysctl kernel.unprivileged_userns_clone",
                         around.distribution.sysctl("kernel.unprivileged_userns_clone", 1))
    if number == errno.EINVAL and failure.operation == "clone":
        return Diagnosis("no-user-namespaces", "kernel without user namespaces",
                         "a kernel with CONFIG_USER_NS=y; the landlock tier needs none")
    if number == errno.ENOSYS and around.kernel < (5, 3):
        return _too_old("5.14", "clone3(2) is missing", around)
    return _refused(around, number) or Diagnosis(
        "unmapped-caller", "kernel", "the caller's ids may have no mapping in its own user "
        "namespace, or it may be in a chroot: start hardrun outside of it")


def _refused(around: Surroundings, number: int = errno.EPERM) -> Diagnosis | None:
    """Which security module or filter refuses what a new user namespace needs."""
    profile = around.confining_profile
    if around.outer_filter and (number == errno.ENOSYS or around.filtered):
        return _outer_filter(around)
    if profile and profile != "unprivileged_userns":
        return Diagnosis("apparmor-profile", f"AppArmor profile {profile} of the caller",
                         f"{_profile_rules(profile)}, or use a copy of it with these rules")
    if around.apparmor_restrict_userns == "1":
        return Diagnosis("apparmor-restricts-userns",
                         "AppArmor (kernel.apparmor_restrict_unprivileged_userns)",
                         "give hardrun a profile of its own, as root: "
                         "hardrun profile install hardrun")
    if around.outer_filter:
        return _outer_filter(around)
    if around.selinux_context:
        return Diagnosis("selinux-domain", f"SELinux domain {around.selinux_context}",
                         "the rule that is missing, as root: ausearch -m AVC -ts recent | "
                         "audit2allow -R")
    return None


def _profile_rules(profile: str) -> str:
    return (f"add 'userns,', 'mount,', 'umount,' and 'pivot_root,' to the AppArmor profile "
            f"{profile}")


def _outer_filter(around: Surroundings) -> Diagnosis:
    """Where AppArmor confines as well, both are named: one without the other changes nothing."""
    layer, also = "seccomp filter of an outer container or service", ""
    if around.confining_profile:
        layer += f", AppArmor profile {around.confining_profile}"
        also = f"; and {_profile_rules(around.confining_profile)}"
    calls = ", ".join(around.filtered or SANDBOX_CALLS)
    return Diagnosis("outer-seccomp", layer,
                     f"let its profile allow {calls} (hardrun doctor --emit-seccomp prints "
                     f"Docker's with what is missing){also}")


def _none_left(switch: str, around: Surroundings) -> Diagnosis:
    return Diagnosis("max-namespaces", f"sysctl user.{switch}",
                     around.distribution.sysctl(f"user.{switch}", _NAMESPACES))


def _other_namespace(failure: Failure, around: Surroundings) -> Diagnosis:
    if failure.errno in (errno.ENOSPC, errno.EUSERS):
        return _none_left(_COUNTERS[failure.operation], around)
    if failure.errno == errno.EINVAL:
        return Diagnosis("no-such-namespace", f"kernel without {failure.operation}s",
                         "a kernel with it built in, or a policy that shares it")
    return _refused(around, failure.errno) or _kernel()


def _helper(around: Surroundings) -> Diagnosis:
    if around.no_new_privs:
        return Diagnosis("no-new-privs", "no_new_privs of the caller", FIXES["no-new-privs"])
    return Diagnosis(
        "newuidmap-refused", "newuidmap, newgidmap",
        "run them by hand to see what they say: the ranges in /etc/subuid and /etc/subgid must "
        "belong to this user")


def _mount(failure: Failure, around: Surroundings) -> Diagnosis:
    if failure.errno == errno.ENOSYS and around.kernel < (5, 14):
        return _too_old("5.14", f"{failure.site or 'a system call'}(2) is missing", around)
    if failure.operation == "mount_proc" and failure.errno == errno.EPERM:
        if around.covered_proc:
            return Diagnosis(
                "proc-covered",
                f"the caller's own /proc is partly covered ({around.covered_proc[0]})",
                "sandboxes do without /proc here; in Kubernetes 'procMount: Unmasked' together "
                "with 'hostUsers: false' lets them have one")
        if not around.proc_mounted:
            return Diagnosis("no-proc", "no proc is mounted around the caller",
                             "mount proc where hardrun is called (bwrap --proc /proc)")
    if failure.operation == "mount_proc" and failure.errno == errno.EINVAL:
        return Diagnosis("kernel-too-old", "kernel before 5.8",
                         f"{around.distribution.newer_kernel('5.8')}, or 'filesystem: {{proc: "
                         "masked}'")
    return _refused(around, failure.errno) or _kernel()


def _keyring(failure: Failure, around: Surroundings) -> Diagnosis:
    if failure.errno == errno.EDQUOT:
        return Diagnosis("key-quota", f"quota of keys ({around.keys_maximum or '200'} for each "
                         "user)", "end sessions that hold keys, or "
                         + around.distribution.sysctl("kernel.keys.maxkeys", 2000))
    return _outer_filter(around) if around.outer_filter else _kernel()


def _filter(name: str, failure: Failure, around: Surroundings) -> Diagnosis:
    if around.outer_filter and failure.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return _outer_filter(around)
    if name == "load_seccomp":
        return Diagnosis("no-seccomp", "kernel without seccomp filters",
                         "a kernel with CONFIG_SECCOMP_FILTER=y")
    return landlock_missing(around)


def landlock_missing(around: Surroundings) -> Diagnosis:
    """Why there is no Landlock."""
    if around.kernel < (5, 13):
        return _too_old("5.13", "Landlock came with it", around)
    if around.outer_filter:
        return _outer_filter(around)
    return Diagnosis("no-landlock", "kernel without Landlock",
                     "a kernel with CONFIG_SECURITY_LANDLOCK=y, and landlock in its lsm= list")


def caller_limit(number: int) -> Diagnosis | None:
    """A limit of the caller's own that leaves no room for a sandbox, by the errno that tells it."""
    limits = {
        errno.EMFILE: ("open-files", "limit of open files", "ulimit -n 64, or more"),
        errno.ENFILE: ("open-files", "the machine's limit of open files", "fewer open files"),
        errno.EAGAIN: ("processes", "limit of processes",
                       "end some of the user's processes, or raise ulimit -u (in a container "
                       "pids.max)"),
        errno.EFBIG: ("file-size", "limit of file sizes", "ulimit -f unlimited"),
        errno.ENOMEM: ("memory", "limit of memory", "ulimit -v unlimited, or a larger container"),
    }
    return Diagnosis(*limits[number]) if number in limits else None


def not_executable(error: OSError, around: Surroundings) -> Diagnosis:
    """Why the executor could not be started from a memory file."""
    limit = caller_limit(error.errno or 0)
    if limit is not None:
        return limit
    if error.filename == "memory file" and around.memfd_noexec == "2":
        return Diagnosis("memfd-noexec", "sysctl vm.memfd_noexec",
                         around.distribution.sysctl("vm.memfd_noexec", 1))
    if error.filename == "execution" and not around.proc_mounted:
        return Diagnosis("no-proc", "no proc is mounted around the caller",
                         "mount proc where hardrun is called (bwrap --proc /proc)")
    if error.filename == "execution" and not error.errno and around.kernel < (5, 9):
        return _too_old("5.14", "close_range(2) is missing", around)
    if error.filename in ("memory file", "execution") and error.errno != errno.ENOEXEC:
        return _refused(around, errno.EACCES) or _kernel()
    return Diagnosis("installation", "installation", FIXES["installation"])
