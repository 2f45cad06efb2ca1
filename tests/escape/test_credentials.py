"""Ids, groups and capabilities of a sandbox, beyond single calls (sections CP, US and SC-20)."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

import hardrun
from hardrun.host.probe import probe as facts_of_host
from hardrun.kernel import capabilities
from hardrun.kernel.idmap import parse_map
from hardrun.plan.format import decode, encode
from hardrun.plan.schema import Operation, Unsafe
from tests.escape.conftest import Made
from tests.escape.layers import LAYERS, Planned
from tests.escape.probe import (
    AT_FDCWD,
    Answer,
    Inside,
    Out,
    Result,
    answers_of,
    call,
    contents,
    words_of,
)
from tests.escape.sandbox import POLICIES, Sandbox
from tests.sandbox.raw import Program

pytestmark = pytest.mark.skipif(shutil.which("newgidmap") is None,
                                reason="newgidmap is not installed")
needs_groups = pytest.mark.skipif(not set(os.getgroups()) - {os.getgid()},
                                  reason="this user has no supplementary groups")
ROOT_INSIDE = tuple(policy for policy in POLICIES if policy != "judge")
GRANTING = """\
apiVersion: hardrun/v1
kind: Policy
metadata: {name: granting}
bounds:
  network: none
  capabilities: [CHOWN, SETGID]
  seccomp: build
  no_new_privs: true
  landlock: true
  filesystem: {visible: [/usr, /etc/ld.so.cache], readable: [any], writable: []}
  environment: {inherit: [PATH]}
  ids: {range: single, user: root, supplementary_groups: drop}
defaults: {capabilities: [CHOWN, SETGID]}
danger:
  - grant: {ids: {range: shared}}
    reason: several ids for a test
"""


@pytest.fixture(scope="module")
def granting(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy that grants capabilities."""
    file = tmp_path_factory.mktemp("policy") / "granting.yaml"
    file.write_text(GRANTING)
    return str(file)


def status(made: Sandbox) -> Mapping[str, str]:
    """What /proc/self/status shows inside."""
    lines = made.one(*contents("/proc/self/status")).text.splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def sets(made: Sandbox) -> dict[str, frozenset[str]]:
    found = status(made)
    return {name: capabilities.names_of(capabilities.parse_mask(found[f"Cap{name}"]))
            for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


# -- capabilities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy, user", [
    *((policy, None) for policy in POLICIES), *((policy, "0") for policy in ROOT_INSIDE),
    ("granting", None), ("granting", "0")])
def test_cp_01_and_02_the_five_sets_are_those_of_the_decision(
        sandbox: Made, granting: str, policy: str, user: str | None) -> None:
    options = {} if user is None else {"user": user}
    made = sandbox(granting if policy == "granting" else policy, **options)
    granted = {"CAP_CHOWN", "CAP_SETGID"} if policy == "granting" else set()
    assert sets(made) == dict.fromkeys(("Inh", "Prm", "Eff", "Bnd", "Amb"), granted)
    without = sets(made.removed(LAYERS["capability sets"]))
    assert without == dict.fromkeys(without, capabilities.ALL)


@pytest.mark.parametrize("kept", ["bounding set", "securebits", "no_new_privs", ""])
def test_cp_03_root_regains_nothing_at_an_exec(sandbox: Made, kept: str) -> None:
    """Each of the three alone holds it; without them root has every capability again."""
    removals = [LAYERS[layer] for layer in ("no_new_privs", "bounding set", "securebits")
                if layer != kept]
    found = sets(sandbox("contained", user="0").removed(*removals))
    assert found["Eff"] == (frozenset() if kept else capabilities.ALL)


def test_cp_05_a_capability_that_the_kernel_lacks_starts_nothing(sandbox: Made) -> None:
    def more(planned: Planned) -> Planned:
        return Planned(planned.operations, planned.unsafe | Unsafe.KEEPS_CAPABILITIES).change(
            "set_capabilities", lambda o: o._replace(values=(1 << 60,)))

    done = sandbox().removed(more).start(words_of([[call("getpid")]]))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"PR_CAP_AMBIENT_RAISE" in done.stderr


def test_cp_07_rights_are_given_up_in_this_order(sandbox: Made) -> None:
    """Each step needs what the next one takes away; the executor refuses another order."""
    planned = sandbox("untrusted").planned
    order = [o.name for o in decode(encode(planned.operations, planned.unsafe)).operations]
    steps = ["set_groups", "drop_bounding", "set_securebits", "set_capabilities", "no_new_privs",
             "not_dumpable", "landlock_restrict", "close_descriptors", "load_seccomp", "execute"]
    assert [name for name in order if name in steps] == steps


# -- set-id programs ------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["no_new_privs", "nosuid mounts", ""])
def test_sc_20_a_set_group_id_program_gives_no_group(sandbox: Made, kept: str,
                                                     probe: Path) -> None:
    """A copy of the probe that belongs to group 0 inside says which group it has.

    Group 0 is a subordinate one of the user. That the copy can be made takes a sandbox that
    keeps its capabilities and has no filter.
    """
    makeable = [LAYERS["seccomp"], LAYERS["capability sets"]]
    removals = [LAYERS[layer] for layer in ("no_new_privs", "nosuid mounts") if layer != kept]
    said = b"%d" % _number("getegid")
    steps = (
        call("openat", AT_FDCWD, str(probe), 0, 0),
        call("openat", AT_FDCWD, "/scratch/copy", 0o101, 0o755),
        call("sendfile", Result(1), Result(0), 0, 1 << 24),
        call("fchown", Result(1), -1, 0),
        call("fchmod", Result(1), 0o2755),
        call("close", Result(1)),
        call("@poke", Out(24), b"/scratch/copy"),
        call("@poke", Inside(6, 8), said),
        call("execve", "/scratch/copy", Inside(6, 0), 0))
    done = sandbox(tmpfs=["/scratch:8M"]).removed(*makeable, *removals).start(words_of([steps]))
    inner, outer = answers_of(done.stdout)
    assert [step.word for step in outer.steps] == ["ok"] * 8
    assert inner.steps[0].value == (os.getgid() if kept else 0)


def _number(name: str) -> int:
    return int(call(name).spelled())


# -- ids ------------------------------------------------------------------------------------------


def planned_maps(operations: tuple[Operation, ...]) -> dict[str, set[tuple[int, ...]]]:
    """What the plan says of both maps."""
    maps: dict[str, set[tuple[int, ...]]] = {"uid": set(), "gid": set()}
    for operation in operations:
        values = operation.values
        if operation.name in ("write_id_map", "write_uid_map"):
            maps["uid"].add((int(values[0]), os.getuid(), 1))
        if operation.name == "write_id_map":
            maps["gid"].add((int(values[1]), os.getgid(), 1))
        if operation.name == "write_id_map_helper" and isinstance(values[1], bytes):
            numbers = [int(word) for word in values[1].split(b"\0")[:-1]]
            kind = "uid" if str(values[0]).endswith("newuidmap") else "gid"
            maps[kind] |= set(zip(*[iter(numbers)] * 3, strict=True))
    return maps


@pytest.mark.parametrize("policy, userns", [
    *((policy, "single") for policy in POLICIES), ("untrusted", "auto"), ("granting", "shared")])
def test_us_01_the_maps_are_those_of_the_plan_and_hold_no_id_of_root(
        sandbox: Made, granting: str, policy: str, userns: str) -> None:
    made = sandbox(granting if policy == "granting" else policy, userns=userns)
    expected = planned_maps(made.planned.operations)
    found = made.attack(*(contents(f"/proc/self/{kind}_map") for kind in expected))
    for kind, answer in zip(expected, found, strict=True):
        maps = parse_map(answer.text)
        assert {tuple(line) for line in maps} == expected[kind]
        assert all(line.outside > 0 for line in maps)
    whole = parse_map(Path("/proc/self/uid_map").read_text())
    assert any(line.outside == 0 for line in whole)  # the control: here the host's root is mapped


# -- groups ---------------------------------------------------------------------------------------


def foreign_file(directory: Path, group: int, umask: str) -> Path:
    """A file of a subordinate id of the user's, and of a group: a directory hands that down."""
    directory.mkdir()
    os.chown(directory, -1, group)
    directory.chmod(0o2777)
    path = directory / "secret"
    attackers = facts_of_host().subordinate_uids[0][0]  # sandbox.py makes them this id
    for _ in range(2):  # a range that was used last is not the next one to be taken
        path.unlink(missing_ok=True)
        hardrun.run(["sh", "-c", f"umask {umask}; echo secret >{path}"], policy="build",
                    userns="auto", rw=[str(directory)], check=True)
        if path.stat().st_uid != attackers:
            break
    made = path.stat()
    assert made.st_gid == group
    assert made.st_uid not in (os.getuid(), attackers)
    return path


@pytest.fixture(scope="module")
def of_a_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mode 0040, of a supplementary group."""
    group = min(set(os.getgroups()) - {os.getgid()})
    return foreign_file(tmp_path_factory.mktemp("group") / "files", group, "0737")


@pytest.fixture(scope="module")
def of_the_primary_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mode 0040, of the primary group."""
    return foreign_file(tmp_path_factory.mktemp("own") / "files", os.getgid(), "0737")


def opened(made: Sandbox, path: Path) -> str:
    """``secret``, or why it can't be opened."""
    answer: Answer = made.one(*contents(str(path)))
    return answer.text.strip() if answer.steps[0].word == "ok" else answer.steps[0].word


@needs_groups
@pytest.mark.parametrize("policy, userns", [
    *((policy, "single") for policy in POLICIES), ("untrusted", "auto"), ("build", "auto")])
def test_us_02_a_file_of_the_callers_groups_is_not_readable(
        sandbox: Made, of_a_group: Path, policy: str, userns: str) -> None:
    """CVE-2018-7169's other side: a single-id map with setgroups denied keeps the groups."""
    assert of_a_group.read_text() == "secret\n"
    made = sandbox(policy, ro=[str(of_a_group.parent)], userns=userns)
    assert opened(made, of_a_group) == "EACCES"
    assert opened(made.removed(LAYERS["setgroups"]), of_a_group) == "secret"


@needs_groups
def test_us_02_with_ids_of_its_own_the_primary_group_is_left_as_well(
        sandbox: Made, of_the_primary_group: Path) -> None:
    """It stands in the list of supplementary groups that a login makes."""
    assert os.getgid() in os.getgroups()
    made = sandbox("untrusted", ro=[str(of_the_primary_group.parent)], userns="auto")
    assert opened(made, of_the_primary_group) == "EACCES"
    assert opened(made.removed(LAYERS["setgroups"]), of_the_primary_group) == "secret"


def test_us_03_who_changes_the_group_stays_held_to_what_the_primary_one_is_refused(
        sandbox: Made, granting: str, tmp_path: Path) -> None:
    """CVE-2022-36109: mode 0606, where the group alone may not."""
    denied = foreign_file(tmp_path / "files", os.getgid(), "0171")
    made = sandbox(granting, ro=[str(denied.parent)], userns="shared")
    steps = (call("setresgid", 5, 5, 5), call("openat", AT_FDCWD, str(denied), 0, 0))
    answer = made.one(*steps)
    assert [step.word for step in answer.steps] == ["ok", "EACCES"]

    def without_any(planned: Planned) -> Planned:
        return planned.change("set_groups", lambda o: o._replace(values=(b"",)))

    answer = made.removed(without_any).one(*steps)
    assert [step.word for step in answer.steps] == ["ok", "ok"]


@pytest.mark.parametrize("user_range", [False, True])
def test_us_04_setgroups_is_denied_where_an_ordinary_user_writes_the_map(
        executor: Path, tmp_path: Path, user_range: bool, sandbox: Made) -> None:
    """CVE-2014-8989; where newgidmap writes it, root has agreed (/etc/subgid)."""
    if user_range:
        made = sandbox("untrusted", userns="auto").one(*contents("/proc/self/setgroups"))
        assert made.text == "allow\n"
    else:
        done = Program(executor, tmp_path).run(["cat", "/proc/self/setgroups"])
        assert done.stdout == b"deny\n"


# -- what is hardrun's own ------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_us_05_state_and_plans_can_be_neither_seen_nor_asked_for(
        sandbox: Made, policy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = [tmp_path / name for name in (".local/state/hardrun", ".cache/hardrun",
                                           ".config/hardrun")]
    for place in places:
        place.mkdir(parents=True)
    answers = sandbox(policy).attack(*([call("openat", AT_FDCWD, str(place), 0, 0)]
                                       for place in places))
    assert {answer.word for answer in answers} == {"ENOENT"}
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in places:
        with pytest.raises(hardrun.PolicyRefused):
            hardrun.run(["true"], policy=policy, rw=[str(place)])
    monkeypatch.undo()
    shown = sandbox(policy, ro=[str(place) for place in places])  # the control
    answers = shown.attack(*([call("openat", AT_FDCWD, str(place), 0, 0)] for place in places))
    assert {answer.word for answer in answers} == {"ok"}


def test_us_09_no_passwd_file_of_a_root_file_system_is_read(tmp_path: Path, probe: Path) -> None:
    """CVE-2024-9676: names are not looked up, so a fifo or an endless file holds up nothing."""
    rootfs = tmp_path / "rootfs"
    for directory in ("etc", "proc", "dev", "tmp"):
        (rootfs / directory).mkdir(parents=True)
    for name in ("passwd", "group"):
        os.mkfifo(rootfs / "etc" / name)
    shutil.copy(probe, rootfs / "probe")
    word = words_of([[call("getuid")]])
    done = hardrun.run(["/probe", *word], rootfs=str(rootfs), user="7:8", capture_output=True,
                       timeout="10s")
    assert answers_of(done.stdout)[0].steps[0].value == 7
    with pytest.raises(hardrun.BadInput, match="root"):
        hardrun.run(["/probe", *word], rootfs=str(rootfs), user="root")


def test_the_answer_of_capget_is_read_as_the_kernel_lays_it_out(sandbox: Made) -> None:
    """The control of the attacks on capability sets: the effective set comes first."""
    header = struct.pack("<Ii", 0x20080522, 0)
    answer = sandbox().removed(LAYERS["capability sets"]).one(call("capget", header, Out(24)))
    assert struct.unpack("<6I", answer.out)[0] == 0xFFFFFFFF
