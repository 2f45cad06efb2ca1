"""Every cause has a code, is found somewhere, explained, and proved (tests/sandbox/scenes.py)."""

from __future__ import annotations

import re

import pytest

from hardrun.host.causes import CAUSES, FIXES
from tests.house.tree import ROOT, files
from tests.pains import BYPASS
from tests.sandbox.scenes import ELSEWHERE, SCENES
from tests.unit.test_host_diagnose import CASES


def _source() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in files(".py", below="hardrun")
                   if path.name != "causes.py")


def test_every_cause_is_found_somewhere() -> None:
    source = _source()
    assert not [code for code in CAUSES if f'"{code}"' not in source]


def test_every_cause_that_is_told_is_explained() -> None:
    told = set(re.findall(r'(?:cause=|Diagnosis\(\s*)"([a-z0-9-]+)"', _source()))
    assert told - {""} <= set(CAUSES)


def test_every_cause_of_a_refusing_kernel_is_among_the_cases() -> None:
    page = (ROOT / "docs/hosts.md").read_text(encoding="utf-8")
    assert {case[3] for case in CASES} <= set(CAUSES)
    assert all(f"| `{code}` |" in page for code in CAUSES)


def test_every_cause_is_provoked_or_it_is_said_why_not() -> None:
    provoked = {scene.cause for scene in SCENES.values()}
    assert provoked | set(ELSEWHERE) == set(CAUSES)
    assert not provoked & set(ELSEWHERE)


@pytest.mark.parametrize("cause", ELSEWHERE)
def test_what_is_proved_elsewhere_is_named_there(cause: str) -> None:
    [place] = re.findall(r"tests/\w+/\w+\.py", ELSEWHERE[cause])
    assert f'"{cause}"' in (ROOT / place).read_text(encoding="utf-8")


def test_no_fix_on_the_page_of_hosts_switches_a_protection_off() -> None:
    page = (ROOT / "docs/hosts.md").read_text(encoding="utf-8")
    told = [line.split(" | ")[2] for line in page.splitlines()
            if line.startswith("| `") and line.count(" | ") == 2]
    assert len(told) == len(CAUSES)
    assert not [fix for fix in told if BYPASS.search(fix)]
    assert all(any(fix.replace("|", "\\|") in row for row in told) for fix in FIXES.values())
