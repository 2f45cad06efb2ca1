"""The kernel: more of it than a program needs, in order to find a way through it."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from functools import partial

from .system import Scene, call, expect, first_success, libc

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
KEYCTL_READ = 11
BPF_MAP_CREATE, BPF_MAP_TYPE_ARRAY = 0, 2
PERF_TYPE_SOFTWARE = 1
UFFD_USER_MODE_ONLY = 1


def user_namespace(scene: Scene) -> str:
    """All capabilities over a part of the kernel that few ever looked at."""
    def by_unshare() -> str:
        call("unshare", CLONE_NEWUSER)
        return "made a user namespace"

    def by_clone3() -> str:
        arguments = struct.pack("<8Q", CLONE_NEWUSER, 0, 0, 0, 17, 0, 0, 0)
        pid = call("clone3", ctypes.c_char_p(arguments), len(arguments))
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return "made a user namespace by clone3"

    return first_success(by_unshare, by_clone3)


def mount(scene: Scene) -> str:
    def classic() -> str:
        call("mount", b"none", os.fsencode(scene.project), b"tmpfs", 0, None)
        return "mounted a tmpfs"

    def in_namespaces() -> str:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        return classic() + " in namespaces of its own"

    def by_fsopen() -> str:
        os.close(call("fsopen", b"tmpfs", 0))
        return "opened a file system context"

    return first_success(classic, in_namespaces, by_fsopen)


def load_bpf(scene: Scene) -> str:
    attributes = struct.pack("<4I", BPF_MAP_TYPE_ARRAY, 4, 4, 1) + bytes(104)
    os.close(call("bpf", BPF_MAP_CREATE, ctypes.c_char_p(attributes), len(attributes)))
    return "made a BPF map"


def perf_event(scene: Scene) -> str:
    """Counters of one's own process, user mode only: the least that can be asked for."""
    attributes = struct.pack("<IIQQQQQ", PERF_TYPE_SOFTWARE, 112, 0, 0, 0, 0, 0x61) + bytes(64)
    os.close(call("perf_event_open", ctypes.c_char_p(attributes), 0, -1, -1, 0))
    return "opened a performance counter"


def userfaultfd(scene: Scene) -> str:
    os.close(call("userfaultfd", UFFD_USER_MODE_ONLY))
    return "opened a userfaultfd"


def io_uring(scene: Scene) -> str:
    parameters = ctypes.create_string_buffer(120)
    os.close(call("io_uring_setup", 4, parameters))
    return "made an io_uring"


def read_keyring(scene: Scene) -> str:
    buffer = ctypes.create_string_buffer(256)
    call("keyctl", KEYCTL_READ, scene.keyring_key, buffer, 256, 0)
    return expect(scene.secret, buffer.raw, "a key of the user's keyring")


def kernel_log(scene: Scene) -> str:
    buffer = ctypes.create_string_buffer(4096)

    def by_syslog() -> str:
        return f"read {call('syslog', 3, buffer, 4096)} bytes of the kernel log"

    def by_device() -> str:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
        return "opened /dev/kmsg"

    return first_success(by_syslog, by_device)


def _machine_code(code: bytes) -> int:
    """Run a few instructions and return what they leave in the accumulator."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def foreign_calls(scene: Scene) -> str:
    """System calls of another ABI, which a filter for one architecture does not see."""
    if os.uname().machine != "x86_64":
        raise OSError(38, "this machine has one ABI only")

    def x32() -> str:
        ctypes.set_errno(0)
        if libc.syscall(ctypes.c_long(0x40000000 | 39)) < 0:  # getpid
            raise OSError(ctypes.get_errno(), "x32: " + os.strerror(ctypes.get_errno()))
        return "made an x32 system call"

    def int80() -> str:
        # push rbx; mov eax, 20 (getpid of i386); int 0x80; pop rbx; ret
        result = _machine_code(b"\x53\xb8\x14\0\0\0\xcd\x80\x5b\xc3")
        if result <= 0:
            raise OSError(-result, "int 0x80: " + os.strerror(-result))
        return "made an i386 system call"

    return first_success(x32, int80)


def kernel_devices(scene: Scene) -> str:
    """Drivers that anybody may open on many hosts."""
    return first_success(*(partial(_open_device, p)
                           for p in ("/dev/net/tun", "/dev/kvm", "/dev/fuse")))


def _open_device(path: str) -> str:
    os.close(os.open(path, os.O_RDWR))
    return f"opened {path}"


ATTEMPTS: dict[str, Callable[[Scene], str]] = {
    "user-namespace": user_namespace,
    "mount": mount,
    "load-bpf": load_bpf,
    "perf-event": perf_event,
    "userfaultfd": userfaultfd,
    "io-uring": io_uring,
    "read-keyring": read_keyring,
    "kernel-log": kernel_log,
    "foreign-calls": foreign_calls,
    "kernel-devices": kernel_devices,
}
