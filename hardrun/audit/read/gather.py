"""Puts one subject together; what the engines have in common."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.located import truth_of
from hardrun.audit.model import Place, Seen, Source, Subject
from hardrun.posture.capabilities import CAPABILITIES

# What Docker, containerd and CRI-O give a container that says nothing (moby/profiles).
DEFAULT_CAPABILITIES = frozenset(f"CAP_{name}" for name in (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
    "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"))
_SECRET = re.compile(r"PASSW(OR)?D|PASSPHRASE|SECRET|TOKEN|(API|PRIVATE|ACCESS)_?KEY|CREDENTIAL",
                     re.IGNORECASE)
# Where to find it, how long it lasts, what it is called: not the secret.
_ABOUT = re.compile(r"(FILE|PATH|DIR|NAME|URL|URI|HOST|TTL|EXPIR\w*|LENGTH|TYPE|ID|ENABLED|REF|USER"
                    r"|AUDIENCE|ISSUER|ENDPOINT|HEADER|TIMEOUT)$|^(USE|NO|DISABLE|ENABLE)_",
                    re.IGNORECASE)
_NO_SECRET = re.compile(r"|true|false|yes|no|null|none|\d{1,5}|/.*|.*[{<$].*", re.IGNORECASE)
_TOKENS = {"~": "$HOME", "$HOME": "$HOME", "${HOME}": "$HOME", ".": "$workdir", "..": "$workdir/..",
           "$PWD": "$workdir", "${PWD}": "$workdir", "$(pwd)": "$workdir", "`pwd`": "$workdir"}
_HAVE_PROFILE = frozenset({"compose", "inspect", "command"})  # Docker and podman set theirs unasked

Word = tuple[str, Place]
LATER = "it is filled in later"
_LATER = re.compile(r"[$`]|\{[{%]")


class Gather:
    """A subject under construction."""

    def __init__(self, source: Source, name: str, group: str, place: Place) -> None:
        self.source: Source = source
        self.name = name
        self.group = group
        self.place = place
        self.values: dict[str, Seen] = {}
        self.unknowns: dict[str, str] = {}
        self.elsewhere = ""  # why what is not said here may be said in another file

    def say(self, name: str, value: object, place: Place) -> None:
        """A value that is written there."""
        self.values[name] = Seen(value, place)

    def default(self, name: str, value: object, place: Place | None = None) -> None:
        """A value that holds since nobody said anything; one that is said already stays."""
        if self.elsewhere:
            self.unknown(name, self.elsewhere)
        elif name not in self.unknowns and name not in self.values:
            here = self.place
            where = place or Place(here.file, here.line, here.column, f"{here.field} ({name})",
                                   here.chain)
            self.values[name] = Seen(value, where, said=False)

    def loosest(self, name: str, value: object, place: Place) -> None:
        """One of several values that are written; the loosest counts."""
        before = self.values.get(name)
        if before is None or not before.said \
                or not BOUNDABLE[name].at_most(value, before.value):
            self.say(name, value, place)

    def add(self, name: str, element: str, place: Place) -> None:
        """One element of a set."""
        before = self.values.get(name)
        value = before.value if before is not None else frozenset()
        elements = {**(before.elements if before is not None else {}), element: place}
        control = BOUNDABLE[name]
        self.values[name] = Seen(control.join(value, frozenset({element})), place,
                                 elements=elements)

    def nothing(self, *names: str) -> None:
        """Sets that are empty unless something was added."""
        for name in names:
            self.default(name, frozenset())

    def unknown(self, name: str, reason: str) -> None:
        """A value that can't be known from this source."""
        if name not in self.values:
            self.unknowns[name] = reason

    def switch(self, name: str, text: str) -> bool | None:
        """A boolean; None when it is none, not known where somebody else fills it in."""
        if filled_later(text):
            self.unknown(name, LATER)
        return truth_of(text)

    def subject(self) -> Subject:
        """What was gathered, as the controls of a posture, too."""
        self._posture()
        return Subject(self.source, self.name, self.group, self.place, dict(self.values),
                       {n: why for n, why in self.unknowns.items() if n not in self.values})

    def _posture(self) -> None:
        """What facts come to in terms of controls, for policies that bound those."""
        filters = self.values.get("seccomp_mode")
        if filters is not None and filters.value == "unconfined":
            self.values.setdefault("seccomp", replace(filters, value=frozenset()))
        elif filters is not None and filters.value == "unset" and self.source in _HAVE_PROFILE:
            self.values.setdefault("seccomp",
                                   replace(filters, value=frozenset({"docker-default"})))
        else:
            self.unknown("seccomp", "the profile is not part of what was read")
        network = self.values.get("network_mode")
        if network is not None and network.value in ("none", "host"):
            self.values.setdefault("network", network)
        else:
            self.unknown("network", "a network of its own is between none and host")
        shown = self.values.get("proc_mount")
        if shown is not None and shown.value == "masked":
            self.values.setdefault("filesystem.proc", shown)
        else:
            self.unknown("filesystem.proc", "it is not masked")

    # -- what engines have in common ---------------------------------------------------------------

    def capabilities(self, add: Sequence[Word], drop: Iterable[Word], default: Place,
                     base: frozenset[str] = DEFAULT_CAPABILITIES) -> None:
        """What is added to, and dropped from, an engine's default."""
        dropped: set[str] = set()
        for word, _ in drop:
            dropped |= _named(word)
        value = set(base - dropped)
        elements: dict[str, Place] = {}
        for word, place in add:
            for name in _named(word):
                value.add(name)
                elements.setdefault(name, place)
        first = next(iter(elements.values()), default)
        lacks = self.elsewhere or (LATER if any(filled_later(word) for word, _ in add) else "")
        if lacks and not elements:
            self.unknown("capabilities", lacks)
            self.unknown("capabilities_added", lacks)
            return
        self.values["capabilities"] = Seen(frozenset(value), default, said=False, elements=elements)
        self.values["capabilities_added"] = Seen(frozenset(elements), first,
                                                 said=bool(elements), elements=elements)

    def privileged(self, place: Place) -> None:
        """The engine's switch that turns its isolation off, and what it comes to."""
        self.say("privileged", value=True, place=place)
        every = dict.fromkeys(CAPABILITIES.loosest, place)
        for name in ("capabilities", "capabilities_added"):
            self.values[name] = Seen(CAPABILITIES.loosest, place, elements=every)
        self.say("seccomp_mode", "unconfined", place)
        self.say("apparmor_mode", "unconfined", place)
        self.say("no_new_privs", value=False, place=place)
        self.say("proc_mount", "unmasked", place)
        self.add("host_devices", "/dev", place)

    def host_path(self, path: str, place: Place, *, read_only: bool) -> None:
        """A path of the host that is mounted."""
        self.add("filesystem.readable" if read_only else "filesystem.writable",
                 host_path(path), place)

    def variable(self, name: str, value: str, place: Place) -> None:
        """An environment variable with its value written out."""
        if is_secret(name, value):
            self.add("literal_secrets", name, place)

    def image(self, reference: str, place: Place) -> None:
        """The reference of an image."""
        level = image_level(reference)
        if level is None:
            self.unknown("image_reference", LATER)
        else:
            self.say("image_reference", level, place)

    def port(self, published: str, address: str, place: Place, *, everywhere: bool = True) -> None:
        """A port of the host that leads in; ``published`` is empty where the engine chooses it."""
        if everywhere and address in ("", "0.0.0.0", "::", "[::]"):  # nosec B104 - what is looked for
            self.add("open_ports", published or "any", place)
        first = published.partition("-")[0]
        if first.isdecimal() and 0 < int(first) < 1024:
            self.add("privileged_ports", published, place)


def _named(word: str) -> frozenset[str]:
    name = word.upper()
    if name in ("ALL", "CAP_ALL"):
        return CAPABILITIES.loosest
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    return frozenset({name}) & CAPABILITIES.loosest


def filled_later(text: str) -> bool:
    """Whether a variable or a template of somebody else's stands in a text."""
    return _LATER.search(text) is not None


def host_path(path: str) -> str:
    """A path of the host in the one spelling that rules use: /run, not its link /var/run; what is
    relative or in a home begins with $workdir or $HOME."""
    for before, after in _TOKENS.items():
        if path == before or path.startswith(f"{before}/"):
            return after + posixpath.normpath("/" + path[len(before):].lstrip("/")).rstrip("/")
    if path.startswith("$"):
        return path
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return "/run" + clean[8:] if clean == "/var/run" or clean.startswith("/var/run/") else clean


def is_secret(name: str, value: str) -> bool:
    """Whether a variable's name says secret and its value is one rather than a reference."""
    return bool(_SECRET.search(name)) and not _ABOUT.search(name) and len(value) < 4096 \
        and _NO_SECRET.fullmatch(value) is None


def image_level(reference: str) -> str | None:
    """``digest``, ``tag`` or ``latest``; None for a reference that is filled in later."""
    if not reference or "{" in reference or "$" in reference:
        return None
    if "@sha256:" in reference or "@sha512:" in reference or reference.startswith("sha256:"):
        return "digest"
    tag = reference.rpartition("/")[2].partition(":")[2]
    return "latest" if tag in ("", "latest") else "tag"


def numbers(text: str, units: Mapping[str, float]) -> float | None:
    """A quantity such as 512Mi, 0.5 or 1e3; None when it is none."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?(?:[eE][0-9]{1,2})?)([A-Za-z]{0,2})",
                         text.strip())
    if match is None or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]
