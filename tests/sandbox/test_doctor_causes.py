"""Every cause is provoked, and doctor tells it by its code; what is repaired it no longer tells."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hardrun.kernel import landlock
from tests.pains import BYPASS, PAINS, Reported
from tests.sandbox.hosts import GREETING, HARDRUN, NESTED, ROOT, UNSHARE_ROOT, Host, Outcome
from tests.sandbox.scenes import SCENES, Scene

DOCTOR = f"{HARDRUN} doctor --json"
# A run that no policy refuses, and what it says of the host for programs.
REPORT = f"{HARDRUN}-cli run --refresh --policy contained --report fd:1 -- true"
# Where a host can be like this by itself, the control proves nothing.
OF_MANY_HOSTS = frozenset({"no-apparmor", "no-selinux", "cgroup-v1"})
Told = Callable[..., dict[str, Any]]


def fact_of(found: Outcome, scene: Scene) -> dict[str, Any]:
    """What was told of a scene's fact: ``cause``, ``layer``, ``fix``, ``detail``."""
    assert found.stdout, found
    document = json.loads(found.stdout)
    if not scene.fact:
        error = document.get("error", {"cause": "", "hint": "", "message": ""})
        return {"cause": error["cause"], "fix": error["hint"], "detail": error["message"],
                "layer": "/proc"}
    fact: dict[str, Any] = {**document, **document["places"]}[scene.fact]
    return fact


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What doctor tells of a scene's fact, by the scene's name; each is made once.

    ``changed=False``: without the change, which in some scenes is how hardrun is started.
    """
    host = Host(tmp_path_factory.mktemp("host") / "home")
    unchanged = functools.cache(host)

    @functools.cache
    def tell(name: str, *, changed: bool = True) -> dict[str, Any]:
        scene = SCENES[name]
        command = DOCTOR if scene.fact else REPORT
        if not changed:
            around = scene.around if scene.change else ()
            return fact_of(unchanged(f"{scene.before}exec {command}", *around), scene)
        lines = [scene.before, scene.change, f"exec {scene.prefix} {command}"]
        return fact_of(host("\n".join(lines), *scene.around, environment=scene.environment,
                            kernel=scene.kernel), scene)

    return tell


def _open_to_others(scene: Scene) -> None:
    closed = [str(path) for path in (ROOT, *ROOT.parents) if not path.stat().st_mode & 1]
    if scene.others and closed:
        pytest.skip(f"nobody else can enter {closed[-1]}, where hardrun is")


@pytest.mark.parametrize("name", SCENES)
def test_a_provoked_cause_is_told_by_its_code(told: Told, name: str) -> None:
    scene = SCENES[name]
    _open_to_others(scene)
    found = told(name)
    assert found["cause"] == scene.cause, found
    assert found["layer"]
    if scene.cause not in OF_MANY_HOSTS:
        assert told(name, changed=False)["cause"] != scene.cause


def _proofs() -> Iterator[Any]:
    for number, answer in PAINS.items():
        if not isinstance(answer, str):
            for place, proof in enumerate(answer):
                name = proof if isinstance(proof, str) else f"{proof.cause}, as reported"
                yield pytest.param(proof, id=f"{number}-{place} {name}")


def test_every_pain_has_an_answer() -> None:
    assert set(PAINS) == set(range(1, 51))
    assert all(answer for answer in PAINS.values())


@pytest.mark.parametrize("proof", list(_proofs()))
def test_a_pain_is_told_by_its_code_with_a_fix_that_switches_nothing_off(
        told: Told, proof: str | Reported) -> None:
    if isinstance(proof, str):
        found = told(proof)
        cause, fix, expected = found["cause"], found["fix"], SCENES[proof].cause
    else:
        cause, fix, expected = proof.found.cause, proof.found.fix, proof.cause
    assert cause == expected
    assert fix
    assert not BYPASS.search(fix), fix


# -- what people complained about besides the missing word ---

def play(host: Host, name: str, *commands: str) -> Outcome:
    """Run shell commands in a scene."""
    scene = SCENES[name]
    assert not scene.prefix
    return host("\n".join([scene.before, scene.change, *commands]), *scene.around,
                environment=scene.environment, kernel=scene.kernel)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "home")


@pytest.mark.parametrize("name", ["no newuidmap", "newuidmap without setuid", "no range"])
def test_what_a_run_does_not_need_it_does_not_miss(host: Host, name: str) -> None:
    """Pain 12: without newuidmap nothing worked any more, not even a question for the version."""
    assert play(host, name, f"{NESTED} -- {GREETING}").greeted()


@pytest.mark.parametrize("name", ["docker's filter", "read-only proc", "empty executor"])
def test_a_run_that_is_refused_reports_the_code(host: Host, name: str) -> None:
    """Pain 4: an agent's sandbox that did not start, and nothing that a program could tell."""
    scene = SCENES[name]
    found = play(host, name, f"exec {REPORT}")
    assert found.status == 125
    document = json.loads(found.stdout)
    assert (document["outcome"], document["error"]["cause"]) == ("unsupported", scene.cause)
    assert document["error"]["hint"] in found.stderr


def test_the_front_end_itself_says_that_it_needs_proc(host: Host) -> None:
    found = play(host, "no proc", f"exec {HARDRUN} doctor")
    assert (found.status, found.stdout) == (125, "")
    assert found.stderr == "hardrun: can't open /proc/self/exe: mount proc on /proc\n"


@pytest.mark.parametrize("name,tier", [
    ("Linux 5.4 in a pod", "none"), ("docker's filter", "landlock"),
    ("Landlock that stops nothing", "full"), ("covered proc", "full"), ("WSL 1", "none")])
def test_the_verdict_is_one_for_the_tier(host: Host, name: str, tier: str) -> None:
    """Pain 34: whether namespaces, Landlock or both are missing decides what can still be done."""
    found = play(host, name, f"exec {DOCTOR}")
    assert json.loads(found.stdout)["tier"] == tier
    assert found.status == (0 if tier == "full" else 1)


def test_landlock_is_found_by_its_call_and_not_by_a_file_that_lists_it(host: Host) -> None:
    """Pain 38: /sys/kernel/security/lsm is not there, or not mounted, and all works."""
    found = host(f"mount -t tmpfs none /sys/kernel && exec {DOCTOR}", *UNSHARE_ROOT)
    fact = json.loads(found.stdout)["landlock"]
    assert (fact["available"], fact["detail"]) == (True, f"ABI {landlock.abi_version()}")


def test_a_landlock_that_stops_nothing_is_not_what_a_run_is_held_by(host: Host) -> None:
    """Pain 36: it was asked for, told as there, and files were written all the same."""
    found = play(host, "Landlock that stops nothing", f"exec {REPORT}")
    assert json.loads(found.stdout)["error"]["cause"] == "landlock-not-enforced"
    told = play(host, "Landlock that stops nothing", f"exec {HARDRUN} doctor").stdout
    assert told.startswith("tier full: namespaces, mounts and seccomp, without Landlock")
