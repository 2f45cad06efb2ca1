"""What ``docker inspect`` and ``podman inspect`` tell of a container."""

from __future__ import annotations

from collections.abc import Iterator

from hardrun.audit.located import At
from hardrun.audit.model import Subject
from hardrun.audit.read import command, engine
from hardrun.audit.read.gather import DEFAULT_CAPABILITIES, Gather, Word

_MODES = (("NetworkMode", "network"), ("PidMode", "pid"), ("IpcMode", "ipc"), ("UTSMode", "uts"),
          ("UsernsMode", "userns"), ("CgroupnsMode", "cgroup"), ("CgroupMode", "cgroup"))


def is_inspect(document: At) -> bool:
    """Whether it is a list of containers, or one."""
    first = next(document.elements(), document) if document.is_list else document
    return first.get("HostConfig").is_map


def read(document: At) -> Iterator[Subject]:
    """Every container."""
    for item in document.elements() if document.is_list else [document]:
        if item.get("HostConfig").is_map:
            yield _container(item)


def _words(at: At) -> list[Word]:
    return [(word, item.place) for word, item in at.words()]


def _container(item: At) -> Subject:
    name = item.get("Name").text().lstrip("/") or item.get("Id").text()[:12] or "?"
    host, config = item.get("HostConfig"), item.get("Config")
    gather = Gather("inspect", name, name, item.place)
    if host.get("Privileged").truth():
        gather.privileged(host.get("Privileged").place)
    else:
        # podman tells what its configuration makes of the default, too.
        bounding = frozenset(word for word, _ in item.get("BoundingCaps").words())
        gather.capabilities(_words(host.get("CapAdd")), _words(host.get("CapDrop")),
                            host.get("CapDrop").place, bounding or DEFAULT_CAPABILITIES)
    for field, kind in _MODES:
        at = host.get(field)
        if at.text():
            engine.namespace(gather, kind, at.text(), at.place)
    engine.security_options(gather, [*_words(host.get("SecurityOpt")), *_asked_of_podman(config)])
    if item.get("OCIRuntime") and not config.get("CreateCommand"):
        gather.unknown("proc_mount", "podman tells masks by the command alone, which is not here")
    _mounts(gather, item, host)
    for entry in host.get("Devices").elements():
        engine.device(gather, entry.get("PathOnHost").text(), entry.get("PathOnHost").place)
    for key, value in host.get("Sysctls").items():
        engine.sysctl(gather, key, value.place)
    for word, place in _words(config.get("Env")):
        gather.variable(*word.partition("=")[::2], place)
    for _, bindings in host.get("PortBindings").items():
        for binding in bindings.elements():
            gather.port(binding.get("HostPort").text(), binding.get("HostIp").text(),
                        binding.place)
    _rest(gather, host, config)
    engine.by_default(gather)
    return gather.subject()


def _asked_of_podman(config: At) -> list[Word]:
    """The security options of the command that podman keeps: what it tells elsewhere lacks some."""
    words = _words(config.get("CreateCommand"))
    first = next((n for n, (word, _) in enumerate(words) if word in ("run", "create")), len(words))
    return [(value, place) for option, value, place in command.options(words[first + 1:])[0]
            if option == "--security-opt"]


def _mounts(gather: Gather, item: At, host: At) -> None:
    for word, place in _words(host.get("Binds")):
        engine.bind(gather, word, place)
    for mount in item.get("Mounts").elements():
        source = mount.get("Source")
        if mount.get("Type").text() != "bind" or not source.text():
            continue
        known = gather.values.get("filesystem.writable"), gather.values.get("filesystem.readable")
        if any(seen is not None and source.text() in seen.value for seen in known):
            continue  # it stands under Binds, too
        options = ["ro"] if mount.get("RW").truth() is False else []
        options.append(mount.get("Propagation").text())
        engine.mounted(gather, source.text(), options, source.place)


def _rest(gather: Gather, host: At, config: At) -> None:
    root = host.get("ReadonlyRootfs")
    if root.truth() is not None:
        gather.say("filesystem.read_only_root", root.truth(), root.place)
    user = config.get("User")
    # The image's USER is in it already: empty is root.
    engine.user(gather, user.text() or "0", user.place)
    for control, field, factor in (("limits.memory", "Memory", 1.0),
                                   ("limits.pids", "PidsLimit", 1),
                                   ("limits.cpus", "NanoCpus", 1e-6),
                                   ("limits.cpus", "CpuQuota", 1e-2)):
        amount = host.get(field).number() or 0
        if amount > 0:
            gather.say(control, max(1, int(amount * factor)), host.get(field).place)
    masked = host.get("MaskedPaths")
    if masked.is_list and not any(True for _ in masked.elements()):
        gather.loosest("proc_mount", "unmasked", masked.place)
    health = config.get("Healthcheck", "Test")
    words = [word for word, _ in health.words()]
    gather.say("healthcheck", bool(words) and words != ["NONE"], health.place)
    image = config.get("Image")
    if image.text():
        gather.image(image.text(), image.place)
