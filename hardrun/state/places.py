"""Where the state of a user lies.

Below the home of the account, whatever HOME and XDG_STATE_HOME say: two processes that looked into
different files would give away the same ids. Where that home can't be written, in /dev/shm. Nobody
else may write the directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from hardrun.errors import HostUnsupported


def directory() -> str:
    """Where the state of this user lies; it is made when it is not there.

    Raises HostUnsupported when there is no place that is this user's alone.
    """
    problems = []
    for path in candidates():
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            _make(path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        else:
            return path
    raise HostUnsupported(f"no place for the state database: {'; '.join(problems)}", fact="state",
                          hint="make one of them a directory that only you may write")


def candidates() -> Iterator[str]:
    """The paths at which it may lie, best first."""
    import pwd

    uid = os.getuid()
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:  # a uid without an account, as containers have them
        home = "/"
    if home.startswith("/") and home != "/":
        yield f"{home}/.local/state/hardrun"
    yield f"/dev/shm/hardrun-{uid}"  # nosec B108 - its owner is checked


def reports() -> str:
    """Where reports of containers that run are written: in memory, so that none costs disk.

    Empty until the end, they are of no use after a reboot. Raises HostUnsupported as ``directory``.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    shared = f"/dev/shm/hardrun-{os.getuid()}"  # nosec B108 - its owner is checked
    for path in (f"{runtime}/hardrun" if runtime.startswith("/") else shared, shared):
        try:
            _make(path)
        except OSError:
            continue
        return path
    return directory()


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:  # whose it is gets checked
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() \
                or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(1, "not a directory of the caller alone") from None
    if not os.access(path, os.W_OK):
        raise OSError(30, "can't be written")
