"""The decoder in C: hardrun/executor/fuzz.c, built under the sanitizers and run.

By libFuzzer where there is a clang with it, else by the mutator of its own, which gcc builds.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from hardrun.plan import serve
from hardrun.plan.format import encode
from tests.building import copy_sources, make
from tests.fuzz.targets import HERE, ROOT, TARGETS, stored
from tests.sandbox import raw

NEEDED = {"clone", "execute", "pivot_root", "no_new_privs", "set_capabilities", "drop_bounding",
          "not_dumpable", "landlock_restrict", "new_session", "close_descriptors", "load_seccomp"}
SLICE = 20_000  # executions of one process of the mutator
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "detect_leaks=0"}


def clang() -> str | None:
    """A clang that can link libFuzzer."""
    for name in ("clang", *sorted(glob.glob("/usr/bin/clang-[0-9]*"), reverse=True)):
        if not shutil.which(name):
            continue
        done = subprocess.run([name, "--print-runtime-dir"], capture_output=True, text=True,
                              check=False)
        if glob.glob(f"{done.stdout.strip()}/libclang_rt.fuzzer*.a"):
            return name
    return None


def build(target: str, directory: Path, change: Callable[[Path], None] = lambda _: None) -> Path:
    """Build a target of the executor's Makefile in a copy of its sources, perhaps changed."""
    sources = directory / "hardrun" / "executor"
    if not sources.exists():
        change(copy_sources(ROOT / "hardrun/executor/hardrun-exec", directory))
    return make(sources, target, f"CLANG={clang()}")


def seeds(directory: Path) -> list[Path]:
    """Real plans and images, the least plan that is one, and what was kept."""
    least = [o._replace(reason="") for o in raw.operations(["true"]) if o.name in NEEDED]
    made = [encode(least), *TARGETS["plan"].seeds(), *TARGETS["artefact"].seeds(),
            serve.request([b"true"], b"", [], 0),
            serve.request([b"sh", b"-c", b"exit 3"], b"/tmp", [b"A=b", b"PATH=/bin"], 1)]
    directory.mkdir(parents=True, exist_ok=True)
    for data in made:
        (directory / f"{zlib.crc32(data):08x}").write_bytes(data)
    return [*directory.iterdir(), *stored("corpus", "decoder"), *stored("regression", "decoder")]


def mutate(program: Path, kept: list[Path], seconds: float, seed: int) -> int:
    """Run the mutator, slice by slice; its status when it found something."""
    executions, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = subprocess.run([program, str(SLICE), str(seed), *map(str, kept)], check=False,
                              env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        if done.returncode:
            print(f"found with {SLICE} {seed}", file=sys.stderr)
            return done.returncode
        executions, seed = executions + SLICE, seed + 1
    print(f"{executions} executions, mutator without coverage")
    return 0


def fuzz(work: Path, seconds: int, seed: int, engine: str | None, flags: list[str]) -> int:
    """Fuzz for so many seconds; not 0 when something was found."""
    engine = engine or ("libfuzzer" if clang() else "mutator")
    kept = seeds(work / "seeds")
    if engine == "mutator":
        return mutate(build("hardrun-exec-fuzz", work), kept, seconds, seed)
    program, corpus = build("hardrun-exec-libfuzzer", work), work / "corpus"
    corpus.mkdir(exist_ok=True)
    directories = [work / "seeds", *(HERE / kind / "decoder" for kind in ("corpus", "regression"))]
    return subprocess.run(
        [program, str(corpus), *(str(d) for d in directories if d.is_dir()), f"-seed={seed}",
         f"-max_total_time={seconds}", "-max_len=12288", "-timeout=60", f"-artifact_prefix={work}/",
         "-print_final_stats=1", *flags], check=False, env={**os.environ, **ENVIRONMENT}).returncode
