"""The executor on its own: plans that must not run, and what must still be as it was."""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from hardrun.plan.format import HEADER, RECORD, encode
from hardrun.plan.schema import Operation, Unsafe

from .raw import Program, bind, operation, operations


@pytest.fixture
def program(executor: Path, tmp_path: Path) -> Program:
    return Program(executor, tmp_path)


# -- plans that must not run -----------------------------------------------------------------------


def assert_refused(result: subprocess.CompletedProcess[bytes]) -> str:
    assert result.returncode == 125
    assert result.stdout == b""
    assert result.stderr.startswith(b"hardrun: ")
    assert result.stderr.count(b"\n") == 1
    return result.stderr.decode()


def test_a_truncated_plan_is_refused_wherever_it_is_cut(program: Program) -> None:
    plan = encode(operations(["sh", "-c", "echo RAN"]))
    for size in range(0, len(plan), 211):
        assert_refused(subprocess.run([program.write_plan(plan[:size])], capture_output=True))


def test_a_flipped_bit_is_refused_wherever_it_is(program: Program) -> None:
    plan = encode(operations(["sh", "-c", "echo RAN"]))
    for bit in range(0, len(plan) * 8, 1999):
        damaged = bytearray(plan)
        damaged[bit // 8] ^= 1 << bit % 8
        assert_refused(subprocess.run([program.write_plan(bytes(damaged))], capture_output=True))


def with_checksum(plan: bytearray) -> bytes:
    struct.pack_into("<I", plan, 32, 0)
    struct.pack_into("<I", plan, 32, zlib.crc32(plan))
    return bytes(plan)


def test_operations_out_of_order_are_refused(program: Program) -> None:
    plan = bytearray(encode(operations(["true"])))
    first, second = (
        slice(HEADER.size + n * RECORD.size, HEADER.size + (n + 1) * RECORD.size) for n in (0, 40)
    )
    plan[first], plan[second] = plan[second], plan[first]
    result = subprocess.run([program.write_plan(with_checksum(plan))], capture_output=True)
    assert "out of order" in assert_refused(result)


def test_a_plan_of_another_version_is_refused(program: Program) -> None:
    plan = bytearray(encode(operations(["true"])))
    struct.pack_into("<I", plan, 8, 2)
    result = subprocess.run([program.write_plan(with_checksum(plan))], capture_output=True)
    assert "another version" in assert_refused(result)


@pytest.mark.parametrize(
    "name, bit",
    [
        ("pivot_root", Unsafe.NO_PIVOT_ROOT),
        ("no_new_privs", Unsafe.NO_NEW_PRIVS_OFF),
        ("set_capabilities", Unsafe.KEEPS_CAPABILITIES),
        ("drop_bounding", Unsafe.NO_BOUNDING_DROP),
        ("landlock_restrict", Unsafe.NO_LANDLOCK),
        ("not_dumpable", Unsafe.DUMPABLE_INIT),
        ("new_session", Unsafe.NO_SESSION),
        ("close_descriptors", Unsafe.KEEPS_DESCRIPTORS),
        ("load_seccomp", Unsafe.NO_SECCOMP),
    ],
)
def test_a_plan_without_a_defence_runs_only_when_it_says_so(
    program: Program, name: str, bit: Unsafe
) -> None:
    assert_refused(program.run(["true"], without=[name]))
    if name not in ("pivot_root", "set_capabilities", "no_new_privs"):
        assert program.run(["true"], without=[name], unsafe=bit).returncode == 0


def test_an_executor_without_a_plan_says_so(executor: Path) -> None:
    result = subprocess.run([str(executor)], capture_output=True)
    assert "there is no plan" in assert_refused(result)


# -- what must still be as it was ------------------------------------------------------------------


def stale_requirements(tmp_path: Path) -> list[Operation]:
    (tmp_path / "there").touch()
    return [
        operation("require_path", str(tmp_path / "gone"), 1, 2, 0, 0),
        operation("require_path", str(tmp_path / "there"), 0, 0, 0, 0),
        operation(
            "require_path", str(tmp_path / "there"), *os.stat(tmp_path / "there")[2:0:-1], 5, 5
        ),
        operation("require_kernel", "1.0"),
        operation("require_content", "/proc/sys/kernel/ostype", "Hurd"),
        operation("require_ids", 4_000_000, os.getgid(), b""),
        operation("require_ids", os.getuid(), os.getgid(), struct.pack("<I", 4_000_000)),
        operation("require_hard_limit", 7, 1 << 62),
        operation("require_landlock", 99),
    ]


def test_a_stale_plan_never_runs(program: Program, tmp_path: Path) -> None:
    for requirement in stale_requirements(tmp_path):
        result = program.run(["sh", "-c", "echo RAN"], extra=[requirement])
        assert "the plan is stale, make it again: " in assert_refused(result)


def test_requirements_that_hold_let_the_plan_run(program: Program) -> None:
    groups = b"".join(struct.pack("<I", g) for g in sorted(os.getgroups()))
    status = os.lstat("/usr")
    result = program.run(
        ["true"],
        extra=[
            operation(
                "require_path",
                "/usr",
                status.st_dev,
                status.st_ino,
                status.st_mtime_ns,
                status.st_ctime_ns,
            ),
            operation("require_path", "/nowhere/at/all", 0, 0, 0, 0),
            operation("require_kernel", os.uname().release),
            operation("require_content", "/proc/sys/kernel/ostype", "Linux"),
            operation("require_ids", os.getuid(), os.getgid(), groups),
        ],
    )
    assert result.returncode == 0, result.stderr


def test_a_name_is_made_in_what_was_mounted_over_its_directory(program: Program) -> None:
    """A descriptor of the directory beneath would put it where nobody finds it."""
    result = program.run(["ls", "/place"], extra=[
        operation("make_directory", "/place", 0o755),
        operation("make_file", "/place/covered", 0o644, b""),
        operation("mount_tmpfs", "/place", 65536, 16, 0o755, 6),
        operation("make_file", "/place/found", 0o644, b""),
        operation("landlock_path", "/place", 8),
    ])
    assert result.stdout == b"found\n", result


def test_a_stale_plan_with_a_fallback_hands_over_with_all_arguments(program: Program) -> None:
    path = program.write(
        ["true"],
        [operation("require_landlock", 99)],
        fallback=("/usr/bin/printf", "%s|", "made anew"),
    )
    words = [f"word{n}" for n in range(500)]
    result = subprocess.run([path, *words], capture_output=True, text=True)
    assert result.stdout.split("|")[:-1] == ["made anew", *words]


def test_a_source_swapped_after_the_decision_is_refused(program: Program, tmp_path: Path) -> None:
    """CVE-2024-1753, CVE-2025-9566: the tree that is bound is the one that was decided about."""
    source = tmp_path / "source"
    source.mkdir()
    granted = [
        operation("make_directory", "/tmp/in", 0o755),
        bind(str(source), "/tmp/in", pinned=True),
    ]
    (tmp_path / "other").mkdir()
    for swap in (lambda: (tmp_path / "other").rename(source), lambda: source.symlink_to("/etc")):
        source.rmdir()
        swap()
        result = program.run(["sh", "-c", "echo RAN"], extra=granted)
        assert "bind" in assert_refused(result)


def test_a_mount_point_that_is_a_symlink_stays_inside_the_root(
    program: Program, tmp_path: Path
) -> None:
    """CVE-2021-30465, FS-03: a name of the root file system never leads out of it."""
    rootfs, canary = tmp_path / "rootfs", tmp_path / "canary"
    for directory in ("proc", "usr", "tmp", "etc", "bin"):
        (rootfs / directory).mkdir(parents=True)
    canary.mkdir()
    (rootfs / "dev").symlink_to(os.path.relpath(canary, rootfs / "dev"))
    status = rootfs.stat()
    root = operation("root_bind", str(rootfs), 1, status.st_dev, status.st_ino, status.st_uid)
    result = program.run(["true"], extra=[root], without=["root_tmpfs", "make_symlink"])
    assert_refused(result)
    assert list(canary.iterdir()) == []
