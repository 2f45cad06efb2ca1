"""What a policy lets a run do at most, in the terms of a module that labels processes.

Taken from the bounds of the policy, and from the same tables as mounts, Landlock rules and filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hardrun.errors import PolicyError
from hardrun.kernel.seccomp.prebuilt import filter_for
from hardrun.kernel.seccomp.simulate import simulate
from hardrun.kernel.seccomp.tables import numbers
from hardrun.plan.root import system_directories
from hardrun.policy.check import SYMBOLIC
from hardrun.policy.engine import bound_of
from hardrun.policy.load import load_policies
from hardrun.policy.loaded import LoadedPolicy
from hardrun.posture import ways_out
from hardrun.posture.filesystem import below
from hardrun.posture.registry import BY_ID

_ARCHITECTURE = "x86_64"  # families and types have the same numbers everywhere but on MIPS
_KERNEL = "6.18"
_ALLOW = 0x7FFF0000
FAMILIES: Mapping[str, int] = {
    "unix": 1, "inet": 2, "ax25": 3, "ipx": 4, "appletalk": 5, "x25": 9, "inet6": 10,
    "netlink": 16, "packet": 17, "rds": 21, "can": 29, "tipc": 30, "bluetooth": 31, "alg": 38,
    "nfc": 39, "vsock": 40, "kcm": 41, "smc": 43, "xdp": 44}
TYPES: Mapping[str, int] = {"stream": 1, "dgram": 2, "raw": 3, "rdm": 4, "seqpacket": 5}
_PROTOCOLS = (0, 1, 6, 17, 58)  # default, ICMP, TCP, UDP, ICMPv6
# Ways out that a sandbox can have of its own: a private HOME, /tmp or /run, an image's /root.
_OWN = ("/proc", "/sys", "/dev", "/root", "/tmp")  # nosec B108 - names, nothing is opened


class Rules(NamedTuple):
    """The most that a run under a policy may do.

    ``system`` are directories that nothing is written to. ``seen`` and ``written`` are known ways
    out that the policy leaves closed, below which nothing is read, or nothing written.
    """

    policies: tuple[str, ...]
    files: tuple[str, ...]
    capabilities: tuple[str, ...]
    sockets: Mapping[str, tuple[str, ...]]
    system: tuple[str, ...]
    seen: tuple[str, ...]
    written: tuple[str, ...]
    devices: tuple[str, ...]
    terminal: bool
    proc: str
    calls: frozenset[str]
    nested: bool
    writable: bool
    inherited: bool


def rules_of(reference: str) -> Rules:
    """The rules of a policy, by name or file.

    Raises PolicyError for one that does not exist or leaves open what has to be bounded.
    """
    loaded = load_policies([reference])
    chosen = [policy for policy in loaded.policies if policy.chosen]
    if len({policy.name for policy in chosen}) != 1:
        raise PolicyError("a profile is made of one policy", file=reference)

    def bound(control: str) -> Any:
        return bound_of(BY_ID[control], chosen, SYMBOLIC)[0]

    capabilities = bound("capabilities")
    allowed = _Filter(bound("seccomp"), capabilities)
    chain = [member for policy in loaded.catalogue.own(chosen[0].name)
             for member in loaded.catalogue.chain(policy)]
    return Rules(
        policies=tuple(member.name for member in chain),
        files=tuple(member.file for member in chain),
        capabilities=tuple(sorted(c.removeprefix("CAP_").lower() for c in capabilities)),
        sockets={family: types for family in FAMILIES if (types := allowed.types(family))},
        system=system_directories(bound("filesystem.visible")),
        seen=_ways_out(chosen, "filesystem.readable"),
        written=_ways_out(chosen, "filesystem.writable"),
        devices=tuple(sorted(bound("devices"))), terminal=bound("terminal") != "none",
        proc=str(bound("filesystem.proc")),
        calls=frozenset(filter(allowed.call, ("add_key", "io_uring_setup", "mq_open", "ptrace"))),
        nested=bool(bound("namespaces.nested")),
        writable=bool(bound("filesystem.writable")),
        inherited=bound("terminal") == "inherited")


class _Filter:
    """What the composed seccomp profiles of a policy let through."""

    def __init__(self, profiles: frozenset[str], capabilities: frozenset[str]) -> None:
        self._program = filter_for(sorted(profiles), architecture=_ARCHITECTURE,
                                   capabilities=capabilities, kernel_release=_KERNEL).program \
            if profiles else b""

    def call(self, name: str, *arguments: int) -> bool:
        number = numbers(_ARCHITECTURE)[name]
        return not self._program or \
            simulate(self._program, _ARCHITECTURE, number, arguments).action == _ALLOW

    def types(self, family: str) -> tuple[str, ...]:
        number = FAMILIES[family]
        return tuple(name for name, kind in TYPES.items() if any(
            self.call(call, number, kind, protocol)
            for call in ("socket", "socketpair") for protocol in _PROTOCOLS))


def _ways_out(policies: Sequence[LoadedPolicy], control: str) -> tuple[str, ...]:
    excepted = {path for policy in policies for said in policy.bounds.get(control, ())
                for path in said.excepted}
    found = {way.value for way in ways_out.every() if way.control == control
             and way.value.startswith("/") and not any(below(way.value, own) for own in _OWN)}
    return tuple(sorted(path for path in found if not any(below(path, e) for e in excepted)))
