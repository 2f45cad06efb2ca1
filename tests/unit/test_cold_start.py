"""A first run under policies that ship: what was made ahead is enough, no document is parsed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hardrun.kernel.seccomp import prebuild as filters
from hardrun.policy import prebuild as policies

ROOT = Path(__file__).resolve().parents[2]
AT_THE_EDGES = {"pydantic", "pydantic_core", "ruamel", "pyseccomp", "rich"}
DECIDE = """
import sys
from pathlib import Path
from hardrun import data

ahead, shipped = Path(sys.argv[1]), data.data_directory
data.data_directory = lambda kind: ahead if kind in ("filters", "compiled") else shipped(kind)

import hardrun.api, hardrun.cli.main, hardrun.cli.run, hardrun.cli.explain, hardrun.cli.compile
from hardrun.policy.engine import decide
from hardrun.policy.load import Directories, load_policies
from hardrun.request import Request
from tests.planning import facts, workload

host, asked = facts(supplementary_groups=(), cgroup=facts().seccomp), workload("true")
standard = Directories.standard()
loaded = load_policies(directories=standard._replace(system=None, user=None))
decision = decide(asked, loaded.policies, host)
request = Request(asked.argv, asked, decision, host, loaded.policies, loaded.dependencies)
assert request.artefact(request.plan(pinned=True))
assert hardrun.cli.explain.lines_of(decision)
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything that is made ahead."""
    directory = tmp_path_factory.mktemp("ahead")
    policies.prebuild(directory)
    filters.write(directory)
    return directory


def _modules(script: str, *arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True,
                          text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_a_first_run_imports_what_parses_no_document(ahead: Path) -> None:
    loaded = _modules(DECIDE, str(ahead))
    assert {"hardrun.policy.compiled", "hardrun.kernel.seccomp.prebuilt"} <= loaded
    assert not {"hardrun.policy.document", "hardrun.kernel.seccomp.compile"} & loaded
    assert not AT_THE_EDGES & {name.partition(".")[0] for name in loaded}


def test_the_python_api_is_imported_without_what_a_run_does_not_need() -> None:
    loaded = _modules("import sys, hardrun.api; print(*sys.modules)")
    assert not (AT_THE_EDGES | {"asyncio", "click", "logging"}) & loaded
