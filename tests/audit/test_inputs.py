"""What can't be audited is told, the rest still is; nothing hangs, loops or is followed outside."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from hardrun.audit import settings, walk
from hardrun.audit.walk import Batch, read_paths
from hardrun.errors import PolicyError
from tests.audit import examples

POD = examples.text("kubernetes")


def _read(tmp_path: Path, **files: bytes | str) -> Batch:
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name.replace("__", ".")).write_bytes(data)
    return read_paths([str(tmp_path)])


@pytest.mark.parametrize("content, message, place", [
    ("a: [1, 2\nb: 3\n", "not YAML: did not find expected ',' or ']'", (2, 2)),
    ("a:\n\t- b\n", "not YAML: found character that cannot start any token", (2, 1)),
    (b"kind: \xff\xfe\n", "neither UTF-8 nor UTF-16 text", (1, 1)),
    (b"\x7fELF\x00\x00", "binary, not audited", (1, 1)),
    ("[" * 5000, "nested too deeply", (1, 1)),
    ("kind: &a [*a]\n---\n" + "a:\n" + "".join(
        " " * n + "b:\n" for n in range(1, 600)), "nested too deeply", (1, 1)),
    ("apiVersion: v1\nkind: {{ .Values.kind }}\nspec: {{- toYaml . }}\n",
     "a template that is not rendered", (3, 9)),
])
def test_a_bad_file_is_told_with_its_place_and_the_rest_audited(
        tmp_path: Path, content: bytes | str, message: str, place: tuple[int, int]) -> None:
    batch = _read(tmp_path, bad__yaml=content, good__yaml=POD)
    (problem,) = batch.problems
    assert problem.message.startswith(message)
    assert (problem.place.line, problem.place.column) == place
    assert len(batch.subjects) == 1


def test_ten_lines_that_stand_for_a_billion_values_cost_ten_lines(tmp_path: Path) -> None:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    batch = _read(tmp_path, laughs__yaml=f"{laughs}apiVersion: v1\nkind: Pod\nspec:\n"
                                         "  containers: *i\n  volumes: *i\n")
    assert not batch.problems
    assert len(batch.subjects) <= 9


def test_a_mapping_that_merges_itself_ends(tmp_path: Path) -> None:
    batch = _read(tmp_path, x__yaml="apiVersion: v1\nkind: Pod\nspec: &s\n  <<: *s\n"
                                    "  hostPID: true\n  containers: [{name: a, image: a}]\n")
    assert [s.values["pid_namespace"].value for s in batch.subjects] in (["host"], [])


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    pod = b"apiVersion: v1\nkind: Pod\nmetadata: {name: one}\nspec: {containers: [{name: a}]}\n#"
    for name, size in (("fits", 8 << 20), ("big", (8 << 20) + 1)):
        (tmp_path / f"{name}.yaml").write_bytes(pod + b"x" * (size - len(pod)))
    found = read_paths([str(tmp_path)])
    (problem,) = found.problems
    assert problem.message == "larger than 8 MiB, not audited"
    assert len(found.subjects) == 1


def test_links_to_directories_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "loop").symlink_to("..")
    (tmp_path / "sub" / "pod.yaml").write_text(POD)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    batch = read_paths([str(tmp_path)])
    assert len(batch.subjects) == 1
    assert sorted(p.message for p in batch.problems) == [
        "can't be read: No such file or directory", "neither a regular file nor a directory"]


def test_a_link_that_leads_out_of_the_directory_is_told_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text(POD)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pod.yaml").write_text(POD)
    (tree / "inside.yaml").symlink_to("pod.yaml")
    (tree / "out.yaml").symlink_to("../outside.yaml")
    batch = read_paths([str(tree)])
    assert len(batch.subjects) == 2
    assert [(Path(p.place.file).name, p.message) for p in batch.problems] == [
        ("out.yaml", "a symlink that leads out of the directory, not audited")]
    outside.write_text("secret: [")
    (tree / settings.NAME).symlink_to("../outside.yaml")
    with pytest.raises(PolicyError, match="leads out") as refused:
        settings.find([str(tree)])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("value", ["9" * 6000, "2001-99-99", "!!python/name:os.system", "[" * 5000])
def test_settings_that_are_no_values_are_a_mistake_of_the_file(tmp_path: Path, value: str) -> None:
    (tmp_path / settings.NAME).write_text(f"fail_on: {value}\n")
    with pytest.raises(PolicyError, match="not YAML"):
        settings.find([str(tmp_path)])


@pytest.mark.parametrize("name", [".gitignore", ".trivyignore"])
def test_a_pipe_in_the_place_of_an_ignore_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "pod.yaml").write_text(POD)
    assert len(read_paths([str(tmp_path)]).subjects) == 1
    assert walk.ignore_notes([str(tmp_path)]) == []


def test_unreadable_files_and_directories_are_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "secret.yaml").write_text(POD)
    (tmp_path / "secret.yaml").chmod(0)
    (tmp_path / "closed").mkdir(0)
    messages = [p.message for p in read_paths([str(tmp_path)]).problems]
    assert messages == ["can't be read: Permission denied"] * 2


def test_what_gitignore_and_exclude_name_is_left_out(tmp_path: Path) -> None:
    for name in ("a.yaml", "build/b.yaml", "keep/build.yaml", "doc/c.yaml", "doc/d/c.yaml",
                 "node_modules/e.yaml", "x.tmp.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(POD)
    (tmp_path / ".gitignore").write_text("build/\n*.tmp.yaml\n/doc/*\n!/doc/d\n# a.yaml\n")
    files = {s.place.file for s in read_paths([str(tmp_path)]).subjects}
    assert {str(Path(f).relative_to(tmp_path)) for f in files} == {
        "a.yaml", "keep/build.yaml", "doc/d/c.yaml"}
    left = read_paths([str(tmp_path)], exclude=["keep/", "doc/**/c.yaml"]).subjects
    assert [Path(s.place.file).name for s in left] == ["a.yaml"]


def test_several_documents_and_lists_in_one_file(tmp_path: Path) -> None:
    pods = "\n---\n".join([POD, "", "# nothing", '{"kind": "Service", "apiVersion": "v1"}'])
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [examples.POD] * 2})
    batch = _read(tmp_path, a__yaml=pods, b__json=listed)
    assert len(batch.subjects) == 3


@pytest.mark.parametrize("kind, path", [
    ("Deployment", "spec.template"), ("StatefulSet", "spec.template"), ("Job", "spec.template"),
    ("DaemonSet", "spec.template"), ("ReplicaSet", "spec.template"),
    ("CronJob", "spec.jobTemplate.spec.template"), ("PodTemplate", "template"),
    ("Rollout", "spec.template"),
])
def test_every_kind_with_a_template_is_read(kind: str, path: str) -> None:
    inner: object = {"spec": examples.POD["spec"]}
    for name in reversed(path.split(".")):
        inner = {name: inner}
    assert isinstance(inner, dict)
    document = {"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "n"}, **inner}
    (subject,) = examples.subjects(json.dumps(document), "x.yaml")
    assert subject.name == f"{kind}/n web"


def test_utf_16_and_tabs_and_pairs_of_escapes_are_read(tmp_path: Path) -> None:
    tabs = json.dumps(examples.CONTAINER, indent="\t").replace('"/web"', '"/w\\ud83d\\ude00"')
    batch = _read(tmp_path, a__yaml=POD.encode("utf-16"), b__json=tabs)
    assert not batch.problems
    assert len(batch.subjects) == 2


@pytest.mark.parametrize("name, text", [
    ("Dockerfile", "FROM a:1\nUSER root\n"), ("web.service", "[Service]\nExecStart=/x\n"),
    ("run.sh", "docker run a:1\n"), ("compose.yaml", "services: {a: {image: a}}\n"),
    ("usr.bin.web", "profile web /usr/bin/web {\n  deny mount,\n}\n")])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_every_source_is_read_as_the_mark_at_its_beginning_says(name: str, text: str,
                                                                encoding: str) -> None:
    batch = Batch()
    walk.read_text(text.encode(encoding), name, batch, named=True)
    assert not batch.problems
    assert len(batch.subjects) == 1


def test_compose_extends_anchors_defaults_and_long_forms() -> None:
    (base, web) = examples.subjects("""\
x-logging: &common {pids_limit: 5}
services:
  base:
    image: "base:${TAG:-latest}"
    privileged: true
  web:
    <<: *common
    extends: {service: base}
    user: "${UID}"
    volumes:
      - {type: bind, source: /etc, target: /e, read_only: true}
      - data:/data
""", "docker-compose.yml")
    assert base.values["image_reference"].value == "latest"
    assert web.values["privileged"].value is True
    assert web.values["privileged"].place.line == 5
    assert web.values["limits.pids"].value == 5
    assert web.values["filesystem.readable"].value == {"/etc"}
    assert web.values["filesystem.writable"].value == frozenset()
    assert "ids.user" in web.unknown


def test_what_a_service_may_have_from_another_file_is_not_known() -> None:
    (web,) = examples.subjects("""\
services:
  web:
    extends: {file: common.yaml, service: base}
    image: "web:1"
    pid: host
""", "compose.yaml")
    assert web.values["pid_namespace"].value == "host"
    assert {"privileged", "capabilities", "network_mode", "no_new_privs"} <= web.unknown.keys()
    assert web.unknown["privileged"] == "it extends a service of common.yaml, not read"


def test_run_lines_in_scripts_are_found_and_comments_are_not() -> None:
    subjects = examples.subjects("""\
#!/bin/sh
# docker run --privileged commented
set -e
docker run --rm -it -v "$PWD:/w" -p 8080:80 alpine:3 sh -c 'docker ps; exit' && podman create \\
    --name second --privileged=false --pid=host "$IMAGE"
echo "$(docker run -e A=b x:1)"
""", "run.sh")
    assert [s.name for s in subjects] == ["alpine:3", "second", "x:1"]
    assert [s.place.line for s in subjects] == [4, 4, 6]
    assert subjects[0].values["filesystem.writable"].value == {"$workdir"}
    assert subjects[1].values["privileged"].value is False
    assert subjects[1].values["pid_namespace"].place.line == 5
    assert "image_reference" in subjects[1].unknown


@pytest.mark.parametrize("name", [
    ".github/workflows/ci.yml", ".gitlab-ci.yml", ".circleci/config.yml", "azure-pipelines.yaml"])
def test_run_lines_in_pipelines_are_found_and_in_other_yaml_are_not(name: str) -> None:
    text = """\
jobs:
  test:
    steps:
      - run: |
          docker run --rm \\
            --privileged a:1
      - {run: podman run --pid host b:1}
"""
    one, other = examples.subjects(text, name)
    assert (one.name, one.values["privileged"].place.line) == ("a:1", 6)
    assert other.values["pid_namespace"].value == "host"
    batch = Batch()
    walk.read_text(text.encode(), "docs/openapi.yml", batch, named=False)
    assert not batch.subjects


def test_run_lines_of_a_makefile_are_found(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("test:\n\tdocker run --pid=host $(IMAGE) true\n")
    (subject,) = read_paths([str(tmp_path)]).subjects
    assert subject.values["pid_namespace"].value == "host"
    assert "image_reference" in subject.unknown


def test_a_template_that_happens_to_be_yaml_is_told(tmp_path: Path) -> None:
    batch = _read(tmp_path, t__yaml="apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Name }}}\n",
                  service__yaml="apiVersion: v1\nkind: Service\n", good__yaml=POD)
    (problem,) = batch.problems
    assert (problem.template, len(batch.subjects)) == (True, 1)


@pytest.mark.parametrize("name, text, fact", [
    ("pod.yaml", "hostPID: ${PID}", "pid_namespace"),
    ("pod.yaml", 'hostPID: "{{ p }}"', "pid_namespace"),
    ("pod.yaml", "hostNetwork: $NET", "network_mode"),
    ("pod.yaml", "hostIPC: ${IPC}", "namespaces.shared"),
    ("pod.yaml", "hostUsers: ${U}", "user_namespace"),
    ("pod.yaml", "securityContext: {runAsNonRoot: $R}", "enforced_non_root"),
    ("pod.yaml", "securityContext: {seccompProfile: {type: $S}}", "seccomp_mode"),
    ("pod.yaml", "automountServiceAccountToken: $T", "service_account_token"),
    ("compose.yaml", "privileged: ${P}", "privileged"),
    ("compose.yaml", "read_only: ${R}", "filesystem.read_only_root"),
    ("compose.yaml", "network_mode: ${N}", "network_mode"),
    ("compose.yaml", "ipc: ${N}", "namespaces.shared"),
    ("compose.yaml", "userns_mode: ${N}", "user_namespace"),
    ("compose.yaml", "security_opt: ['seccomp=${S}']", "seccomp_mode"),
    ("compose.yaml", "cap_add: ['${C}']", "capabilities"),
    ("run.sh", "--privileged=$P", "privileged"), ("run.sh", "--pid $P", "pid_namespace"),
    ("run.sh", "--read-only=$R", "filesystem.read_only_root"),
    ("run.sh", "--security-opt apparmor=$A", "apparmor_mode"),
])
def test_what_somebody_else_fills_in_is_not_known(name: str, text: str, fact: str) -> None:
    content = {"pod.yaml": "apiVersion: v1\nkind: Pod\nspec:\n  %s\n  containers: [{name: a}]\n",
               "compose.yaml": "services:\n  a:\n    image: a:1\n    %s\n",
               "run.sh": "docker run %s a:1\n"}[name] % text
    (subject,) = examples.subjects(content, name)
    assert fact not in subject.values
    assert fact in subject.unknown


@pytest.mark.parametrize("text, value", [
    ("${P:-true}", True), ("${P:-false}", False), ("${Q}", True), ("${R}", False)])
def test_switches_of_a_service_are_filled_in_where_their_values_are_known(
        tmp_path: Path, text: str, value: bool) -> None:
    (tmp_path / ".env").write_text("Q=true\nR=no\n")
    (tmp_path / "compose.yaml").write_text(
        f"services:\n  a:\n    image: a:1\n    privileged: {text}\n    read_only: {text}\n")
    (subject,) = read_paths([str(tmp_path)]).subjects
    assert subject.values["privileged"].value is value
    assert subject.values["filesystem.read_only_root"].value is value


@pytest.mark.parametrize("line, place", [
    ("hostPID: {{ .Values.pid }}", (4, 12)), ("volumes: [{{ .v }}]", (4, 13)),
    ("securityContext: {{ toYaml . }}", (4, 20))])
def test_a_template_in_the_place_of_a_value_is_told_and_not_taken_for_one(
        tmp_path: Path, line: str, place: tuple[int, int]) -> None:
    pod = f"apiVersion: v1\nkind: Pod\nspec:\n  {line}\n  containers: [{{name: a}}]\n"
    batch = _read(tmp_path, t__yaml=pod, good__yaml=POD)
    (problem,) = batch.problems
    assert problem.template
    assert (problem.place.line, problem.place.column) == place
    assert len(batch.subjects) == 1


def test_braces_in_texts_make_no_template(tmp_path: Path) -> None:
    batch = _read(tmp_path, a__yaml="apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n"
                                    "    args: ['{{ x }}', \"{{y}}\"]\n    command:\n"
                                    "    - |\n      echo {{ z }}\n")
    assert not batch.problems
    assert len(batch.subjects) == 1


def test_stages_continuations_and_here_documents_of_a_dockerfile() -> None:
    (subject,) = examples.subjects("""\
# syntax=docker/dockerfile:1
ARG BASE=debian
FROM golang:1.22 AS build
USER 1000
COPY --from=build /root/.ssh/id_rsa /x
RUN <<EOF
curl https://example.com/x | sh
EOF
FROM build
RUN true \\
  # a comment between
  && wget -qO- https://example.com/y \\
  | bash
""", "Dockerfile")
    assert subject.values["ids.user"].value == "root"
    assert subject.values["image_reference"].value == "tag"
    assert subject.values["copied_secrets"].value == frozenset()
    assert len(subject.values["piped_scripts"].value) == 2


def test_a_named_file_of_no_known_format_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    (problem,) = read_paths([str(path)]).problems
    assert problem.message == "nothing in it that runs: no format that is known"
    assert not read_paths([str(tmp_path)]).problems


def test_nothing_is_read_beyond_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk.located, "MAXIMUM_SIZE", 10)
    (tmp_path / "a.yaml").write_text(POD)
    assert len(read_paths([str(tmp_path)]).problems) == 1


def test_every_profile_of_an_apparmor_file_is_read_and_programs_are_none(tmp_path: Path) -> None:
    first, second = examples.subjects("""\
abi <abi/3.0>,
include <tunables/global>
profile one {
  audit deny mount,
  /** rw,
  deny /proc/** w,
  profile child { capability, }
}
/usr/bin/two flags=(unconfined) {
  all,
}
""", "apparmor.d/both")
    assert (first.name, first.values["apparmor_allows"].value) == ("one", {"write /sys"})
    assert (second.name, second.values["apparmor_mode"].value) == ("/usr/bin/two", "unconfined")
    assert second.values["apparmor_allows"].value == {"all", "write /proc", "write /sys"}
    (tmp_path / "main.c").write_text("int main(void) {\n  call(a,\n    b);\n}\n")
    assert not read_paths([str(tmp_path)]).subjects


def test_the_profiles_that_ship_pass() -> None:
    batch = read_paths([str(Path(__file__).resolve().parents[2] / "profiles" / "apparmor")])
    assert len(batch.subjects) >= 5
    assert {s.values["apparmor_mode"].value for s in batch.subjects if "executor" not in s.name
            } <= {"profile", "unconfined"}


def test_a_script_beyond_its_bound_and_too_many_values_are_told(tmp_path: Path) -> None:
    (tmp_path / "long.sh").write_text("docker run 'a " * 60_000)
    (tmp_path / "many.yaml").write_text("[" + "a," * 600_000 + "]")
    assert sorted(p.message for p in read_paths([str(tmp_path)]).problems) == [
        "larger than 512 KiB, not audited", "more values than any configuration has"]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(f"---\n# Source: chart/templates/pod.yaml\n{POD}".encode())

    monkeypatch.setattr(walk.sys, "stdin", Input)
    (subject,) = read_paths(["-"]).subjects
    assert subject.place.file == "<stdin>"
