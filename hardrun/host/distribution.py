"""Which distribution this is: a remedy names its own package, file and command.

os-release(5) is looked up as that page says: /etc before /usr/lib, ``ID`` before ``ID_LIKE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_FILES = ("/etc/os-release", "/usr/lib/os-release")
# The families that remedies are written for, each with the names that lead to it.
_FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "debian": ("debian", "ubuntu", "linuxmint", "pop", "raspbian", "kali"),
    "fedora": ("fedora", "rhel", "centos", "rocky", "almalinux", "ol", "amzn"),
    "suse": ("suse", "opensuse", "opensuse-leap", "opensuse-tumbleweed", "sles"),
    "arch": ("arch", "archarm", "manjaro", "endeavouros"),
    "nixos": ("nixos",),
    "alpine": ("alpine", "postmarketos"),
})
# What installs newuidmap and newgidmap, and what puts them back as they were delivered.
_HELPERS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "debian": ("apt install uidmap", "apt install --reinstall uidmap"),
    "fedora": ("dnf install shadow-utils", "dnf reinstall shadow-utils"),
    "suse": ("zypper install shadow", "zypper install --force shadow"),
    "arch": ("pacman -S shadow", "pacman -S shadow"),
    "nixos": ("security.shadow.enable = true; in configuration.nix, then nixos-rebuild switch",
              "nixos-rebuild switch"),
    "alpine": ("apk add shadow-uidmap", "apk fix shadow-uidmap"),
})
_SYSCTL_FILE = "/etc/sysctl.d/60-hardrun.conf"


class Distribution(NamedTuple):
    """``id`` as in os-release(5), ``family`` a key of the tables above or empty."""

    id: str = ""
    family: str = ""
    version: str = ""
    wsl: bool = False

    @classmethod
    def read(cls, release: str = "") -> Distribution:
        """That of this host; ``release`` is the kernel's, which tells WSL."""
        for path in _FILES:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    return cls.of(file.read(65536), release)
            except OSError:
                continue
        return cls(wsl=_is_wsl(release))

    @classmethod
    def of(cls, text: str, release: str = "") -> Distribution:
        """That of the text of an os-release file."""
        values = dict(line.strip().partition("=")[::2] for line in text.splitlines())
        name, like, version = (values.get(key, "").strip("\"'")
                               for key in ("ID", "ID_LIKE", "VERSION_ID"))
        family = next((family for word in (name, *like.split())
                       for family, names in _FAMILIES.items() if word in names), "")
        return cls(name, family, version, _is_wsl(release))

    def install_helpers(self) -> str:
        """How newuidmap and newgidmap are installed."""
        if self.family in _HELPERS:
            return f"as root: {_HELPERS[self.family][0]}"
        return "as root: install the package that has newuidmap (uidmap, shadow-utils or shadow)"

    def restore_helper(self, path: str, capability: str) -> str:
        """How a helper gets back what it was delivered with."""
        if self.family in _HELPERS:
            return f"as root: {_HELPERS[self.family][1]}"
        return f"as root: setcap {capability}+ep {path}"

    def sysctl(self, name: str, value: int | str) -> str:
        """How a sysctl is set now and for the next boots."""
        if self.family == "nixos":
            return (f'boot.kernel.sysctl."{name}" = {value}; in configuration.nix, then '
                    "nixos-rebuild switch")
        if self.wsl:  # an init that reads sysctl.d runs only where wsl.conf asks for systemd
            return (f"as root: sysctl -w {name}={value}, and in /etc/wsl.conf below [boot] "
                    f"command = sysctl -w {name}={value}")
        return (f"as root: echo '{name} = {value}' >> {_SYSCTL_FILE}; sysctl -p {_SYSCTL_FILE}")

    def subordinate_ids(self, user: str, first: int) -> str:
        """How a user gets 65536 subordinate ids that nobody else has."""
        if self.family == "nixos":
            return (f"users.users.{user}.autoSubUidGidRange = true; in configuration.nix, then "
                    "nixos-rebuild switch")
        span = f"{first}-{first + 65535}"
        if self.family == "alpine":  # its usermod comes in a package of its own
            return (f"as root: echo {user}:{first}:65536 | tee -a /etc/subuid >> /etc/subgid")
        return f"as root: usermod --add-subuids {span} --add-subgids {span} {user}"

    def newer_kernel(self, version: str) -> str:
        """How a kernel from ``version`` on is got."""
        if self.wsl:
            return f"Linux {version} or newer: wsl --update in Windows (WSL 1 has no such kernel)"
        return f"Linux {version} or newer"


def _is_wsl(release: str) -> bool:
    return "microsoft" in release.lower()
