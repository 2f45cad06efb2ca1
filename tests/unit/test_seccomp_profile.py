"""Profiles as documents: what is read as it is, and what is refused with file and line."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from hardrun.errors import PolicyError
from hardrun.kernel.seccomp import actions, profile, rules

SHIPPED = sorted((Path(__file__).parents[2] / "profiles" / "seccomp").glob("*.json"))


def parse(document: object, text: str | None = None) -> profile.Profile:
    return profile.parse(text or json.dumps(document, indent=1), file="p.json", name="p")


def refused(document: object, text: str | None = None) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse(document, text)
    return caught.value


def document(*syscalls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(syscalls), **fields}


def allow(*names: str, **fields: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **fields}


def test_dockers_format_is_read_as_it_is() -> None:
    loaded = parse(
        document(
            allow("read", args=None, comment="", includes={}, excludes={}),
            allow("ptrace", includes={"minKernel": "4.8"}, excludes={"caps": ["CAP_X"]}),
            defaultErrnoRet=1,
            archMap=[{"architecture": "SCMP_ARCH_X86_64",
                      "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                     {"architecture": "SCMP_ARCH_LOONGARCH64", "subArchitectures": None}],
        )
    )  # fmt: skip
    assert loaded.document.compatible_abis("x86_64") == {"i386"}
    assert loaded.document.compatible_abis("aarch64") == frozenset()


def test_dockers_old_format_with_one_name_a_rule_is_read() -> None:
    loaded = parse(
        document({"name": "clone", "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 2080505856, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    )  # fmt: skip
    assert loaded.document.syscalls[0].syscalls == ("clone",)
    assert loaded.document.compatible_abis("x86_64") == {"i386"}


def test_podmans_errno_names_are_read() -> None:
    loaded = parse(
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "defaultErrnoRet": 38,
         "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errno": "EINVAL"}]}
    )  # fmt: skip
    assert loaded.document.default == actions.ENOSYS
    assert loaded.document.syscalls[0].result == actions.fails_with(errno.EINVAL)


def test_kubernetes_format_with_a_log_default_is_read() -> None:
    loaded = parse({"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_ARM"]})
    assert loaded.document.default == actions.LOG


def test_an_errno_value_of_a_rule_is_kept() -> None:
    """youki #2022: a parser that dropped errnoRet made every probe for a new call fail."""
    rule = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    assert parse(document(rule)).document.syscalls[0].result == actions.ENOSYS


def test_an_errno_action_without_a_value_means_eperm() -> None:
    assert parse(document()).document.default == actions.EPERM


def test_filter_flags_are_read() -> None:
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    assert parse(document(flags=flags)).flags == 6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_profile_has_no_warning_and_a_reason_for_every_rule(path: Path) -> None:
    loaded = profile.load(path)
    assert loaded.warnings == ()
    assert all(rule.comment for rule in loaded.document.syscalls)


def test_an_unknown_field_is_an_error_with_line_and_suggestion() -> None:
    error = refused(document(allow("read", excldues={"caps": ["CAP_X"]})))
    assert str(error).startswith("p.json:9: syscalls[0].excldues: unknown field")
    assert error.hint == "did you mean excludes?"


def test_an_unknown_action_is_an_error_with_line_and_suggestion() -> None:
    error = refused(document({"names": ["read"], "action": "SCMP_ACT_ALOW"}))
    assert str(error) == "p.json:8: syscalls[0].action: unknown action 'SCMP_ACT_ALOW'"
    assert error.hint == "did you mean SCMP_ACT_ALLOW?"


def test_an_unknown_call_in_a_rule_that_denies_is_an_error() -> None:
    """flatpak logged and went on: the attack stayed open (SC-08)."""
    error = refused(document({"names": ["mount_setatr"], "action": "SCMP_ACT_ERRNO"}))
    assert "p.json:4: syscalls[0].names: unknown system call 'mount_setatr'" in str(error)
    assert error.hint == "did you mean mount_setattr?"


def test_an_unknown_call_in_a_rule_that_allows_is_a_warning() -> None:
    loaded = parse(document(allow("raed", "read")))
    assert loaded.warnings == (
        "p.json:4: unknown system call 'raed' stays denied; did you mean read?",
    )


def test_calls_of_architectures_without_a_table_are_known() -> None:
    assert parse(document({"names": ["sysmips"], "action": "SCMP_ACT_ERRNO"})).warnings == ()


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"listenerPath": "/run/x"}, "a listener would decide calls"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "unknown action 'SCMP_ACT_NOTIFY'"),
        ({"flags": ["SECCOMP_FILTER_FLAG_X"]}, "unknown flag"),
        ({"architectures": ["SCMP_ARCH_Z80"]}, "unknown architecture"),
        ({"architectures": ["SCMP_ARCH_X86"],
          "archMap": [{"architecture": "SCMP_ARCH_X86"}]}, "given beside archMap"),
        ({"defaultErrnoRet": 1, "defaultErrno": "ENOSYS"}, "ENOSYS is 38, beside it stands 1"),
        ({"defaultErrnoRet": 70000}, "less than or equal to 4095"),
        ({"syscalls": [{"names": ["read"]}]}, "Field required"),
        ({"syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}, "names no system call"),
        ({"syscalls": "read"}, "valid tuple"),
        ({"syscalls": [{"names": ["read"], "name": "write", "action": "SCMP_ACT_LOG"}]},
         "given beside names"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused(fields: dict[str, Any], reason: str) -> None:
    assert reason in str(refused(document() | fields))


@pytest.mark.parametrize(
    "argument, reason",
    [
        ({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}, "less than or equal to 5"),
        ({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}, "greater than or equal to 0"),
        ({"index": 0, "value": 1 << 64, "op": "SCMP_CMP_EQ"}, "less than"),
        ({"index": 0, "value": 0, "op": "SCMP_CMP_IS"}, "unknown operator"),
        ({"index": 1, "value": 0x1_0000_5412, "op": "SCMP_CMP_EQ"}, "reads 32 bits"),
        ({"index": 1, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}, "outside the mask"),
    ],
)
def test_a_comparison_that_could_never_match_is_refused(
    argument: dict[str, Any], reason: str
) -> None:
    error = refused(document(allow("ioctl", args=[argument])))
    assert reason in str(error)
    assert "syscalls[0].args[0]" in str(error)


def test_two_rules_that_allow_all_but_one_value_each_are_warned_about() -> None:
    """SC-09: "not AF_ALG" and "not AF_VSOCK" as two rules allow both."""
    first, second = (
        allow("socket", args=[{"index": 0, "value": family, "op": "SCMP_CMP_NE"}])
        for family in (38, 40)
    )
    (warning,) = parse(document(first, second)).warnings
    assert "together with line 4 allows socket with every value of argument 0" in warning


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "p.json:1: not JSON"),
        ('{"defaultAction":\n "SCMP_ACT_ALLOW",,}', "p.json:2: not JSON"),
        ("[]", "one JSON object"),
        ('{"a": 1,\n"a": 2}', "p.json:2: a: given twice in one object"),
        ("[" * 100_000, "nested too deeply"),
        (" " * ((1 << 20) + 1), "larger than 1 MiB"),
    ],
    ids=["cut short", "comma", "list", "duplicate", "deep", "large"],
)
def test_damaged_json_is_one_line_with_the_place(text: str, reason: str) -> None:
    assert reason in str(refused(None, text))


def test_no_more_is_read_of_a_profile_than_one_may_have() -> None:
    with pytest.raises(PolicyError, match="larger than 1 MiB"):
        profile.load(Path("/dev/zero"))


def test_a_file_that_is_missing_or_not_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="can't be read: No such file"):
        profile.load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="not UTF-8 text"):
        profile.load(tmp_path / "binary.json")


def test_kernel_releases_of_all_kinds_are_read() -> None:
    assert rules.kernel_version("6.18.44-arch1-1") == (6, 18)
    assert rules.kernel_version("4.8") == (4, 8)
    assert rules.kernel_version("unreadable") == (0, 0)
