"""Projects of Compose: files that are merged, extended, included; variables; nothing outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardrun.audit.model import Subject
from hardrun.audit.read.project import filled
from hardrun.audit.walk import Batch, read_paths
from hardrun.cli.main import main

BASE = """\
services:
  web:
    image: "web:1"
    privileged: true
    cap_add: [NET_ADMIN]
    environment: {MODE: a, API_TOKEN: "abcdefgh"}
    volumes: ["/etc:/host", "/srv:/srv"]
  db:
    image: "db:1"
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    top = tmp_path / "top"
    top.mkdir()
    monkeypatch.chdir(top)
    return top


def _write(top: Path, **files: str) -> None:
    for name, text in files.items():
        path = top / name.replace("__", ".").replace("_S_", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _by_name(batch: Batch) -> dict[str, Subject]:
    assert not batch.problems
    found = {subject.name: subject for subject in batch.subjects}
    assert len(found) == len(batch.subjects)
    return found


OVERRIDE = """\
services:
  web:
    privileged: false
    pid: host
    cap_add: !override [SYS_TIME]
    environment: ["API_TOKEN="]
    volumes: ["./data:/host"]
  db: {user: "7"}
"""


@pytest.mark.parametrize("paths", [["."], ["compose.yaml"], ["compose.override.yml"],
                                   ["compose.yaml", "compose.override.yml"],
                                   ["compose.yaml:compose.override.yml"]])
def test_a_file_and_its_override_are_one(tree: Path, paths: list[str]) -> None:
    _write(tree, compose__yaml=BASE, compose__override__yml=OVERRIDE)
    found = _by_name(read_paths(paths))
    web = found["web"]
    assert web.values["privileged"].value is False
    assert web.values["pid_namespace"].place.file == "compose.override.yml"
    assert web.values["capabilities_added"].value == {"CAP_SYS_TIME"}
    assert web.values["literal_secrets"].value == frozenset()
    assert web.values["filesystem.writable"].value == {"$workdir/data", "/srv"}
    assert found["db"].values["ids.user"].value == "self"


def test_what_a_file_takes_back_is_not_there(tree: Path) -> None:
    _write(tree, compose__yaml=BASE, compose__override__yaml="""\
services:
  web: {privileged: !reset null, volumes: !reset [], environment: !reset {}}
  db: !reset null
""")
    (web,) = _by_name(read_paths(["."])).values()
    assert web.values["privileged"].value is False
    assert not web.values["filesystem.writable"].value | web.values["literal_secrets"].value


def test_a_fragment_is_laid_over_the_file_that_it_belongs_to(tree: Path) -> None:
    (tree / "docker-compose.yml").write_text(BASE)
    (tree / "docker-compose.prod.yml").write_text("services: {web: {read_only: true}}\n")
    (tree / "docker-compose-dev.yml").write_text("services: {web: {image: 'dev:1'}}\n")
    batch = read_paths(["."])
    files = {(s.place.file, s.name): s for s in batch.subjects}
    assert files.keys() == {("docker-compose.yml", "web"), ("docker-compose.yml", "db"),
                            ("docker-compose.prod.yml", "web"), ("docker-compose-dev.yml", "web")}
    prod = files["docker-compose.prod.yml", "web"]
    assert prod.values["filesystem.read_only_root"].value is True
    assert prod.values["privileged"].place.file == "docker-compose.yml"
    assert files["docker-compose-dev.yml", "web"].values["privileged"].value is False


def test_a_fragment_without_its_file_says_only_what_it_says(tree: Path) -> None:
    _write(tree, compose__prod__yaml="services: {web: {pid: host}}\n")
    (web,) = read_paths(["."]).subjects
    assert web.values["pid_namespace"].value == "host"
    assert web.unknown["no_new_privs"] == "it has no image: another file has the rest of it"


def test_a_service_of_another_file_is_followed_and_told_where_it_stands(
        tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tree, lib_S_common__yaml="""\
services:
  # hardrun:ignore host-pid: it watches the node
  base: {extends: {file: ../root.yaml, service: root}, pid: host}
""", root__yaml="services: {root: {image: 'r:1', ipc: host}}\n",
           app_S_compose__yaml="""\
services:
  web: {extends: {file: ../lib/common.yaml, service: base}, privileged: true}
""")
    main(["audit", "app/compose.yaml", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    told = {f["rule"]: (f["file"], f["line"], f["suppressed"] is not None)
            for f in document["findings"]}
    assert told["privileged"] == ("app/compose.yaml", 2, False)
    assert told["host-pid"] == ("lib/common.yaml", 3, True)
    assert told["host-ipc"] == ("root.yaml", 1, False)
    (workload,) = document["workloads"]
    assert (workload["file"], workload["exposure"] > 9) == ("app/compose.yaml", True)


@pytest.mark.parametrize("name, reason", [
    ("../outside.yaml", "outside of what is audited"), ("link.yaml", "outside of what is audited"),
    ("/etc/hostname", "outside of what is audited"), ("gone.yaml", "no such file or directory"),
    ("https://x.example/c.yaml", "not read"), ("empty.yaml", "empty"), (".", "no regular file"),
    ("bad.yaml", "not YAML: did not find expected ',' or ']', line 2"),
])
def test_nothing_outside_is_read_and_what_is_not_read_is_said(tree: Path, name: str,
                                                              reason: str) -> None:
    (tree.parent / "outside.yaml").write_text("services: {base: {image: a, privileged: true}}\n")
    (tree / "link.yaml").symlink_to("../outside.yaml")
    _write(tree, empty__yaml="", bad__yaml="a: [1\nb: 2\n", compose__yaml=f"""\
services:
  web: {{image: a, extends: {{file: "{name}", service: base}}}}
include: ["{name}"]
""")
    batch = read_paths(["compose.yaml"])
    (web,) = batch.subjects
    assert web.unknown["privileged"] == f"it extends a service of {name}, {reason}"
    (problem,) = batch.problems
    assert problem.message == f"includes {name}: {reason}"
    assert problem.template is ("://" in name)


def test_files_that_name_each_other_end(tree: Path) -> None:
    _write(tree, compose__yaml="""\
include: [other.yaml, {path: [other.yaml, compose.yaml]}]
services:
  a: {extends: {service: b}}
  b: {extends: {file: other.yaml, service: c}}
""", other__yaml="""\
include: [compose.yaml]
services:
  c: {image: x, extends: {file: compose.yaml, service: a}}
""")
    batch = read_paths(["."])
    assert {s.name for s in batch.subjects} == {"a", "b", "c"}
    assert all(s.unknown["privileged"] == "it extends more services than can be followed"
               for s in batch.subjects if s.place.file == "compose.yaml")


def test_what_is_included_is_audited_once(tree: Path) -> None:
    _write(tree, compose__yaml="include: [infra/db.yaml]\nservices: {web: {image: a}}\n",
           infra_S_db__yaml="services: {db: {image: d}}\n")
    for paths in (["compose.yaml"], ["."], [".", "infra/db.yaml"]):
        assert sorted(_by_name(read_paths(paths))) == ["db", "web"]


def test_a_chain_of_a_thousand_files_is_no_recursion(tree: Path) -> None:
    for number in range(1500):
        (tree / f"{number}.yaml").write_text(
            f"include: [{number + 1}.yaml]\nservices: {{s{number}: {{image: a}}}}\n")
    assert len(read_paths(["0.yaml"]).subjects) == 1500


def test_services_of_every_profile_are_audited(tree: Path) -> None:
    _write(tree, compose__yaml="services:\n  a: {image: a}\n"
                               "  debug: {image: b, profiles: [debug], privileged: true}\n")
    assert _by_name(read_paths(["."]))["debug"].values["privileged"].value is True


def test_a_env_file_fills_in_and_makes_no_secret(tree: Path) -> None:
    _write(tree, __env="""\
# versions
TAG=latest
export DATA="/etc"  # where
TOKEN=abcdefghijk
LOOP=$TAG
""", compose__yaml="""\
services:
  web:
    image: "web:${TAG:-1}"
    volumes: ["${DATA}:/d", "${LOOP}:/l"]
    environment: {API_TOKEN: "${TOKEN}", OTHER_TOKEN: "${NONE:-written-out}"}
""")
    (web,) = read_paths(["."]).subjects
    assert web.values["image_reference"].value == "latest"
    assert web.values["filesystem.writable"].value == {"/etc", "${LOOP}"}
    assert web.values["literal_secrets"].value == {"OTHER_TOKEN"}


@pytest.mark.parametrize("text, result", [
    ("$A ${A} $$A $${A}", "1 1 $$A $${A}"), ("${A:+x}${B:+x}", "x${B:+x}"), ("${B:-$A}", "1"),
    ("${C:-${B:-2}}", "2"), ("${E:-3} ${E-3}", "3 "), ("${B:?no}", "${B:?no}"), ("$", "$"),
    ("${A" * 50_000, "${A" * 50_000),
])
def test_interpolation(text: str, result: str) -> None:
    assert filled(text, {"A": "1", "E": ""}) == result


def test_a_volume_that_binds_a_path_by_its_driver_is_one_of_the_host(tree: Path) -> None:
    _write(tree, compose__yaml="""\
services: {web: {image: a, volumes: ["docker:/run"]}}
volumes: {docker: {driver_opts: {type: none, o: "bind,rw", device: /var/run}}}
""")
    (web,) = read_paths(["."]).subjects
    assert web.values["filesystem.writable"].value == {"/run"}


def test_files_that_are_named_together_need_all_be_there(tree: Path) -> None:
    _write(tree, a__yaml=BASE, b__yaml=OVERRIDE)
    assert _by_name(read_paths(["a.yaml:b.yaml"]))["web"].values["privileged"].value is False
    (problem,) = read_paths(["a.yaml:c.yaml"]).problems
    assert str(problem.place) == "c.yaml:1:1"
