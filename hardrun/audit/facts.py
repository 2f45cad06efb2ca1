"""What a configuration can say that is no control of a sandbox of hardrun's, in the same shape.

A fact is a control that nobody enforces: it has an order and a meet, so that a rule bounds it in
the language of policies. ``BOUNDABLE`` is what rules may speak of: the controls and these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.control import Control, Enforcement, degraded
from hardrun.posture.filesystem import PathSet
from hardrun.posture.orders import Covering, Flag, Level, Names, texts
from hardrun.posture.registry import CONTROLS

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

ANY_WORD = "*"


class Words(Covering[str]):
    """A set of words of any kind: ports, names of variables; ``any`` stands for all of them."""

    def covers(self, wide: str, narrow: str) -> bool:
        return wide in (narrow, ANY_WORD)

    def parse(self, raw: object) -> frozenset[str]:
        return self.normal(ANY_WORD if word == "any" else word for word in texts(raw))

    def load(self, data: Any) -> frozenset[str]:
        return self.parse(data)


def _told(value: object, facts: HostFacts) -> Enforcement:
    return degraded(because="a fact of a configuration, which a sandbox has no layer for")


def _flag(name: str, title: str, meaning: str, *, loosest: bool) -> Flag:
    return Flag(id=name, title=title, meaning=meaning, loosest=loosest, default=not loosest,
                enforce=_told)


def _level(name: str, title: str, meaning: str, *levels: str) -> Level:
    return Level(id=name, title=title, meaning=meaning, levels=levels, loosest=levels[-1],
                 default=levels[0], enforce=_told)


def _words(name: str, title: str, meaning: str) -> Words:
    return Words(id=name, title=title, meaning=meaning, loosest=frozenset({ANY_WORD}),
                 default=frozenset(), enforce=_told)


FACTS: tuple[Control[Any], ...] = (
    _flag("privileged", "privileged", "Whether the engine switches its isolation off: all"
          " capabilities and devices, no filter, no label.", loosest=True),
    _flag("windows_host_process", "HostProcess", "Whether it runs on a Windows node itself.",
          loosest=True),
    _level("network_mode", "network namespace", "none, own (a bridge), shared (another"
           " container's) or host.", "none", "own", "shared", "host"),
    _level("pid_namespace", "pid namespace", "own, shared (another container's) or host.",
           "own", "shared", "host"),
    _level("user_namespace", "user namespace", "own or host: whether id 0 inside is the host's.",
           "own", "host"),
    _level("mount_namespace", "mount namespace", "own or host.", "own", "host"),
    Names(id="capabilities_added", title="added capabilities", meaning="What the configuration adds"
          " to the engine's default.", prefix="CAP_", loosest=CAPABILITIES.loosest,
          default=frozenset(), enforce=_told),
    _level("seccomp_mode", "seccomp mode", "profile, unset (the engine decides) or unconfined.",
           "profile", "unset", "unconfined"),
    _level("apparmor_mode", "AppArmor mode", "profile, unset (the engine decides) or unconfined.",
           "profile", "unset", "unconfined"),
    _level("selinux_mode", "SELinux mode", "label, unset (the engine decides) or disabled.",
           "label", "unset", "disabled"),
    _words("selinux_types", "SELinux types", "SELinux types that are asked for."),
    _words("selinux_identity", "SELinux user and role", "SELinux users and roles asked for."),
    _level("proc_mount", "/proc masks", "masked or unmasked.", "masked", "unmasked"),
    _words("sysctls", "sysctls", "Kernel settings that are set."),
    _words("volumes", "volume types", "Types of volumes, as Kubernetes names them."),
    _words("host_ports", "host ports", "Ports of the host that lead in."),
    _words("privileged_ports", "privileged host ports", "Those of them below 1024."),
    _words("open_ports", "ports on every address", "Ports published on every address of the host."),
    _words("probe_hosts", "hosts of probes", "Other hosts that probes and hooks call."),
    _flag("enforced_non_root", "not root, enforced", "Whether the engine refuses to start a"
          " process as id 0.", loosest=False),
    PathSet(id="host_devices", title="devices of the host", meaning="Device nodes of the host that"
            " are handed in.", loosest=frozenset({"/"}), default=frozenset(), enforce=_told),
    _level("propagation", "mount propagation", "private, slave or shared (mounts made inside appear"
           " on the host).", "private", "slave", "shared"),
    _level("image_reference", "image reference", "digest, tag or latest (no tag, or that one).",
           "digest", "tag", "latest"),
    _words("literal_secrets", "secrets in plain text", "Variables and arguments whose name says"
           " secret and whose value is written out."),
    _flag("service_account_token", "service account token", "Whether the credentials of the"
          " cluster's API are mounted.", loosest=True),
    _flag("healthcheck", "health check", "Whether the engine looks if it still works.",
          loosest=False),
    _words("remote_downloads", "ADD of a URL", "What ADD fetches without a checksum."),
    _words("piped_scripts", "downloads run at once", "Downloads that a shell executes unread."),
    _words("copied_secrets", "secrets in layers", "Files of secrets that are copied into layers."),
    _words("setuid_files", "setuid files", "Files that are made setuid or setgid."),
    _words("hooks", "hooks", "Programs that the runtime executes on the host."),
    _words("risky_annotations", "annotations that change the runtime", "Annotations that make a"
           " runtime load, write or replace something."),
    _level("seccomp_default", "seccomp default action", "deny, log or allow.",
           "deny", "log", "allow"),
    _words("seccomp_allows", "allowed system calls", "System calls that a seccomp profile allows"
           " unconditionally, of those that rules speak of."),
    _words("apparmor_allows", "allowed by AppArmor", "What an AppArmor profile leaves open: mount,"
           " pivot_root, ptrace, all, write /proc, write /sys."),
    _flag("socket_bypass", "socket rule bypassed", "Whether a restriction of socket(2) can be"
          " passed by socketcall(2) of the 32-bit ABI.", loosest=True),
)

BOUNDABLE: Mapping[str, Control[Any]] = {
    **{control.place: control for control in CONTROLS}, **{fact.id: fact for fact in FACTS}}
