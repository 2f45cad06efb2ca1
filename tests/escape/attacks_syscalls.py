"""System calls that no policy lets through (FS-17 and section SC)."""

from __future__ import annotations

from tests.escape.attacks import Attack
from tests.escape.probe import (
    AT_FDCWD,
    BAD_ADDRESS,
    BAD_FD,
    MACHINE,
    Argument,
    Inside,
    Out,
    call,
)

EPERM, ENOSYS = frozenset({"EPERM"}), frozenset({"ENOSYS"})
HIGH = 0x123 << 32  # what the kernel does not look at where it declares an int
SIGCHLD = 17
DEBUGGERS = {"agent": "test suites and sanitizers trace their own processes",
             "build": "test suites and sanitizers trace their own processes",
             "contained": "debuggers; only processes of the sandbox can be traced"}


def _call(property: str, name: str, *arguments: Argument, works: str,
          layers: tuple[str, ...] = ("seccomp",), label: str = "",
          refused: frozenset[str] = EPERM, given_up: dict[str, str] | None = None) -> Attack:
    """A call whose arguments the kernel refuses in words of its own, ``works``, if it is asked."""
    return Attack(property=property, name=label or name, steps=(call(name, *arguments),),
                  layers=layers, works=frozenset(works.split("|")), refused=refused,
                  given_up=given_up or {})


_ADMIN = ("seccomp", "capability sets")
_TREE = (*_ADMIN, "Landlock")  # no process in a domain changes the tree of mounts (landlock(7))
_MOUNTS = (
    _call("FS-17", "mount", "none", "/", "nosuchfs", 0, 0, works="ENODEV", layers=_TREE),
    _call("FS-17", "umount2", "/usr", 0, works="ok|EBUSY|EINVAL", layers=_TREE),
    _call("FS-17", "pivot_root", BAD_ADDRESS, BAD_ADDRESS, works="EFAULT", layers=_ADMIN),
    _call("FS-17", "chroot", "/nowhere", works="ENOENT"),
    _call("FS-17", "open_tree", AT_FDCWD, "/nowhere", 1, works="ENOENT", layers=_ADMIN),
    _call("FS-17", "move_mount", BAD_FD, "", BAD_FD, "", 0x44, works="EBADF", layers=_ADMIN),
    _call("FS-17", "fsopen", "nosuchfs", 0, works="ENODEV", layers=_ADMIN),
)

# -- how a call is made ---------------------------------------------------------------------------
_FOREIGN = (
    Attack(property="SC-01", name="int 0x80", steps=(call("getpid", int80=True),),
           layers=("seccomp",), refused=frozenset({"SIGSYS"})),
    Attack(property="SC-02", name="x32 getpid", steps=(call(0x40000000 | 39),), layers=("seccomp",),
           refused=frozenset({"SIGSYS"}), inconclusive="kernels are built without x32 today"),
) if MACHINE == "x86_64" else ()
_UPPER_BITS = (
    _call("SC-03", "ioctl", BAD_FD, 0x5412 | HIGH, BAD_ADDRESS, label="TIOCSTI", works="EBADF"),
    _call("SC-03", "socket", 40 | HIGH, 1, 0, label="AF_VSOCK", works="ok|EAFNOSUPPORT"),
    _call("SC-03", "personality", 0x0040000 | HIGH, label="ADDR_NO_RANDOMIZE", works="ok"),
    _call("SC-03", "seccomp", 1 | HIGH, 8 | HIGH, BAD_ADDRESS, label="a listener", works="EFAULT"),
)

# -- new namespaces -------------------------------------------------------------------------------
NAMESPACES = {"mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
              "pid": 0x20000000, "net": 0x40000000}
_NESTED = ("seccomp", "user.max_user_namespaces")
REFUSED_OR_NONE_LEFT = frozenset({"EPERM", "ENOSPC"})
_NAMESPACES = (
    *(_call("SC-04", "clone", flag | SIGCHLD, 0, 0, 0, 0, label=f"a new {name} namespace",
            works="ok", layers=_ADMIN) for name, flag in NAMESPACES.items()),
    _call("SC-04", "clone", 0x10000000 | SIGCHLD, 0, 0, 0, 0, label="a new user namespace",
          works="ok", layers=_NESTED, refused=REFUSED_OR_NONE_LEFT),
    _call("SC-04", "clone", 0x4000000 | SIGCHLD | HIGH, 0, 0, 0, 0, label="with upper bits",
          works="ok", layers=_ADMIN),
    _call("SC-05", "clone3", BAD_ADDRESS, 64, works="EFAULT", refused=ENOSYS),
    *(_call("SC-06", "unshare", flag, label=f"unshare {name}", works="ok", layers=_ADMIN)
      for name, flag in {**NAMESPACES, "time": 0x80}.items()),
    _call("SC-06", "setns", BAD_FD, 0, works="EBADF"),
)

# -- sockets --------------------------------------------------------------------------------------
_STREAM, _DATAGRAM, _RAW, _PACKETS = 1, 2, 3, 5
# words of the kernel's, not a filter's
_REACHED = "ok|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT"
_FAMILIES = {"AX25": 3, "X25": 9, "RDS": 21, "LLC": 26, "CAN": 29, "TIPC": 30, "BLUETOOTH": 31,
             "ALG": 38, "NFC": 39, "KCM": 41, "QIPCRTR": 42, "SMC": 43, "MCTP": 45}
_PROTOCOLS = {"AUDIT": 9, "NETFILTER": 12, "XFRM": 6, "CRYPTO": 21}
_LOOKING = "services ask for sockets and devices, of their own network namespace"
_SOCKETS = (
    *(_call("SC-09", "socket", family, _PACKETS if name == "ALG" else _DATAGRAM, 0,
            label=f"AF_{name}", works=_REACHED) for name, family in _FAMILIES.items()),
    *(_call("SC-09", "socket", 16, _RAW, protocol, label=f"NETLINK_{name}", works=_REACHED)
      for name, protocol in _PROTOCOLS.items()),
    *(_call("SC-09", "socket", 16, _RAW, protocol, label=f"NETLINK_{name}", works=_REACHED,
            given_up={"contained": _LOOKING})
      for name, protocol in {"SOCK_DIAG": 4, "KOBJECT_UEVENT": 15, "GENERIC": 16}.items()),
    _call("SC-09", "socket", 2, _STREAM, 262, label="MPTCP", works=f"{_REACHED}|ENOPROTOOPT",
          given_up={"contained": "a service may speak what the host's kernel does"}),
    _call("SC-09", "socketpair", 38, _PACKETS, 0, BAD_ADDRESS, works=f"{_REACHED}|EFAULT"),
    _call("SC-11", "socket", 40, _STREAM, 0, label="AF_VSOCK", works=_REACHED),
    _call("SC-12", "socket", 17, _RAW, 0x300, label="AF_PACKET", works="ok", layers=_ADMIN),
    _call("SC-12", "socket", 2, _RAW, 1, label="raw IP", works="ok", layers=_ADMIN),
    _call("SC-12", "socket", 10, _RAW, 58, label="raw IPv6", works="ok", layers=_ADMIN),
    _call("SC-12", "socket", 44, _RAW, 0, label="AF_XDP", works="ok|EAFNOSUPPORT",
          layers=_ADMIN),
)

# -- calls that reach more of the kernel than a program needs -------------------------------------
_KERNEL = (
    _call("SC-13", "io_uring_setup", 1, BAD_ADDRESS, works="EFAULT", refused=ENOSYS),
    _call("SC-13", "io_uring_enter", BAD_FD, 0, 0, 0, 0, 0, works="EBADF", refused=ENOSYS),
    _call("SC-13", "io_uring_register", BAD_FD, 0, 0, 0, works="EBADF|EINVAL", refused=ENOSYS),
    _call("SC-14", "bpf", 1, BAD_ADDRESS, 32, works="EFAULT"),
    _call("SC-14", "perf_event_open", BAD_ADDRESS, 0, -1, -1, 0, works="EFAULT|EACCES"),
    _call("SC-14", "userfaultfd", 1, works="ok"),
    _call("SC-14", "open_by_handle_at", BAD_FD, BAD_ADDRESS, 0, works="EBADF|EFAULT"),
    _call("SC-14", "name_to_handle_at", BAD_FD, "x", BAD_ADDRESS, BAD_ADDRESS, 0,
          works="EBADF|EFAULT"),
    _call("SC-14", "fanotify_init", 0x200, 0, works="ok"),
    _call("SC-14", "quotactl_fd", BAD_FD, 0, 0, BAD_ADDRESS, works="EBADF|EINVAL|ENOSYS"),
    _call("SC-14", "reboot", 0, 0, 0, 0, works="EINVAL", layers=_ADMIN),
    _call("SC-14", "settimeofday", BAD_ADDRESS, 0, works="EFAULT"),
    _call("SC-14", "clock_settime", 0, BAD_ADDRESS, works="EFAULT"),
    *((_call("SC-14", "iopl", 4, works="EINVAL|ENOSYS"),
       _call("SC-14", "ioperm", 0, 0, 1, works="EINVAL|ENOSYS"),
       _call("SC-14", "modify_ldt", 0, BAD_ADDRESS, 0, works="ok|EFAULT|ENOSYS"),
       ) if MACHINE == "x86_64" else ()),
    _call("SC-15", "ptrace", 0, 0, 0, 0, label="PTRACE_TRACEME", works="ok", given_up=DEBUGGERS),
    _call("SC-15", "process_vm_readv", 1, BAD_ADDRESS, 1, BAD_ADDRESS, 1, 0, works="EFAULT",
          given_up=DEBUGGERS),
    _call("SC-15", "process_vm_writev", 1, BAD_ADDRESS, 1, BAD_ADDRESS, 1, 0, works="EFAULT",
          given_up=DEBUGGERS),
    _call("SC-15", "process_madvise", BAD_FD, BAD_ADDRESS, 0, 0, 0, works="EBADF|EFAULT|ENOSYS"),
    _call("SC-15", "kcmp", 0x3FFFFFFF, 0x3FFFFFFF, 0, 0, 0, works="ESRCH"),
    _call("SC-15", "pidfd_getfd", BAD_FD, 0, 0, works="EBADF"),
    _call("SC-16", "add_key", BAD_ADDRESS, BAD_ADDRESS, 0, 0, 0, works="EFAULT"),
    _call("SC-16", "request_key", BAD_ADDRESS, BAD_ADDRESS, 0, 0, works="EFAULT"),
    _call("SC-16", "keyctl", 999, works="EOPNOTSUPP|ENOTSUP"),
    _call("SC-17", "personality", 0x0040000, label="ADDR_NO_RANDOMIZE", works="ok"),
    _call("SC-17", "personality", 0x0400000, label="READ_IMPLIES_EXEC", works="ok"),
    _call("SC-17", "personality", 8, label="PER_LINUX32", works="ok",
          given_up=dict.fromkeys(("agent", "build", "contained"),
                                 "32-bit builds ask uname(2) what they are built on")),
    _call("SC-18", "move_pages", 0, 1, BAD_ADDRESS, BAD_ADDRESS, BAD_ADDRESS, 0,
          works="EFAULT|EACCES"),
    _call("SC-18", "mbind", 0, 0, 99, 0, 0, 0, works="EINVAL"),
    _call("SC-18", "set_mempolicy", 99, 0, 0, works="EINVAL"),
    _call("SC-18", "migrate_pages", 0x3FFFFFFF, 1, BAD_ADDRESS, BAD_ADDRESS, works="EFAULT|ESRCH"),
)


# -- the filter itself ----------------------------------------------------------------------------
_ALLOW_ALL = b"\x06\0\0\0\0\0\xff\x7f"  # return SECCOMP_RET_ALLOW
_LOADED = (  # struct sock_fprog: one instruction, and where it is
    call("@poke", Out(16), 1),
    call("@poke", Inside(0, 8), _ALLOW_ALL),
    call("prctl", 38, 1, 0, 0, 0),
    call("prctl", 22, 2, Inside(0, 0)),  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
)
_FILTER = (
    Attack(property="SC-20", name="unset", layers=("no_new_privs",), refused=frozenset({"ok"}),
           steps=(call("prctl", 38, 0, 0, 0, 0), call("prctl", 39, 0, 0, 0, 0)),
           works=lambda answer: answer.steps[-1].value == 0),
    Attack(property="SC-24", name="a filter that allows all", layers=("seccomp",), refused=EPERM,
           steps=(*_LOADED, call("unshare", 0)),
           works=lambda answer: [s.word for s in answer.steps[-2:]] == ["ok", "ok"]),
    Attack(property="SC-24", name="a listener", layers=("seccomp",), refused=EPERM,
           steps=(call("seccomp", 1, 8, BAD_ADDRESS),), works=frozenset({"EFAULT"})),
)

ATTACKS = (*_MOUNTS, *_FOREIGN, *_UPPER_BITS, *_NAMESPACES, *_SOCKETS, *_KERNEL, *_FILTER)
