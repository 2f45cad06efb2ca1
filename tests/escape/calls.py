"""The system calls that a start makes, process by process, as strace(1) tells them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.escape.layers import single_id
from tests.escape.sandbox import Sandbox

_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)")
BEGUN = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$")
ENDED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Seen(NamedTuple):
    """One call: ``arguments`` as strace writes them."""

    name: str
    arguments: str
    value: str

    @property
    def paths(self) -> list[str]:
        """The strings among its arguments."""
        return _STRING.findall(self.arguments)


class Start(NamedTuple):
    """The calls of a start's processes; ``network`` makes that namespace, where there is one."""

    parent: list[Seen]
    init: list[Seen]
    workload: list[Seen]
    network: Sequence[Seen] = ()

    @classmethod
    def of(cls, text: str) -> Start:
        """From what strace wrote."""
        processes = list(parsed(text).values())
        own = [calls for calls in processes[1:] if calls[0].arguments == "CLONE_NEWNET"]
        return cls(*[calls for calls in processes if calls not in own][:3], *own[:1])


def parsed(text: str) -> dict[str, list[Seen]]:
    """The calls by process, in the order in which the processes appeared."""
    found: dict[str, list[Seen]] = {}
    begun: dict[str, str] = {}
    for line in text.splitlines():
        if match := BEGUN.match(line):
            begun[match[1]] = line[:match.end(2)]
            found.setdefault(match[1], [])
            continue
        if match := ENDED.match(line):
            line = begun.pop(match[1]) + match[2]
        if match := _LINE.match(line):
            name, arguments = match[2], match[3]
            if name == "open":  # as a C library asks where the kernel has both
                name, arguments = "openat", f"AT_FDCWD, {arguments}"
            found.setdefault(match[1], []).append(Seen(name, arguments, match[4]))
    return found


def trace(made: Sandbox, words: Sequence[str], directory: Path) -> Start:
    """Run a sandbox under strace. Ids are mapped by the kernel alone: a helper has no rights when
    it is traced. What a process asks for that is not dumpable can't be read.
    """
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    output = directory / "calls"
    subprocess.run(["strace", "-f", "-qq", "-s", "4096", "-o", str(output),
                    made.removed(single_id).write(), *words], check=True, capture_output=True,
                   stdin=subprocess.DEVNULL, timeout=60)
    return Start.of(output.read_text(encoding="utf-8"))


def names(calls: Sequence[Seen]) -> list[str]:
    """What was called, in order."""
    return [c.name for c in calls]


def until(calls: Sequence[Seen], name: str) -> list[Seen]:
    """The calls up to the first of a name, that one included."""
    return list(calls[:names(calls).index(name) + 1])
