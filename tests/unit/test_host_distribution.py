"""Remedies are written for the distribution at hand, as its os-release file names it."""

from __future__ import annotations

import pytest

from hardrun.host.distribution import Distribution

WSL_RELEASE = "5.15.167.4-microsoft-standard-WSL2"
FILES = [
    # os-release, family, how newuidmap is installed
    ('ID=debian\nVERSION_ID="12"\n', "debian", "apt install uidmap"),
    ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n', "debian", "apt install uidmap"),
    ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "debian", "apt install uidmap"),
    ("ID=fedora\nVERSION_ID=42\n", "fedora", "dnf install shadow-utils"),
    ('ID="rhel"\nID_LIKE="fedora"\n', "fedora", "dnf install shadow-utils"),
    ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora", "dnf install shadow-utils"),
    ("ID=arch\n", "arch", "pacman -S shadow"),
    ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "suse", "zypper install shadow"),
    ("ID=nixos\n", "nixos", "configuration.nix"),
    ("ID=alpine\n", "alpine", "apk add shadow-uidmap"),
    ("ID=slackware\n", "", "uidmap, shadow-utils or shadow"),
    ("", "", "uidmap, shadow-utils or shadow"),
]


@pytest.mark.parametrize("text,family,install", FILES)
def test_each_distribution_is_told_its_own_package(text: str, family: str, install: str) -> None:
    found = Distribution.of(text)
    assert found.family == family
    assert install in found.install_helpers()


@pytest.mark.parametrize("text,family,install", FILES)
def test_a_sysctl_outlives_the_next_boot(text: str, family: str, install: str) -> None:
    fix = Distribution.of(text).sysctl("user.max_user_namespaces", 15000)
    assert "user.max_user_namespaces" in fix
    assert "/etc/sysctl.d/" in fix or "configuration.nix" in fix


def test_wsl_is_told_by_the_kernel_whatever_the_distribution() -> None:
    found = Distribution.of("ID=ubuntu\nID_LIKE=debian\n", WSL_RELEASE)
    assert found.wsl
    assert "/etc/wsl.conf" in found.sysctl("vm.memfd_noexec", 1)
    assert "wsl --update" in found.newer_kernel("5.13")
    assert not Distribution.of("ID=ubuntu\n", "6.8.0-48-generic").wsl


def test_ids_are_proposed_that_nobody_has() -> None:
    assert "--add-subuids 165536-231071 --add-subgids 165536-231071 anna" in \
        Distribution.of("ID=debian\n").subordinate_ids("anna", 165536)
    assert "autoSubUidGidRange" in Distribution.of("ID=nixos\n").subordinate_ids("anna", 165536)


def test_this_host_has_an_answer() -> None:
    assert Distribution.read("6.18.0").install_helpers()
