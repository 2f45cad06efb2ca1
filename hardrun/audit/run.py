"""One audit from its sources to its report."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hardrun.audit import judge, score, settings, suppress
from hardrun.audit.model import Place, Problem
from hardrun.audit.report import Report
from hardrun.audit.rules import DEFAULT_SETS, SETS, VERSIONS, Rule, catalogue, of_policy, select
from hardrun.audit.settings import Settings
from hardrun.audit.walk import Batch
from hardrun.errors import BadInput, PolicyError
from hardrun.posture.orders import nearest


@dataclass(frozen=True, kw_only=True)
class Request:
    """How to audit. ``policy``: names of sets, or of policies and files; ``today`` decides which
    suppressions have expired; ``whole``: files of settings all of whose directory is audited."""

    policy: tuple[str, ...] = ()
    settings: Settings
    baseline: frozenset[str] | None = None
    foreign: bool = True
    today: datetime.date
    whole: frozenset[str] = frozenset()


def chosen_rules(names: Sequence[str], every: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules that sets, policies and files come to. PolicyError where one doesn't exist."""
    sets = []
    policies = []
    for name in names:
        known, _, version = name.partition("@")
        if known not in SETS:
            policies.append(name)
        elif version not in ("", "latest", VERSIONS.get(known)):
            raise BadInput(f"--policy {name}: the rules follow {VERSIONS.get(known, 'no version')}")
        else:
            sets.append(known)
    found = list(select(every, sets))
    if policies:
        from hardrun.policy.load import load_policies

        try:
            loaded = load_policies(policies, complete=False)
        except PolicyError as error:
            if "/" in error.file or "." in error.file:
                raise
            raise BadInput(f"--policy {error.file}: neither a set of rules nor a policy"
                           f"{nearest(error.file, [*SETS])}",
                           hint=f"sets: {', '.join(SETS)}; hardrun policy list") from None
        for policy in loaded.policies:
            found += of_policy(policy) if policy.chosen else ()
    return tuple({rule.id: rule for rule in found}.values())


def audit(batch: Batch, request: Request) -> Report:
    """Judge what was read."""
    every = catalogue()
    names = request.policy or request.settings.policy or DEFAULT_SETS
    rules = chosen_rules(names, every)
    both = tuple({rule.id: rule for rule in (*every, *rules)}.values())
    unknown_names = sorted(set(request.settings.severities) - {rule.id for rule in both})
    if unknown_names:
        raise BadInput(f"severities: {unknown_names[0]!r} is no rule"
                       f"{nearest(unknown_names[0], [rule.id for rule in every])}")
    judged = judge.judge(batch.subjects, both)
    wanted = {rule.id for rule in rules}
    findings = judge.causes([f for f in judged.findings if f.rule.id in wanted],
                            request.settings.severities)
    scores = score.scores(batch.subjects, judge.causes(
        [f for f in judged.findings if f.rule.file.startswith("policies/audit/")]))
    notes = [n for n in batch.notes if request.foreign or not n.foreign]
    everywhere = [n for n in request.settings.notes if request.foreign or not n.foreign]
    marked, problems = suppress.apply(findings, notes, everywhere, both, request.today,
                                      request.whole)
    absent: tuple[str, ...] = ()
    if request.baseline is not None:
        marked, absent = settings.against(marked, request.baseline)
    return Report(
        rules=rules, asked=tuple(names), subjects=tuple(batch.subjects), findings=tuple(marked),
        unknown=tuple(u for u in judged.unknown if u.rule.id in wanted),
        problems=(*batch.problems, *problems), scores=scores, files=batch.files, absent=absent,
        baseline=request.baseline is not None)


def live(pid: int | None) -> Batch:
    """The process ``pid``, or every container that this user can see. BadInput when it is gone."""
    from hardrun.audit.read import process

    batch = Batch()
    if pid is None:
        batch.subjects += process.containers()
        return batch
    try:
        batch.subjects.append(process.read(pid))
    except ProcessLookupError:
        raise BadInput(f"--live {pid}: there is no such process") from None
    except PermissionError:
        batch.problems.append(Problem(Place(f"/proc/{pid}"), "the kernel hides it from this user"))
    return batch


def explained(name: str) -> Iterator[str]:
    """What one rule is about, line by line. BadInput when there is none of that name."""
    every = catalogue()
    rule = next((r for r in every if r.id == name or suppress.canonical(name) in r.foreign), None)
    if rule is None:
        raise BadInput(f"--explain {name}: no such rule"
                       f"{nearest(name, [rule.id for rule in every])}",
                       hint="docs/audit.md lists them")
    yield f"{rule.id}: {rule.title}"
    unsaid = f"; {rule.absent} where nobody said anything" if rule.absent != rule.severity else ""
    yield f"  severity   {rule.severity}{unsaid}; {rule.confidence}"
    yield f"  why        {rule.why}"
    yield f"  fix        {rule.fix}"
    for test in rule.tests:
        words = {"bounds": "at most", "forbids": "none of", "touches": "nothing of"}[test.how]
        yield f"  {words:<9}  {test.control.place}: {test.control.show(test.value)}"
    for test in rule.unless:
        yield f"  unless     {test.control.place}: {test.control.show(test.value)}"
    yield f"  occurs in  {', '.join(sorted(rule.occurs))}"
    yield f"  sets       {', '.join(sorted(rule.sets))}"
    for standard, entries in sorted(rule.standards.items()):
        yield f"  {standard:<9}  {'; '.join(entries)}"
    for tool, entries in sorted(rule.same_as.items()):
        yield f"  {tool:<9}  {', '.join(entries)}"
