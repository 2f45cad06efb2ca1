"""Is a start slower than it was? Two revisions side by side: ``revisions.py OLD NEW [ROUNDS]``.

OLD and NEW are revisions of git, or directories that hold a tree. Each is built, each compiles the
same request under the policy untrusted, and the starts are interleaved in random order by the
harness of ``hardrun bench``. CPU time is that of all its processes: other load on the machine shows
there least. Exit 1 where all of the interval of a ratio lies above ``AT_MOST``.
"""

from __future__ import annotations

import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hardrun.bench import clock, law
from hardrun.bench.clock import Sample, Start
from hardrun.bench.scene import PROBE, Scene, scene

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, WARM_UP = 300, 3
AT_MOST = 1.03


def tree_of(word: str, directory: Path) -> Path:
    """The tree that a word names, extracted if it is a revision."""
    if Path(word).is_dir():
        return Path(word).resolve()
    directory.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", word], check=True,
                             capture_output=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(directory)], input=archive, check=True)
    return directory


def starts(tree: Path, made: Scene, directory: Path) -> dict[str, Start]:
    """The tree, built: its compiled program and its cached run."""
    directory.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(directory)}
    subprocess.run(["make", "-s", "-C", str(tree / "hardrun/executor"), f"PYTHON={sys.executable}"],
                   check=True, env=environment)
    subprocess.run([sys.executable, "hatch_build.py", "hardrun/data"], check=True, cwd=tree,
                   env=environment)
    hardrun = [sys.executable, "-P", "-m", "hardrun"]
    request = ["--policy", "untrusted", "--rootfs", str(made.rootfs)]
    compiled = directory / "compiled"
    subprocess.run([*hardrun, "compile", *request, "-o", str(compiled), "--", PROBE],
                   check=True, env=environment, cwd=directory)
    if (tree / "hardrun/executor/frontend.c").exists():
        hardrun = [str(_install(tree, directory, hardrun))]
    return {"compiled program": Start([str(compiled)], environment),
            "hardrun run, cached": Start([*hardrun, "run", *request, "--", PROBE], environment)}


def _install(tree: Path, directory: Path, hardrun: Sequence[str]) -> Path:
    """The native front-end of the tree, with its command line beside it."""
    (directory / "bin").mkdir()
    script = directory / "bin" / "hardrun-cli"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(hardrun)} "$@"\n')
    script.chmod(0o755)
    return Path(shutil.copy2(tree / "hardrun/executor/hardrun-exec", directory / "bin/hardrun"))


def measure(pair: tuple[Start, Start], rounds: int) -> list[tuple[Sample, Sample]]:
    """Times of old and new, one start of each in every round, either of them first."""
    times = []
    for _ in range(rounds + WARM_UP):
        taken: dict[int, Sample] = {}
        for number in random.sample((0, 1), 2):
            found = clock.sequence([pair[number]])
            if not isinstance(found, Sample):
                raise SystemExit(f"{' '.join(pair[number].argv)}: {found.reason}")
            taken[number] = found
        times.append((taken[0], taken[1]))
    return times[WARM_UP:]


def compare(pair: tuple[Start, Start], rounds: int, what: str) -> bool:
    """Measure and print; whether the new one is slower."""
    times = measure(pair, rounds)
    slower = False
    for kind in Sample._fields:
        old, new = ([getattr(both[n], kind) for both in times] for n in (0, 1))
        ratio = law.ratio(new, old, paired=True)
        slower = slower or law.verdict(ratio, AT_MOST) == "more"
        print(f"| {what}, {kind} | {law.median(old) * 1e3:.2f} | {law.median(new) * 1e3:.2f} "
              f"| {ratio.value:.3f} | {ratio.low:.3f} to {ratio.high:.3f} |", flush=True)
    return slower


def main() -> int:
    """Measure and print a table."""
    words = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else ROUNDS
    with scene() as made:
        trees = [tree_of(word, made.directory / f"tree-{n}") for n, word in enumerate(words)]
        old, new = (starts(tree, made, made.directory / f"made-{n}")
                    for n, tree in enumerate(trees))
        print(f"{rounds} interleaved starts each, Linux {platform.release()}, {os.cpu_count()} "
              f"CPUs, {len(set(os.getgroups()) - {os.getgid()})} supplementary groups\n\n"
              f"| ms | {' | '.join(Path(word).name for word in words)} | ratio | 95 % |\n"
              "| --- | --- | --- | --- | --- |")
        slower = [compare((old[what], new[what]), rounds, what) for what in old]
    return 1 if any(slower) else 0


if __name__ == "__main__":
    sys.exit(main())
