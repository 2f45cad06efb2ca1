"""hardrun inside other sandboxes, and inside itself: what each outer one leaves of it.

Every row of the matrix is tried for real: the tier that doctor finds, the cause of what is missing,
and whether a run greets or refuses with one line.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardrun.bench.oci import seccomp_of
from hardrun.host.probe import probe
from tests.sandbox.containers import PODMAN, RUNC, Container, Podman
from tests.sandbox.hosts import GREETING, HARDRUN, NESTED, ROOT, RUN, UNSHARE_ROOT, Host, Outcome

Outer = Callable[[Host, str], Outcome]
BWRAP = ("bwrap", "--unshare-all", "--bind", "/", "/", "--dev", "/dev")
NESTED_POLICY = """\
apiVersion: hardrun/v1
kind: Policy
metadata: {{name: nests}}
bounds:
  network: none
  capabilities: []
  no_new_privs: true
  seccomp: {profile}
  filesystem: {{visible: [/usr, /etc/ld.so.cache, /etc/passwd], readable: [any], writable: [any]}}
  environment: {{inherit: [any]}}
defaults:
  namespaces: {{nested: true}}
  ids: {{user: self, supplementary_groups: inherit}}  # root without CAP_SETFCAP can't map root
danger:
  - grant:
      namespaces: {{nested: true}}
      ids: {{supplementary_groups: inherit}}
    reason: a sandbox inside, for the tests
host: {{limits.swap: degrade, limits.cpus: degrade}}
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "home")


def _doctor(outer: Outer, host: Host) -> dict[str, Any]:
    found = outer(host, f"exec {HARDRUN} doctor --json")
    assert found.status in (0, 1), found
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def _causes(document: dict[str, Any]) -> dict[str, str]:
    return {name: fact["cause"] for name, fact in document.items()
            if isinstance(fact, dict) and fact.get("cause")}


def _program(name: str) -> Any:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}(1)")


@_program("unshare")
def test_in_a_user_namespace_with_one_id(host: Host) -> None:
    def outer(host: Host, script: str) -> Outcome:
        return host(script, *UNSHARE_ROOT)

    found = _doctor(outer, host)
    assert found["tier"] == "full"
    assert _causes(found)["id_ranges"] == "outer-single-id"
    assert outer(host, f"{NESTED} -- {GREETING}").greeted()


@_program("bwrap")
def test_in_bubblewrap(host: Host) -> None:
    def outer(host: Host, script: str) -> Outcome:
        return host(script, *BWRAP, "--proc", "/proc")

    found = _doctor(outer, host)
    assert found["tier"] == "full"
    assert "proc_mount" not in _causes(found)
    assert outer(host, f"{NESTED} -- {GREETING}").greeted()


@_program("bwrap")
def test_in_bubblewrap_with_a_read_only_proc(host: Host) -> None:
    def outer(host: Host, script: str) -> Outcome:
        return host(script, *BWRAP, "--ro-bind", "/proc", "/proc")

    assert _causes(_doctor(outer, host))["user_namespaces"] == "proc-read-only"
    assert outer(host, f"{NESTED} -- {GREETING}").refused("EROFS", "bwrap --proc /proc")


@_program("bwrap")
def test_in_bubblewrap_that_allows_no_more_user_namespaces(host: Host) -> None:
    def outer(host: Host, script: str) -> Outcome:
        return host(script, *BWRAP, "--proc", "/proc", "--unshare-user", "--disable-userns")

    found = outer(host, f"{NESTED} -- {GREETING}")
    assert found.refused("user namespace", "ENOSPC")
    assert _causes(_doctor(outer, host))["user_namespaces"] == "userns-used-up"


def _in_itself(host: Host, profile: str) -> Outer:
    policy = host.home / "nests.yaml"
    policy.write_text(NESTED_POLICY.format(profile=profile))
    shown = " ".join(f"--ro {shlex.quote(path)}" for path in
                     sorted({str(ROOT), os.path.realpath(shutil.which("python3") or "/usr")}))

    def outer(host: Host, script: str) -> Outcome:
        return host(f"{RUN} --policy {policy} {shown} --toolchain {sys.executable} "
                    f"--env PYTHONPATH --rw {host.directory} -- sh -c {shlex.quote(script)}")

    return outer


def test_in_itself_where_the_policy_lets_it(host: Host) -> None:
    profile = host.home / "outer.json"
    profile.write_text(host(f"exec {HARDRUN} doctor --emit-seccomp").stdout)
    outer = _in_itself(host, str(profile))
    found = _doctor(outer, host)
    assert found["tier"] == "full"
    assert outer(host, f"{NESTED} -- {GREETING}").greeted()


def test_in_itself_where_the_filter_is_the_one_that_refuses(host: Host) -> None:
    outer = _in_itself(host, "docker-default")
    found = _doctor(outer, host)
    assert found["tier"] != "full"
    assert _causes(found)["user_namespaces"] == "outer-seccomp"
    assert outer(host, f"{NESTED} -- {GREETING}").refused("seccomp filter", "mount", "unshare",
                                                          "--emit-seccomp")


@pytest.mark.skipif(RUNC is None, reason="needs runc")
class TestInAContainer:
    """Made by runc without root, as its own specification has it by default: a single id, parts of
    /proc masked, no_new_privs. Where a test says so, with Docker's seccomp profile, converted.
    """

    def test_with_masked_proc_sandboxes_have_none(self, host: Host, tmp_path: Path) -> None:
        outer = Container(tmp_path / "bundle")
        found = _doctor(outer, host)
        assert found["tier"] == "full"
        assert _causes(found)["proc_mount"] == "proc-covered"
        assert outer(host, f"{NESTED} -- {GREETING}").greeted()
        assert outer(host, f"{NESTED} -- ls /proc").status == 2

    def test_as_another_user_than_root(self, host: Host, tmp_path: Path) -> None:
        facts = probe()
        if not facts.id_ranges.available:
            pytest.skip("this user has no range of ids to give to a container")
        closed = [str(path) for path in (ROOT, *ROOT.parents) if not path.stat().st_mode & 1]
        if closed:
            pytest.skip(f"nobody else can enter {closed[-1]}, where hardrun is")
        host.home.chmod(0o755)
        # What another user stores below the home nobody here could remove.
        host.environment["XDG_CACHE_HOME"] = "/nowhere"
        outer = Container(tmp_path / "bundle", uid=1000, capabilities=(),
                          ids=(facts.subordinate_uids[0], facts.subordinate_gids[0]))
        found = _doctor(outer, host)
        assert found["tier"] == "full"
        assert found["uid"] == 1000
        assert outer(host, f"{NESTED} -- {GREETING}").greeted()

    def test_as_a_root_without_capabilities(self, host: Host, tmp_path: Path) -> None:
        outer = Container(tmp_path / "bundle", capabilities=())
        assert _causes(_doctor(outer, host))["user_namespaces"] == "root-without-setfcap"
        assert outer(host, f"{NESTED} -- {GREETING}").refused("CAP_SETFCAP", "runAsNonRoot")

    def test_with_nothing_masked_sandboxes_have_their_own(self, host: Host, tmp_path: Path
                                                          ) -> None:
        outer = Container(tmp_path / "bundle", maskedPaths=[], readonlyPaths=[])
        assert "proc_mount" not in _causes(_doctor(outer, host))
        assert outer(host, f"{NESTED} -- sh -c 'test -r /proc/self/status && {GREETING}'").greeted()

    def test_with_dockers_filter_that_is_named(self, host: Host, tmp_path: Path) -> None:
        profile = json.loads((ROOT / "profiles/seccomp/docker-default.json").read_text())
        outer = Container(tmp_path / "bundle", seccomp=seccomp_of(profile))
        causes = _causes(_doctor(outer, host))
        assert causes["user_namespaces"] == "outer-seccomp"
        assert outer(host, f"{NESTED} -- {GREETING}").refused("seccomp filter", "--emit-seccomp")

    def test_with_the_filter_that_doctor_writes_it_works(self, host: Host, tmp_path: Path) -> None:
        text = host(f"exec {HARDRUN} doctor --emit-seccomp").stdout
        outer = Container(tmp_path / "bundle", seccomp=seccomp_of(json.loads(text)))
        assert _doctor(outer, host)["tier"] == "full"
        assert outer(host, f"{NESTED} -- {GREETING}").greeted()

    def test_a_filter_that_kills_is_named(self, host: Host, tmp_path: Path) -> None:
        text = host(f"exec {HARDRUN} doctor --emit-seccomp").stdout
        profile = seccomp_of(json.loads(text))
        for rule in profile["syscalls"]:
            rule["names"] = [name for name in rule["names"] if name != "mount_setattr"]
        profile["syscalls"].append({"names": ["mount_setattr"], "action": "SCMP_ACT_KILL_PROCESS"})
        outer = Container(tmp_path / "bundle", seccomp=profile)
        document = _doctor(outer, host)
        assert document["tier"] == "none"
        assert _causes(document)["memory_executable"] == "outer-seccomp"
        assert "allow mount_setattr (" in document["memory_executable"]["fix"]


@pytest.mark.skipif(RUNC is None or PODMAN is None, reason="needs podman, runc and newuidmap")
def test_in_podman_as_it_is_by_default(host: Host, tmp_path: Path) -> None:
    """Its filter lets namespaces be made and refuses sethostname(2); its /proc is masked."""
    with Podman(tmp_path / "podman") as outer:
        found = _doctor(outer, host)
        assert found["tier"] == "full"
        causes = _causes(found)
        assert causes["host_name"] == "outer-seccomp"
        assert "sethostname" in found["host_name"]["fix"]
        assert causes["proc_mount"] == "proc-covered"
        assert outer(host, f"{NESTED} -- {GREETING}").greeted()
        told = outer(host, f"exec {HARDRUN} explain --policy contained -- true")
        assert "the host name around it is seen" in told.stdout
        assert outer(host, f"{NESTED} --hostname judge -- true").refused("--hostname judge",
                                                                         "sethostname")


@_program("unshare")
def test_doctors_answers_for_one_host_are_not_given_for_another(host: Host) -> None:
    """In a namespace with one id, with the same home and cache, everything is tried anew."""
    outside = json.loads(host(f"exec {HARDRUN} doctor --json").stdout)
    inside = json.loads(host(f"exec {HARDRUN} doctor --json", *UNSHARE_ROOT).stdout)
    again = json.loads(host(f"exec {HARDRUN} doctor --json").stdout)
    assert outside == again
    assert inside["uid"] == 0
    assert inside["id_ranges"]["cause"] == "outer-single-id"
