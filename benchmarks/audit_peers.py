"""Who finds what in the corpus of tests/audit, and how fast: hardrun audit beside checkov.

    python benchmarks/audit_peers.py PATH-OF-CHECKOV

Prints the table of docs/audit.md and times on one core: of hardrun for a repository of 10,000
documents in 1,000 files, and of the two in turn for a tenth of it, since checkov takes minutes for
the whole. What checkov reports about isolation and hardrun does not is told, with nothing left out;
it ends with 1 then, or where hardrun takes more than ten seconds of the processor for the whole, or
more than a tenth of checkov's for the tenth.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

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
FILES, TENTH, EACH = 1_000, 100, 10  # repositories for the times: files, and documents in each
ROUNDS = 3
MOST_SECONDS, LEAST_RATIO = 10.0, 10.0


def _write_corpus(directory: Path) -> None:
    for name in CORPUS:
        (directory / f"{name}.json").write_text(manifest(name, hardened=False), "utf-8")


def _write_repository(directory: Path, files: int) -> None:
    texts = [manifest(name, hardened=False) for name in CORPUS]
    for number in range(files):
        chosen = [texts[(number * EACH + one) % len(texts)] for one in range(EACH)]
        path = directory / f"team-{number % 20}" / f"{number}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n---\n".join(chosen), "utf-8")


class Run(NamedTuple):
    """What a tool wrote, and how long it took: elapsed seconds, and those of the processor."""

    output: str
    elapsed: float
    cpu: float


def _run(argv: list[str]) -> Run:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=False,
                          env={**os.environ, "LOG_LEVEL": "CRITICAL"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(done.stdout, time.perf_counter() - start,
               after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _checkov(program: str, directory: Path) -> Run:
    return _run([program, "--directory", str(directory), "--framework", "kubernetes", "--compact",
                 "--output", "json"])


def _hardrun(directory: Path) -> Run:
    return _run([sys.executable, "-m", "hardrun", "audit", "--policy", "all", "--format", "json",
                 str(directory)])


def _found_by_checkov(output: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for check in json.loads(output[output.index("{"):])["results"]["failed_checks"]:
        found.setdefault(Path(check["file_path"]).name, set()).add(check["check_id"])
    return found


def _found_by_hardrun(output: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for finding in json.loads(output)["findings"]:
        name = Path(finding["file"]).name
        found.setdefault(name, set()).update([finding["rule"], *finding["also"]])
    return found


Found = Mapping[str, set[str]]


def _rows(theirs: Found, ours: Found) -> Iterator[tuple[Any, ...]]:
    """For each check: in how many manifests it fails, in how many of those a rule of ours does."""
    rules = {name: {rule.id for rule in catalogue() if name in rule.same_as.get("checkov", ())}
             for names in theirs.values() for name in names}
    for check in sorted(rules, key=lambda name: (name.split("_")[0], int(name.split("_")[2]))):
        files = [file for file, names in theirs.items() if check in names]
        both = [file for file in files if rules[check] & ours.get(file, set())]
        missed = ", ".join(sorted(Path(file).stem for file in set(files) - set(both)))
        yield check, len(files), len(both), ", ".join(sorted(rules[check])) or "", \
            NOT_OURS.get(check, missed)


def _compared(program: str) -> bool:
    """Print who finds what; whether hardrun misses something."""
    with tempfile.TemporaryDirectory(prefix="hardrun-corpus-") as name:
        _write_corpus(Path(name))
        theirs = _found_by_checkov(_checkov(program, Path(name)).output)
        ours = _found_by_hardrun(_hardrun(Path(name)).output)
    missed = False
    print("| checkov | manifests | found here too | by | otherwise |")
    print("| --- | --- | --- | --- | --- |")
    for check, number, both, rules, why in _rows(theirs, ours):
        print(f"| {check} | {number} | {both} | {rules} | {why} |")
        missed = missed or (both < number and check not in NOT_OURS)
    foreign = {rule.id for rule in catalogue() if rule.same_as.get("checkov")}
    alone = sorted({rule for names in ours.values() for rule in names} - foreign)
    print(f"\nFound here alone: {', '.join(alone)}")
    return missed


def _timed(program: str) -> bool:
    """Print the times; whether hardrun is as fast as it should be."""
    with tempfile.TemporaryDirectory(prefix="hardrun-repository-") as name:
        whole, tenth = Path(name, "whole"), Path(name, "tenth")
        for directory, files in ((whole, FILES), (tenth, TENTH)):
            directory.mkdir()
            _write_repository(directory, files)
        rounds = [(_hardrun(whole), _hardrun(tenth), _checkov(program, tenth))
                  for _ in range(ROUNDS)]
    runs = dict(zip(("hardrun, whole", "hardrun, a tenth", "checkov, a tenth"),
                    zip(*rounds, strict=True), strict=True))
    summary = json.loads(runs["hardrun, whole"][0].output)["summary"]
    print(f"\n{summary['files']} files, {FILES * EACH} documents, {summary['workloads']} workloads,"
          f" {sum(summary['findings'].values())} findings; one core, {ROUNDS} rounds in turn:")
    for name, of in runs.items():
        print(f"  {name}: CPU seconds {median(run.cpu for run in of):.1f}"
              f" ({', '.join(f'{run.cpu:.1f}' for run in of)}), elapsed"
              f" {median(run.elapsed for run in of):.1f}")
    ratio = median(theirs.cpu / ours.cpu for _, ours, theirs in rounds)
    print(f"  checkov takes {ratio:.1f} times as long")
    return median(run.cpu for run in runs["hardrun, whole"]) <= MOST_SECONDS \
        and ratio >= LEAST_RATIO


def main() -> int:
    """Compare, and measure."""
    program = sys.argv[1] if len(sys.argv) > 1 else "checkov"
    missed = _compared(program)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # children inherit it
    return 0 if _timed(program) and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
