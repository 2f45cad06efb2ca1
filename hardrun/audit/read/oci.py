"""``config.json`` of an OCI bundle (runtime-spec 1.3, config.md and config-linux.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hardrun.audit.located import At
from hardrun.audit.model import Place, Seen, Subject
from hardrun.audit.read import engine, seccomp
from hardrun.audit.read.gather import Gather
from hardrun.posture.capabilities import CAPABILITIES

_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_FACTS: Mapping[str, tuple[str, str]] = {
    "network": ("network_mode", "host"), "pid": ("pid_namespace", "host"),
    "mount": ("mount_namespace", "host"), "user": ("user_namespace", "host")}
_SHARED = ("ipc", "uts", "cgroup")
# Files that an engine makes for each container, from its own directories.
_MADE = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/dev/shm",  # nosec B108 - names
         "/run/.containerenv", "/run/secrets", "/sys/fs/cgroup")
# crun(1): these load code, replace the filter or write files.
_RISKY = ("run.oci.seccomp.plugins", "run.oci.seccomp_bpf_data", "run.oci.hooks.stdout",
          "run.oci.hooks.stderr", "run.oci.handler", "run.oci.keep_original_groups",
          "run.oci.seccomp.receiver", "org.criu.config")
_UNSAID = "the bundle does not say"


def is_bundle(document: At) -> bool:
    """Whether it is the configuration of a bundle."""
    return bool(document.get("ociVersion").text()) and (
        document.get("process").is_map or document.get("linux").is_map)


def read(document: At) -> Iterator[Subject]:
    """The one container of a bundle."""
    name = document.get("hostname").text() or "bundle"
    gather = Gather("oci", name, "bundle", document.place)
    process, linux = document.get("process"), document.get("linux")
    _process(gather, process)
    _namespaces(gather, linux)
    _mounts(gather, document)
    _filters(gather, process, linux)
    _limits(gather, linux.get("resources"))
    for moment, hooks in document.get("hooks").items():
        for hook in hooks.elements():
            gather.add("hooks", f"{moment}: {hook.get('path').text()}", hook.place)
    for key, value in document.get("annotations").items():
        if key in _RISKY:
            gather.add("risky_annotations", key, value.place)
    for key, value in linux.get("sysctl").items():
        gather.add("sysctls", key, value.place)
    gather.nothing("hooks", "risky_annotations", "sysctls", "literal_secrets")
    yield gather.subject()


def _process(gather: Gather, process: At) -> None:
    held: dict[str, Place] = {}
    for name in _SETS:
        for word, item in process.get("capabilities", name).words():
            if word in CAPABILITIES.loosest:
                held.setdefault(word, item.place)
    place = process.get("capabilities").place
    gather.values["capabilities"] = Seen(frozenset(held), place, elements=held)
    privileges = process.get("noNewPrivileges")
    if privileges.truth() is not None:
        gather.say("no_new_privs", bool(privileges.truth()), privileges.place)
    gather.default("no_new_privs", value=False, place=privileges.place)
    user = process.get("user", "uid")
    if user.number() is not None:
        gather.say("ids.user", "root" if user.number() == 0 else "self", user.place)
    gather.default("ids.user", "root", user.place)
    for word, item in process.get("env").words():
        gather.variable(*word.partition("=")[::2], item.place)


def _namespaces(gather: Gather, linux: At) -> None:
    listed = linux.get("namespaces")
    found = {entry.get("type").text(): entry for entry in listed.elements()}
    for kind, (fact, host) in _FACTS.items():
        entry = found.get(kind)
        if entry is None:
            gather.say(fact, host, listed.place)
            if kind == "user":  # what no engine has unasked, in contrast to the others
                gather.values[fact] = Seen(host, listed.place, said=False)
        elif entry.get("path").text() and fact in ("network_mode", "pid_namespace"):
            gather.say(fact, "shared", entry.get("path").place)
        else:
            gather.say(fact, "own", entry.place)
    for kind in _SHARED:
        if kind not in found:
            gather.add("namespaces.shared", kind, listed.place)
    gather.nothing("namespaces.shared")
    if "network" not in found and listed:
        gather.say("network_mode", "host", listed.place)


def _mounts(gather: Gather, document: At) -> None:
    root = document.get("root", "readonly")
    if root.truth() is not None:
        gather.say("filesystem.read_only_root", bool(root.truth()), root.place)
    gather.default("filesystem.read_only_root", value=False, place=root.place)
    for mount in document.get("mounts").elements():
        source = mount.get("source").text()
        options = [word for word, _ in mount.get("options").words()]
        bound = {"bind", "rbind"} & set(options) or mount.get("type").text() == "bind"
        if bound and source.startswith("/") and \
                mount.get("destination").text() not in _MADE:
            engine.mounted(gather, source, options, mount.get("source").place)
    propagation = document.get("linux", "rootfsPropagation")
    if propagation.text() in ("shared", "slave"):
        gather.loosest("propagation", propagation.text(), propagation.place)
    gather.default("propagation", "private")
    for device in document.get("linux", "devices").elements():
        gather.add("host_devices", device.get("path").text() or "?", device.get("path").place)
    gather.nothing("filesystem.readable", "filesystem.writable", "host_devices")


def _filters(gather: Gather, process: At, linux: At) -> None:
    filters = linux.get("seccomp")
    if filters:
        gather.say("seccomp_mode", "profile", filters.place)
        seccomp.profile(gather, filters)
    gather.default("seccomp_mode", "unconfined", filters.place)
    label = process.get("apparmorProfile")
    if label.text():
        gather.say("apparmor_mode", "unconfined" if label.text() == "unconfined" else "profile",
                   label.place)
    masked = linux.get("maskedPaths")
    if masked.is_list and any(True for _ in masked.elements()):
        gather.say("proc_mount", "masked", masked.place)
    elif masked.is_list:
        gather.say("proc_mount", "unmasked", masked.place)
    gather.default("proc_mount", "unmasked", masked.place)


def _limits(gather: Gather, resources: At) -> None:
    for control, names, factor in (("limits.memory", ("memory", "limit"), 1.0),
                                   ("limits.pids", ("pids", "limit"), 1),
                                   ("limits.cpus", ("cpu", "quota"), 1e-2)):
        at = resources.get(*names)
        if at.number() is not None and (at.number() or 0) > 0:
            gather.say(control, max(1, int((at.number() or 0) * factor)), at.place)
        gather.default(control, engine.UNLIMITED, at.place)
