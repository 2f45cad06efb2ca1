"""``hardrun doctor``: what this host and user can enforce, tried for real."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hardrun.cli.render import printable, write
from hardrun.values import plain

if TYPE_CHECKING:
    from hardrun.host.facts import Fact, HostFacts

SCHEMA_VERSION = 1
_GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("namespaces and mounts", (
        ("memory_executable", "executor in sealed memory"),
        ("user_namespaces", "user namespace"),
        ("pid_namespace", "pid namespace"),
        ("mount_namespace", "mount namespace"),
        ("network_namespace", "network namespace"),
        ("ipc_namespace", "ipc namespace"),
        ("uts_namespace", "uts namespace"),
        ("cgroup_namespace", "cgroup namespace"),
        ("nested_namespaces_limit", "no nested namespaces"),
        ("proc_mount", "proc of its own"),
        ("proc_subset", "proc with pids alone"),
        ("devpts_mount", "private terminals"),
        ("overlay", "overlay"),
    )),
    ("filters and labels", (
        ("seccomp", "seccomp"),
        ("landlock", "Landlock"),
        ("apparmor", "AppArmor"),
        ("selinux", "SELinux"),
        ("keyring", "session keyring"),
    )),
    ("ids and limits", (
        ("newuidmap", "newuidmap"),
        ("newgidmap", "newgidmap"),
        ("id_ranges", "range of ids"),
        ("cgroup", "cgroup"),
    )),
)
_TIERS = {
    "full": "full: namespaces, mounts, seccomp and Landlock",
    "landlock": "landlock: seccomp and Landlock, but not all that the full tier is made of",
    "none": "none: a policy can't be enforced here",
}


class Row(NamedTuple):
    """One fact as people read it."""

    title: str
    fact: Fact
    needed: bool


def rows_of(facts: HostFacts) -> Iterator[tuple[str, list[Row]]]:
    """Every fact under its heading; ``needed`` marks those that the full tier is made of."""
    for heading, entries in _GROUPS:
        yield heading, [Row(title, getattr(facts, name), name in facts.FULL_TIER)
                        for name, title in entries]


def _word(row: Row) -> str:
    return "ok" if row.fact.available else "FAIL" if row.needed else "--"


def _notes(row: Row) -> list[str]:
    notes = () if row.fact.available else (("layer", row.fact.layer), ("fix", row.fact.fix))
    return [f"{label}: {text}" for label, text in notes if text]


def _groups_note(facts: HostFacts) -> str:
    groups = ", ".join(map(str, facts.supplementary_groups))
    if not groups:
        return "no supplementary groups"
    can = "can be dropped" if facts.id_ranges.available else \
        "can't be dropped (needs a range of ids): their files stay readable inside"
    return f"supplementary groups {groups}: {can}"


def _heading(facts: HostFacts) -> list[str]:
    return [
        f"tier {_TIERS[facts.tier]}",
        f"Linux {facts.kernel_release} on {facts.architecture}, "
        f"{facts.user_name} (uid {facts.uid}), {_groups_note(facts)}",
    ]


def lines_of(facts: HostFacts) -> list[str]:
    """The facts as plain lines."""
    lines = [printable(line) for line in _heading(facts)]
    for heading, rows in rows_of(facts):
        lines += ["", heading]
        for row in rows:
            lines.append(f"  {_word(row):4}  {row.title:26}{printable(row.fact.detail)}".rstrip())
            lines += [f"{'':34}{printable(note)}" for note in _notes(row)]
    return lines


def _print_rich(facts: HostFacts) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"ok": "green", "FAIL": "bold red", "--": "yellow"}
    tier, rest = _heading(facts)
    console.print(Text(printable(tier), "bold green" if facts.tier == "full" else "bold red"))
    console.print(Text(printable(rest), "dim"))
    for heading, rows in rows_of(facts):
        console.print(Text(f"\n{heading}", "bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=4)
        grid.add_column(min_width=24, no_wrap=True)
        grid.add_column()
        for row in rows:
            detail = Text(printable(row.fact.detail))
            for note in _notes(row):
                style = "cyan" if note.startswith("fix: ") else "dim"
                detail.append(Text("\n").append(printable(note), style))
            grid.add_row(Text(_word(row), styles[_word(row)]), Text(row.title), detail)
        console.print(Padding(grid, (0, 0, 0, 2)))


def document_of(facts: HostFacts) -> dict[str, Any]:
    """The facts as a JSON-ready document."""
    return {"schema_version": SCHEMA_VERSION, "tier": facts.tier, **plain(facts)}


def _installed_program() -> str:
    """The file that people start: where an AppArmor profile has to be attached."""
    program = sys.argv[0]
    if os.path.basename(program) in ("__main__.py", ""):
        program = os.path.join(os.path.dirname(sys.executable), "hardrun")
    return os.path.realpath(program)


def _print_apparmor_profile() -> None:
    from hardrun.host.diagnose import Surroundings, apparmor_profile

    program = _installed_program()
    if '"' in program or "\n" in program:
        program = "/usr/bin/hardrun"
    write(apparmor_profile(program, Surroundings.read()).splitlines())


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="The facts as a document.")
@click.option("--emit-apparmor", is_flag=True,
              help="Print the AppArmor profile that lets hardrun make user namespaces.")
def command(as_json: bool, emit_apparmor: bool) -> int:
    """Say what this host and user can enforce, tried for real, and the smallest fix for the rest.

    The exit status is 0 when the full tier is available, 1 otherwise.
    """
    if emit_apparmor:
        _print_apparmor_profile()
        return 0
    from hardrun.host.probe import probe

    facts = probe()
    if as_json:
        import json

        write([json.dumps(document_of(facts), indent=2)])
    elif sys.stdout is not None and sys.stdout.isatty():
        _print_rich(facts)
    else:
        write(lines_of(facts))
    return 0 if facts.tier == "full" else 1
