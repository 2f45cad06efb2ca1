"""What a start costs: every contender in random order, round after round; medians and ratios.

``startup.py [ROUNDS]`` writes results.md and results.json beside itself and exits with 1 when a
floor is missed. Trust the ratios: medians drift from machine to machine and from day to day.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contenders import Contender, all_contenders, compile_plan

HERE = Path(__file__).resolve().parent
ROUNDS = 60
# (what, compared with, at most)
RATIOS = (("compiled plan", "bwrap", 0.7), ("compiled plan", "runc", 0.12))
MILLISECONDS = (("hardrun run, cold", 250.0), ("hardrun run, cached", 60.0))
KIBIBYTES = (("executor on disk", 100.0), ("private memory", 400.0))


def _start(argv: list[str], *, errors: bool = True) -> float | None:
    """Milliseconds from the start to the reaping of one process; None when it did not succeed."""
    null = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in range(2 if errors else 3)]
    begin = time.perf_counter_ns()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=null)
    status = os.waitpid(pid, 0)[1]
    taken = (time.perf_counter_ns() - begin) / 1e6
    return taken if status == 0 else None


def able(contenders: list[Contender]) -> tuple[list[Contender], list[str]]:
    """Those that start here, and the names of the others. Ours have to."""
    found, unable = [], []
    for number, contender in enumerate(contenders):
        ours = "hardrun" in contender.name or contender.name == "compiled plan"
        if _start(contender.argv(number), errors=ours) is not None:
            found.append(contender)
        elif ours:
            raise SystemExit(f"failed: {' '.join(contender.argv(number))}")
        else:
            unable.append(contender.name)
    return found, unable


def measure(contenders: list[Contender], rounds: int) -> dict[str, list[float]]:
    """Times of every contender, interleaved so that drift meets all of them alike."""
    times: dict[str, list[float]] = {c.name: [] for c in contenders}
    warm_up = 2
    number = 1000
    for turn in range(rounds + warm_up):
        for contender in random.sample(contenders, len(contenders)):
            # One start that is not counted: nobody pays for the CPU's caches that the contender
            # before has emptied. What `prepare` removes has to be made anew all the same.
            number += 2
            _start(contender.argv(number))
            contender.prepare()
            taken = _start(contender.argv(number + 1))
            if taken is None:
                raise SystemExit(f"failed: {' '.join(contender.argv(number))}")
            if turn >= warm_up:
                times[contender.name].append(taken)
    return times


def _private(pid: int) -> int:
    """Resident bytes that are not shared: statm can be read even of a non-dumpable process."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [d for child in children for d in _descendants(int(child))]


def memory(hardrun: str, directory: Path) -> dict[str, float]:
    """KiB on disk and, while a sandbox runs, private to its executor: parent, PID 1, image."""
    plan = compile_plan(hardrun, directory / "true", directory / "held")
    with subprocess.Popen([str(plan), "hold"], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 5
        while len(family := _descendants(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # until PID 1 has come to rest
        image = os.stat(f"/proc/{process.pid}/exe").st_size
        private = sum(_private(pid) for pid in family[:-1])  # the last is the workload itself
        process.communicate()
    executor = HERE.parent / "hardrun" / "executor" / "hardrun-exec"
    return {"executor on disk": executor.stat().st_size / 1024, "image": image / 1024,
            "private memory": (private + image) / 1024, "processes": len(family) - 1}


def misses(medians: dict[str, float], sizes: dict[str, float]) -> list[str]:
    """The floors that were missed, in words."""
    found = []
    for name, other, limit in RATIOS:
        if other in medians and medians[name] / medians[other] > limit:
            found.append(f"{name} / {other}: {medians[name] / medians[other]:.3f}, "
                         f"at most {limit} wanted")
    found += [f"{name}: {medians[name]:.0f} ms, at most {limit:.0f} wanted"
              for name, limit in MILLISECONDS if medians[name] > limit]
    found += [f"{name}: {sizes[name]:.0f} KiB, at most {limit:.0f} wanted"
              for name, limit in KIBIBYTES if sizes[name] > limit]
    return found


def _rows(document: dict[str, Any]) -> list[str]:
    medians = document["medians"]
    lines = []
    for row in document["contenders"]:
        own = medians[row["name"]]
        ratios = [f"{own / medians[other]:.2f}" if other in medians else "not here"
                  for other in ("bwrap", "runc")]
        cells = [f"{row['name']} {row['version']}".strip(), f"{own:.2f}",
                 f"{row['low']:.2f} to {row['high']:.2f}", *ratios, row["note"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _page(document: dict[str, Any]) -> str:
    sizes = document["sizes"]
    floors = [f"{name} at most {limit} of {other}" for name, other, limit in RATIOS]
    floors += [f"{name} at most {limit:.0f} ms" for name, limit in MILLISECONDS]
    floors += [f"{name} at most {limit:.0f} KiB" for name, limit in KIBIBYTES]
    missed = [f"Missed: {m}." for m in document["missed"]] or ["All are held."]
    return "\n".join([
        "# What a start costs", "",
        f"{document['rounds']} rounds in random order, medians; {document['host']}, as an ordinary",
        f"user with {document['groups']} supplementary groups (to drop some takes newuidmap and",
        "newgidmap, two more programs). The program is a static `true`. Before each start that is",
        "counted the same is started once uncounted. `make bench` writes this page.", "",
        "| started by | ms | 10 % to 90 % | of bwrap | of runc | |",
        "| --- | --- | --- | --- | --- | --- |",
        *_rows(document), "",
        f"The executor is {sizes['executor on disk']:.0f} KiB on disk. While a sandbox runs, its",
        f"{sizes['processes']:.0f} processes and the image of {sizes['image']:.0f} KiB take",
        f"{sizes['private memory']:.0f} KiB of private memory.", "",
        *([f"Can't start on this host: {', '.join(document['unable'])}.", ""]
          if document["unable"] else []),
        f"Floors: {'; '.join(floors)}.", "", *missed, ""])


def main() -> int:
    """Measure, write both files, tell what was missed."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    hardrun = str(Path(sys.executable).parent / "hardrun")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        os.environ["XDG_CACHE_HOME"] = str(directory / "cache")
        (directory / "cache").mkdir(mode=0o700)
        os.chdir(directory)
        contenders, unable = able(all_contenders(directory, hardrun))
        times = measure(contenders, rounds)
        sizes = memory(hardrun, directory)
    medians = {c: statistics.median(t) for c, t in times.items()}
    rows = []
    for contender in sorted(contenders, key=lambda c: medians[c.name]):
        tenths = statistics.quantiles(times[contender.name], n=10)
        rows.append({"name": contender.name, "version": contender.version, "note": contender.note,
                     "low": tenths[0], "high": tenths[-1]})
    document = {"rounds": rounds, "host": f"Linux {platform.release()}, {os.cpu_count()} CPUs",
                "groups": len(set(os.getgroups()) - {os.getgid()}),
                "medians": medians, "contenders": rows, "sizes": sizes, "unable": unable,
                "missed": misses(medians, sizes)}
    (HERE / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    (HERE / "results.md").write_text(_page(document))
    print(_page(document))
    return 1 if document["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
