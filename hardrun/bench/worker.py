"""Measurements in a namespace of their own: ``python -m hardrun.bench.worker``, the task as input.

A user namespace in which the worker keeps its capabilities, for three things that an ordinary
user can't do otherwise: mount more than the host has mounted, show a host without cgroup v1, and
read how much memory a process takes that is not dumpable, as every PID 1 of hardrun's is. What it
starts gets none of these capabilities.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hardrun.bench.document import Peer, Series
from hardrun.bench.scene import Scene
from hardrun.errors import HardrunError

UNIFIED = "/sys/fs/cgroup/unified"
_ALONE = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount")
_PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 36, 47, 4
_MS_BIND, _MS_REC = 0x1000, 0x4000
PATIENCE = 900.0


def possible() -> bool:
    """Whether such a namespace can be had here."""
    return bool(shutil.which("unshare")) and subprocess.run(
        [*_ALONE, "true"], capture_output=True, check=False).returncode == 0


def ask(scene: Scene, suite: str, task: Mapping[str, object], *, peers: Sequence[Peer] = (),
        alone: bool = True) -> list[Series]:
    """What a worker measured; one failed series where it could not.

    ``alone``: in a namespace of its own, else in a process of its own.
    """
    directory = scene.directory / f"w{len(list(scene.directory.iterdir()))}"
    document = {**task, "suite": suite, "directory": str(directory), "rootfs": str(scene.rootfs),
                "floor": str(scene.floor or ""), "policies": scene.policies,
                "command": scene.command, "host": scene.host, "peers": [asdict(p) for p in peers]}
    argv = [*(_ALONE if alone else ()), sys.executable, "-P", "-m", "hardrun.bench.worker"]
    done = subprocess.run(argv, input=json.dumps(document), capture_output=True, text=True,
                          check=False, timeout=PATIENCE, env=_environment())
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return [Series(suite, "worker", str(task.get("quantity", suite)), "", failure=reason)]
    return [Series(**{**one, "samples": tuple(one["samples"])})
            for one in json.loads(done.stdout)]


def _environment() -> dict[str, str]:
    """Python finds this hardrun also where it is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root}


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    encoded = [None if word is None else word.encode() for word in (source, target, kind)]
    _call("mount", *encoded, ctypes.c_ulong(flags), None if data is None else data.encode())


def _make_surroundings(task: Mapping[str, Any], directory: Path) -> None:
    for number in range(int(task.get("mounts", 0))):
        target = directory / "mounts" / str(number)
        target.mkdir(parents=True)
        _mount("tmpfs", str(target), "tmpfs", 0, "size=4k")
    if task.get("unified"):
        _mount(UNIFIED, "/sys/fs/cgroup", None, _MS_BIND | _MS_REC, None)
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _perform(task: Mapping[str, Any]) -> Iterator[Series]:
    from hardrun.bench import memory, ours, peers, rounds, startup
    from hardrun.bench.bench import Bench

    directory = Path(task["directory"])
    (directory / "work").mkdir(parents=True)
    _make_surroundings(task, directory)
    scene = Scene(directory, Path(task["rootfs"]), tuple(task["command"]),
                  tuple(task["policies"]), tuple(task["host"]),
                  Path(task["floor"]) if task["floor"] else None)
    shutil.copy(directory.parent / ours.FILTER, directory)
    found, _ = peers.contenders(scene, [Peer(**p) for p in task["peers"]])
    everybody = [*ours.contenders(scene, in_process=False), *found]
    named = [contender for contender in everybody if contender.name in task["names"]]
    once, failed = rounds.once(named, scene.command)
    bench = Bench(scene, named, once, failed, runs=task.get("runs", 1),
                  warm_up=task.get("warm_up", 1), seconds=task["seconds"])
    try:
        if task["suite"] == "startup":
            yield from startup.within(bench, task["quantity"])
        else:
            yield from memory.within(bench, task["counts"])
    finally:
        peers.close(scene)


def main() -> int:
    """Read the task, measure, write the series."""
    task = json.load(sys.stdin)
    try:
        found = [asdict(series) for series in _perform(task)]
    except (HardrunError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
