"""The landlock tier: no namespaces and no mounts; what the full tier shows is what may be opened.

Paths are where the host has them. HOME and TMPDIR are a directory that the executor makes for one
run and removes after it. Of /proc and /sys nothing can be opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hardrun.errors import HostUnsupported
from hardrun.kernel.landlock import filesystem_access, network_access, scopes
from hardrun.plan.context import Program
from hardrun.plan.root import MERGED, MINIMAL_VISIBLE, RESERVED, RESOLVER_FILE, TMP, RootOptions
from hardrun.plan.schema import Unsafe
from hardrun.plan.view import Found, Use, View
from hardrun.posture.filesystem import below, parents

if TYPE_CHECKING:
    from hardrun.plan.context import Context
    from hardrun.workload.model import Mount, Workload

PRIVATE = "~"
"""The executor's name for the private directory (plan-format.md)."""
_NAMES = ("/etc/hosts", RESOLVER_FILE)  # shown with the network alone
_PROFILES = "landlock-tier"


class HostView(View):
    """The host's own tree; ``rules`` say what of it may be opened, by real path."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: dict[str, tuple[Use, str]] = {}

    def allow(self, path: str, use: Use, control: str) -> None:
        """Let a path be opened, by its real name; one that does not exist is passed over."""
        try:
            real = os.path.realpath(path, strict=True)
        except OSError:
            return  # a list for every distribution names what only some have
        if real != "/" and not any(below(real, reserved) for reserved in RESERVED):
            self.rules[real] = use, control

    def host_path(self, path: str) -> str | None:
        """Every path is the host's."""
        return path

    def find(self, path: str) -> Found:
        """Where a path really lies; ``missing`` where no rule lets it be opened."""
        real = os.path.realpath(path)
        allowed = any(below(real, rule) for rule in self.rules)
        passed = os.path.isdir(real) and any(below(rule, real) for rule in self.rules)
        return Found(real, real, "" if os.path.lexists(real) and (allowed or passed) else path)

    def openable(self, search_path: str) -> str:
        """The directories of a PATH that may be opened: a program found in another one would run,
        where it is a link to one of /usr, and not find what lies beside it."""
        entries = (entry for entry in search_path.split(":") if entry.startswith("/"))
        return ":".join(entry for entry in entries if not self.find(entry).missing)

    def uses(self) -> Mapping[str, Use]:
        """What is allowed beneath each path."""
        return {path: use for path, (use, _) in sorted(self.rules.items())}


def host_view(workload: Workload, options: RootOptions) -> HostView:
    """The view of one run. Raises HostUnsupported for what only the full tier can lay out."""
    _check(workload)
    view = HostView()
    visible = MINIMAL_VISIBLE if "/" in options.visible else options.visible
    for path in (*visible, *(MERGED if "/usr" in visible else ())):
        use = Use.READ if below(path, "/etc") else Use.RUN
        view.allow(path, use, "filesystem.visible")
    for path in _NAMES if options.network else ():
        view.allow(path, Use.READ, "network")
    for mount in workload.mounts:
        if mount.source is not None:
            use, control = (Use.BUILD, "filesystem.writable") if mount.access == "rw" \
                else (Use.RUN, "filesystem.readable")
            if not _is_writable(view, mount.source):
                view.allow(mount.source, use, control)
    for name in options.devices:
        view.rules[f"/dev/{name}"] = Use.DEVICES, "devices"
    return view


def _is_writable(view: HostView, path: str) -> bool:
    """Whether a rule for this very path grants more than a second one would."""
    return view.rules.get(path, (Use.NOTHING, ""))[0] is Use.BUILD


def _check(workload: Workload) -> None:
    asked = [(workload.rootfs is not None, "--rootfs", "a root file system is mounted"),
             (workload.hostname is not None, "--hostname", "the host name is the host's"),
             (workload.user is not None and workload.user[0] != os.getuid(), "--user",
              "the ids are the caller's"),
             (workload.terminal, "-t", "a private terminal is mounted")]
    for given, flag, why in asked:
        if given:
            raise _needs_full(flag, why)
    for mount in workload.mounts:
        if mount.access == "tmpfs":
            raise _needs_full(f"{mount.origin} {mount.destination}", "it is mounted; TMPDIR is a "
                              "private directory")
        if mount.source != os.path.realpath(mount.destination):
            raise _needs_full(f"{mount.origin} {mount.source}:{mount.destination}",
                              "paths are shown where they are")


def _needs_full(what: str, why: str) -> HostUnsupported:
    return HostUnsupported(f"{what} needs the full tier, this is the landlock tier: {why}",
                           fact="user_namespaces",
                           hint="hardrun doctor says what the full tier needs here")


def add_start(program: Program) -> None:
    """The private directory, and a clone into no namespace."""
    program.unsafe |= (Unsafe.NO_NAMESPACES | Unsafe.NO_PIVOT_ROOT | Unsafe.NO_BOUNDING_DROP
                       | Unsafe.SHARED_NETWORK)
    program.add("min_tier", "private_directory", os.path.realpath(TMP))
    program.add("min_tier", "clone", 0)


def add_grant_conditions(program: Program, mounts: Iterable[Mount]) -> None:
    """What was granted is still the same file: a rule is made of a name."""
    from hardrun.plan.isolation import dependency_of

    if program.context.pinned:
        for mount in mounts:
            if mount.source is not None:
                path, device, inode, _, _ = dependency_of(mount.source)
                control = "filesystem.writable" if mount.access == "rw" else "filesystem.readable"
                program.add(control, "require_path", path, device, inode, 0, 0)


def add_credentials(program: Program) -> None:
    """No capability, and no way to one. An exec could give some to root: no_new_privs forbids it.

    The bounding set and securebits are left: changing them needs a capability that only a user
    namespace gives.
    """
    program.add("capabilities", "set_capabilities", 0)
    program.add("no_new_privs", "no_new_privs")
    program.add("capabilities", "not_dumpable")


def add_landlock(program: Program) -> None:
    """The rules, and every right, port and scope that the ABI knows."""
    from hardrun.plan.mounting import RIGHTS

    context = program.context
    view = context.view
    assert isinstance(view, HostView)
    abi = context.facts.landlock_abi
    handled = filesystem_access(abi)
    network = network_access(abi) if context.word("network") == "none" else 0
    program.add("landlock", "landlock_ruleset", int(handled), int(network), int(scopes(abi)))
    for path, (use, control) in sorted(view.rules.items()):
        rights = RIGHTS[use] & handled
        above = [RIGHTS[view.rules[p][0]] for p in parents(path) if p in view.rules]
        if not any(rights & ~other == 0 for other in above):
            program.add(control, "landlock_path", path, int(rights))
    program.add("min_tier", "landlock_path", PRIVATE, int(RIGHTS[Use.BUILD] & handled))
    program.add("landlock", "landlock_restrict")


def profiles(context: Context) -> list[str]:
    """What seccomp holds here that namespaces or a newer Landlock would (all of them apply)."""
    from hardrun.kernel.seccomp.prebuilt import shipped_directory

    abi = context.facts.landlock_abi
    needed = {"always": True, "offline": context.word("network") == "none",
              "before-abi-9": abi < 9, "before-abi-3": abi < 3}
    directory = shipped_directory() / _PROFILES
    return [str(directory / f"{name}.json") for name, wanted in needed.items() if wanted]


def processes_now(uid: int) -> int:
    """Processes and threads of a user: RLIMIT_NPROC counts them all where there is no namespace."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue  # it ended, or it is somebody else's
    return count
