"""From a Decision to the executor's operations.

    view.py         the model of what is visible, and the path walk over it
    root.py         builds the view of one run;  protect.py what in it is executed later, outside
    lookup.py       finds the command and the working directory in it
    isolation.py    conditions, namespaces, ids, the parent
    mounting.py     the view as mounts and as Landlock rules
    confinement.py  credentials, environment, limits, label, exec

Each step says which control causes an operation; the reason of an operation is that control with
the file and line that decided it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hardrun.errors import PolicyRefused
from hardrun.plan import confinement, isolation, lookup, mounting, protect
from hardrun.plan.context import Context, Program, names_of
from hardrun.plan.root import RESOLVER_FILE, Account, RootOptions, build_view
from hardrun.plan.schema import Operation, Unsafe
from hardrun.posture.filesystem import below

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts
    from hardrun.plan.view import View
    from hardrun.policy.decision import Decision
    from hardrun.workload.model import Workload


class PlannedRun(NamedTuple):
    """A compiled run.

    ``protected_absent`` are host paths that the policy protects but that do not exist yet: they
    can't be held read-only, so whoever ran the plan looks for them afterwards. ``storable`` is
    False when the plan names things found by walking a directory that others may change: it must
    not outlive this process.
    """

    operations: tuple[Operation, ...]
    unsafe: Unsafe
    protected_absent: tuple[str, ...] = ()
    storable: bool = True
    view: View | None = None


def compile_plan(
    decision: Decision,
    workload: Workload,
    facts: HostFacts,
    *,
    pinned: bool,
    dependencies: Sequence[isolation.Dependency] = (),
    arguments_in_plan: int = 1,
    caller_environment: Mapping[str, str] | None = None,
) -> PlannedRun:
    """Compile a Decision for one workload on one host.

    ``pinned``: the process that makes the plan executes it; else the plan is stored, and refuses
    to run when what it depended on (``dependencies`` and the facts it used) has changed.
    The first ``arguments_in_plan`` words of argv are part of the plan, the executor appends those
    that it is started with. ``caller_environment`` (os.environ unless given) is where PATH is read
    from when the policy lets it be inherited; no value of it is stored.

    Raises CommandNotFound and CommandNotExecutable for the command, BadInput for a path that can't
    be laid out, PolicyRefused for a grant beyond the Decision, HostUnsupported for what this host
    can't do.
    """
    posture = _posture(decision)
    _check_grants(workload, posture)
    account = _account(workload, facts, posture)
    view = build_view(workload, account, _root_options(workload, facts, posture))
    protected = names_of(posture, "filesystem.protected")
    absent = protect.add_protected(view, protected)
    context = Context(
        posture=posture, workload=workload, facts=facts, account=account, view=view, pinned=pinned,
        reasons={c.control: f"{c.control}, {c.decided_by}" for c in decision.controls},
        degraded=frozenset(c.control for c in decision.controls
                           if c.enforcement.kind == "degraded"),
        caller_environment=os.environ if caller_environment is None else caller_environment)
    program = Program(context)
    search = confinement.search_path(context, lookup.DEFAULT_PATH)
    directory = lookup.working_directory(view, workload, account.home)
    start = workload.working_directory or workload.caller_directory
    command = lookup.find_command(view, workload.argv[0], search, start)
    argv = list(workload.argv[:arguments_in_plan])
    if "/" in argv[0] and start != directory:
        argv[0] = command  # a relative name would be looked up where the command starts
    if not pinned:
        isolation.add_conditions(program, dependencies)
        if posture["network"] == "host":
            resolver = os.path.realpath(RESOLVER_FILE)
            program.add("network", "require_path", *isolation.dependency_of(resolver))
        confinement.add_filter_conditions(program)
    isolation.add_namespaces(program)
    isolation.add_ids(program)
    isolation.add_parent(program)
    mounting.add_mounts(program)
    confinement.add_credentials(program)
    mounting.add_landlock(program)
    confinement.add_process(program, argv)
    confinement.add_filter(program)
    confinement.add_exec(program, command, directory)
    walked = bool(protected) and any(mount.access == "rw" for mount in workload.mounts)
    return PlannedRun(tuple(program.operations), program.unsafe, tuple(absent), not walked, view)


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
        hostname=workload.hostname or isolation.HOSTNAME,
    )
