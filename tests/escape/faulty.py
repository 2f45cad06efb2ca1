"""An executor in which one system call of one operation fails: for tests alone.

Its sources are the tree's; the linker leads their calls to wrappers (``--wrap`` of ld(1)) that
write down each call by process and operation and let a chosen one fail without making it. So what
follows a failure is the executor's own code, in the place where the kernel would have failed, with
helpers that are set-user-ID and without a tracer. The shipped executor has nothing of it.

    fault = Fault(tmp_path)
    subprocess.run([program], env=fault.environment)
    for call in fault.calls:                     # every call of every operation
        subprocess.run([program], env=Fault(tmp_path, call, errno.EIO).environment)
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hardrun.kernel.seccomp import tables
from tests.building import copy_sources, make
from tests.escape.careless import edit

VARIABLE = "HARDRUN_FAULT"
HERE = Path(__file__).parent / "faulty"
PROCESSES = ("launcher", "parent", "PID 1", "child")
WRAPPED = (
    "bind", "chdir", "connect", "dup2", "execve", "fchdir", "fchmodat", "fcntl", "fork",
    "fstat", "fstatfs", "getcwd", "getgroups", "getrandom", "getrlimit", "getsockopt", "ioctl",
    "lstat", "mkdir", "mkdirat", "mmap", "open", "openat", "personality", "pipe2", "prctl", "read",
    "recv", "recvmsg", "send", "sendmsg", "sethostname", "setpriority", "setrlimit", "setsid",
    "setsockopt", "sigprocmask", "socket", "socketpair", "symlinkat", "unlinkat", "unshare",
    "write",
)
"""The C library's functions that the executor calls and that make a system call of that name.

Not among them: close and umask, which change nothing by failing (the descriptor is gone whatever
close(2) answers on Linux; umask(2) can't fail), what asks for an id or the time and can't fail
either, and the waits of the parent and of PID 1, which are no part of any operation.
"""
_EDITS = (
    ("launch.c", "\t\tsandbox->current = i;\n",
     "\t\tsandbox->current = i;\n\t\twatch_operation(&sandbox->current);\n"),
    # Both return twice on one stack, which a wrapper's frame would not survive.
    ("init.c", "started = clone(", "started = call_fails(SYS_clone) ? -1 : clone("),
    ("helpers.c", "vfork()", "call_fails(SYS_clone) ? -1 : vfork()"),
)
_LIKE = {"open": "openat", "recv": "recvfrom", "send": "sendto", "sigprocmask": "rt_sigprocmask",
         "fork": "clone"}
_CALL = struct.Struct("=IIiI")
_HEAD = struct.Struct("=iII")
_CALLS = 8192
_SEEN = _CALL.size + _HEAD.size
_SIZE = _SEEN + _CALLS * _CALL.size
_NAMES = tables.names(tables.architecture_of(os.uname().machine))


class Call(NamedTuple):
    """The ``nth`` of these calls, from 1, that a process makes for an operation of the plan."""

    process: int
    operation: int
    name: str
    nth: int
    number: int


def build(executor: Path, directory: Path, careless: Iterable[str] = ()) -> Path:
    """Build it in a copy of the sources; one without some checks, if asked (careless.py)."""
    sources = copy_sources(executor, directory)
    edit(sources, *careless)
    for file, old, new in _EDITS:
        text = (sources / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
        (sources / file).write_text(f'#include "fault.h"\n{text.replace(old, new)}',
                                    encoding="utf-8")
    shutil.copy(HERE / "fault.h", sources)
    wrappers = (f"WRAP({name}, {-i})" for i, name in enumerate(WRAPPED, 1))
    (sources / "fault.c").write_text("\n".join([
        (HERE / "fault.c").read_text(encoding="utf-8"), *wrappers, ""]), encoding="utf-8")
    wrapped = " ".join(f"-Wl,--wrap={name}" for name in ("syscall", *WRAPPED))
    return make(sources, "hardrun-exec", f"LINK=-static -s {wrapped}",
                "CFLAGS=-O0 -Wno-missing-prototypes")


class Fault:
    """A page that a start shares: which call is to fail, and afterwards which calls there were."""

    def __init__(self, directory: Path, call: Call | None = None, error: int = 0) -> None:
        self._path = directory / "fault"
        wanted = (call.process, call.operation, call.number, call.nth) if call else (0, 0, 0, 0)
        with self._path.open("wb") as file:
            file.write(_CALL.pack(*wanted) + _HEAD.pack(error, 0, 0))
            file.truncate(_SIZE)
        self._path.chmod(0o666)  # an executor with other ids of its own has it open by then
        self.environment = {**os.environ, VARIABLE: str(self._path)}

    @property
    def happened(self) -> bool:
        """Whether the call was made, and failed."""
        with self._path.open("rb") as file:
            file.seek(_CALL.size)
            return bool(_HEAD.unpack(file.read(_HEAD.size))[1])

    @property
    def calls(self) -> list[Call]:
        """Every call, by process and operation, in the order in which they were made."""
        data = self._path.read_bytes()
        count = int(_HEAD.unpack_from(data, _CALL.size)[2])
        assert count < _CALLS, "more calls than there is room for"
        found = []
        for process, operation, number, nth in _CALL.iter_unpack(
                data[_SEEN:_SEEN + count * _CALL.size]):
            name = WRAPPED[-number - 1] if number < 0 else _NAMES[number][0]
            found.append(Call(process, operation, _LIKE.get(name, name), nth, number))
        return found
