"""Processes: for each rule that can be answered, what the kernel shows when it fails and passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from hardrun.audit import judge
from hardrun.audit.model import Subject
from hardrun.audit.read import process
from hardrun.audit.rules import catalogue
from hardrun.kernel import idmap, mounts, procfs
from hardrun.verify.live import LivePosture, Observer

RULES = {rule.id: rule for rule in catalogue() if "process" in rule.occurs}
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
HOST_MOUNTS = """\
20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
21 20 0:5 / /proc rw - proc proc rw
22 20 0:6 / /sys rw - sysfs sysfs rw
23 20 0:7 / /run rw - tmpfs tmpfs rw
24 20 8:2 / /var/lib/docker rw - ext4 /dev/sda2 rw
25 20 0:8 / /dev rw - devtmpfs devtmpfs rw
26 20 0:4 net:[4026532000] /run/netns/x rw - nsfs nsfs rw
"""
# As Docker leaves it: an overlay, masks, files and a volume of the engine's own.
MOUNTS = """\
50 49 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/var/lib/docker/l
51 50 0:51 / /proc rw,nosuid - proc proc rw
52 51 0:51 /sys /proc/sys ro - proc proc rw
53 51 0:51 /sysrq-trigger /proc/sysrq-trigger ro - proc proc rw
54 51 0:8 /null /proc/kcore rw - devtmpfs devtmpfs rw
55 51 0:8 /null /proc/keys rw - devtmpfs devtmpfs rw
56 51 0:8 /null /proc/timer_list rw - devtmpfs devtmpfs rw
57 50 8:2 /containers/0123/hosts /etc/hosts rw - ext4 /dev/sda2 rw
58 50 8:2 /volumes/data/_data /data rw - ext4 /dev/sda2 rw
59 50 0:52 / /dev rw - tmpfs tmpfs rw
60 59 0:8 /null /dev/null rw - devtmpfs devtmpfs rw
61 50 8:1 /srv/web /srv rw - ext4 /dev/sda1 rw
62 50 0:53 / /sys ro - sysfs sysfs ro
63 50 0:4 net:[4026532001] /run/netns/y rw - nsfs nsfs rw
64 50 8:1 /etc//deleted /old rw - ext4 /dev/sda1 rw
"""
STATUS = """\
Name:\tweb
State:\tS (sleeping)
Pid:\t7
PPid:\t1
TracerPid:\t0
Uid:\t101000\t101000\t101000\t101000
Gid:\t101000\t101000\t101000\t101000
Groups:\t
CapInh:\t0
CapPrm:\t0
CapEff:\t0
CapBnd:\t0
CapAmb:\t0
NoNewPrivs:\t1
Seccomp:\t2
"""


def _observer() -> Observer:
    return Observer(0, 0, procfs.parse_status(STATUS), dict.fromkeys(NAMESPACES, "host"),
                    mounts.parse(HOST_MOUNTS))


def _live(status: Mapping[str, str] | None = None, shown: str = MOUNTS,
          uids: str = "0 100000 65536", **changes: Any) -> LivePosture:
    text = STATUS
    for name, value in (status or {}).items():
        old = next(line for line in text.split("\n") if line.startswith(f"{name}:"))
        text = text.replace(old, f"{name}:\t{value}")
    posture = LivePosture(
        pid=7, status=procfs.parse_status(text), namespaces=dict.fromkeys(NAMESPACES, "own"),
        uid_map=idmap.parse_map(uids), mounts=mounts.parse(shown), interfaces=("lo", "eth0"),
        cgroup={"memory.max": "67108864", "pids.max": "100", "cpu.max": "50000 100000"},
        apparmor="docker-default (enforce)")
    return replace(posture, **changes)


def _mounted(line: str) -> LivePosture:
    return _live(shown=f"{MOUNTS}{line}\n")


def _sharing(*kinds: str, **more: Any) -> LivePosture:
    return _live(namespaces={kind: "host" if kind in kinds else "own" for kind in NAMESPACES},
                 **more)


def _holding(name: str, *, user: bool = False) -> LivePosture:
    from hardrun.kernel.capabilities import NUMBERS

    mask = f"{1 << NUMBERS[f'CAP_{name}']:x}"
    return _sharing(*(("user",) if user else ()), status={"CapPrm": mask})


FAILS: dict[str, Callable[[], LivePosture]] = {
    "host-root-mounted": lambda: _mounted("70 50 8:1 / /host ro - ext4 /dev/sda1 rw"),
    "engine-socket": lambda: _mounted("70 50 0:7 /docker.sock /s rw - tmpfs tmpfs rw"),
    "host-system-writable": lambda: _mounted("70 50 8:1 /usr/bin /b rw - ext4 /dev/sda1 rw"),
    "host-secrets-readable": lambda: _mounted("70 50 8:1 /etc/ssh /k ro - ext4 /dev/sda1 rw"),
    "host-network": lambda: _sharing("net"), "host-pid": lambda: _sharing("pid"),
    "host-ipc": lambda: _sharing("ipc"), "host-uts": lambda: _sharing("uts"),
    "host-cgroup": lambda: _sharing("cgroup"), "host-user-namespace": lambda: _sharing("user"),
    "host-mount-namespace": lambda: _sharing("mnt"),
    "cap-sys-admin": lambda: _holding("SYS_ADMIN", user=True),
    "cap-kernel": lambda: _holding("SYS_MODULE", user=True),
    "cap-sys-ptrace": lambda: _holding("SYS_PTRACE", user=True),
    "cap-dac-read-search": lambda: _holding("DAC_READ_SEARCH", user=True),
    "cap-bpf": lambda: _holding("BPF", user=True), "cap-net-admin": lambda: _holding("NET_ADMIN"),
    "cap-net-raw": lambda: _holding("NET_RAW"), "cap-not-dropped": lambda: _holding("CHOWN"),
    "seccomp-off": lambda: _live({"Seccomp": "0"}),
    "apparmor-off": lambda: _live(apparmor="unconfined"),
    "proc-unmasked": lambda: _sharing("user", shown="\n".join(
        line for line in MOUNTS.split("\n") if " /proc/" not in line)),
    "new-privileges": lambda: _live({"NoNewPrivs": "0"}),
    "runs-as-root": lambda: _sharing("user", status={"Uid": "0 0 0 0"}, uids="0 0 4294967295"),
    "writable-root": lambda: _live(shown=MOUNTS.replace("/ / ro", "/ / rw")),
    "no-memory-limit": lambda: _live(cgroup={"memory.max": "max", "pids.max": "1"}),
    "no-cpu-limit": lambda: _live(cgroup={"cpu.max": "max 100000"}),
    "no-pids-limit": lambda: _live(cgroup={"pids.max": "max"}),
}


def _read(live: LivePosture) -> Subject:
    return process.subject(live, _observer())


def test_there_is_a_failing_example_for_each_rule_that_can_occur() -> None:
    assert set(FAILS) == set(RULES)


def test_a_container_that_is_held_passes_every_rule() -> None:
    subject = _read(_live())
    assert {name: judge.verdict(rule, subject).answer for name, rule in RULES.items()
            if judge.verdict(rule, subject).answer != "passes"} == {}


@pytest.mark.parametrize("name", FAILS)
def test_a_rule_fails_where_it_should_and_says_where(name: str) -> None:
    outcome = judge.verdict(RULES[name], _read(FAILS[name]()))
    assert outcome.answer == "fails"
    for finding in outcome.findings:
        assert finding.place.file.startswith("/proc/7/")
        assert finding.place.field


@pytest.mark.parametrize("line, writable", [
    ("70 50 8:1 /srv/x /a\\040b rw - ext4 /dev/sda1 rw", {"/srv/x"}),
    ("70 50 0:7 / /var/run rw - tmpfs tmpfs rw", {"/run"}),
    ("70 50 0:5 / /host/proc rw - proc proc rw", {"/proc"}),
    ("70 50 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/sda1 rw", {"/etc/hosts"}),
    ("70 50 8:1 /home/u/hosts /etc/hosts rw - ext4 /dev/sda1 rw", set()),
    ("70 50 8:1 /data/volumes/v/_data /v rw - ext4 /dev/sda1 rw", set()),
    ("70 50 8:2 / /images rw - ext4 /dev/sda2 rw", {"/var/lib/docker"}),
    ("70 50 9:9 / /own rw - tmpfs tmpfs rw", set()),
    ("70 50 9:9 /docker.sock /s rw - tmpfs tmpfs rw", {"/run/docker.sock"}),
    # covered: by a mount on top of it, and by one on what it lies on
    ("70 50 8:1 /opt /a rw - ext4 /dev/sda1 rw\n71 70 9:9 / /a rw - tmpfs tmpfs rw", set()),
    ("70 50 8:1 /opt /a/b rw - ext4 /dev/sda1 rw\n71 50 9:9 / /a rw - tmpfs tmpfs rw", set()),
    # read-only below what is writable anyway
    ("70 50 8:1 /opt /a rw - ext4 /dev/sda1 rw\n71 70 8:1 /opt/x /a/x ro - ext4 /dev/sda1 rw",
     {"/opt"}),
])
def test_which_paths_of_the_host_mounts_show(line: str, writable: set[str]) -> None:
    subject = _read(_live(shown=f"50 49 0:50 / / ro - overlay overlay rw\n{line}\n"))
    assert subject.values["filesystem.writable"].value == writable
    assert subject.values["filesystem.readable"].value == frozenset()


def test_a_proc_of_its_own_processes_alone_needs_no_masks() -> None:
    shown = "50 49 0:50 / / ro - overlay overlay rw\n51 50 0:51 / /proc rw - proc proc rw,{}\n"
    for options, answer in (("subset=pid", "masked"), ("hidepid=2", "unmasked")):
        subject = _read(_live(shown=shown.format(options)))
        assert subject.values["proc_mount"].value == answer


@pytest.mark.parametrize("options, no_new_privs, namespace, held", [
    ("ro,relatime", "0", "own", {"CAP_CHOWN"}), ("ro,nosuid", "0", "own", set()),
    ("ro,relatime", "1", "own", set()), ("ro,relatime", "0", "host", set()),
])
def test_what_a_setuid_program_of_the_image_would_get_counts(
        options: str, no_new_privs: str, namespace: str, held: set[str]) -> None:
    subject = _read(_live({"CapBnd": "1", "NoNewPrivs": no_new_privs},
                          shown=MOUNTS.replace("/ / ro,relatime", f"/ / {options}"),
                          namespaces={**dict.fromkeys(NAMESPACES, "own"), "mnt": namespace}))
    assert subject.values["capabilities"].value == held


def test_each_namespace_that_is_shared_is_a_cause_of_its_own() -> None:
    subject = _read(_sharing("net", "pid", "ipc"))
    found = judge.causes(judge.judge([subject], list(RULES.values())).findings)
    assert {(f.rule.id, f.place.file) for f in found} == {
        ("host-network", "/proc/7/ns/net"), ("host-pid", "/proc/7/ns/pid"),
        ("host-ipc", "/proc/7/ns/ipc")}


def test_what_the_kernel_hides_is_not_known() -> None:
    hidden = _live(namespaces=None, mounts=None, uid_map=None, interfaces=None, cgroup=None,
                   apparmor=None)
    answers = {name: judge.verdict(rule, _read(hidden)).answer for name, rule in RULES.items()}
    assert {name for name, answer in answers.items() if answer == "passes"} == {
        "seccomp-off", "new-privileges", "cap-sys-admin", "cap-kernel", "cap-sys-ptrace", "cap-bpf",
        "cap-dac-read-search", "cap-net-admin", "cap-net-raw", "cap-not-dropped"}
    assert set(answers.values()) == {"passes", "unknown"}
