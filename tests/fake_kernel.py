"""A kernel that offers less: runs a command whose chosen system calls are answered from here.

A seccomp filter with a listener (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)) sits over the command
and all its descendants. What an older kernel lacks is answered as that kernel would; everything
else goes to the real one. Nothing in the command knows: it makes real system calls.

    FakeKernel(landlock_abi=2).run(["hardrun", "doctor"])
    FakeKernel(errors={"openat2": errno.ENOSYS}).run([...])
    FakeKernel.of("5.14").run([...])                     # all that 5.14 lacks, uname included
    python -m tests.fake_kernel --kernel 5.14 --landlock 1 --errno openat2=ENOSYS -- COMMAND...

The filter needs no_new_privs: setuid programs (newuidmap) don't work below it.

A Landlock ABI that is newer than the kernel's is told, and what the kernel does not know is taken
out of the caller's rulesets before it sees them: plans for such a kernel run, and only what the new
rights alone would hold is not held. PID 1 of a sandbox is non-dumpable; to reach its memory the
command is put into a user namespace, over which whoever made it has every capability
(user_namespaces(7)). The ids stay as they are, supplementary groups do not.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hardrun.kernel import landlock
from hardrun.kernel.seccomp import tables

_ARCHITECTURE = tables.architecture_of(os.uname().machine)
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_ALLOW, _ERRNO, _NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
_NEW_LISTENER = 8
_NEWUSER = 0x10000000
_MFD_EXEC = 0x10
_EMPTY_TARGET = 0x40  # MOVE_MOUNT_T_EMPTY_PATH
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

# What came when, of what hardrun or a workload could use; landlock(7) has the ABI versions.
_SINCE: Mapping[tuple[int, int], tuple[str, ...]] = {
    (5, 2): ("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick"),
    (5, 3): ("clone3", "pidfd_open"),
    (5, 6): ("openat2", "pidfd_getfd"),
    (5, 9): ("close_range",),
    (5, 12): ("mount_setattr",),
    (5, 13): ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    (6, 6): ("fchmodat2",),
    (6, 8): ("statmount", "listmount", "lsm_get_self_attr", "lsm_set_self_attr"),
    (6, 15): ("open_tree_attr",),
}
_LANDLOCK_SINCE = ((5, 13, 1), (5, 19, 2), (6, 2, 3), (6, 7, 4), (6, 10, 5), (6, 12, 6),
                   (6, 15, 7))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = _libc.process_vm_writev.restype = ctypes.c_ssize_t


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Call(NamedTuple):
    """One system call that waits for an answer."""

    pid: int
    name: str
    arguments: tuple[int, ...]

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the caller's memory."""
        buffer = ctypes.create_string_buffer(size)
        done = self._transfer(_libc.process_vm_readv, buffer, address, size)
        return buffer.raw[:done]

    def write(self, address: int, data: bytes) -> None:
        """Change the caller's memory."""
        self._transfer(_libc.process_vm_writev, ctypes.create_string_buffer(data), address,
                       len(data))

    # Not by /proc/PID/mem: of a non-dumpable process that file belongs to root.
    def _transfer(self, function: Any, buffer: Any, address: int, size: int) -> int:
        ours, theirs = _Piece(ctypes.addressof(buffer), size), _Piece(address, size)
        done = int(function(self.pid, ctypes.byref(ours), ctypes.c_ulong(1), ctypes.byref(theirs),
                            ctypes.c_ulong(1), ctypes.c_ulong(0)))
        if done < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return done


Answer = Callable[[Call], "int | None"]
"""What a call comes to: a value, a negative errno, or None: the real kernel answers."""


class FakeKernel(NamedTuple):
    """What is missing.

    ``landlock_abi``: the version told, and kept to where the caller's memory can be read (PID 1 of
    a sandbox is non-dumpable); 0: built in and not enabled (EOPNOTSUPP). One that is newer than the
    kernel's: see above.
    ``errors``: calls that always fail. ``user_namespaces``: the errno of making one.
    ``detached_targets`` False: no mount onto a detached tree (before 6.15). ``memory_exec`` False:
    memfd_create knows no MFD_EXEC (before 6.3). ``release``: what uname(2) tells.
    ``lacking_namespaces``: CLONE_NEW* flags of kinds that it was built without. An errno of 0 in
    ``errors`` is that of a call that does nothing and says that it did. ``others``: whatever else
    is to be answered from here, or is to happen before the real kernel answers.
    """

    landlock_abi: int | None = None
    errors: Mapping[str, int] = {}
    user_namespaces: int = 0
    lacking_namespaces: int = 0
    detached_targets: bool = True
    memory_exec: bool = True
    release: str = ""
    others: Mapping[str, Answer] = {}

    @classmethod
    def of(cls, version: str) -> FakeKernel:
        """All that a kernel of this version (``5.14``) lacks."""
        major, minor = map(int, version.split("."))
        asked = major, minor
        missing = {name: errno.ENOSYS for since, names in _SINCE.items() if since > asked
                   for name in names}
        abis = [abi for *since, abi in _LANDLOCK_SINCE if tuple(since) <= asked]
        return cls(landlock_abi=abis[-1] if abis else None, errors=missing,
                   detached_targets=asked >= (6, 15), memory_exec=asked >= (6, 3),
                   release=f"{version}.0-fake")

    def _answers(self) -> dict[str, Answer]:
        answers: dict[str, Answer] = dict(self.others)
        if self.landlock_abi is not None:
            answers |= {"landlock_create_ruleset": self._create_ruleset,
                        "landlock_add_rule": self._add_rule}
        if self.user_namespaces or self.lacking_namespaces:
            answers |= {"clone": self._by_flags, "unshare": self._by_flags,
                        "clone3": self._by_clone_arguments}
        if not self.detached_targets:
            answers["move_mount"] = _attached_targets_only
        if not self.memory_exec:
            answers["memfd_create"] = lambda call: (
                -errno.EINVAL if call.arguments[1] & _MFD_EXEC else None)
        if self.release:
            answers["uname"] = self._uname
        return {name: answer for name, answer in answers.items() if name not in self.errors}

    def _create_ruleset(self, call: Call) -> int | None:
        abi = self.landlock_abi or 0
        address, size, flags = call.arguments[:3]
        if abi == 0:
            return -errno.EOPNOTSUPP
        if flags:
            return abi if flags == 1 and not address and not size else -errno.EINVAL
        try:
            attributes = call.read(address, size).ljust(24, b"\0")[:24]
        except PermissionError:  # a process that is non-dumpable is not looked into
            return None
        files, network, scoped = struct.unpack("=3Q", attributes)
        # A longer structure than the kernel's is taken when the rest of it is zero.
        if (network and abi < 4) or (scoped and abi < 6):
            return -errno.E2BIG
        if files & ~landlock.filesystem_access(abi):
            return -errno.EINVAL
        if files & self._ahead():
            call.write(address, struct.pack("=Q", files & ~self._ahead()))
        return None

    def _add_rule(self, call: Call) -> int | None:
        if not self.landlock_abi:
            return -errno.EOPNOTSUPP
        _, kind, address, *_ = call.arguments
        if kind == _RULE_PATH_BENEATH and self._ahead():
            rights, = struct.unpack("=Q", call.read(address, 8))
            call.write(address, struct.pack("=Q", rights & ~self._ahead()))
        return -errno.EINVAL if kind == _RULE_NET_PORT and self.landlock_abi < 4 else None

    def _ahead(self) -> int:
        """The rights over files that are told and that the real kernel does not know."""
        return (landlock.filesystem_access(self.landlock_abi or 0)
                & ~landlock.filesystem_access(landlock.abi_version()))

    def _by_flags(self, call: Call) -> int | None:
        return self._namespaces(call.arguments[0])

    def _by_clone_arguments(self, call: Call) -> int | None:
        try:
            flags = int.from_bytes(call.read(call.arguments[0], 8), sys.byteorder)
        except OSError:  # EFAULT, says the kernel
            return None
        return self._namespaces(flags)

    def _namespaces(self, flags: int) -> int | None:
        if self.user_namespaces and flags & _NEWUSER:
            return -self.user_namespaces
        return -errno.EINVAL if flags & self.lacking_namespaces else None

    def _uname(self, call: Call) -> int:
        system = os.uname()
        texts = (system.sysname, system.nodename, self.release, system.version, system.machine, "")
        call.write(call.arguments[0], b"".join(text.encode()[:64].ljust(65, b"\0")
                                               for text in texts))
        return 0

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """``subprocess.run`` of a command below this kernel; output is captured as text."""
        answers = self._answers()
        passed = options.pop("pass_fds", ())
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", _TRAMPOLINE, str(theirs.fileno()),
                 self._program(answers).hex(), "owned" if self._ahead() else "", *argv], text=True,
                pass_fds=[theirs.fileno(), *passed],
                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE, **options})
            theirs.close()
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            raise RuntimeError(f"no listener: {child.communicate()[1]}")
        supervisor = threading.Thread(target=_supervise, args=(descriptors[0], answers))
        supervisor.start()
        output, error = child.communicate()
        supervisor.join()
        return subprocess.CompletedProcess(list(argv), child.returncode, output, error)

    def _program(self, answers: Mapping[str, Answer]) -> bytes:
        """A cBPF filter: other architectures pass, chosen numbers are answered, the rest passes."""
        numbers = tables.numbers(_ARCHITECTURE)
        actions = {numbers[name]: _ERRNO | number for name, number in self.errors.items()
                   if name in numbers}
        actions |= {numbers[name]: _NOTIFY for name in answers if name in numbers}
        audit = tables.ABIS[_ARCHITECTURE].audit
        code = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, _ALLOW), (0x20, 0, 0, 0)]
        for number, action in sorted(actions.items()):
            code += [(0x15, 0, 1, number), (0x06, 0, 0, action)]
        code.append((0x06, 0, 0, _ALLOW))
        return b"".join(struct.pack("=HBBI", *line) for line in code)


def _attached_targets_only(call: Call) -> int | None:
    """Before Linux 6.15 a mount could not be moved onto a tree that is not attached anywhere."""
    target, flags = call.arguments[2], call.arguments[4]
    if not flags & _EMPTY_TARGET:
        return None
    with open(f"/proc/{call.pid}/fdinfo/{target}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    with open(f"/proc/{call.pid}/mountinfo", encoding="utf-8", errors="replace") as file:
        attached = {line.split()[0] for line in file}
    return None if fields["mnt_id"].strip() in attached else -errno.EINVAL


def _supervise(listener: int, answers: Mapping[str, Answer]) -> None:
    numbers = tables.numbers(_ARCHITECTURE)
    names = {numbers[name]: name for name in answers if name in numbers}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    try:
        while True:
            events = poll.poll()[0][1]
            if not events & select.POLLIN:
                return  # no process has the filter any more
            _answer(listener, names, answers)
    finally:
        os.close(listener)


def _answer(listener: int, names: Mapping[int, str], answers: Mapping[str, Answer]) -> None:
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
        identity, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        call = Call(pid, names[number], tuple(arguments))
        try:
            value = answers[call.name](call)
        except OSError as error:
            print(f"fake kernel: {call.name} of {pid}: {error}", file=sys.stderr)
            value = -errno.EIO
        flags = _CONTINUE if value is None else 0
        success, failure = max(value or 0, 0), min(value or 0, 0)
        fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", identity, success, failure, flags))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINTR):  # ENOENT: the caller was killed
            raise


# Run in the child; ctypes and no import of ours, so that nothing of hardrun is loaded below it.
_TRAMPOLINE = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[3]:
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"),
                       ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
code = ctypes.create_string_buffer(bytes.fromhex(sys.argv[2]))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program((len(code) - 1) // 8, ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "no_new_privs")
number = {"x86_64": 317, "aarch64": 277, "riscv64": 277}[os.uname().machine]
listener = libc.syscall(ctypes.c_long(number), ctypes.c_long(1), ctypes.c_long(8),
                        ctypes.byref(program))
if listener < 0:
    raise OSError(ctypes.get_errno(), "seccomp")
with socket.socket(fileno=int(sys.argv[1])) as channel:
    socket.send_fds(channel, [b"x"], [listener])
os.close(listener)
os.execvp(sys.argv[4], sys.argv[4:])
"""


def main() -> int:
    """Run a command below a faked kernel, its input and output untouched."""
    parser = argparse.ArgumentParser(prog="fake_kernel")
    parser.add_argument("--kernel", metavar="VERSION", help="lack what this version lacks")
    parser.add_argument("--landlock", metavar="ABI", type=int)
    parser.add_argument("--errno", metavar="CALL=NAME", action="append", default=[])
    parser.add_argument("--no-userns", metavar="NAME", help="the errno of making one, as EPERM")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    kernel = FakeKernel.of(options.kernel) if options.kernel else FakeKernel()
    chosen = {name: getattr(errno, value) for name, value in
              (text.split("=", 1) for text in options.errno)}
    kernel = kernel._replace(errors={**kernel.errors, **chosen})
    if options.landlock is not None:
        kernel = kernel._replace(landlock_abi=options.landlock)
    if options.no_userns:
        kernel = kernel._replace(user_namespaces=getattr(errno, options.no_userns))
    return kernel.run(options.command, stdin=None, stdout=None, stderr=None).returncode


if __name__ == "__main__":
    sys.exit(main())
