"""README's first screen, typed word for word: what a new user sees in the first minute.

The commands and what they print are read from README itself, so that it can't drift. On a host that
gives everything each does what README shows; on any other it does that, or says in one line why
not and in one more what to do.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60  # seconds that a new user gives a command
SOLVE = "print(sum(range(10)))\n"
UNTIL = "## Python"


class Command(NamedTuple):
    """A line of README that people type, and the lines that README shows below it."""

    line: str
    shown: tuple[str, ...]

    @property
    def word(self) -> str:
        """What the line begins with: ``hardrun run``, ``./solve``."""
        return " ".join(self.line.split()[:2]) if self.line.startswith("hardrun ") else self.line


class Seen(NamedTuple):
    """What a command said, standard output and error apart."""

    status: int
    stdout: str
    stderr: str


Shell = Callable[[str], Seen]


def commands(until: str = UNTIL) -> tuple[Command, ...]:
    """The commands of README's first screen, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(until)[0]
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), []))
        elif line.startswith("    ") and found:
            found[-1][1].append(line[4:])
        elif found:
            found.append(("", []))  # what follows belongs to no command
    return tuple(Command(line, tuple(shown)) for line, shown in found if line)


def as_shown(command: Command, seen: Seen) -> bool:
    """Whether what was seen is what README shows.

    Where README leaves something out (``…``) it shows rows of a table: the first two columns must
    be there, and the line of the policy that decided; the rest differs by host.
    """
    if "…" not in command.shown:
        return (seen.stdout + seen.stderr).split() == " ".join(command.shown).split()
    rows = [re.split(r"  +", line) for line in command.shown if line.count("  ") > 1]
    told = [" ".join(line.split()) for line in seen.stdout.splitlines()]
    return seen.status == 0 and all(any(_same_row(row, line) for line in told) for row in rows)


def _same_row(row: Sequence[str], line: str) -> bool:
    decided = row[-1].partition(";")[0] if "policies/" in row[-1] else ""
    return line.startswith(f"{row[0]} {row[1]} ") and \
        re.search(rf"{re.escape(decided)}($|;)", line) is not None


def actionable(seen: Seen) -> bool:
    """One line that says why not, one that says what to do, and nothing else."""
    lines = seen.stderr.splitlines()
    return (len(lines) == 2 and lines[0].startswith("hardrun: ")
            and lines[1].startswith("  hint: ") and len(lines[1]) > len("  hint: ")
            and "internal error" not in lines[0] and seen.stdout.strip() in ("", "125"))


def play(shell: Shell, typed: Sequence[Command] = ()) -> dict[str, str]:
    """Type README's commands: ``shown``, ``actionable`` or what went wrong, for each."""
    answers: dict[str, str] = {}
    for command in typed or commands():
        if command.line == "./solve" and answers.get(compiling(answers)) == "actionable":
            continue  # there is no such program
        seen = shell(command.line)
        answers[command.line] = ("shown" if as_shown(command, seen) else
                                 "actionable" if actionable(seen) else repr(seen))
    return answers


def compiling(answers: Mapping[str, str]) -> str:
    """The line of those typed that compiles ./solve."""
    return next((line for line in answers if line.startswith("hardrun compile")), "")


def installed(directory: Path) -> Path:
    """A directory for PATH with ``hardrun`` in it, as an installation would make it."""
    directory.mkdir()
    (directory / "hardrun").symlink_to(HARDRUN)
    return directory


def shell_in(project: Path, environment: Mapping[str, str], *around: str,
             patience: float = PATIENCE) -> Shell:
    """A shell in a project with solve.py, started through ``around``."""
    project.mkdir(parents=True, exist_ok=True)
    (project / "solve.py").write_text(SOLVE)

    def type_in(line: str) -> Seen:
        done = subprocess.run([*around, "sh", "-c", line], cwd=project, env=dict(environment),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=patience, check=False)
        return Seen(done.returncode, done.stdout, done.stderr)

    return type_in


def environment(home: Path, programs: Path) -> dict[str, str]:
    """What a new user's shell hands over."""
    return {"HOME": str(home), "LANG": "C.UTF-8", "USER": os.environ.get("USER", ""),
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
