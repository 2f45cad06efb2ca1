"""What SARIF 2.1.0 (OASIS, section 3) says of the objects that are written here: their fields,
which are required, and what values may be. Anything that is not in it is a mistake, as the schema
closes its objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]


def _is(*kinds: type) -> Check:
    def check(value: Any, place: str) -> None:
        assert isinstance(value, kinds), place
    return check


def _one_of(*words: str) -> Check:
    def check(value: Any, place: str) -> None:
        assert value in words, f"{place}: {value!r}"
    return check


def _at_least(least: int) -> Check:
    def check(value: Any, place: str) -> None:
        assert type(value) is int, place
        assert value >= least, place
    return check


def _many(inner: Check, *, unique: bool = False) -> Check:
    def check(value: Any, place: str) -> None:
        assert isinstance(value, list), place
        for number, item in enumerate(value):
            inner(item, f"{place}[{number}]")
        assert not unique or len({repr(item) for item in value}) == len(value), place
    return check


def _object(fields: Mapping[str, Check], *required: str) -> Check:
    def check(value: Any, place: str) -> None:
        assert isinstance(value, dict), place
        assert set(required) <= value.keys(), f"{place} lacks {set(required) - value.keys()}"
        assert value.keys() <= fields.keys(), f"{place}: {value.keys() - fields.keys()}"
        for name, item in value.items():
            fields[name](item, f"{place}.{name}")
    return check


def _map_of(inner: Check) -> Check:
    def check(value: Any, place: str) -> None:
        assert isinstance(value, dict), place
        for name, item in value.items():
            inner(item, f"{place}.{name}")
    return check


_TEXT = _is(str)
_LEVEL = _one_of("none", "note", "warning", "error")
_MESSAGE = _object({"text": _TEXT}, "text")
_REGION = _object({"startLine": _at_least(1), "startColumn": _at_least(1)})
_LOCATION = _object({
    "physicalLocation": _object({"artifactLocation": _object({"uri": _TEXT}), "region": _REGION}),
    "logicalLocations": _many(_object({"fullyQualifiedName": _TEXT}), unique=True)})
_RULE = _object({
    "id": _TEXT, "name": _TEXT, "shortDescription": _MESSAGE, "fullDescription": _MESSAGE,
    "help": _MESSAGE, "defaultConfiguration": _object({"level": _LEVEL}),
    "properties": _object({"tags": _many(_TEXT, unique=True), "security-severity": _TEXT,
                           "precision": _one_of("very-high", "high", "medium", "low")})}, "id")
_RESULT = _object({
    "ruleId": _TEXT, "ruleIndex": _at_least(-1), "level": _LEVEL, "message": _MESSAGE,
    "locations": _many(_LOCATION), "partialFingerprints": _map_of(_TEXT),
    "suppressions": _many(_object({"kind": _one_of("inSource", "external"),
                                   "justification": _TEXT}, "kind"), unique=True),
    "baselineState": _one_of("new", "unchanged", "updated", "absent")}, "message")
_NOTIFICATION = _object({"level": _LEVEL, "message": _MESSAGE, "locations": _many(_LOCATION)},
                        "message")
_RUN = _object({
    "tool": _object({"driver": _object({
        "name": _TEXT, "semanticVersion": _TEXT, "rules": _many(_RULE, unique=True)},
        "name")}, "driver"),
    "columnKind": _one_of("utf16CodeUnits", "unicodeCodePoints"),
    "results": _many(_RESULT),
    "invocations": _many(_object({"executionSuccessful": _is(bool),
                                  "toolExecutionNotifications": _many(_NOTIFICATION)},
                                 "executionSuccessful"))}, "tool")
_LOG = _object({"$schema": _TEXT, "version": _one_of("2.1.0"), "runs": _many(_RUN)}, "version",
               "runs")


def check(document: Any) -> None:
    """AssertionError with the place of what is no SARIF, or beyond what code scanning takes."""
    _LOG(document, "log")
    for run in document["runs"]:
        rules = run["tool"]["driver"]["rules"]
        assert len(run["results"]) <= 25_000
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            assert 0 < len(result["locations"]) <= 10
        for rule in rules:
            assert 0.0 <= float(rule["properties"]["security-severity"]) <= 10.0
            assert len(rule["properties"]["tags"]) <= 20
