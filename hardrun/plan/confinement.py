"""Compile steps: credentials, environment, limits, label, filter, exec."""

from __future__ import annotations

from collections.abc import Iterable

from hardrun.kernel.capabilities import mask_of
from hardrun.plan import landlock_tier
from hardrun.plan.context import Context, Program
from hardrun.plan.isolation import dependency_of
from hardrun.plan.label import add_label
from hardrun.plan.lookup import DEFAULT_PATH
from hardrun.plan.schema import Unsafe
from hardrun.plan.uapi import Resource, Securebit
from hardrun.posture.control import UNLIMITED

# NOROOT keeps uid 0 from regaining capabilities at an exec, even without no_new_privs (CP-03).
SECUREBITS = (
    Securebit.SECBIT_NOROOT | Securebit.SECBIT_NOROOT_LOCKED
    | Securebit.SECBIT_NO_SETUID_FIXUP | Securebit.SECBIT_NO_SETUID_FIXUP_LOCKED
    | Securebit.SECBIT_KEEP_CAPS_LOCKED
)
LIMITS: tuple[tuple[str, Resource], ...] = (
    # not RLIMIT_AS: node, go and java reserve far more addresses than they use
    ("limits.memory", Resource.RLIMIT_DATA),
    ("limits.pids", Resource.RLIMIT_NPROC),
    ("limits.stack", Resource.RLIMIT_STACK),
    ("limits.cpu_time", Resource.RLIMIT_CPU),
    ("limits.open_files", Resource.RLIMIT_NOFILE),
    ("limits.file_size", Resource.RLIMIT_FSIZE),
    ("limits.core", Resource.RLIMIT_CORE),
    ("limits.locked_memory", Resource.RLIMIT_MEMLOCK),
)
"""Controls enforced by setrlimit(2) on the workload."""
_CPU_GRACE = 1  # seconds between SIGXCPU and SIGKILL
NO_CORE = 1
"""The limit that stands for no core at all. Where cores go to a program (kernel.core_pattern) the
kernel starts it at 0 as well, as the host's root and with the memory of whatever crashed
(CVE-2025-5054, CVE-2025-4598); at 1 it does not. A file of one byte is written neither (core(5)).
Only the filter keeps the workload from lowering it."""


def add_credentials(program: Program) -> None:
    """Capability sets, securebits and no_new_privs, in the order in which they are given up."""
    context = program.context
    capabilities = mask_of(context.names("capabilities"))
    if capabilities:
        program.unsafe |= Unsafe.KEEPS_CAPABILITIES
    program.add("capabilities", "drop_bounding", capabilities)
    if context.flag("securebits"):
        program.add("securebits", "set_securebits", int(SECUREBITS))
    program.add("capabilities", "set_capabilities", capabilities)
    if context.flag("no_new_privs"):
        program.add("no_new_privs", "no_new_privs")
    elif needs_no_new_privs(context):
        # stricter than the policy asks: the kernel takes a filter or a domain from a process
        # without CAP_SYS_ADMIN only so (seccomp(2), landlock_restrict_self(2))
        program.add("seccomp" if context.names("seccomp") else "landlock", "no_new_privs")
    else:
        program.unsafe |= Unsafe.NO_NEW_PRIVS_OFF
    program.add("capabilities", "not_dumpable")


def needs_no_new_privs(context: Context) -> bool:
    """Whether a seccomp filter or a Landlock domain is installed without CAP_SYS_ADMIN."""
    filters = bool(context.names("seccomp")) and context.facts.seccomp.available
    domain = context.flag("landlock") and context.facts.landlock_abi > 0
    return (filters or domain) and "CAP_SYS_ADMIN" not in context.names("capabilities")


def add_process(program: Program, argv: Iterable[str]) -> None:
    """argv as far as the plan holds it, environment, session, umask, limits and descriptors."""
    context = program.context
    for word in argv:
        program.add("argv", "argument", word)
    program.add("argv", "arguments_of_caller")
    _add_environment(program)
    if context.flag("session"):
        program.add("session", "new_session")
    else:
        program.unsafe |= Unsafe.NO_SESSION
    program.add("umask", "set_umask", context.number("umask"))
    _add_limits(program)
    program.add("descriptors", "close_descriptors")


def values_set(context: Context) -> dict[str, str]:
    """The variables that the plan itself sets; they stand before those of the caller."""
    values = {"USER": context.account.name, "LOGNAME": context.account.name}
    if context.facts.namespaces:
        values |= {"HOME": context.account.home, "TMPDIR": "/tmp"}  # nosec B108: the sandbox's own
    values.update(context.workload.environment.values)
    return values


def search_path(context: Context, default: str) -> str:
    """The PATH that the workload gets."""
    values = dict(context.workload.environment.values)
    if "PATH" in values:
        return values["PATH"]
    if inherits(context.names("environment"), "PATH"):
        return context.caller_environment.get("PATH") or default
    return default


def inherits(patterns: Iterable[str], name: str) -> bool:
    """Whether a variable is on the list; a pattern that ends in ``*`` is a prefix."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


def _add_environment(program: Program) -> None:
    context = program.context
    patterns = context.names("environment")
    values = values_set(context)
    if isinstance(context.view, landlock_tier.HostView):
        values["PATH"] = context.view.openable(search_path(context, DEFAULT_PATH))
        # git ends where a file of its own is there and can't be read
        values.setdefault("GIT_CONFIG_NOSYSTEM", "1")
    if "PATH" not in values and not (inherits(patterns, "PATH")
                                     and context.caller_environment.get("PATH")):
        values["PATH"] = DEFAULT_PATH
    for name, value in values.items():
        program.add("environment", "environment", f"{name}={value}")
    for name in () if context.facts.namespaces else ("HOME", "TMPDIR"):
        if name not in values:
            program.add("environment", "environment_of_directory", name)
    for pattern in sorted(patterns):
        if pattern not in values:
            program.add("environment", "environment_of_caller", pattern)


def _add_limits(program: Program) -> None:
    context = program.context
    for control, resource in LIMITS:
        value = context.number(control)
        if value >= UNLIMITED or resource.name not in context.layers[control]:
            continue
        soft, grace = value, 0
        if resource is Resource.RLIMIT_CPU:
            soft, grace = -(-value // 1000), _CPU_GRACE
        if resource is Resource.RLIMIT_CORE:
            soft = max(soft, NO_CORE)
        if resource is Resource.RLIMIT_NPROC and not context.facts.namespaces:
            soft += landlock_tier.processes_now(context.facts.uid)
        ceiling = context.facts.hard_limits.get(resource.name, UNLIMITED)
        soft = min(soft, ceiling)
        hard = min(soft + grace, ceiling)
        if not context.pinned:
            program.add(control, "require_hard_limit", int(resource), hard)
        program.add(control, "set_limit", int(resource), soft, hard)


def add_filter_conditions(program: Program) -> None:
    """A stored plan holds the filter, not the profiles: they must be as they were."""
    from hardrun.kernel.seccomp.prebuilt import find

    for reference in _references(program.context):
        program.add("seccomp", "require_path", *dependency_of(str(find(reference))))


def _references(context: Context) -> list[str]:
    """The profiles of the posture, and those that stand in for namespaces."""
    if context.facts.namespaces:
        return sorted(context.names("seccomp"))
    return sorted([*context.names("seccomp"), *landlock_tier.profiles(context)])


def add_filter(program: Program) -> None:
    """One seccomp program composed of all profiles of the posture."""
    context = program.context
    profiles = _references(context)
    if not profiles or not context.facts.seccomp.available:
        program.unsafe |= Unsafe.NO_SECCOMP
        return
    from hardrun.kernel.seccomp.prebuilt import filter_for

    program.add("seccomp", "load_seccomp",
                *filter_for(profiles, architecture=context.facts.architecture,
                            capabilities=context.names("capabilities"),
                            kernel_release=context.facts.kernel_release))


def add_exec(program: Program, path: str, directory: str, search_path: str) -> None:
    """Working directory, label and the exec.

    The path was found along PATH when planning, unless there is a ``search_path`` for the executor.
    """
    program.add("workdir", "change_directory", directory)
    add_label(program)
    program.add("argv", "execute", path, search_path)
