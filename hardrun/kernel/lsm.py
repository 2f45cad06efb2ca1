"""Security modules that label processes: AppArmor and SELinux, as far as a user can see them."""

from __future__ import annotations

import os
from collections.abc import Iterable

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_APPARMOR_PROFILES = "/sys/kernel/security/apparmor/profiles"
_SELINUX = "/sys/fs/selinux"


def read_line(path: str) -> str | None:
    """A file of /proc or /sys without its final newline or NUL; None when it can't be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(4096) or b""
    except OSError:
        return None
    return data.rstrip(b"\n\0").decode("utf-8", "surrogateescape")


def apparmor_enabled() -> bool:
    """Whether the kernel runs with AppArmor."""
    return read_line(_APPARMOR) == "Y"


def apparmor_label(process: int | str = "self") -> str | None:
    """The AppArmor label of a process, with its mode: ``docker-default (enforce)``.

    None without AppArmor. The directory of its own is asked first: where modules are stacked,
    attr/current belongs to another one.
    """
    if not apparmor_enabled():
        return None
    return read_line(f"/proc/{process}/attr/apparmor/current") or label(process)


def label(process: int | str = "self") -> str | None:
    """/proc/PID/attr/current: the label of whichever module owns that file; None without one."""
    return read_line(f"/proc/{process}/attr/current")


def profile_of(apparmor_label: str) -> tuple[str, str]:
    """Profile and mode of an AppArmor label: ``("docker-default", "enforce")``.

    ``unconfined`` has no mode; a profile may be named ``unconfined_foo``, which is not that.
    """
    name, separator, mode = apparmor_label.rpartition(" (")
    if separator and mode.endswith(")"):
        return name, mode[:-1]
    return apparmor_label, ""


def apparmor_profiles() -> tuple[str, ...] | None:
    """The names of the loaded profiles; None where the user may not read them."""
    try:
        with open(_APPARMOR_PROFILES, encoding="utf-8", errors="surrogateescape") as file:
            return tuple(sorted(profile_of(line.rstrip("\n"))[0] for line in file))
    except OSError:
        return None


def selinux_enforcing() -> bool | None:
    """Whether SELinux enforces; False: it only reports; None: it is not there."""
    state = read_line(f"{_SELINUX}/enforce")
    return None if state is None else state == "1"


def selinux_types(candidates: Iterable[str]) -> tuple[str, ...]:
    """Those of ``candidates`` that the loaded policy knows as types.

    The kernel checks a whole context that is written to selinuxfs; role and level are taken from
    the caller's own, with which a transition would keep them.
    """
    context = (label() or "").split(":", 3)
    if len(context) < 3:
        return ()
    user, role, _, *level = context
    return tuple(
        name for name in candidates if _context_is_valid(":".join((user, role, name, *level)))
    )


def _context_is_valid(context: str) -> bool:
    try:
        descriptor = os.open(f"{_SELINUX}/context", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, os.fsencode(context) + b"\0")
    except OSError:  # EINVAL: no such context
        return False
    finally:
        os.close(descriptor)
    return True
