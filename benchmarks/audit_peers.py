"""Who finds what in the corpus of tests/audit, and how fast: hardrun audit beside checkov.

    python benchmarks/audit_peers.py PATH-OF-CHECKOV

Prints the two tables of docs/audit.md. What checkov reports about isolation and hardrun does not is
told, with nothing left out; it ends with 1 then.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hardrun.audit.rules import catalogue
from tests.audit.test_corpus import CORPUS, manifest

# What checkov says that is not about isolation, or that hardrun says otherwise, each with why.
NOT_OURS: Mapping[str, str] = {
    "CKV_K8S_8": "liveness probe: health, which Kubernetes has no default for",
    "CKV_K8S_9": "readiness probe: health",
    "CKV_K8S_10": "CPU request: scheduling",
    "CKV_K8S_12": "memory request: scheduling",
    "CKV_K8S_15": "imagePullPolicy: what is pulled, not what it may do",
    "CKV_K8S_21": "default namespace: organisation",
    "CKV_K8S_25": "NET_BIND_SERVICE, which Restricted allows",
    "CKV_K8S_31": "a ReplicationController whose pod has the profile: nothing to find",
    "CKV_K8S_29": "that there is a securityContext; what it should say has rules of its own",
    "CKV_K8S_30": "that there is a securityContext; what it should say has rules of its own",
    "CKV_K8S_33": "the dashboard: one product",
    "CKV_K8S_35": "secrets as files rather than variables: style; a value written out is found",
    "CKV_K8S_40": "uid above 10000: an id below it that is not 0 is not root; 0 is found",
    "CKV2_K8S_6": "network policies: other objects",
}
ROUNDS = 4  # copies of the corpus for the times


def _write(directory: Path, copies: int) -> int:
    for copy in range(copies):
        for name in CORPUS:
            text = manifest(name, hardened=False)
            (directory / f"{name}-{copy}.json").write_text(text, "utf-8")
    return copies * len(CORPUS)


def _checkov(program: str, directory: Path) -> tuple[dict[str, set[str]], float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [program, "--directory", str(directory), "--framework", "kubernetes", "--compact",
         "--output", "json"], capture_output=True, text=True, check=False,
        env={**os.environ, "LOG_LEVEL": "CRITICAL"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = json.loads(done.stdout[done.stdout.index("{"):])
    found: dict[str, set[str]] = {}
    for check in document["results"]["failed_checks"]:
        name = Path(check["file_path"]).name
        found.setdefault(name, set()).add(check["check_id"])
    return found, after.ru_utime - before.ru_utime


def _hardrun(directory: Path) -> tuple[dict[str, set[str]], float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "hardrun", "audit", "--policy", "all", "--format",
                           "json", str(directory)], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, set[str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        name = Path(finding["file"]).name
        found.setdefault(name, set()).update([finding["rule"], *finding["also"]])
    return found, after.ru_utime - before.ru_utime


Found = Mapping[str, set[str]]


def _rows(theirs: Found, ours: Found) -> Iterator[tuple[Any, ...]]:
    """For each check: in how many manifests it fails, in how many of those a rule of ours does."""
    rules = {name: {rule.id for rule in catalogue() if name in rule.same_as.get("checkov", ())}
             for names in theirs.values() for name in names}
    for check in sorted(rules, key=lambda name: (name.split("_")[0], int(name.split("_")[2]))):
        files = [file for file, names in theirs.items() if check in names]
        both = [file for file in files if rules[check] & ours.get(file, set())]
        missed = ", ".join(sorted(file.rsplit("-", 1)[0] for file in set(files) - set(both)))
        yield check, len(files), len(both), ", ".join(sorted(rules[check])) or "", \
            NOT_OURS.get(check, missed)


def main() -> int:
    """Compare, and measure."""
    program = sys.argv[1] if len(sys.argv) > 1 else "checkov"
    with tempfile.TemporaryDirectory(prefix="hardrun-corpus-") as name:
        _write(Path(name), 1)
        theirs, _ = _checkov(program, Path(name))
        ours, _ = _hardrun(Path(name))
    missed = False
    print("| checkov | manifests | found here too | by | otherwise |")
    print("| --- | --- | --- | --- | --- |")
    for check, number, both, rules, why in _rows(theirs, ours):
        print(f"| {check} | {number} | {both} | {rules} | {why} |")
        missed = missed or (both < number and check not in NOT_OURS)
    foreign = {rule.id for rule in catalogue() if rule.same_as.get("checkov")}
    alone = sorted({rule for names in ours.values() for rule in names} - foreign)
    print(f"\nFound here alone: {', '.join(alone)}")
    with tempfile.TemporaryDirectory(prefix="hardrun-corpus-") as name:
        number = _write(Path(name), ROUNDS)
        _, slow = _checkov(program, Path(name))
        _, fast = _hardrun(Path(name))
    print(f"\n{number} manifests, seconds of CPU: checkov {slow:.1f}, hardrun {fast:.1f}"
          f" ({slow / fast:.0f} times)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
