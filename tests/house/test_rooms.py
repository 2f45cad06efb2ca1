"""Imports point one way; posture and policy touch no system call; starting imports little."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files, relative

# A room may import what stands in a lower or in its own row.
ROWS = (
    ("cli", "__main__"),
    ("demo", "bench"),
    ("api", "session", "pool", "__init__"),
    ("audit", "containers"),
    ("executor", "verify", "profile", "serve"),
    ("request",),
    ("plan",),
    ("policy",),
    ("posture", "workload"),
    ("host", "state"),
    ("kernel",),
    ("errors", "data", "values", "cache"),
)
RANK = {room: len(ROWS) - number for number, row in enumerate(ROWS) for room in row}
# Room of the importer, module imported: each with its reason.
ALLOWED = {
    ("host", "hardrun.plan.format"),      # facts are tried by small plans
    ("host", "hardrun.plan.schema"),
    ("host", "hardrun.executor.image"),   # … that the executor runs in a throw-away child
}
PURE = ("posture", "policy")
IMPURE = {"ctypes", "fcntl", "socket", "subprocess", "signal", "resource", "shutil", "mmap"}
READS_FILES = {"hardrun/policy/load.py", "hardrun/policy/prebuild.py", "hardrun/policy/layers.py"}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            if node.module == "hardrun" or node.module.count(".") == 1:
                yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _modules() -> list[Path]:
    return [p for p in files(".py", below="hardrun") if "hostile" not in p.parts]


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {p.relative_to(ROOT / "hardrun").parts[0].removesuffix(".py") for p in _modules()}
    assert rooms == set(RANK)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in _modules():
        own = path.relative_to(ROOT / "hardrun").parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # re-exports the public names, lazily
        for line, module in _imports(path):
            room = _room(module)
            if not module.startswith("hardrun.") or room not in RANK:
                continue
            allowed = any(own == o and (module == m or module.startswith(m + "."))
                          for o, m in ALLOWED)
            if RANK[room] > RANK[own] and not allowed:
                wrong.append(f"{relative(path)}:{line}: {own} imports {module}")
    assert not wrong


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_makes_no_system_call(room: str) -> None:
    wrong = []
    for path in files(".py", below=f"hardrun/{room}"):
        if relative(path) in READS_FILES:
            continue
        wrong += [f"{relative(path)}:{line}: {module}" for line, module in _imports(path)
                  if module.split(".")[0] in IMPURE]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) \
                    and node.func.id == "open":
                wrong.append(f"{relative(path)}:{node.lineno}: open()")
    assert not wrong


def _imported_by(statement: str) -> set[str]:
    program = f"import sys; before = set(sys.modules); {statement}; " \
              "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    return set(done.stdout.split())


def test_importing_hardrun_imports_nothing_else_of_it() -> None:
    assert not {m for m in _imported_by("import hardrun") if m.startswith("hardrun.")}


def test_help_is_shown_without_importing_the_engine() -> None:
    loaded = _imported_by("import hardrun.cli.main")
    assert not {m.split(".")[0] for m in loaded} & {"pydantic", "rich", "ruamel", "pyseccomp"}
