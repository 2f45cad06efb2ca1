"""``python -m hardrun.policy.reference``: the reference page of the policy language, and its JSON
schema, both from the models and the registry."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from hardrun.policy.document import (
    BY_PLACE,
    DangerItem,
    Match,
    Metadata,
    PolicyDocument,
    TestItem,
)
from hardrun.posture import limits, orders, ways_out
from hardrun.posture.control import Control
from hardrun.posture.filesystem import PathSet
from hardrun.posture.registry import CONTROLS

_ORDERS: tuple[tuple[type[Any], str], ...] = (
    (orders.Flag, "the one that keeps more in"),
    (orders.Level, "further left"),
    (orders.Amount, "smaller"),
    (orders.Mask, "more bits"),
    (orders.Names, "a subset"),
    (PathSet, "fewer or narrower paths"),
    (orders.Covering, "fewer or narrower elements"),
    (orders.Obligations, "more of them"),
)

_LAWS = """\
## How a value is decided

A policy bounds what it mentions and nothing else. Those apply that were named with `--policy`
(`untrusted` if none was) and those whose `match` holds; a name that stands in several layers means
all of them. Policies that are run under must together bound what keeps a command in:
`within: [contained]` does.

1. What is granted is within the bounds of every policy that applies, for every control. What is
   enforced differs from it only where the Decision says so, and `host:` can forbid that.
2. The order of layers and files does not matter. One more policy never loosens anything. Without a
   request nothing is looser than bounds and defaults.
3. A request beyond a bound is refused, never clipped, and every control at fault is named with its
   lines. A default beyond a bound is clipped, and that is recorded.
4. Every control is enforced, replaced or degraded, with the layers and the reason.
5. The same inputs give the same digest.
6. `hardrun policy diff` answers by the same order.
7. Without any policy nothing is bounded.

A request is granted exactly. Only `--env` adds to what is taken over anyway. A policy that bounds
a control and names no default gives what the column *unasked* says, within its bounds.

In paths `~` and `$HOME` are the caller's home and `$workdir` the directory that hardrun is started
in, unless that is the home or above it: then it is nothing. A path stands for all below it, `any`
for every path, and the known ways out at the end of this page are left out of each."""


def controls_schema() -> dict[str, Any]:
    """The JSON schema of a section of controls: every field of the registry, nested."""
    properties: dict[str, Any] = {}
    for control in CONTROLS:
        *groups, name = control.place.split(".")
        target = properties
        for group in groups:
            inner = target.setdefault(group, {"type": "object", "additionalProperties": False,
                                              "properties": {}})
            target = inner["properties"]
        target[name] = {**control.schema(), "title": control.title, "description": control.meaning}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def schema() -> dict[str, Any]:
    """The JSON schema of a policy document (draft 2020-12)."""
    document = PolicyDocument.model_json_schema()
    definitions = document["$defs"]
    definitions["Controls"] = controls_schema()
    reference = {"$ref": "#/$defs/Controls"}
    places = [(document, "bounds"), (document, "defaults"), (definitions["DangerItem"], "grant"),
              (definitions["TestItem"], "request")]
    for model, field in places:
        description = model["properties"][field]["description"]
        model["properties"][field] = {**reference, "description": description}
    document["properties"]["host"] = {
        "type": "object", "description": document["properties"]["host"]["description"],
        "propertyNames": {"enum": sorted(BY_PLACE)},
        "additionalProperties": {"enum": ["refuse", "weaker", "degrade"]}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "hardrun policy", **{k: v for k, v in document.items() if k != "title"}}


def _stricter(control: Control[Any]) -> str:
    return next(words for kind, words in _ORDERS if isinstance(control, kind))


def _values(control: Control[Any]) -> str:
    if isinstance(control, orders.Level):
        return ", ".join(control.levels)
    if isinstance(control, orders.Flag):
        return "true, false" if control.loosest is False else "false, true"
    if isinstance(control, limits.Cpus):
        return "such as '0-3,6'; any"
    if isinstance(control, orders.Amount):
        return f"such as {control.example}; unlimited"
    if isinstance(control, orders.Names) and len(control.loosest) < 10:
        return ", ".join(sorted(control.loosest))
    return "a list"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
                    for row in rows]


def _fields(model: type[BaseModel]) -> list[str]:
    return _table(("field", "meaning"), [
        (f"`{name}`" + (" (required)" if field.is_required() else ""),
         field.description or " ".join((_documented(field.annotation)).split()))
        for name, field in model.model_fields.items()])


def _documented(annotation: Any) -> str:
    for model in (Metadata, Match):
        if annotation is model or model in getattr(annotation, "__args__", ()):
            return model.__doc__ or ""
    return ""


def page() -> str:
    """The reference page, in Markdown."""
    lines = ["# Policy reference", "",
             "Generated from the models by `python -m hardrun.policy.reference`.", "",
             "## A document", "", *_fields(PolicyDocument)]
    for model, title in ((Metadata, "metadata"), (Match, "match"), (DangerItem, "danger"),
                         (TestItem, "tests")):
        lines += ["", f"## `{title}`", "", " ".join((model.__doc__ or "").split()), "",
                  *_fields(model)]
    lines += ["", *_LAWS.splitlines(), "", "## Controls", "",
              "What `bounds`, `defaults`, `grant`, `request` and `granted` are made of. *Unasked*"
              " is what a policy grants that bounds the control and names no default.", "",
              *_table(("field", "values", "stricter is", "unasked", "meaning"), [
                  (f"`{c.place}`", _values(c), _stricter(c), c.show(c.default), c.meaning)
                  for c in CONTROLS]),
              "", "## Known ways out", "",
              "What stands under `danger:` with a reason, or not at all.", "",
              *_table(("control", "value", "opens"), [
                  (f"`{way.control}`", f"`{way.value}`", way.opens) for way in ways_out.every()])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
