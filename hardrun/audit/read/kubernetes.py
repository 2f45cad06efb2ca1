"""Kubernetes manifests: pods, and whatever has a template of one.

Fields and inheritance: Kubernetes API reference, PodSpec v1; the Pod Security Standards look at
the pod's own settings, too, where each container overrides them: a sidecar that is injected later
inherits them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hardrun.audit.located import At
from hardrun.audit.model import Subject
from hardrun.audit.read.gather import LATER, Gather, filled_later, numbers

_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": ("spec",),
    "PodTemplate": ("template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_TEMPLATE = ("spec", "template", "spec")  # Deployment, StatefulSet, DaemonSet, Job, ReplicaSet, …
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_LEGACY_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_PROFILES = ("RuntimeDefault", "Localhost")
_UNITS = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
          "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_PROPAGATION = {"Bidirectional": "shared", "HostToContainer": "slave", "None": "private"}


def is_manifest(document: At) -> bool:
    """Whether it has what every object of the API has."""
    return bool(document.get("apiVersion").text() and document.get("kind").text())


def read(document: At) -> Iterator[Subject]:
    """Every container of one object; nothing for objects that run none."""
    if document.get("kind").text().endswith("List") and document.get("items").is_list:
        for item in document.get("items").elements():
            yield from read(item)
        return
    kind = document.get("kind").text()
    spec = document.get(*_TEMPLATES.get(kind, _TEMPLATE))
    holder = document.get(*_TEMPLATES.get(kind, _TEMPLATE)[:-1])
    if not any(spec.get(name).is_list for name in _CONTAINERS):
        return
    pod = _Pod(_name(document), spec, holder.get("metadata", "annotations"))
    for section in _CONTAINERS:
        for container in spec.get(section).elements():
            yield pod.container(container)


def locate(document: At, subject: str) -> tuple[At, At] | None:
    """The pod spec and the container that a subject of this document was read from."""
    if document.get("items").is_list:
        found = (locate(item, subject) for item in document.get("items").elements())
        return next((pair for pair in found if pair is not None), None)
    spec = document.get(*_TEMPLATES.get(document.get("kind").text(), _TEMPLATE))
    for section in _CONTAINERS:
        for container in spec.get(section).elements():
            if f"{_name(document)} {container.get('name').text() or '?'}" == subject:
                return spec, container
    return None


def _name(document: At) -> str:
    kind = document.get("kind").text()
    name = document.get("metadata", "name").text() or \
        document.get("metadata", "generateName").text()
    return f"{kind}/{name or '?'}"


class _Pod:
    """One pod spec, read for each of its containers."""

    def __init__(self, name: str, spec: At, annotations: At) -> None:
        self.name = name
        self.spec = spec
        self.security = spec.get("securityContext")
        self.windows = spec.get("os", "name").text() == "windows"
        self.annotations = {key: value for key, value in annotations.items()
                            if key.startswith(_LEGACY_APPARMOR)}

    def container(self, container: At) -> Subject:
        """One container with what it inherits."""
        label = container.get("name").text() or "?"
        security = container.get("securityContext")
        gather = Gather("kubernetes", f"{self.name} {label}", self.name, container.place)
        if gather.switch("privileged", security.get("privileged").text()):
            gather.privileged(security.get("privileged").place)
        else:
            gather.default("privileged", value=False)
            _capabilities(gather, security.get("capabilities"))
        self._namespaces(gather)
        self._volumes(gather, container)
        self._labels(gather, security, label)
        self._user(gather, security)
        if self.windows:
            self._not_of_windows(gather)
        else:
            _privileges(gather, security)
        _ports_and_probes(gather, container)
        _resources(gather, container)
        _environment(gather, container)
        gather.image(container.get("image").text(), container.get("image").place)
        self._settings(gather, security)
        return gather.subject()

    def _namespaces(self, gather: Gather) -> None:
        spec = self.spec
        for field, fact, value in (("hostNetwork", "network_mode", "host"),
                                   ("hostPID", "pid_namespace", "host")):
            at = spec.get(field)
            if gather.switch(fact, at.text()):
                gather.say(fact, value, at.place)
        gather.default("network_mode", "own")
        if gather.switch("namespaces.shared", spec.get("hostIPC").text()):
            gather.add("namespaces.shared", "ipc", spec.get("hostIPC").place)
        gather.nothing("namespaces.shared")
        shared = spec.get("shareProcessNamespace")
        if shared.truth():
            gather.loosest("pid_namespace", "shared", shared.place)
        gather.default("pid_namespace", "own")
        users = spec.get("hostUsers")
        own = gather.switch("user_namespace", users.text())
        if own is not None:
            gather.say("user_namespace", "host" if own else "own", users.place)
        gather.default("user_namespace", "host", users.place)

    def _volumes(self, gather: Gather, container: At) -> None:
        paths: dict[str, At] = {}
        for volume in self.spec.get("volumes").elements():
            for kind, at in volume.items():
                if kind != "name":
                    gather.add("volumes", kind, at.place)
                if kind == "hostPath":
                    paths[volume.get("name").text()] = at
        for mount in container.get("volumeMounts").elements():
            propagation = mount.get("mountPropagation")
            if propagation:
                gather.loosest("propagation", _PROPAGATION.get(propagation.text(), "private"),
                               propagation.place)
            path = paths.get(mount.get("name").text())
            if path is not None and path.get("path").text():
                below = mount.get("subPath").text()
                gather.host_path(path.get("path").text() + (f"/{below}" if below else ""),
                                 path.place, read_only=mount.get("readOnly").truth() is True)
        gather.default("propagation", "private")
        gather.nothing("volumes", "filesystem.readable", "filesystem.writable", "host_devices")

    def _labels(self, gather: Gather, security: At, label: str) -> None:
        for holder in (self.security, security):
            for field, fact in (("seccompProfile", "seccomp_mode"),
                                ("appArmorProfile", "apparmor_mode")):
                kind = holder.get(field, "type")
                if filled_later(kind.text()):
                    gather.unknown(fact, LATER)
                elif kind:
                    mode = "profile" if kind.text() in _PROFILES else "unconfined"
                    gather.loosest(fact, mode, kind.place)
            options = holder.get("seLinuxOptions")
            if options.get("type").text():
                gather.add("selinux_types", options.get("type").text(), options.get("type").place)
            for field in ("user", "role"):
                if options.get(field).text():
                    gather.add("selinux_identity", options.get(field).text(),
                               options.get(field).place)
        legacy = self.annotations.get(_LEGACY_APPARMOR + label)
        if legacy is not None and legacy.text():
            known = legacy.text() == "runtime/default" or legacy.text().startswith("localhost/")
            gather.loosest("apparmor_mode", "profile" if known else "unconfined", legacy.place)
        gather.default("apparmor_mode", "unset")
        gather.nothing("selinux_types", "selinux_identity")
        if not self.windows:
            gather.default("seccomp_mode", "unset", security.get("seccompProfile").place)

    def _user(self, gather: Gather, security: At) -> None:
        own, pod = security.get("runAsNonRoot"), self.security.get("runAsNonRoot")
        if pod.truth() is False:
            gather.say("enforced_non_root", value=False, place=pod.place)
        deciding = own if own.truth() is not None else pod
        gather.switch("enforced_non_root", own.text() or pod.text())
        if deciding.truth() is not None:
            gather.loosest("enforced_non_root", deciding.truth(), deciding.place)
        gather.default("enforced_non_root", value=False, place=own.place)
        for holder in (self.security, security):
            user = holder.get("runAsUser")
            if user.number() is not None:
                gather.loosest("ids.user", "root" if user.number() == 0 else "self", user.place)
        if deciding.truth():
            gather.default("ids.user", "self", deciding.place)
        gather.unknown("ids.user", "the image decides")

    def _settings(self, gather: Gather, security: At) -> None:
        for name in self.security.get("sysctls").elements():
            gather.add("sysctls", name.get("name").text(), name.get("name").place)
        gather.nothing("sysctls")
        token = self.spec.get("automountServiceAccountToken")
        mounted = gather.switch("service_account_token", token.text())
        if mounted is not None:
            gather.say("service_account_token", mounted, token.place)
        gather.default("service_account_token", value=True, place=token.place)
        for holder in (self.security, security):
            process = holder.get("windowsOptions", "hostProcess")
            if process.truth():
                gather.say("windows_host_process", value=True, place=process.place)
        gather.default("windows_host_process", value=False)
        mount = security.get("procMount")
        if mount:
            gather.loosest("proc_mount", "masked" if mount.text() == "Default" else "unmasked",
                           mount.place)
        gather.default("proc_mount", "masked")

    def _not_of_windows(self, gather: Gather) -> None:
        """Windows has no capabilities, filters or setuid programs; the standards leave them out."""
        for name in ("capabilities", "seccomp_mode"):
            gather.values.pop(name, None)


def _capabilities(gather: Gather, at: At) -> None:
    gather.capabilities([(word, item.place) for word, item in at.get("add").words()],
                        [(word, item.place) for word, item in at.get("drop").words()],
                        at.get("drop").place)


def _privileges(gather: Gather, security: At) -> None:
    escalation = security.get("allowPrivilegeEscalation")
    allowed = gather.switch("no_new_privs", escalation.text())
    if allowed is not None and "no_new_privs" not in gather.values:
        gather.say("no_new_privs", value=not allowed, place=escalation.place)
    gather.default("no_new_privs", value=False, place=escalation.place)
    root = security.get("readOnlyRootFilesystem")
    read_only = gather.switch("filesystem.read_only_root", root.text())
    if read_only is not None:
        gather.say("filesystem.read_only_root", read_only, root.place)
    gather.default("filesystem.read_only_root", value=False, place=root.place)


def _ports_and_probes(gather: Gather, container: At) -> None:
    for port in container.get("ports").elements():
        host = port.get("hostPort")
        if host.number():
            gather.add("host_ports", host.text(), host.place)
            gather.port(host.text(), "", host.place, everywhere=False)
    for section in ("livenessProbe", "readinessProbe", "startupProbe"):
        _handler(gather, container.get(section))
    for section in ("postStart", "preStop"):
        _handler(gather, container.get("lifecycle", section))
    gather.nothing("host_ports", "privileged_ports", "probe_hosts")


def _handler(gather: Gather, at: At) -> None:
    for field in ("httpGet", "tcpSocket"):
        host = at.get(field, "host")
        if host.text():
            gather.add("probe_hosts", host.text(), host.place)


def _resources(gather: Gather, container: At) -> None:
    limits = container.get("resources", "limits")
    for field, control, factor in (("memory", "limits.memory", 1), ("cpu", "limits.cpus", 1000)):
        at = limits.get(field)
        amount = numbers(at.text(), _UNITS) if at else None
        if amount is not None:
            gather.say(control, max(int(amount * factor), 0), at.place)
        elif at:
            gather.unknown(control, LATER)
        gather.default(control, 2**63 - 1, at.place)


def _environment(gather: Gather, container: At) -> None:
    for variable in container.get("env").elements():
        gather.variable(variable.get("name").text(), variable.get("value").text(),
                        variable.get("value").place)
    gather.nothing("literal_secrets")
