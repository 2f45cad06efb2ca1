"""A host for each cause that doctor tells, as an ordinary user makes it; where it can't be: why.

What is changed is real: mounts and sysctls in namespaces of the test's own, limits, ids, and calls
that a kernel without something answers as it would (tests.fake_kernel).
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from hardrun.host.probe import EXECUTOR
from tests.fake_kernel import FakeKernel
from tests.sandbox.hosts import ROOT, UNSHARE_ROOT

# Root of a namespace that has all of the user's ids, as in a rootless container.
WITH_IDS = ("unshare", "--user", "--map-root-user", "--map-auto", "--mount")


class Scene(NamedTuple):
    """``change`` makes a fault that ``fact`` tells of by ``cause``; ``before`` alone makes none.

    Both are lines of a script that is started through ``around`` and ends by starting hardrun
    through ``prefix``. ``fact`` is a field of doctor's document or of its places; without one the
    report of a run tells. ``repair`` undoes the change. ``others``: hardrun runs as a user who
    can only enter what everybody can.
    """

    cause: str
    fact: str
    change: str = ""
    around: tuple[str, ...] = UNSHARE_ROOT
    before: str = ""
    prefix: str = ""
    environment: Mapping[str, str | None] = MappingProxyType({})
    kernel: FakeKernel | None = None
    repair: str = ""
    others: bool = False


# Helpers that this namespace's root owns: those of the host belong to somebody it does not have.
_HELPERS = """set -e
mount -t tmpfs none /mnt
for name in newuidmap newgidmap; do
    cp /usr/bin/$name /mnt/$name
    chmod 4755 /mnt/$name
    mount --bind /mnt/$name /usr/bin/$name
done
for name in subuid subgid; do
    echo root:1:60000 > /mnt/$name
    mount --bind /mnt/$name /etc/$name
done
"""
_NO_HELPER = """set -e
mount -t tmpfs none /mnt
mkdir /mnt/white
mknod /mnt/white/newuidmap c 0 0
mount -t overlay -o lowerdir=/mnt/white:/usr/bin none /usr/bin
"""
_CGROUP = "group=$(awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts)"
# Keys until the kernel takes no more. They are in a session keyring, which ends with the process.
FILL_KEYS = """
import ctypes, os, sys
from hardrun.kernel.seccomp import tables
number = tables.numbers(tables.architecture_of(os.uname().machine))
def call(name, *words):
    return ctypes.CDLL(None).syscall(*(word if isinstance(word, bytes) else ctypes.c_long(word)
                                       for word in (number[name], *words)))
call("keyctl", 1, 0)
count = 0
while call("add_key", b"user", b"hardrun-test-%d" % count, b"x", 1, -3) > 0:
    count += 1
os.execvp(sys.argv[1], sys.argv[1:])
"""


def _without_sys() -> str:
    """bubblewrap with what hardrun needs of this host, and no file system of cgroups."""
    words = ["bwrap", "--unshare-user", "--proc", "/proc", "--dev", "/dev"]
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            words += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
    kept = sorted({"/usr", "/etc", str(ROOT), sys.prefix, sys.base_prefix})
    for path in kept:
        if not any(path.startswith(other + "/") for other in kept):
            words += ["--ro-bind", path, path]
    return shlex.join(words) + ' --bind "$HOME" "$HOME"'


def _helper(cause: str, fact: str, change: str, repair: str = "") -> Scene:
    return Scene(cause, fact, change, WITH_IDS, _HELPERS, repair=repair)


def _faked(cause: str, fact: str, kernel: FakeKernel) -> Scene:
    return Scene(cause, fact, around=(), kernel=kernel)


def _limited(cause: str, limit: str) -> Scene:
    return Scene(cause, "memory_executable", limit, around=())


def _sysctls() -> Iterator[Scene]:
    def used_up(kind: str, cause: str, fact: str) -> Scene:
        file = f"/proc/sys/user/max_{kind}_namespaces"
        return Scene(cause, fact, f"echo 0 > {file}", repair=f"echo 1000 > {file}")

    yield used_up("user", "max-user-namespaces", "user_namespaces")
    for kind, fact in (("net", "network"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")):
        yield used_up(kind, "max-namespaces", f"{fact}_namespace")
    for kind in ("mnt", "pid"):  # without these no sandbox is made at all
        yield used_up(kind, "max-namespaces", "user_namespaces")


# What an ordinary user of a kernel without these can't make: why, and where it is made instead.
ELSEWHERE: Mapping[str, str] = MappingProxyType({
    "apparmor-restricts-userns": "needs AppArmor: tests/vm/test_first_minute.py",
    "apparmor-profile": "needs AppArmor: tests/vm/test_doctor_causes.py",
    "selinux-domain": "needs SELinux: tests/vm/test_doctor_causes.py",
    "selinux-permissive": "needs SELinux: tests/vm/test_doctor_causes.py",
    "unprivileged-userns-clone": "needs Debian's kernel: tests/vm/test_doctor_causes.py",
    "memfd-noexec": "needs the host's root: tests/sandbox/test_host_probe.py",
    "cgroup-not-delegated": "needs controllers of cgroup v2: tests/vm/test_doctor_causes.py",
    "home-in-network": "needs /dev/fuse: tests/vm/test_doctor_causes.py",
})
# As Docker's default profile answers.
DOCKER = FakeKernel(
    errors={**dict.fromkeys(("unshare", "mount", "umount2", "open_tree", "mount_setattr", "keyctl"),
                            errno.EPERM), "clone3": errno.ENOSYS}, user_namespaces=errno.EPERM)
SCENES: Mapping[str, Scene] = MappingProxyType({
    # user namespaces
    "docker's filter": _faked("outer-seccomp", "user_namespaces", DOCKER),
    "no more below a namespace": Scene(
        "userns-used-up", "user_namespaces", "echo 1 > /proc/sys/user/max_user_namespaces",
        prefix="unshare --user --map-root-user --mount"),
    "kernel without user namespaces": _faked(
        "no-user-namespaces", "user_namespaces", FakeKernel(user_namespaces=errno.EINVAL)),
    "chroot": Scene("unmapped-caller", "user_namespaces", "mount --rbind / /mnt",
                    prefix="chroot /mnt"),
    "root without capabilities": Scene(
        "root-without-setfcap", "user_namespaces",
        prefix="setpriv --bounding-set -setfcap --inh-caps -setfcap"),
    "read-only proc": Scene("proc-read-only", "user_namespaces", "mount -o remount,bind,ro /proc",
                            repair="mount -o remount,bind,rw /proc"),
    **{" ".join(scene.change.split()[-1:]): scene for scene in _sysctls()},
    # other namespaces and mounts
    **{f"kernel without {name} namespaces": _faked(
        "no-such-namespace", f"{name}_namespace", FakeKernel(lacking_namespaces=flag))
       for name, flag in (("network", 0x40000000), ("ipc", 0x08000000), ("uts", 0x04000000),
                          ("cgroup", 0x02000000))},
    "Linux 5.11": _faked("kernel-too-old", "mount_namespace", FakeKernel.of("5.11")),
    "Linux 5.4 in a pod": _faked(
        "kernel-too-old", "landlock", FakeKernel.of("5.4")._replace(user_namespaces=errno.EPERM)),
    "WSL 1": _faked("kernel-too-old", "mount_namespace",
                    FakeKernel.of("4.4")._replace(release="4.4.0-22621-Microsoft")),
    "covered proc": Scene("proc-covered", "proc_mount", "mount --bind /dev/null /proc/version",
                          repair="umount /proc/version"),
    "no proc": Scene("no-proc", "", "mount -t tmpfs none /proc"),
    "a kernel that just refuses": _faked(
        "kernel", "mount_namespace", FakeKernel(errors={"pivot_root": errno.EINVAL})),
    # filters and labels
    "kernel without seccomp": _faked("no-seccomp", "seccomp",
                                     FakeKernel(errors={"seccomp": errno.EINVAL})),
    "Landlock switched off": _faked("no-landlock", "landlock", FakeKernel(landlock_abi=0)),
    "Landlock that stops nothing": _faked(
        "landlock-not-enforced", "landlock", FakeKernel(errors={"landlock_restrict_self": 0})),
    "no AppArmor": Scene("no-apparmor", "apparmor", "mount -t tmpfs none /sys/module"),
    "no SELinux": Scene("no-selinux", "selinux", "mount -t tmpfs none /sys/fs"),
    "no key left": Scene(
        "key-quota", "keyring", "cd /", WITH_IDS, others=True, prefix=shlex.join((
            "setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups", sys.executable,
            "-P", "-c", FILL_KEYS))),
    # the executor and the caller's own limits
    "empty executor": Scene("installation", "memory_executable",
                            f": > empty; mount --bind empty {shlex.quote(EXECUTOR)}",
                            repair=f"umount {shlex.quote(EXECUTOR)}"),
    "seven files": _limited("open-files", "ulimit -n 7"),
    "one process": _limited("processes", "ulimit -p 1 2>/dev/null || ulimit -u 1"),
    "files without a byte": _limited("file-size", "ulimit -f 0"),
    "no memory": _faked("memory", "memory_executable",
                        FakeKernel(errors={"memfd_create": errno.ENOMEM})),
    # ids
    "no newuidmap": Scene("no-newuidmap", "newuidmap", _NO_HELPER, WITH_IDS,
                          repair="umount -l /usr/bin"),
    "newuidmap of somebody else": Scene("newuidmap-unprivileged", "newuidmap", around=WITH_IDS),
    "newuidmap without setuid": _helper("newuidmap-unprivileged", "newuidmap",
                                        "chmod 755 /mnt/newuidmap", "chmod 4755 /mnt/newuidmap"),
    "newgidmap that is no program": _helper(
        "newuidmap-unprivileged", "newgidmap", "chmod 644 /mnt/newgidmap",
        "chmod 4755 /mnt/newgidmap"),
    "nosuid": _helper("newuidmap-nosuid", "newuidmap",
                      "mount -o remount,bind,nosuid /usr/bin/newuidmap",
                      "mount -o remount,bind,suid /usr/bin/newuidmap"),
    "newuidmap that others write": _helper("newuidmap-insecure", "newuidmap",
                                           "chmod 4757 /mnt/newuidmap",
                                           "chmod 4755 /mnt/newuidmap"),
    "newuidmap that others own": _helper(
        "newuidmap-insecure", "newuidmap", "chown 5 /mnt/newuidmap; chmod 4755 /mnt/newuidmap",
        "chown 0 /mnt/newuidmap; chmod 4755 /mnt/newuidmap"),
    "a range that is not in the namespace": _helper(
        "newuidmap-refused", "id_ranges", "echo root:4000000000:60000 > /mnt/subuid",
        "echo root:1:60000 > /mnt/subuid"),
    "no new privileges": Scene("no-new-privs", "id_ranges", around=(),
                               prefix="setpriv --no-new-privs"),
    "no range": _helper("no-subordinate-ids", "id_ranges", "echo other:1:60000 > /mnt/subuid",
                        "echo root:1:60000 > /mnt/subuid"),
    "a range that others have": _helper(
        "no-subordinate-ids", "id_ranges", "echo other:1:60000 >> /mnt/subuid",
        "echo root:1:60000 > /mnt/subuid"),
    "one id": Scene("outer-single-id", "id_ranges"),
    # cgroups
    "no cgroup file system": Scene("cgroup-v1", "cgroup", around=(), prefix=_without_sys()),
    "read-only cgroups": Scene(
        "cgroup-read-only", "cgroup", f"{_CGROUP}; mount -o remount,bind,ro $group",
        repair="mount -o remount,bind,rw $group"),
    # files
    # the module is there, not loaded yet, loaded
    "no overlay": Scene(
        "no-overlay", "overlay", "echo 'nodev tmpfs' > list", before="echo 'nodev overlay' > list; "
        "mount --bind list /proc/filesystems\n", repair="echo 'nodev overlay' > list"),
    "no home": Scene("no-home", "home", around=(), environment={"HOME": "/nonexistent"}),
    "no place for plans": Scene("no-cache", "stored plans", around=(),
                                environment={"XDG_CACHE_HOME": "/nonexistent"}),
})
