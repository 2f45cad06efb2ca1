"""Compose files: services with all that they are made of, anchors, and interpolation.

What the caller's environment would fill in stays unknown: that of whoever audits is not that of
whoever runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hardrun.audit.located import At, truth_of
from hardrun.audit.model import Subject
from hardrun.audit.read import engine
from hardrun.audit.read.gather import Gather, Word
from hardrun.audit.read.project import Project, filled

_NAMED = re.compile(r"(?:^|/)(?:docker-|podman-)?compose[\w.-]*\.ya?ml$")


def is_compose(document: At) -> bool:
    """Whether it has services that look like a Compose file's, or the name of one."""
    services = document.get("services")
    if document.get("apiVersion"):
        return False
    if _NAMED.search(document.file):
        return services.is_map or document.get("include").is_list
    return services.is_map and any(
        service.is_map and any(service.get(key) for key in (
            "image", "build", "extends", "command", "volumes"))
        for _, service in services.items())


def read(project: Project) -> Iterator[Subject]:
    """Every service, whatever its profile."""
    for name in project.names():
        yield _Service(name, project).subject()


class _Service:
    """One service and those that it extends or is laid over, the last words first."""

    def __init__(self, name: str, project: Project) -> None:
        self.layers, lacks = project.layers(name)
        self.project = project
        self.filled = project.filled
        self.home = project.home(name)
        self.gather = Gather("compose", name, name, self.home.place)
        self.gather.elsewhere = lacks

    def one(self, *names: str) -> At:
        """A value of the first layer that has it; none where that one takes it back."""
        for layer in self.layers:
            at = layer
            for name in names:
                at = at.get(name)
                if at.tagged("!reset"):
                    return self.home.get("!reset")
            if at:
                return at
        return self.home.get(*names)

    def lists(self, name: str) -> Iterator[At]:
        """A list of every layer, down to one that takes back or replaces those below."""
        for layer in self.layers:
            at = layer.get(name)
            if at.tagged("!reset"):
                return
            yield at
            if at.tagged("!override"):
                return

    def words(self, name: str) -> list[Word]:
        """The elements of a list over all layers, ``K: V`` as ``K=V``; of a key the first."""
        found: list[Word] = []
        for at in self.lists(name):
            found += [(self.filled(word), item.place) for word, item in at.words()]
            found += [(f"{key}={self.filled(value.text())}", value.place)
                      for key, value in at.items()]
        return found

    def environment(self) -> Iterator[tuple[str, At, str]]:
        """Every variable with its value: what a .env would fill in is a reference, no secret."""
        known: set[str] = set()
        for at in self.lists("environment"):
            pairs = [(*item.text().partition("=")[::2], item) for item in at.elements()]
            pairs += [(key, value.text(), value) for key, value in at.items()]
            for key, value, item in pairs:
                if key not in known:
                    known.add(key)
                    yield key, item, filled(value, {})

    def subject(self) -> Subject:
        """What it comes to."""
        gather = self.gather
        if gather.switch("privileged", self.filled(self.one("privileged").text())):
            gather.privileged(self.one("privileged").place)
        else:
            gather.capabilities(self.words("cap_add"), self.words("cap_drop"),
                                self.one("cap_drop").place)
        for field, kind in (("network_mode", "network"), ("pid", "pid"), ("ipc", "ipc"),
                            ("uts", "uts"), ("userns_mode", "userns"), ("cgroup", "cgroup")):
            at = self.one(field)
            if at:
                engine.namespace(gather, kind, self.filled(at.text()), at.place)
        engine.security_options(gather, self.words("security_opt"))
        self._mounts()
        for word, place in self.words("devices"):
            engine.device(gather, word, place)
        for word, place in self.words("sysctls"):
            engine.sysctl(gather, word, place)
        for key, at, value in self.environment():
            gather.variable(key, value, at.place)
        self._ports()
        self._rest()
        engine.by_default(gather)
        return gather.subject()

    def _mounts(self) -> None:
        known: set[str] = set()
        for at in self.lists("volumes"):
            for item in at.elements():
                target = item.get("target").text() if item.is_map else \
                    ":".join(self.filled(item.text()).split(":")[1:2])
                if target not in known or not target:
                    known.add(target)
                    self._mount(item)

    def _mount(self, item: At) -> None:
        if not item.is_map:
            spec = self.filled(item.text())
            engine.bind(self.gather, spec, item.place)
            self._volume(spec.partition(":")[0], spec.rpartition(":")[2].split(","), item)
            return
        read_only = truth_of(self.filled(item.get("read_only").text()))
        options = ["ro"] if read_only else []
        source = self.filled(item.get("source").text())
        if item.get("type").text() == "bind":
            options.append(item.get("bind", "propagation").text())
            engine.mounted(self.gather, source, options, item.get("source").place)
        else:
            self._volume(source, options, item)

    def _volume(self, name: str, options: list[str], item: At) -> None:
        """A volume whose driver binds a path of the host under another name."""
        for document in self.project.files:
            driver = document.get("volumes", name, "driver_opts")
            device = self.filled(driver.get("device").text())
            if device.startswith(("/", "~", ".")) and "bind" in driver.get("o").text():
                engine.mounted(self.gather, device, options, item.place)

    def _ports(self) -> None:
        for at in self.lists("ports"):
            for item in at.elements():
                if item.is_map:
                    self.gather.port(self.filled(item.get("published").text()),
                                     item.get("host_ip").text(), item.place)
                else:
                    engine.published(self.gather, self.filled(item.text()), item.place)

    def _rest(self) -> None:
        gather = self.gather
        root = gather.switch("filesystem.read_only_root", self.filled(self.one("read_only").text()))
        if root is not None:
            gather.say("filesystem.read_only_root", root, self.one("read_only").place)
        engine.user(gather, self.filled(self.one("user").text()), self.one("user").place)
        for control, names, factor in (
                ("limits.memory", ("mem_limit",), 1),
                ("limits.memory", ("deploy", "resources", "limits", "memory"), 1),
                ("limits.cpus", ("cpus",), 1000),
                ("limits.cpus", ("deploy", "resources", "limits", "cpus"), 1000),
                ("limits.pids", ("pids_limit",), 1),
                ("limits.pids", ("deploy", "resources", "limits", "pids"), 1)):
            at = self.one(*names)
            if at:
                engine.size(gather, control, self.filled(at.text()), at.place, factor)
        health = self.one("healthcheck")
        if health:
            off = health.get("disable").truth() or \
                [word for word, _ in health.get("test").words()][:1] == ["NONE"]
            gather.say("healthcheck", not off, health.place)
        gather.unknown("healthcheck", "the image may have one")
        image = self.one("image")
        if image:
            gather.image(self.filled(image.text()), image.place)
