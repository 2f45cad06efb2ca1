"""AppArmor profiles on this host: check, list, install, remove.

The kernel shows everybody which profiles are loaded, in what mode, and the digest of what was
loaded; loading is root's. apparmor_parser(8) is asked by its own path: PATH is the caller's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess  # nosec B404
import sys
from collections.abc import Sequence
from pathlib import Path

from hardrun.data import data_directory
from hardrun.errors import BadInput, HostUnsupported
from hardrun.kernel import lsm
from hardrun.profile import State, apparmor

DIRECTORY = Path("/etc/apparmor.d")
_PARSERS = ("/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser")
_EXECUTOR = Path(__file__).parent.parent / "executor" / "hardrun-exec"


def names() -> tuple[str, ...]:
    """The profiles that ship: one for each policy, and the executor's."""
    return (*(apparmor.PREFIX + policy for policy in apparmor.SHIPPED), apparmor.EXECUTOR)


def text(name: str) -> str:
    """A profile as it would be installed here: of the highest abi that this host has."""
    if name == apparmor.EXECUTOR:
        return apparmor.executor_profile(str(_EXECUTOR), mode=_executor_mode())
    shipped = data_directory("profiles") / "apparmor" / name
    abi = _abi()
    if name in names() and abi == apparmor.DEFAULT_ABI and shipped.is_file():
        return shipped.read_text("utf-8")  # what generating it again would give
    return apparmor.shipped_text(name, abi=abi)


def generate(policy: str, abi: str | None = None) -> str:
    """The profile of a policy, by name or file."""
    return apparmor.policy_profile(policy, abi or _abi())


def check(profile: str) -> str:
    """What apparmor_parser has to say against a profile; empty when nothing.

    Raises HostUnsupported where there is no apparmor_parser.
    """
    try:
        _parse(profile)
    except BadInput as error:
        return error.message
    return ""


def states(wanted: Sequence[str] = ()) -> tuple[State, ...]:
    """The state of these profiles, or of every one that ships, as this user can see it."""
    directories = lsm.apparmor_directories()
    return tuple(_state(name, directories) for name in wanted or names())


def needed(name: str) -> bool:
    """Whether installing a profile does anything here: the executor's only where abi 4.0 is."""
    return name != apparmor.EXECUTOR or (DIRECTORY / "abi" / "4.0").exists()


def install(wanted: Sequence[str]) -> list[str]:
    """Write profiles to /etc/apparmor.d and load them; as root. All parse, or none is written.

    Raises BadInput for a name or a text that the parser refuses, HostUnsupported where nothing can
    be loaded. Returns the names that were loaded.
    """
    chosen = [name for name in wanted if needed(name)]
    texts = {name: text(name) for name in chosen}
    blobs = {name: _parse(profile) for name, profile in texts.items()}
    for name, profile in texts.items():
        path = DIRECTORY / name
        temporary = path.with_name(f".{name}.new")  # the parser passes over dot files
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        with temporary.open("x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(profile)
        temporary.replace(path)
        _run(["--replace", "--binary"], blobs[name])
    return chosen


def remove(wanted: Sequence[str]) -> list[str]:
    """Unload profiles and delete their files; as root. Returns the names that were there."""
    found = []
    for name in wanted:
        _known(name)
        path = DIRECTORY / name
        if name in (lsm.apparmor_profiles() or {}):
            _run(["--remove"], f"profile {name} {{ }}\n".encode())
            found.append(name)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            found.append(name)
    return list(dict.fromkeys(found))


def command(verb: str, wanted: Sequence[str]) -> str:
    """What root has to type: with the program that runs now, wherever it is installed."""
    ours, script = os.path.split(os.path.abspath(sys.argv[0]))
    program = [os.path.join(ours, "hardrun")] if script == "hardrun-cli" \
        else [sys.executable, "-m", "hardrun"]
    return shlex.join([*program, "profile", verb, "--module", "apparmor", *wanted])


def _known(name: str) -> None:
    if name not in names():
        raise BadInput(f"hardrun ships no AppArmor profile {name!r}", hint="hardrun profile list")


def _abi() -> str:
    available = [abi for abi in apparmor.ABIS if (DIRECTORY / "abi" / abi).exists()]
    return available[-1] if available else apparmor.DEFAULT_ABI


def _executor_mode() -> str:
    restricted = lsm.read_line("/proc/sys/kernel/apparmor_restrict_unprivileged_unconfined")
    # where unconfined processes are held to their lack of a profile, that mode grants nothing
    return "default_allow" if restricted == "1" else "unconfined"


def _parser() -> str:
    for path in _PARSERS:
        if os.access(path, os.X_OK):
            return path
    raise HostUnsupported("there is no apparmor_parser on this host", fact="apparmor",
                          hint="as root: apt install apparmor, or zypper install apparmor-parser")


def _run(arguments: Sequence[str], profile: bytes) -> bytes:
    done = subprocess.run([_parser(), *arguments], input=profile, capture_output=True,
                          check=False, env={"LC_ALL": "C"})  # nosec B603
    if done.returncode:
        complaint = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise BadInput(f"apparmor_parser: {complaint or f'status {done.returncode}'}")
    return done.stdout


def _parse(profile: str) -> bytes:
    """The profile as the kernel would be given it."""
    return _run(["--skip-kernel-load", "--skip-cache", "--stdout"], profile.encode())


def _state(name: str, directories: dict[str, str] | None) -> State:
    path = DIRECTORY / name
    installed = path.exists()
    directory = (directories or {}).get(name)
    loaded = "no" if directories is not None or not lsm.apparmor_enabled() else "unknown"
    if directory is not None:
        loaded = lsm.read_line(f"{directory}/mode") or "unknown"
    stale: bool | None = None
    if installed:
        stale = path.read_text("utf-8", "replace") != text(name)
    if directory is not None and not stale:
        stale = _differs(text(name), directory)
    policy = name.removeprefix(apparmor.PREFIX) if name != apparmor.EXECUTOR else ""
    return State("apparmor", name, policy, installed, loaded, stale)


def _differs(profile: str, directory: str) -> bool | None:
    """Whether the kernel has something else than what the parser makes of a profile."""
    for algorithm in ("sha256", "sha1"):
        digest = lsm.read_line(f"{directory}/raw_{algorithm}")
        if digest is not None:
            try:
                blob = _parse(profile)
            except (BadInput, HostUnsupported):
                return None
            return hashlib.new(algorithm, blob, usedforsecurity=False).hexdigest() != digest
    return None
