"""Plans written by hand, operation by operation, so that the executor is tested on its own."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hardrun.plan.format import Artefact, encode, pack
from hardrun.plan.schema import Operation, Unsafe

NAMESPACES = 0x10000000 | 0x20000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
EVERY_FILE_RIGHT = (1 << 13) - 1  # Landlock ABI 1
READ = 1 | 4 | 8  # execute, read a file, read a directory
ALLOW_ALL = b"\x06\0\0\0\0\0\xff\x7f"  # return SECCOMP_RET_ALLOW


def operation(
    name: str, *values: int | str | bytes, reason: str = "test, test.yaml:1"
) -> Operation:
    return Operation(name, values, reason)


def identity(path: str) -> int:
    """What a bind records of its source: its type and its owner."""
    status = os.stat(path)
    return stat.S_IFMT(status.st_mode) | status.st_uid << 32


def bind(
    source: str, destination: str, *, read_only: bool = False, pinned: bool = False
) -> Operation:
    status = os.stat(source)
    return operation(
        "bind",
        source,
        destination,
        6 | read_only,
        2 | pinned,
        status.st_dev if pinned else 0,
        status.st_ino if pinned else 0,
        identity(source),
    )


def operations(
    argv: Sequence[str], extra: Sequence[Operation] = (), without: Sequence[str] = ()
) -> list[Operation]:
    """A whole sandbox that shows /usr and a writable /tmp and runs ``argv``.

    An operation in ``extra`` replaces one of the same name that may stand only once.
    """
    replaced = {o.name for o in extra} - {"bind", "make_directory", "make_file", "landlock_path"}
    base = [
        operation("join_session_keyring", "hardrun-test"),
        operation("clone", NAMESPACES),
        operation("standard_io", 0, 0, 0),
        operation("write_id_map", 1000, 1000),
        operation("make_private"),
        operation("root_tmpfs", 32 << 20, 4096),
        *(operation("make_directory", d, 0o755) for d in ("/usr", "/proc", "/dev", "/tmp", "/etc")),
        bind("/usr", "/usr", read_only=True),
        *(operation("make_symlink", f"/{d}", f"usr/{d}") for d in ("bin", "lib", "lib64", "sbin")),
        operation("mount_proc", "/proc", 0),
        operation("make_file", "/dev/null", 0o666, b""),
        operation("bind_device", "/dev/null", "/dev/null", os.makedev(1, 3)),
        operation("writable_directory", "/tmp", 6),
        operation("root_attributes", 1),
        operation("pivot_root"),
        operation("drop_bounding", 0),
        operation("set_securebits", 0xEF),
        operation("set_capabilities", 0),
        operation("no_new_privs"),
        operation("not_dumpable"),
        operation("landlock_ruleset", EVERY_FILE_RIGHT, 0, 0),
        *(
            operation("landlock_path", path, rights)
            for path, rights in (
                ("/", 8),
                ("/usr", READ),
                ("/etc", READ),
                ("/proc", 4 | 8 | 2),
                ("/dev", 2 | 4 | 8),
                ("/tmp", EVERY_FILE_RIGHT),
            )
        ),
        operation("landlock_restrict"),
        *(operation("argument", word) for word in argv),
        operation("arguments_of_caller"),
        operation("environment", "PATH=/usr/bin"),
        operation("new_session"),
        operation("set_umask", 0o22),
        operation("change_directory", "/tmp"),
        operation("close_descriptors"),
        operation("load_seccomp", ALLOW_ALL, 0),
        operation("execute", argv[0], "/usr/bin"),
    ]
    return [o for o in base if o.name not in without and o.name not in replaced] + list(extra)


class Program:
    """A compiled program: an executor with a plan behind it."""

    def __init__(self, executor: Path, directory: Path) -> None:
        self.executor = executor.read_bytes()
        self.path = directory / "program"

    def write(
        self,
        argv: Sequence[str],
        extra: Sequence[Operation] = (),
        without: Sequence[str] = (),
        unsafe: Unsafe = Unsafe(0),
        fallback: tuple[str, ...] = (),
    ) -> str:
        """Write the program for these operations and return its path."""
        return self.write_plan(encode(operations(argv, extra, without), unsafe), fallback)

    def write_plan(self, plan: bytes, fallback: tuple[str, ...] = ()) -> str:
        """Write the program for a plan as it is."""
        self.path.unlink(missing_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755)
        with open(descriptor, "wb") as file:
            file.write(self.executor + pack(Artefact(plan, b"{}", fallback)))
        return str(self.path)

    def run(
        self,
        argv: Sequence[str],
        extra: Sequence[Operation] = (),
        without: Sequence[str] = (),
        unsafe: Unsafe = Unsafe(0),
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Write the program, run it to its end and return what it printed."""
        path = self.write(argv, extra, without, unsafe)
        return subprocess.run([path], capture_output=True, timeout=60, **options)


@contextmanager
def reporting(
    program: Program, argv: Sequence[str], extra: Sequence[Operation] = ()
) -> Iterator[Callable[[], dict[str, str]]]:
    """A run whose report comes back: yields a function that runs it and returns the report."""
    read_end, write_end = os.pipe()

    def run() -> dict[str, str]:
        path = program.write(argv, [operation("report", write_end), *extra])
        subprocess.run([path], capture_output=True, timeout=60, pass_fds=[write_end])
        os.set_blocking(read_end, False)
        lines = os.read(read_end, 65536).decode().splitlines()
        return dict(line.split(" ", 1) for line in lines)

    try:
        yield run
    finally:
        os.close(read_end)
        os.close(write_end)
