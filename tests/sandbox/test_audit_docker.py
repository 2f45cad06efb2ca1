"""Docker's containers read twice: what its daemon says, what is in force.

The set-up unpacks it and does not install it: a daemon of root's that changes the host's firewall
is nothing that tests may leave behind. The one that is started here touches neither network nor
storage of another.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardrun.audit.read import process
from hardrun.audit.rules import catalogue
from hardrun.audit.walk import Batch, read_text
from hardrun.kernel import capabilities, mounts, procfs
from tests.sandbox.agreement import TOLD, disagreements, known_to_both

ROOT = Path(__file__).resolve().parents[2]
_UNPACKED = ROOT / ".make" / "docker" / "usr"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:{_UNPACKED}/sbin:{_UNPACKED}/bin"
DOCKER, DOCKERD = (shutil.which(name, path=_PATH) for name in ("docker", "dockerd"))
if DOCKER is None or DOCKERD is None:
    pytest.skip("there is no daemon of docker's", allow_module_level=True)
pytestmark = pytest.mark.root
OPTIONS = {
    "as it comes": [],
    "hardened": ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only",
                 "--user=1000:1000"],
    "capabilities": ["--cap-drop=ALL", "--cap-add=SYS_PTRACE", "--cap-add=NET_ADMIN"],
    "another user": ["--cap-add=SYS_PTRACE", "--user=1000"],
    "the host's namespaces": ["--uts=host", "--pid=host", "--ipc=host", "--cgroupns=host"],
    "the host's network": ["--network=host"],
    "no filter": ["--security-opt=seccomp=unconfined"],
    "no masks": ["--security-opt=systempaths=unconfined"],
    "the host's settings": ["--volume=/etc:/h", "--mount=type=bind,source=/usr/bin,destination=/b"],
    "the host's secrets": ["--volume=/etc/ssh:/k:ro"],
    "a volume": ["--volume=data:/data", "--tmpfs=/tmp"],
    "the whole file system": ["-v", "/:/mnt"],
    "the engine's socket": ["--volume=/run:/s"],
    "privileged": ["--privileged"],
}
if capabilities.ALL - capabilities.names_of(procfs.status().capabilities["CapBnd"]):
    del OPTIONS["privileged"]  # the host's root can't give what it has not


class Docker:
    """A daemon of its own, and its client."""

    def __init__(self, directory: Path) -> None:
        self.socket = f"unix://{directory}/docker.sock"
        self._log = (directory / "log").open("wb")
        self.daemon = subprocess.Popen(
            [str(DOCKERD), "--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec",
             "--pidfile", f"{directory}/pid", "--host", self.socket, "--iptables=false",
             "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"],
            stdout=self._log, stderr=self._log,
            env={**os.environ, "PATH": _PATH})

    def __call__(self, *words: str, stdin: bytes = b"") -> bytes:
        return subprocess.run([str(DOCKER), "--host", self.socket, *words], input=stdin,
                              capture_output=True, check=True).stdout

    def ready(self) -> bool:
        """Whether it answers, within half a minute."""
        for _ in range(300):
            with contextlib.suppress(subprocess.CalledProcessError):
                return bool(self("version")) and self.daemon.poll() is None
            time.sleep(0.1)
        return False

    def close(self) -> None:
        self.daemon.terminate()
        self.daemon.wait(timeout=60)
        self._log.close()


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    directory = Path(tempfile.mkdtemp(prefix="hardrun-docker-"))
    daemon = Docker(directory)
    try:
        assert daemon.ready(), (directory / "log").read_text()[-2000:]
        root = directory / "rootfs"
        for name in ("proc", "dev", "sys", "usr", "etc", "tmp", "mnt"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                (root / name).symlink_to(os.readlink(f"/{name}"))
        daemon("import", "-", "web:1", stdin=subprocess.run(
            ["tar", "-C", str(root), "-c", "."], capture_output=True, check=True).stdout)
        _start(daemon, "first", ["--network=host"])  # which makes a mount that the daemon keeps
        daemon("rm", "--force", "first")
        yield daemon
    finally:
        daemon.close()
        for mount in reversed(mounts.parse(Path("/proc/self/mountinfo").read_text())):
            if mount.mount_point.startswith(f"{directory}/"):  # the host's network, as it names it
                subprocess.run(["umount", mount.mount_point], check=True)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def containers(docker: Docker) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    if names:
        docker("rm", "--force", *names)


def _start(docker: Docker, name: str, options: list[str]) -> None:
    network = [] if any("--network" in option for option in options) else ["--network=none"]
    docker("run", "--detach", f"--name={name}", "--volume=/usr:/usr:ro", *network, *options,
           "web:1", "/bin/sleep", "1000")


@pytest.mark.parametrize("name", OPTIONS)
def test_what_docker_says_and_what_is_in_force_agree(docker: Docker, containers: list[str],
                                                     name: str) -> None:
    containers.append("web")
    _start(docker, "web", OPTIONS[name])
    told = docker("inspect", "web")
    batch = Batch()
    read_text(told, "inspect.json", batch, named=True)
    (paper,) = batch.subjects
    force = process.read(json.loads(told)[0]["State"]["Pid"])
    assert known_to_both(paper, force) >= TOLD
    assert disagreements(paper, force) == {}


def test_the_command_asks_docker(docker: Docker, containers: list[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("as it comes", "hardened", "no filter", "the host's settings")
    for number, name in enumerate(names):
        containers.append(f"c{number}")
        _start(docker, f"c{number}", OPTIONS[name])
    monkeypatch.setenv("DOCKER_HOST", docker.socket)
    asked = _audited("--docker")
    for item in json.loads(docker("inspect", *containers)):
        live = _audited("--live", str(item["State"]["Pid"]))
        name = item["Name"].lstrip("/")
        unsure = {entry["rule"] for entry in live["unknown"]} | {
            entry["rule"] for entry in asked["unknown"] if entry["workload"] == name}
        both = {rule.id for rule in catalogue() if {"process", "inspect"} <= rule.occurs} - unsure
        assert len(both) >= 20
        assert _rules(live) & both == _rules(asked, name) & both, name
    assert "seccomp-off" in _rules(asked, "c2")


def _audited(*words: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "hardrun", "audit", "--format", "json", "--policy",
                           "all", *words], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def _rules(document: Any, name: str = "") -> set[str]:
    return {rule for f in document["findings"] for rule in (f["rule"], *f["also"])
            if not name or name in f["workloads"]}
