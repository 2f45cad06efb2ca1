"""Security modules that label processes: AppArmor and SELinux, as far as a user can see them."""

from __future__ import annotations

import os
import select
import threading

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_APPARMOR_POLICY = "/sys/kernel/security/apparmor/policy/profiles"
_APPARMOR_REVISION = "/sys/kernel/security/apparmor/policy/revision"
ENFORCING = ("enforce", "kill")
"""The modes of AppArmor profiles that stop what is not allowed."""


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


def apparmor_label_file(process: int | str = "self") -> str:
    """Where a process's AppArmor label is read.

    The directory of its own is asked first: where modules are stacked, attr/current belongs to
    another one.
    """
    own = f"/proc/{process}/attr/apparmor/current"
    return own if os.path.exists(own) else f"/proc/{process}/attr/current"


def apparmor_label(process: int | str = "self") -> str | None:
    """The AppArmor label of a process, with its mode: ``docker-default (enforce)``.

    None without AppArmor.
    """
    return read_line(apparmor_label_file(process)) if apparmor_enabled() else None


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


def is_confined(apparmor_label: str) -> bool:
    """Whether a label limits what its process may become; a profile may be as good as none."""
    name, mode = profile_of(apparmor_label)
    return bool(name) and name != "unconfined" and mode != "unconfined"


def apparmor_directories() -> dict[str, str] | None:
    """Where the kernel shows each loaded profile, by its name; None where it shows none.

    Unlike the file ``profiles``, these can be read by everybody.
    """
    try:
        entries = os.listdir(_APPARMOR_POLICY)
    except OSError:
        return None
    found = {}
    for entry in entries:
        directory = f"{_APPARMOR_POLICY}/{entry}"
        name = read_line(f"{directory}/name")
        if name is not None:  # gone meanwhile
            found[name] = directory
    return found


def apparmor_profiles() -> dict[str, str] | None:
    """The loaded profiles and their modes; None where securityfs is not mounted (containers)."""
    directories = apparmor_directories()
    if directories is None:
        return None
    return {name: read_line(f"{directory}/mode") or "" for name, directory in directories.items()}


def apparmor_loaded(name: str) -> float | None:
    """When the content of a loaded profile was loaded, in seconds since 1970; None where that does
    not show (CONFIG_SECURITY_APPARMOR_EXPORT_BINARY). The same content once more changes nothing.
    """
    directory = (apparmor_directories() or {}).get(name)
    try:
        return None if directory is None else os.stat(f"{directory}/raw_abi").st_ctime
    except OSError:
        return None


def apparmor_revision() -> int | None:
    """How often AppArmor's policy was changed since boot; None where that does not show."""
    try:
        with open(_APPARMOR_REVISION, "rb", buffering=0) as file:
            poll = select.poll()
            poll.register(file, select.POLLIN)
            # Before the first change there is nothing to read, and read(2) waits for it.
            return int(file.read(64) or b"0") if poll.poll(0) else 0
    except (OSError, ValueError):
        return None


def apparmor_takes(command: str) -> bool:
    """Whether the kernel takes ``exec NAME`` or ``stack NAME`` for the next exec.

    It is asked by a thread of its own, which executes nothing and ends: a label for the exec is a
    thread's. ENOENT: no such profile, EACCES: the caller's own profile does not let it.
    """
    taken: list[bool] = []

    def ask() -> None:
        for path in ("apparmor/exec", "exec"):
            try:
                descriptor = os.open(f"/proc/thread-self/attr/{path}", os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # before Linux 5.8
                continue
            try:
                taken.append(os.write(descriptor, os.fsencode(command)) > 0)
            except OSError:
                taken.append(False)
            finally:
                os.close(descriptor)
            return

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return taken == [True]
