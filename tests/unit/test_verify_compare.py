"""Comparison with a Decision: each read-back finds what it is for, on postures made by hand."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Mapping
from typing import Any

import pytest

from hardrun.kernel import mounts, procfs
from hardrun.kernel.idmap import IdMapping
from hardrun.kernel.procfs import Descriptor, Limit, Stat
from hardrun.plan.probe import Ask
from hardrun.plan.schema import Operation
from hardrun.policy.decision import Decision
from hardrun.posture.registry import BY_ID
from hardrun.verify import canaries
from hardrun.verify.check import Check, Evidence
from hardrun.verify.compare import OF_INIT, READ_BACK, compare
from hardrun.verify.filesystem import host_paths
from hardrun.verify.live import LivePosture, Observer
from hardrun.verify.probe import Inside, Question, Told
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
                    {name: f"{name}:[99]" for name in NAMESPACES}, HOST_MOUNTS, frozenset({99}))
LIMITS = {"RLIMIT_DATA": 256 << 20, "RLIMIT_NPROC": 256, "RLIMIT_CPU": 61, "RLIMIT_CORE": 1,
          "RLIMIT_NOFILE": 1024, "RLIMIT_STACK": 8 << 20, "RLIMIT_FSIZE": 1, "RLIMIT_MEMLOCK": 0}
LIVE = LivePosture(
    pid=9, status=STATUS, namespaces=NAMESPACES, uid_map=(IdMapping(1000, 1000, 1),),
    gid_map=(IdMapping(100, 100, 1),), mounts=mounts.parse(SANDBOX_MOUNTS),
    limits={name: Limit(value, value) for name, value in LIMITS.items()},
    descriptors={fd: Descriptor("pipe:[1]", 15) for fd in range(3)},
    stat=Stat(session=9, terminal=0, start_time=1), interfaces=("lo",),
    environment=frozenset({"PATH", "HOME", "LC_ALL"}))
ADDRESS = "canary"
REFUSED = {Ask.DEVICE: errno.EACCES, Ask.NAMESPACES: errno.ENOSPC, Ask.CONNECT: errno.ECONNREFUSED}


def _told(question: Question) -> Told:
    """What is told inside a sandbox as decided."""
    if question.filtered:
        return Told(errno.EPERM, 0, "")
    if question.ask is Ask.OPEN:
        write, hidden = question in canaries.WRITES, question.value == os.O_PATH
        if question.text == "/tmp":
            return Told(0, 0, "")
        return Told(errno.EROFS if write else errno.ENOENT if hidden else errno.EACCES, 0, "")
    if question.ask is Ask.INODE:
        link = NAMESPACES[question.text.rpartition("/")[2]]
        return Told(0, int(link.partition("[")[2][:-1]), "")
    if question.ask is Ask.KEYRING:
        return Told(0, 0, "keyring;1000;100;3f1b0000;hardrun")
    value = {Ask.SECUREBITS: 0x2f, Ask.DESCRIPTORS: 1}.get(question.ask, 0)
    return Told(REFUSED.get(question.ask, 0), value, "")


SEALED = (Operation("timeout", (60_000,)), Operation("standard_io", (0, 0, 1 << 20)))
VALUES: Mapping[str, Any] = {
    "network": "none", "filesystem.visible": frozenset({"/usr"}),
    "filesystem.readable": frozenset(), "filesystem.writable": frozenset({"/home/ann/p"}),
    "filesystem.read_only_root": True, "filesystem.proc": "pid", "devices": frozenset({"null"}),
    "environment": frozenset({"PATH", "LC_*"}), "seccomp": frozenset({"untrusted"}),
    "capabilities": frozenset(), "terminal": "none", "ids.range": "single", "umask": 0o22,
    "ids.supplementary_groups": "drop", "descriptors": frozenset(), "limits.memory": 256 << 20,
    "limits.tmpfs": 1 << 20, "limits.inodes": 100, "filesystem.protected": frozenset(),
}


def evidence(decided: Decision, **changes: Told) -> Evidence:
    """As decided, but for the kinds of questions named in ``changes``."""
    told = {question: changes.get(question.ask.name, _told(question))
            for question in canaries.questions(decided, ADDRESS)}
    return Evidence(Inside(told), SEALED)


def checks(live: LivePosture = LIVE, *, at_gate: bool = True, told: Mapping[str, Told] = {},
           sealed: tuple[Operation, ...] = SEALED, **values: Any) -> dict[str, Check]:
    given = dict(VALUES) | {name.replace("__", "."): value for name, value in values.items()}
    host = facts(supplementary_groups=())
    decided = decision(workload(), host,
                       **{name.replace(".", "__"): value for name, value in given.items()})
    known = dataclasses.replace(evidence(decided, **told), sealed=sealed)
    found = compare(decided, live, observer=OBSERVER, at_gate=at_gate, evidence=known,
                    resolve=lambda path: path)
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


def test_every_control_has_a_read_back() -> None:
    assert READ_BACK.keys() == BY_ID.keys()
    assert BY_ID.keys() >= OF_INIT


def test_a_sandbox_as_decided_holds_in_everything() -> None:
    found = checks()
    assert {c.control: c.observed for c in found.values() if c.result == "differs"} == {}
    unknown = {c.control for c in found.values() if c.result == "unknown"}
    assert unknown <= {"limits.swap", "limits.cpus"}  # this host has no cgroup for them
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
    ("ids.range", changed(uid_map=(IdMapping(1000, 100000, 1),))),
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
    ("limits.core", changed(limits={"RLIMIT_CORE": Limit(1, 2)})),
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
    ("environment", changed(environment=frozenset({"PWD"})), "unknown"),
    ("environment", LIVE, "holds"),
    ("capabilities", status(capabilities=NO_CAPABILITIES | {"CapEff": 1}), "differs"),
    # opened by the workload itself, on a mount of its own
    ("descriptors", changed(descriptors={7: Descriptor("/usr/lib/x", 51)}), "holds"),
    ("descriptors", changed(descriptors={7: Descriptor("socket:[9]", 8)}), "holds"),
    ("descriptors", changed(descriptors={7: Descriptor("/memfd:x (deleted)", 9)}), "holds"),
    ("descriptors", changed(descriptors={7: Descriptor("socket:[99]", 8)}), "differs"),
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
    init = dataclasses.replace(status(pids=(8, 1), seccomp=0, seccomp_filters=0, umask=0),
                               is_init=True, descriptors=None)
    assert set(checks(init)) == OF_INIT
    assert all(check.result == "holds" for check in checks(init).values())


def test_whoever_is_number_1_of_another_namespace_is_held_to_everything() -> None:
    """A command that may make pid namespaces must not pass for the executor."""
    assert set(checks(status(pids=(8, 3, 1)))) == set(BY_ID)


INSIDE = [
    ("landlock", "DEVICE", Told(errno.EPERM, 0, "")),  # the capability check was met: no domain
    ("landlock", "OPEN", Told(0, 0, "")),
    ("securebits", "SECUREBITS", Told(0, 0x0f, "")),
    ("keyring", "KEYRING", Told(0, 0, "keyring;1000;100;3f1b0000;_ses")),
    ("keyring", "KEYRING", Told(0, 4, "keyring;1000;100;3f1b0000;hardrun")),  # a key is in it
    ("namespaces.nested", "NAMESPACES", Told(0, 0, "")),
    ("namespaces.shared", "INODE", Told(0, 77, "")),  # not PID 1's
    ("network", "CONNECT", Told(0, 0, "")),
    ("filesystem.readable", "OPEN", Told(0, 0, "")),
    ("filesystem.visible", "OPEN", Told(0, 0, "")),
    ("filesystem.read_only_root", "OPEN", Told(0, 0, "")),
]


@pytest.mark.parametrize("control,kind,answer", INSIDE)
def test_what_works_inside_and_must_not_is_found(control: str, kind: str, answer: Told) -> None:
    assert checks(told={kind: answer})[control].result == "differs"


def test_where_landlock_stands_in_for_a_label_it_is_what_counts() -> None:
    clause = frozenset({("landlock",)})
    refused = {"DEVICE": Told(errno.EPERM, 0, "")}
    assert checks(mandatory=clause)["mandatory"].result == "holds"
    assert checks(mandatory=clause, told=refused)["mandatory"].result == "differs"


def test_a_directory_that_nobody_can_write_says_nothing_of_landlock() -> None:
    """Who runs inside can take every right from /tmp, and a device node is refused for that."""
    decided = decision(workload(rootfs=None), facts())
    told = {q: Told(errno.ENOENT if q.text.startswith("/run") else errno.EACCES, 0, "")
            for q in canaries.questions(decided, ADDRESS)}
    found = {c.control: c for c in compare(decided, LIVE, observer=OBSERVER,
                                           evidence=Evidence(Inside(told)))}
    assert found["landlock"].result == "unknown"


@pytest.mark.parametrize("control", ["landlock", "securebits", "keyring", "namespaces.nested"])
def test_without_an_answer_from_inside_it_is_unknown_with_its_reason(control: str) -> None:
    decided = decision(workload(), facts())
    silent = Evidence(Inside({}, "the probe did not end"))
    found = {c.control: c for c in compare(decided, LIVE, observer=OBSERVER, evidence=silent)}
    assert (found[control].result, found[control].evidence) == ("unknown", "the probe did not end")


def test_of_a_process_from_outside_pid_1_tells_nothing() -> None:
    decided = decision(workload(), facts())
    found = {c.control: c for c in compare(decided, LIVE, observer=OBSERVER,
                                           evidence=evidence(decided), started_inside=False)}
    assert found["landlock"].result == "unknown"
    assert "outside" in found["landlock"].evidence


@pytest.mark.parametrize("control,sealed", [
    ("limits.timeout", ()),
    ("limits.timeout", (Operation("timeout", (60_001,)),)),
    ("limits.output", (Operation("standard_io", (0, 0, 0)),)),
    ("limits.output", (Operation("standard_io", (0, 0, 1 << 40)),)),
])
def test_what_the_executor_counts_is_in_the_sealed_plan(
    control: str, sealed: tuple[Operation, ...]
) -> None:
    other = (*sealed, Operation("join_network", ()))
    found = checks(sealed=other, **{"limits.timeout": 60_000, "limits.output": 1 << 20})
    assert found[control].result == "differs"


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


def test_a_profile_that_was_loaded_after_the_start_is_found(monkeypatch: Any) -> None:
    host = facts(apparmor=facts().seccomp, apparmor_profiles=("p",))
    decided = decision(workload(), host, mandatory=frozenset({("apparmor:p",)}))
    live = changed(apparmor="p (enforce)")
    for loaded, result in ((None, "holds"), (99.0, "holds"), (101.0, "differs")):
        monkeypatch.setattr("hardrun.verify.process.apparmor_loaded", {"p": loaded}.get)
        found = compare(decided, live, observer=OBSERVER, evidence=Evidence(started=100.0))
        assert {c.control: c.result for c in found}["mandatory"] == result


def test_a_mount_is_traced_to_the_hosts_paths() -> None:
    line = "9 1 0:40 /ann/p /x rw - nfs host:/home rw"
    assert host_paths(mounts.parse_line(line), HOST_MOUNTS) == ("/home/ann/p",)
    root = "9 1 254:0 / /x rw - ext4 /dev/vda rw"
    assert host_paths(mounts.parse_line(root), HOST_MOUNTS) == ("/",)
    own = "9 1 0:99 / /x rw - tmpfs tmpfs rw"
    assert host_paths(mounts.parse_line(own), HOST_MOUNTS) == ()


@pytest.mark.parametrize("context, mount, result", [
    ("u:r:hardrun_untrusted_t:s0:c1,c9", "hardrun_untrusted_file_t:s0:c1,c9", "holds"),
    ("u:r:hardrun_untrusted_t:s0:c1,c9", "hardrun_untrusted_file_t:s0:c1,c8", "differs"),
    ("u:r:hardrun_untrusted_t:s0:c1,c9", "user_home_t:s0", "differs"),
    ("u:r:hardrun_untrusted_t:s0:c1.c9", "hardrun_untrusted_file_t:s0:c1.c9", "differs"),
    ("u:r:unconfined_t:s0:c1,c9", "hardrun_untrusted_file_t:s0:c1,c9", "differs"),
    ("docker-default (enforce)", "hardrun_untrusted_file_t:s0:c1,c9", "differs"),
])
def test_a_type_counts_with_the_categories_that_its_mounts_have(
        context: str, mount: str, result: str) -> None:
    host = facts(selinux=facts().seccomp, selinux_types=("hardrun_untrusted_t",),
                 selinux_categories=1024)
    decided = decision(workload(), host,
                       mandatory=frozenset({("selinux:hardrun_untrusted_t", "landlock")}))
    line = f'900 1 0:99 / /tmp rw - tmpfs t rw,context="u:object_r:{mount}",size=1k\n'
    live = dataclasses.replace(added(line), selinux=context)
    found = {c.control: c for c in compare(decided, live, observer=OBSERVER)}
    assert found["mandatory"].result == result
