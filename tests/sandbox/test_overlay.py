"""Layers over a root: what the command line says of them, and what verification finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hardrun.api import Gate
from hardrun.errors import ExecutorError
from hardrun.executor import start
from hardrun.plan.context import Layer
from hardrun.plan.schema import Operation
from hardrun.request import Request, decide

pytestmark = pytest.mark.sandbox
Change = Callable[[Operation], Operation | None]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root whose programs are the host's, shown read-only."""
    root = tmp_path / "image"
    for name in ("usr", "proc", "dev", "sys", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    return root


def run(image: Path, *words: str, options: tuple[str, ...] = ()
        ) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hardrun", "run", "--rootfs", str(image), "--ro", "/usr",
            *options, "--", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_a_layer_in_memory_is_written_and_gone(image: Path) -> None:
    script = "echo new > /file && cat /file"
    done = run(image, "sh", "-c", script, options=("--writable", "ephemeral", "--verify-strict"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "new\n", "")
    assert not (image / "file").exists()
    assert run(image, "sh", "-c", script).returncode == 2


def test_the_working_directory_of_the_caller_is_still_found(image: Path, tmp_path: Path) -> None:
    """Overlay takes the layers by names relative to where the executor stands meanwhile."""
    (image / "work").mkdir()
    argv = [sys.executable, "-m", "hardrun", "run", "--rootfs", str(image), "--ro", "/usr",
            "--rw", ".:/work", "--workdir", "/work", "--writable", "ephemeral", "--", "touch", "x"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize("options, message", [
    (("--writable", "some"), "no such layer"),
    (("--writable", "persistent"), "filesystem.overlay: persistent asked"),
    (("--policy", "contained", "--writable", "persistent"), "changes are kept for a name"),
])
def test_a_layer_that_can_not_be_had_is_refused_in_one_line(
    image: Path, options: tuple[str, ...], message: str
) -> None:
    done = run(image, "true", options=options)
    assert done.returncode == 125
    assert message in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 2


def test_a_layer_without_a_root_is_refused() -> None:
    argv = [sys.executable, "-m", "hardrun", "run", "--writable", "ephemeral", "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "a layer lies over a root file system" in done.stderr


# -- verification ----------------------------------------------------------------------------------


def request_for(image: Path, writable: str) -> Request:
    return decide(["true"], policies=["contained"], rootfs=str(image), ro=["/usr"],
                  writable=writable)


def weakened(request: Request, layer: Layer | None, change: Change) -> start.Program:
    plan = request.plan(pinned=True, layer=layer)
    operations = tuple(new for o in plan.operations if (new := change(o)) is not None)
    return start.Program(operations, plan.unsafe, request.decision.to_json(), plan.ids)


def as_bind(o: Operation) -> Operation | None:
    """The given tree itself, writable."""
    return None if o.name == "layer" else \
        o._replace(name="root_bind") if o.name == "root_overlay" else o


def elsewhere(directory: str) -> Change:
    def change(o: Operation) -> Operation:
        return o._replace(values=(directory, 9, *o.values[2:])) if o.name == "layer" else o
    return change


def over(tree: Path) -> Change:
    def change(o: Operation) -> Operation:
        status = tree.stat()
        return o._replace(values=(str(tree), o.values[1], status.st_dev, status.st_ino,
                                  status.st_uid)) if o.name == "root_overlay" else o
    return change


def larger(o: Operation) -> Operation:
    return o._replace(values=(*o.values[:2], 64 << 30, o.values[3])) if o.name == "layer" else o


@pytest.mark.parametrize("control, change", [
    ("filesystem.overlay", as_bind), ("filesystem.read_only_root", as_bind),
    ("filesystem.overlay", elsewhere("layers")), ("filesystem.overlay", over(Path("other"))),
    ("limits.tmpfs", larger)])
def test_another_root_than_decided_is_not_let_go(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str, change: Change
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layers").mkdir(mode=0o700)
    (image / "bin").lstat()
    subprocess.run(["cp", "-a", image, "other"], check=True)
    request = request_for(image, "ephemeral")
    program = weakened(request, None, lambda o: _absolute(change(o), tmp_path))
    with pytest.raises(ExecutorError, match=rf"not let go: .*\b{control}: "):
        start.run(program, (), at_gate=Gate())


def _absolute(o: Operation | None, directory: Path) -> Operation | None:
    if o is None or o.name not in ("layer", "root_overlay") or not str(o.values[0]) \
            or str(o.values[0]).startswith("/"):
        return o
    return o._replace(values=(str(directory / str(o.values[0])), *o.values[1:]))


@pytest.mark.parametrize("writable", ["ephemeral", "persistent"])
def test_the_layer_that_was_decided_is_let_go(image: Path, tmp_path: Path, writable: str) -> None:
    (tmp_path / "layers").mkdir(mode=0o700)
    layer = Layer(str(tmp_path / "layers"), 3) if writable == "persistent" else None
    program = weakened(request_for(image, writable), layer, lambda o: o)
    assert start.run(program, (), at_gate=Gate(strict=True)).returncode == 0


def test_the_decision_does_not_depend_on_where_the_layer_is(image: Path) -> None:
    request = request_for(image, "persistent")
    first, second = (request.plan(pinned=True, layer=Layer("/x", n)) for n in (1, 2))
    assert first.operations != second.operations
    assert request.decision.digest == request_for(image, "persistent").decision.digest
