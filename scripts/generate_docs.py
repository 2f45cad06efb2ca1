"""Writes the generated parts of docs/, after ``<!-- generated: NAME -->``, and the profiles.

``generate_docs.py`` writes; with ``--check`` it tells what is not current and exits with 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from hardrun.audit.facts import FACTS
from hardrun.audit.rules import SETS, VERSIONS, catalogue, select
from hardrun.audit.score import WEIGHTS
from hardrun.cli.main import group
from hardrun.data import data_directory
from hardrun.plan.schema import OPERATIONS, Unsafe
from hardrun.policy.load import read_builtin
from hardrun.policy.reference import page
from hardrun.profile import apparmor, selinux
from scripts import host_pages

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROFILES = DOCS.parent / "profiles"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_UNSAFE = {
    "NO_SECCOMP": "no system call filter",
    "NO_NEW_PRIVS_OFF": "setuid programs work",
    "KEEPS_CAPABILITIES": "a capability is kept",
    "NO_PIVOT_ROOT": "the host's root stays",
    "KEEPS_DESCRIPTORS": "descriptors beyond 0-2 are inherited",
    "NO_LANDLOCK": "no Landlock domain",
    "DUMPABLE_INIT": "PID 1 can be traced from inside",
    "NO_SESSION": "the caller's session and terminal stay",
    "NO_BOUNDING_DROP": "the bounding set stays",
    "SHARED_NETWORK": "the host's network",
    "NO_NAMESPACES": "the landlock tier: no namespace at all",
}


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def operations() -> Iterator[str]:
    """A row for each operation of the schema."""
    yield _row("opcode", "name", "phase, rank", "what it does", "arguments")
    yield _row(*["---"] * 5)
    for kind in OPERATIONS:
        arguments = "; ".join(f"*{a.name}* ({a.kind.name.lower()}): {a.meaning}"
                              for a in kind.arguments)
        yield _row(kind.opcode, f"`{kind.name}`", f"{kind.phase.name.lower()} {kind.rank}",
                   kind.sentence, arguments)


def unsafe() -> Iterator[str]:
    """A row for each unsafe bit."""
    yield _row("bit", "name", "means")
    yield _row(*["---"] * 3)
    for bit in Unsafe:
        yield _row(bit.value, f"`{bit.name}`", _UNSAFE[str(bit.name)])


def _command(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield from ("", f"## {name}", "", f"    {' '.join(usage.split())}", "")
    yield from (command.help or "").replace("\b\n", "").strip().splitlines()
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    records = [record for p in options if (record := p.get_help_record(context))]
    if records:
        yield from ("", _row("option", "what it does"), _row("---", "---"))
        yield from (_row(f"`{option}`", text) for option, text in records)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _command(found, f"{name} {child}")


def commands() -> Iterator[str]:
    """A section for each command with all its options."""
    yield from list(_command(group, "hardrun"))[1:]


def policies() -> Iterator[str]:
    """A row for each policy that ships."""
    yield _row("policy", "for")
    yield _row("---", "---")
    for policy in read_builtin(data_directory("policies")):
        yield _row(f"`{policy.name}`", policy.description)


def reference() -> Iterator[str]:
    """Every field and control, as the policy room tells them; the page has a title already."""
    lines = page().splitlines()
    yield from lines[next(n for n, line in enumerate(lines) if line.startswith("## ")):]


def rules() -> Iterator[str]:
    """A row for each rule of an audit."""
    yield _row("rule", "severity (unsaid)", "what", "why", "occurs in", "standards", "elsewhere")
    yield _row(*["---"] * 7)
    for rule in catalogue():
        standards = "; ".join(f"{name.upper()} {', '.join(ids)}"
                              for name, ids in sorted(rule.standards.items()))
        severity = rule.severity if rule.severity == rule.absent else \
            f"{rule.severity} ({rule.absent})"
        likely = "" if rule.confidence == "certain" else ", likely"
        yield _row(f"`{rule.id}`", severity + likely, rule.title, f"{rule.why} {rule.fix}",
                   ", ".join(sorted(rule.occurs)), standards, ", ".join(sorted(rule.foreign)))


def rule_sets() -> Iterator[str]:
    """A row for each set of rules."""
    yield _row("set", "version", "what", "rules")
    yield _row(*["---"] * 4)
    for name, meaning in SETS.items():
        yield _row(f"`{name}`", VERSIONS.get(name, ""), meaning, len(select(catalogue(), [name])))


def weights() -> Iterator[str]:
    """A row for each weight of the exposure score."""
    yield _row("severity", "weight")
    yield _row("---", "---")
    yield from (_row(name, weight) for name, weight in WEIGHTS.items())


def facts() -> Iterator[str]:
    """A row for each fact that rules can bound beside the controls."""
    yield _row("fact", "meaning")
    yield _row("---", "---")
    yield from (_row(f"`{fact.id}`", fact.meaning) for fact in FACTS)


PARTS: Mapping[str, Callable[[], Iterator[str]]] = {
    "operations": operations, "unsafe": unsafe, "commands": commands, "policies": policies,
    "rules": rules, "sets": rule_sets, "weights": weights, "facts": facts,
    "reference": reference, "causes": host_pages.causes,
    "distributions": host_pages.distributions}


def regenerate(text: str) -> str:
    """``text`` with every generated part as it is today."""
    return _PART.sub(lambda m: m[1] + "\n".join(PARTS[m[2]]()) + "\n" + m[3], text)


def _written() -> Iterator[tuple[Path, str]]:
    """Every file with a generated part, as it has to be."""
    for path in sorted(DOCS.glob("*.md")):
        yield path, regenerate(path.read_text(encoding="utf-8"))
    for name in (*(apparmor.PREFIX + policy for policy in apparmor.SHIPPED), apparmor.EXECUTOR):
        yield PROFILES / "apparmor" / name, apparmor.shipped_text(name)
    for policy in selinux.SHIPPED:
        yield PROFILES / "selinux" / f"hardrun-{policy}.cil", selinux.policy_module(policy)


def main() -> int:
    """Write or check every page and profile."""
    stale = []
    for path, text in _written():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"not current: {', '.join(stale)}; make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
