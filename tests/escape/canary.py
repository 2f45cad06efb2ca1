"""A tree of the host's that no sandbox may touch or read: the oracle outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

SECRET = b"the canary's secret\n"
Fingerprint = dict[str, tuple[object, ...]]


class Canary:
    """Files of many kinds; ``fingerprint`` before and after must be the same.

    Inode, mode, owner, times and content of each entry are compared: a file that was made, removed,
    replaced, written, truncated or changed in its mode shows, whatever its name.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "canary"
        self.path.mkdir()
        for name, mode in (("secret", 0o600), ("group", 0o640), ("ours", 0o040), ("all", 0o644)):
            (self.path / name).write_bytes(SECRET)
            (self.path / name).chmod(mode)
        shutil.copy("/usr/bin/true", self.path / "setuid")
        (self.path / "setuid").chmod(0o4755)
        os.mkfifo(self.path / "fifo")
        os.mknod(self.path / "socket", stat.S_IFSOCK | 0o600)
        (self.path / "inner/deep/down").mkdir(parents=True)
        (self.path / "inner/file").write_bytes(SECRET)
        self.before = self.fingerprint()

    def fingerprint(self) -> Fingerprint:
        """What there is."""
        found: Fingerprint = {}
        for path in (self.path, *sorted(self.path.rglob("*"))):
            status = path.lstat()
            readable = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
            content = hashlib.sha256(path.read_bytes()).hexdigest() if readable else ""
            found[str(path)] = (status.st_ino, status.st_mode, status.st_uid, status.st_gid,
                                status.st_size, status.st_mtime_ns, status.st_ctime_ns, content)
        return found

    @property
    def untouched(self) -> bool:
        """Whether all is as it was."""
        return self.fingerprint() == self.before
