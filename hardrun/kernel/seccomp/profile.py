"""Seccomp profiles as Docker, podman, Kubernetes and the OCI runtime specification write them.

A user's own file works as it is: both spellings of the architectures (``architectures`` of OCI,
``archMap`` of Docker), both of the names (``names`` and the old ``name``), podman's ``errno``
beside ``errnoRet``. An unknown field or action is an error, because a misspelt condition would
otherwise widen the filter; so is an unknown system call in a rule that denies. In a rule that
allows it is a warning: the call stays denied, and profiles name calls newer than any table.

``SCMP_ACT_NOTIFY`` and ``listenerPath`` are refused: they let a program outside decide each call,
and hardrun starts none.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from hardrun.errors import PolicyError
from hardrun.kernel.seccomp import actions, located, tables, widths

ACTIONS = {
    "SCMP_ACT_KILL": actions.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": actions.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": actions.KILL_PROCESS,
    "SCMP_ACT_TRAP": actions.TRAP,
    "SCMP_ACT_ERRNO": actions.ERRNO,
    "SCMP_ACT_TRACE": actions.TRACE,
    "SCMP_ACT_LOG": actions.LOG,
    "SCMP_ACT_ALLOW": actions.ALLOW,
}

OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "&==",
}

# libseccomp's names. Those without one of our ABIs are accepted and concern no filter built here.
ARCHITECTURES: Mapping[str, str] = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
    "SCMP_ARCH_RISCV64": "riscv64",
    "SCMP_ARCH_S390X": "s390x",
    "SCMP_ARCH_PPC64LE": "ppc64le",
    **{
        f"SCMP_ARCH_{name.upper()}": name
        for name in ("mips", "mips64", "mips64n32", "mipsel", "mipsel64", "mipsel64n32", "ppc",
                     "ppc64", "s390", "parisc", "parisc64", "loongarch64", "m68k", "sh", "sheb")
    },
}  # fmt: skip

# includes.arches and excludes.arches use Go's names.
GO_ARCHITECTURES: Mapping[str, str] = {
    "amd64": "x86_64", "x86": "i386", "386": "i386", "x32": "x32", "arm64": "aarch64",
    "arm": "arm", "riscv64": "riscv64", "s390x": "s390x", "ppc64le": "ppc64le",
    **{name: name for name in ("mips", "mips64", "mips64n32", "mipsel", "mipsel64", "mipsel64n32",
                               "mips64le", "mipsle", "ppc", "ppc64", "s390", "parisc", "parisc64",
                               "loong64", "loongarch64")},
}  # fmt: skip

# SECCOMP_FILTER_FLAG_* of seccomp(2).
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}

_LISTENER = ("listenerPath", "listenerMetadata")


def _choice(kind: str, known: Iterable[str]) -> BeforeValidator:
    names = tuple(known)

    def check(value: object) -> object:
        if value in names:
            return value
        hint = f"known: {', '.join(names)}"
        if isinstance(value, str) and (close := get_close_matches(value, names, 1, 0.5)):
            hint = f"did you mean {close[0]}?"
        if value == "SCMP_ACT_NOTIFY":
            hint = "it needs a program outside that answers; hardrun starts none"
        raise PydanticCustomError(
            "choice", "unknown {kind} {value}", {"kind": kind, "value": repr(value), "hint": hint}
        )

    return BeforeValidator(check)


def _or_empty(value: object) -> object:
    return () if value is None else value


def _no_conditions(value: object) -> object:
    return {} if value is None else value


Action = Annotated[str, _choice("action", ACTIONS)]
Architecture = Annotated[str, _choice("architecture", ARCHITECTURES)]
Errno = Annotated[int, Field(ge=0, le=4095)]  # MAX_ERRNO: the kernel caps it there
Register = Annotated[int, Field(ge=0, lt=1 << 64)]
ErrnoName = Annotated[str, _choice("errno name", (*errno.errorcode.values(), ""))]
Names = Annotated[tuple[str, ...], BeforeValidator(_or_empty)]


class Strict(BaseModel):
    """Frozen; fields have the documents' own names; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Argument(Strict):
    """A comparison of one argument. For SCMP_CMP_MASKED_EQ ``value`` is the mask."""

    index: Annotated[int, Field(ge=0, le=5)]
    value: Register
    valueTwo: Register = 0
    op: Annotated[str, _choice("operator", OPERATORS)]


class Conditions(Strict):
    """When a rule counts (``includes``: all of it) or does not (``excludes``: any of it)."""

    caps: Names = ()
    arches: Annotated[
        tuple[Annotated[str, _choice("architecture", GO_ARCHITECTURES)], ...],
        BeforeValidator(_or_empty),
    ] = ()
    minKernel: Annotated[str | None, Field(pattern=r"^(\d+\.\d+)?$")] = None


class SyscallRule(Strict):
    """One action for some calls, perhaps for some arguments only."""

    names: Names = ()
    name: str | None = None
    action: Action
    errnoRet: Errno | None = None
    errno: ErrnoName | None = None
    args: Annotated[tuple[Argument, ...], BeforeValidator(_or_empty)] = ()
    includes: Annotated[Conditions, BeforeValidator(_no_conditions)] = Conditions()
    excludes: Annotated[Conditions, BeforeValidator(_no_conditions)] = Conditions()
    comment: str | None = None

    @property
    def syscalls(self) -> tuple[str, ...]:
        """The names, from whichever field has them."""
        return (*self.names, self.name) if self.name else self.names

    @cached_property
    def result(self) -> int:
        """The SECCOMP_RET_* value with its errno."""
        return _with_errno(self.action, self.errnoRet, self.errno)


class ArchitectureMap(Strict):
    """A native architecture and the further ABIs that its processes may use."""

    architecture: Architecture
    subArchitectures: Annotated[tuple[Architecture, ...], BeforeValidator(_or_empty)] = ()


class ProfileDocument(Strict):
    """The whole file."""

    defaultAction: Action
    defaultErrnoRet: Errno | None = None
    defaultErrno: ErrnoName | None = None
    architectures: Annotated[tuple[Architecture, ...], BeforeValidator(_or_empty)] = ()
    archMap: Annotated[tuple[ArchitectureMap, ...], BeforeValidator(_or_empty)] = ()
    flags: Annotated[
        tuple[Annotated[str, _choice("flag", FLAGS)], ...], BeforeValidator(_or_empty)
    ] = ()
    syscalls: Annotated[tuple[SyscallRule, ...], BeforeValidator(_or_empty)] = ()

    @cached_property
    def default(self) -> int:
        """The SECCOMP_RET_* value for calls that no rule names."""
        return _with_errno(self.defaultAction, self.defaultErrnoRet, self.defaultErrno)

    def compatible_abis(self, architecture: str) -> frozenset[str]:
        """The ABIs besides the native one that the profile opens on an architecture."""
        declared = {ARCHITECTURES[name] for name in self.architectures}
        for entry in self.archMap:
            if ARCHITECTURES[entry.architecture] == architecture:
                declared |= {ARCHITECTURES[name] for name in entry.subArchitectures}
        return frozenset(declared.intersection(tables.COMPATIBLE.get(architecture, ())))


class Profile(NamedTuple):
    """A loaded profile. ``lines`` has the line of each rule."""

    name: str
    file: str
    document: ProfileDocument
    lines: tuple[int, ...]
    warnings: tuple[str, ...]

    def place(self, rule: int | None) -> str:
        """``file:line`` of a rule, or of the default action."""
        return self.file if rule is None else f"{self.file}:{self.lines[rule]}"

    @property
    def flags(self) -> int:
        """SECCOMP_FILTER_FLAG_* bits that the profile asks for."""
        return sum({FLAGS[name] for name in self.document.flags})


def _with_errno(action: str, number: int | None, name: str | None) -> int:
    value = ACTIONS[action]
    if number is None:
        number = getattr(errno, name) if name else errno.EPERM
    if value == actions.TRACE:
        return value | (number if name or number != errno.EPERM else 0)
    return actions.fails_with(number) if value == actions.ERRNO else value


def load(path: Path) -> Profile:
    """Read a profile; PolicyError with file, line and field if it can't be used."""
    try:
        with path.open("rb") as file:  # it may be a device or a pipe that never ends
            data = file.read(located.MAXIMUM_SIZE + 1)
        located.check_size(len(data), str(path))
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise PolicyError(f"can't be read: {reason}", file=str(path)) from None
    return parse(text, file=str(path), name=path.stem)


def parse(text: str, *, file: str, name: str) -> Profile:
    """A profile from its text; ``file`` is what messages call it."""
    document = located.parse(text, file)
    if not isinstance(document.value, dict):
        raise PolicyError("a seccomp profile is one JSON object", file=file)
    for field in _LISTENER:
        if document.value.get(field):
            raise PolicyError(
                "refused: a listener would decide calls from outside the policy",
                file=file, line=document.line((field,)), field=field,
            )  # fmt: skip
    kept = {key: value for key, value in document.value.items() if key not in _LISTENER}
    try:
        model = ProfileDocument.model_validate(kept)
    except ValidationError as error:
        raise _first_error(error, document, file) from None
    lines = tuple(document.line(("syscalls", index)) for index in range(len(model.syscalls)))
    _check_consistency(model, document, file)
    warnings = tuple(_check_names(model, document, file))
    return Profile(name, file, model, lines, warnings)


def _first_error(error: ValidationError, document: located.Document, file: str) -> PolicyError:
    """The first of pydantic's findings, with the line and a suggestion."""
    first = error.errors(include_url=False)[0]
    path = list(first["loc"])
    message, hint = first["msg"], first.get("ctx", {}).get("hint")
    if first["type"] == "extra_forbidden":
        message = "unknown field"
        close = get_close_matches(str(path[-1]), _fields_at(path), 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(_fields_at(path))}"
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return PolicyError(
        message, file=file, line=document.line(path), field=field.lstrip(".") or None, hint=hint
    )


def _fields_at(path: list[str | int]) -> list[str]:
    models: dict[str, type[Strict]] = {
        "syscalls": SyscallRule, "args": Argument, "includes": Conditions,
        "excludes": Conditions, "archMap": ArchitectureMap,
    }  # fmt: skip
    enclosing = [part for part in path[:-1] if isinstance(part, str)]
    model = models[enclosing[-1]] if enclosing else ProfileDocument
    return list(model.model_fields)


def _check_consistency(model: ProfileDocument, document: located.Document, file: str) -> None:
    """What no single field can tell: contradictions, and rules that could never match."""

    def wrong(message: str, path: tuple[str | int, ...], hint: str | None = None) -> PolicyError:
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
        return PolicyError(message, file=file, line=document.line(path), field=field, hint=hint)

    if model.architectures and model.archMap:
        raise wrong("given beside archMap", ("architectures",), "use one of the two")
    _check_errno(model.defaultErrnoRet, model.defaultErrno, wrong, ("defaultErrno",))
    for index, rule in enumerate(model.syscalls):
        place: tuple[str | int, ...] = ("syscalls", index)
        if rule.names and rule.name:
            raise wrong("given beside names", (*place, "name"), "use one of the two")
        if not rule.syscalls:
            raise wrong("names no system call", place)
        _check_errno(rule.errnoRet, rule.errno, wrong, (*place, "errno"))
        for number, argument in enumerate(rule.args):
            if reason := _never_matches(rule, argument):
                raise wrong(reason, (*place, "args", number))


def _check_errno(
    number: int | None,
    name: str | None,
    wrong: Callable[[str, tuple[str | int, ...]], PolicyError],
    path: tuple[str | int, ...],
) -> None:
    if name and number is not None and getattr(errno, name) != number:
        raise wrong(f"{name} is {getattr(errno, name)}, beside it stands {number}", path)


def _never_matches(rule: SyscallRule, argument: Argument) -> str | None:
    """Why a comparison can't be true of any call: in a rule that denies it would fail open."""
    operator = OPERATORS[argument.op]
    if operator == "&==" and argument.valueTwo & ~argument.value:
        return f"valueTwo {argument.valueTwo:#x} has bits outside the mask {argument.value:#x}"
    if operator != "==":
        return None
    for name in rule.syscalls:
        bits = widths.significant_bits(tables.ABIS["x86_64"], name, argument.index)
        if widths.as_wide_as(argument.value, bits) is None:
            return (
                f"{argument.value:#x} never matches: the kernel reads {bits.bit_length()} bits "
                f"of argument {argument.index} of {name}"
            )
    return None


def _check_names(model: ProfileDocument, document: located.Document, file: str) -> Iterator[str]:
    known = tables.known_names()
    for index, rule in enumerate(model.syscalls):
        for name in rule.syscalls:
            if name in known:
                continue
            close = get_close_matches(name, known, 1, 0.7)
            hint = f"did you mean {close[0]}?" if close else None
            line = document.line(("syscalls", index))
            if not actions.permits(rule.result):
                raise PolicyError(
                    f"unknown system call {name!r} in a rule that denies",
                    file=file, line=line, field=f"syscalls[{index}].names", hint=hint,
                )  # fmt: skip
            suffix = f"; {hint}" if hint else ""
            yield f"{file}:{line}: unknown system call {name!r} stays denied{suffix}"
    yield from _check_not_equal(model, document, file)


def _check_not_equal(
    model: ProfileDocument, document: located.Document, file: str
) -> Iterator[str]:
    """Two rules that allow "not A" and "not B" allow everything (SC-09)."""
    seen: dict[tuple[str, int], tuple[int, int]] = {}
    for index, rule in enumerate(model.syscalls):
        if len(rule.args) != 1 or not actions.permits(rule.result):
            continue
        (argument,) = rule.args
        if OPERATORS[argument.op] != "!=":
            continue
        for name in rule.syscalls:
            line = document.line(("syscalls", index))
            value, before = seen.setdefault((name, argument.index), (argument.value, line))
            if value != argument.value:
                yield (
                    f"{file}:{line}: together with line {before} allows {name} with every value "
                    f"of argument {argument.index}; list the values that are allowed instead"
                )
