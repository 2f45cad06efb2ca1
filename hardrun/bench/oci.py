"""config.json at each level of isolation, from what the runtime itself proposes.

``spec --rootless`` has neither a network namespace nor a filter: as it is, it is less than any
sandbox of hardrun's. The levels add what is missing, one after the other.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardrun.bench.scene import WRITABLE, Scene
from hardrun.data import data_directory

LEVELS = ("L0", "L1", "L2", "L3", "L4")
_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
                  "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")}
_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
_LIMITS = {"memory": {"limit": 256 << 20}, "pids": {"limit": 256}}


def seccomp_of(profile: Mapping[str, Any]) -> dict[str, Any]:
    """A profile in Docker's format in that of config.json, for no capabilities.

    An engine resolves conditions on capabilities and architectures before a runtime sees them.
    """
    machine = platform.machine()
    rules = []
    for rule in profile["syscalls"]:
        includes = rule.get("includes", {})
        arches = includes.get("arches")
        if includes.get("caps") or (arches and _NAMES[machine] not in arches):
            continue
        if _NAMES[machine] in rule.get("excludes", {}).get("arches", []):
            continue
        rules.append({key: rule[key] for key in ("names", "action", "args", "errnoRet")
                      if key in rule})
    return {"defaultAction": profile["defaultAction"],
            "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
            "architectures": list(_ARCHITECTURES[machine]), "syscalls": rules}


def _profile(name: str) -> dict[str, Any]:
    path = data_directory("profiles") / "seccomp" / f"{name}.json"
    return seccomp_of(json.loads(path.read_text(encoding="utf-8")))


def _harden(document: dict[str, Any]) -> None:
    """What of the policy untrusted config.json can say. Landlock is not in it."""
    document["process"]["capabilities"] = {
        kind: [] for kind in ("bounding", "effective", "permitted")}
    document["process"]["noNewPrivileges"] = True
    document["process"]["rlimits"] = [
        {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
        for name, value in (("NOFILE", 1024), ("CORE", 0), ("MEMLOCK", 65536),
                            ("DATA", 256 << 20))]
    document["root"]["readonly"] = True
    document["linux"]["seccomp"] = _profile("untrusted")
    document["mounts"] = [m for m in document["mounts"]
                          if m["destination"] not in ("/sys", "/dev/mqueue")]
    document["mounts"].append({"destination": "/tmp", "type": "tmpfs",  # nosec B108 - inside
                               "source": "tmpfs",
                               "options": ["nosuid", "nodev", "mode=1777", "size=64m"]})


def _mounts(scene: Scene, *, writable: bool) -> list[dict[str, Any]]:
    mounts = [{"destination": path, "source": path, "type": "none", "options": ["rbind", "ro"]}
              for path in scene.host]
    if writable:
        mounts.append({"destination": WRITABLE, "source": str(scene.writable), "type": "none",
                       "options": ["bind", "rw"]})
    return mounts


def config(spec: str, scene: Scene, command: tuple[str, ...], level: str, *,
           writable: bool = False) -> dict[str, Any]:
    """The document for one command at one level; ``spec`` is what the runtime proposes."""
    document: dict[str, Any] = json.loads(spec)
    document["process"] |= {"terminal": False, "args": list(command)}
    document["root"] = {"path": str(scene.rootfs), "readonly": True}
    # Where no cgroup is delegated, showing one fails the start and measures nothing.
    document["mounts"] = [m for m in document["mounts"] if m["type"] != "cgroup"]
    if level != "L0":
        present = {one["type"] for one in document["linux"]["namespaces"]}
        document["linux"]["namespaces"] += [{"type": kind} for kind in ("network", "cgroup")
                                            if kind not in present]
    if level in ("L2", "L3"):
        document["linux"]["seccomp"] = _profile("docker-default")
    if level == "L3":
        document["linux"]["resources"] = _LIMITS
    if level == "L4":
        _harden(document)
    document["mounts"] += _mounts(scene, writable=writable)
    return document


def propose(program: str, directory: Path) -> str:
    """What ``spec --rootless`` writes. Raises OSError or CalledProcessError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    if not path.exists():
        subprocess.run([program, "spec", "--rootless"], cwd=directory, check=True,
                       capture_output=True)
    return path.read_text(encoding="utf-8")


def bundle(directory: Path, document: Mapping[str, Any]) -> Path:
    """A bundle of that document, in a directory of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(document), encoding="utf-8")
    return directory
