"""Which layers gate a path, an address, a capability or a system call, by which line, and what
would loosen it. Answered from policies alone: nothing is started and no host is probed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from hardrun.errors import BadInput, PolicyRefused
from hardrun.policy.engine import Asked, Grant, Places, Refusal, bound_of, grant
from hardrun.policy.loaded import LoadedPolicy, unbounded
from hardrun.posture import ways_out
from hardrun.posture.capabilities import NAMES
from hardrun.posture.control import Control
from hardrun.posture.filesystem import below
from hardrun.posture.registry import BY_ID

if TYPE_CHECKING:
    from hardrun.kernel.seccomp.profile import Profile

SCHEMA = "hardrun.why"
SCHEMA_VERSION = 1
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/:]+):([0-9]{1,5})")


class Gate(NamedTuple):
    """One layer that gates the thing: what it says, by which control and line."""

    layer: str
    allows: bool
    control: str
    origin: str
    detail: str = ""


class Answer(NamedTuple):
    """The answer to one question. ``loosen`` are flags or policy lines that would allow it."""

    question: str
    kind: str
    allowed: bool
    reason: str
    gates: tuple[Gate, ...]
    loosen: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The answer as a JSON document."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION,
                **self._asdict(), "loosen": list(self.loosen),
                "gates": [gate._asdict() for gate in self.gates]}

    def line(self) -> str:
        """The answer in one line."""
        verdict = "allowed" if self.allowed else "denied"
        parts = [f"{verdict}: {self.reason}"]
        layers = list(dict.fromkeys(gate.layer for gate in self.gates
                                    if not gate.allows and gate.layer != "policy"))
        if layers and not self.allowed:
            parts.append(f"by: {', '.join(layers)}")
        if self.loosen:
            parts.append(f"to allow: {'; or '.join(self.loosen)}")
        return "; ".join(parts)


class Question:
    """What is asked, under which policies, in whose directories, on which machine."""

    def __init__(self, text: str, policies: Sequence[LoadedPolicy], places: Places, *,
                 architecture: str, kernel_release: str,
                 profile: Callable[[str], Profile]) -> None:
        self.text = text
        self.selected = [policy for policy in policies if policy.chosen]
        self.known = [policy for policy in policies if not unbounded([policy])]
        self.places = places
        self.architecture = architecture
        self.kernel_release = kernel_release
        self.profile = profile
        self.granted = {g.control.id: g for g in grant({}, self.selected, places)}

    def answer(self) -> Answer:
        """The answer. BadInput when the question is none of the four kinds."""
        if self.text.startswith("/"):
            return self.path(self.text)
        name = self.text.upper().removeprefix("CAP_")
        if f"CAP_{name}" in NAMES and (self.text.isupper() or self.text.lower().startswith("cap_")):
            return self.capability(f"CAP_{name}")
        if address := _ADDRESS.fullmatch(self.text):
            if not 0 < int(address[2]) < 65536:
                raise BadInput(f"{self.text}: {address[2]} is not a port", hint="1 to 65535")
            return self.address()
        if re.fullmatch(r"[a-z_][a-z0-9_]*", self.text):
            return self.system_call()
        raise BadInput(f"{self.text!r} is no path, HOST:PORT, capability or system call",
                       hint="a path has a slash: ./name; a capability is written CAP_CHOWN")

    def _line(self, control: str) -> str:
        found = self.granted[control]
        return ", ".join(found.bound_by) or "no policy"

    def _other_policies(self, control: Control[Any], value: Any) -> list[str]:
        """Policies under which the value could be asked for."""
        names = []
        for policy in self.known:
            if policy in self.selected:
                continue
            if self._refusal(control, value, [policy]) is None:
                names.append(f"--policy {policy.name}")
        return names[:3]

    def _refusal(self, control: Control[Any], value: Any, policies: Sequence[LoadedPolicy],
                 flag: str = "") -> Refusal | None:
        try:
            grant({control.id: Asked(value, flag)}, policies, self.places)
        except PolicyRefused as refused:
            first = refused.refusals[0]
            assert isinstance(first, Refusal)
            return first
        return None

    def path(self, path: str) -> Answer:
        """Who can see and who can write a path of the host."""
        if below(path, "/proc"):
            return self._private(path, "filesystem.proc", "proc of its own", "none")
        if below(path, "/dev"):
            return self._private(path, "devices", "private /dev", "")
        visible = self.granted["filesystem.visible"]
        seen = any(below(path, place) for place in visible.value)
        gates = [Gate(layer, seen, "filesystem.visible", self._line("filesystem.visible"),
                      "read-only" if seen else "not visible") for layer in ("mounts", "Landlock")]
        loosen: list[str] = []
        refused = ""
        for flag, name in (("--ro", "filesystem.readable"), ("--rw", "filesystem.writable")):
            if seen and flag == "--ro":
                continue
            control = BY_ID[name]
            refusal = self._refusal(control, frozenset([path]), self.selected, flag)
            gates.append(Gate("policy", refusal is None, name, self._line(name),
                              f"{flag} {path}" if refusal is None else str(refusal)))
            if refusal is None:
                loosen.append(f"{flag} {path}")
            else:
                if refusal.way_out and not refused:
                    refused = f", {refusal.way_out}, a known way out"
                loosen += [f"{flag} {path} with {other}"
                           for other in self._other_policies(control, frozenset([path]))]
        if not loosen and not seen:
            loosen.append(f"a policy with 'danger: [{{grant: {{filesystem: {{readable:"
                          f" [{path}]}}}}, reason: …}}]' and --ro {path}")
        where = self._line("filesystem.visible")
        reason = f"visible read-only ({where})" if seen else f"not visible ({where}){refused}"
        return Answer(self.text, "path", seen, reason, tuple(gates), tuple(loosen))

    def _private(self, path: str, control_id: str, layer: str, nothing: str) -> Answer:
        found: Grant = self.granted[control_id]
        name = path.removeprefix("/dev/")
        if control_id == "devices":
            allowed = name in found.value
        else:
            allowed = found.value != nothing and (
                found.value == "masked" or re.match(r"/proc(/(self|thread-self|[0-9]+)(/|$)|$)",
                                                    path) is not None)
        line = self._line(control_id)
        reason = (f"the host's own is never shown; inside it is {found.control.show(found.value)}"
                  f" ({line})")
        possible = control_id != "devices" or name in found.control.loosest
        loosen = () if allowed or not possible else (
            f"a policy with a looser {found.control.place}",)
        return Answer(self.text, "path", allowed, reason,
                      (Gate(layer, allowed, control_id, line),), loosen)

    def address(self) -> Answer:
        """Whether an address can be reached."""
        found = self.granted["network"]
        allowed, line = found.value == "host", self._line("network")
        gates = [Gate("network namespace", allowed, "network", line, f"network {found.value}"
                      if allowed else "a loopback of its own; the host's services are not on it")]
        for call in ("socket", "connect"):
            said = self._gates_of(call)
            first = next((gate for gate in said if gate.allows), said[0] if said else None)
            if first is not None:
                gates.append(first._replace(detail=f"{call}: " + (
                    "some kinds" if len(said) > 1 else "any" if first.allows else "none")))
        return Answer(self.text, "address", all(gate.allows for gate in gates),
                      f"network {found.value} ({line})", tuple(gates),
                      () if allowed else tuple(self._network_loosened()))

    def _network_loosened(self) -> list[str]:
        network = BY_ID["network"]
        if self._refusal(network, "host", self.selected) is None:
            return ["--network host"]
        others = self._other_policies(network, "host")
        return [f"--network host with {other}" for other in others]

    def capability(self, name: str) -> Answer:
        """Whether a capability can be held."""
        control = BY_ID["capabilities"]
        found, line = self.granted["capabilities"], self._line("capabilities")
        bound, _ = bound_of(control, self.selected, self.places)
        allowed = name in found.value
        gates = [Gate(layer, allowed, "capabilities", line)
                 for layer in ("capability sets", "bounding set")]
        if not allowed and self.granted["no_new_privs"].value:
            gates.append(Gate("no_new_privs", allows=False, control="no_new_privs",
                              origin=self._line("no_new_privs"), detail="no execve gives it back"))
        gates.append(Gate("user namespace", allows=True, control="ids.range",
                          origin=self._line("ids.range"),
                          detail="it would reach what belongs to the sandbox, nothing of the host"))
        loosen: list[str] = []
        short = name.removeprefix("CAP_")
        if not allowed and name in bound:
            loosen.append(f"a policy with 'defaults: {{capabilities: [{short}]}}'")
        elif not allowed:
            ways = ways_out.opened("capabilities", frozenset([name]))
            section = "danger" if ways else "bounds"
            loosen.append(f"a policy with {short} in 'capabilities' under '{section}:'"
                          + (f" ({ways[0].opens})" if ways else ""))
            loosen += self._other_policies(control, frozenset([name]))
        shown = "granted" if allowed else "not granted"
        return Answer(self.text, "capability", allowed, f"{name} {shown} ({line})", tuple(gates),
                      tuple(loosen))

    def _gates_of(self, name: str) -> list[Gate]:
        from hardrun.kernel.seccomp.explain import gate  # the system call tables: only if asked

        profiles = [self.profile(reference) for reference in sorted(self.granted["seccomp"].value)]
        said = gate(profiles, name, architecture=self.architecture,
                    capabilities=self.granted["capabilities"].value,
                    kernel_release=self.kernel_release)
        return [Gate("seccomp", one.permits, "seccomp", one.place, str(one))
                for one in said if one.applies]

    def system_call(self) -> Answer:
        """What the filters say about a call: the strictest answer wins."""
        gates = self._gates_of(self.text)
        line = self._line("seccomp")
        always = [g for g in gates if not g.allows and " if " not in g.detail.split(":")[0]]
        allowed = bool(gates) and any(g.allows for g in gates) and not always
        some = allowed and any(not g.allows for g in gates)
        profile = self.granted["seccomp"].control.show(self.granted["seccomp"].value)
        deciding = next((g for g in gates if g.allows == allowed), None)
        where = deciding.origin if deciding else "no filter"
        depends = ", for some arguments" if some else ""
        loosen: list[str] = []
        if not allowed:
            loosen = [f"--policy {policy.name}" for policy in self.known
                      if policy not in self.selected and self._allows_call(policy)][:3]
            loosen.append("a policy whose 'seccomp:' names a profile that allows it")
        return Answer(self.text, "system call", allowed,
                      f"profile {profile} ({where}; {line}){depends}", tuple(gates), tuple(loosen))

    def _allows_call(self, policy: LoadedPolicy) -> bool:
        other = Question(self.text, [replace(policy, chosen=True)], self.places,
                         architecture=self.architecture, kernel_release=self.kernel_release,
                         profile=self.profile)
        return any(gate.allows for gate in other._gates_of(self.text))
