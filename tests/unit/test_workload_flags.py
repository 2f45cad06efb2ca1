"""Option values become a Workload, or one line that says what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hardrun.errors import BadInput, HardrunError
from hardrun.workload.flags import from_flags, split_destination
from hardrun.workload.model import Mount
from hardrun.workload.units import parse_user
from tests.planning import workload


def test_a_grant_lies_at_its_own_path_unless_a_destination_is_given(tmp_path: Path) -> None:
    asked = workload(ro=[str(tmp_path)], rw=[f"{tmp_path}:/work"])
    assert [(m.access, m.source, m.destination) for m in asked.mounts] == [
        ("ro", str(tmp_path), str(tmp_path)), ("rw", str(tmp_path), "/work")]


def test_relative_paths_start_at_the_callers_directory_and_sources_are_resolved(
        tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    asked = workload(caller_directory=str(tmp_path), ro=["link"], workdir="real/../real")
    assert asked.mounts[0].source == str(tmp_path / "real")
    assert asked.mounts[0].destination == str(tmp_path / "link")
    assert asked.working_directory == str(tmp_path / "real")


@pytest.mark.parametrize("text, expected", [
    ("/a", ("/a", None)),
    ("/a:/b", ("/a", "/b")),
    (r"/a\:b", ("/a:b", None)),
    (r"/a\:b:/c\:d", ("/a:b", "/c:d")),
    ("/a:/b:/c", ("/a", "/b:/c")),
])
def test_an_escaped_colon_belongs_to_the_name(text: str,
                                              expected: tuple[str, str | None]) -> None:
    assert split_destination(text) == expected


@pytest.mark.parametrize("options, words", [
    ({"ro": ["/no/such/path"]}, ["--ro", "/no/such/path", "No such file"]),
    ({"rw": ["/usr:relative"]}, ["--rw", "relative", "absolute"]),
    ({"ro": [""]}, ["--ro", "empty"]),
    ({"rootfs": "/etc/passwd"}, ["--rootfs", "/etc/passwd", "directory"]),
    ({"rootfs": "/no/such"}, ["--rootfs", "/no/such"]),
    ({"tmpfs": ["/x:1Q"]}, ["--tmpfs", "1Q", "size"]),
    ({"limits": {"memory": "lots"}}, ["--memory", "lots"]),
    ({"limits": {"memory": "0"}}, ["--memory", "0"]),
    ({"limits": {"timeout": "10"}}, ["--timeout", "10"]),
    ({"limits": {"output": "-1"}}, ["--output-limit", "-1"]),
    ({"limits": {"nonsense": "1"}}, ["nonsense"]),
    ({"network": "bridge"}, ["--network", "bridge"]),
    ({"hostname": "a b"}, ["--hostname", "a b"]),
    ({"hostname": "x" * 65}, ["--hostname"]),
    ({"label": ["team"]}, ["--label", "team"]),
    ({"env": ["=x"]}, ["--env", "=x"]),
    ({"env": ["A=\0"]}, ["--env", "NUL"]),
    ({"user": "root"}, ["--user", "root"]),
    ({"toolchain": ["no-such-command-anywhere"]}, ["--toolchain", "no-such-command-anywhere"]),
])
def test_a_wrong_value_is_one_line_with_flag_value_and_hint(options: dict[str, Any],
                                                            words: list[str]) -> None:
    with pytest.raises(HardrunError) as caught:
        workload(search_path="/usr/bin", **options)
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(BadInput, match="no command"):
        from_flags([], caller_directory="/", home="/")


def test_two_grants_can_not_have_one_destination(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="both put something"):
        workload(ro=[str(tmp_path)], rw=[str(tmp_path)])


def test_a_grant_given_twice_counts_once(tmp_path: Path) -> None:
    assert len(workload(ro=[str(tmp_path), str(tmp_path)]).mounts) == 1


@pytest.mark.parametrize("text, expected", [
    ("0", (0, 0)), ("1", (1, 1)), ("1:2", (1, 2)), ("4294967294", (4294967294, 4294967294))])
def test_user_numbers_are_taken_as_they_are(text: str, expected: tuple[int, int]) -> None:
    assert parse_user(text) == expected


@pytest.mark.parametrize("text", [
    "", ":", "1:", ":1", "-1", "+1", " 1", "1 ", "01", "0x1", "1:2:3", "4294967295", "٣", "1e3",
    "1:4294967295", "99999999999999999999", "root:root", "1\n"])
def test_cve_2026_30892_a_user_is_never_guessed(text: str) -> None:
    with pytest.raises(BadInput):
        parse_user(text)


def test_every_request_names_its_control_and_its_flag(tmp_path: Path) -> None:
    asked = workload(ro=[str(tmp_path)], env=["TERM", "A=b"], network="host", user="0:0",
                     terminal=True, limits={"output": "1M", "memory": "2G"})
    requests = {r.control: (r.value, r.origin) for r in asked.requests()}
    assert requests == {
        "environment": (frozenset({"TERM"}), "--env"),
        "filesystem.readable": (frozenset({str(tmp_path)}), "--ro"),
        "ids.user": ("root", "--user"),
        "limits.memory": (2 << 30, "--memory"),
        "limits.output": (1 << 20, "--output-limit"),
        "network": ("host", "--network"),
        "terminal": ("private", "-t"),
    }


def test_the_canonical_form_is_json_and_holds_no_value_of_the_environment() -> None:
    text = json.dumps(workload("true", "\udc80", env=["TOKEN=secret"]).canonical())
    assert "TOKEN" in text
    assert "secret" not in text


def test_the_last_of_two_values_of_a_variable_counts() -> None:
    environment = workload(env=["A=1", "A=2", "B", "B=3", "C=1", "C"]).environment
    assert environment.values == (("A", "2"), ("B", "3"))
    assert environment.inherit == ("C",)


def test_a_size_of_a_tmpfs_is_optional() -> None:
    assert workload(tmpfs=["/a", "/b:1M"]).mounts == (
        Mount(access="tmpfs", source=None, destination="/a", origin="--tmpfs"),
        Mount(access="tmpfs", source=None, destination="/b", size=1 << 20, origin="--tmpfs"))


@pytest.mark.parametrize("options, said", [
    ({"limits": {"cpus": "2"}, "cpuset": "0"}, "--cpus 2 is more than --cpuset 0 has"),
    ({"limits": {"memory": "16M", "stack": "64M"}}, "--stack 64M is more than --memory 16M"),
])
def test_limits_that_contradict_each_other_are_refused(options: dict[str, Any],
                                                       said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        workload(**options)


@pytest.mark.parametrize("name, text", [
    ("swap", "-1"), ("swap", "99999999999999999999"), ("io", "0"), ("io", "fast"), ("io", "-5M"),
    ("pids", "0"), ("memory", "9999999999T"), ("cpus", "0"), ("cpus", "-1")])
def test_zero_negative_and_overflowing_limits_are_refused(name: str, text: str) -> None:
    with pytest.raises(BadInput, match="--"):
        workload(limits={name: text})


@pytest.mark.parametrize("options, said", [
    ({"limits": {"memory": "1"}}, "--memory 1 is too small: nothing runs with less than 1 MiB"),
    ({"limits": {"stack": "64"}}, "--stack 64 is too small"),
    ({"limits": {"io": "1"}}, "--io 1 is too small"),
    ({"tmpfs": ["/x:1"]}, "--tmpfs /x:1 is too small"),
])
def test_a_limit_with_which_nothing_starts_is_refused_as_in_a_policy(options: dict[str, Any],
                                                                     said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)) as refused:
        workload(**options)
    assert refused.value.hint is not None
    assert "is the least" in refused.value.hint


def test_no_swap_at_all_can_be_asked_for() -> None:
    assert workload(limits={"swap": "0"}).limits == {"swap": 0}


def test_cpus_are_asked_for_by_number() -> None:
    [asked] = workload(cpuset="0-2,5").requests()
    assert asked == ("limits.cpuset", frozenset({0, 1, 2, 5}), "--cpuset")
