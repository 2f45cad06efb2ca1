"""Comparison with a Decision: each read-back finds what it is for, on postures made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from hardrun.kernel import mounts, procfs
from hardrun.kernel.idmap import IdMapping
from hardrun.kernel.procfs import Descriptor, Limit, Stat
from hardrun.posture.registry import BY_ID
from hardrun.verify.check import Check
from hardrun.verify.compare import NOT_READ_BACK, OF_INIT, READ_BACK, compare
from hardrun.verify.filesystem import host_paths
from hardrun.verify.live import LivePosture, Observer
from tests.planning import decision, facts, workload

NAMESPACES = {name: f"{name}:[{number}]" for number, name in enumerate(procfs.NAMESPACES)}
NO_CAPABILITIES = dict.fromkeys(procfs.CAPABILITY_SETS, 0)
STATUS = procfs.Status(
    name="sh", state="S", parent=8, uids=(1000,) * 4, gids=(100,) * 4, groups=(), pids=(9, 2),
    sessions=(9, 2), tracer=0, umask=0o22, capabilities=NO_CAPABILITIES, no_new_privs=True,
    seccomp=2, seccomp_filters=1)
HOST_MOUNTS = mounts.parse("""\
1 0 254:0 / / rw - ext4 /dev/vda rw
2 1 0:6 / /dev rw - devtmpfs devtmpfs rw
3 1 0:40 / /home rw - nfs host:/home rw
""")
SANDBOX_MOUNTS = """\
50 1 0:70 / / ro,nosuid,nodev,noexec - tmpfs tmpfs rw,size=1024k,nr_inodes=100
51 50 254:0 /usr /usr ro,nosuid,nodev - ext4 /dev/vda rw
52 50 0:71 / /proc rw,nosuid,nodev,noexec - proc proc rw,hidepid=invisible,subset=pid
53 50 0:6 /null /dev/null rw,nosuid,noexec - devtmpfs devtmpfs rw
54 50 0:70 /tmp /tmp rw,nosuid,nodev - tmpfs tmpfs rw,size=1024k,nr_inodes=100
55 50 0:40 /ann/p /home/ann/p rw,nosuid,nodev - nfs host:/home rw
"""
OBSERVER = Observer(1000, 100, STATUS._replace(seccomp=0, seccomp_filters=0, pids=(7,)),
                    {name: f"{name}:[99]" for name in NAMESPACES}, HOST_MOUNTS)
LIMITS = {"RLIMIT_DATA": 256 << 20, "RLIMIT_NPROC": 256, "RLIMIT_CPU": 61, "RLIMIT_CORE": 0,
          "RLIMIT_NOFILE": 1024, "RLIMIT_STACK": 8 << 20, "RLIMIT_FSIZE": 1, "RLIMIT_MEMLOCK": 0}
LIVE = LivePosture(
    pid=9, status=STATUS, namespaces=NAMESPACES, uid_map=(IdMapping(1000, 1000, 1),),
    gid_map=(IdMapping(100, 100, 1),), mounts=mounts.parse(SANDBOX_MOUNTS),
    limits={name: Limit(value, value) for name, value in LIMITS.items()},
    descriptors={fd: Descriptor("pipe:[1]", 15) for fd in range(3)},
    stat=Stat(session=9, terminal=0, start_time=1), interfaces=("lo",),
    environment=frozenset({"PATH", "HOME", "LC_ALL"}))
VALUES: Mapping[str, Any] = {
    "network": "none", "filesystem.visible": frozenset({"/usr"}),
    "filesystem.readable": frozenset(), "filesystem.writable": frozenset({"/home/ann/p"}),
    "filesystem.read_only_root": True, "filesystem.proc": "pid", "devices": frozenset({"null"}),
    "environment": frozenset({"PATH", "LC_*"}), "seccomp": frozenset({"untrusted"}),
    "capabilities": frozenset(), "terminal": "none", "ids.range": "single", "umask": 0o22,
    "ids.supplementary_groups": "drop", "descriptors": frozenset(), "limits.memory": 256 << 20,
    "limits.tmpfs": 1 << 20, "limits.inodes": 100, "filesystem.protected": frozenset(),
}


def checks(live: LivePosture = LIVE, *, at_gate: bool = True, **values: Any) -> dict[str, Check]:
    given = dict(VALUES) | {name.replace("__", "."): value for name, value in values.items()}
    host = facts(supplementary_groups=())
    decided = decision(workload(), host,
                       **{name.replace(".", "__"): value for name, value in given.items()})
    found = compare(decided, live, observer=OBSERVER, at_gate=at_gate, resolve=lambda path: path)
    return {check.control: check for check in found}


def changed(**fields: Any) -> LivePosture:
    return dataclasses.replace(LIVE, **fields)


def status(**fields: Any) -> LivePosture:
    return changed(status=STATUS._replace(**fields))


def mounted(old: str, new: str) -> LivePosture:
    assert old in SANDBOX_MOUNTS
    return changed(mounts=mounts.parse(SANDBOX_MOUNTS.replace(old, new)))


def added(line: str) -> LivePosture:
    return changed(mounts=mounts.parse(SANDBOX_MOUNTS + line))


def test_every_control_has_a_read_back_or_a_written_reason() -> None:
    assert READ_BACK.keys() | NOT_READ_BACK.keys() == BY_ID.keys()
    assert not READ_BACK.keys() & NOT_READ_BACK.keys()
    assert all(len(reason) > 20 for reason in NOT_READ_BACK.values())
    assert BY_ID.keys() >= OF_INIT


def test_a_sandbox_as_decided_holds_in_everything() -> None:
    found = checks()
    assert {c.control: c.observed for c in found.values() if c.result == "differs"} == {}
    unknown = {c.control for c in found.values() if c.result == "unknown"}
    assert unknown <= NOT_READ_BACK.keys() | {"mandatory"}
    assert all(c.evidence for c in found.values())


HOST_ETC = "56 50 254:0 /etc /etc ro,nosuid,nodev - ext4 /dev/vda rw\n"
DIFFERENT = [
    ("capabilities", status(capabilities=NO_CAPABILITIES | {"CapBnd": 1 << 21})),
    ("capabilities", status(capabilities=NO_CAPABILITIES | {"CapInh": 1})),
    ("no_new_privs", status(no_new_privs=False)),
    ("no_new_privs", mounted("/tmp rw,nosuid,nodev", "/tmp rw,nodev")),
    ("seccomp", status(seccomp=0, seccomp_filters=0)),
    ("ids.supplementary_groups", status(groups=(27,))),
    ("ids.range", changed(uid_map=(IdMapping(1000, 1000, 1), IdMapping(1001, 100000, 1)))),
    ("ids.range", changed(uid_map=(IdMapping(0, 0, 2**32 - 1),))),
    ("ids.range", changed(uid_map=())),
    ("ids.user", changed(uid_map=(IdMapping(0, 1000, 1),))),
    *(("namespaces.shared", changed(namespaces=NAMESPACES | {name: f"{name}:[99]"}))
      for name in ("user", "mnt", "pid", "ipc", "uts", "cgroup")),
    ("network", changed(namespaces=NAMESPACES | {"net": "net:[99]"})),
    ("network", changed(interfaces=("lo", "eth0"))),
    ("filesystem.readable", added(HOST_ETC)),
    # of a disk that only another mount namespace has mounted
    ("filesystem.readable", added("56 50 8:1 / /mnt ro,nosuid,nodev - ext4 /dev/sda1 rw\n")),
    ("filesystem.readable", added("56 50 0:40 /bob /mnt ro,nosuid,nodev - nfs host:/home rw\n")),
    ("filesystem.visible", mounted("/usr ro,nosuid,nodev", "/usr rw,nosuid,nodev")),
    ("filesystem.visible", mounted("/usr ro,nosuid,nodev", "/usr ro,nodev")),
    ("filesystem.writable", mounted("/usr ro,nosuid,nodev", "/usr rw,nosuid,nodev")),
    ("filesystem.writable", mounted("/home/ann/p rw,nosuid,nodev", "/home/ann/p rw,nosuid")),
    ("filesystem.read_only_root", mounted("/ ro,nosuid", "/ rw,nosuid")),
    ("filesystem.proc", mounted(",subset=pid", "")),
    ("filesystem.proc", mounted("/proc rw,nosuid,nodev,noexec", "/proc rw,nosuid,nodev")),
    ("filesystem.proc", mounted("52 50 0:71 / /proc", "52 50 254:0 /proc /proc")),
    ("devices", added("56 50 0:6 /kmsg /dev/kmsg rw,nosuid,noexec - devtmpfs devtmpfs rw\n")),
    ("devices", mounted("/tmp rw,nosuid,nodev", "/tmp rw,nosuid")),
    ("session", status(sessions=(3, 0))),
    ("terminal", changed(stat=Stat(session=9, terminal=34816, start_time=1))),
    ("terminal", changed(descriptors={0: Descriptor("/dev/pts/3", 26)})),
    ("descriptors", changed(descriptors={7: Descriptor("/home/ann/secret", 3)})),
    ("umask", status(umask=0)),
    ("environment", changed(environment=frozenset({"PATH", "AWS_SECRET"}))),
    ("limits.memory", changed(limits={"RLIMIT_DATA": Limit(1, 512 << 20)})),
    ("limits.cpu_time", changed(limits={"RLIMIT_CPU": Limit(60, 62)})),
    ("limits.tmpfs", mounted("size=1024k", "size=1028k")),
    ("limits.tmpfs", mounted("size=1024k,", "")),
    ("limits.inodes", mounted("nr_inodes=100", "nr_inodes=101")),
]


@pytest.mark.parametrize("control,live", DIFFERENT)
def test_what_is_not_as_decided_is_found(control: str, live: LivePosture) -> None:
    assert checks(live)[control].result == "differs"


LATER = [
    ("umask", status(umask=0), "unknown"),
    ("environment", LIVE, "unknown"),
    ("capabilities", status(capabilities=NO_CAPABILITIES | {"CapEff": 1}), "differs"),
    # opened by the workload itself, on a mount of its own
    ("descriptors", changed(descriptors={7: Descriptor("/usr/lib/x", 51)}), "holds"),
    ("descriptors", changed(descriptors={7: Descriptor("socket:[9]", 8)}), "holds"),
    ("descriptors", changed(descriptors={7: Descriptor("/memfd:x (deleted)", 9)}), "holds"),
    # it leads to a mount that the sandbox does not have (CVE-2024-21626)
    ("descriptors", changed(descriptors={7: Descriptor("/home/ann", 3)}), "differs"),
]


@pytest.mark.parametrize("control,live,result", LATER)
def test_a_running_process_may_have_changed_what_is_its_own(
    control: str, live: LivePosture, result: str
) -> None:
    assert checks(live, at_gate=False)[control].result == result


def test_a_process_may_give_up_more_once_it_runs() -> None:
    granted = frozenset({"CAP_CHOWN"})
    less = status(capabilities=NO_CAPABILITIES | {"CapBnd": 1})
    assert checks(less, at_gate=False, capabilities=granted)["capabilities"].result == "holds"
    assert checks(less, at_gate=True, capabilities=granted)["capabilities"].result == "differs"


def test_a_filter_of_an_outer_container_does_not_count() -> None:
    outer = OBSERVER._replace(status=STATUS)  # it has one, too
    decided = decision(workload(), facts(), seccomp=frozenset({"untrusted"}))
    found = {c.control: c for c in compare(decided, LIVE, observer=outer)}
    assert found["seccomp"].result == "differs"


def test_what_the_kernel_hides_is_unknown_with_its_reason() -> None:
    hidden = changed(mounts=None, unknown={"mounts": "the kernel hides it"})
    for control in ("filesystem.readable", "filesystem.proc", "devices", "limits.tmpfs"):
        check = checks(hidden)[control]
        assert (check.result, check.evidence) == ("unknown", "mounts: the kernel hides it")


def test_what_the_host_can_not_enforce_is_unknown_with_its_reason() -> None:
    check = checks(limits__swap=0)["limits.swap"]
    assert check.result == "unknown"
    assert "not enforced on this host" in check.evidence


def test_pid_1_is_held_to_what_it_has_in_common() -> None:
    init = status(pids=(8, 1), seccomp=0, seccomp_filters=0, umask=0)
    assert set(checks(init)) == OF_INIT
    assert all(check.result == "holds" for check in checks(init).values())


@pytest.mark.parametrize("label,result", [
    ("hardrun-untrusted (enforce)", "holds"),
    ("hardrun-untrusted//&other (enforce)", "holds"),
    ("hardrun-untrusted (complain)", "differs"),
    ("unconfined", "differs"),
    (None, "differs"),
])
def test_a_label_must_be_in_force(label: str | None, result: str) -> None:
    host = facts(apparmor=facts().seccomp, apparmor_profiles=("hardrun-untrusted",))
    decided = decision(workload(), host,
                       mandatory=frozenset({("apparmor:hardrun-untrusted", "landlock")}))
    found = compare(decided, changed(apparmor=label), observer=OBSERVER)
    assert {c.control: c.result for c in found}["mandatory"] == result


def test_a_mount_is_traced_to_the_hosts_paths() -> None:
    line = "9 1 0:40 /ann/p /x rw - nfs host:/home rw"
    assert host_paths(mounts.parse_line(line), HOST_MOUNTS) == ("/home/ann/p",)
    root = "9 1 254:0 / /x rw - ext4 /dev/vda rw"
    assert host_paths(mounts.parse_line(root), HOST_MOUNTS) == ("/",)
    own = "9 1 0:99 / /x rw - tmpfs tmpfs rw"
    assert host_paths(mounts.parse_line(own), HOST_MOUNTS) == ()
