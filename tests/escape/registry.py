"""All attacks."""

from __future__ import annotations

from tests.escape import (
    attacks_credentials,
    attacks_filesystem,
    attacks_namespaces,
    attacks_process,
    attacks_syscalls,
)
from tests.escape.attacks import Attack

ATTACKS: tuple[Attack, ...] = (
    *attacks_syscalls.ATTACKS, *attacks_credentials.ATTACKS, *attacks_namespaces.ATTACKS,
    *attacks_filesystem.ATTACKS, *attacks_process.ATTACKS)
