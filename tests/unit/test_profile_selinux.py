"""SELinux modules made from policies: what they say, and that secilc takes them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from hardrun.errors import BadInput, HostUnsupported, PolicyError
from hardrun.kernel.selinux import file_type
from hardrun.posture.mandatory import MANDATORY
from hardrun.profile import selinux, selinux_host
from hardrun.profile.rules import rules_of

PARENTS = {"untrusted": "contained", "judge": "untrusted", "agent": "contained",
           "build": "contained"}
needs_secilc = pytest.mark.skipif(not shutil.which("secilc", path="/usr/bin:/usr/sbin"),
                                  reason="secilc is not installed")


def _attributes(policy: str) -> set[str]:
    module = selinux.policy_module(policy)
    return set(re.findall(r"\(typeattributeset (\w+) ", module))


@pytest.mark.parametrize("policy", selinux.SHIPPED)
def test_what_ships_is_what_the_policy_says_now(policy: str) -> None:
    assert selinux_host.text(f"hardrun-{policy}") == selinux.policy_module(policy)


@pytest.mark.parametrize("policy, parent", PARENTS.items())
def test_a_type_is_bounded_by_that_of_the_policy_it_is_within(policy: str, parent: str) -> None:
    module = selinux.policy_module(policy)
    ours, above = selinux.type_of(policy), selinux.type_of(parent)
    assert f"(typebounds {above} {ours})" in module
    assert f"(typebounds {file_type(above)} {file_type(ours)})" in module
    assert _attributes(policy) <= _attributes(parent)


def test_the_classes_follow_the_seccomp_profiles() -> None:
    assert "hardrun_inet_domain" not in _attributes("judge")
    assert "hardrun_inet_domain" in _attributes("untrusted")
    assert "hardrun_ptrace_domain" not in _attributes("untrusted")
    assert "hardrun_ptrace_domain" in _attributes("build")
    assert not any("hardrun_key_domain" in _attributes(policy) for policy in selinux.SHIPPED)


def test_capabilities_are_those_of_the_bounds_and_of_the_user_namespace_alone() -> None:
    for policy in selinux.SHIPPED:
        module = selinux.policy_module(policy)
        granted = re.findall(r"\(allow \w+ self \(cap_userns \(([^)]*)\)\)\)", module)
        assert " ".join(granted).split() == list(rules_of(policy).capabilities)
        assert "(capability" not in module


def test_a_policy_of_ones_own_has_a_module_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: mine}\n"
                    "within: [contained]\nbounds: {capabilities: [CHOWN], devices: [null]}\n")
    module = selinux_host.generate(str(file))
    assert "(typebounds hardrun_contained_t hardrun_mine_t)" in module
    assert "(allow hardrun_mine_t self (cap_userns (chown)))" in module
    assert "zero_device_t" not in module
    if shutil.which("secilc"):
        assert selinux_host.check(module) == ""


def test_each_type_is_named_by_its_policy() -> None:
    for policy in selinux.SHIPPED:
        value = MANDATORY.parse([{"selinux": selinux.type_of(policy)}, "refuse"])
        assert value in {MANDATORY.parse([{"selinux": t}, "refuse"])
                         for t in _named(Path("policies") / f"{policy}.yaml")}


def _named(policy: Path) -> list[str]:
    text = (Path(__file__).parents[2] / policy).read_text("utf-8")
    return re.findall(r"\{selinux: (\w+)\}", text)


@needs_secilc
@pytest.mark.parametrize("name", selinux_host.names())
def test_secilc_takes_what_ships(name: str) -> None:
    assert selinux_host.check(selinux_host.text(name)) == ""


@needs_secilc
@pytest.mark.parametrize("policy, extra", [
    ("judge", "(typeattributeset hardrun_ptrace_domain (hardrun_judge_t))"),
    ("untrusted", "(allow hardrun_untrusted_t self (cap_userns (sys_admin)))"),
    ("agent", "(allow hardrun_agent_t port_t hardrun_device)"),
])
def test_secilc_holds_a_type_to_its_bounds(policy: str, extra: str) -> None:
    complaint = selinux_host.check(selinux.policy_module(policy) + extra + "\n")
    assert f"hardrun_{policy}_t exceeds bounds" in complaint


@needs_secilc
@pytest.mark.parametrize("text", ["(", "(type", "(allow a b (file (read)))", "\x00", "(call x)"])
def test_what_is_no_module_is_told_in_one_line(text: str) -> None:
    complaint = selinux_host.check(text)
    assert complaint
    assert "\n" not in complaint


def test_without_secilc_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux_host, "_DIRECTORIES", ("/nowhere",))
    with pytest.raises(HostUnsupported, match="no secilc"):
        selinux_host.check("(type a)")


def test_root_is_told_the_whole_command() -> None:
    words = selinux_host.command("install", ["hardrun-judge"]).split()
    assert words[:2] == ["semodule", "-i"]
    assert [Path(word).name for word in words[2:]] == [
        "hardrun.cil", "hardrun-contained.cil", "hardrun-judge.cil", "hardrun-untrusted.cil"]
    assert all(os.path.isfile(word) for word in words[2:])
    assert selinux_host.command("remove", []).split()[2:] == list(selinux_host.names())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BadInput, match="ships no SELinux module"):
        selinux_host.text("hardrun-nosuch")
    with pytest.raises(BadInput, match="ships no SELinux module"):
        selinux_host.remove(["../hardrun"])
    with pytest.raises(PolicyError):
        selinux_host.generate("nosuch")
    with pytest.raises(BadInput, match="AppArmor"):
        selinux_host.generate("judge", "4.0")
