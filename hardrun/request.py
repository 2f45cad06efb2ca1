"""The one way from options to a Decision and a plan: run, explain, compile and the API take it.

That is what makes law 5 hold: the same inputs give the same digest, whoever asks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hardrun import cache
from hardrun.errors import BadInput, HostUnsupported, PolicyRefused
from hardrun.host.facts import HostFacts
from hardrun.host.labels import with_labels
from hardrun.host.probe import EXECUTOR, probe
from hardrun.plan.compile import PlannedRun, compile_plan
from hardrun.plan.context import Layer
from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.isolation import dependency_of, owner_note
from hardrun.plan.late import bind_caller_directory
from hardrun.policy.decision import Decision
from hardrun.policy.engine import decide as grant
from hardrun.policy.engine import holds_any_directory
from hardrun.policy.load import Dependency, Reader, is_file, load_policies
from hardrun.policy.loaded import LoadedPolicy
from hardrun.posture import ways_out
from hardrun.posture.filesystem import below
from hardrun.state import places
from hardrun.workload.flags import from_flags, split_destination
from hardrun.workload.model import Mount, Workload
from hardrun.workload.toolchain import walk

FLAGS = ("trust", "label", "rootfs", "writable", "ro", "rw", "tmpfs", "toolchain", "workdir",
         "env", "user", "userns", "hostname", "network", "min_tier", "limits", "cpuset",
         "cgroup_parent", "terminal", "interactive")
"""The keywords of :func:`decide` that describe a workload; they are those of ``from_flags``."""


SERVED = "hardrun-session"
"""What policies that match a command see for a sandbox whose commands come later."""
_REMEMBERED = 256  # commands whose decision is kept


class Request(NamedTuple):
    """A request that was granted: all that a plan is made from."""

    argv: tuple[str, ...]
    workload: Workload
    decision: Decision
    facts: HostFacts
    policies: tuple[LoadedPolicy, ...]
    dependencies: tuple[Dependency, ...]

    def plan(self, *, pinned: bool, whole_command: bool = False,
             serving: bool = False, layer: Layer | None = None) -> PlannedRun:
        """Compile the plan. Raises CommandNotFound when the command lies outside the view.

        The words after the command are a late slot that is filled at each start, so that they are
        in no stored file; with ``whole_command`` they are part of the plan. ``serving``: it has no
        command of its own, commands come later. ``layer`` is where a named container keeps the
        changes of its root.
        """
        return compile_plan(self.decision, self.workload, self.facts, pinned=pinned,
                            dependencies=self.dependencies, serving=serving,
                            arguments_in_plan=len(self.argv) if whole_command else 1, layer=layer)

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

    def needing(self, path: str) -> Request:
        """The same, with a plan that is stale when a file is another one.

        A stored plan is to be made anew when hardrun itself is: by the one that is then installed.
        """
        return self._replace(dependencies=(*self.dependencies, _dependency(path)))

    def notes(self) -> tuple[str, ...]:
        """What doesn't stop a run and may surprise whoever asked for it."""
        rootfs = self.workload.rootfs
        if rootfs is None or self.decision.control("ids.range").value != "single":
            return ()
        note = owner_note(rootfs, self.facts)
        return (note,) if note else ()

    def artefact(self, plan: PlannedRun, fallback: Sequence[str] = ()) -> bytes:
        """The bytes that follow the executor in an image."""
        return pack(Artefact(encode(plan.operations, plan.unsafe), self.decision.to_json(),
                             tuple(fallback)))


def decide(argv: Sequence[str], *, policies: Sequence[str] = (), directory: str | None = None,
           facts: HostFacts | None = None, reader: Reader | None = None, **flags: Any) -> Request:
    """Decide a request whose options are the texts of the flags.

    Relative paths start at ``directory``, the working directory unless given. ``facts`` are what is
    known of the host; without, and with a cgroup to look at, it is tried. ``reader`` reads the
    policies.

    The Decision depends on the command alone, never on its arguments: a stored plan answers for
    all of them. Raises BadInput, PolicyError, PolicyRefused and HostUnsupported.
    """
    parent = flags.get("cgroup_parent")
    if parent == "":  # an unset variable of a script: a group that was demanded, never none at all
        raise BadInput("--cgroup-parent: an empty path",
                       hint="name a group that is delegated to you, or . for the one you are in")
    if parent or facts is None:
        facts = probe(cgroup_parent=parent or "")
    if parent and not facts.cgroup.available:
        raise HostUnsupported(f"--cgroup-parent {parent}: {facts.cgroup.detail}", fact="cgroup",
                              cause=facts.cgroup.cause, hint=facts.cgroup.fix)
    try:
        directory = os.getcwd() if directory is None else directory
    except OSError as error:
        raise BadInput(f"the working directory is gone: {error.strerror}",
                       hint="cd to a directory that exists") from None
    workload = from_flags(argv, caller_directory=directory, home=facts.home,
                          search_path=os.environ.get("PATH", os.defpath), **flags)
    _check_own_files(workload)
    request = _grant(workload, policies, facts, reader)
    return request._replace(dependencies=(*request.dependencies, *_links(directory, flags)))


class Standing:
    """A request that was granted for commands that come later. Safe from many threads.

    Each is decided when it comes, under the policies as they are then: what an administrator
    tightens meanwhile holds for the next command, as it does for the next ``hardrun run``.
    """

    def __init__(self, request: Request, policies: Sequence[str]) -> None:
        self._policies = [os.path.abspath(name) if is_file(name) else name for name in policies]
        self._own = request.argv[0]
        self.request = request
        self._lock = threading.Lock()
        self._depends_on(self.request)

    def renewed(self) -> bool:
        """Whether a sandbox would be another one now; then ``request`` is what it would be.

        Raises PolicyError, PolicyRefused and HostUnsupported.
        """
        with self._lock:
            self._look()
            if not self._differences(self._own):
                return False
            self._different.clear()
            self.request = self.request._replace(
                decision=decide_anew(self.request, self._own, self._policies).decision)
            return True

    def check(self, command: str, *, looked: bool = False) -> None:
        """Raise PolicyRefused when the command would not run now as this sandbox was set up.

        ``looked``: :meth:`renewed` was asked just before, and has looked at the policies.
        """
        with self._lock:
            if not looked:
                self._look()
            different = self._differences(command)
        if different:
            raise PolicyRefused(
                f"{command}: the policies decide otherwise about it than about this sandbox: "
                f"{'; '.join(different)}", hint="start another sandbox for it: hardrun run")

    def _depends_on(self, request: Request) -> None:
        # as they were when they were read, not now: a change in between would be missed
        self._seen = [(d.path, (d.device, d.inode, d.mtime_ns, d.ctime_ns) if d.exists else None)
                      for d in request.dependencies]
        self._different: dict[str, list[str]] = {}

    def _look(self) -> None:
        if any(_state(path) != state for path, state in self._seen):
            self._depends_on(decide_anew(self.request, self._own, self._policies))

    def _differences(self, command: str) -> list[str]:
        if command not in self._different:
            if len(self._different) >= _REMEMBERED:
                self._different.clear()
            anew = decide_anew(self.request, command, self._policies)
            self._different[command] = differences(anew.decision, self.request.decision)
        return self._different[command]


def _state(path: str) -> tuple[int, ...] | None:
    """What every change of a file alters; None where there is none."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def differences(one: Decision, other: Decision) -> list[str]:
    """The controls that two decisions grant or enforce otherwise, in words."""
    def of(decision: Decision) -> dict[str, tuple[Any, Any, str]]:
        return {c.control: (c.value, c.enforcement, c.shown) for c in decision.controls}

    ours, theirs = of(one), of(other)
    return [f"{control} {ours.get(control, ('', '', 'none'))[2]}, not "
            f"{theirs.get(control, ('', '', 'none'))[2]}"
            for control in sorted(ours.keys() | theirs.keys())
            if ours.get(control, ())[:2] != theirs.get(control, ())[:2]]


def decide_anew(request: Request, command: str, policies: Sequence[str]) -> Request:
    """The same request for another command, under the policies as they are now.

    Everything else stays: grants lead where they led, the host is the one that was tried. Raises
    PolicyError, PolicyRefused and HostUnsupported.
    """
    return _grant(replace(request.workload, argv=(command,)), policies, request.facts)


def _grant(workload: Workload, policies: Sequence[str], facts: HostFacts,
           reader: Reader | None = None) -> Request:
    loaded = load_policies(policies, reader=reader)
    _check_policies(workload, loaded.policies)
    facts = with_labels(facts, _labels(loaded.policies), EXECUTOR)
    asked = replace(workload, argv=workload.argv[:1])
    judged = _by_known_names(asked)
    if judged != asked:
        grant(judged, loaded.policies, facts)
    decision = grant(asked, loaded.policies, facts)
    return Request(workload.argv, workload, decision, facts, loaded.policies, loaded.dependencies)


def _labels(policies: Iterable[LoadedPolicy]) -> set[str]:
    """The alternatives that policies name for mandatory access control."""
    return {alternative for policy in policies for said in policy.bounds.get("mandatory", ())
            for clause in said.value for alternative in clause}


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
    return tuple(_dependency(link) for link in sorted(links))


def _dependency(of: str) -> Dependency:
    path, device, inode, mtime_ns, ctime_ns = dependency_of(of)
    return Dependency(path, bool(inode), device, inode, mtime_ns, ctime_ns)


def _check_policies(workload: Workload, policies: Iterable[LoadedPolicy]) -> None:
    """No sandbox may write a policy that it is held to: it would loosen the next run."""
    for policy in policies:
        path = os.path.realpath(policy.file)
        for mount in workload.mounts:
            if policy.layer != "built-in" and mount.access == "rw" and mount.source \
                    and below(path, mount.source):
                raise PolicyRefused(
                    f"{mount.origin} {mount.source}: the policy {path} would be writable, and "
                    "decide what the next run may do",
                    hint="keep it elsewhere, or name a narrower path")


def _check_own_files(workload: Workload) -> None:
    """No sandbox may write stored plans or the state: it would decide what later sandboxes may do.

    What containers asked for and wrote is in the state; in a layer a sandbox could plant what
    another one executes. The table of ways out has the usual places below the home; this is for
    XDG_CACHE_HOME elsewhere, and for a HOME that is not the account's.
    """
    plans = cache.plans_directory()
    ours = [] if plans is None else [
        (os.path.dirname(plans), "stored plans", "name a narrower path, or set XDG_CACHE_HOME to "
         "another one")]
    ours += [(path, "state", "name a narrower path") for path in places.candidates()]
    for path, what, hint in ours:
        path = os.path.realpath(path)
        for mount in workload.mounts:
            if mount.access == "rw" and mount.source and (
                    below(path, mount.source) or below(mount.source, path)):
                raise PolicyRefused(
                    f"{mount.origin} {mount.source}: hardrun's {what} in {path} would be writable, "
                    "and decide what later sandboxes may do", hint=hint)
