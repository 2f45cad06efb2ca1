"""``hardrun why`` and ``hardrun policy``: answers with lines and with what would loosen them."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from hardrun.cli.policy import command as policy_command
from hardrun.cli.why import command as why_command
from hardrun.errors import BadInput
from hardrun.kernel.seccomp.prebuilt import find
from hardrun.kernel.seccomp.profile import load
from hardrun.policy.engine import Places
from hardrun.policy.why import Answer, Question
from tests.policies import HOME, PROJECT, shipped


def _why(text: str, *policies: str) -> Answer:
    return Question(text, shipped(*policies).policies, Places(PROJECT, HOME),
                    architecture="x86_64", kernel_release="6.12.1",
                    profile=lambda reference: load(find(reference))).answer()


def test_a_secret_is_not_visible_and_only_a_danger_would_show_it() -> None:
    answer = _why(f"{HOME}/.aws/credentials")
    assert (answer.kind, answer.allowed) == ("path", False)
    assert "cloud credentials" in answer.reason
    assert "policies/contained.yaml:" in answer.reason
    assert {gate.layer for gate in answer.gates} == {"mounts", "Landlock", "policy"}
    assert "danger" in answer.loosen[0]


def test_a_file_of_the_project_can_be_shown_by_a_flag() -> None:
    answer = _why(f"{PROJECT}/x")
    assert not answer.allowed
    assert answer.loosen[:2] == (f"--ro {PROJECT}/x", f"--rw {PROJECT}/x")


def test_a_program_is_visible_and_never_writable() -> None:
    answer = _why("/usr/bin/env")
    assert answer.allowed
    assert not any(gate.allows for gate in answer.gates if gate.control == "filesystem.writable")


def test_an_address_is_gated_by_the_network_namespace_and_names_what_opens_it() -> None:
    answer = _why("example.org:443")
    assert not answer.allowed
    assert answer.gates[0].layer == "network namespace"
    assert "--network host with --policy build" in answer.loosen
    assert _why("example.org:443", "build").loosen == ("--network host",)


@pytest.mark.parametrize("text", ["CAP_SYS_ADMIN", "SYS_ADMIN", "cap_sys_admin"])
def test_a_capability_names_every_layer_and_what_it_would_open(text: str) -> None:
    answer = _why(text)
    assert (answer.kind, answer.allowed) == ("capability", False)
    assert {gate.layer for gate in answer.gates} >= {"capability sets", "bounding set",
                                                     "no_new_privs", "user namespace"}
    assert "under 'danger:'" in answer.loosen[0]


def test_a_system_call_cites_the_line_of_the_profile() -> None:
    denied, allowed = _why("ptrace"), _why("read")
    assert (denied.kind, denied.allowed, allowed.allowed) == ("system call", False, True)
    assert "--policy build" in denied.loosen or "--policy contained" in denied.loosen
    assert ".json:" in allowed.gates[0].origin
    assert ", for some arguments" in _why("clone").reason


@pytest.mark.parametrize("text", ["/proc/1/mem", "/proc/sys/kernel/core_pattern", "/dev/kmsg"])
def test_proc_and_dev_are_never_the_hosts_own(text: str) -> None:
    answer = _why(text)
    assert "the host's own is never shown" in answer.reason
    assert answer.allowed == (text == "/proc/1/mem")


@pytest.mark.parametrize("text", ["", "no such thing", "host:99999", "nosuchcall", "A-B"])
def test_what_is_no_question_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        _why(text)


def _output(command: object, *arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


def test_why_prints_one_line_and_the_layers_or_a_document() -> None:
    assert _output(why_command, "CAP_BPF").startswith("denied: CAP_BPF not granted (policies/")
    document = json.loads(_output(why_command, "--json", "ptrace"))
    assert (document["schema"], document["schema_version"]) == ("hardrun.why", 1)
    assert document["allowed"] is False
    assert document["gates"][0]["origin"].startswith("profiles/seccomp/untrusted.json")


def test_the_policy_commands_answer() -> None:
    assert "untrusted" in _output(policy_command, "list")
    assert {p["name"] for p in json.loads(_output(policy_command, "list", "--json"))["policies"]} \
        >= {"untrusted", "judge", "agent", "build", "contained", "docker-default"}
    assert "no problem found" in _output(policy_command, "check")
    passed = re.search(r"untrusted: (\d+) of (\d+) tests pass",
                       _output(policy_command, "test", "untrusted"))
    assert passed is not None
    assert passed[1] == passed[2] != "0"
    assert "# judge: " in _output(policy_command, "show", "judge")
    assert "policies/contained.yaml:" in _output(policy_command, "show", "--effective", "judge")
    schema = json.loads(_output(policy_command, "schema"))
    assert schema["$defs"]["Controls"]["properties"]["limits"]["properties"]["memory"]


def test_diff_says_which_of_two_policies_is_the_looser_one() -> None:
    differences = {d["control"]: d["relation"] for d in json.loads(
        _output(policy_command, "diff", "--json", "docker-default", "untrusted"))["controls"]}
    assert differences["capabilities"] == "looser"
    assert differences["no_new_privs"] == "looser"
    assert differences["seccomp"] == "incomparable"
    assert "network" in _output(policy_command, "diff", "untrusted", "build")
