"""Services of systemd and what their sandboxing options come to (systemd.exec(5)), with their
drop-ins, those of templates and prefixes included (systemd.unit(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hardrun.audit.model import Place, Seen, Subject
from hardrun.audit.read import engine
from hardrun.audit.read.gather import Gather, numbers
from hardrun.audit.tree import NotRead, Tree
from hardrun.posture.capabilities import CAPABILITIES

_TRUE = ("yes", "true", "on", "1")
_EXEC = re.compile(r"^[ \t]*ExecStart[ \t]*=", re.MULTILINE)
_PERCENT = re.compile(r"([0-9]{1,6})%")
# Directories that ProtectSystem=yes leaves read-only.
_PROTECTED = {"yes": ("/usr", "/boot"), "full": ("/usr", "/boot", "/etc")}


_DROP_IN = re.compile(r"(?:^|/)([^/]+\.service)\.d/[^/]+\.conf$")
_LIBRARIES = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system",
              "usr/lib/systemd/system", "lib/systemd/system")
Text = tuple[str, str]  # of a file, and its path


def is_unit(path: str, text: str) -> bool:
    """Whether it is a unit that starts something, or a drop-in of one."""
    if _DROP_IN.search(path):
        return "[Service]" in text
    return path.endswith(".service") and "[Service]" in text and _EXEC.search(text) is not None


class Unit(NamedTuple):
    """A unit and its drop-ins in the order in which they count. ``lacks``: why one of these files
    is not among them."""

    path: str
    texts: tuple[Text, ...]
    lacks: str = ""


def unit(text: str, file: str, tree: Tree) -> Unit:
    """The unit that a file is, or that it is a drop-in of, with all that lies beside it."""
    drop_in = _DROP_IN.search(file)
    path, first, lacks = file, [(text, file)], ""
    if drop_in is not None:
        directory = os.path.dirname(os.path.dirname(file))
        places = [os.path.join(place, drop_in[1]) for place in _places(directory)]
        path = next(filter(tree.has, places), os.path.join(directory, drop_in[1]))
        first = []
        lacks = "" if tree.has(path) else "the unit itself is not among what is audited"
    found: list[Text] = list(first)
    try:
        for name in ([path] if not first and not lacks else []) + _drop_ins(path, tree):
            found.append((tree.text(name), name))
    except NotRead as error:
        lacks = f"one of its files: {error}"
    return Unit(path, tuple(found) or ((text, file),), lacks)


def _places(directory: str) -> list[str]:
    """Where the rest of a unit may lie: beside it, and where systemd looks in the same root."""
    for end in _LIBRARIES:
        if directory == end or directory.endswith("/" + end):
            return [directory[:len(directory) - len(end)] + other for other in _LIBRARIES]
    return [directory]


def _drop_ins(path: str, tree: Tree) -> list[str]:
    """Drop-ins by their names, wherever they lie; of one name that of the narrowest directory."""
    directory, name = os.path.split(path)
    found: dict[str, str] = {}
    for holder in _holders(name):
        for place in _places(directory):
            inside = os.path.join(place, f"{holder}.d")
            for entry in tree.names(inside):
                if entry.endswith(".conf"):
                    found.setdefault(entry, os.path.normpath(os.path.join(inside, entry)))
    return [found[entry] for entry in sorted(found)]


def _holders(name: str) -> Iterator[str]:
    """a-b@c.service, a-b@.service, a-.service, service."""
    yield name
    stem = name.removesuffix(".service")
    prefix, at, instance = stem.partition("@")
    if at and instance:
        yield f"{prefix}@.service"
    words = prefix.split("-")
    yield from ("-".join(words[:number]) + "-.service" for number in range(len(words) - 1, 0, -1))
    yield "service"


class _Unit:
    """The settings of [Service]; a later one is added to lists and replaces anything else."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self.settings: dict[str, list[tuple[str, Place]]] = {}
        self.place = Place(texts[0][1])
        for text, file in texts:
            self._take(text, file)

    def _take(self, text: str, file: str) -> None:
        section = ""
        for number, line in enumerate(_joined(text), 1):
            stripped = line.strip()
            if stripped.startswith("[") and stripped.endswith("]"):
                section = stripped
                if section == "[Service]" and file == self.place.file:
                    self.place = Place(file, number, 1, "Service", (number,))
            elif "=" in stripped and stripped[0] not in "#;" and section == "[Service]":
                key, _, value = stripped.partition("=")
                column = len(line) - len(line.lstrip()) + 1
                place = Place(file, number, column, f"Service.{key.strip()}", (number,))
                if not value.strip():
                    self.settings.pop(key.strip(), None)  # an empty value starts anew
                    if key.strip() == "CapabilityBoundingSet":  # … here with none, not with all
                        self.settings[key.strip()] = [("", place)]
                else:
                    self.settings.setdefault(key.strip(), []).append((value.strip(), place))

    def last(self, name: str) -> tuple[str, Place]:
        """The setting that counts; empty where there is none."""
        return self.settings.get(name, [("", self.missing(name))])[-1]

    def missing(self, name: str) -> Place:
        """Where a setting would stand."""
        return Place(self.place.file, self.place.line, 1, f"Service.{name}", self.place.chain)

    def on(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.last(name)[0].lower() in _TRUE


def _joined(text: str) -> Iterator[str]:
    """Lines with their continuations, an empty one for each that was taken in."""
    held = ""
    taken = 0
    for line in text.replace("\r\n", "\n").split("\n"):
        held += line
        if held.endswith("\\"):
            held = held[:-1] + " "
            taken += 1
            continue
        yield held
        yield from [""] * taken
        held, taken = "", 0


def read(found: Unit) -> Iterator[Subject]:
    """The service of one unit."""
    unit = _Unit(found.texts)
    name = found.path.rpartition("/")[2]
    gather = Gather("systemd", name, name, unit.place)
    gather.elsewhere = found.lacks
    _user(gather, unit)
    _capabilities(gather, unit)
    _filters(gather, unit)
    root, place = unit.last("ProtectSystem")
    if root:
        gather.say("filesystem.read_only_root", root == "strict", place)
    gather.default("filesystem.read_only_root", value=False, place=place)
    network, place = unit.last("PrivateNetwork")
    if network:
        gather.say("network_mode", "none" if unit.on("PrivateNetwork") else "host", place)
    gather.default("network_mode", "host", place)
    _limits(gather, unit)
    for value, place in unit.settings.get("Environment", []):
        for word in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", value):
            key, _, secret = word.strip("\"'").partition("=")
            gather.variable(key, secret, place)
    gather.nothing("literal_secrets")
    yield gather.subject()


def _user(gather: Gather, unit: _Unit) -> None:
    user, place = unit.last("User")
    if unit.on("DynamicUser"):
        gather.say("ids.user", "self", unit.last("DynamicUser")[1])
    elif "%" in user:
        gather.unknown("ids.user", "the instance decides")
    elif user:
        gather.say("ids.user", "root" if user in ("root", "0") else "self", place)
    gather.default("ids.user", "root", place)
    if unit.on("PrivateUsers"):
        gather.say("user_namespace", "own", unit.last("PrivateUsers")[1])


def _capabilities(gather: Gather, unit: _Unit) -> None:
    held: dict[str, Place] = {}
    entries = unit.settings.get("CapabilityBoundingSet", [])
    user = gather.values.get("ids.user")
    if not entries and user is not None and user.value == "self":
        # Another user keeps none at an execve, whatever the bounding set.
        entries = unit.settings.get("AmbientCapabilities", []) or [("", unit.place)]
    value = frozenset() if entries and not entries[0][0].startswith("~") else CAPABILITIES.loosest
    for text, place in entries:
        names = frozenset(word.upper() for word in text.lstrip("~").split())
        value = value - names if text.startswith("~") else value | names & CAPABILITIES.loosest
        held.update(dict.fromkeys(names & value, place))
    place = unit.missing("CapabilityBoundingSet")
    if gather.elsewhere and not entries:
        gather.unknown("capabilities", gather.elsewhere)
        return
    gather.values["capabilities"] = Seen(value, place, said=False, elements=held)


def _filters(gather: Gather, unit: _Unit) -> None:
    privileges, place = unit.last("NoNewPrivileges")
    if privileges:
        gather.say("no_new_privs", unit.on("NoNewPrivileges"), place)
    elif unit.on("DynamicUser"):
        gather.say("no_new_privs", value=True, place=unit.last("DynamicUser")[1])
    gather.default("no_new_privs", value=False, place=place)
    calls, place = unit.last("SystemCallFilter")
    if calls:
        gather.say("seccomp_mode", "profile", place)
    gather.default("seccomp_mode", "unconfined", place)


def _limits(gather: Gather, unit: _Unit) -> None:
    for control, names, factor in (("limits.memory", ("MemoryMax", "MemoryLimit"), 1.0),
                                   ("limits.cpus", ("CPUQuota",), 10),
                                   ("limits.pids", ("TasksMax",), 1)):
        for name in names:
            text, place = unit.last(name)
            percent = _PERCENT.fullmatch(text)
            amount = int(percent[1]) if percent else numbers(text, engine.SIZES)
            if amount:
                gather.say(control, max(1, int(amount * factor)), place)
            elif text == "infinity":
                gather.say(control, engine.UNLIMITED, place)
    gather.default("limits.memory", engine.UNLIMITED, unit.missing("MemoryMax"))
    gather.default("limits.cpus", engine.UNLIMITED, unit.missing("CPUQuota"))
    gather.default("limits.pids", 4915, unit.missing("TasksMax"))  # DefaultTasksMax=15%
