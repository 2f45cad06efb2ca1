"""AppArmor profiles made from policies: what they say, and that the parser takes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from hardrun.errors import BadInput, HostUnsupported, PolicyError
from hardrun.policy.load import Directories, read_builtin
from hardrun.posture.mandatory import MANDATORY
from hardrun.profile import apparmor, apparmor_host
from hardrun.profile.rules import Rules, rules_of

RULES = {name: rules_of(name) for name in apparmor.SHIPPED}
PARENTS = {"untrusted": "contained", "judge": "untrusted", "agent": "contained",
           "build": "contained"}


def _elsewhere(profile: str) -> re.Pattern[str]:
    """The pattern of all files but those of /dev, /proc and /sys, as a regular expression."""
    [glob] = re.findall(r"^  (/\{\[.*\}) rwlkmix,$", profile, re.MULTILINE)
    parts = glob.removeprefix("/{").removesuffix("}").split(",")
    return re.compile("/(?:" + "|".join(p.replace("**", ".*") for p in parts) + ")")


@pytest.mark.parametrize("path", [
    "/", "/usr", "/home/u/x", "/d", "/d/x", "/de", "/de/v", "/dex", "/dev2/x", "/devices", "/p",
    "/pr/oc", "/process", "/s", "/sy/s", "/srv/data", "/sysx", "/tmp/dev", "/x/proc/1", "/prod"])
def test_what_is_not_of_the_kernel_is_left_to_the_mounts(path: str) -> None:
    pattern = _elsewhere(apparmor.policy_profile("untrusted"))
    assert pattern.fullmatch(path) or path == "/"


@pytest.mark.parametrize("path", ["/dev", "/proc", "/sys", "/dev/sda",
                                  "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper",
                                  "/proc/1/root/etc/shadow"])
def test_no_general_rule_reaches_what_is_of_the_kernel(path: str) -> None:
    assert not _elsewhere(apparmor.policy_profile("untrusted")).fullmatch(path)


@pytest.mark.parametrize("policy", apparmor.SHIPPED)
def test_nothing_of_what_leads_out_is_allowed(policy: str) -> None:
    profile = apparmor.policy_profile(policy, "4.0")
    rules = [line.strip() for line in profile.splitlines()
             if line.startswith("  ") and not line.strip().startswith(("#", "audit deny"))]
    forbidden = ("mount", "umount", "remount", "pivot_root", "change_profile", "userns",
                 "capability sys_", "capability dac_", "network packet", "network inet raw",
                 "network alg", "network vsock", "capability,", "network,", "file,", "ptrace,",
                 "signal,", "unix,", "dbus", "io_uring")
    assert not [r for r in rules for word in forbidden if r.startswith(word)]
    assert "attach_disconnected" not in profile
    assert not [r for r in rules if "/sys" in r.split(",")[0] and "[" not in r]


@pytest.mark.parametrize("policy, parent", PARENTS.items())
def test_a_profile_allows_no_more_than_that_of_the_policy_it_is_within(
        policy: str, parent: str) -> None:
    strict, loose = RULES[policy], RULES[parent]
    assert set(strict.capabilities) <= set(loose.capabilities)
    assert strict.calls <= loose.calls
    for family, types in strict.sockets.items():
        assert set(types) <= set(loose.sockets.get(family, ())), family
    assert set(strict.devices) <= set(loose.devices)
    for name in ("system", "seen", "written"):
        assert set(getattr(strict, name)) >= set(getattr(loose, name)), name
    assert (strict.terminal, strict.nested) <= (loose.terminal, loose.nested)
    kinds = ("none", "pid", "masked")
    assert kinds.index(strict.proc) <= kinds.index(loose.proc)


def test_labels_carry_each_other_as_the_policies_are_within_each_other() -> None:
    policies = {p.name: p for p in read_builtin(Directories.standard().builtin)}
    for policy, parent in PARENTS.items():
        assert [name for name, _ in policies[policy].within] == [parent]
        strict = frozenset({(f"apparmor:hardrun-{policy}",)})
        loose = frozenset({(f"apparmor:hardrun-{parent}",)})
        assert MANDATORY.compare(strict, loose) == "stricter"
        assert MANDATORY.meet(strict, loose) == strict


@pytest.mark.parametrize("policy", apparmor.SHIPPED)
def test_the_policy_names_its_own_profile(policy: str) -> None:
    policies = {p.name: p for p in read_builtin(Directories.standard().builtin)}
    [said] = policies[policy].bounds["mandatory"]
    [clause] = said.value
    assert clause[0] == f"apparmor:hardrun-{policy}"


def test_the_bounds_of_a_policy_come_through(tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(
        "apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: mine}\nwithin: [contained]\n"
        "bounds:\n  capabilities: [CHOWN]\n  seccomp: judge\n  terminal: none\n"
        "  devices: [null]\n  filesystem: {proc: none}\n")
    rules = rules_of(str(policy))
    assert isinstance(rules, Rules)
    assert rules.capabilities == ("chown",)
    assert "inet" not in rules.sockets
    text = apparmor.policy_profile(str(policy))
    assert "profile hardrun-mine " in text
    assert "/proc/" not in text.replace("/proc and", "")
    assert "/dev/pts" not in text
    assert "/dev/{null} rw," in text


@pytest.mark.parametrize("wrong", ["no-such-policy", "/no/such/file.yaml"])
def test_a_policy_that_is_not_there_is_an_error(wrong: str) -> None:
    with pytest.raises(PolicyError):
        apparmor.policy_profile(wrong)


def test_an_abi_that_is_not_known_is_an_error() -> None:
    with pytest.raises(BadInput, match="3.0 and 4.0"):
        apparmor.policy_profile("untrusted", "5.0")


def test_the_parser_of_this_host_takes_what_ships_and_says_what_is_wrong() -> None:
    if not any(os.access(path, os.X_OK) for path in apparmor_host._PARSERS):
        with pytest.raises(HostUnsupported, match="apparmor_parser"):
            apparmor_host.check("")
        return
    for name in apparmor_host.names():
        if apparmor_host.needed(name):
            assert apparmor_host.check(apparmor_host.text(name)) == "", name
    assert "syntax error" in apparmor_host.check("profile x { nonsense }\n")


def test_the_executors_profile_grants_namespaces_to_one_program() -> None:
    text = apparmor.executor_profile("/opt/a b/hardrun-exec")
    assert 'profile hardrun "/opt/a b/hardrun-exec" flags=(unconfined) {' in text
    assert "  userns,\n" in text
    assert "userns,\n" not in apparmor.executor_profile("/x", "3.0")
    with pytest.raises(BadInput, match="can't name this path"):
        apparmor.executor_profile('/a"b')
