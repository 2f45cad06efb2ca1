"""Compare a live process with its Decision: a read-back for every control, or a written reason.

    credentials.py  ids, capabilities, no_new_privs, seccomp, namespaces, network
    filesystem.py   mounts, devices, proc
    process.py      session, terminal, descriptors, umask, environment, labels
    limits.py       files of the cgroup, rlimits, sizes of tmpfs, what the executor itself counts
    canaries.py     Landlock, securebits, keyring, nested namespaces: tried from inside
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
from hardrun.posture.tier import MIN_TIER
from hardrun.verify import canaries, credentials, filesystem, landlock_tier, limits, process
from hardrun.verify.check import Answer, Check, Evidence, ReadBack, Subject, Unreadable
from hardrun.verify.live import LivePosture, Observer

if TYPE_CHECKING:
    from hardrun.policy.decision import ControlDecision, Decision

READ_BACK: Mapping[str, ReadBack] = MappingProxyType({
    MIN_TIER.id: credentials.tier,
    NETWORK.id: credentials.network,
    fs.VISIBLE.id: filesystem.shown,
    fs.READABLE.id: filesystem.readable,
    fs.WRITABLE.id: filesystem.writable,
    fs.PROTECTED.id: filesystem.protected,
    fs.READ_ONLY_ROOT.id: filesystem.read_only_root,
    fs.OVERLAY.id: filesystem.overlay,
    fs.PROC.id: filesystem.proc,
    DEVICES.id: filesystem.devices,
    CAPABILITIES.id: credentials.capabilities,
    traits.NO_NEW_PRIVS.id: credentials.no_new_privs,
    SECCOMP.id: credentials.seccomp,
    traits.SECUREBITS.id: canaries.securebits,
    mandatory.LANDLOCK.id: canaries.landlock,
    mandatory.MANDATORY.id: process.mandatory,
    namespaces.SHARED.id: credentials.shared_namespaces,
    namespaces.NESTED.id: canaries.nested,
    ids.RANGE.id: credentials.id_range,
    ids.USER.id: credentials.id_inside,
    ids.SUPPLEMENTARY_GROUPS.id: credentials.supplementary_groups,
    ENVIRONMENT.id: process.environment,
    traits.TERMINAL.id: process.terminal,
    traits.SESSION.id: process.session,
    traits.DESCRIPTORS.id: process.descriptors,
    traits.KEYRING.id: canaries.keyring,
    traits.UMASK.id: process.umask,
    amounts.TMPFS.id: limits.tmpfs,
    amounts.INODES.id: limits.inodes,
    amounts.TIMEOUT.id: limits.timeout,
    amounts.OUTPUT.id: limits.output,
    **limits.READ_BACK,
})
"""How each control is read back from the kernel."""

OF_INIT = frozenset({CAPABILITIES.id, traits.NO_NEW_PRIVS.id, traits.SECUREBITS.id,
                     mandatory.LANDLOCK.id, traits.KEYRING.id, traits.DESCRIPTORS.id,
                     namespaces.SHARED.id, namespaces.NESTED.id, ids.RANGE.id,
                     ids.SUPPLEMENTARY_GROUPS.id})
"""What PID 1 has in common with the workload. It has no filter and no rlimits: all would
inherit. Its cgroup is that of all."""


def compare(
    decision: Decision,
    live: LivePosture,
    *,
    observer: Observer | None = None,
    at_gate: bool = False,
    evidence: Evidence = Evidence(),  # noqa: B008 - immutable
    started_inside: bool = True,
    resolve: Callable[[str], str] = os.path.realpath,
) -> tuple[Check, ...]:
    """Compare one process with the Decision that it runs under, control by control.

    ``at_gate``: it has not run an instruction yet, so everything must be exactly as decided.
    ``evidence``: what is known of the sandbox as a whole. ``started_inside``: see ``Subject``.
    """
    observer = observer or Observer.read()
    posture = decision.posture
    bare = decision.tier == "landlock"
    read_back = {**READ_BACK, **landlock_tier.READ_BACK} if bare else READ_BACK
    checks = []
    for decided in decision.controls:
        # The reaper of the landlock tier is no part of the sandbox: it stays outside the domain.
        of_init = decided.control in OF_INIT and not bare
        if live.is_init and not of_init \
                and not limits.of_init(decided.enforcement.by):
            continue
        subject = Subject(live, observer, posture, decision.workload, decided.enforcement.by,
                          at_gate, resolve, evidence, started_inside)
        checks.append(_check(decided, subject, read_back))
    return tuple(checks)


def _check(decided: ControlDecision, subject: Subject,
           read_back: Mapping[str, ReadBack]) -> Check:
    control, enforcement = decided.control, decided.enforcement
    expected = decided.shown or BY_ID[control].show(subject.posture[BY_ID[control]])
    reason = None
    if enforcement.kind == "degraded" and not enforcement.by:
        reason = f"not enforced on this host: {enforcement.because}"
    if reason is None:
        try:
            answer: Answer = read_back[control](subject)
        except Unreadable as unreadable:
            reason = str(unreadable)
        else:
            return Check(control, expected, answer.observed,
                         "holds" if answer.holds else "differs", answer.evidence)
    return Check(control, expected, "", "unknown", reason)

