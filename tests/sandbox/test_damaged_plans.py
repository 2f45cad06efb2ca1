"""Damaged plans, their checksums right: under the sanitizers, and what is done before a refusal.

The decoder alone is fuzzed in tests/fuzz.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hardrun.plan.format import HEADER, RECORD, Artefact, encode, pack
from hardrun.plan.schema import Operation, Unsafe
from tests.fuzz import decoder

from .raw import NAMESPACES, Program, operation, operations

STARTS, TRACED = 150, 50
SEED = 20261123
# All that the executor may have asked of the kernel when it refuses a plan: itself, whether the
# same is running (a lock on the root directory), its own file copied into memory that nobody can
# write, and one line of text.
HARMLESS = {"execve", "execveat", "exit_group", "arch_prctl", "set_tid_address", "fcntl", "fstat",
            "newfstatat", "open /proc/self/exe", "open /", "close", "mmap", "memfd_create",
            "sendfile", "prctl", "write", "madvise"}
CLONE_VM = 0x100


def damaged(plan: bytes, chance: random.Random) -> bytes:
    """Change some values of operations and set the checksum right, so that many plans do run."""
    data = bytearray(plan)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(40, len(data) - 8)
        data[at : at + 4] = chance.choice(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", chance.randbytes(4)]
        )
    return checked(data)


def checked(data: bytearray) -> bytes:
    """With the checksum that it should have."""
    struct.pack_into("<I", data, 32, 0)
    struct.pack_into("<I", data, 32, zlib.crc32(data))
    return bytes(data)


def test_damaged_plans_that_get_through_start_nothing_or_a_sandbox(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: the sanitizers' build needs it")
    program = decoder.build("hardrun-exec-sanitize", tmp_path)
    chance = random.Random(SEED)
    plan = encode(operations(["true"], [operation("timeout", 2000)]))
    path = tmp_path / "program"
    for number in range(STARTS):
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755)
        with open(descriptor, "wb") as file:
            file.write(program.read_bytes() + pack(Artefact(damaged(plan, chance), b"{}")))
        result = subprocess.run(
            [str(path)], env=decoder.ENVIRONMENT, capture_output=True, timeout=60
        )
        assert b"Sanitizer" not in result.stderr, (number, result.stderr.decode())
        assert b"runtime error" not in result.stderr, (number, result.stderr.decode())


WHOLE = encode(operations(["true"]))
Change = Callable[[bytearray], object]


def header(offset: int, value: int) -> Change:
    """A field of the header changed."""
    return lambda data: struct.pack_into("<I", data, offset, value)


def field(offset: int, form: str, value: int) -> Change:
    """A field of the first operation changed."""
    return lambda data: struct.pack_into(form, data, HEADER.size + offset, value)


def swapped(data: bytearray) -> None:
    """The first two operations exchanged."""
    first, second = HEADER.size, HEADER.size + RECORD.size
    end = second + RECORD.size
    data[first:end] = data[second:end] + data[first:second]


def doubled(data: bytearray) -> None:
    """The second operation put in the place of the third."""
    start = HEADER.size + RECORD.size
    data[start + RECORD.size : start + 2 * RECORD.size] = data[start : start + RECORD.size]


def without(name: str) -> bytes:
    return encode(operations(["true"], without=[name]))


def cloned(flags: int, unsafe: Unsafe = Unsafe(0)) -> bytes:
    return encode(operations(["true"], [operation("clone", flags)]), unsafe)


def more(*extra: Operation) -> bytes:
    return encode(operations(["true"], extra))


def changed(change: Change) -> bytes:
    data = bytearray(WHOLE)
    change(data)
    return checked(data)


NEEDED = sorted(decoder.NEEDED)
REFUSED: Mapping[str, bytes] = {
    "nothing": b"",
    "cut off": WHOLE[:-1],
    "another magic": changed(header(0, 0)),
    "another version": changed(header(8, 99)),
    "another schema": changed(header(28, 99)),
    "another size": changed(header(16, 1 << 30)),
    "too many operations": changed(header(20, 1 << 20)),
    "a larger pool": changed(header(24, 1 << 20)),
    "another checksum": WHOLE[:32] + b"\0\0\0\0" + WHOLE[36:],
    "an unknown operation": changed(field(0, "<H", 9999)),
    "another phase": changed(field(2, "<H", 9)),
    "a reason beyond the pool": changed(field(4, "<I", 1 << 30)),
    "a string beyond the pool": changed(field(8, "<Q", 1 << 40)),
    "a value too many": changed(field(56, "<Q", 1)),
    "another order": changed(swapped),
    "an operation twice": changed(doubled),
    "a shared process": cloned(NAMESPACES | CLONE_VM),
    "a shared user namespace": cloned(NAMESPACES & ~0x10000000),
    "no namespaces, and mounts": cloned(0, Unsafe.NO_NAMESPACES),
    "a group that is not awaited": more(operation("cgroup", "/", "", "/bus", b"", 0, 0, 0)),
    "limits without a group": more(operation("cgroup_limit", "pids.max", "1")),
    "an overlay without a layer": more(operation("root_overlay", "/", 0, 0, 0, 0)),
    "a label not read back": more(operation("set_exec_label", "exec x", "exec")),
    "commands at a gate": more(operation("gate", 3), operation("serve", 4, 1, 0)),
    "commands that nobody starts": more(operation("admit", 3, 4)),
    "commands admitted and alone": more(operation("admit", 3, 4), operation("serve", 5, 1, 0)),
    "commands beside one that is labelled": more(operation("expect_label", "apparmor", "x"),
                                                 operation("serve", 4, 0, 0)),
    **{f"no {name}": without(name) for name in NEEDED},
}


def calls(program: str, log: Path) -> tuple[set[str], subprocess.CompletedProcess[bytes]]:
    """What a program and its children asked of the kernel, with the paths that they opened."""
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(log), program], capture_output=True, timeout=60
    )
    lines = log.read_text(errors="replace").splitlines()
    found = (re.match(r"\d+ +(\w+)\((?:AT_FDCWD, )?(?:\"([^\"]*)\")?", line) for line in lines)
    return {
        f"open {m[2]}" if m[1] in ("open", "openat") else m[1] for m in found if m
    }, done


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")


@pytest.mark.usefixtures("strace")
def test_pl_01_a_refused_plan_has_done_nothing(executor: Path, tmp_path: Path) -> None:
    program, told = Program(executor, tmp_path), set()
    for name, plan in REFUSED.items():
        asked, done = calls(program.write_plan(plan), tmp_path / "log")
        assert done.returncode == 125, (name, done.stderr)
        assert asked <= HARMLESS, (name, asked - HARMLESS)
        told.add(done.stderr.decode())
    source = (executor.parent / "plan.c").read_text(encoding="utf-8")
    problems = set(re.findall(r'"((?:the plan|this is) [^"]+)"', source))
    untried = {p for p in problems if not any(p in line for line in told)}
    assert not untried, "no plan was refused so"


@pytest.mark.usefixtures("strace")
def test_pl_01_a_damaged_plan_that_is_refused_has_done_nothing(
    executor: Path, tmp_path: Path
) -> None:
    program, chance, refused = Program(executor, tmp_path), random.Random(SEED), 0
    for number in range(TRACED):
        asked, done = calls(program.write_plan(damaged(WHOLE, chance)), tmp_path / "log")
        if done.stderr.startswith((b"hardrun: the plan ", b"hardrun: this is not a plan")):
            refused += 1
            assert asked <= HARMLESS, (number, asked - HARMLESS, done.stderr)
    assert refused


@pytest.mark.usefixtures("strace")
def test_a_plan_that_is_carried_out_asks_for_more(executor: Path, tmp_path: Path) -> None:
    """The negative control: strace does see what the others never come to."""
    asked, done = calls(Program(executor, tmp_path).write_plan(WHOLE), tmp_path / "log")
    assert done.returncode == 0, done.stderr
    assert {"clone3", "pivot_root", "seccomp"} <= asked
