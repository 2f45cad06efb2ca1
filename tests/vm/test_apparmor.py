"""AppArmor in force: every policy's label, what it denies alone, and when it can't be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hardrun
from hardrun.errors import HostUnsupported
from hardrun.executor import image, start
from hardrun.profile import apparmor, apparmor_host
from hardrun.request import decide
from tests.vm.attacks import ATTACKS
from tests.vm.guest import as_root, run_as

pytestmark = pytest.mark.vm("apparmor")
OURS = "hardrun-untrusted"
SHOW = ["cat", "/proc/self/attr/apparmor/current"]
DEMANDING = """apiVersion: hardrun/v1
kind: Policy
metadata: {name: demanding}
within: [contained]
bounds: {mandatory: [{apparmor: hardrun-untrusted}, refuse]}
host: {mandatory: refuse}
"""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    as_root("hardrun", "profile", "install")
    yield
    as_root("hardrun", "profile", "remove")


@contextmanager
def _loaded(profile: str, *arguments: str) -> Iterator[None]:
    """A profile for the time being; in the end what ships is there again, and nothing else."""
    as_root("apparmor_parser", "--replace", "--skip-cache", *arguments, stdin=profile)
    try:
        yield
    finally:
        if f"profile {OURS} " in profile:
            as_root("hardrun", "profile", "install", OURS)
        else:
            as_root("apparmor_parser", "--remove", stdin=profile)


@contextmanager
def _removed() -> Iterator[None]:
    as_root("hardrun", "profile", "remove", OURS)
    try:
        yield
    finally:
        as_root("hardrun", "profile", "install", OURS)


def _cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["hardrun", *words], capture_output=True, text=True, check=False)


def _label(**options: str) -> str:
    return str(hardrun.run(SHOW, capture_output=True, text=True, **options).stdout).strip()


# -- the label -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", apparmor.SHIPPED)
def test_lm_02_every_policy_gets_its_label_before_the_first_instruction(policy: str) -> None:
    seen = []

    def look(pid: int) -> None:
        seen.append(as_root("cat", f"/proc/{pid}/attr/apparmor/current").strip())
        seen.append(os.readlink(f"/proc/{pid}/exe"))

    request = decide(["true"], policies=[policy])
    start.run(start.Program.of(request), [], at_gate=look)
    assert seen == [f"hardrun-{policy} (enforce)", os.path.realpath("/usr/bin/true")]
    [control] = [c for c in request.decision.controls if c.control == "mandatory"]
    assert control.enforcement.by == (f"apparmor:hardrun-{policy}",)


def test_what_the_label_denies_it_denies_alone() -> None:
    """No mounts, no filter, no Landlock: first without the label, where each attack succeeds."""
    def attack(*prefix: str) -> dict[str, str]:
        done = subprocess.run([*prefix, sys.executable, "-c", ATTACKS], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    free, held = attack(), attack("aa-exec", "-p", OURS, "--")
    assert {name: answer for name, answer in free.items() if answer != "through"} == {}
    assert {name: answer for name, answer in held.items()
            if answer not in ("EACCES", "EPERM")} == {}


def test_what_a_labelled_run_needs_it_has(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("from a file\n")
    script = ("import mmap, os, signal, socket, subprocess, tempfile, sys\n"
              "assert mmap.mmap(0, 0, prot=mmap.PROT_READ).readline() == b'from a file\\n'\n"
              "server = socket.create_server(('127.0.0.1', 0))\n"
              "socket.create_connection(server.getsockname())\n"
              "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
              "child = subprocess.Popen(['sleep', '60']); child.send_signal(signal.SIGTERM)\n"
              "assert child.wait() == -signal.SIGTERM\n"
              "open('/proc/self/comm', 'w').write('renamed')\n"
              "temporary = tempfile.TemporaryFile(); temporary.write(b'x'); temporary.flush()\n"
              "os.pread(os.open(f'/proc/self/fd/{temporary.fileno()}', os.O_RDONLY), 1, 0)\n"
              "print(open('/proc/self/attr/current').read())\n")
    with file.open() as stdin:
        done = subprocess.run(["hardrun", "run", "--", "/usr/bin/python3", "-c", script],
                              stdin=stdin, capture_output=True, text=True, check=False)
        assert os.lseek(stdin.fileno(), 0, os.SEEK_CUR) == 0
    assert (done.stdout.strip(), done.stderr) == (f"{OURS} (enforce)", "")


# -- where it can't be had -------------------------------------------------------------------------


def test_lm_01_a_policy_that_demands_a_profile_is_refused_without_it(tmp_path: Path) -> None:
    policy = tmp_path / "demanding.yaml"
    policy.write_text(DEMANDING)
    assert _label(policy=str(policy)) == f"{OURS} (enforce)"
    with _removed(), pytest.raises(HostUnsupported, match=f"AppArmor has no {OURS}") as refused:
        hardrun.run(SHOW, policy=str(policy))
    assert "hardrun profile install" in str(refused.value.hint)


def test_a_stored_plan_follows_what_is_loaded(tmp_path: Path) -> None:
    """Stored with the label, without it, and with it again: none survives the change."""
    program = tmp_path / "program"
    assert _cli("compile", "-o", str(program), "--", *SHOW).returncode == 0
    words = ["run", "--", *SHOW]
    assert [_cli(*words).stdout for _ in range(2)] == [f"{OURS} (enforce)\n"] * 2
    with _removed():
        fallen_back = _cli(*words)
        again = _cli(*words)
        stale = subprocess.run([program], capture_output=True, text=True, check=False)
        report = hardrun.explain(["true"])
    assert (fallen_back.stdout, again.stdout) == ("unconfined\n", "unconfined\n")
    assert (stale.returncode, stale.stdout) == (125, "")
    assert stale.stderr.startswith("hardrun: the plan is stale, make it again: require the "
                                   f"apparmor label exec {OURS} to be taken")
    assert stale.stderr.count("\n") == 1
    [control] = [c for c in report.controls if c.control == "mandatory"]
    assert (control.enforcement.kind, control.enforcement.by) == ("replaced", ("landlock",))
    assert _cli(*words).stdout == f"{OURS} (enforce)\n"


def test_lm_02_a_profile_that_only_complains_is_no_enforcement(tmp_path: Path) -> None:
    program = tmp_path / "program"
    directory = tmp_path / "grant"
    directory.mkdir()
    done = _cli("compile", "-o", str(program), "--rw", str(directory), "--",
                "touch", str(directory / "ran"))
    assert done.returncode == 0, done.stderr
    with _loaded(apparmor_host.text(OURS), "--complain"):
        held = subprocess.run([program], capture_output=True, text=True, check=False)
        decision = hardrun.explain(["true"])
    assert (held.returncode, list(directory.iterdir())) == (125, [])
    assert f"it has {OURS} (complain)" in held.stderr
    assert held.stderr.count("\n") == 1
    [control] = [c for c in decision.controls if c.control == "mandatory"]
    assert control.enforcement.kind == "replaced"
    assert "in a mode that stops nothing" in control.enforcement.because


# -- confined callers ------------------------------------------------------------------------------

OUTER = ("profile outer flags=(attach_disconnected) {{\n  file, capability, network, mount, umount,"
         " pivot_root, signal, ptrace, unix,\n  {rule}\n}}\n")


@pytest.mark.parametrize("rule, shown", [
    ("change_profile -> &**,", f"{OURS}//&outer (enforce)"), ("", "outer (enforce)")])
def test_a_confined_caller_stacks_or_falls_back(rule: str, shown: str) -> None:
    with _loaded(OUTER.format(rule=rule)):
        done = subprocess.run(["aa-exec", "-p", "outer", "--", "hardrun", "run", "--", *SHOW],
                              capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (shown, "")


def test_a_caller_whose_profile_denies_what_a_sandbox_needs_is_told_in_one_line() -> None:
    """As Ubuntu's restriction does: the namespace can be made, nothing can be done in it."""
    denying = "profile restricted { file, network, signal, ptrace, unix, deny capability, }\n"
    with _loaded(denying):
        done = subprocess.run(["aa-exec", "-p", "restricted", "--", "hardrun", "run", "--", "true"],
                              capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("hardrun: ")
    assert "restricted" in done.stderr


def test_a_profile_on_the_executors_path_stays_with_the_sandbox_that_it_makes(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ubuntu restricts user namespaces. This kernel has no such switch: its answer is faked,
    and the profile is written without the rule that this parser does not know."""
    switch = tmp_path / "restricted"
    switch.write_text("1\n")
    monkeypatch.setattr(image, "RESTRICTED", str(switch))
    seen = []

    def look(pid: int) -> None:
        for process in (pid, int(_status(pid)["PPid"])):
            seen.append(as_root("cat", f"/proc/{process}/attr/apparmor/current").strip())
            seen.append(os.readlink(f"/proc/{pid}/exe") if process == pid else
                        as_root("readlink", f"/proc/{process}/exe").strip())

    with _loaded(apparmor.executor_profile(image.executor_path(), "3.0")):
        start.run(start.Program.of(decide(["true"])), [], at_gate=look)
    assert seen == [f"{OURS} (enforce)", os.path.realpath("/usr/bin/true"),
                    "hardrun (unconfined)", "/memfd:hardrun (deleted)"]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# -- hardrun profile -------------------------------------------------------------------------------


def test_the_states_of_profiles_are_those_of_the_kernel() -> None:
    def state() -> tuple[bool, str, bool | None]:
        [found] = apparmor_host.states([OURS])
        return found.installed, found.loaded, found.stale

    assert state() == (True, "enforce", False)
    with _loaded(f"profile {OURS} {{ file, }}\n"):
        assert state() == (True, "enforce", True)
    with _removed():
        assert state() == (False, "no", None)


def test_whoever_is_not_root_gets_the_command_for_root() -> None:
    done = _cli("profile", "install", OURS)
    assert done.returncode == 125
    assert done.stdout == f"/opt/venv/bin/hardrun profile install --module apparmor {OURS}\n"
    installed = run_as("root", done.stdout.split())
    assert (installed.returncode, installed.stdout) == (0, f"{OURS}: installed\n")
