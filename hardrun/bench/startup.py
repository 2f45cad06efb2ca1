"""From the start of a command to its exit, and to its first byte of output; layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from hardrun.bench import ladder, ours, rounds, worker
from hardrun.bench.bench import Bench, series
from hardrun.bench.clock import Failure
from hardrun.bench.contender import Contender
from hardrun.bench.document import SECONDS, Series
from hardrun.bench.scene import PROBE
from hardrun.errors import HardrunError

EXIT, FIRST_BYTE, LAYERS = "exit", "first byte", "layers"
CROWDED, UNIFIED = "exit, 200 more mounts", "exit, cgroup v2 alone"
MORE_MOUNTS = 200
_SHARES = {EXIT: 0.5, FIRST_BYTE: 0.1, LAYERS: 0.2, CROWDED: 0.1, UNIFIED: 0.1}


def run(bench: Bench) -> Iterator[Series]:
    """Every series of the suite."""
    able = bench.able("startup")
    yield from bench.failures("startup", EXIT)
    yield from _times(bench, EXIT, able)
    if bench.scene.probed:
        single = [c for c in able if not c.is_called and c.name != ours.COLD
                  and "create" not in c.name and (bench.is_quick(c.name) or not bench.quick)]
        yield from _times(bench, FIRST_BYTE, single, (PROBE, "byte"))
    else:
        bench.tick(_SHARES[FIRST_BYTE])
    yield from _layers(bench)
    if bench.scene.probed:
        yield from _surroundings(bench)


def _times(bench: Bench, quantity: str, contenders: Sequence[Contender],
           command: tuple[str, ...] = ()) -> Iterator[Series]:
    planned = bench.rounds(contenders, _SHARES[quantity])
    times, failed = rounds.starts(
        contenders, command or bench.scene.command, planned, quick=bench.is_quick,
        before=bench.before, first_byte=quantity == FIRST_BYTE)
    yield from _series(quantity, contenders, times, failed)


def _series(quantity: str, contenders: Sequence[Contender], times: Mapping[str, list[float]],
            failed: Mapping[str, Failure], suite: str = "startup") -> Iterator[Series]:
    for contender in contenders:
        yield series(suite, contender, quantity, SECONDS,
                     failed.get(contender.name) or times[contender.name])


def _layers(bench: Bench) -> Iterator[Series]:
    plain = next(c for c in bench.contenders if c.name == ours.PLAIN)
    contenders = [plain]
    makers: tuple[Callable[..., Iterator[Contender]], ...] = (ladder.steps, ladder.variants)
    for make in makers:
        try:
            contenders += make(bench.scene)
        except HardrunError as error:
            yield Series("layers", "", LAYERS, SECONDS, failure=error.message)
    once, failed = rounds.once(contenders, bench.scene.command)
    able = [c for c in contenders if c.name in once]
    planned = bench.rounds_of(list(once.values()), _SHARES[LAYERS])
    times, later = rounds.starts(able, bench.scene.command, planned)
    yield from _series(LAYERS, contenders, times, {**failed, **later}, "layers")


def _surroundings(bench: Bench) -> Iterator[Series]:
    """The same on a host with more mounts; and, where crun gives up on cgroup v1, without it."""
    wanted = [name for name in ("runc L1", "crun L1", "bwrap L1") if name in bench.once]
    names = [ours.PLAIN, ours.FLOOR, ours.COMPILED]
    task = {"runs": bench.runs, "warm_up": bench.warm_up}
    if "bwrap L1" in wanted:
        yield from _within(bench, CROWDED, {**task, "mounts": MORE_MOUNTS,
                                            "names": [*names, *wanted]})
    else:
        bench.tick(_SHARES[CROWDED])
    if "hybrid" in str(bench.failed.get("crun L1", "")):
        yield from _within(bench, UNIFIED, {**task, "unified": True,
                                            "names": [*names, "crun L1", "crun L4"]})
    else:
        bench.tick(_SHARES[UNIFIED])


def _within(bench: Bench, quantity: str, task: dict[str, object]) -> Iterator[Series]:
    task |= {"quantity": quantity, "seconds": bench.seconds * _SHARES[quantity]}
    yield from worker.ask(bench.scene, "startup", task, peers=bench.peers)
    bench.tick(_SHARES[quantity])


def within(bench: Bench, quantity: str) -> Iterator[Series]:
    """What the worker does in the surroundings that it made."""
    able = bench.able("startup")
    yield from bench.failures("startup", quantity)
    planned = bench.rounds(able)
    times, failed = rounds.starts(able, bench.scene.command, planned, quick=bench.is_quick)
    yield from _series(quantity, able, times, failed)
