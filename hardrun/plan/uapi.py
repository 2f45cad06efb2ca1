"""The kernel's own numbers that plans are written with, by the kernel's own names.

Values are those of linux/mount.h, linux/sched.h, linux/securebits.h and asm-generic/resource.h;
``plan show`` prints the names. Landlock's and the capabilities' are in ``hardrun.kernel``.
"""

from __future__ import annotations

import enum


class Clone(enum.IntFlag):
    """Flags of clone3(2)."""

    CLONE_NEWNS = 0x00020000
    CLONE_NEWCGROUP = 0x02000000
    CLONE_NEWUTS = 0x04000000
    CLONE_NEWIPC = 0x08000000
    CLONE_NEWUSER = 0x10000000
    CLONE_NEWPID = 0x20000000
    CLONE_NEWNET = 0x40000000


class MountAttribute(enum.IntFlag):
    """Attributes of mount_setattr(2)."""

    MOUNT_ATTR_RDONLY = 0x1
    MOUNT_ATTR_NOSUID = 0x2
    MOUNT_ATTR_NODEV = 0x4
    MOUNT_ATTR_NOEXEC = 0x8


class Securebit(enum.IntFlag):
    """Bits of PR_SET_SECUREBITS (capabilities(7))."""

    SECBIT_NOROOT = 0x01
    SECBIT_NOROOT_LOCKED = 0x02
    SECBIT_NO_SETUID_FIXUP = 0x04
    SECBIT_NO_SETUID_FIXUP_LOCKED = 0x08
    SECBIT_KEEP_CAPS = 0x10
    SECBIT_KEEP_CAPS_LOCKED = 0x20
    SECBIT_NO_CAP_AMBIENT_RAISE = 0x40
    SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED = 0x80


class Resource(enum.IntEnum):
    """Resources of setrlimit(2), numbered as on x86, arm and riscv."""

    RLIMIT_CPU = 0
    RLIMIT_FSIZE = 1
    RLIMIT_DATA = 2
    RLIMIT_STACK = 3
    RLIMIT_CORE = 4
    RLIMIT_NPROC = 6
    RLIMIT_NOFILE = 7
    RLIMIT_MEMLOCK = 8
