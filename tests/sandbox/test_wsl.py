"""Windows' Linux: kernels of WSL 2 with what they have, by their own names.

Their Landlock is that of the version (1 in 5.15, 3 in 6.6), and nothing mounts securityfs, where
others look for it. Every process there runs below a seccomp filter of WSL's init, as it does here
below the one that fakes the kernel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_kernel import FakeKernel
from tests.sandbox.hosts import GREETING, HARDRUN, RUN, UNSHARE_ROOT, Host

WITHOUT_SECURITYFS = "mount -t tmpfs none /sys/kernel"
KERNELS = {release: FakeKernel.of(version)._replace(release=release) for version, release in (
    ("5.15", "5.15.167.4-microsoft-standard-WSL2"), ("6.6", "6.6.87.2-microsoft-standard-WSL2"))}
kernels = pytest.mark.parametrize("release", KERNELS)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "home")


def _doctor(host: Host, release: str, scene: str = WITHOUT_SECURITYFS) -> dict[str, Any]:
    found = host(f"{scene} && exec {HARDRUN} doctor --json", *UNSHARE_ROOT,
                 kernel=KERNELS[release])
    document: dict[str, Any] = json.loads(found.stdout)
    return document


@kernels
def test_it_is_the_full_tier_with_the_landlock_of_its_version(host: Host, release: str) -> None:
    found = _doctor(host, release)
    assert (found["tier"], found["kernel_release"]) == ("full", release)
    assert found["landlock"]["detail"] == f"ABI {KERNELS[release].landlock_abi}"
    told = {fact["cause"] for fact in found.values() if isinstance(fact, dict)
            and fact.get("cause")}
    assert not told & {"outer-seccomp", "no-landlock", "kernel-too-old", "kernel"}


@kernels
@pytest.mark.parametrize("policy", ["agent", "build", "contained"])
def test_commands_run_in_it(host: Host, release: str, policy: str) -> None:
    found = host(f"{WITHOUT_SECURITYFS} && {RUN} --min-tier full --policy {policy} -- {GREETING}",
                 *UNSHARE_ROOT, kernel=KERNELS[release])
    assert found.greeted()


@kernels
def test_what_is_not_granted_can_not_be_read_there(host: Host, release: str) -> None:
    (host.home / "secret").write_text("not for everybody")
    for options, status in (("--ro secret", 0), ("", 1)):
        found = host(f"cd ..; {RUN} --policy agent {options} -- cat {host.home}/secret",
                     kernel=KERNELS[release])
        assert (found.status, found.stdout != "") == (status, status == 0), found


@kernels
def test_what_a_run_was_decided_on_is_read_back_there(host: Host, release: str) -> None:
    found = host(f"{RUN} --policy agent --verify -- {GREETING}", kernel=KERNELS[release])
    assert (found.status, found.stdout) == (0, "hello\n"), found


@kernels
def test_a_switch_is_set_where_it_lasts(host: Host, release: str) -> None:
    """Without systemd nothing reads sysctl.d there: wsl.conf has a command of its own for that."""
    found = _doctor(host, release, "echo 0 > /proc/sys/user/max_user_namespaces")
    fix = found["user_namespaces"]["fix"]
    assert found["user_namespaces"]["cause"] == "max-user-namespaces"
    assert "sysctl -w user.max_user_namespaces=" in fix
    assert "/etc/wsl.conf" in fix
    assert "sysctl.d" not in fix


def test_elsewhere_it_is_set_as_everywhere(host: Host) -> None:
    found = host("echo 0 > /proc/sys/user/max_user_namespaces && exec "
                 f"{HARDRUN} doctor --json", *UNSHARE_ROOT)
    assert "wsl" not in json.loads(found.stdout)["user_namespaces"]["fix"].lower()
