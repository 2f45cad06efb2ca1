"""``python -m hardrun.policy.prebuild DIRECTORY``: parse the policies that ship ahead of time."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

from hardrun.data import data_directory
from hardrun.policy.compiled import FORMAT, freeze_dry
from hardrun.policy.load import COMPILED, builtin_label, read_builtin


def prebuild(directory: Path) -> Path:
    """Write the policies as JSON into ``directory``; PolicyError when one of them is wrong."""
    source = data_directory("policies")
    checksums = {builtin_label(p): zlib.crc32(p.read_bytes())
                 for p in sorted(source.glob("*.yaml"))}
    policies = {policy.file: freeze_dry(policy, checksums[policy.file])
                for policy in read_builtin(source)}
    target = directory / COMPILED
    document = {"format": FORMAT, "policies": policies}
    target.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n", "ascii")
    return target


if __name__ == "__main__":
    prebuild(Path(sys.argv[1]))
