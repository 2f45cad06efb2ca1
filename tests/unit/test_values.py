"""Frozen values: to JSON and back, strictly."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, Literal

import pytest

from hardrun.posture.control import Enforcement, degraded
from hardrun.values import freeze, load, opened, plain
from tests.planning import NO, facts, workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    kind: Literal["big", "small"]
    good: bool = False
    parts: tuple[Part, ...] = ()
    pair: tuple[str, int] = ("", 0)
    limits: Mapping[str, int] = field(default_factory=dict)
    anything: Any = None


WHOLE = Whole(kind="big", good=True, parts=(Part(name="a\udcff", size=2), Part(name="b")),
              pair=("x", 1), limits={"pids": 3}, anything={"k": [1, None]})


def test_a_value_survives_json() -> None:
    assert load(Whole, json.loads(json.dumps(plain(WHOLE)))) == WHOLE
    assert load(Whole, {"kind": "small"}) == Whole(kind="small")


def test_json_may_open_a_value_level_by_level() -> None:
    assert json.dumps(WHOLE, default=opened) == json.dumps(plain(WHOLE))
    with pytest.raises(TypeError, match="object is no value of JSON"):
        opened(object())


def test_the_fields_of_a_document_stand_in_the_order_of_the_value() -> None:
    assert list(plain(WHOLE)) == ["kind", "good", "parts", "pair", "limits", "anything"]


@pytest.mark.parametrize("change,problem", [
    ({"kind": "tiny"}, "Whole.kind: 'tiny' is none of big, small"),
    ({"kind": ["big"]}, r"Whole.kind: \['big'\] is none of"),
    ({"good": 1}, "Whole.good: int instead of bool"),
    ({"more": 1}, "Whole: unknown field 'more'"),
    ({"parts": {}}, "Whole.parts: dict instead of list"),
    ({"parts": ["a"]}, r"Whole.parts\[0\]: str instead of dict"),
    ({"parts": [{"name": "a"}, {"size": 1}]}, r"Whole.parts\[1\]: no field 'name'"),
    ({"parts": [{"name": "a", "size": True}]}, r"Whole.parts\[0\].size: bool instead of int"),
    ({"parts": [{"name": None}]}, r"Whole.parts\[0\].name: NoneType instead of str"),
    ({"pair": ["x"]}, "Whole.pair: 1 items, not 2"),
    ({"pair": [1, 1]}, r"Whole.pair\[0\]: int instead of str"),
    ({"limits": {"pids": "3"}}, "Whole.limits.pids: str instead of int"),
    ({"limits": []}, "Whole.limits: list instead of dict"),
])
def test_what_is_not_exactly_the_value_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load(Whole, plain(WHOLE) | change)


@pytest.mark.parametrize("data", [None, [], "kind", 1])
def test_what_is_no_object_is_no_value(data: object) -> None:
    with pytest.raises(ValueError, match="instead of dict"):
        load(Whole, data)


def test_frozen_json_can_not_be_changed_and_thaws_to_what_it_was() -> None:
    document = {"a": [1, {"b": []}], "c": "d"}
    frozen = freeze(document)
    with pytest.raises(TypeError):
        frozen["a"] = ()
    with pytest.raises(TypeError):
        frozen["a"][1]["b"] = ()
    assert plain(frozen) == document
    assert freeze({"s": {2, 1}})["s"] == (1, 2)


@pytest.mark.parametrize("value,name", [
    (facts(), "uid"), (NO, "available"), (workload("true"), "argv"),
    (workload("true", rw=["/tmp"]).mounts[0], "origin"), (degraded(because="x"), "kind")])
def test_inner_values_are_frozen_and_travel_between_processes(value: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
    assert load(type(value), json.loads(json.dumps(plain(value)))) == value


def test_enforcements_can_be_collected() -> None:
    assert len({degraded(because="x"), degraded(because="x"), Enforcement(kind="enforced")}) == 2
