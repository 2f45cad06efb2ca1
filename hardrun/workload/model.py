"""The Workload: one frozen value that says what is to be run and what was asked for.

It holds requests, never grants: what becomes of them is the engine's decision. Text may hold any
bytes (surrogateescape); sizes are bytes, durations milliseconds, CPUs thousandths of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hardrun.values import plain


class Request(NamedTuple):
    """One control that the caller asked for, with the flag that says so."""

    control: str
    value: object
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A directory or file that the sandbox is to see.

    ``source`` is an absolute path of the host without symlinks (None for a tmpfs), ``destination``
    the absolute path inside, ``size`` the bytes of a tmpfs, ``origin`` the flag.
    """

    access: Literal["ro", "rw", "tmpfs"]
    source: str | None
    destination: str
    size: int | None = None
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Names to take over from the caller, and values that are set."""

    inherit: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A request to run one command.

    ``writable`` is a value of ``filesystem.overlay``. ``links`` are symlinks (path inside, target)
    that a toolchain needs in order to be found under the name it was asked for. ``userns`` is a
    value of ``ids.range``, and how many ids a range of its own is to have (0: the usual number).
    ``origins`` maps a control id to the flag that asked for it.
    """

    argv: tuple[str, ...]
    working_directory: str | None = None
    caller_directory: str
    home: str
    rootfs: str | None = None
    writable: str | None = None
    mounts: tuple[Mount, ...] = ()
    toolchains: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    environment: Environment = Environment()
    network: str | None = None
    min_tier: str | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    cpuset: tuple[int, ...] | None = None
    cgroup_parent: str | None = None
    user: tuple[int, int] | None = None
    userns: tuple[str, int] | None = None
    hostname: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    trust: str | None = None
    terminal: bool = False
    interactive: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    def requests(self) -> tuple[Request, ...]:
        """Every control that was asked for, in the order of their ids.

        Paths come as a frozenset of host paths (``filesystem.readable``, ``filesystem.writable``),
        inherited names as a frozenset (``environment``), limits as int.
        """
        asked: dict[str, tuple[object, str]] = {}
        for control, access in (("filesystem.readable", "ro"), ("filesystem.writable", "rw")):
            mounts = [m for m in self.mounts if m.access == access and m.source is not None]
            if mounts:
                asked[control] = (frozenset(m.source for m in mounts), _together(mounts))
        if self.writable is not None:
            asked["filesystem.overlay"] = (self.writable, "--writable")
        if self.network is not None:
            asked["network"] = (self.network, "--network")
        if self.min_tier is not None:
            asked["min_tier"] = (self.min_tier, "--min-tier")
        if self.environment.inherit:
            asked["environment"] = (frozenset(self.environment.inherit), "--env")
        if self.user is not None:
            asked["ids.user"] = ("root" if self.user[0] == 0 else "self", "--user")
        if self.userns is not None:
            asked["ids.range"] = (self.userns[0], "--userns")
        if self.terminal:
            asked["terminal"] = ("private", "-t")
        if self.cpuset is not None:
            asked["limits.cpuset"] = (frozenset(self.cpuset), "--cpuset")
        for name, value in self.limits.items():
            asked[f"limits.{name}"] = (value, "--" + name.replace("_", "-"))
        return tuple(Request(control, value, self.origins.get(control, origin))
                     for control, (value, origin) in sorted(asked.items()))

    def canonical(self) -> dict[str, Any]:
        """The workload as JSON-ready values, without the values of environment variables.

        A Decision is stored and shown; a token given by ``--env TOKEN=…`` must not be in it.
        """
        document: dict[str, Any] = plain(self)
        document["environment"] = {"inherit": list(self.environment.inherit),
                                   "set": [name for name, _ in self.environment.values]}
        return document


def _together(mounts: list[Mount]) -> str:
    return ", ".join(dict.fromkeys(m.origin for m in mounts))
