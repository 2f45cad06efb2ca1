"""What the decision service keeps in memory, and how it decides with it.

The host's answers are remembered by doctor's rules (``host.remembered``): for as long as everything
that they depend on, and that can be seen, is the same. Cgroups are tried for each request. Policies
are those that were read when the file is the same one, by the rule of stored plans. Whatever was
overlooked meets the plan's own conditions, which the executor compares at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hardrun import cache
from hardrun.cli import run
from hardrun.cli.options import decide_options
from hardrun.errors import HardrunError
from hardrun.executor.protected import Protected
from hardrun.host import remembered
from hardrun.host.probe import EXECUTOR, probe, with_group
from hardrun.policy.load import Dependency, Reader, look
from hardrun.policy.loaded import Layer, LoadedPolicy
from hardrun.serve.service import Decided

MOST_POLICIES = 100


class Kept(Reader):
    """Reads policies, each once for as long as its file is the same."""

    def __init__(self) -> None:
        self._policies: dict[tuple[Path, str, str | None], tuple[Dependency, LoadedPolicy]] = {}
        self._builtin: tuple[tuple[Dependency, ...], list[LoadedPolicy]] = ((), [])

    def policy(self, path: Path, layer: Layer, label: str | None = None) -> LoadedPolicy:
        now = look(path)  # before it is read: what changes meanwhile is seen the next time
        known = self._policies.get((path, layer, label))
        if known is None or known[0] != now:
            if len(self._policies) >= MOST_POLICIES:
                self._policies.clear()
            known = self._policies[path, layer, label] = (now, super().policy(path, layer, label))
        return known[1]

    def builtin(self, directory: Path, compiled: Path | None,
                seen: Sequence[Dependency]) -> list[LoadedPolicy]:
        if not self._builtin[1] or self._builtin[0] != tuple(seen):
            self._builtin = (tuple(seen), super().builtin(directory, compiled, seen))
        return list(self._builtin[1])


class Warm:
    """A decider for :func:`hardrun.serve.service.serve`."""

    def __init__(self) -> None:
        import hardrun.policy.document  # noqa: F401 - what reads policies, before one is asked for

        self._policies = Kept()
        self.refresh()
        self.decide(["run", "--", "true"])  # whatever is imported on the way is imported now

    def refresh(self) -> None:
        """Try anew what this host can do. Raises HostUnsupported without /proc."""
        key = remembered.key(EXECUTOR)
        self._facts = probe()
        self._key = key if remembered.lasts(self._facts) else None
        self._held = True

    def is_current(self) -> bool:
        """Whether what is known of the host held for the last decision, or may not be kept."""
        return self._held

    def groups_decide(self) -> bool:
        """Whether the cgroup of the caller matters: not where systemd makes one of its own."""
        return not self._facts.cgroup_bus

    def decide(self, words: list[str]) -> Decided | None:
        """The image's artefact, for ``run`` and what has nothing else to be said or done."""
        known: dict[str, Any] = {"reader": self._policies}
        self._held = self._key is None or remembered.key(EXECUTOR) == self._key
        if self._key is not None and self._held:
            known["facts"] = with_group(self._facts)
        try:
            stored = _stored(words, known) if words[:1] == ["run"] else None
        except (HardrunError, click.ClickException, click.exceptions.Exit):
            return None
        if stored is None:
            return None
        return Decided(stored.artefact, lambda: cache.store(stored.key, stored.content))


def _stored(words: list[str], known: dict[str, Any]) -> run.Stored | None:
    context = run.command.make_context("run", words[1:], obj=words)
    options = dict(context.params)
    for name in ("report", "verify", "strict", "refresh"):
        if options.pop(name):
            return None
    request = decide_options(context, options, **known)
    if Protected.of(request.decision, request.workload).directories or request.notes():
        return None
    return run.stored(context, request)
