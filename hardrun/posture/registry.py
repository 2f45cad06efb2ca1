"""Every control there is, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardrun.posture import filesystem, ids, limits, mandatory, namespaces, process
from hardrun.posture.capabilities import CAPABILITIES
from hardrun.posture.control import Control
from hardrun.posture.devices import DEVICES
from hardrun.posture.environment import ENVIRONMENT
from hardrun.posture.network import NETWORK
from hardrun.posture.seccomp import SECCOMP
from hardrun.posture.tier import MIN_TIER

CONTROLS: tuple[Control[Any], ...] = (
    MIN_TIER,
    NETWORK,
    filesystem.VISIBLE,
    filesystem.READABLE,
    filesystem.WRITABLE,
    filesystem.PROTECTED,
    filesystem.READ_ONLY_ROOT,
    filesystem.OVERLAY,
    filesystem.PROC,
    DEVICES,
    CAPABILITIES,
    process.NO_NEW_PRIVS,
    process.SECUREBITS,
    SECCOMP,
    mandatory.LANDLOCK,
    mandatory.MANDATORY,
    namespaces.SHARED,
    namespaces.NESTED,
    ids.RANGE,
    ids.USER,
    ids.SUPPLEMENTARY_GROUPS,
    ENVIRONMENT,
    process.TERMINAL,
    process.SESSION,
    process.KEYRING,
    process.DESCRIPTORS,
    process.UMASK,
    *limits.ALL,
)

BY_ID: Mapping[str, Control[Any]] = {control.id: control for control in CONTROLS}
