"""What else has to be known for numbers to mean anything: kernel, CPU, governor, mitigations."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from hardrun import __version__

_CPU = Path("/sys/devices/system/cpu")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _field(path: str, name: str) -> str:
    for line in _text(Path(path)).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _mitigations() -> str:
    found = [f"{file.name}: {_text(file)}"
             for file in sorted((_CPU / "vulnerabilities").glob("*"))]
    return "; ".join(line for line in found if "Not affected" not in line)


def _file_system(directory: Path) -> str:
    """The type of the mount that holds a directory (proc(5), mountinfo)."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return "unknown"


def facts(directory: Path) -> dict[str, str]:
    """Facts of this machine and user; ``directory`` is where the measurements take place."""
    governor = _text(_CPU / "cpu0/cpufreq/scaling_governor")
    load = os.getloadavg()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardrun": __version__,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "governor": governor or "none (the hypervisor's, or fixed)",
        "turbo": {"0": "on", "1": "off"}.get(_text(_CPU / "intel_pstate/no_turbo"), "unknown"),
        "mitigations": _mitigations() or "none",
        "memory": _field("/proc/meminfo", "MemTotal"),
        "huge pages": _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "file system": _file_system(directory),
        "mounts": str(len(_text(Path("/proc/self/mountinfo")).splitlines())),
        "cgroups": "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1 or both",
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "supplementary groups": str(len(set(os.getgroups()) - {os.getgid()})),
        "load at the start": f"{load[0]:.2f}",
        "python": platform.python_version(),
    }
