"""System calls by number, and what the script knows about its surroundings."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)

# name: (x86_64, aarch64); from 424 on the numbers are the same everywhere
_NUMBERS = {
    "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51), "fchmodat2": (452, 452),
    "fsopen": (430, 430), "io_uring_setup": (425, 425), "keyctl": (250, 219), "mknodat": (259, 33),
    "mount": (165, 40), "openat2": (437, 437), "perf_event_open": (298, 241),
    "process_vm_readv": (310, 270), "ptrace": (101, 117), "syslog": (103, 116),
    "unshare": (272, 97), "userfaultfd": (323, 282), "clone3": (435, 435),
    "shmget": (29, 194), "shmat": (30, 196), "shmdt": (67, 197), "shmctl": (31, 195),
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where the canaries are: the things on this host that are none of the script's business."""

    secret: str  # what every canary holds
    key_file: str  # a private key below the user's home
    startup_file: str  # a file of the user's that is executed at log-in
    agent_socket: str  # a Unix socket in the file system
    abstract_socket: str
    tcp_port: int
    victim: int  # pid of a process of the same user
    shared_memory: int  # System V id
    keyring_key: int  # serial number of a key in the user's keyring
    executor: str  # the program that builds sandboxes
    project: str  # the one directory that was granted
    rude: bool  # False: harmless amounts, for the run without a sandbox


def call(name: str, *arguments: object) -> int:
    """A system call; OSError with the kernel's errno when it fails."""
    number = _NUMBERS[name][os.uname().machine == "aarch64"]
    libc.syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def expect(secret: str, data: bytes, what: str) -> str:
    """Evidence that the canary's content was really read."""
    if secret.encode() not in data:
        raise OSError(0, f"{what}: the canary's content is not there")
    return f"read {what}"


def first_success(*ways: Callable[[], str]) -> str:
    """Try every way, return the evidence of the first that works.

    Else the error has the errno of the first way, which is the plain one, and tells of all.
    """
    errors = []
    for way in ways:
        try:
            return way()
        except OSError as error:
            errors.append(error)
    raise OSError(errors[0].errno, "; ".join(map(str, errors)))
