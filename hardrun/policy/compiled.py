"""Policies parsed ahead: the same values as JSON, with their lines.

The JSON lies beside the YAML in the same installation and is as trusted as that; the checksum only
notices that a policy was edited since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardrun.policy.loaded import Case, DangerGrant, LoadedPolicy, Said
from hardrun.posture.registry import BY_ID

FORMAT = 1


def _dump_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {control: BY_ID[control].dump(value) for control, value in values.items()}


def _load_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {control: BY_ID[control].load(value) for control, value in values.items()}


def _dump_said(values: Mapping[str, tuple[Said, ...]]) -> dict[str, Any]:
    return {control: [BY_ID[control].dump(s.value), s.line, sorted(s.excepted)]
            for control, (s,) in values.items()}


def _load_said(values: Mapping[str, Any], file: str) -> dict[str, tuple[Said, ...]]:
    return {control: (Said(BY_ID[control].load(value), line, f"{file}:{line}",
                           frozenset(excepted)),)
            for control, (value, line, excepted) in values.items()}


def freeze_dry(policy: LoadedPolicy, checksum: int) -> dict[str, Any]:
    """One policy, without its parents, as JSON."""
    return {
        "checksum": checksum,
        "name": policy.name,
        "description": policy.description,
        "within": [list(parent) for parent in policy.within],
        "match": policy.match,
        "bounds": _dump_said(policy.bounds),
        "defaults": _dump_said(policy.defaults),
        "dangers": [[_dump_values(d.grants), d.reason, d.line] for d in policy.dangers],
        "host": {control: list(said) for control, said in policy.host.items()},
        "tests": [[_dump_values(c.request), list(c.refused), _dump_values(c.granted), c.line]
                  for c in policy.tests],
    }


def revive(ahead: Mapping[str, Any], file: str, checksum: int) -> LoadedPolicy | None:
    """The policy of a file from what was parsed ahead; None when it is of another text."""
    if ahead.get("format") != FORMAT:
        return None
    data = ahead.get("policies", {}).get(file)
    if data is None or data["checksum"] != checksum:
        return None
    return LoadedPolicy(
        name=data["name"], file=file, layer="built-in", description=data["description"],
        within=tuple((name, line) for name, line in data["within"]),
        match=data["match"],
        bounds=_load_said(data["bounds"], file),
        defaults=_load_said(data["defaults"], file),
        dangers=tuple(DangerGrant(_load_values(grants), reason, line, f"{file}:{line}")
                      for grants, reason, line in data["dangers"]),
        host={control: (acceptance, origin)
              for control, (acceptance, origin) in data["host"].items()},
        tests=tuple(Case(_load_values(request), tuple(refused), _load_values(granted), line)
                    for request, refused, granted, line in data["tests"]))
