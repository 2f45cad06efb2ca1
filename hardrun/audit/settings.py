"""``.hardrun.yaml`` of a repository, a file of an organisation, and baselines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrun.audit.located import documents
from hardrun.audit.model import SEVERITIES, Finding, Severity
from hardrun.audit.suppress import WHOLE_FILE, Note
from hardrun.errors import BadInput, PolicyError
from hardrun.kernel.outputs import write_output
from hardrun.posture.filesystem import below

NAME = ".hardrun.yaml"
_MAXIMUM_SIZE = 4 << 20


class Strict(BaseModel):
    """Base of the parts of a document: unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IgnoredItem(Strict):
    """A rule that is not to count, with the reason."""

    rule: str
    reason: Annotated[str, Field(min_length=5)]
    until: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\d)?$")] = ""


class SettingsDocument(Strict):
    """The file."""

    apiVersion: Literal["hardrun/v1"]
    kind: Literal["AuditSettings"]
    policy: list[str] = []
    fail_on: Severity | Literal["never"] | None = None
    exclude: list[str] = []
    severities: dict[str, Severity] = {}
    ignore: list[IgnoredItem] = []


@dataclass(frozen=True)
class Settings:
    """What files say about how to audit; an option of the command line goes before it."""

    policy: tuple[str, ...] = ()
    fail_on: str | None = None
    exclude: tuple[str, ...] = ()
    severities: Mapping[str, Severity] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def within(self, other: Settings) -> Settings:
        """These settings of a repository within those of an organisation, which they can tighten
        and not loosen: a repository must not be able to lower the bar that it is held to."""
        named = [level for level in (self.fail_on, other.fail_on) if level is not None]
        strictest = min(named, key=_strictness, default=None)
        return Settings(tuple(dict.fromkeys((*other.policy, *self.policy))), strictest,
                        self.exclude + other.exclude, {**self.severities, **other.severities},
                        self.notes + other.notes)


def _strictness(level: str) -> int:
    return (*SEVERITIES, "never").index(level)


def read(path: str) -> Settings:
    """The settings in one file. PolicyError says what is wrong with it."""
    import yaml

    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAXIMUM_SIZE)
        raw = yaml.load(data, Loader=yaml.SafeLoader)  # nosec B506 - it is the safe one
        document = SettingsDocument.model_validate(raw)
    except OSError as error:
        raise PolicyError(f"can't be read: {error.strerror}", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"not YAML: {' '.join(str(error).split())[:200]}", file=path) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(first["msg"], file=path,
                          field=".".join(map(str, first["loc"])) or None) from None
    except ValueError as error:  # a number or a date that Python has no value for
        raise PolicyError(f"not YAML: {error}", file=path) from None
    lines = [item.place.line for item in documents(data, path)[0].get("ignore").elements()] \
        if document.ignore else []
    notes = tuple(Note(path, line, WHOLE_FILE, frozenset({item.rule}), item.reason, item.until)
                  for line, item in zip(lines, document.ignore, strict=True))
    return Settings(tuple(document.policy), document.fail_on, tuple(document.exclude),
                    document.severities, notes)


def find(paths: Sequence[str]) -> Settings:
    """The settings of the repository that the first directory, or the current one, belongs to."""
    start = next((path for path in paths if os.path.isdir(path)), ".")
    for directory in (start, "."):
        path = os.path.join(directory, NAME)
        if os.path.isfile(path):
            if not below(os.path.realpath(path), os.path.realpath(directory)):
                raise PolicyError("a symlink that leads out of the directory", file=path)
            return read(os.path.normpath(path))
    return Settings()


# -- baselines -------------------------------------------------------------------------------------

def write_baseline(path: str, findings: Sequence[Finding]) -> int:
    """Write what is found today, so that only what is new fails; how many that are."""
    entries = {f.fingerprint: {"rule": f.rule.id, "file": f.place.file, "seen": f.seen}
               for f in findings if f.suppressed is None}
    text = json.dumps({"schema": "hardrun.audit.baseline", "schema_version": 1,
                       "findings": dict(sorted(entries.items()))}, indent=2)
    try:
        write_output(path, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise BadInput(f"--write-baseline {path}: {error.strerror}") from None
    return len(entries)


def read_baseline(path: str) -> frozenset[str]:
    """The fingerprints in a baseline."""
    try:
        document: Any = json.loads(Path(path).read_bytes()[:_MAXIMUM_SIZE * 8])
        found = document["findings"]
        if document["schema"] != "hardrun.audit.baseline" or not isinstance(found, dict):
            raise ValueError("no baseline")
        return frozenset(found)
    except OSError as error:
        raise BadInput(f"--baseline {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"--baseline {path}: no baseline of hardrun's",
                       hint="hardrun audit --write-baseline FILE PATH writes one") from None


def against(findings: Sequence[Finding], known: frozenset[str]) -> tuple[list[Finding],
                                                                        tuple[str, ...]]:
    """Findings with those marked that are in a baseline, and its entries that are gone."""
    marked = [replace(f, known=True) if f.fingerprint in known else f for f in findings]
    return marked, tuple(sorted(known - {f.fingerprint for f in findings}))
