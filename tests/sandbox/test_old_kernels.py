"""The oldest kernel of each tier, and what is said where a call that is needed is missing."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from hardrun.kernel import landlock
from tests.fake_kernel import FakeKernel
from tests.installed import HARDRUN

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(landlock.abi_version() < 1, reason="needs Landlock")


def run(kernel: FakeKernel, *words: str) -> subprocess.CompletedProcess[str]:
    return kernel.run([HARDRUN, "run", *words, "--refresh", "--", "sh",
                       "-c", "echo started; touch /tmp/x 2>/dev/null && echo mounted; true"],
                      env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("version", ["5.14", "5.19", "6.1", "6.6", "6.12"])
def test_the_full_tier_needs_no_more_than_linux_5_14(version: str) -> None:
    """No clone onto a detached tree, no MFD_EXEC, Landlock of that time; uname says so as well."""
    done = run(FakeKernel.of(version), "--policy", "agent", "--min-tier", "full")
    assert (done.stdout, done.returncode) == ("started\nmounted\n", 0), done.stderr


def test_a_filter_that_hides_clone3_leaves_the_full_tier() -> None:
    kernel = FakeKernel.of("5.14")
    kernel = kernel._replace(errors={**kernel.errors, "clone3": errno.ENOSYS})
    done = run(kernel, "--policy", "agent", "--min-tier", "full")
    assert (done.stdout, done.returncode) == ("started\nmounted\n", 0), done.stderr


@pytest.mark.parametrize("call", ["openat2", "open_tree", "move_mount", "fsopen", "mount_setattr"])
def test_without_a_call_that_mounts_need_there_is_the_landlock_tier_or_one_line(call: str) -> None:
    """openat2 is what names are resolved by in both tiers (FS-08): never emulated."""
    kernel = FakeKernel(errors={call: errno.ENOSYS})
    refused = run(kernel, "--policy", "agent", "--min-tier", "full")
    assert refused.returncode == 125
    problem, _hint = refused.stderr.splitlines()
    assert f"({call}): ENOSYS" in problem
    lesser = run(kernel, "--policy", "agent")
    if call == "openat2":
        assert lesser.returncode == 125
        assert "openat2: ENOSYS" in lesser.stderr.splitlines()[0]
    else:
        assert (lesser.stdout, lesser.returncode) == ("started\n", 0), lesser.stderr


@pytest.mark.parametrize("version,calls", [("5.13", ()), ("5.13", ("mount_setattr",))])
def test_linux_5_13_has_the_landlock_tier_at_least(version: str, calls: tuple[str, ...]) -> None:
    kernel = FakeKernel.of(version)
    kernel = kernel._replace(errors={**kernel.errors, **dict.fromkeys(calls, errno.ENOSYS)})
    done = run(kernel, "--policy", "agent")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("started\n")


@pytest.mark.parametrize("policy", ["agent", "untrusted"])
@pytest.mark.parametrize("version,call", [("5.11", "mount_setattr"), ("5.8", "close_range"),
                                          ("5.4", "close_range"), ("4.4", "close_range")])
def test_before_it_a_line_names_the_kernel_that_is_needed(version: str, call: str, policy: str
                                                          ) -> None:
    done = run(FakeKernel.of(version), "--policy", policy)
    assert done.returncode == 125
    problem, hint = done.stderr.splitlines()
    assert call in problem + hint
    assert "Linux 5.14 or newer" in hint


@pytest.mark.parametrize("kernel", [
    FakeKernel(errors={"memfd_create": errno.EACCES}),
    FakeKernel(errors={"landlock_create_ruleset": errno.ENOSYS}, user_namespaces=errno.EPERM),
    FakeKernel(errors={"landlock_restrict_self": errno.EPERM}, user_namespaces=errno.EPERM),
    FakeKernel(errors={"seccomp": errno.EINVAL}, user_namespaces=errno.EPERM)])
def test_what_neither_tier_can_be_without_is_refused_in_one_line(kernel: FakeKernel) -> None:
    done = run(kernel, "--policy", "agent")
    assert done.returncode == 125
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == ""
