"""Every control: what it parses, what it refuses, how hosts enforce it that lack something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardrun.host.facts import Fact
from hardrun.kernel.seccomp.order import implies
from hardrun.kernel.seccomp.profile import load
from hardrun.posture import (
    filesystem,
    ids,
    limits,
    mandatory,
    namespaces,
    process,
    seccomp,
    ways_out,
)
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.control import UNLIMITED, Control, Posture, enforced
from hardrun.posture.devices import DEVICES
from hardrun.posture.environment import ENVIRONMENT
from hardrun.posture.network import NETWORK
from hardrun.posture.registry import BY_ID, CONTROLS
from tests.policies import NO, ROOT, YES, facts


@pytest.mark.parametrize("control, raw, value", [
    (limits.MEMORY, "1G", 1 << 30),
    (limits.MEMORY, "512MiB", 512 << 20),
    (limits.MEMORY, 1 << 20, 1 << 20),
    (limits.SWAP, 0, 0),
    (limits.TIMEOUT, "500ms", 500),
    (limits.TIMEOUT, "10m", 600_000),
    (limits.CPUS, 1.5, 1500),
    (limits.CPUS, "2", 2000),
    (limits.PIDS, 64, 64),
    (limits.PIDS, "unlimited", UNLIMITED),
    (CAPABILITIES, ["CHOWN", "CAP_KILL"], frozenset({"CAP_CHOWN", "CAP_KILL"})),
    (CAPABILITIES, "any", CAPABILITIES.loosest),
    (NETWORK, "none", "none"),
    (process.UMASK, "022", 0o22),
    (process.DESCRIPTORS, [3, 5], frozenset({3, 5})),
    (process.DESCRIPTORS, "any", process.DESCRIPTORS.loosest),
    (ENVIRONMENT, ["LC_*", "LC_ALL"], frozenset({"LC_*"})),
    (filesystem.READABLE, ["any"], frozenset({"/"})),
    (filesystem.READABLE, ["/usr/", "/usr/lib", "~/x"], frozenset({"/usr", "$HOME/x"})),
    (filesystem.PROTECTED, [".git/hooks"], frozenset({".git/hooks"})),
    (seccomp.SECCOMP, ["untrusted", "contained"], frozenset({"untrusted"})),
    (mandatory.MANDATORY, [{"apparmor": "a"}, "landlock", "refuse"],
     frozenset({("apparmor:a", "landlock")})),
    (mandatory.MANDATORY, ["landlock"], frozenset({("landlock", "none")})),
])
def test_a_policy_value_is_read(control: Control[Any], raw: object, value: object) -> None:
    assert control.parse(raw) == value


@pytest.mark.parametrize("control, raw, words", [
    (limits.MEMORY, "1X", "not a size"),
    (limits.MEMORY, "-1", "not a size"),
    (limits.MEMORY, "99999999T", "too large"),
    (limits.MEMORY, True, "such as 512M"),
    (limits.MEMORY, 12, "too small"),
    (limits.TIMEOUT, 10, "such as 10m"),
    (limits.TIMEOUT, "10", "not a duration"),
    (limits.TIMEOUT, 0, "too small"),
    (limits.CPUS, 0, "too small"),
    (limits.PIDS, "many", "not a whole number"),
    (limits.PIDS, "٣", "not a whole number"),
    (CAPABILITIES, ["SYS_ADMN"], "did you mean 'CAP_SYS_ADMIN'"),
    (CAPABILITIES, 7, "list of strings"),
    (NETWORK, "hots", "did you mean 'host'"),
    (process.NO_NEW_PRIVS, "yes", "true or false"),
    (process.UMASK, 22, "in quotes"),
    (process.UMASK, "8", "octal"),
    (process.DESCRIPTORS, [1], "from 3 to 1023"),
    (DEVICES, ["kmsg"], "not known"),
    (ENVIRONMENT, ["A=B"], "not the name"),
    (ENVIRONMENT, ["A*B"], "not the name"),
    (filesystem.READABLE, ["etc"], "not an absolute path"),
    (filesystem.READABLE, ["/usr/../etc"], "'..'"),
    (filesystem.READABLE, ["$OTHER/x"], "not an absolute path"),
    (filesystem.READABLE, [None], "write $HOME"),
    (filesystem.PROTECTED, ["/abs"], "relative"),
    (filesystem.PROTECTED, ["a/../b"], "relative"),
    (seccomp.SECCOMP, ["../x"], "neither"),
    (mandatory.MANDATORY, ["refuse"], "only refuses"),
    (mandatory.MANDATORY, ["refuse", "landlock"], "never reached"),
    (mandatory.MANDATORY, [{"smack": "x"}], "not one of"),
    (mandatory.MANDATORY, "landlock", "a list"),
])
def test_a_wrong_policy_value_is_refused_in_words(
        control: Control[Any], raw: object, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("$", r"\$").replace(".", r"\.")):
        control.parse(raw)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.id)
def test_every_control_says_what_it_means_and_is_enforced_on_an_ordinary_host(
        control: Control[Any]) -> None:
    assert control.meaning.endswith((".", "`danger`."))
    assert BY_ID[control.id] is control
    for value in (control.loosest, control.default):
        assert control.load(control.dump(value)) == value
        assert control.enforcement(value, facts()).kind in ("enforced", "replaced", "degraded")
    assert control.at_most(control.default, control.loosest)
    # What nothing restricts is enforced by nothing, but for what the kernel demands of a filter.
    loosest = "replaced" if control.id == "no_new_privs" else "enforced"
    assert control.enforcement(control.loosest, facts()).kind == loosest


def test_no_new_privs_is_said_to_be_on_where_a_filter_needs_it() -> None:
    control = BY_ID["no_new_privs"]
    assert "filter needs it" in control.enforcement(False, facts()).because
    bare = facts(seccomp=NO, landlock_abi=0)
    assert control.enforcement(False, bare).by == ("not restricted",)


def test_control_ids_are_unique() -> None:
    assert len(BY_ID) == len(CONTROLS) == len({c.place for c in CONTROLS})


def test_paths_are_compared_by_components_and_not_by_letters() -> None:
    at_most = filesystem.READABLE.at_most
    assert at_most(frozenset({"/srv/a"}), frozenset({"/srv"}))
    assert not at_most(frozenset({"/srvx"}), frozenset({"/srv"}))
    assert at_most(frozenset({"$HOME/x"}), frozenset({"$HOME"}))
    assert not at_most(frozenset({"$HOME"}), frozenset({"$workdir"}))


def test_supplementary_groups_can_be_dropped_only_by_a_mapped_range() -> None:
    groups = ids.SUPPLEMENTARY_GROUPS
    assert groups.enforcement("drop", facts()).by == ("no supplementary groups",)
    some = facts(supplementary_groups=(27, 100))
    assert groups.enforcement("drop", some).by == ("newgidmap", "setgroups")
    for change in ({"newgidmap": NO}, {"id_ranges": NO}):
        lacking = groups.enforcement("drop", facts(supplementary_groups=(27, 100), **change))
        assert (lacking.kind, lacking.by) == ("degraded", ())
        assert "27, 100" in lacking.because
        assert lacking.fix


def test_without_a_proc_of_its_own_a_sandbox_has_none_and_never_the_hosts() -> None:
    found = filesystem.PROC.enforcement("pid", facts(proc_mount=NO))
    assert (found.kind, found.by, found.fact) == ("replaced", ("not mounted",), "proc_mount")
    assert "EPERM" in found.because


def test_memory_without_a_cgroup_is_degraded_and_says_what_stands_in() -> None:
    found = limits.MEMORY.enforcement(1 << 30, facts())
    assert (found.kind, found.by) == ("degraded", ("RLIMIT_DATA", "watcher"))
    assert "not delegated" in found.because
    assert found.fix == NO.fix
    assert limits.MEMORY.enforcement(UNLIMITED, facts()).kind == "enforced"


def test_a_delegated_controller_enforces_and_one_that_is_not_is_named_with_the_drop_in() -> None:
    some = facts(cgroup=YES, cgroup_controllers=("memory", "pids"))
    assert limits.MEMORY.enforcement(1 << 30, some).by == ("cgroup:memory.max",)
    lacking = limits.CPUS.enforcement(500, facts(
        cgroup=YES, cgroup_controllers=("memory",), cgroup_delegation=Fact(available=False)))
    assert (lacking.kind, lacking.by) == ("degraded", ())
    assert "cpu controller not delegated" in lacking.because
    assert "Delegate=cpu cpuset io memory pids" in lacking.fix


def test_swap_is_limited_only_where_the_kernel_counts_it() -> None:
    assert limits.SWAP.enforcement(0, facts(cgroup=YES, cgroup_controllers=(
        "memory", "swap"))).by == ("cgroup:memory.swap.max",)
    lacking = limits.SWAP.enforcement(0, facts(cgroup=YES, cgroup_controllers=("memory",)))
    assert (lacking.kind, lacking.because) == ("degraded", "this kernel does not limit swap")


def test_cpu_time_is_exact_in_any_group() -> None:
    """cpu.stat counts whatever the controllers are; the rlimit still ends one process at once."""
    found = limits.CPU_TIME.enforcement(1000, facts(cgroup=YES, cgroup_controllers=("pids",)))
    assert (found.kind, found.by[0]) == ("enforced", "cgroup:cpu.stat")
    assert limits.CPU_TIME.enforcement(1000, facts()).by == ("RLIMIT_CPU", "watcher")


@pytest.mark.parametrize("text, cpus", [
    ("0", {0}), ("0-3,6", {0, 1, 2, 3, 6}), (2, {2}), (" 1 , 0 ", {0, 1})])
def test_cpus_are_written_as_cpuset_takes_them(text: str | int, cpus: set[int]) -> None:
    value = limits.CPUSET.parse(text)
    assert value == frozenset(cpus)
    assert limits.CPUSET.parse(limits.CPUSET.show(value)) == value
    assert limits.CPUSET.load(limits.CPUSET.dump(value)) == value


@pytest.mark.parametrize("text", ["", "3-1", "-1", "1-", "a", "0,,1", "8192", "0-99999", True, []])
def test_what_is_no_list_of_cpus_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"CPUs such as"):
        limits.CPUSET.parse(text)


@pytest.mark.parametrize("control, value, change", [
    (NETWORK, "none", "network_namespace"),
    (namespaces.SHARED, frozenset(), "ipc_namespace"),
    (seccomp.SECCOMP, frozenset({"untrusted"}), "seccomp"),
])
def test_what_the_host_lacks_altogether_is_enforced_by_nothing(
        control: Control[Any], value: Any, change: str) -> None:
    found = control.enforcement(value, facts(**{change: NO}))
    assert (found.kind, found.by, found.fact) == ("degraded", (), change)
    assert "EPERM" in found.because
    assert found.fix == NO.fix


def test_mandatory_takes_the_first_alternative_that_the_host_has() -> None:
    value = mandatory.MANDATORY.parse([{"apparmor": "a"}, {"selinux": "t_t"}, "landlock", "refuse"])
    enforce = mandatory.MANDATORY.enforcement
    yes = facts().seccomp
    assert enforce(value, facts(apparmor=yes, apparmor_profiles=("a",))).kind == "enforced"
    fallback = enforce(value, facts())
    assert (fallback.kind, fallback.by) == ("replaced", ("landlock",))
    assert "AppArmor" in fallback.because
    assert enforce(value, facts(landlock_abi=0)).by == ()
    assert enforce(value, facts(apparmor=yes)).because == "AppArmor has no a"


def test_a_label_of_either_module_is_as_good_and_landlock_is_a_fallback() -> None:
    value = mandatory.MANDATORY.parse([{"apparmor": "a"}, {"selinux": "t_t"}, "landlock", "refuse"])
    enforce = mandatory.MANDATORY.enforcement
    yes = facts().seccomp
    assert enforce(value, facts(selinux=yes, selinux_types=("t_t",), selinux_categories=1024)
                   ) == enforced("selinux:t_t")
    why = enforce(value, facts(selinux=yes, selinux_refused={"t_t": "is permissive"}))
    assert (why.kind, why.by, why.because) == ("replaced", ("landlock",),
                                               "SELinux: t_t is permissive")


def test_a_type_without_categories_keeps_no_sandbox_from_another() -> None:
    value = mandatory.MANDATORY.parse([{"selinux": "t_t"}, "refuse"])
    for count in (0, 1):
        host = facts(selinux=facts().seccomp, selinux_types=("t_t",), selinux_categories=count)
        found = mandatory.MANDATORY.enforcement(value, host)
        assert (found.kind, found.by, found.fact) == (
            "degraded", ("selinux:t_t",), "selinux_categories")


def test_two_selinux_types_at_once_can_not_be_enforced() -> None:
    both = mandatory.MANDATORY.meet(mandatory.MANDATORY.parse([{"selinux": "a_t"}, "refuse"]),
                                    mandatory.MANDATORY.parse([{"selinux": "b_t"}, "refuse"]))
    host = facts(selinux=facts().seccomp, selinux_types=("a_t", "b_t"))
    assert mandatory.resolve(both, host) is None
    assert mandatory.MANDATORY.enforcement(both, host).by == ()


def test_landlock_that_is_missing_leaves_the_mounts() -> None:
    found = mandatory.LANDLOCK.enforcement(True, facts(landlock_abi=0))
    assert (found.kind, found.by) == ("degraded", ("mounts",))


def test_the_table_of_seccomp_profiles_agrees_with_the_profiles() -> None:
    profiles = {path.stem: load(path) for path in Path(ROOT, "profiles/seccomp").glob("*.json")}
    assert {(a, b) for a, one in profiles.items() for b, other in profiles.items()
            if a != b and implies(one, other)} == {
                (a, b) for a, looser in seccomp.LOOSER.items() for b in looser}


@pytest.mark.parametrize("control, path, found", [
    ("filesystem.readable", "/home/user/.ssh/id_rsa", "/home/user/.ssh"),
    ("filesystem.readable", "/home/user", "/home/user/.ssh"),
    ("filesystem.readable", "/", "/proc"),
    ("filesystem.readable", "/run/docker.sock", "/run/docker.sock"),
    ("filesystem.readable", "/usr/share", None),
    ("filesystem.writable", "/usr/share", "/usr"),
    ("filesystem.writable", "/home/user/.bashrc", "/home/user/.bashrc"),
    ("filesystem.writable", "/home/user/project", None),
    ("filesystem.readable", "/home/user/.sshx", None),
])
def test_a_path_touches_the_ways_out_above_and_below_it(
        control: str, path: str, found: str | None) -> None:
    touched = [way.value for way in ways_out.touched(control, path, "/home/user")]
    assert (found in touched) if found else not touched


def test_root_can_hand_over_a_project_in_its_own_home() -> None:
    assert not ways_out.touched("filesystem.writable", "/root/project", "/root")
    assert ways_out.touched("filesystem.readable", "/root/project", "/home/user")


def test_a_posture_can_not_be_changed_and_knows_what_is_unknown() -> None:
    values = {"network": "none"}
    posture = Posture(values)
    values["network"] = "host"
    assert posture[NETWORK] == "none"
    assert DEVICES not in posture
    assert posture.get(DEVICES, frozenset()) == frozenset()
    with pytest.raises(KeyError):
        posture[DEVICES]
    assert posture == Posture({"network": "none"})
    assert hash(posture) == hash(Posture({"network": "none"}))


@pytest.mark.parametrize("value", ["own", "shared"])
def test_a_range_that_can_not_be_had_is_enforced_by_nothing(value: str) -> None:
    """Never the caller's own id instead: a policy has to accept that (``host: degrade``)."""
    found = ids.RANGE.enforcement(value, facts(id_ranges=NO, subordinate_uids=()))
    assert (found.kind, found.by) == ("degraded", ())
