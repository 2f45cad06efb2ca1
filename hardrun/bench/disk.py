"""What one more container takes on disk: allocated blocks and inodes of everything that is kept.

Counted with lstat(2), st_blocks and not st_size: a small file takes a whole block. The root file
system exists already and is shared; only what is added to storage, state and caches counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hardrun.bench import clock, memory, oci, ours
from hardrun.bench.bench import Bench
from hardrun.bench.clock import Failure, Start
from hardrun.bench.document import Series
from hardrun.bench.peers import DRIVERS, RUN_FLAGS, Engine
from hardrun.bench.scene import PROBE, Scene
from hardrun.state import places

COUNTS, QUICK_COUNTS = (1, 10, 100, 1000), (1, 10)
REFERENCE = 12 * 1024
"""Bytes that a new Docker container takes."""
STATES = ("created", "running", "stopped")
ONE_MORE = "one more"
"""What came with each single one, of which the median counts: records share their blocks."""
_HOLD = (PROBE, "hold")
_PAUSE = 0.2  # seconds
_BLOCK = 512  # what st_blocks counts in, whatever the file system (stat(2))

Maker = Callable[[int], Sequence[str]]


class Usage(NamedTuple):
    """What files take."""

    size: int
    inodes: int


@dataclass(frozen=True)
class Kept:
    """A runtime that keeps containers: the command line of each step, and where it keeps them.

    ``start`` returns while the container runs; ``run`` stays with it. What a runtime has no word
    for is absent. At most ``running_at_most`` run at once: of some, each takes megabytes of memory.
    """

    name: str
    level: str
    note: str
    paths: Sequence[Path]
    create: Maker | None = None
    start: Maker | None = None
    run: Maker | None = None
    stop: Maker | None = None
    remove: Maker | None = None
    running_at_most: int = 100
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def allocated(paths: Sequence[Path]) -> Usage:
    """Allocated bytes and inodes below ``paths``; a file with several names counts once.

    A directory that belongs to other ids counts itself, without what is in it.
    """
    seen: set[tuple[int, int]] = set()
    size = 0
    waiting = [str(path) for path in paths]
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            size += status.st_blocks * _BLOCK
            if os.path.isdir(path) and not os.path.islink(path):
                waiting += [entry.path for entry in os.scandir(path)]
        except OSError:
            continue
    return Usage(size, len(seen))


def _ours(scene: Scene) -> Iterator[Kept]:
    cache = scene.directory / "cache-disk"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    state = Path(places.directory())
    flags = ours.options(scene)
    cache.mkdir(mode=0o700, exist_ok=True)
    yield Kept("hardrun run", ours.level(scene.policies),
               "nothing is kept but the plan, once for all of them", (cache, state),
               run=lambda _: [*ours.program(), "run", *flags, "--", *_HOLD],
               running_at_most=COUNTS[-1], environment=environment)
    if not ours.offers("create"):
        return
    for kind in ("ephemeral", "persistent"):
        yield _named(kind, flags, (cache, state), environment)


def _named(kind: str, flags: Sequence[str], paths: Sequence[Path],
           environment: Mapping[str, str]) -> Kept:
    """A named container of hardrun's; ``kind`` is where its writable layer lies."""
    # untrusted keeps nothing of what a command changes: a layer that stays is for others
    policy = ("--policy", "contained") if kind == "persistent" else ()

    def step(*words: str) -> Maker:
        return lambda n: [*ours.program(), *words, f"bench-{os.getpid()}-{n}"]

    def create(number: int) -> list[str]:
        chosen = [*policy, *flags[2:]] if policy else flags
        return [*ours.program(), "create", *chosen, "--writable", kind, "--name",
                f"bench-{os.getpid()}-{number}", "--", *_HOLD]
    return Kept(f"hardrun create, {kind}", "own" if policy else "L4+",
                "a named container on the shared root", paths, create=create, start=step("start"),
                stop=step("stop", "--time", "0"), remove=step("rm", "--force"),
                running_at_most=COUNTS[-1], environment=environment)


def _runc(scene: Scene, name: str) -> Iterator[Kept]:
    home = scene.directory / f"disk-{name}"
    program = str(shutil.which(name))
    document = oci.config(oci.propose(program, home / "proposed"), scene, _HOLD, "L1")
    bundle = oci.bundle(home / "bundle", document)
    (home / "state").mkdir()
    flags = [program, *(["--cgroup-manager=disabled"] if name == "crun" else []), "--root",
             str(home / "state")]
    yield Kept(f"{name}", "L1", "one bundle for all, no writable layer", (home / "state",),
               create=lambda n: [*flags, "create", "--bundle", str(bundle), f"d{n}"],
               start=lambda n: [*flags, "start", f"d{n}"],
               stop=lambda n: [*flags, "kill", f"d{n}", "KILL"],
               remove=lambda n: [*flags, "delete", "--force", f"d{n}"])


def _engines(scene: Scene, *, buildah: bool) -> Iterator[Kept]:
    for driver in DRIVERS:
        engine = Engine(scene, driver)
        engine.import_root()
        kept = (engine.storage, engine.run)
        if buildah:
            yield Kept(f"buildah, {driver}", "", "`buildah from`", kept,
                       create=lambda n, e=engine: e.buildah(  # type: ignore[misc]
                           "from", "--pull-never", "--name", f"b{n}", "bench"),
                       remove=lambda n, e=engine: e.buildah("rm", f"b{n}"),  # type: ignore[misc]
                       environment=engine.environment)
            continue
        runtime = "crun" if _starts(engine, "crun") else "runc"
        yield Kept(
            f"podman, {driver}", "L2", f"with {runtime}", kept, environment=engine.environment,
            create=lambda n, e=engine, r=runtime: e.podman(  # type: ignore[misc]
                "--runtime", r, "create", "--name", f"d{n}", *RUN_FLAGS, "bench", *_HOLD),
            start=lambda n, e=engine, r=runtime: e.podman(  # type: ignore[misc]
                "--runtime", r, "start", f"d{n}"),
            stop=lambda n, e=engine, r=runtime: e.podman(  # type: ignore[misc]
                "--runtime", r, "stop", "--time", "0", f"d{n}"),
            remove=lambda n, e=engine, r=runtime: e.podman(  # type: ignore[misc]
                "--runtime", r, "rm", "--force", "--time", "0", f"d{n}"))


def _starts(engine: Engine, runtime: str) -> bool:
    argv = engine.podman("--runtime", runtime, "run", "--rm", *RUN_FLAGS, "bench", PROBE)
    return subprocess.run(argv, env=engine.environment, capture_output=True,
                          check=False).returncode == 0


def _all(bench: Bench) -> Iterator[Kept | Series]:
    """Who keeps containers here; a failed series for each that can't be prepared."""
    scene, present = bench.scene, {peer.name for peer in bench.peers if peer.version}
    makers: list[tuple[str, Callable[[], Iterator[Kept]]]] = [
        ("runc", lambda: _runc(scene, "runc")), ("crun", lambda: _runc(scene, "crun")),
        ("podman", lambda: _engines(scene, buildah=False)),
        ("buildah", lambda: _engines(scene, buildah=True)),
        ("hardrun", lambda: _ours(scene))]
    for name, make in makers:
        if name != "hardrun" and name not in present:
            continue
        try:
            yield from make()
        except (OSError, subprocess.CalledProcessError) as error:
            yield Series("disk", name, "created", "B", failure=str(error))


def run(bench: Bench) -> Iterator[Series]:
    """Bytes and inodes of one more container, by state and count.

    What one leaves of its share of the time is for those after it.
    """
    everybody = list(_all(bench)) if bench.scene.probed else []
    counts = QUICK_COUNTS if bench.quick else COUNTS
    begun = time.monotonic()
    for number, kept in enumerate(everybody):
        if isinstance(kept, Series):
            yield kept
        else:
            left = bench.seconds - (time.monotonic() - begun)
            yield from _measure(kept, counts, left / (len(everybody) - number))
        bench.tick(1 / len(everybody))


def _do(kept: Kept, step: Maker | None, count: int, added: list[float] | None = None) -> str:
    """Perform a step for each; why the first that fails did. ``added``: bytes, by each of them."""
    if step is None:
        return ""
    before = 0 if added is None else allocated(kept.paths).size
    for number in range(count):
        found = clock.run(Start(list(step(number)), kept.environment))
        if isinstance(found, Failure):
            return found.reason
        if added is not None:
            now = allocated(kept.paths).size
            added[number] += now - before
            before = now
    return ""


def _measure(kept: Kept, counts: Sequence[int], seconds: float) -> Iterator[Series]:
    begun, each, failure = time.monotonic(), 0.0, _prepare(kept)
    if failure:
        yield _failed(kept, STATES[0], counts[0], failure)
        return
    for count in counts:
        if each and each * count * 2 > seconds - (time.monotonic() - begun):
            return
        base = allocated(kept.paths)
        started = time.monotonic()
        for state, usage, added in _states(kept, count):
            if isinstance(usage, str):
                failure = usage
                yield _failed(kept, state, count, failure)
                continue
            yield from _series(kept, state, usage, base, count)
            if added:
                yield _one(kept, f"{state}, {ONE_MORE}", "B", added, count)
        each = (time.monotonic() - started) / count
        _do(kept, kept.remove, count)
        if failure:
            return


def _failed(kept: Kept, state: str, count: int, failure: str) -> Series:
    return Series("disk", kept.name, state, "B", (), count, kept.level, kept.note, failure)


def _prepare(kept: Kept) -> str:
    """The first one pays for what is made once for all: databases, locks, the cached plan."""
    for _, usage, _ in _states(kept, 1):
        if isinstance(usage, str):
            return usage
    return _do(kept, kept.remove, 1)


def _states(kept: Kept, count: int) -> Iterator[tuple[str, Usage | str, list[float]]]:
    """Each state that so many containers can be in, with what is allocated then, and for each of
    them the bytes that came with it, where they come one after the other. What fails is the last.
    """
    added = [0.0] * count
    if kept.create is not None:
        failure = _do(kept, kept.create, count, added)
        yield "created", failure or allocated(kept.paths), [*added]
        if failure:
            return
    if count > kept.running_at_most:
        return
    if kept.run is not None:
        running = _held(kept, kept.run, count)
        yield "running", running, []
        if not isinstance(running, str):
            yield "stopped", allocated(kept.paths), []
    elif kept.start is not None:
        failure = _do(kept, kept.start, count, added)
        yield "running", failure or allocated(kept.paths), [*added]
        if not failure:
            failure = _do(kept, kept.stop, count)
            time.sleep(_PAUSE)
            yield "stopped", failure or allocated(kept.paths), []


def _held(kept: Kept, run: Maker, count: int) -> Usage | str:
    """What is allocated while so many run, in the foreground; or why they do not."""
    before = set(memory.descendants(os.getpid()))
    processes = [subprocess.Popen(run(number), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, env=dict(kept.environment))
                 for number in range(count)]
    deadline = time.monotonic() + memory.PATIENCE
    while (running := memory.workloads(set(memory.descendants(os.getpid())) - before)) < count:
        if time.monotonic() > deadline:
            break
        time.sleep(_PAUSE)
    found = allocated(kept.paths)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
    return found if running >= count else f"{running} of {count} run"


def _series(kept: Kept, state: str, usage: Usage, base: Usage, count: int) -> Iterator[Series]:
    for quantity, unit, added in ((state, "B", usage.size - base.size),
                                  (f"{state}, inodes", "inodes", usage.inodes - base.inodes)):
        yield _one(kept, quantity, unit, [max(0, added) / count], count)


def _one(kept: Kept, quantity: str, unit: str, samples: Sequence[float], count: int) -> Series:
    return Series("disk", kept.name, quantity, unit, tuple(samples), count, kept.level, kept.note)
