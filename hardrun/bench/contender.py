"""One way to start a command, and how much isolation that is.

A new contender is one function that returns this; docs/bench.md has an example.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hardrun.bench import clock
from hardrun.bench.clock import Failure, Result, Sample, Start
from hardrun.errors import HardrunError

LEVELS = {
    "": "no isolation",
    "L0": "as `runc spec --rootless` has it: user, pid, mount, ipc, uts namespaces; the host's "
          "network, no filter",
    "L1": "L0 and a network namespace",
    "L2": "L1 and the engines' default system call filter",
    "L3": "L2 and limits in a cgroup",
    "L4": "L1 and the posture of the policy `untrusted` as far as the runtime can express it: its "
          "filter, no capability, no_new_privs, a read-only root, private /proc, /dev, /tmp",
    "L4+": "L4 and Landlock, locked securebits, no nested namespaces, a keyring of its own",
    "own": "hardrun under another policy than `untrusted`: more or less, as that says",
    "gVisor": "a kernel in user space; not comparable level by level",
}
"""How much isolation, so that nobody is compared with less than hardrun gives (docs/bench.md)."""


class Ask(NamedTuple):
    """One start that is asked for. ``number`` is different for each."""

    command: tuple[str, ...]
    number: int
    writable: bool = False


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Contender:
    """One column of the tables.

    ``commands`` gives the command lines of one start, which are run one after the other; ``call``
    is a start within this process instead, ``timed`` one that knows itself how many seconds it
    took. ``prepare`` is called before each and ``settle`` after each, outside the clock (what is
    made anew in the background must not fall into somebody else's time), ``close`` at the end.
    ``stay`` and ``end`` are for what sleeps: how it is started where that differs, and what ends
    it beside a signal. ``hidden``: its processes are none of the host's.
    """

    name: str
    level: str
    note: str
    commands: Callable[[Ask], Sequence[list[str]]]
    version: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    files: Mapping[int, str] = field(default_factory=dict)
    prepare: Callable[[], None] = nothing
    settle: Callable[[], None] = nothing
    close: Callable[[], object] = nothing
    stay: Callable[[Ask], Sequence[list[str]]] | None = None
    end: Callable[[Ask], Sequence[list[str]]] = lambda _: ()
    call: Callable[[Ask], object] | None = None
    timed: Callable[[Ask], float] | None = None
    hidden: bool = False
    rows: tuple[str, ...] = ("startup", "syscall", "scale", "io", "memory")
    """The suites that it takes part in."""

    @property
    def is_called(self) -> bool:
        """Whether no command line starts it."""
        return self.call is not None or self.timed is not None

    def starts(self, ask: Ask) -> list[Start]:
        """What is to be started, in this order."""
        return [Start(argv, self.environment, self.files) for argv in self.commands(ask)]

    def measure(self, ask: Ask) -> Sample | Failure:
        """One start, to its end."""
        if self.timed is not None:
            try:
                return Sample(self.timed(ask))
            except (HardrunError, OSError) as error:
                return Failure(str(error))
        if self.call is not None:
            function = self.call
            found = clock.call(lambda: function(ask))
            self.settle()
            return found
        starts = self._starts(ask)
        return starts if isinstance(starts, Failure) else clock.sequence(starts)

    def first_byte(self, ask: Ask) -> float | Failure:
        """Seconds to the first byte of output, of something that is started by one command."""
        found = self._captured(ask)
        if isinstance(found, Failure):
            return found
        return found.first if found.output else Failure("no output")

    def output(self, ask: Ask) -> str | Failure:
        """What it printed."""
        found = self._captured(ask)
        return found if isinstance(found, Failure) else found.output.decode(errors="replace")

    def _starts(self, ask: Ask) -> list[Start] | Failure:
        try:
            return self.starts(ask)
        except HardrunError as error:  # such as a command that can't be compiled
            return Failure(error.message)

    def _captured(self, ask: Ask) -> Result | Failure:
        starts = self._starts(ask)
        return starts if isinstance(starts, Failure) else clock.run(starts[0], capture=True)
