"""The Pod Security Standards: for every check of v1.35, pods at both sides of its line, and what
each level says of them. The expectations are the standard's, written by its field tables, not taken
from the rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hardrun.audit import judge
from hardrun.audit.rules import catalogue, of_policy, select
from hardrun.policy.load import load_policies
from tests.audit import examples

RULES = catalogue()
ALLOWED, BASELINE, RESTRICTED = 0, 1, 2  # the strictest level that a pod violates first

# A pod that says nothing but its image: Baseline allows it, Restricted doesn't.
PLAIN: dict[str, Any] = {"containers": [{"name": "a", "image": "a"}]}
# The least that Restricted allows.
LEAST: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [{"name": "a", "image": "a", "securityContext": {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}]}


def _security(**fields: Any) -> dict[str, Any]:
    return {"container": {"securityContext": fields}}


def _pod(**fields: Any) -> dict[str, Any]:
    return {"securityContext": fields}


# What is put into LEAST, and the first level that has to refuse it (ALLOWED: none).
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "nothing": ({}, ALLOWED),
    "hostNetwork": ({"hostNetwork": True}, BASELINE),
    "hostNetwork false": ({"hostNetwork": False}, ALLOWED),
    "hostPID": ({"hostPID": True}, BASELINE),
    "hostIPC": ({"hostIPC": True}, BASELINE),
    "shareProcessNamespace": ({"shareProcessNamespace": True}, ALLOWED),
    "hostProcess, pod": (_pod(windowsOptions={"hostProcess": True}), BASELINE),
    "hostProcess, container": (_security(windowsOptions={"hostProcess": True}), BASELINE),
    "privileged": (_security(privileged=True), BASELINE),
    "privileged false": (_security(privileged=False), ALLOWED),
    "add CHOWN": (_security(capabilities={"drop": ["ALL"], "add": ["CHOWN"]}), RESTRICTED),
    "add NET_RAW": (_security(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}), BASELINE),
    "add SYS_ADMIN": (_security(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), BASELINE),
    "add ALL": (_security(capabilities={"drop": ["ALL"], "add": ["ALL"]}), BASELINE),
    "add NET_BIND_SERVICE": (
        _security(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}), ALLOWED),
    "drop nothing": (_security(capabilities={"drop": []}), RESTRICTED),
    "drop NET_RAW alone": (_security(capabilities={"drop": ["NET_RAW"]}), RESTRICTED),
    **{f"add {name}, Baseline's list": (
        _security(capabilities={"drop": ["ALL"], "add": [name]}), RESTRICTED) for name in (
        "AUDIT_WRITE", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "SETFCAP", "SETGID",
        "SETPCAP", "SETUID", "SYS_CHROOT")},
    "hostPath": ({"volumes": [{"name": "v", "hostPath": {"path": "/srv"}}]}, BASELINE),
    **{f"volume {kind}": ({"volumes": [{"name": "v", kind: {}}]}, ALLOWED) for kind in (
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
        "projected", "secret", "image")},
    **{f"volume {kind}": ({"volumes": [{"name": "v", kind: {}}]}, RESTRICTED) for kind in (
        "nfs", "iscsi", "gitRepo", "cephfs", "azureDisk", "flexVolume")},
    "hostPort": ({"container": {"ports": [{"containerPort": 1, "hostPort": 8080}]}}, BASELINE),
    "hostPort 0": ({"container": {"ports": [{"containerPort": 1, "hostPort": 0}]}}, ALLOWED),
    "probe host": ({"container": {"readinessProbe": {"tcpSocket": {"host": "b", "port": 1}}}},
                   BASELINE),
    "hook host": ({"container": {"lifecycle": {"preStop": {"httpGet": {"host": "b", "port": 1}}}}},
                  BASELINE),
    "probe without host": ({"container": {"livenessProbe": {"httpGet": {"port": 1}}}}, ALLOWED),
    "AppArmor Unconfined": (_security(appArmorProfile={"type": "Unconfined"}), BASELINE),
    "AppArmor Unconfined, pod": (_pod(appArmorProfile={"type": "Unconfined"}), BASELINE),
    "AppArmor Localhost": (
        _security(appArmorProfile={"type": "Localhost", "localhostProfile": "x"}), ALLOWED),
    "AppArmor annotation unconfined": ({"annotations": {
        "container.apparmor.security.beta.kubernetes.io/a": "unconfined"}}, BASELINE),
    "AppArmor annotation localhost": ({"annotations": {
        "container.apparmor.security.beta.kubernetes.io/a": "localhost/x"}}, ALLOWED),
    "SELinux type": (_security(seLinuxOptions={"type": "spc_t"}), BASELINE),
    "SELinux container_t": (_security(seLinuxOptions={"type": "container_t"}), ALLOWED),
    "SELinux container_engine_t": (_security(seLinuxOptions={"type": "container_engine_t"}),
                                   ALLOWED),
    "SELinux level": (_security(seLinuxOptions={"level": "s0:c1,c2"}), ALLOWED),
    "SELinux user": (_security(seLinuxOptions={"user": "system_u"}), BASELINE),
    "SELinux role": (_pod(seLinuxOptions={"role": "object_r"}), BASELINE),
    "procMount": (_security(procMount="Unmasked"), BASELINE),
    "procMount Default": (_security(procMount="Default"), ALLOWED),
    "procMount, own ids": ({"hostUsers": False, **_security(procMount="Unmasked")}, RESTRICTED),
    "seccomp Unconfined": (_security(seccompProfile={"type": "Unconfined"}), BASELINE),
    "seccomp Unconfined, pod": (_pod(seccompProfile={"type": "Unconfined"}), BASELINE),
    "seccomp Localhost": (
        _security(seccompProfile={"type": "Localhost", "localhostProfile": "x"}), ALLOWED),
    "seccomp unset": (_pod(seccompProfile=None), RESTRICTED),
    **{f"sysctl {name}": (_pod(sysctls=[{"name": name, "value": "1"}]), ALLOWED) for name in (
        "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
        "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_rmem")},
    "sysctl kernel.msgmax": (_pod(sysctls=[{"name": "kernel.msgmax", "value": "1"}]), BASELINE),
    "sysctl of 1.37": (
        _pod(sysctls=[{"name": "net.ipv4.tcp_notsent_lowat", "value": "1"}]), BASELINE),
    "allowPrivilegeEscalation": (_security(allowPrivilegeEscalation=True), RESTRICTED),
    "allowPrivilegeEscalation unset": (_security(allowPrivilegeEscalation=None), RESTRICTED),
    "runAsNonRoot unset": (_pod(runAsNonRoot=None), RESTRICTED),
    "runAsNonRoot false": (_security(runAsNonRoot=False), RESTRICTED),
    "runAsNonRoot unset, own ids": ({"hostUsers": False, **_pod(runAsNonRoot=None)}, ALLOWED),
    "runAsUser 0": (_security(runAsUser=0), RESTRICTED),
    "runAsUser 0, pod": (_pod(runAsUser=0), RESTRICTED),
    "runAsUser 1000": (_security(runAsUser=1000), ALLOWED),
    "runAsUser 0, own ids": ({"hostUsers": False, **_security(runAsUser=0)}, ALLOWED),
}


def _spec(patch: dict[str, Any], section: str = "containers") -> dict[str, Any]:
    rest = {key: value for key, value in patch.items() if key not in ("container", "annotations")}
    spec: dict[str, Any] = examples.merged(LEAST, rest)
    changed = examples.merged(spec["containers"][0], patch.get("container", {}))
    if section == "containers":
        return spec | {"containers": [changed]}
    return spec | {section: [changed]}


def _violates(spec: dict[str, Any], level: str, annotations: dict[str, str] | None = None) -> bool:
    document = {"apiVersion": "v1", "kind": "Pod", "spec": spec,
                "metadata": {"name": "p", "annotations": annotations or {}}}
    subjects = examples.subjects(json.dumps(document), "pod.json")
    return bool(judge.judge(subjects, select(RULES, [level])).findings)


@pytest.mark.parametrize("name", CASES)
def test_a_pod_is_judged_as_the_standard_has_it(name: str) -> None:
    patch, level = CASES[name]
    answer = (_violates(_spec(patch), "pss-baseline", patch.get("annotations")),
              _violates(_spec(patch), "pss-restricted", patch.get("annotations")))
    assert answer == (level == BASELINE, level in (BASELINE, RESTRICTED))


@pytest.mark.parametrize("section", ["initContainers", "ephemeralContainers"])
@pytest.mark.parametrize("name", [name for name, (patch, _) in CASES.items()
                                  if "container" in patch])
def test_containers_of_every_kind_count(name: str, section: str) -> None:
    patch, level = CASES[name]
    spec = _spec(patch, section)
    assert _violates(spec, "pss-restricted") is (level != ALLOWED)
    assert _violates(spec, "pss-baseline") is (level == BASELINE)


def test_a_pod_that_says_nothing_is_within_baseline_alone() -> None:
    assert not _violates(PLAIN, "pss-baseline")
    assert _violates(PLAIN, "pss-restricted")


def test_on_windows_what_it_lacks_is_not_asked_for() -> None:
    spec = {"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": True},
            "containers": [{"name": "a", "image": "a"}]}
    assert not _violates(spec, "pss-restricted")


def test_every_check_of_the_standard_has_a_rule() -> None:
    checks = {entry for rule in RULES for entry in rule.standards.get("pss", ())}
    assert checks == {
        "baseline/windowsHostProcess", "baseline/hostNamespaces", "baseline/privileged",
        "baseline/capabilities_baseline", "baseline/hostPathVolumes", "baseline/hostPorts",
        "baseline/hostProbesAndHostLifecycle", "baseline/appArmorProfile",
        "baseline/seLinuxOptions", "baseline/procMount", "baseline/seccompProfile_baseline",
        "baseline/sysctls", "restricted/restrictedVolumes", "restricted/allowPrivilegeEscalation",
        "restricted/runAsNonRoot", "restricted/runAsUser", "restricted/seccompProfile_restricted",
        "restricted/capabilities_restricted", "restricted/procMount_restricted"}


def test_every_part_of_the_benchmark_that_a_configuration_answers_has_a_rule() -> None:
    """Section 5 of CIS Docker 1.6.0; the others ask the daemon, its history or the admin."""
    covered = {entry for rule in RULES for entry in rule.standards.get("cis", ())}
    expected = {2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 16, 17, 18, 20, 21, 22, 25, 26, 27, 28, 29,
                31, 32}
    assert covered == {f"5.{number}" for number in expected}


def test_rules_of_a_standard_are_the_bounds_of_its_policy() -> None:
    """What an audit finds is what a run under the policy of the standard would refuse."""
    loaded = load_policies(["pss-baseline", "pss-restricted"], complete=False)
    policies = {p.name: p for p in loaded.policies if p.chosen}
    bounds = {name: {test.control.id: test.value for rule in of_policy(policy)
                     for test in rule.tests[:1]} for name, policy in policies.items()}
    tests = {rule.id: rule.tests[0].value for rule in RULES}
    assert tests["cap-added"] == bounds["pss-baseline"]["capabilities"]
    assert tests["cap-not-dropped"] == bounds["pss-restricted"]["capabilities"]
    assert tests["new-privileges"] == bounds["pss-restricted"]["no_new_privs"]
    assert tests["runs-as-root"] == bounds["pss-restricted"]["ids.user"]
    assert bounds["pss-baseline"]["filesystem.writable"] == frozenset()  # host-path


def test_what_docker_does_unasked_is_within_docker_default() -> None:
    loaded = load_policies(["docker-default"], complete=False)
    (policy,) = [p for p in loaded.policies if p.chosen]
    (plain,) = examples.subjects("services: {web: {image: 'a:1'}}", "compose.yaml")
    assert not judge.judge([plain], of_policy(policy)).findings
