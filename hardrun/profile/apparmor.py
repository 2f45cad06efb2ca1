"""AppArmor profiles as text: what no run under a policy may do, whatever was mounted.

Grants differ from run to run and a profile has to hold for all of them, so what a run sees is the
business of its mounts and its Landlock rules; from the same bounds a profile says what lies beyond
all grants. Paths are those of the sandbox. ``attach_disconnected`` is not set, so that a file which
is not in the sandbox's mounts (a descriptor of the host that leaked in) has no path and is refused;
so are programs in memory files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hardrun.errors import BadInput
from hardrun.profile.rules import Rules, rules_of

PREFIX = "hardrun-"
SHIPPED = ("agent", "build", "contained", "judge", "untrusted")
"""The policies that have a profile of their own."""

EXECUTOR = "hardrun"
"""The profile that lets the executor make user namespaces."""

ATTACHMENT = ("/{usr,usr/local,opt/*}/lib{,64}/python3*/{dist,site}-packages"
              "/hardrun/executor/hardrun-exec")
"""Where distributions and tools for programs of Python put the executor."""

ABIS = ("3.0", "4.0")
DEFAULT_ABI = "3.0"
_MASKED = ("acpi", "asound", "bus", "fs", "interrupts", "irq", "kallsyms", "kcore", "keys",
           "latency_stats", "sched_debug", "scsi", "sysrq-trigger", "timer_list", "timer_stats")
_OWN_PROC = "{,task/[0-9]*/}{comm,coredump_filter,mem,oom_score_adj,timerslack_ns}"


def policy_profile(reference: str, abi: str = DEFAULT_ABI) -> str:
    """The profile of a policy, by name or file. Raises PolicyError, and BadInput for the abi."""
    if abi not in ABIS:
        raise BadInput(f"--abi {abi}: hardrun writes {' and '.join(ABIS)}")
    rules = rules_of(reference)
    name = PREFIX + rules.policies[0]
    body = [*_comment(rules), "", f"profile {name} flags=(mediate_deleted) {{",
            *_indented(_body(rules, name, abi)),
            f"  include if exists <local/{name}>", "}"]
    return "\n".join([f"abi <abi/{abi}>,", "", *body, ""])


def executor_profile(attachment: str, abi: str = "4.0", *, mode: str = "unconfined") -> str:
    """The profile that lets one program make user namespaces and restricts it no further.

    The label stays with what the program executes where no other profile is attached, so that the
    executor, which runs from a memory file, keeps it. Only distributions with abi 4.0 restrict user
    namespaces; with 3.0 the profile gives the program a name and nothing else. Raises BadInput for
    a path that no rule can spell.
    """
    if '"' in attachment or not attachment.isprintable():
        raise BadInput(f"{attachment!r}: AppArmor can't name this path",
                       hint="install hardrun below another directory")
    rule = ["  userns,", ""] if abi != "3.0" else []
    return "\n".join([
        "# Lets hardrun make user namespaces where they are restricted to programs with a profile",
        "# (kernel.apparmor_restrict_unprivileged_userns: Ubuntu from 23.10 on). Like the profiles",
        "# of podman and buildah it confines nothing: the sandbox has a profile of its own.",
        f"abi <abi/{abi}>,", "",
        f'profile {EXECUTOR} "{attachment}" flags=({mode}) {{', *rule,
        f"  include if exists <local/{EXECUTOR}>", "}", ""])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" if line else "" for line in lines)


def _comment(rules: Rules) -> Iterator[str]:
    within = " within " + ", ".join(rules.files[1:]) if rules.files[1:] else ""
    yield "# Made by hardrun profile generate from"
    yield f"# {rules.files[0]}{within}."
    yield "# What a run sees is up to its mounts and Landlock rules; this holds for every run."


def _body(rules: Rules, name: str, abi: str) -> Iterator[str]:
    own = f'"{{,**//&}}{name}{{,//&**}}"'
    yield "# No mount, umount, pivot_root, change_profile: no rule allows one."
    yield from _section("Capabilities", (f"capability {c}," for c in rules.capabilities))
    yield "# Signals go to processes of the same profile, and come from outside."
    yield "signal (receive),"
    yield f"signal (send) peer={own},"
    yield ""
    yield "# Tools of the host may look in; from inside only the same profile can be looked at."
    yield "ptrace (readby, tracedby),"
    yield f"ptrace ({'read, trace' if 'ptrace' in rules.calls else 'read'}) peer={own},"
    yield ""
    yield from _section("Sockets, as the seccomp profile has them", _sockets(rules, own))
    if abi != "3.0":
        yield from _section("Classes of abi 4.0", _newer(rules))
    yield from _files(rules)
    yield from _proc(rules.proc)
    yield from _devices(rules)


def _section(title: str, rules: Iterable[str]) -> Iterator[str]:
    lines = list(rules)
    yield f"# {title}{'.' if lines else ': none.'}"
    yield from lines
    yield ""


def _sockets(rules: Rules, own: str) -> Iterator[str]:
    for family, types in rules.sockets.items():
        if family == "unix":
            # what has no peer, and what has one: only of the same profile
            yield "unix (create, bind, listen, shutdown, getattr, setattr, getopt, setopt),"
            yield f"unix (accept, connect, send, receive) peer=(label={own}),"
        else:
            yield from (f"network {family} {kind}," for kind in types)


def _newer(rules: Rules) -> Iterator[str]:
    if rules.nested:
        yield "userns,"
    if "mq_open" in rules.calls:
        yield "mqueue,"
    if "io_uring_setup" in rules.calls:
        yield "io_uring,"


def _files(rules: Rules) -> Iterator[str]:
    yield "# Files: everything but /dev, /proc and /sys, of which some follows."
    yield "/ r,"
    yield f"{_outside(('dev', 'proc', 'sys'))} rwlkmix,"
    yield "# Directories of the system are read-only, configuration is not executed."
    yield f"audit deny {_either(rules.system)}{{,/**}} wl,"
    yield "audit deny /etc/** x,"
    yield "# Known ways out that the policy leaves closed."
    yield from (f"audit deny {path}{{,/**}} rwlkmx," for path in rules.seen)
    written = [p for p in rules.written if p not in rules.seen and p != "/run"
               and "/" + p.split("/")[1] not in rules.system]
    yield from (f"audit deny {path}{{,/**}} wl," for path in written)
    yield ""


def _proc(kind: str) -> Iterator[str]:
    rules = []
    if kind != "none":
        rules += ["/proc/ r,", "/proc/[0-9]*/{,**} r,", f"owner /proc/[0-9]*/{_OWN_PROC} rw,"]
    if kind == "masked":
        rules += ["/proc/** r,", f"audit deny /proc/{{{','.join(_MASKED)}}}{{,/**}} rwlkmx,"]
    yield from _section("/proc: processes, and of their settings what is their own", rules)


def _devices(rules: Rules) -> Iterator[str]:
    yield "# Devices, memory that is shared, terminals of the sandbox."
    yield "/dev/ r,"
    yield f"/dev/{{{','.join(rules.devices)}}} rw,"
    yield "/dev/shm/{,**} rwlk,"  # nosec B108 - a rule, nothing is opened
    if rules.terminal:
        yield "/dev/pts/{,*} rw,"
    yield ""


def _either(paths: Sequence[str]) -> str:
    return "/{" + ",".join(path.lstrip("/") for path in paths) + "}"


def shipped_text(name: str, attachment: str = "", abi: str = DEFAULT_ABI) -> str:
    """One of the profiles that ship. Raises BadInput for another name."""
    if name == EXECUTOR:
        return executor_profile(attachment or ATTACHMENT, max(abi, "4.0"))
    if name.removeprefix(PREFIX) not in SHIPPED or not name.startswith(PREFIX):
        raise BadInput(f"hardrun ships no AppArmor profile {name!r}", hint="hardrun profile list")
    return policy_profile(name.removeprefix(PREFIX), abi)


def _outside(names: Sequence[str]) -> str:
    """A pattern for everything that is neither one of the names nor below it.

    AppArmor has no exception but ``deny``, which no other rule can take back. So a pattern for each
    place where a path may leave the spelling of every name.
    """
    parts: list[str] = []
    for start in sorted({name[:end] for name in names for end in range(len(name) + 1)}):
        next_letters = "".join(sorted({n[len(start)] for n in names
                                       if n.startswith(start) and len(n) > len(start)}))
        if start and start not in names:
            parts += [start, f"{start}/**"]  # a shorter name by itself
        if next_letters:
            parts.append(f"{start}[^/{next_letters}]**")
        elif start in names:
            parts.append(f"{start}[^/]**")
    return "/{" + ",".join(parts) + "}"
