"""The generated parts of docs/hosts.md: each cause with its least fix, as doctor would print it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from hardrun.host.attempt import ExecutorUnusable, Failure
from hardrun.host.causes import CAUSES, FIXES
from hardrun.host.diagnose import caller_limit, diagnose, not_executable
from hardrun.host.distribution import Distribution
from hardrun.host.surroundings import Surroundings

_DISTRIBUTIONS = {
    "Debian, Ubuntu": "debian", "Fedora, RHEL": "fedora", "openSUSE": "suse", "Arch": "arch",
    "NixOS": "nixos", "Alpine": "alpine"}
_DEBIAN = Distribution("debian", "debian", "13")
_AROUND = Surroundings(distribution=_DEBIAN)
_FILTER = _AROUND._replace(seccomp=2, filtered=("unshare", "mount"))
_CLONE, _MAP = "clone", "write_id_map"
# A failure that comes to each cause; what is not here is told by what was looked at, in the text.
_FAILURES: Mapping[str, tuple[str, int, Surroundings]] = {
    "apparmor-restricts-userns":
        (_MAP, errno.EPERM, _AROUND._replace(apparmor_restrict_userns="1")),
    "apparmor-profile": (_MAP, errno.EACCES, _AROUND._replace(apparmor_label="NAME (enforce)")),
    "selinux-domain": (_CLONE, errno.EACCES, _AROUND._replace(selinux_context="CONTEXT")),
    "outer-seccomp": (_CLONE, errno.EPERM, _FILTER),
    "max-user-namespaces": (_CLONE, errno.ENOSPC, _AROUND._replace(max_user_namespaces="0")),
    "userns-used-up": (_CLONE, errno.ENOSPC, _AROUND),
    "unprivileged-userns-clone":
        (_CLONE, errno.EPERM, _AROUND._replace(unprivileged_userns_clone="0")),
    "no-user-namespaces": (_CLONE, errno.EINVAL, _AROUND),
    "unmapped-caller": (_CLONE, errno.EPERM, _AROUND),
    "root-without-setfcap": (_MAP, errno.EPERM, _AROUND._replace(bare_root=True)),
    "proc-read-only": (_MAP, errno.EROFS, _AROUND),
    "max-namespaces": ("network namespace", errno.ENOSPC, _AROUND),
    "no-such-namespace": ("network namespace", errno.EINVAL, _AROUND),
    "kernel-too-old": (_CLONE, errno.ENOSYS, _AROUND._replace(kernel=(5, 2))),
    "proc-covered": ("mount_proc", errno.EPERM, _AROUND._replace(covered_proc=("/proc/kcore",))),
    "no-proc": ("mount_proc", errno.EPERM, _AROUND._replace(proc_mounted=False)),
    "no-seccomp": ("load_seccomp", errno.EINVAL, _AROUND),
    "no-landlock": ("landlock_ruleset", errno.EOPNOTSUPP, _AROUND),
    "key-quota": ("join_session_keyring", errno.EDQUOT, _AROUND),
    "newuidmap-refused": ("write_id_map_helper", errno.EPERM, _AROUND),
}
_LIMITS = {"open-files": errno.EMFILE, "processes": errno.EAGAIN, "file-size": errno.EFBIG,
           "memory": errno.ENOMEM}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _fix(cause: str) -> str:
    if cause in FIXES:
        return FIXES[cause]
    if cause in _FAILURES:
        operation, number, around = _FAILURES[cause]
        found = diagnose(Failure(operation, number), around)
        assert found.cause == cause, f"{cause}: {found}"
        return found.fix
    limit = caller_limit(_LIMITS.get(cause, 0))
    if limit is not None:
        return limit.fix
    if cause == "memfd-noexec":
        return not_executable(ExecutorUnusable(errno.EACCES, "", "memory file"),
                              _AROUND._replace(memfd_noexec="2")).fix
    if cause == "no-newuidmap":
        return _DEBIAN.install_helpers()
    if cause.startswith("newuidmap-"):
        return _DEBIAN.restore_helper("/usr/bin/newuidmap", "cap_setuid")
    return _DEBIAN.subordinate_ids("USER", 165536) if cause == "no-subordinate-ids" else ""


def causes() -> Iterator[str]:
    """A row for each cause that hardrun tells apart."""
    yield _row("cause", "what stands in the way", "least fix, on Debian")
    yield _row("---", "---", "---")
    for code, meaning in CAUSES.items():
        yield _row(f"`{code}`", meaning, _fix(code))


def distributions() -> Iterator[str]:
    """What differs between distributions."""
    yield _row("distribution", "newuidmap, newgidmap", "a sysctl, now and after the next boot")
    yield _row("---", "---", "---")
    for name, family in _DISTRIBUTIONS.items():
        found = Distribution(family, family)
        yield _row(name, found.install_helpers(), found.sysctl("NAME", "VALUE"))
    wsl = Distribution("ubuntu", "debian", wsl=True)
    yield _row("WSL 2", wsl.install_helpers(), wsl.sysctl("NAME", "VALUE"))
