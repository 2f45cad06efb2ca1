"""Canaries: what is tried from inside, by a child of PID 1, and what that shows.

A Landlock domain, securebits and the session keyring show only to the process that has them; no
process can get rid of the first two, and what PID 1 started has what PID 1 has. Each canary is
chosen so that one layer alone gives the errno that is expected: a device node in a directory that
may be written meets the domain (EACCES) before the capability check (EPERM).
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hardrun.kernel import procfs
from hardrun.plan.confinement import SECUREBITS
from hardrun.plan.isolation import KEYRING
from hardrun.plan.probe import Ask
from hardrun.plan.root import CANARY, TMP
from hardrun.plan.uapi import Clone
from hardrun.posture import filesystem, mandatory, namespaces, process
from hardrun.posture.control import Posture
from hardrun.posture.filesystem import below
from hardrun.posture.seccomp import SECCOMP
from hardrun.verify.check import Answer, Subject, Unreadable, not_bound
from hardrun.verify.probe import Inside, Question

if TYPE_CHECKING:
    from hardrun.policy.decision import Decision

BY_PID_1 = "tried by a child of PID 1"
# A name that nothing inside can have taken before.
_DEVICE = Question(Ask.DEVICE, f"{TMP}/hardrun-canary-{secrets.token_hex(8)}")
_WRITABLE = Question(Ask.OPEN, TMP, os.O_WRONLY | os.O_TMPFILE)
_UNREADABLE = Question(Ask.OPEN, CANARY, os.O_RDONLY)
_SECUREBITS = Question(Ask.SECUREBITS)
_KEYS, _KEYS_FILTERED = Question(Ask.KEYRING), Question(Ask.KEYRING, filtered=True)
_DESCRIPTORS = Question(Ask.DESCRIPTORS)
_NESTED = Question(Ask.NAMESPACES, value=int(Clone.CLONE_NEWUSER))
_NESTED_FILTERED = _NESTED._replace(filtered=True)
_NAMESPACES = {name: Question(Ask.INODE, f"/proc/self/ns/{name}") for name in procfs.NAMESPACES}
WRITES = tuple(Question(Ask.OPEN, path, os.O_WRONLY | os.O_TMPFILE) for path in ("/", "/usr"))
"""A file without a name, which would be gone at once."""
OUTSIDE = Question(Ask.OPEN, "/etc/passwd", os.O_RDONLY)
"""What anybody may read and no policy that ships shows: the landlock tier's own canary."""
# What a host has and no view shows unless it is granted.
_HIDDEN = ("/etc/shadow", "/root", "/boot", "/sys/kernel", "/var/lib", "/var/log", "/home", "/mnt",
           "/run/dbus", "/run/systemd", "/run/docker.sock", "/run/user")


def questions(decision: Decision, address: str) -> list[Question]:
    """All that is asked; ``address`` is an abstract socket of the verifier's that listens."""
    posture = decision.posture
    found = [_DEVICE, _WRITABLE, _UNREADABLE, _SECUREBITS, _KEYS, _NESTED, _DESCRIPTORS, *WRITES,
             *_NAMESPACES.values()]
    if posture[SECCOMP]:
        found += [_KEYS_FILTERED, _NESTED_FILTERED]
    # Without mounts a path is there, and Landlock has no right for naming it alone (O_PATH).
    bare = decision.tier == "landlock"
    found += [Question(Ask.OPEN, path, os.O_RDONLY if bare else os.O_PATH)
              for path in hidden(posture, decision.workload)]
    found += [OUTSIDE] if bare else []
    return [*found, Question(Ask.CONNECT, address, filtered=bare)]


def hidden(posture: Posture, workload: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths that the host has and of which nothing was granted, in them or around them."""
    if workload.get("rootfs"):
        return ()  # a tree of its own, with such names in it
    granted = {path for control in (filesystem.VISIBLE, filesystem.READABLE, filesystem.WRITABLE)
               for path in posture[control]}
    granted |= {os.path.realpath(path) for path in granted} | {str(workload.get("home", "/"))}
    granted |= {str(mount["destination"]) for mount in workload.get("mounts", ())}
    return tuple(path for path in _HIDDEN if os.path.lexists(path) and not
                 any(below(g, path) or below(path, g) for g in granted))


@contextmanager
def listening() -> Iterator[str]:
    """The name of an abstract socket in the caller's network namespace that accepts anybody."""
    name = f"hardrun-canary-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(f"\0{name}")
        server.listen()
        yield name


def namespaces_of_init(inside: Inside) -> dict[str, str]:
    """The namespaces of PID 1, by the names that the kernel gives them."""
    answers = {name: inside.told.get(question) for name, question in _NAMESPACES.items()}
    return {name: f"{name}:[{told.value}]" for name, told in answers.items()
            if told is not None and told.worked}


def landlock(subject: Subject) -> Answer:
    """The domain refuses what mounts and modes would allow (EACCES), and before other checks."""
    if not subject.value(mandatory.LANDLOCK):
        return not_bound("not asked for", BY_PID_1)
    device, file = subject.told(_DEVICE), subject.tried(_UNREADABLE)
    control = subject.told(_WRITABLE)
    answers = {}
    if control.worked or device.error != errno.EACCES:
        answers[f"device node in {TMP}"] = device.shown
    if file is not None and file.error != errno.ENOENT:  # a root of the caller's own has none
        answers[f"reading {CANARY}"] = file.shown
    if not answers:
        raise Unreadable(f"{TMP} can't be written inside ({control.shown}), with or without it")
    refused = errno.errorcode[errno.EACCES]
    return Answer(all(answer == refused for answer in answers.values()),
                  "; ".join(f"{what}: {answer}" for what, answer in answers.items()), BY_PID_1)


def securebits(subject: Subject) -> Answer:
    """All bits that the plan sets are set, and locked."""
    found = subject.told(_SECUREBITS)
    if found.error:
        raise Unreadable(f"PR_GET_SECUREBITS: {found.shown}")
    lacking = int(SECUREBITS) & ~found.value
    return Answer(not lacking or not subject.value(process.SECUREBITS), f"{found.value:#x}",
                  f"{BY_PID_1}: PR_GET_SECUREBITS")


def keyring(subject: Subject) -> Answer:
    """An empty session keyring of the sandboxes' own, or no call to reach one."""
    if subject.value(process.KEYRING) == "inherited":
        return not_bound("may be the caller's", BY_PID_1)
    found, filtered = subject.told(_KEYS), subject.tried(_KEYS_FILTERED)
    name = found.text.rpartition(";")[2]
    if found.error == errno.ENOSYS:
        return Answer(holds=True, observed="this kernel has no keys", evidence=BY_PID_1)
    own = found.worked and name.partition(":")[0] == KEYRING and not found.value
    observed = f"session keyring {name!r}, {found.value} bytes" if found.worked else found.shown
    if filtered is not None:
        observed += f"; keyctl under the filter: {filtered.shown}"
    denied = filtered is not None and not filtered.worked
    replaced = "session keyring" not in subject.layers and denied
    return Answer(own or replaced, observed, f"{BY_PID_1}: keyctl")


def nested(subject: Subject) -> Answer:
    """No user namespace can be made, by the limit of the sandbox's own and by the filter."""
    limit, filtered = subject.told(_NESTED), subject.tried(_NESTED_FILTERED)
    observed = f"unshare: {limit.shown}"
    if filtered is not None:
        observed += f", under the filter: {filtered.shown}"
    refused = not limit.worked or (filtered is not None and not filtered.worked)
    return Answer(refused or subject.value(namespaces.NESTED), observed, BY_PID_1)


def descriptors_of_init(subject: Subject) -> Answer:
    """PID 1 keeps the socket to its parent and nothing else."""
    found = subject.told(_DESCRIPTORS)
    return Answer(found.worked and found.value <= 1, f"{found.value} open",
                  f"told by PID 1: {BY_PID_1}, which got them")


def reached(subject: Subject) -> list[str]:
    """Hidden paths of the host that opened from inside all the same."""
    told = subject.evidence.inside.told
    return sorted(q.text for q, answer in told.items()
                  if q.ask is Ask.OPEN and q.text in _HIDDEN and answer.worked)


def written(subject: Subject) -> list[str]:
    """Directories that are to be read-only and took a file."""
    return [q.text for q in WRITES if (told := subject.tried(q)) is not None and told.worked]


def connected(subject: Subject) -> bool:
    """Whether an abstract socket outside was reached."""
    told = subject.evidence.inside.told
    return any(q.ask is Ask.CONNECT and answer.worked for q, answer in told.items())
