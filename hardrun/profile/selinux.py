"""SELinux modules as text: the type of a policy, in the terms of profiles/selinux/hardrun.cil.

That file, written by hand, says what each property of a policy comes to; a module made here says
which of them a policy has. A type is bounded by that of the policy that its own is within: the
kernel and secilc(8) hold it to what its parent may do, so that ``within`` is not our word alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from hardrun.kernel.selinux import file_type
from hardrun.profile.rules import Rules, rules_of

BASE = "hardrun"
"""The module that every other one needs."""

SHIPPED = ("agent", "build", "contained", "judge", "untrusted")
"""The policies that have a type of their own."""

_DEVICES = {"null": "null_device_t", "full": "null_device_t", "zero": "zero_device_t",
            "random": "random_device_t", "urandom": "urandom_device_t", "tty": "devtty_t"}
# Capabilities from 32 on are permissions of another class: security/selinux/include/classmap.h.
_SECOND = frozenset({"audit_read", "block_suspend", "bpf", "checkpoint_restore", "mac_admin",
                     "mac_override", "perfmon", "syslog", "wake_alarm"})


def type_of(policy: str) -> str:
    """The type of a policy: ``hardrun_untrusted_t``."""
    return f"hardrun_{policy.replace('-', '_')}_t"


def chain(policy: str) -> tuple[str, ...]:
    """A policy and those that it is within: their types bound its own."""
    return rules_of(policy).policies


def policy_module(reference: str) -> str:
    """The module of a policy, by name or file, in CIL. Raises PolicyError."""
    rules = rules_of(reference)
    return "\n".join([*_comment(rules), *_body(rules), ""])


def _comment(rules: Rules) -> Iterator[str]:
    within = " within " + ", ".join(rules.files[1:]) if rules.files[1:] else ""
    yield f"; Made by hardrun profile generate --module selinux from {rules.files[0]}{within}."
    yield f"; What the attributes mean is in {BASE}.cil, which has to be loaded with it."


def _body(rules: Rules) -> Iterator[str]:
    domain = type_of(rules.policies[0])
    files = file_type(domain)
    yield f"(type {domain})"
    yield f"(type {files})"
    yield f"(call hardrun_owns ({domain} {files}))"
    if rules.policies[1:]:
        parent = type_of(rules.policies[1])
        yield f"(typebounds {parent} {domain})"
        yield f"(typebounds {file_type(parent)} {files})"
    for attribute in _attributes(rules):
        yield f"(typeattributeset {attribute} ({domain}))"
    for kind, capabilities in (("cap_userns", set(rules.capabilities) - _SECOND),
                               ("cap2_userns", set(rules.capabilities) & _SECOND)):
        if capabilities:
            yield f"(allow {domain} self ({kind} ({' '.join(sorted(capabilities))})))"
    for device in sorted({_DEVICES[name] for name in rules.devices if name in _DEVICES}):
        yield f"(allow {domain} {device} hardrun_device)"


def _attributes(rules: Rules) -> Iterator[str]:
    if rules.writable:
        yield "hardrun_writing_domain"
    if {"stream", "dgram"} & {*rules.sockets.get("inet", ()), *rules.sockets.get("inet6", ())}:
        yield "hardrun_inet_domain"
    if rules.sockets.get("netlink"):
        yield "hardrun_netlink_domain"
    if "ptrace" in rules.calls:
        yield "hardrun_ptrace_domain"
    if "add_key" in rules.calls:
        yield "hardrun_key_domain"
    if rules.proc == "masked":
        yield "hardrun_proc_domain"
    if rules.inherited:
        yield "hardrun_terminal_domain"
