"""Mutations of documents, and a fuzzer for where atheris is not.

That one is blind to coverage, but keeps what ended in a new way. An ending is the error's text
without its numbers and quotations: where errors tell checks apart, it leads past one after the
other.
"""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.targets import Target

LARGEST = 1 << 14
PATIENCE = 60  # seconds for one input: a hang, however busy the machine is
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|-?\d+|fuzzed\S*")


_VALUES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 6, 4096, 1 << 31, 1 << 63, 1 << 64, 10 ** 400, 0.5, float("nan"),
    "", "any", "/", "..", "1G", "\0", "\ud800", "x" * 300, [], {}, [[]], {"": None}, [None])


def _places(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value."""
    items = node.items() if isinstance(node, dict) else enumerate(
        node if isinstance(node, list) else ())
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


def _at(node: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        node = node[key]
    return node


def restructured(data: bytes, chance: random.Random) -> bytes:
    """A document of JSON (all of which is YAML too) with one value or name of another kind."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(chance.choice((1, 1, 1, 3))):
        places = _places(document)
        path, other = chance.choice(places), chance.choice(places)
        # A copy of either: what is put into itself is no document any more.
        chosen = chance.choice((chance.choice(_VALUES), _at(document, other)))
        value = json.loads(json.dumps(chosen))
        if not path:
            return json.dumps(chance.choice((value, [document], {"": document}))).encode()
        parent, key = _at(document, path[:-1]), path[-1]
        match chance.randrange(4):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[str(chance.choice((*other, "unknown")))] = parent.pop(key)
            case 2 if isinstance(parent, list):
                parent.extend([parent[key]] * chance.choice((1, 100)))
            case _:
                parent[key] = value
    return json.dumps(document).encode()


def mutated(data: bytes, pool: Sequence[bytes], words: Sequence[bytes],
            chance: random.Random) -> bytes:
    """A neighbour of an input."""
    work = bytearray(data)
    for _ in range(1 << chance.randrange(5)):
        at = chance.randrange(len(work) + 1)
        end = min(len(work), at + 1 + chance.randrange(1 << chance.randrange(1, 8)))
        match chance.randrange(8):
            case 0 if at < len(work):
                work[at] ^= 1 << chance.randrange(8)
            case 1:
                work[at:at + 1] = chance.randbytes(1)
            case 2:
                del work[at:end]
            case 3:
                work[at:at] = work[at:end] * chance.choice((1, 1, 2, 200))
            case 4 if words:
                work[at:at + chance.choice((0, 8))] = chance.choice(words)
            case 5:
                other = chance.choice(pool)
                start = chance.randrange(len(other) + 1)
                work[at:end] = other[start:start + chance.randrange(1, 200)]
            case 6:
                one = chance.choice((b"\0", b"\xff", b"9", b"-1", b"[", b"\n"))
                work[at:end] = one * (end - at)
            case _:
                work[at:at + 4] = chance.randrange(1 << 32).to_bytes(4, "little")
    return bytes(work[:LARGEST])


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"still not read after {PATIENCE} s")


def fuzz(target: Target, seeds: Sequence[bytes], seconds: float, seed: int, crashes: Path) -> int:
    """Mutate for so many seconds; 1 and a file in ``crashes`` for what it must not raise."""
    chance, words = random.Random(seed), [word.encode() for word in target.words]
    pool, endings = list(seeds) or [b""], set[str]()
    signal.signal(signal.SIGALRM, _too_long)
    executions, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        known = executions < len(seeds)
        data = pool[executions] if known else chance.choice(pool)
        if not known:
            data = restructured(data, chance) if target.document and chance.randrange(2) else \
                mutated(data, pool, words, chance)
        executions += 1
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            ending = _PARTICULARS.sub("", target(data))
        except BaseException:  # noqa: BLE001 - whatever it is, it is what was looked for
            path = crashes / f"crash-{executions}"
            path.write_bytes(data)
            traceback.print_exc()
            print(f"written to {path}", file=sys.stderr)
            return 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not known and ending not in endings and len(endings) < 2000:
            pool.append(data)
        endings.add(ending)
    print(f"{executions} executions, {len(endings)} endings, mutator without coverage")
    return 0
