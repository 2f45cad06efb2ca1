"""Code, `--help` and pages say the same: nothing is undocumented, nothing documented is missing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from hardrun import errors
from hardrun.cli.main import COMMANDS, group
from tests.house.tree import ROOT, files, relative

PAGES = [p for p in files(".md") if "benchmarks" not in p.parts]


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, child
            yield from _commands(found, f"{name} {child}")


def _flags() -> dict[str, set[str]]:
    """What people may write; a hidden option is for hardrun's own use."""
    return {name: {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)
                   if flag.startswith("-") and not getattr(p, "hidden", False)} | {"--help"}
            for name, command in _commands(group, "hardrun")}


def test_generated_pages_are_current() -> None:
    done = subprocess.run([sys.executable, "scripts/generate_docs.py", "--check"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_and_flag_says_what_it_is_for() -> None:
    silent = [name for name, command in _commands(group, "hardrun") if not command.help]
    silent += [f"{name} {p.opts[0]}" for name, command in _commands(group, "hardrun")
               for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not silent


def test_every_flag_is_on_the_page_of_the_command_line() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    missing = [f"{name} {flag}" for name, flags in _flags().items() for flag in flags
               if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", page)]
    assert not missing


def test_the_listing_of_commands_is_that_of_the_modules() -> None:
    assert set(COMMANDS) == {name.split()[1] for name in _flags() if name.count(" ") >= 1}


def test_every_hardrun_command_line_in_the_pages_can_be_parsed() -> None:
    """``hardrun NAME --flag``: a page must not promise a flag that is not there."""
    flags = _flags()
    wrong = []
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            match = re.search(r"\bhardrun ([a-z]+)\b(.*)", line)
            if not match or match[1] not in COMMANDS:
                continue
            own = re.split(r" -- |`", match[2])[0]  # up to the command, or the end of a quotation
            known = set().union(*(f for n, f in flags.items()
                                  if n.startswith(f"hardrun {match[1]}")))
            wrong += [f"{relative(page)}:{number}: {flag}"
                      for flag in re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", own)
                      if flag not in known and flag.startswith("--")]
    assert not wrong


def _codes() -> set[str]:
    return {kind.code for kind in vars(errors).values()
            if inspect.isclass(kind) and issubclass(kind, errors.HardrunError)}


def test_every_error_code_is_on_its_page_and_no_other() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == _codes()


def test_every_outcome_is_on_the_page_of_errors() -> None:
    from typing import get_args

    from hardrun.executor.result import Outcome

    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\* `([a-z-]+)`", page, re.MULTILINE)) == set(get_args(Outcome))


def test_every_operation_is_on_its_page() -> None:
    from hardrun.plan.schema import OPERATIONS

    page = (ROOT / "docs/plan-format.md").read_text(encoding="utf-8").split("## Unsafe")[0]
    assert set(re.findall(r"^\| \d+ \| `(\w+)` \|", page, re.MULTILINE)) == {
        o.name for o in OPERATIONS}


def test_every_control_is_on_the_page_of_policies() -> None:
    from hardrun.posture.registry import CONTROLS

    page = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
    assert not [c.id for c in CONTROLS if f"`{c.place}`" not in page]


def test_every_rule_fact_and_set_of_audits_is_on_its_page() -> None:
    from hardrun.audit.facts import FACTS
    from hardrun.audit.rules import SETS, catalogue

    page = (ROOT / "docs/audit.md").read_text(encoding="utf-8")
    names = [*(rule.id for rule in catalogue()), *(fact.id for fact in FACTS), *SETS]
    assert not [name for name in names if f"`{name}`" not in page]


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "policies").glob("*.yaml")))
def test_every_policy_that_ships_is_on_the_page_of_policies(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/policy.md").read_text(encoding="utf-8")
