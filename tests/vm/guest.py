"""What a test inside a machine may use: the guest's root, its other users, its log.

The suite runs there as ``tester`` (uid 1000, subordinate ids, two supplementary groups) in a
service of the user's own systemd manager whose cgroup is delegated to it. ``plain`` (1001) has no
subordinate ids and no session; ``elsewhere`` (1002) lives in /srv and has ten supplementary groups.
A change to the machine made as root is undone by who made it: the next test runs in the same boot.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

PATH = "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def as_root(*argv: str, check: bool = True, stdin: str = "") -> str:
    """What a command of the guest's root prints, both streams; with ``check`` it must succeed."""
    done = run_as("root", argv, stdin=stdin)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def run_as(user: str, argv: Sequence[str], *, stdin: str = "",
           directory: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, in a clean environment and without a session."""
    return subprocess.run(
        ["sudo", "-n", "-u", user, "env", "-i", "-C", directory or home(user), f"HOME={home(user)}",
         f"USER={user}", f"LOGNAME={user}", "LANG=C.UTF-8", f"PATH={PATH}", *argv],
        input=stdin, capture_output=True, text=True, check=False)


def home(user: str) -> str:
    """Where a user of the machine lives."""
    return {"root": "/root", "elsewhere": "/srv/elsewhere"}.get(user, f"/home/{user}")


def sysctl(name: str, value: str) -> str:
    """Set a sysctl as root; gives the value that was there, for the way back."""
    before = as_root("sysctl", "-n", name).strip()
    as_root("sysctl", "-q", f"{name}={value}")
    return before


def kernel_log() -> list[str]:
    """What the kernel logged since boot: denials of AppArmor and SELinux among it."""
    return as_root("dmesg").splitlines()
