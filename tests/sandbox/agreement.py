"""Whether two readings of one container agree: what is on paper, and what is in force."""

from __future__ import annotations

from hardrun.audit import judge
from hardrun.audit.facts import BOUNDABLE
from hardrun.audit.model import Subject
from hardrun.audit.rules import catalogue

# All that a process tells but limits, which need a cgroup, and whose ids the container's are, which
# neither a run line nor an engine says.
TOLD = {"capabilities", "no_new_privs", "seccomp_mode", "ids.user", "filesystem.read_only_root",
        "network_mode", "pid_namespace", "namespaces.shared", "proc_mount", "filesystem.writable",
        "filesystem.readable"}


def known_to_both(a: Subject, b: Subject) -> set[str]:
    """The controls and facts that both readings have a value of."""
    return set(a.values) & set(b.values)


def disagreements(paper: Subject, force: Subject) -> dict[str, tuple[str, str]]:
    """Every control that both know and say otherwise, and every rule that one passes and the other
    fails, with what each says; but for rules with an exception that one can't judge."""
    known = known_to_both(paper, force)
    told = {name: (_in_force(paper, name), _in_force(force, name)) for name in known}
    told |= {rule.id: (judge.verdict(rule, paper).answer, judge.verdict(rule, force).answer)
             for rule in catalogue() if {test.control.place for test in rule.unless} <= known}
    return {name: pair for name, pair in told.items()
            if len(set(pair) - {"unknown", "absent"}) > 1}


def _in_force(subject: Subject, name: str) -> str:
    """A value in the words of what is in force: an engine sets a profile unasked, and a network of
    its own in which nothing is connected shows when it runs."""
    shown = BOUNDABLE[name].show(subject.values[name].value)
    return {("seccomp_mode", "unset"): "profile", ("network_mode", "none"): "own"}.get(
        (name, shown), shown)
