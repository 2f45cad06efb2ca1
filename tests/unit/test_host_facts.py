"""Host facts as a value: tiers, versions, JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from hardrun.host.facts import Fact, HostFacts, kernel_version
from hardrun.kernel.cgroups import directory_of
from hardrun.values import load, plain
from tests.planning import NO, facts


def test_the_full_tier_needs_each_of_its_facts() -> None:
    assert facts().tier == "full"
    for name in HostFacts.FULL_TIER:
        assert facts(**{name: NO}).tier != "full"


def test_filters_alone_are_the_landlock_tier() -> None:
    assert facts(user_namespaces=NO).tier == "landlock"
    assert facts(user_namespaces=NO, landlock=NO).tier == "none"
    assert facts(seccomp=NO).tier == "none"


def test_what_no_policy_needs_does_not_lower_the_tier() -> None:
    assert facts(keyring=NO, devpts_mount=NO, overlay=NO, id_ranges=NO).tier == "full"


def test_facts_survive_json() -> None:
    before = facts(subordinate_uids=((100000, 65536),))
    assert load(HostFacts, json.loads(json.dumps(plain(before)))) == before


def test_facts_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        facts().landlock_abi = 9
    with pytest.raises(TypeError):
        Fact(available=True, reason="none such")  # type: ignore[call-arg]


@pytest.mark.parametrize("release,version", [
    ("6.18.4-arch1", (6, 18)), ("5.15.0-91-generic", (5, 15)), ("6.1", (6, 1)), ("odd", (0, 0))])
def test_a_release_has_a_version(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


@pytest.mark.parametrize("cgroups,root,directory", [
    ("0::/user.slice/user-1000.slice", "/", "/sys/fs/cgroup/user.slice/user-1000.slice"),
    ("9:memory:/x\n0::/", "/", "/sys/fs/cgroup"),
    ("0::/docker/abc/child", "/docker/abc", "/sys/fs/cgroup/child"),
    ("0::/docker/abc", "/docker/abc", "/sys/fs/cgroup"),
    ("9:memory:/x", "/", "/sys/fs/cgroup"),
])
def test_the_own_group_lies_below_the_mount(cgroups: str, root: str, directory: str) -> None:
    assert directory_of(cgroups, "/sys/fs/cgroup", root) == directory
