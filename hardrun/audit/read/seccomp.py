"""Seccomp profiles as Docker, podman, Kubernetes and OCI bundles have them."""

from __future__ import annotations

from collections.abc import Iterator

from hardrun.audit.located import At
from hardrun.audit.model import Place, Subject
from hardrun.audit.read.gather import Gather

_DEFAULTS = {"SCMP_ACT_ALLOW": "allow", "SCMP_ACT_LOG": "log"}
_32_BIT = ("SCMP_ARCH_X86",)


def is_profile(document: At) -> bool:
    """Whether it has a default action and a list of calls, and is no bundle."""
    return bool(document.get("defaultAction").text()) and not document.get("ociVersion")


def read(document: At) -> Iterator[Subject]:
    """The one profile of a document."""
    gather = Gather("seccomp", document.place.file.rpartition("/")[2], "profile", document.place)
    profile(gather, document)
    yield gather.subject()


def profile(gather: Gather, at: At) -> None:
    """What a profile allows, as facts."""
    default = at.get("defaultAction")
    level = _DEFAULTS.get(default.text(), "deny")
    gather.say("seccomp_default", level, default.place)
    allowed: dict[str, Place] = {}
    answered: set[str] = set()
    restricted: set[str] = set()
    for rule in at.get("syscalls").elements():
        names = [*rule.get("names").words(), *rule.get("name").words()]
        allows = rule.get("action").text() in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
        conditional = any(True for _ in rule.get("args").elements())
        if any(True for _ in rule.get("includes", "caps").elements()):
            continue  # for those who hold the capability, which says more than the call
        for name, item in names:
            if conditional:
                restricted.add(name)
            elif allows:
                allowed.setdefault(name, item.place)
            answered.add(name)
    for name, place in allowed.items():
        gather.add("seccomp_allows", name, place)
    gather.nothing("seccomp_allows")
    _sockets(gather, at, allowed, restricted)


def _sockets(gather: Gather, at: At, allowed: dict[str, Place], restricted: set[str]) -> None:
    """Arguments of socketcall(2) lie behind a pointer: a filter that restricts socket(2) and leaves
    it open to the 32-bit ABI restricts nothing (moby 7158007, 3c28324)."""
    architectures = {word for word, _ in at.get("architectures").words()}
    for entry in at.get("archMap").elements():
        architectures |= {word for word, _ in entry.get("subArchitectures").words()}
    limited = "socket" in restricted and "socket" not in allowed
    open_ = any(name in architectures for name in _32_BIT) and "socketcall" in allowed
    if limited and open_:
        gather.say("socket_bypass", value=True, place=allowed["socketcall"])
    gather.default("socket_bypass", value=False)
