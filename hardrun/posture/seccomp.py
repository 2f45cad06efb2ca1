"""Seccomp profiles: all that apply are composed into one program, so more profiles are stricter.

Values hold references (the name of a shipped profile, or an absolute path), not profiles. Of the
shipped ones it is known here which allow no more than which, so that a policy and its parent need
one filter and not two; a test compares this table with the profiles themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardrun.posture.control import Enforcement, by_fact, enforced
from hardrun.posture.orders import Obligations, texts

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

# profile -> shipped profiles that allow all that it allows
LOOSER: Mapping[str, frozenset[str]] = {
    "judge": frozenset({"untrusted", "build", "contained"}),
    "untrusted": frozenset({"build", "contained"}),
    "build": frozenset({"contained"}),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Profiles(Obligations[str]):
    """A set of seccomp profiles that all apply."""

    def implies(self, strict: str, weak: str) -> bool:
        return strict == weak or weak in LOOSER.get(strict, ())

    def parse(self, raw: object) -> frozenset[str]:
        for reference in texts(raw):
            if not reference.startswith("/") and _NAME.fullmatch(reference) is None:
                raise ValueError(f"{reference!r} is neither a profile's name nor an absolute path")
        return self.normal(texts(raw))

    def load(self, data: Any) -> frozenset[str]:
        return self.parse(data)


def _seccomp(value: frozenset[str], facts: HostFacts) -> Enforcement:
    if not value:
        return enforced("no profile")
    return by_fact("seccomp", "seccomp filters", facts.seccomp, "seccomp")


SECCOMP = Profiles(
    id="seccomp",
    title="system calls",
    meaning="Seccomp profiles (profiles/seccomp/NAME.json, or an absolute path); all of them"
            " apply.",
    loosest=frozenset(),
    default=frozenset(),
    enforce=_seccomp,
)
