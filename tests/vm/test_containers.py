"""Layers and named containers where a security module rules, and systemd gives the cgroups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.containers_named import Containers, containers, until
from tests.vm.guest import as_root


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Containers]:
    as_root("modprobe", "overlay")
    with containers(tmp_path) as found:
        yield found


def _works(made: Containers) -> None:
    done = made.run("a", "echo new > /file && cat /file", "--verify", writable="ephemeral",
                    policy="untrusted")
    assert (done.returncode, done.stdout) == (0, "new\n"), done.stderr
    assert not (made.image / "file").exists()
    done = made.run("b", "echo run >> /count; cat /proc/self/attr/current >> /label; sleep 600",
                    "-d", "--verify")
    assert done.returncode == 0, done.stderr
    found = made.inspect("b")
    layer = Path(found["layer"])
    until(lambda: (layer / "label").exists() and (layer / "label").read_text())
    assert made.call("verify", str(found["pid"])).returncode == 0
    later = made.call("exec", made.name("b"), "--", "cat", "/proc/self/attr/current")
    assert (later.returncode, later.stderr) == (0, "")
    assert later.stdout.strip("\0\n") == (layer / "label").read_text().strip("\0\n")
    assert made.call("stop", "-t", "2", made.name("b")).returncode == 0
    assert made.call("start", made.name("b")).returncode == 0
    until(lambda: (layer / "count").read_text() == "run\nrun\n")
    assert made.call("rm", "-f", made.name("b")).returncode == 0
    assert not layer.exists()


@pytest.mark.vm("apparmor")
def test_containers_work_under_apparmor(made: Containers) -> None:
    _works(made)


@pytest.mark.vm("selinux")
def test_containers_work_under_selinux(made: Containers) -> None:
    _works(made)
