"""Read-backs of session, terminal, descriptors, umask, environment and labels."""

from __future__ import annotations

import os
import re

from hardrun.kernel.lsm import profile_of
from hardrun.posture import process
from hardrun.posture.environment import ENVIRONMENT
from hardrun.verify.check import Answer, Subject, Unreadable, listed, not_bound

_STANDARD = frozenset({0, 1, 2})
_TERMINAL = re.compile(r"/dev/(pts/\d+|tty\w*|console|ptmx)( \(deleted\))?")
# Set by the plan itself, never taken over: see hardrun.plan.confinement.
_SET_BY_PLAN = frozenset({"HOME", "TMPDIR", "USER", "LOGNAME", "PATH", "TERM"})
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
    """At the start nothing but 0-2 and those named; later, nothing that leads out of the mounts."""
    allowed = subject.value(process.DESCRIPTORS)
    found = subject.read("descriptors")
    extra = {fd: d for fd, d in found.items() if fd not in _STANDARD | allowed}
    if process.ANY_DESCRIPTOR in allowed:
        return not_bound(f"{len(found)} open", "/proc/PID/fd")
    if not subject.at_gate:
        mounts = {m.id for m in subject.read("mounts")}
        extra = {fd: d for fd, d in extra.items()
                 if d.target.startswith("/") and d.mount not in mounts
                 and not d.target.startswith(_NOWHERE)}
    shown = "; ".join(f"{fd} → {d.target}" for fd, d in sorted(extra.items()))
    what = "besides 0-2" if subject.at_gate else "outside the sandbox's mounts"
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
    if not subject.at_gate:
        raise Unreadable("a process may change its own; it is compared at the start (--verify)")
    found = subject.read("environment")
    given = frozenset(subject.workload.get("environment", {}).get("set", ()))
    patterns = subject.value(ENVIRONMENT)
    extra = [name for name in found - given - _SET_BY_PLAN
             if not any(_matches(name, pattern) for pattern in patterns)]
    return Answer(not extra, f"not on the list: {listed(extra)}" if extra else
                  f"{len(found)} variables", "/proc/PID/environ")


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def mandatory(subject: Subject) -> Answer:
    """The labels that the Decision chose for this host (LM-02)."""
    labels = [layer for layer in subject.layers if layer.startswith(("apparmor:", "selinux:"))]
    if not labels:
        raise Unreadable("the kernel does not show a process's Landlock domain"
                         if "landlock" in subject.layers else "no label was asked for")
    wrong = [label for label in labels if not _labelled(subject, label)]
    shown = subject.live.apparmor or subject.live.selinux or "no label"
    return Answer(not wrong, shown, "/proc/PID/attr/current")


def _labelled(subject: Subject, label: str) -> bool:
    module, _, name = label.partition(":")
    if module == "apparmor":
        # A stack shows as a//&b, each with a mode of its own where they differ.
        profiles = [profile_of(part) for part in (subject.live.apparmor or "").split("//&")]
        whole_mode = profiles[-1][1]
        return any(profile == name and (mode or whole_mode) == "enforce"
                   for profile, mode in profiles)
    return (subject.live.selinux or "").split(":")[2:3] == [name]
