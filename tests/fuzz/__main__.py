"""Fuzz: ``python -m tests.fuzz [TARGET…] [--seconds N] [--engine NAME] [--work DIR] [-flag…]``.

Each target, or all, for so many seconds: the decoder by libFuzzer, readers in Python by atheris, or
either by a mutator of ours where that is not installed. What is worth keeping goes into
``.make/fuzz/TARGET``; what fails lies there as ``crash-…``, and the status is 1. Flags go through
to libFuzzer: for the decoder ``-merge=1`` makes the smallest corpus of all inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import resource
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # address space: what needs more has no bound


def main() -> int:
    """Parse the flags and fuzz, each target in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--engine", choices=("libfuzzer", "atheris", "mutator"))
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--work", type=Path, default=Path(".make/fuzz"))
    options, flags = parser.parse_known_args()
    if len(options.targets) == 1:
        return _one(options.targets[0], options, flags)
    from tests.fuzz.targets import TARGETS

    found = []
    for target in options.targets or ("decoder", *TARGETS):
        print(f"-- {target}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", target, *sys.argv[1:]]
        words = [word for word in command if word == target or word not in options.targets]
        if subprocess.run(words, check=False).returncode:
            found.append(target)
    print(f"found something: {', '.join(found)}" if found else "nothing was found")
    return 1 if found else 0


def _one(name: str, options: argparse.Namespace, flags: list[str]) -> int:
    work = (options.work / name).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if name == "decoder":
        from tests.fuzz import decoder

        return decoder.fuzz(work, options.seconds, options.seed, options.engine, flags)
    tempfile.tempdir = str(work.parent)  # libFuzzer ends the process: nothing is cleaned up then
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with_atheris = importlib.util.find_spec("atheris") is not None
    if (options.engine or "atheris") == "atheris" and with_atheris:
        return _atheris(name, options, work, flags)
    from tests.fuzz import mutator
    from tests.fuzz.targets import READERS

    return mutator.fuzz(READERS[name], _seeds(name), options.seconds, options.seed, work)


def _seeds(name: str) -> list[bytes]:
    from tests.fuzz.targets import READERS, stored

    kept = [path.read_bytes() for kind in ("corpus", "regression") for path in stored(kind, name)]
    return [*READERS[name].seeds(), *kept]


def _atheris(name: str, options: argparse.Namespace, work: Path, flags: list[str]) -> int:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["hardrun"]):
        from tests.fuzz.mutator import LARGEST, PATIENCE, restructured
        from tests.fuzz.targets import HERE, READERS

        target = READERS[name]
        for data in target.seeds():  # what is imported late is instrumented too
            target(data)
            (work / f"seed-{zlib.crc32(data):08x}").write_bytes(data)
    if target.words:
        (work / "words").write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        flags = [f"-dict={work}/words", *flags]
    kept = [str(HERE / kind / name) for kind in ("corpus", "regression")
            if (HERE / kind / name).is_dir()]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        changed = restructured(data, random.Random(seed)) if seed % 2 else data
        return changed if changed != data and len(changed) <= most else \
            bytes(atheris.Mutate(data, most))

    atheris.Setup(["fuzz", str(work), *kept, f"-max_total_time={options.seconds}",
                   f"-timeout={PATIENCE}", f"-seed={options.seed}", f"-max_len={LARGEST}",
                   f"-artifact_prefix={work}/", "-print_final_stats=1", "-rss_limit_mb=2048",
                   *flags],
                  lambda data: target(data) and None,
                  **({"custom_mutator": mutate} if target.document else {}))
    atheris.Fuzz()
    return 0


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode("latin-1", "replace"))


if __name__ == "__main__":
    sys.exit(main())
