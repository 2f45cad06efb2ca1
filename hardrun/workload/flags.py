"""From option values, as the command line or the Python API has them, to a Workload."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

from hardrun.errors import BadInput
from hardrun.posture import limits as controls
from hardrun.posture.control import UNLIMITED
from hardrun.posture.orders import Amount
from hardrun.workload import toolchain as toolchains
from hardrun.workload.model import Environment, Mount, Workload
from hardrun.workload.units import (
    parse_count,
    parse_cpu_list,
    parse_cpus,
    parse_duration,
    parse_size,
    parse_swap,
    parse_user,
)

LIMITS: Mapping[str, tuple[str, Callable[[str, str], int]]] = {
    "memory": ("--memory", parse_size),
    "swap": ("--swap", parse_swap),
    "cpus": ("--cpus", parse_cpus),
    "pids": ("--pids", parse_count),
    "io": ("--io", parse_size),
    "cpu_time": ("--cpu-time", parse_duration),
    "stack": ("--stack", parse_size),
    "output": ("--output-limit", parse_size),
    "timeout": ("--timeout", parse_duration),
}
"""The limits that can be asked for: ``limits.NAME`` → its flag and its parser."""
_AMOUNTS: Mapping[str, Amount] = {
    control.id.removeprefix("limits."): control for control in controls.ALL
    if isinstance(control, Amount)}

# RFC 1123 names and sethostname(2)'s 64 bytes
_HOST_NAME = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
                        r"(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", re.ASCII)


def from_flags(
    argv: Sequence[str],
    *,
    caller_directory: str,
    home: str,
    search_path: str = "",
    rootfs: str | None = None,
    writable: str | None = None,
    ro: Sequence[str] = (),
    rw: Sequence[str] = (),
    tmpfs: Sequence[str] = (),
    toolchain: Sequence[str] = (),
    workdir: str | None = None,
    env: Sequence[str] = (),
    user: str | None = None,
    userns: str | None = None,
    hostname: str | None = None,
    network: str | None = None,
    min_tier: str | None = None,
    limits: Mapping[str, str] | None = None,
    cpuset: str | None = None,
    cgroup_parent: str | None = None,
    label: Sequence[str] = (),
    trust: str | None = None,
    terminal: bool = False,
    interactive: bool = False,
) -> Workload:
    """Build a Workload from option values in the text that the flags take.

    ``limits`` maps the names of :data:`LIMITS` to texts. ``search_path`` is the caller's PATH,
    along which ``toolchain`` names are found. Relative paths start at ``caller_directory``.
    Raises BadInput, in one line that names flag, value and what to do.
    """
    _check_command(argv)
    mounts = [_grant(access, text, caller_directory) for access, texts in (("ro", ro), ("rw", rw))
              for text in texts] + [_tmpfs(text, caller_directory) for text in tmpfs]
    found = [(command, toolchains.resolve(command, search_path=search_path, home=home,
                                          directory=caller_directory)) for command in toolchain]
    mounts += [Mount(access="ro", source=path, destination=path, origin=f"--toolchain {command}")
               for command, installation in found for path in installation.paths]
    links = {name: target for _, installation in found
             for name, target in installation.links.items()}
    return Workload(
        argv=tuple(argv), caller_directory=caller_directory, home=home,
        working_directory=(None if workdir is None
                           else _absolute(workdir, caller_directory, "--workdir")),
        rootfs=None if rootfs is None else _rootfs(rootfs, caller_directory),
        writable=_writable(writable, rootfs), mounts=_distinct(mounts),
        toolchains=tuple(toolchain), links=tuple(sorted(links.items())),
        environment=_environment(env),
        network=None if network is None else _network(network),
        min_tier=_tier(min_tier), limits=_limits(limits or {}, cpuset),
        cpuset=None if cpuset is None else tuple(sorted(parse_cpu_list(cpuset, "--cpuset"))),
        user=None if user is None else parse_user(user),
        userns=None if userns is None else _userns(userns),
        hostname=None if hostname is None else _hostname(hostname),
        labels=dict(_pair(text, "--label") for text in label),
        cgroup_parent=cgroup_parent, trust=trust, terminal=terminal, interactive=interactive,
        origins={f"limits.{name}": LIMITS[name][0] for name in limits or {}},
    )


def _check_command(argv: Sequence[str]) -> None:
    if not argv or not argv[0]:
        raise BadInput("no command given", hint="hardrun run [options] -- CMD ARG...")
    for word in argv:
        _no_nul(word, "argument")


def split_destination(text: str) -> tuple[str, str | None]:
    r"""Split ``PATH[:DEST]`` at its first colon; ``\:`` is a colon of the name."""
    parts = re.split(r"(?<!\\):", text, maxsplit=1)
    words = [part.replace("\\:", ":") for part in parts]
    return words[0], words[1] if len(words) == 2 else None


def resolve_existing(path: str, caller_directory: str, flag: str) -> str:
    """The absolute path without symlinks of something that exists and can be reached.

    Raises BadInput when it does not exist or can't be reached.
    """
    absolute = _absolute(path, caller_directory, flag)
    try:
        return os.path.realpath(absolute, strict=True)
    except OSError as error:
        raise BadInput(f"{flag} {path}: {os.strerror(error.errno or 0)}",
                       hint="name a path that exists and that you may reach") from None


def _no_nul(text: str, what: str) -> str:
    if "\0" in text:
        raise BadInput(f"{what} {text!r} holds a NUL byte",
                       hint="execve(2) can't pass one: leave it out")
    return text


def _absolute(path: str, caller_directory: str, flag: str) -> str:
    if not path:
        raise BadInput(f"{flag}: an empty path", hint="name a path, such as .")
    return os.path.normpath(os.path.join(caller_directory, _no_nul(path, flag)))


def _grant(access: str, text: str, caller_directory: str) -> Mount:
    flag = f"--{access}"
    path, destination = split_destination(text)
    source = resolve_existing(path, caller_directory, flag)
    if destination is None:
        destination = _absolute(path, caller_directory, flag)
    elif not destination.startswith("/"):
        raise BadInput(f"{flag} {text}: the destination {destination!r} is not an absolute path",
                       hint=f"write a colon of a name as \\: or give {flag} {path}:/DEST")
    return Mount(access="ro" if access == "ro" else "rw", source=source,
                 destination=_normal(_no_nul(destination, flag)), origin=flag)


def _tmpfs(text: str, caller_directory: str) -> Mount:
    path, size = split_destination(text)
    return Mount(access="tmpfs", source=None,
                 destination=_normal(_absolute(path, caller_directory, "--tmpfs")),
                 size=None if size is None else _enough(parse_size(size, "--tmpfs"), controls.TMPFS,
                                               f"--tmpfs {path}:", size), origin="--tmpfs")


def _normal(path: str) -> str:
    # POSIX lets "//" at the start mean something else and normpath keeps it; Linux does not
    return "/" + os.path.normpath(path).lstrip("/")


def _distinct(mounts: list[Mount]) -> tuple[Mount, ...]:
    """Drop repetitions. Raises BadInput when two grants fight for one destination."""
    seen: dict[str, Mount] = {}
    for mount in mounts:
        other = seen.setdefault(mount.destination, mount)
        if (other.access, other.source, other.size) == (mount.access, mount.source, mount.size):
            continue
        if mount.origin.startswith("--toolchain"):  # already granted, on the caller's own terms
            continue
        raise BadInput(f"{other.origin} and {mount.origin} both put something at "
                       f"{mount.destination}", hint="keep one of them")
    return tuple(seen.values())


def _rootfs(path: str, caller_directory: str) -> str:
    resolved = resolve_existing(path, caller_directory, "--rootfs")
    if not os.path.isdir(resolved):
        raise BadInput(f"--rootfs {path}: not a directory",
                       hint="unpack the image and name the directory")
    return resolved


def _writable(text: str | None, rootfs: str | None) -> str | None:
    if text is None:
        return None
    if text not in ("none", "ephemeral", "persistent"):
        raise BadInput(f"--writable {text}: no such layer",
                       hint="ephemeral (gone at the end), or persistent with --name")
    if rootfs is None and text != "none":
        raise BadInput(f"--writable {text}: a layer lies over a root file system",
                       hint="name one: --rootfs DIR; without it --rw and --tmpfs grant paths")
    return text


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, separator, value = _no_nul(text, flag).partition("=")
    if not key or not separator:
        raise BadInput(f"{flag} {text}: not KEY=VALUE", hint=f"such as {flag} team=blue")
    return key, value


def _environment(texts: Sequence[str]) -> Environment:
    inherit: dict[str, None] = {}
    values: dict[str, str] = {}
    for text in texts:
        name, separator, value = _no_nul(text, "--env").partition("=")
        if not name:
            raise BadInput(f"--env {text}: no name", hint="--env NAME or --env NAME=VALUE")
        if separator:
            values[name] = value
            inherit.pop(name, None)
        else:
            inherit[name] = None
            values.pop(name, None)
    return Environment(inherit=tuple(inherit), values=tuple(values.items()))


def _network(text: str) -> str:
    if text not in ("none", "host"):
        raise BadInput(f"--network {text}: no such network", hint="none or host")
    return text


def _userns(text: str) -> tuple[str, int]:
    """``auto``, ``auto:size=N``, or the name of a value of ids.range."""
    kind, separator, size = text.partition(":size=")
    if kind in ("single", "shared") and not separator:
        return kind, 0
    if kind not in ("auto", "own"):
        raise BadInput(f"--userns {text}: not a kind of user namespace",
                       hint="auto (ids that no other sandbox has), auto:size=N, single or shared")
    if not separator:
        return "own", 0
    if not (size.isascii() and size.isdecimal() and len(size) <= 10 and 1 <= int(size) <= 2**31):
        raise BadInput(f"--userns {text}: {size!r} is not a number of ids",
                       hint="from 1 to as many as /etc/subuid gives you, such as auto:size=1024")
    return "own", int(size)


def _tier(text: str | None) -> str | None:
    if text not in (None, "full", "landlock"):
        raise BadInput(f"--min-tier {text}: no such tier", hint="full or landlock")
    return text


def _hostname(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise BadInput(f"--hostname {text}: not a host name",
                       hint="letters, digits, dots and inner hyphens, at most 64")
    return text


def _limits(texts: Mapping[str, str], cpuset: str | None) -> dict[str, int]:
    limits: dict[str, int] = {}
    for name, text in texts.items():
        if name not in LIMITS:
            raise BadInput(f"no such limit: {name}", hint="one of " + ", ".join(LIMITS))
        flag, parse = LIMITS[name]
        limits[name] = _enough(parse(text, flag), _AMOUNTS[name], f"{flag} ", text)
    _check_limits(limits, texts, cpuset)
    return limits


def _enough(value: int, control: Amount, flag: str, text: str) -> int:
    """The value. Raises BadInput for one with which no program starts at all."""
    if value < control.least and value:
        raise BadInput(f"{flag}{text} is too small: nothing runs with less than "
                       f"{control.tell(control.least)}",
                       hint=f"{flag}{control.write(control.least)} is the least")
    return value


def _check_limits(limits: Mapping[str, int], texts: Mapping[str, str], cpuset: str | None) -> None:
    """Raise BadInput for limits that contradict each other: one of them is a mistake."""
    if cpuset is not None and "cpus" in limits \
            and limits["cpus"] > 1000 * len(parse_cpu_list(cpuset, "--cpuset")):
        raise BadInput(f"--cpus {texts['cpus']} is more than --cpuset {cpuset} has",
                       hint="name more CPUs, or ask for less of them")
    if limits.get("stack", 0) > limits.get("memory", UNLIMITED):
        raise BadInput(f"--stack {texts['stack']} is more than --memory {texts['memory']}",
                       hint="a stack is memory: give it less, or the sandbox more")
