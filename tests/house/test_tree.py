"""What must not be in the tree, and what must."""

from __future__ import annotations

import ast
import collections
import re
import stat

import pytest

from tests.house.tree import ROOT, files, relative

TEXT = (".py", ".c", ".h", ".md", ".yaml", ".json", ".toml", "Makefile", "run", ".cil", "-host",
        "-user", "-python")
# In pieces, so that this file does not find itself.
REGISTRIES = ("py" + "pi.org", "python" + "hosted.org", "deb.deb" + "ian.org",
              "security.deb" + "ian.org", "registry.npm" + "js.org", "proxy.go" + "lang.org")
# Absolute paths of somebody's machine. The hosts that a sandbox is for have none of these.
PRIVATE_PATHS = re.compile(r"(^|[^A-Za-z0-9_.-])/([w]ork|Users|Volumes)/")
UNFINISHED = re.compile(r"#\s*(TO[D]O|FIX[M]E|XX[X])|raise NotImplemented[E]rror|assert Tru[e]$")


@pytest.mark.parametrize("name", [
    "README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md", "docs/threat-model.md",
    "docs/architecture.md", "docs/errors.md", "docs/executor.md", "docs/plan-format.md",
    "docs/policy.md", "docs/cli.md", "docs/testing.md"])
def test_a_page_that_people_look_for_exists(name: str) -> None:
    assert (ROOT / name).is_file()


def _found(pattern: re.Pattern[str], *suffixes: str) -> list[str]:
    return [f"{relative(path)}:{number}: {line.strip()[:80]}" for path in files(*suffixes)
            for number, line in enumerate(
                path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
            if pattern.search(line)]


def test_no_package_registry_is_named() -> None:
    assert not _found(re.compile("|".join(map(re.escape, REGISTRIES))), *TEXT)


def test_no_path_of_a_developers_machine_is_named() -> None:
    assert not _found(PRIVATE_PATHS, *TEXT)


def test_nothing_is_left_unfinished() -> None:
    assert not _found(UNFINISHED, ".py", ".c", ".h")


def test_executable_files_say_how_they_are_run() -> None:
    wrong = [relative(p) for p in files() if p.stat().st_mode & stat.S_IXUSR
             and not p.read_bytes().startswith((b"#!", b"\x7fELF"))]
    assert not wrong


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in files(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{relative(page)}: {target}")
    assert not broken


def test_no_two_tests_of_a_file_have_one_name() -> None:
    """The second of two tests with one name replaces the first, silently."""
    doubled = []
    for path in files(".py", below="tests"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        scopes = [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]
        for scope in scopes:
            names = collections.Counter(n.name for n in scope.body
                                        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            doubled += [f"{relative(path)}: {n}" for n, times in names.items() if times > 1]
    assert not doubled


def _asserts(node: ast.AST) -> bool:
    """An assert statement, or a call of what raises: pytest.raises, pytest.fail."""
    return any(isinstance(n, ast.Assert)
               or (isinstance(n, ast.Attribute) and n.attr in {"raises", "fail", "warns"})
               for n in ast.walk(node))


def test_every_test_can_fail() -> None:
    """Each asserts something itself or calls a function that does."""
    functions = [(path, node) for path in files(".py", below="tests")
                 for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    checking = {node.name for _, node in functions if _asserts(node)}
    weak = []
    for path, node in functions:
        called = {getattr(n.func, "id", getattr(n.func, "attr", "")) for n in ast.walk(node)
                  if isinstance(n, ast.Call)}
        if node.name.startswith("test_") and not _asserts(node) and not called & checking:
            weak.append(f"{relative(path)}:{node.lineno}: {node.name}")
    assert not weak


def test_every_skip_says_why() -> None:
    silent = re.compile(r"pytest\.skip\(\)|mark\.skip\b(?!if)|mark\.xfail\b(?!\(.*reason)")
    assert not [f for f in _found(silent, ".py") if "re.compile" not in f]
