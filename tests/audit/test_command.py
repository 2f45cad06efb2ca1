"""``hardrun audit``: statuses, formats, suppressions, baselines, settings, one finding a cause."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from hardrun.cli.audit import Progression
from hardrun.cli.main import main
from tests.audit import examples, sarif

EXPIRED = "6  the suppression of host-uts expired on 2020-01-01"
BAD = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      hostPID: true
      containers:
        - name: one
          image: a:1
          securityContext:
            privileged: true
        - name: two
          image: b:1
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "good.yaml").write_text(examples.text("kubernetes"))
    return tmp_path


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["audit", *words])
    return (status, *capsys.readouterr())


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(_run(capsys, "--format", "json", *words)[1])


@pytest.mark.parametrize("words, status", [
    (["good.yaml"], 0), (["bad.yaml"], 1), (["."], 1), (["bad.yaml", "--fail-on", "never"], 0),
    (["bad.yaml", "--fail-on", "critical"], 1), (["missing.yaml"], 125), ([], 2), (["--nope"], 2),
    (["good.yaml", "--policy", "nope"], 125), (["good.yaml", "--policy", "pss-baseline@v1.0"], 125),
    (["good.yaml", "--policy", "pss-restricted@v1.35"], 0), (["good.yaml", "--policy", "all"], 0),
    (["--explain", "privileged"], 0), (["--explain", "nope"], 125), (["--explain", "KSV017"], 0),
    (["--explain", "CKV_K8S_16"], 0), (["diff", "good.yaml"], 2), (["diff", "a", "b", "c"], 2),
    (["diff", "good.yaml", "bad.yaml", "--format", "html"], 2),
    (["diff", "good.yaml", "bad.yaml", "-o", "x"], 2), (["diff", "bad.yaml", "bad.yaml"], 0),
    (["--live", "0"], 2),
    (["bad.yaml", "--policy", "docker-default"], 1),
])
def test_the_exit_status(tree: Path, capsys: pytest.CaptureFixture[str], words: list[str],
                         status: int) -> None:
    assert _run(capsys, *words)[0] == status


def test_absence_alone_never_fails_by_default(tree: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "plain.yaml").write_text("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n"
                                     "    - {name: a, image: a}\n")
    (tree / "compose.yaml").write_text("services: {web: {image: a}}\n")
    assert _run(capsys, "plain.yaml", "compose.yaml", "--policy", "all")[0] == 0


def test_one_finding_for_each_cause(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "bad.yaml")["findings"]
    assert [(f["rule"], f["line"], f["workloads"]) for f in found] == [
        ("privileged", 13, ["Deployment/web one"]),
        ("host-pid", 8, ["Deployment/web one", "Deployment/web two"])]
    assert {"cap-sys-admin", "seccomp-off", "proc-unmasked"} <= set(found[0]["also"])


def test_the_text_is_sorted_and_has_no_colours_in_a_file(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _run(capsys, "bad.yaml")[1]
    assert "\x1b" not in out
    assert out.index("bad.yaml:13:13") < out.index("bad.yaml:8:7")
    assert "2 findings (1 critical, 1 high), 2 workloads, 1 file" in out


def test_names_from_files_steer_no_terminal(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "evil.yaml").write_text('apiVersion: v1\nkind: Pod\nmetadata: {name: "\\e[2Jx"}\nspec: '
                                    '{hostPID: true, containers: [{name: "<b>&\\u202e"}]}\n')
    for form in ("text", "json", "sarif", "junit", "html"):
        out = _run(capsys, "evil.yaml", "--format", form)[1]
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert "<b>&" not in _run(capsys, "evil.yaml", "--format", "html")[1]


def test_sarif_is_what_code_scanning_reads(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "broken.yaml").write_text("a: [")
    status, out, _ = _run(capsys, ".", "--format", "sarif")
    document = sarif.check(out)
    (run,) = document["runs"]
    assert status == 125
    assert not run["invocations"][0]["executionSuccessful"]
    assert [r["ruleId"] for r in run["results"]] == ["privileged", "host-pid"]
    clean = sarif.check(_run(capsys, "good.yaml", "--format", "sarif")[1])
    assert clean["runs"][0]["results"] == []
    assert len(clean["runs"][0]["tool"]["driver"]["rules"]) > 30


def test_junit_tells_what_passes_too(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ElementTree.fromstring(_run(capsys, ".", "--format", "junit")[1])
    suites = {suite.get("name"): suite for suite in root}
    bad = suites["bad.yaml Deployment/web one"]
    failed = {case.get("name") for case in bad if case.find("failure") is not None}
    assert {"privileged", "host-pid"} <= failed
    assert bad.get("failures") == str(len(failed))
    assert suites["good.yaml Pod/web web"].get("failures") == "0"


def test_html_is_one_page_that_loads_nothing(tree: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, ".", "--format", "html", "-o", "report.html")[0] == 1
    page = (tree / "report.html").read_text()
    assert "The isolation is switched off" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "src=" not in page


# -- suppressions ----------------------------------------------------------------------------------

@pytest.mark.parametrize("line, comment, counts", [
    ("privileged: true", "# hardrun:ignore privileged: it manages the node", False),
    ("privileged: true", "# hardrun:ignore privileged", True),
    ("privileged: true", "# hardrun:ignore privileged: once (until 2020-01-01)", True),
    ("privileged: true", "# hardrun:ignore privileged: for long (until 2999-01-01)", False),
    ("privileged: true", "# hardrun:ignore host-pid: another rule", True),
    ("privileged: true", "# checkov:skip=CKV_K8S_16:the node agent", False),
    ("privileged: true", "# trivy:ignore:AVD-KSV-0017", False),
    ("- name: one", "# hardrun:ignore privileged: the whole container", False),
    ("- name: two", "# hardrun:ignore privileged: another container", True),
])
def test_a_suppression_holds_for_its_line_and_what_it_encloses(
        tree: Path, capsys: pytest.CaptureFixture[str], line: str, comment: str,
        counts: bool) -> None:
    (tree / "bad.yaml").write_text(BAD.replace(line, f"{line}  {comment}"))
    document = _json(capsys, "bad.yaml")
    (finding,) = [f for f in document["findings"] if f["rule"] == "privileged"]
    assert (finding["suppressed"] is None) is counts


def test_a_comment_above_is_about_the_next_line(tree: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "bad.yaml").write_text(BAD.replace(
        "      hostPID", "      # hardrun:ignore host-pid: a debugger\n\n      hostPID"))
    document = _json(capsys, "bad.yaml")
    assert document["findings"][1]["suppressed"]["reason"] == "a debugger"


def test_annotations_of_checkov_hold_and_can_be_switched_off(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "bad.yaml").write_text(BAD.replace(
        "  name: web\n", "  name: web\n  annotations: {checkov.io/skip1: CKV_K8S_16=agent}\n", 1))
    assert _json(capsys, "bad.yaml")["summary"]["suppressed"] == 1
    assert _json(capsys, "bad.yaml", "--no-foreign-suppressions")["summary"]["suppressed"] == 0


def test_trivyignore_holds(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / ".trivyignore").write_text("# why\nAVD-KSV-0017\nKSV010 exp:2020-01-01\n")
    found = _json(capsys, ".")["findings"]
    assert [(f["rule"], f["suppressed"] is not None) for f in found] == [
        ("privileged", True), ("host-pid", False)]


def test_a_suppression_that_is_not_used_is_told(tree: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "good.yaml").write_text("# hardrun:ignore-file host-pid: not any more\n"
                                    + examples.text("kubernetes"))
    assert "suppresses nothing: host-pid" in _run(capsys, "good.yaml")[1]
    assert _run(capsys, "good.yaml", "--strict")[0] == 125


@pytest.mark.parametrize("paths, told", [
    (["."], ["5  suppresses nothing: host-ipc", EXPIRED]), (["bad.yaml"], [EXPIRED])])
def test_what_settings_ignore_and_is_not_there_is_told_where_all_of_it_is_audited(
        tree: Path, capsys: pytest.CaptureFixture[str], paths: list[str], told: list[str]) -> None:
    (tree / ".hardrun.yaml").write_text(
        "apiVersion: hardrun/v1\nkind: AuditSettings\nignore:\n"
        "- {rule: host-pid, reason: a debugger}\n- {rule: host-ipc, reason: a debugger}\n"
        "- {rule: host-uts, reason: a debugger, until: '2020-01-01'}\n")
    document = _json(capsys, *paths)
    assert sorted(f"{p['line']}  {p['message']}" for p in document["problems"]) == told
    assert document["summary"]["suppressed"] == 1


def test_what_is_suppressed_is_counted_and_listed(tree: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "bad.yaml").write_text(f"# hardrun:ignore-file privileged,host-pid: known\n{BAD}")
    status, out, _ = _run(capsys, "bad.yaml")
    assert status == 0
    assert "0 findings" in out
    assert "2 suppressed" in out
    assert "suppressed: known (bad.yaml:1)" in _run(capsys, "bad.yaml", "--show-suppressed")[1]


# -- baselines and settings ------------------------------------------------------------------------

def test_only_what_is_not_in_the_baseline_fails(tree: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "bad.yaml", "--write-baseline", "b.json")[0] == 0
    (tree / "bad.yaml").write_text(f"# one line more\n{BAD}")
    assert _run(capsys, "bad.yaml", "--baseline", "b.json")[0] == 0
    (tree / "bad.yaml").write_text(BAD.replace("hostPID: true", "hostIPC: true"))
    status, out, _ = _run(capsys, "bad.yaml", "--baseline", "b.json", "--format", "sarif")
    assert status == 1
    assert [r["baselineState"] for r in json.loads(out)["runs"][0]["results"]] == [
        "new", "unchanged"]  # what counts is told first
    assert len(_json(capsys, "bad.yaml", "--baseline", "b.json")["absent"]) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "x", "findings": {}}', "\xff"])
def test_a_file_that_is_no_baseline_is_refused(tree: Path, capsys: pytest.CaptureFixture[str],
                                               content: str) -> None:
    (tree / "b.json").write_text(content)
    status, _, err = _run(capsys, "bad.yaml", "--baseline", "b.json")
    assert status == 125
    assert "no baseline of hardrun's" in err


def test_settings_of_the_repository_and_the_organisation(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "apiVersion: hardrun/v1\nkind: AuditSettings\n"
    (tree / ".hardrun.yaml").write_text(
        head + "severities: {privileged: low}\nignore:\n"
        "  - {rule: host-pid, reason: a debugger, until: '2999-01-01'}\n")
    status, out, _ = _run(capsys, "bad.yaml")
    assert status == 0
    assert "1 finding (1 low)" in out
    (tree / "org.yaml").write_text(head + "policy: [pss-restricted]\nfail_on: low\n")
    assert _run(capsys, "bad.yaml", "--config", "org.yaml")[0] == 1
    (tree / ".hardrun.yaml").write_text(head + "policy: [cis]\nfail_on: never\n")
    status, out, _ = _run(capsys, "bad.yaml", "--config", "org.yaml")
    assert status == 1  # a repository can't lower the bar that it is held to
    assert "rules: pss-restricted, cis;" in out
    (tree / ".hardrun.yaml").write_text(head + "polcy: [all]\n")
    status, _, err = _run(capsys, "bad.yaml")
    assert status == 125
    assert ".hardrun.yaml: polcy: Extra inputs" in err


def test_a_template_is_one_line_and_fails_only_when_strict(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "t.yaml").write_text("a: {{ .Values.a }}: [\n")
    status, out, _ = _run(capsys, "good.yaml", "t.yaml")
    assert status == 0
    assert "a template that is not rendered" in out
    assert _run(capsys, "good.yaml", "t.yaml", "--strict")[0] == 125


def test_what_an_engine_tells_is_audited(tree: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    told = tree / "told.json"
    told.write_text(examples.text("inspect", {"HostConfig": {"Privileged": True}}))
    engine = tree / "bin" / "docker"
    engine.parent.mkdir()
    engine.write_text(f'#!/bin/sh\n[ "$1" = ps ] && echo 0123456789ab || cat {told}\n')
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{engine.parent}:/usr/bin:/bin")
    status, out, _ = _run(capsys, "--docker")
    assert status == 1
    assert "<docker>:" in out
    # one of those that were listed is gone when it is asked for
    gone = tree / "gone"
    engine.write_text(f"#!/bin/sh\ncase $1 in ps) [ -e {gone} ] || echo a; echo b;;\n"
                      f"inspect) [ $# = 2 ] || {{ touch {gone}; exit 1; }}; cat {told};; esac\n")
    assert _run(capsys, "--docker")[0] == 1
    engine.write_text("#!/bin/sh\necho no daemon >&2; exit 1\n")
    status, _, err = _run(capsys, "--docker")
    assert (status, err) == (125, "hardrun: --docker: no daemon\n")
    engine.unlink()
    monkeypatch.setenv("PATH", str(engine.parent))
    assert "docker is not installed" in _run(capsys, "--docker")[2]


@pytest.mark.parametrize("terminal, after, shown", [
    (True, 0.0, True), (True, 3600.0, False), (False, 0.0, False)])
def test_a_bar_on_a_terminal_where_it_takes_long_and_nothing_on_a_pipe(
        monkeypatch: pytest.MonkeyPatch, terminal: bool, after: float, shown: bool) -> None:
    reading, writing = os.openpty() if terminal else os.pipe()
    monkeypatch.setenv("TERM", "xterm")
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        bar = Progression(after)
        for number in (1, 2, 3):
            bar(number, 3)
        bar.close()
        stream.write("end")
        stream.flush()
        said = ""
        while not said.endswith("end"):  # a terminal hands over what has arrived so far
            said += os.read(reading, 65536).decode()
    os.close(reading)
    assert ("3/3" in said, said.endswith("end")) == (shown, True)
    assert shown or said == "end"
