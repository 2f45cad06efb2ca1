"""What a Decision becomes: every control has its operation, and every operation its reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hardrun.errors import BadInput, HostUnsupported, PlanError, PolicyRefused
from hardrun.kernel.landlock import FilesystemAccess, filesystem_access
from hardrun.plan.compile import PlannedRun, compile_plan
from hardrun.plan.format import decode, encode
from hardrun.plan.late import assign_ids
from hardrun.plan.schema import BindFlag, Operation, StandardIO, Unsafe
from hardrun.plan.uapi import Clone, MountAttribute, Resource
from hardrun.state.ranges import Wish
from tests.planning import YES, decision, facts, named, plan, workload

HELPERS = {"id_ranges": YES,
           "newuidmap": replace(YES, detail="/usr/bin/newuidmap"),
           "newgidmap": replace(YES, detail="/usr/bin/newgidmap"),
           "subordinate_uids": ((100000, 65536),), "subordinate_gids": ((200000, 65536),)}


def maps(operations: Sequence[Operation]) -> list[list[str]]:
    return [str(bytes(o.values[1]), "ascii").split("\0")[:-1]  # type: ignore[arg-type]
            for o in operations if o.name == "write_id_map_helper"]


def limits(planned: PlannedRun) -> dict[object, tuple[object, object]]:
    return {o.values[0]: (o.values[1], o.values[2]) for o in named(planned, "set_limit")}


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = (encode(*plan("env", pinned=False)[:2]) for _ in range(2))
    assert first == second
    assert decode(first).unsafe == Unsafe.NO_SECCOMP


def test_every_operation_of_a_control_cites_the_line_that_decided() -> None:
    reasons = {o.name: o.reason for o in plan().operations}
    assert reasons["root_tmpfs"] == "limits.tmpfs, test.yaml:1"
    assert reasons["no_new_privs"] == "no_new_privs, test.yaml:1"
    assert all(reasons.values())


def test_every_namespace_is_new_unless_the_policy_shares_it() -> None:
    def flags(planned: PlannedRun) -> int:
        return int(named(planned, "clone")[0].values[0])

    assert flags(plan()) == sum(Clone)
    shared = plan(values={"namespaces.shared": frozenset({"ipc", "uts"})})
    assert flags(shared) == sum(Clone) & ~(Clone.CLONE_NEWIPC | Clone.CLONE_NEWUTS)
    assert not named(shared, "set_hostname")


def test_the_hosts_network_is_said_to_be_shared() -> None:
    planned = plan(network="host")
    assert planned.unsafe & Unsafe.SHARED_NETWORK
    assert not int(named(planned, "clone")[0].values[0]) & Clone.CLONE_NEWNET
    assert not named(planned, "join_network")


@pytest.mark.parametrize("control, value, bit, operation", [
    ("landlock", False, Unsafe.NO_LANDLOCK, "landlock_restrict"),
    ("session", False, Unsafe.NO_SESSION, "new_session"),
])
def test_a_defence_that_is_left_out_is_said_by_a_bit_of_its_own(
        control: str, value: object, bit: Unsafe, operation: str) -> None:
    planned = plan(values={control: value})
    assert planned.unsafe & bit
    assert not named(planned, operation)
    assert not plan().unsafe & bit


def test_no_new_privs_is_set_unasked_where_landlock_or_seccomp_need_it() -> None:
    off = {"no_new_privs": False}
    assert named(plan(values=off), "no_new_privs")[0].reason.startswith("landlock")
    planned = plan(values=off | {"landlock": False})
    assert not named(planned, "no_new_privs")
    assert planned.unsafe & Unsafe.NO_NEW_PRIVS_OFF
    assert not named(plan(values=off | {"capabilities": frozenset({"CAP_SYS_ADMIN"})}),
                     "no_new_privs")


def test_granted_capabilities_stay_in_the_bounding_set_and_nothing_else_does() -> None:
    planned = plan(values={"capabilities": frozenset({"CAP_CHOWN", "CAP_KILL"})})
    assert named(planned, "drop_bounding")[0].values == (0b100001,)
    assert named(planned, "set_capabilities")[0].values == (0b100001,)
    assert planned.unsafe & Unsafe.KEEPS_CAPABILITIES


def test_limits_become_resource_limits_and_never_exceed_the_hard_ones() -> None:
    host = facts(hard_limits={"RLIMIT_NOFILE": 512})
    found = limits(plan(host=host))
    assert found[Resource.RLIMIT_NOFILE] == (512, 512)
    assert found[Resource.RLIMIT_DATA] == (1 << 30, 1 << 30)
    assert found[Resource.RLIMIT_CPU] == (60, 61)
    assert found[Resource.RLIMIT_CORE] == (1, 1)  # at 0 a core still goes to a program
    assert Resource.RLIMIT_FSIZE not in found  # unlimited


def test_cpu_time_is_rounded_up_to_whole_seconds() -> None:
    found = limits(plan(values={"limits.cpu_time": 1500}))
    assert found[Resource.RLIMIT_CPU] == (2, 3)


def test_a_single_id_is_mapped_without_helpers() -> None:
    planned = plan(host=facts(uid=1000, gid=1001, supplementary_groups=()))
    assert named(planned, "write_id_map")[0].values == (1000, 1001)
    assert not named(planned, "set_groups")


def test_supplementary_groups_are_dropped_by_newgidmap() -> None:
    planned = plan(host=facts(uid=1000, gid=1001, supplementary_groups=(27,), **HELPERS))
    [gids] = named(planned, "write_id_map_helper")
    assert gids.values == ("/usr/bin/newgidmap",
                           b"1001\x001001\x001\x00" b"0\x00200000\x001\x00")
    assert named(planned, "write_uid_map")[0].values == (1000,)  # no second setuid program
    assert named(planned, "set_groups")[0].values == ((1001).to_bytes(4, "little"),)
    assert not named(planned, "write_id_map")


def test_a_stored_plan_with_helpers_is_stale_when_they_or_the_ranges_change() -> None:
    host = facts(supplementary_groups=(27,), **HELPERS)
    files = {"/usr/bin/newuidmap", "/usr/bin/newgidmap", "/etc/subuid", "/etc/subgid"}
    assert files <= {o.values[0] for o in named(plan(host=host, pinned=False), "require_path")}
    assert not files & {o.values[0] for o in named(plan(host=host), "require_path")}


def test_a_map_has_no_more_extents_than_a_helper_is_given() -> None:
    many = {"subordinate_uids": tuple((100000 * n, 10) for n in range(1, 30))}
    planned = plan(host=facts(supplementary_groups=(), **HELPERS | many),
                   values={"ids.range": "shared"})
    words = bytes(named(planned, "write_id_map_helper")[0].values[1]).split(b"\0")  # type: ignore[arg-type]
    assert len(words) == 31


def test_groups_that_can_not_be_dropped_need_a_decision_that_says_degraded() -> None:
    host = facts(supplementary_groups=(27,))
    assert named(plan(host=host), "write_id_map")
    asked = workload()
    decided = decision(asked, facts(supplementary_groups=()))  # made for another kind of host
    with pytest.raises(HostUnsupported, match="supplementary_groups"):
        compile_plan(decided, asked, host, pinned=True)


def test_a_range_leaves_out_the_callers_own_id() -> None:
    planned = plan(host=facts(uid=2, gid=0, supplementary_groups=(), **HELPERS),
                   values={"ids.range": "shared"})
    assert maps(planned.operations) == [
        ["2", "2", "1", "0", "100000", "2", "3", "100002", "65534"],
        ["0", "0", "1", "1", "200000", "65536"]]


def test_a_range_of_its_own_is_mapped_when_it_was_taken() -> None:
    planned = plan(host=facts(uid=2, gid=0, supplementary_groups=(), **HELPERS),
                   values={"ids.range": "own"})
    assert maps(planned.operations) == [[], []]  # which no helper takes
    assert not planned.storable
    assert planned.ids == Wish(((100000, 65536),), ((200000, 65536),), 1024)
    assert maps(assign_ids(planned.operations, 100064, 200640, 5)) == [
        ["2", "100064", "1", "0", "100065", "2", "3", "100067", "2"],
        ["0", "200640", "1", "1", "200641", "4"]]


@pytest.mark.parametrize("ids, expected", [("own", [0]), ("shared", [0]), ("single", [])])
def test_us_02_a_list_of_groups_without_further_ones_is_replaced_where_it_can_be(
        ids: str, expected: list[int]) -> None:
    """It has the caller's primary group in it, which is none of a sandbox with ids of its own."""
    planned = plan(host=facts(uid=2, gid=0, supplementary_groups=(), **HELPERS),
                   values={"ids.range": ids})
    groups = [o.values for o in named(planned, "set_groups")]
    assert groups == [(gid.to_bytes(4, "little"),) for gid in expected]


@pytest.mark.parametrize("asked, size", [(None, 1024), ("auto", 1024), ("auto:size=7", 7)])
def test_how_many_ids_a_range_has(asked: str | None, size: int) -> None:
    planned = plan(host=facts(supplementary_groups=(), **HELPERS), userns=asked,
                   values={"ids.range": "own"})
    assert planned.ids is not None
    assert planned.ids.size == size


def test_a_user_that_was_not_granted_is_refused() -> None:
    asked = workload(user="0")
    decided = decision(asked, facts(uid=1000), ids__user="self")
    with pytest.raises(PolicyRefused, match=r"ids\.user"):
        compile_plan(decided, asked, facts(uid=1000), pinned=True)


def test_a_grant_beyond_the_decision_is_refused(tmp_path: Path) -> None:
    asked = workload(rw=[str(tmp_path)])
    decided = decision(asked, facts(), filesystem__writable=frozenset(),
                       filesystem__readable=frozenset({"/"}))
    with pytest.raises(PolicyRefused, match=str(tmp_path)):
        compile_plan(decided, asked, facts(), pinned=True)


def test_sources_are_pinned_only_where_the_plan_is_not_stored() -> None:
    for pinned in (True, False):
        usr = next(o for o in named(plan(pinned=pinned), "bind") if o.values[0] == "/usr")
        status = os.stat("/usr")
        assert bool(int(usr.values[3]) & BindFlag.PINNED) is pinned
        assert usr.values[4:6] == ((status.st_dev, status.st_ino) if pinned else (0, 0))


def test_binds_are_nosuid_and_nodev_and_only_writable_grants_are_writable(tmp_path: Path) -> None:
    planned = plan(rw=[str(tmp_path)])
    for bind in named(planned, "bind"):
        attributes = MountAttribute(int(bind.values[2]))
        assert MountAttribute.MOUNT_ATTR_NOSUID in attributes
        assert MountAttribute.MOUNT_ATTR_NODEV in attributes
        writable = MountAttribute.MOUNT_ATTR_RDONLY not in attributes
        assert writable is (bind.values[1] == str(tmp_path))


def test_all_tmpfs_together_hold_what_the_policy_grants() -> None:
    planned = plan(tmpfs=["/a:16M"])
    sizes = [named(planned, "root_tmpfs")[0].values[0], named(planned, "mount_tmpfs")[0].values[1]]
    assert sizes == [240 << 20, 16 << 20]
    with pytest.raises(PolicyRefused, match=r"limits\.tmpfs"):
        plan(tmpfs=["/a:1G"])


def test_landlock_says_what_the_mounts_say(tmp_path: Path) -> None:
    rules = {o.values[0]: FilesystemAccess(int(o.values[1]))
             for o in named(plan(rw=[str(tmp_path)], host=facts(landlock_abi=7)), "landlock_path")}
    assert rules["/"] == FilesystemAccess.READ_DIR
    assert rules["/usr"] == (FilesystemAccess.EXECUTE | FilesystemAccess.READ_FILE
                             | FilesystemAccess.READ_DIR)
    assert rules["/etc"] == FilesystemAccess.READ_FILE | FilesystemAccess.READ_DIR
    everywhere = FilesystemAccess(0)
    for rights in rules.values():
        everywhere |= rights
    assert not everywhere & (FilesystemAccess.MAKE_CHAR | FilesystemAccess.MAKE_BLOCK)


@pytest.mark.parametrize("abi", range(1, 10))
def test_every_right_that_the_abi_knows_is_handled(abi: int) -> None:
    planned = plan(host=facts(landlock_abi=abi))
    handled, network, scoped = named(planned, "landlock_ruleset")[0].values
    assert handled == filesystem_access(abi)
    assert network == 0
    assert scoped == (3 if abi >= 6 else 0)
    for rule in named(planned, "landlock_path"):
        assert not int(rule.values[1]) & ~int(handled)
        assert rule.values[1]


def test_a_full_proc_is_masked() -> None:
    planned = plan(values={"filesystem.proc": "masked"})
    assert "/proc/kcore" in {o.values[0] for o in named(planned, "mask")}
    assert "/proc/sys" in {o.values[0] for o in named(planned, "make_read_only")}
    assert named(planned, "mount_proc")[0].values == ("/proc", 0)
    assert named(plan(), "mount_proc")[0].values == ("/proc", 1)
    assert not named(plan(values={"filesystem.proc": "none"}), "mount_proc")


def test_the_environment_is_names_of_the_list_and_values_that_were_set() -> None:
    planned = plan(env=["A=1", "HOME=/elsewhere"], values={
        "environment": frozenset({"LC_*", "HOME", "PATH"})})
    values = {str(o.values[0]).partition("=")[0]: str(o.values[0]).partition("=")[2]
              for o in named(planned, "environment")}
    assert values["A"] == "1"
    assert values["HOME"] == "/elsewhere"
    assert values["TMPDIR"] == "/tmp"
    assert [o.values[0] for o in named(planned, "environment_of_caller")] == ["LC_*", "PATH"]


def test_a_path_of_the_caller_is_used_and_not_stored(tmp_path: Path) -> None:
    secret = str(tmp_path / "secret")
    planned = plan("env", caller_environment={"PATH": f"{secret}:/usr/bin"})
    assert secret.encode() not in encode(planned.operations)


def test_without_a_path_there_is_one() -> None:
    planned = plan("env", caller_environment={})
    assert any(str(o.values[0]).startswith("PATH=/usr/local/bin:")
               for o in named(planned, "environment"))


@pytest.mark.parametrize("granted, asked, mode", [
    ("none", False, StandardIO.RELAY), ("private", False, StandardIO.RELAY),
    ("private", True, StandardIO.TERMINAL), ("inherited", False, StandardIO.INHERIT)])
def test_a_terminal_is_private_when_it_is_asked_for_and_granted(
        granted: str, asked: bool, mode: StandardIO) -> None:
    planned = plan(terminal=asked, values={"terminal": granted})
    assert named(planned, "standard_io")[0].values[0] == mode
    assert bool(named(planned, "mount_devpts")) is (mode is StandardIO.TERMINAL)


def test_a_stored_plan_names_what_it_depends_on(tmp_path: Path) -> None:
    host = facts(supplementary_groups=())
    planned = plan(pinned=False, host=host)
    assert [o.values for o in named(planned, "require_kernel")] == [(host.kernel_release,)]
    assert named(planned, "require_ids")[0].values == (host.uid, host.gid, b"")
    assert named(planned, "require_landlock")[0].values == (host.landlock_abi,)
    assert {o.values for o in named(planned, "require_hard_limit")} >= {
        (int(Resource.RLIMIT_NOFILE), 1024)}
    assert not [o for o in plan().operations if o.name.startswith("require_")]


def test_a_label_is_stacked_from_all_profiles_that_policies_name() -> None:
    host = facts(apparmor=YES, apparmor_profiles=("a", "b"))
    planned = plan(host=host, values={"mandatory": frozenset({("apparmor:b",), ("apparmor:a",)})})
    assert named(planned, "set_exec_label")[0].values == ("apparmor", "exec a//&b")


def test_a_policy_that_accepts_landlock_gets_no_label() -> None:
    planned = plan(values={"mandatory": frozenset({("apparmor:x", "landlock")})})
    assert not named(planned, "set_exec_label")


def test_an_unknown_control_is_an_error_and_never_a_default() -> None:
    asked = workload()
    decided = decision(asked, facts())
    less = replace(decided, controls=tuple(
        c for c in decided.controls if c.control != "no_new_privs"))
    with pytest.raises(PlanError, match="no_new_privs"):
        compile_plan(less, asked, facts(), pinned=True)


def test_what_runs_later_outside_is_read_only_and_can_not_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "deep/.git/hooks").mkdir(parents=True)
    (tmp_path / "deep/.git/config").write_text("x")
    names = frozenset({".git/hooks", ".git/config", ".envrc"})
    planned = plan(rw=[str(tmp_path)], values={"filesystem.protected": names})
    binds = {str(o.values[1]): not int(o.values[2]) & 1 for o in named(planned, "bind")}
    writable = {os.path.relpath(p, tmp_path): w for p, w in binds.items()
                if p.startswith(str(tmp_path))}
    assert writable == {".": True, "deep": True, "deep/.git": True, "deep/.git/hooks": False,
                        "deep/.git/config": False}
    assert set(planned.protected_absent) == {f"{tmp_path}/{name}" for name in names}
    assert not planned.storable
    assert plan().storable


def test_a_tree_too_large_to_be_looked_through_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardrun.plan.protect.MAXIMUM_ENTRIES", 3)
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match="can't all be protected"):
        plan(rw=[str(tmp_path)], values={"filesystem.protected": frozenset({".envrc"})})
