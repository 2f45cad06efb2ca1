"""The engine: a request, policies and host facts in, a Decision or a refusal out. Pure.

For each control: the bound is the meet of what every policy that applies says; without a request
the value is the bound met with every default; a request that is not within every bound is refused
and never clipped. With no policy at all nothing is bounded (an OCI bundle means what it says).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hardrun.errors import BadInput, HostUnsupported, PolicyRefused
from hardrun.policy.decision import ControlDecision, Danger, Decision
from hardrun.policy.loaded import ACCEPTANCES, LoadedPolicy, Said, unbounded
from hardrun.posture import ways_out
from hardrun.posture.control import Control, Enforcement
from hardrun.posture.filesystem import below
from hardrun.posture.registry import BY_ID, CONTROLS
from hardrun.posture.tier import MIN_TIER

if TYPE_CHECKING:
    from hardrun.host.facts import HostFacts
    from hardrun.workload.model import Workload


class Places(NamedTuple):
    """What the symbolic paths of policies stand for."""

    workdir: str
    home: str


class Asked(NamedTuple):
    """One control that the caller asked for."""

    value: Any
    origin: str


class Refusal(NamedTuple):
    """One control at fault: what was asked by which flag, what is allowed at most, by which lines.

    ``way_out`` tells what a path opens when it is refused for that.
    """

    control: str
    asked: str
    asked_by: str
    allowed: str
    bound_by: tuple[str, ...]
    way_out: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = ", ".join(self.bound_by)
        if self.way_out:
            return f"{self.control}: {self.way_out}, a known way out ({self.asked_by}; {lines})"
        return (f"{self.control}: {self.asked} asked ({self.asked_by}),"
                f" at most {self.allowed} ({lines})")


class Grant(NamedTuple):
    """What became of one control before the host is looked at."""

    control: Control[Any]
    value: Any
    asked_by: str
    decided_by: str
    bound_by: tuple[str, ...]
    clipped_from: str


def place(value: Any, control: str, places: Places) -> Any:
    """A value of a policy with the workload's directories in the place of symbolic paths.

    ``$workdir`` is nothing at all when it is the home directory or above it: whoever starts a
    command in ``~`` does not mean to hand over every file they have.
    """
    if control not in ways_out.PATH_CONTROLS:
        return value
    paths: set[str] = set()
    for path in value:
        first, slash, rest = path.partition("/")
        directory = {"$workdir": places.workdir, "$HOME": places.home}.get(first)
        if directory is None:
            paths.add(path)
        elif first == "$HOME" or not below(places.home, directory):
            paths.add(directory.rstrip("/") + slash + rest or "/")
    return BY_ID[control].meet(frozenset(paths), BY_ID[control].loosest)


def applying(policies: Iterable[LoadedPolicy], workload: Workload,
             facts: HostFacts) -> tuple[LoadedPolicy, ...]:
    """The policies in force for a workload, in canonical order."""
    return tuple(sorted((p for p in policies if p.applies(workload, facts)),
                        key=lambda p: (p.name, p.file)))


def holds_any_directory(control: str, policies: Iterable[LoadedPolicy], workload: Workload,
                        facts: HostFacts) -> bool:
    """Whether every policy in force grants the working directory, wherever that will be."""
    return all({"$workdir", "/"} & said.value for policy in applying(policies, workload, facts)
               for said in policy.bounds.get(control, ()))


def _bounds(control: str, policies: Iterable[LoadedPolicy], places: Places) -> list[Said]:
    """Every line that bounds a control, in canonical order, each once."""
    lines = {said.origin: said for policy in policies for said in policy.bounds.get(control, ())}
    return [said._replace(value=place(said.value, control, places),
                          excepted=frozenset(place(said.excepted, control, places)))
            for _, said in sorted(lines.items())]


def _meet(control: Control[Any], values: Iterable[Any]) -> Any:
    result = control.loosest
    for value in values:
        result = control.meet(result, value)
    return result


def _deciding(control: Control[Any], bounds: Sequence[Said], bound: Any) -> tuple[str, ...]:
    """The lines that make the bound what it is: those equal to it, or else all of them."""
    alone = [said.origin for said in bounds if control.compare(said.value, bound) == "equal"]
    return tuple(alone[:1] or [said.origin for said in bounds])


def bound_of(control: Control[Any], policies: Sequence[LoadedPolicy],
             places: Places) -> tuple[Any, tuple[str, ...]]:
    """The meet of what every policy says of a control, and the lines that make it so."""
    bounds = _bounds(control.id, policies, places)
    bound = _meet(control, (said.value for said in bounds))
    return bound, _deciding(control, bounds, bound)


def unasked(control: Control[Any], policies: Sequence[LoadedPolicy], bound: Any,
            places: Places) -> tuple[Any, str, str]:
    """What a request gets when it does not say: value, origin, and the default it was clipped from.

    A policy that bounds a control and names no default gives ``Control.default``; one that does not
    mention the control has no opinion. All of them are met, so one more policy never gives more.
    """
    defaults: dict[str, Any] = {}
    implied = control.loosest
    for policy in policies:
        for said in policy.defaults.get(control.id, ()):
            defaults[said.origin] = place(said.value, control.id, places)
        if control.id not in policy.defaults and control.id in policy.bounds:
            implied = control.meet(implied, control.default)
        elif control.unsaid is not None and policy.chosen and control.id not in policy.defaults:
            implied = control.meet(implied, control.unsaid)
    met = _meet(control, defaults.values())
    wanted = control.meet(met, implied)
    value = control.meet(bound, wanted)
    if control.at_most(bound, wanted):
        origin = ""
    elif control.compare(wanted, met) == "equal":
        lines = [o for o, v in sorted(defaults.items()) if control.compare(v, met) == "equal"]
        origin = (lines or sorted(defaults))[0] + " default"
    else:
        origin = "default"
    clipped = bool(defaults) and not control.at_most(met, bound)
    return value, origin, control.show(met) if clipped else ""


def _way_out(control: str, paths: Iterable[str], bounds: Sequence[Said],
             home: str) -> tuple[str, ways_out.WayOut, str] | None:
    """The first path that opens a known way out, which, and the line that doesn't except it."""
    for path in sorted(paths):
        for way in ways_out.touched(control, path, home):
            for said in bounds:
                if not any(below(way.value, e) or below(path, e) for e in said.excepted):
                    return path, way, said.origin
    return None


def _refusal(control: Control[Any], asked: Asked, bounds: Sequence[Said],
             places: Places) -> Refusal | None:
    """Why a request can't be granted, or None."""
    beyond = [said for said in bounds if not control.at_most(asked.value, said.value)]
    if beyond:
        allowed = _meet(control, (said.value for said in bounds))
        return Refusal(control.id, control.show(asked.value), asked.origin, control.show(allowed),
                       tuple(said.origin for said in beyond))
    if control.id in ways_out.PATH_CONTROLS:
        found = _way_out(control.id, asked.value, bounds, places.home)
        if found is not None:
            path, way, line = found
            return Refusal(control.id, control.show(asked.value), asked.origin, "", (line,),
                           _described(path, way))
    return None


def grant(asked: Mapping[str, Asked], policies: Sequence[LoadedPolicy], places: Places,
          known: Sequence[LoadedPolicy] = ()) -> tuple[Grant, ...]:
    """The granted value of every control. ``known`` are policies that a hint may name.

    Raises PolicyRefused with every control at fault, and BadInput for a control that isn't one.
    """
    for control_id in asked:
        if control_id not in BY_ID:
            raise BadInput(f"there is no control {control_id!r}")
    grants: list[Grant] = []
    refusals: list[Refusal] = []
    for control in CONTROLS:
        bounds = _bounds(control.id, policies, places)
        request = asked.get(control.id)
        if request is not None and (refusal := _refusal(control, request, bounds, places)):
            refusals.append(refusal._replace(
                hint=_hint(control, request, refusal, bounds, known, places)))
            continue
        bound = _meet(control, (said.value for said in bounds))
        bound_by = _deciding(control, bounds, bound)
        value, origin, clipped = unasked(control, policies, bound, places)
        decided_by = origin or ", ".join(bound_by) or "no policy"
        if request is not None:
            value, decided_by = control.granted(request.value, value), request.origin
        grants.append(Grant(control, value, request.origin if request else "", decided_by,
                            bound_by, clipped))
    if refusals:
        hints = "; ".join(dict.fromkeys(r.hint for r in refusals if r.hint))
        raise PolicyRefused("refused: " + "; ".join(map(str, refusals)), refusals=tuple(refusals),
                            hint=hints or None)
    return tuple(grants)


def _check_rootfs(rootfs: str, policies: Sequence[LoadedPolicy], places: Places) -> None:
    """Refuse a root file system that shows a known way out: all that lies in it can be read.

    One below the store of a container engine is an image; the store itself is a way out. Raises
    PolicyRefused.
    """
    control = BY_ID["filesystem.readable"]
    bounds = _bounds(control.id, policies, places)
    for way in ways_out.touched(control.id, rootfs, places.home):
        image = way.opens == ways_out.IMAGES and rootfs != way.value and below(rootfs, way.value)
        for said in [] if image else bounds:
            if not any(below(way.value, e) or below(rootfs, e) for e in said.excepted):
                refusal = Refusal(control.id, rootfs, "--rootfs", "", (said.origin,),
                                  _described(rootfs, way), "name a directory with an image in it")
                raise PolicyRefused(f"refused: {refusal}", refusals=(refusal,), hint=refusal.hint)


def _described(path: str, way: ways_out.WayOut) -> str:
    relation = "lies below" if below(path, way.value) else "contains"
    return f"{path} {relation} {way.value} ({way.opens})" if path != way.value \
        else f"{path} ({way.opens})"


def _hint(control: Control[Any], asked: Asked, refusal: Refusal, bounds: Sequence[Said],
          known: Sequence[LoadedPolicy], places: Places) -> str:
    """What the caller can do: ask for what is allowed, or name a policy that allows more."""
    bound = _meet(control, (said.value for said in bounds))
    own = ""
    if refusal.way_out:
        own = "name a narrower path"
    elif control.id in ways_out.PATH_CONTROLS and bound:
        own = f"name a path below {control.show(bound)}"
    elif asked.origin.startswith("--") and isinstance(bound, int | str):
        own = f"{asked.origin} {control.spell(bound)}"
    allowing = []
    for policy in known:
        theirs = _bounds(control.id, [policy], places)
        if theirs and not unbounded([policy]) \
                and _refusal(control, asked, theirs, places) is None:
            allowing.append((policy.name, _meet(control, (said.value for said in theirs))))
    # The strictest of them, and those that allow the same.
    best = [(name, value) for name, value in allowing
            if not any(control.compare(other, value) == "stricter" for _, other in allowing)]
    other = ", ".join(f"{name} ({control.show(value)})" for name, value in best[:3])
    if other:
        other = f"a policy that allows more: {other}"
    elif refusal.way_out:
        other = "a policy that names it under 'danger:' with a reason"
    return ", or ".join(words for words in (own, other) if words)


def _acceptance(control: str, policies: Iterable[LoadedPolicy]) -> str:
    said = [a for policy in policies if (a := policy.accepts(control)) is not None]
    return min(said, key=ACCEPTANCES.index) if said else "degrade"


def _unsupported(grants: Sequence[tuple[Grant, Enforcement]], policies: Sequence[LoadedPolicy],
                 known: Sequence[LoadedPolicy], facts: HostFacts) -> None:
    """Refuse when the host lacks what the policies don't let it lack; one cause is told once.

    A limit that a request names is never left out, whatever a policy accepts of one that it sets
    itself: who says --cpus means it.
    """
    lacking: list[tuple[Grant, Enforcement]] = []
    demanded = False  # no policy is an answer then
    for granted, enforcement in grants:
        if enforcement.kind == "degraded":
            accepted = _acceptance(granted.control.id, policies)
            asked = granted.asked_by and granted.control.id.startswith("limits.")
            if accepted == "refuse" or ((accepted == "weaker" or asked) and not enforcement.by):
                lacking.append((granted, enforcement))
                demanded |= bool(asked and not enforcement.by)
    if lacking:
        groups: dict[str, list[tuple[Grant, Enforcement]]] = {}
        for granted, enforcement in lacking:
            cause = _cause(enforcement, facts)
            groups.setdefault(cause or enforcement.because, []).append((granted, enforcement))
        words = "; ".join(_lacking(group, facts) for group in groups.values())
        fixes = list(dict.fromkeys(e.fix for _, e in lacking if e.fix))
        controls = tuple(g.control.id for g, _ in lacking)
        if not demanded and (other := _accepting(controls, policies, known)):
            fixes.append(f"or a policy that accepts this: {other}")
        raise HostUnsupported(f"this host can't enforce {words}", fact=lacking[0][1].fact,
                              cause=_cause(lacking[0][1], facts), controls=controls,
                              hint="; ".join(fixes) or "hardrun doctor says what is missing")


def _cause(enforcement: Enforcement, facts: HostFacts) -> str:
    """The code of ``hardrun.host.causes`` behind a degraded control; empty when it has none."""
    return str(getattr(getattr(facts, enforcement.fact, None), "cause", ""))


def _lacking(group: Sequence[tuple[Grant, Enforcement]], facts: HostFacts) -> str:
    names = _few([granted.control.id for granted, _ in group])
    reasons = {enforcement.because for _, enforcement in group}
    fact = getattr(facts, group[0][1].fact, None)
    layer = getattr(fact, "layer", "")
    because = group[0][1].because if len(reasons) == 1 or fact is None else fact.detail
    return f"{names}: {because} ({layer})" if layer else f"{names}: {because}"


def _accepting(controls: Sequence[str], policies: Sequence[LoadedPolicy],
               known: Sequence[LoadedPolicy]) -> str:
    """Policies under which the same would run, each telling what is degraded."""
    return ", ".join(policy.name for policy in known if policy not in policies
                     and not unbounded([policy])
                     and all(policy.accepts(control) == "degrade" for control in controls))


def _few(names: Sequence[str]) -> str:
    """At most three names; one cause can take a dozen controls with it."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _dangers(grants: Iterable[Grant], policies: Iterable[LoadedPolicy],
             places: Places) -> tuple[Danger, ...]:
    """The granted values that a policy had to name under ``danger:``, with its reason."""
    found: dict[tuple[str, str, str], Danger] = {}
    for granted in grants:
        control = granted.control
        for policy in policies:
            for danger in policy.dangers:
                if control.id not in danger.grants:
                    continue
                theirs = place(danger.grants[control.id], control.id, places)
                for way in _ways_out(control.id, granted.value, places.home):
                    if _covers(control, theirs, way):
                        found[control.id, way, danger.origin] = Danger(
                            control=control.id, shown=way, reason=danger.reason,
                            origin=danger.origin)
    return tuple(found[key] for key in sorted(found))


def _ways_out(control: str, value: Any, home: str) -> list[str]:
    if control in ways_out.PATH_CONTROLS:
        return [path for path in sorted(value) if ways_out.touched(control, path, home)]
    return [way.value for way in ways_out.opened(control, value)]


def _covers(control: Control[Any], danger: Any, way: str) -> bool:
    if control.id in ways_out.PATH_CONTROLS:
        return any(below(way, path) or below(path, way) for path in danger)
    return any(opened.value == way for opened in ways_out.opened(control.id, danger))


def _in_best_tier(grants: Sequence[Grant], policies: Sequence[LoadedPolicy],
                  known: Sequence[LoadedPolicy],
                  facts: HostFacts) -> list[tuple[Grant, Enforcement]]:
    """How every grant comes into force in the best tier that this host has for them.

    Raises HostUnsupported when that is below the least that the policies accept.
    """
    least = next(g for g in grants if g.control is MIN_TIER)
    error: HostUnsupported | None = None
    if facts.namespaces:
        enforced = [(g, g.control.enforcement(g.value, facts)) for g in grants]
        try:
            _unsupported(enforced, policies, known, facts)
        except HostUnsupported as refused:
            error = refused
        else:
            return enforced
    if facts.landlock_tier and least.value == "landlock":
        reduced = facts.without_namespaces(error.message if error else "")
        enforced = [(g, g.control.enforcement(g.value, reduced)) for g in grants]
        try:
            _unsupported(enforced, policies, known, reduced)
        except HostUnsupported as lesser:
            raise error or lesser from None
        return enforced
    raise error or _below_least(least, known, facts)


def _below_least(least: Grant, known: Sequence[LoadedPolicy], facts: HostFacts) -> HostUnsupported:
    """Why a host without namespaces is refused, and what would help."""
    names = ("memory_executable", *facts.NAMESPACES)
    fact = next(name for name in names if not getattr(facts, name).available)
    found = getattr(facts, fact)
    missing = "executable memory file" if fact == names[0] \
        else fact.replace("_", " ").removesuffix("s")
    layer = f" ({found.layer})" if found.layer else ""
    lines = ", ".join(least.bound_by) or least.decided_by
    has = "no tier" if facts.tier == "none" else f"the {facts.tier} tier"
    problem = (f"min_tier: {least.value} is the least ({lines}), this host has {has}:"
               f" no {missing}: {found.detail}{layer}")
    hints = [found.fix] if found.fix else []
    if facts.tier == "landlock":
        allowing = [p.name for p in known if not unbounded([p])
                    and (said := p.bounds.get(MIN_TIER.id))
                    and all(s.value == "landlock" for s in said)]
        if allowing:
            hints.append(f"or a policy that accepts the landlock tier: {', '.join(allowing)}")
    return HostUnsupported(problem, fact=fact, cause=found.cause, controls=(MIN_TIER.id,),
                           hint="; ".join(hints) or "hardrun doctor says what is missing")


def decide(workload: Workload, policies: Sequence[LoadedPolicy], facts: HostFacts) -> Decision:
    """The Decision about one workload, from all policies there are.

    Those apply that were chosen or that match; the others only serve hints. Raises PolicyRefused
    (every control at fault, with the lines) and HostUnsupported.
    """
    places = Places(workload.caller_directory, workload.home)
    selected = applying(policies, workload, facts)
    asked = {r.control: Asked(r.value, r.origin) for r in workload.requests()}
    grants = grant(asked, selected, places, known=policies)
    if workload.rootfs is not None:
        _check_rootfs(workload.rootfs, selected, places)
    enforced = _in_best_tier(grants, selected, policies, facts)
    return Decision(
        policies=tuple(p.name for p in selected),
        controls=tuple(
            ControlDecision(
                control=g.control.id, value=g.control.dump(g.value), shown=g.control.show(g.value),
                asked_by=g.asked_by, decided_by=g.decided_by, bound_by=", ".join(g.bound_by),
                enforcement=enforcement, clipped_from=g.clipped_from)
            for g, enforcement in enforced),
        dangers=_dangers(grants, selected, places),
        workload=workload.canonical())
