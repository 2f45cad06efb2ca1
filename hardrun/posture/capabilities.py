"""Capabilities: a subset is stricter, and the kernel's own meet is the bounding set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardrun.posture.control import Enforcement, enforced
from hardrun.posture.orders import Names

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

# capabilities(7), by number.
NAMES = tuple(f"CAP_{name}" for name in (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"))


def _capabilities(value: frozenset[str], facts: HostFacts) -> Enforcement:
    return enforced("capability sets", "bounding set")


CAPABILITIES = Names(
    id="capabilities",
    title="capabilities",
    meaning="Capabilities in all five sets, with or without the prefix CAP_; `any` is all of them.",
    prefix="CAP_",
    loosest=frozenset(NAMES),
    default=frozenset(),
    enforce=_capabilities,
)
