"""Environment variables that may be taken over from the caller."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hardrun.posture.control import Enforcement, enforced
from hardrun.posture.orders import Covering, texts

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

# Where programs are found, what language and terminal they speak: nothing of these is a secret.
HARMLESS = frozenset({"PATH", "LANG", "LC_*", "TERM", "TZ"})


class Variables(Covering[str]):
    """A set of names; one that ends in ``*`` stands for all names that begin so."""

    def covers(self, wide: str, narrow: str) -> bool:
        return wide == narrow or (wide.endswith("*") and narrow.startswith(wide[:-1]))

    def parse(self, raw: object) -> frozenset[str]:
        names = ["*" if name == "any" else name for name in texts(raw)]
        for name in names:
            if re.fullmatch(r"[^=*\0]+\*?|\*", name) is None:
                raise ValueError(f"{name!r} is not the name of a variable, nor a beginning with *")
        return self.normal(names)

    def granted(self, asked: frozenset[str], unasked: frozenset[str]) -> frozenset[str]:
        # --env TOKEN asks for one more name; it is not a wish to run without PATH.
        return self.join(asked, self.meet(unasked, HARMLESS)) if asked else asked

    def load(self, data: Any) -> frozenset[str]:
        return self.parse(data)


def _environment(value: frozenset[str], facts: HostFacts) -> Enforcement:
    return enforced("execve by list")


ENVIRONMENT = Variables(
    id="environment",
    field="environment.inherit",
    title="inherited environment",
    meaning="Variables that may be taken over from the caller (bounds --env K); a name that ends in"
            " * is a beginning. --env K=V discloses nothing unasked and is always allowed.",
    loosest=frozenset({"*"}),
    default=HARMLESS,
    enforce=_environment,
)
