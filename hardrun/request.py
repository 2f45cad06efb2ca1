"""The one way from options to a Decision and a plan: run, explain, compile and the API take it.

That is what makes law 5 hold: the same inputs give the same digest, whoever asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hardrun import cache
from hardrun.errors import BadInput, PolicyRefused
from hardrun.host.facts import HostFacts
from hardrun.host.probe import probe
from hardrun.plan.compile import PlannedRun, compile_plan
from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.isolation import dependency_of
from hardrun.plan.late import bind_caller_directory
from hardrun.policy.decision import Decision
from hardrun.policy.engine import decide as grant
from hardrun.policy.engine import holds_any_directory
from hardrun.policy.load import Dependency, load_policies
from hardrun.policy.loaded import LoadedPolicy
from hardrun.posture import ways_out
from hardrun.posture.filesystem import below
from hardrun.workload.flags import from_flags, split_destination
from hardrun.workload.model import Mount, Workload
from hardrun.workload.toolchain import walk

FLAGS = ("trust", "label", "rootfs", "ro", "rw", "tmpfs", "toolchain", "workdir", "env", "user",
         "hostname", "network", "limits", "terminal", "interactive")
"""The keywords of :func:`decide` that describe a workload; they are those of ``from_flags``."""


class Request(NamedTuple):
    """A request that was granted: all that a plan is made from."""

    argv: tuple[str, ...]
    workload: Workload
    decision: Decision
    facts: HostFacts
    policies: tuple[LoadedPolicy, ...]
    dependencies: tuple[Dependency, ...]

    def plan(self, *, pinned: bool, whole_command: bool = False) -> PlannedRun:
        """Compile the plan. Raises CommandNotFound when the command lies outside the view.

        The words after the command are a late slot that is filled at each start, so that they are
        in no stored file; with ``whole_command`` they are part of the plan.
        """
        return compile_plan(self.decision, self.workload, self.facts, pinned=pinned,
                            dependencies=self.dependencies,
                            arguments_in_plan=len(self.argv) if whole_command else 1)

    def plan_anywhere(self) -> PlannedRun:
        """The plan of a program whose grant of ``.`` is the directory that it is called in.

        Raises PolicyRefused where a policy does not grant every working directory, and what
        ``plan`` raises.
        """
        directory = self.workload.caller_directory
        mount = next(m for m in self.workload.mounts if m.source == directory)
        control = "filesystem.writable" if mount.access == "rw" else "filesystem.readable"
        if not holds_any_directory(control, self.policies, self.workload, self.facts):
            raise PolicyRefused(
                f"{control}: wherever the program is called asked ({mount.origin} .), which "
                f"{', '.join(self.decision.policies)} does not grant",
                hint=f"name the directory: {mount.origin} {directory}")
        plan = self.plan(pinned=False, whole_command=True)
        return plan._replace(operations=bind_caller_directory(
            plan.operations, directory, self.facts.home, control))

    def artefact(self, plan: PlannedRun, fallback: Sequence[str] = ()) -> bytes:
        """The bytes that follow the executor in an image."""
        return pack(Artefact(encode(plan.operations, plan.unsafe), self.decision.to_json(),
                             tuple(fallback)))


def decide(argv: Sequence[str], *, policies: Sequence[str] = (), **flags: Any) -> Request:
    """Decide a request whose options are the texts of the flags.

    The Decision depends on the command alone, never on its arguments: a stored plan answers for
    all of them. Raises BadInput, PolicyError, PolicyRefused and HostUnsupported.
    """
    facts = probe()
    try:
        directory = os.getcwd()
    except OSError as error:
        raise BadInput(f"the working directory is gone: {error.strerror}",
                       hint="cd to a directory that exists") from None
    workload = from_flags(argv, caller_directory=directory, home=facts.home,
                          search_path=os.environ.get("PATH", os.defpath), **flags)
    _check_cache(workload)
    loaded = load_policies(policies)
    asked = replace(workload, argv=workload.argv[:1])
    judged = _by_known_names(asked)
    if judged != asked:
        grant(judged, loaded.policies, facts)
    decision = grant(asked, loaded.policies, facts)
    links = _links(directory, flags)
    return Request(workload.argv, workload, decision, facts, loaded.policies,
                   (*loaded.dependencies, *links))


def _by_known_names(workload: Workload) -> Workload:
    """The workload with grants of what a known way out leads to under the name of that way out.

    ~/.aws may be a link into a directory of dotfiles. The engine compares names and looks at no
    file, and the sources of grants come to it resolved.
    """
    def named(mount: Mount) -> Mount:
        control = "filesystem.writable" if mount.access == "rw" else "filesystem.readable"
        for way in ways_out.touched(control, workload.home, workload.home):
            real = os.path.realpath(way.value)
            if mount.source and real != way.value and below(way.value, workload.home) \
                    and (below(mount.source, real) or below(real, mount.source)):
                return replace(mount, source=way.value)
        return mount

    return replace(workload, mounts=tuple(named(mount) for mount in workload.mounts))


def _links(directory: str, flags: Mapping[str, Any]) -> tuple[Dependency, ...]:
    """The symlinks that the sources of grants were reached through.

    A stored plan holds where they led: after ``ln -sfn releases/2 current`` it must be made anew.
    """
    paths = [os.environ.get("HOME", ""), flags.get("rootfs") or ""]
    paths += [split_destination(text)[0] for name in ("ro", "rw") for text in flags.get(name, ())]
    links = {link for path in paths if path
             for link, target in walk(os.path.normpath(os.path.join(directory, path))) if target}
    found: list[Dependency] = []
    for link in sorted(links):
        path, device, inode, mtime_ns, ctime_ns = dependency_of(link)
        found.append(Dependency(path, bool(inode), device, inode, mtime_ns, ctime_ns))
    return tuple(found)


def _check_cache(workload: Workload) -> None:
    """No sandbox may write stored plans: it would decide what later sandboxes may do.

    The table of ways out has the usual place below the home; this is for XDG_CACHE_HOME elsewhere.
    """
    plans = cache.plans_directory()
    if plans is None:
        return
    ours = os.path.realpath(os.path.dirname(plans))
    for mount in workload.mounts:
        if mount.access == "rw" and mount.source and (
                below(ours, mount.source) or below(mount.source, ours)):
            raise PolicyRefused(f"{mount.origin} {mount.source}: hardrun's stored plans in {ours} "
                                "would be writable, and they decide what later sandboxes may do",
                                hint="name a narrower path, or set XDG_CACHE_HOME to another one")
