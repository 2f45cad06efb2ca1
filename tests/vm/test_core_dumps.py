"""What the kernel does with a crash where cores go to a program: core(5), kernel.core_pattern.

The program runs as the host's root and reads what the crashed process chose to have in its memory
(CVE-2022-4415, CVE-2025-5054). It is started at a limit of 0 as well; at 1 it is not.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.sandbox import POLICIES
from tests.sandbox.raw import Program, operation
from tests.vm.guest import as_root, sysctl

pytestmark = pytest.mark.vm("apparmor")
PYTHON = "/usr/bin/python3"
CRASH = "import os; os.abort()"
LOWERED = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {CRASH}"
HANDLER = "/usr/local/sbin/core-handler"
SEEN = "/run/cores-seen"
SCRIPT = f"#!/bin/sh\ncat >/dev/null\necho core >>{SEEN}\n"
RLIMIT_CORE = 4


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Cores go to a program that writes down that it was started."""
    as_root("tee", HANDLER, stdin=SCRIPT)
    as_root("chmod", "755", HANDLER)
    before = sysctl("kernel.core_pattern", f"|{HANDLER} %P")
    yield
    sysctl("kernel.core_pattern", before)
    as_root("rm", "-f", HANDLER, SEEN)


def handled(*words: str) -> int:
    """How many crashes the program was told of: a last one outside is waited for and not counted.
    """
    as_root("rm", "-f", SEEN)
    if words:
        done = subprocess.run(words, capture_output=True, check=False, timeout=100)
        assert done.returncode in (-6, 128 + 6), done
    assert subprocess.run([PYTHON, "-c", LOWERED], check=False).returncode == -6
    deadline = time.monotonic() + 60
    while not (found := Path(SEEN).exists() and as_root("cat", SEEN).count("core")):
        assert time.monotonic() < deadline, "inconclusive: no program is started at all"
        time.sleep(0.05)
    time.sleep(0.5)
    found = as_root("cat", SEEN).count("core")
    return found - 1


def test_rs_06_a_limit_of_0_does_not_keep_a_core_from_the_hosts_program(executor: Path,
                                                                       tmp_path: Path) -> None:
    """The control: in a sandbox whose limit is 0 a crash starts the program outside; at 1 none."""
    def crashing(limit: int) -> str:
        return str(Program(executor, tmp_path).write(
            [PYTHON, "-c", CRASH], [operation("set_limit", RLIMIT_CORE, limit, limit)]))

    assert handled() == 0
    assert handled(crashing(0)) == 1
    assert handled(crashing(1)) == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("script", [CRASH, LOWERED], ids=["crash", "lowered"])
def test_rs_06_no_crash_of_a_sandbox_starts_the_hosts_program(policy: str, script: str) -> None:
    """Whatever it does to its own limit: what lowers it is answered, and not done."""
    assert handled("hardrun", "run", "--policy", policy, "--", PYTHON, "-c", script) == 0
