"""What a process that waits for its command has done before it comes.

Of a sandbox for a single command the process that becomes it is forked ahead. Its limits and its
filter, which take longest, can come ahead as well, if they leave it what it still has to do. For
any other filter they come last, as at every start.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache

from hardrun.kernel.seccomp.simulate import always_allowed, decode
from hardrun.kernel.seccomp.tables import ABIS, architecture_of, numbers
from hardrun.plan.schema import Operation
from hardrun.plan.uapi import Resource

LEFT = (
    "recvmsg", "getsockopt", "fstat", "newfstatat", "fstatfs", "fcntl", "poll", "ppoll", "sendto",
    "sendmsg", "close", "dup2", "dup3", "chdir", "getcwd", "close_range", "execve", "exit_group")
"""Every call between the filter and the command; of two that stand for each other, both."""
_DESCRIPTORS = 16  # that it may hold until the command is executed


def is_possible(operations: Collection[Operation]) -> bool:
    """Whether the limits and filters of a plan let their process wait, and then go on.

    Under a label it has to ask PID 1 to trace it, which no filter of a workload's is to allow.
    """
    if any(operation.name == "expect_label" for operation in operations):
        return False
    return all(_lets_go_on(operation.values[0]) if operation.name == "load_seccomp" else
               operation.name != "set_limit" or operation.values[0] != Resource.RLIMIT_NOFILE
               or int(operation.values[1]) >= _DESCRIPTORS
               for operation in operations)


@lru_cache(maxsize=16)
def _lets_go_on(program: int | str | bytes) -> bool:
    """Whether a filter allows each of these calls, whatever its arguments are."""
    assert isinstance(program, bytes)
    abi = ABIS[architecture_of(os.uname().machine)]
    code, known = decode(program, big_endian=abi.big_endian), numbers(abi.name)
    return all(always_allowed(code, abi.audit, known[name]) for name in LEFT if name in known)
