"""What a process takes with it into the sandbox: privileges, terminal, keys, descriptors, umask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardrun.posture.control import Enforcement, degraded, enforced
from hardrun.posture.orders import Covering, Flag, Level, Mask

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

ANY_DESCRIPTOR = -1


class Descriptors(Covering[int]):
    """A set of descriptor numbers from 3 on; ``ANY_DESCRIPTOR`` stands for all of them."""

    def covers(self, wide: int, narrow: int) -> bool:
        return wide in (narrow, ANY_DESCRIPTOR)

    def parse(self, raw: object) -> frozenset[int]:
        if raw == "any" or raw == ["any"]:
            return self.loosest
        if not isinstance(raw, list) or not all(type(n) is int and 3 <= n < 1024 for n in raw):
            raise ValueError("must be a list of descriptor numbers from 3 to 1023")
        return frozenset(raw)

    def dump(self, value: frozenset[int]) -> list[Any]:
        return ["any"] if value == self.loosest else sorted(value)

    def load(self, data: Any) -> frozenset[int]:
        return self.parse(data)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": "any"}, {"type": "array", "items": {"type": "integer"}}]}


def _no_new_privs(value: bool, facts: HostFacts) -> Enforcement:
    """Where a policy leaves it off the kernel still demands it for filters (seccomp(2), EACCES)."""
    if not value and (facts.seccomp.available or facts.landlock_abi):
        return Enforcement(kind="replaced", by=("no_new_privs", "nosuid mounts"),
                           because="on all the same: an ordinary user's filter needs it")
    return enforced("no_new_privs", "nosuid mounts") if value else enforced("not restricted")


def _securebits(value: bool, facts: HostFacts) -> Enforcement:
    return enforced("locked securebits") if value else enforced("not restricted")


def _terminal(value: str, facts: HostFacts) -> Enforcement:
    if value == "inherited":
        return enforced("not restricted")
    return enforced("private pty") if value == "private" else enforced("pipes", "setsid")


def _keyring(value: str, facts: HostFacts) -> Enforcement:
    if value == "inherited":
        return enforced("not restricted")
    if not facts.keyring.available:
        # Without key management in the kernel there are no keys to hide; otherwise seccomp still
        # denies keyctl(2), but the keys stay in the session.
        return degraded("seccomp", because=f"no session keyring of its own: {facts.keyring.detail}",
                        fix=facts.keyring.fix, fact="keyring")
    return enforced("session keyring", "seccomp")


def _session(value: bool, facts: HostFacts) -> Enforcement:
    return enforced("setsid") if value else enforced("not restricted")


def _descriptors(value: frozenset[int], facts: HostFacts) -> Enforcement:
    return enforced("close_range") if value != DESCRIPTORS.loosest else enforced("not restricted")


def _umask(value: int, facts: HostFacts) -> Enforcement:
    return enforced("umask")


NO_NEW_PRIVS = Flag(
    id="no_new_privs", title="no new privileges",
    meaning="Whether an execve can never give privileges (PR_SET_NO_NEW_PRIVS).",
    loosest=False, default=True, enforce=_no_new_privs)

SECUREBITS = Flag(
    id="securebits", title="locked securebits",
    meaning="Whether id 0 is an ordinary id inside: securebits set and locked (capabilities(7)).",
    loosest=False, default=True, enforce=_securebits)

TERMINAL = Level(
    id="terminal", title="terminal",
    meaning="none, private (a pty of its own that is relayed) or inherited (the caller's own).",
    levels=("none", "private", "inherited"), loosest="inherited", default="none", enforce=_terminal)

KEYRING = Level(
    id="keyring", title="kernel keys",
    meaning="Whether the workload gets an empty session keyring or the caller's keys.",
    levels=("private", "inherited"), loosest="inherited", default="private", enforce=_keyring)

SESSION = Flag(
    id="session", title="new session",
    meaning="Whether the workload runs in a session of its own, without a controlling terminal.",
    loosest=False, default=True, enforce=_session)

DESCRIPTORS = Descriptors(
    id="descriptors", title="descriptors",
    meaning="Open descriptors that are passed on besides 0, 1 and 2.",
    loosest=frozenset({ANY_DESCRIPTOR}), default=frozenset(), enforce=_descriptors)

UMASK = Mask(
    id="umask", title="umask",
    meaning="Permission bits that new files don't get, in octal digits and quotes.",
    loosest=0, default=0o022, enforce=_umask)
