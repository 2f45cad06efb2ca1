"""Contexts of SELinux, and what is said where it is not."""

from __future__ import annotations

import pytest

from hardrun.kernel import selinux
from hardrun.kernel.selinux import Context, categories, file_type


def test_a_context_has_four_words_the_last_with_colons() -> None:
    context = Context.parse("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023")
    assert context is not None
    assert context.type == "unconfined_t"
    assert context.sensitivity == "s0"
    assert str(context) == "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"


@pytest.mark.parametrize("text", ["", "unconfined", "docker-default (enforce)", "u:r", "u::t"])
def test_another_modules_label_is_no_context(text: str) -> None:
    assert Context.parse(text) is None


@pytest.mark.parametrize("level, count", [
    ("s0-s0:c0.c1023", 1024), ("s0", 0), ("s0:c1,c5", 2), ("s0:c3.c5", 3), ("s0-s15:c1,c3.c4", 3),
    ("", 0),
])
def test_the_categories_are_those_of_the_upper_level(level: str, count: int) -> None:
    assert len(Context("u", "r", "t", level).categories) == count


@pytest.mark.parametrize("text", ["c", "1", "c1,,c2", "c1.x", "c-1"])
def test_what_is_no_list_of_categories_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="category"):
        categories(text)


def test_the_type_of_the_files_follows_container_selinux() -> None:
    assert file_type("container_t") == "container_file_t"
    assert file_type("hardrun_judge_t") == "hardrun_judge_file_t"


def test_without_selinux_nothing_is_claimed() -> None:
    if selinux.enforcing() is not None:  # tests/vm/test_selinux.py
        assert selinux.context_of() is not None
        return
    assert selinux.clearance() == 0
    assert selinux.confining() is None
    own = Context("u", "r", "t_t", "s0")
    assert not selinux.is_valid(own)
    assert selinux.is_permissive(own) is None
    assert selinux.allows(own, "u:object_r:bin_t:s0", "file", ["read"]) is None
    assert selinux.known_types(["container_t"]) == ()
