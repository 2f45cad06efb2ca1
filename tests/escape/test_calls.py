"""Which names the executor looks up, how, and in what order: as the kernel was asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.escape.calls import Seen, Start, trace, until
from tests.escape.conftest import Careless, Made
from tests.escape.layers import LAYERS
from tests.escape.probe import call, words_of
from tests.escape.sandbox import Sandbox

pytestmark = pytest.mark.sandbox
IN_ROOT = "resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT"
FROM_HOST = "resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_NO_SYMLINKS"
MAKES = {"mkdirat", "symlinkat", "newfstatat"}
BY_DESCRIPTOR = {"move_mount", "open_tree", "mount_setattr"}
NEVER = {"creat", "mkdir", "symlink", "unlink", "rmdir", "rename", "link", "mknod", "chmod",
         "chown", "unlinkat", "renameat", "renameat2", "linkat", "mknodat", "fchmodat", "fchownat",
         "setxattr", "truncate", "umount2", "mount"}
PRIVATE = 'NULL, "/", NULL, MS_PRIVATE, NULL'


def offence(seen: Seen) -> bool:
    """Whether a call would let whoever controls the root decide where it lands."""
    if seen.name in NEVER:
        return (seen.name, seen.arguments) != ("mount", PRIVATE)
    if seen.name == "openat2":
        wanted = FROM_HOST if seen.arguments.startswith("AT_FDCWD") else IN_ROOT
        return wanted not in seen.arguments
    if seen.name in BY_DESCRIPTOR:
        return any(seen.paths)
    if seen.name in MAKES:
        return seen.arguments.startswith("AT_FDCWD") or any("/" in p for p in seen.paths[-1:])
    if seen.name == "openat" and seen.arguments.startswith("AT_FDCWD"):
        return seen.paths[0] != "/" and not seen.paths[0].startswith("/proc/")
    return seen.name == "openat" and "/" in seen.paths[0]


WORDS = words_of([[call("getpid")]])


@pytest.fixture
def made(sandbox: Made, image: Path, tmp_path: Path) -> Sandbox:
    """With a root file system and a grant in it."""
    (tmp_path / "source").mkdir()
    return sandbox(rootfs=str(image), ro=[f"{tmp_path}/source:/vol/deep/down"])


@pytest.fixture
def start(made: Sandbox, tmp_path: Path) -> Start:
    """One whose names can be read to the end."""
    return trace(made.removed(LAYERS["not dumpable"]), WORDS, tmp_path)


def building(start: Start) -> list[Seen]:
    """What PID 1 does until it is in the new root."""
    return until(start.init, "pivot_root")


def test_fs_01_every_name_in_the_root_is_resolved_from_a_descriptor_of_it(start: Start) -> None:
    calls = building(start)
    assert [c for c in calls if offence(c)] == []
    for name in ("openat2", "mkdirat", "symlinkat", "open_tree", "move_mount", "mount"):
        assert [c for c in calls if c.name == name], f"inconclusive: no {name}"


def test_fs_01_an_executor_that_does_otherwise_is_found(
    made: Sandbox, careless: Careless, tmp_path: Path
) -> None:
    calls = building(trace(made.by(careless("follows links")), WORDS, tmp_path))
    assert {c.name for c in calls if offence(c)} >= {"openat2", "move_mount"}


def test_pr_06_proc_is_written_before_anything_of_somebody_else_is_mounted(
    made: Sandbox, tmp_path: Path
) -> None:
    """CVE-2019-16884, CVE-2025-52881: what is /proc then is the host's, and is asked whether it
    is."""
    calls = trace(made, WORDS, tmp_path).init
    written = [i for i, c in enumerate(calls) if c.name == "openat" and "O_WRONLY" in c.arguments
               and c.arguments.startswith('AT_FDCWD, "/proc/')]
    paths = [calls[i].paths[0] for i in written]
    assert {"/proc/self/uid_map", "/proc/self/setgroups", "/proc/self/gid_map"} <= set(paths)
    assert "/proc/sys/user/max_user_namespaces" in paths
    for i in written:
        assert "O_NOFOLLOW" in calls[i].arguments
        asked = next(c for c in calls[i:] if c.name in ("fstatfs", "write"))
        assert (asked.name, "PROC_SUPER_MAGIC" in asked.arguments) == ("fstatfs", True)
    mounting = min(i for i, c in enumerate(calls) if c.name in ("open_tree", "fsopen"))
    hiding = next(i for i, c in enumerate(calls) if c.name == "prctl"
                  and c.arguments.startswith("PR_SET_DUMPABLE, SUID_DUMP_DISABLE"))
    assert max(written) < mounting < hiding


def test_cve_2019_14271_fd_07_nothing_of_the_new_root_is_loaded(start: Start) -> None:
    """Behind pivot_root: Landlock's rules by descriptors, the null device, the working directory
    and the command."""
    calls = [*start.init[len(building(start)):], *until(start.workload, "execve")]
    opened = {c.paths[0] for c in calls if c.name in ("openat", "execve", "chdir")}
    assert opened <= {"/", "/dev/null", "/tmp", "/probe"}
    assert "/probe" in opened
    looked_up = [c for c in calls if c.name == "openat2"]
    assert looked_up
    assert all(IN_ROOT in c.arguments for c in looked_up)
    assert not [c for c in calls if c.name != "openat2" and any("/proc" in p for p in c.paths)]


def test_fd_03_descriptors_are_closed_last_but_the_filter(start: Start) -> None:
    calls = until(start.workload, "execve")
    last = max(i for i, c in enumerate(calls) if c.name == "close_range")
    assert calls[last].arguments == "3, 4294967295, 0"
    assert [c.name for c in calls[last + 1:]] == ["seccomp", "execve"]
    # Everything that the executor opens goes with the exec as well.
    opened = [c for c in (*start.parent, *start.init)
              if c.name in ("openat", "openat2", "open_tree", "socketpair") and c.value != "-1"]
    assert {c.name for c in opened} >= {"openat", "openat2", "open_tree", "socketpair"}
    assert [c for c in opened if "CLOEXEC" not in c.arguments] == []
