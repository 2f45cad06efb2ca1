"""One plan, layer after layer: what each layer of isolation adds to a start.

The operations of the real plan, sorted into layers; step N holds the first N layers. The last step
is the whole plan, so that nothing is left out of the sum. Beside them the same plan with one thing
more that only some hosts have: a cgroup, an AppArmor label, a range of ids by newuidmap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hardrun.bench.contender import Contender
from hardrun.bench.scene import Scene
from hardrun.executor.image import read_executor
from hardrun.host.facts import Fact, HostFacts
from hardrun.host.probe import probe
from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.schema import Operation, Unsafe
from hardrun.request import Request, decide

STEP, VARIANT = "layer: ", "with "
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET = 0x04000000, 0x08000000, 0x40000000
_LATER = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
_EVERYTHING_LEFT_OUT = Unsafe(sum(Unsafe)) & ~Unsafe.NO_NAMESPACES
_ABSENT = Fact(available=False, detail="left out")
_SOME_GROUP = (2**31,)  # any at all: to drop it takes a range (user_namespaces(7))


class Layer(NamedTuple):
    """What it is, the operations that make it, and the namespaces that come with it."""

    name: str
    operations: frozenset[str]
    flags: int = 0


def _layer(name: str, operations: str, flags: int = 0) -> Layer:
    return Layer(name, frozenset(operations.split()), flags)


LAYERS = (
    _layer("user, pid and mount namespaces, ids, PID 1",
           "clone argument arguments_of_caller environment environment_of_caller standard_io "
           "execute write_id_map write_id_map_helper write_uid_map await_id_maps become "
           "set_groups"),
    _layer("ipc and uts namespaces", "set_hostname", CLONE_NEWIPC | CLONE_NEWUTS),
    _layer("network namespace, loopback", "join_network", CLONE_NEWNET),
    _layer("mounts", "make_private root_tmpfs root_bind root_attributes make_directory "
           "make_symlink make_file bind bind_device mount_proc mount_tmpfs mount_devpts "
           "writable_directory pivot_root change_directory"),
    _layer("capabilities, no_new_privs", "drop_bounding set_securebits set_capabilities "
           "no_new_privs not_dumpable write_sysctl"),
    _layer("Landlock", "landlock_ruleset landlock_path landlock_port landlock_restrict"),
    _layer("seccomp", "load_seccomp"),
)
WHOLE = "limits, session, descriptors, conditions, cgroup"


def _request(scene: Scene) -> Request:
    flags: dict[str, Any] = {} if scene.host else {"rootfs": str(scene.rootfs)}
    return decide(list(scene.command), policies=scene.policies, **flags)


def _write(path: Path, operations: Sequence[Operation], unsafe: Unsafe) -> str:
    path.write_bytes(read_executor() + pack(Artefact(encode(operations, unsafe))))
    path.chmod(0o755)
    return str(path)


def _restricted(operation: Operation, flags: int, names: frozenset[str], scene: Scene
                ) -> Operation:
    """The clone without the namespaces of later layers; the program where the host has it as long
    as the root is the host's."""
    if operation.name == "execute" and "pivot_root" not in names:
        return operation._replace(values=(scene.outside(scene.command)[0], ""))
    if operation.name != "clone":
        return operation
    first, *rest = operation.values
    assert isinstance(first, int)
    return operation._replace(values=(first & ~(_LATER & ~flags), *rest))


def _contender(name: str, path: str) -> Contender:
    return Contender(name, "", "", lambda ask: [[path, *ask.command[1:]]])


def steps(scene: Scene) -> Iterator[Contender]:
    """A program for each step. Raises what deciding raises."""
    request = _request(scene)
    plan = request.plan(pinned=False)
    names: frozenset[str] = frozenset()
    flags = 0
    for number, layer in enumerate(LAYERS):
        names, flags = names | layer.operations, flags | layer.flags
        chosen = [_restricted(o, flags, names, scene) for o in plan.operations if o.name in names]
        path = _write(scene.directory / f"step-{number}", chosen, _EVERYTHING_LEFT_OUT)
        yield _contender(f"{STEP}{layer.name}", path)
    path = _write(scene.directory / "step-whole", plan.operations, plan.unsafe)
    yield _contender(f"{STEP}{WHOLE}", path)


def _variants(facts: HostFacts) -> dict[str, HostFacts]:
    """This host with one layer each, as far as it has it."""
    none = replace(facts, supplementary_groups=(), cgroup=_ABSENT, cgroup_delegation=_ABSENT,
                   cgroup_directory="", cgroup_bus="", cgroup_controllers=(), apparmor=_ABSENT,
                   apparmor_profiles=(), selinux=_ABSENT, selinux_types=())
    found = {"none of these": none}
    # Trying its own group makes this process step aside in it: what systemd does comes first.
    for place in (facts, probe(cgroup_parent=".")):
        if place.cgroup.available:
            how = "by systemd over D-Bus" if place.cgroup_bus else "written directly"
            found[f"a cgroup, {how}"] = replace(
                none, cgroup=place.cgroup, cgroup_delegation=place.cgroup_delegation,
                cgroup_directory=place.cgroup_directory, cgroup_bus=place.cgroup_bus,
                cgroup_controllers=place.cgroup_controllers)
    if "hardrun-untrusted" in facts.apparmor_profiles:
        found["an AppArmor label"] = replace(
            none, apparmor=facts.apparmor, apparmor_profiles=facts.apparmor_profiles)
    if facts.id_ranges.available:
        found["a range by newuidmap"] = replace(none, supplementary_groups=_SOME_GROUP)
    return found


def variants(scene: Scene) -> Iterator[Contender]:
    """A program for each thing that only some hosts have, where there is one at all."""
    from hardrun.plan.compile import compile_plan
    from hardrun.policy.engine import decide as grant

    request = _request(scene)
    found = _variants(request.facts)
    for number, (name, facts) in enumerate(found.items()):
        decision = grant(request.workload, request.policies, facts)
        plan = compile_plan(decision, request.workload, facts, pinned=True)
        path = _write(scene.directory / f"variant-{number}", plan.operations, plan.unsafe)
        yield _contender(f"{VARIANT}{name}", path)
