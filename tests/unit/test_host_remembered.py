"""Doctor's answers are kept for as long as nothing that they depend on has changed."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from hardrun.host import remembered
from hardrun.host.causes import CAUSES
from hardrun.host.facts import Fact, HostFacts
from tests.policies import YES, facts

NO_LSM = {"apparmor": Fact(available=False, cause="no-apparmor"),
          "selinux": Fact(available=False, cause="no-selinux")}
WHOLE = facts(cgroup=YES, cgroup_delegation=YES, **NO_LSM)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/hardrun/hosts"


def test_a_host_without_fault_is_remembered(hosts: Path) -> None:
    remembered.store(b"key", WHOLE)
    assert remembered.load(b"key") == WHOLE
    assert remembered.load(b"another") is None


def _lacking(name: str, cause: str) -> HostFacts:
    whole = NO_LSM | {"cgroup": YES, "cgroup_delegation": YES}
    return facts(**(whole | {name: Fact(available=False, cause=cause)}))


@pytest.mark.parametrize("name,cause", [
    ("user_namespaces", "userns-used-up"), ("user_namespaces", "outer-seccomp"),
    ("user_namespaces", "apparmor-profile"), ("network_namespace", "max-namespaces"),
    ("keyring", "key-quota"), ("id_ranges", "newuidmap-refused"), ("memory_executable", "memory"),
    ("proc_mount", "kernel"), ("proc_mount", "")])
def test_what_may_be_repaired_unseen_is_tried_anew(hosts: Path, name: str, cause: str) -> None:
    remembered.store(b"key", _lacking(name, cause))
    assert remembered.load(b"key") is None


@pytest.mark.parametrize("name,cause", [
    ("user_namespaces", "max-user-namespaces"), ("id_ranges", "no-subordinate-ids"),
    ("proc_mount", "proc-covered"), ("newuidmap", "no-newuidmap"), ("overlay", "no-overlay")])
def test_a_fault_whose_repair_shows_in_the_key_is_remembered(hosts: Path, name: str, cause: str
                                                             ) -> None:
    remembered.store(b"key", _lacking(name, cause))
    assert remembered.load(b"key") == _lacking(name, cause)


@pytest.mark.parametrize("name", ["cgroup", "cgroup_delegation"])
def test_answers_about_cgroups_hinder_nothing_for_they_are_not_used(hosts: Path, name: str) -> None:
    remembered.store(b"key", _lacking(name, "cgroup-not-delegated"))
    assert remembered.load(b"key") is not None


def test_only_causes_that_there_are_can_be_remembered() -> None:
    assert set(CAUSES) >= remembered.SHOWN


def test_a_file_that_others_can_write_does_not_count(hosts: Path) -> None:
    remembered.store(b"key", WHOLE)
    [file] = hosts.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o620)
    assert remembered.load(b"key") is None


def test_what_is_no_answer_does_not_count(hosts: Path) -> None:
    from hardrun import cache

    for text in (b"", b"[]", b'{"uid": 1}', b"\xff"):
        cache.store(b"key", text, remembered.KIND)
        assert remembered.load(b"key") is None


def test_the_key_names_boot_caller_and_executor(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    executor = tmp_path / "executor"
    before = remembered.key(str(executor))
    if before is None:
        pytest.skip("a filter or profile around the tests: doctor remembers nothing below one")
    assert Path("/proc/sys/kernel/random/boot_id").read_bytes().strip() in before
    assert str(os.getuid()).encode() in before.split(b"\0")
    executor.write_bytes(b"another")
    after = remembered.key(str(executor))
    assert after != before
    assert remembered.key(str(executor)) == after
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert remembered.key(str(executor)) != after
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setenv("HOME", "/elsewhere")
    assert remembered.key(str(executor)) != after
