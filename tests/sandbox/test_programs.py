"""Programs that people use, run for real under the policies that are meant for them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

import hardrun

PYTHON = "/usr/bin/python3"
POLICIES = ("untrusted", "judge", "agent", "build")


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path="/usr/bin:/bin") is None:
            pytest.skip(f"{program} is not installed in /usr/bin")


def run(policy: str, directory: Path, script: str, **options: object) -> str:
    """Run a shell script with ``directory`` writable as its working directory."""
    result = hardrun.run(["bash", "-euc", script], policy=policy, rw=[directory],
                         workdir=str(directory), capture_output=True, text=True,
                         **options)  # type: ignore[call-overload]
    assert result.outcome == "exited", (result.outcome, result.stderr)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


def wheel(directory: Path) -> Path:
    """The smallest wheel there is (PEP 427), made without any tool."""
    path = directory / "answer-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("answer.py", "VALUE = 42\n")
        archive.writestr("answer-1.0.dist-info/METADATA",
                         "Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n")
        archive.writestr("answer-1.0.dist-info/WHEEL",
                         "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                         "Tag: py3-none-any\n")
        archive.writestr("answer-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize("policy", POLICIES)
def test_python_with_its_libraries(policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                   ) -> None:
    if policy == "judge":
        monkeypatch.chdir(tmp_path)  # its one directory is the working directory
    script = ("import ssl, sqlite3, ctypes, threading, subprocess, tempfile\n"
              "worker = threading.Thread(target=print, args=('thread',)); worker.start()\n"
              "worker.join()\n"
              "print(subprocess.run(['echo', 'child'], capture_output=True).stdout)\n"
              "tempfile.TemporaryFile().write(b'x')\n"
              "print(sqlite3.connect('here.db').execute('select 42').fetchone())")
    (tmp_path / "a.py").write_text(script)
    output = run(policy, tmp_path, f"{PYTHON} a.py")
    assert output.split() == ["thread", "b'child\\n'", "(42,)"]


@pytest.mark.parametrize("policy", ["agent", "build"])
def test_a_virtual_environment_and_pip_without_a_network(policy: str, tmp_path: Path) -> None:
    if not Path("/usr/lib/python3/dist-packages").is_dir():
        pytest.skip("the system's Python is not Debian's")
    name = wheel(tmp_path).name
    output = run(policy, tmp_path, f"{PYTHON} -m venv venv && venv/bin/pip install -q --no-index"
                                   f" ./{name} && venv/bin/python -c"
                                   " 'import answer; print(answer.VALUE)'", timeout=300)
    assert output.strip() == "42"


@pytest.mark.parametrize("policy", ["untrusted", "build"])
def test_git(policy: str, tmp_path: Path) -> None:
    needs("git")
    output = run(policy, tmp_path, "git init -q . && touch a && git add a && git -c user.name=a"
                                   " -c user.email=b@c commit -qm x && git rev-list --count HEAD")
    assert output.strip() == "1"


def test_an_agent_works_in_a_repository_but_can_not_plant_a_hook(tmp_path: Path) -> None:
    needs("git")
    run("build", tmp_path, "git init -q .")
    output = run("agent", tmp_path, "touch a && git add a && git -c user.name=a -c user.email=b@c"
                                    " commit -qm x && git rev-list --count HEAD;"
                                    " echo evil >.git/hooks/pre-commit || echo denied")
    assert output.split() == ["1", "denied"]
    assert not (tmp_path / ".git/hooks/pre-commit").exists()


@pytest.mark.parametrize("policy", ["untrusted", "build"])
def test_node(policy: str, tmp_path: Path) -> None:
    needs("node")
    output = run(policy, tmp_path, "node -e 'setTimeout(() => console.log(42), 10)'",
                 memory="1G")
    assert output.strip() == "42"


@pytest.mark.parametrize("policy", ["untrusted", "build"])
def test_a_c_compiler_and_what_it_makes(policy: str, tmp_path: Path) -> None:
    needs("gcc", "make")
    (tmp_path / "a.c").write_text("#include <stdio.h>\nint main(void) { puts(\"42\"); }\n")
    assert run(policy, tmp_path, "make -s a && ./a").strip() == "42"


def test_java_compiles_and_runs(tmp_path: Path) -> None:
    needs("javac", "java")
    (tmp_path / "A.java").write_text("class A { public static void main(String[] a) {"
                                     " System.out.println(42); } }\n")
    assert run("build", tmp_path, "javac A.java && java A", timeout=300).strip() == "42"


def test_go_builds_and_runs(tmp_path: Path) -> None:
    needs("go", "gcc")
    (tmp_path / "go.mod").write_text("module answer\n")
    (tmp_path / "main.go").write_text("package main\nfunc main() { println(42) }\n")
    assert run("build", tmp_path, "go build -o answer . && ./answer 2>&1",
               timeout=600).strip() == "42"
