"""Running processes with real privileges, which only root has."""

from __future__ import annotations

import os

import pytest

from hardrun.audit import judge
from hardrun.audit.read import process
from hardrun.audit.rules import catalogue

RULES = {rule.id: rule for rule in catalogue() if "process" in rule.occurs}


@pytest.mark.root
def test_roots_capabilities_on_the_host_are_found() -> None:
    subject = process.read(os.getpid())
    failing = {name for name, rule in RULES.items()
               if judge.verdict(rule, subject).answer == "fails"}
    held = subject.values["capabilities"].value
    assert "CAP_SYS_ADMIN" in held
    assert {"cap-sys-admin", "cap-sys-ptrace", "cap-net-admin", "cap-not-dropped",
            "runs-as-root", "host-user-namespace"} <= failing
    assert ("cap-net-raw" in failing) == ("CAP_NET_RAW" in held)
