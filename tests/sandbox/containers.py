"""Outer containers for the nesting tests, as an ordinary user makes them with runc and podman.

runc's own defaults are those of Docker and podman: parts of /proc masked or read-only, a single id,
no_new_privs, no capabilities. Seccomp profiles in Docker's format are brought into the one of the
OCI runtime specification, as an engine would do it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardrun.bench.peers import PODMAN_CONF, RUNTIME_SHIM
from tests.sandbox.hosts import ROOT, Host, Outcome

_ADMIN_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian has runc
RUNC = shutil.which("runc", path=_ADMIN_PATH)
CRUN = shutil.which("crun", path=_ADMIN_PATH)
PODMAN = shutil.which("podman") if shutil.which("newuidmap") else None
# Docker's, as of 28; the bounding set of what runs as another user than root.
CAPABILITIES = tuple(f"CAP_{name}" for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"))


def _shown(home: Path) -> list[str]:
    """What of the host a container sees: /usr and /etc, this tree and its Python, and a home."""
    sources = {"/usr", "/etc", str(ROOT), str(home), sys.prefix, sys.base_prefix}
    return [path for path in sorted(sources) if not any(
        path != other and path.startswith(other + "/") for other in sources)]


def _rootfs(root: Path) -> None:
    """An empty root: mount points, and the links of a merged /usr."""
    for name in ("proc", "dev", "sys", "tmp", "usr", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))


class Container:
    """A rootless container with the host's /usr and /etc, this tree and its Python.

    ``uid`` is who runs the script, ``ids`` a range of uids and one of gids that the container gets
    besides its root, who is the caller. ``changes`` are made to the section ``linux``.
    """

    def __init__(self, directory: Path, *, uid: int = 0,
                 ids: tuple[tuple[int, int], ...] = (),
                 capabilities: Sequence[str] = CAPABILITIES, **changes: Any) -> None:
        assert RUNC is not None
        self.bundle = directory
        self._changes = changes
        self._uid = uid
        self._ids = ids
        self._capabilities = {name: list(capabilities) if uid == 0 or name == "bounding" else []
                              for name in ("bounding", "effective", "permitted")}
        _rootfs(directory / "rootfs")
        subprocess.run([RUNC, "spec", "--rootless"], cwd=directory, check=True)
        self._spec = (directory / "config.json").read_text(encoding="utf-8")

    def _mounts(self, home: Path) -> list[dict[str, Any]]:
        return [{"destination": path, "source": path, "type": "none",
                 "options": ["rbind", "rw" if path == str(home) else "ro"]}
                for path in _shown(home)]

    def __call__(self, host: Host, script: str) -> Outcome:
        """Run a script in it, in the host's working directory."""
        document = json.loads(self._spec)
        document["process"] |= {
            "user": {"uid": self._uid, "gid": self._uid}, "capabilities": self._capabilities,
            "terminal": False, "args": ["/bin/sh", "-c", script], "cwd": str(host.directory),
            "env": [f"{name}={value}" for name, value in host.environment.items()]}
        document["mounts"] = [m for m in document["mounts"] if m["type"] != "cgroup"]
        document["mounts"] += self._mounts(host.home)
        document["root"]["readonly"] = False
        document["linux"] |= self._changes
        for kind, (first, size) in zip(("uidMappings", "gidMappings"), self._ids, strict=False):
            document["linux"][kind].append({"containerID": 1, "hostID": first, "size": size})
        path = self.bundle / "config.json"
        path.write_text(json.dumps(document))
        name = f"hardrun-test-{os.getpid()}-{self.bundle.name}"
        state = shlex.quote(str(self.bundle / "state"))
        return host(f"exec {RUNC} --log /dev/null --root {state} run --bundle "
                    f"{shlex.quote(str(self.bundle))} {name}")


class Podman:
    """A container as rootless podman makes it, with the profile, masks and capabilities it has
    by default; only cgroups and the network are left out, which not every host gives."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        _rootfs(directory / "rootfs")
        # podman takes no run directory of more than 50 characters
        self._run = Path(tempfile.mkdtemp(prefix="hardrun-"))
        shim = directory / "runc"
        shim.write_text(RUNTIME_SHIM.format(runc=RUNC))
        shim.chmod(0o755)
        (directory / "containers.conf").write_text(PODMAN_CONF.format(shim=shim))
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/storage"\n'
            f'rootless_storage_path = "{directory}/storage"\nrunroot = "{self._run}/storage"\n')

    @property
    def environment(self) -> dict[str, str]:
        """What podman itself has to be given."""
        return {"CONTAINERS_CONF": str(self.directory / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
                "XDG_RUNTIME_DIR": str(self._run)}

    def command(self, *options: str, network: str = "none") -> list[str]:
        """``podman run``; what is to be run inside follows."""
        return [str(PODMAN), "--log-level", "error", "--runtime", "runc", "run", "--rm",
                "--cgroups=disabled", "--ulimit", "host", "--network", network, *options,
                "--rootfs", str(self.directory / "rootfs")]

    def __call__(self, host: Host, script: str) -> Outcome:
        """Run a script in it as its root, in the host's working directory."""
        options = [f"--env={name}={value}" for name, value in host.environment.items()]
        options += [f"--volume={path}:{path}:{'rw' if path == str(host.home) else 'ro'}"
                    for path in _shown(host.home)]
        words = self.command("--workdir", str(host.directory), *options)
        return host(shlex.join([*words, "/bin/sh", "-c", script]), environment=self.environment)

    def close(self) -> None:
        """End the process that holds podman's user namespace: nobody else will."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self._run / "libpod/tmp/pause.pid").read_text()), signal.SIGKILL)
        shutil.rmtree(self._run, ignore_errors=True)

    def __enter__(self) -> Podman:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
