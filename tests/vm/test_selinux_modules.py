"""SELinux modules that come, go and change: installed, replaced meanwhile; types of others."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hardrun
from hardrun.kernel.selinux import Context
from hardrun.profile import selinux_host
from tests.vm.guest import as_root
from tests.vm.test_verify_tampering import differing, running, verify

pytestmark = pytest.mark.vm("selinux")
AGENT = "hardrun-agent"
LOOSER = """
(allow hardrun_contained_t shadow_t (file (getattr open read)))
(allow hardrun_untrusted_t shadow_t (file (getattr open read)))
(typepermissive hardrun_build_t)
"""
CONTAINER = """
apiVersion: hardrun/v1
kind: Policy
metadata: {name: container}
bounds:
  network: none
  capabilities: []
  seccomp: untrusted
  no_new_privs: true
  filesystem: {visible: [/usr, /etc/ld.so.cache], readable: [], writable: []}
  environment: {inherit: [PATH]}
  mandatory: [{selinux: container_t}, refuse]
host: {mandatory: refuse}
"""
SHOW = """
import os
print(open("/proc/self/attr/current").read().strip("\\0\\n"))
open("/tmp/made", "w").write("x")
print(os.getxattr("/tmp/made", "security.selinux").decode().strip("\\0"))
"""


@contextmanager
def loaded(directory: Path, module: str) -> Iterator[None]:
    file = directory / "looser.cil"
    file.write_text(module)
    as_root("semodule", "-i", str(file))
    try:
        yield
    finally:
        as_root("semodule", "-r", "looser")


def _state(name: str) -> tuple[bool, str]:
    [state] = selinux_host.states([name])
    return state.installed, state.loaded


def test_a_module_that_root_removes_is_missed_and_one_line_of_roots_brings_it_back() -> None:
    with running("--policy", "agent") as pid:
        assert differing(verify(pid)) == {}
        # no --module: this host has one security module that labels processes
        assert as_root("hardrun", "profile", "remove", AGENT) == f"{AGENT}: removed\n"
        try:
            assert _state(AGENT) == (False, "no")
            assert "mandatory" in differing(verify(pid, root=True))[pid]
            decision = hardrun.explain(["true"], policy="agent")
            mandatory = next(c for c in decision.controls if c.control == "mandatory")
            assert "hardrun_agent_t is not loaded" in mandatory.enforcement.because
        finally:
            told = subprocess.run(["hardrun", "profile", "install", AGENT], capture_output=True,
                                  text=True, check=False)
            as_root(*shlex.split(told.stdout))
        assert (told.returncode, told.stdout.split()[:2]) == (125, ["semodule", "-i"])
        assert "only root may install profiles" in told.stderr
        assert _state(AGENT) == (True, "enforce")
        assert differing(verify(pid)) == {}


def test_a_host_that_is_switched_to_reporting_meanwhile_is_found() -> None:
    with running() as pid:
        assert differing(verify(pid)) == {}
        as_root("setenforce", "0")
        try:
            found = verify(pid)
        finally:
            as_root("setenforce", "1")
        assert "mandatory" in differing(found)[pid]
        assert "SELinux only reports" in json.dumps(found)


def test_types_that_were_loosened_meanwhile_are_found(tmp_path: Path) -> None:
    """The name stays, the label stays: what the type may do is asked of the kernel."""
    with running() as pid, running("--policy", "build") as built:
        with loaded(tmp_path, LOOSER):
            looser, permissive = verify(pid), verify(built)
        assert "mandatory" in differing(looser)[pid]
        assert "its type may now do: file { read } of shadow_t" in json.dumps(looser)
        assert "mandatory" in differing(permissive)[built]
        assert (differing(verify(pid)), differing(verify(built))) == ({}, {})


def test_a_policy_can_name_the_type_of_containers(tmp_path: Path) -> None:
    """By a stand-in, where there is no container-selinux: names and categories are its own."""
    policy = tmp_path / "container.yaml"
    policy.write_text(CONTAINER)
    done = hardrun.run(["python3", "-c", SHOW], policy=str(policy), verify=True,
                       capture_output=True, text=True)
    assert done.stderr == ""
    own, made = (Context.parse(line) for line in done.stdout.split())
    assert own is not None
    assert made is not None
    assert (own.type, made.type) == ("container_t", "container_file_t")
    assert len(own.categories) == 2
    assert own.range == made.range
    [control] = [c for c in done.decision.controls if c.control == "mandatory"]
    assert (control.enforcement.kind, control.enforcement.by) == (
        "enforced", ("selinux:container_t",))
