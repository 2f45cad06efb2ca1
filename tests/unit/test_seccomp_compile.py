"""Building, composing, ordering, explaining and finding filters."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from hardrun.errors import BadInput, PlanError
from hardrun.kernel.seccomp import actions, prebuild, prebuilt, profile, tables
from hardrun.kernel.seccomp import compile as compiler
from hardrun.kernel.seccomp.assemble import Range, assemble
from hardrun.kernel.seccomp.decision import Leaf
from hardrun.kernel.seccomp.explain import gate
from hardrun.kernel.seccomp.order import implies, meet
from hardrun.kernel.seccomp.rules import Context, resolve
from hardrun.kernel.seccomp.simulate import decode, simulate

SHIPPED = Path(__file__).parents[2] / "profiles" / "seccomp"
NAMES = ("judge", "untrusted", "build", "contained", "docker-default")
JUMP_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
HERE: dict[str, Any] = {
    "architecture": "x86_64", "capabilities": frozenset(), "kernel_release": "6.18",
}  # fmt: skip


@cache
def shipped(name: str) -> profile.Profile:
    return profile.load(SHIPPED / f"{name}.json")


@cache
def built(name: str, architecture: str = "x86_64") -> bytes:
    return compiler.build([shipped(name)], **HERE | {"architecture": architecture})


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the filters built ahead."""
    directory = tmp_path_factory.mktemp("filters")
    assert prebuild.write(directory) == len(list(directory.iterdir())) == 2 * len(NAMES)
    return directory


def made(name: str, *syscalls: dict[str, Any], **fields: Any) -> profile.Profile:
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(syscalls), **fields}
    return profile.parse(json.dumps(document, indent=1), file=f"{name}.json", name=name)


def deny(*names: str, **fields: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", **fields}


@pytest.mark.parametrize("architecture", tables.ABIS)
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_builds_small_for_every_architecture(
    name: str, architecture: str
) -> None:
    assert len(built(name, architecture)) // 8 < 300


@pytest.mark.parametrize("name", NAMES)
def test_the_way_to_a_hot_call_is_short(name: str) -> None:
    program = built(name)
    calls = tables.numbers("x86_64")
    for call in ("read", "write", "futex", "close", "mmap", "epoll_wait", "clock_gettime"):
        outcome = simulate(program, "x86_64", calls[call])
        assert outcome.action == actions.ALLOW
        assert outcome.instructions <= 13


def test_a_build_is_deterministic_and_independent_of_the_order_of_profiles() -> None:
    profiles = [shipped(name) for name in ("untrusted", "build", "docker-default")]
    programs = {compiler.build(order, **HERE) for order in permutations(profiles)}
    assert len(programs) == 1


def test_a_composition_has_only_the_abis_that_every_profile_declares() -> None:
    docker, contained = shipped("docker-default"), shipped("contained")
    both = compiler.build([docker, contained], **HERE)
    assert simulate(both, "x86_64", 20, audit=0x40000003).action == actions.KILL_PROCESS


def test_no_profile_is_an_error() -> None:
    with pytest.raises(BadInput, match="at least one profile"):
        compiler.build([], **HERE)


def test_profiles_that_deny_only_together_what_every_program_needs_are_an_error() -> None:
    everything = [tables.names("x86_64")[n][0] for n in tables.names("x86_64")]
    argument = {"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}
    other = {**argument, "op": "SCMP_CMP_NE"}
    assert "execve" in everything
    halves = [made(f"half{i}", deny("execve", args=[a])) for i, a in enumerate((argument, other))]
    with pytest.raises(BadInput, match="the profiles together: denies execve"):
        compiler.build(halves, **HERE)


def test_a_program_that_differs_from_the_documents_is_never_returned() -> None:
    program = built("judge")
    resolved = resolve([shipped("judge")], Context("x86_64"))
    compiler.check(program, resolved)
    for index in range(0, len(program) // 8, 3):
        changed = bytearray(program)
        if changed[8 * index] == JUMP_IF_AT_LEAST:  # two ranges that meet may answer alike
            continue
        changed[8 * index + 4] ^= 1  # the lowest bit of k
        with pytest.raises((PlanError, BadInput)):
            compiler.check(bytes(changed), resolved)


def test_profiles_that_can_not_be_combined_say_so() -> None:
    rules = [
        deny("mmap", args=[{"index": i % 6, "value": 1 << i, "valueTwo": 0,
                            "op": "SCMP_CMP_MASKED_EQ"} for i in range(first, first + 6)])
        for first in range(0, 60, 3)
    ]  # fmt: skip
    with pytest.raises(BadInput, match="compare too much"):
        compiler.build([made("tangle", *rules)], **HERE)


def test_the_shipped_profiles_are_ordered() -> None:
    chain = [shipped(name) for name in ("judge", "untrusted", "build", "contained")]
    for index, strict in enumerate(chain):
        for weak in chain[index + 1 :]:
            assert implies(strict, weak)
            assert not implies(weak, strict)
    assert [p.name for p in meet(chain)] == ["judge"]


def test_a_profile_with_more_abis_is_not_stricter() -> None:
    narrow, wide = made("narrow"), made("wide", architectures=["SCMP_ARCH_X86"])
    assert implies(narrow, wide)
    assert not implies(wide, narrow)


def test_an_order_holds_for_every_capability_and_kernel() -> None:
    plain = made("plain", deny("mount"))
    conditional = made("conditional", deny("mount", excludes={"caps": ["CAP_SYS_ADMIN"]}))
    old = made("old", deny("mount", excludes={"minKernel": "5.0"}))
    assert implies(plain, conditional)
    assert implies(plain, old)
    assert not implies(conditional, plain)
    assert not implies(old, plain)


def test_profiles_of_the_same_meaning_are_kept_once() -> None:
    a, b = made("a", deny("mount", "umount2")), made("b", deny("umount2"), deny("mount"))
    assert implies(a, b)
    assert implies(b, a)
    assert [p.name for p in meet([b, a])] == ["a"]


def test_why_names_rule_line_condition_and_reason() -> None:
    gates = gate([shipped("untrusted")], "ioctl", architecture="x86_64", kernel_release="6.18")
    text = [str(each) for each in gates]
    assert any(
        line.startswith("EPERM if argument 1 == 0x5412: profile untrusted (") and "CVE-2017" in line
        for line in text
    )
    typing = next(each for each in gates if "0x5412" in each.condition)
    file, _, line = typing.place.rpartition(":")
    lines = Path(file).read_text().splitlines()[int(line) - 1 :]
    assert "TIOCSTI" in lines[1]


def test_why_says_what_the_default_and_what_hardrun_itself_answers() -> None:
    def asked(*profiles: profile.Profile, call: str) -> list[str]:
        answers = gate(profiles, call, architecture="x86_64", kernel_release="6.18")
        return [str(answer) for answer in answers]

    small = made("small", defaultAction="SCMP_ACT_ERRNO")
    assert asked(small, call="mount") == [
        "EPERM: profile small (small.json): not listed: the default action"
    ]
    assert asked(small, call="clone3")[0].startswith("ENOSYS: profile small (small.json): hardrun")
    assert asked(small, call="cacheflush") == [
        "ENOSYS: profile small (small.json): x86_64 has no such call"
    ]


def test_why_names_the_capability_that_would_open_a_call() -> None:
    answers = gate([shipped("contained")], "chroot", architecture="x86_64", kernel_release="6.18")
    assert [(a.permits, a.applies, a.condition) for a in answers] == [
        (False, True, "always"),
        (True, False, "CAP_SYS_CHROOT"),
    ]


def test_why_suggests_the_name_that_was_meant() -> None:
    with pytest.raises(BadInput, match="unknown system call 'mout'") as caught:
        gate([shipped("judge")], "mout", architecture="x86_64", kernel_release="6.18")
    assert caught.value.hint == "did you mean mount?"


def test_filters_built_ahead_are_those_that_a_build_gives(ahead: Path) -> None:
    for name in NAMES:
        for architecture in prebuild.ARCHITECTURES:
            arguments = HERE | {"architecture": architecture, "kernel_release": "6.1.0-13-amd64"}
            found = prebuilt.lookup([SHIPPED / f"{name}.json"], **arguments, directory=ahead)
            assert found == built(name, architecture)


def test_a_filter_built_ahead_is_found_only_for_what_it_was_built_for(
    ahead: Path, tmp_path: Path
) -> None:
    docker = SHIPPED / "docker-default.json"

    def found(path: Path, **changes: Any) -> bool:
        return prebuilt.lookup([path], **HERE | changes, directory=ahead) is not None

    assert found(docker)
    assert not found(docker, capabilities=frozenset({"CAP_SYS_ADMIN"}))
    assert found(docker, capabilities=frozenset({"CAP_NET_BIND_SERVICE"}))  # it mentions no such
    assert not found(docker, kernel_release="4.4.0")
    assert not found(docker, architecture="riscv64")
    changed = tmp_path / "docker-default.json"
    changed.write_text(docker.read_text() + "\n")
    assert not found(changed)
    assert not found(tmp_path / "absent.json")


def test_a_damaged_filter_is_not_used(ahead: Path, tmp_path: Path) -> None:
    for file in ahead.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-3])
    assert prebuilt.lookup([SHIPPED / "judge.json"], **HERE, directory=tmp_path) is None


def test_a_profile_is_found_by_name_or_absolute_path(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text((SHIPPED / "judge.json").read_text())
    assert prebuilt.filter_for([str(own)], **HERE) == prebuilt.filter_for(["judge"], **HERE)
    with pytest.raises(BadInput, match="no seccomp profile is called 'jugde'") as caught:
        prebuilt.filter_for(["jugde"], **HERE)
    assert "judge" in str(caught.value.hint)
    with pytest.raises(BadInput, match="no seccomp profile is called"):
        prebuilt.find("../secret")


def test_a_flag_that_loosens_holds_only_when_every_profile_sets_it(tmp_path: Path) -> None:
    text = (SHIPPED / "judge.json").read_text()
    flags = {"log": ["SECCOMP_FILTER_FLAG_LOG"],
             "both": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}
    for name, wanted in flags.items():
        (tmp_path / name).write_text(json.dumps({**json.loads(text), "flags": wanted}))
    log, both = str(tmp_path / "log"), str(tmp_path / "both")
    assert prebuilt.filter_for(["judge"], **HERE).flags == 0
    assert prebuilt.filter_for([log], **HERE).flags == 2
    assert prebuilt.filter_for([both], **HERE).flags == 2 | 4
    assert prebuilt.filter_for([both, log], **HERE).flags == 2


def test_no_profile_that_ships_sets_a_flag() -> None:
    assert not any(profile.load(file).flags for file in SHIPPED.glob("*.json"))


def test_a_filter_built_ahead_is_found_without_heavy_imports(ahead: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from hardrun.kernel.seccomp import prebuilt
assert prebuilt.lookup([Path({str(SHIPPED / "judge.json")!r})], architecture="x86_64",
    capabilities=frozenset(), kernel_release="6.18", directory=Path({str(ahead)!r}))
print(sorted({{"pydantic", "pyseccomp", "json", "ctypes"}} & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True, cwd=root)  # fmt: skip
    assert done.stdout == "[]\n"


def test_prebuild_wants_one_directory() -> None:
    with pytest.raises(BadInput, match="one directory that exists"):
        prebuild.main([])


def test_a_long_program_uses_far_jumps() -> None:
    rules = [
        deny("mmap", args=[{"index": 1, "value": value * 3, "op": "SCMP_CMP_EQ"}])
        for value in range(250)
    ]
    program = compiler.build([made("long", *rules)], **HERE)
    assert len(decode(program)) > 600


def test_several_abis_with_one_decision_for_all_their_numbers_share_it() -> None:
    ranges = [Range(0, Leaf(actions.ALLOW))]
    program = assemble([(tables.ABIS[abi], ranges) for abi in ("aarch64", "arm")])
    for abi in ("aarch64", "arm"):
        outcome = simulate(program, "aarch64", 7, audit=tables.ABIS[abi].audit)
        assert outcome.action == actions.ALLOW


def test_a_refusal_wins_over_a_call_that_is_said_to_be_done() -> None:
    """Errno 0 is as strict as any other to the kernel; a refusal must not pass for success."""
    done, refused = actions.ERRNO, actions.EPERM
    assert actions.strictest((done, refused)) == actions.strictest((refused, done)) == refused
    assert actions.strictest((done, actions.ALLOW)) == done
    assert actions.strictest((done, actions.ENOSYS)) == actions.ENOSYS
