"""Nanoseconds of one system call: without a filter, with one, in every runtime's."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence

from hardrun.bench import ours, rounds
from hardrun.bench.bench import Bench, series
from hardrun.bench.clock import Failure
from hardrun.bench.contender import Contender
from hardrun.bench.document import Series
from hardrun.bench.scene import PROBE
from hardrun.kernel.seccomp.simulate import always_allowed, decode, simulate
from hardrun.kernel.seccomp.tables import ABIS, architecture_of, numbers

CALLS = {"getpid": (5_000, "/"), "read": (5_000, "/dev/null"), "openat": (1_000, "/"),
         "clone": (20, "/")}
"""How often each is made in one round, and on which file."""
POLICIES = ("judge", "agent", "build", "docker-default")
ALLOWS_ALL, ITS_FILTER = "a filter that allows all", "untrusted's filter alone"
CONSTANT, SHARE = "allowed calls that the kernel's cache answers", "share"
_ALLOW = 0x7FFF0000


def _contenders(bench: Bench) -> Iterator[Contender]:
    plain = next(c for c in bench.contenders if c.name == ours.PLAIN)
    yield from bench.able("syscall")
    for name, file in ((ALLOWS_ALL, "allow"), (ITS_FILTER, str(ours.filter_of(bench.scene)))):
        yield Contender(name, "", "no sandbox", lambda ask, file=file: [  # type: ignore[misc]
            [*bench.scene.outside((PROBE,)), "filtered", file, *ask.command[1:]]],
            environment=plain.environment)
    for policy in POLICIES:
        if policy not in bench.scene.policies:
            yield ours.compiled(bench.scene, f"hardrun, {policy}", (policy,))


def run(bench: Bench) -> Iterator[Series]:
    """Every series: nanoseconds for one call, and how many calls need no filter."""
    if not bench.scene.probed:
        return
    everybody = {contender.name: contender for contender in _contenders(bench)}
    yield from bench.failures("syscall", "getpid", "ns")
    words = [word for call, (count, path) in CALLS.items() for word in (call, str(count), path)]
    yield from times_inside(bench, "syscall", list(everybody.values()), tuple(CALLS), words)
    yield from _constant(bench)


def times_inside(bench: Bench, suite: str, contenders: Sequence[Contender],
                 quantities: Sequence[str], words: Sequence[str], *, writable: bool = False
                 ) -> Iterator[Series]:
    """What the probe times inside: all operations in each start, as many rounds as fit."""
    by_name = {contender.name: contender for contender in contenders}
    found: dict[str, list[list[float]]] = {}

    def measure(name: str) -> float | Failure:
        values = _one(by_name[name], words, len(quantities), writable=writable)
        if isinstance(values, Failure):
            return values
        found.setdefault(name, []).append(values)
        return 0.0
    costs = [bench.once.get(name, 0.006) / 2 + 0.01 for name in by_name]
    planned = bench.rounds_of(costs)
    _, failed = rounds.interleave(list(by_name), measure, planned)
    for name, contender in by_name.items():
        for number, quantity in enumerate(quantities):
            values = [one[number] for one in found.get(name, ())[planned.warm_up:]]
            yield series(suite, contender, quantity, "ns", failed.get(name) or values)


def _one(contender: Contender, words: Sequence[str], count: int, *, writable: bool
         ) -> list[float] | Failure:
    """Nanoseconds of each operation in one start."""
    output = contender.output(rounds.fresh((PROBE, "time", *words), writable=writable))
    if isinstance(output, Failure):
        return output
    try:
        values = [float(line) for line in output.split()]
    except ValueError:
        return Failure(f"not a number: {output[:80]}")
    return values if len(values) == count else Failure(f"{len(values)} of {count} numbers")


def _constant(bench: Bench) -> Iterator[Series]:
    """The share of the calls that the policy's filter allows, whatever their arguments are."""
    data = ours.filter_of(bench.scene).read_bytes()
    if not data:
        return
    abi = ABIS[architecture_of(platform.machine())]
    code = decode(data, big_endian=abi.big_endian)
    allowed = [number for number in numbers(abi.name).values()
               if simulate(data, abi.name, number).action == _ALLOW]
    share = sum(always_allowed(code, abi.audit, n) for n in allowed) / max(1, len(allowed))
    yield Series("syscall", f"filter of {'+'.join(bench.scene.policies)}", CONSTANT, SHARE,
                 (share,))
