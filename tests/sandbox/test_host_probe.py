"""The probe on the real kernel: facts agree with what the kernel does for this user."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hardrun.host import trial
from hardrun.host.attempt import Attempt, ExecutorUnusable, Failure, attempt
from hardrun.host.probe import probe
from hardrun.kernel import idmap, landlock
from hardrun.plan.schema import Operation
from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parents[2]


def test_facts_name_who_asks() -> None:
    facts = probe()
    assert (facts.uid, facts.gid) == (os.getuid(), os.getgid())
    assert set(facts.supplementary_groups) == set(os.getgroups()) - {os.getgid()}
    assert facts.kernel_release == os.uname().release
    assert facts.boot_id
    assert facts.hard_limits["RLIMIT_NOFILE"] > 0


def test_landlock_has_the_abi_of_the_system_call() -> None:
    facts = probe()
    assert facts.landlock_abi in (0, landlock.abi_version())
    assert facts.landlock.available == (facts.landlock_abi > 0)


def test_what_is_missing_says_why(executor: Path) -> None:
    facts = probe(str(executor))
    for field in fields(facts):
        name, fact = field.name, getattr(facts, field.name)
        if hasattr(fact, "available") and not fact.available:
            assert fact.detail, name
            assert fact.layer, name


def test_a_user_namespace_is_available_where_the_kernel_makes_one() -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare(1) is not installed")
    made = subprocess.run([unshare, "--user", "--map-root-user", "--mount", "true"],
                          capture_output=True)
    assert probe().mount_namespace.available == (made.returncode == 0)


def test_no_executor_is_no_crash_but_a_fact(tmp_path: Path) -> None:
    facts = probe(str(tmp_path / "absent"))
    assert facts.tier == "none"
    assert "absent" in facts.memory_executable.detail
    assert facts.memory_executable.layer == "installation"


def test_what_is_no_executor_is_no_crash_but_a_fact(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    facts = probe(str(program))
    assert facts.tier == "none"
    assert "without a report" in facts.memory_executable.detail


def test_an_operation_that_the_kernel_refuses_is_named(executor: Path) -> None:
    flags = 0x10000000 | 0x20000 | 0x20000000  # no uts namespace: the host name is the host's
    refused = attempt(str(executor), [
        Operation("argument", ("x",)), Operation("clone", (flags,)),
        Operation("standard_io", (2, 0, 0)), Operation("write_id_map", (0, 0)),
        Operation("set_hostname", ("x",))])
    assert refused == Failure("set_hostname", errno.EPERM, "sethostname")
    assert "EPERM" in str(refused)


def test_in_the_full_tier_the_whole_trial_works_at_once(executor: Path) -> None:
    facts = probe()
    if facts.tier != "full" or not facts.keyring.available or not facts.devpts_mount.available:
        pytest.skip("this host lacks something: hardrun doctor")
    assert attempt(str(executor), trial.everything()) is None


def test_attempts_run_side_by_side(executor: Path) -> None:
    children = [Attempt(str(executor), trial.everything(landlock=landlock.abi_version() > 0))
                for _ in range(8)]
    results = [child.result() for child in children]
    assert all(result == results[0] for result in results)


def test_an_executor_that_is_absent_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ExecutorUnusable) as caught:
        attempt(str(tmp_path / "absent"), [])
    assert caught.value.errno == errno.ENOENT


def test_a_caller_that_ignores_its_children_can_probe(executor: Path) -> None:
    program = ("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
               "from hardrun.host.probe import probe; print(probe().tier)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == probe().tier


def test_no_new_privs_makes_the_helpers_useless_and_that_is_said() -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None or not probe().id_ranges.available:
        pytest.skip("needs setpriv(1) and a range of ids for this user")
    program = ("from hardrun.host.probe import probe; f = probe().id_ranges;"
               "print(f.available, f.layer)")
    done = subprocess.run([setpriv, "--no-new-privs", sys.executable, "-c", program], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False no_new_privs of the caller"


def test_a_partly_covered_proc_is_told_apart_from_a_refused_mount() -> None:
    """As in a container of Docker or Kubernetes (PR-10)."""
    unshare = shutil.which("unshare")
    if unshare is None or not probe().proc_mount.available:
        pytest.skip("needs unshare(1) and a proc of its own")
    program = ("from hardrun.host.probe import probe; f = probe();"
               "print(f.user_namespaces.available, f.proc_mount.available, f.proc_mount.layer)")
    script = f"mount --bind /dev/null /proc/cpuinfo && exec '{sys.executable}' -c '{program}'"
    done = subprocess.run([unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == \
        "True False the caller's own /proc is partly covered (/proc/cpuinfo)"


def test_doctor_tells_the_tier_and_exits_with_it() -> None:
    done = subprocess.run([HARDRUN, "doctor"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stdout.startswith(f"tier {probe().tier}")
    assert done.returncode == (0 if probe().tier == "full" else 1)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("file,kind", [("/etc/subuid", "subordinate_uids"),
                                       ("/etc/subgid", "subordinate_gids")])
def test_ranges_are_those_of_the_file(file: str, kind: str) -> None:
    try:
        text = Path(file).read_text()
    except OSError:
        pytest.skip(f"{file} can't be read")
    facts = probe()
    assert getattr(facts, kind) == idmap.usable(
        idmap.parse_subordinate(text), facts.user_name, facts.uid)


@pytest.mark.root
@pytest.mark.parametrize("value,cause", [("0", ""), ("1", ""), ("2", "memfd-noexec")])
def test_memory_files_that_can_not_be_executed(value: str, cause: str) -> None:
    """vm.memfd_noexec belongs to a pid namespace, and only the host's root may write it there."""
    program = ("from hardrun.host.probe import probe; f = probe().memory_executable;"
               "print(f.available, f.cause)")
    script = (f"echo {value} > /proc/sys/vm/memfd_noexec && exec '{sys.executable}' -c '{program}'")
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(not cause), *cause.split()]
