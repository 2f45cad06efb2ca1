"""SARIF: every kind of report, by the published schema and by what code scanning takes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardrun.audit import judge
from hardrun.audit.report import Report, data
from hardrun.audit.rules import catalogue
from hardrun.cli.main import main
from tests.audit import examples, sarif

Run = Callable[..., tuple[Any, str]]
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  hostPID: true  # hardrun:ignore host-pid: watches the node
  hostIPC: true
  containers:
    - {name: web, image: a, securityContext: {privileged: true}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def audited(*words: str, by_schema: bool = True) -> tuple[Any, str]:
        main(["audit", "--format", "sarif", *words])
        out, err = capsys.readouterr()
        return sarif.check(out, by_schema=by_schema), err
    return audited


def _results(document: Any) -> list[Any]:
    (one,) = document["runs"]
    return list(one["results"])


def test_the_schema_refuses_what_is_wrong(run: Run) -> None:
    Path("pod.yaml").write_text(POD)
    document, _ = run("pod.yaml")
    result = _results(document)[0]
    for path, value in ((("level",), "fatal"), (("locations", 0, "physicalLocation",
                        "artifactLocation", "uri"), "a b"), (("more",), 1), (("message",), {}),
                        (("suppressions",), [{"kind": "mine"}])):
        broken = json.loads(json.dumps(result))
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        bad = {**document, "runs": [{**document["runs"][0], "results": [broken]}]}
        assert len(sarif.mistakes(bad)) == 1, path


def test_every_example_of_every_source(run: Run) -> None:
    for source in examples.NAMES:
        for name, patch in examples.failing(source).items():
            path = Path(source, name, examples.NAMES[source])
            path.parent.mkdir(parents=True)
            path.write_text(examples.text(source, patch))
    document, _ = run(".", "--policy", "all")
    told = {result["ruleId"] for result in _results(document)}
    occurring = {name for source in examples.NAMES for name in examples.failing(source)}
    assert told == occurring
    assert {rule["id"] for rule in document["runs"][0]["tool"]["driver"]["rules"]} == {
        rule.id for rule in catalogue()}


def test_what_is_suppressed_and_what_was_there_before(run: Run) -> None:
    Path("pod.yaml").write_text(POD)
    Path(".hardrun.yaml").write_text(
        "apiVersion: hardrun/v1\nkind: AuditSettings\n"
        "ignore: [{rule: host-ipc, reason: a debugger}]\n")
    run_document, _ = run("pod.yaml")
    kinds = {r["ruleId"]: [s["kind"] for s in r["suppressions"]] for r in _results(run_document)}
    assert kinds == {"privileged": [], "host-pid": ["inSource"], "host-ipc": ["external"]}
    assert main(["audit", "pod.yaml", "--write-baseline", "b.json"]) == 0
    Path("pod.yaml").write_text(POD.replace("hostIPC", "hostNetwork"))
    later, _ = run("pod.yaml", "--baseline", "b.json")
    assert {r["ruleId"]: r["baselineState"] for r in _results(later)} == {
        "privileged": "unchanged", "host-network": "new", "host-pid": "new"}


def test_what_can_not_be_audited_is_told(run: Run) -> None:
    odd = os.fsdecode(b"caf\xe9 \xc3\xa9 %41 [x](1).yaml")
    for name, content in (("bad.yaml", b"a: ["), ("binary.yaml", b"\x7fELF\0\0"),
                          ("latin.yaml", b"kind: \xff\xfe\n"), ("t.yaml", b"a: {{ .Values }}: ["),
                          ("none.yaml", b"# hardrun:ignore-file host-pid: no more\n"
                           + POD.encode()), (odd, POD.encode())):
        Path(name).write_bytes(content)
    document, _ = run(".")
    (invocation,) = document["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    assert len(invocation["toolExecutionNotifications"]) >= 4
    uris = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            for result in _results(document)}
    assert uris == {"none.yaml", "caf%E9%20%C3%A9%20%2541%20%5Bx%5D%281%29.yaml"}


def test_processes_and_policies(run: Run) -> None:
    result = _results(run("--live", str(os.getpid()))[0])[0]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("/proc")
    Path("pod.yaml").write_text(POD)
    document, _ = run("pod.yaml", "--policy", "untrusted")
    assert "untrusted:namespaces.shared" in {r["ruleId"] for r in _results(document)}


def test_no_name_in_a_file_becomes_a_link(run: Run) -> None:
    Path("run.sh").write_text("docker run -v '/etc/ssh/[here](https://evil.example)\\:/x' a:1\n")
    (result,) = _results(run("run.sh")[0])
    assert "\\[here\\](https" in result["message"]["text"]
    assert "[here]" not in result["message"]["text"].replace("\\[here\\]", "")


def _many(number: int) -> Report:
    """A report of so many findings, the last third of them suppressed ones of the worst kind."""
    (subject,) = examples.subjects(POD.replace("  # hardrun:ignore host-pid: watches the node", ""),
                                   "pod.yaml")
    rules = catalogue()
    found = judge.causes(judge.judge([subject], rules).findings)
    held = replace(found[0], known=True)
    one = found[-1]
    those = [held] * (number // 3) + [one] * (number - number // 3)
    findings = [replace(f, place=replace(f.place, line=line, field=f"containers[{line}].image"))
                for line, f in enumerate(those, 1)]
    return Report(rules=rules, asked=("all",), subjects=(subject,), findings=tuple(findings),
                  unknown=(), problems=(), scores={}, files=1)


@pytest.mark.parametrize("number, told, note", [
    (5_000, 5_000, ""), (5_001, 5_001, "5001 findings; code scanning shows the worst 5000 of them"),
    (30_000, 25_000,
     "30000 findings, the worst 25000 are told; code scanning shows 5000 of them"),
])
def test_what_is_beyond_the_limits_is_left_out_and_said(number: int, told: int, note: str) -> None:
    report = _many(number)
    document = sarif.check(data.as_sarif(report), by_schema=False)
    results = _results(document)
    assert len(results) == told
    counting = number - number // 3
    assert {r["level"] for r in results[:counting]} == {"note"}  # what doesn't count is told last
    (invocation,) = document["runs"][0]["invocations"]
    said = [n["message"]["text"] for n in invocation["toolExecutionNotifications"]]
    assert said == ([note] if note else [])


def test_a_report_that_is_cut_is_sarif_and_says_so_on_standard_error(
        run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAXIMUM_RESULTS", 1)
    monkeypatch.setattr(data, "SHOWN_RESULTS", 1)
    Path("pod.yaml").write_text(POD)
    document, err = run("pod.yaml")
    assert [r["ruleId"] for r in _results(document)] == ["privileged"]
    assert err == "3 findings, the worst 1 are told; code scanning shows 1 of them\n"
