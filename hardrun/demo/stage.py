"""Runs the hostile script where it finds everything a careless caller leaves lying about.

``python -m hardrun.demo.stage sandbox|bare PROJECT SECONDS ATTEMPT…`` is started by
:mod:`hardrun.demo.play` with a terminal of its own, an inheritable descriptor of the user's home
and a token in the environment. One JSON document tells what came of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

AFTERWARDS = 1.5  # seconds until a process that outlived the sandbox has shown itself


def _interpreter() -> tuple[str, list[str]]:
    """The system's plain python3; where there is none, our own, which then has to be granted."""
    system = "/usr/bin/python3"
    if os.access(system, os.X_OK):
        return system, []
    own = os.path.realpath(sys.executable)
    return own, [own]


def _answers(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]


def _in_sandbox(argv: list[str], project: str, toolchain: list[str],
                limit: float) -> dict[str, Any]:
    import hardrun

    result = hardrun.run(argv, policy="untrusted", rw=[project], workdir=project,
                         toolchain=toolchain, timeout=limit, capture_output=True)
    layers = {c.control: list(c.enforcement.by) for c in result.decision.controls}
    return {"answers": _answers(result.stdout), "outcome": result.outcome, "layers": layers,
            "errors": result.stderr.decode(errors="replace")}


def _without(argv: list[str], project: str) -> dict[str, Any]:
    # close_fds=False: what a shell or a daemon does that never thought about it.
    done = subprocess.run(argv, cwd=project, capture_output=True, close_fds=False, check=False)
    return {"answers": _answers(done.stdout), "outcome": "exited", "layers": {},
            "errors": done.stderr.decode(errors="replace")}


def main(arguments: list[str]) -> None:
    """Start the script as asked and write the document to standard output."""
    mode, project, limit, *names = arguments
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    interpreter, toolchain = _interpreter()
    argv = [interpreter, "-I", f"{project}/program", f"{project}/scene.json", *names]
    if mode == "sandbox":
        document = _in_sandbox(argv, project, toolchain, float(limit))
    else:
        document = _without(argv, project)
    if "outlive" in names:
        time.sleep(AFTERWARDS)
        if not Path(project, "outlived").exists():
            document["answers"] = [{"name": "outlive", "through": False, "errno": "",
                                    "evidence": "gone with the command"}]
    for name in ("jail", "outlived"):
        shutil.rmtree(Path(project, name), ignore_errors=True)
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
