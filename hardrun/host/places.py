"""Places of the caller's that hardrun works best with, and runs without."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hardrun import cache
from hardrun.host.causes import FIXES
from hardrun.host.facts import Fact
from hardrun.kernel import mounts, procfs
from hardrun.kernel.mounts import Mount

# File systems whose server knows nothing of user namespaces: only the caller's own id counts there.
NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p",
    "virtiofs", "panfs", "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"})


def home(path: str, table: Sequence[Mount] | None = None) -> Fact:
    """The home directory, by the file system that it lies on; ``table`` are the mounts."""
    table = mounts.parse(procfs.mountinfo()) if table is None else table
    real = os.path.realpath(path)
    above = [m for m in table if (real + "/").startswith(m.mount_point.rstrip("/") + "/")]
    deepest = max(above, key=lambda m: len(m.mount_point), default=None)
    kind = deepest.type if deepest else "unknown"
    if kind in NETWORK:
        return Fact(
            available=False, detail=f"{path} lies on {kind}", layer="network file system",
            cause="home-in-network", fix=FIXES["home-in-network"])
    if not os.path.isdir(real):
        return Fact(available=False, detail=f"{path} is not there", layer="account",
                    cause="no-home", fix=FIXES["no-home"])
    return Fact(available=True, detail=f"{path} on {kind}")


def stored_plans() -> Fact:
    """Whether plans can be stored, by storing something."""
    directory = cache.plans_directory()
    error = cache.refused()
    if error is None:
        return Fact(available=True, detail=directory or "")
    return Fact(
        available=False, detail=f"{directory or 'no HOME'}: {error.strerror}", layer="file system",
        cause="no-cache", fix=FIXES["no-cache"])
