"""A plan as lines that read like a system call trace, each with the reason beside it."""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable, Iterator, Mapping

from hardrun.errors import PlanError
from hardrun.kernel import capabilities, landlock
from hardrun.plan.format import TRAILER_MAGIC, Plan, decode, unpack
from hardrun.plan.schema import (
    BY_NAME,
    BindFlag,
    Kind,
    Operation,
    Phase,
    StandardIO,
    Unsafe,
)
from hardrun.plan.uapi import Clone, MountAttribute, Resource, Securebit
from hardrun.posture.control import UNLIMITED

MAXIMUM_FILE = 64 << 20
_REASON_COLUMN = 88


def load_plan(data: bytes) -> Plan:
    """The plan in ``data``: a plan, a stored artefact, or a compiled program.

    Raises PlanError when there is none or it is damaged.
    """
    return decode(unpack(data).plan if data.endswith(TRAILER_MAGIC) else data)


def show(plan: Plan) -> Iterator[str]:
    """The lines of a plan: a heading for each process, then ``name(argument=value …)  # reason``.

    Names come out as they are in the plan: whoever writes them to a terminal escapes them.
    """
    if plan.unsafe:
        yield f"unsafe: left out on purpose: {_flags(Unsafe, '')(int(plan.unsafe))}"
    phase: Phase | None = None
    for number, operation in enumerate(plan.operations):
        kind = BY_NAME[operation.name]
        if kind.phase is not phase:
            phase = kind.phase
            yield f"-- {_HEADINGS[phase]}"
        line = f"{number:4} {operation.name}({_arguments(operation)})"
        yield f"{line:<{_REASON_COLUMN}}  # {operation.reason}" if operation.reason else line


_HEADINGS = {
    Phase.LAUNCH: "launch: before anything is started",
    Phase.PARENT: "parent: the process that waits",
    Phase.INIT: "init: PID 1 of the sandbox",
    Phase.WORKLOAD: "workload: the process that becomes the command",
}


def _arguments(operation: Operation) -> str:
    words = []
    values = zip(BY_NAME[operation.name].arguments, operation.values, strict=True)
    for argument, value in values:
        spell = _SPELLINGS.get((operation.name, argument.name)) or _SPELLINGS.get(
            ("", argument.name))
        if spell is not None and isinstance(value, int):
            text = spell(value)
        elif isinstance(value, bytes):
            text = _blob(operation.name, argument.name, value)
        else:
            text = f'"{value}"' if argument.kind is Kind.STRING else str(value)
        words.append(f"{argument.name}={text}")
    return ", ".join(words)


def _flags(names: type[enum.IntFlag], prefix: str) -> Callable[[int], str]:
    def spell(value: int) -> str:
        known = [flag for flag in names if value & flag]
        rest = value & ~sum(known)
        words = [f"{prefix}{flag.name}" for flag in known] + ([f"{rest:#x}"] if rest else [])
        return "|".join(words) or "0"

    return spell


def _number_of(names: type[enum.IntEnum]) -> Callable[[int], str]:
    def spell(value: int) -> str:
        return names(value).name if value in names.__members__.values() else str(value)

    return spell


def _capability_names(mask: int) -> str:
    return "|".join(sorted(capabilities.names_of(mask))) or "0"


def _octal(value: int) -> str:
    return f"0{value:o}"


def _limit(value: int) -> str:
    return "RLIM_INFINITY" if value >= UNLIMITED else str(value)


def _identity(value: int) -> str:
    kinds = {0o040000: "S_IFDIR", 0o100000: "S_IFREG", 0o020000: "S_IFCHR", 0o060000: "S_IFBLK",
             0o010000: "S_IFIFO", 0o140000: "S_IFSOCK", 0o120000: "S_IFLNK"}
    kind = value & 0xFFFFFFFF
    return f"{kinds.get(kind, hex(kind))} uid {value >> 32}"


def _device(value: int) -> str:
    return f"{os.major(value)}:{os.minor(value)}"


_SPELLINGS: Mapping[tuple[str, str], Callable[[int], str]] = {
    ("clone", "flags"): _flags(Clone, ""),
    ("", "attributes"): _flags(MountAttribute, ""),
    ("bind", "flags"): _flags(BindFlag, ""),
    ("root_bind", "flags"): _flags(BindFlag, ""),
    ("root_overlay", "flags"): _flags(BindFlag, ""),
    ("", "identity"): _identity,
    ("", "rdev"): _device,
    ("standard_io", "mode"): _number_of(StandardIO),
    ("", "mode"): _octal,
    ("set_umask", "mask"): _octal,
    ("", "resource"): _number_of(Resource),
    ("set_limit", "soft"): _limit,
    ("set_limit", "hard"): _limit,
    ("drop_bounding", "mask"): _capability_names,
    ("set_capabilities", "mask"): _capability_names,
    ("set_securebits", "bits"): _flags(Securebit, ""),
    ("landlock_ruleset", "filesystem"): _flags(landlock.FilesystemAccess, ""),
    ("landlock_ruleset", "network"): _flags(landlock.NetworkAccess, ""),
    ("landlock_ruleset", "scoped"): _flags(landlock.Scope, ""),
    ("landlock_path", "access"): _flags(landlock.FilesystemAccess, ""),
}


def _blob(operation: str, argument: str, value: bytes) -> str:
    if argument == "groups" and len(value) % 4 == 0:
        return "[" + ", ".join(str(n) for n, in struct.iter_unpack("<I", value)) + "]"
    if operation == "load_seccomp":
        return f"{len(value) // 8} instructions"
    if argument == "map":
        return '"' + " ".join(_words(value)) + '"'
    if argument == "refused":
        return "[" + ", ".join(_words(value)) + "]"
    return f'"{value.decode("utf-8", "surrogateescape")}"'


def _words(value: bytes) -> list[str]:
    return [word.decode("utf-8", "surrogateescape") for word in value.split(b"\0") if word]


def read_plan(path: str) -> Plan:
    """Read a plan from a file, or from standard input when ``path`` is ``-``.

    Raises PlanError in one line when it can't be read or holds no plan.
    """
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read(MAXIMUM_FILE + 1)
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}",
                        hint="name a compiled program, a stored plan, or -") from None
    if len(data) > MAXIMUM_FILE:
        raise PlanError(f"{path}: too large to be a plan")
    try:
        return load_plan(data)
    except PlanError as error:
        raise PlanError(f"{path}: {error.message}", hint=error.hint) from None
