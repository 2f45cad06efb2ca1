"""The seccomp profile for a container that hardrun is to work in: Docker's and what is missing."""

from __future__ import annotations

import json
from typing import Any

from hardrun.data import data_directory
from hardrun.host.diagnose import SANDBOX_CALLS

_COMMENT = ("hardrun: what sandboxes are made of. In a container without capabilities these give "
            "nothing outside of a user namespace.")


def outer_profile() -> dict[str, Any]:
    """Docker's default profile, in Docker's format, with the calls that hardrun needs.

    They are taken out of every other rule: libseccomp refuses two answers for one call.
    """
    path = data_directory("profiles") / "seccomp" / "docker-default.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rules = []
    for rule in document["syscalls"]:
        names = [name for name in rule["names"] if name not in SANDBOX_CALLS]
        if names:
            rules.append({**rule, "names": names})
    rules.append({"comment": _COMMENT, "names": list(SANDBOX_CALLS), "action": "SCMP_ACT_ALLOW"})
    return {**document, "syscalls": rules}
