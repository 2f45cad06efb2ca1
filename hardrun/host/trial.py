"""The trial: one plan with everything a sandbox is made of, taken apart as far as it fails.

Where all is well this costs one child. Otherwise what failed is written down and left out, and the
rest is tried again, so that one missing thing does not hide the others. The plan goes past the
clone: AppArmor on Ubuntu lets the namespace be made and refuses the id map or the first mount.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from hardrun.host.attempt import CANARY, NOT_ENFORCED, Failure
from hardrun.plan.schema import Operation

Try = Callable[[list[Operation]], Failure | None]

_USER, _MOUNT, _PID = 0x10000000, 0x00020000, 0x20000000  # CLONE_NEW*, linux/sched.h
_NEEDED = _USER | _MOUNT | _PID
_COMMAND = Operation("argument", ("hardrun-probe",))
OPTIONAL_NAMESPACES: Mapping[str, int] = MappingProxyType({
    "network namespace": 0x40000000,
    "ipc namespace": 0x08000000,
    "uts namespace": 0x04000000,
    "cgroup namespace": 0x02000000,
})
KEYRING = "hardrun"  # the one that runs share: a trial of its own would count against the quota
_EVERY_FLAG = _NEEDED | sum(OPTIONAL_NAMESPACES.values())
_ALLOW_ALL = b"\x06\0\0\0\0\0\xff\x7f"  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
_SECUREBITS = 0xEF
_ATTRIBUTES = 0x7  # MOUNT_ATTR_RDONLY | NOSUID | NODEV; the canary is refused by Landlock alone
_INHERIT = 2
_LANDLOCK = ("landlock_ruleset", "landlock_path", "landlock_restrict")
# What is left out along with an operation that failed, and what it stands for.
_OPTIONAL: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "join_session_keyring": ("join_session_keyring",),
    "write_sysctl": ("write_sysctl",),
    "join_network": ("join_network",),
    "set_hostname": ("set_hostname",),
    "mount_proc": ("mount_proc",),
    "mount_devpts": ("mount_devpts",),
    "landlock_ruleset": _LANDLOCK,
    "landlock_path": _LANDLOCK,
    "landlock_restrict": _LANDLOCK,
    NOT_ENFORCED: _LANDLOCK,
    "load_seccomp": ("load_seccomp",),
})


def everything(*, flags: int = _EVERY_FLAG, subset: bool = True, landlock: bool = True
               ) -> list[Operation]:
    """A plan with everything that a host may refuse, and no command."""
    operations: list[tuple[str, *tuple[int | str | bytes, ...]]] = [
        ("join_session_keyring", KEYRING), ("clone", flags), ("standard_io", _INHERIT, 0, 0),
        ("write_id_map", 0, 0), ("write_sysctl", "/proc/sys/user/max_user_namespaces", "0"),
        ("make_private",), ("root_tmpfs", 65536, 16),
        ("make_file", CANARY, 0o755, b""),
        ("make_directory", "/proc", 0o555), ("mount_proc", "/proc", int(subset)),
        ("make_directory", "/pts", 0o755), ("mount_devpts", "/pts"),
        ("make_directory", "/bound", 0o755), ("writable_directory", "/bound", _ATTRIBUTES),
        ("root_attributes", _ATTRIBUTES), ("pivot_root",),
        ("drop_bounding", 0), ("set_securebits", _SECUREBITS), ("set_capabilities", 0),
        ("no_new_privs",), ("not_dumpable",), ("landlock_ruleset", 1, 0, 0),
        ("landlock_restrict",), ("new_session",), ("close_descriptors",),
        ("load_seccomp", _ALLOW_ALL, 0),
    ]
    if flags & OPTIONAL_NAMESPACES["network namespace"]:
        operations.append(("join_network",))
    if flags & OPTIONAL_NAMESPACES["uts namespace"]:
        operations.append(("set_hostname", "hardrun"))
    trial = (Operation(name, tuple(values)) for name, *values in operations)
    return [_COMMAND, *(o for o in trial if landlock or o.name not in _LANDLOCK)]


def explore(attempt: Try, first: Failure | None, *, landlock: bool) -> dict[str, Failure]:
    """What fails, by the name of the operation; an optional namespace by its own name.

    ``first`` is what the attempt of ``everything`` came to. ``proc_subset`` stands for mount_proc
    with ``subset=pid``. When an operation fails that every sandbox needs, the filters alone are
    tried: the landlock tier is made of them.
    """
    failures: dict[str, Failure] = {}
    flags, subset = _EVERY_FLAG, True
    without: set[str] = set()
    failure = first
    while failure is not None:
        name = failure.operation
        if name == "clone":
            possible = _possible_flags(attempt, failures) if flags == _EVERY_FLAG else 0
            if possible in (0, flags):
                failures |= {**_filters(attempt, landlock=landlock), name: failure}
                break
            flags = possible
        elif name == "mount_proc" and subset:
            failures["proc_subset"] = failure
            subset = False
        else:
            failures[name] = failure
            more = _OPTIONAL.get(name, _ALL_BUT_FILTERS)
            if without.issuperset(more):
                break
            without.update(more)
        operations = everything(flags=flags, subset=subset, landlock=landlock)
        failure = attempt([o for o in operations if o.name not in without])
    return failures


def _filters(attempt: Try, *, landlock: bool) -> dict[str, Failure]:
    """What fails of the filters where no namespace can be made: tried without any."""
    failures: dict[str, Failure] = {}
    left = [o for o in everything(flags=0, landlock=landlock) if o.name not in _ALL_BUT_FILTERS]
    left += [Operation("landlock_path", ("/", 1))] if landlock else []
    while (failure := attempt(left)) is not None:
        if failure.operation not in _OPTIONAL:
            return dict.fromkeys((*_LANDLOCK, "load_seccomp"), failure)
        failures[failure.operation] = failure
        left = [o for o in left if o.name not in _OPTIONAL[failure.operation]]
    return failures


def _possible_flags(attempt: Try, failures: dict[str, Failure]) -> int:
    """The namespaces that can be made; 0 when not even those that every sandbox needs."""
    def fails(flags: int) -> Failure | None:
        failure = attempt([_COMMAND, Operation("clone", (flags,)),
                           Operation("standard_io", (_INHERIT, 0, 0))])
        return failure if failure is not None and failure.operation == "clone" else None

    if fails(_NEEDED) is not None:
        return 0
    flags = _NEEDED
    for name, flag in OPTIONAL_NAMESPACES.items():
        failure = fails(_NEEDED | flag)
        if failure is None:
            flags |= flag
        else:
            failures[name] = failure._replace(operation=name)
    return flags


_ALL_BUT_FILTERS = frozenset(o.name for o in everything()) - {
    "clone", "standard_io", "no_new_privs", *_LANDLOCK, "load_seccomp", "argument"}


def id_range(newuidmap: str, newgidmap: str, own: tuple[int, int], subordinate: tuple[int, int]
             ) -> list[Operation]:
    """A plan that maps the caller's ids and one subordinate id each, and drops all groups.

    ``own`` and ``subordinate`` are a uid and a gid. Only where newgidmap maps a subordinate gid
    does the kernel leave setgroups(2) usable (user_namespaces(7)).
    """
    def arguments(mine: int, other: int) -> bytes:
        return b"".join(b"%d\0" % number for number in (0, mine, 1, 1, other, 1))

    return [
        _COMMAND,
        Operation("clone", (_NEEDED,)),
        Operation("standard_io", (_INHERIT, 0, 0)),
        Operation("write_id_map_helper", (newuidmap, arguments(own[0], subordinate[0]))),
        Operation("write_id_map_helper", (newgidmap, arguments(own[1], subordinate[1]))),
        Operation("await_id_maps", ()),
        Operation("set_groups", (b"",)),
    ]


def selinux_type(name: str, file_type: str) -> list[Operation]:
    """A plan that executes an empty file with a type of SELinux, and with a tmpfs of its own."""
    module = "selinux"
    operations: list[tuple[str, *tuple[int | str | bytes, ...]]] = [
        ("draw_label", name, file_type, 0), ("clone", _NEEDED), ("standard_io", _INHERIT, 0, 0),
        ("expect_label", module, name), ("write_id_map", 0, 0), ("make_private",),
        ("root_tmpfs", 65536, 16), ("make_file", CANARY, 0o755, b""),
        ("make_directory", "/proc", 0o555), ("mount_proc", "/proc", 0), ("pivot_root",),
        ("no_new_privs",), ("set_exec_label", module, name),
    ]
    return [_COMMAND, *(Operation(operation, tuple(values)) for operation, *values in operations)]
