"""Read-backs of session, terminal, descriptors, umask, environment and labels."""

from __future__ import annotations

import os
import re

from hardrun.kernel import selinux
from hardrun.kernel.lsm import apparmor_loaded, profile_of
from hardrun.kernel.selinux import Context
from hardrun.posture import process
from hardrun.posture.environment import ENVIRONMENT
from hardrun.posture.network import NETWORK
from hardrun.verify import canaries
from hardrun.verify.check import Answer, Subject, Unreadable, listed, not_bound

_STANDARD = frozenset({0, 1, 2})
_MOUNT_LABEL = re.compile(r'\bcontext=(?:"([^"]*)"|([^,]*))')
_DRAWN = 2  # categories, by the executor
_TERMINAL = re.compile(r"/dev/(pts/\d+|tty\w*|console|ptmx)( \(deleted\))?")
# Set by the plan itself, never taken over: see hardrun.plan.confinement.
_SET_BY_PLAN = frozenset({"HOME", "TMPDIR", "USER", "LOGNAME", "PATH", "TERM",
                          "GIT_CONFIG_NOSYSTEM"})
# Files that live nowhere: the kernel shows a path for them that is none of a file system.
_NOWHERE = ("/memfd:", "/dev/zero (deleted)", "/SYSV", "/[aio]")


def session(subject: Subject) -> Answer:
    """A session whose leader is inside; the caller's would show as 0 there."""
    inside = subject.live.status.sessions
    if not inside:
        raise Unreadable("this kernel does not show NSsid")
    own = inside[-1] != 0
    wanted = subject.value(process.SESSION)
    return Answer(own or not wanted, "own session" if own else "the caller's session",
                  "/proc/PID/status NSsid")


def terminal(subject: Subject) -> Answer:
    """No terminal but one of the sandbox's own devpts, where one is granted."""
    value = subject.value(process.TERMINAL)
    stat, descriptors = subject.read("stat"), subject.read("descriptors")
    if value == "inherited":
        return not_bound("may be the caller's", "/proc/PID/stat, fd")
    mounts = {m.id for m in subject.read("mounts")}
    terminals = {fd: d for fd, d in descriptors.items() if _TERMINAL.fullmatch(d.target)}
    foreign = [fd for fd, d in terminals.items() if d.mount not in mounts]
    if value == "none":
        observed = f"controlling terminal {_device(stat.terminal)}, on descriptors " \
                   f"{listed(terminals)}"
        return Answer(not stat.terminal and not terminals, observed, "/proc/PID/stat, fd")
    return Answer(not foreign, f"terminals of the host on descriptors: {listed(foreign)}",
                  "/proc/PID/fd, fdinfo, mountinfo")


def _device(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}" if number else "none"


def descriptors(subject: Subject) -> Answer:
    """At the start nothing but 0-2 and those named; later, nothing that leads out of the sandbox:
    a file on none of its mounts, a socket of the caller's network.
    """
    allowed = subject.value(process.DESCRIPTORS)
    if subject.live.is_init:  # whose socket to its parent is of the caller's network
        return canaries.descriptors_of_init(subject)
    found = subject.read("descriptors")
    extra = {fd: d for fd, d in found.items() if fd not in _STANDARD | allowed}
    if process.ANY_DESCRIPTOR in allowed:
        return not_bound(f"{len(found)} open", "/proc/PID/fd")
    if not subject.at_gate:
        mounts = {m.id for m in subject.read("mounts")}
        foreign = frozenset() if subject.value(NETWORK) == "host" else \
            frozenset(f"socket:[{inode}]" for inode in subject.observer.sockets)
        extra = {fd: d for fd, d in extra.items()
                 if (d.target.startswith("/") and d.mount not in mounts
                     and not d.target.startswith(_NOWHERE)) or d.target in foreign}
    shown = "; ".join(f"{fd} → {d.target}" for fd, d in sorted(extra.items()))
    what = "besides 0-2" if subject.at_gate else "outside the sandbox's mounts and network"
    return Answer(not extra, shown or f"none {what}", "/proc/PID/fd, fdinfo, mountinfo")


def umask(subject: Subject) -> Answer:
    """The umask, which a process may change for itself once it runs."""
    wanted, found = subject.value(process.UMASK), subject.live.status.umask
    if found is None:
        raise Unreadable("this kernel does not show Umask (before 4.7)")
    if found & wanted != wanted and not subject.at_gate:
        raise Unreadable(f"now {found:04o}: a process may change its own")
    return Answer(found & wanted == wanted, f"{found:04o}", "/proc/PID/status Umask")


def environment(subject: Subject) -> Answer:
    """At the start no variable but those on the list and those that were set."""
    found = subject.read("environment")
    given = frozenset(subject.workload.get("environment", {}).get("set", ()))
    patterns = subject.value(ENVIRONMENT)
    extra = [name for name in found - given - _SET_BY_PLAN
             if not any(_matches(name, pattern) for pattern in patterns)]
    if extra and not subject.at_gate:
        raise Unreadable("others than at the start, where it is compared (--verify): a process "
                         "gives its children what it likes")
    return Answer(not extra, f"not on the list: {listed(extra)}" if extra else
                  f"{len(found)} variables", "/proc/PID/environ")


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def mandatory(subject: Subject) -> Answer:
    """The labels that the Decision chose for this host (LM-02)."""
    labels = [layer for layer in subject.layers if layer.startswith(("apparmor:", "selinux:"))]
    if not labels:
        return canaries.landlock(subject) if "landlock" in subject.layers else \
            not_bound("no label was asked for", "/proc/PID/attr/current")
    wrong = [label for label in labels if not _labelled(subject, label)]
    replaced = [label for label in labels if _replaced(subject, label)]
    context = Context.parse(subject.live.selinux or "")
    loosened = selinux.loosened(context) if context else ()
    shown = subject.live.apparmor or subject.live.selinux or "no label"
    shown += f"; loaded anew since the start: {listed(replaced)}" if replaced else ""
    shown += f"; its type may now do: {listed(loosened)}" if loosened else ""
    shown += "; SELinux only reports" if context and selinux.enforcing() is False else ""
    return Answer(not wrong and not replaced and not loosened, shown, "/proc/PID/attr/current")


def _replaced(subject: Subject, label: str) -> bool:
    """Whether a profile has another content than at the start: its name and its mode stay."""
    module, _, name = label.partition(":")
    loaded = apparmor_loaded(name) if module == "apparmor" else None
    started = subject.evidence.started
    return loaded is not None and started is not None and loaded > started


def _labelled(subject: Subject, label: str) -> bool:
    module, _, name = label.partition(":")
    if module == "apparmor":
        # A stack shows as a//&b, each with a mode of its own where they differ.
        profiles = [profile_of(part) for part in (subject.live.apparmor or "").split("//&")]
        whole_mode = profiles[-1][1]
        return any(profile == name and (mode or whole_mode) == "enforce"
                   for profile, mode in profiles)
    return _has_type(subject, name)


def _has_type(subject: Subject, name: str) -> bool:
    """The type, enforced, with the categories that the sandbox's own file systems have too."""
    found = Context.parse(subject.live.selinux or "")
    if found is None or found.type != name or selinux.enforcing() is False or \
            selinux.is_permissive(found):
        return False
    shown = (",".join(mount.super_options) for mount in subject.read("mounts"))
    labels = (Context.parse(match[1] or match[2]) for options in shown
              if (match := _MOUNT_LABEL.search(options)))
    own = {label.range for label in labels if label and label.type == selinux.file_type(name)}
    drawn = len(found.categories) == _DRAWN or (
        not found.categories and selinux.clearance() < _DRAWN)
    return drawn and own == {found.range}
