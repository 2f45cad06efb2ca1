"""A plan as text: symbolic names, reasons, and nothing that a damaged file could do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hardrun.cli.plan import command
from hardrun.errors import PlanError
from hardrun.plan.format import Artefact, Plan, encode, pack
from hardrun.plan.schema import Operation, Unsafe
from hardrun.plan.show import read_plan, show
from tests.planning import plan


def lines_of(*operations: Operation) -> str:
    return "\n".join(show(Plan(operations)))


def test_flags_are_shown_by_the_names_of_the_kernel() -> None:
    text = "\n".join(show(Plan(plan().operations)))
    for word in ("CLONE_NEWUSER|", "MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID", "RLIMIT_NPROC",
                 "READ_FILE", "SECBIT_NOROOT|", "RELAY", "rdev=1:3", "mode=01777", "S_IFDIR uid 0"):
        assert word in text


def test_bits_without_a_name_are_shown_as_numbers() -> None:
    assert "CLONE_NEWNS|0x1" in lines_of(Operation("clone", (0x20001,)))
    assert "resource=99" in lines_of(Operation("set_limit", (99, 1, 2**63 - 1)))
    assert "RLIM_INFINITY" in lines_of(Operation("set_limit", (1, 1, 2**63 - 1)))


def test_each_process_has_its_heading_and_each_operation_its_reason() -> None:
    text = lines_of(Operation("clone", (0,), "network, untrusted.yaml:10"),
                    Operation("make_private", ()))
    assert text.splitlines()[0].startswith("-- launch")
    assert text.splitlines()[1].endswith("# network, untrusted.yaml:10")
    assert text.splitlines()[2].startswith("-- init")


def test_what_is_left_out_on_purpose_comes_first() -> None:
    assert next(show(Plan((), Unsafe.NO_SECCOMP | Unsafe.NO_SESSION))).endswith(
        "NO_SECCOMP|NO_SESSION")


@pytest.mark.parametrize("wrap", [
    lambda data: data,
    lambda data: pack(Artefact(data, b"{}", ("hardrun", "run"))),
    lambda data: b"\x7fELF program" + pack(Artefact(data)),
], ids=["plan", "artefact", "program"])
def test_a_plan_is_found_in_all_that_holds_one(tmp_path: Path, wrap: object) -> None:
    file = tmp_path / "file"
    file.write_bytes(wrap(encode([Operation("clone", (0,))])))  # type: ignore[operator]
    assert read_plan(str(file)).operations[0].name == "clone"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"HRPLAN\r\n", b"HRIMAGE\n" * 9])
def test_a_file_without_a_plan_is_one_line_with_its_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(PlanError) as caught:
        read_plan(str(file))
    assert caught.value.message.startswith(f"{file}: ")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 125


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        read_plan(str(tmp_path / "none"))


def test_names_in_a_plan_steer_no_terminal(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(encode([Operation("set_hostname", ("\x1b]0;owned\x07\u202e",), "\x1b[2J")]))
    result = CliRunner().invoke(command, ["show", str(file)])
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
    assert "owned" in result.output


def test_a_plan_is_read_from_standard_input() -> None:
    import subprocess
    import sys

    script = "from hardrun.plan.show import read_plan; print(read_plan('-').operations[0].name)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True,
                            input=encode([Operation("clone", (0,))]))
    assert result.stdout == b"clone\n"
