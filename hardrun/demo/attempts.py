"""What the hostile script tries, in the table's order, and which control gives which errno."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Attempt(NamedTuple):
    """One attempt: its name in the script, what people read, and who stops it.

    ``stopped_by`` maps the errno (or signal, or outcome) that the kernel answered to a control id,
    whose layers the Decision names; ``""`` is for every other answer. A text that begins with
    ``=`` is a layer itself: what no policy can switch off has no control.
    """

    name: str
    title: str
    stopped_by: Mapping[str, str]


_HIDDEN = {"": "filesystem.visible", "EACCES": "landlock"}
_FILTERED = {"": "seccomp"}
_PID_NAMESPACE = {"": "=pid namespace", "EPERM": "seccomp"}

TOGETHER: tuple[Attempt, ...] = (
    Attempt("read-private-key", "read ~/.ssh/id_ed25519", _HIDDEN),
    Attempt("read-shadow", "read /etc/shadow", _HIDDEN),
    Attempt("write-startup-file", "append to ~/.bashrc",
            {"": "filesystem.writable", "ENOENT": "filesystem.visible"}),
    Attempt("write-system-file", "create a file in /usr/bin or /etc",
            {"": "filesystem.writable", "EROFS": "filesystem.read_only_root"}),
    Attempt("climb-out", "climb out: .., /proc/1/root, chroot", {"": "=pivot_root",
                                                                 "EPERM": "seccomp"}),
    Attempt("leftover-descriptors", "use a descriptor left open", {"": "descriptors"}),
    Attempt("environment-secret", "read a token in the environment", {"": "environment"}),
    Attempt("make-setuid", "leave a setuid program behind", _FILTERED),
    Attempt("make-device", "make a device node", {"": "capabilities"}),
    Attempt("read-disk", "read the disk or memory device", {"": "devices"}),
    Attempt("overwrite-executor", "overwrite the executor (/proc/1/exe)",
            {"": "=PID 1 not dumpable, sealed memfd", "ENOENT": "filesystem.visible"}),
    Attempt("write-kernel-settings", "set core_pattern, press SysRq",
            {"": "filesystem.proc", "EROFS": "filesystem.proc"}),
    Attempt("see-processes", "see other processes", {"": "=pid namespace"}),
    Attempt("read-process", "read another process's environment", _PID_NAMESPACE),
    Attempt("signal-process", "signal another process",
            {"": "=pid namespace", "EPERM": "landlock"}),
    Attempt("kill-init", "kill PID 1", {"": "=pid namespace"}),
    Attempt("trace-process", "ptrace another process", _FILTERED),
    Attempt("setuid-program", "become root by a setuid program", {"": "no_new_privs"}),
    Attempt("tcp-connect", "connect to a service on localhost",
            {"": "network", "EPERM": "seccomp"}),
    Attempt("udp-route", "reach other hosts", {"": "network", "EPERM": "seccomp"}),
    Attempt("unix-connect", "connect to an agent's Unix socket", _HIDDEN),
    Attempt("abstract-connect", "connect to an abstract Unix socket",
            {"": "network", "EPERM": "landlock"}),
    Attempt("raw-socket", "open a raw or packet socket", _FILTERED),
    Attempt("vsock-socket", "open a vsock socket", _FILTERED),
    Attempt("list-interfaces", "list the host's interfaces", {"": "network", "EPERM": "seccomp"}),
    Attempt("type-into-terminal", "push characters into the terminal", {"": "terminal"}),
    Attempt("shared-memory", "read System V shared memory", {"": "=ipc namespace"}),
    Attempt("user-namespace", "make a user namespace", _FILTERED),
    Attempt("mount", "mount a file system", _FILTERED),
    Attempt("load-bpf", "load BPF into the kernel", _FILTERED),
    Attempt("perf-event", "open a performance counter", _FILTERED),
    Attempt("userfaultfd", "open a userfaultfd", _FILTERED),
    Attempt("io-uring", "make an io_uring", _FILTERED),
    Attempt("read-keyring", "read the user's kernel keys", {"": "keyring", "EPERM": "seccomp",
                                                            "ENOSYS": "seccomp"}),
    Attempt("kernel-log", "read the kernel log", _FILTERED),
    Attempt("foreign-calls", "call by another ABI (x32, int 0x80)", _FILTERED),
    Attempt("kernel-devices", "open /dev/net/tun, kvm, fuse", {"": "devices"}),
)

# These are given a sandbox each: what stops them may end it.
ALONE: tuple[Attempt, ...] = (
    Attempt("fill-disk", "fill the disk", {"": "limits.tmpfs", "EFBIG": "limits.file_size"}),
    Attempt("fork-bomb", "fork without end", {"": "limits.pids"}),
    Attempt("eat-memory", "eat memory", {"": "limits.memory"}),
    Attempt("spread-memory", "eat memory with many processes", {"": "limits.memory",
                                                                "EAGAIN": "limits.pids"}),
    Attempt("open-files", "open files without end", {"": "limits.open_files"}),
    Attempt("spin", "compute without end, ignore signals", {"": "limits.timeout",
                                                            "cpu-limit": "limits.cpu_time"}),
    Attempt("flood", "write output without end", {"": "limits.output"}),
    Attempt("outlive", "live on when the command has ended", {"": "=PID 1, pid namespace"}),
)
