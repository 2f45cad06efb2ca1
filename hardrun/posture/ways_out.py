"""Known ways out of a sandbox: what a policy may grant only under ``danger:``, with a reason.

One table: the engine refuses by it, ``hardrun policy check`` reads policies by it and audits judge
by it. Each entry says what it opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hardrun.posture.filesystem import below
from hardrun.posture.process import ANY_DESCRIPTOR


class WayOut(NamedTuple):
    """One known way out: the control, the value that opens it, and what it opens."""

    control: str
    value: str
    opens: str


# capabilities(7); most of them turn a hole in the kernel into one that can be reached.
_CAPABILITIES: Mapping[str, str] = {
    "SYS_ADMIN": "mount, namespaces, release_agent (CVE-2022-0492)",
    "SYS_PTRACE": "the memory of every process it can see",
    "SYS_MODULE": "code in the kernel",
    "SYS_RAWIO": "physical memory and ports",
    "SYS_BOOT": "another kernel by kexec",
    "SYS_TIME": "the host's clock",
    "SYSLOG": "kernel addresses and messages",
    "DAC_READ_SEARCH": "any file of the file system by handle (open_by_handle_at: shocker)",
    "DAC_OVERRIDE": "files of other users in a shared id range",
    "NET_ADMIN": "nf_tables and traffic control (CVE-2022-1015, CVE-2024-1086)",
    "NET_RAW": "packet sockets (CVE-2020-14386) and spoofing (CVE-2020-13401)",
    "BPF": "programs in the kernel",
    "PERFMON": "kernel memory by tracing",
    "MAC_ADMIN": "the mandatory policy itself",
    "MAC_OVERRIDE": "what the mandatory policy denies",
    "MKNOD": "device nodes",
    "SETFCAP": "files with capabilities",
    "AUDIT_CONTROL": "the audit log",
    "CHECKPOINT_RESTORE": "other processes' memory maps",
    "LINUX_IMMUTABLE": "immutable files",
    "SYS_RESOURCE": "limits that no longer hold",
}

_VALUES: Mapping[str, Mapping[object, str]] = {
    "network": {"host": "every service of the host and its network, abstract sockets too"
                        " (CVE-2020-15257)"},
    "terminal": {"inherited": "characters pushed into the caller's shell (CVE-2017-5226)"},
    "keyring": {"inherited": "the caller's kernel keys"},
    "no_new_privs": {False: "setuid programs"},
    "securebits": {False: "capabilities that come back at an execve as id 0"},
    "filesystem.read_only_root": {False: "the files of the root"},
    "session": {False: "the caller's terminal and job control"},
    "namespaces.nested": {True: "the kernel's code for privileged users (CVE-2022-0185)"},
    "ids.range": {"shared": "processes and files of other sandboxes"},
    "ids.supplementary_groups": {"inherit": "files of the caller's groups"},
}

_NAMESPACES: Mapping[str, str] = {
    "ipc": "shared memory of the host's programs",
    "cgroup": "the host's tree of cgroups (CVE-2022-0492)",
}

IMAGES = "images and containers of the engine"

# What may not be seen at all: sockets that give a host away, kernel interfaces, secrets.
_SEEN: Mapping[str, str] = {
    "/proc": "the host's processes",
    "/sys": "the kernel's settings",
    "/dev": "the host's devices",
    "/run/docker.sock": "the container engine, which runs anything as root",
    "/run/podman": "the container engine",
    "/run/containerd": "the container engine",
    "/run/crio": "the container engine",
    "/run/dbus": "the system bus",
    "/run/user": "sockets of the user's session: systemd, bus, keyring, agents",
    "/run/secrets": "secrets",
    "/var/run": "what /run has",
    "/var/lib/docker": IMAGES,
    "/var/lib/containers": IMAGES,
    "/tmp/.X11-unix": "the display: key strokes and windows",  # nosec B108 - refused, not used
    "/etc/shadow": "password hashes",
    "/etc/gshadow": "password hashes",
    "/etc/sudoers": "who may become root",
    "/etc/ssh": "host keys",
    "/etc/ssl/private": "keys of the host's services",
    "/etc/pki/tls/private": "keys of the host's services",
    "/etc/machine-id": "the identity of the host",
    "/etc/krb5.keytab": "the host's Kerberos key",
    "/root": "root's home",
    "$HOME/.ssh": "keys",
    "$HOME/.gnupg": "keys",
    "$HOME/.aws": "cloud credentials",
    "$HOME/.azure": "cloud credentials",
    "$HOME/.config/gcloud": "cloud credentials",
    "$HOME/.oci": "cloud credentials",
    "$HOME/.kube": "cluster credentials",
    "$HOME/.docker": "registry credentials and the engine's socket",
    "$HOME/.config/containers": "registry credentials",
    "$HOME/.local/share/containers": IMAGES,
    "$HOME/.local/state/hardrun": "hardrun's state: what containers were given and wrote",
    "$HOME/.netrc": "passwords",
    "$HOME/.git-credentials": "passwords",
    "$HOME/.config/git/credentials": "passwords",
    "$HOME/.config/gh": "tokens",
    "$HOME/.npmrc": "tokens",
    "$HOME/.pypirc": "tokens",
    "$HOME/.cargo/credentials.toml": "tokens",
    "$HOME/.terraform.d": "tokens",
    "$HOME/.vault-token": "tokens",
    "$HOME/.pgpass": "passwords",
    "$HOME/.my.cnf": "passwords",
    "$HOME/.password-store": "passwords",
    "$HOME/.local/share/keyrings": "passwords",
    "$HOME/.mozilla": "cookies and passwords",
    "$HOME/.config/google-chrome": "cookies and passwords",
    "$HOME/.config/chromium": "cookies and passwords",
    "$HOME/.cache/hardrun/sessions": "sandboxes that take commands",
    "$HOME/.bash_history": "what was typed, passwords among it",
    "$HOME/.zsh_history": "what was typed, passwords among it",
}

# What may be seen but not written: it is executed or obeyed outside later.
_WRITTEN: Mapping[str, str] = {
    **dict.fromkeys(("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/nix",
                     "/gnu"), "the system's programs"),
    "/etc": "the system's settings",
    "/boot": "the kernel",
    "/run": "sockets of the host's services",
    "/var/spool": "schedules (cron, at)",
    "/var/lib/dpkg": "the package manager's state",
    "/var/lib/rpm": "the package manager's state",
    "/var/lib/systemd": "services",
    **{f"$HOME/{name}": "what the user's shell runs at its start" for name in (
        ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile",
        ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".config/fish", ".kshrc", ".login",
        ".cshrc", ".tcshrc", ".xprofile", ".xsession", ".xinitrc", ".pam_environment")},
    **{f"$HOME/{name}": "what the user's session or tools run later" for name in (
        ".config/systemd", ".config/autostart", ".config/environment.d", ".local/bin", "bin",
        ".local/share/applications", ".gitconfig", ".config/git", ".vimrc", ".vim", ".config/nvim",
        ".emacs", ".emacs.d", ".config/Code", ".vscode", ".config/pip", ".cargo/config.toml",
        ".claude", ".cursor", ".codex", ".gemini", ".config/direnv", ".tmux.conf", ".inputrc",
        ".pythonrc", ".gdbinit", ".local/lib", ".local/share/systemd")},
    "$HOME/.config/hardrun": "hardrun's policies",
    "$HOME/.cache/hardrun": "hardrun's plans",
}

_PATHS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "filesystem.visible": (_SEEN,),
    "filesystem.readable": (_SEEN,),
    "filesystem.writable": (_SEEN, _WRITTEN),
}

PATH_CONTROLS = frozenset(_PATHS)


def opened(control: str, value: object) -> list[WayOut]:
    """The known ways out that a value of a control opens; paths are told by ``touched``."""
    found: list[WayOut] = []
    if control == "capabilities" and isinstance(value, frozenset):
        found += [WayOut(control, name, opens) for name, opens in _CAPABILITIES.items()
                  if f"CAP_{name}" in value]
    if control == "namespaces.shared" and isinstance(value, frozenset):
        found += [WayOut(control, name, o) for name, o in _NAMESPACES.items() if name in value]
    if control == "descriptors" and isinstance(value, frozenset) and ANY_DESCRIPTOR in value:
        found.append(WayOut(control, "any", "whatever the caller has open (CVE-2024-21626)"))
    opens = _VALUES.get(control, {}).get(value) if not isinstance(value, frozenset) else None
    if opens is not None:
        found.append(WayOut(control, str(value).lower(), opens))
    return found


def touched(control: str, path: str, home: str = "$HOME") -> list[WayOut]:
    """The known ways out that lie at, above or below ``path``, with ``$HOME`` as ``home``."""
    found: list[WayOut] = []
    for table in _PATHS.get(control, ()):
        for place, opens in table.items():
            way = home.rstrip("/") + place[5:] if place.startswith("$HOME") else place
            if way == home:
                continue  # /root, for root: what is secret in a home is named above
            if below(path, way) or below(way, path):
                found.append(WayOut(control, way, opens))
    return found


def entered(control: str, paths: Iterable[str]) -> list[WayOut]:
    """The ways out that paths of a policy name themselves: they lie at or below one.

    A wider path names none: ``readable: [any]`` leaves them out. For ``filesystem.visible``, which
    is shown without being asked for, a wider path opens all that is below it.
    """
    found: list[WayOut] = []
    for path in paths:
        found += [way for way in touched(control, path)
                  if below(path, way.value) or control == "filesystem.visible"]
    return found


def every() -> list[WayOut]:
    """The whole table, for the reference page and for audits."""
    found = [WayOut("capabilities", name, opens) for name, opens in _CAPABILITIES.items()]
    found += [WayOut("namespaces.shared", name, opens) for name, opens in _NAMESPACES.items()]
    found += [WayOut(control, str(value).lower(), opens)
              for control, values in _VALUES.items() for value, opens in values.items()]
    found += [WayOut("filesystem.readable", path, opens) for path, opens in _SEEN.items()]
    found += [WayOut("filesystem.writable", path, opens) for path, opens in _WRITTEN.items()]
    return found
