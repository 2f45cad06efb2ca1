"""What Docker, podman and Compose write alike: security options, mounts, ports, devices, names of
namespaces (docker-run(1), podman-run(1), the Compose specification)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hardrun.audit.model import Place
from hardrun.audit.read.gather import LATER, Gather, Word, filled_later, numbers

SIZES = {"": 1, "b": 1, "B": 1, "k": 2**10, "K": 2**10, "m": 2**20, "M": 2**20, "g": 2**30,
         "G": 2**30, "t": 2**40, "kb": 2**10, "KB": 2**10, "mb": 2**20, "MB": 2**20, "gb": 2**30,
         "GB": 2**30, "Gi": 2**30, "Mi": 2**20}
UNLIMITED = 2**63 - 1
_PROPAGATION = {"shared": "shared", "rshared": "shared", "slave": "slave", "rslave": "slave"}
_NAMESPACES = {"pid": "pid_namespace", "network": "network_mode", "userns": "user_namespace"}
_SHARED = {"ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
_OWN = {"": "own", "private": "own", "bridge": "own", "default": "own", "none": "none"}


def namespace(gather: Gather, kind: str, value: str, place: Place) -> None:
    """How one namespace is chosen: ``host``, ``none``, ``container:x`` or a name."""
    if filled_later(value):
        gather.unknown("namespaces.shared" if kind in _SHARED else _NAMESPACES[kind], LATER)
        return
    if kind in _SHARED:
        if value == "host":
            gather.add("namespaces.shared", _SHARED[kind], place)
        return
    if kind == "userns" and value != "host":
        if value:
            gather.say("user_namespace", "own", place)
        return
    joined = value.startswith(("container:", "service:", "ns:"))
    mode = "host" if value == "host" else "shared" if joined else _OWN.get(value, "own")
    if kind == "pid" and mode == "none":
        mode = "own"
    gather.say(_NAMESPACES[kind], mode, place)


def namespaces_by_default(gather: Gather) -> None:
    """What an engine does with a container that says nothing."""
    gather.default("network_mode", "own")
    gather.default("pid_namespace", "own")
    gather.nothing("namespaces.shared")
    gather.unknown("user_namespace", "the engine decides (userns-remap, rootless)")


def security_options(gather: Gather, words: Iterable[Word]) -> None:
    """``--security-opt``: seccomp, apparmor, label, no-new-privileges, systempaths, unmask."""
    for word, place in words:
        key, _, value = re.sub(r"[=:]", "=", word, count=1).partition("=")
        if key in ("seccomp", "apparmor") and value.startswith(("$", "{{", "`")):
            gather.unknown(f"{key}_mode", LATER)
        elif key in ("seccomp", "apparmor") and value:
            gather.loosest(f"{key}_mode", "unconfined" if value == "unconfined" else "profile",
                           place)
        elif key == "label" and value in ("disable", "type:spc_t", "type=spc_t"):
            gather.loosest("selinux_mode", "disabled", place)
        elif key == "label" and value:
            gather.loosest("selinux_mode", "label", place)
        elif key == "no-new-privileges" and "no_new_privs" not in gather.values:
            gather.say("no_new_privs", value.lower() != "false", place)
        elif (key == "systempaths" and value == "unconfined") or key == "unmask":
            gather.loosest("proc_mount", "unmasked", place)


def by_default(gather: Gather) -> None:
    """Defaults of what security options and the rest would say."""
    for name in ("seccomp_mode", "apparmor_mode", "selinux_mode"):
        gather.default(name, "unset")
    gather.default("privileged", value=False)
    gather.default("no_new_privs", value=False)
    gather.default("proc_mount", "masked")
    gather.default("propagation", "private")
    gather.default("filesystem.read_only_root", value=False)
    for limit in ("memory", "cpus", "pids"):
        gather.default(f"limits.{limit}", UNLIMITED)
    gather.nothing("filesystem.readable", "filesystem.writable", "host_devices", "sysctls",
                   "open_ports", "privileged_ports", "literal_secrets")
    namespaces_by_default(gather)


def bind(gather: Gather, spec: str, place: Place) -> None:
    """``SOURCE:DESTINATION[:OPTIONS]``; a source that is a name is a volume of the engine's."""
    source, separator, rest = _split_mount(spec)
    if not separator or not source.startswith(("/", ".", "~", "$", "`")):
        return
    options = rest.partition(":")[2].split(",")
    mounted(gather, source, options, place)


def _split_mount(spec: str) -> tuple[str, str, str]:
    match = re.match(r"(\$\{[^}]*\}[^:]*|\$\([^)]*\)[^:]*|[^:]*)(:)(.*)", spec, re.DOTALL)
    return (match[1], match[2], match[3]) if match else (spec, "", "")


def mounted(gather: Gather, source: str, options: Iterable[str], place: Place) -> None:
    """A bind mount with its options."""
    words = frozenset(options)
    gather.host_path(source, place, read_only=bool(words & {"ro", "readonly", "readonly=true"}))
    for word in words:
        mode = _PROPAGATION.get(word.removeprefix("bind-propagation="))
        if mode:
            gather.loosest("propagation", mode, place)


def published(gather: Gather, spec: str, place: Place) -> None:
    """``[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]``."""
    parts = re.split(r":(?![^\[]*\])", spec.partition("/")[0])
    address = parts[0] if len(parts) == 3 else ""
    gather.port(parts[-2] if len(parts) >= 2 else "", address, place)


def device(gather: Gather, spec: str, place: Place) -> None:
    """``SOURCE[:DESTINATION[:rwm]]``; a CDI name (vendor/class=name) is no path."""
    source = spec.partition(":")[0]
    if source.startswith("/"):
        gather.add("host_devices", source.rstrip("/") or "/", place)


def size(gather: Gather, control: str, text: str, place: Place, factor: float = 1) -> None:
    """A limit; 0 and -1 are none."""
    amount = numbers(text, SIZES)
    if amount is None and text not in ("-1", ""):
        gather.unknown(control, LATER)
    elif amount:
        gather.say(control, int(amount * factor), place)
    elif text:
        gather.say(control, UNLIMITED, place)


def user(gather: Gather, text: str, place: Place) -> None:
    """``USER[:GROUP]``."""
    name = text.partition(":")[0]
    if not name or name.startswith(("$", "{")):
        gather.unknown("ids.user", "the image or the caller decides")
    else:
        gather.say("ids.user", "root" if name in ("0", "root") else "self", place)


def sysctl(gather: Gather, word: str, place: Place) -> None:
    """``NAME=VALUE``."""
    gather.add("sysctls", word.partition("=")[0], place)
