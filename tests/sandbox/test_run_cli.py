"""``hardrun run``, ``explain`` and ``compile`` as a shell sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hardrun.data import data_directory
from hardrun.plan.format import unpack
from hardrun.policy.decision import Decision
from hardrun.policy.load import COMPILED
from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parents[2]


class Shell:
    """An ordinary user's home and working directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "work"
        self.directory.mkdir(parents=True)
        self.environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin",
                            "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}

    def start(self, *words: str | bytes, **options: object) -> subprocess.Popen[bytes]:
        settings: dict[str, object] = {"cwd": self.directory, "env": self.environment,
                                       "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                                       "stderr": subprocess.PIPE}
        return subprocess.Popen([HARDRUN, *words], **(settings | options))  # type: ignore[call-overload,no-any-return]

    def __call__(self, *words: str | bytes, input: bytes | None = None,
                 **options: object) -> subprocess.CompletedProcess[bytes]:
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*words, **options) as process:
            out, err = process.communicate(input)
        return subprocess.CompletedProcess(list(words), process.returncode, out, err)

    @property
    def plans(self) -> list[Path]:
        directory = self.home / ".cache/hardrun/plans"
        return sorted(directory.iterdir()) if directory.is_dir() else []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


def refused(run: subprocess.CompletedProcess[bytes], status: int = 125) -> str:
    """The one line of a run that was refused, after all has been said about its form."""
    lines = run.stderr.decode().splitlines()
    assert run.returncode == status, run.stderr
    assert lines[0].startswith("hardrun: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  hint: ")), lines
    assert run.stdout == b""
    return lines[0]


@pytest.mark.parametrize("script, status", [
    ("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -SEGV $$", 139), ("kill -KILL $$", 137),
])
def test_the_status_is_the_commands_own(shell: Shell, script: str, status: int) -> None:
    for _ in range(2):  # decided, and from the stored plan
        run = shell("run", "--", "sh", "-c", f"echo out; echo err >&2; {script}")
        assert (run.stdout, run.stderr, run.returncode) == (b"out\n", b"err\n", status)


def test_the_time_out_is_124(shell: Shell) -> None:
    assert shell("run", "--timeout", "200ms", "--", "sleep", "1000").returncode == 124


def test_the_second_run_imports_nothing(shell: Shell) -> None:
    shell.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    first = shell("run", "--", "echo", "a")
    second = shell("run", "--", "echo", "b")
    assert (first.stdout, second.stdout) == (b"a\n", b"b\n")
    assert b"click" in first.stderr
    assert second.stderr == b""


def test_the_first_run_parses_no_document_that_was_parsed_ahead(shell: Shell) -> None:
    if not (data_directory("compiled") / COMPILED).is_file():
        pytest.skip("nothing was parsed ahead: make")
    shell.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    run = shell("run", "--", "echo", "a")
    assert run.stdout == b"a\n"
    for name in (b"pydantic", b"ruamel", b"pyseccomp", b"asyncio", b"importlib.metadata"):
        assert name not in run.stderr


def test_arguments_of_the_command_are_in_no_stored_plan(shell: Shell) -> None:
    shell("run", "--", "echo", "a-password")
    [plan] = shell.plans
    assert b"a-password" not in plan.read_bytes()
    assert b"a-password" not in unpack(plan.read_bytes()).decision


def test_a_value_of_a_variable_is_never_stored(shell: Shell) -> None:
    run = shell("run", "--env", "TOKEN=a-password", "--", "sh", "-c", "echo $TOKEN")
    assert run.stdout == b"a-password\n"
    assert not any(b"a-password" in plan.read_bytes() for plan in shell.plans)


def test_an_inherited_variable_is_read_at_each_start(shell: Shell) -> None:
    for value in ("C.UTF-8", "C"):
        shell.environment["LANG"] = value
        assert shell("run", "--", "sh", "-c", "echo $LANG").stdout == value.encode() + b"\n"
    assert len(shell.plans) == 1


def test_a_policy_that_changes_is_decided_again(shell: Shell) -> None:
    policy = shell.home / ".config/hardrun/policy.d/mine.yaml"
    policy.parent.mkdir(parents=True)
    text = ("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: mine, description: test}\n"
            "match: {command: sh}\nbounds: {limits: {open_files: %d}}\n")
    for limit in (100, 60, 80):
        policy.write_text(text % limit)
        run = shell("run", "--", "sh", "-c", "ulimit -n; echo $1", "sh", "x")
        assert run.stdout == b"%d\nx\n" % limit, run.stderr
    policy.unlink()
    run = shell("run", "--", "sh", "-c", "ulimit -n; echo $1", "sh", "x")
    assert int(run.stdout.split()[0]) > 100


def test_a_damaged_plan_is_made_again(shell: Shell) -> None:
    shell("run", "--", "echo", "a")
    [plan] = shell.plans
    plan.write_bytes(plan.read_bytes()[:-100])
    assert shell("run", "--", "echo", "b").stdout == b"b\n"
    assert shell("run", "--", "echo", "c").stdout == b"c\n"


@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc", "relative", ""])
def test_a_home_that_is_missing_or_unwritable_breaks_nothing(shell: Shell,
                                                             home: str | None) -> None:
    del shell.environment["HOME"]
    if home is not None:
        shell.environment["HOME"] = home
    run = shell("run", "--", "echo", "hello")
    assert (run.stdout, run.stderr) == (b"hello\n", b"")


def test_ten_thousand_arguments_with_any_bytes_arrive(shell: Shell) -> None:
    words = [bytes([1 + n % 255]) for n in range(10_000)]
    for _ in range(2):
        run = shell("run", "--", "printf", "%s", *words)
        assert run.stdout == b"".join(words)


def test_a_locale_that_is_not_utf8_changes_no_byte(shell: Shell) -> None:
    shell.environment |= {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert shell("run", "--", "printf", "%s", b"\xe9\xff").stdout == b"\xe9\xff"


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_closed_standard_descriptor_breaks_nothing(shell: Shell, descriptor: int) -> None:
    for _ in range(2):
        command = " ".join([HARDRUN, "run", "--", "true", f"{descriptor}>&-"])
        run = subprocess.run(["sh", "-c", command], env=shell.environment, cwd=shell.directory,
                             capture_output=True, check=False)
        assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


@pytest.mark.parametrize("words", [["explain", "--", "ls"], ["--help"]])
def test_a_reader_that_is_gone_gets_no_traceback(shell: Shell, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    run = shell(*words, stdout=write)
    os.close(write)
    assert run.stderr == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("report", [[], ["--report", "/dev/null"]], ids=["replaced", "parent"])
def test_a_signal_reaches_the_command(shell: Shell, number: signal.Signals,
                                      report: list[str]) -> None:
    script = f"trap 'exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    with shell.start("run", *report, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait() == 9


@pytest.mark.parametrize("report", [[], ["--report", "/dev/null"]], ids=["replaced", "parent"])
def test_nothing_survives_when_hardrun_is_killed(shell: Shell, report: list[str]) -> None:
    script = "setsid sleep 1000 & echo ready; sleep 1000"
    with shell.start("run", *report, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()


def test_a_command_that_is_not_found_is_127(shell: Shell) -> None:
    assert "no-such-command" in refused(shell("run", "--", "no-such-command"), 127)


def test_a_command_outside_the_view_is_127_with_the_flag_that_shows_it(shell: Shell) -> None:
    tool = shell.home / "bin/tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho hello\n")
    tool.chmod(0o755)
    run = shell("run", "--", str(tool))
    assert str(tool) in refused(run, 127)
    assert b"--" in run.stderr.split(b"hint:")[1]


def test_a_command_that_is_not_executable_is_126(shell: Shell) -> None:
    tool = shell.directory / "tool"
    tool.write_text("not a program")
    assert "tool" in refused(shell("run", "--ro", ".", "--", "./tool"), 126)


BAD_POLICY = "apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: mine, description: d}\n"


@pytest.mark.parametrize("text, word", [
    ("a: [", "policy.yaml:1"),
    (BAD_POLICY + "bouds: {}\n", "policy.yaml:4: bouds"),
    (BAD_POLICY + "bounds: {limits: {memory: many}}\n", "policy.yaml:4: bounds.limits.memory"),
    (BAD_POLICY + "bounds: {limits: {memory: -1}}\n", "policy.yaml:4: bounds.limits.memory"),
    (BAD_POLICY + "within: [untrusted]\nbounds: {seccomp: nothing-of-that-name}\n",
     "nothing-of-that-name"),
    (BAD_POLICY + "within: [nobody]\nbounds: {}\n", "policy.yaml:4: within: "),
    (BAD_POLICY + "bounds: {}\nbounds: {}\n", "policy.yaml:5"),
], ids=["syntax", "field", "type", "value", "profile", "parent", "twice"])
def test_a_wrong_policy_is_one_line_with_its_place(shell: Shell, text: str, word: str) -> None:
    (shell.directory / "policy.yaml").write_text(text)
    assert word in refused(shell("run", "--policy", "./policy.yaml", "--", "true"))
    assert not shell.plans


@pytest.mark.parametrize("words, word", [
    (["--ro", "/no/such/path"], "/no/such/path"),
    (["--rw", "/no/such/path"], "/no/such/path"),
    (["--rootfs", "/no/such/path"], "/no/such/path"),
    (["--rootfs", "/etc/passwd"], "/etc/passwd"),
    (["--memory", "2X"], "2X"),
    (["--memory", "900G"], "limits.memory"),
    (["--timeout", "-1s"], "-1s"),
    (["--user", "root"], "root"),
    (["--network", "host"], "network"),
    (["--network", "bridge"], "bridge"),
    (["--env", "=x"], "=x"),
    (["--label", "x"], "x"),
    (["--hostname", "a b"], "a b"),
    (["--policy", "no-such-policy"], "no-such-policy"),
    (["--policy", "/no/such/policy.yaml"], "/no/such/policy.yaml"),
    (["--toolchain", "no-such-tool"], "no-such-tool"),
    (["--report", "/no/such/directory/report"], "/no/such/directory/report"),
    (["--report", "fd:99"], "fd:99"),
    (["--report", "fd:x"], "fd:x"),
    (["--ro", "/etc/\x1b[31mred"], "\\x1b[31mred"),
], ids=str)
def test_bad_input_is_one_line_that_names_it(shell: Shell, words: list[str], word: str) -> None:
    status = 127 if "--toolchain" in words else 125
    assert word in refused(shell("run", *words, "--", "true"), status)
    assert not shell.plans


def test_a_working_directory_that_is_gone_is_one_line(shell: Shell) -> None:
    command = " ".join(["rmdir", str(shell.directory), "&&", HARDRUN, "run", "--", "true"])
    run = subprocess.run(["sh", "-c", command], env=shell.environment, cwd=shell.directory,
                         capture_output=True, check=False)
    assert "working directory" in refused(run)


def test_stored_plans_cannot_be_made_writable(shell: Shell) -> None:
    shell.environment["XDG_CACHE_HOME"] = str(shell.directory / "cache")
    assert "stored plans" in refused(shell("run", "--rw", ".", "--", "true"))
    assert "stored plans" in refused(shell("run", "--rw", ".", "--report", "r", "--", "true"))


def test_code_in_the_working_directory_is_never_imported(shell: Shell) -> None:
    (shell.directory / "pydantic.py").write_text("raise SystemExit(99)")
    (shell.directory / "hardrun").mkdir()
    (shell.directory / "hardrun/__init__.py").write_text("raise SystemExit(99)")
    policy = shell.home / ".config/hardrun/policy.d/mine.yaml"
    assert shell("run", "--", "true").returncode == 0
    policy.parent.mkdir(parents=True)  # the stored plan is stale now and has itself made again
    assert shell("run", "--", "true").returncode == 0


# -- reports --------------------------------------------------------------------------------------

def test_the_report_tells_outcome_usage_and_digest(shell: Shell) -> None:
    run = shell("run", "--report", "report", "--", "sh", "-c", "exit 3")
    document = json.loads((shell.directory / "report").read_bytes())
    assert run.returncode == document["returncode"] == 3
    assert (document["schema_version"], document["outcome"]) == (1, "exited")
    assert document["usage"]["wall"] > 0
    assert document["decision"] == digest_of(shell("explain", "--json", "--", "sh"))


def test_the_report_can_go_to_a_descriptor(shell: Shell) -> None:
    read, write = os.pipe()
    run = shell("run", "--report", f"fd:{write}", "--", "sh", "-c", "ls /proc/self/fd",
                pass_fds=(write,))
    os.close(write)
    with open(read, "rb") as file:
        assert json.loads(file.read())["outcome"] == "exited"
    assert len(run.stdout.split()) == 4  # 0-2 and the one of ls


def test_a_refusal_has_a_report_too(shell: Shell) -> None:
    refused(shell("run", "--report", "report", "--network", "host", "--", "true"))
    assert json.loads((shell.directory / "report").read_bytes())["outcome"] == "refused"


def test_the_meta_file_of_isolate(shell: Shell) -> None:
    shell("run", "--report", "meta", "--report-format", "isolate", "--timeout", "200ms", "--",
          "sleep", "1000")
    lines = (shell.directory / "meta").read_text().splitlines()
    assert {"status:TO", "killed:1"} <= set(lines)


def test_a_report_that_cannot_be_written_is_one_line(shell: Shell) -> None:
    run = shell("run", "--report", "/dev/full", "--", "true")
    assert "No space left" in refused(run)


def test_a_failure_in_the_sandbox_is_told_once(shell: Shell) -> None:
    script = shell.directory / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    for words in ([], ["--report", "report"]):
        run = shell("run", "--ro", ".", *words, "--", "./script")
        refused(run, 127)


@pytest.mark.parametrize("words", [[], ["--report", "/dev/null"]], ids=["plain", "report"])
def test_verify_lets_go_what_holds(shell: Shell, words: list[str]) -> None:
    run = shell("run", "--verify", *words, "--", "echo", "hello")
    assert (run.stdout, run.stderr, run.returncode) == (b"hello\n", b"", 0)


# -- one decision, whoever asks -------------------------------------------------------------------

def digest_of(run: subprocess.CompletedProcess[bytes]) -> str:
    assert run.returncode == 0, run.stderr
    return Decision.from_json(run.stdout).digest


def test_explain_run_compile_and_the_api_give_the_same_digest(
        shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--ro", "/etc/hostname", "--memory", "128M"]
    words = [*options, "--", "sh", "-c", "exit 0"]
    explained = digest_of(shell("explain", "--json", *words))
    assert f"sha256:{explained}" in shell("explain", *words).stdout.decode()
    shell("run", *words)
    [plan] = shell.plans
    assert Decision.from_json(unpack(plan.read_bytes()).decision).digest == explained
    assert shell("compile", *words[:4], "-o", "program", *words[4:]).returncode == 0
    program = (shell.directory / "program").read_bytes()
    assert Decision.from_json(unpack(program).decision).digest == explained
    script = ("import hardrun; print(hardrun.explain(['sh', '-c', 'exit 0'], ro=['/etc/hostname'],"
              " memory=128 << 20).digest)")
    api = subprocess.run([sys.executable, "-P", "-c", script], env=shell.environment,
                         cwd=shell.directory, capture_output=True, text=True, check=True)
    assert api.stdout.strip() == explained


def test_explain_starts_nothing_and_shows_every_control(shell: Shell) -> None:
    run = shell("explain", "--", "sh", "-c", "echo started")
    lines = run.stdout.decode().splitlines()
    assert lines[0].split() == ["control", "value", "enforced", "by", "decided", "by"]
    assert "started" not in run.stdout.decode()
    controls = len(json.loads(shell("explain", "--json", "--", "sh").stdout)["controls"])
    assert f"   {controls} controls: " in lines[-1]
    assert not shell.plans


# -- compiled programs ----------------------------------------------------------------------------

def test_a_compiled_program_runs_without_python(shell: Shell) -> None:
    assert shell("compile", "-o", "program", "--", "printf", "%s,", "a b").returncode == 0
    program = shell.directory / "program"
    assert program.stat().st_mode & 0o7777 == 0o755
    run = subprocess.run([program, "c", b"\xff"], env={}, cwd="/", capture_output=True, check=False)
    assert (run.stdout, run.stderr, run.returncode) == (b"a b,c,\xff,", b"", 0)


def test_the_grant_of_a_compiled_program_is_the_directory_that_it_is_called_in(
        shell: Shell) -> None:
    assert shell("compile", "--rw", ".", "-o", "program", "--", "sh", "-c", "pwd; echo x >new"
                 ).returncode == 0
    elsewhere = shell.directory / "else where"
    elsewhere.mkdir()
    program = str(shell.directory / "program")
    run = subprocess.run([program], env={}, cwd=elsewhere, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == (f"{elsewhere}\n", "")
    assert (elsewhere / "new").read_text() == "x\n"
    assert not (shell.directory / "new").exists()
    for way_out in ("/", "/usr/lib", str(shell.home), str(shell.home.parent)):
        run = subprocess.run([program], env={}, cwd=way_out, capture_output=True, text=True)
        assert run.returncode == 125
        assert "bind the caller's working directory: working directory: EACCES" in run.stderr


def test_a_compiled_program_is_for_any_directory_only_where_the_policy_grants_it(
        shell: Shell) -> None:
    policy = shell.home / "narrow.yaml"
    policy.write_text("apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: narrow}\n"
                      "within: [untrusted]\n"
                      f"bounds: {{filesystem: {{writable: [{shell.directory}]}}}}\n")
    words = ("compile", "--policy", str(policy), "--rw")
    message = refused(shell(*words, ".", "-o", "program", "--", "true"))
    assert "wherever the program is called asked (--rw .)" in message
    assert shell(*words, str(shell.directory), "-o", "program", "--", "true").returncode == 0


def test_compile_overwrites_a_file_but_no_directory(shell: Shell) -> None:
    program = shell.directory / "program"
    program.mkdir()
    assert "is a directory" in refused(shell("compile", "-o", "program", "--", "true"))
    program.rmdir()
    program.write_text("old")
    assert shell("compile", "-o", "program", "--", "true").returncode == 0
    assert subprocess.run([program], check=False).returncode == 0
    assert "-o /proc/x" in refused(shell("compile", "-o", "/proc/x", "--", "true"))
    assert [path.name for path in shell.directory.iterdir()] == ["program"]


def test_a_stale_program_refuses_in_one_line(shell: Shell) -> None:
    policy = shell.home / ".config/hardrun/policy.d/mine.yaml"
    assert shell("compile", "-o", "program", "--", "true").returncode == 0
    policy.parent.mkdir(parents=True)
    run = subprocess.run([shell.directory / "program"], capture_output=True, check=False,
                         env=shell.environment)
    assert run.returncode == 125
    assert run.stderr.startswith(b"hardrun: ")
    assert run.stderr.count(b"\n") == 1
