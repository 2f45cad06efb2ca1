"""Host facts, workloads and policies for tests of the engine: written down, never probed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

from hardrun.host.facts import Fact, HostFacts
from hardrun.policy.load import Directories, Loaded, load_policies
from hardrun.policy.loaded import LoadedPolicy, Said
from hardrun.workload.model import Mount, Workload

ROOT = Path(__file__).resolve().parent.parent
HOME = "/home/user"
PROJECT = "/home/user/project"
YES = Fact(available=True)
NO = Fact(available=False, detail="EPERM", fix="ask the administrator")


def facts(**changes: Any) -> HostFacts:
    """An ordinary user on a host with everything but cgroups, AppArmor and SELinux."""
    values: dict[str, Any] = {
        name: YES for name, kind in get_type_hints(HostFacts).items() if kind is Fact}
    values |= {
        "kernel_release": "6.12.1", "architecture": "x86_64", "boot_id": "boot", "uid": 1000,
        "gid": 1000, "user_name": "user", "home": HOME, "landlock_abi": 6, "apparmor": NO,
        "selinux": NO, "cgroup": NO, "cgroup_delegation": NO,
        "subordinate_uids": ((100000, 65536),), "subordinate_gids": ((100000, 65536),)}
    return HostFacts(**{**values, **changes})


def workload(**changes: Any) -> Workload:
    """``python3 solve.py`` in a project below the home."""
    values: dict[str, Any] = {"argv": ("python3", "solve.py"), "caller_directory": PROJECT,
                              "home": HOME}
    return Workload(**{**values, **changes})


def mount(access: Literal["ro", "rw"], path: str) -> Mount:
    """What ``--ro PATH`` or ``--rw PATH`` comes to."""
    return Mount(access=access, source=path, destination=path, origin=f"--{access}")


@functools.cache
def shipped(*chosen: str) -> Loaded:
    """The policies that ship, alone, without anything parsed ahead."""
    return load_policies(chosen, directories=Directories(ROOT / "policies", None, None))


def policy(name: str, bounds: Mapping[str, Any], defaults: Mapping[str, Any] | None = None,
           **more: Any) -> LoadedPolicy:
    """A chosen policy from values; each control has a line of its own."""
    def said(values: Mapping[str, Any], first: int) -> dict[str, tuple[Said, ...]]:
        return {control: (Said(value, line, f"{name}.yaml:{line}"),)
                for line, (control, value) in enumerate(sorted(values.items()), first)}

    return LoadedPolicy(name=name, file=f"{name}.yaml", layer="user", bounds=said(bounds, 10),
                        defaults=said(defaults or {}, 60), **{"chosen": True, **more})
