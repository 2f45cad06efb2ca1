"""Workloads as they are met: what is wrong is found, and hardened they are clean."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from ruamel.yaml import YAML

from hardrun.audit.judge import causes, judge
from hardrun.audit.rules import DEFAULT_SETS, catalogue, select
from tests.audit import examples

CORPUS: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (examples.HERE / "corpus.yaml").read_text("utf-8"))
RULES = catalogue()


def manifest(name: str, *, hardened: bool) -> str:
    """One workload of the corpus, as it is often found or as it should be."""
    shape = CORPUS[name]
    base = examples.POD["spec"]
    spec = examples.merged(base, shape.get("pod", {}))
    container = examples.merged(base["containers"][0], shape.get("container", {}))
    if not hardened:
        spec = examples.merged(spec, shape.get("bad_pod", {}))
        container = examples.merged(container, shape.get("bad_container", {}))
    spec = {**spec, "containers": [container]}
    kind = shape["kind"]
    inner: dict[str, Any] = {"metadata": {"labels": {"app": name}}, "spec": spec}
    if kind == "Pod":
        body: dict[str, Any] = {"spec": spec}
    elif kind == "CronJob":
        body = {"spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": inner}}}}
    else:
        body = {"spec": {"selector": {"matchLabels": {"app": name}}, "template": inner}}
    group = {"Pod": "v1", "ReplicationController": "v1", "Job": "batch/v1", "CronJob": "batch/v1"}
    return json.dumps({"apiVersion": group.get(kind, "apps/v1"), "kind": kind,
                       "metadata": {"name": name, "namespace": "shop"}, **body}, indent=2)


def _rules(text: str, *sets: str) -> Counter[str]:
    subjects = examples.subjects(text, "manifest.json")
    return Counter(f.rule.id for f in causes(judge(subjects, select(RULES, sets)).findings))


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_wrong_is_found_and_nothing_else(name: str) -> None:
    found = _rules(manifest(name, hardened=False), *DEFAULT_SETS)
    assert found == Counter(CORPUS[name]["findings"])


@pytest.mark.parametrize("name", CORPUS)
def test_hardened_it_is_clean_by_every_rule(name: str) -> None:
    assert not _rules(manifest(name, hardened=True), "all")
