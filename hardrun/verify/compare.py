"""Compare a live process with its Decision: a read-back for every control, or a written reason.

    credentials.py  ids, capabilities, no_new_privs, seccomp, namespaces, network
    filesystem.py   mounts, devices, proc
    process.py      session, terminal, descriptors, umask, environment, labels
    limits.py       rlimits, sizes of tmpfs
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from hardrun.posture import filesystem as fs
from hardrun.posture import ids, mandatory, namespaces
from hardrun.posture import limits as amounts
from hardrun.posture import process as traits
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.devices import DEVICES
from hardrun.posture.environment import ENVIRONMENT
from hardrun.posture.network import NETWORK
from hardrun.posture.registry import BY_ID
from hardrun.posture.seccomp import SECCOMP
from hardrun.verify import credentials, filesystem, limits, process
from hardrun.verify.check import Answer, Check, ReadBack, Subject, Unreadable
from hardrun.verify.live import LivePosture, Observer, observe

if TYPE_CHECKING:
    from hardrun.policy.decision import ControlDecision, Decision

READ_BACK: Mapping[str, ReadBack] = MappingProxyType({
    NETWORK.id: credentials.network,
    fs.VISIBLE.id: filesystem.shown,
    fs.READABLE.id: filesystem.readable,
    fs.WRITABLE.id: filesystem.writable,
    fs.PROTECTED.id: filesystem.protected,
    fs.READ_ONLY_ROOT.id: filesystem.read_only_root,
    fs.PROC.id: filesystem.proc,
    DEVICES.id: filesystem.devices,
    CAPABILITIES.id: credentials.capabilities,
    traits.NO_NEW_PRIVS.id: credentials.no_new_privs,
    SECCOMP.id: credentials.seccomp,
    mandatory.MANDATORY.id: process.mandatory,
    namespaces.SHARED.id: credentials.shared_namespaces,
    ids.RANGE.id: credentials.id_range,
    ids.USER.id: credentials.id_inside,
    ids.SUPPLEMENTARY_GROUPS.id: credentials.supplementary_groups,
    ENVIRONMENT.id: process.environment,
    traits.TERMINAL.id: process.terminal,
    traits.SESSION.id: process.session,
    traits.DESCRIPTORS.id: process.descriptors,
    traits.UMASK.id: process.umask,
    amounts.TMPFS.id: limits.tmpfs,
    amounts.INODES.id: limits.inodes,
    **limits.BY_RLIMIT,
})
"""How each control is read back from the kernel."""

NOT_READ_BACK: Mapping[str, str] = MappingProxyType({
    traits.SECUREBITS.id: "a process's securebits show to itself alone (PR_GET_SECUREBITS)",
    mandatory.LANDLOCK.id: "the kernel does not show a process's Landlock domain",
    namespaces.NESTED.id: "user.max_user_namespaces of a namespace shows only inside of it",
    traits.KEYRING.id: "a process's session keyring shows to itself alone",
    amounts.SWAP.id: "there is no cgroup to read it from",
    amounts.CPUS.id: "there is no cgroup to read it from",
    amounts.TIMEOUT.id: "the executor counts it; it is no state of the process",
    amounts.OUTPUT.id: "the executor counts it; it is no state of the process",
})
"""Why the others can't be."""

OF_INIT = frozenset({CAPABILITIES.id, traits.NO_NEW_PRIVS.id, namespaces.SHARED.id, ids.RANGE.id,
                     ids.SUPPLEMENTARY_GROUPS.id})
"""What PID 1 has in common with the workload. It has no filter and no limits: all would inherit."""


def compare(
    decision: Decision,
    live: LivePosture,
    *,
    observer: Observer | None = None,
    at_gate: bool = False,
    resolve: Callable[[str], str] = os.path.realpath,
) -> tuple[Check, ...]:
    """Compare one process with the Decision that it runs under, control by control.

    ``at_gate``: it has not run an instruction yet, so everything must be exactly as decided.
    """
    observer = observer or Observer.read()
    posture = decision.posture
    checks = []
    for decided in decision.controls:
        if live.is_init and decided.control not in OF_INIT:
            continue
        subject = Subject(live, observer, posture, decision.workload, decided.enforcement.by,
                          at_gate, resolve)
        checks.append(_check(decided, subject))
    return tuple(checks)


def _check(decided: ControlDecision, subject: Subject) -> Check:
    control, enforcement = decided.control, decided.enforcement
    expected = decided.shown or BY_ID[control].show(subject.posture[BY_ID[control]])
    reason = NOT_READ_BACK.get(control)
    if enforcement.kind == "degraded" and not enforcement.by:
        reason = f"not enforced on this host: {enforcement.because}"
    if reason is None:
        try:
            answer: Answer = READ_BACK[control](subject)
        except Unreadable as unreadable:
            reason = str(unreadable)
        else:
            return Check(control, expected, answer.observed,
                         "holds" if answer.holds else "differs", answer.evidence)
    return Check(control, expected, "", "unknown", reason)


def verify_process(pid: int, decision: Decision) -> tuple[Check, ...]:
    """Compare a process that stands at the gate, its exec done and no instruction run.

    Raises ProcessLookupError when it is gone.
    """
    return compare(decision, observe(pid), at_gate=True)
