"""The one exception tree.

    HardrunError
    ├── BadInput            a flag, path or document the caller gave
    │   └── PolicyError     a policy document: file, line, field
    ├── PolicyRefused       the request asks for more than a policy allows
    ├── HostUnsupported     this kernel or user lacks what the policy demands
    ├── PlanError           a plan is malformed, stale or of another version
    ├── ExecutorError       an operation failed while the sandbox was built
    ├── CommandNotExecutable
    └── CommandNotFound

Each carries a stable ``code`` for programs, an ``exit_code`` for shells (125, 126, 127 as env(1),
docker and podman have them), a one-line message and a hint that says what to do.
"""

from __future__ import annotations


class HardrunError(Exception):
    """Base of every error that hardrun raises on purpose."""

    code = "hardrun"
    exit_code = 125

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(HardrunError):
    """Something the caller gave can't be used."""

    code = "bad-input"


class PolicyError(BadInput):
    """A policy document is wrong. ``file``, ``line`` and ``field`` say where."""

    code = "policy-error"

    def __init__(
        self,
        message: str,
        *,
        file: str,
        line: int | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        place = file if line is None else f"{file}:{line}"
        subject = f"{field}: " if field else ""
        super().__init__(f"{place}: {subject}{message}", hint=hint)
        self.file = file
        self.line = line
        self.field = field


class PolicyRefused(HardrunError):
    """A request is looser than a policy's bounds. ``refusals`` names every control at fault."""

    code = "refused"

    def __init__(
        self, message: str, *, refusals: tuple[object, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.refusals = refusals


class HostUnsupported(HardrunError):
    """This host can't enforce what is demanded.

    ``fact`` names what is missing, ``cause`` is the code that docs/hosts.md explains (empty where
    there is none), ``controls`` every control that needs it.
    """

    code = "host-unsupported"

    def __init__(
        self,
        message: str,
        *,
        fact: str,
        cause: str = "",
        controls: tuple[str, ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.fact = fact
        self.cause = cause
        self.controls = controls


class PlanError(HardrunError):
    """A plan is truncated, damaged, stale or made by another version."""

    code = "plan-error"


class ExecutorError(HardrunError):
    """An operation failed before the workload's first instruction; nothing ran."""

    code = "executor-error"

    def __init__(
        self,
        message: str,
        *,
        operation: int | None = None,
        errno: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.operation = operation
        self.errno = errno


class CommandNotExecutable(HardrunError):
    """The command was found in the sandbox's view but can't be executed."""

    code = "not-executable"
    exit_code = 126


class CommandNotFound(HardrunError):
    """The command, its interpreter or its environment is not in the sandbox's view."""

    code = "not-found"
    exit_code = 127
