"""Decisions and host facts made by hand, for tests of plans."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import Any, get_type_hints

from hardrun.host.facts import Fact, HostFacts
from hardrun.kernel.landlock import abi_version
from hardrun.plan.compile import PlannedRun, compile_plan
from hardrun.plan.schema import Operation
from hardrun.policy.decision import ControlDecision, Decision
from hardrun.posture.registry import CONTROLS
from hardrun.workload.flags import from_flags
from hardrun.workload.model import Workload

YES, NO = Fact(available=True), Fact(available=False, detail="not in this test")
VISIBLE = frozenset({"/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache",
                     "/etc/localtime", "/etc/ssl/certs", "/etc/gitconfig", "/nix/store"})
UNTRUSTED: Mapping[str, Any] = {
    "filesystem.visible": VISIBLE,
    "limits.memory": 1 << 30,
    "limits.pids": 256,
    "limits.tmpfs": 256 << 20,
    "limits.inodes": 65536,
    "limits.core": 0,
    "limits.open_files": 1024,
    "limits.cpu_time": 60_000,
    "limits.timeout": 60_000,
}
_FACT_FIELDS = [name for name, kind in get_type_hints(HostFacts).items() if kind is Fact]


def facts(**changes: Any) -> HostFacts:
    """A host that has everything but AppArmor, SELinux and cgroups, and whoever runs the test."""
    values: dict[str, Any] = dict.fromkeys(_FACT_FIELDS, YES)
    lacking = ("apparmor", "selinux", "cgroup", "cgroup_delegation", "newuidmap", "newgidmap",
               "id_ranges")
    values |= dict.fromkeys(lacking, NO)
    limits = {name: resource.getrlimit(getattr(resource, name))[1]
              for name in dir(resource) if name.startswith("RLIMIT_")}
    values |= {
        "kernel_release": os.uname().release, "architecture": os.uname().machine, "boot_id": "boot",
        "uid": os.getuid(), "gid": os.getgid(), "user_name": "tester", "home": "/home/tester",
        "supplementary_groups": tuple(sorted(set(os.getgroups()) - {os.getgid()})),
        "hard_limits": {n: v if v >= 0 else 2**63 - 1 for n, v in limits.items()},
        "landlock_abi": abi_version(),
    }
    return HostFacts(**(values | changes))


def workload(*argv: str, **options: Any) -> Workload:
    """A workload from flags, called in /."""
    defaults: dict[str, Any] = {"caller_directory": "/", "home": "/home/tester"}
    return from_flags(argv or ("true",), **(defaults | options))


def decision(asked: Workload, host: HostFacts, **values: Any) -> Decision:
    """The defaults of every control, ``UNTRUSTED``, what the workload asks for, and ``values``
    (``limits__memory`` for ``limits.memory``)."""
    given = dict(UNTRUSTED) | {request.control: request.value for request in asked.requests()}
    if asked.environment.inherit:
        given["environment"] = frozenset({"PATH", *asked.environment.inherit})
    given |= {name.replace("__", "."): value for name, value in values.items()}
    return Decision(policies=("test",), workload=asked.canonical(), controls=tuple(
        ControlDecision(control=control.id, value=control.dump(given.get(control.id,
                                                                          control.default)),
                        shown="", decided_by="test.yaml:1",
                        enforcement=control.enforcement(given.get(control.id, control.default),
                                                        host))
        for control in CONTROLS))


def plan(*argv: str, host: HostFacts | None = None, pinned: bool = True,
         values: Mapping[str, Any] | None = None,
         caller_environment: Mapping[str, str] | None = None, **options: Any) -> PlannedRun:
    """Compile a workload given as flags."""
    asked = workload(*argv, **options)
    host = host or facts()
    return compile_plan(decision(asked, host, **(values or {})), asked, host, pinned=pinned,
                        caller_environment={"PATH": "/usr/bin:/bin"}
                        if caller_environment is None else caller_environment)


def named(planned: PlannedRun, name: str) -> list[Operation]:
    """The operations of one name, in order."""
    return [operation for operation in planned.operations if operation.name == name]
