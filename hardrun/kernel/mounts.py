"""The mounts of a process: /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One mount.

    ``root`` is the path inside the file system that is mounted, ``mount_point`` where, relative to
    the root of the process that mountinfo was read from. ``options`` are of this mount alone,
    ``super_options`` of the whole file system.
    """

    id: int
    parent: int
    device: tuple[int, int]
    root: str
    mount_point: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    type: str
    source: str
    super_options: tuple[str, ...]

    def has(self, option: str) -> bool:
        """Whether an option such as ``nosuid`` is set on this mount."""
        return option in self.options

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written: by the mount's own flag or the file system's."""
        return "ro" in self.options or "ro" in self.super_options

    def super_option(self, name: str) -> str | None:
        """The value of an option of the file system: ``size``; "" for a flag, None when unset."""
        for option in self.super_options:
            key, _, value = option.partition("=")
            if key == name:
                return value
        return None


def unescape(text: str) -> str:
    r"""A field as it was: space, tab, newline, backslash and # are written ``\040`` and so on."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse_line(line: str) -> Mount:
    """Read one line of mountinfo. Raises ValueError when it is not one."""
    before, separator, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    # The source can be empty, and then there are two spaces in a row.
    if not separator or len(left) < 6 or len(right) != 3:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    major, _, minor = left[2].partition(":")
    return Mount(
        id=int(left[0]), parent=int(left[1]), device=(int(major), int(minor)),
        root=unescape(left[3]), mount_point=unescape(left[4]),
        options=_options(left[5]), propagation=tuple(word for word in left[6:] if word),
        type=unescape(right[0]), source=unescape(right[1]), super_options=_options(right[2]),
    )


def parse(text: str) -> tuple[Mount, ...]:
    """Read mountinfo. Raises ValueError when a line is malformed.

    The order is the kernel's: of several mounts on one path the last is the one that is seen.
    """
    return tuple(parse_line(line) for line in text.split("\n") if line)


def _options(text: str) -> tuple[str, ...]:
    return tuple(unescape(option) for option in text.split(","))


def visible(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The mount on exactly ``path`` that a look-up meets: the last one there; None without one."""
    found = None
    for mount in mounts:
        if mount.mount_point == path:
            found = mount
    return found


def reachable(mounts: tuple[Mount, ...]) -> list[Mount]:
    """The mounts that a path leads to: neither they nor what they lie on is covered by another."""
    by_id = {mount.id: mount for mount in mounts}
    children: dict[int, list[Mount]] = {}
    for mount in mounts:
        children.setdefault(mount.parent, []).append(mount)

    def chain(mount: Mount) -> list[Mount]:
        found = [mount]
        while (above := by_id.get(found[-1].parent)) is not None and above not in found:
            found.append(above)
        return found

    def covers(other: Mount, mount: Mount) -> bool:
        if other.parent == mount.id:  # on the whole of it
            return other.mount_point == mount.mount_point
        return other.id > mount.id and mount.mount_point.startswith(
            other.mount_point.rstrip("/") + "/")

    result = []
    for mount in mounts:
        held_by = chain(mount)
        if not any(covers(other, one) for one in held_by
                   for other in (*children.get(one.id, ()), *children.get(one.parent, ()))
                   if other not in held_by):
            result.append(mount)
    return result


def parse_size(text: str) -> int:
    """Bytes of a ``size=`` option of tmpfs as mountinfo shows it: ``4k``, ``65536k``."""
    units = {"k": 10, "m": 20, "g": 30}
    shift = units.get(text[-1:].lower(), 0)
    return int(text[:-1] if shift else text) << shift
