"""What filters have to refuse, stated apart from the profiles that are held to it.

Nothing here is read from profiles/seccomp: a profile that loses a rule, or a compiler that loses
one, differs from this table.
"""

from __future__ import annotations

from collections.abc import Mapping

NEVER: Mapping[str, str] = {
    "mounts, of every generation": """
        mount umount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig
        fsmount fspick mount_setattr sysfs""",
    "namespaces": "unshare setns clone3",
    "calls that no filter sees": "io_uring_setup io_uring_enter io_uring_register",
    "code in the kernel": """
        bpf init_module finit_module delete_module create_module query_module get_kernel_syms
        kexec_load kexec_file_load perf_event_open userfaultfd""",
    "files past their paths": "open_by_handle_at name_to_handle_at fanotify_init fanotify_mark",
    "the machine": """
        reboot swapon swapoff acct quotactl quotactl_fd settimeofday stime clock_settime
        clock_settime64 clock_adjtime clock_adjtime64 adjtimex iopl ioperm vm86 vm86old modify_ldt
        sethostname setdomainname syslog vhangup nfsservctl uselib lookup_dcookie _sysctl
        s390_pci_mmio_read s390_pci_mmio_write pciconfig_read pciconfig_write pciconfig_iobase
        rtas""",
    "keys": "add_key request_key keyctl",
    "other processes": "kcmp pidfd_getfd process_madvise",
    "memory of other nodes": "move_pages mbind set_mempolicy set_mempolicy_home_node migrate_pages",
    "lists of mounts and of labels": """
        statmount listmount listns lsm_set_self_attr lsm_get_self_attr lsm_list_modules""",
}
"""Calls that none of the policies that contain lets through, and what they reach."""

STRICT: Mapping[str, str] = {
    "other processes": "ptrace process_vm_readv process_vm_writev process_mrelease",
    "capabilities": "capset",
    "asynchronous I/O": """
        io_setup io_submit io_getevents io_pgetevents io_pgetevents_time64 io_cancel io_destroy""",
    "what is rare, and has had holes": """
        vmsplice memfd_secret remap_file_pages cachestat get_mempolicy ustat file_getattr
        file_setattr sync syncfs""",
    "modes behind a pointer": "openat2",
}
"""Beyond those, for code that nobody trusts: ``untrusted`` and ``judge``."""

JUDGED: Mapping[str, str] = {
    "objects that outlive a process": """
        ipc shmget shmat shmctl shmdt semget semop semctl semtimedop semtimedop_time64 msgget msgsnd
        msgrcv msgctl mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive
        mq_timedreceive_time64 mq_notify mq_getsetattr""",
    "owners and attributes of files": """
        chown fchown lchown chown32 fchown32 lchown32 fchownat setxattr lsetxattr fsetxattr
        removexattr lremovexattr fremovexattr setxattrat removexattrat""",
    "a place among the host's processes": """
        sched_setaffinity sched_setattr sched_setparam sched_setscheduler setpriority ioprio_set
        nice""",
    "filters": "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "watching": "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch",
}
"""Beyond those, under ``judge``."""

ABSENT = frozenset({
    "clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "statmount", "listmount",
    "listns", "lsm_set_self_attr", "lsm_get_self_attr", "lsm_list_modules"})
"""What does not exist inside: programs fall back on ENOSYS and break at EPERM."""

FAMILIES: Mapping[str, frozenset[int]] = {
    "judge": frozenset({1}),
    "untrusted": frozenset({1, 2, 10, 16}),
    "build": frozenset({1, 2, 10, 16}),
    "contained": frozenset({1, 2, 10, 16}),
}
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: the socket families of each."""

NETLINK: Mapping[str, frozenset[int]] = {
    "judge": frozenset(), "untrusted": frozenset({0}), "build": frozenset({0}),
    "contained": frozenset({0, 4, 15, 16}),
}
"""NETLINK_ROUTE; for services also SOCK_DIAG, KOBJECT_UEVENT and GENERIC."""

PERSONALITIES: Mapping[str, frozenset[int]] = {
    "judge": frozenset({0, 0xFFFFFFFF}), "untrusted": frozenset({0, 0xFFFFFFFF}),
    "build": frozenset({0, 0xFFFFFFFF, 8, 0x20000, 0x20008}),
    "contained": frozenset({0, 0xFFFFFFFF, 8, 0x20000, 0x20008}),
}
"""PER_LINUX and the question; where things are built also PER_LINUX32 and UNAME26."""

NEW_NAMESPACE = 0x7E020080
"""CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid, net."""

PROFILES = tuple(FAMILIES)


def refused_by(profile: str) -> frozenset[str]:
    """Every call that a profile has to refuse whatever the arguments."""
    tables = [NEVER]
    if profile in ("judge", "untrusted"):
        tables.append(STRICT)
    if profile == "judge":
        tables.append(JUDGED)
    return frozenset(name for table in tables for names in table.values() for name in names.split())
