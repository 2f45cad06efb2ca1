"""Policy documents: what is wrong with one is said with file, line, field and a suggestion."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from hardrun.errors import PolicyError
from hardrun.policy import check, prebuild, reference
from hardrun.policy.document import parse
from hardrun.policy.load import (
    COMPILED,
    Directories,
    builtin_label,
    load_policies,
    read_builtin,
    read_policy,
)
from hardrun.policy.loaded import LoadedPolicy
from hardrun.policy.tree import MAXIMUM_SIZE, read_yaml
from hardrun.posture.registry import CONTROLS
from tests.policies import ROOT, facts, shipped, workload

HEAD = "apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: mine}\n"


def _read(body: str, head: str = HEAD) -> LoadedPolicy:
    return parse(read_yaml((head + body).encode(), "mine.yaml"), "mine.yaml", "workload")


@pytest.mark.parametrize("body, line, field, words", [
    ("bounds: {limits: {memroy: 1G}}", 4, "bounds.limits.memroy", "did you mean 'memory'"),
    ("bounds:\n  netwrok: none", 5, "bounds.netwrok", "did you mean 'network'"),
    ("bunds: {}", 4, "bunds", "did you mean 'bounds'"),
    ("match: {trsut: low}", 4, "match.trsut", "did you mean 'trust'"),
    ("bounds:\n  limits:\n    memory: lots", 6, "bounds.limits.memory", "not a size"),
    ("bounds: {network: 3}", 4, "bounds.network", "must be one of none, host"),
    ("bounds: {limits: 3}", 4, "bounds.limits", "a mapping of controls"),
    ("bounds: {limits: {memory: 1G}, limits.memory: 2G}", 4, "bounds.limits.memory", "said twice"),
    ("within: contained", 4, "within", "list"),
    ("bounds: {umask: 022}", 4, "bounds.umask", "in quotes"),
    ("host: {limits.memory: maybe}", 4, "host.limits.memory", "refuse, weaker or degrade"),
    ("tests:\n  - {request: {}}", 5, "tests.0", "refused or what is granted"),
    ("tests:\n  - {request: {}, refused: netwrok}", 5, "tests.0.refused", "did you mean"),
    ("danger:\n  - {grant: {network: host}}", 5, "danger.0", "'reason' is missing"),
    ("danger:\n  - {grant: {network: host}, reason: why}", 5, "danger.0.reason", "at least 10"),
    ("danger:\n  - {grant: {}, reason: long enough}", 5, "danger.0", "grants nothing"),
    ("bounds: {network: host}", 4, "bounds.network", "known way out"),
    ("bounds: {capabilities: [SYS_ADMIN]}", 4, "bounds.capabilities", "SYS_ADMIN"),
    ("bounds: {capabilities: [SYS_ADMNI]}", 4, "bounds.capabilities", "SYS_ADMNI"),
    ("bounds: {capabilities: [41]}", 4, "bounds.capabilities", "list of strings"),
    ("bounds: {filesystem: {readable: [~/.ssh]}}", 4, "bounds.filesystem.readable", "keys"),
    ("bounds: {filesystem: {visible: [/etc]}}", 4, "bounds.filesystem.visible", "way out"),
    ("bounds: {filesystem: {writable: [/usr/local]}}", 4, "bounds.filesystem.writable", "/usr"),
    ("bounds: {no_new_privs: false}", 4, "bounds.no_new_privs", "setuid"),
    ("bounds: {network: none, network: none}", 4, "bounds.network", "said twice"),
    ("bounds: &a {}\ndefaults: *a", 4, "defaults", "aliases"),
    ("bounds: !!python/object:os.system {}", 4, "bounds", "not part of the language"),
    ("bounds: {network: [none", None, None, "not YAML"),
    ("bounds: " + "[" * 30 + "]" * 30, 4, None, "nested too deeply"),
])
def test_a_wrong_document_is_refused_with_its_line(
        body: str, line: int | None, field: str | None, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        _read(body)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.file == "mine.yaml"
    if line is not None:
        assert caught.value.line == line
    if field is not None:
        assert caught.value.field == field


@pytest.mark.parametrize("head", [
    "", "- a\n", "text\n", "kind: Policy\nmetadata: {name: x}\n",
    HEAD.replace("v1", "v2"), HEAD.replace("mine", "'Not A Name'"), HEAD + "---\na: b\n",
    "\x00", "{" * 100, "a: " + "[" * 100_000])
def test_what_is_no_policy_at_all_is_refused_in_one_line(head: str) -> None:
    with pytest.raises(PolicyError) as caught:
        _read("", head)
    assert "\n" not in caught.value.message


def test_a_policy_that_never_ends_is_refused() -> None:
    with pytest.raises(PolicyError, match="larger than"):
        read_policy(Path("/dev/zero"), "workload")


def test_bytes_that_are_no_utf_8_and_large_files_are_refused() -> None:
    for text in (b"\xff\xfe", b"#" * (MAXIMUM_SIZE + 1)):
        with pytest.raises(PolicyError):
            read_yaml(text, "x.yaml")


@pytest.mark.parametrize("capability", [
    "SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "NET_RAW", "DAC_READ_SEARCH", "SYS_MODULE", "BPF",
    "PERFMON", "MKNOD", "SETFCAP"])
def test_cp_06_a_capability_that_leads_out_needs_a_reason(capability: str) -> None:
    with pytest.raises(PolicyError, match=capability):
        _read(f"bounds: {{capabilities: [{capability}]}}")
    policy = _read(f"danger:\n  - {{grant: {{capabilities: [{capability}]}}, "
                   "reason: it is what this is for}")
    assert [danger.reason for danger in policy.dangers] == ["it is what this is for"]


def test_a_danger_adds_to_the_bounds_and_keeps_its_reason() -> None:
    policy = _read("bounds: {capabilities: [CHOWN]}\n"
                   "danger:\n  - {grant: {capabilities: [SYS_ADMIN]}, reason: it has to mount}")
    (said,) = policy.bounds["capabilities"]
    assert said.value == {"CAP_CHOWN", "CAP_SYS_ADMIN"}
    assert [d.reason for d in policy.dangers] == ["it has to mount"]
    assert policy.dangers[0].origin == "mine.yaml:6"


def _directories(root: Path, **layers: dict[str, str]) -> Directories:
    for layer, files in layers.items():
        (root / layer).mkdir(mode=0o755)
        for name, text in files.items():
            path = root / layer / name
            path.write_text(text)
            path.chmod(0o644)
    return Directories(ROOT / "policies", root / "system", root / "user",
                       system_owner=os.getuid())


SITE = "apiVersion: hardrun/v1\nkind: Policy\nmetadata: {name: NAME}\n"


def test_every_layer_is_read_and_what_was_looked_at_is_returned(tmp_path: Path) -> None:
    places = _directories(tmp_path, system={
        "site.yaml": SITE.replace("NAME", "site") + "match: {}\nbounds: {limits: {memory: 64M}}\n",
        "README": "not a policy"})
    loaded = load_policies((), directories=places)
    site = next(p for p in loaded.policies if p.name == "site")
    assert site.layer == "system"
    assert site.applies(workload(), facts())
    looked = {Path(d.path).name: d.exists for d in loaded.dependencies}
    assert looked["site.yaml"] is True
    assert looked["system"] is True
    assert looked["user"] is False
    assert looked["untrusted.yaml"] is True


@pytest.mark.parametrize("target", ["system/site.yaml", "system"])
def test_a_system_layer_that_others_can_write_is_refused(tmp_path: Path, target: str) -> None:
    places = _directories(tmp_path, system={"site.yaml": SITE.replace("NAME", "site")})
    (tmp_path / target).chmod(0o777)
    with pytest.raises(PolicyError, match="can be written by others") as caught:
        load_policies((), directories=places)
    assert caught.value.hint is not None
    assert "chmod go-w" in caught.value.hint


def test_a_system_layer_of_another_owner_is_refused(tmp_path: Path) -> None:
    places = _directories(tmp_path, system={"site.yaml": SITE.replace("NAME", "site")})
    if os.getuid() == 0:
        os.chown(tmp_path / "system/site.yaml", 12345, -1)
    with pytest.raises(PolicyError, match="is owned by uid"):
        load_policies((), directories=places._replace(system_owner=0))


def test_the_same_name_in_two_layers_applies_twice_and_loosens_nothing(tmp_path: Path) -> None:
    loose = SITE.replace("NAME", "untrusted") + "bounds: {limits: {memory: 64G}}\n"
    loaded = load_policies((), directories=_directories(tmp_path, user={"u.yaml": loose}))
    chosen = [p for p in loaded.policies if p.chosen]
    assert [p.layer for p in chosen] == ["built-in", "user"]


def test_a_cycle_of_parents_is_an_error(tmp_path: Path) -> None:
    places = _directories(tmp_path, user={
        "a.yaml": SITE.replace("NAME", "a") + "within: [b]\n",
        "b.yaml": SITE.replace("NAME", "b") + "within: [a]\n"})
    with pytest.raises(PolicyError, match="a cycle: a within b within a") as caught:
        load_policies(("a",), directories=places)
    assert caught.value.line == 4


def test_a_parent_that_does_not_exist_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "within: [contaned]\n")
    with pytest.raises(PolicyError, match="did you mean 'contained'"):
        load_policies((str(path),), directories=Directories(ROOT / "policies", None, None))


def test_a_field_looser_than_its_parents_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "within: [untrusted]\nbounds:\n  limits:\n    memory: 4G\n")
    loaded = load_policies((str(path),), directories=Directories(ROOT / "policies", None, None))
    (error,) = check.problems(loaded.catalogue, ["mine"])
    assert error.line == 7
    assert "4 GiB is looser than its parent's 1 GiB (policies/untrusted.yaml:" in error.message
    assert error.hint == "limits.memory: 1G"


def test_a_policy_that_leaves_something_unbounded_can_not_be_run_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "bounds: {limits: {memory: 1G}}\n")
    places = Directories(ROOT / "policies", None, None)
    with pytest.raises(PolicyError, match="nothing bounds network") as caught:
        load_policies((str(path),), directories=places)
    assert "within: [contained]" in (caught.value.hint or "")
    assert load_policies((str(path), "contained"), directories=places)


def test_a_name_that_does_not_exist_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(PolicyError, match="did you mean 'untrusted'"):
        shipped("untrused")


def test_a_test_that_does_not_hold_is_reported_with_what_came_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "bounds: {limits: {memory: 1G}}\ntests:\n"
                    "  - {request: {limits: {memory: 2G}}, granted: {limits.memory: 2G}}\n"
                    "  - {request: {limits: {memory: 1M}}, refused: limits.memory}\n"
                    "  - {request: {}, granted: {limits.memory: 1G}}\n"
                    "  - {request: {}, granted: {limits.memory: 2G}}\n")
    loaded = load_policies((str(path),), directories=Directories(ROOT / "policies", None, None),
                           complete=False)
    (mine,) = (p for p in loaded.policies if p.name == "mine")
    failures = check.run_tests(mine)
    assert [f.case.line for f in failures] == [6, 7, 9]
    assert "expected granted, but refused: limits.memory" in failures[0].message
    assert "but the request is granted" in failures[1].message
    assert "got 1 GiB" in failures[2].message


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")),
                         ids=lambda path: path.stem)
def test_a_policy_that_ships_is_named_as_its_file_has_tests_and_no_problem(path: Path) -> None:
    loaded = shipped("contained", "pss-baseline")
    (policy,) = loaded.catalogue.own(path.stem)
    assert policy.description.endswith(".")
    assert len(policy.tests) >= 3
    assert check.check(policy, loaded.catalogue) == []
    assert path.read_text().startswith(f"# {path.stem}: ")


def test_policies_parsed_ahead_are_the_same_and_need_no_yaml(tmp_path: Path) -> None:
    prebuild.prebuild(tmp_path)
    script = ("import sys; from hardrun.policy.load import Directories, load_policies; "
              "from pathlib import Path; "
              f"load_policies((), directories=Directories(Path({str(ROOT / 'policies')!r}), None,"
              f" None, Path({str(tmp_path)!r}))); "
              "sys.exit('ruamel.yaml' in sys.modules or 'hardrun.policy.document' in sys.modules)")
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", script],
                      {**os.environ, "PYTHONPATH": str(ROOT)}) == 0
    parsed, revived = (read_builtin(ROOT / "policies", d) for d in (None, tmp_path))
    for one, other in zip(parsed, revived, strict=True):
        assert vars(one) == vars(other), one.name


def test_a_policy_edited_since_is_parsed_again(tmp_path: Path) -> None:
    target = prebuild.prebuild(tmp_path)
    document = json.loads(target.read_text())
    document["policies"][builtin_label(Path("untrusted.yaml"))]["checksum"] ^= 1
    document["policies"]["policies/untrusted.yaml"]["bounds"] = {}
    (tmp_path / COMPILED).write_text(json.dumps(document))
    policies = {p.name: p for p in read_builtin(ROOT / "policies", tmp_path)}
    assert policies["untrusted"].bounds


def test_the_reference_and_the_schema_have_every_control() -> None:
    page, schema = reference.page(), json.dumps(reference.schema())
    for control in CONTROLS:
        assert f"`{control.place}`" in page
        assert json.dumps(control.meaning) in schema
