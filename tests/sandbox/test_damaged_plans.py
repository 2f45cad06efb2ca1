"""The executor under the address and undefined-behaviour sanitizers, fed damaged plans."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from hardrun.plan.format import Artefact, encode, pack

from .raw import operation, operations

MUTATIONS = 100_000
STARTS = 150
SEED = 20261123
ENVIRONMENT = {"PATH": "/usr/bin", "ASAN_OPTIONS": "detect_leaks=0"}


def build(executor: Path, target: str, directory: Path) -> Path:
    """Build a sanitizers' program in a copy of the sources, so that the tree stays as it is."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: the sanitizers' build needs it")
    room = directory / "hardrun"
    shutil.copytree(
        executor.parent, room / "executor", ignore=shutil.ignore_patterns("hardrun-exec*")
    )
    shutil.copytree(executor.parent.parent / "plan", room / "plan")
    subprocess.run(
        ["make", "-s", "-C", str(room / "executor"), "-o", "operations.h", target],
        check=True,
        capture_output=True,
    )
    return room / "executor" / target


def test_no_mutation_of_a_plan_makes_the_decoder_misbehave(executor: Path, tmp_path: Path) -> None:
    harness = build(executor, "hardrun-exec-fuzz", tmp_path)
    (tmp_path / "seed").write_bytes(encode(operations(["true"])))
    result = subprocess.run(
        [str(harness), str(tmp_path / "seed"), str(MUTATIONS), str(SEED)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def damaged(plan: bytes, chance: random.Random) -> bytes:
    """Change some values of operations and set the checksum right, so that many plans do run."""
    data = bytearray(plan)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(40, len(data) - 8)
        data[at : at + 4] = chance.choice(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", chance.randbytes(4)]
        )
    struct.pack_into("<I", data, 32, 0)
    struct.pack_into("<I", data, 32, zlib.crc32(data))
    return bytes(data)


def test_damaged_plans_that_get_through_start_nothing_or_a_sandbox(
    executor: Path, tmp_path: Path
) -> None:
    program = build(executor, "hardrun-exec-sanitize", tmp_path)
    chance = random.Random(SEED)
    plan = encode(operations(["true"], [operation("timeout", 2000)]))
    path = tmp_path / "program"
    for number in range(STARTS):
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755)
        with open(descriptor, "wb") as file:
            file.write(program.read_bytes() + pack(Artefact(damaged(plan, chance), b"{}")))
        result = subprocess.run([str(path)], env=ENVIRONMENT, capture_output=True, timeout=60)
        assert b"Sanitizer" not in result.stderr, (number, result.stderr.decode())
        assert b"runtime error" not in result.stderr, (number, result.stderr.decode())
