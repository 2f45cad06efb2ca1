"""What of the host's files can be seen, read and written.

Paths are absolute and stand for all below them; ``/`` (``any`` in a policy) stands for everything.
In policies a path may begin with ``$workdir`` or ``$HOME`` (``~``); the engine puts the workload's
own directories in their place.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hardrun.posture.control import Enforcement, by_fact, degraded, enforced, replaced
from hardrun.posture.orders import Covering, Flag, Level, Obligations, texts

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts

TOKENS = ("$workdir", "$HOME")


def below(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or lies below it."""
    return directory == "/" or path == directory or path.startswith(directory + "/")


def parents(path: str) -> Iterator[str]:
    """The ancestors of a path, nearest first, without the root."""
    while path := path[:path.rfind("/") + 1].rstrip("/"):
        yield path


def parse_path(text: str) -> str:
    """An absolute path of a policy in its one spelling; ValueError when it isn't one."""
    if text == "any":
        return "/"
    path = "$HOME" + text[1:] if text == "~" or text.startswith("~/") else text
    start = path.split("/", 1)[0]
    if "\0" in path or (start and start not in TOKENS) or not path:
        raise ValueError(f"{text!r} is not an absolute path, nor below $workdir or $HOME")
    if ".." in path.split("/"):
        raise ValueError(f"{text!r} must not contain '..'")
    return posixpath.normpath("/" + path.lstrip("/") if path.startswith("/") else path)


class PathSet(Covering[str]):
    """A set of paths with all that is below them."""

    def covers(self, wide: str, narrow: str) -> bool:
        return below(narrow, wide)

    def normal(self, elements: Iterable[str]) -> frozenset[str]:
        """By the paths above each, which are few, where paths may be many."""
        every = frozenset(elements)
        if "/" in every:
            return frozenset({"/"})
        return frozenset(e for e in every if every.isdisjoint(parents(e)))

    def reaches(self, value: frozenset[str], element: str) -> bool:
        return "/" in value or element in value or not value.isdisjoint(parents(element))

    def parse(self, raw: object) -> frozenset[str]:
        return self.normal(parse_path(text) for text in texts(raw))

    def load(self, data: Any) -> frozenset[str]:
        return self.parse(data)


class Protected(Obligations[str]):
    """Names that must stay as they are at any depth below a writable grant."""

    def parse(self, raw: object) -> frozenset[str]:
        names = texts(raw)
        for name in names:
            if name.startswith("/") or not name or {"", ".", ".."} & set(name.split("/")):
                raise ValueError(f"{name!r} must be a relative name such as .git/hooks")
        return frozenset(names)

    def load(self, data: Any) -> frozenset[str]:
        return self.parse(data)


def _mounted(facts: HostFacts, *more: str) -> Enforcement:
    return by_fact("mount_namespace", "mount namespace", facts.mount_namespace, "mounts", *more)


def _paths(value: object, facts: HostFacts) -> Enforcement:
    return _mounted(facts, "Landlock") if facts.landlock_abi else _mounted(facts)


def _root(value: bool, facts: HostFacts) -> Enforcement:
    return _mounted(facts) if value else enforced("not restricted")


def _protected(value: frozenset[str], facts: HostFacts) -> Enforcement:
    return _mounted(facts) if value else enforced("nothing to protect")


def _proc(value: str, facts: HostFacts) -> Enforcement:
    if value == "none":
        return enforced("not mounted")
    if not facts.proc_mount.available:
        # Never the host's own instead, which shows its processes: none at all, which shows less.
        return replaced("not mounted", because=f"no proc of its own: {facts.proc_mount.detail}",
                        fix=facts.proc_mount.fix, fact="proc_mount")
    if value == "pid" and not facts.proc_subset.available:
        return degraded("masked paths", because="proc has no subset=pid before Linux 5.8",
                        fix="a kernel from 5.8 on", fact="proc_subset")
    return enforced("proc subset=pid" if value == "pid" else "proc of its own")


def _overlay(value: str, facts: HostFacts) -> Enforcement:
    if value == "none":
        return enforced("no layer")
    return by_fact("overlay", "overlay file system", facts.overlay, "overlay")


READ_ONLY_ROOT = Flag(
    id="filesystem.read_only_root", title="read-only root",
    meaning="Whether the root of the sandbox is read-only; under a layer (`filesystem.overlay`):"
            " whether what lies below it is.",
    loosest=False, default=True, enforce=_root)

OVERLAY = Level(
    id="filesystem.overlay", title="layer over the root",
    meaning="Where changes of a root file system go: none (there is no layer), ephemeral (a layer"
            " in memory, within limits.tmpfs, gone at the end) or persistent (a layer on disk that"
            " a named container keeps). What lies below is never written.",
    levels=("none", "ephemeral", "persistent"), loosest="persistent", default="none",
    enforce=_overlay, unsaid="none")

VISIBLE = PathSet(
    id="filesystem.visible", title="visible paths",
    meaning="What of the host is shown, read-only, without being asked for; paths that don't exist"
            " are passed over.",
    loosest=frozenset({"/"}), default=frozenset({"/"}), enforce=_paths)

READABLE = PathSet(
    id="filesystem.readable", title="readable paths",
    meaning="What --ro may show; never a known way out without `danger`.",
    loosest=frozenset({"/"}), default=frozenset(), enforce=_paths)

WRITABLE = PathSet(
    id="filesystem.writable", title="writable paths",
    meaning="What --rw may ask for; $workdir is never a home directory or above it.",
    loosest=frozenset({"/"}), default=frozenset(), enforce=_paths)

PROTECTED = Protected(
    id="filesystem.protected", title="protected names",
    meaning="Names (a trailing part of a path; * and ? match) that stay read-only at any depth"
            " below a writable grant because something outside executes them later.",
    loosest=frozenset(), default=frozenset(), enforce=_protected)

PROC = Level(
    id="filesystem.proc", title="/proc",
    meaning="none, pid (processes only: subset=pid) or masked (all of proc, with masked paths).",
    levels=("none", "pid", "masked"), loosest="masked", default="pid", enforce=_proc)
