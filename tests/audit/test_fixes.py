"""Fixes change what they must and nothing else; versions compared; what policies allow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardrun.audit import compare, score
from hardrun.audit.judge import causes, judge
from hardrun.audit.rules import catalogue, of_policy
from hardrun.cli.main import main
from hardrun.data import data_directory
from hardrun.policy.load import load_policies
from tests.audit import examples

MANIFEST = """\
# a comment at the top
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}   # on one line
spec:
  template:
    spec:
      containers:
        # the web server
        - name: nginx        # pinned below
          image: 'nginx:1'
          securityContext:
            # why it is privileged
            privileged: true   # really
            capabilities:
              drop:
                - NET_RAW    # not needed
        - name: side
          image: "side:1"
          securityContext: {capabilities: {add: [NET_BIND_SERVICE], drop: [CHOWN]}}
        - name: third

          # the image
          image: third:1
---
apiVersion: v1
kind: Service
metadata: {name: web}
"""
COMPOSE = """\
services:
  web:
    image: "web:1"   # quoted
    privileged: true
    cap_drop:
      - NET_RAW
    security_opt: [label=type:x_t]
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.yaml").write_text(MANIFEST)
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    return tmp_path


def _found(capsys: pytest.CaptureFixture[str], path: str, policy: str) -> set[str]:
    capsys.readouterr()
    main(["audit", path, "--policy", policy, "--format", "json"])
    return {f["rule"] for f in json.loads(capsys.readouterr().out)["findings"]}


def test_a_fix_makes_findings_go_away_and_keeps_every_other_line(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _found(capsys, "web.yaml", "pss-restricted")
    assert {"privileged", "seccomp-unset", "new-privileges", "may-run-as-root"} <= before
    assert main(["audit", "web.yaml", "--policy", "pss-restricted", "--unsafe-fixes"]) == 0
    assert _found(capsys, "web.yaml", "pss-restricted") == set()
    old, new = MANIFEST.split("\n"), (tree / "web.yaml").read_text().split("\n")
    changed = {"            privileged: true   # really", "          securityContext: "
               "{capabilities: {add: [NET_BIND_SERVICE], drop: [CHOWN]}}"}
    assert [line for line in old if line not in new] == [line for line in old if line in changed]
    assert "            privileged: false   # really" in new
    first = new.index("                - ALL")
    assert new[first + 1] == "                - NET_RAW    # not needed"


def test_a_second_fix_finds_nothing_to_do(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("web.yaml", "compose.yaml"):
        main(["audit", path, "--policy", "all", "--unsafe-fixes"])
        once = (tree / path).read_text()
        main(["audit", path, "--policy", "all", "--unsafe-fixes"])
        assert (tree / path).read_text() == once


def test_without_unsafe_only_what_can_break_nothing_is_changed(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", "web.yaml", "--policy", "all", "--fix"])
    text = (tree / "web.yaml").read_text()
    assert text.count("type: RuntimeDefault") == 2  # what is privileged has no filter all the same
    assert "privileged: true" in text
    assert "readOnlyRootFilesystem" not in text


def test_nothing_is_mended_through_a_symlink(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A repository could have a manifest of the user's, elsewhere, rewritten."""
    before = (tree / "web.yaml").read_bytes()
    (tree / "sub").mkdir()
    (tree / "sub" / "link.yaml").symlink_to("../web.yaml")
    for path in ("sub", "sub/link.yaml"):
        main(["audit", path, "--policy", "all", "--unsafe-fixes"])
    assert "a symlink, not mended" in capsys.readouterr().err
    assert (tree / "web.yaml").read_bytes() == before
    (tree / "page.html").symlink_to("web.yaml")
    assert main(["audit", "compose.yaml", "--fail-on", "never", "-o", "page.html"]) == 125
    assert main(["audit", "web.yaml", "--write-baseline", "page.html"]) == 125
    assert (tree / "web.yaml").read_bytes() == before


def test_a_compose_file_is_fixed(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", "compose.yaml", "--policy", "all", "--unsafe-fixes"])
    text = (tree / "compose.yaml").read_text()
    for line in ('    image: "web:1"   # quoted', "    privileged: false", "      - ALL",
                 "    read_only: true",
                 "    security_opt: [label=type:x_t, no-new-privileges:true]"):
        assert line in text.split("\n")
    assert not {"privileged", "cap-not-dropped", "new-privileges", "writable-root"} & _found(
        capsys, "compose.yaml", "all")


def test_a_patch_is_shown_and_nothing_written(tree: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", "web.yaml", "--unsafe-fixes", "--diff"])
    out = capsys.readouterr().out
    assert "-            privileged: true   # really" in out
    assert out.startswith("--- a/web.yaml\n+++ b/web.yaml\n@@")
    assert (tree / "web.yaml").read_text() == MANIFEST


RUN = """\
#!/bin/sh
docker run -d --privileged --name one one:1 # hello
podman container create \\
    -v /srv:/srv two:1 --privileged
"""
SERVICE = """\
[Unit]
Description=web

[Service]
# why
NoNewPrivileges=no
ExecStart=/usr/bin/web
"""
DOCKERFILE = """\
FROM golang:1 AS build
USER root
CMD x

FROM debian:12
COPY --from=build /x /x
# it listens
EXPOSE 80
CMD ["/x"]
"""


@pytest.mark.parametrize("name, old, lines", [
    ("run.sh", RUN, {
        "docker run --read-only --cap-drop ALL --security-opt no-new-privileges -d --name one one:1"
        " # hello": "docker run -d --privileged --name one one:1 # hello",
        "podman container create --cap-drop ALL --read-only --security-opt no-new-privileges \\":
        "podman container create \\"}),
    ("web.service", SERVICE, {
        "NoNewPrivileges=yes": "NoNewPrivileges=no", "ProtectSystem=strict": "",
        "CapabilityBoundingSet=": ""}),
    ("Dockerfile", DOCKERFILE, {"USER 65532:65532": ""}),
    ("Dockerfile", f"{DOCKERFILE}USER 0", {"USER 65532:65532": "USER 0"}),
])
def test_what_has_a_line_for_each_setting_is_fixed_and_the_rest_stays(
        tree: Path, capsys: pytest.CaptureFixture[str], name: str, old: str,
        lines: dict[str, str]) -> None:
    (tree / name).write_text(old)
    before = _found(capsys, name, "all")
    assert main(["audit", name, "--policy", "all", "--unsafe-fixes"]) == 0
    out = capsys.readouterr().out
    new = (tree / name).read_text().split("\n")
    added = [line for line in new if line not in old.split("\n")]
    gone = [line for line in old.split("\n") if line not in new]
    assert sorted(added) == sorted(lines)
    assert sorted(gone) == sorted(filter(None, lines.values()))
    after = _found(capsys, name, "all")
    assert after < before
    for rule in after:  # and of what is left it is said what to do
        assert f"  {rule}  " in out


@pytest.mark.parametrize("name, text, status", [
    ("run.sh", "docker run --read-only=false $OPTIONS x:1\n", 0),
    ("Dockerfile", "FROM a:1\nCOPY id_rsa /k\n", 1), ("web.service", "[Service]\nExecStart=a", 0),
])
def test_what_is_not_mended_is_said_and_decides_the_exit(
        tree: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, status: int) -> None:
    (tree / name).write_text(text)
    assert main(["audit", name, "--policy", "all", "--fix"]) == status
    out = capsys.readouterr().out
    assert out.startswith("0 findings mended in 0 files, ")
    assert (tree / name).read_text() == text


def test_what_could_not_be_audited_is_told_beside_fixes(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "run.sh").write_text("docker run --privileged x:1\n")
    (tree / "bad.yaml").write_text("a: [")
    assert main(["audit", "run.sh", "bad.yaml", "--unsafe-fixes"]) == 125
    out = capsys.readouterr().out
    assert out.startswith("1 finding mended in 1 file, 0 left\n")
    assert "bad.yaml:2:1  not YAML" in out


def test_no_fix_is_promised_where_none_can_be(
        tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "config.json").write_text(examples.text("oci", {"process": {"noNewPrivileges": False}}))
    assert main(["audit", "config.json", "--policy", "all", "--fix"]) == 0
    assert "--unsafe-fixes may" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [
    ["--diff"], ["--fix", "--format", "json"], ["--fix", "-o", "x"],
    ["--unsafe-fixes", "--write-baseline", "x"]])
def test_options_that_mean_nothing_together_are_refused(
        tree: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    (tree / "run.sh").write_text("docker run --privileged x:1\n")
    assert main(["audit", "run.sh", *words]) == 2
    assert "fix" in capsys.readouterr().err
    assert not (tree / "x").exists()


def test_an_edit_that_does_not_help_is_taken_back(tree: Path) -> None:
    text = "docker run --user root --read-only=false --privileged=true --privileged x:1\n"
    (tree / "run.sh").write_text(text)
    main(["audit", "run.sh", "--policy", "all", "--unsafe-fixes"])
    assert "--user 65532" not in (tree / "run.sh").read_text()  # the last one counts
    assert "--read-only " not in (tree / "run.sh").read_text()


def test_what_stands_in_another_file_is_mended_there_or_in_the_workloads(tree: Path) -> None:
    (tree / "compose.yaml").write_text("services:\n  web:\n    image: a:1\n"
                                       "    extends: {file: base.yml, service: base}\n")
    (tree / "base.yml").write_text("services:\n  base:\n    privileged: true\n    image: a:1\n")
    (tree / "compose.override.yaml").write_text("services:\n  web:\n    read_only: false\n")
    main(["audit", "compose.yaml", "--policy", "all", "--unsafe-fixes"])
    assert "    privileged: false\n" in (tree / "compose.yaml").read_text()
    assert "read_only: true" in (tree / "compose.override.yaml").read_text()
    assert "privileged: true" in (tree / "base.yml").read_text()


@pytest.mark.parametrize("source", ["kubernetes", "compose", "command", "systemd", "dockerfile"])
def test_what_passes_is_not_touched(tree: Path, source: str) -> None:
    path = tree / examples.NAMES[source]  # type: ignore[index]
    path.write_text(examples.text(source))  # type: ignore[arg-type]
    before = path.read_text()
    main(["audit", str(path), "--policy", "all", "--unsafe-fixes"])
    assert path.read_text() == before


# -- versions --------------------------------------------------------------------------------------

def test_what_became_looser_and_stricter_is_told(tree: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    loose = MANIFEST.replace("privileged: true", "privileged: false")
    (tree / "new.yaml").write_text(loose.replace(
        "    spec:\n      containers", "    spec:\n      hostPID: true\n      containers"))
    assert main(["audit", "diff", "web.yaml", "new.yaml", "--format", "json"]) == 1
    changes = json.loads(capsys.readouterr().out)["changes"]
    told = {(c["subject"].split()[-1], c["control"]): c["relation"] for c in changes}
    assert told["nginx", "privileged"] == told["nginx", "capabilities"] == "stricter"
    assert told["side", "pid_namespace"] == "looser"
    assert ("side", "capabilities") not in told


def test_the_same_version_differs_in_nothing(tree: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "diff", "web.yaml", "web.yaml"]) == 0
    assert capsys.readouterr().out == "no control differs\n"


def test_workloads_that_came_and_went_are_told() -> None:
    (old,) = examples.read("kubernetes")
    (new,) = examples.read("compose")
    assert [(c.subject, c.relation) for c in compare.changes([old], [new])] == [
        ("Pod/web web", "removed"), ("web", "added")]


# -- policies --------------------------------------------------------------------------------------

def test_a_policys_bounds_are_rules_by_the_same_order() -> None:
    loaded = load_policies(["untrusted"], complete=False)
    (policy,) = [p for p in loaded.policies if p.chosen]
    rules = of_policy(policy)
    (subject,) = examples.read("kubernetes", {"container": {"volumeMounts": [
        {"name": "v", "mountPath": "/m", "readOnly": True}]}, "spec": {"volumes": [
            {"name": "v", "hostPath": {"path": "/root/.ssh"}}]}})
    failing = {f.rule.id for f in judge([subject], rules).findings}
    assert "untrusted:filesystem.readable" in failing  # any, but for the known ways out
    assert "untrusted:no_new_privs" not in failing


def test_every_policy_that_ships_can_be_judged_by() -> None:
    loaded = load_policies(complete=False)
    (subject,) = examples.read("inspect", {"HostConfig": {"Privileged": True}})
    for policy in loaded.policies:
        assert judge([subject], of_policy(policy)).findings, policy.name


@pytest.mark.parametrize("patch, wanted, refused", [
    ({}, {"judge"}, set()),
    ({"container": {"securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}}},
     {"contained", "pss-restricted"}, {"untrusted"}),
    ({"container": {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}}, set(),
     {"contained", "docker-default", "pss-baseline"}),
    ({"spec": {"hostNetwork": True}}, {"build"}, {"untrusted", "pss-baseline"}),
])
def test_the_tightest_policy_that_allows_a_workload_is_suggested(
        patch: dict[str, object], wanted: set[str], refused: set[str]) -> None:
    loaded = load_policies(complete=False)
    (subject,) = examples.read("kubernetes", patch)
    suggestion = compare.suggest(subject, loaded.policies)
    assert wanted <= set(suggestion.policies)
    assert not refused & set(suggestion.policies)
    assert {name for cost in suggestion.costs for name in cost.refused_by} >= refused


def test_the_command_line_suggests(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "suggest", "web.yaml"]) == 0
    assert "Deployment/web nginx: none that ships allows all of it" in capsys.readouterr().out
    assert main(["policy", "suggest", "missing.yaml"]) == 125


# -- scores ----------------------------------------------------------------------------------------

def _score(patch: object) -> float:
    subjects = examples.read("kubernetes", patch)
    found = causes(judge(subjects, catalogue()).findings)
    (value,) = score.scores(subjects, found).values()
    return value


def test_one_way_out_is_worse_than_many_small_things() -> None:
    nothing = _score({})
    small = _score({"container": {"resources": None, "image": "x", "securityContext": {
        "readOnlyRootFilesystem": False, "capabilities": None}}})
    out = _score({"container": {"securityContext": {"privileged": True}}})
    assert nothing == 0.0
    assert 0 < small < 5 < 9 <= out <= 10


def test_the_rules_that_ship_are_beside_the_policies() -> None:
    assert len(list((data_directory("policies") / "audit").glob("*.yaml"))) == 3


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name, text, added", [
    ("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: \u00e9}\nspec:\n  containers:\n"
                 "  - name: a\n    image: a:1\n    securityContext:\n      privileged: true\n",
     "privileged: false\n"),
    ("compose.yaml", "services:\n  a:\n    image: a:1\n    privileged: true\n",
     "cap_drop: [ALL]\n"),
    ("Dockerfile", "FROM a:1\nRUN x\nCMD [\"x\"]\n", "USER 65532:65532\n"),
    ("web.service", "[Service]\nExecStart=/x\n", "NoNewPrivileges=yes\n"),
    ("run.sh", "docker run a:1\n", "--cap-drop ALL"),
])
def test_the_mark_and_the_ends_of_lines_stay(tree: Path, name: str, text: str, added: str, end: str,
                                             mark: str) -> None:
    before = mark + text.replace("\n", end)
    (tree / name).write_bytes(before.encode())
    main(["audit", name, "--policy", "pss-restricted", "--unsafe-fixes"])
    after = (tree / name).read_bytes().decode()
    assert added.replace("\n", end) in after
    assert after.startswith(mark + before[len(mark):len(mark) + 4])
    assert after.count("\n") == after.count(end)
