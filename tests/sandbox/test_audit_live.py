"""Audits of running processes: what the kernel says, for hardrun's sandboxes and for others'."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hardrun.audit import judge
from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.model import Subject
from hardrun.audit.read import process
from hardrun.audit.rules import catalogue
from hardrun.audit.walk import read_paths
from hardrun.bench.worker import UNIFIED
from hardrun.cli.main import main
from hardrun.kernel import procfs
from tests.audit.examples import merged
from tests.sandbox.agreement import disagreements, known_to_both
from tests.sandbox.containers import CRUN, RUNC

ROOT = Path(__file__).resolve().parents[2]
RULES = {rule.id: rule for rule in catalogue() if "process" in rule.occurs}
bubblewrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "PYTHONPATH")}


@contextmanager
def _started(words: Sequence[str]) -> Iterator[int]:
    """A process that runs ``sh`` until its input ends; the number of whatever says ``ready``."""
    child = subprocess.Popen([*words, "sh", "-c", "echo ready; read line"], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        yield _deepest(child.pid)
    finally:
        child.stdin.close()
        child.wait(timeout=30)
        child.stdout.close()


def _deepest(pid: int) -> int:
    """The process at the end of the chain of children."""
    statuses = procfs.statuses()
    while children := [p for p, status in statuses.items() if status.parent == pid]:
        pid = children[0]
    return pid


def _answers(subject: Subject) -> dict[str, str]:
    return {name: judge.verdict(rule, subject).answer for name, rule in RULES.items()}


def test_a_sandbox_of_hardruns_passes_every_rule_that_can_be_answered() -> None:
    with _started([sys.executable, "-m", "hardrun", "run", "-i", "--"]) as pid:
        answers = _answers(process.read(pid))
        everywhere = list(process.containers())
    failing = {name for name, answer in answers.items() if answer == "fails"}
    # An ordinary user's sandbox has limits of memory in a cgroup only where one is delegated.
    assert failing <= {"no-memory-limit", "no-cpu-limit", "no-pids-limit", "apparmor-off"}
    assert {name for name, answer in answers.items() if answer == "passes"} >= {
        "host-network", "host-pid", "host-ipc", "host-uts", "host-cgroup", "host-mount-namespace",
        "host-user-namespace", "cap-sys-admin", "cap-not-dropped", "seccomp-off", "new-privileges",
        "writable-root", "engine-socket", "host-system-writable"}
    assert any(subject.name == f"{pid} sh" for subject in everywhere)


def test_a_process_of_the_host_fails_what_it_should() -> None:
    with _started([]) as pid:
        answers = _answers(process.read(pid))
    assert {name for name, answer in answers.items() if answer == "fails"} >= {
        "host-network", "host-pid", "host-ipc", "host-uts", "host-cgroup", "host-mount-namespace",
        "host-user-namespace", "seccomp-off", "new-privileges", "writable-root"}


def test_root_of_a_namespace_of_its_own_is_not_the_hosts() -> None:
    with _started(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"]) as pid:
        subject = process.read(pid)
    assert subject.values["ids.user"].value == "root"
    assert "CAP_SYS_ADMIN" in subject.values["capabilities"].value
    answers = _answers(subject)
    assert answers["cap-sys-admin"] == answers["runs-as-root"] == "passes"
    assert answers["host-network"] == "fails"


@bubblewrap
def test_a_sandbox_of_bubblewraps_is_read_without_its_help() -> None:
    with _started(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev",
                   "/dev"]) as pid:
        answers = _answers(process.read(pid))
    assert answers["host-network"] == answers["host-pid"] == answers["new-privileges"] == "passes"
    assert answers["seccomp-off"] == answers["host-root-mounted"] == "fails"


@bubblewrap
def test_the_hosts_file_system_below_another_root_is_found() -> None:
    with _started(["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin",
                   "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
                   "--bind", "/", "/mnt", "--proc", "/proc", "--dev", "/dev"]) as pid:
        subject = process.read(pid)
    assert subject.values["filesystem.writable"].value == {"/"}
    place = subject.values["filesystem.writable"].elements["/"]
    assert (place.file, place.field) == (f"/proc/{pid}/mountinfo", "/mnt")
    answers = _answers(subject)
    assert answers["host-root-mounted"] == answers["engine-socket"] == "fails"


def test_what_the_kernel_hides_is_not_known_and_not_fine() -> None:
    if os.geteuid() == 0:
        pytest.skip("root sees everything")
    subject = process.read(1)
    assert {"network_mode", "namespaces.shared"} <= subject.unknown.keys()
    assert _answers(subject)["host-network"] == "unknown"


def test_the_command_line_audits_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    with _started([]) as pid:
        assert main(["audit", "--live", str(pid)]) == 1
    assert f"/proc/{pid}/ns/net " in capsys.readouterr().out
    assert main(["audit", "--live", "4194304"]) == 125
    assert "there is no such process" in capsys.readouterr().err


# -- what is on paper, and what is in force --------------------------------------------------------

COMPARED = {"capabilities", "no_new_privs", "seccomp_mode", "ids.user", "filesystem.read_only_root",
            "network_mode", "pid_namespace", "user_namespace", "mount_namespace", "proc_mount",
            "namespaces.shared", "filesystem.readable", "filesystem.writable"}
CHANGES: dict[str, dict[str, object]] = {
    "as it comes": {},
    "another user, a filter": {
        "process": {"noNewPrivileges": False},
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]}}},
    "other capabilities": {
        "process": {"noNewPrivileges": False, "capabilities": {
            kind: ["CAP_KILL", "CAP_SYS_PTRACE"]
            for kind in ("bounding", "effective", "permitted", "ambient")}}},
    "the host's programs and settings": {
        "linux": {"maskedPaths": [], "readonlyPaths": []},
        "mounts": [{"destination": "/proc", "source": "proc", "type": "proc"},
                   {"destination": "/usr", "source": "/usr", "type": "none", "options": ["rbind"]},
                   {"destination": "/dev", "source": "tmpfs", "type": "tmpfs"},
                   {"destination": "/h", "source": "/etc", "type": "none", "options": ["bind"]}]},
    "the whole file system": {
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [{"destination": "/proc", "source": "proc", "type": "proc"},
                   {"destination": "/dev", "source": "tmpfs", "type": "tmpfs"},
                   {"destination": "/usr", "source": "/usr", "type": "none", "options": ["rbind"]},
                   {"destination": "/mnt", "source": "/", "type": "none", "options": ["rbind"]}]},
    "the host's names and messages": {
        "root": {"path": "rootfs", "readonly": False}, "hostname": None,
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"},
                                 {"type": "network"}]}},
}


# crun takes no host that shows both versions of cgroups: it is shown the second alone.
_ALONE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
          f'mount --rbind {UNIFIED} /sys/fs/cgroup && exec "$@"', "sh")
RUNTIMES = {"runc": (RUNC,), "crun": (*(_ALONE if os.path.isdir(UNIFIED) else ()), CRUN,
                                      "--cgroup-manager=disabled")}


def _bundle(directory: Path, runtime: str, change: dict[str, object]) -> Path:
    root = directory / "rootfs"
    for name in ("proc", "dev", "sys", "usr", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    subprocess.run([str(RUNTIMES[runtime][-1 if runtime == "runc" else -2]), "spec", "--rootless"],
                   cwd=directory, check=True)
    path = directory / "config.json"
    document = json.loads(path.read_text())
    document["process"] |= {"terminal": False, "args": ["sh", "-c", "echo ready; read line"]}
    document["mounts"] = [m for m in document["mounts"]
                          if m["destination"] in ("/proc", "/dev", "/dev/pts")]
    document["mounts"].append({"destination": "/usr", "source": "/usr", "type": "none",
                               "options": ["rbind", "ro"]})
    if RUNTIMES[runtime][0] == "unshare":  # where the caller is root already
        document["linux"] |= {kind: [{"containerID": 0, "hostID": 0, "size": 1}]
                              for kind in ("uidMappings", "gidMappings")}
    path.write_text(json.dumps(merged(document, change), indent=2))
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_and_the_container_that_runs_it_agree(tmp_path: Path, runtime: str,
                                                       change: str) -> None:
    if None in RUNTIMES[runtime]:
        pytest.skip(f"{runtime} is not installed")
    config = _bundle(tmp_path, runtime, CHANGES[change])
    (paper,) = read_paths([str(config)]).subjects
    child = subprocess.Popen(
        [*map(str, RUNTIMES[runtime]), "--root", str(tmp_path / "state"), "run", "--bundle",
         str(tmp_path), f"hardrun-audit-{os.getpid()}"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        pid = next(p for p, s in procfs.statuses().items() if s.name == "sh"
                   and child.pid in procfs.ancestors(p) and len(s.pids) > 1)
        force = process.read(pid)
    finally:
        child.stdin.close()
        child.wait(timeout=30)
        child.stdout.close()
    assert known_to_both(paper, force) >= COMPARED
    assert disagreements(paper, force) == {}


def test_a_request_of_hardruns_and_the_sandbox_agree() -> None:
    """What explain says of the controls that an audit reads, and what is in force."""
    words = [sys.executable, "-m", "hardrun"]
    with _started([*words, "run", "-i", "--"]) as pid:
        force = process.read(pid)
    done = subprocess.run([*words, "explain", "--json", "-i", "--", "sh", "-c",
                           "echo ready; read line"], cwd=ROOT, env=ENVIRONMENT, text=True,
                          capture_output=True, check=True)
    decided = {c["control"]: c["value"] for c in json.loads(done.stdout)["controls"]}
    for name in ("capabilities", "no_new_privs", "filesystem.read_only_root", "namespaces.shared"):
        assert BOUNDABLE[name].dump(force.values[name].value) == decided[name], name
    assert force.values["network_mode"].value == decided["network"] == "none"
