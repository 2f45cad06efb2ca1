"""What /proc tells about a process.

Every function raises ``ProcessLookupError`` for a process that is gone and ``PermissionError``
where the kernel does not show it to this caller (proc(5): what needs ptrace(2) access is not
readable of a process that made itself non-dumpable). Process numbers are those of the caller's
/proc; ``"PID/task/TID"`` in place of one reads a thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hardrun.kernel.capabilities import parse_mask

UNLIMITED = 2**63 - 1

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_LIMITS: Mapping[str, str] = {
    "Max cpu time": "RLIMIT_CPU",
    "Max file size": "RLIMIT_FSIZE",
    "Max data size": "RLIMIT_DATA",
    "Max stack size": "RLIMIT_STACK",
    "Max core file size": "RLIMIT_CORE",
    "Max resident set": "RLIMIT_RSS",
    "Max processes": "RLIMIT_NPROC",
    "Max open files": "RLIMIT_NOFILE",
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max address space": "RLIMIT_AS",
    "Max file locks": "RLIMIT_LOCKS",
    "Max pending signals": "RLIMIT_SIGPENDING",
    "Max msgqueue size": "RLIMIT_MSGQUEUE",
    "Max nice priority": "RLIMIT_NICE",
    "Max realtime priority": "RLIMIT_RTPRIO",
    "Max realtime timeout": "RLIMIT_RTTIME",
}
_LIMIT_NAME_WIDTH = 26
# The tables of sockets in /proc/PID/net, and the column that has the inode.
_SOCKETS = (*((name, 9) for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "netlink")),
            ("packet", 8), ("unix", 6))


class Status(NamedTuple):
    """/proc/PID/status. What a kernel does not show is None."""

    name: str
    state: str
    parent: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    pids: tuple[int, ...]  # NSpid: from the reader's pid namespace to the process's own
    sessions: tuple[int, ...]  # NSsid, likewise
    tracer: int
    umask: int | None
    capabilities: Mapping[str, int]  # the five masks by their names in the file
    no_new_privs: bool | None
    seccomp: int | None  # 0 off, 1 strict, 2 filter
    seccomp_filters: int | None  # Linux 5.9


class Limit(NamedTuple):
    """A soft and a hard limit, UNLIMITED for none."""

    soft: int
    hard: int


class Stat(NamedTuple):
    """Fields of /proc/PID/stat that status lacks."""

    session: int
    terminal: int  # device number of the controlling terminal, 0 for none
    start_time: int  # clock ticks since boot: with the pid it names a process for good


class Descriptor(NamedTuple):
    """An open descriptor: what it leads to, and the mount that it lies on."""

    target: str
    mount: int


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.readall() or b"").decode("utf-8", "surrogateescape")
    except OSError as error:
        raise _gone(error, path) from None


def _gone(error: OSError, path: str) -> OSError:
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), path)
    return error


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        raise _gone(error, path) from None


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise _gone(error, path) from None


def _numbers(text: str, base: int = 10) -> tuple[int, ...]:
    return tuple(int(word, base) for word in text.split())


def _optional(text: str | None, base: int = 10) -> int | None:
    return None if text is None else int(text, base)


def parse_status(text: str) -> Status:
    """Read the text of /proc/PID/status. Raises ValueError when a needed line is missing."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        key, separator, value = line.partition(":")
        if separator:
            fields[key] = value.strip()
    try:
        no_new_privs = _optional(fields.get("NoNewPrivs"))
        return Status(
            name=fields["Name"], state=fields["State"][:1], parent=int(fields["PPid"]),
            uids=_numbers(fields["Uid"]), gids=_numbers(fields["Gid"]),
            groups=_numbers(fields["Groups"]),
            pids=_numbers(fields.get("NSpid", fields["Pid"])),
            sessions=_numbers(fields.get("NSsid", "")),
            tracer=int(fields["TracerPid"]), umask=_optional(fields.get("Umask"), 8),
            capabilities={name: parse_mask(fields[name]) for name in CAPABILITY_SETS},
            no_new_privs=None if no_new_privs is None else bool(no_new_privs),
            seccomp=_optional(fields.get("Seccomp")),
            seccomp_filters=_optional(fields.get("Seccomp_filters")),
        )
    except KeyError as error:
        raise ValueError(f"/proc/PID/status has no line {error.args[0]}") from None


def parse_limits(text: str) -> dict[str, Limit]:
    """Read the text of /proc/PID/limits: limits by ``RLIMIT_…``, in the units of setrlimit(2)."""
    limits = {}
    for line in text.split("\n")[1:]:
        name = _LIMITS.get(line[:_LIMIT_NAME_WIDTH].rstrip())
        if name is not None:
            soft, hard = (
                UNLIMITED if word == "unlimited" else int(word)
                for word in line[_LIMIT_NAME_WIDTH:].split()[:2]
            )
            limits[name] = Limit(soft, hard)
    return limits


def parse_stat(text: str) -> Stat:
    """Read the text of /proc/PID/stat; the name in it may hold spaces and parentheses.

    Raises ValueError when fields are missing.
    """
    fields = text[text.rindex(")") + 2 :].split()
    if len(fields) < 20:
        raise ValueError(f"/proc/PID/stat has {len(fields)} fields after the name")
    return Stat(session=int(fields[3]), terminal=int(fields[4]), start_time=int(fields[19]))


def status(pid: int | str = "self") -> Status:
    """The status of a process."""
    return parse_status(_read(f"/proc/{pid}/status"))


def stat(pid: int | str = "self") -> Stat:
    """Session, terminal and start time of a process."""
    return parse_stat(_read(f"/proc/{pid}/stat"))


def limits(pid: int | str = "self") -> dict[str, Limit]:
    """The resource limits of a process."""
    return parse_limits(_read(f"/proc/{pid}/limits"))


def mountinfo(pid: int | str = "self") -> str:
    """The text of mountinfo, for ``hardrun.kernel.mounts.parse``."""
    return _read(f"/proc/{pid}/mountinfo")


def id_map(pid: int | str, kind: str) -> str:
    """The text of ``uid_map`` or ``gid_map``, for ``hardrun.kernel.idmap.parse_map``."""
    return _read(f"/proc/{pid}/{kind}")


def namespaces(pid: int | str = "self") -> dict[str, str]:
    """The namespaces of a process: ``{"mnt": "mnt:[4026531841]", …}``; those the kernel has.

    The links can be read where the directory can't be listed: that is its owner's, and the owner of
    a sandbox with ids of its own is another user.
    """
    directory = f"/proc/{pid}/ns"
    present = _list("/proc/self/ns")
    return {name: _link(f"{directory}/{name}") for name in NAMESPACES if name in present}


def interfaces(pid: int | str) -> tuple[str, ...]:
    """The network interfaces that a process sees."""
    return parse_interfaces(_read(f"/proc/{pid}/net/dev"))


def parse_interfaces(text: str) -> tuple[str, ...]:
    """The names in the text of /proc/PID/net/dev."""
    lines = text.split("\n")[2:]
    return tuple(line.partition(":")[0].strip() for line in lines if ":" in line)


def sockets(pid: int | str = "self") -> frozenset[int]:
    """The inodes of the sockets in a process's network namespace, of the families that tell."""
    found: set[int] = set()
    for name, column in _SOCKETS:
        try:
            lines = _read(f"/proc/{pid}/net/{name}").split("\n")[1:]
        except ProcessLookupError:  # this kernel lacks the family, or the process is gone
            continue
        found.update(int(words[column]) for words in map(str.split, lines) if len(words) > column)
    return frozenset(found)


def environment_names(pid: int | str) -> frozenset[str]:
    """The names of the variables that a process was started with; never their values."""
    entries = _read(f"/proc/{pid}/environ").split("\0")
    return frozenset(entry.partition("=")[0] for entry in entries if entry)


def descriptors(pid: int | str) -> dict[int, Descriptor]:
    """The open descriptors of a process; one that is closed meanwhile is left out."""
    found = {}
    for name in _list(f"/proc/{pid}/fd"):
        try:
            target = _link(f"/proc/{pid}/fd/{name}")
            mount = parse_fdinfo(_read(f"/proc/{pid}/fdinfo/{name}"))
        except ProcessLookupError:
            continue
        found[int(name)] = Descriptor(target, mount)
    return found


def parse_fdinfo(text: str) -> int:
    """The mount id in the text of /proc/PID/fdinfo/N; 0 where the kernel shows none."""
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    return 0


def process_ids() -> Iterator[int]:
    """The numbers of all processes that /proc shows now."""
    return (int(name) for name in _list("/proc") if name.isdecimal())


def threads(pid: int) -> tuple[int, ...]:
    """The threads of a process, without the one that bears its number."""
    return tuple(sorted({int(name) for name in _list(f"/proc/{pid}/task")} - {pid}))


def statuses() -> dict[int, Status]:
    """The status of every process that can be seen; those that vanish meanwhile are left out."""
    found = {}
    for pid in process_ids():
        try:
            found[pid] = status(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def ancestors(pid: int, of: Mapping[int, Status] | None = None) -> Iterator[int]:
    """``pid``, its parent, and so on up to the first one without a parent in this pid namespace."""
    seen = set()
    while pid > 0 and pid not in seen:
        seen.add(pid)
        yield pid
        known = None if of is None else of.get(pid)
        pid = (known or status(pid)).parent


def descendants(pid: int, of: Mapping[int, Status]) -> frozenset[int]:
    """The processes below ``pid`` in a set of statuses, without ``pid`` itself."""
    children: dict[int, list[int]] = {}
    for child, state in of.items():
        children.setdefault(state.parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return frozenset(found)
