"""SELinux modules on this host: check, list, install, remove.

Everybody can ask the kernel whether it knows a type; the store of modules is root's, and so is
loading. semodule(8) and secilc(8) are asked by their own paths: PATH is the caller's.
"""

from __future__ import annotations

import bz2
import glob
import os
import shlex
import subprocess  # nosec B404
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hardrun.data import data_directory
from hardrun.errors import BadInput, HostUnsupported
from hardrun.kernel import selinux as kernel
from hardrun.profile import State, selinux

_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin")
_STORE = "/var/lib/selinux/*/active/modules/*"
_PREFIX = f"{selinux.BASE}-"


def names() -> tuple[str, ...]:
    """The modules that ship: what all of them need, and one for each policy."""
    return (selinux.BASE, *(_PREFIX + policy for policy in selinux.SHIPPED))


def text(name: str) -> str:
    """A module that ships. Raises BadInput for another name."""
    _known(name)
    return _file(name).read_text("utf-8")


def generate(policy: str, abi: str | None = None) -> str:
    """The module of a policy, by name or file."""
    if abi is not None:
        raise BadInput("--abi is AppArmor's", hint="leave it out")
    return selinux.policy_module(policy)


def check(module: str) -> str:
    """What secilc has to say against a module; empty when nothing.

    It is compiled with those that ship, on top of the names that they take from a distribution.
    Raises HostUnsupported where there is no secilc.
    """
    others = [_file(name) for name in names() if _file(name).read_text("utf-8") != module]
    own = {line for line in module.splitlines() if line.startswith("(type ")}
    rest = [path for path in others if not own & set(path.read_text("utf-8").splitlines())]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "module.cil"
        file.write_text(module, "utf-8")
        base = _file("check/names")
        done = _run("secilc", ["--mls", "true", "--output", f"{directory}/policy", "--filecontext",
                               f"{directory}/contexts", *map(str, [base, *rest, file])])
    return " ".join(done.stderr.split()) if done.returncode else ""


def states(wanted: Sequence[str] = ()) -> tuple[State, ...]:
    """The state of these modules, or of every one that ships, as this user can see it."""
    return tuple(_state(name) for name in wanted or names())


def needed(name: str) -> bool:
    """Every module is for every host that has SELinux."""
    return name in names()


def install(wanted: Sequence[str]) -> list[str]:
    """Install modules, with those that they need, and load the policy with them; as root.

    Raises BadInput with semodule's own words, HostUnsupported where there is none.
    """
    chosen = _with_needed(wanted)
    _semodule(["-i", *(str(_file(name)) for name in chosen)])
    return chosen


def remove(wanted: Sequence[str]) -> list[str]:
    """Remove modules and load the policy without them; as root."""
    for name in wanted:
        _known(name)
    present = [state.name for state in states(wanted) if state.installed]
    if present:
        _semodule(["-r", *present])
    return present


def command(verb: str, wanted: Sequence[str]) -> str:
    """What root has to type."""
    if verb == "remove":
        return shlex.join(["semodule", "-r", *(wanted or names())])
    return shlex.join(["semodule", "-i", *(str(_file(n)) for n in _with_needed(wanted or names()))])


def _file(name: str) -> Path:
    return data_directory("profiles") / "selinux" / f"{name}.cil"


def _known(name: str) -> None:
    if name not in names():
        raise BadInput(f"hardrun ships no SELinux module {name!r}", hint="hardrun profile list")


def _with_needed(wanted: Sequence[str]) -> list[str]:
    """Modules with the base and those of the policies that theirs are within, in that order."""
    needed = {selinux.BASE}
    for name in wanted:
        _known(name)
        if name != selinux.BASE:
            needed.update(_PREFIX + policy for policy in selinux.chain(name.removeprefix(_PREFIX)))
    return [name for name in names() if name in needed]


def _tool(name: str) -> str:
    for directory in _DIRECTORIES:
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    package = {"semodule": "policycoreutils", "secilc": "secilc"}[name]
    raise HostUnsupported(f"there is no {name} on this host", fact="selinux",
                          hint=f"as root: apt install {package}, or dnf install {package}")


def _run(tool: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_tool(tool), *arguments], capture_output=True, text=True, check=False,
                          errors="replace", env={"LC_ALL": "C"})  # nosec B603


def _semodule(arguments: Sequence[str]) -> None:
    done = _run("semodule", arguments)
    if done.returncode:
        complaint = " ".join(done.stderr.split())
        raise BadInput(f"semodule: {complaint or f'status {done.returncode}'}")


def _state(name: str) -> State:
    policy = name.removeprefix(_PREFIX) if name != selinux.BASE else ""
    stored = glob.glob(f"{_STORE}/{name}/cil")
    loaded = _loaded([policy] if policy else selinux.SHIPPED)
    stale = None
    if stored:
        try:
            stale = _stored(Path(stored[0])) != _file(name).read_bytes()
        except OSError:
            stale = None
    return State("selinux", name, policy, bool(stored) or loaded not in ("no", "unknown"), loaded,
                 stale)


def _stored(path: Path) -> bytes:
    data = path.read_bytes()
    return bz2.decompress(data) if data.startswith(b"BZh") else data


def _loaded(policies: Sequence[str]) -> str:
    """``enforce`` or ``permissive`` where the kernel knows the type of one of these policies."""
    own = kernel.context_of()
    if kernel.enforcing() is None or own is None:
        return "no"
    known = kernel.known_types([selinux.type_of(policy) for policy in policies])
    if not known:
        return "no"
    stops = kernel.enforcing() and not kernel.is_permissive(own._replace(type=known[0]))
    return "enforce" if stops else "permissive"
