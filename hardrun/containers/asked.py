"""What a container keeps: the request, as texts. It is decided anew at each start."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hardrun.errors import BadInput

if TYPE_CHECKING:
    from hardrun.request import Request

# As runc and crun take them, but for a first dash or dot: neither an option nor a hidden file.
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,127}", re.ASCII)


def check_name(name: str) -> str:
    """The name of a container. Raises BadInput for one that is none (JN-06)."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name for a container",
                       hint="letters, digits, _ + . - and at most 128 of them; the first is not"
                       " . or -")
    return name


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the command, where it was made, the policies, and the flags as texts.

    Of ``--env NAME`` the value is read at each start; that of ``--env NAME=VALUE`` is kept.
    """

    argv: tuple[str, ...]
    directory: str
    policies: tuple[str, ...]
    flags: Mapping[str, Any]

    @classmethod
    def now(cls, argv: Sequence[str], policies: Sequence[str], flags: Mapping[str, Any]) -> Asked:
        """A request made here and now: files of policies are named so that they are found again.
        """
        directory = os.getcwd()
        found = [os.path.join(directory, p) if "/" in p or p.endswith((".yaml", ".yml")) else p
                 for p in policies]
        return cls(tuple(argv), directory, tuple(found),
                   {name: list(value) if isinstance(value, tuple) else value
                    for name, value in flags.items() if value not in (None, (), False, {}, [])})

    @classmethod
    def from_json(cls, text: str) -> Asked:
        """The inverse of ``to_json``. Raises BadInput when it is not one."""
        try:
            found = json.loads(text)
            return cls(tuple(found["argv"]), found["directory"], tuple(found["policies"]),
                       dict(found["flags"]))
        except (ValueError, TypeError, KeyError):
            raise BadInput("what was asked for this container can't be read",
                           hint="hardrun rm it and make it anew") from None

    def to_json(self) -> str:
        """One line, in ASCII: names with any bytes survive as lone surrogates."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def detached(self) -> Asked:
        """The same without a terminal: nobody is there to use it."""
        return replace(self, flags={name: value for name, value in self.flags.items()
                                    if name not in ("terminal", "interactive")})

    def decide(self) -> Request:
        """The Decision of today. Raises as :func:`hardrun.request.decide`."""
        from hardrun.request import FLAGS, decide

        if unknown := sorted(set(self.flags) - set(FLAGS)):
            raise BadInput(f"this version of hardrun knows nothing of {', '.join(unknown)}, which "
                           "were asked for", hint="make the container anew")
        if not os.path.isdir(self.directory):
            raise BadInput(f"{self.directory}, where it was made, is gone",
                           hint="make that directory, or the container anew")
        return decide(self.argv, policies=self.policies, directory=self.directory, **self.flags)
