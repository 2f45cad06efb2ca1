"""The causes that hardrun tells apart when a host refuses something, by their stable codes.

A code is what programs should read (``hardrun doctor --json``, HostUnsupported.cause);
docs/hosts.md has a row for each. Which one it is, ``hardrun.host.diagnose`` decides from what
was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Diagnosis(NamedTuple):
    """A cause by its code, the layer that stands in the way, and what would help."""

    cause: str
    layer: str
    fix: str


CAUSES: Mapping[str, str] = MappingProxyType({
    # user namespaces
    "apparmor-restricts-userns":
        "Ubuntu gives unprivileged user namespaces without capabilities, or none, to programs "
        "without an AppArmor profile that says `userns,`",
    "apparmor-profile": "the AppArmor profile that confines the caller allows no such thing",
    "selinux-domain": "the SELinux domain of the caller allows no such thing",
    "outer-seccomp": "the seccomp filter of an outer container or service refuses the calls",
    "max-user-namespaces": "user.max_user_namespaces is 0",
    "userns-used-up": "the user's namespaces or the 32 levels of nesting are used up",
    "unprivileged-userns-clone": "Debian's switch kernel.unprivileged_userns_clone is 0",
    "no-user-namespaces": "the kernel was built without user namespaces",
    "unmapped-caller": "the caller's ids have no mapping in its own user namespace, or it is in a "
                       "chroot, where the kernel makes no user namespace",
    "root-without-setfcap": "the caller is root of a container and lacks CAP_SETFCAP, without "
                            "which the kernel lets nobody map root (Linux 5.12)",
    "proc-read-only": "the caller's /proc or /proc/sys is read-only, and id maps and limits are "
                      "written there",
    # other namespaces and mounts
    "max-namespaces": "user.max_*_namespaces of another kind is 0 or used up",
    "no-such-namespace": "the kernel was built without this kind of namespace",
    "kernel-too-old": "the kernel has no such call or option yet",
    "proc-covered": "parts of the caller's own /proc are covered, as Docker, podman and Kubernetes "
                    "do it: then the kernel mounts no other proc",
    "no-proc": "no proc is mounted where hardrun is called",
    "kernel": "the kernel refuses, and nothing around the caller says why",
    # filters and labels
    "no-seccomp": "the kernel was built without seccomp filters",
    "no-landlock": "Landlock is not in the kernel or not in its list of modules",
    "landlock-not-enforced": "Landlock took the rules and stopped nothing",
    "no-apparmor": "AppArmor is not in the kernel or switched off",
    "no-selinux": "SELinux is not in the kernel, switched off, or hidden from the caller",
    "selinux-permissive": "SELinux reports and stops nothing",
    "key-quota": "the user's quota of keys is used up",
    # the executor and the caller's own limits
    "memfd-noexec": "vm.memfd_noexec is 2: memory files can't be executed",
    "installation": "the executor is not where it was installed, or is none",
    "open-files": "the caller may open too few files (RLIMIT_NOFILE)",
    "processes": "the caller may start no more processes (RLIMIT_NPROC, or its cgroup's pids.max)",
    "file-size": "the caller may write only files smaller than the executor (RLIMIT_FSIZE)",
    "memory": "the caller has too little memory left (RLIMIT_AS, or its cgroup)",
    # ids
    "no-newuidmap": "newuidmap or newgidmap is not installed",
    "newuidmap-unprivileged": "newuidmap or newgidmap is neither setuid nor has its capability, or "
                              "its owner has no id in the caller's user namespace",
    "newuidmap-nosuid": "newuidmap or newgidmap lies on a file system mounted nosuid",
    "newuidmap-insecure": "others than root could change newuidmap or newgidmap",
    "newuidmap-refused": "newuidmap or newgidmap refused",
    "no-new-privs": "the caller has no_new_privs, with which no setuid program works",
    "no-subordinate-ids": "the user has no range in /etc/subuid or /etc/subgid to itself",
    "outer-single-id": "the user namespace around hardrun has too few ids to give any away",
    # cgroups
    "cgroup-v1": "no cgroup2 file system with controllers is mounted; those of cgroup v1 serve "
                 "root alone, for the kernel lets nobody delegate them safely",
    "cgroup-read-only": "the cgroup file system is read-only, as in containers",
    "cgroup-not-delegated": "no cgroup of the user's takes limits",
    # files
    "no-overlay": "the kernel has no overlay file system, or not in user namespaces",
    "home-in-network": "the home lies on a file system whose server knows no user namespaces",
    "no-home": "the caller's home is not there",
    "no-cache": "compiled plans can't be stored: every start decides anew",
})

# What helps against a cause in the same words everywhere; the others' remedies name what was found.
FIXES: Mapping[str, str] = MappingProxyType({
    "no-apparmor": "a kernel with CONFIG_SECURITY_APPARMOR=y, and apparmor in its lsm= list",
    "no-selinux": "a distribution that ships an SELinux policy",
    "selinux-permissive": "as root: setenforce 1",
    "landlock-not-enforced": "a kernel whose Landlock holds: this one took the rules and stopped "
                             "nothing",
    "installation": "install hardrun again; in a source tree: make executor",
    "newuidmap-nosuid": "newuidmap and newgidmap on a file system without nosuid; or a policy that "
                        "needs no range of ids (agent, build, contained)",
    "no-new-privs": "newuidmap needs a privilege that nothing gets below no_new_privs: start "
                    "hardrun before it is set, or with a policy that needs no range of ids (agent, "
                    "build, contained)",
    "outer-single-id": "start hardrun outside of that container or sandbox, or give it a range",
    "cgroup-v1": "the kernel command line systemd.unified_cgroup_hierarchy=1",
    "cgroup-read-only": "a writable cgroup namespace for the outer container (cgroupns=private, "
                        "delegated)",
    "cgroup-not-delegated":
        "as root: a file /etc/systemd/system/user@.service.d/delegate.conf with the lines "
        "[Service] and Delegate=cpu cpuset io memory pids, then systemctl daemon-reload and a new "
        "login",
    "no-overlay": "as root: modprobe overlay",
    "home-in-network": "nothing for sandboxes with the caller's id alone; those with a range of "
                       "ids (ids.range: own) need files on a local file system",
    "no-home": "set HOME to a directory of the caller's",
    "no-cache": "set XDG_CACHE_HOME to a directory that the caller alone can write; without it "
                "every start decides anew",
})
