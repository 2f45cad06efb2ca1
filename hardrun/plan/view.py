"""What a sandbox sees: the list from which mounts, Landlock rules and look-ups are all made.

The root is an empty tmpfs and a list of what is visible in it, never the host's root minus a list
of what is hidden: what nobody thought of is absent, not exposed.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

from hardrun.posture.filesystem import parents
from hardrun.workload.toolchain import MAXIMUM_LINKS


class Kind(enum.Enum):
    """What lies at a path of the view."""

    DIRECTORY = "directory"  # made in the tmpfs
    FILE = "file"  # made in the tmpfs, with content
    LINK = "link"
    BIND = "bind"  # a tree or file of the host
    PRIVATE = "private"  # a writable directory of the root tmpfs
    TMPFS = "tmpfs"  # a tmpfs of its own, with a size of its own
    DEVICE = "device"
    PROC = "proc"


class Use(enum.Enum):
    """What the workload may do beneath a path: the source of Landlock rights and mount flags."""

    NOTHING = "nothing"  # only passed through
    LIST = "list"
    READ = "read"
    RUN = "run"  # read and execute
    WRITE = "write"  # all but execute and device nodes
    BUILD = "build"  # all but device nodes
    DEVICES = "devices"
    PROC = "proc"


class Entry(NamedTuple):
    """One path of the view.

    ``source`` is the host path of a bind or device and the target of a link; ``control`` the id of
    the control that put it there.
    """

    kind: Kind
    path: str
    control: str
    use: Use = Use.NOTHING
    source: str = ""
    mode: int = 0o755
    content: bytes = b""
    size: int = 0


class Found(NamedTuple):
    """Where a path of the view really lies: ``inside`` has no symlinks; ``host`` is None for what
    is made for the sandbox; ``missing`` is the first component that is not in the view."""

    inside: str
    host: str | None
    missing: str = ""


MOUNTS = frozenset({Kind.BIND, Kind.PRIVATE, Kind.TMPFS, Kind.DEVICE, Kind.PROC})
_MADE_HERE = frozenset({Kind.PRIVATE, Kind.TMPFS, Kind.PROC, Kind.DEVICE})


class View:
    """The entries by path, and the kernel's path walk over them.

    A path carries at most one thing made in the tmpfs and one mount upon it. ``layered``: changes
    of ``rootfs`` lie over it, and no path walk here sees them.
    """

    def __init__(self, rootfs: str | None = None, *, layered: bool = False) -> None:
        self.rootfs = rootfs
        self.layered = layered
        self.made: dict[str, Entry] = {}
        self.mounts: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Put an entry in place of what was at its path."""
        (self.mounts if entry.kind in MOUNTS else self.made)[entry.path] = entry

    def entries(self) -> list[Entry]:
        """All entries, parents before children and mount points before mounts."""
        both = [*self.made.values(), *self.mounts.values()]
        return sorted(both, key=lambda entry: entry.path.split("/"))

    def mount_of(self, path: str) -> Entry | None:
        """The mount that ``path`` (without symlinks) lies on; None: the root."""
        for candidate in chain((path,), parents(path)):
            mount = self.mounts.get(candidate)
            if mount is not None:
                return mount
        return None

    def host_path(self, path: str) -> str | None:
        """The host path behind a path without symlinks; None where it is made for the sandbox."""
        return self._behind(self.mount_of(path), path)

    def _behind(self, mount: Entry | None, path: str) -> str | None:
        if mount is None:
            return None if self.rootfs is None else self.rootfs.rstrip("/") + path
        if mount.kind is Kind.BIND:
            return mount.source.rstrip("/") + path[len(mount.path):]
        return None

    def _target_of(self, path: str) -> tuple[bool, str]:
        """Whether something is at ``path``, and its target when that is a symlink."""
        mount = self.mount_of(path)
        host = self._behind(mount, path)
        if host is None:
            made = self.made.get(path)
            if made is not None:
                return True, made.source if made.kind is Kind.LINK else ""
            return path in self.mounts or (mount is not None and mount.kind is Kind.PROC), ""
        if path in self.mounts:
            return True, ""
        try:
            return True, os.readlink(host)
        except FileNotFoundError:
            return path in self.made, ""
        except ValueError:  # a NUL, from the text of a file: no path has one
            return False, ""
        except OSError:
            return os.path.lexists(host) or path in self.made, ""

    def find(self, path: str) -> Found:
        """Resolve a path as the kernel would inside the sandbox."""
        todo = path.strip("/").split("/")
        here = "/"
        links = 0
        while todo:
            name = todo.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            step = os.path.join(here, name)
            exists, target = self._target_of(step)
            if not exists:
                return Found(os.path.join(step, *todo), None, missing=step)
            if not target:
                here = step
                continue
            links += 1
            if links > MAXIMUM_LINKS:
                return Found(step, None, missing=step)
            todo[:0] = target.split("/")
            here = "/" if target.startswith("/") else here
        return Found(here, self.host_path(here))

    def canonical(self, path: str) -> str:
        """``path`` with the symlinks of the view resolved, whether or not its end exists."""
        return self.find(path).inside

    def uses(self) -> Mapping[str, Use]:
        """What is allowed beneath each path, for Landlock: the nearest rule above adds up."""
        rules = {"/": Use.RUN if self.rootfs is not None else Use.LIST}
        for entry in self.entries():
            if entry.use is not Use.NOTHING:
                rules[entry.path] = entry.use
        return rules
