"""The trial is taken apart as far as it fails, and no further."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from hardrun.host import trial
from hardrun.host.attempt import Failure
from hardrun.plan.format import decode, encode
from hardrun.plan.schema import BY_NAME, Operation, Unsafe

ALL = sum(trial.OPTIONAL_NAMESPACES.values())


def host(refuses: Callable[[Operation], bool], number: int = errno.EPERM) -> trial.Try:
    """A kernel that refuses some operations, in the order in which the executor performs them."""
    def attempt(operations: list[Operation]) -> Failure | None:
        plan = sorted(operations, key=lambda o: (BY_NAME[o.name].phase, BY_NAME[o.name].rank))
        return next((Failure(o.name, number) for o in plan if refuses(o)), None)
    return attempt


def failures(refuses: Callable[[Operation], bool]) -> set[str]:
    attempt = host(refuses)
    first = attempt(trial.everything())
    return set(trial.explore(attempt, first, landlock=True))


def test_where_nothing_is_refused_one_attempt_is_enough() -> None:
    def never(operations: list[Operation]) -> Failure | None:
        raise AssertionError("a second attempt")

    assert trial.explore(never, None, landlock=True) == {}


@pytest.mark.parametrize("name", ["join_session_keyring", "write_sysctl", "join_network",
                                  "set_hostname", "mount_devpts", "load_seccomp"])
def test_what_is_optional_hides_nothing_else(name: str) -> None:
    assert failures(lambda o: o.name == name) == {name}


def test_several_missing_things_are_all_found() -> None:
    missing = {"join_session_keyring", "mount_devpts", "landlock_ruleset", "load_seccomp"}
    assert failures(lambda o: o.name in missing) == missing


def test_a_proc_without_subset_is_still_a_proc() -> None:
    assert failures(lambda o: o.name == "mount_proc" and o.values[1] == 1) == {"proc_subset"}


def test_a_proc_that_can_not_be_mounted_at_all_is_both() -> None:
    assert failures(lambda o: o.name == "mount_proc") == {"proc_subset", "mount_proc"}


@pytest.mark.parametrize("name", ["write_id_map", "make_private", "root_tmpfs", "pivot_root"])
def test_filters_are_tried_apart_when_the_sandbox_can_not_be_built(name: str) -> None:
    assert failures(lambda o: o.name == name) == {name}
    assert failures(lambda o: o.name in (name, "load_seccomp")) == {name, "load_seccomp"}


def test_a_clone_that_fails_for_one_namespace_names_it() -> None:
    network = trial.OPTIONAL_NAMESPACES["network namespace"]
    found = failures(lambda o: o.name == "clone" and bool(int(o.values[0]) & network))
    assert found == {"network namespace"}


def test_a_clone_that_always_fails_ends_the_trial() -> None:
    # not even into no namespace at all: then the filters could not be tried either
    assert failures(lambda o: o.name == "clone") == {
        "clone", "landlock_ruleset", "landlock_path", "landlock_restrict", "load_seccomp"}


def test_without_namespaces_the_filters_are_tried_by_themselves() -> None:
    def no_namespaces(operation: Operation) -> bool:
        return operation.name == "clone" and operation.values != (0,)

    assert failures(no_namespaces) == {"clone"}
    assert failures(lambda o: no_namespaces(o) or o.name == "load_seccomp") == {
        "clone", "load_seccomp"}
    assert failures(lambda o: no_namespaces(o) or o.name == "landlock_restrict") == {
        "clone", "landlock_restrict"}


def test_a_clone_that_fails_now_and_then_does_not_go_on_for_ever() -> None:
    answers = iter([Failure("clone", errno.EAGAIN), *[None] * 6])
    found = trial.explore(lambda operations: next(answers), next(answers), landlock=True)
    assert set(found) == {"clone"}


def test_every_trial_is_a_plan_that_can_be_encoded() -> None:
    for operations in (trial.everything(), trial.everything(landlock=False),
                       trial.id_range("/usr/bin/newuidmap", "/usr/bin/newgidmap", (1, 2), (3, 4))):
        assert len(decode(encode(operations, Unsafe(1))).operations) == len(operations)


def test_the_range_is_written_as_newuidmap_takes_it() -> None:
    operations = trial.id_range("/u", "/g", (1000, 100), (100000, 200000))
    maps = [o.values for o in operations if o.name == "write_id_map_helper"]
    assert maps == [("/u", b"0\x001000\x001\x001\x00100000\x001\x00"),
                    ("/g", b"0\x00100\x001\x001\x00200000\x001\x00")]
