"""The table of ``hardrun explain``."""

from __future__ import annotations

from dataclasses import replace

from hardrun.cli.explain import lines_of
from hardrun.policy.decision import ControlDecision, Danger, Decision
from hardrun.posture.control import degraded, enforced, replaced


def decision(*controls: ControlDecision, dangers: tuple[Danger, ...] = ()) -> Decision:
    return Decision(policies=("untrusted",), controls=controls, dangers=dangers, workload={})


NETWORK = ControlDecision(control="network", value="none", shown="none",
                          decided_by="untrusted.yaml:10",
                          enforcement=enforced("network namespace"))
WRITABLE = ControlDecision(control="filesystem.writable", value=["/home/u/hw3"], shown="~/hw3",
                           asked_by="--rw", decided_by="--rw", bound_by="untrusted.yaml:21",
                           enforcement=enforced("mounts", "Landlock"))
MANDATORY = ControlDecision(control="mandatory", value=["landlock"], shown="Landlock",
                            decided_by="untrusted.yaml:16",
                            enforcement=replaced("Landlock ABI 7",
                                                 because="AppArmor not in this kernel"))
MEMORY = ControlDecision(control="limits.memory", value=1, shown="256 MiB",
                         decided_by="untrusted.yaml:27 default", bound_by="untrusted.yaml:24",
                         clipped_from="2 GiB",
                         enforcement=degraded("RLIMIT_DATA", because="memory not delegated",
                                              fix="systemctl edit user@"))


def test_each_control_has_a_line_and_each_fix_its_own() -> None:
    lines = lines_of(decision(NETWORK, WRITABLE, MANDATORY, MEMORY))
    words = [" ".join(line.split()) for line in lines]
    assert words[:6] == [
        "control value enforced by decided by",
        "network none network namespace untrusted.yaml:10",
        "filesystem.writable ~/hw3 mounts, Landlock request --rw; within untrusted.yaml:21",
        "mandatory Landlock Landlock ABI 7 (fallback) untrusted.yaml:16; "
        "host: AppArmor not in this kernel",
        "limits.memory 256 MiB RLIMIT_DATA (degraded) untrusted.yaml:27 default; "
        "clipped from 2 GiB by untrusted.yaml:24; host: memory not delegated",
        "fix: systemctl edit user@",
    ]
    column = lines[0].index("decided by")
    assert lines[5].index("fix:") == column


def test_the_last_line_has_the_digest_and_the_counts() -> None:
    made = decision(NETWORK, WRITABLE, MANDATORY, MEMORY)
    assert lines_of(made)[-1] == (f"decision sha256:{made.digest}   4 controls: 2 enforced, "
                                  "1 fallback, 1 degraded")


def test_a_danger_is_shown_with_its_reason() -> None:
    danger = Danger(control="network", shown="host", reason="pip", origin="build.yaml:9")
    assert "danger: network: host: pip (build.yaml:9)" in lines_of(decision(dangers=(danger,)))


def test_a_file_name_cannot_steer_the_terminal() -> None:
    hostile = replace(WRITABLE, shown="\x1b[2J")
    assert not any("\x1b" in line for line in lines_of(decision(hostile)))
