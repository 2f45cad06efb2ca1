"""What people see: one line and a hint, and nothing that steers a terminal."""

from __future__ import annotations

import os

import pytest

from hardrun.cli.render import error_lines, printable, table
from hardrun.errors import BadInput, CommandNotFound, PolicyRefused


@pytest.mark.parametrize("text, shown", [
    ("plain text, ünïcode ✓", "plain text, ünïcode ✓"),
    ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
    ("\x9b31m", "\\x9b31m"),
    ("\u202egnp.exe", "\\u202egnp.exe"),
    ("\U000e0001", "\\U000e0001"),
    (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
    ("", ""),
])
def test_untrusted_text_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_error_is_one_line_and_a_hint() -> None:
    error = BadInput("--ro /x: No such file", hint="name a path\nthat exists")
    assert error_lines(error) == ["hardrun: --ro /x: No such file",
                                  "  hint: name a path; that exists"]


def test_an_error_without_a_hint_is_one_line() -> None:
    assert error_lines(CommandNotFound("x\x1b[2J: not found")) == ["hardrun: x\\x1b[2J: not found"]


@pytest.mark.parametrize("message", ["limits.memory: 2 GiB", "refused: limits.memory: 2 GiB"])
def test_a_refusal_says_so_once(message: str) -> None:
    assert error_lines(PolicyRefused(message)) == ["hardrun: refused: limits.memory: 2 GiB"]


def test_columns_are_of_equal_width_and_the_last_is_free() -> None:
    assert table(("a", "bbb", "c"), [("1", "2", "3" * 99), ("\x1b", "", "")]) == [
        "a     bbb  c", "1     2    " + "3" * 99, "\\x1b"]
