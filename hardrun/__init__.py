"""Run a command nobody trusts in the tightest sandbox that policy and host allow.

    import hardrun

    result = hardrun.run(["python3", "solve.py"], ro=["solve.py"], timeout=10, capture_output=True)
    result.outcome, result.returncode, result.stdout

Names are imported when they are first used: ``import hardrun`` alone costs nothing, which the
command line's cached start depends on.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # as type checkers take it; importing typing alone takes 10 ms

_HOMES = {
    "run": "hardrun.api",
    "run_async": "hardrun.api",
    "prepare": "hardrun.api",
    "explain": "hardrun.api",
    "Prepared": "hardrun.api",
    "Options": "hardrun.api",
    "Sandbox": "hardrun.session",
    "Process": "hardrun.session",
    "Pool": "hardrun.pool",
    "CommandOptions": "hardrun.session",
    "Result": "hardrun.executor.result",
    "Usage": "hardrun.executor.result",
    "Decision": "hardrun.policy.decision",
    "HardrunError": "hardrun.errors",
    "BadInput": "hardrun.errors",
    "PolicyError": "hardrun.errors",
    "PolicyRefused": "hardrun.errors",
    "HostUnsupported": "hardrun.errors",
    "PlanError": "hardrun.errors",
    "ExecutorError": "hardrun.errors",
    "CommandNotExecutable": "hardrun.errors",
    "CommandNotFound": "hardrun.errors",
}

__all__ = [
    "BadInput",
    "CommandNotExecutable",
    "CommandNotFound",
    "CommandOptions",
    "Decision",
    "ExecutorError",
    "HardrunError",
    "HostUnsupported",
    "Options",
    "PlanError",
    "PolicyError",
    "PolicyRefused",
    "Pool",
    "Prepared",
    "Process",
    "Result",
    "Sandbox",
    "Usage",
    "explain",
    "prepare",
    "run",
    "run_async",
]

if TYPE_CHECKING:
    from hardrun.api import Options, Prepared, explain, prepare, run, run_async
    from hardrun.errors import (
        BadInput,
        CommandNotExecutable,
        CommandNotFound,
        ExecutorError,
        HardrunError,
        HostUnsupported,
        PlanError,
        PolicyError,
        PolicyRefused,
    )
    from hardrun.executor.result import Result, Usage
    from hardrun.policy.decision import Decision
    from hardrun.pool import Pool
    from hardrun.session import CommandOptions, Process, Sandbox


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
