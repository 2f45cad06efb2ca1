"""The suite would notice: whatever is left out of a plan is refused, or missed by a test.

A test that passes without the defence that it is about shows nothing. Attacks have their negative
control beside them (test_attacks.py); here it is turned round: for each operation of a plan, each
layer and each attack that is said to come to nothing anywhere, who would tell?
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.escape.attacks import Attack
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import call, words_of
from tests.escape.registry import ATTACKS
from tests.escape.sandbox import Sandbox
from tests.house.tree import ROOT

pytestmark = pytest.mark.sandbox
MISSED = {
    "join_session_keyring": "tests/escape/test_namespaces.py::test_ns_09_no_key",
    "standard_io": "tests/escape/test_teardown.py::test_rs_08_what_the_api",
    "timeout": "tests/escape/test_teardown.py::test_rs_09",
    "watch": "tests/escape/test_limits.py::test_rs_03",
    "make_private": "tests/escape/test_mounts.py::test_fs_11",
    "make_symlink": "tests/escape/test_proc_and_devices.py::test_dv_01",
    "bind_device": "tests/escape/test_proc_and_devices.py::test_dv_01",
    "mount_proc": "tests/escape/test_proc_and_devices.py::test_pr_01",
    "set_groups": "tests/escape/test_credentials.py::test_us_02",
    "argument": "tests/sandbox/test_executor_io.py::test_arguments_of_any_bytes",
    "arguments_of_caller": "tests/escape/test_boundary.py::test_pl_06_every_argument",
    "environment": "tests/escape/test_boundary.py::test_pl_06_an_empty_environment",
    "environment_of_caller": "tests/escape/test_namespaces.py::test_ns_10",
    "set_umask": "tests/escape/test_namespaces.py::test_ns_12_what_the_caller_did",
    "set_limit": "tests/escape/test_limits.py::test_rs_05_every_limit",
    "change_directory": "tests/escape/test_descriptors.py::test_cve_2024_21626_fd_04",
}
"""Operations that a plan can lack and still run, as no layer's: the test that then fails."""
WAITS = {"await_id_maps"}  # left out, the start fails, or what it waits for came in time
UNTRIED = {"not on every machine", "this host has no network"}
"""Reasons that hold for a machine: elsewhere the attack may work, and has to be tried there."""


def conclusive() -> set[str]:
    """The layers without which some attack is shown to work."""
    return {layer for attack in ATTACKS if not attack.inconclusive for layer in attack.layers}


def named_in_tests() -> set[str]:
    """The layers that a test takes out itself."""
    text = "".join(path.read_text(encoding="utf-8")
                   for path in Path(__file__).parent.glob("test_*.py"))
    return {name for name in LAYERS if f'LAYERS["{name}"]' in text}


def changes(made: Sandbox, name: str) -> set[str]:
    """The layers whose removal leaves these operations out, or gives them other values."""
    def of(planned: Planned) -> list[object]:
        return [o for o in planned.operations if o.name == name]

    return {layer for layer, removal in LAYERS.items()
            if of(removal(made.planned)) != of(made.planned)}


def test_every_layer_is_missed_by_an_attack_or_a_test() -> None:
    assert set(LAYERS) - conclusive() - named_in_tests() == set()


def test_a_plan_without_an_operation_is_refused_or_missed(sandbox: Made) -> None:
    made = sandbox(limits={"timeout": "1s"})
    silent = set()
    for name in dict.fromkeys(made.steps):
        less = made.removed(lambda planned, name=name: planned.drop(name))  # type: ignore[misc]
        if less.start(words_of([[call("getpid")]])).returncode == 0:
            missed = changes(made, name) & (conclusive() | named_in_tests())
            if name not in {*MISSED, *WAITS} and not missed:
                silent.add(name)
    assert silent == set()


def test_the_tests_that_would_miss_an_operation_exist() -> None:
    for test in MISSED.values():
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.inconclusive], ids=lambda a: a.id)
def test_an_attack_that_works_here_without_defences_is_not_called_inconclusive(
    sandbox: Made, attack: Attack
) -> None:
    """Else it has to be tried like any other."""
    known = [removal for name, removal in {**LAYERS, **attack.also}.items()
             if name in (*attack.layers, *attack.also)]
    [answer] = sandbox(**attack.options).removed(*known).attack(attack.steps)
    assert not attack.succeeded(answer) or attack.inconclusive in UNTRIED, answer
