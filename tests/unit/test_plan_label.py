"""The label that a plan puts on the workload, and what a stored plan says about labels."""

from __future__ import annotations

from typing import Any

import pytest

from hardrun.errors import HostUnsupported, PolicyRefused
from hardrun.host.facts import HostFacts
from hardrun.plan.schema import Operation
from tests.planning import YES, facts, named, plan

OURS = "hardrun-untrusted"


def _host(label: str = "unconfined", profiles: tuple[str, ...] = ("a", "b", OURS),
          **more: Any) -> HostFacts:
    return facts(apparmor=YES, apparmor_label=label, apparmor_profiles=profiles, **more)


def _labels(host: HostFacts, *clauses: tuple[str, ...], pinned: bool = True) -> list[Operation]:
    planned = plan(host=host, values={"mandatory": frozenset(clauses)}, pinned=pinned)
    return [o for o in planned.operations if "label" in o.name]


@pytest.mark.parametrize("caller, write, shows", [
    ("unconfined", "exec a//&b", "a//&b (enforce)"),
    ("hardrun (unconfined)", "exec a//&b", "a//&b (enforce)"),
    ("unconfined_tool (enforce)", "stack a//&b", "a//&b//&unconfined_tool (enforce)"),
    ("Z (enforce)", "stack a//&b", "Z//&a//&b (enforce)"),
    ("b//&c (enforce)", "stack a//&b", "a//&b//&c (enforce)"),
])
def test_a_confined_caller_stacks_and_every_profile_has_to_show(
        caller: str, write: str, shows: str) -> None:
    setting, expect = _labels(_host(caller), ("apparmor:b",), ("apparmor:a",))
    assert setting.values == ("apparmor", write)
    assert expect.values == ("apparmor", shows)


def test_no_label_is_set_below_a_profile_that_only_complains() -> None:
    with pytest.raises(HostUnsupported, match="complain mode"):
        _labels(_host("tool (complain)"), ("apparmor:a",))


@pytest.mark.parametrize("clauses, written", [
    ([(f"apparmor:{OURS}",), ("apparmor:hardrun-contained",)], OURS),
    ([("apparmor:hardrun-judge",), (f"apparmor:{OURS}",)], "hardrun-judge"),
    ([("apparmor:hardrun-agent",), ("apparmor:hardrun-build",)], "hardrun-agent//&hardrun-build"),
])
def test_a_profile_of_ours_carries_what_its_policy_is_within(
        clauses: list[tuple[str, ...]], written: str) -> None:
    every = tuple(f"hardrun-{n}" for n in ("agent", "build", "contained", "judge", "untrusted"))
    [setting] = [o for o in _labels(_host(profiles=every), *clauses) if o.name == "set_exec_label"]
    assert setting.values == ("apparmor", f"exec {written}")


def test_a_stored_plan_is_stale_when_a_profile_comes_or_goes() -> None:
    host = _host(profiles=(OURS,))
    operations = _labels(host, (f"apparmor:{OURS}", "landlock"), ("apparmor:new", "landlock"),
                         pinned=False)
    assert {o.values for o in operations if o.name == "require_label"} == {
        ("apparmor", f"exec {OURS}", 1), ("apparmor", "exec new", 0)}


def test_a_stored_plan_depends_on_the_label_of_its_caller() -> None:
    planned = plan(host=_host("tool (enforce)"), pinned=False,
                   values={"mandatory": frozenset({("apparmor:a",)})})
    assert "tool (enforce)" in {o.values[1] for o in named(planned, "require_content")}


@pytest.mark.parametrize("count", [0, 1, 2, 1024])
def test_of_selinux_a_plan_has_the_type_and_the_executor_draws_the_rest(count: int) -> None:
    host = facts(selinux=YES, selinux_types=("hardrun_judge_t", "hardrun_untrusted_t"),
                 selinux_categories=count)
    planned = plan(host=host, values={"mandatory": frozenset(
        {("selinux:hardrun_judge_t",), ("selinux:hardrun_untrusted_t", "landlock")})})
    assert {o.name: o.values for o in planned.operations if "label" in o.name} == {
        "draw_label": ("hardrun_judge_t", "hardrun_judge_file_t", int(count > 1)),
        "set_exec_label": ("selinux", "hardrun_judge_t"),
        "expect_label": ("selinux", "hardrun_judge_t")}


def test_a_stored_plan_depends_on_whether_selinux_enforces() -> None:
    planned = plan(pinned=False, values={"mandatory": frozenset({("selinux:t_t", "landlock")})})
    assert "/sys/fs/selinux/enforce" in {o.values[0] for o in planned.operations
                                         if o.name.startswith("require_")}


@pytest.mark.parametrize("flags", [{"rw": ["/tmp:/usr/local/lib"]}, {"tmpfs": ["/etc/x"]}])
def test_a_writable_grant_that_the_profile_would_refuse_is_refused_before(
        flags: dict[str, list[str]]) -> None:
    values = {"mandatory": frozenset({(f"apparmor:{OURS}",)})}
    with pytest.raises(PolicyRefused, match="lets nothing be written below /(usr|etc)"):
        plan(host=_host(), values=values, **flags)


def test_nothing_is_said_of_labels_on_a_host_without_them() -> None:
    assert not _labels(facts(), (f"apparmor:{OURS}", "landlock"), pinned=False)
