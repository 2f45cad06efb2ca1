"""Sandboxes that between them have every operation that this host can perform."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardrun.plan.context import Layer
from hardrun.plan.late import assign_ids
from hardrun.policy.engine import decide as grant
from hardrun.request import Request, decide
from tests.escape.layers import Planned, single_id
from tests.escape.sandbox import Sandbox

ABSENT: Mapping[str, str] = {
    "require_label": "labels: no module of this host rules; tests/vm has machines where one does",
    "require_content": "switches that other distributions' kernels have; "
                       "tests/sandbox/test_executor_plans.py",
    "draw_label": "labels", "expect_label": "labels", "set_exec_label": "labels",
    "cgroup": "a delegated cgroup: root's test below, and tests/vm",
    "cgroup_v1": "root's test below", "cgroup_limit": "root's test below",
    "await_cgroup": "root's test below",
    "lifeline": "the parent looks at a descriptor; test_kill_anywhere closes it",
    "report": "the parent writes it at the end; test_kill_anywhere reads it",
    "admit": "the parent hands over a descriptor; tests/sandbox/test_containers_exec.py",
    "serve": "a socket of the caller's; test_joining lets it fail, and its commands",
    "gate": "the parent holds the workload there; tests/sandbox/test_verify.py",
}
"""Operations that no plan of :func:`plans` has, and where they are tried instead."""


def plans(probe: Path, directory: Path) -> dict[str, Sandbox]:
    """Each of them by a name; ``shared`` in ``directory`` is writable in those that allow it."""
    image = directory / "image"
    for name in ("proc", "dev", "sys", "etc", "tmp", "usr", "run", "vol", "other"):
        (image / name).mkdir(parents=True)
    shutil.copy(probe, image / "probe")
    made = {
        "untrusted": Sandbox(probe, directory, rw=[str(directory / "shared")]),
        "judge": Sandbox(probe, directory, "judge"),
        "agent": Sandbox(probe, directory, "agent", rw=[str(directory / "shared")]),
        "build": Sandbox(probe, directory, "build", network="host"),
        "contained": Sandbox(probe, directory, "contained", tmpfs=["/srv"]),
        "docker-default": Sandbox(probe, directory, "docker-default"),
        "image": Sandbox(probe, directory, "contained", rootfs=str(image)),
        "layer": Sandbox(probe, directory, "contained", rootfs=str(image), writable="ephemeral"),
        "kept layer": Sandbox(probe, directory, "contained", rootfs=str(image),
                              writable="persistent", layer=_layer(directory)),
        "ids of its own": Sandbox(probe, directory, userns="auto"),
        "one id": Sandbox(probe, directory).removed(single_id),
    }
    for name, policy in (("baseline", "pss-baseline"), ("restricted", "pss-restricted")):
        made[name] = _by(made["untrusted"], decide(
            ["/probe"], policies=["contained", policy], rootfs=str(image)))
    made["stored"] = _by(made["untrusted"], _request(probe, ["untrusted"]), pinned=False)
    made["terminal"] = _by(made["untrusted"], _request(probe, ["untrusted"], terminal=True))
    here = _request(probe, ["agent"], rw=["."])
    made["anywhere"] = made["untrusted"].removed(
        lambda _: Planned(tuple(here.plan_anywhere().operations), here.plan_anywhere().unsafe))
    made["landlock tier"] = _by(made["untrusted"], _without_namespaces(
        _request(probe, ["agent"], min_tier="landlock")))
    return made


def _layer(directory: Path) -> Layer:
    (directory / "layers").mkdir(mode=0o700, exist_ok=True)
    return Layer(str(directory / "layers"), 1)


def _request(probe: Path, policies: list[str], **options: Any) -> Request:
    return decide([str(probe)], policies=policies, ro=[str(probe)], **options)


def _without_namespaces(request: Request) -> Request:
    facts = request.facts.without_namespaces()
    asked = replace(request.workload, argv=request.argv[:1])
    return request._replace(facts=facts, decision=grant(asked, request.policies, facts))


def _by(sandbox: Sandbox, request: Request, *, pinned: bool = True) -> Sandbox:
    plan = request.plan(pinned=pinned)
    operations = tuple(plan.operations)
    if plan.ids is not None:
        operations = assign_ids(operations, plan.ids.uids[0][0], plan.ids.gids[0][0], plan.ids.size)
    return sandbox.removed(lambda _: Planned(operations, plan.unsafe))
