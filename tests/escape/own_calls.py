"""What the executor's own processes ask of the kernel, told apart from all others in a trace.

A trace (strace -f) holds Python before the executor, helpers that it executes and the command
behind it. Which process is the executor at a line follows from who made it and what it executed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter
from ruamel.yaml import YAML

from tests.escape.calls import BEGUN, ENDED

FILE = Path(__file__).parent / "own_calls.yaml"
PROCESSES = ("parent", "init", "network", "workload", "probe", "helper")
_CALL = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<value>-?\w+|\?)")
_IMAGE = re.compile(r'"/proc/self/fd/\d+", \["hardrun"')  # as Python starts it
_EXECUTES = {"execve", "execveat"}
_ALIKE = {"open": "openat", "stat": "newfstatat", "lstat": "newfstatat", "fork": "clone",
          "vfork": "clone", "mkdir": "mkdirat", "rmdir": "unlinkat", "dup2": "dup3",
          "poll": "ppoll", "getrlimit": "prlimit64", "setrlimit": "prlimit64",
          "readlink": "readlinkat", "nanosleep": "clock_nanosleep"}
"""Calls that only some architectures have, and what the others have in their place."""


class Known(BaseModel):
    """One call that the executor may make: which of its processes do, and what for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: str
    by: tuple[Literal["parent", "init", "network", "workload", "probe", "helper"], ...]
    why: str
    unseen: str = ""  # why no trace of this suite has it


class Asked(NamedTuple):
    """One call: by which of the executor's processes, and how strace writes its arguments."""

    process: str
    name: str
    arguments: str


class _Line(NamedTuple):
    begun: int
    pid: str
    name: str
    arguments: str
    value: str


def read() -> tuple[Known, ...]:
    """The closed list. Raises pydantic.ValidationError for an entry that is malformed."""
    return TypeAdapter(tuple[Known, ...]).validate_python(
        YAML(typ="safe").load(FILE.read_text(encoding="utf-8")))


def trace(words: Sequence[str | Path], directory: Path, *, program: str = "",
          environment: Mapping[str, str] | None = None, **options: Any) -> list[Asked]:
    """Run a command and give what the executors among its processes asked for."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    output = directory / "own-calls"
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.run(["strace", "-f", "-qq", "-o", str(output), *words], check=False, timeout=120,
                   env=environment, **{**quiet, **options})
    return of_executor(output.read_text(encoding="utf-8", errors="replace"), program)


def of_executor(text: str, program: str = "") -> list[Asked]:
    """The calls of every process while it is the executor; ``program``: a path that is one, too."""
    lines = sorted(_lines(text.splitlines()), key=lambda seen: seen.begun)
    first: dict[str, int] = {}
    for line in lines:
        first.setdefault(line.pid, line.begun)
    role: dict[str, str] = {}
    children: dict[str, int] = {}
    found: list[Asked] = []
    for line in lines:
        process = role.get(line.pid, "")
        if process:
            found.append(Asked(process, line.name, line.arguments))
        if line.name in ("clone", "clone3") and process and not line.value.startswith("-"):
            child = _appeared(line, first, role)
            role[child] = _child_of(process, line, children)
        if line.name in _EXECUTES and line.value == "0":
            role[line.pid] = (process or "parent") if _is_executor(line, program) else ""
    return found


def _appeared(line: _Line, first: Mapping[str, int], role: Mapping[str, str]) -> str:
    """Who was made: the number that came back, or, if that is one of the sandbox's own, whoever
    appears next without being known."""
    if first.get(line.value, -1) > line.begun:
        return line.value
    return min((pid for pid in first if first[pid] > line.begun and pid not in role),
               key=lambda pid: first[pid], default="nobody")


def _is_executor(line: _Line, program: str) -> bool:
    return ("AT_EMPTY_PATH" in line.arguments or bool(_IMAGE.match(line.arguments))
            or (bool(program) and _path(line) == program))


def _path(line: _Line) -> str:
    return line.arguments.split('"')[1] if '"' in line.arguments else ""


def _child_of(process: str, line: _Line, children: dict[str, int]) -> str:
    """By whom it was made and as which: the first child of PID 1 is the workload, but for the one
    that makes the network namespace with PID 1's descriptors; others try."""
    if process == "parent":
        return "init" if "CLONE_PIDFD" in line.arguments else "helper"
    if process == "init" and "CLONE_FILES" in line.arguments:
        return "network"
    if process == "init":
        children[line.pid] = children.get(line.pid, 0) + 1
        return "workload" if children[line.pid] == 1 else "probe"
    return process


def alike(name: str) -> str:
    """The name that a call goes by in the list."""
    return _ALIKE.get(name, name)


def _lines(text: Iterable[str]) -> Iterable[_Line]:
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text):
        at = number
        if match := BEGUN.match(line):
            begun[match[1]] = (number, line[:match.end(2)])
            continue
        if (match := ENDED.match(line)) and match[1] in begun:
            at, start = begun.pop(match[1])
            line = start + match[2]
        if match := _CALL.match(line):
            yield _Line(at, match["pid"], alike(match["name"]),
                        match["arguments"], match["value"])
    for pid, (at, line) in begun.items():  # a process that ended in the middle of it
        name, _, arguments = line.split(None, 1)[1].partition("(")
        yield _Line(at, pid, alike(name), arguments, "?")
