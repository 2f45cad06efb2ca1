"""Builds what Python can't carry as source: the executor, seccomp filters, parsed policies.

hatchling calls :class:`BuildHook` for wheels and editable installs. ``python hatch_build.py DIR``
writes the generated data alone, which is what ``make`` does in a source tree.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
EXECUTOR = Path("hardrun/executor/hardrun-exec")
GENERATORS = {
    "filters": "hardrun.kernel.seccomp.prebuild",
    "compiled": "hardrun.policy.prebuild",
}


def build_executor() -> Path:
    """Build the executor in the tree, or raise with the compiler's own words."""
    subprocess.run(["make", "-s", "-C", str(ROOT / EXECUTOR.parent), f"PYTHON={sys.executable}"],
                   check=True)
    return ROOT / EXECUTOR


def build_data(directory: Path) -> None:
    """Write the generated data into ``directory``, a folder for each generator."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kind, module in GENERATORS.items():
        target = directory / kind
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", module, str(target)], check=True, cwd=ROOT,
                       env=environment)


class BuildHook(BuildHookInterface[Any]):
    """Puts the executor and the data into the wheel."""

    def dependencies(self) -> list[str]:
        """A C compiler with musl as a wheel, where the distribution's is missing: needs no root."""
        return [] if shutil.which("musl-gcc") else ["ziglang"]

    def initialize(self, version: str, build_data_of_hatch: dict[str, Any]) -> None:
        """Called before files are collected; ``version`` is ``standard`` or ``editable``."""
        if self.target_name != "wheel":
            return
        executor = build_executor()
        build_data_of_hatch["shared_scripts"][str(executor)] = "hardrun"
        if version == "editable":
            return
        generated = ROOT / "build" / "data"
        build_data(generated)
        include = {str(executor): str(EXECUTOR)}
        for directory in ("policies", "profiles"):
            include[str(ROOT / directory)] = f"hardrun/data/{directory}"
        for kind in GENERATORS:
            include[str(generated / kind)] = f"hardrun/data/{kind}"
        build_data_of_hatch["force_include"].update(include)
        build_data_of_hatch["pure_python"] = False
        # Python of any kind, but one kind of machine: the executor is static, so any Linux.
        build_data_of_hatch["tag"] = f"py3-none-linux_{platform.machine()}"


if __name__ == "__main__":
    build_data(Path(sys.argv[1]))
