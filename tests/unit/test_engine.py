"""The engine on policies that ship and on small ones: refusals, hints, ways out, hosts."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from hardrun.errors import BadInput, HostUnsupported, PlanError, PolicyRefused
from hardrun.host.facts import Fact
from hardrun.policy.decision import Decision
from hardrun.policy.engine import Asked, Places, decide, grant, place
from hardrun.workload.model import Environment
from tests.policies import HOME, NO, PROJECT, YES, facts, mount, policy, shipped, workload

UNTRUSTED = shipped().policies


def _refused(policies: Any = UNTRUSTED, **request: Any) -> PolicyRefused:
    with pytest.raises(PolicyRefused) as caught:
        decide(workload(**request), policies, facts())
    return caught.value


def test_more_memory_than_allowed_is_refused_with_line_flag_and_a_policy_that_allows_it() -> None:
    error = _refused(limits={"memory": 2 << 30})
    assert error.message.startswith(
        "refused: limits.memory: 2 GiB asked (--memory), at most 1 GiB (policies/untrusted.yaml:")
    assert error.hint is not None
    assert error.hint.startswith("--memory 1G, or a policy that allows more:")
    assert "build (8 GiB)" in error.hint


def test_every_control_at_fault_is_named() -> None:
    error = _refused(limits={"memory": 2 << 30, "pids": 5000}, network="host",
                     environment=Environment(inherit=("TOKEN",)))
    named = {refusal.control for refusal in error.refusals}  # type: ignore[attr-defined]
    assert named == {"limits.memory", "limits.pids", "network", "environment"}


def test_the_host_network_under_untrusted_is_refused_and_the_hint_names_a_policy() -> None:
    error = _refused(network="host")
    assert "network: host asked (--network), at most none" in error.message
    assert "build (host)" in (error.hint or "")


@pytest.mark.parametrize("path", [
    "/", "/home", HOME, f"{HOME}/.ssh", f"{HOME}/.aws/credentials", "/etc", "/etc/shadow",
    "/proc/1", "/sys/fs/cgroup", "/dev/sda", "/run/docker.sock", "/run/user/1000", "/var/run",
    f"{HOME}/.config", f"{HOME}/.docker"])
@pytest.mark.parametrize("name", ["untrusted", "judge", "agent", "build", "contained"])
def test_a_known_way_out_is_never_shown(name: str, path: str) -> None:
    error = _refused(shipped(name).policies, mounts=(mount("ro", path),))
    assert "filesystem.readable" in error.message
    assert "known way out" in error.message


@pytest.mark.parametrize("path", [
    "/usr/local", "/etc", f"{HOME}/.bashrc", f"{HOME}/.config/autostart", f"{HOME}/.local/bin",
    f"{HOME}/.config/hardrun/policy.d", f"{HOME}/.cache/hardrun", "/tmp", HOME])
@pytest.mark.parametrize("name", ["untrusted", "agent", "build", "contained"])
def test_what_is_executed_later_outside_is_never_writable(name: str, path: str) -> None:
    _refused(shipped(name).policies, mounts=(mount("rw", path),))


def test_a_danger_with_a_reason_opens_what_it_names_and_nothing_else() -> None:
    bounds = {"filesystem.readable": frozenset({"/"})}
    mine = policy("mine", bounds)
    (said,) = mine.bounds["filesystem.readable"]
    opened = policy("mine", {})
    object.__setattr__(opened, "bounds", {"filesystem.readable": (
        said._replace(excepted=frozenset({"$HOME/.aws"})),)})
    places = Places(PROJECT, HOME)
    aws = {"filesystem.readable": Asked(frozenset({f"{HOME}/.aws"}), "--ro")}
    ssh = {"filesystem.readable": Asked(frozenset({f"{HOME}/.ssh"}), "--ro")}
    assert grant(aws, [opened], places)
    with pytest.raises(PolicyRefused):
        grant(ssh, [opened], places)
    with pytest.raises(PolicyRefused):
        grant(aws, [opened, mine], places)


@pytest.mark.parametrize("directory", ["/", "/home", HOME])
def test_the_working_directory_never_means_a_home_or_above_it(directory: str) -> None:
    paths = frozenset({"$workdir", "$workdir/out", "/srv"})
    assert place(paths, "filesystem.writable", Places(directory, HOME)) == {"/srv"}


def test_symbolic_paths_become_those_of_the_workload() -> None:
    paths = frozenset({"$workdir", "$HOME/data", "/"})
    assert place(paths, "filesystem.writable", Places(PROJECT, HOME)) == {"/"}
    assert place(frozenset({"$HOME/data"}), "filesystem.readable", Places(PROJECT, HOME)) == {
        f"{HOME}/data"}


def test_env_adds_to_what_is_harmless_and_is_bounded() -> None:
    granted = decide(workload(environment=Environment(inherit=("CI",))), shipped("agent").policies,
                     facts()).control("environment")
    assert set(granted.value) >= {"CI", "PATH", "LANG"}
    assert "GITHUB_TOKEN" in _refused(environment=Environment(inherit=("GITHUB_TOKEN",))).message


def test_a_default_looser_than_a_bound_is_clipped_and_recorded() -> None:
    site = policy("site", {"limits.memory": 64 << 20})
    decision = decide(workload(), [*UNTRUSTED, site], facts())
    memory = decision.control("limits.memory")
    assert (memory.value, memory.clipped_from) == (64 << 20, "256 MiB")
    assert memory.decided_by == "site.yaml:10"


def test_a_policy_of_one_line_takes_nothing_else_away() -> None:
    site = policy("site", {"limits.memory": 64 << 20})
    alone = decide(workload(), UNTRUSTED, facts())
    both = decide(workload(), [*UNTRUSTED, site], facts())
    changed = {a.control for a, b in zip(alone.controls, both.controls, strict=True)
               if a.value != b.value}
    assert changed == {"limits.memory"}


def test_policies_apply_by_label_trust_command_user_and_group() -> None:
    bounds = {"limits.memory": 1 << 20}
    for match, changes in (({"trust": "low"}, {"trust": "low"}),
                           ({"labels": {"team": "a*"}}, {"labels": {"team": "abc"}}),
                           ({"command": "python*"}, {}), ({"user": "user"}, {}),
                           ({"group": "1000"}, {}), ({"host": "x86_64"}, {}),
                           ({"image": "/srv/*"}, {"rootfs": "/srv/root"}), ({}, {})):
        site = policy("site", bounds, chosen=False, match=match)
        decision = decide(workload(**changes), [*UNTRUSTED, site], facts())
        assert decision.policies == ("site", "untrusted"), match
    for other in ({"trust": "low"}, {"labels": {"team": "b"}}, {"command": "ruby"}, None):
        site = policy("site", bounds, chosen=False, match=other)
        assert decide(workload(), [*UNTRUSTED, site], facts()).policies == ("untrusted",)


def test_groups_that_can_not_be_dropped_refuse_untrusted_and_degrade_build() -> None:
    host = facts(supplementary_groups=(27,), newgidmap=NO)
    with pytest.raises(HostUnsupported) as caught:
        decide(workload(), UNTRUSTED, host)
    assert caught.value.fact == "newgidmap"
    assert caught.value.cause == NO.cause
    assert str(caught.value.hint).startswith(NO.fix)
    assert "a policy that accepts this: " in str(caught.value.hint)
    decision = decide(workload(), shipped("build").policies, host)
    assert decision.control("ids.supplementary_groups").enforcement.kind == "degraded"


def test_no_policy_is_proposed_where_a_limit_was_demanded() -> None:
    """None would take it: what a request names is refused wherever nothing enforces it."""
    host = facts(cgroup=NO, cgroup_delegation=NO)
    with pytest.raises(HostUnsupported, match=r"limits\.cpus") as caught:
        decide(workload(limits={"cpus": 500}), UNTRUSTED, host)
    assert "a policy that accepts this" not in str(caught.value.hint)


def test_a_host_without_user_namespaces_is_refused_with_the_fix() -> None:
    with pytest.raises(HostUnsupported, match="no user namespace: EPERM") as caught:
        decide(workload(), UNTRUSTED, facts(user_namespaces=NO))
    assert str(caught.value.hint).startswith(f"{NO.fix}; or a policy that accepts the landlock")
    # One cause takes a dozen controls with it: it is told once, in a line that can be read.
    assert str(caught.value).count("no user namespace: EPERM") == 1
    assert caught.value.controls == ("min_tier",)
    assert caught.value.fact == "user_namespaces"


def test_one_cause_is_told_once_whatever_it_takes_with_it() -> None:
    gone = Fact(available=False, detail="not tried: Too many open files", fix="ulimit -n 64",
                layer="limit of open files", cause="open-files")
    names = ("user_namespaces", "mount_namespace", "network_namespace", "seccomp", "pid_namespace")
    lacking = dict.fromkeys(names, gone)
    with pytest.raises(HostUnsupported) as caught:
        decide(workload(), UNTRUSTED, facts(**lacking))
    assert str(caught.value).count("Too many open files") == 1
    assert "(limit of open files)" in str(caught.value)
    assert caught.value.hint == "ulimit -n 64"
    assert caught.value.cause == "open-files"


def test_a_danger_that_is_used_is_in_the_decision_with_its_reason() -> None:
    policies = shipped("build").policies
    assert decide(workload(), policies, facts()).dangers == ()
    dangers = decide(workload(network="host"), policies, facts()).dangers
    assert {(d.control, d.shown) for d in dangers} == {("network", "host")}
    assert all(d.reason and "yaml:" in d.origin for d in dangers)


def test_a_decision_can_not_be_changed_and_holds_no_environment_values() -> None:
    secret = workload(environment=Environment(values=(("TOKEN", "s3cret"),)))
    decision = decide(secret, UNTRUSTED, facts())
    assert b"s3cret" not in decision.to_json()
    with pytest.raises(TypeError):
        decision.workload["argv"] = ()
    with pytest.raises(FrozenInstanceError):
        decision.policies = ()  # type: ignore[misc]


def test_any_bytes_of_the_command_survive_in_a_decision() -> None:
    decision = decide(workload(argv=("a\udcff\x1b", "ü")), UNTRUSTED, facts())
    again = Decision.from_json(decision.to_json())
    assert again == decision
    assert again.digest == decision.digest
    assert again.workload["argv"] == ("a\udcff\x1b", "ü")
    assert pickle.loads(pickle.dumps(decision)) == copy.deepcopy(decision) == decision


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff", b"[" * 100_000,
    b'{"policies": [1], "controls": []}', b'{"policies": [], "controls": [], "more": 1}'])
def test_what_is_no_decision_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError):
        Decision.from_json(data)


def test_a_decision_of_another_version_is_refused() -> None:
    other = replace(decide(workload(), UNTRUSTED, facts()), schema_version=99)
    with pytest.raises(PlanError, match="version 99"):
        Decision.from_json(other.to_json())


def test_a_control_that_does_not_exist_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no control"):
        grant({"limits.luck": Asked(1, "--luck")}, UNTRUSTED, Places(PROJECT, HOME))


@pytest.mark.parametrize("rootfs", ["/", "/home", HOME, f"{HOME}/.ssh", f"{HOME}/.ssh/x", "/etc",
                                    "/run", "/var/lib/containers"])
def test_a_root_file_system_that_shows_a_known_way_out_is_refused(rootfs: str) -> None:
    assert "--rootfs; policies/" in _refused(rootfs=rootfs).message
    assert "known way out" in _refused(rootfs=rootfs).message


@pytest.mark.parametrize("rootfs", [
    "/srv/image", f"{HOME}/images/alpine", "/var/lib/containers/storage/overlay/1/merged"])
def test_an_image_is_a_root_file_system(rootfs: str) -> None:
    assert decide(workload(rootfs=rootfs), UNTRUSTED, facts())


def test_a_limit_that_is_asked_for_and_that_nothing_enforces_is_refused() -> None:
    """The policy accepts that its own limit of CPUs is degraded; who says --cpus means it."""
    lacking = facts(cgroup=NO, cgroup_controllers=())
    chosen = shipped("untrusted").policies
    decided = decide(workload(), chosen, lacking)
    assert decided.control("limits.cpus").enforcement.by == ()
    with pytest.raises(HostUnsupported) as refused:
        decide(workload(limits={"cpus": 500}), chosen, lacking)
    assert refused.value.controls == ("limits.cpus",)
    able = facts(cgroup=YES, cgroup_controllers=("cpu",))
    granted = decide(workload(limits={"cpus": 500}), chosen, able).control("limits.cpus")
    assert granted.enforcement.by == ("cgroup:cpu.max",)
