"""The laws of docs/policy.md: of every control's lattice, and of the engine."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardrun.errors import HostUnsupported, PolicyRefused
from hardrun.host.facts import HostFacts
from hardrun.policy.check import diff
from hardrun.policy.decision import Decision
from hardrun.policy.engine import Asked, Grant, Places, decide, grant
from hardrun.policy.loaded import LoadedPolicy
from hardrun.posture import filesystem, orders, ways_out
from hardrun.posture.control import UNLIMITED, Control
from hardrun.posture.registry import BY_ID, CONTROLS
from hardrun.values import plain
from tests.policies import HOME, NO, PROJECT, facts, policy, workload

PLACES = Places(PROJECT, HOME)
PATHS = ("/", "/srv", "/srv/a", "/srv/a/b", "/srv/ab", "/data", "/data/x", "/home/user/project",
         "/home/user/project/src", "/home/user/other", "/media")
VARIABLES = ("*", "A", "A*", "AB", "AB*", "ABC", "B", "LC_*", "LC_ALL", "PATH")
PROFILES = ("judge", "untrusted", "build", "contained", "docker-default", "/own.json")
CLAUSES = (("apparmor:a", "landlock"), ("apparmor:a",), ("landlock",), ("landlock", "none"),
           ("selinux:t_t", "landlock"), ("apparmor:a", "selinux:t_t", "landlock"))
PROTECTED = (".git/hooks", ".envrc", ".vscode", "*.sh")


def _subsets(elements: Any) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(sorted(elements)), max_size=6)


def values(control: Control[Any]) -> st.SearchStrategy[Any]:
    """Values of a control, in normal form."""
    special = {"filesystem.protected": PROTECTED, "seccomp": PROFILES, "mandatory": CLAUSES,
               "environment": VARIABLES, "descriptors": (-1, 3, 4, 5),
               "limits.cpuset": (-1, 0, 1, 5)}
    if isinstance(control, orders.Flag):
        return st.booleans()
    if isinstance(control, orders.Level):
        return st.sampled_from(control.levels)
    if isinstance(control, orders.Amount):
        return st.one_of(st.integers(0, 4), st.just(UNLIMITED))
    if isinstance(control, orders.Mask):
        return st.integers(0, 0o777)
    if isinstance(control, orders.Names):
        return _subsets(control.loosest)
    assert isinstance(control, orders.Covering | orders.Obligations)
    return _subsets(special.get(control.id, PATHS)).map(control.normal)


BRIEFLY = settings(deadline=None, database=None, max_examples=25)
THOROUGHLY = settings(deadline=None, database=None, max_examples=150)
EACH = pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.id)


@EACH
@BRIEFLY
@given(data=st.data())
def test_at_most_is_a_partial_order(control: Control[Any], data: st.DataObject) -> None:
    a, b, c = (data.draw(values(control)) for _ in range(3))
    assert control.at_most(a, a)
    assert control.at_most(a, control.loosest)
    if control.at_most(a, b) and control.at_most(b, c):
        assert control.at_most(a, c)
    if control.at_most(a, b) and control.at_most(b, a):
        assert a == b


@EACH
@BRIEFLY
@given(data=st.data())
def test_meet_is_the_loosest_value_no_looser_than_both(
        control: Control[Any], data: st.DataObject) -> None:
    a, b, c = (data.draw(values(control)) for _ in range(3))
    meet = control.meet(a, b)
    assert control.at_most(meet, a)
    assert control.at_most(meet, b)
    if control.at_most(c, a) and control.at_most(c, b):
        assert control.at_most(c, meet)
    assert meet == control.meet(b, a)
    assert control.meet(a, control.meet(b, c)) == control.meet(meet, c)
    assert control.meet(a, control.loosest) == a


@THOROUGHLY
@given(paths=_subsets((*PATHS, "$HOME", "$HOME/a", "$workdir/b")), path=st.sampled_from(PATHS))
def test_paths_are_covered_by_what_is_above_them(paths: frozenset[str], path: str) -> None:
    """The quick way of paths finds what the definition says, pair by pair."""
    control = BY_ID["filesystem.visible"]
    assert isinstance(control, filesystem.PathSet)
    assert control.normal(paths) == orders.Covering.normal(control, paths)
    assert control.reaches(paths, path) == orders.Covering.reaches(control, paths, path)


@EACH
@BRIEFLY
@given(data=st.data())
def test_join_is_no_stricter_than_either(control: Control[Any], data: st.DataObject) -> None:
    a, b = data.draw(values(control)), data.draw(values(control))
    join = control.join(a, b)
    assert control.at_most(a, join)
    assert control.at_most(b, join)
    assert join == control.join(b, a)


@EACH
@BRIEFLY
@given(data=st.data())
def test_a_value_survives_json(control: Control[Any], data: st.DataObject) -> None:
    value = data.draw(values(control))
    assert control.load(control.dump(value)) == value
    assert isinstance(control.show(value), str)


@EACH
@BRIEFLY
@given(data=st.data())
def test_what_a_request_comes_to_is_within_a_bound_on_both_parts(
        control: Control[Any], data: st.DataObject) -> None:
    bound, asked, unasked = (data.draw(values(control)) for _ in range(3))
    if control.at_most(asked, bound) and control.at_most(unasked, bound):
        assert control.at_most(control.granted(asked, unasked), bound)


def _sections(allowed: tuple[Control[Any], ...]) -> st.SearchStrategy[Mapping[str, Any]]:
    chosen = st.lists(st.sampled_from(allowed), max_size=6, unique=True)
    return chosen.flatmap(lambda controls: st.fixed_dictionaries(
        {control.id: values(control) for control in controls}))


# Paths that open ways out are refused for a reason of their own (tests/unit/test_engine.py).
_ASKABLE = tuple(c for c in CONTROLS if c.id not in ways_out.PATH_CONTROLS)


@st.composite
def policies(draw: st.DrawFn, least: int = 0, most: int = 4) -> list[LoadedPolicy]:
    count = draw(st.integers(least, most))
    return [policy(f"p{i}", draw(_sections(CONTROLS)), draw(_sections(CONTROLS)),
                   host=dict.fromkeys(BY_ID, ("degrade", f"p{i}.yaml:1"))) for i in range(count)]


requests = _sections(_ASKABLE).map(
    lambda section: {control: Asked(value, "--flag") for control, value in section.items()})


def _grants(asked: Mapping[str, Asked], chosen: list[LoadedPolicy]) -> dict[str, Grant] | None:
    try:
        return {g.control.id: g for g in grant(asked, chosen, PLACES)}
    except PolicyRefused:
        return None


@THOROUGHLY
@given(policies(), requests)
def test_law_1_what_is_granted_is_within_every_bound_of_every_policy(
        chosen: list[LoadedPolicy], asked: dict[str, Asked]) -> None:
    granted = _grants(asked, chosen)
    if granted is not None:
        for member in chosen:
            for control, (said,) in member.bounds.items():
                assert BY_ID[control].at_most(granted[control].value, said.value)


@THOROUGHLY
@given(policies(), requests, st.randoms(use_true_random=False))
def test_law_2_the_order_of_policies_does_not_matter(
        chosen: list[LoadedPolicy], asked: dict[str, Asked], shuffler: random.Random) -> None:
    shuffled = list(chosen)
    shuffler.shuffle(shuffled)
    one, other = _grants(asked, chosen), _grants(asked, shuffled)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert {k: g.value for k, g in one.items()} == {k: g.value for k, g in other.items()}


@THOROUGHLY
@given(policies(most=3), policies(least=1, most=1), requests)
def test_law_2_one_more_policy_never_loosens_anything(
        chosen: list[LoadedPolicy], more: list[LoadedPolicy], asked: dict[str, Asked]) -> None:
    added = policy("more", {c: s.value for c, (s,) in more[0].bounds.items()},
                   {c: s.value for c, (s,) in more[0].defaults.items()})
    before, after = _grants(asked, chosen), _grants(asked, [*chosen, added])
    if after is not None:
        assert before is not None, "a request that was refused is granted now"
        for control_id, found in after.items():
            assert found.control.at_most(found.value, before[control_id].value)


@THOROUGHLY
@given(policies(least=1), requests)
def test_law_2_without_a_request_nothing_is_looser_than_bounds_and_defaults(
        chosen: list[LoadedPolicy], asked: dict[str, Asked]) -> None:
    granted = _grants({}, chosen)
    assert granted is not None, "a request of nothing is never refused"
    for member in chosen:
        for section in (member.bounds, member.defaults):
            for control, (said,) in section.items():
                assert BY_ID[control].at_most(granted[control].value, said.value)


_LESSER = st.sampled_from([{}, {"user_namespaces": NO}, {"pid_namespace": NO},
                           {"mount_namespace": NO}, {"network_namespace": NO},
                           {"user_namespaces": NO, "landlock_abi": 1},
                           {"user_namespaces": NO, "landlock": NO, "landlock_abi": 0},
                           {"user_namespaces": NO, "seccomp": NO}])
_ORDER = ("full", "landlock")


def _tier(chosen: list[LoadedPolicy], host: Mapping[str, Any], asked: str | None) -> str | None:
    """The tier that a request comes to on a host; None when it is refused."""
    try:
        return decide(workload(min_tier=asked), chosen, facts(**host)).tier
    except (PolicyRefused, HostUnsupported):
        return None


@THOROUGHLY
@given(policies(), _LESSER, st.sampled_from([None, "full", "landlock"]))
def test_law_1_no_host_gives_a_tier_below_the_least_that_a_policy_or_a_request_accepts(
        chosen: list[LoadedPolicy], host: Mapping[str, Any], asked: str | None) -> None:
    tier = _tier(chosen, host, asked)
    if tier is not None:
        least = [said.value for member in chosen for said in member.bounds.get("min_tier", ())]
        assert all(_ORDER.index(tier) <= _ORDER.index(value) for value in (*least, asked or tier))
        assert tier == "landlock" or facts(**host).namespaces
        if asked is None and any("min_tier" not in {*m.bounds, *m.defaults} for m in chosen):
            assert tier == "full", "a policy that does not speak of tiers accepts the full one"


@THOROUGHLY
@given(policies(), policies(least=1, most=1), _LESSER, st.sampled_from([None, "full", "landlock"]))
def test_law_2_one_more_policy_never_gives_a_lesser_tier(
        chosen: list[LoadedPolicy], more: list[LoadedPolicy], host: Mapping[str, Any],
        asked: str | None) -> None:
    added = policy("more", {c: s.value for c, (s,) in more[0].bounds.items()},
                   {c: s.value for c, (s,) in more[0].defaults.items()},
                   host=dict.fromkeys(BY_ID, ("degrade", "more.yaml:1")))
    before, after = _tier(chosen, host, asked), _tier([*chosen, added], host, asked)
    if chosen and after is not None:
        assert before is not None
        assert _ORDER.index(after) <= _ORDER.index(before)


@THOROUGHLY
@given(policies(), requests)
def test_law_3_a_request_is_granted_as_it_is_or_refused_by_name(
        chosen: list[LoadedPolicy], asked: dict[str, Asked]) -> None:
    beyond = {control: {said.origin for member in chosen for said in member.bounds.get(control, ())
                        if not BY_ID[control].at_most(request.value, said.value)}
              for control, request in asked.items()}
    at_fault = {control: lines for control, lines in beyond.items() if lines}
    if at_fault:
        with pytest.raises(PolicyRefused) as caught:
            grant(asked, chosen, PLACES)
        assert {r.control: set(r.bound_by)  # type: ignore[attr-defined]
                for r in caught.value.refusals} == at_fault
        named = [*at_fault, *(line for lines in at_fault.values() for line in lines)]
        assert all(name in caught.value.message for name in named)
        return
    granted = {g.control.id: g for g in grant(asked, chosen, PLACES)}
    for control, request in asked.items():
        assert BY_ID[control].at_most(request.value, granted[control].value)
        if control != "environment":  # --env adds to what is harmless
            assert granted[control].value == request.value


@THOROUGHLY
@given(policies(least=1))
def test_law_3_a_default_beyond_the_bounds_is_clipped_and_that_is_recorded(
        chosen: list[LoadedPolicy]) -> None:
    granted = _grants({}, chosen)
    assert granted is not None
    for control_id, found in granted.items():
        control = found.control
        defaults = [said.value for p in chosen for said in p.defaults.get(control_id, ())]
        bounds = [said.value for p in chosen for said in p.bounds.get(control_id, ())]
        wanted, bound = control.loosest, control.loosest
        for value in defaults:
            wanted = control.meet(wanted, value)
        for value in bounds:
            bound = control.meet(bound, value)
        assert bool(found.clipped_from) == (bool(defaults) and not control.at_most(wanted, bound))


_HOSTS = st.builds(
    lambda abi, lacking, groups: facts(landlock_abi=abi, supplementary_groups=groups,
                                       **dict.fromkeys(lacking, NO)),
    st.integers(0, 7),
    st.frozensets(st.sampled_from(["newuidmap", "proc_mount", "seccomp", "keyring", "landlock",
                                   "network_namespace", "user_namespaces", "proc_subset"])),
    st.sampled_from([(), (27, 100)]))


def _can_run(chosen: list[LoadedPolicy], host: HostFacts) -> bool:
    """Whether a host has a tier that the policies accept, whatever is degraded in it."""
    granted = _grants({}, chosen)
    assert granted is not None
    return host.namespaces or (host.landlock_tier and granted["min_tier"].value == "landlock")


@THOROUGHLY
@given(policies(least=1), _HOSTS)
def test_law_4_every_control_is_enforced_replaced_or_degraded_with_a_reason(
        chosen: list[LoadedPolicy], host: Any) -> None:
    if not _can_run(chosen, host):
        with pytest.raises(HostUnsupported, match="min_tier: "):
            decide(workload(), chosen, host)
        return
    decision = decide(workload(), chosen, host)
    assert [c.control for c in decision.controls] == [c.id for c in CONTROLS]
    for decided in decision.controls:
        enforcement = decided.enforcement
        assert enforcement.kind in ("enforced", "replaced", "degraded")
        assert enforcement.by or enforcement.kind == "degraded"
        assert enforcement.because or enforcement.kind == "enforced"


@THOROUGHLY
@given(policies(least=1), _HOSTS)
def test_law_4_a_policy_can_forbid_every_degradation(
        chosen: list[LoadedPolicy], host: Any) -> None:
    if not _can_run(chosen, host):
        return
    strict = policy("strict", {"min_tier": "landlock"},
                    host=dict.fromkeys(BY_ID, ("refuse", "strict.yaml:1")))
    lacking = {c.control for c in decide(workload(), chosen, host).controls
               if c.enforcement.kind == "degraded"}
    if lacking:
        with pytest.raises(HostUnsupported) as caught:
            decide(workload(), [*chosen, strict], host)
        assert caught.value.fact
        assert lacking <= set(caught.value.controls)
    else:
        decide(workload(), [*chosen, strict], host)


@THOROUGHLY
@given(policies(least=1), st.randoms(use_true_random=False))
def test_law_5_the_same_inputs_give_the_same_digest(
        chosen: list[LoadedPolicy], shuffler: random.Random) -> None:
    shuffled = list(chosen)
    shuffler.shuffle(shuffled)
    one, other = (decide(workload(), given, facts()) for given in (chosen, shuffled))
    assert one.digest == other.digest
    assert one.to_json() == other.to_json()
    assert Decision.from_json(one.to_json()) == one
    for decided in one.controls:
        control = BY_ID[decided.control]
        assert control.dump(one.posture[control]) == plain(decided.value)


@THOROUGHLY
@given(policies(least=1, most=1), policies(least=1, most=1))
def test_law_6_diff_answers_by_the_same_order(
        a: list[LoadedPolicy], b: list[LoadedPolicy]) -> None:
    mirrored = {"stricter": "looser", "looser": "stricter"}
    for there, back in zip(diff(a, b), diff(b, a), strict=True):
        assert back.relation == mirrored.get(there.relation, there.relation)
    assert all(d.relation == "equal" for d in diff(a, a))
    assert all(d.relation in ("stricter", "equal") for d in diff([*a, *b], b))


@THOROUGHLY
@given(requests)
def test_law_7_without_a_policy_a_request_is_granted_as_it_is(asked: dict[str, Asked]) -> None:
    granted = _grants(asked, [])
    assert granted is not None
    for control in CONTROLS:
        if control.id not in asked:
            assert granted[control.id].value == control.loosest
        elif control.id != "environment":  # --env adds to what is harmless
            assert granted[control.id].value == asked[control.id].value

