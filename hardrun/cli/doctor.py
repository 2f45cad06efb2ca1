"""``hardrun doctor``: what this host and user can enforce, tried for real."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
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
        ("host_name", "host name of its own"),
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
        ("cgroup_delegation", "every limit in a cgroup"),
    )),
)
_TIERS = {
    "full": "full: namespaces, mounts, seccomp and Landlock",
    "landlock": "landlock: seccomp and Landlock, but not all that the full tier is made of",
    "none": "none: a policy can't be enforced here",
}
_WITHOUT_LANDLOCK = ("full: namespaces, mounts and seccomp, without Landlock: policies that demand "
                     "it, or a label in its place, refuse")


class Row(NamedTuple):
    """One fact as people read it."""

    title: str
    fact: Fact
    needed: bool


def rows_of(facts: HostFacts, places: Mapping[str, Fact]) -> Iterator[tuple[str, list[Row]]]:
    """Every fact under its heading; ``needed`` marks those that the full tier is made of."""
    for heading, entries in _GROUPS:
        yield heading, [Row(title, getattr(facts, name), name in facts.FULL_TIER)
                        for name, title in entries]
    if places:
        yield "files", [Row(title, fact, needed=False) for title, fact in places.items()]


def places_of(facts: HostFacts) -> dict[str, Fact]:
    """What doctor looks at and no run needs, by title."""
    from hardrun.host import places

    return {"home": places.home(facts.home), "stored plans": places.stored_plans()}


def _word(row: Row) -> str:
    return "ok" if row.fact.available else "FAIL" if row.needed else "--"


def _notes(row: Row, told: dict[tuple[str, str], str]) -> list[str]:
    """Layer, cause and fix, once each; ``told`` says where they were told before."""
    fact = row.fact
    if fact.available:
        return []
    if fact.fix and (before := told.setdefault((fact.layer, fact.fix), row.title)) != row.title:
        return [f"as above: {before}"]
    notes = (("layer", fact.layer), ("cause", fact.cause), ("fix", fact.fix))
    return [f"{label}: {text}" for label, text in notes if text]


def _groups_note(facts: HostFacts) -> str:
    groups = ", ".join(map(str, facts.supplementary_groups))
    if not groups:
        return "no supplementary groups"
    can = "can be dropped" if facts.id_ranges.available else \
        "can't be dropped (needs a range of ids): their files stay readable inside"
    return f"supplementary groups {groups}: {can}"


def _heading(facts: HostFacts) -> list[str]:
    tier = _TIERS[facts.tier]
    if facts.tier == "full" and not facts.landlock.available:
        tier = _WITHOUT_LANDLOCK
    return [
        f"tier {tier}",
        f"Linux {facts.kernel_release} on {facts.architecture}, "
        f"{facts.user_name} (uid {facts.uid}), {_groups_note(facts)}",
    ]


def lines_of(facts: HostFacts, places: Mapping[str, Fact]) -> list[str]:
    """The facts as plain lines."""
    lines = [printable(line) for line in _heading(facts)]
    told: dict[tuple[str, str], str] = {}
    for heading, rows in rows_of(facts, places):
        lines += ["", heading]
        for row in rows:
            lines.append(f"  {_word(row):4}  {row.title:26}{printable(row.fact.detail)}".rstrip())
            lines += [f"{'':34}{printable(note)}" for note in _notes(row, told)]
    return lines


def _print_rich(facts: HostFacts, places: Mapping[str, Fact]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"ok": "green", "FAIL": "bold red", "--": "yellow"}
    tier, rest = _heading(facts)
    console.print(Text(printable(tier), "bold green" if facts.tier == "full" else "bold red"))
    console.print(Text(printable(rest), "dim"))
    told: dict[tuple[str, str], str] = {}
    for heading, rows in rows_of(facts, places):
        console.print(Text(f"\n{heading}", "bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=4)
        grid.add_column(min_width=24, no_wrap=True)
        grid.add_column()
        for row in rows:
            detail = Text(printable(row.fact.detail))
            for note in _notes(row, told):
                style = "cyan" if note.startswith("fix: ") else "dim"
                detail.append(Text("\n").append(printable(note), style))
            grid.add_row(Text(_word(row), styles[_word(row)]), Text(row.title), detail)
        console.print(Padding(grid, (0, 0, 0, 2)))


def document_of(facts: HostFacts, places: Mapping[str, Fact]) -> dict[str, Any]:
    """The facts as a JSON-ready document."""
    return {"schema_version": SCHEMA_VERSION, "tier": facts.tier, **plain(facts),
            "places": plain(places)}


def _facts(*, fresh: bool) -> HostFacts:
    """What was tried, now or earlier in this boot and under the same circumstances."""
    from hardrun.host import remembered
    from hardrun.host.probe import EXECUTOR, probe, with_group

    key = remembered.key(EXECUTOR) if os.path.exists("/proc/self/status") else None
    if key is None:
        return probe()
    facts = None if fresh else remembered.load(key)
    if facts is not None:
        return with_group(facts)
    facts = probe()
    remembered.store(key, facts)
    return facts


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="The facts as a document.")
@click.option("--fresh", is_flag=True,
              help="Try everything anew, whatever is remembered of this boot.")
@click.option("--emit-apparmor", is_flag=True,
              help="Print the AppArmor profile that lets hardrun make user namespaces.")
@click.option("--emit-seccomp", is_flag=True, help="Print a seccomp profile for a container that "
              "hardrun is to work in: Docker's, and what is missing.")
def command(as_json: bool, fresh: bool, emit_apparmor: bool, emit_seccomp: bool) -> int:
    """Say what this host and user can enforce, tried for real, and the smallest fix for the rest.

    The exit status is 0 when the full tier is available, 1 otherwise.
    """
    if emit_apparmor:
        from hardrun.profile import apparmor, apparmor_host

        write(apparmor_host.text(apparmor.EXECUTOR).splitlines())
        return 0
    if emit_seccomp:
        import json

        from hardrun.host.outer import outer_profile

        write([json.dumps(outer_profile(), indent=2)])
        return 0
    facts = _facts(fresh=fresh)
    places = places_of(facts)
    if as_json:
        import json

        write([json.dumps(document_of(facts, places), indent=2)])
    elif sys.stdout is not None and sys.stdout.isatty():
        _print_rich(facts, places)
    else:
        write(lines_of(facts, places))
    return 0 if facts.tier == "full" else 1
