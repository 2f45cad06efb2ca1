"""hardrun's own ways to start a command, each present when the installed hardrun has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hardrun
from hardrun.bench import warm
from hardrun.bench.contender import Ask, Contender
from hardrun.bench.scene import WRITABLE, Scene
from hardrun.errors import ExecutorError, HardrunError

COMPILED, CACHED, COLD = "hardrun compiled", "hardrun run, cached", "hardrun run, cold"
SERVED = "hardrun run, new, service"
PREPARED, POOL, SESSION = "hardrun.prepare", "hardrun.Pool", "hardrun.Sandbox"
FLOOR, PLAIN = "kernel floor", "fork + exec"
_SERVICE_STARTS = 10.0  # seconds, at most
FILTER = "filter.bpf"
DEFAULT = ("untrusted",)
_ALL = "policy untrusted: all namespaces, filter, capabilities, Landlock, mounts, PID 1"


def program() -> list[str]:
    """The command line of this hardrun, as it is installed beside this Python."""
    beside = Path(sys.executable).parent / "hardrun"
    return [str(beside)] if beside.exists() else [sys.executable, "-P", "-m", "hardrun"]


def offers(command: str) -> bool:
    """Whether this hardrun has a command of that name."""
    done = subprocess.run([*program(), command, "--help"], capture_output=True, check=False)
    return done.returncode == 0


def options(scene: Scene, *, writable: bool = False) -> list[str]:
    """The request, as flags."""
    words = [word for policy in scene.policies for word in ("--policy", policy)]
    if not scene.host:
        words += ["--rootfs", str(scene.rootfs)]
        if writable:
            words += ["--rw", f"{scene.writable}:{WRITABLE}"]
    return words


def compile_program(scene: Scene, command: str, *, policies: tuple[str, ...], writable: bool
                    ) -> str:
    """The path of what ``hardrun compile`` writes of a command, whose arguments are given later.

    Raises ExecutorError with its words.
    """
    target = scene.directory / f"compiled-{abs(hash((command, policies, writable)))}"
    flags = options(scene, writable=writable)[2 * len(scene.policies):]
    chosen = [word for policy in policies for word in ("--policy", policy)]
    done = subprocess.run([*program(), "compile", *chosen, *flags, "-o", str(target), "--",
                           command], capture_output=True, text=True, check=False,
                          cwd=scene.directory)
    if done.returncode:
        raise ExecutorError(f"hardrun compile: {' '.join(done.stderr.split())}")
    return str(target)


def level(policies: tuple[str, ...]) -> str:
    """How much isolation policies give, as far as that is known here."""
    return "L4+" if policies == DEFAULT else "own"


def compiled(scene: Scene, name: str = COMPILED, policies: tuple[str, ...] = ()) -> Contender:
    """A compiled program: no Python, no cache."""
    named = policies or scene.policies

    @cache
    def path(command: str, writable: bool) -> str:
        return compile_program(scene, command, policies=named, writable=writable)
    note = _ALL if named == DEFAULT else f"policy {' '.join(named)}"
    return Contender(name, level(named), note, lambda ask: [
        [path(ask.command[0], ask.writable), *ask.command[1:]]])


def _run(scene: Scene) -> Callable[[Ask], list[list[str]]]:
    return lambda ask: [[*program(), "run", *options(scene, writable=ask.writable), "--",
                         *ask.command]]


def _served(scene: Scene) -> Contender:
    """A request that was not seen before, each time, decided by a service.

    It has a cache of its own, in which its socket lies; only the stored plans are removed.
    """
    home = scene.directory / "cache-served"
    home.mkdir(mode=0o700, exist_ok=True)
    served = {**os.environ, "XDG_CACHE_HOME": str(home)}
    subprocess.run([*program(), "serve", "--start"], capture_output=True, env=served, check=False)
    deadline = time.monotonic() + _SERVICE_STARTS
    while not (home / "hardrun" / "service").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return Contender(
        SERVED, level(scene.policies), "not seen before, decided by `hardrun serve`", _run(scene),
        environment=served, rows=("startup",),
        prepare=lambda: shutil.rmtree(home / "hardrun" / "plans", ignore_errors=True),
        close=lambda: subprocess.run([*program(), "serve", "--stop"], capture_output=True,
                                     env=served, check=False))


class _Renewed:
    """A session, made anew long before the time is over that its policy gives a sandbox."""

    _LIFE = 20.0  # seconds

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags
        self._begin()

    def _begin(self) -> None:
        self._sandbox, self._born = hardrun.Sandbox(**self._flags), time.monotonic()

    def run(self, argv: list[str]) -> hardrun.Result:
        if time.monotonic() - self._born > self._LIFE:
            self.close()
            self._begin()
        return self._sandbox.run(argv)

    def close(self) -> None:
        self._sandbox.close()


def _in_process(scene: Scene) -> Iterator[Contender]:
    """What the Python API has, within this process."""
    flags: dict[str, Any] = {"policy": list(scene.policies)}
    if not scene.host:
        flags["rootfs"] = str(scene.rootfs)
    prepared = hardrun.prepare(list(scene.command), **flags)
    own = level(scene.policies)
    yield warm.by_subprocess(scene)
    if scene.floor is not None:
        yield from warm.contenders(scene, own, filter_of, flags)
    yield Contender(PREPARED, own, "decided once, run from this Python process", lambda _: [],
                    call=lambda _: _succeed(prepared.run()), rows=("startup", "scale"))
    keepers: tuple[tuple[str, hardrun.Pool | _Renewed, str], ...] = (
        (POOL, hardrun.Pool(**flags), "set up in advance, each used once"),
        (SESSION, _Renewed(flags), "one sandbox, a command more in it"))
    for name, keeper, note in keepers:
        yield Contender(
            name, own, note, lambda _: [], rows=("startup", "scale"), close=keeper.close,
            settle=lambda: time.sleep(warm.WAIT),
            call=lambda ask, keeper=keeper: _succeed(  # type: ignore[misc]
                keeper.run(list(ask.command))))


def _succeed(result: hardrun.Result) -> None:
    if result.returncode:
        raise ExecutorError(f"exit status {result.returncode}")


def filter_of(scene: Scene) -> Path:
    """The policy's system call filter as a file, for the floor and for peers that take one.

    Raises what deciding raises.
    """
    from hardrun.request import decide

    path = scene.directory / FILTER
    if not path.exists():
        plan = decide(["/bin/true"], policies=scene.policies).plan(pinned=True)
        programs = [o.values[0] for o in plan.operations if o.name == "load_seccomp"]
        path.write_bytes(next((p for p in programs if isinstance(p, bytes)), b""))
    return path


def contenders(scene: Scene, *, in_process: bool = True) -> list[Contender]:
    """Without any sandbox, the kernel's floor, and every way that hardrun has.

    Raises HardrunError where hardrun itself refuses: then there is nothing to measure. Without
    ``in_process`` what is started by this Python is left out.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(scene.directory / "cache")}
    (scene.directory / "cache").mkdir(mode=0o700, exist_ok=True)
    filter_of(scene)  # now, and not within the first start
    found = [Contender(PLAIN, "", "no sandbox", lambda ask: [scene.outside(ask.command)],
                       rows=("startup", "syscall", "scale", "io"))]
    if scene.floor is not None:
        floor = str(scene.floor)
        found.append(Contender(
            FLOOR, "L4+", "the necessary system calls alone, in C, nothing checked; no sandbox",
            lambda ask: [[floor, str(filter_of(scene)), str(scene.rootfs), *ask.command]],
            rows=("startup", "scale")))
    own = level(scene.policies)
    found += [
        compiled(scene),
        Contender(CACHED, own, "the plan is in the cache", _run(scene), environment=environment,
                  rows=("startup", "scale")),
        Contender(COLD, own, "no cached plan", _run(scene), environment=environment,
                  prepare=lambda: shutil.rmtree(scene.directory / "cache" / "hardrun",
                                                ignore_errors=True), rows=("startup",)),
    ]
    if not in_process:
        return found
    if offers("serve"):
        found.append(_served(scene))
    try:
        found += _in_process(scene)
    except HardrunError as error:
        raise ExecutorError(f"hardrun can't start {scene.command[0]}: {error.message}",
                            hint=error.hint) from None
    return found
