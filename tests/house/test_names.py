"""Public names are promises: a change here is a change for everybody who imports them."""

from __future__ import annotations

import inspect

import hardrun
from hardrun import errors

PUBLIC = [
    "BadInput", "CommandNotExecutable", "CommandNotFound", "CommandOptions", "Decision",
    "ExecutorError", "HardrunError", "HostUnsupported", "Options", "PlanError", "PolicyError",
    "PolicyRefused", "Pool", "Prepared", "Process", "Result", "Sandbox", "Usage", "explain",
    "prepare", "run", "run_async",
]
CODES = {
    "HardrunError": ("hardrun", 125), "BadInput": ("bad-input", 125),
    "PolicyError": ("policy-error", 125), "PolicyRefused": ("refused", 125),
    "HostUnsupported": ("host-unsupported", 125), "PlanError": ("plan-error", 125),
    "ExecutorError": ("executor-error", 125), "CommandNotExecutable": ("not-executable", 126),
    "CommandNotFound": ("not-found", 127),
}
OUTCOMES = {"exited", "signaled", "timeout", "cpu-limit", "memory-limit", "pids-limit",
            "output-limit", "cancelled", "refused", "unsupported", "internal"}


def test_the_package_exports_exactly_these_names() -> None:
    assert sorted(hardrun.__all__) == sorted(PUBLIC)


def test_every_public_name_can_be_had_and_says_what_it_is() -> None:
    for name in PUBLIC:
        assert inspect.getdoc(getattr(hardrun, name)), name


def test_error_codes_and_exit_statuses_stay() -> None:
    found = {name: (kind.code, kind.exit_code) for name, kind in vars(errors).items()
             if inspect.isclass(kind) and issubclass(kind, errors.HardrunError)}
    assert found == CODES


def test_outcomes_stay() -> None:
    from typing import get_args

    from hardrun.executor.result import Outcome

    assert set(get_args(Outcome)) == OUTCOMES
