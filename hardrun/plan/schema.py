"""The operations of a plan: the one place where they are defined.

The encoder, the decoder, ``hardrun plan show``, the executor's C table (which ``ctable.py`` writes)
and docs/plan-format.md are all derived from ``OPERATIONS``. This module
imports nothing outside the standard library so that the build can run it alone.

A *phase* says which process performs an operation; a *rank* orders operations inside a phase.
Both are checked by the executor before the first clone: the order in which credentials, filters and
descriptors are given up is data that can be verified, not a habit of the code.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

VERSION = 1


class Phase(enum.IntEnum):
    """The process that performs an operation."""

    LAUNCH = 0  # the executor as started, before clone3
    PARENT = 1  # the same process, which then waits: time-out, relay, limits
    INIT = 2  # PID 1 of the sandbox
    WORKLOAD = 3  # the child of PID 1 that becomes the command


class Kind(enum.IntEnum):
    """The type of one argument."""

    U32 = 0
    U64 = 1
    STRING = 2  # NUL-terminated bytes in the pool
    BLOB = 3  # bytes in the pool with a length


class Argument(NamedTuple):
    """One argument of an operation."""

    name: str
    kind: Kind
    meaning: str


class OperationType(NamedTuple):
    """What an operation is: its number, its place, its arguments and the sentence that tells it.

    ``sentence`` is a format string over the argument names; the executor prints it in error
    messages and ``plan show`` in listings.
    """

    opcode: int
    name: str
    phase: Phase
    rank: int
    arguments: tuple[Argument, ...]
    sentence: str
    once: bool = False


class Operation(NamedTuple):
    """One step of a plan.

    ``reason`` is ``control id, file:line`` and is what an error message and ``plan show`` cite.
    ``values`` follow ``OperationType.arguments``: int for U32 and U64, str (surrogateescape) for
    STRING, bytes for BLOB.
    """

    name: str
    values: tuple[int | str | bytes, ...]
    reason: str = ""


class Unsafe(enum.IntFlag):
    """Defences that a plan leaves out on purpose. Without the bit the executor refuses the plan."""

    NO_SECCOMP = 1
    NO_NEW_PRIVS_OFF = 2
    KEEPS_CAPABILITIES = 4
    NO_PIVOT_ROOT = 8
    KEEPS_DESCRIPTORS = 16
    NO_LANDLOCK = 32
    DUMPABLE_INIT = 64
    NO_SESSION = 128
    NO_BOUNDING_DROP = 256
    SHARED_NETWORK = 512
    NO_NAMESPACES = 1024


class StandardIO(enum.IntEnum):
    """How descriptors 0-2 reach the workload."""

    RELAY = 0  # output through pipes that are counted; a terminal is never handed over
    TERMINAL = 1  # a private pty, relayed
    INHERIT = 2  # the caller's own descriptors (needs a policy that allows it)


class BindFlag(enum.IntFlag):
    """How the source of a bind is opened and compared."""

    PINNED = 1  # st_dev and st_ino must match: for a plan used by the process that made it
    RECURSIVE = 2  # with submounts (needed wherever the kernel locked the tree)


class ResourceFlag(enum.IntFlag):
    """Which limits the parent enforces by watching, for want of a cgroup."""

    MEMORY = 1
    CPU_TIME = 2


U32, U64, STRING, BLOB = Kind.U32, Kind.U64, Kind.STRING, Kind.BLOB


def _type(
    opcode: int,
    name: str,
    phase: Phase,
    rank: int,
    sentence: str,
    *arguments: tuple[str, Kind, str],
    once: bool = False,
) -> OperationType:
    return OperationType(
        opcode, name, phase, rank, tuple(Argument(*a) for a in arguments), sentence, once
    )


_L, _P, _I, _W = Phase.LAUNCH, Phase.PARENT, Phase.INIT, Phase.WORKLOAD

OPERATIONS: tuple[OperationType, ...] = (
    # -- launch: what must still be true, and what the clone is to be ---------------------------
    _type(1, "require_path", _L, 0, "require {path} unchanged",
          ("path", STRING, "absolute path; not followed when it is a symlink"),
          ("device", U64, "st_dev; 0 with inode 0: the path must not exist"),
          ("inode", U64, "st_ino"),
          ("mtime", U64, "st_mtim in nanoseconds; 0: any"),
          ("ctime", U64, "st_ctim in nanoseconds; 0: any")),
    _type(2, "require_content", _L, 0, "require {path} to hold {content}",
          ("path", STRING, "a file of /proc or /sys"),
          ("content", STRING, "its content without the final newline")),
    _type(3, "require_ids", _L, 0, "require uid {uid}, gid {gid} and the same groups",
          ("uid", U32, "real and effective uid"),
          ("gid", U32, "real and effective gid"),
          ("groups", BLOB, "supplementary groups as sorted little-endian u32")),
    _type(4, "require_hard_limit", _L, 0, "require hard limit {resource} of at least {value}",
          ("resource", U32, "RLIMIT_*"),
          ("value", U64, "lowest acceptable hard limit")),
    _type(5, "require_landlock", _L, 0, "require Landlock ABI {abi}",
          ("abi", U32, "exactly this version")),
    _type(11, "require_kernel", _L, 0, "require the kernel {release}",
          ("release", STRING, "as uname(2) tells it")),
    _type(8, "require_label", _L, 0, "require the {module} label {label} to be taken: {accepted}",
          ("module", STRING, "apparmor or selinux"), ("label", STRING, "as attr/exec takes it"),
          ("accepted", U32, "1: the kernel must take it, 0: it must not")),
    _type(10, "draw_label", _L, 1, "draw the categories of {type}",
          ("type", STRING, "SELinux type of the workload"),
          ("file_type", STRING, "SELinux type of its tmpfs and devpts"),
          ("required", U32, "1: stale where the caller has no two categories, 0: none then"),
          once=True),
    _type(6, "join_session_keyring", _L, 2, "join the empty session keyring {keyring}",
          ("keyring", STRING, "keyring name"), once=True),
    _type(9, "private_directory", _L, 2, "make a private directory in {parent}",
          ("parent", STRING, "absolute path of a directory that anybody may write to"), once=True),
    _type(12, "cgroup", _L, 2, "make a cgroup below {directory}",
          ("directory", STRING, "a delegated group; MOUNT/.: the caller's own, MOUNT being that of"
                                " cgroup2; beside cgroup_v1 none is made"),
          ("controllers", STRING, "what the group needs, as cgroup.subtree_control takes it"),
          ("bus", STRING, "socket of the bus on which systemd is asked for a scope first; empty:"
                          " none is needed"),
          ("messages", BLOB, "what is sent there, from the authentication on"),
          ("request", U32, "offset in it of StartTransientUnit, sent after the clone"),
          ("name", U32, "offset in that of 16 random digits of the scope's name"),
          ("pids", U32, "offset in that of the pids, u32 each, of the parent and of PID 1"),
          once=True),
    _type(13, "cgroup_v1", _L, 2, "make a cgroup of {hierarchy} below {directory}",
          ("directory", STRING, "a group; MOUNT/.: the caller's own, MOUNT being that of the"
                                " hierarchy"),
          ("hierarchy", STRING, "its controllers, as /proc/PID/cgroup has them")),
    _type(7, "clone", _L, 3, "clone into new namespaces {flags:#x}",
          ("flags", U64, "CLONE_NEW*; 0: none, with Unsafe.NO_NAMESPACES"), once=True),
    # -- parent: what the process that waits does ------------------------------------------------
    _type(20, "write_id_map_helper", _P, 0, "map ids by {helper}",
          ("helper", STRING, "absolute path of newuidmap or newgidmap"),
          ("map", BLOB, "arguments after the pid, each NUL-terminated decimal")),
    _type(21, "standard_io", _P, 1, "standard input and output: mode {mode}",
          ("mode", U32, "StandardIO"),
          ("interactive", U32, "1: a terminal's input is relayed, 0: it is /dev/null"),
          ("output_limit", U64, "bytes of output before the sandbox is ended; 0: none"),
          once=True),
    _type(22, "timeout", _P, 1, "end the sandbox after {milliseconds} ms",
          ("milliseconds", U64, "wall-clock time"), once=True),
    _type(23, "watch", _P, 1, "watch memory {memory} bytes, CPU {cpu_time} ms",
          ("memory", U64, "bytes over all processes; 0: not watched"),
          ("cpu_time", U64, "milliseconds over all processes; 0: not watched"), once=True),
    _type(24, "lifeline", _P, 1, "end the sandbox when descriptor {descriptor} closes",
          ("descriptor", U32, "read end of a pipe whose write end the caller holds"), once=True),
    _type(25, "report", _P, 1, "write the report to descriptor {descriptor}",
          ("descriptor", U32, "where key value lines go at the end"), once=True),
    _type(33, "cgroup_limit", _P, 1, "limit the cgroup: {file} = {value}",
          ("file", STRING, "a file of the group"), ("value", STRING, "text to write")),
    _type(26, "gate", _P, 2, "stop at the exec until descriptor {descriptor} says go",
          ("descriptor", U32, "a stream socket: pid out, one byte in"), once=True),
    _type(28, "admit", _P, 1, "hand the way to PID 1, descriptor {descriptor}, to this user's"
          " processes that connect to descriptor {listener}",
          ("listener", U32, "a packet socket that listens; served once the command has begun"),
          ("descriptor", U32, "the other end of that of serve"), once=True),
    _type(27, "expect_label", _P, 2, "hold the workload to the {module} label {label}",
          ("module", STRING, "apparmor or selinux"),
          ("label", STRING, "what attr/current must show at the exec, to the last byte"),
          once=True),
    # -- init: PID 1 builds the view -------------------------------------------------------------
    _type(41, "write_id_map", _I, 0, "map uid {uid} and gid {gid} to the caller's own",
          ("uid", U32, "uid inside"), ("gid", U32, "gid inside"), once=True),
    _type(71, "write_uid_map", _I, 0, "map uid {uid} to the caller's own",
          ("uid", U32, "uid inside"), once=True),
    _type(42, "write_sysctl", _I, 1, "set {path} to {value}",
          ("path", STRING, "a file below /proc/sys of the user, ipc or uts namespace"),
          ("value", STRING, "text to write")),
    _type(44, "set_hostname", _I, 1, "set the host name {name}",
          ("name", STRING, "at most 64 bytes"), once=True),
    _type(45, "make_private", _I, 2, "make all mounts private", once=True),
    _type(40, "await_id_maps", _I, 2, "wait for the id maps", once=True),
    _type(75, "become", _I, 2, "become uid {uid} and gid {gid}, which are not the caller's",
          ("uid", U32, "uid inside"), ("gid", U32, "gid inside"), once=True),
    _type(46, "root_tmpfs", _I, 3, "mount the root, a tmpfs of {size} bytes and {inodes} inodes",
          ("size", U64, "bytes"), ("inodes", U64, "inodes"), once=True),
    _type(47, "root_bind", _I, 3, "mount the root from {source}",
          ("source", STRING, "absolute path"),
          ("flags", U32, "BindFlag"),
          ("device", U64, "st_dev when pinned"),
          ("inode", U64, "st_ino when pinned"),
          ("owner", U32, "st_uid that the directory must have"), once=True),
    _type(38, "layer", _I, 3, "keep changes of the root in layer {number} of {directory}",
          ("directory", STRING, "absolute path of the caller's layers; empty: in memory"),
          ("number", U32, "which of them; 0: in memory"),
          ("size", U64, "bytes of the tmpfs that holds the layer, or the mounts it is made of"),
          ("inodes", U64, "inodes of that tmpfs"), once=True),
    _type(39, "root_overlay", _I, 3, "mount the root: the layer over {source}",
          ("source", STRING, "absolute path"),
          ("flags", U32, "BindFlag"),
          ("device", U64, "st_dev when pinned"),
          ("inode", U64, "st_ino when pinned"),
          ("owner", U32, "st_uid that the directory must have"), once=True),
    _type(48, "make_directory", _I, 4, "make directory {path}",
          ("path", STRING, "absolute, in the root; parents must exist; existing directory is kept"),
          ("mode", U32, "permissions")),
    _type(49, "make_file", _I, 4, "make file {path}",
          ("path", STRING, "absolute, in the root; an existing regular file is kept"),
          ("mode", U32, "permissions"),
          ("content", BLOB, "bytes")),
    _type(50, "make_symlink", _I, 4, "make symlink {path} to {target}",
          ("path", STRING, "absolute, in the root"), ("target", STRING, "its content")),
    _type(51, "bind", _I, 4, "bind {source} on {destination}",
          ("source", STRING, "absolute path of the host, opened without symlinks"),
          ("destination", STRING, "absolute, in the root; must exist"),
          ("attributes", U64, "MOUNT_ATTR_* to set, recursively"),
          ("flags", U32, "BindFlag"),
          ("device", U64, "st_dev when pinned"),
          ("inode", U64, "st_ino when pinned"),
          ("identity", U64, "S_IFMT of the source, and its owner's uid in the upper 32 bits")),
    _type(52, "bind_working_directory", _I, 4, "bind the caller's working directory",
          ("attributes", U64, "MOUNT_ATTR_* to set, recursively"),
          ("refused", BLOB, "NUL-terminated paths that it must not be or contain; one that ends"
                            " in / must not contain it either")),
    _type(53, "writable_directory", _I, 4, "make {path} writable",
          ("path", STRING, "directory of the root tmpfs, bound over itself"),
          ("attributes", U64, "MOUNT_ATTR_* of the bind")),
    _type(54, "mount_tmpfs", _I, 4, "mount a tmpfs of {size} bytes on {destination}",
          ("destination", STRING, "absolute, in the root"),
          ("size", U64, "bytes"), ("inodes", U64, "inodes"),
          ("mode", U32, "permissions of its root"),
          ("attributes", U64, "MOUNT_ATTR_*")),
    _type(55, "mount_proc", _I, 4, "mount proc on {destination}",
          ("destination", STRING, "absolute, in the root"),
          ("subset", U32, "1: subset=pid, hidepid=invisible"), once=True),
    _type(56, "mount_devpts", _I, 4, "mount devpts on {destination}",
          ("destination", STRING, "absolute, in the root"), once=True),
    _type(57, "bind_device", _I, 4, "bind device {source} on {destination}",
          ("source", STRING, "a character device of the host"),
          ("destination", STRING, "absolute, in the root; must exist"),
          ("rdev", U64, "the st_rdev that it must have")),
    _type(58, "mask", _I, 5, "mask {path}",
          ("path", STRING, "absolute, in the root; a path that does not exist is passed over")),
    _type(59, "make_read_only", _I, 5, "make {path} read-only",
          ("path", STRING, "absolute, in the root; a path that does not exist is passed over")),
    _type(60, "root_attributes", _I, 6, "set attributes {attributes:#x} on the root",
          ("attributes", U64, "MOUNT_ATTR_* of the root mount alone"), once=True),
    _type(61, "pivot_root", _I, 7, "pivot into the new root and detach the old one", once=True),
    _type(43, "join_network", _I, 8, "join the network namespace, which was made meanwhile with its"
          " loopback interface up", once=True),
    _type(99, "await_cgroup", _I, 8, "enter the cgroup",
          ("wait", U32, "1: until the parent says that PID 1 was moved there"),
          ("namespace", U32, "1: make it the root of a cgroup namespace"), once=True),
    _type(62, "set_groups", _I, 8, "set the supplementary groups",
          ("groups", BLOB, "little-endian u32 each; empty: none"), once=True),
    _type(63, "drop_bounding", _I, 9, "keep {mask:#x} of the bounding set",
          ("mask", U64, "bit n: capability n stays"), once=True),
    _type(64, "set_securebits", _I, 10, "set securebits {bits:#x}",
          ("bits", U32, "SECBIT_*"), once=True),
    _type(65, "set_capabilities", _I, 11, "set capabilities {mask:#x}",
          ("mask", U64, "permitted, effective, inheritable and ambient alike"), once=True),
    _type(66, "no_new_privs", _I, 12, "set no_new_privs", once=True),
    _type(67, "not_dumpable", _I, 13, "make PID 1 non-dumpable", once=True),
    _type(68, "landlock_ruleset", _I, 14, "make a Landlock ruleset",
          ("filesystem", U64, "LANDLOCK_ACCESS_FS_* handled"),
          ("network", U64, "LANDLOCK_ACCESS_NET_* handled"),
          ("scoped", U64, "LANDLOCK_SCOPE_*"), once=True),
    _type(69, "landlock_path", _I, 15, "allow {access:#x} beneath {path}",
          ("path", STRING, "absolute, in the new root; empty: the caller's directory; ~: the"
                           " private directory"),
          ("access", U64, "LANDLOCK_ACCESS_FS_*")),
    _type(70, "landlock_restrict", _I, 16, "enter the Landlock domain", once=True),
    _type(72, "serve", _I, 17, "start commands that come by descriptor {descriptor}: mode {mode}",
          ("descriptor", U32, "a packet socket whose other end the caller holds"),
          ("mode", U32, "ServeMode: 0 beside the plan's own command, 1 alone, 2 once"),
          ("ahead", U32, "1: the process of the one command has its limits and its filter before"
                         " that comes; the filter lets through what is then left to do"),
          once=True),
    # -- workload: the last steps before execve --------------------------------------------------
    _type(80, "argument", _W, 0, "argument {value}", ("value", STRING, "one of argv")),
    _type(81, "arguments_of_caller", _W, 0, "append the arguments given at the start", once=True),
    _type(82, "environment", _W, 0, "environment {value}", ("value", STRING, "NAME=VALUE")),
    _type(83, "environment_of_caller", _W, 0, "environment {name} as the caller has it",
          ("name", STRING, "read at the start, never stored; a name ending in * is a prefix")),
    _type(92, "environment_of_directory", _W, 0, "environment {name} is the private directory",
          ("name", STRING, "name of the variable")),
    _type(84, "new_session", _W, 1, "start a session of its own", once=True),
    _type(85, "set_umask", _W, 2, "set umask {mask:o}",
          ("mask", U32, "permission bits"), once=True),
    _type(86, "set_limit", _W, 2, "limit resource {resource} to {soft}, {hard}",
          ("resource", U32, "RLIMIT_*"), ("soft", U64, "soft limit"), ("hard", U64, "hard limit")),
    _type(87, "change_directory", _W, 3, "change to {path}",
          ("path", STRING, "absolute, in the new root; empty: the caller's directory; ~: the"
                           " private directory"), once=True),
    _type(88, "set_exec_label", _W, 4, "set the {module} label {label} for the exec",
          ("module", STRING, "apparmor or selinux"), ("label", STRING, "as attr/exec takes it"),
          once=True),
    _type(89, "close_descriptors", _W, 5, "close every descriptor but 0-2", once=True),
    _type(90, "load_seccomp", _W, 6, "load the seccomp filter",
          ("program", BLOB, "struct sock_filter array"),
          ("flags", U32, "SECCOMP_FILTER_FLAG_*")),
    _type(91, "execute", _W, 7, "execute {path}",
          ("path", STRING, "absolute, or a name that is looked up in search_path"),
          ("search_path", STRING, "directories separated by colons"), once=True),
)

BY_NAME: Mapping[str, OperationType] = {o.name: o for o in OPERATIONS}
BY_OPCODE: Mapping[int, OperationType] = {o.opcode: o for o in OPERATIONS}


@cache
def schema_id() -> int:
    """A checksum over every definition: plans and executors with different ones don't mix."""
    text = repr([(o.opcode, o.name, int(o.phase), o.rank,
                  [(a.name, int(a.kind)) for a in o.arguments], o.once) for o in OPERATIONS])
    unsafe = [(u.name, u.value) for u in Unsafe]
    return zlib.crc32(f"{VERSION} {text} {unsafe}".encode())
