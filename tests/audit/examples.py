"""One configuration of every source that passes every rule, and what makes each rule fail there."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hardrun.audit.model import Source, Subject
from hardrun.audit.walk import Batch, read_text

HERE = Path(__file__).parent
DIGEST = "registry.example/web:1.2@sha256:" + "0" * 64
NAMES: Mapping[Source, str] = {
    "kubernetes": "pod.yaml", "compose": "compose.yaml", "inspect": "inspect.json",
    "command": "run.sh", "oci": "config.json", "dockerfile": "Dockerfile",
    "systemd": "web.service", "seccomp": "profile.json", "apparmor": "usr.bin.web"}

POD: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
    "spec": {
        "hostUsers": False, "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000,
                            "seccompProfile": {"type": "RuntimeDefault"},
                            "appArmorProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "web", "image": DIGEST,
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]}}}]}}
SERVICE: dict[str, Any] = {
    "image": DIGEST, "userns_mode": "auto", "user": "1000:1000", "read_only": True,
    "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "mem_limit": "64m",
    "cpus": 0.5, "pids_limit": 100, "healthcheck": {"test": ["CMD", "true"]},
    "ports": ["127.0.0.1:8080:80"]}
CONTAINER: dict[str, Any] = {
    "Id": "0123456789abcdef", "Name": "/web", "Mounts": [],
    "Config": {"User": "1000", "Image": DIGEST, "Env": ["PATH=/bin"],
               "Healthcheck": {"Test": ["CMD", "true"]}},
    "HostConfig": {
        "Privileged": False, "CapAdd": None, "CapDrop": ["ALL"], "NetworkMode": "bridge",
        "PidMode": "", "IpcMode": "private", "UTSMode": "", "UsernsMode": "auto",
        "CgroupnsMode": "private", "SecurityOpt": ["no-new-privileges"], "Binds": None,
        "ReadonlyRootfs": True, "Memory": 67108864, "NanoCpus": 500000000, "PidsLimit": 100,
        "MaskedPaths": ["/proc/kcore"], "PortBindings": {}}}
BUNDLE: dict[str, Any] = {
    "ociVersion": "1.2.0", "root": {"path": "rootfs", "readonly": True},
    "process": {"args": ["true"], "user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": True,
                "capabilities": {"bounding": ["CAP_NET_BIND_SERVICE"]}, "env": ["PATH=/bin"]},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {
        "namespaces": [{"type": name} for name in (
            "pid", "network", "ipc", "uts", "mount", "user", "cgroup")],
        "maskedPaths": ["/proc/kcore"],
        "resources": {"memory": {"limit": 67108864}, "pids": {"limit": 100},
                      "cpu": {"quota": 50000}},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}}}
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "socket"], "action": "SCMP_ACT_ALLOW"}]}
OPTIONS = ("--userns keep-id", "--user 1000:1000", "--read-only", "--cap-drop ALL", "-m 512m",
           "--security-opt no-new-privileges", "--cpus 1.5", "--pids-limit=100",
           "--network none", "--health-cmd true")
UNIT = """\
[Unit]
Description=web

[Service]
ExecStart=/usr/bin/web
User=web
PrivateUsers=yes
PrivateNetwork=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
SystemCallFilter=@system-service
ProtectSystem=strict
MemoryMax=512M
CPUQuota=50%
TasksMax=100
"""
CONFINED = """\
#include <tunables/global>
profile web /usr/bin/web flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>
  network inet,
  file,
  /usr/bin/web mr,
  deny @{PROC}/sys/** wklx,
  deny /sys/** wklx,
  deny mount,
}
"""


def merged(base: Any, patch: Any) -> Any:
    """``base`` with ``patch`` put in: mappings are merged, everything else replaced."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    result = dict(base)
    for key, value in patch.items():
        result[key] = merged(result.get(key), value)
    return {key: value for key, value in result.items() if value is not None}


def _pod(patch: dict[str, Any]) -> str:
    pod = copy.deepcopy(POD)
    pod["spec"] = merged(pod["spec"], patch.get("spec", {}))
    pod["spec"]["containers"] = [merged(pod["spec"]["containers"][0], patch.get("container", {}))]
    return json.dumps(pod, indent=2)


def _line(patch: dict[str, Any]) -> str:
    kept = [option for option in OPTIONS if option not in patch.get("without", "")]
    options = " ".join([patch.get("options", ""), *kept])
    return f"#!/bin/sh\ndocker run {options} \\\n  {patch.get('image', DIGEST)} serve --all\n"


def _dockerfile(patch: dict[str, Any]) -> str:
    lines = [f"FROM {DIGEST}", patch.get("lines", ""), "HEALTHCHECK CMD true", "USER 1000"]
    without = patch.get("without")
    return "\n".join(line for line in lines if not (without and line.startswith(without)))


WRITERS: Mapping[Source, Callable[[Any], str]] = {
    "kubernetes": _pod,
    "compose": lambda patch: json.dumps({"services": {"web": merged(SERVICE, patch)}}, indent=2),
    "inspect": lambda patch: json.dumps([merged(CONTAINER, patch)], indent=4),
    "command": _line,
    "oci": lambda patch: json.dumps(merged(BUNDLE, patch), indent="\t"),
    "dockerfile": _dockerfile,
    "systemd": lambda patch: UNIT + (patch or "") + "\n",
    "apparmor": lambda patch: CONFINED.replace(
        patch.get("replace", ""), patch.get("by", "")) if patch else CONFINED,
    "seccomp": lambda patch: json.dumps(merged(PROFILE, patch), indent=2),
}


def failing(source: Source) -> dict[str, Any]:
    """What makes each rule fail in a source, by the id of the rule."""
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(
        (HERE / "failing" / f"{source}.yaml").read_text("utf-8"))
    return found


def text(source: Source, patch: Any = None) -> str:
    """A configuration that passes every rule, with a patch put in."""
    return WRITERS[source](patch if patch is not None else {} if source != "systemd" else "")


def read(source: Source, patch: Any = None) -> list[Subject]:
    """The subjects in such a configuration."""
    return subjects(text(source, patch), NAMES[source])


def subjects(content: str, name: str) -> list[Subject]:
    """The subjects in a text; whatever can't be audited fails."""
    batch = Batch()
    read_text(content.encode(), name, batch, named=True)
    assert not batch.problems, batch.problems
    return batch.subjects
