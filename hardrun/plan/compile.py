"""From a Decision to the executor's operations.

    view.py         the model of what is visible, and the path walk over it
    root.py         builds the view of one run;  protect.py what in it is executed later, outside
    lookup.py       finds the command and the working directory in it
    isolation.py    conditions, namespaces, ids, the parent
    cgroup.py       the group that limits all processes together
    mounting.py     the view as mounts and as Landlock rules
    landlock_tier.py  the view, start and rules of a sandbox without namespaces
    confinement.py  credentials, environment, limits, exec
    label.py        the label of AppArmor or SELinux

Each step says which control causes an operation; the reason of an operation is that control with
the file and line that decided it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hardrun.errors import PolicyRefused
from hardrun.plan import (
    cgroup,
    confinement,
    isolation,
    label,
    landlock_tier,
    lookup,
    mounting,
    protect,
)
from hardrun.plan.context import Context, Layer, Program, names_of
from hardrun.plan.root import Account, RootOptions, build_view
from hardrun.plan.schema import Operation, Unsafe
from hardrun.posture import limits
from hardrun.posture.filesystem import below

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts
    from hardrun.plan.view import View
    from hardrun.policy.decision import Decision
    from hardrun.state.ranges import Wish
    from hardrun.workload.model import Workload


class PlannedRun(NamedTuple):
    """A compiled run.

    ``protected_absent`` are host paths that the policy protects but that do not exist yet: they
    can't be held read-only, so whoever ran the plan looks for them afterwards. ``storable`` is
    False when the plan names things found by walking a directory that others may change, or the
    disks that there are: it must not outlive this process. ``ids`` is the range that each start
    takes for itself (late.py): until it is assigned, the plan maps nothing and can't start.
    """

    operations: tuple[Operation, ...]
    unsafe: Unsafe
    protected_absent: tuple[str, ...] = ()
    storable: bool = True
    view: View | None = None
    ids: Wish | None = None


def compile_plan(
    decision: Decision,
    workload: Workload,
    facts: HostFacts,
    *,
    pinned: bool,
    dependencies: Sequence[isolation.Dependency] = (),
    arguments_in_plan: int = 1,
    serving: bool = False,
    caller_environment: Mapping[str, str] | None = None,
    layer: Layer | None = None,
) -> PlannedRun:
    """Compile a Decision for one workload on one host.

    ``pinned``: the process that makes the plan executes it; else the plan is stored, and refuses
    to run when what it depended on (``dependencies`` and the facts it used) has changed.
    The first ``arguments_in_plan`` words of argv are part of the plan, the executor appends those
    that it is started with; none where it is ``serving`` commands that come later.
    ``caller_environment`` (os.environ unless given) is where PATH is read from when the policy lets
    it be inherited; no value of it is stored. ``layer`` is where the changes of a root are kept
    that the Decision lets outlive the sandbox.

    Raises CommandNotFound and CommandNotExecutable for the command, BadInput for a path that can't
    be laid out, PolicyRefused for a grant beyond the Decision, HostUnsupported for what this host
    can't do.
    """
    if decision.tier == "landlock":
        facts = facts.without_namespaces()
    posture = _posture(decision)
    _check_grants(workload, posture)
    account = _account(workload, facts, posture)
    protected = names_of(posture, "filesystem.protected")
    view, absent = _view(workload, account, _root_options(workload, facts, posture),
                         protected if facts.namespaces else None)
    context = Context(
        posture=posture, workload=workload, facts=facts, account=account, view=view, pinned=pinned,
        reasons={c.control: f"{c.control}, {c.decided_by}" for c in decision.controls},
        degraded=frozenset(c.control for c in decision.controls
                           if c.enforcement.kind == "degraded"),
        layers={c.control: c.enforcement.by for c in decision.controls},
        caller_environment=os.environ if caller_environment is None else caller_environment,
        layer=layer)
    program = Program(context)
    kept = context.overlay() == "persistent"
    found = _command(context, kept=kept, serving=serving)
    if not pinned:
        _add_conditions(program, dependencies)
    if facts.namespaces:
        _add_full_tier(program)
    else:
        _add_landlock_tier(program)
    confinement.add_process(program, found.argv[:arguments_in_plan])
    confinement.add_filter(program)
    confinement.add_exec(program, found.path, found.directory, found.search_path)
    walked = bool(protected) and any(mount.access == "rw" for mount in workload.mounts)
    storable = not walked and not kept and program.ids is None \
        and limits.IO.id not in context.in_cgroup()
    return PlannedRun(tuple(program.operations), program.unsafe, tuple(absent), storable, view,
                      program.ids)


class _Command(NamedTuple):
    """What is executed where."""

    path: str
    directory: str
    search_path: str
    argv: tuple[str, ...]


def _command(context: Context, *, kept: bool, serving: bool) -> _Command:
    """Find the command; of a layer that is ``kept`` the executor alone knows what is in it."""
    view, workload = context.view, context.workload
    search = confinement.search_path(context, lookup.DEFAULT_PATH)
    directory = lookup.working_directory(view, workload, context.account.home, kept=kept)
    start = workload.working_directory or workload.caller_directory
    if serving:
        return _Command("", directory, "", ())
    path = lookup.command_in_layer(workload.argv[0], start) if kept else \
        lookup.find_command(view, workload.argv[0], search, start)
    argv = workload.argv
    if "/" in argv[0] and start != directory:
        argv = (path, *argv[1:])  # a relative name would be looked up where the command starts
    return _Command(path, directory, search if kept else "", argv)


def _add_conditions(program: Program, dependencies: Sequence[isolation.Dependency]) -> None:
    """What a stored plan must find as it was."""
    isolation.add_conditions(program, dependencies)
    confinement.add_filter_conditions(program)
    cgroup.add_conditions(program)
    label.add_label_conditions(program)


def _view(workload: Workload, account: Account, options: RootOptions,
          protected: frozenset[str] | None) -> tuple[View, Sequence[str]]:
    """The view, and what is protected and does not exist; None: without mounts nothing is held."""
    if protected is None:
        return landlock_tier.host_view(workload, options), ()
    view = build_view(workload, account, options)
    return view, protect.add_protected(view, protected)


def _add_full_tier(program: Program) -> None:
    isolation.add_keyring(program)
    isolation.add_namespaces(program)
    isolation.add_ids(program)
    cgroup.add_cgroup(program)
    isolation.add_parent(program)
    mounting.add_mounts(program)
    confinement.add_credentials(program)
    mounting.add_landlock(program)


def _add_landlock_tier(program: Program) -> None:
    landlock_tier.add_grant_conditions(program, program.context.workload.mounts)
    isolation.add_keyring(program)
    landlock_tier.add_start(program)
    cgroup.add_cgroup(program)
    isolation.add_parent(program)
    landlock_tier.add_credentials(program)
    landlock_tier.add_landlock(program)


def _posture(decision: Decision) -> dict[str, object]:
    from hardrun.posture.registry import CONTROLS

    posture = decision.posture
    return {control.id: posture[control] for control in CONTROLS if control in posture}


def _check_grants(workload: Workload, posture: Mapping[str, object]) -> None:
    """No mount goes beyond the Decision, whatever the workload that came with it says."""
    for mount in workload.mounts:
        if mount.source is None:
            continue
        writable = names_of(posture, "filesystem.writable")
        allowed = writable if mount.access == "rw" else \
            writable | names_of(posture, "filesystem.readable")
        if not _covered(mount.source, allowed):
            raise PolicyRefused(f"{mount.origin} {mount.source} is not in the decision",
                                hint="decide and compile the same workload")


def _covered(path: str, allowed: Iterable[str]) -> bool:
    return any(below(path, prefix) for prefix in allowed)


def _account(workload: Workload, facts: HostFacts, posture: Mapping[str, object]) -> Account:
    """Who the workload is inside. A name or home that would break passwd(5) is replaced."""
    if not facts.namespaces:
        return Account(facts.user_name, facts.uid, facts.gid, landlock_tier.PRIVATE)
    root_allowed = posture.get("ids.user") == "root"
    uid, gid = workload.user or ((0, 0) if root_allowed else (facts.uid, facts.gid))
    if uid == 0 and facts.uid != 0 and not root_allowed:
        raise PolicyRefused("ids.user: root asked (--user), which is not in the decision",
                            hint="decide and compile the same workload")
    name = "root" if uid == 0 else facts.user_name if uid == facts.uid else "user"
    if not name or any(character in name for character in ":\n/"):
        name = "user"
    if workload.rootfs is not None:
        has_root = uid == 0 and os.path.isdir(os.path.join(workload.rootfs, "root"))
        return Account(name, uid, gid, "/root" if has_root else "/tmp")  # nosec B108
    home = os.path.normpath(workload.home)
    unfit = not home.startswith("/") or home == "/" or any(c in home for c in ":\n") or any(
        below(home, system) for system in ("/usr", "/etc", "/proc", "/dev", "/sys", "/run"))
    return Account(name, uid, gid, f"/home/{name}" if unfit else home)


def _root_options(workload: Workload, facts: HostFacts,
                  posture: Mapping[str, object]) -> RootOptions:
    return RootOptions(
        visible=names_of(posture, "filesystem.visible"),
        devices=names_of(posture, "devices"),
        proc=str(posture["filesystem.proc"]) if facts.proc_mount.available else "none",
        private_terminals=workload.terminal and posture["terminal"] == "private",
        network=posture["network"] == "host",
        read_only=bool(posture["filesystem.read_only_root"]),
        layered=posture["filesystem.overlay"] != "none",
        hostname=workload.hostname or isolation.HOSTNAME,
    )
