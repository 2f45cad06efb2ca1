"""Files: reading and writing what was not granted."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Callable
from functools import partial

from .system import Scene, call, expect, first_success


def _content(path: str, directory: int | None = None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


def read_private_key(scene: Scene) -> str:
    return expect(scene.secret, _content(scene.key_file), "~/.ssh/id_ed25519")


def read_shadow(scene: Scene) -> str:
    return f"read {len(_content('/etc/shadow'))} bytes of /etc/shadow"


def write_startup_file(scene: Scene) -> str:
    with open(scene.startup_file, "a", encoding="utf-8") as file:
        file.write("# planted\n")
    return "appended to ~/.bashrc"


def write_system_file(scene: Scene) -> str:
    def create(path: str) -> str:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        os.unlink(path)
        return f"created {path}"

    return first_success(*(partial(create, f"{d}/.hardrun-demo")
                           for d in ("/usr/bin", "/etc", "/usr/local/lib")))


def climb_out(scene: Scene) -> str:
    """Out of the root by .., by /proc/PID/root, and by chroot(2) with a kept directory."""
    def keep_and_chroot() -> str:
        kept = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.makedirs(f"{scene.project}/jail", exist_ok=True)
        call("chroot", os.fsencode(f"{scene.project}/jail"))
        os.fchdir(kept)
        return expect(scene.secret, _content("../" * 40 + scene.key_file[1:]), "~ past chroot")

    ways = ["../" * 40 + scene.key_file[1:], f"/proc/1/root{scene.key_file}",
            f"/proc/self/root{scene.key_file}", f"/proc/1/cwd/{scene.key_file}"]
    return first_success(*(partial(lambda w: expect(scene.secret, _content(w), w), way)
                           for way in ways), keep_and_chroot)


def leftover_descriptors(scene: Scene) -> str:
    """A directory that whoever started us forgot to close."""
    name = os.path.relpath(scene.key_file, os.path.dirname(os.path.dirname(scene.key_file)))
    last: OSError = OSError(9, "no descriptor leads outside")
    for number in range(3, 1024):
        try:
            return expect(scene.secret, _content(name, number), f"{name} by descriptor {number}")
        except OSError as error:
            if error.errno not in (9, 20):  # EBADF, ENOTDIR
                last = error
    raise last


def make_setuid(scene: Scene) -> str:
    """Leave a setuid program where it can be executed from outside."""
    path = os.fsencode(f"{scene.project}/helper")

    def check() -> str:
        mode = os.stat(path).st_mode
        os.unlink(path)
        if not mode & (stat.S_ISUID | stat.S_ISGID):
            raise OSError(1, "the bit was not set")
        return f"made a file of mode {stat.S_IMODE(mode):o}"

    def plain() -> None:
        with open(path, "wb"):
            os.chmod(path, 0o755)

    def chmod() -> str:
        plain()
        os.chmod(path, 0o4755)
        return check()

    def fchmod() -> str:
        plain()
        descriptor = os.open(path, os.O_RDONLY)
        os.fchmod(descriptor, 0o2755)
        return check()

    def fchmodat2() -> str:
        plain()
        call("fchmodat2", -100, path, 0o4755, 0)
        return check()

    def creat() -> str:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o4755))
        return check()

    def mknod() -> str:
        call("mknodat", -100, path, stat.S_IFREG | 0o4755, 0)
        return check()

    def openat2() -> str:
        how = struct.pack("<QQQ", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o4755, 0)
        call("openat2", -100, path, ctypes.c_char_p(how), len(how))
        return check()

    def clean(way: Callable[[], str]) -> str:
        if os.path.exists(path):
            os.unlink(path)
        return way()

    return first_success(*(partial(clean, way)
                           for way in (chmod, fchmod, fchmodat2, creat, mknod, openat2)))


def make_device(scene: Scene) -> str:
    """A device node of the disk, to read below the file system."""
    path = f"{scene.project}/disk"
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(8, 0))
    os.unlink(path)
    return "made a block device"


def read_disk(scene: Scene) -> str:
    names = ("/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/mem")
    return first_success(*(partial(lambda n: f"read {len(_content(n))} bytes of {n}", name)
                           for name in names))


def overwrite_executor(scene: Scene) -> str:
    """CVE-2019-5736: the program that builds the sandbox, written from inside."""
    def by(path: str) -> str:
        os.close(os.open(path, os.O_WRONLY))
        return f"opened {path} for writing"

    def re_entered() -> str:
        script = f"{scene.project}/enter"
        with open(script, "w", encoding="ascii") as file:
            file.write("#!/proc/self/exe\n")
            os.fchmod(file.fileno(), 0o755)
        return by("/proc/1/exe")

    return first_success(partial(by, "/proc/1/exe"), partial(by, f"/proc/{os.getppid()}/exe"),
                         re_entered, partial(by, scene.executor))


def write_kernel_settings(scene: Scene) -> str:
    """Opened only, never written: a program to be run by the kernel, and the magic keys."""
    def writable(path: str) -> str:
        os.close(os.open(path, os.O_WRONLY))
        return f"opened {path} for writing"

    return first_success(*(partial(writable, p) for p in (
        "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
        "/sys/kernel/uevent_helper", "/proc/sys/vm/drop_caches")))


ATTEMPTS: dict[str, Callable[[Scene], str]] = {
    "read-private-key": read_private_key,
    "read-shadow": read_shadow,
    "write-startup-file": write_startup_file,
    "write-system-file": write_system_file,
    "climb-out": climb_out,
    "leftover-descriptors": leftover_descriptors,
    "make-setuid": make_setuid,
    "make-device": make_device,
    "read-disk": read_disk,
    "overwrite-executor": overwrite_executor,
    "write-kernel-settings": write_kernel_settings,
}
