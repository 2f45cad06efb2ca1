"""What a sandbox must not reach, and a script that tries all of it: for the landlock tier."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hardrun.kernel import landlock

_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
PYTHON = "/usr/bin/python3"
HOSTILE = r"""
import ctypes, fcntl, json, os, resource, signal, socket, struct, sys
asked = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def attempt(name, action):
    try:
        action()
    except OSError as error:
        found[name] = error.errno
    else:
        found[name] = 0
def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")
outside, pid = asked["outside"], asked["victim"]
secret, other = outside + "/secret", outside + "/other"
own, shown = asked["work"] + "/own", asked["shown"] + "/file"
def connect(family, kind, address):
    with socket.socket(family, kind) as connection:
        connection.connect(address)
def datagram():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b"x", asked["datagram"])
attempt("read", lambda: open(secret).read())
attempt("list", lambda: os.listdir(outside))
def watch():
    descriptor = libc.inotify_init1(0o2000000)
    call(libc.inotify_add_watch, descriptor, outside.encode(), 0xfff)
attempt("watch", watch)
attempt("write", lambda: open(secret, "a").close())
attempt("overwrite", lambda: open(secret, "w").close())
attempt("truncate", lambda: os.truncate(other, 0))
attempt("truncate by open", lambda: os.open(other, os.O_RDONLY | os.O_TRUNC))
# Access mode 3 makes a descriptor that neither reads nor writes, for which Landlock has no right.
NEITHER, GET_FLAGS, SET_FLAGS, NODUMP = 3, 0x80086601, 0x40086602, 0x40
group = next((g for g in os.getgroups() if g != os.getgid()), os.getgid())
def change_flags(descriptor):
    flags = struct.unpack("i", fcntl.ioctl(descriptor, GET_FLAGS, bytes(4)))[0]
    fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("i", flags | NODUMP))
def device():
    fcntl.ioctl(os.open("/dev/ptmx", NEITHER | os.O_NOCTTY), 0x80045430, bytes(4))
def open2(flags):
    how = struct.pack("=3Q", flags, 0, 0)
    call(libc.syscall, ctypes.c_long(437), -100, secret.encode(), how, ctypes.c_size_t(len(how)))
attempt("mode 3", lambda: os.open(secret, NEITHER))
attempt("mode 3, truncating", lambda: os.open(other, NEITHER | os.O_TRUNC))
attempt("mode 3, without a name", lambda: os.open(outside, NEITHER | os.O_TMPFILE, 0o600))
attempt("mode 3, ioctl of a device", device)
attempt("mode 3, attribute", lambda: os.setxattr(os.open(secret, NEITHER), "user.a", b""))
attempt("mode 3, group", lambda: os.fchown(os.open(secret, NEITHER), -1, group))
attempt("mode 3, flags", lambda: change_flags(os.open(secret, NEITHER)))
attempt("openat2", lambda: open2(os.O_RDONLY))
attempt("openat2, mode 3", lambda: open2(NEITHER))
def change_flags_by_name():
    how = struct.pack("=QIIIIQ", 0x80, 0, 0, 0, 0, 0)  # FS_XFLAG_NODUMP
    call(libc.syscall, ctypes.c_long(469), -100, secret.encode(), how, ctypes.c_size_t(len(how)), 0)
attempt("flags by name", change_flags_by_name)
attempt("attribute by name", lambda: os.setxattr(secret, "user.b", b""))
# What may be read, and what was opened by the caller, may not be changed either.
for name, descriptor in (("shown", os.open(shown, os.O_RDONLY)), ("handed over", 0)):
    attempt("attribute of what is " + name, lambda: os.setxattr(descriptor, "user.c", b""))
    attempt("group of what is " + name, lambda: os.fchown(descriptor, -1, group))
    attempt("flags of what is " + name, lambda: change_flags(descriptor))
attempt("write what is shown", lambda: open(shown, "a").close())
attempt("truncate what is shown", lambda: os.open(shown, os.O_RDONLY | os.O_TRUNC))
attempt("create beside what is shown", lambda: open(shown + "-new", "w").close())
for name, bit in (("user", 0o4000), ("group", 0o2000)):
    attempt("new set-ID file: " + name, lambda: os.open(own + name, os.O_CREAT, 0o755 | bit))
    attempt("new set-ID node: " + name, lambda: os.mknod(own + name + "-node", 0o100755 | bit))
    attempt("new set-ID file without a name: " + name,
            lambda: os.open(asked["work"], os.O_TMPFILE | os.O_WRONLY, 0o755 | bit))
attempt("create", lambda: open(outside + "/new", "w").close())
attempt("make directory", lambda: os.mkdir(outside + "/directory"))
attempt("rename", lambda: os.rename(other, outside + "/renamed"))
attempt("link in", lambda: os.link(asked["work"] + "/own", outside + "/linked"))
attempt("link out", lambda: os.link(outside + "/linkable", asked["work"] + "/stolen"))
attempt("remove", lambda: os.unlink(outside + "/removable"))
attempt("set-user-ID", lambda: os.chmod(secret, 0o4755))
attempt("writable for all", lambda: os.chmod(secret, 0o666))
attempt("owner", lambda: os.chown(secret, -1, os.getgid()))
attempt("signal", lambda: os.kill(pid, 0))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 0))
attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0)))
attempt("CPUs", lambda: os.sched_setaffinity(pid, os.sched_getaffinity(pid)))
attempt("limit", lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))
for name in ("environ", "maps", "mem", "cmdline"):
    attempt(name, lambda: open(f"/proc/{pid}/{name}").close())
attempt("trace", lambda: call(libc.ptrace, 0x4206, pid, None, None))
attempt("abstract socket", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM,
                                           "\0" + asked["abstract"]))
attempt("socket with a path", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, asked["stream"]))
attempt("datagram to a path", datagram)
attempt("TCP", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", asked["port"])))
attempt("shared memory", lambda: call(libc.shmget, asked["key"], 64, 0o600))
attempt("descriptor", lambda: os.fstat(asked["descriptor"]))
attempt("session", lambda: os.kill(os.getppid(), 0))
found["set"] = [libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0)]
for name in ("a", "b"):
    os.makedirs(asked["work"] + "/" + name, exist_ok=True)
open(asked["work"] + "/a/file", "w").close()
attempt("move", lambda: os.rename(asked["work"] + "/a/file", asked["work"] + "/b/file"))
print(json.dumps(found))
"""
NEWER = {"flags by name": errno.ENOSYS}  # from Linux 6.17
EXPECTED = {  # one's own work, which every ABI but the first allows
    "move": lambda abi: 0 if abi >= 2 else errno.EXDEV,
    # before ABI 6 no domain holds signals back: the Decision says so
    "signal": lambda abi: errno.EPERM if abi >= 6 else 0,
    "session": lambda abi: errno.EPERM if abi >= 6 else 0,
}


class Canary:
    """What a sandbox must not reach: files, a process, sockets, memory, a descriptor."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.outside, self.work, self.shown = (directory / name for name in ("outside", "work",
                                                                             "shown"))
        outside = self.outside
        outside.mkdir(mode=0o700)
        for path in (self.work, self.shown):
            path.mkdir()
        for name in ("secret", "other", "removable", "linkable", "input"):
            (outside / name).write_text("canary")
        (self.shown / "file").write_text("canary")
        (self.work / "own").touch()
        self.before = self.state()
        self.input = stack.enter_context((outside / "input").open(encoding="utf-8"))
        self.victim = stack.enter_context(subprocess.Popen(
            ["sleep", "1000"], env={"SECRET": "canary"}))
        stack.callback(self.victim.kill)
        abstract = f"hardrun-test-{os.getpid()}"
        stream, datagram = str(outside / "stream"), str(outside / "datagram")
        for kind, address in ((socket.SOCK_STREAM, "\0" + abstract), (socket.SOCK_STREAM, stream),
                              (socket.SOCK_DGRAM, datagram)):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(address)
            if kind is socket.SOCK_STREAM:
                listener.listen()
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.key = 0x68720000 + os.getpid() % 65536
        self.descriptor = os.open(outside / "secret", os.O_RDONLY)
        stack.callback(os.close, self.descriptor)
        os.set_inheritable(self.descriptor, True)
        self.asked: dict[str, Any] = {
            "outside": str(outside), "work": str(self.work), "shown": str(self.shown),
            "victim": self.victim.pid, "abstract": abstract, "stream": stream, "datagram": datagram,
            "key": self.key, "port": port.getsockname()[1], "descriptor": self.descriptor}

    def command(self) -> list[str]:
        return [PYTHON, "-c", HOSTILE, json.dumps(self.asked)]

    def grants(self) -> list[str]:
        """What is granted to the command."""
        return ["--rw", str(self.work), "--ro", str(self.shown)]

    def passed(self) -> dict[str, Any]:
        """What ``subprocess`` hands to it."""
        return {"pass_fds": [self.descriptor], "stdin": self.input}

    def state(self) -> dict[str, Any]:
        """All that can be told of the files that the command must not change."""
        files = sorted({*self.outside.iterdir(), *self.shown.iterdir()})
        return {path.name: _state(path) for path in files if not path.is_socket()}


def _state(path: Path) -> tuple[Any, ...]:
    status = path.stat()
    with open(path, encoding="utf-8") as file:
        flags = fcntl.ioctl(file, _GET_FLAGS, bytes(4))
        return file.read(), status.st_mode, status.st_uid, status.st_gid, os.listxattr(path), flags


@contextmanager
def canaries(directory: Path) -> Iterator[Canary]:
    """Canaries below a directory, for as long as it takes."""
    libc = ctypes.CDLL(None)
    with ExitStack() as stack:
        made = Canary(stack, directory)
        identity = libc.shmget(made.key, 64, 0o1600)
        stack.callback(libc.shmctl, identity, 0, None)
        yield made


def unreached(output: str) -> set[str]:
    """What the script could not do unconfined: nothing, or the tests say nothing."""
    found = json.loads(output)
    found.pop("set")
    return {name for name, number in found.items() if number not in (0, NEWER.get(name, 0))}


def wrong(canary: Canary, output: str, abi: int) -> dict[str, int]:
    """What the script reached although it must not, and what it should have and did not.

    A real kernel that is older than ``abi`` can't hold what only a right of a newer one would.
    """
    found = json.loads(output)
    assert found.pop("set") == [1, 2]  # no_new_privs, a filter
    assert canary.state() == canary.before
    assert not (canary.work / "stolen").exists()
    assert canary.victim.poll() is None
    if abi >= 9 > landlock.abi_version():
        for name in ("socket with a path", "datagram to a path"):
            found.pop(name)
    return {name: number for name, number in found.items()
            if (number != EXPECTED[name](abi) if name in EXPECTED else not number)}
