"""Mounts, /proc, /sys, devices and terminals (sections FS, PR and DV)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping

from tests.escape.attacks import REFUSED, Attack
from tests.escape.layers import Removal, changed, showing
from tests.escape.probe import AT_FDCWD, BAD_ADDRESS, BAD_FD, Answer, Out, Result, call

READ_ONLY = REFUSED | {"EROFS"}
ABSENT = REFUSED | {"ENOENT"}
_WRITE = os.O_WRONLY | os.O_CREAT
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8  # ST_* of statvfs(3) and MOUNT_ATTR_* alike
_TREE = ("seccomp", "capability sets", "Landlock")  # who changes the tree of mounts (landlock(7))
_REMOUNT, _BIND = 0x20, 0x1000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
_HIGH = 0x123 << 32  # the kernel looks at the lower half of a request


def flags_of(answer: Answer) -> int:
    """f_flags of the struct statfs that the last step filled (64-bit architectures)."""
    return int.from_bytes(answer.out[80:88], "little")


def _writes(property: str, path: str) -> Attack:
    """A file of the sandbox's own is made or emptied; it lies on a mount that is read-only."""
    return Attack(property=property, name=f"write {path}", refused=READ_ONLY,
                  steps=(call("openat", AT_FDCWD, path, _WRITE | os.O_TRUNC, 0o644),),
                  layers=("read-only mounts", "Landlock"))


def _lets(property: str, path: str, flag: int, name: str) -> Attack:
    """A mount lacks a flag. What it keeps from (a device node, a set-user-ID file) can't be made
    by an ordinary user in the first place, so the kernel is asked for the flag itself."""
    return Attack(property=property, name=f"{name} {path}", refused=frozenset({"ok"}),
                  steps=(call("statfs", path, Out(120)),), layers=(f"{name} mounts",),
                  works=lambda answer: answer.word == "ok" and not flags_of(answer) & flag)


def _changes(property: str, path: str, flag: int, name: str) -> tuple[Attack, ...]:
    """A flag of a mount is cleared by the old and by the new call."""
    cleared = struct.pack("=QQQQ", 0, flag, 0, 0)
    return (
        Attack(property=property, name=f"remount {path} without {name}", layers=_TREE,
               steps=(call("mount", "none", path, 0, _REMOUNT | _BIND, 0),)),
        # Landlock has no word on this one.
        Attack(property=property, name=f"mount_setattr {path} without {name}", layers=_TREE[:2],
               steps=(call("mount_setattr", AT_FDCWD, path, 0, cleared, 32),)),
    )


def _opens(property: str, path: str, layers: tuple[str, ...], *, flags: int = os.O_RDONLY,
           also: Mapping[str, Removal] | None = None, inconclusive: str = "") -> Attack:
    """A file that must not be there, or not be reached."""
    return Attack(property=property, name=f"{'write' if flags else 'open'} {path}",
                  refused=ABSENT, layers=layers, also=also or {}, inconclusive=inconclusive,
                  steps=(call("openat", AT_FDCWD, path, flags, 0),))


_MOUNTS = (
    *(_writes("FS-16", path) for path in ("/x", "/etc/x", "/run/x", "/var/x")),
    *_changes("FS-16", "/", _RDONLY, "ro"),
    *_changes("FS-13", "/usr", _NOSUID, "nosuid"),
    *(_lets("FS-15", path, _NOSUID, "nosuid") for path in ("/usr", "/etc/ssl/certs")),
    *(_lets("FS-15", path, _NODEV, "nodev") for path in ("/usr", "/etc/ssl/certs")),
    *(_lets("FS-15", path, _NOEXEC, "noexec") for path in ("/etc/ssl/certs",)),
    *(_writes("FS-21", f"/etc/{name}") for name in ("hosts", "hostname", "passwd", "group")),
    Attack(property="FS-20", name="fill a tmpfs", options={"tmpfs": ["/scratch:1M"]}, layers=(),
           also={"size": changed("mount_tmpfs", 1, 64 << 20)}, refused=frozenset({"ENOSPC"}),
           steps=(call("openat", AT_FDCWD, "/scratch/x", _WRITE, 0o600),
                  call("fallocate", Result(0), 0, 0, 8 << 20))),
)
_TREE_CALLS = tuple(
    Attack(property="FS-17", name=name, steps=(call(name, *arguments),), layers=layers,
           works=frozenset({word}))
    for name, arguments, layers, word in (
        ("fsconfig", (BAD_FD, 6, 0, 0, 0), ("seccomp",), "EINVAL"),
        ("fsmount", (BAD_FD, 0, 0), _TREE[:2], "EBADF"),
        ("fspick", (AT_FDCWD, "/nowhere", 0), _TREE[:2], "ENOENT"),
        ("mount_setattr", (BAD_FD, "", 0, BAD_ADDRESS, 32), _TREE[:2], "EFAULT"),
        ("open_tree_attr", (AT_FDCWD, "/nowhere", 1, 0, 0), _TREE[:2], "ENOENT")))
_EXECUTED = Attack(
    property="DV-08", name="execute in /dev/shm", layers=("noexec mounts", "Landlock"),
    steps=(call("openat", AT_FDCWD, "/dev/shm/x", _WRITE, 0o755), call("close", Result(0)),
           call("execve", "/dev/shm/x", BAD_ADDRESS, 0)), works=frozenset({"EFAULT"}))

# -- /proc and /sys --------------------------------------------------------------------------------
_SUBSET = ("proc subset=pid",)
_ROOTS = "of the host's root, which is no id inside"
_SYS = {"the view": showing("/sys")}
_PROC = (
    *(_opens("PR-01", f"/proc/{name}", _SUBSET) for name in ("version", "cmdline", "mounts")),
    *(_opens("PR-02", f"/proc/{name}", _SUBSET) for name in ("interrupts", "keys", "softirqs")),
    *(_opens("PR-02", f"/proc/{name}", _SUBSET, inconclusive=_ROOTS)
      for name in ("kcore", "timer_list", "vmallocinfo")),
    # Those of a namespace of the sandbox's are what its capabilities would open.
    *(_opens("PR-07", f"/proc/sys/{name}", (*_SUBSET, "capability sets"), flags=os.O_WRONLY)
      for name in ("user/max_user_namespaces", "net/ipv4/ip_forward")),
    *(_opens("PR-07", f"/proc/{name}", _SUBSET, flags=os.O_WRONLY, inconclusive=_ROOTS)
      for name in ("sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/sysrq",
                   "sys/vm/drop_caches", "sys/fs/binfmt_misc/register", "sysrq-trigger")),
    *(_opens("PR-07", path, ("the view", "Landlock"), flags=os.O_WRONLY, inconclusive=_ROOTS)
      for path in ("/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent")),
    *(_opens(property, path, ("the view", "Landlock"), also=_SYS) for property, path in (
        ("PR-08", "/sys/devices/system/cpu/online"), ("PR-09", "/sys/kernel/uevent_seqnum"))),
    *(_opens("PR-08", path, ("the view", "Landlock"), inconclusive="not on every machine")
      for path in ("/sys/firmware/acpi", "/sys/devices/virtual/powercap/intel-rapl",
                   "/sys/fs/selinux/enforce", "/sys/kernel/security/lsm",
                   "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count")),
    *(_opens("PR-11", f"/proc/1/{name}", ("not dumpable",))
      for name in ("environ", "cmdline", "maps", "root", "cwd", "exe")),
)

# -- devices and terminals -------------------------------------------------------------------------
_DEVICES = (
    # The one device that the kernel lets anybody make: 0:0, a file that is gone in an overlay.
    Attack(property="DV-02", name="mknod 0:0", layers=("seccomp", "Landlock"),
           steps=(call("mknodat", AT_FDCWD, "/tmp/x", stat.S_IFCHR | 0o666, 0),)),
    *(Attack(property="DV-02", name=f"mknod {name}", layers=("seccomp", "Landlock"),
             inconclusive="no user namespace has the capability",
             steps=(call("mknodat", AT_FDCWD, "/tmp/x", kind | 0o666, number),))
      for name, kind, number in (("null", stat.S_IFCHR, os.makedev(1, 3)),
                                 ("mem", stat.S_IFCHR, os.makedev(1, 1)),
                                 ("sda", stat.S_IFBLK, os.makedev(8, 0)))),
    *(Attack(property="DV-05", name=f"{name}{' high bits' if high else ''}", layers=("seccomp",),
             works=frozenset({"EBADF"}),
             steps=(call("ioctl", BAD_FD, high | request, BAD_ADDRESS),))
      for name, request in (("TIOCSTI", TIOCSTI), ("TIOCLINUX", TIOCLINUX))
      for high in (0, _HIGH)),
    *(Attack(property="DV-05", name=f"{name} i386", layers=("seccomp",),
             refused=REFUSED | {"SIGSYS"}, works=frozenset({"EBADF"}),
             steps=(call("ioctl", BAD_FD, request, BAD_ADDRESS, int80=True),))
      for name, request in (("TIOCSTI", TIOCSTI), ("TIOCLINUX", TIOCLINUX))
      if os.uname().machine == "x86_64"),
    _lets("DV-08", "/dev/shm", _NOEXEC, "noexec"),
)
ATTACKS: tuple[Attack, ...] = (*_MOUNTS, *_TREE_CALLS, _EXECUTED, *_PROC, *_DEVICES)
