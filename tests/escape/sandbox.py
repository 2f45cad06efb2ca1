"""Sandboxes of shipped policies with the probe in them, whole and with defences taken out."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardrun.executor.image import read_executor
from hardrun.plan.context import Layer
from hardrun.plan.format import Artefact, decode, encode, pack
from hardrun.plan.late import assign_ids
from hardrun.plan.schema import Operation
from hardrun.request import Request, decide
from tests.escape.layers import Planned, Removal, without
from tests.escape.probe import Answer, Call, answers_of, words_of
from tests.installed import HARDRUN, without_python

POLICIES = ("untrusted", "judge", "agent", "build", "contained")
"""The policies that are meant to contain: the others describe what others do."""


class Sandbox:
    """One decided request for the probe, to be run any number of times.

    ``options`` are those of :func:`hardrun.request.decide`, and ``layer``, where changes are kept.
    """

    def __init__(self, probe: Path, directory: Path, policy: str = "untrusted",
                 **options: Any) -> None:
        self.probe = probe
        self.directory = directory
        self.policy = policy
        layer = options.pop("layer", None)
        request = _decided(str(probe), policy, _frozen(options))
        self.decision = request.decision
        self._planned = _plan(request, layer)
        self._executor: Path | None = None

    def removed(self, *removals: Removal) -> Sandbox:
        """The same sandbox without these defences."""
        other = object.__new__(Sandbox)
        other.__dict__.update(self.__dict__)
        other._planned = without(self._planned, removals)
        return other

    def by(self, executor: Path) -> Sandbox:
        """The same sandbox made by another build of the executor."""
        other = self.removed()
        other._executor = executor
        return other

    @property
    def ordered(self) -> tuple[Operation, ...]:
        """Its operations in the order of the plan, which numbers them."""
        return decode(self._encoded()).operations

    @property
    def steps(self) -> list[str]:
        """The names of those."""
        return [o.name for o in self.ordered]

    def _encoded(self) -> bytes:
        return encode(self._planned.operations, self._planned.unsafe)

    @property
    def planned(self) -> Planned:
        """The operations that it is made of."""
        return self._planned

    def write(self, name: str = "sandboxed") -> Path:
        """An ordinary program that is this sandbox."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755)
        with open(descriptor, "wb") as file:
            executor = self._executor.read_bytes() if self._executor else read_executor()
            file.write(executor + pack(Artefact(self._encoded(), self.decision.to_json())))
        return path

    def start(self, words: Sequence[str] = (), **options: Any
              ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end; ``options`` go to subprocess.run."""
        given = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, **options}
        return subprocess.run([self.write(), *words], check=False, **given)

    def attack(self, *programs: Iterable[Call], **options: Any) -> list[Answer]:
        """What each of the programs came to inside."""
        done = self.start(words_of(programs), **options)
        found = answers_of(done.stdout)
        assert len(found) == len(programs), (done.returncode, done.stdout, done.stderr)
        return found

    def one(self, *steps: Call, **options: Any) -> Answer:
        """What one program came to inside."""
        return self.attack(steps, **options)[0]


class Cached(Sandbox):
    """The same request as a user types it, started from its stored plan with no interpreter."""

    def __init__(self, probe: Path, directory: Path, policy: str = "untrusted",
                 **options: Any) -> None:
        super().__init__(probe, directory, policy, **options)
        shown = [probe, *options.pop("ro", ())]
        self._words = ["run", "--policy", policy, *(f"--ro={path}" for path in shown)]
        limits = options.pop("limits", {})
        self._words += [f"--{name}={value}" for name, value in limits.items()]
        self._words += [f"--{name}={value}" for name in options for value in options[name]]
        self._words += ["--", str(probe)]
        self._cache = directory / "cache"
        subprocess.run([HARDRUN, *self._words], env=self._environment(), cwd=directory, check=True,
                       capture_output=True, stdin=subprocess.DEVNULL)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self._cache)}

    def start(self, words: Sequence[str] = (), **options: Any
              ) -> subprocess.CompletedProcess[bytes]:
        front = self.directory / "front" / "hardrun"
        program = str(front) if front.exists() else without_python(front.parent)
        given = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, **options}
        return subprocess.run([program, *self._words, *words], check=False, cwd=self.directory,
                              env=self._environment(), **given)


def outside(probe: Path, *programs: Iterable[Call], **options: Any) -> list[Answer]:
    """What the programs come to without any sandbox."""
    done = subprocess.run([probe, *words_of(programs)], capture_output=True, check=True,
                          timeout=60, stdin=subprocess.DEVNULL, **options)
    return answers_of(done.stdout)


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    def frozen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple(value.items())
        return tuple(value) if isinstance(value, list) else value
    return tuple(sorted((name, frozen(value)) for name, value in options.items()))


@functools.lru_cache(maxsize=64)
def _decided(probe: str, policy: str, options: tuple[tuple[str, Any], ...]) -> Request:
    given = dict(options)
    if "limits" in given:
        given["limits"] = dict(given["limits"])
    if "rootfs" in given:  # an image of the tests (images.py), which has the probe in it
        return decide(["/probe"], policies=[policy], **given)
    shown = [probe, *given.pop("ro", ())]
    return decide([probe], policies=[policy], ro=shown, **given)


def _plan(request: Request, layer: Layer | None) -> Planned:
    plan = request.plan(pinned=True, layer=layer)
    if plan.ids is None:
        return Planned(tuple(plan.operations), plan.unsafe)
    # The first of the user's ids, without asking who has them: no other sandbox does harm to these.
    first = (plan.ids.uids[0][0], plan.ids.gids[0][0])
    return Planned(assign_ids(plan.operations, *first, plan.ids.size), plan.unsafe)
