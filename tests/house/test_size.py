"""Budgets: a file or function beyond them has a second thing in it that deserves its own name."""

from __future__ import annotations

import ast
import re
import struct
from pathlib import Path

import pytest

from tests.house.tree import files, relative

PYTHON_LINES, C_LINES, FUNCTION_LINES = 500, 450, 60
EXECUTOR_BYTES, EXECUTOR_LINES = 100 * 1024, 6300
PT_INTERP, PT_DYNAMIC, PT_GNU_STACK, PF_X = 3, 2, 0x6474E551, 1
GENERATED = {"operations.h"}


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _own_c_files() -> list[Path]:
    return [p for p in files(".c", ".h", below="hardrun") if p.name not in GENERATED]


def test_no_file_is_longer_than_one_reader_likes() -> None:
    long = [relative(p) for p in files(".py") if _lines(p) > PYTHON_LINES]
    long += [relative(p) for p in _own_c_files() if _lines(p) > C_LINES]
    assert not long


def test_no_python_function_is_longer_than_a_screen() -> None:
    long = []
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    long.append(f"{relative(path)}:{node.lineno} {node.name}: {length}")
    assert not long


def test_no_c_function_is_longer_than_a_screen() -> None:
    long = []
    for path in _own_c_files():
        start = 0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(r"\w.*\)$|\w.*\) \{$|\w.*,$", line) and not line.startswith("#"):
                start = start or number
            elif line == "}" and start:
                if number - start + 1 > FUNCTION_LINES:
                    long.append(f"{relative(path)}:{start}: {number - start + 1}")
                start = 0
            elif line.endswith(";") and not line.startswith((" ", "\t", "{")):
                start = 0
    assert not long


def test_the_whole_executor_can_be_read_in_an_afternoon() -> None:
    total = sum(_lines(p) for p in _own_c_files()
                if p.parent.name == "executor" and p.name != "fuzz.c")
    assert total <= EXECUTOR_LINES


def test_the_executor_is_small(executor: Path) -> None:
    assert executor.stat().st_size <= EXECUTOR_BYTES


def _program_headers(path: Path) -> dict[int, int]:
    """Type and flags of every program header of a 64-bit little-endian ELF file (elf(5))."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian program"
    offset, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return dict(struct.unpack_from("<II", data, offset + n * size) for n in range(count))


def test_the_executor_loads_nothing_at_run_time(executor: Path) -> None:
    """A dynamic loader would take its files from a sandbox that is half built (CVE-2019-14271)."""
    headers = _program_headers(executor)
    assert PT_INTERP not in headers
    assert PT_DYNAMIC not in headers


def test_the_executors_stack_is_not_executable(executor: Path) -> None:
    assert not _program_headers(executor).get(PT_GNU_STACK, PF_X) & PF_X


def test_the_page_of_limits_names_these_budgets() -> None:
    page = next(files("architecture.md", below="docs"), None)
    if page is None:
        pytest.fail("docs/architecture.md is missing")
    text = page.read_text(encoding="utf-8")
    for number in (PYTHON_LINES, C_LINES, FUNCTION_LINES, EXECUTOR_BYTES // 1024):
        assert re.search(rf"\b{number}\b", text), f"{number} is not in docs/architecture.md"
